//! What of a hostile program's output may reach a person's terminal: text, colors, movements, and the modes that tmux uses.
//!
//! A terminal does more than show text: on request it sets the clipboard, prints on paper, answers with its title or with what it
//! shows, loads files, or moves its window. A tmux client writes what its server tells it to, and the server of agents belongs to the
//! agent user. So everything is left out that is not on the lists below (ECMA-48, and the control sequences of xterm). Strings (DCS, APC, PM,
//! SOS) are always left out, and of OSC everything but hyperlinks, the color of the cursor, and questions about colors.
//!
//! The memory is bounded: a sequence that is too long is left out as a whole.

/// How long a sequence may be.
const LONGEST: usize = 2048;

const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
const ESC: u8 = 0x1b;
const DEL: u8 = 0x7f;

/// The control characters that pass: BEL, backspace, tab, line feeds, carriage return, and the two that select a character set.
const CONTROLS: [u8; 9] = [BEL, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f];

/// The private modes that pass: application keys, columns 80 and 132 excepted, wrapping, the cursor, the mouse, focus, the alternate
/// screen, margins, bracketed paste, synchronized output, and the theme.
pub const MODES: [&str; 19] = [
    "1", "7", "12", "25", "47", "69", "1000", "1002", "1003", "1004", "1005", "1006", "1015", "1047", "1048", "1049",
    "2004", "2026", "2031",
];

/// The modes of ECMA-48 that pass: insertion, and the shape of the cursor.
const PLAIN_MODES: [&str; 2] = ["4", "34"];

/// The final bytes of control sequences without intermediate bytes that pass with any parameters: movements, erasure, insertion and
/// deletion, scrolling, colors, tabs, device attributes, status reports, and saved positions. Tab stops cannot be set or cleared: nothing
/// could restore the operator's own.
const FINALS: &[u8] = b"@ABCDEFGHIJKLMPSTXZ`abcdefmnrsu";

/// How many digits a number may have: no size, position or color has more, and some terminals do as often as they are told.
const DIGITS: usize = 5;

/// The operations on the window that pass: reports of its size, and the stack of titles, which nothing here changes.
const WINDOW: [&str; 5] = ["14", "16", "18", "22", "23"];

/// Where a text is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// In a character of several bytes, so many of which are still to come.
    Character(usize),
    /// After an ESC, and any intermediate bytes.
    Escape,
    Csi,
    Osc,
    /// After an ESC in an OSC.
    OscEscape,
    /// In a string that is left out.
    Skipped,
    /// After an ESC in such a string.
    SkippedEscape,
    /// In a control sequence that is left out.
    SkippedCsi,
}

/// Filters a stream of output, in any pieces.
#[derive(Debug)]
pub struct Sieve {
    state: State,
    /// The sequence or character so far.
    held: Vec<u8>,
    takes_utf_8: bool,
}

impl Sieve {
    /// A sieve for a terminal that does or does not take UTF-8.
    pub fn new(takes_utf_8: bool) -> Self {
        Self { state: State::Text, held: Vec::new(), takes_utf_8 }
    }

    /// Adds what passes of this piece to `out`. A sequence that the piece does not complete is kept back.
    pub fn pass(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        for &byte in piece {
            self.take(byte, out);
        }
    }

    fn take(&mut self, byte: u8, out: &mut Vec<u8>) {
        match self.state {
            State::Text => self.text(byte, out),
            State::Character(left) => self.character(byte, left, out),
            State::Escape => self.escape(byte, out),
            State::Csi | State::SkippedCsi => self.csi(byte, out),
            State::Osc => match byte {
                BEL => self.finish_osc(&[BEL], out),
                ESC => self.state = State::OscEscape,
                CAN | SUB => self.drop_held(),
                // Controls in an OSC, C1 controls, and text in another encoding.
                0..=0x1f | DEL.. => self.skip(),
                _ => self.hold(byte, State::Skipped),
            },
            State::OscEscape if byte == b'\\' => self.finish_osc(b"\x1b\\", out),
            State::SkippedEscape if byte == b'\\' => self.drop_held(),
            // Any other byte after an ESC ends the string, and begins what it would begin elsewhere.
            State::OscEscape | State::SkippedEscape => {
                self.begin_escape();
                self.take(byte, out);
            }
            State::Skipped => match byte {
                ESC => self.state = State::SkippedEscape,
                BEL | CAN | SUB => self.drop_held(),
                _ => {}
            },
        }
    }

