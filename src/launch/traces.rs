//! Tracks what a program has done to its terminal, so that the launcher can print below its last output.
//!
//! This is not an emulator: it only records whether the program uses the alternate screen, and whether it has moved the cursor
//! back, so that there may be text below the cursor (`xterm`'s "ctlseqs"; ECMA-48, 8.3). Modes are not tracked but reset.

use memchr::memchr;

const ESC: u8 = 0x1b;

/// Resets everything that programs set.
///
/// That is: character sets, mouse and focus reports, bracketed paste, application keys, a hidden cursor, disabled wrapping,
/// insert mode, extended key reports, a pending synchronized update, and colors.
const RESET: &str = "\x0f\x1b(B\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1005l\x1b[?1006l\x1b[?1015l\x1b[?1004l\x1b[?2004l\x1b[?1l\
\x1b>\x1b[?25h\x1b[?7h\x1b[4l\x1b[<99u\x1b[>4m\x1b[?2026l\x1b[0m";

/// Resets the scrolling region, and counts rows from the first of the screen.
const WHOLE_SCREEN: &str = "\x1b[r\x1b[?6l";

/// Moves the cursor below everything.
const LAST_ROW: &str = "\x1b[999;1H";

/// Tracks output, whatever pieces it comes in.
#[derive(Debug, Default)]
pub struct Traces {
    place: Place,
    parameters: Vec<u8>,
    is_alternate: bool,
    is_painted: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Outside of sequences. The content of a string counts as text, too.
    #[default]
    Text,
    /// After an ESC.
    Escape,
    /// After `ESC [`.
    Csi,
}

/// What the terminal shows at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    is_alternate: bool,
    cursor_row: usize,
    /// The rows down to the last one that is not empty.
    rows: Vec<Vec<u8>>,
}

impl Shown {
    /// The format that tmux prints before the screen itself.
    pub const FORMAT: &str = "#{alternate_on} #{cursor_y}";

    /// Parses that line and the rows of the screen, with their colors.
    pub fn parse(printed: &[u8]) -> Option<Self> {
        let mut lines = printed.split(|&byte| byte == b'\n');
        let (alternate, row) = std::str::from_utf8(lines.next()?).ok()?.split_once(' ')?;
        let mut rows: Vec<Vec<u8>> = lines.map(<[u8]>::to_vec).collect();
        while rows.last().is_some_and(|row| is_blank(row)) {
            rows.pop();
        }
        Some(Self { is_alternate: alternate == "1", cursor_row: row.parse().ok().filter(|&row| row < 10_000)?, rows })
    }
}

/// Whether the row shows nothing but colors.
fn is_blank(row: &[u8]) -> bool {
    let mut place = Place::Text;
    row.iter().all(|&byte| {
        let before = place;
        place = match (place, byte) {
            (_, ESC) => Place::Escape,
            (Place::Escape, b'[') | (Place::Csi, 0x20..=0x3f) => Place::Csi,
            (_, _) => Place::Text,
        };
        before != Place::Text || byte == b' ' || byte == ESC
    })
}

