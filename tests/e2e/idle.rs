//! The cost of idling: system calls counted by strace, not time.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::canary;
use crate::support::{Daemon, Process, Setup, agent, root, skip};

/// How many rounds of the resync the test counts. Much of a round goes on beside the next one, such as the look at the answers of
/// operators. So the calls of a round vary by a third under load, while those of the median round do not if the rounds are many.
const ROUNDS: usize = 40;

/// strace, attached to processes.
struct Trace {
    strace: Child,
    file: PathBuf,
}

impl Trace {
    /// `None`, with a message, where strace may not attach. In CI that is a failure.
    fn attach(daemon: &Daemon, processes: &[Process]) -> Option<Self> {
        let file = daemon.path("trace");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-s", "0", "-e", "signal=none", "-o"]).arg(&file);
        for process in processes {
            command.args(["-p", &process.0.to_string()]);
        }
        let null = Stdio::null;
        let mut strace = command.stdin(null()).stdout(null()).stderr(null()).spawn().expect("strace is installed");
        let attached = daemon.wait("strace to attach", || {
            if strace.try_wait().unwrap().is_some() {
                return Some(false);
            }
            processes.iter().all(|process| process.is_traced()).then_some(true)
        });
        if !attached {
            skip("strace may not attach");
        }
        attached.then_some(Self { strace, file })
    }

    /// All calls in each round, whole rounds only. The daemon looks at a log a second after its agent printed or started, which
    /// may fall into these rounds on a slow machine. So the rounds counted are those after the last such look.
    fn rounds(self, daemon: &Daemon) -> Vec<Vec<Call>> {
        // The round under way at the start is not counted.
        let rounds = daemon.wait("rounds", || {
            let trace = fs::read_to_string(&self.file).unwrap();
            let calls: Vec<Call> = trace.lines().filter_map(Call::parse).collect();
            let starts: Vec<usize> = (0..calls.len()).filter(|&at| calls[at].opens("jcard.toml")).collect();
            let rounds: Vec<Vec<Call>> =
                starts.windows(2).skip(1).map(|pair| calls[pair[0]..pair[1]].to_vec()).collect();
            let is_quiet = |round: &&Vec<Call>| !round.iter().any(Call::looks_at_a_log);
            let quiet = rounds.iter().rev().take_while(is_quiet).count();
            let rounds = rounds[rounds.len() - quiet..].to_vec();
            (rounds.len() >= ROUNDS).then_some(rounds)
        });
        drop(self);
        rounds
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // strace detaches from its processes.
        Process(i32::try_from(self.strace.id()).unwrap()).signal(Signal::SIGINT);
        let _ = self.strace.wait();
    }
}

/// A system call.
#[derive(Clone, Debug)]
struct Call {
    thread: i32,
    name: String,
    arguments: String,
}

impl Call {
    /// Parses a line `PID NAME(ARGUMENTS…`. Other lines of strace have no name before the first parenthesis.
    fn parse(line: &str) -> Option<Self> {
        let (thread, call) = line.split_once(' ')?;
        let (name, arguments) = call.trim_start().split_once('(')?;
        let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let thread = thread.parse().ok()?;
        is_name.then(|| Self { thread, name: name.to_owned(), arguments: arguments.to_owned() })
    }

    fn opens(&self, file: &str) -> bool {
        self.name.starts_with("open") && self.arguments.contains(&format!("{file}\""))
    }

    /// Whether the guard of the logs asks to hear about the next change.
    fn looks_at_a_log(&self) -> bool {
        self.name == "inotify_add_watch" && self.arguments.contains("/proc/self/fd/")
    }

    fn makes_a_process(&self) -> bool {
        let clones = ["fork", "vfork", "clone", "clone3"].contains(&self.name.as_str());
        self.name == "execve" || clones && !self.arguments.contains("CLONE_THREAD")
    }
}