    fn text(&mut self, byte: u8, out: &mut Vec<u8>) {
        match byte {
            ESC => self.begin_escape(),
            0x20..DEL => out.push(byte),
            0..=0x1f => out.extend(Some(byte).filter(|byte| CONTROLS.contains(byte))),
            DEL..=0x9f => {}
            // A terminal that does not take UTF-8 has characters of one byte here.
            0xa0.. if !self.takes_utf_8 => out.push(byte),
            0xc2..=0xdf => self.begin_character(byte, 1),
            0xe0..=0xef => self.begin_character(byte, 2),
            0xf0..=0xf4 => self.begin_character(byte, 3),
            _ => {}
        }
    }

    fn begin_character(&mut self, byte: u8, left: usize) {
        self.held = vec![byte];
        self.state = State::Character(left);
    }

    fn character(&mut self, byte: u8, left: usize, out: &mut Vec<u8>) {
        if !(0x80..=0xbf).contains(&byte) {
            self.drop_held();
            return self.take(byte, out);
        }
        self.held.push(byte);
        self.state = State::Character(left - 1);
        if left == 1 {
            // C1 controls are characters, too: some terminals obey them in UTF-8.
            let is_text = |text: &str| !text.chars().any(char::is_control);
            if std::str::from_utf8(&self.held).is_ok_and(is_text) {
                out.extend_from_slice(&self.held);
            }
            self.drop_held();
        }
    }

    fn begin_escape(&mut self) {
        self.held = vec![ESC];
        self.state = State::Escape;
    }

    /// Goes on with a sequence that this byte gives its kind.
    fn begin(&mut self, byte: u8, state: State) {
        self.held.push(byte);
        self.state = state;
    }

    fn escape(&mut self, byte: u8, out: &mut Vec<u8>) {
        match (self.held.as_slice(), byte) {
            (_, ESC) => self.begin_escape(),
            (_, CAN | SUB) => self.drop_held(),
            (_, 0..=0x1f) => out.extend(Some(byte).filter(|byte| CONTROLS.contains(byte))),
            ([_], b'[') => self.begin(byte, State::Csi),
            ([_], b']') => self.begin(byte, State::Osc),
            // DCS, SOS, PM, APC, and the title of screen(1).
            ([_], b'P' | b'X' | b'^' | b'_' | b'k') => self.skip(),
            (_, 0x20..=0x2f) => self.hold(byte, State::Text),
            // Saved cursor, line feeds, keypad modes, the character after a single shift; and character sets.
            ([_], b'7' | b'8' | b'D' | b'E' | b'M' | b'N' | b'O' | b'=' | b'>')
            | ([_, b'(' | b')' | b'*' | b'+'], b'0' | b'A' | b'B') => self.finish(byte, out),
            _ => self.drop_held(),
        }
    }

    fn csi(&mut self, byte: u8, out: &mut Vec<u8>) {
        match byte {
            ESC => self.begin_escape(),
            CAN | SUB => self.drop_held(),
            // As if it came before the sequence.
            0..=0x1f => out.extend(Some(byte).filter(|byte| CONTROLS.contains(byte))),
            0x20..=0x3f if self.state == State::Csi => self.hold(byte, State::SkippedCsi),
            0x20..=0x3f => {}
            0x40..=0x7e if self.state == State::Csi && passes(&self.held[2..], byte) => self.finish(byte, out),
            _ => self.drop_held(),
        }
    }

    fn finish_osc(&mut self, end: &[u8], out: &mut Vec<u8>) {
        if osc_passes(&self.held[2..]) {
            out.extend_from_slice(&self.held);
            out.extend_from_slice(end);
        }
        self.drop_held();
    }

    fn finish(&mut self, byte: u8, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.held);
        out.push(byte);
        self.drop_held();
    }

    /// Keeps the byte. If the sequence is too long, it is left out, and the rest is in this state.
    fn hold(&mut self, byte: u8, too_long: State) {
        if self.held.len() < LONGEST {
            self.held.push(byte);
        } else {
            self.held.clear();
            self.state = too_long;
        }
    }

    fn drop_held(&mut self) {
        self.held.clear();
        self.state = State::Text;
    }

    fn skip(&mut self) {
        self.held.clear();
        self.state = State::Skipped;
    }
}

