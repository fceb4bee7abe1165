//! Patterns of names: `*` stands for any characters, `?` for one.

/// Whether a word is a pattern rather than a name.
pub fn is_pattern(word: &str) -> bool {
    word.contains(['*', '?'])
}

/// Whether a name fits a pattern. The case of ASCII letters does not matter.
pub fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut seen) = (0, 0);
    // Where the latest `*` is, and how much of the name it stands for.
    let mut star: Option<(usize, usize)> = None;
    while seen < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(&wanted) if wanted == b'?' || wanted.eq_ignore_ascii_case(&name[seen]) => {
                at += 1;
                seen += 1;
            }
            _ => {
                // The star takes one more.
                let Some((before, taken)) = star else { return false };
                star = Some((before, taken + 1));
                at = before + 1;
                seen = taken + 1;
            }
        }
    }
    pattern[at..].iter().all(|&rest| rest == b'*')
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("rev*", "reviewer", true)]
    #[case("REV*", "reviewer", true)]
    #[case("*er", "reviewer", true)]
    #[case("r*v*r", "reviewer", true)]
    #[case("r*x*r", "reviewer", false)]
    #[case("writer-?", "writer-1", true)]
    #[case("writer-?", "writer-", false)]
    #[case("writer-?", "writer-10", false)]
    #[case("*", "", true)]
    #[case("**", "a", true)]
    #[case("", "", true)]
    #[case("", "a", false)]
    #[case("a", "a", true)]
    #[case("*a*b", "xaxbxab", true)]
    #[case("*a*b", "xaxbxa", false)]
    fn a_name_fits_as_in_a_shell(#[case] pattern: &str, #[case] name: &str, #[case] expected: bool) {
        assert_eq!(fits(pattern, name), expected);
    }
}
