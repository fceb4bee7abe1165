//! Compares the accounts that agents keep of themselves with what the API reported.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use agentd::wire::exit_status::{ExitStatus, Signal};
use agentd::wire::status::{AgentStatus, Outcome, State};

use super::super::support::between;
use super::stage::Id;

/// One status that the API reported for an agent, and when it first did.
pub struct Told {
    at: SystemTime,
    life: u64,
    status: AgentStatus,
}

/// Everything that the API reported.
#[derive(Default)]
pub struct History {
    pub told: BTreeMap<String, Vec<Told>>,
    pub problems: Vec<String>,
    pub answers: u64,
    pub slowest: Duration,
}

impl History {
    /// Records a response of the daemon with this number, if it says something new.
    pub fn note(&mut self, agents: Vec<AgentStatus>, life: u64) {
        for status in agents {
            let told = self.told.entry(status.name.clone()).or_default();
            if told.last().is_some_and(|last| last.status == status) {
                continue;
            }
            if let Some(last) = told.last().filter(|last| last.status.declared_at == status.declared_at) {
                let counted = |status: &AgentStatus| (status.attempt, status.restarts);
                let (old, new) = (counted(&last.status), counted(&status));
                if new.0 < old.0 || new.1 < old.1 {
                    let lives = (last.life, life);
                    self.problems.push(format!(
                        "{}: (attempt, restarts) from {old:?} to {new:?}, daemons {lives:?}",
                        status.name
                    ));
                }
            }
            told.push(Told { at: SystemTime::now(), life, status });
        }
    }
}

/// A start in an agent's own accounts, with its end if the agent could record it.
#[derive(Debug)]
pub struct Run {
    pub pid: i32,
    at: SystemTime,
    pub id: Id,
    end: Option<(SystemTime, ExitStatus)>,
}

fn time(text: &str) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(text.parse().unwrap())
}

fn how(text: &str) -> ExitStatus {
    text.parse().map_or_else(|_| ExitStatus::Signal(text.parse().unwrap()), ExitStatus::Code)
}

/// Reads an agent's own accounts.
pub fn accounts(lines: &[String], problems: &mut Vec<String>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["start", pid, at, version, key] => {
                let id = (version.parse().unwrap(), key.parse().unwrap_or_default());
                runs.push(Run { pid: pid.parse().unwrap(), at: time(at), id, end: None });
            }
            ["end", pid, at, status] => match runs.last_mut() {
                Some(run) if run.pid.to_string() == pid && run.end.is_none() => run.end = Some((time(at), how(status))),
                _ => problems.push(format!("out of turn: {line}")),
            },
            ["INT" | "TERM"] => {}
            _ => problems.push(format!("in its own words: {line}")),
        }
    }
    problems.extend(
        runs.windows(2)
            .filter(|two| two[0].id > two[1].id)
            .map(|two| format!("{:?} was started after {:?}", two[1].id, two[0].id)),
    );
    runs
}

/// Each start of each agent in the daemon's log: time, attempt and process.
pub fn logged(log: &str) -> BTreeMap<&str, Vec<(SystemTime, u64, i32)>> {
    let mut logged: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for line in log.lines() {
        let word = |key: &str| Some(line.rsplit_once(key)?.1.split(' ').next()?.trim_matches('"'));
        let name = line.split_whitespace().nth(2).and_then(|word| word.strip_suffix(':'));
        let (Some(name), Some(attempt), Some(pid)) = (name, word(" attempt="), word(" pid=")) else {
            continue;
        };
        let Some(at) = line.split(' ').next().and_then(|at| humantime::parse_rfc3339(at).ok()) else { continue };
        logged.entry(name).or_default().push((at, attempt.parse().unwrap(), pid.parse().unwrap()));
    }
    logged
}

/// How much the test compared.
#[derive(Debug, Default)]
pub struct Figures {
    starts: usize,
    ends: usize,
    /// Declarations under which an attempt started.
    declarations: usize,
    /// Starts that the API reported.
    seen: usize,
    /// Other starts, reported only by the daemon's log.
    logged: usize,
    /// Other starts, implied by the number of the attempt after them.
    counted: usize,
    /// Ends that the API reported.
    ends_seen: usize,
    /// Launches that failed and were retried.
    failed: usize,
}

/// The largest allowed gap between an agent's own times and the reported ones. Process ids are reused only after a longer time.
const NEAR: Duration = Duration::from_secs(15);

/// The difference of two clocks, whichever is ahead.
fn distance(a: SystemTime, b: SystemTime) -> Duration {
    between(a, b).max(between(b, a))
}