/// Whether a control sequence passes, from what is between `ESC [` and its final byte.
fn passes(parameters: &[u8], last: u8) -> bool {
    let Ok(parameters) = std::str::from_utf8(parameters) else { return false };
    let (private, parameters) = match parameters.as_bytes().first() {
        Some(b'<'..=b'?') => parameters.split_at(1),
        _ => ("", parameters),
    };
    let is_number = |text: &str| text.len() <= DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = parameters.split([';', ':']).all(is_number);
    let all_in = |list: &[&str]| parameters.split(';').all(|parameter| list.contains(&parameter));
    match (private, last) {
        ("?", b'h' | b'l' | b's' | b'r') => all_in(&MODES),
        ("", b'h' | b'l') => all_in(&PLAIN_MODES),
        ("", b't') => WINDOW.contains(&parameters.split(';').next().unwrap_or_default()) && plain,
        // The shape of the cursor, and a soft reset.
        ("", b'q') => matches!(parameters.strip_suffix(' '), Some("" | "0" | "1" | "2" | "3" | "4" | "5" | "6")),
        ("", b'p') => parameters == "!",
        // xterm's modifyOtherKeys. tmux does not use kitty's protocol for keyboards.
        (">", b'm') => plain && parameters.split(';').next() == Some("4"),
        // The name and version of the terminal, its attributes, reports and erasure.
        (">", b'q' | b'c') | ("?", b'c' | b'n' | b'J' | b'K') => plain,
        ("", last) => FINALS.contains(&last) && plain,
        _ => false,
    }
}

