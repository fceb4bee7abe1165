use std::os::unix::fs::{PermissionsExt, symlink};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use proptest::prelude::*;
use rstest::rstest;
use tempfile::TempDir;

use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

fn disabled() -> Override {
    Override { enabled: Some(false), ..Override::default() }
}

fn raised(generation: u64) -> Override {
    Override { generation: Some(generation), ..Override::default() }
}

/// A reading of the folder with this number.
fn reading(folder: Option<u64>, files: &[(&str, Result<Override, &str>)]) -> Reading {
    let files = files.iter().map(|(stem, said)| ((*stem).to_owned(), said.clone().map_err(str::to_owned))).collect();
    Reading { folder: folder.map(|inode| FileId::new(1, inode)), files, ..Reading::default() }
}

/// Readings, each some seconds after the first.
struct Looks {
    known: Known,
    began: Instant,
}

impl Looks {
    /// These agents are stopped, in folder 1.
    fn new(agents: &[&str]) -> Self {
        let mut looks = Self { known: Known::kept_before(Some(Kept::default())), began: Instant::now() };
        let files: Vec<_> = agents.iter().map(|agent| (*agent, Ok(disabled()))).collect();
        looks.look(0, reading(Some(1), &files));
        assert_eq!((looks.stopped(), looks.known.error()), (agents.join(" "), None));
        looks
    }

    fn look(&mut self, seconds: u64, reading: Reading) {
        self.known = self.known.after(reading, Path::new("/o"), self.began + Duration::from_secs(seconds), PATIENCE);
    }

    fn stopped(&self) -> String {
        let stopped = self.known.kept.in_force.iter().filter(|(_, it)| it.enabled == Some(false));
        stopped.map(|(stem, _)| stem.as_str()).collect::<Vec<_>>().join(" ")
    }

    fn error(&self) -> &str {
        self.known.error().map_or("", String::as_str)
    }
}

#[test]
fn one_file_that_is_removed_takes_its_override_back() {
    let mut looks = Looks::new(&["a", "b"]);
    looks.look(1, reading(Some(1), &[("b", Ok(disabled()))]));
    assert_eq!((looks.stopped().as_str(), looks.error()), ("b", ""));
    looks.look(1, reading(Some(1), &[]));
    assert_eq!((looks.stopped().as_str(), looks.error()), ("", ""), "the last one, too");
}

#[test]
fn several_that_are_gone_at_once_need_a_second_look() {
    let mut looks = Looks::new(&["a", "b", "c"]);
    looks.look(1, reading(Some(1), &[("c", Ok(disabled()))]));
    assert_eq!(looks.stopped(), "a b c");
    assert!(looks.error().starts_with("no longer in /o: a.toml, b.toml; what was in force"), "{}", looks.error());
    looks.look(5, reading(Some(1), &[("c", Ok(disabled()))]));
    assert_eq!(looks.stopped(), "a b c");
    looks.look(6, reading(Some(1), &[("c", Ok(disabled()))]));
    assert_eq!((looks.stopped().as_str(), looks.error()), ("c", ""));
}

#[test]
fn a_folder_that_is_gone_or_unreadable_takes_nothing_back() {
    let mut looks = Looks::new(&["a"]);
    for seconds in [1, 100, 1_000] {
        let problem = Some("/o does not exist".to_owned());
        looks.look(seconds, Reading { is_absent: true, problem, ..Reading::default() });
        assert_eq!(looks.stopped(), "a");
        assert_eq!(looks.error(), "/o does not exist; what it said before stays in force");
        assert!(!looks.known.may_make(), "a new folder would say that nobody is stopped");
    }
    looks.look(1_001, reading(Some(1), &[("a", Ok(disabled()))]));
    assert_eq!((looks.stopped().as_str(), looks.error()), ("a", ""));
}

#[test]
fn another_folder_needs_a_second_look_at_the_same() {
    let mut looks = Looks::new(&["a"]);
    looks.look(1, reading(Some(2), &[]));
    looks.look(4, reading(Some(3), &[]));
    looks.look(8, reading(Some(3), &[]));
    assert_eq!(looks.stopped(), "a");
    looks.look(9, reading(Some(3), &[]));
    assert_eq!((looks.stopped().as_str(), looks.error()), ("", ""));
}

#[test]
fn what_another_folder_says_counts_at_once() {
    let mut looks = Looks::new(&["a"]);
    looks.look(1, reading(Some(2), &[("b", Ok(disabled()))]));
    assert_eq!(looks.stopped(), "a b");
}

#[test]
fn what_says_nothing_more_may_go_with_others() {
    let mut looks = Looks::new(&["a"]);
    looks.look(1, reading(Some(1), &[("a", Ok(raised(1))), ("b", Ok(raised(2))), ("c", Ok(disabled()))]));
    looks.look(2, reading(Some(1), &[]));
    assert_eq!((looks.known.kept.in_force.len(), looks.error()), (0, ""));
}