/// Compares an agent's own accounts with the reports about it.
pub fn compare(
    runs: &[Run],
    told: &[Told],
    logged: &[(SystemTime, u64, i32)],
    figures: &mut Figures,
    problems: &mut Vec<String>,
) {
    let tale = Tale::new(told);
    let witnesses: Vec<Witness> = runs.iter().map(|run| Witness::of(run, told, logged)).collect();
    let claimed: BTreeSet<SystemTime> = witnesses.iter().flat_map(|witness| witness.told.keys()).copied().collect();
    let mut at = 0;
    for runs in runs.chunk_by(|a, b| a.id == b.id) {
        let witnesses = &witnesses[at..at + runs.len()];
        at += runs.len();
        let declarations = tale.declarations(runs, witnesses, &claimed);
        let statuses = declarations.iter().filter_map(|at| tale.statuses.get(at)).flatten().copied().collect();
        let group = Group { id: runs[0].id, runs, witnesses, declarations, statuses };
        group.compare_numbers(figures, problems);
        group.compare_count(&tale, figures, problems);
        group.compare_ends(figures, problems);
    }
    tale.find_doubles(problems);
    figures.starts += runs.len();
    figures.ends += runs.iter().filter(|run| run.end.is_some()).count();
}

/// The reports about an agent, by the time of its declaration.
struct Tale<'a> {
    statuses: BTreeMap<SystemTime, Vec<&'a AgentStatus>>,
    /// The last time at which that declaration was reported.
    until: BTreeMap<SystemTime, SystemTime>,
}

impl<'a> Tale<'a> {
    fn new(told: &'a [Told]) -> Self {
        let mut tale = Self { statuses: BTreeMap::new(), until: BTreeMap::new() };
        let next_at = told.iter().skip(1).map(|next| next.at).chain([SystemTime::now()]);
        for (told, until) in told.iter().zip(next_at) {
            let Some(declared) = told.status.declared_at else { continue };
            tale.statuses.entry(declared.0).or_default().push(&told.status);
            tale.until.insert(declared.0, until);
        }
        tale
    }

    /// The declarations under which these runs took place: exactly one, unless something is wrong.
    fn declarations(
        &self,
        runs: &[Run],
        witnesses: &[Witness],
        claimed: &BTreeSet<SystemTime>,
    ) -> BTreeSet<SystemTime> {
        let told: BTreeSet<SystemTime> = witnesses.iter().flat_map(|witness| witness.told.keys()).copied().collect();
        if !told.is_empty() {
            return told;
        }
        let is_near = |status: &&AgentStatus| {
            let started = status.started_at.map(|at| at.0);
            started.is_some_and(|at| runs.iter().any(|run| distance(run.at, at) < Duration::from_secs(2)))
        };
        let near = self.statuses.iter().filter(|(at, statuses)| !claimed.contains(at) && statuses.iter().any(is_near));
        near.map(|(at, _)| *at).collect()
    }

    /// Checks that no attempt has two processes.
    fn find_doubles(&self, problems: &mut Vec<String>) {
        for (declared, statuses) in &self.statuses {
            let mut pids: BTreeMap<u64, BTreeSet<i32>> = BTreeMap::new();
            for status in statuses {
                if let (Some(attempt), Some(pid)) = (status.attempt, status.pid) {
                    pids.entry(attempt).or_default().insert(pid);
                }
            }
            let doubles = pids.iter().filter(|(_, pids)| pids.len() > 1);
            problems.extend(
                doubles.map(|(attempt, pids)| format!("declared at {declared:?}: attempt {attempt} was {pids:?}")),
            );
        }
    }
}

/// The source of a report on a run, with the attempts that it names.
struct Witness {
    /// The API, by the time of the agent's declaration: the numbers under that declaration and over the agent's life.
    told: BTreeMap<SystemTime, BTreeSet<(u64, u64)>>,
    /// The daemon's log, which numbers attempts over the agent's life.
    logged: BTreeSet<u64>,
}

impl Witness {
    fn of(run: &Run, all: &[Told], logged: &[(SystemTime, u64, i32)]) -> Self {
        let mut told: BTreeMap<SystemTime, BTreeSet<(u64, u64)>> = BTreeMap::new();
        for Told { status, .. } in all.iter().filter(|told| told.status.pid == Some(run.pid)) {
            if let (Some(declared), Some(started), Some(attempt), Some(total)) =
                (status.declared_at, status.started_at, status.attempt, status.attempt_total)
                && distance(run.at, started.0) < NEAR
            {
                told.entry(declared.0).or_default().insert((attempt, total));
            }
        }
        let is_it = |(at, _, pid): &&(SystemTime, u64, i32)| *pid == run.pid && distance(*at, run.at) < NEAR;
        Self { told, logged: logged.iter().filter(is_it).map(|(_, attempt, _)| *attempt).collect() }
    }

    /// The numbers over the agent's life.
    fn totals(&self) -> BTreeSet<u64> {
        self.told.values().flatten().map(|(_, total)| total).chain(&self.logged).copied().collect()
    }
}

/// The runs of one declaration in order, and the reports about them.
struct Group<'a> {
    id: Id,
    runs: &'a [Run],
    witnesses: &'a [Witness],
    declarations: BTreeSet<SystemTime>,
    statuses: Vec<&'a AgentStatus>,
}

