use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::{Uid, chown, mkfifo};
use tempfile::TempDir;

use super::*;
use crate::agent::name::{Key, key};
use crate::sys::file_id::FileId;

struct Bench {
    root: TempDir,
    book: Book,
    queue: Option<Queue>,
}

impl Bench {
    /// A spool that is followed with announcements.
    fn new() -> Self {
        let mut bench = Self::unwatched();
        bench.queue = Some(Queue::open().unwrap());
        bench
    }

    fn unwatched() -> Self {
        let root = TempDir::new().unwrap();
        let book = Book::new(place(&root, &[]));
        Self { root, book, queue: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("spool").join(name)
    }

    /// One round, with these commands and what was announced.
    fn act(&mut self, commands: Vec<Command>) -> Vec<News> {
        self.go(commands, false)
    }

    fn go(&mut self, commands: Vec<Command>, is_round: bool) -> Vec<News> {
        let mut events = Vec::new();
        while let Some(more) = self.queue.as_ref().map(|queue| queue.take().unwrap()).filter(|more| !more.is_empty()) {
            events.extend(more);
        }
        self.book.work.extend(Work { commands, events, is_round });
        self.book.round(self.queue.as_ref()).news
    }

    fn round(&mut self) -> Vec<News> {
        self.go(Vec::new(), true)
    }

    fn templates(&mut self, names: &[&str]) -> Vec<News> {
        self.act(vec![Command::Templates(names.iter().map(|name| name.parse().unwrap()).collect())])
    }

    /// A task that is told and taken.
    fn taken(&mut self, id: &str) -> FileId {
        drop_in(&self.path("fixer"), id, "do it");
        let news = self.act(Vec::new());
        let [News::Task { file, .. }] = &news[..] else { panic!("{news:?}") };
        let file = *file;
        assert_eq!(self.act(vec![Command::Took { key: run(id) }]), []);
        file
    }
}

fn place(root: &TempDir, agents: &[u32]) -> Place {
    let (_, agents) = watch::channel(agents.iter().copied().collect::<BTreeSet<u32>>());
    let own = Uid::effective();
    let group = Gid::effective();
    Place {
        directory: root.path().join("spool"),
        group,
        operators: if own.is_root() { Operators::Group { group, agents } } else { Operators::Own(own) },
        settle: Duration::from_millis(300),
        resync: Duration::from_secs(1),
    }
}

/// Puts a task there as `agentd run` does: written elsewhere, and moved.
fn drop_in(folder: &Path, id: &str, text: &str) {
    let new = folder.join(".new");
    fs::write(&new, text).unwrap();
    fs::rename(new, folder.join(id)).unwrap();
}

fn run(id: &str) -> Key {
    key(&format!("fixer+{id}"))
}

fn ids(news: &[News]) -> Vec<&str> {
    let id = |news: &'_ News| matches!(news, News::Task { .. });
    let tasks = news.iter().filter(|it| id(it));
    tasks.map(|it| if let News::Task { task, .. } = it { task.id.as_str() } else { "" }).collect()
}

/// The id of no user.
const STRANGER: u32 = 3_999_999_991;

const SETTLE: Duration = Duration::from_millis(310);
const RESYNC: Duration = Duration::from_millis(1010);

fn wait(time: Duration) {
    std::thread::sleep(time);
}

#[tokio::test]
async fn the_folders_are_made_for_templates_and_left_alone_after_them() {
    let mut bench = Bench::new();
    assert_eq!(bench.templates(&[]), [News::Listed]);
    assert!(!bench.path("").exists());
    assert_eq!(bench.templates(&["fixer"]), []);
    let root = bench.path("");
    let mode = |name: &str| fs::metadata(root.join(name)).unwrap().mode() & 0o7777;
    let right = if Uid::effective().is_root() { (0o750, 0o2770) } else { (0o700, 0o700) };
    assert_eq!((mode(""), mode("fixer")), right);
    fs::set_permissions(bench.path("fixer"), fs::Permissions::from_mode(0o777)).unwrap();
    bench.round();
    assert_eq!(mode("fixer"), right.1);
    assert_eq!(bench.templates(&[]), []);
    assert!(bench.path("fixer").is_dir());
}

#[tokio::test]
async fn a_task_that_is_moved_there_is_told_at_once_with_what_is_beside_it() {
    let mut bench = Bench::new();
    bench.templates(&["Fixer"]);
    let folder = bench.path("Fixer");
    fs::write(folder.join("T1.toml"), "workdir = '/srv'\nlabels = ['urgent']").unwrap();
    drop_in(&folder, "T1", "do it");
    let news = bench.act(Vec::new());
    let [News::Task { task, file, sidecar }] = &news[..] else { panic!("{news:?}") };
    assert_eq!((task.agent.as_str(), task.id.as_str(), task.text.as_slice()), ("Fixer", "T1", &b"do it"[..]));
    assert!(sidecar.workdir.as_deref() == Some(Path::new("/srv")) && sidecar.labels.contains_key("urgent"));
    assert_eq!(bench.round(), [], "it is told once");
    bench.act(vec![Command::Took { key: run("t1") }, Command::Remove { key: run("t1"), file: *file }]);
    assert!(!folder.join("T1").exists() && !folder.join("T1.toml").exists());
    assert_eq!(bench.act(Vec::new()), [], "its removal by the daemon is no news");
}

#[tokio::test]
async fn a_task_that_nothing_announces_is_told_once_it_is_settled() {
    let mut bench = Bench::unwatched();
    bench.templates(&["fixer"]);
    fs::write(bench.path("fixer/t1"), "do").unwrap();
    assert_eq!(bench.round(), []);
    fs::write(bench.path("fixer/t1"), "do it").unwrap();
    wait(SETTLE);
    assert_eq!(bench.act(Vec::new()), [], "it was written in between");
    wait(SETTLE);
    assert_eq!(ids(&bench.act(Vec::new())), ["t1"]);
}

#[tokio::test]
async fn tasks_are_told_in_the_order_in_which_they_were_written_and_few_at_a_time() {
    let mut bench = Bench::new();
    bench.templates(&["fixer"]);
    let names: Vec<String> = (0..40).rev().map(|number| format!("t{number}")).collect();
    for name in &names {
        drop_in(&bench.path("fixer"), name, "do it");
        wait(Duration::from_millis(5));
    }
    let mut told: Vec<String> = Vec::new();
    let mut commands = Vec::new();
    while told.len() < names.len() {
        let news = bench.act(std::mem::take(&mut commands));
        let ids = ids(&news);
        assert!(!ids.is_empty() && ids.len() <= 16, "{news:?}");
        commands.extend(ids.iter().map(|id| Command::Took { key: run(id) }));
        told.extend(ids.into_iter().map(str::to_owned));
    }
    assert_eq!(told, names);
}

#[tokio::test]
async fn a_task_that_could_not_be_put_on_record_is_told_again_later() {
    let mut bench = Bench::new();
    bench.templates(&["fixer"]);
    drop_in(&bench.path("fixer"), "t1", "do it");
    assert_eq!(ids(&bench.act(Vec::new())), ["t1"]);
    assert_eq!(bench.act(vec![Command::Later { key: run("t1") }]), []);
    wait(RESYNC);
    assert_eq!(ids(&bench.act(Vec::new())), ["t1"]);
}

#[tokio::test]
async fn what_can_be_no_task_is_moved_away_with_a_note() {
    let mut bench = Bench::new();
    bench.templates(&["fixer"]);
    let folder = bench.path("fixer");
    let at = |name: &str| folder.join(name);
    fs::write(bench.root.path().join("goal"), "do it").unwrap();
    symlink(bench.root.path().join("goal"), at("a-link")).unwrap();
    fs::hard_link(bench.root.path().join("goal"), at("b-hard")).unwrap();
    mkfifo(&at("c-fifo"), Mode::S_IRWXU).unwrap();
    fs::create_dir(at("d-folder")).unwrap();
    fs::File::create(at("e-large")).unwrap().set_len(1 << 30).unwrap();
    fs::write(at("f-empty"), " \n").unwrap();
    fs::write(at("g-bytes"), b"a\xff").unwrap();
    fs::write(at("h-nul"), "a\0").unwrap();
    fs::write(at("i-beside"), "do it").unwrap();
    fs::write(at("i-beside.toml"), "command = 'sh'").unwrap();
    fs::write(at("j k"), "do it").unwrap();
    fs::write(at("l.ignored"), "do it").unwrap();
    let mut news = bench.act(Vec::new());
    wait(SETTLE);
    news.extend(bench.act(Vec::new()));
    for (name, expected) in [
        ("a-link", "it is a link"),
        ("b-hard", "hard links"),
        ("c-fifo", "not a regular file"),
        ("d-folder", "not a regular file"),
        ("e-large", "larger than 1048576 bytes"),
        ("f-empty", "it is empty; write what is to be done"),
        ("g-bytes", "not text in UTF-8"),
        ("h-nul", "a NUL byte"),
        ("i-beside", "i-beside.toml: 1:1: the key \"command\" may not be here"),
        ("j k", "its name cannot be an id: the id of a run has 1 to 40 characters"),
    ] {
        let of = |it: &News| match it {
            News::Refused { id, why, .. } if id == name => Some(why.clone()),
            _ => None,
        };
        let whys: Vec<String> = news.iter().filter_map(of).collect();
        assert!(whys.len() == 1 && whys[0].contains(expected), "{name}: {whys:?}");
        assert!(fs::symlink_metadata(at(name)).is_err(), "{name} is still there");
        let moved = name.replace(' ', "_");
        assert!(fs::symlink_metadata(at(&format!(".refused/{moved}"))).is_ok(), "{moved} is gone");
        let note = fs::read_to_string(at(&format!(".refused/{moved}.why"))).unwrap();
        assert_eq!(note.trim_end(), whys[0]);
    }
    assert!(at("l.ignored").exists() && at(".refused/i-beside.toml").exists());
    assert_eq!(news.len(), 10, "{news:?}");
    let mode = fs::metadata(at(".refused")).unwrap().mode() & 0o7777;
    assert_eq!(mode, if Uid::effective().is_root() { 0o750 } else { 0o700 });
}

#[tokio::test]
async fn a_task_that_is_refused_overwrites_no_other() {
    let mut bench = Bench::new();
    bench.templates(&["fixer"]);
    for number in 0..3 {
        drop_in(&bench.path("fixer"), "t1", &format!("task {number}"));
        assert_eq!(ids(&bench.act(Vec::new())), ["t1"]);
        let refuse = Command::Refuse { key: run("t1"), why: format!("reason {number}") };
        assert_eq!(bench.act(vec![refuse]), []);
    }
    let text = |name: &str| fs::read_to_string(bench.path("fixer/.refused").join(name)).unwrap();
    for (number, name) in ["t1", "t1.1", "t1.2"].into_iter().enumerate() {
        assert_eq!(text(name), format!("task {number}"));
        assert_eq!(text(&format!("{name}.why")), format!("reason {number}\n"));
    }
}

#[tokio::test]
async fn the_oldest_of_what_was_refused_goes() {
    let mut bench = Bench::new();
    bench.templates(&["fixer"]);
    let folder = bench.path("fixer");
    for number in 0..600 {
        fs::write(folder.join(format!("a b{number}")), "x").unwrap();
    }
    let mut refused = bench.act(Vec::new()).len();
    wait(SETTLE);
    refused += bench.act(Vec::new()).len();
    assert_eq!(refused, 600);
    let left = fs::read_dir(folder.join(".refused")).unwrap().count();
    assert!((800..=1000).contains(&left), "{left}");
}

#[tokio::test]
async fn ids_that_differ_only_in_case_are_one() {
    let mut bench = Bench::new();
    bench.templates(&["fixer"]);
    bench.taken("t1");
    drop_in(&bench.path("fixer"), "T1", "do it");
    wait(SETTLE);
    bench.act(Vec::new());
    wait(SETTLE);
    let news = bench.act(Vec::new());
    let refused = bench.path("fixer/.refused/T1").exists();
    assert!(refused && bench.path("fixer/t1").exists(), "{news:?}");
    assert_eq!(bench.round(), []);
}

#[tokio::test]
async fn a_file_that_is_removed_is_gone_at_once() {
    for is_watched in [true, false] {
        let mut bench = Bench::new();
        bench.templates(&["fixer"]);
        bench.taken("t1");
        bench.taken("t2");
        if !is_watched {
            bench.queue = None;
        }
        fs::remove_file(bench.path("fixer/t1")).unwrap();
        let news = if is_watched { bench.act(Vec::new()) } else { bench.round() };
        assert_eq!(news, [News::Gone { key: run("t1") }]);
    }
}

#[tokio::test]
async fn several_files_whose_removal_is_announced_are_gone_after_a_moment() {
    let mut bench = Bench::new();
    bench.templates(&["fixer"]);
    for id in ["t1", "t2", "t3"] {
        bench.taken(id);
    }
    for id in ["t1", "t3"] {
        fs::remove_file(bench.path("fixer").join(id)).unwrap();
    }
    let news = bench.act(Vec::new());
    assert_eq!(news[..2], [News::Missed { key: run("t1") }, News::Missed { key: run("t3") }]);
    wait(Duration::from_millis(110));
    let news = bench.act(Vec::new());
    assert_eq!(news[..2], [News::Gone { key: run("t1") }, News::Gone { key: run("t3") }]);
}

#[tokio::test]
async fn several_files_that_are_gone_unannounced_wait_for_a_second_look() {
    let mut bench = Bench::new();
    bench.templates(&["fixer"]);
    bench.taken("t1");
    bench.taken("t2");
    bench.queue = None;
    for id in ["t1", "t2"] {
        fs::remove_file(bench.path("fixer").join(id)).unwrap();
    }
    let news = bench.round();
    assert!(matches!(&news[..], [News::Missed { .. }, News::Missed { .. }, News::Error(Some(_))]), "{news:?}");
    assert_eq!(bench.round(), []);
    wait(RESYNC);
    let news = bench.round();
    assert!(matches!(&news[..], [News::Gone { .. }, News::Gone { .. }, News::Error(None)]), "{news:?}");
}

#[tokio::test]
async fn a_folder_that_is_gone_or_replaced_takes_nothing_back_until_a_second_look() {
    let mut bench = Bench::new();
    bench.templates(&["fixer"]);
    bench.taken("t1");
    fs::rename(bench.path("fixer"), bench.root.path().join("away")).unwrap();
    let news = bench.act(Vec::new());
    let [News::Error(Some(error))] = &news[..] else { panic!("{news:?}") };
    assert!(error.contains("fixer does not exist; its runs go on"), "{error}");
    wait(RESYNC);
    assert_eq!(bench.round(), [], "it is not made again, and nothing is taken back");
    assert!(!bench.path("fixer").exists());
    // It is there again, with its file.
    fs::rename(bench.root.path().join("away"), bench.path("fixer")).unwrap();
    assert_eq!(bench.round(), [News::Error(None)]);
    // Another one is in its place.
    fs::rename(bench.path("fixer"), bench.root.path().join("away")).unwrap();
    fs::create_dir(bench.path("fixer")).unwrap();
    let news = bench.round();
    assert!(matches!(&news[..], [News::Missed { .. }, News::Error(Some(_))]), "{news:?}");
    wait(RESYNC);
    assert_eq!(bench.round(), [News::Gone { key: run("t1") }, News::Error(None)]);
}

#[tokio::test]
async fn a_file_that_an_earlier_daemon_took_is_expected() {
    let mut bench = Bench::new();
    bench.templates(&["fixer"]);
    let known: Vec<Command> = ["T1", "t2", "t3"]
        .into_iter()
        .map(|id| {
            let file = bench.taken(id);
            let written = fs::metadata(bench.path("fixer").join(id)).unwrap().modified().unwrap();
            Command::Known { key: run(id), file, written }
        })
        .collect();
    let start = |root: &TempDir| {
        let mut commands = known.clone();
        commands.push(Command::Templates(vec!["fixer".parse().unwrap()]));
        let mut book = Book::new(place(root, &[]));
        book.work.commands = commands;
        let news = book.round(None).news;
        (book, news)
    };
    assert_eq!(start(&bench.root).1, [News::Listed]);
    // The others prove that it is the same folder.
    fs::remove_file(bench.path("fixer/t2")).unwrap();
    assert_eq!(start(&bench.root).1, [News::Gone { key: run("t2") }, News::Listed]);
    fs::remove_dir_all(bench.path("")).unwrap();
    let (_, news) = start(&bench.root);
    assert!(matches!(&news[..], [News::Error(Some(_)), News::Listed]), "{news:?}");
    assert!(!bench.path("").exists());
}

#[tokio::test]
async fn an_edit_is_told_once_and_only_the_file_that_was_taken_is_removed() {
    let mut bench = Bench::new();
    bench.templates(&["fixer"]);
    let file = bench.taken("t1");
    wait(Duration::from_millis(5));
    drop_in(&bench.path("fixer"), "t1", "do something else");
    assert_eq!(bench.act(Vec::new()), [News::Edited { key: run("t1") }]);
    drop_in(&bench.path("fixer"), "t1", "and something else");
    assert_eq!(bench.act(Vec::new()), []);
    // Its inode may have been used again.
    if fs::metadata(bench.path("fixer/t1")).is_ok_and(|it| FileId::new(it.dev(), it.ino()) != file) {
        bench.act(vec![Command::Remove { key: run("t1"), file }]);
        assert!(bench.path("fixer/t1").exists());
        wait(SETTLE);
        assert_eq!(ids(&bench.act(Vec::new())), ["t1"], "it is a new task, which is for others to refuse");
    }
}

#[tokio::test]
async fn tasks_for_no_template_are_named_and_left_alone_until_there_is_one() {
    let mut bench = Bench::new();
    bench.templates(&["fixer"]);
    fs::create_dir(bench.path("other")).unwrap();
    assert_eq!(bench.round(), []);
    fs::write(bench.path("other/t1"), "do it").unwrap();
    let news = bench.round();
    let [News::Error(Some(error))] = &news[..] else { panic!("{news:?}") };
    assert!(error.contains("other: no agent of this name has [agents.runs]"), "{error}");
    wait(SETTLE);
    let news = bench.templates(&["fixer", "Other"]);
    assert!(ids(&news) == ["t1"] && news.contains(&News::Error(None)), "{news:?}");
}

#[tokio::test]
async fn files_of_others_are_refused_and_those_of_the_owner_of_the_folder_are_not() {
    if !Uid::effective().is_root() {
        return;
    }
    let mut bench = Bench::new();
    bench.templates(&["fixer"]);
    let own = |path: &Path| chown(path, Some(Uid::from_raw(STRANGER)), None).unwrap();
    drop_in(&bench.path("fixer"), "t1", "do it");
    own(&bench.path("fixer/t1"));
    let news = bench.act(Vec::new());
    assert!(matches!(&news[..], [News::Refused { why, .. }] if why.contains("it belongs to 3999999991")), "{news:?}");
    // A host shares the folder.
    own(&bench.path("fixer"));
    fs::set_permissions(bench.path("fixer"), fs::Permissions::from_mode(0o755)).unwrap();
    drop_in(&bench.path("fixer"), "t2", "do it");
    own(&bench.path("fixer/t2"));
    let news = bench.act(Vec::new());
    let [News::Task { task, .. }] = &news[..] else { panic!("{news:?}") };
    assert_eq!(task.by, "3999999991");
    assert_eq!(fs::metadata(bench.path("fixer")).unwrap().mode() & 0o7777, 0o755, "it stays as it is");
    // Everybody may write to it.
    fs::set_permissions(bench.path("fixer"), fs::Permissions::from_mode(0o777)).unwrap();
    let news = bench.round();
    assert!(matches!(&news[..], [News::Error(Some(error))] if error.contains("everybody may write")), "{news:?}");
    // It belongs to an agent user.
    fs::set_permissions(bench.path("fixer"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut book = Book::new(place(&bench.root, &[STRANGER]));
    book.work.commands.push(Command::Templates(vec!["fixer".parse().unwrap()]));
    let news = book.round(None).news;
    assert!(matches!(&news[..], [News::Error(Some(error)), News::Listed] if error.contains("agent user")), "{news:?}");
}

#[tokio::test]
async fn a_spool_that_cannot_be_used_is_told() {
    let mut bench = Bench::new();
    fs::write(bench.root.path().join("spool"), "").unwrap();
    let news = bench.templates(&["fixer"]);
    assert!(matches!(&news[..], [News::Error(Some(_)), News::Listed]), "{news:?}");
    fs::remove_file(bench.root.path().join("spool")).unwrap();
    assert_eq!(bench.round(), [News::Error(None)]);
    assert!(bench.path("fixer").is_dir());
}

#[tokio::test]
async fn the_spool_is_followed_without_rounds() {
    let root = TempDir::new().unwrap();
    let (_round, rounds) = watch::channel(());
    let (commands, receiver) = mpsc::unbounded_channel();
    let (tell, mut news) = mpsc::unbounded_channel();
    let place = place(&root, &[]);
    let folder = place.directory.join("fixer");
    tokio::spawn(place.follow(rounds, receiver, move |it| drop(tell.send(it))));
    let mut next = async || tokio::time::timeout(Duration::from_secs(10), news.recv()).await.unwrap().unwrap();
    commands.send(Command::Templates(vec!["fixer".parse().unwrap()])).unwrap();
    assert_eq!(next().await, News::Listed);
    drop_in(&folder, "t1", "do it");
    assert!(matches!(next().await, News::Task { task, .. } if task.id.as_str() == "t1"));
    commands.send(Command::Took { key: run("t1") }).unwrap();
    // A name that only the end of its time makes a refused one.
    fs::write(folder.join("a b"), "x").unwrap();
    assert!(matches!(next().await, News::Refused { .. }));
    fs::remove_file(folder.join("t1")).unwrap();
    assert_eq!(next().await, News::Gone { key: run("t1") });
}

#[tokio::test]
async fn two_thousand_tasks_at_once_are_told_soon() {
    const COUNT: usize = 2000;
    let mut bench = Bench::new();
    bench.templates(&["fixer"]);
    for number in 0..COUNT {
        drop_in(&bench.path("fixer"), &format!("t{number}"), "do it");
    }
    let started = Instant::now();
    let (mut told, mut commands) = (0, Vec::new());
    while told < COUNT {
        let news = bench.act(std::mem::take(&mut commands));
        let ids = ids(&news);
        assert!(!ids.is_empty());
        told += ids.len();
        commands.extend(ids.iter().map(|id| Command::Took { key: run(id) }));
    }
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}