#[test]
fn a_bad_file_keeps_what_it_said_before() {
    let mut looks = Looks::new(&["a"]);
    let bad = Err("/o/a.toml:1:1: what is that");
    looks.look(1, reading(Some(1), &[("a", bad.clone()), ("b", bad)]));
    assert_eq!(looks.stopped(), "a");
    let lines: Vec<&str> = looks.error().lines().collect();
    assert_eq!(
        lines,
        [
            "/o/a.toml:1:1: what is that; what it said before stays in force",
            "/o/a.toml:1:1: what is that; it has no effect"
        ]
    );
}

#[test]
fn what_an_earlier_daemon_kept_holds_without_a_folder() {
    let kept = Kept { folder: Some(FileId::new(1, 1)), in_force: [("a".to_owned(), disabled())].into() };
    let mut looks = Looks { known: Known::kept_before(Some(kept)), began: Instant::now() };
    looks.look(0, Reading { problem: Some("no".to_owned()), ..Reading::default() });
    assert_eq!(looks.known.overrides().unwrap().agents.len(), 1);
    looks.look(1, reading(Some(1), &[]));
    assert_eq!(looks.stopped(), "", "it was removed while no daemon ran");
}

#[test]
fn without_folder_and_record_nothing_is_claimed() {
    let mut looks = Looks { known: Known::kept_before(None), began: Instant::now() };
    looks.look(0, Reading { problem: Some("no".to_owned()), ..Reading::default() });
    assert_eq!(looks.known.overrides(), None);
    assert!(!looks.known.may_make());
    looks.look(1, reading(Some(1), &[]));
    assert_eq!(looks.known.overrides(), Some(Overrides::default()));
}

#[test]
fn an_override_of_nobody_is_told() {
    let looks = Looks::new(&["a", "b"]);
    let said = looks.known.undeclared(Path::new("/o"), |key| key.as_str() == "b").unwrap();
    assert_eq!(said, "/o/a.toml: no agent a is declared; remove it if none will be");
}

/// What a folder looks like when it is read, some time after the reading before.
type Look = (Option<u64>, [Option<bool>; 3], u64);

fn a_look() -> impl Strategy<Value = Look> {
    let file = prop_oneof![2 => Just(None), 3 => Just(Some(true)), 1 => Just(Some(false))];
    let folder = prop_oneof![1 => Just(None), 4 => Just(Some(1)), 1 => Just(Some(2))];
    (folder, [file.clone(), file.clone(), file], 0_u64..8)
}

proptest! {
    /// An override goes only if it alone is missing where it was listed last, or if two readings of the same folder, `PATIENCE` apart,
    /// and all between, miss it.
    #[test]
    fn nothing_is_taken_back_by_absence_alone(story in prop::collection::vec(a_look(), 1..30)) {
        let names = ["a", "b", "c"];
        let mut looks = Looks { known: Known::kept_before(Some(Kept::default())), began: Instant::now() };
        let mut now = 0;
        let mut listed: Option<u64> = None;
        // In which folder each has been missed without a break, and since when.
        let mut missed: [Option<(u64, u64)>; 3] = [None; 3];
        for (folder, files, pass) in story {
            now += pass;
            let before = looks.known.kept.in_force.clone();
            let said: Vec<_> = names.iter().zip(files).filter_map(|(name, file)| {
                Some((*name, if file? { Ok(disabled()) } else { Err("bad") }))
            }).collect();
            looks.look(now, reading(folder, &said));
            let after = &looks.known.kept.in_force;
            let gone: Vec<usize> = (0..3).filter(|&at| before.contains_key(names[at]) && !after.contains_key(names[at])).collect();
            let Some(here) = folder else {
                prop_assert!(gone.is_empty(), "a folder that was not read took {:?} back", gone);
                continue;
            };
            let fresh = (0..3).filter(|&at| before.contains_key(names[at]) && files[at].is_none() && missed[at].is_none()).count();
            for at in 0..3 {
                let is_missing = before.contains_key(names[at]) && files[at].is_none();
                let alone = listed == folder && missed[at].is_none() && fresh == 1;
                let confirmed = missed[at].is_some_and(|(folder, since)| folder == here && now - since >= PATIENCE.as_secs());
                prop_assert_eq!(gone.contains(&at), is_missing && (alone || confirmed));
                if let Some(true) = files[at] {
                    prop_assert!(after.contains_key(names[at]), "what is said holds at once");
                }
                missed[at] = match missed[at] {
                    _ if !is_missing || gone.contains(&at) => None,
                    Some((folder, since)) if folder == here => Some((folder, since)),
                    _ => Some((here, now)),
                };
            }
            listed = folder;
        }
    }
}

/// A folder of this user, and what is read there.
struct Folder {
    root: TempDir,
    place: Place,
}

