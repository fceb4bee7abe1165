//! Which conversation a harness is started in: looks for what is kept of the one that it should resume.
//!
//! The launcher looks, with the agent's rights, because what a home holds is the agent's. The search is bounded, and what it cannot find
//! out is not taken for absent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::protocol::SessionOrder;
use crate::agent::conversation::{Line, Proof, SessionId, Taken, Way};
use crate::sys::secret_bytes::SecretBytes;
use crate::text::glob;

/// How many names the search looks at.
const MOST_NAMES: u32 = 100_000;

/// How long it takes.
const LONGEST: Duration = Duration::from_secs(5);

const HOME: &str = "${HOME}";
const SESSION: &str = "${SESSION}";

/// Decides which conversation the harness is in. Returns this and the arguments for it, which are `usual` where nothing else is said.
///
/// Without a `home` nothing is kept of any conversation.
pub(super) fn settle(order: SessionOrder, home: Option<&Path>, usual: Vec<SecretBytes>) -> (Taken, Vec<SecretBytes>) {
    let SessionOrder { plan, new, resume, proof } = order;
    let taken = plan.taken(new.is_some(), |id| match (proof, home) {
        (None, Some(_)) => Proof::Undefined,
        (Some(pattern), Some(home)) => look(&pattern, home, id),
        (_, None) => Proof::Missing,
    });
    let line: Option<Line> = if taken.way == Way::Resumed { Some(resume) } else { new };
    let arguments = match (&taken.id, line) {
        (Some(id), Some(line)) => line.filled(id),
        _ => usual,
    };
    (taken, arguments)
}

/// Whether a file fits the pattern.
fn look(pattern: &str, home: &Path, id: &SessionId) -> Proof {
    let (base, rest) = match (pattern.strip_prefix(HOME), pattern.strip_prefix('/')) {
        (Some(rest), _) => (home.to_owned(), rest),
        (None, Some(rest)) => (PathBuf::from("/"), rest),
        (None, None) => return Proof::Unknown,
    };
    let names: Vec<String> =
        rest.split('/').filter(|name| !name.is_empty()).map(|name| name.replace(SESSION, id.as_str())).collect();
    let mut search = Search { names: MOST_NAMES, limit: Instant::now() + LONGEST };
    search.below(base, &names)
}

struct Search {
    /// How many names it may still look at.
    names: u32,
    limit: Instant,
}

impl Search {
    fn below(&mut self, mut path: PathBuf, names: &[String]) -> Proof {
        let literal = names.iter().take_while(|name| !glob::is_pattern(name)).count();
        let (literal, rest) = names.split_at(literal);
        path.extend(literal);
        let Some((pattern, rest)) = rest.split_first() else {
            return match fs::metadata(&path) {
                Ok(_) => Proof::Found,
                Err(error) => absent(&error),
            };
        };
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) => return absent(&error),
        };
        let mut proof = Proof::Missing;
        for entry in entries {
            if self.names == 0 || Instant::now() >= self.limit {
                return Proof::Unknown;
            }
            self.names -= 1;
            let Ok(entry) = entry else { return Proof::Unknown };
            let fits = entry.file_name().to_str().is_some_and(|name| glob::fits(pattern, name));
            match fits.then(|| self.below(entry.path(), rest)) {
                Some(Proof::Found) => return Proof::Found,
                Some(Proof::Unknown) => proof = Proof::Unknown,
                Some(Proof::Missing | Proof::Undefined) | None => {}
            }
        }
        proof
    }
}

