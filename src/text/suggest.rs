//! "Did you mean …?"

/// The most letters that may be wrong.
const MAX_DISTANCE: usize = 2;

/// The fewest letters that are enough of a word's beginning.
const MIN_BEGINNING: usize = 3;

/// The known word that a mistaken one begins, or most nearly spells, if it is near any.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str, IntoIter: Clone>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let known = known.into_iter();
    let begun = known.clone().find(|known| word.len() >= MIN_BEGINNING && known.starts_with(&word));
    let misspelt = known
        // Most pairs differ so much in length that no letter need be compared, however long the word.
        .filter(|known| known.len().abs_diff(word.len()) <= MAX_DISTANCE)
        .map(|known| (strsim::levenshtein(&word, known), known))
        .filter(|&(distance, known)| distance <= MAX_DISTANCE && distance * 2 <= known.len())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, known)| known);
    begun.or(misspelt)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("promt", Some("prompt"))]
    #[case("Prompt", Some("prompt"))]
    #[case("prompt-file", Some("prompt_file"))]
    #[case("nmae", Some("name"))]
    #[case("prom", Some("prompt"))]
    #[case("prompt_f", Some("prompt_file"))]
    #[case("pro", Some("prompt"))]
    #[case("pr", None)]
    #[case("environment", None)]
    #[case("url", None)]
    #[case("", None)]
    #[case("prpt", Some("prompt"))]
    #[case("xrpt", None)]
    #[case("evn", None)]
    #[case("prömpt", Some("prompt"))]
    fn only_a_near_word_is_suggested(#[case] word: &str, #[case] suggestion: Option<&str>) {
        assert_eq!(nearest(word, ["name", "prompt", "prompt_file", "env"]), suggestion);
    }
}
