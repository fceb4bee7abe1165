//! Chaos among runs: a stream of tasks of mixed behavior, a daemon that is killed again and again, and now and then a launcher.
//!
//! Each run appends a line to a file. The test compares these lines with the results: every task has one, none ran twice, none is lost.
//! `AGENTD_RUN_CHAOS_KILLS` sets how often the daemon is killed (50), and `AGENTD_CHAOS_SEED` repeats a run as far as timing allows:
//!
//! ```text
//! AGENTD_RUN_CHAOS_KILLS=1000 ./tests/run --test e2e -- run_chaos --nocapture
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use agentd::wire::history::{Ended, History};
use agentd::wire::run::RunStatus;
use agentd::wire::status::Outcome;
use nix::sys::signal::Signal;

use crate::chaos::number;
use crate::chaos::stage::Random;
use crate::support::{BOUND, Daemon, Process, Setup};

/// What tasks do, and how they end if nobody kills their launcher.
const FATES: [(&str, Outcome); 5] = [
    ("ends", Outcome::Completed),
    ("fails", Outcome::Failed),
    ("dies", Outcome::Failed),
    ("rests", Outcome::Completed),
    ("prints", Outcome::Completed),
];

/// Says that it ran, in one write, and does what its task says: `ID FATE`.
const SCRIPT: &str = "set -- $1; echo $1 >>ran; case $2 in ends) exit 0;; fails) exit 3;; dies) kill -KILL $$;; \
                      rests) sleep 0.7;; prints) seq 20000; seq 20000 >&2;; esac";

/// How many tasks are in the spool at most.
const MOST_AT_ONCE: usize = 30;

struct Stream {
    tasks: Vec<Outcome>,
    random: Random,
}

impl Stream {
    fn id(number: usize) -> String {
        format!("t{number}")
    }

    /// Drops a few tasks, also while there is no daemon.
    fn drop_some(&mut self, spool: &Path) {
        for _ in 0..self.random.below(4) {
            let is_task = |entry: &fs::DirEntry| !entry.file_name().to_string_lossy().contains('.');
            let waiting = fs::read_dir(spool).unwrap().filter(|entry| entry.as_ref().is_ok_and(is_task)).count();
            if waiting >= MOST_AT_ONCE {
                return;
            }
            let (fate, outcome) = FATES[usize::try_from(self.random.below(5)).unwrap()];
            let id = Self::id(self.tasks.len());
            let new = spool.join(format!("{id}.tmp"));
            fs::write(&new, format!("{id} {fate}")).unwrap();
            fs::rename(&new, spool.join(&id)).unwrap();
            self.tasks.push(outcome);
        }
    }
}

/// Kills a launcher, if there is one. Returns whether it did.
fn kill_a_launcher(daemon: &Daemon, random: &mut Random) -> bool {
    let is_launcher = |process: &Process| process.argv().first().is_some_and(|word| word.ends_with("agentd-launcher"));
    let launchers: Vec<Process> = daemon.processes().into_iter().filter(is_launcher).collect();
    let Some(count) = u64::try_from(launchers.len()).ok().filter(|&count| count > 0) else { return false };
    launchers[usize::try_from(random.below(count)).unwrap()].signal(Signal::SIGKILL);
    true
}

fn history(daemon: &Daemon) -> BTreeMap<String, usize> {
    let (mut counts, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let page: History = serde_json::from_str(&daemon.get(&format!("/v1/history?limit=1000{cursor}")).body).unwrap();
        for ended in page.ended {
            let Ended::Run(run) = ended else { panic!("an attempt of a run is in the history") };
            *counts.entry(run.id).or_default() += 1;
        }
        let Some(next) = page.next else { return counts };
        cursor = format!("&cursor={}", next.replace(',', "%2C").replace('/', "%2F"));
    }
}