impl Folder {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let place =
            Place::new(root.path().join("overrides"), Gid::effective(), tokio::sync::watch::channel([1000].into()).1);
        assert!(read(&place, true).folder.is_some());
        Self { root, place }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.directory.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// What is wrong with the only file.
    fn error(&self) -> String {
        let reading = read(&self.place, false);
        assert_eq!(reading.files.len(), 1, "{reading:?}");
        reading.files.into_values().next().unwrap().unwrap_err()
    }
}

#[test]
fn drop_ins_are_read_with_their_owner_and_time() {
    let folder = Folder::new();
    folder.write("Reviewer.toml", "enabled = false\n");
    folder.write(".all.toml", "enabled = false\n");
    for other in [".reviewer.toml.swp", ".x.toml", "notes.txt"] {
        folder.write(other, "whatever");
    }
    let reading = read(&folder.place, false);
    assert_eq!(reading.files.keys().collect::<Vec<_>>(), [".all", "reviewer"]);
    let said = reading.files["reviewer"].clone().unwrap();
    let own = users::get_user_by_uid(Uid::effective().as_raw()).unwrap();
    assert_eq!(said.by.as_deref(), own.name().to_str());
    let Some(Time(at)) = said.at else { panic!("{said:?}") };
    assert!(at.elapsed().unwrap_or_default() < Duration::from_mins(1));
    assert_eq!((said.enabled, reading.problem, reading.strays), (Some(false), None, vec![]));
}

#[test]
fn names_that_are_none_are_told() {
    let folder = Folder::new();
    folder.write("a b.toml", "");
    folder.write("x.toml", "enabled = false");
    folder.write("X.toml", "enabled = true");
    let reading = read(&folder.place, false);
    assert_eq!(reading.files.len(), 1);
    assert_eq!(reading.strays.len(), 2, "{:?}", reading.strays);
    assert!(reading.strays[0].contains("a b.toml: it is not named after an agent"), "{:?}", reading.strays);
    assert!(reading.strays[1].contains("x.toml: there is another for the same agent"), "{:?}", reading.strays);
}

#[rstest]
#[case::link(|folder: &Folder| {
    fs::write(folder.root.path().join("goal"), "enabled = false").unwrap();
    symlink(folder.root.path().join("goal"), folder.path("a.toml")).unwrap();
}, "it is a link; write a regular file")]
#[case::dangling_link(|folder: &Folder| symlink("nowhere", folder.path("a.toml")).unwrap(), "it is a link")]
#[case::fifo(|folder: &Folder| mkfifo(&folder.path("a.toml"), Mode::S_IRWXU).unwrap(), "it is not a regular file")]
#[case::directory(|folder: &Folder| fs::create_dir(folder.path("a.toml")).unwrap(), "it is not a regular file")]
#[case::hard_link(|folder: &Folder| {
    fs::write(folder.root.path().join("other"), "enabled = false").unwrap();
    fs::hard_link(folder.root.path().join("other"), folder.path("a.toml")).unwrap();
}, "it has 2 names (hard links)")]
#[case::sparse(|folder: &Folder| {
    fs::File::create(folder.path("a.toml")).unwrap().set_len(1 << 30).unwrap();
}, "it is larger than 4096 bytes")]
#[case::other_key(|folder: &Folder| folder.write("a.toml", "enabled = true\ncommand = 'sh'"), "a.toml:2:1: the key \"command\"")]
#[case::no_toml(|folder: &Folder| folder.write("a.toml", "stop!"), "the file is not valid TOML")]
fn what_is_no_drop_in_is_refused(#[case] put: fn(&Folder), #[case] expected: &str) {
    let folder = Folder::new();
    put(&folder);
    let error = folder.error();
    assert!(error.contains(expected) && error.starts_with(&folder.path("a.toml").display().to_string()), "{error}");
}

#[test]
fn a_folder_that_cannot_be_listed_is_told() {
    let folder = Folder::new();
    fs::set_permissions(folder.root.path(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::remove_dir(&folder.place.directory).unwrap();
    fs::write(&folder.place.directory, "").unwrap();
    let reading = read(&folder.place, true);
    assert!(reading.folder.is_none() && !reading.is_absent && reading.problem.is_some(), "{reading:?}");
}

#[test]
fn names_of_files_and_keys_begin_no_line_of_their_own() {
    let folder = Folder::new();
    for name in ["a\nlog: all is well.toml", "\u{1b}[31m.toml"] {
        folder.write(name, "");
    }
    folder.write("b.toml", "\"x\\nlog: all is well\" = 1\n\"\\u001b[31m\" = 2\n");
    let Reading { strays, files, .. } = read(&folder.place, false);
    let said = [strays, files.into_values().filter_map(Result::err).collect()].concat().join("\n");
    let own = folder.place.directory.display().to_string();
    assert!(said.lines().count() == 4 && said.lines().all(|line| line.starts_with(&own)), "{said}");
    assert!(!said.contains('\u{1b}'), "{said}");
}
