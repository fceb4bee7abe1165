//! Writes a text with marks in the place of secrets, so that it does not show how long they are.

use super::{MARK, MARKS};

/// Writes a text character by character. A stretch of a secret becomes marks, and then blanks, so that what follows on the row stays where
/// it is. Blanks that nothing follows are left out: they would show how long the secret is.
#[derive(Clone, Debug, Default)]
pub struct Masking {
    /// How many characters the present stretch has so far.
    length: usize,
    /// Blanks that are written if something follows on the row.
    blanks: usize,
}

impl Masking {
    /// Writes a character, which is part of a secret or is not.
    pub fn push(&mut self, text: &mut String, character: char, is_secret: bool) {
        if is_secret {
            if self.length < MARKS {
                self.flush(text);
                text.push(MARK);
            } else {
                self.blanks += 1;
            }
            self.length += 1;
            return;
        }
        self.length = 0;
        if character == '\n' {
            self.blanks = 0;
        } else {
            self.flush(text);
        }
        text.push(character);
    }

    /// A text without any secret, as it is; `None` if blanks are due before it.
    pub(super) fn pass(&mut self, text: &str) -> Option<String> {
        if self.blanks > 0 {
            return None;
        }
        if !text.is_empty() {
            self.length = 0;
        }
        Some(text.to_owned())
    }

    fn flush(&mut self, text: &mut String) {
        text.extend(std::iter::repeat_n(' ', std::mem::take(&mut self.blanks)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> String {
        let (mut masking, mut shown) = (Masking::default(), String::new());
        for character in text.chars() {
            // A digit is part of a secret.
            masking.push(&mut shown, character, character.is_ascii_digit());
        }
        shown
    }

    #[test]
    fn secrets_of_all_lengths_look_alike() {
        for length in 8..100 {
            assert_eq!(masked(&format!("key={}\nb", "7".repeat(length))), "key=********\nb");
            assert_eq!(masked(&"7".repeat(length)), "********");
        }
        assert_eq!(masked("a123b"), "a***b");
    }

    #[test]
    fn a_text_without_a_secret_ends_a_stretch() {
        let (mut masking, mut shown) = (Masking::default(), String::new());
        (0..8).for_each(|_| masking.push(&mut shown, '7', true));
        assert_eq!(masking.pass(""), Some(String::new()));
        masking.push(&mut shown, '7', true);
        assert_eq!(masking.pass("a"), None, "a blank is due");
        masking.push(&mut shown, 'a', false);
        assert_eq!(masking.pass("b"), Some("b".to_owned()));
        masking.push(&mut shown, '7', true);
        assert_eq!(shown, "******** a*");
    }

    #[test]
    fn what_follows_on_the_row_stays_where_it_is() {
        assert_eq!(masked("│ 012345678901 │"), "│ ********     │");
        assert_eq!(masked("012345678901  \n"), "********      \n");
    }
}
