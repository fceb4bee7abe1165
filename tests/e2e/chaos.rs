//! Chaos: twenty agents of mixed behavior, and a daemon that is killed repeatedly while jcard, secrets and a workdir change and
//! tmux stops responding. Every agent keeps its own accounts. The test compares them with what the API reported.
//!
//! `AGENTD_CHAOS_KILLS` sets how often the daemon is killed (50). `AGENTD_CHAOS_SEED` repeats a run as far as timing allows. `--
//! --nocapture` shows the figures.

mod accounts;
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant, SystemTime};

use agentd::wire::status::{AgentStatus, State};
use nix::sys::signal::Signal;

use self::accounts::{Figures, History, accounts, compare, logged};
use self::stage::{CAST, Fate, Part, Random, Stage};
use super::support::{BOUND, Daemon, Process, Setup, get};

/// The live harnesses that have begun to keep accounts, by agent.
fn harnesses(place: &Setup) -> Vec<(&'static str, i32)> {
    let of = |part: &Part| {
        let family = place.lines(&format!("{}.family", part.name));
        let pid = family.first()?.split(' ').next()?.parse().ok()?;
        is_harness(place, Process(pid), part.name).then_some((part.name, pid))
    };
    CAST.iter().filter_map(of).collect()
}

/// Whether the process is a harness, or a fork of one.
fn is_harness(place: &Setup, process: Process, name: &str) -> bool {
    let (script, account) = (place.path("bin/fake-harness"), place.work(name));
    let words = [script.to_string_lossy(), "account".into(), account.to_string_lossy()];
    process.argv().windows(words.len()).any(|window| window == words)
}

/// Looks for two harnesses of one agent, and for the canary in command lines.
fn look(place: &Setup, canary: &str, seed: u64, over: &AtomicBool) -> Vec<String> {
    let mut random = Random(seed);
    let mut problems = Vec::new();
    let twins = |name| {
        let runs = accounts(&place.lines(name), &mut Vec::new());
        let living = runs.iter().map(|run| run.pid).filter(|&pid| is_harness(place, Process(pid), name));
        living.collect::<BTreeSet<_>>()
    };
    while !over.load(Ordering::Relaxed) {
        let mut found: BTreeMap<&str, usize> = BTreeMap::new();
        for process in Process::all() {
            let line = process.cmdline();
            if line.windows(canary.len()).any(|window| window == canary.as_bytes()) {
                problems.push(format!("the secret is in the command line of {process}"));
            }
            if let Some(part) = CAST.iter().find(|part| is_harness(place, process, part.name)) {
                *found.entry(part.name).or_default() += 1;
            }
        }
        for (name, _) in found.iter().filter(|(_, count)| **count > 1) {
            // Some are forks. The first may have ended before the second began, so a harness counts only if it is still there
            // now.
            let (before, after) = (twins(name), twins(name));
            let twins: Vec<_> = before.intersection(&after).collect();
            if twins.len() > 1 {
                problems.push(format!("{name}: runs more than once, as {twins:?}"));
            }
        }
        random.pause(80);
    }
    problems
}

/// Stops the tmux server for a while, now and then. `stops` counts both stops and continuations.
fn stop_tmux(server: Process, seed: u64, stops: &AtomicU64, over: &AtomicBool) {
    let mut random = Random(seed);
    while !over.load(Ordering::Relaxed) {
        random.pause(6000);
        stops.fetch_add(1, Ordering::Relaxed);
        server.signal(Signal::SIGSTOP);
        sleep(Duration::from_millis(200 + random.below(1800)));
        server.signal(Signal::SIGCONT);
        stops.fetch_add(1, Ordering::Relaxed);
    }
}

/// Queries the API continuously. `life` numbers the daemons.
fn listen(place: &Setup, life: &AtomicU64, over: &AtomicBool) -> History {
    /// How long the API may report an ended process as running.
    const LATE: Duration = Duration::from_secs(3);
    let mut history = History::default();
    let mut before = String::new();
    let mut dead: BTreeMap<(String, i32), (u64, Instant)> = BTreeMap::new();
    loop {
        // One more query after everything is over.
        let is_over = over.load(Ordering::Relaxed);
        let (in_life, asked) = (life.load(Ordering::Relaxed), Instant::now());
        let answer = place.try_request(&get("/v1/agents")).ok().filter(|response| response.status == 200);
        if let Some(body) = answer.map(|response| response.body) {
            history.answers += 1;
            history.slowest = history.slowest.max(asked.elapsed());
            let agents: Vec<AgentStatus> = serde_json::from_str(&body).unwrap();
            let mut ended = BTreeMap::new();
            for agent in &agents {
                if let Some(pid) = agent.pid.filter(|&pid| !Process(pid).is_alive()) {
                    let key = (agent.name.clone(), pid);
                    let since = dead.get(&key).filter(|since| since.0 == in_life).copied();
                    let since = since.unwrap_or((in_life, Instant::now()));
                    if since.1.elapsed() > LATE {
                        history.problems.push(format!("{}: {pid} has ended, but is reported as running", agent.name));
                    }
                    ended.insert(key, since);
                }
            }
            dead = ended;
            if body != before {
                history.note(agents, in_life);
                before = body;
            }
        }
        if is_over {
            return history;
        }
        sleep(Duration::from_millis(5));
    }
}

