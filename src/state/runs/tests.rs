use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;

fn run(id: &str) -> Recorded {
    Recorded {
        agent: "Fixer".parse().unwrap(),
        id: id.parse().unwrap(),
        by: "op".to_owned(),
        queued_at: SystemTime::now(),
        written: SystemTime::UNIX_EPOCH + Duration::new(5, 7),
        file: Some(FileId::new(1, 2)),
        plan: None,
        labels: BTreeMap::new(),
        workdir: None,
        continues: None,
        phase: Phase::Waiting,
    }
}

fn key(id: &str) -> Key {
    run(id).key()
}

struct Bench {
    directory: TempDir,
    keeper: Keeper,
    ledgers: Ledgers,
    reports: mpsc::UnboundedReceiver<Kept>,
}

impl Bench {
    fn at(directory: TempDir) -> Self {
        let (tell, reports) = mpsc::unbounded_channel();
        let ledgers = read_all(directory.path()).ledgers;
        let keeper = Keeper::start(directory.path(), ledgers.clone(), move |kept| drop(tell.send(kept)));
        Self { directory, keeper, ledgers, reports }
    }

    fn new() -> Self {
        Self::at(TempDir::new().unwrap())
    }

    async fn next(&mut self) -> Kept {
        tokio::time::timeout(Duration::from_secs(30), self.reports.recv()).await.unwrap().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("runs/fixer").join(name)
    }
}

#[tokio::test]
async fn a_run_is_on_record_until_it_is_removed_and_its_id_stays_used() {
    let mut bench = Bench::new();
    bench.keeper.put(run("T1"), "do it".into());
    assert!(matches!(bench.next().await, Kept::Recorded { key: of } if of == key("t1")));
    let read = read_all(bench.directory.path());
    assert_eq!(read.runs.len(), 1);
    assert_eq!((read.runs[0].id.as_str(), &read.runs[0].phase), ("T1", &Phase::Waiting));
    assert_eq!(read.runs[0].written, run("T1").written);
    bench.keeper.begin(key("t1"), "boot".to_owned());
    bench.keeper.set_over(key("t1"), Outcome::Failed);
    let Kept::Begun { task, .. } = bench.next().await else { panic!() };
    assert_eq!(task.as_slice(), b"do it");
    assert!(matches!(bench.next().await, Kept::Over { .. }));
    let read = read_all(bench.directory.path());
    assert!(matches!(read.runs[0].phase, Phase::Over { outcome: Outcome::Failed, .. }), "{:?}", read.runs);
    assert_eq!(bench.ledgers.is_used(&key("t1")), Some(false));
    bench.keeper.end(key("t1"));
    assert!(matches!(bench.next().await, Kept::Ended { .. }));
    assert_eq!(bench.ledgers.is_used(&key("T1")), Some(true));
    bench.keeper.remove(key("t1"));
    assert!(matches!(bench.next().await, Kept::Removed { .. }));
    let read = read_all(bench.directory.path());
    assert!(read.runs.is_empty() && read.problems.is_empty(), "{read:?}");
    assert_eq!(read.ledgers.is_used(&key("t1")), Some(true));
    assert_eq!(read.ledgers.is_used(&key("t2")), Some(false));
}

#[tokio::test]
async fn only_root_reads_tasks() {
    let mut bench = Bench::new();
    bench.keeper.put(run("t1"), "secret".into());
    bench.keeper.end(key("t1"));
    bench.next().await;
    bench.next().await;
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(bench.path("t1.json")), mode(bench.path("done"))), (0o600, 0o600));
    assert_eq!((mode(bench.path("")), mode(bench.directory.path().join("runs"))), (0o700, 0o700));
    assert!(!bench.path("t1.new").exists());
}

#[tokio::test]
async fn a_damaged_record_is_put_aside_and_its_id_counts_as_used() {
    let mut bench = Bench::new();
    for id in ["t1", "t2", "t3"] {
        bench.keeper.put(run(id), "do it".into());
        bench.next().await;
    }
    fs::write(bench.path("t1.json"), "{").unwrap();
    // One byte of its task is missing.
    let text = fs::read(bench.path("t2.json")).unwrap();
    fs::write(bench.path("t2.json"), &text[..text.len() - 1]).unwrap();
    fs::rename(bench.path("t3.json"), bench.path("t4.json")).unwrap();
    let read = read_all(bench.directory.path());
    assert!(read.runs.is_empty() && read.problems.len() == 3, "{read:?}");
    // The next daemon refuses them as well.
    for ledgers in [read.ledgers, read_all(bench.directory.path()).ledgers] {
        for (id, is_used) in [("t1", true), ("t2", true), ("t4", true), ("t5", false)] {
            assert_eq!(ledgers.is_used(&key(id)), Some(is_used), "{id}");
        }
    }
    assert!(bench.path("t1.unusable").exists());
}

#[tokio::test]
async fn a_ledger_that_cannot_be_read_is_not_empty() {
    let mut bench = Bench::new();
    bench.keeper.end(key("t1"));
    bench.next().await;
    let text = fs::read_to_string(bench.path("done")).unwrap();
    fs::write(bench.path("done"), format!("{text}?\n")).unwrap();
    let read = read_all(bench.directory.path());
    assert!(matches!(read.problems[..], [Error::Ledger { line: 2, .. }]), "{:?}", read.problems);
    assert_eq!(read.ledgers.is_used(&key("t2")), None);
    let other: Key = "other+t2".parse().unwrap();
    assert_eq!(read.ledgers.is_used(&other), Some(false));
    // Nothing is added to it.
    let mut bench = Bench::at(bench.directory);
    bench.keeper.end(key("t3"));
    assert!(matches!(bench.next().await, Kept::Failed { what: What::End, .. }));
    fs::write(bench.path("done"), text).unwrap();
    bench.keeper.end(key("t3"));
    assert!(matches!(bench.next().await, Kept::Ended { .. }));
    assert_eq!(bench.ledgers.is_used(&key("t1")), Some(true));
    assert_eq!(bench.ledgers.is_used(&key("t2")), Some(false));
}