#[test]
fn every_task_ends_once_when_the_daemon_is_killed_often() {
    let kills = number("AGENTD_RUN_CHAOS_KILLS").unwrap_or(50);
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    let seed = number("AGENTD_CHAOS_SEED").unwrap_or_else(|| clock().into());
    eprintln!("AGENTD_CHAOS_SEED={seed} AGENTD_RUN_CHAOS_KILLS={kills}");
    let entry = format!(
        "[[agents]]\nname = \"mixed\"\nharness = \"custom\"\ncommand = [\"sh\", \"-c\"]\nworkdir = \"@WORK\"\n\
         args = [{SCRIPT:?}, \"sh\"]\n[agents.runs]\nat_once = 4\nwaiting = 1000\nkeep = 10000\n"
    );
    let mut daemon = Setup::new().args(["--settle", "0ms", "--resync", "500ms"]).start(&entry);
    let spool = daemon.path("spool/mixed");
    daemon.wait("the folder of tasks", || spool.is_dir().then_some(()));
    let mut stream = Stream { tasks: Vec::new(), random: Random(seed) };
    let mut killed = 0;
    for _ in 0..kills {
        for _ in 0..=stream.random.below(3) {
            stream.drop_some(&spool);
            stream.random.pause(250);
        }
        if stream.random.percent(15) && kill_a_launcher(&daemon, &mut stream.random) {
            killed += 1;
            stream.random.pause(20);
        }
        daemon.signal(Signal::SIGKILL);
        daemon.ended();
        stream.drop_some(&spool);
        daemon.start_again_unawaited();
    }
    // The last daemon may not answer yet.
    daemon.wait("an answer", || daemon.try_agents().ok());

    let result = |number: usize| -> Option<RunStatus> {
        let file = daemon.path(&format!("log/mixed/runs/{}/result.json", Stream::id(number)));
        Some(serde_json::from_str(&fs::read_to_string(file).ok()?).unwrap())
    };
    let ids = || fs::read_dir(&spool).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut left = usize::MAX;
    let mut since = Instant::now();
    while left > 0 {
        // However long it takes, it goes on.
        let now = ids().filter(|name| !name.starts_with('.')).count();
        if now < left {
            (left, since) = (now, Instant::now());
        }
        assert!(
            since.elapsed() < BOUND,
            "no task has ended for {BOUND:?}; {left} are left: {:?}",
            ids().collect::<Vec<_>>()
        );
        std::thread::sleep(Duration::from_millis(20));
    }

    let mut ran: BTreeMap<String, usize> = BTreeMap::new();
    for line in daemon.lines("ran") {
        *ran.entry(line).or_default() += 1;
    }
    let told = history(&daemon);
    let (mut problems, mut otherwise, mut untold) = (Vec::new(), 0, 0);
    for (number, expected) in stream.tasks.iter().enumerate() {
        let id = Stream::id(number);
        let (times, told) = (ran.get(&id).copied().unwrap_or(0), told.get(&id).copied().unwrap_or(0));
        let Some(result) = result(number) else {
            problems.push(format!("{id} has no result; it ran {times} times"));
            continue;
        };
        let is_as_expected = result.outcome == Some(*expected) && times == 1;
        otherwise += usize::from(!is_as_expected);
        untold += u64::from(told == 0);
        if times > 1 || told > 1 || (times == 0 && result.outcome == Some(Outcome::Completed)) {
            problems.push(format!("{id} ran {times} times, is {told} times in the history: {result:?}"));
        } else if !is_as_expected && killed == 0 {
            problems.push(format!("{id} ended otherwise: {result:?}"));
        }
    }
    let refused = fs::read_dir(spool.join(".refused")).map_or(0, Iterator::count);
    eprintln!(
        "{} tasks, {killed} launchers killed, {otherwise} ended otherwise, {untold} are not in the history",
        stream.tasks.len()
    );
    // The history is written after the record, and decides nothing: a kill in between may cost a few of its lines.
    if untold > 4 * kills || (kills == 0 && untold > 0) {
        problems.push(format!("{untold} runs are not in the history"));
    }
    if refused > 0 {
        problems.push(format!("{refused} files were refused"));
    }
    if otherwise > killed {
        problems.push(format!(
            "{otherwise} runs ended otherwise than their harness does, but only {killed} launchers were killed"
        ));
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}