/// The cost of a median round with so many agents, by system call.
fn cost_of_a_round(agents: usize) -> Option<BTreeMap<String, usize>> {
    let jcard: String = (0..agents).map(|number| agent(&format!("agent-{number}"), "sleep inf", "")).collect();
    let daemon = Setup::new().quiet().args(["--resync", "50ms"]).start(&jcard);
    let harnesses: Vec<Process> =
        (0..agents).map(|number| Process(daemon.wait_until_running(&format!("agent-{number}")))).collect();
    // Above each harness is its launcher, and above them all the server.
    let launchers: Vec<Process> = harnesses.iter().map(|harness| harness.parent()).collect();
    let server = launchers[0].parent();
    let bystanders: Vec<i32> = launchers.iter().chain([&server]).map(|process| process.0).collect();
    let all: Vec<Process> = launchers.into_iter().chain([server, daemon.deputy(), Process(daemon.pid())]).collect();
    let rounds = Trace::attach(&daemon, &all)?.rounds(&daemon);

    let calls = || rounds.iter().flatten();
    assert_eq!(calls().filter(|call| call.makes_a_process()).count(), 0, "nothing runs");
    let of_bystanders: Vec<&Call> = calls().filter(|call| bystanders.contains(&call.thread)).collect();
    assert!(of_bystanders.is_empty(), "launchers and tmux sleep: {of_bystanders:?}");
    for file in ["jcard.toml", canary::NAME] {
        assert_eq!(calls().filter(|call| call.opens(file)).count(), rounds.len(), "{file} is read once a round");
    }
    let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, round) in rounds.iter().enumerate() {
        for call in round {
            by_name.entry(call.name.clone()).or_insert_with(|| vec![0; rounds.len()])[at] += 1;
        }
    }
    let median = |mut counts: Vec<usize>| {
        counts.sort_unstable();
        counts[counts.len() / 2]
    };
    Some(by_name.into_iter().map(|(name, counts)| (name, median(counts))).collect())
}

#[test]
fn idling_costs_the_same_for_twenty_agents_as_for_one() {
    if !root() {
        return;
    }
    let Some(one) = cost_of_a_round(1) else { return };
    let Some(twenty) = cost_of_a_round(20) else { return };
    let total = |calls: &BTreeMap<String, usize>| calls.values().sum::<usize>();
    // A message to the deputy arrives in one piece or in two.
    assert!(total(&twenty) <= total(&one) + 4, "one agent: {one:?}\ntwenty: {twenty:?}");
}

/// An agent that has printed something, was given hooks, and whose screen was read.
#[test]
fn knowing_what_an_agent_does_costs_nothing_while_it_idles() {
    if !root() {
        return;
    }
    let rules = "[[harnesses.mine.rules]]\non = \"screen\"\nmatch = 'ready'\nmeans = \"idle\"\n\n";
    let entry = agent("a", "say ready; sleep inf", "").replace("harness = \"custom\"", "harness = \"mine\"");
    let hooked = agent("b", "say ready; sleep inf", "").replace("harness = \"custom\"", "harness = \"claude-code\"");
    let jcard = format!("[harnesses.mine]\nbinary = \"x\"\nhooks = \"none\"\n{rules}{entry}{hooked}");
    let daemon = Setup::new().quiet().args(["--resync", "50ms"]).start(&jcard);
    daemon.wait_until("a", "idle", |agent| agent.activity.is_some());
    // The first call of a hook is awaited for 30 s, once.
    let is_unheard = || daemon.agent("b").unwrap().hooks_unheard;
    let limit = Instant::now() + Duration::from_mins(1);
    while !is_unheard() {
        assert!(Instant::now() < limit, "{:?}", daemon.agent("b"));
        std::thread::sleep(Duration::from_millis(200));
    }
    let harnesses = ["a", "b"].map(|name| Process(daemon.wait_until_running(name)));
    let launchers = harnesses.map(Process::parent);
    let server = launchers[0].parent();
    let all: Vec<Process> = launchers.into_iter().chain([server, daemon.deputy(), Process(daemon.pid())]).collect();
    let Some(trace) = Trace::attach(&daemon, &all) else { return };
    let rounds = trace.rounds(&daemon);
    let bystanders: Vec<i32> = launchers.iter().chain([&server]).map(|process| process.0).collect();
    let calls: Vec<&Call> = rounds.iter().flatten().filter(|call| bystanders.contains(&call.thread)).collect();
    assert!(calls.is_empty(), "launchers and tmux sleep: {calls:?}");
}
