//! Text in columns: tables, and labels with text that hangs beside them.

use std::fmt::Write as _;

/// Between two columns.
pub(super) const GAP: &str = "  ";

/// A table whose columns are as wide as their widest cell. Text of any length may end a line.
pub(super) struct Table<const COLUMNS: usize> {
    text: String,
    widths: [usize; COLUMNS],
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// Creates a table that fits these rows, and writes its headings.
    pub(super) fn new(headings: [&str; COLUMNS], rows: &[[String; COLUMNS]]) -> Self {
        let mut widths = headings.map(str::len);
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut table = Self { text: String::new(), widths };
        table.push_cells(&headings.map(str::to_owned), None);
        table
    }

    /// The width of all columns together, in characters. Text that ends a line begins there.
    pub(super) fn indent(&self) -> usize {
        self.widths.iter().map(|width| width + GAP.len()).sum()
    }

    /// Begins the next row. `paint` is a column, and the escape sequence that colors its cell.
    pub(super) fn push_row(&mut self, cells: &[String; COLUMNS], paint: Option<(usize, &str)>) {
        self.end_line();
        self.push_cells(cells, paint);
    }

    /// Ends the line with text.
    pub(super) fn push_text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Puts text on a line of its own below the row.
    pub(super) fn push_below(&mut self, text: &str) {
        self.end_line();
        self.text.push_str(GAP);
        self.text.push_str(text);
    }

    /// The whole table.
    pub(super) fn finish(mut self) -> String {
        self.end_line();
        self.text
    }

    fn push_cells(&mut self, cells: &[String; COLUMNS], paint: Option<(usize, &str)>) {
        for (column, (cell, width)) in cells.iter().zip(&self.widths).enumerate() {
            let padding = width - cell.chars().count();
            match paint.filter(|&(painted, _)| column == painted) {
                Some((_, paint)) => _ = write!(self.text, "{paint}{cell}\x1b[0m"),
                None => self.text.push_str(cell),
            }
            _ = write!(self.text, "{:padding$}{GAP}", "");
        }
    }

    fn end_line(&mut self) {
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
    }
}

/// Writes lines beside a label that is `indent` columns wide: the first line follows the label, the others stand below the first line.
pub(super) fn push_hanging<L: AsRef<str>>(
    text: &mut String,
    label: &str,
    indent: usize,
    lines: impl IntoIterator<Item = L>,
) {
    for (number, line) in lines.into_iter().enumerate() {
        let line = line.as_ref();
        let _ = if number == 0 { writeln!(text, "{label}{line}") } else { writeln!(text, "{:indent$}{line}", "") };
    }
}

/// The text, cut to at most `width` characters. If something was cut off, it ends with `…`.
pub(super) fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(std::iter::once('…')).collect()
}

/// Breaks text at spaces into lines of at most `width` characters.
///
/// A longer word stays whole on a line of its own: it is a path that a person may want to copy.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut room = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let length = word.chars().count();
        match lines.last_mut() {
            Some(line) if length < room => {
                line.push(' ');
                line.push_str(word);
                room -= length + 1;
            }
            _ => {
                lines.push(word.to_owned());
                room = width.saturating_sub(length);
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_table_aligns_its_columns() {
        let rows = [["a".to_owned(), "é1".to_owned()], ["bcd".to_owned(), String::new()]];
        let mut table = Table::new(["X", "Y"], &rows);
        assert_eq!(table.indent(), 9);
        table.push_row(&rows[0], Some((1, "\x1b[31m")));
        table.push_text("why");
        table.push_row(&rows[1], None);
        table.push_below("below");
        assert_eq!(table.finish(), "X    Y\na    \x1b[31mé1\x1b[0m  why\nbcd\n  below\n");
    }

    #[test]
    fn hanging_lines_stand_below_the_first() {
        let mut text = String::new();
        push_hanging(&mut text, "Why  ", 5, ["one", "two"]);
        push_hanging(&mut text, "Not  ", 5, [""; 0]);
        assert_eq!(text, "Why  one\n     two\n");
    }

    #[test]
    fn shortened_text_ends_with_an_ellipsis() {
        assert_eq!([shortened("éab", 3), shortened("éabc", 3), shortened("ab", 0)], ["éab", "éa…", "…"]);
    }

    #[test]
    fn text_breaks_at_spaces_and_long_words_stay_whole() {
        assert_eq!(wrapped("to be or not to be", 8), ["to be or", "not to", "be"]);
        assert_eq!(wrapped("in /a/very/long/path it is", 8), ["in", "/a/very/long/path", "it is"]);
        assert_eq!(wrapped("", 8), [""; 0]);
    }

    proptest! {
        #[test]
        fn no_word_is_lost_and_no_line_is_too_long(words in prop::collection::vec("[a-zé]{1,9}", 0..40), width in 9_usize..40) {
            let lines = wrapped(&words.join(" "), width);
            prop_assert!(lines.iter().all(|line| line.chars().count() <= width));
            prop_assert_eq!(lines.join(" "), words.join(" "));
        }
    }
}
