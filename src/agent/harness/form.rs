//! Forms of a command line: where the declared `args` and the prompt stand among a harness's own words.

/// Stands for the declared `args`.
pub(super) const ARGS: &str = "${ARGS}";
/// Stands for the prompt.
pub(super) const PROMPT: &str = "${PROMPT}";

/// A command line, around the declared `args`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Form {
    /// Between the command and `args`.
    pub before_args: Vec<String>,
    /// After `args`.
    pub prompt: Place,
}

/// How the prompt stands after `args`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// These words, then the prompt as an argument of its own.
    After(Vec<String>),
    /// One argument: this option, `=`, and the prompt.
    JoinedTo(String),
    /// The form does not take a prompt.
    Nowhere,
}

impl Default for Place {
    fn default() -> Self {
        Self::After(Vec::new())
    }
}

impl Form {
    /// Reads the form of a command line with a prompt, which is its last word, or the end of it after `=`.
    ///
    /// # Errors
    ///
    /// Says how to write it.
    pub fn with_prompt(words: &[&str]) -> Result<Self, &'static str> {
        const RIGHT: &str = "end it with \"${PROMPT}\", or with an option like \"--prompt=${PROMPT}\"";
        let (last, words) = words.split_last().ok_or(RIGHT)?;
        let (before_args, after) = around_args(words)?;
        if before_args.iter().chain(&after).any(|word| word.contains(PROMPT)) {
            return Err(RIGHT);
        }
        let prompt = match last.strip_suffix(PROMPT) {
            Some("") => Place::After(after),
            Some(option) if after.is_empty() => {
                let option = option.strip_suffix('=').filter(|option| option.starts_with('-')).ok_or(RIGHT)?;
                Place::JoinedTo(option.to_owned())
            }
            Some(_) | None => return Err(RIGHT),
        };
        Ok(Self { before_args, prompt })
    }

    /// Reads the form of a command line without a prompt.
    ///
    /// # Errors
    ///
    /// Says how to write it.
    pub fn without_prompt(words: &[&str]) -> Result<Self, &'static str> {
        let (before_args, after) = around_args(words)?;
        if !after.is_empty() || before_args.iter().any(|word| word.contains(PROMPT)) {
            return Err("end it with \"${ARGS}\"");
        }
        Ok(Self { before_args, prompt: Place::Nowhere })
    }

    /// The words that it was read from.
    pub fn words(&self) -> Vec<String> {
        let mut words = self.before_args.clone();
        words.push(ARGS.to_owned());
        match &self.prompt {
            Place::After(after) => {
                words.extend(after.iter().cloned());
                words.push(PROMPT.to_owned());
            }
            Place::JoinedTo(option) => words.push(format!("{option}={PROMPT}")),
            Place::Nowhere => {}
        }
        words
    }

    /// Whether nothing stands between `args` and the prompt.
    pub fn is_bare(&self) -> bool {
        match &self.prompt {
            Place::After(words) => words.is_empty(),
            Place::JoinedTo(_) => false,
            Place::Nowhere => true,
        }
    }
}

/// The words before `args`, and those after. Without `${ARGS}` these come first.
fn around_args(words: &[&str]) -> Result<(Vec<String>, Vec<String>), &'static str> {
    let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let (before, after) = match words.iter().position(|&word| word == ARGS) {
        Some(at) => (&words[..at], &words[at + 1..]),
        None => (&words[..0], words),
    };
    if before.iter().chain(after).any(|word| word.contains(ARGS)) {
        return Err("write \"${ARGS}\" once, as a word of its own");
    }
    Ok((owned(before), owned(after)))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&["${ARGS}", "-p", "--", "${PROMPT}"])]
    #[case(&["exec", "--x", "${ARGS}", "--", "${PROMPT}"])]
    #[case(&["${ARGS}", "--prompt=${PROMPT}"])]
    #[case(&["${ARGS}", "${PROMPT}"])]
    fn a_form_is_written_as_it_was_read(#[case] words: &[&str]) {
        assert_eq!(Form::with_prompt(words).unwrap().words(), words);
    }

    #[test]
    fn args_come_first_where_a_form_does_not_name_them() {
        assert_eq!(Form::with_prompt(&["-p", "${PROMPT}"]).unwrap().words(), ["${ARGS}", "-p", "${PROMPT}"]);
        assert_eq!(Form::without_prompt(&[]).unwrap().words(), ["${ARGS}"]);
    }

    #[rstest]
    #[case::nothing(&[])]
    #[case::no_prompt(&["${ARGS}", "-p"])]
    #[case::prompt_twice(&["${PROMPT}", "${PROMPT}"])]
    #[case::prompt_in_the_middle(&["-p", "${PROMPT}", "${ARGS}"])]
    #[case::args_twice(&["${ARGS}", "${ARGS}", "${PROMPT}"])]
    #[case::args_in_a_word(&["--x=${ARGS}", "${PROMPT}"])]
    #[case::no_option(&["${ARGS}", "prompt=${PROMPT}"])]
    #[case::joined_after_words(&["${ARGS}", "x", "--prompt=${PROMPT}"])]
    fn a_form_that_would_lose_something_is_refused(#[case] words: &[&str]) {
        assert!(Form::with_prompt(words).is_err());
    }
}