/// Whether an operating system command passes, from what is between `ESC ]` and its end.
fn osc_passes(command: &[u8]) -> bool {
    let Ok(command) = std::str::from_utf8(command) else { return false };
    let (number, rest) = command.split_once(';').unwrap_or((command, ""));
    match number {
        "8" => {
            let link = rest.split_once(';').map(|(_, link)| link);
            link.is_some_and(|link| {
                link.is_empty() || ["https://", "http://", "mailto:"].iter().any(|scheme| link.starts_with(scheme))
            })
        }
        "10" | "11" => rest == "?",
        "12" => rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"#:/".contains(&byte)),
        "112" => rest.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What passes, wherever the output is cut.
    fn passed_of(output: &[u8], takes_utf_8: bool) -> Vec<u8> {
        let mut whole = Vec::new();
        Sieve::new(takes_utf_8).pass(output, &mut whole);
        for at in 0..output.len() {
            let (mut sieve, mut pieces) = (Sieve::new(takes_utf_8), Vec::new());
            sieve.pass(&output[..at], &mut pieces);
            sieve.pass(&output[at..], &mut pieces);
            assert_eq!(pieces, whole, "{at}");
        }
        whole
    }

    fn passed(output: &str) -> String {
        String::from_utf8(passed_of(output.as_bytes(), true)).unwrap()
    }

    #[test]
    fn text_colors_and_movements_pass() {
        for output in [
            "plain grün ✻ 🦀\r\n\t\x08\x07",
            "\x1b[1;31mred\x1b[38:2::1:2:3m\x1b[m\x1b(0lqk\x1b(B",
            "\x1b[?1049h\x1b[22;0;0t\x1b[?1h\x1b=\x1b[H\x1b[2J\x1b[?12l\x1b[?25h\x1b[?1000;1006h\x1b[?2004h",
            "\x1b[3;5r\x1b7\x1b8\x1bM\x1bD\x1b[5S\x1b[2L\x1b[4h\x1b[4l\x1b[2 q\x1b[ q",
            "\x1b[c\x1b[>c\x1b[>q\x1b[5n\x1b[6n\x1b[>4;1m\x1b[18t\x1b]10;?\x07\x1b]11;?\x1b\\\x1b]12;red\x07\x1b]112\x07",
            "\x1b]8;id=1;https://example.com/a\x1b\\link\x1b]8;;\x1b\\",
        ] {
            assert_eq!(passed(output), output);
        }
    }

    #[test]
    fn what_acts_on_the_terminal_is_left_out() {
        for output in [
            "\x1b]52;c;aGVsbG8=\x07",
            "\x1b]52;c;?\x1b\\",
            "\x1b]0;title\x07",
            "\x1b]2;title\x1b\\",
            "\x1bktitle\x1b\\",
            "\x1bP$q m\x1b\\",
            "\x1bPtmux;\x1b\x1b]52;c;x\x07\x1b\\",
            "\x1b_Gf=100;x\x1b\\",
            "\x1b^private\x1b\\",
            "\x1bXstring\x1b\\",
            "\x1b[21t",
            "\x1b[20t",
            "\x1b[3;0;0t",
            "\x1b[8;5;5t",
            "\x1b[5i",
            "\x1b[?5i",
            "\x1b[1;1;1;1;5;5*y",
            "\x1b[#R",
            "\x1b]1337;File=name=x:AAAA\x07",
            "\x1b]9;notice\x07",
            "\x1b]777;notify;a;b\x07",
            "\x1b]50;?\x07",
            "\x1b]4;1;?\x07",
            "\x1b]10;red\x07",
            "\x1b]8;;file:///etc/passwd\x07",
            "\x1b]8;;javascript:x\x07",
            "\x1bc",
            "\x1b#8",
            "\x1b%@",
            "\x1bZ",
            "\x1b[?3h",
            "\x1b[?40;1049h",
            "\x1b[2h",
            "\x1b[?2027h",
            "\x1b[?6h",
            "\x1bH",
            "\x1b[3g",
            "\x1b[>31u",
            "\x1b[=31;1u",
            "\x1b[<9u",
            "\x1b[>2;2m",
            "\x1b[>m",
            "\x1b[999999b",
            "\x1b[1;999999H",
            "\x05\x11\x13\0\x7f",
            "\u{9b}5i",
            "\u{9d}52;c;aGVsbG8=\u{9c}",
        ] {
            let left: String = passed(output).chars().filter(|c| c.is_control()).collect();
            assert_eq!(left, "", "{output:?}");
        }
        assert_eq!(passed("a\x1b]52;c;aGVsbG8=\x07b\x1bPq\x1b\\c\x1b[21td"), "abcd");
    }

    #[test]
    fn interrupted_sequence_hides_nothing_after_it() {
        assert_eq!(passed("\x1b]52;c;x\x1b[31mred"), "\x1b[31mred");
        assert_eq!(passed("\x1bPabc\x18text"), "text");
        assert_eq!(passed("\x1b[3\x1b[31mred"), "\x1b[31mred");
        assert_eq!(passed("\x1b]52;c;\u{9c}x\x07y"), "y");
        assert_eq!(passed("\x1b[3\n1mred"), "\n\x1b[31mred");
    }

    #[test]
    fn sequence_that_is_too_long_is_left_out() {
        let long = "1;".repeat(LONGEST);
        assert_eq!(passed(&format!("\x1b[{long}mx")), "x");
        let link = "x".repeat(2 * LONGEST);
        assert_eq!(passed(&format!("\x1b]8;;https://{link}\x1b\\y\x1b]52;c;{link}\x07z")), "yz");
        assert_eq!(passed(&format!("\x1b{}x", " ".repeat(2 * LONGEST))), format!("{}x", " ".repeat(LONGEST)));
    }

    #[test]
    fn bytes_that_are_no_characters_are_left_out() {
        assert_eq!(passed_of(b"a\x80\x9b5i\xff\xc3(\xe2\x82b\xed\xa0\x80c\xc0\xafd", true), b"a5i(bcd");
        assert_eq!(passed_of(b"a\xe4\x9b5i\x85\xc2\x9b6i", false), b"a\xe45i\xc26i");
    }

    proptest! {
        #[test]
        fn what_passed_once_passes_again(output in proptest::collection::vec(any::<u8>(), 0..200)) {
            let once = passed_of(&output, true);
            prop_assert_eq!(passed_of(&once, true), once);
        }

        #[test]
        fn what_passes_has_no_string_but_osc(parts in proptest::collection::vec(
            prop_oneof![
                Just("\x1b".to_owned()), Just("\x1b]52;".to_owned()), Just("\x1bP".to_owned()), Just("\x1b\\".to_owned()),
                Just("\x07".to_owned()), Just("[".to_owned()), Just("]".to_owned()), Just("\u{9b}".to_owned()),
                Just("8;;https://".to_owned()), Just("\x18".to_owned()), "[ -~]{0,3}",
            ], 0..40,
        )) {
            let passed = passed(&parts.concat());
            for forbidden in ["\x1bP", "\x1b_", "\x1b^", "\x1bX", "\x1bk", "\x1b]52", "\x1b]0", "\x1b]2;", "\u{9b}"] {
                prop_assert!(!passed.contains(forbidden), "{:?}", passed);
            }
        }
    }
}
