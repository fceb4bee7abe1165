//! Text in columns: tables, and labels with text that hangs beside them.

use std::fmt::Write as _;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

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
                *width = (*width).max(cell.width());
            }
        }
        let mut table = Self { text: String::new(), widths };
        table.push_cells(&headings.map(str::to_owned));
        table
    }

    /// The width of all columns together, in cells. Text that ends a line begins there.
    pub(super) fn indent(&self) -> usize {
        self.widths.iter().map(|width| width + GAP.len()).sum()
    }

    /// Begins the next row.
    pub(super) fn push_row(&mut self, cells: &[String; COLUMNS]) {
        self.end_line();
        self.push_cells(cells);
    }

    /// Ends the line with text.
    pub(super) fn push_text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// The whole table.
    pub(super) fn finish(mut self) -> String {
        self.end_line();
        self.text
    }

    fn push_cells(&mut self, cells: &[String; COLUMNS]) {
        for (cell, width) in cells.iter().zip(&self.widths) {
            _ = write!(self.text, "{cell}{:padding$}{GAP}", "", padding = width - cell.width());
        }
    }

    fn end_line(&mut self) {
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
    }
}

/// A column of a table whose columns are chosen when it is written.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) heading: &'static str,
    pub(super) cells: Vec<String>,
    /// Whether it stays even if it says nothing.
    pub(super) is_needed: bool,
}

/// What stands in a cell that has nothing to say.
pub(super) const NOTHING: &str = "-";

impl Column {
    /// A column that is left out if none of its cells says anything.
    pub(super) fn new(heading: &'static str, cells: Vec<String>) -> Self {
        Self { heading, cells, is_needed: false }
    }

    /// A column that is always there.
    pub(super) fn needed(heading: &'static str, cells: Vec<String>) -> Self {
        Self { heading, cells, is_needed: true }
    }

    fn says_something(&self) -> bool {
        self.is_needed || self.cells.iter().any(|cell| !cell.is_empty() && cell != NOTHING)
    }

    /// How wide it is, in cells, without the gap after it.
    pub(super) fn width(&self) -> usize {
        let cells = self.cells.iter().map(|cell| cell.width());
        cells.chain([self.heading.len()]).max().unwrap_or_default()
    }
}

/// The columns that say something.
pub(super) fn without_empty(columns: Vec<Column>) -> Vec<Column> {
    columns.into_iter().filter(Column::says_something).collect()
}

/// How wide columns are together, each with the gap after it.
pub(super) fn width_of(columns: &[Column]) -> usize {
    columns.iter().map(|column| column.width() + GAP.len()).sum()
}

/// The headings of columns, each as wide as its column.
pub(super) fn headings(columns: &[Column]) -> String {
    line(columns.iter().map(|column| (column.heading, column.width(), "")))
}

/// A row of columns. `paint` is a heading, and the escape sequence that colors the cell under it.
pub(super) fn row(columns: &[Column], number: usize, paint: Option<(&str, &str)>) -> String {
    line(columns.iter().map(|column| {
        let paint = paint.filter(|&(heading, _)| heading == column.heading).map_or("", |(_, paint)| paint);
        (column.cells.get(number).map_or("", String::as_str), column.width(), paint)
    }))
}

fn line<'a>(cells: impl Iterator<Item = (&'a str, usize, &'a str)>) -> String {
    let mut line = String::new();
    for (cell, width, paint) in cells {
        let padding = width.saturating_sub(cell.width());
        let plain = if paint.is_empty() { "" } else { "\x1b[0m" };
        _ = write!(line, "{paint}{cell}{plain}{:padding$}{GAP}", "");
    }
    line
}

/// The text, shortened in the middle to at most `width` characters: names that belong together often differ at their ends.
pub(super) fn shortened_in_the_middle(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(1);
    let (before, after) = (room.div_ceil(2), room / 2);
    text.chars().take(before).chain(['…']).chain(text.chars().skip(length - after)).collect()
}

