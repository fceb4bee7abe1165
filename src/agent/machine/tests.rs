use std::time::{Duration, SystemTime};

use rstest::rstest;

use super::*;
use crate::agent::changes::{Marking, Marks};
use crate::agent::declaration::{Missing, WaitingFor};
use crate::agent::orders::Override;
use crate::agent::sandbox::{Engine, Home, Network, Sandbox};
use crate::agent::seen::Problem;
use crate::agent::spec::{ByDefault, Limits, Restart};
use crate::agent::user::AgentUser;
use crate::sys::secret_bytes::SecretBytes;
use crate::wire::reason::{Changes, MissingPackages, MissingProgram, StopStage, StoppingBecause};
use crate::wire::status::State::{self as Shown, Backoff, Exited, Running, Starting, Stopping, Waiting};
use crate::wire::status::Usage;
use crate::wire::status::{self, AgentStatus, PastAttempt, Time};

const START: Timestamp = Timestamp::new(seconds(1_000), SystemTime::UNIX_EPOCH);

const SECRET: &str = "sk-ant-0123456789";

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// That many seconds after the start, as the API shows it.
#[allow(clippy::unnecessary_wraps, reason = "it is compared with what may be absent")]
fn at(count: u64) -> Option<Time> {
    Some(Time((START + seconds(count)).wall()))
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Agent `a`, told apart by its only argument.
fn launch(session: &str, argument: &str) -> Arc<Launch> {
    Arc::new(Launch {
        name: name("a"),
        session: name(session),
        user: None,
        arguments: vec![SecretBytes::from(argument)],
        environment: [("KEY".to_owned(), SecretBytes::from(SECRET))].into(),
        secrets: ["KEY".to_owned()].into(),
        fingerprint: Fingerprint::of(&format!("{session} {argument}")),
        marks: marks(session, argument),
        ..Launch::of_nothing()
    })
}

/// Of that agent: the argument is its `args`.
fn marks(session: &str, argument: &str) -> Marks {
    let mut marking = Marking::new("k");
    for (name, value) in [("args", argument), ("session", session)] {
        marking.field(name, value.bytes().fold(0, |mark, byte| mark << 8 | u32::from(byte)) << 16);
    }
    marking.finish()
}

/// A declaration with every default but for what `edit` changes.
fn declaration(edit: impl FnOnce(&mut Policy)) -> Declaration {
    let mut policy = Policy {
        restart: Restart::No,
        max_restarts: None,
        timeout: None,
        grace_period: seconds(30),
        backoff: vec![seconds(3)],
        backoff_reset: None,
        ..Policy::default()
    };
    edit(&mut policy);
    Declaration { kind: Kind::Native, policy, launch: Ok(launch("a", "x")) }
}

fn plain() -> Declaration {
    declaration(|_| {})
}

fn restarting(restart: Restart) -> Declaration {
    declaration(|policy| policy.restart = restart)
}

fn timing_out(count: u64) -> Declaration {
    declaration(|policy| {
        policy.restart = Restart::Always;
        policy.timeout = Some(seconds(count));
    })
}

fn launching(launch: Arc<Launch>) -> Declaration {
    Declaration { launch: Ok(launch), ..plain() }
}

fn missing(declaration: Declaration) -> Declaration {
    let workdir = WaitingFor::Workdir { path: "/w".to_owned(), problem: Problem::Absent {} };
    Declaration { launch: Err(Missing(vec![workdir])), ..declaration }
}

/// An override that stops the agent.
fn stopped(now: bool) -> Orders {
    let by = Some("op".to_owned());
    Orders { own: Some(Override { enabled: Some(false), now, by, ..Override::default() }), pause: None }
}

/// An override that asks for this run of the agent.
fn raised(generation: u64) -> Orders {
    let by = Some("op".to_owned());
    Orders { own: Some(Override { generation: Some(generation), by, ..Override::default() }), pause: None }
}

/// An override that lets nothing start.
fn paused() -> Orders {
    Orders { own: None, pause: Some(Override { enabled: Some(false), ..Override::default() }) }
}

fn code(code: i32) -> ExitStatus {
    ExitStatus::Code(code)
}

fn failed(why: &str) -> NotStarted {
    NotStarted::Failed(why.to_owned())
}

fn retry(why: &str) -> NotStarted {
    NotStarted::Retry(why.to_owned())
}

fn not_found() -> NotStarted {
    NotStarted::NotFound(claude())
}

fn unbuilt() -> NotStarted {
    NotStarted::Unbuilt(jq())
}

fn jq() -> MissingPackages {
    MissingPackages { names: vec!["jq".into()], detail: "no such attribute".into() }
}

fn claude() -> MissingProgram {
    MissingProgram { name: "claude".into(), user: "agent".into(), path: Some("/usr/bin".into()), hint: None }
}

fn changes(fields: &[&str]) -> Changes {
    Changes { fields: fields.iter().map(|&field| field.to_owned()).collect(), secrets: Vec::new() }
}

fn in_words(effect: &Effect) -> String {
    match effect {
        Effect::Launch { attempt, .. } => format!("launch {attempt}"),
        Effect::Resume { attempt, .. } => format!("resume {attempt}"),
        Effect::Interrupt { attempt } => format!("interrupt {attempt}"),
        Effect::InterruptAgain { attempt } => format!("interrupt again {attempt}"),
        Effect::Account(past) => format!("account {}", past.attempt),
        Effect::Answer { attempt, told } => format!("answer {attempt}: {}", told.allow),
        Effect::Approval(approval) => format!("approval {:?}", approval.decision.as_ref().map(|it| it.answer)),
        Effect::Limit { attempt, .. } => format!("limit {attempt}"),
        Effect::Renew { attempt, .. } => format!("renew {attempt}"),
        Effect::Kill { attempt } => format!("kill {attempt}"),
        Effect::Close { session, .. } => format!("close {session}"),
        Effect::ReadScreen { attempt, .. } => format!("read screen {attempt}"),
        Effect::OfferShell { session, .. } => format!("offer shell {session}"),
    }
}

/// A user who is not the default one.
fn other(name: &str) -> AgentUser {
    AgentUser { name: name.parse().unwrap(), uid: 47_000 }
}

/// The same as `launch`, as this user.
fn launch_as(user: &AgentUser, argument: &str) -> Arc<Launch> {
    Arc::new(Launch { user: Some(user.clone()), ..Arc::unwrap_or_clone(launch("a", argument)) })
}

/// A machine and the clock on its wall. What it wants done is told in words.
struct Life {
    machine: Machine,
    now: Timestamp,
    /// What was said of attempts that are over.
    accounts: Vec<PastAttempt>,
    /// Why attempts were launched.
    reasons: Vec<LaunchReason>,
}

impl Life {
    /// Nothing is declared yet.
    fn new() -> Self {
        Self::of(Machine::new(name("a")))
    }

    fn of(machine: Machine) -> Self {
        Self { machine, now: START, accounts: Vec::new(), reasons: Vec::new() }
    }

    /// The first attempt has been launched.
    fn starting(declaration: Declaration) -> Self {
        let mut life = Self::new();
        assert_eq!(life.tell(Event::Declare(declaration)), ["launch 1"]);
        life
    }

    /// The first attempt's harness runs, with process id 101.
    fn running(declaration: Declaration) -> Self {
        let mut life = Self::starting(declaration);
        life.start(1);
        life
    }

    /// The first attempt is over and gone.
    fn over(declaration: Declaration, how: ExitStatus) -> Self {
        let mut life = Self::running(declaration);
        life.end(1, how);
        life
    }

    fn tell(&mut self, event: Event) -> Vec<String> {
        let effects = self.machine.step(event, self.now);
        self.accounts.extend(effects.iter().filter_map(|effect| match effect {
            Effect::Account(past) => Some(past.clone()),
            _ => None,
        }));
        self.reasons.extend(effects.iter().filter_map(|effect| match effect {
            Effect::Launch { reason, .. } => Some(*reason),
            _ => None,
        }));
        effects.iter().filter(|effect| !matches!(effect, Effect::Account(_))).map(in_words).collect()
    }

    fn declare(&mut self, declaration: Declaration) -> Vec<String> {
        self.tell(Event::Declare(declaration))
    }

    fn update(&mut self, declaration: Declaration) -> Vec<String> {
        self.tell(Event::Update(declaration))
    }

    fn order(&mut self, orders: Orders) -> Vec<String> {
        self.tell(Event::Ordered(orders))
    }

    fn remove(&mut self) -> Vec<String> {
        self.tell(Event::Remove(Removal::Undeclared))
    }

    fn start(&mut self, attempt: Attempt) {
        let pid = 100 + i32::try_from(attempt).unwrap();
        assert!(self.tell(Event::Opened { attempt }).is_empty());
        assert!(self.tell(Event::Started { attempt, pid, at: self.now }).is_empty());
    }

    fn not_started(&mut self, attempt: Attempt, why: NotStarted) -> Vec<String> {
        self.tell(Event::NotStarted { attempt, why })
    }

    fn ended(&mut self, attempt: Attempt, how: ExitStatus) -> Vec<String> {
        self.tell(Event::Ended { attempt, how, at: self.now, usage: Usage::default(), result: None, evidence: None })
    }

    fn gone(&mut self, attempt: Attempt) -> Vec<String> {
        self.tell(Event::Gone { attempt })
    }

    /// Ended, and gone at once.
    fn end(&mut self, attempt: Attempt, how: ExitStatus) -> Vec<String> {
        [self.ended(attempt, how), self.gone(attempt)].concat()
    }

    fn closed(&mut self) -> Vec<String> {
        self.tell(Event::Closed(Ok(())))
    }

    /// Lets time pass, and the machine notice whenever something is due.
    fn wait(&mut self, time: Duration) -> Vec<String> {
        let end = self.now + time;
        let mut effects = Vec::new();
        while let Some(due) = self.machine.due().filter(|&due| due <= end) {
            self.now = self.now.max(due);
            effects.extend(self.tell(Event::Due));
            assert!(self.machine.due().is_none_or(|due| due > self.now), "it is due again at once");
        }
        self.now = end;
        effects
    }

    fn status(&self) -> AgentStatus {
        self.machine.status()
    }

    fn state(&self) -> Shown {
        self.status().state
    }

    /// It is over in this way, and stays so.
    #[track_caller]
    fn assert_over(&mut self, outcome: Outcome) {
        assert_eq!((self.state(), self.status().outcome), (Exited, Some(outcome)));
        assert!(self.wait(seconds(100_000)).is_empty());
        assert_eq!((self.state(), self.status().outcome), (Exited, Some(outcome)));
    }
}

mod conversing;
mod holds;
mod operate;
mod properties;
mod records;
mod results;
mod rotation;
mod table;

mod an_end {
    use super::*;

    #[rstest]
    #[case(Restart::No, code(0), Outcome::Completed)]
    #[case(Restart::No, code(3), Outcome::Failed)]
    #[case(Restart::No, ExitStatus::Signal("SIGKILL".parse().unwrap()), Outcome::Failed)]
    #[case(Restart::OnFailure, code(0), Outcome::Completed)]
    fn that_the_policy_does_not_restart_is_final(
        #[case] restart: Restart,
        #[case] how: ExitStatus,
        #[case] outcome: Outcome,
    ) {
        let mut life = Life::running(restarting(restart));
        assert_eq!(life.ended(1, how.clone()), ["offer shell a"]);
        assert_eq!(life.status().exit.unwrap().how, how);
        assert!(life.gone(1).is_empty());
        life.assert_over(outcome);
    }

    #[rstest]
    #[case(Restart::OnFailure, code(3))]
    #[case(Restart::OnFailure, ExitStatus::Signal("SIGSEGV".parse().unwrap()))]
    #[case(Restart::OnFailure, ExitStatus::Cause("tmux server died".into()))]
    #[case(Restart::Always, code(0))]
    #[case(Restart::Always, code(3))]
    fn the_policy_answers_is_followed_by_a_restart_after_backoff(#[case] restart: Restart, #[case] how: ExitStatus) {
        let mut life = Life::running(restarting(restart));
        life.wait(seconds(60));
        assert!(life.end(1, how).is_empty());
        assert_eq!((life.state(), life.status().next_start_at), (Backoff, at(63)));
        assert!(life.wait(Duration::from_millis(2_999)).is_empty());
        assert_eq!(life.wait(Duration::from_millis(1)), ["launch 2"]);
        assert_eq!((life.state(), life.status().restarts, life.status().attempt), (Starting, 1, Some(2)));
    }

    #[test]
    fn that_is_unknown_is_a_failure_with_its_cause() {
        let mut life = Life::running(plain());
        assert_eq!(life.gone(1), ["offer shell a"]);
        assert_eq!(life.status().exit.unwrap().how, ExitStatus::Cause("its end was not reported".into()));
        life.assert_over(Outcome::Failed);
    }

    #[test]
    fn before_any_start_was_reported_is_an_end_like_any_other() {
        let mut life = Life::starting(restarting(Restart::OnFailure));
        assert_eq!(life.end(1, code(0)), ["offer shell a"]);
        life.assert_over(Outcome::Completed);
    }

    #[test]
    fn is_shown_at_once_but_the_restart_waits_for_the_launcher() {
        let mut life = Life::running(restarting(Restart::Always));
        life.ended(1, code(0));
        assert_eq!((life.state(), life.status().running), (Backoff, false));
        assert!(life.wait(seconds(5)).is_empty());
        assert_eq!(life.gone(1), ["launch 2"]);
    }

    #[test]
    fn with_a_lingering_launcher_causes_a_kill_every_ten_seconds() {
        let mut life = Life::running(plain());
        life.ended(1, code(0));
        assert!(life.wait(Duration::from_millis(9_999)).is_empty());
        assert_eq!(life.wait(Duration::from_millis(1)), ["kill 1"]);
        assert_eq!(life.wait(seconds(20)), ["kill 1", "kill 1"]);
        life.gone(1);
        life.assert_over(Outcome::Completed);
    }
}

mod restarts {
    use super::*;

    /// How long each restart has been waited for, when every run ends after these many seconds.
    fn delays(declaration: Declaration, runs: &[u64]) -> Vec<Duration> {
        let mut life = Life::starting(declaration);
        let mut delays = Vec::new();
        for (attempt, run) in (1..).zip(runs) {
            life.start(attempt);
            life.wait(seconds(*run));
            life.end(attempt, code(1));
            let delay = life.machine.due().unwrap().since(life.now);
            assert_eq!(life.wait(delay), [format!("launch {}", attempt + 1)]);
            delays.push(delay);
        }
        delays
    }

    fn backing_off(steps: &[u64], reset: Option<u64>) -> Declaration {
        declaration(|policy| {
            policy.restart = Restart::OnFailure;
            policy.backoff = steps.iter().copied().map(seconds).collect();
            policy.backoff_reset = reset.map(seconds);
        })
    }

    #[test]
    fn wait_three_seconds_each_by_default() {
        assert_eq!(delays(restarting(Restart::OnFailure), &[0, 1, 100_000]), [seconds(3); 3]);
    }

    #[test]
    fn wait_as_the_steps_say_and_the_last_step_repeats() {
        let waited = delays(backing_off(&[1, 5, 20], None), &[0, 0, 0, 100_000, 0]);
        assert_eq!(waited, [1, 5, 20, 20, 20].map(seconds));
    }

    #[test]
    fn start_over_with_the_first_step_after_a_healthy_run() {
        let waited = delays(backing_off(&[1, 5, 20], Some(600)), &[0, 0, 599, 600, 0]);
        assert_eq!(waited, [1, 5, 20, 1, 5].map(seconds));
    }

    #[test]
    fn without_delay_wait_only_for_the_launcher_to_go() {
        let mut life = Life::running(backing_off(&[0], None));
        assert!(life.ended(1, code(1)).is_empty());
        assert!(life.wait(seconds(1)).is_empty());
        assert_eq!(life.gone(1), ["launch 2"]);
    }

    #[test]
    fn are_as_many_as_max_restarts_allows_and_then_it_gives_up() {
        let limited = declaration(|policy| {
            policy.restart = Restart::OnFailure;
            policy.max_restarts = Some(2);
        });
        let mut life = Life::running(limited);
        for attempt in 1..=2 {
            assert!(life.end(attempt, code(1)).is_empty());
            assert_eq!(life.wait(seconds(3)), [format!("launch {}", attempt + 1)]);
            life.start(attempt + 1);
            assert_eq!(life.status().restarts, attempt);
        }
        assert_eq!(life.end(3, code(1)), ["offer shell a"]);
        life.assert_over(Outcome::GaveUp);
        assert_eq!((life.status().restarts, life.status().attempt), (2, Some(3)));
    }
}

mod a_timeout {
    use super::*;

    #[test]
    fn stops_a_running_agent_for_good_whatever_the_policy() {
        let mut life = Life::running(timing_out(60));
        assert!(life.wait(Duration::from_millis(59_999)).is_empty());
        assert_eq!(life.wait(Duration::from_millis(1)), ["interrupt 1"]);
        assert_eq!((life.state(), life.status().deadline, life.status().timeout_at), (Stopping, at(90), None));
        life.ended(1, ExitStatus::Signal("SIGINT".parse().unwrap()));
        assert_eq!((life.state(), life.status().running), (Stopping, false));
        assert_eq!(life.gone(1), ["offer shell a"]);
        life.assert_over(Outcome::TimedOut);
        assert_eq!(life.status().exit.unwrap().how, ExitStatus::Signal("SIGINT".parse().unwrap()));
    }

    #[test]
    fn counts_from_an_end_if_nobody_saw_the_start() {
        let mut life = Life::starting(timing_out(60));
        life.wait(seconds(2));
        life.ended(1, code(1));
        assert_eq!(life.status().timeout_at, at(62));
    }

    #[test]
    fn counts_from_the_first_start_over_restarts() {
        let mut life = Life::starting(timing_out(60));
        life.wait(seconds(10));
        life.start(1);
        life.wait(seconds(20));
        life.end(1, code(1));
        assert_eq!((life.state(), life.status().timeout_at), (Backoff, at(70)));
        assert_eq!(life.wait(seconds(3)), ["launch 2"]);
        life.start(2);
        assert_eq!(life.status().timeout_at, at(70));
        assert!(life.wait(seconds(36)).is_empty());
        assert_eq!(life.wait(seconds(1)), ["interrupt 2"]);
    }

    #[test]
    fn does_not_count_before_anything_was_started() {
        let mut life = Life::starting(timing_out(5));
        life.wait(seconds(100));
        life.not_started(1, retry("tmux does not answer"));
        life.gone(1);
        assert_eq!(life.wait(seconds(100)), ["launch 2"]);
        assert_eq!((life.state(), life.status().timeout_at), (Starting, None));
    }

    #[test]
    fn during_backoff_ends_it_and_nothing_starts_again() {
        let mut life = Life::running(timing_out(60));
        life.wait(seconds(59));
        life.end(1, code(1));
        assert_eq!(life.wait(seconds(1)), ["offer shell a"]);
        life.assert_over(Outcome::TimedOut);
        assert_eq!((life.status().restarts, life.status().next_start_at), (0, None));
    }

    #[test]
    fn while_something_is_missing_ends_the_waiting() {
        let mut life = Life::running(timing_out(60));
        life.update(missing(timing_out(60)));
        life.end(1, code(1));
        life.wait(seconds(3));
        assert_eq!((life.state(), life.status().timeout_at), (Waiting, at(60)));
        assert_eq!(life.wait(seconds(57)), ["offer shell a"]);
        life.assert_over(Outcome::TimedOut);
    }

    #[test]
    fn during_a_start_stops_that() {
        let mut life = Life::running(timing_out(60));
        life.wait(seconds(56));
        life.end(1, code(1));
        assert_eq!(life.wait(seconds(3)), ["launch 2"]);
        assert_eq!((life.state(), life.status().timeout_at), (Starting, at(60)));
        assert_eq!(life.wait(seconds(1)), ["interrupt 2"]);
        life.not_started(2, retry("it was stopped before it started"));
        assert_eq!(life.gone(2), ["offer shell a"]);
        life.assert_over(Outcome::TimedOut);
    }

    #[test]
    fn does_not_undo_an_end_that_came_before_it() {
        let mut life = Life::over(declaration(|policy| policy.timeout = Some(seconds(60))), code(0));
        assert_eq!(life.status().timeout_at, None);
        life.assert_over(Outcome::Completed);
    }

    #[rstest]
    #[case::later(120, 120)]
    #[case::sooner(45, 45)]
    #[case::already_past(10, 30)]
    fn that_is_new_counts_from_the_same_first_start(#[case] timeout: u64, #[case] stops_at: u64) {
        let mut life = Life::running(timing_out(60));
        life.wait(seconds(30));
        assert!(life.update(timing_out(timeout)).is_empty());
        assert_eq!(life.status().timeout_at, at(timeout));
        assert_eq!(life.wait(seconds(stops_at - 30)), ["interrupt 1"]);
    }

    #[test]
    fn that_was_taken_away_never_comes() {
        let mut life = Life::running(timing_out(60));
        life.update(plain());
        assert!(life.wait(seconds(100_000)).is_empty());
        assert_eq!(life.state(), Running);
    }

    #[test]
    fn that_passes_unnoticed_lets_nothing_start_any_more() {
        let mut life = Life::running(timing_out(60));
        life.wait(seconds(50));
        life.ended(1, code(1));
        // Asleep: what happened meanwhile is heard before anybody looks at the clock.
        life.now = START + seconds(100);
        assert_eq!(life.gone(1), ["offer shell a"]);
        life.assert_over(Outcome::TimedOut);

        let mut life = Life::running(timing_out(60));
        life.update(missing(timing_out(60)));
        life.end(1, code(1));
        life.wait(seconds(3));
        life.now = START + seconds(100);
        assert_eq!(life.update(timing_out(60)), ["offer shell a"]);
        life.assert_over(Outcome::TimedOut);
    }

    #[test]
    fn that_has_passed_is_not_undone_by_a_longer_one() {
        let mut life = Life::running(timing_out(60));
        life.wait(seconds(60));
        life.end(1, code(0));
        assert!(life.update(timing_out(600)).is_empty());
        life.assert_over(Outcome::TimedOut);
    }
}

mod a_stop {
    use super::*;

    #[test]
    fn interrupts_and_kills_at_the_deadline() {
        let mut life = Life::running(plain());
        assert_eq!(life.remove(), ["interrupt 1"]);
        assert_eq!((life.state(), life.status().deadline, life.status().running), (Stopping, at(30), true));
        assert!(life.wait(Duration::from_millis(14_999)).is_empty());
        assert_eq!(life.wait(Duration::from_millis(1)), ["interrupt again 1"]);
        assert!(life.wait(Duration::from_millis(14_999)).is_empty());
        assert_eq!(life.wait(Duration::from_millis(1)), ["kill 1"]);
        assert!(life.wait(seconds(100_000)).is_empty());
        assert_eq!(life.end(1, ExitStatus::Signal("SIGKILL".parse().unwrap())), ["close a"]);
    }

    #[test]
    fn interrupts_no_second_time_what_has_ended_by_then() {
        let mut life = Life::running(plain());
        life.remove();
        life.wait(seconds(14));
        life.ended(1, code(0));
        assert_eq!(life.wait(seconds(100)), ["kill 1"], "what it left");
    }

    #[test]
    fn with_a_shortened_grace_interrupts_again_halfway_through() {
        let mut life = Life::running(plain());
        life.declare(declaration(|policy| policy.grace_period = seconds(30)));
        life.wait(seconds(1));
        assert!(life.update(declaration(|policy| policy.grace_period = seconds(4))).is_empty());
        assert_eq!(life.wait(seconds(2)), ["interrupt again 1"]);
        assert_eq!(life.wait(seconds(2)), ["kill 1"]);
    }

    #[test]
    fn that_interrupted_twice_does_not_interrupt_a_third_time() {
        let mut life = Life::running(plain());
        life.remove();
        assert_eq!(life.wait(seconds(15)), ["interrupt again 1"]);
        let text = serde_json::to_string(&life.machine).unwrap();
        life.machine = serde_json::from_str(&text).unwrap();
        assert!(!life.machine.resume().is_empty());
        assert_eq!(life.wait(seconds(15)), ["kill 1"]);
    }

    #[test]
    fn without_grace_kills_at_once() {
        let mut life = Life::running(declaration(|policy| policy.grace_period = Duration::ZERO));
        assert_eq!(life.remove(), ["kill 1"]);
        assert!(life.wait(seconds(100_000)).is_empty());
    }

    #[test]
    fn of_an_attempt_that_is_not_started_yet_stops_it_all_the_same() {
        let mut life = Life::starting(plain());
        assert_eq!(life.remove(), ["interrupt 1"]);
        assert_eq!((life.state(), life.status().running), (Stopping, false));
        assert!(life.status().reason.unwrap().contains("interrupted"));
        life.start(1);
        assert_eq!((life.state(), life.status().running, life.status().pid), (Stopping, true, Some(101)));
        assert_eq!(life.wait(seconds(30)), ["interrupt again 1", "kill 1"]);
    }

    #[test]
    fn of_an_attempt_that_starts_nevertheless_shows_when() {
        let mut life = Life::running(timing_out(60));
        life.wait(seconds(56));
        life.end(1, code(1));
        life.wait(seconds(4));
        assert_eq!((life.state(), life.status().started_at), (Stopping, at(0)));
        life.wait(seconds(1));
        life.start(2);
        assert_eq!((life.state(), life.status().started_at), (Stopping, at(61)));
    }

    #[test]
    fn gives_leftovers_ten_seconds_and_not_the_whole_grace() {
        let mut life = Life::running(declaration(|policy| policy.grace_period = seconds(3_600)));
        life.remove();
        life.wait(seconds(60));
        assert!(life.ended(1, code(0)).is_empty());
        assert_eq!((life.state(), life.status().deadline), (Stopping, at(70)));
        assert_eq!(life.wait(seconds(10)), ["kill 1"]);
        assert!(life.wait(seconds(100_000)).is_empty());
    }

    #[test]
    fn gives_a_launcher_without_a_harness_no_more_than_that_either() {
        let mut life = Life::starting(declaration(|policy| policy.grace_period = seconds(3_600)));
        life.remove();
        assert!(life.not_started(1, failed("no such program")).is_empty());
        assert_eq!((life.state(), life.status().deadline), (Stopping, at(10)));
        assert_eq!(life.wait(seconds(10)), ["kill 1"]);
    }

    #[test]
    fn never_puts_the_deadline_off() {
        let mut life = Life::running(plain());
        life.remove();
        life.wait(seconds(25));
        life.ended(1, code(0));
        assert_eq!(life.status().deadline, at(30));
    }

    #[test]
    fn of_an_attempt_whose_end_is_not_reported_says_so() {
        let mut life = Life::running(timing_out(60));
        life.end(1, code(1));
        life.wait(seconds(3));
        life.start(2);
        life.wait(seconds(60));
        assert_eq!(life.gone(2), ["offer shell a"]);
        assert_eq!(life.status().exit.unwrap().how, ExitStatus::Cause("its end was not reported".into()));
        life.assert_over(Outcome::TimedOut);
    }
}

mod a_change_of_what_is_launched {
    use super::*;

    #[test]
    fn stops_the_old_and_launches_the_new_only_when_the_old_is_gone() {
        let mut life = Life::running(plain());
        life.wait(seconds(10));
        let new = launch("a", "y");
        assert_eq!(life.declare(launching(Arc::clone(&new))), ["interrupt 1"]);
        life.wait(seconds(5));
        assert!(life.ended(1, code(0)).is_empty());
        assert_eq!((life.state(), life.status().running), (Stopping, false));
        let effects = life.machine.step(Event::Gone { attempt: 1 }, life.now);
        assert_eq!(
            effects,
            [Effect::Launch {
                attempt: 2,
                launch: new,
                limits: Limits::default(),
                reason: LaunchReason::Declaration,
                plan: None
            }]
        );
    }

    #[test]
    fn begins_a_new_life() {
        let mut life = Life::running(timing_out(600));
        life.end(1, code(1));
        life.wait(seconds(3));
        life.start(2);
        life.wait(seconds(7));
        life.declare(Declaration { launch: Ok(launch("a", "y")), ..timing_out(600) });
        let status = life.status();
        assert_eq!((status.restarts, status.attempt, status.exit, status.started_at), (0, None, None, None));
        assert_eq!((status.declared_at, status.pid), (at(10), Some(102)));
        assert_eq!(life.end(2, code(1)), ["launch 3"]);
        life.wait(seconds(10));
        life.start(3);
        let status = life.status();
        assert_eq!((status.restarts, status.attempt, status.exit), (0, Some(1), None));
        assert_eq!((status.started_at, status.timeout_at), (at(20), at(620)));
    }

    #[test]
    fn ends_a_backoff_at_once() {
        let mut life = Life::over(restarting(Restart::Always), code(1));
        assert_eq!(life.declare(launching(launch("a", "y"))), ["launch 2"]);
        assert!(life.wait(seconds(100)).is_empty());
        assert_eq!((life.state(), life.status().restarts), (Starting, 0));
    }

    #[rstest]
    #[case(code(0))]
    #[case(code(3))]
    fn starts_an_agent_that_was_over(#[case] how: ExitStatus) {
        let mut life = Life::over(plain(), how);
        assert_eq!(life.declare(launching(launch("a", "y"))), ["launch 2"]);
        assert_eq!(life.status().exit, None);
    }

    #[test]
    fn waits_for_a_launcher_that_has_not_gone_yet() {
        let mut life = Life::running(plain());
        life.ended(1, code(0));
        assert!(life.declare(launching(launch("a", "y"))).is_empty());
        assert_eq!((life.state(), life.status().next_start_at), (Backoff, None));
        assert_eq!(life.wait(seconds(10)), ["kill 1"]);
        assert_eq!(life.gone(1), ["launch 2"]);
    }

    #[test]
    fn while_the_former_change_is_still_stopping_counts_alone() {
        let mut life = Life::running(plain());
        life.declare(launching(launch("a", "y")));
        life.wait(seconds(20));
        let newest = launch("a", "z");
        assert!(life.declare(launching(Arc::clone(&newest))).is_empty());
        assert_eq!(life.status().deadline, at(30));
        life.ended(1, code(0));
        let effects = life.machine.step(Event::Gone { attempt: 1 }, life.now);
        assert_eq!(
            effects,
            [Effect::Launch {
                plan: None,
                attempt: 2,
                launch: newest,
                limits: Limits::default(),
                reason: LaunchReason::Declaration
            }]
        );
    }

    #[test]
    fn while_a_timeout_is_stopping_it_takes_the_place_of_that() {
        let mut life = Life::running(timing_out(60));
        life.wait(seconds(60));
        assert!(life.declare(launching(launch("a", "y"))).is_empty());
        assert_eq!(life.end(1, code(0)), ["launch 2"]);
    }

    #[test]
    fn to_another_session_closes_the_old_session_before_the_launch() {
        let mut life = Life::running(plain());
        life.declare(launching(launch("b", "x")));
        assert_eq!(life.status().session, "a");
        assert_eq!(life.end(1, code(0)), ["close a"]);
        assert_eq!(life.closed(), ["launch 2"]);
        life.tell(Event::Opened { attempt: 2 });
        assert_eq!((life.state(), life.status().session.as_str()), (Starting, "b"));
    }

    #[test]
    fn to_another_session_does_so_for_an_agent_that_was_over() {
        let mut life = Life::over(plain(), code(0));
        assert_eq!(life.declare(launching(launch("b", "x"))), ["close a"]);
        assert_eq!(life.closed(), ["launch 2"]);
    }

    #[test]
    fn to_another_session_tries_again_to_close_the_old_one() {
        let mut life = Life::over(plain(), code(0));
        life.declare(launching(launch("b", "x")));
        assert!(life.tell(Event::Closed(Err("tmux does not answer".into()))).is_empty());
        assert_eq!(life.status().error.as_deref(), Some("tmux does not answer"));
        assert_eq!(life.wait(seconds(1)), ["close a"]);
        assert!(life.wait(seconds(100)).is_empty());
        assert_eq!(life.closed(), ["launch 2"]);
        life.start(2);
        assert_eq!(life.status().error, None);
    }
}

mod a_user {
    use super::*;

    fn effects(life: &mut Life, event: Event) -> Vec<Effect> {
        life.machine.step(event, life.now)
    }

    #[test]
    fn that_changes_stops_the_old_one_and_closes_its_session_first() {
        let [former, later] = [other("b"), other("c")];
        let mut life = Life::running(launching(launch_as(&former, "x")));
        assert_eq!(life.status().user.as_deref(), Some("b"));
        assert_eq!(life.declare(launching(launch_as(&later, "y"))), ["interrupt 1"]);
        assert_eq!((life.machine.user(), life.status().user.as_deref()), (Some(&former), Some("b")));
        assert!(life.ended(1, code(0)).is_empty());
        let closed = effects(&mut life, Event::Gone { attempt: 1 });
        assert_eq!(closed, [Effect::Close { session: name("a"), user: Some(former) }]);
        assert_eq!(life.tell(Event::Closed(Ok(()))), ["launch 2"]);
        assert_eq!((life.machine.user(), life.status().user.as_deref()), (Some(&later), Some("c")));
    }

    #[test]
    fn of_the_default_kind_is_another_one() {
        let mut life = Life::over(plain(), code(0));
        let closed = effects(&mut life, Event::Declare(launching(launch_as(&other("b"), "y"))));
        assert_eq!(closed, [Effect::Close { session: name("a"), user: None }]);
    }

    #[test]
    fn created_again_with_another_id_is_another_one() {
        let mut life = Life::over(launching(launch_as(&other("b"), "x")), code(0));
        let again = AgentUser { uid: 47_001, ..other("b") };
        assert_eq!(life.declare(launching(launch_as(&again, "x"))), ["close a"]);
    }

    #[test]
    fn is_on_record_and_the_next_daemon_resumes_there() {
        let user = other("b");
        let life = Life::running(launching(launch_as(&user, "x")));
        let written = serde_json::to_value(&life.machine).unwrap();
        assert_eq!(written["session"]["user"], serde_json::json!({ "name": "b", "uid": 47_000 }));
        let mut next: Machine = serde_json::from_value(written).unwrap();
        assert_eq!(next.status().user.as_deref(), Some("b"));
        let resumed = next.resume();
        assert!(matches!(&resumed[0], Effect::Resume { user: Some(found), .. } if *found == user), "{resumed:?}");
    }

    #[test]
    fn is_not_in_the_record_of_the_default_one() {
        let written = serde_json::to_value(&Life::running(plain()).machine).unwrap();
        assert_eq!(written["session"], serde_json::json!({ "name": "a", "is_open": true }));
    }

    #[test]
    fn that_only_an_entry_names_is_shown_while_nothing_runs() {
        let mut life = Life::new();
        life.declare(missing(plain()));
        life.machine.describe(name("a"), None, Some(other("b").name));
        assert_eq!((life.status().user.as_deref(), life.machine.user()), (Some("b"), None));
    }
}

mod a_change_of_policy {
    use super::*;

    #[test]
    fn does_not_touch_what_runs_and_resets_nothing() {
        let mut life = Life::running(restarting(Restart::Always));
        life.end(1, code(1));
        life.wait(seconds(3));
        life.start(2);
        let before = life.status();
        life.wait(seconds(10));
        assert!(life.update(plain()).is_empty());
        let after = life.status();
        assert_eq!((after.state, after.pid, after.restarts, after.attempt), (Running, Some(102), 1, Some(2)));
        assert_eq!((&after.declared_at, &after.started_at), (&before.declared_at, &before.started_at));
        life.end(2, code(1));
        life.assert_over(Outcome::Failed);
    }

    #[test]
    fn gives_the_next_stop_its_grace() {
        let mut life = Life::running(plain());
        life.update(declaration(|policy| policy.grace_period = seconds(5)));
        life.remove();
        assert_eq!(life.wait(seconds(5)), ["interrupt again 1", "kill 1"]);
    }

    #[test]
    fn that_raises_max_restarts_revives_what_gave_up() {
        let limited = |limit| {
            declaration(|policy| {
                policy.restart = Restart::OnFailure;
                policy.max_restarts = Some(limit);
                policy.backoff = vec![seconds(1), seconds(5)];
            })
        };
        let mut life = Life::over(limited(1), code(1));
        assert_eq!(life.wait(seconds(1)), ["launch 2"]);
        life.start(2);
        life.end(2, code(1));
        life.assert_over(Outcome::GaveUp);
        assert_eq!(life.update(limited(2)), ["launch 3"]);
        assert_eq!((life.state(), life.status().restarts, life.status().attempt), (Starting, 2, Some(3)));
    }

    #[test]
    fn revives_not_before_the_backoff_counted_from_the_end() {
        let mut life = Life::over(plain(), code(1));
        life.wait(seconds(1));
        assert!(life.update(restarting(Restart::OnFailure)).is_empty());
        assert_eq!((life.state(), life.status().next_start_at), (Backoff, at(3)));
        assert_eq!(life.wait(seconds(2)), ["launch 2"]);
    }

    #[test]
    fn to_always_revives_what_was_completed() {
        let mut life = Life::over(plain(), code(0));
        assert!(life.update(restarting(Restart::Always)).is_empty());
        assert_eq!(life.wait(seconds(3)), ["launch 2"]);
    }

    #[rstest]
    #[case(plain(), code(0), Restart::OnFailure, Outcome::Completed)]
    #[case(plain(), code(3), Restart::No, Outcome::Failed)]
    fn that_decides_alike_leaves_what_is_over(
        #[case] before: Declaration,
        #[case] how: ExitStatus,
        #[case] after: Restart,
        #[case] outcome: Outcome,
    ) {
        let mut life = Life::over(before, how);
        assert!(life.update(restarting(after)).is_empty());
        life.assert_over(outcome);
    }

    #[test]
    fn to_no_restarts_cancels_a_backoff() {
        let mut life = Life::over(restarting(Restart::Always), code(3));
        life.wait(seconds(2));
        assert_eq!(life.update(plain()), ["offer shell a"]);
        life.assert_over(Outcome::Failed);
    }

    #[test]
    fn of_the_backoff_moves_the_start_that_is_waited_for() {
        let steps = |first| {
            declaration(|policy| {
                policy.restart = Restart::Always;
                policy.backoff = vec![seconds(first), seconds(100)];
            })
        };
        let mut life = Life::over(steps(60), code(1));
        life.wait(seconds(10));
        assert!(life.update(steps(30)).is_empty());
        assert_eq!(life.status().next_start_at, at(30));
        assert!(life.update(steps(30)).is_empty());
        assert_eq!(life.status().next_start_at, at(30));
        assert!(life.update(steps(20)).is_empty());
        assert_eq!(life.wait(seconds(10)), ["launch 2"]);
        assert_eq!(life.status().restarts, 1);
    }

    #[test]
    fn does_not_hurry_a_launch_that_is_tried_again() {
        let mut life = Life::starting(restarting(Restart::Always));
        life.not_started(1, retry("tmux does not answer"));
        life.gone(1);
        assert!(life.update(plain()).is_empty());
        assert_eq!((life.state(), life.status().next_start_at), (Backoff, at(1)));
        assert_eq!(life.wait(seconds(1)), ["launch 2"]);
    }

    #[rstest]
    #[case::soon(0, 0)]
    #[case::late(3, 0)]
    #[case::after_the_kill(3, 25)]
    fn to_no_restarts_cancels_one_that_waits_for_the_launcher(#[case] backoff: u64, #[case] waited: u64) {
        let mut life = Life::running(declaration(|policy| {
            policy.restart = Restart::Always;
            policy.backoff = vec![seconds(backoff)];
        }));
        life.ended(1, code(3));
        life.wait(seconds(waited));
        assert_eq!(life.status().reason.unwrap(), "exited with status 3; restart 1 follows");
        assert_eq!(life.update(plain()), ["offer shell a"]);
        assert!(life.gone(1).is_empty());
        life.assert_over(Outcome::Failed);
    }

    #[test]
    fn does_not_cancel_a_restart_whose_launch_is_tried_again() {
        let mut life = Life::over(restarting(Restart::Always), code(1));
        life.wait(seconds(3));
        life.not_started(2, retry("tmux does not answer"));
        life.gone(2);
        assert!(life.update(plain()).is_empty());
        assert_eq!(life.state(), Backoff);
        assert_eq!(life.wait(seconds(1)), ["launch 3"]);
        assert_eq!((life.status().restarts, life.status().attempt), (1, Some(3)));
    }

    #[test]
    fn during_a_stop_does_not_end_that() {
        let mut life = Life::running(plain());
        life.declare(launching(launch("a", "y")));
        assert!(life.update(Declaration { launch: Ok(launch("a", "y")), ..restarting(Restart::Always) }).is_empty());
        assert_eq!(life.state(), Stopping);
        assert_eq!(life.end(1, code(0)), ["launch 2"]);
        life.start(2);
        life.end(2, code(0));
        assert_eq!(life.state(), Backoff);
    }
}

mod something_missing {
    use super::*;

    #[test]
    fn is_waited_for_and_named() {
        let mut life = Life::new();
        assert!(life.declare(missing(plain())).is_empty());
        let status = life.status();
        assert_eq!((status.state, status.attempt, status.session.as_str()), (Waiting, None, ""));
        assert_eq!(status.reason.unwrap(), "the workdir /w does not exist");
        assert!(life.wait(seconds(100_000)).is_empty());
        assert_eq!(life.update(plain()), ["launch 1"]);
        life.start(1);
        assert_eq!((life.state(), life.status().restarts), (Running, 0));
    }

    #[test]
    fn that_changes_is_named_anew() {
        let mut life = Life::new();
        life.declare(missing(plain()));
        let secret = WaitingFor::Secrets { names: vec!["KEY".to_owned()] };
        let other = Declaration { launch: Err(Missing(vec![secret.clone()])), ..plain() };
        assert!(life.update(other).is_empty());
        let status = life.status();
        assert_eq!((status.state, status.waiting_for), (Waiting, vec![secret]));
        assert_eq!(status.reason.as_deref(), Some("the secret KEY is not in the secrets directory"));
    }

    #[test]
    fn does_not_touch_what_runs_but_is_waited_for_at_the_restart() {
        let mut life = Life::running(restarting(Restart::Always));
        assert!(life.update(missing(restarting(Restart::Always))).is_empty());
        assert_eq!(life.state(), Running);
        life.end(1, code(1));
        assert!(life.wait(seconds(100)).is_empty());
        assert_eq!((life.state(), life.status().restarts), (Waiting, 0));
        assert_eq!(life.update(restarting(Restart::Always)), ["launch 2"]);
        assert_eq!((life.state(), life.status().restarts, life.status().attempt), (Starting, 1, Some(2)));
    }

    #[rstest]
    #[case(missing(plain()))]
    #[case(plain())]
    fn is_waited_for_no_longer_once_the_policy_says_not_to_restart(#[case] declaration: Declaration) {
        let mut life = Life::running(restarting(Restart::Always));
        life.update(missing(restarting(Restart::Always)));
        life.end(1, code(1));
        life.wait(seconds(100));
        assert_eq!(life.update(declaration), ["offer shell a"]);
        life.assert_over(Outcome::Failed);
    }

    #[test]
    fn that_changes_does_not_count_the_restart_twice() {
        let mut life = Life::running(restarting(Restart::Always));
        life.update(missing(restarting(Restart::Always)));
        life.end(1, code(1));
        life.wait(seconds(100));
        for _ in 0..3 {
            assert!(life.update(missing(restarting(Restart::Always))).is_empty());
            assert_eq!((life.state(), life.status().restarts), (Waiting, 0));
        }
        assert_eq!(life.update(restarting(Restart::Always)), ["launch 2"]);
        assert_eq!(life.status().restarts, 1);
    }

    #[test]
    fn that_came_back_before_the_restart_delays_nothing() {
        let mut life = Life::running(restarting(Restart::Always));
        life.update(missing(restarting(Restart::Always)));
        life.end(1, code(1));
        life.wait(seconds(1));
        assert!(life.update(restarting(Restart::Always)).is_empty());
        assert_eq!(life.wait(seconds(2)), ["launch 2"]);
    }

    #[test]
    fn does_not_bring_an_agent_back_that_is_over() {
        let mut life = Life::over(plain(), code(0));
        assert!(life.update(missing(plain())).is_empty());
        assert!(life.update(plain()).is_empty());
        life.assert_over(Outcome::Completed);
    }
}

mod a_wrong_entry {
    use super::*;

    #[test]
    fn of_which_nothing_ever_ran_is_invalid_until_it_is_fixed() {
        let mut life = Life::new();
        assert!(life.tell(Event::Reject("3:1: no harness".into())).is_empty());
        let status = life.status();
        assert_eq!((status.state, status.error.as_deref()), (Shown::Invalid, Some("3:1: no harness")));
        assert_eq!((status.attempt, status.declared_at, status.kind), (None, None, None));
        assert_eq!(life.machine.due(), None);
        assert_eq!(life.declare(plain()), ["launch 1"]);
        assert_eq!(life.status().error, None);
    }

    #[test]
    fn of_a_running_agent_is_shown_and_the_earlier_one_applies() {
        let mut life = Life::running(restarting(Restart::OnFailure));
        assert!(life.tell(Event::Reject("3:1: no harness".into())).is_empty());
        assert_eq!((life.state(), life.status().error.as_deref()), (Running, Some("3:1: no harness")));
        life.end(1, code(1));
        assert_eq!(life.wait(seconds(3)), ["launch 2"]);
        life.start(2);
        assert_eq!(life.status().error.as_deref(), Some("3:1: no harness"));
        assert!(life.update(restarting(Restart::OnFailure)).is_empty());
        assert_eq!((life.state(), life.status().error, life.status().restarts), (Running, None, 1));
    }

    #[test]
    fn that_goes_away_leaves_nothing() {
        let mut life = Life::new();
        life.tell(Event::Reject("3:1: no harness".into()));
        assert!(life.remove().is_empty());
        assert!(life.machine.is_gone());
    }
}

mod a_removal {
    use super::*;

    fn waiting() -> Life {
        let mut life = Life::new();
        life.declare(missing(plain()));
        life
    }

    fn backing_off_while_the_launcher_lingers() -> Life {
        let mut life = Life::running(restarting(Restart::Always));
        life.ended(1, code(1));
        life
    }

    fn over_while_the_launcher_lingers() -> Life {
        let mut life = Life::running(plain());
        life.ended(1, code(0));
        life
    }

    fn timed_out() -> Life {
        let mut life = Life::running(timing_out(60));
        life.wait(seconds(60));
        life
    }

    fn changing() -> Life {
        let mut life = Life::running(plain());
        life.declare(launching(launch("a", "y")));
        life
    }

    fn changing_session() -> Life {
        let mut life = Life::over(plain(), code(0));
        life.declare(launching(launch("b", "x")));
        life
    }

    fn retrying() -> Life {
        let mut life = Life::starting(plain());
        life.not_started(1, retry("tmux does not answer"));
        life
    }

    #[rstest]
    #[case::waiting(waiting(), &[])]
    #[case::starting(Life::starting(plain()), &["interrupt 1", "close a"])]
    #[case::running(Life::running(plain()), &["interrupt 1", "close a"])]
    #[case::backoff(Life::over(restarting(Restart::Always), code(1)), &["close a"])]
    #[case::backoff_lingering(backing_off_while_the_launcher_lingers(), &["close a"])]
    #[case::retrying(retrying(), &["close a"])]
    #[case::exited(Life::over(plain(), code(0)), &["close a"])]
    #[case::exited_lingering(over_while_the_launcher_lingers(), &["close a"])]
    #[case::stopping_for_a_timeout(timed_out(), &["close a"])]
    #[case::stopping_for_a_change(changing(), &["close a"])]
    #[case::closing(changing_session(), &[])]
    fn ends_with_nothing_left(#[case] mut life: Life, #[case] expected: &[&str]) {
        let mut effects = life.remove();
        assert!(life.machine.is_leaving());
        effects.extend(life.end(1, code(0)));
        if !life.machine.is_gone() {
            assert_eq!((life.state(), life.status().running), (Stopping, false));
            effects.extend(life.closed());
        }
        assert!(life.machine.is_gone());
        assert_eq!(effects, expected);
        assert_eq!((life.wait(seconds(100_000)), life.machine.due()), (vec![], None));
    }

    #[test]
    fn lets_a_launcher_tidy_up_but_not_for_ever() {
        let mut life = over_while_the_launcher_lingers();
        life.wait(seconds(4));
        assert!(life.remove().is_empty());
        assert_eq!((life.state(), life.status().deadline), (Stopping, at(10)));
        assert_eq!(life.wait(seconds(6)), ["kill 1"]);
        assert_eq!(life.gone(1), ["close a"]);
    }

    #[test]
    fn tries_again_to_close_the_session() {
        let mut life = Life::over(plain(), code(0));
        life.remove();
        life.tell(Event::Closed(Err("tmux does not answer".into())));
        assert_eq!((life.state(), life.machine.is_gone()), (Stopping, false));
        assert_eq!(life.status().error.as_deref(), Some("tmux does not answer"));
        assert_eq!(life.wait(seconds(1)), ["close a"]);
        life.closed();
        assert!(life.machine.is_gone());
    }

    #[test]
    fn twice_is_as_once() {
        let mut life = Life::running(plain());
        life.remove();
        assert!(life.remove().is_empty());
        assert_eq!(life.end(1, code(0)), ["close a"]);
        assert!(life.remove().is_empty());
    }

    #[test]
    fn taken_back_while_stopping_starts_afresh_when_the_old_is_gone() {
        let mut life = Life::running(restarting(Restart::Always));
        life.remove();
        assert!(life.declare(plain()).is_empty());
        assert!(!life.machine.is_leaving());
        assert_eq!(life.end(1, code(0)), ["launch 2"]);
        assert_eq!((life.status().attempt, life.status().exit), (Some(1), None));
    }

    #[test]
    fn taken_back_while_closing_starts_when_that_is_done() {
        let mut life = Life::over(plain(), code(0));
        life.remove();
        assert!(life.declare(plain()).is_empty());
        assert_eq!(life.closed(), ["launch 2"]);
    }

    #[test]
    fn taken_back_and_meant_after_all_ends_all_the_same() {
        let mut life = Life::running(plain());
        life.remove();
        life.declare(plain());
        assert!(life.status().reason.unwrap().starts_with("its declaration has changed; "));
        assert!(life.remove().is_empty());
        assert!(life.status().reason.unwrap().starts_with("its entry was removed; "));
        assert_eq!(life.end(1, code(0)), ["close a"]);
        life.closed();
        assert!(life.machine.is_gone());
    }
}

mod a_failed_launch {
    use super::*;

    const NOT_FOUND: &str = "claude: not found in PATH";

    #[test]
    fn through_the_agents_fault_is_a_failed_attempt() {
        let mut life = Life::starting(plain());
        assert_eq!(life.not_started(1, failed(NOT_FOUND)), ["offer shell a"]);
        life.gone(1);
        let status = life.status();
        assert_eq!((status.error.as_deref(), status.running, status.started_at), (Some(NOT_FOUND), false, None));
        assert_eq!(status.exit.unwrap().how, ExitStatus::Cause(NOT_FOUND.into()));
        life.assert_over(Outcome::Failed);
    }

    #[test]
    fn through_the_agents_fault_follows_policy_and_is_shown() {
        let limited = declaration(|policy| {
            policy.restart = Restart::OnFailure;
            policy.max_restarts = Some(2);
        });
        let mut life = Life::starting(limited);
        life.not_started(1, failed(NOT_FOUND));
        life.gone(1);
        assert_eq!(life.wait(seconds(3)), ["launch 2"]);
        assert_eq!((life.status().restarts, life.status().error.as_deref()), (1, Some(NOT_FOUND)));
        life.start(2);
        assert_eq!(life.status().error, None);
        life.end(2, code(1));
        life.wait(seconds(3));
        life.not_started(3, failed(NOT_FOUND));
        life.gone(3);
        life.assert_over(Outcome::GaveUp);
    }

    #[test]
    fn through_no_ones_fault_is_retried_ever_more_slowly() {
        let mut life = Life::starting(plain());
        for (attempt, delay) in (1..).zip([1, 2, 4, 8, 16, 30, 30, 30]) {
            let before = life.now;
            assert!(life.not_started(attempt, retry("tmux does not answer")).is_empty());
            assert!(life.gone(attempt).is_empty());
            let status = life.status();
            assert_eq!((status.state, status.error.as_deref()), (Backoff, Some("tmux does not answer")));
            assert_eq!(life.machine.due().unwrap().since(before), seconds(delay));
            assert_eq!(life.wait(seconds(delay)), [format!("launch {}", attempt + 1)]);
        }
        let status = life.status();
        assert_eq!((status.restarts, status.attempt, status.exit), (0, Some(9), None));
    }

    #[test]
    fn through_no_ones_fault_is_retried_soon_after_a_good_start() {
        let mut life = Life::starting(restarting(Restart::Always));
        life.not_started(1, retry("busy"));
        life.gone(1);
        life.wait(seconds(1));
        life.start(2);
        assert_eq!(life.status().error, None);
        life.end(2, code(0));
        life.wait(seconds(3));
        assert_eq!(life.status().restarts, 1);
        life.not_started(3, retry("busy"));
        life.gone(3);
        assert_eq!(life.wait(seconds(1)), ["launch 4"]);
        assert_eq!(life.status().restarts, 1);
    }

    #[test]
    fn that_is_tried_again_waits_for_what_went_missing_meanwhile() {
        let mut life = Life::starting(plain());
        life.not_started(1, retry("busy"));
        life.gone(1);
        assert!(life.update(missing(plain())).is_empty());
        assert!(life.wait(seconds(100)).is_empty());
        assert_eq!(life.state(), Waiting);
        assert_eq!(life.update(plain()), ["launch 2"]);
    }
}

mod a_launch {
    use super::*;
    use LaunchReason::{Declaration, First, Policy, Recovery, Retry};

    fn always() -> super::Declaration {
        restarting(Restart::Always)
    }

    #[test]
    fn says_why_it_is_made() {
        let mut life = Life::starting(always());
        life.not_started(1, retry("busy"));
        life.gone(1);
        life.wait(seconds(1));
        life.start(2);
        life.end(2, code(1));
        life.wait(seconds(3));
        life.not_started(3, NotStarted::CutOff);
        life.gone(3);
        life.start(4);
        life.declare(super::Declaration { launch: Ok(launch("a", "y")), ..always() });
        life.end(4, code(0));
        assert_eq!(life.reasons, [First, Retry, Policy, Recovery, Declaration]);
        let shown = life.status().launch_reason;
        assert_eq!(shown, Some(crate::wire::reason::LaunchReason::Declaration));
        life.start(5);
        assert_eq!((life.state(), life.status().launch_reason), (Running, None));
    }

    #[test]
    fn is_the_first_also_after_waiting_for_a_session() {
        let mut life = Life::starting(plain());
        life.tell(Event::SessionBusy { attempt: 1, holder: name("b") });
        life.declare(launching(launch("a", "y")));
        life.tell(Event::SessionBusy { attempt: 2, holder: name("b") });
        life.tell(Event::SessionFree);
        assert_eq!(life.reasons, [First; 3]);
        life.end(3, code(0));
        life.declare(launching(launch("c", "x")));
        life.closed();
        life.tell(Event::SessionBusy { attempt: 4, holder: name("b") });
        life.tell(Event::SessionFree);
        assert_eq!(life.reasons[3..], [Declaration; 2]);
    }

    #[test]
    fn says_so_to_the_next_daemon() {
        let mut life = Life::running(always());
        life.end(1, code(1));
        life.wait(seconds(3));
        let record = serde_json::to_value(&life.machine).unwrap();
        let read: Machine = serde_json::from_value(record.clone()).unwrap();
        assert_eq!(read.status(), life.status());
        assert_eq!(read.status().launch_reason, Some(crate::wire::reason::LaunchReason::Policy));
        let mut newer = record;
        newer["latest"]["reason"] = serde_json::json!("schedule");
        let read: Machine = serde_json::from_value(newer).unwrap();
        assert_eq!((read.status().state, read.status().launch_reason), (Starting, None));
    }
}

mod a_session_of_another_agent {
    use super::*;

    fn busy(life: &mut Life, attempt: Attempt) {
        assert!(life.tell(Event::SessionBusy { attempt, holder: name("b") }).is_empty());
    }

    fn queued(declaration: Declaration) -> Life {
        let mut life = Life::starting(declaration);
        busy(&mut life, 1);
        life
    }

    #[test]
    fn is_waited_for_without_counting_until_it_is_free() {
        let mut life = queued(plain());
        let status = life.status();
        assert_eq!((status.state, status.attempt, status.error), (Waiting, None, None));
        assert_eq!(status.reason.as_deref(), Some("its session a is still in use by b"));
        assert!(life.wait(seconds(100_000)).is_empty());
        assert_eq!(life.machine.session(), None);
        assert_eq!(life.tell(Event::SessionFree), ["launch 2"]);
        assert_eq!((life.state(), life.status().attempt, life.status().restarts), (Starting, Some(1), 0));
    }

    #[test]
    fn may_be_had_by_a_third_first() {
        let mut life = queued(plain());
        assert_eq!(life.tell(Event::SessionFree), ["launch 2"]);
        busy(&mut life, 2);
        assert_eq!((life.state(), life.status().attempt), (Waiting, None));
        assert_eq!(life.tell(Event::SessionFree), ["launch 3"]);
    }

    #[test]
    fn is_not_closed_by_who_waits_for_it() {
        let mut life = queued(plain());
        assert!(life.remove().is_empty());
        assert!(life.machine.is_gone());
    }

    #[test]
    fn is_not_waited_for_by_who_is_declared_for_another() {
        let mut life = queued(plain());
        assert_eq!(life.declare(launching(launch("c", "x"))), ["launch 2"]);
        assert!(life.tell(Event::SessionFree).is_empty());
        life.start(2);
        assert_eq!((life.state(), life.status().attempt), (Running, Some(1)));
    }

    #[test]
    fn is_waited_for_after_what_went_missing_meanwhile() {
        let mut life = queued(plain());
        assert!(life.update(missing(plain())).is_empty());
        assert!(life.tell(Event::SessionFree).is_empty());
        assert_eq!(life.state(), Waiting);
        assert_eq!(life.update(plain()), ["launch 2"]);
    }
}

mod late_news {
    use super::*;

    /// Everything that could still be said of the first attempt.
    fn late() -> Vec<Event> {
        let attempt = 1;
        vec![
            Event::Opened { attempt },
            Event::Started { attempt, pid: 666, at: START },
            Event::NotStarted { attempt, why: failed("late") },
            Event::NotStarted { attempt, why: retry("late") },
            Event::Ended { attempt, how: code(66), at: START, usage: Usage::default(), result: None, evidence: None },
            Event::Gone { attempt },
            Event::SessionBusy { attempt, holder: name("b") },
            Event::SessionFree,
        ]
    }

    /// The second attempt is in that state, or comes after it.
    fn second(state: Shown) -> Life {
        let mut life = Life::over(restarting(Restart::Always), code(1));
        if state == Backoff {
            return life;
        }
        life.wait(seconds(3));
        if state == Starting {
            return life;
        }
        life.start(2);
        match state {
            Stopping => drop(life.remove()),
            Exited => {
                life.update(plain());
                life.end(2, code(3));
            }
            _ => {}
        }
        life
    }

    #[rstest]
    fn of_an_old_attempt_changes_nothing(#[values(Backoff, Starting, Running, Stopping, Exited)] state: Shown) {
        for event in late() {
            let mut life = second(state);
            let before = life.status();
            assert_eq!(before.state, state);
            assert!(life.tell(event.clone()).is_empty(), "{event:?}");
            assert_eq!(life.status(), before, "{event:?}");
        }
    }

    #[test]
    fn of_a_stopping_attempt_changes_nothing_after_its_harness() {
        for event in late().into_iter().filter(|event| !matches!(event, Event::Gone { .. })) {
            let mut life = Life::running(timing_out(60));
            life.wait(seconds(60));
            life.ended(1, code(0));
            let before = life.status();
            assert!(life.tell(event.clone()).is_empty(), "{event:?}");
            assert_eq!(life.status(), before, "{event:?}");
        }
    }

    #[test]
    fn of_a_start_changes_nothing_once_the_harness_lives() {
        for event in late().into_iter().take(4) {
            for stop in [|_: &mut Life| vec![], Life::remove] {
                let mut life = Life::running(plain());
                stop(&mut life);
                let before = life.status();
                assert!(life.tell(event.clone()).is_empty(), "{event:?}");
                assert_eq!(life.status(), before, "{event:?}");
            }
        }
    }

    #[test]
    fn of_a_session_that_nobody_asked_to_close_changes_nothing() {
        for closed in [Ok(()), Err("late".to_owned())] {
            let mut life = Life::running(plain());
            let before = life.status();
            assert!(life.tell(Event::Closed(closed)).is_empty());
            assert_eq!(life.status(), before);
        }
    }
}

mod missing_packages {
    use super::*;

    #[test]
    fn are_waited_for_as_a_missing_program_is() {
        let mut life = Life::starting(restarting(Restart::No));
        assert!(life.not_started(1, unbuilt()).is_empty());
        assert!(life.gone(1).is_empty());
        let status = life.status();
        assert_eq!((status.state, status.outcome, status.attempt_total), (Waiting, None, None));
        assert_eq!(status.waiting_for, [WaitingFor::Packages { packages: jq() }]);
        let why = "its extra_packages are not there: no such attribute";
        assert_eq!((status.reason.as_deref(), status.error.as_deref()), (Some(why), Some(why)));
        assert_eq!(status.next_start_at, at(3));
        assert!(life.accounts.is_empty(), "it has no history");
        assert_eq!(life.wait(seconds(3)), ["launch 2"]);
        life.start(2);
        assert_eq!((life.status().attempt_total, life.status().error), (Some(1), None));
    }

    #[test]
    fn are_told_as_long_as_they_are_built() {
        let mut life = Life::starting(plain());
        let reason = |life: &Life| life.status().reason.unwrap();
        assert_eq!(reason(&life), "attempt 1 is being started");
        assert!(life.tell(Event::Building { attempt: 2 }).is_empty());
        assert_eq!(reason(&life), "attempt 1 is being started", "it is of another attempt");
        assert!(life.tell(Event::Building { attempt: 1 }).is_empty());
        assert_eq!(reason(&life), "attempt 1 is being started: packages are being built");
        assert_eq!(life.state(), Starting);
        life.start(1);
        assert!(life.tell(Event::Building { attempt: 1 }).is_empty());
        assert_eq!((reason(&life).as_str(), life.state()), ("started as declared", Running));
    }
}

mod a_missing_program {
    use super::*;

    /// It was not found, and nothing is left of the launch.
    fn lacking(declaration: Declaration) -> Life {
        let mut life = Life::starting(declaration);
        assert!(life.not_started(1, not_found()).is_empty());
        assert!(life.gone(1).is_empty());
        life
    }

    #[rstest]
    fn is_waited_for_and_no_attempt(#[values(Restart::No, Restart::OnFailure, Restart::Always)] restart: Restart) {
        let life = lacking(restarting(restart));
        let status = life.status();
        assert_eq!((status.state, status.outcome, status.exit), (Waiting, None, None));
        assert_eq!((status.attempt, status.attempt_total, status.restarts), (None, None, 0));
        assert_eq!(status.waiting_for, [WaitingFor::Program { program: claude() }]);
        assert_eq!(status.reason.unwrap(), "claude is not in the PATH of user agent");
        assert_eq!(status.error.unwrap(), "claude is not in the PATH of user agent; its PATH is /usr/bin");
        assert_eq!(status.next_start_at, at(3));
        assert!(life.accounts.is_empty(), "it has no history");
    }

    #[test]
    fn is_looked_for_ever_more_rarely() {
        let mut life = lacking(declaration(|policy| policy.backoff = vec![seconds(3), seconds(3), seconds(60)]));
        for (attempt, delay) in [(2, 3), (3, 3), (4, 60), (5, 60)] {
            assert_eq!(life.machine.due(), Some(life.now + seconds(delay)));
            assert_eq!(life.wait(seconds(delay)), [format!("launch {attempt}")]);
            assert_eq!((life.state(), life.status().attempt_total), (Starting, Some(1)));
            life.not_started(attempt, not_found());
            life.gone(attempt);
        }
        assert_eq!(life.reasons, [LaunchReason::First; 5]);
    }

    #[test]
    fn is_not_looked_for_without_a_pause() {
        let mut life = lacking(declaration(|policy| policy.backoff = vec![seconds(0)]));
        assert!(life.wait(Duration::from_millis(999)).is_empty());
        assert_eq!(life.wait(Duration::from_millis(1)), ["launch 2"]);
    }

    #[test]
    fn that_appears_is_the_first_attempt() {
        let mut life = lacking(plain());
        life.wait(seconds(3));
        life.start(2);
        let status = life.status();
        assert_eq!(
            (status.state, status.attempt, status.attempt_total, status.error),
            (Running, Some(1), Some(1), None)
        );
    }

    #[test]
    fn is_looked_for_at_once_on_request_and_on_an_edit() {
        let again: [fn(&mut Life) -> Vec<String>; 3] = [
            |life| life.tell(Event::LookAgain),
            |life| life.update(restarting(Restart::Always)),
            |life| life.declare(launching(launch("a", "y"))),
        ];
        for again in again {
            let mut life = lacking(plain());
            assert_eq!(again(&mut life), ["launch 2"]);
            life.not_started(2, not_found());
            life.gone(2);
            assert_eq!(life.machine.due(), Some(life.now + seconds(3)), "from the first delay on");
        }
    }

    #[test]
    fn is_looked_for_only_while_it_is_missing() {
        let mut life = Life::running(plain());
        assert!(life.tell(Event::LookAgain).is_empty());
        let mut life = Life::over(restarting(Restart::Always), code(1));
        assert!(life.tell(Event::LookAgain).is_empty());
        assert_eq!(life.state(), Backoff);
    }

    #[test]
    fn of_a_restart_counts_once_it_is_found() {
        let mut life = Life::over(
            declaration(|policy| {
                policy.restart = Restart::Always;
                policy.max_restarts = Some(1);
            }),
            code(1),
        );
        life.wait(seconds(3));
        for attempt in 2..5 {
            assert_eq!((life.state(), life.status().restarts), (Starting, 1));
            life.not_started(attempt, not_found());
            life.gone(attempt);
            let status = life.status();
            assert_eq!((status.state, status.restarts, status.attempt_total), (Waiting, 0, Some(1)));
            assert_eq!(status.exit.unwrap().how, code(1), "that of the attempt before");
            life.wait(seconds(3));
        }
        life.start(5);
        assert_eq!((life.status().restarts, life.status().attempt_total), (1, Some(2)));
        life.end(5, code(1));
        assert_eq!(life.status().outcome, Some(Outcome::GaveUp));
    }

    #[test]
    fn is_no_longer_waited_for_when_the_timeout_passes() {
        let mut life = Life::over(
            declaration(|policy| {
                policy.restart = Restart::Always;
                policy.timeout = Some(seconds(10));
                policy.backoff = vec![seconds(3), seconds(60)];
            }),
            code(1),
        );
        life.wait(seconds(3));
        life.not_started(2, not_found());
        life.gone(2);
        life.wait(seconds(3));
        life.not_started(3, not_found());
        life.gone(3);
        assert!(life.wait(seconds(4)).iter().all(|effect| !effect.starts_with("launch")));
        assert_eq!((life.state(), life.status().outcome), (Exited, Some(Outcome::TimedOut)));
    }

    #[test]
    fn is_waited_for_by_the_next_daemon_too() {
        let life = lacking(plain());
        let record = serde_json::to_string(&life.machine).unwrap();
        let mut next = Life::of(serde_json::from_str(&record).unwrap());
        assert!(next.machine.resume().is_empty());
        assert_eq!(next.status(), life.status());
        assert_eq!(next.update(plain()), ["launch 2"]);
    }
}

mod numbers {
    use super::*;

    #[test]
    fn go_on_over_declarations() {
        let mut life = Life::over(restarting(Restart::Always), code(1));
        life.wait(seconds(3));
        life.start(2);
        assert_eq!(life.machine.numbers(), Numbers { attempt: 2, first: 1 });
        life.declare(launching(launch("a", "y")));
        life.end(2, code(0));
        let status = life.status();
        assert_eq!((status.attempt, status.attempt_total), (Some(1), Some(3)));
        assert_eq!(status.reason.unwrap(), "attempt 3 is being started");
        assert_eq!(life.machine.numbers(), Numbers { attempt: 3, first: 3 });
        let told: Vec<_> = life.accounts.iter().map(|past| past.attempt_total).collect();
        assert_eq!(told, [Some(1), Some(2)]);
    }

    #[test]
    fn go_on_after_those_of_the_history() {
        let mut machine = Machine::new(name("a"));
        machine.count_from(7);
        let mut life = Life::of(machine);
        life.declare(plain());
        assert_eq!((life.status().attempt, life.status().attempt_total), (Some(1), Some(8)));
        life.machine.count_from(3);
        assert_eq!(life.status().attempt_total, Some(8));
    }

    #[test]
    fn of_a_launch_that_is_made_up_for_stay() {
        let mut life = Life::starting(plain());
        life.not_started(1, NotStarted::CutOff);
        life.gone(1);
        assert_eq!((life.state(), life.status().attempt_total), (Starting, Some(1)));
    }
}

mod what_changed {
    use super::*;

    fn changed(life: &Life) -> Vec<String> {
        life.status().changed.fields
    }

    #[test]
    fn is_told_of_the_stop_the_attempt_and_the_new_life() {
        let mut life = Life::running(plain());
        let next = launching(launch("a", "y"));
        assert_eq!(life.machine.changes_to(&next), changes(&["args"]));
        life.declare(next);
        assert_eq!(life.status().stopping_because, Some(StoppingBecause::Changed { changes: changes(&["args"]) }));
        assert_eq!(life.status().reason.unwrap(), "args changed; interrupted, will be killed at the deadline");
        life.end(1, code(0));
        assert_eq!((life.accounts[0].reason.as_str(), changed(&life)), ("args changed", vec!["args".to_owned()]));
    }

    #[test]
    fn adds_up_until_something_is_launched() {
        let mut life = Life::running(plain());
        life.declare(launching(launch("a", "y")));
        life.declare(launching(launch("b", "y")));
        assert_eq!(changed(&life), ["args", "session"]);
        life.end(1, code(0));
        life.closed();
        life.start(2);
        life.declare(launching(launch("b", "z")));
        assert_eq!(changed(&life), ["args"]);
    }

    #[test]
    fn of_the_policy_alone_is_found_and_stops_nothing() {
        let mut life = Life::running(plain());
        let next = restarting(Restart::Always);
        assert_eq!(life.machine.changes_to(&next), changes(&["restart"]));
        assert!(life.update(next).is_empty());
        assert_eq!(life.machine.changes_to(&restarting(Restart::Always)), Changes::default());
    }

    #[test]
    fn while_no_daemon_ran_is_found_by_the_next() {
        let life = Life::running(plain());
        let record = serde_json::to_string(&life.machine).unwrap();
        let mut next = Life::of(serde_json::from_str(&record).unwrap());
        let _ = next.machine.resume();
        let edited = Declaration { launch: Ok(launch("b", "y")), ..restarting(Restart::Always) };
        assert_eq!(next.machine.changes_to(&edited), changes(&["args", "restart", "session"]));
        assert_eq!(next.machine.changes_to(&plain()), Changes::default());
    }

    #[test]
    fn is_not_guessed_from_the_record_of_an_earlier_build() {
        let life = Life::running(plain());
        let mut record = serde_json::to_value(&life.machine).unwrap();
        record["declared"].as_object_mut().unwrap().remove("marks").unwrap();
        let mut next = Life::of(serde_json::from_value(record).unwrap());
        let _ = next.machine.resume();
        assert_eq!(next.machine.changes_to(&restarting(Restart::Always)), Changes::default());
    }
}

mod the_default_backoff {
    use super::*;

    fn by_default() -> Declaration {
        declaration(|policy| *policy = Policy { restart: Restart::Always, ..Policy::default() })
    }

    /// Fails the attempt after it has run this long; the delay before the next.
    fn fail(life: &mut Life, attempt: Attempt, ran: Duration) -> Duration {
        life.wait(ran);
        life.end(attempt, code(1));
        let delay = life.machine.due().unwrap().since(life.now);
        life.wait(delay);
        life.start(attempt + 1);
        delay
    }

    #[test]
    fn grows_and_starts_over_after_ten_minutes_of_health() {
        let mut life = Life::running(by_default());
        let brief: Vec<u64> = (1..11).map(|attempt| fail(&mut life, attempt, seconds(1)).as_secs()).collect();
        assert_eq!(brief, [3, 3, 3, 3, 3, 10, 30, 60, 300, 300]);
        assert_eq!(fail(&mut life, 11, seconds(599)), seconds(300), "not healthy for long enough");
        assert_eq!(fail(&mut life, 12, seconds(600)), seconds(3));
        assert_eq!(fail(&mut life, 13, seconds(1)), seconds(3));
    }
}

mod the_history {
    use super::*;

    /// Number, how it ended, why, whether it was started.
    fn told(life: &Life) -> Vec<(u64, String, &str, bool)> {
        let words = |past: &PastAttempt| (past.attempt, past.exit.how.to_string());
        life.accounts
            .iter()
            .map(|past| {
                let (attempt, how) = words(past);
                (attempt, how, past.reason.as_str(), past.started_at.is_some())
            })
            .collect()
    }

    #[test]
    fn tells_of_each_attempt_once_how_and_why_it_ended() {
        let mut life = Life::running(restarting(Restart::Always));
        life.end(1, code(7));
        life.ended(1, code(8));
        life.wait(seconds(3));
        life.start(2);
        life.declare(Declaration { launch: Ok(launch("a", "y")), ..restarting(Restart::Always) });
        life.end(2, ExitStatus::Signal("SIGINT".parse().unwrap()));
        assert_eq!(life.state(), Starting);
        life.not_started(3, NotStarted::Failed("claude: not found".into()));
        life.gone(3);
        let expected = [
            (1, "exited with status 7".to_owned(), "it ended by itself", true),
            (2, "ended by SIGINT".to_owned(), "args changed", true),
            (1, "claude: not found".to_owned(), "it could not be started", false),
        ];
        assert_eq!(told(&life), expected);
    }

    #[test]
    fn knows_an_attempt_that_an_earlier_daemon_launched() {
        let life = Life::running(plain());
        let record = serde_json::to_string(&life.machine).unwrap();
        let mut life = Life::of(serde_json::from_str(&record).unwrap());
        let _ = life.machine.resume();
        life.end(1, code(0));
        assert_eq!(told(&life), [(1, "exited with status 0".to_owned(), "it ended by itself", true)]);
        assert!(life.accounts[0].declared_at <= life.accounts[0].started_at.unwrap());
    }

    #[test]
    fn tells_what_was_launched_and_what_it_took() {
        let mut life = Life::running(plain());
        let usage = Usage { oom_kills: 1, cpu_usec: Some(5), memory_peak: Some(6), printed: None };
        life.tell(Event::Ended { attempt: 1, how: code(1), at: life.now, usage, result: None, evidence: None });
        let past = &life.accounts[0];
        assert_eq!((past.exit.oom_kills, past.cpu_usec, past.memory_peak), (Some(1), Some(5), Some(6)));
        assert!(past.fingerprint.as_ref().is_some_and(|fingerprint| !fingerprint.is_empty()));
    }
}

mod limits {
    use super::*;

    fn limited(tasks: u64) -> Declaration {
        declaration(|policy| {
            policy.limits.tasks = Some(tasks);
            policy.restart = Restart::Always;
        })
    }

    #[test]
    fn are_those_of_the_declaration_at_each_launch() {
        let mut life = Life::new();
        let effects = life.machine.step(Event::Declare(limited(9)), life.now);
        let Some(Effect::Launch { limits, .. }) = effects.first() else { panic!("{effects:?}") };
        assert_eq!(limits.tasks, Some(9));
        life.start(1);
        life.update(limited(8));
        life.end(1, code(0));
        life.now = life.machine.due().unwrap();
        let effects = life.machine.step(Event::Due, life.now);
        let Some(Effect::Launch { limits, .. }) = effects.first() else { panic!("{effects:?}") };
        assert_eq!(limits.tasks, Some(8));
    }

    #[test]
    fn are_changed_for_what_lives_and_only_when_they_have_changed() {
        let mut life = Life::starting(limited(9));
        assert_eq!(life.update(limited(8)), ["limit 1"]);
        life.start(1);
        assert_eq!(life.update(limited(7)), ["limit 1"]);
        assert!(life.update(limited(7)).is_empty());
        assert_eq!(life.state(), Running);
    }

    #[test]
    fn are_applied_again_by_the_next_daemon() {
        let mut life = Life::running(limited(9));
        let effects = life.machine.resume();
        let limits = effects.iter().find_map(|effect| match effect {
            Effect::Limit { attempt: 1, limits } => Some(limits.tasks),
            _ => None,
        });
        assert_eq!(limits, Some(Some(9)));
    }

    #[test]
    fn that_are_not_applied_are_reported_until_they_are() {
        let mut life = Life::running(limited(9));
        let limited = |attempt, error: Option<&str>| Event::Limited { attempt, error: error.map(str::to_owned) };
        life.tell(limited(1, Some("no systemd")));
        assert_eq!(life.status().limits_error.as_deref(), Some("no systemd"));
        life.tell(limited(1, None));
        assert_eq!(life.status().limits_error, None);
        life.tell(limited(1, Some("no systemd")));
        life.end(1, code(0));
        life.wait(seconds(3));
        assert_eq!((life.state(), life.status().limits_error), (Starting, None));
        life.tell(limited(1, Some("late")));
        assert_eq!(life.status().limits_error, None);
    }

    #[test]
    fn that_nobody_asked_for_are_no_error_of_the_agent() {
        let by_default = ByDefault { limits: true, ..ByDefault::default() };
        let mut life = Life::running(declaration(|policy| policy.by_default = by_default));
        life.tell(Event::Limited { attempt: 1, error: Some("no systemd".to_owned()) });
        let status = life.status();
        assert_eq!((status.limits_error, status.default_limits_error.as_deref()), (None, Some("no systemd")));
    }
}

mod what_is_shown {
    use super::*;

    /// Everything that comes and goes with time, in the order of the API.
    type Times = (Option<Time>, Option<Time>, Option<Time>, Option<Time>, Option<Time>);

    fn times(life: &Life) -> Times {
        let status = life.status();
        (status.declared_at, status.started_at, status.next_start_at, status.deadline, status.timeout_at)
    }

    #[test]
    fn is_true_through_a_whole_life() {
        let declaration = timing_out(600);
        let mut life = Life::starting(declaration);
        let shown = |life: &Life| {
            let status = life.status();
            (status.state, status.running, status.pid, status.attempt, status.restarts)
        };
        assert_eq!(shown(&life), (Starting, false, None, Some(1), 0));
        assert_eq!(times(&life), (at(0), None, None, None, None));
        life.wait(seconds(1));
        life.start(1);
        assert_eq!(shown(&life), (Running, true, Some(101), Some(1), 0));
        assert_eq!(times(&life), (at(0), at(1), None, None, at(601)));
        life.wait(seconds(9));
        life.ended(1, code(7));
        assert_eq!(shown(&life), (Backoff, false, None, Some(1), 0));
        assert_eq!(times(&life), (at(0), at(1), at(13), None, at(601)));
        assert_eq!(
            life.status().exit,
            Some(status::Exit { how: code(7), at: at(10).unwrap(), oom_kills: None, silent: false })
        );
        life.gone(1);
        life.wait(seconds(3));
        assert_eq!(shown(&life), (Starting, false, None, Some(2), 1));
        life.wait(seconds(1));
        life.start(2);
        assert_eq!(shown(&life), (Running, true, Some(102), Some(2), 1));
        assert_eq!(times(&life), (at(0), at(14), None, None, at(601)));
        life.wait(seconds(587));
        assert_eq!(shown(&life), (Stopping, true, Some(102), Some(2), 1));
        assert_eq!(times(&life), (at(0), at(14), None, at(631), None));
        life.ended(2, code(0));
        assert_eq!(shown(&life), (Stopping, false, None, Some(2), 1));
        life.gone(2);
        assert_eq!(shown(&life), (Exited, false, None, Some(2), 1));
        assert_eq!(times(&life), (at(0), at(14), None, None, None));
        assert_eq!(life.status().outcome, Some(Outcome::TimedOut));
    }

    #[test]
    fn begins_when_it_happened_whenever_that_was_heard_of() {
        let shown = |life: &Life| (life.state(), life.status().since);
        let mut life = Life::starting(restarting(Restart::OnFailure));
        assert_eq!(shown(&life), (Starting, at(0)));
        let started = life.now + seconds(1);
        life.wait(seconds(5));
        life.tell(Event::Opened { attempt: 1 });
        life.tell(Event::Started { attempt: 1, pid: 101, at: started });
        assert_eq!(shown(&life), (Running, at(1)));
        assert_eq!(life.status().started_at, at(1));
        life.wait(seconds(95));
        life.tell(Event::Ended {
            attempt: 1,
            how: code(0),
            at: started + seconds(8),
            usage: Usage::default(),
            result: None,
            evidence: None,
        });
        assert_eq!(shown(&life), (Exited, at(9)));
        assert_eq!(life.status().exit.map(|exit| exit.at), at(9));
        life.gone(1);
        assert_eq!(shown(&life), (Exited, at(9)));
        life.remove();
        assert_eq!(shown(&life), (Stopping, at(100)));
    }

    #[test]
    fn a_completion_at_once_without_output_is_silent() {
        let silent = |after: u64, status, printed| {
            let mut life = Life::running(restarting(Restart::Always));
            life.wait(Duration::from_millis(after));
            let usage = Usage { printed, ..Usage::default() };
            life.tell(Event::Ended {
                attempt: 1,
                how: code(status),
                at: life.now,
                usage,
                result: None,
                evidence: None,
            });
            let reason = life.status().reason.unwrap();
            let is_said = reason.starts_with("exited with status 0 in under 2 s and printed nothing");
            life.gone(1);
            // The next attempt does not change what is known of this one.
            life.wait(seconds(3));
            life.start(2);
            assert_eq!(life.status().exit.unwrap().silent, is_said, "{reason}");
            is_said
        };
        assert!(silent(1_999, 0, Some(false)));
        assert!(!silent(2_000, 0, Some(false)));
        assert!(!silent(100, 1, Some(false)));
        assert!(!silent(100, 0, Some(true)));
        assert!(!silent(100, 0, None), "a launcher of an earlier build does not say");
    }

    #[test]
    fn begins_when_nothing_is_left_if_it_was_stopped() {
        let mut life = Life::running(timing_out(10));
        life.wait(seconds(10));
        assert_eq!((life.state(), life.status().since), (Stopping, at(10)));
        life.wait(seconds(1));
        life.ended(1, code(0));
        life.wait(seconds(1));
        life.gone(1);
        assert_eq!((life.state(), life.status().since), (Exited, at(12)));
    }

    #[test]
    fn names_the_reason_in_a_persons_words() {
        let reason = |life: &Life| life.status().reason.unwrap();
        let limited = declaration(|policy| {
            policy.restart = Restart::OnFailure;
            policy.max_restarts = Some(1);
        });
        let mut life = Life::starting(limited);
        assert_eq!(reason(&life), "attempt 1 is being started");
        life.start(1);
        assert_eq!(reason(&life), "started as declared");
        life.end(1, code(3));
        assert_eq!(reason(&life), "exited with status 3; restart 1 of 1 follows");
        life.wait(seconds(3));
        life.start(2);
        assert_eq!(reason(&life), "restarted by policy, restart 1 of 1");
        life.end(2, ExitStatus::Signal("SIGSEGV".parse().unwrap()));
        assert_eq!(reason(&life), "ended by SIGSEGV; `max_restarts = 1` is reached");
        life.remove();
        assert_eq!(reason(&life), "its session is being closed");
    }

    /// What it waits for.
    fn waits(life: &Life) -> Vec<WaitingFor> {
        life.status().waiting_for
    }

    /// Why it is being stopped, and how far that has come.
    fn stops(life: &Life) -> Option<(StoppingBecause, StopStage)> {
        let status = life.status();
        status.stopping_because.zip(status.stop_stage)
    }

    #[test]
    fn says_as_data_what_is_waited_for() {
        let backoff = || WaitingFor::Backoff { restart: 1, max_restarts: Some(2) };
        let limited = || {
            declaration(|policy| {
                policy.restart = Restart::Always;
                policy.max_restarts = Some(2);
            })
        };
        let mut life = Life::new();
        life.tell(Event::Reject("3:1: no harness".into()));
        assert_eq!(waits(&life), [WaitingFor::Entry {}]);
        life.declare(missing(limited()));
        assert_eq!(waits(&life), [WaitingFor::Workdir { path: "/w".into(), problem: Problem::Absent {} }]);
        life.update(limited());
        assert_eq!(waits(&life), []);
        life.not_started(1, retry("busy"));
        assert_eq!(waits(&life), [WaitingFor::Retry {}, WaitingFor::PreviousAttempt {}]);
        life.gone(1);
        assert_eq!(waits(&life), [WaitingFor::Retry {}]);
        life.wait(seconds(1));
        life.start(2);
        assert_eq!(waits(&life), []);
        life.ended(2, code(1));
        assert_eq!(waits(&life), [backoff(), WaitingFor::PreviousAttempt {}]);
        life.gone(2);
        assert_eq!(waits(&life), [backoff()]);
        let mut life = Life::running(plain());
        life.ended(1, code(0));
        assert_eq!((life.state(), waits(&life)), (Exited, vec![]));
        life.declare(launching(launch("a", "y")));
        assert_eq!((life.state(), waits(&life)), (Backoff, vec![WaitingFor::PreviousAttempt {}]));
        let mut life = Life::starting(plain());
        life.tell(Event::SessionBusy { attempt: 1, holder: name("b") });
        assert_eq!(waits(&life), [WaitingFor::Session { name: Some("a".into()), holder: "b".into() }]);
        let mut life = Life::over(restarting(Restart::Always), code(1));
        let _ = life.machine.resume();
        life.wait(seconds(3));
        assert_eq!((life.state(), waits(&life)), (Waiting, vec![WaitingFor::Unread {}]));
    }

    #[test]
    fn says_as_data_why_it_is_being_stopped() {
        use StopStage::{Clearing, Closing, Interrupted, Killed};
        use StoppingBecause::{Removed, Shutdown, TimedOut};
        let changed = || StoppingBecause::Changed { changes: changes(&["restart", "session", "timeout"]) };
        let mut life = Life::running(timing_out(60));
        assert_eq!(stops(&life), None);
        life.wait(seconds(60));
        assert_eq!(stops(&life), Some((TimedOut {}, Interrupted)));
        life.declare(launching(launch("b", "x")));
        assert_eq!(stops(&life), Some((changed(), Interrupted)));
        life.ended(1, code(0));
        assert_eq!(stops(&life), Some((changed(), Clearing)));
        life.wait(seconds(10));
        assert_eq!(stops(&life), Some((changed(), Killed)));
        assert_eq!(life.gone(1), ["close a"]);
        assert_eq!(stops(&life), Some((changed(), Closing)));
        life.remove();
        assert_eq!(stops(&life), Some((Removed {}, Closing)));
        let mut life = Life::running(plain());
        life.remove();
        assert_eq!(stops(&life), Some((Removed {}, Interrupted)));
        life.tell(Event::Remove(Removal::Shutdown));
        assert_eq!(stops(&life), Some((Shutdown {}, Interrupted)));
        let reason = "agentd is being stopped; interrupted, will be killed at the deadline";
        assert_eq!(life.status().reason.as_deref(), Some(reason));
        let text = serde_json::to_string(&life.machine).unwrap();
        life.machine = serde_json::from_str(&text).unwrap();
        assert_eq!(stops(&life), Some((Shutdown {}, Interrupted)), "the next daemon");
        life.end(1, code(0));
        assert_eq!(life.accounts.last().map(|past| past.reason.as_str()), Some("agentd is being stopped"));
        life.declare(plain());
        life.remove();
        assert_eq!(stops(&life), Some((Removed {}, Closing)));
    }

    #[test]
    fn names_a_lack_of_memory() {
        let ended = |oom_kills, memory: Option<u64>| {
            let mut life = Life::running(declaration(|policy| policy.limits.memory = memory));
            let how = ExitStatus::Signal("SIGKILL".parse().unwrap());
            life.tell(Event::Ended {
                attempt: 1,
                how,
                at: life.now,
                usage: Usage { oom_kills, ..Usage::default() },
                result: None,
                evidence: None,
            });
            let status = life.status();
            (status.reason.unwrap(), status.exit.unwrap().oom_kills)
        };
        assert_eq!(ended(0, Some(2 << 30)), ("ended by SIGKILL".to_owned(), None));
        let one =
            "ended by SIGKILL; the kernel killed 1 of its processes for lack of memory, of which it may have 2 GiB";
        assert_eq!(ended(1, Some(2 << 30)), (one.to_owned(), Some(1)));
        let many = "ended by SIGKILL; the kernel killed 3 of its processes for lack of memory";
        assert_eq!(ended(3, None), (many.to_owned(), Some(3)));
    }

    #[test]
    fn names_a_lack_of_memory_in_a_sandbox() {
        let sandbox = Sandbox {
            engine: Engine::Bwrap,
            program: None,
            read: Vec::new(),
            write: Vec::new(),
            home: Home::Kept,
            seed: Vec::new(),
            network: Network::Host,
            proxy: None,
        };
        let limited = declaration(|policy| policy.limits.memory = Some(2 << 30));
        let mut life = Life::running(Declaration { kind: Kind::Sandboxed(sandbox), ..limited });
        // The harness has ended as the process inside the sandbox says. The control group counts what the kernel killed in it.
        let usage = Usage { oom_kills: 2, ..Usage::default() };
        life.tell(Event::Ended {
            attempt: 1,
            how: ExitStatus::of_signal(9),
            at: life.now,
            usage,
            result: None,
            evidence: None,
        });
        let status = life.status();
        assert_eq!(status.kind.as_deref(), Some("sandboxed"));
        assert_eq!(
            status.reason.as_deref(),
            Some(
                "ended by SIGKILL; the kernel killed 2 of its processes for lack of memory, of which it may have 2 GiB"
            )
        );
    }

    #[test]
    fn is_a_session_only_from_when_it_was_made_until_it_is_closed() {
        let session = |life: &Life| life.status().session;
        let mut life = Life::starting(plain());
        assert_eq!(session(&life), "");
        life.not_started(1, retry("a tmux session named a is there"));
        life.gone(1);
        assert_eq!(session(&life), "");
        assert_eq!(life.wait(seconds(1)), ["launch 2"]);
        life.tell(Event::Opened { attempt: 2 });
        assert_eq!(session(&life), "a");
        life.not_started(2, failed("claude: not found"));
        life.gone(2);
        assert_eq!((session(&life), life.remove()), ("a".to_owned(), vec!["close a".to_owned()]));
        life.declare(launching(launch("b", "x")));
        assert_eq!((session(&life), life.closed()), ("a".to_owned(), vec!["launch 3".to_owned()]));
        assert_eq!(session(&life), "");
        assert_eq!(life.remove(), ["interrupt 3"]);
        life.not_started(3, retry("it was stopped before it started"));
        assert_eq!(life.gone(3), ["close b"], "it may be there");
    }

    #[test]
    fn is_the_name_and_harness_as_last_written() {
        let mut life = Life::running(plain());
        life.machine.describe(name("A"), Some("claude-code"), None);
        life.machine.describe(name("A"), None, None);
        let status = life.status();
        assert_eq!((status.name.as_str(), status.harness.as_deref()), ("A", Some("claude-code")));
        assert_eq!(status.kind.as_deref(), Some("native"));
    }
}

mod a_record {
    use super::*;

    /// That of an agent whose first attempt runs, with this in place of that.
    fn with(place: &str, value: &serde_json::Value) -> Result<Machine, serde_json::Error> {
        let mut record = serde_json::to_value(&Life::running(restarting(Restart::Always)).machine).unwrap();
        *record.pointer_mut(place).unwrap() = value.clone();
        serde_json::from_value(record)
    }

    #[rstest]
    #[case("/declared", serde_json::json!(null), "no declaration")]
    #[case("/leaving", serde_json::json!(true), "leaving")]
    #[case("/attempt", serde_json::json!(7), "another attempt")]
    #[case("/lingering", serde_json::json!({"attempt": 7, "kill_at": START}), "another attempt")]
    #[case("/state/running/pid", serde_json::json!(-1), "the id of its process")]
    #[case("/state/running/pid", serde_json::json!(1), "the id of its process")]
    fn that_contradicts_itself_is_refused(#[case] place: &str, #[case] value: serde_json::Value, #[case] reason: &str) {
        let error = with(place, &value).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn of_a_session_being_closed_that_there_is_not_is_refused() {
        let mut life = Life::over(plain(), code(0));
        life.remove();
        let mut record = serde_json::to_value(&life.machine).unwrap();
        serde_json::from_value::<Machine>(record.clone()).unwrap();
        *record.pointer_mut("/session").unwrap() = serde_json::json!(null);
        serde_json::from_value::<Machine>(record).unwrap_err();
    }

    #[rstest]
    #[case("/declared/attempts")]
    #[case("/declared/restarts")]
    #[case("/declared/in_a_row")]
    #[case("/declared/retries")]
    fn with_the_largest_numbers_is_lived_on(#[case] place: &str) {
        let most = if place.ends_with("retries") { u64::from(u32::MAX) } else { u64::MAX };
        let mut life = Life::of(with(place, &serde_json::json!(most)).unwrap());
        let _ = life.machine.resume();
        life.update(restarting(Restart::Always));
        life.end(1, code(1));
        assert!(life.status().reason.is_some());
        life.wait(seconds(3));
        assert_eq!(life.state(), Starting);
        life.not_started(2, retry("tmux does not answer"));
        assert_eq!(life.state(), Backoff);
    }

    #[test]
    fn of_the_last_attempt_that_can_be_counted_is_lived_on() {
        let record = serde_json::to_string(&Life::running(restarting(Restart::Always)).machine).unwrap();
        let last = record.replace(r#""attempt":1"#, &format!(r#""attempt":{}"#, u64::MAX));
        let mut life = Life::of(serde_json::from_str(&last).unwrap());
        let _ = life.machine.resume();
        life.update(restarting(Restart::Always));
        life.end(u64::MAX, code(1));
        life.wait(seconds(3));
        assert_eq!(life.state(), Starting);
    }
}

mod a_launcher {
    use super::*;

    #[rstest]
    #[case(i32::MIN)]
    #[case(-1)]
    #[case(0)]
    #[case(1)]
    fn that_names_the_id_of_no_process_is_not_believed(#[case] pid: i32) {
        let mut life = Life::starting(plain());
        life.tell(Event::Started { attempt: 1, pid, at: life.now });
        assert_eq!((life.state(), life.status().pid), (Starting, None));
        life.end(1, code(0));
        life.assert_over(Outcome::Completed);
    }
}