#[tokio::test]
async fn what_cannot_be_written_is_reported_and_leaves_nothing() {
    let mut bench = Bench::new();
    fs::create_dir_all(bench.path("t1.new")).unwrap();
    bench.keeper.put(run("t1"), "do it".into());
    bench.keeper.put(run("t2"), "do it".into());
    bench.keeper.begin(key("t3"), "boot".to_owned());
    let report = bench.next().await;
    assert!(matches!(&report, Kept::Failed { what: What::Put, key: of, .. } if *of == key("t1")), "{report:?}");
    assert!(matches!(bench.next().await, Kept::Recorded { .. }));
    assert!(matches!(bench.next().await, Kept::Failed { what: What::Begin, .. }));
    let ids: Vec<_> = read_all(bench.directory.path()).runs.into_iter().map(|run| run.id.to_string()).collect();
    assert_eq!(ids, ["t2"]);
}

#[tokio::test]
async fn what_an_interrupted_write_has_left_is_removed() {
    let mut bench = Bench::new();
    bench.keeper.put(run("t1"), "do it".into());
    bench.next().await;
    fs::write(bench.path("t2.new"), "half").unwrap();
    assert_eq!(read_all(bench.directory.path()).runs.len(), 1);
    assert!(!bench.path("t2.new").exists());
}

#[test]
fn folders_that_cannot_be_listed_make_everything_unknown() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("runs"), "").unwrap();
    let read = read_all(directory.path());
    assert_eq!((read.problems.len(), read.ledgers.is_used(&key("t1"))), (1, None));
}

#[tokio::test]
async fn many_tasks_at_once_are_on_record_soon() {
    const COUNT: usize = 500;
    let mut bench = Bench::new();
    let started = Instant::now();
    for number in 0..COUNT {
        bench.keeper.put(run(&format!("t{number}")), "do it".into());
    }
    for number in 0..COUNT {
        let report = bench.next().await;
        assert!(matches!(&report, Kept::Recorded { key: of } if *of == key(&format!("t{number}"))), "{report:?}");
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn old_ids_are_forgotten_only_beyond_the_number_that_is_kept() {
    let directory = TempDir::new().unwrap();
    let folder = directory.path();
    let now = SystemTime::now();
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let month = 31 * 24 * 3600;
    let agent: Key = "fixer".parse().unwrap();
    let id = |number: usize| format!("fixer+t{number}").parse::<Key>().unwrap();
    let write = |times: &dyn Fn(usize) -> u64| {
        let text: String = (0..120_000).map(|number| ledger::line(&format!("t{number}"), times(number))).collect();
        fs::write(folder.join("done"), text).unwrap();
        let ledgers = Ledgers::default();
        ledgers.read(&agent, folder).unwrap();
        ledgers.shorten(&agent, folder, now).unwrap();
        ledgers
    };
    // All are young.
    let ledgers = write(&|_| seconds);
    assert_eq!(ledgers.is_used(&id(0)), Some(true));
    // The first ones are old.
    let ledgers = write(&|number| if number < 15_000 { seconds - month } else { seconds });
    let used = [0, 14_999, 15_000, 119_999].map(|number| ledgers.is_used(&id(number)).unwrap());
    assert_eq!(used, [true, true, true, true], "it is not worth while before a tenth is added");
    ledgers
        .add(&agent, &(120_000..140_000).map(|number| format!("t{number}")).collect::<Vec<_>>(), folder, now)
        .unwrap();
    ledgers.shorten(&agent, folder, now).unwrap();
    let used = [0, 14_999, 15_000, 139_999].map(|number| ledgers.is_used(&id(number)).unwrap());
    assert_eq!(used, [false, false, true, true]);
    // The next daemon finds the same, and goes on after it.
    ledgers.add(&agent, &["last".to_owned()], folder, now).unwrap();
    let again = Ledgers::default();
    again.read(&agent, folder).unwrap();
    let last = "fixer+last".parse().unwrap();
    let used = [id(14_999), id(15_000), last].map(|key| again.is_used(&key).unwrap());
    assert_eq!(used, [false, true, true]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A kill interrupts a write anywhere: a part of what was not reported is left behind.
    #[test]
    fn an_id_that_was_reported_is_found_after_any_kill(
        steps in prop::collection::vec((prop::collection::vec(0_usize..1000, 1..4), 0_usize..60), 1..12)
    ) {
        let directory = TempDir::new().unwrap();
        let agent: Key = "fixer".parse().unwrap();
        let mut reported = std::collections::BTreeSet::new();
        for (ids, cut) in steps {
            let ledgers = Ledgers::default();
            ledgers.read(&agent, directory.path()).unwrap();
            for id in 0..1000 {
                prop_assert_eq!(ledgers.is_used(&key(&format!("t{id}"))), Some(reported.contains(&id)));
            }
            let texts: Vec<String> = ids.iter().map(|id| format!("t{id}")).collect();
            ledgers.add(&agent, &texts, directory.path(), SystemTime::now()).unwrap();
            reported.extend(ids);
            // Killed in the middle of the next write.
            let next = "next 1700000000\nother 1700000000\n";
            let mut file = OpenOptions::new().append(true).open(directory.path().join("done")).unwrap();
            let torn = &next[..cut.min(15)];
            file.write_all(torn.as_bytes()).unwrap();
        }
    }
}
