//! Tracks what a program has done to its terminal, so that the launcher can print below its last output.
//!
//! No emulator: only whether it draws on the alternate screen, and whether it has moved the cursor to where it had been before, so
//! that there may be something below it (`xterm`'s "ctlseqs"; ECMA-48, 8.3). Modes are not followed but reset.

use memchr::memchr;

const ESC: u8 = 0x1b;

/// Leaves nothing behind of what programs set: character sets, reports of the mouse and of the focus, brackets around what is
/// pasted, application keys, a hidden cursor, lines that do not wrap, insertion, keys told at length, an update that is held back,
/// colours.
const RESET: &str = "\x0f\x1b(B\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1005l\x1b[?1006l\x1b[?1015l\x1b[?1004l\x1b[?2004l\x1b[?1l\
\x1b>\x1b[?25h\x1b[?7h\x1b[4l\x1b[<99u\x1b[>4m\x1b[?2026l\x1b[0m";

/// The whole screen scrolls, and rows are counted from its first.
const WHOLE_SCREEN: &str = "\x1b[r\x1b[?6l";

/// Below whatever there is.
const LAST_ROW: &str = "\x1b[999;1H";

/// Follows what is printed, in whatever pieces it comes.
#[derive(Debug, Default)]
pub struct Traces {
    place: Place,
    parameters: Vec<u8>,
    is_alternate: bool,
    is_painted: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// In no sequence; what a string holds is taken for text as well.
    #[default]
    Text,
    /// Behind an ESC.
    Escape,
    /// Behind `ESC [`.
    Csi,
}

/// What the terminal shows at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    is_alternate: bool,
    cursor_row: usize,
    /// Without those below the last that has anything on it.
    rows: Vec<Vec<u8>>,
}

impl Shown {
    /// What tmux is to print for it, before the screen itself.
    pub const FORMAT: &str = "#{alternate_on} #{cursor_y}";

    /// Reads that and the rows of the screen, with their colours.
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

/// Whether nothing is to be seen of it but colours.
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
    /// Goes on behind this.
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
                // Restore the cursor, reverse index, and a reset of it all.
                (Place::Escape, b'8' | b'M' | b'c') => {
                    self.is_painted = true;
                    self.is_alternate &= byte != b'c';
                    Place::Text
                }
                // What controls the terminal counts as if it stood before the sequence; all but CAN and SUB.
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
            // Up, to a place, by a margin; scrolled, or with lines put in or taken out.
            (None, b'A' | b'F' | b'H' | b'f' | b'd' | b'r' | b'u' | b'S' | b'T' | b'L' | b'M') => {
                self.is_painted = true;
            }
            _ => {}
        }
    }

    /// Whether the last words depend on what the terminal shows.
    pub fn is_of_interest(&self) -> bool {
        self.is_alternate || self.is_painted
    }

    /// What is to be written last: the terminal as a program finds it, and these words on a line of their own below all else. What an
    /// alternate screen showed goes with it, so it is written down on the other one.
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
    fn it_is_known_what_a_program_did_to_the_screen(#[case] printed: &[u8], #[case] expected: (bool, bool)) {
        let traces = traces(printed);
        assert_eq!((traces.is_alternate, traces.is_painted), expected);
    }

    fn farewell(traces: &Traces, shown: Option<&Shown>) -> String {
        let farewell = String::from_utf8(traces.farewell(shown, "[bye]")).unwrap();
        farewell.strip_prefix(RESET).unwrap().to_owned()
    }

    #[test]
    fn below_plain_output_the_words_follow_it() {
        assert_eq!(farewell(&traces(b"hello\r\n"), None), "\r\n[bye]");
    }

    #[test]
    fn below_a_painted_screen_the_words_come_after_its_last_row() {
        let painted = traces(b"\x1b[1;1H");
        let shown = Shown::parse(b"0 2\none\ntwo\nthree\nfour\n\n  \n\x1b[31m  \x1b[0m\n").unwrap();
        assert_eq!(farewell(&painted, Some(&shown)), "\x1b[r\x1b[?6l\x1b[4;1H\r\n[bye]");
        let shown = Shown::parse(b"0 7\none\n\n").unwrap();
        assert_eq!(farewell(&painted, Some(&shown)), "\x1b[r\x1b[?6l\x1b[8;1H\r\n[bye]");
        assert_eq!(farewell(&painted, None), "\x1b[r\x1b[?6l\x1b[999;1H\r\n[bye]");
    }

    #[test]
    fn an_alternate_screen_is_left_and_what_it_showed_is_kept() {
        let full = traces(b"\x1b[?1049h");
        let shown = Shown::parse(b"1 0\n\nTUI\n\n\x1b[1mend\x1b[0m\n\n").unwrap();
        let expected = "\x1b[r\x1b[?6l\x1b[?1049l\r\nTUI\x1b[0m\r\n\x1b[0m\r\n\x1b[1mend\x1b[0m\x1b[0m\r\n[bye]";
        assert_eq!(farewell(&full, Some(&shown)), expected);
        assert_eq!(farewell(&full, None), "\x1b[r\x1b[?6l\x1b[?1049l\r\n[bye]");
    }

    #[test]
    fn a_screen_that_is_not_told_is_none() {
        assert_eq!(Shown::parse(b""), None);
        assert_eq!(Shown::parse(b"no server running\n"), None);
        assert_eq!(Shown::parse(b"1 99999999999\n"), None);
    }
}
