//! Makes text from others safe to print: it cannot act on the terminal.
//!
//! Two kinds of characters do not show what they are. *Control* characters (C0, DEL, C1) make a terminal do something. *Format*
//! characters turn, hide or separate what stands beside them, so that a person reads something else than is there (bidirectional
//! overrides, zero-width characters, tags). No text that agents, files or other users chose goes to a terminal, a log or a reader
//! of plain text with one of them in it.

use memchr::memchr2_iter;
use serde::Serialize;

/// Whether a character does something instead of being seen. The end of a line and the tabulator are among them.
pub fn acts(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// The text without such characters, but for ends of lines and tabulators.
pub fn plain(text: &str) -> String {
    // Nearly always.
    if is_plain(text.as_bytes()) {
        return text.to_owned();
    }
    text.chars().filter(|&character| matches!(character, '\n' | '\t') || !acts(character)).collect()
}

fn is_plain(text: &[u8]) -> bool {
    let mut begin = 0;
    for end in memchr2_iter(b'\n', b'\t', text) {
        if !is_visible_ascii(&text[begin..end]) {
            return false;
        }
        begin = end + 1;
    }
    is_visible_ascii(&text[begin..])
}

/// Whether there is nothing but visible characters of ASCII and blanks. Looks at eight bytes at once: logs of many megabytes go through
/// here.
pub fn is_visible_ascii(text: &[u8]) -> bool {
    const EACH: u64 = u64::MAX / 255;
    let (words, rest) = text.as_chunks::<8>();
    // The highest bit of a byte is set by one from 0x80 on, by one below 0x20, and by DEL. A byte borrows from the next, or carries into
    // it, only if it sets that bit itself.
    let bits = words.iter().fold(0, |bits, &word| {
        let word = u64::from_ne_bytes(word);
        bits | word | word.wrapping_sub(EACH * 0x20) | word.wrapping_add(EACH)
    });
    bits & (EACH * 0x80) == 0 && rest.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The text with such characters as escapes, for what has one line.
pub fn escaped(text: &str) -> String {
    escaping(text, |_| false)
}

/// The same, but keeps ends of lines and tabulators.
pub fn escaped_lines(text: &str) -> String {
    escaping(text, |character| matches!(character, '\n' | '\t'))
}

/// The same, but for all characters of ASCII: for what others have looked through for those.
pub fn escaped_beyond_ascii(text: &str) -> String {
    escaping(text, |character| character.is_ascii())
}

fn escaping(text: &str, is_excepted: impl Fn(char) -> bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if acts(character) && !is_excepted(character) {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe
}

/// JSON with such characters as JSON's own escapes. There they can stand in strings only, but for the white space between.
pub fn json(json: String) -> String {
    let is_safe = |character: char| !acts(character) || matches!(character, '\n' | '\r' | '\t');
    // Nearly always.
    if json.is_ascii() && !json.contains('\u{7f}') || json.chars().all(is_safe) {
        return json;
    }
    let mut safe = String::with_capacity(json.len() + 64);
    let mut units = [0; 2];
    for character in json.chars() {
        if is_safe(character) {
            safe.push(character);
        } else {
            safe.extend(character.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    safe
}

/// A value as a line of JSON that is safe to show.
pub fn json_line<T: Serialize + ?Sized>(value: &T) -> String {
    let mut line = json(serde_json::to_string(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}")));
    line.push('\n');
    line
}

/// An editor puts it before a text to tell how that is written; it is none of the text.
pub fn without_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_acts_on_a_terminal_or_on_a_reader_is_escaped() {
        let hostile = "a\u{1b}[2J\u{9b}m\u{202e}\u{2066}\u{61c}\u{200f}\u{e0041}\u{7f}é\n";
        let expected = r"a\u{1b}[2J\u{9b}m\u{202e}\u{2066}\u{61c}\u{200f}\u{e0041}\u{7f}é\n";
        assert_eq!(escaped(hostile), expected);
        assert_eq!(escaped_lines(hostile), expected.replace(r"\n", "\n"));
        assert_eq!(escaped_beyond_ascii("\u{1b}[1mé\u{202e}\n"), "\u{1b}[1mé\\u{202e}\n");
        assert_eq!(plain(hostile), "a[2Jmé\n");
    }

    #[test]
    fn each_byte_that_is_not_visible_is_found_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            for place in 0..19 {
                for around in [b' ', b'~'] {
                    let mut text = [around; 19];
                    text[place] = byte;
                    assert_eq!(is_visible_ascii(&text), matches!(byte, b' '..=b'~'), "{byte:#x} at {place}");
                    assert_eq!(is_plain(&text), matches!(byte, b'\n' | b'\t' | b' '..=b'~'), "{byte:#x} at {place}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn json_means_the_same_and_acts_on_nothing(text in "(\\PC|[\\x00-\\x1f\\x7f-\\x9f\u{200b}-\u{200f}\u{202a}-\u{202e}\u{e0041}]){0,20}") {
            let json = json(serde_json::to_string(&text).unwrap());
            prop_assert!(!json.contains(acts), "{}", json);
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }

        #[test]
        fn text_that_shows_what_it_is_is_unchanged(text in "[a-zé€漢 ─│✻]{0,40}") {
            prop_assert_eq!(escaped(&text), text.clone());
            prop_assert_eq!(plain(&text), text);
        }
    }
}