impl Traces {
    /// Continues with these bytes.
    pub fn follow(&mut self, mut bytes: &[u8]) {
        const MOST_PARAMETERS: usize = 64;
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.place == Place::Text {
                let Some(at) = memchr(ESC, bytes) else { return };
                (self.place, bytes) = (Place::Escape, &bytes[at + 1..]);
                continue;
            }
            bytes = rest;
            self.place = match (self.place, byte) {
                (_, ESC) | (Place::Escape, 0x20..=0x2f) => Place::Escape,
                (Place::Escape, b'[') => {
                    self.parameters.clear();
                    Place::Csi
                }
                (Place::Csi, 0x20..=0x3f) => {
                    if self.parameters.len() < MOST_PARAMETERS {
                        self.parameters.push(byte);
                    }
                    Place::Csi
                }
                (Place::Csi, 0x40..=0x7e) => {
                    self.control(byte);
                    Place::Text
                }
                // Restore cursor, reverse index, and full reset.
                (Place::Escape, b'8' | b'M' | b'c') => {
                    self.is_painted = true;
                    self.is_alternate &= byte != b'c';
                    Place::Text
                }
                // A control character counts as if it came before the sequence, except for CAN and SUB.
                (place, 0..=0x17 | 0x19 | 0x1c..=0x1f) => place,
                (_, _) => Place::Text,
            };
        }
    }

    fn control(&mut self, function: u8) {
        match (self.parameters.strip_prefix(b"?"), function) {
            (Some(modes), b'h' | b'l') => {
                for mode in modes.split(|&byte| byte == b';') {
                    match mode {
                        b"47" | b"1047" | b"1049" => self.is_alternate = function == b'h',
                        b"6" => self.is_painted = true,
                        _ => {}
                    }
                }
            }
            // Cursor up or to a position, margins, scrolling, and inserted or deleted lines.
            (None, b'A' | b'F' | b'H' | b'f' | b'd' | b'r' | b'u' | b'S' | b'T' | b'L' | b'M') => {
                self.is_painted = true;
            }
            _ => {}
        }
    }

    /// Whether the place for the last words depends on what the terminal shows.
    pub fn is_of_interest(&self) -> bool {
        self.is_alternate || self.is_painted
    }

    /// The last bytes to write: they reset the terminal, and print these words on a separate line below everything else.
    ///
    /// The content of an alternate screen disappears with it, so it is printed on the main screen.
    pub fn farewell(&self, shown: Option<&Shown>, words: &str) -> Vec<u8> {
        let mut farewell = RESET.as_bytes().to_vec();
        if shown.map_or(self.is_alternate, |shown| shown.is_alternate) {
            farewell.extend(WHOLE_SCREEN.as_bytes());
            farewell.extend(b"\x1b[?1049l");
            let rows = shown.iter().flat_map(|shown| &shown.rows).skip_while(|row| is_blank(row));
            for row in rows {
                farewell.extend(b"\r\n");
                farewell.extend(row);
                farewell.extend(b"\x1b[0m");
            }
        } else if self.is_of_interest() {
            farewell.extend(WHOLE_SCREEN.as_bytes());
            match shown {
                Some(Shown { cursor_row, rows, .. }) => {
                    let row = (cursor_row + 1).max(rows.len());
                    farewell.extend(format!("\x1b[{row};1H").as_bytes());
                }
                None => farewell.extend(LAST_ROW.as_bytes()),
            }
        }
        farewell.extend(b"\r\n");
        farewell.extend(words.as_bytes());
        farewell
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn traces(printed: &[u8]) -> Traces {
        let mut whole = Traces::default();
        whole.follow(printed);
        let mut pieces = Traces::default();
        for byte in printed {
            pieces.follow(std::slice::from_ref(byte));
        }
        assert_eq!((whole.is_alternate, whole.is_painted), (pieces.is_alternate, pieces.is_painted), "in pieces");
        whole
    }

    #[rstest]
    #[case(b"plain\r\n\x1b[31mred\x1b[0m\x1b[2K\x1b[1G\x1b[3C\x1b]0;title\x07", (false, false))]
    #[case(b"\x1b[?25l\x1b[?2004h\x1b[?1000;1006h", (false, false))]
    #[case(b"\x1b[?1049h", (true, false))]
    #[case(b"\x1b[?25;1047h", (true, false))]
    #[case(b"\x1b[?47h\x1b[?47l", (false, false))]
    #[case(b"\x1b[?1049h\x1bc", (false, true))]
    #[case(b"\x1b[3A", (false, true))]
    #[case(b"\x1b[\r1;1H", (false, true))]
    #[case(b"\x1b[1\x18;1H", (false, false))]
    #[case(b"\x1b[?6h", (false, true))]
    #[case(b"\x1b]8;;x\x1b\\\x1b7\x1b8", (false, true))]
    #[case(b"\x1b(A\x1b)H", (false, false))]
    fn traces_of_a_program_on_the_screen_are_recognized(#[case] printed: &[u8], #[case] expected: (bool, bool)) {
        let traces = traces(printed);
        assert_eq!((traces.is_alternate, traces.is_painted), expected);
    }

    fn farewell(traces: &Traces, shown: Option<&Shown>) -> String {
        let farewell = String::from_utf8(traces.farewell(shown, "[bye]")).unwrap();
        farewell.strip_prefix(RESET).unwrap().to_owned()
    }

    #[test]
    fn the_last_words_follow_plain_output() {
        assert_eq!(farewell(&traces(b"hello\r\n"), None), "\r\n[bye]");
    }

    #[test]
    fn the_last_words_come_after_the_last_row_of_a_painted_screen() {
        let painted = traces(b"\x1b[1;1H");
        let shown = Shown::parse(b"0 2\none\ntwo\nthree\nfour\n\n  \n\x1b[31m  \x1b[0m\n").unwrap();
        assert_eq!(farewell(&painted, Some(&shown)), "\x1b[r\x1b[?6l\x1b[4;1H\r\n[bye]");
        let shown = Shown::parse(b"0 7\none\n\n").unwrap();
        assert_eq!(farewell(&painted, Some(&shown)), "\x1b[r\x1b[?6l\x1b[8;1H\r\n[bye]");
        assert_eq!(farewell(&painted, None), "\x1b[r\x1b[?6l\x1b[999;1H\r\n[bye]");
    }

    #[test]
    fn an_alternate_screen_is_left_and_its_content_is_kept() {
        let full = traces(b"\x1b[?1049h");
        let shown = Shown::parse(b"1 0\n\nTUI\n\n\x1b[1mend\x1b[0m\n\n").unwrap();
        let expected = "\x1b[r\x1b[?6l\x1b[?1049l\r\nTUI\x1b[0m\r\n\x1b[0m\r\n\x1b[1mend\x1b[0m\x1b[0m\r\n[bye]";
        assert_eq!(farewell(&full, Some(&shown)), expected);
        assert_eq!(farewell(&full, None), "\x1b[r\x1b[?6l\x1b[?1049l\r\n[bye]");
    }

    #[test]
    fn an_invalid_description_of_a_screen_is_refused() {
        assert_eq!(Shown::parse(b""), None);
        assert_eq!(Shown::parse(b"no server running\n"), None);
        assert_eq!(Shown::parse(b"1 99999999999\n"), None);
    }
}
