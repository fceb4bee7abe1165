//! Skills: folders of instructions that a harness finds by itself, each with a `SKILL.md` that says when it is of use.
//!
//! agentd hands them over and pastes none into a prompt. What a `SKILL.md` must say is laid down at agentskills.io.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The file that makes a folder a skill.
pub const FILE: &str = "SKILL.md";

/// The variable that names the folder with the skills of an agent.
pub const VARIABLE: &str = "AGENTD_SKILLS";

/// What stands for that folder in an entry.
pub const PLACEHOLDER: &str = "${AGENTD_SKILLS}";

/// How many skills an agent can have, and how many paths its entry.
pub const MOST: usize = 100;

/// How many files and folders a skill may have.
pub const MOST_FILES: usize = 1_000;

/// The largest file of a skill, in bytes.
pub const LARGEST: u64 = 1 << 20;

/// The longest name, in characters.
const LONGEST_NAME: usize = 64;

/// The longest description, in characters.
const LONGEST_DESCRIPTION: usize = 1_024;

/// A skill that an agent is given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Skill {
    /// Its name, which is that of its folder.
    pub name: String,
    /// The folder, by a path that has no links.
    pub folder: PathBuf,
}

/// What is wrong with the `SKILL.md` of a folder of this name, and how to do better.
pub fn judge(folder: &str, text: &str) -> Result<(), String> {
    if !is_name(folder) {
        return Err("its folder's name must be 1 to 64 lower-case letters, digits and single hyphens".to_owned());
    }
    let fields = front_matter(text).ok_or("it must begin with a front matter between two lines `---`")?;
    let get = |key: &str| fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    match get("name") {
        None | Some("") => return Err(format!("its front matter needs a `name`; write `name: {folder}`")),
        Some(name) if name != folder => {
            return Err(format!("its `name` must be that of its folder; write `name: {folder}`"));
        }
        Some(_) => {}
    }
    match get("description").map(|description| description.chars().count()) {
        None | Some(0) => {
            Err("its front matter needs a `description` of what it does and when it is of use".to_owned())
        }
        Some(length) if length > LONGEST_DESCRIPTION => {
            Err(format!("its `description` has {length} characters; {LONGEST_DESCRIPTION} are the most"))
        }
        Some(_) => Ok(()),
    }
}

/// Whether a skill can have this name.
pub fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(is_allowed)
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

/// The fields at the top level of the YAML between the first two lines `---`. What is indented belongs to the field before it.
fn front_matter(text: &str) -> Option<Vec<(String, String)>> {
    let mut lines = text.trim_start_matches('\u{feff}').lines().map(str::trim_end);
    lines.next().filter(|line| *line == "---")?;
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in lines {
        if line == "---" {
            return Some(fields);
        }
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                let more = line.trim_start();
                *value = if value.is_empty() { more.to_owned() } else { format!("{value} {more}") };
            }
        } else if let Some((key, value)) = line.split_once(':').filter(|_| !line.starts_with('#')) {
            // A sign that the text stands on the lines that follow says nothing itself.
            let value = if value.trim_start().starts_with(['|', '>']) { "" } else { unquoted(value.trim()) };
            fields.push((key.trim().to_owned(), value.to_owned()));
        }
    }
    None
}

fn unquoted(value: &str) -> &str {
    let within = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    within('"').or_else(|| within('\'')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("---\nname: review\ndescription: Reviews code.\n---\nDo.\n")]
    #[case("---\r\nname: \"review\"\r\ndescription: 'Reviews: code.'\r\n---\r\n")]
    #[case(
        "\u{feff}---\n# a comment\nname: review\nmetadata:\n  name: other\ndescription: >\n  Reviews\n  code.\n---\n"
    )]
    fn a_good_skill_is_taken(#[case] text: &str) {
        assert_eq!(judge("review", text), Ok(()));
    }

    #[rstest]
    #[case("review", "Do.", "front matter")]
    #[case("review", "---\nname: review\ndescription: x\n", "front matter")]
    #[case("review", "---\ndescription: x\n---\n", "`name: review`")]
    #[case("review", "---\nname: other\ndescription: x\n---\n", "that of its folder")]
    #[case("review", "---\nname: review\n---\n", "needs a `description`")]
    #[case("review", "---\nname: review\ndescription: >\n---\n", "needs a `description`")]
    #[case("review", "---\nname: review\ndescription: |-\n\n---\n", "needs a `description`")]
    #[case("Review", "---\nname: Review\ndescription: x\n---\n", "lower-case")]
    #[case("a--b", "---\nname: a--b\ndescription: x\n---\n", "hyphens")]
    fn a_mistake_is_named(#[case] folder: &str, #[case] text: &str, #[case] expected: &str) {
        let error = judge(folder, text).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let described = |length: usize| format!("---\nname: a\ndescription: {}\n---\n", "x".repeat(length));
        assert_eq!(judge("a", &described(1_024)), Ok(()));
        assert!(judge("a", &described(1_025)).unwrap_err().contains("1025 characters"));
        assert!(is_name(&"a".repeat(64)) && !is_name(&"a".repeat(65)) && !is_name(""));
    }
}