/// The time from the start of a daemon to its first response, and to a correct one.
#[derive(Default)]
struct Waits {
    answer: Vec<Duration>,
    truth: Vec<Duration>,
    /// The same, while tmux was stopped.
    truth_without_tmux: Vec<Duration>,
}

impl Waits {
    /// Waits until the API reports every harness that was alive before and still is, and no dead one.
    fn wait(&mut self, place: &Setup, living: &[(&str, i32)], stops: &AtomicU64, start: Instant) {
        let stopped = |count: u64| count % 2 == 1;
        let before = stops.load(Ordering::Relaxed);
        let mut answered = false;
        let mut wrong = String::new();
        loop {
            if let Some(body) = place.try_request(&get("/v1/agents")).ok().map(|response| response.body) {
                if !std::mem::replace(&mut answered, true) {
                    self.answer.push(start.elapsed());
                }
                let agents: Vec<AgentStatus> = serde_json::from_str(&body).unwrap();
                let untold = living.iter().find(|(name, pid)| {
                    Process(*pid).is_alive()
                        && !agents.iter().any(|agent| agent.name == *name && agent.pid == Some(*pid))
                });
                let dead = agents.iter().find(|agent| agent.pid.is_some_and(|pid| !Process(pid).is_alive()));
                match (untold, dead) {
                    (None, None) => break,
                    (Some(untold), _) => wrong = format!("{untold:?} lives: {body}"),
                    (None, Some(dead)) => wrong = format!("{} does not live", dead.name),
                }
            }
            assert!(start.elapsed() < BOUND, "the API does not tell the truth: {wrong}");
            sleep(Duration::from_millis(5));
        }
        let after = stops.load(Ordering::Relaxed);
        let waits = if stopped(before) || before != after { &mut self.truth_without_tmux } else { &mut self.truth };
        waits.push(start.elapsed());
    }
}

fn longest(waits: &[Duration]) -> Duration {
    waits.iter().max().copied().unwrap_or_default()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{variable} is not a number")))
}

/// The identity and creation time of the operator's own session.
fn operators(place: &Setup) -> Result<String, String> {
    let format = "#{session_id} #{session_created} #{session_windows} #{pane_id} #{pane_pid} #{@agentd-owner}";
    place.tmux(&["display-message", "-p", "-t", "=operator:", format])
}

/// Sets the flag when dropped, for whatever reason.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn no_run_is_lost_or_doubled_when_the_daemon_is_killed_often() {
    let kills = number("AGENTD_CHAOS_KILLS").unwrap_or(50);
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    let seed = number("AGENTD_CHAOS_SEED").unwrap_or_else(|| clock().into());
    eprintln!("AGENTD_CHAOS_SEED={seed} AGENTD_CHAOS_KILLS={kills}");
    let mut random = Random(seed);
    let canary = format!("canary-{:016x}", random.next());
    let mut daemon = Setup::new().start("");
    let place = daemon.place();
    let mut stage = Stage::new(Arc::clone(&place), Random(random.next()), canary.clone());
    place.wait("a server", || place.tmux(&["new-session", "-d", "-s", "operator", "sleep 100000"]).ok());
    let operator = operators(&place).unwrap();
    for part in &CAST {
        place.wait(part.name, || place.work(part.name).exists().then_some(()));
    }

    let mut waits = Waits::default();
    let (history, stops) = play(&mut daemon, &mut stage, &mut random, kills, &mut waits);
    let (log, mut problems) = (place.log(), history.problems);
    let (logged, mut figures) = (logged(&log), Figures::default());
    for part in &CAST {
        let mut of_it = Vec::new();
        let runs = accounts(&place.lines(part.name), &mut of_it);
        let told = history.told.get(part.name).map_or(&[][..], Vec::as_slice);
        compare(&runs, told, logged.get(part.name).map_or(&[][..], Vec::as_slice), &mut figures, &mut of_it);
        problems.extend(of_it.into_iter().map(|problem| format!("{}: {problem}", part.name)));
    }
    problems.extend(daemon.leaks(&canary).into_iter().map(|sink| format!("the secret is in {sink}")));
    assert_eq!(operators(&place), Ok(operator));

    let mut text = format!(
        "{kills} kills, {} edits, {} secret changes, {} moves of a workdir, {stops} stops of tmux\n",
        stage.edits, stage.secret_changes, stage.moves,
    );
    let _ = writeln!(text, "{figures:?}");
    let _ = writeln!(text, "{} answers, the slowest {:?}", history.answers, history.slowest);
    for (what, waits) in
        [("first answer", &waits.answer), ("truth", &waits.truth), ("truth, tmux stopped", &waits.truth_without_tmux)]
    {
        let _ = writeln!(text, "longest wait for the {what}: {:?} of {}", longest(waits), waits.len());
    }
    eprint!("{text}");
    assert!(problems.is_empty(), "{} problems:\n{}\n{text}", problems.len(), problems.join("\n"));
}