/// Breaks a line into pieces of at most `width` cells, wherever that is; escape sequences for colors take no room.
pub(super) fn broken(line: &str, width: usize) -> Vec<String> {
    let (mut pieces, mut length, mut is_text) = (vec![String::new()], 0, true);
    for character in line.chars() {
        if character == '\x1b' {
            is_text = false;
        }
        let room = if is_text { character.width().unwrap_or_default() } else { 0 };
        if length > 0 && length + room > width.max(1) {
            pieces.push(String::new());
            length = 0;
        }
        if let Some(piece) = pieces.last_mut() {
            piece.push(character);
        }
        length += room;
        is_text |= character == 'm';
    }
    pieces
}

/// How many cells a line takes; escape sequences for colors take none.
pub(super) fn cells(line: &str) -> usize {
    let mut is_text = true;
    let room = |character: char| {
        is_text &= character != '\x1b';
        let room = if is_text { character.width().unwrap_or_default() } else { 0 };
        is_text |= character == 'm';
        room
    };
    line.chars().map(room).sum()
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

/// The text, cut to at most `width` cells. If something was cut off, it ends with `…`.
pub(super) fn shortened(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    broken(text, width.saturating_sub(1)).first().filter(|_| width > 1).cloned().unwrap_or_default() + "…"
}

/// Breaks text at spaces into lines of at most `width` cells: a character of East Asian scripts takes two.
///
/// A longer word stays whole on a line of its own: it is a path that a person may want to copy.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut room = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let length = word.width();
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
        table.push_row(&rows[0]);
        table.push_text("why");
        table.push_row(&rows[1]);
        assert_eq!(table.finish(), "X    Y\na    é1  why\nbcd\n");
        let rows = [["漢字".to_owned(), "1".to_owned()]];
        let mut table = Table::new(["X", "Y"], &rows);
        table.push_row(&rows[0]);
        assert_eq!((table.indent(), table.finish().as_str()), (9, "X     Y\n漢字  1\n"));
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
        assert_eq!(["éab", "éabc", "漢字ab"].map(|text| shortened(text, 3)), ["éab", "éa…", "漢…"]);
    }

    #[test]
    fn columns_that_say_nothing_are_left_out() {
        let cells = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let columns = without_empty(vec![
            Column::needed("NAME", cells(["a", "écrit"])),
            Column::new("EXIT", cells(["-", ""])),
            Column::new("IDLE", cells(["-", "3s"])),
        ]);
        assert_eq!(headings(&columns), "NAME   IDLE  ");
        assert_eq!(row(&columns, 1, Some(("IDLE", "\x1b[31m"))), "écrit  \x1b[31m3s\x1b[0m    ");
        assert_eq!(width_of(&columns), 13);
    }

    #[test]
    fn a_name_is_shortened_in_the_middle() {
        let shorten = |width| shortened_in_the_middle("reviewér-of-everything", width);
        assert_eq!([shorten(22), shorten(10), shorten(1)], ["reviewér-of-everything", "revie…hing", "…"]);
    }

    #[test]
    fn a_line_is_broken_anywhere_and_colors_take_no_room() {
        assert_eq!(broken("abcdé", 2), ["ab", "cd", "é"]);
        assert_eq!(broken("a\x1b[31mbc\x1b[0md", 2), ["a\x1b[31mb", "c\x1b[0md"]);
        assert_eq!(broken("", 2), [""]);
        assert_eq!([cells("a\x1b[31m漢b\x1b[0md"), cells("")], [5, 0]);
        assert_eq!(broken("a漢字b", 3), ["a漢", "字b"]);
        assert_eq!(broken("漢字", 1), ["漢", "字"]);
    }

    #[test]
    fn text_breaks_at_spaces_and_long_words_stay_whole() {
        assert_eq!(wrapped("to be or not to be", 8), ["to be or", "not to", "be"]);
        assert_eq!(wrapped("in /a/very/long/path it is", 8), ["in", "/a/very/long/path", "it is"]);
        assert_eq!(wrapped("", 8), [""; 0]);
        assert_eq!(wrapped("漢字 漢字 漢字", 9), ["漢字 漢字", "漢字"]);
    }

    proptest! {
        #[test]
        fn no_word_is_lost_and_no_line_is_too_long(words in prop::collection::vec("[a-zé漢]{1,9}", 0..40), width in 18_usize..40) {
            let lines = wrapped(&words.join(" "), width);
            prop_assert!(lines.iter().all(|line| line.width() <= width));
            prop_assert_eq!(lines.join(" "), words.join(" "));
        }
    }
}
