//! Redaction: the text of known secrets is replaced by [`MARK`]s before anyone can read it.
//!
//! The text of a secret is every line of its value, without the end of the line, that has [`SHORTEST_LINE`] bytes or more: shorter
//! ones occur in every text, and a terminal ends lines in another way than a value does. This rule holds for UTF-8 and for any other
//! bytes. A [`Redactor`] finds those lines wherever agentd stores or shows what an agent printed:
//!
//! | where | how | with |
//! |---|---|---|
//! | bytes on their way to a log file | byte for byte | [`ByteStream`] |
//! | text that is shown: screens, logs as text, messages, the debug log | however it is [laid out](index) | [`Redactor::redact`], [`TextStream`] |
//!
//! Every stretch of a secret looks alike, whatever its length: [`MARKS`] marks, or as many as it has characters if those are fewer. Blanks
//! in the place of the other characters keep the layout. A secret that an agent prints in another encoding is not recognized.

mod bytes;
mod index;
mod masking;
mod stream;

use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use zeroize::Zeroizing;

use crate::sys::secret_bytes::SecretBytes;

pub use bytes::ByteStream;
#[cfg(any(test, fuzzing))]
pub use bytes::naively;
pub use index::{PIECE, is_significant};
pub use masking::Masking;
pub use stream::TextStream;

use index::Index;

/// What stands for a character of a secret.
const MARK: char = '*';

/// How many marks stand for a secret: the first characters of each stretch become marks, and the others blanks.
const MARKS: usize = 8;

/// The fewest bytes of a line of a secret that is redacted.
pub const SHORTEST_LINE: usize = 8;

/// Finds the text of some secrets. Its memory is cleared when it is dropped, and `Debug` shows nothing of it.
#[derive(Default)]
pub struct Redactor {
    /// Each once, in the order of their places in memory.
    values: Vec<SecretBytes>,
    /// Made when it is first needed.
    index: OnceLock<Index>,
}

impl Redactor {
    /// A redactor of these values. It shares their memory, and takes its time only when it is first needed for a text.
    pub fn new(values: impl IntoIterator<Item = SecretBytes>) -> Self {
        let mut values: Vec<SecretBytes> = values.into_iter().collect();
        values.sort_by_key(SecretBytes::place);
        values.dedup_by_key(|value| value.place());
        Self { values, index: OnceLock::new() }
    }

    /// The values of the secrets, each once, in the order of their places in memory.
    pub fn values(&self) -> &[SecretBytes] {
        &self.values
    }

    /// How many bytes the secrets have.
    pub fn size(&self) -> usize {
        self.values.iter().map(|value| value.as_slice().len()).sum()
    }

    /// Whether [`prepare`](Self::prepare) has nothing left to do.
    pub fn is_prepared(&self) -> bool {
        self.index.get().is_some()
    }

    /// Gets ready for texts, which takes about a tenth of a second for each MiB of secrets, and several times their memory.
    pub fn prepare(&self) {
        self.index();
    }

    /// The text with marks in the place of secrets.
    pub fn redact(&self, text: &str) -> String {
        if self.index().is_idle() { text.to_owned() } else { index::marked(text, &self.find(text)) }
    }

    /// Whether each byte of a text is part of a secret.
    pub fn find(&self, text: &str) -> Vec<bool> {
        if self.index().is_idle() { vec![false; text.len()] } else { self.index().marks(&[], text).0 }
    }

    fn index(&self) -> &Index {
        self.index.get_or_init(|| Index::new(self.lines().map(in_characters)))
    }

    /// The text of the secrets.
    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.places().map(|place| self.line(&place))
    }

    /// Where the lines are that count: in which of the values, and where in it.
    fn places(&self) -> impl Iterator<Item = LineRange> {
        self.values.iter().enumerate().flat_map(|(at, value)| {
            let lines = value.as_slice().split_inclusive(|&byte| byte == b'\n').scan(0, move |end, line| {
                let begin = std::mem::replace(end, *end + line.len());
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                Some((at, begin..begin + line.len()))
            });
            lines.filter(|(_, line)| line.len() >= SHORTEST_LINE)
        })
    }

    fn line(&self, (at, line): &LineRange) -> &[u8] {
        &self.values[*at].as_slice()[line.clone()]
    }
}

/// Where a line is: in which of the values, and where in it.
type LineRange = (usize, Range<usize>);