/// Kills the daemon that often amid the chaos, and lets it settle. Returns what the API reported, and how often tmux was stopped.
fn play(daemon: &mut Daemon, stage: &mut Stage, random: &mut Random, kills: u64, waits: &mut Waits) -> (History, u64) {
    let place = daemon.place();
    let server = Process(place.tmux(&["display-message", "-p", "#{pid}"]).unwrap().trim().parse().unwrap());
    let (chaos_over, listening_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let (stops, life) = (AtomicU64::new(0), AtomicU64::new(1));
    let seeds = [random.next(), random.next()];
    let canary = stage.canary.clone();
    let history = thread::scope(|scope| {
        let (end_chaos, end_listening) = (Over(&chaos_over), Over(&listening_over));
        let listener = scope.spawn(|| listen(&place, &life, &listening_over));
        let looker = scope.spawn(|| look(&place, &canary, seeds[0], &listening_over));
        let stopper = scope.spawn(|| stop_tmux(server, seeds[1], &stops, &chaos_over));
        let mut is_hasty = false;
        for _ in 0..kills {
            act_for_a_while(stage, random, is_hasty);
            daemon.signal(Signal::SIGKILL);
            daemon.ended();
            if random.percent(30) {
                stage.act();
            }
            let most = if random.percent(70) { 50 } else { 1000 };
            random.pause(most);
            let living = harnesses(&place);
            let start = Instant::now();
            daemon.start_again_unawaited();
            life.fetch_add(1, Ordering::Relaxed);
            is_hasty = random.percent(20);
            if !is_hasty {
                waits.wait(&place, &living, &stops, start);
            }
        }
        drop(end_chaos);
        stopper.join().unwrap();
        stage.end();
        settle(&place, stage);
        drop(end_listening);
        let mut history = listener.join().unwrap();
        history.problems.extend(looker.join().unwrap());
        history
    });
    (history, stops.into_inner() / 2)
}

/// Fills the time between two kills. If hasty, the next daemon may not even be up.
fn act_for_a_while(stage: &mut Stage, random: &mut Random, is_hasty: bool) {
    match random.below(100) {
        _ if is_hasty => random.pause(60),
        0..40 => {
            random.pause(500);
            stage.act();
            random.pause(60);
        }
        what => {
            for _ in 0..random.below(3) {
                random.pause(600);
                stage.act();
            }
            random.pause(if what < 85 { 1000 } else { 5000 });
        }
    }
}

/// Waits until every agent matches its last declaration, and nothing else is there.
fn settle(place: &Setup, stage: &Stage) {
    let is_settled = |part: &Part, agents: &[AgentStatus]| {
        let (entry, agent) = (&stage.entries[part.name], agents.iter().find(|agent| agent.name == part.name));
        let Some(agent) = agent.filter(|_| entry.is_there) else { return agent.is_none() && !entry.is_there };
        let runs = accounts(&place.lines(part.name), &mut Vec::new());
        let key = if part.more.contains("KEY") { stage.key } else { 0 };
        if runs.last().is_none_or(|run| run.id != (entry.version, key)) {
            return false;
        }
        match part.fate {
            Fate::Runs => agent.state == State::Running && agent.pid == runs.last().map(|run| run.pid),
            Fate::Repeats => agent.state == State::Exited,
            Fate::Ends(outcome) => agent.outcome == Some(outcome),
        }
    };
    // The last daemon may have been started in haste, and may not respond yet.
    place.wait("an answer", || place.try_agents().ok());
    for part in &CAST {
        place.wait(&format!("{} to be as declared", part.name), || is_settled(part, &place.agents()).then_some(()));
    }
}
