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
        .map(|known| (distance(&word, known), known))
        .filter(|&(distance, known)| distance <= MAX_DISTANCE && distance * 2 <= known.len())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, known)| known);
    begun.or(misspelt)
}

/// How many bytes must be inserted, removed or replaced to make one word the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, byte_a) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, byte_b) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(byte_a != byte_b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
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
    fn only_a_near_word_is_suggested(#[case] word: &str, #[case] suggestion: Option<&str>) {
        assert_eq!(nearest(word, ["name", "prompt", "prompt_file", "env"]), suggestion);
    }

    #[rstest]
    #[case("", "abc", 3)]
    #[case("abc", "abc", 0)]
    #[case("kitten", "sitting", 3)]
    fn distance_counts_single_edits(#[case] a: &str, #[case] b: &str, #[case] edits: usize) {
        assert_eq!(distance(a, b), edits);
        assert_eq!(distance(b, a), edits);
    }
}