fn absent(error: &io::Error) -> Proof {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Proof::Missing,
        _ => Proof::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rstest::rstest;
    use tempfile::TempDir;

    use super::*;
    use crate::agent::conversation::{Plan, SLOT};

    const CLAUDE: &str = "${HOME}/.claude/projects/*/${SESSION}.jsonl";

    fn id() -> SessionId {
        SessionId::try_from("0b".to_owned()).unwrap()
    }

    fn home_with(paths: &[&str]) -> TempDir {
        let home = TempDir::new().unwrap();
        for path in paths {
            let path = home.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        home
    }

    #[rstest]
    #[case(CLAUDE, &[".claude/projects/-w/0b.jsonl"], Proof::Found)]
    #[case(CLAUDE, &[".claude/projects/-v/0a.jsonl", ".claude/projects/-w/0b.jsonl"], Proof::Found)]
    #[case(CLAUDE, &[".claude/projects/-w/0a.jsonl"], Proof::Missing)]
    #[case(CLAUDE, &[".claude/projects/0b.jsonl"], Proof::Missing)]
    #[case(CLAUDE, &[".claude/projects"], Proof::Missing)]
    #[case(CLAUDE, &[], Proof::Missing)]
    #[case("${HOME}/s/*/*/r-*-${SESSION}.jsonl", &["s/2026/11/r-1-0b.jsonl"], Proof::Found)]
    #[case("${HOME}/s/*/*/r-*-${SESSION}.jsonl", &["s/2026/r-1-0b.jsonl"], Proof::Missing)]
    #[case("${HOME}/${SESSION}", &["0b"], Proof::Found)]
    #[case("s/${SESSION}", &["s/0b"], Proof::Unknown)]
    fn a_proof_is_a_file_that_fits(#[case] pattern: &str, #[case] files: &[&str], #[case] expected: Proof) {
        assert_eq!(look(pattern, home_with(files).path(), &id()), expected);
    }

    #[test]
    fn a_search_that_looks_at_too_much_finds_nothing_out() {
        let home = home_with(&["s/1", "s/2", "s/3"]);
        let names = ["s".to_owned(), "*x".to_owned()];
        let search = |names_left| {
            Search { names: names_left, limit: Instant::now() + LONGEST }.below(home.path().to_owned(), &names)
        };
        assert_eq!([search(2), search(3)], [Proof::Unknown, Proof::Missing]);
    }

    #[test]
    fn what_cannot_be_read_is_not_absent() {
        let home = home_with(&["s/0b"]);
        symlink("loop", home.path().join("loop")).unwrap();
        assert_eq!(look("${HOME}/loop/${SESSION}", home.path(), &id()), Proof::Unknown);
        assert_eq!(look("${HOME}/loop/*/${SESSION}", home.path(), &id()), Proof::Unknown);
    }

    #[test]
    fn arguments_are_those_of_what_was_taken() {
        let words = |words: &[&str]| words.iter().copied().map(SecretBytes::from).collect::<Vec<_>>();
        let line = |flag: &str| Line(words(&["claude", flag, SLOT, "say ${SESSION}"]));
        let order = |plan, chooses| SessionOrder {
            plan,
            new: if chooses { Some(line("--session-id")) } else { None },
            resume: line("--resume"),
            proof: Some(CLAUDE.to_owned()),
        };
        let resume = || Plan::Resume { id: id(), turned: true };
        let (none, kept) = (home_with(&[]), home_with(&[".claude/projects/-w/0b.jsonl"]));
        let settled = |order, home: Option<&TempDir>| {
            let (taken, arguments) = settle(order, home.map(TempDir::path), words(&["claude", "-p"]));
            (taken.way, taken.id.is_some(), arguments)
        };
        let with = |flag| words(&["claude", flag, "0b", "say ${SESSION}"]);
        assert_eq!(settled(order(Plan::New(id()), true), Some(&none)), (Way::New, true, with("--session-id")));
        assert_eq!(settled(order(resume(), true), Some(&kept)), (Way::Resumed, true, with("--resume")));
        assert_eq!(settled(order(resume(), true), Some(&none)), (Way::Anew, true, with("--session-id")));
        assert_eq!(settled(order(resume(), true), None), (Way::Anew, true, with("--session-id")));
        assert_eq!(settled(order(resume(), false), Some(&kept)), (Way::Resumed, true, with("--resume")));
        assert_eq!(settled(order(resume(), false), Some(&none)), (Way::Lost, false, words(&["claude", "-p"])));
        assert_eq!(settled(order(Plan::Begin, false), Some(&none)), (Way::New, false, words(&["claude", "-p"])));
    }
}