impl Group<'_> {
    /// Checks that each run is one attempt, and that the restarts before it are the earlier runs.
    fn compare_numbers(&self, figures: &mut Figures, problems: &mut Vec<String>) {
        figures.declarations += 1;
        let id = self.id;
        if self.declarations.len() > 1 {
            problems.push(format!("{id:?}: reported under {} declarations", self.declarations.len()));
        }
        let restarts_at = |attempt: u64| {
            self.statuses.iter().filter(|status| status.attempt == Some(attempt)).map(|status| status.restarts).max()
        };
        // How many attempts there were under earlier declarations.
        let earlier: BTreeSet<u64> = self
            .witnesses
            .iter()
            .flat_map(|witness| witness.told.values().flatten())
            .map(|(attempt, total)| total - attempt)
            .collect();
        if earlier.len() > 1 {
            problems.push(format!("{id:?}: reported after {earlier:?} earlier attempts"));
        }
        for (expected, (run, witness)) in (1..).zip(self.runs.iter().zip(self.witnesses)) {
            match () {
                () if !witness.told.is_empty() => figures.seen += 1,
                () if !witness.logged.is_empty() => figures.logged += 1,
                () => figures.counted += 1,
            }
            let totals = witness.totals();
            if totals.len() > 1 {
                problems.push(format!("{id:?}: {} was reported as attempts {totals:?}", run.pid));
            }
            let (Some(&total), Some(&earlier)) = (totals.first(), earlier.first()) else { continue };
            let attempt = total - earlier;
            // Without failed launches, every attempt but the first is a restart.
            let restarts = restarts_at(attempt).unwrap_or(attempt - 1);
            if restarts + 1 != expected {
                problems.push(format!("{id:?}: start {expected} was attempt {attempt}, with {restarts} restarts"));
            }
        }
    }

    /// Checks that there are as many runs as attempts.
    fn compare_count(&self, tale: &Tale, figures: &mut Figures, problems: &mut Vec<String>) {
        let (id, starts) = (self.id, self.runs.len());
        let last = self.statuses.iter().filter_map(|status| Some((status.attempt?, status.restarts))).max();
        let Some((attempts, restarts)) = last else {
            if starts > 1 {
                problems.push(format!("{id:?}: {starts} starts, and none was reported"));
            }
            return;
        };
        let number = |number: u64| usize::try_from(number).unwrap();
        let failed = number(attempts - 1 - restarts);
        figures.failed += failed;
        let until = self.declarations.iter().map(|at| tale.until[at]).max().unwrap();
        let unseen = self.runs.iter().filter(|run| run.at > until).count();
        // The last attempt may have been stopped before it could record anything.
        if !(starts..=starts + 1).contains(&(number(attempts) - failed + unseen)) {
            problems.push(format!(
                "{id:?}: {starts} starts, {attempts} attempts, {failed} of them failed, {unseen} unseen"
            ));
        }
    }

    /// Checks that the reported ends match those that the runs recorded, and never change.
    fn compare_ends(&self, figures: &mut Figures, problems: &mut Vec<String>) {
        let id = self.id;
        for (number, ends) in self.ends() {
            let (how, at) = ends[0];
            if ends.iter().any(|end| end.0 != how || distance(end.1, at) > Duration::from_millis(50)) {
                problems.push(format!("{id:?}: the end of start {number} was told differently: {ends:?}"));
            }
            let run = usize::try_from(number).ok().and_then(|number| self.runs.get(number.checked_sub(1)?));
            let Some(run) = run else {
                problems.push(format!("{id:?}: start {number} ended, {how:?}, and there was none"));
                continue;
            };
            figures.ends_seen += 1;
            let is_right = match (how, &run.end) {
                (ExitStatus::Cause(_), _) | (ExitStatus::Code(_), None) => false,
                (ExitStatus::Signal(signal), _) if *signal == Signal::KILL => true,
                (ExitStatus::Signal(signal), None) => signal.to_string() == "SIGINT",
                (told, Some((noted_at, noted))) => {
                    told == noted && at + Duration::from_millis(5) > *noted_at && between(*noted_at, at) < NEAR
                }
            };
            if !is_right {
                problems.push(format!("{id:?}: start {number} was told to end {how:?} at {at:?}, it says {run:?}"));
            }
        }
    }

    /// The reported ends, by the number of the start.
    fn ends(&self) -> BTreeMap<u64, Vec<(&ExitStatus, SystemTime)>> {
        let mut ends: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        for status in &self.statuses {
            let Some(exit) = &status.exit else { continue };
            let number = match status.state {
                State::Backoff if status.error.is_none() && status.next_start_at.is_some() => status.restarts + 1,
                State::Exited if status.outcome != Some(Outcome::TimedOut) => status.restarts + 1,
                State::Running | State::Starting => status.restarts,
                _ => continue,
            };
            ends.entry(number).or_default().push((&exit.how, exit.at.0));
        }
        ends
    }
}