/// The characters of a line. What is not UTF-8 is left out: a terminal shows nothing for it, or U+FFFD, which does not count.
fn in_characters(line: &[u8]) -> Zeroizing<String> {
    // Room for all of it, so that no copy is left behind.
    let mut text = Zeroizing::new(String::with_capacity(line.len()));
    for chunk in line.utf8_chunks() {
        text.push_str(chunk.valid());
    }
    text
}

impl fmt::Debug for Redactor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Redactor")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::index::{SHORTEST, SUSPICIOUS, marked, significant};
    use super::*;

    fn of<S: AsRef<str>>(secrets: impl IntoIterator<Item = S>) -> Redactor {
        Redactor::new(secrets.into_iter().map(|secret| SecretBytes::from(secret.as_ref())))
    }

    const KEY: &str = "sk-ant-api03-Zq8vXw2LkT0pYcRb7NfHd5JmGs3QaUeWiOx9VtBy1KzCl6MnPr4EoFgIhDjSuAvX";

    /// The same by trying each stretch of each secret at each place.
    fn naively(secrets: &[String], text: &str) -> String {
        let places: Vec<usize> = text
            .char_indices()
            .filter(|&(_, character)| is_significant(character))
            .flat_map(|(at, character)| at..at + character.len_utf8())
            .collect();
        let bytes: Vec<u8> = places.iter().map(|&at| text.as_bytes()[at]).collect();
        let mut is_secret = vec![false; text.len()];
        for secret in secrets {
            let (length, secret) = (secret.len(), significant(secret));
            if length < SHORTEST_LINE || secret.len() < SHORTEST {
                continue;
            }
            for window in secret.windows(secret.len().min(PIECE)) {
                for at in 0..bytes.len() {
                    if bytes[at..].starts_with(window) {
                        places[at..at + window.len()].iter().for_each(|&place| is_secret[place] = true);
                    }
                }
            }
        }
        marked(text, &is_secret)
    }

    #[test]
    fn a_secret_is_redacted_however_it_is_laid_out() {
        let redactor = of([KEY]);
        let (one, rest) = KEY.split_at(30);
        let (two, three) = rest.split_at(30);
        let laid_out = format!("╭────╮\n│ {one} │\n│ {two} │\n│ {three}  │\n╰────╯\n> {KEY}\n");
        let shown = redactor.redact(&laid_out);
        let marks = |text: &str| format!("{:1$}", "*".repeat(MARKS), text.len());
        let expected = format!(
            "╭────╮\n│ {} │\n│ {} │\n│ {}  │\n╰────╯\n> {}\n",
            marks(one),
            marks(two),
            marks(three),
            "*".repeat(MARKS)
        );
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_piece_of_sixteen_is_redacted_and_one_of_fifteen_is_not() {
        let redactor = of([KEY]);
        assert_eq!(redactor.redact(&format!("({})", &KEY[20..36])), "(********        )");
        let short = format!("({})", &KEY[20..35]);
        assert_eq!(redactor.redact(&short), short);
    }

    #[test]
    fn a_short_secret_is_redacted_as_a_whole_only() {
        let redactor = of(["hunter22", "abc"]);
        assert_eq!(redactor.redact("abc hunter2 hunt\n  er22!"), "abc hunter2 ****\n  ****!");
    }

    #[test]
    fn text_is_shown_at_once_unless_a_secret_may_begin_at_its_end() {
        let mut shown = TextStream::new(of([KEY]));
        assert_eq!(shown.pass("step one\n"), "step one\n");
        assert_eq!(shown.pass("the key is sk-ant-"), "the key is ");
        assert_eq!(shown.pass("apples\n"), "sk-ant-apples\n");
        assert_eq!(shown.pass("SuAvX"), "SuAvX", "nothing of it follows its end");
        assert_eq!(shown.pass(" sk-ant"), " ");
        assert_eq!(shown.pause(), "sk-ant");
        assert_eq!(shown.pass("-api03-Zq8vX"), "********", "what was shown before counts");
        assert_eq!(shown.pause(), "");
    }

    #[test]
    fn a_secret_in_pieces_shows_only_its_first_suspicious_part() {
        let text = format!("a {KEY} b\n");
        let whole = of([KEY]).redact(&text);
        for cut in 0..text.len() {
            let mut shown = TextStream::new(of([KEY]));
            let said = shown.pass(&text[..cut]) + &shown.pass(&text[cut..]) + &shown.pause();
            let place = said.strip_prefix("a ").and_then(|rest| rest.strip_suffix(" b\n")).unwrap();
            let early = place.chars().filter(|it| !"* ".contains(*it)).count();
            assert!(said.len() == whole.len() && early < SUSPICIOUS, "cut at {cut}: {said}");
        }
    }

    #[test]
    fn lines_count_by_themselves_if_they_are_not_in_every_text() {
        let redactor = of(["-----BEGIN\r\nhunter2\nhunter2hunter2\n", "yes"]);
        assert_eq!(redactor.lines().collect::<Vec<_>>(), [&b"-----BEGIN"[..], b"hunter2hunter2"]);
        assert_eq!(redactor.redact("-----BEGIN, hunter2; yes"), "********  , hunter2; yes");
    }

    #[test]
    fn a_value_that_is_not_utf8_is_redacted_everywhere() {
        let shown = |value: &[u8]| {
            let redactor = Redactor::new([SecretBytes::from(value.to_vec())]);
            let printed = [b"key=", value, b";\n"].concat();
            let text = redactor.redact(&String::from_utf8_lossy(&printed));
            // tmux 3.3 shows nothing for bytes that are not UTF-8.
            let valid: String = printed.utf8_chunks().map(|chunk| chunk.valid().to_owned()).collect();
            let without = redactor.redact(&valid);
            let (mut stream, mut bytes) = (ByteStream::new(redactor), Vec::new());
            stream.pass(&printed, &mut bytes);
            stream.finish(&mut bytes);
            [text, without, String::from_utf8_lossy(&bytes).into_owned()]
        };
        assert_eq!(shown(b"hunter\xff22"), ["key=******\u{fffd}**;\n", "key=********;\n", "key=******** ;\n"]);
        let long = ["key=********\u{fffd}********;\n", "key=********        ;\n", "key=********         ;\n"];
        assert_eq!(shown(b"01234567\xff89abcdef"), long);
        // The bytes of no character count for the length of a line.
        assert_eq!(
            shown(b"\xff\xfe\xe2\x82abcd"),
            ["key=\u{fffd}\u{fffd}\u{fffd}****;\n", "key=****;\n", "key=*******;\n"]
        );
        assert_eq!(shown(b"\xffabcdef")[1..], ["key=abcdef;\n", "key=\u{fffd}abcdef;\n"], "it is too short");
    }

    #[test]
    fn a_value_without_characters_is_redacted_in_logs_only() {
        let redactor = Redactor::new([SecretBytes::from(vec![0xff; 8])]);
        assert!(redactor.index().is_idle(), "a text shows nothing of it");
        let (mut stream, mut bytes) = (ByteStream::new(redactor), Vec::new());
        stream.pass(&[b"key=", &[0xff; 8][..], b";\n"].concat(), &mut bytes);
        stream.finish(&mut bytes);
        assert_eq!(String::from_utf8_lossy(&bytes), "key=********;\n");
    }

    #[test]
    fn debug_shows_nothing_of_a_redactor() {
        let redactor = of([KEY]);
        redactor.prepare();
        assert_eq!(format!("{redactor:?}"), "Redactor");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// Of few letters, so that pieces are there, in one another, overlapping and repeated.
        #[test]
        fn any_text_is_redacted_as_by_a_naive_search(
            secrets in prop::collection::vec("[abé |\u{fffd}]{0,40}", 0..4),
            text in "([abé]{0,24}[ \n│\u{fffd}c]?){0,6}",
        ) {
            prop_assert_eq!(of(&secrets).redact(&text), naively(&secrets, &text));
        }

        /// Whatever is held back or shown early, fewer than a piece's worth of a secret's characters stand beside each other.
        #[test]
        fn no_piece_of_a_secret_is_shown_however_a_text_is_cut(
            secret in "[a-d]{16,40}",
            noise in "[a-d \n]{0,20}",
            cuts in prop::collection::vec((0..100usize, any::<bool>()), 0..6),
        ) {
            let text = format!("{noise}{secret}{noise}");
            let mut cuts: Vec<(usize, bool)> = cuts.into_iter().map(|(cut, pauses)| (cut.min(text.len()), pauses)).collect();
            cuts.sort_unstable();
            let mut shown = TextStream::new(of([&secret]));
            let (mut said, mut from) = (String::new(), 0);
            for (cut, pauses) in cuts {
                said += &shown.pass(&text[from..cut]);
                if pauses {
                    said += &shown.pause();
                }
                from = cut;
            }
            said += &shown.pass(&text[from..]);
            said += &shown.pause();
            let said: Vec<u8> = significant(&said).to_vec();
            for window in significant(&secret).windows(PIECE) {
                prop_assert!(!said.windows(PIECE).any(|shown| shown == window), "{}", String::from_utf8_lossy(&said));
            }
        }
    }
}
