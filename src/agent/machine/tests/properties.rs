//! What holds whatever happens, in whatever order: a machine against a world that plays the part of its effects.

use std::collections::BTreeMap;
use std::env;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use super::*;
use crate::agent::hold;
use crate::agent::orders::Override;
use crate::agent::rotation::Rotation;

/// Two thousand cases, the same each time, unless the environment says otherwise (`PROPTEST_CASES`, `PROPTEST_RNG_SEED`).
fn config() -> Config {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 2_000;
    }
    if env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(1);
    }
    config
}

/// What a person, the system or the clock does next.
#[derive(Clone, Debug)]
enum Move {
    Declare(Declaration),
    /// Changes the policy, and whether something is missing; what is launched stays.
    Update(Policy, bool),
    Reject,
    /// Changes what operators want.
    Order(Orders),
    Remove,
    /// The attempt that there is goes on in this way, if that is possible.
    Goes(Way),
    /// The session that is to be closed is, or not.
    Closes(bool),
    /// Other agents have all sessions that are not the agent's own, or none any more.
    Others(bool),
    /// Something that was said before is said again.
    Again(usize),
    /// Time passes, and whatever is due is noticed in time.
    Wait(Duration),
    /// Time passes unnoticed until after the next move.
    Sleep(Duration),
    /// Somebody asks to look for the program again.
    LookAgain,
    /// What was to be done is done: what was killed dies, what was to close closes, what was to start starts.
    Obey,
    /// The daemon is cut off, this happens, and the next one takes up.
    Crash(Option<Way>),
    /// The daemon is cut off as soon as it has put the next change on record, before it does anything about it.
    CutOff,
}

#[derive(Clone, Debug)]
enum Way {
    Opens,
    Starts,
    Fails(NotStarted),
    Ends(ExitStatus),
    Goes,
}

/// A number that is used up choice by choice: much faster than a strategy for each of them.
struct Choices(u64);

impl Choices {
    fn below(&mut self, count: u64) -> u64 {
        let choice = self.0 % count;
        self.0 /= count;
        choice
    }

    fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap()].clone()
    }

    fn policy(&mut self) -> Policy {
        Policy {
            resume: crate::agent::conversation::Resume::Never,
            restart: self.one_of(&[Restart::Always, Restart::OnFailure, Restart::No]),
            max_restarts: self.one_of(&[None, None, Some(1), Some(3)]),
            timeout: self.one_of(&[None, None, Some(1), Some(10), Some(100)]).map(seconds),
            idle_timeout: self.one_of(&[None, None, Some(1), Some(10)]).map(seconds),
            grace_period: seconds(self.one_of(&[30, 1, 0])),
            backoff: self.one_of::<&[u64]>(&[&[3], &[0], &[1, 60], &[0, 1, 3]]).iter().copied().map(seconds).collect(),
            backoff_reset: self.one_of(&[None, Some(10), Some(0)]).map(seconds),
            limits: Limits { tasks: self.one_of(&[None, None, Some(9)]), ..Limits::default() },
            enabled: self.below(8) != 7,
            generation: self.one_of(&[0, 0, 0, 1, 2, 5]),
            by_default: ByDefault::default(),
            rotation: Rotation::default(),
            hold: self.one_of(&OnHold::ALL),
            hold_retry: hold::RETRY,
            labels: self.one_of(&[BTreeMap::new(), [("team".to_owned(), "x".to_owned())].into()]),
            max_cost: None,
            results: None,
        }
    }

    fn orders(&mut self) -> Orders {
        let own = Override {
            enabled: self.one_of(&[None, Some(false), Some(false), Some(true)]),
            generation: self.one_of(&[None, Some(1), Some(2), Some(3), Some(7), Some(9)]),
            now: self.below(4) == 3,
            ..Override::default()
        };
        let pause = Override { enabled: Some(false), ..Override::default() };
        Orders { own: (self.below(4) != 3).then_some(own), pause: (self.below(4) == 3).then_some(pause) }
    }

    fn declaration(&mut self) -> Declaration {
        let launch = launch(self.one_of(&["a", "a", "b"]), self.one_of(&["x", "y"]));
        let is_missing = self.below(5) == 4;
        let declaration = Declaration { policy: self.policy(), ..launching(launch) };
        if is_missing { missing(declaration) } else { declaration }
    }

    fn way(&mut self) -> Way {
        match self.below(16) {
            0..4 => Way::Starts,
            4..8 => Way::Goes,
            8 => Way::Ends(code(0)),
            9..11 => Way::Ends(code(3)),
            11 => Way::Ends(ExitStatus::Signal("SIGKILL".parse().unwrap())),
            12 => Way::Fails(failed("no such program")),
            13 => Way::Fails(retry("tmux does not answer")),
            14 => Way::Fails(not_found()),
            _ => Way::Opens,
        }
    }

    fn time(&mut self) -> Duration {
        let most = self.one_of(&[5_000, 120_000]);
        Duration::from_millis(self.below(most))
    }

    fn a_move(mut self) -> Move {
        match self.below(50) {
            0..5 => Move::Obey,
            5..17 => Move::Goes(self.way()),
            17..25 => Move::Wait(self.time()),
            25 => Move::Sleep(self.time()),
            26..28 => Move::Closes(self.below(10) < 7),
            28..30 => Move::Again(usize::try_from(self.below(100)).unwrap()),
            30..32 => Move::Declare(self.declaration()),
            32..34 => Move::Update(self.policy(), self.below(10) < 3),
            34 => Move::Remove,
            35..37 => Move::Others(self.below(2) == 0),
            37..40 => Move::Crash(None),
            40..42 => Move::Crash(Some(self.way())),
            42..44 => Move::CutOff,
            44..48 => Move::Order(self.orders()),
            48 => Move::LookAgain,
            _ => Move::Reject,
        }
    }
}

/// The end of an attempt, of which nothing else is known.
fn ended(attempt: Attempt, how: ExitStatus, at: Timestamp) -> Event {
    Event::Ended { attempt, how, at, usage: Usage::default(), result: None, evidence: None }
}

fn a_declaration() -> impl Strategy<Value = Declaration> {
    any::<u64>().prop_map(|number| Choices(number).declaration())
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    prop::collection::vec(any::<u64>().prop_map(|number| Choices(number).a_move()), 1..60)
}

/// How far an attempt has really come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Pending,
    Alive(i32),
    /// Its harness has ended or will never be.
    Over,
}

/// An attempt of which something is left.
#[derive(Debug)]
struct Real {
    attempt: Attempt,
    phase: Phase,
    killed: bool,
    /// Whether it belongs to the declaration that is in force now.
    is_of_present: bool,
    /// Why it was launched.
    reason: LaunchReason,
}

/// What is remembered of the declaration in force, to hold the machine to.
#[derive(Debug)]
struct InForce {
    launch: Option<Arc<Launch>>,
    policy: Policy,
    is_missing: bool,
    attempts: u64,
    is_cut_off: bool,
    restarts: u64,
    first_started: Option<Timestamp>,
    exit: Option<ExitStatus>,
}

/// Whether an agent that was under these orders and this policy begins a new life under those.
fn may_begin_a_life(before: &Orders, policy_before: &Policy, after: &Orders, policy: &Policy) -> bool {
    let is_enabled = after.enables(policy) && !before.enables(policy_before);
    is_enabled || after.generation(policy) > before.generation(policy_before)
}

/// All there is: the machine, and what its effects have brought about.
#[allow(clippy::struct_excessive_bools, reason = "they have nothing to do with each other")]
struct World {
    machine: Machine,
    now: Timestamp,
    real: Option<Real>,
    /// The session that is open, or may be.
    open: Option<Name>,
    /// The one that was said to be open.
    known: Option<Name>,
    /// Whether it was asked to be closed and nothing was answered yet.
    is_closing: bool,
    /// Whether other agents have all other sessions.
    is_busy: bool,
    in_force: Option<InForce>,
    is_wanted: bool,
    /// The greatest number an attempt has had.
    latest: Attempt,
    said: Vec<Event>,
    /// Whether the daemon is to be cut off at the next change.
    is_doomed: bool,
    /// What operators want.
    orders: Orders,
    /// Whether an order may begin a new life that has not begun yet.
    may_renew: bool,
}

impl World {
    fn new() -> Self {
        Self {
            machine: Machine::new(name("a")),
            now: START,
            real: None,
            open: None,
            known: None,
            is_closing: false,
            is_busy: false,
            in_force: None,
            is_wanted: false,
            latest: 0,
            said: Vec::new(),
            is_doomed: false,
            orders: Orders::default(),
            may_renew: false,
        }
    }

    /// Does it, unless the world that is would not.
    fn go(&mut self, next: Move) {
        match next {
            Move::Declare(declaration) => self.declare(declaration),
            Move::Update(policy, is_missing) => self.update(policy, is_missing),
            Move::Order(orders) => self.order(orders),
            Move::Reject => self.tell(Event::Reject("3:1: wrong".to_owned())),
            Move::Remove => self.remove(),
            Move::Goes(way) => self.goes(way),
            Move::Closes(well) => self.closes(if well { Ok(()) } else { Err("no answer".to_owned()) }),
            Move::Others(are_there) => self.others(are_there),
            Move::Again(number) if !self.said.is_empty() => self.tell(self.said[number % self.said.len()].clone()),
            Move::Again(_) => {}
            Move::Wait(time) => self.wait(time),
            Move::Sleep(time) => {
                self.now = self.now + time;
                return;
            }
            Move::LookAgain => self.tell(Event::LookAgain),
            Move::Obey => self.obey(),
            Move::Crash(meanwhile) => self.crash(meanwhile),
            Move::CutOff => {
                self.is_doomed = true;
                return;
            }
        }
        self.notice();
    }

    fn declare(&mut self, declaration: Declaration) {
        // Who was declared in between is another with the same name: the supervisor makes a new machine.
        if self.machine.is_gone() {
            let orders = std::mem::take(&mut self.orders);
            *self = Self { now: self.now, is_busy: self.is_busy, ..Self::new() };
            self.order(orders);
        }
        self.may_renew = false;
        self.is_wanted = true;
        if let Some(real) = &mut self.real {
            real.is_of_present = false;
        }
        self.in_force = Some(InForce {
            launch: declaration.launch.clone().ok(),
            policy: declaration.policy.clone(),
            is_missing: declaration.launch.is_err(),
            attempts: 0,
            is_cut_off: false,
            restarts: 0,
            first_started: None,
            exit: None,
        });
        self.tell(Event::Declare(declaration));
    }

    fn update(&mut self, policy: Policy, is_missing: bool) {
        let Some(in_force) = self.in_force.as_mut().filter(|_| self.is_wanted) else { return };
        self.may_renew |= may_begin_a_life(&self.orders, &in_force.policy, &self.orders, &policy);
        in_force.policy = policy.clone();
        in_force.is_missing = is_missing;
        let declaration = Declaration { policy, ..plain() };
        let declaration = if is_missing {
            missing(declaration)
        } else {
            let launch = in_force.launch.get_or_insert_with(|| launch("a", "x"));
            Declaration { launch: Ok(Arc::clone(launch)), ..declaration }
        };
        self.tell(Event::Update(declaration));
    }

    fn order(&mut self, orders: Orders) {
        if let Some(in_force) = &self.in_force {
            self.may_renew |= may_begin_a_life(&self.orders, &in_force.policy, &orders, &in_force.policy);
        }
        self.orders = orders.clone();
        self.tell(Event::Ordered(orders));
    }

    /// A new life begins, if an order asked for one.
    fn renew(&mut self, effects: &[Effect]) {
        let Some(in_force) = &mut self.in_force else { return };
        let is_launch = |effect: &Effect| matches!(effect, Effect::Launch { reason: LaunchReason::Restarted, .. });
        let is_new = self.machine.status().attempt.is_none() && in_force.attempts > 0;
        if is_new || effects.iter().any(is_launch) {
            assert!(self.may_renew || in_force.attempts == 0, "a new life that nobody asked for");
            self.may_renew = false;
            (in_force.attempts, in_force.restarts, in_force.is_cut_off) = (0, 0, false);
            (in_force.first_started, in_force.exit) = (None, None);
            self.real.iter_mut().for_each(|real| real.is_of_present = false);
        }
    }

    fn is_disabled(&self) -> bool {
        self.in_force.as_ref().is_some_and(|in_force| !self.orders.enables(&in_force.policy))
    }

    fn remove(&mut self) {
        self.is_wanted = false;
        self.tell(Event::Remove(Removal::Undeclared));
    }

    fn goes(&mut self, way: Way) {
        let Some(real) = &mut self.real else { return };
        let attempt = real.attempt;
        let is_stopping = self.machine.status().state == Stopping;
        let in_force = self.in_force.as_mut().filter(|_| real.is_of_present);
        match (way, real.phase) {
            (Way::Opens, Phase::Pending) => {
                self.known.clone_from(&self.open);
                self.tell_news(Event::Opened { attempt });
            }
            (Way::Starts, Phase::Pending) if self.known.is_none() => {
                self.goes(Way::Opens);
                self.goes(Way::Starts);
            }
            (Way::Starts, Phase::Pending) => {
                let pid = 100 + i32::try_from(attempt).unwrap();
                real.phase = Phase::Alive(pid);
                if let Some(in_force) = in_force {
                    in_force.first_started.get_or_insert(self.now);
                }
                self.tell_news(Event::Started { attempt, pid, at: self.now });
            }
            (Way::Fails(why), Phase::Pending) => {
                real.phase = Phase::Over;
                match (in_force.filter(|_| !is_stopping), &why) {
                    (Some(in_force), NotStarted::Failed(message)) => {
                        in_force.exit = Some(ExitStatus::Cause(message.clone()));
                    }
                    // It is none after all.
                    (Some(in_force), NotStarted::NotFound(_) | NotStarted::Unbuilt(_) | NotStarted::Unreached(_))
                        if real.reason == LaunchReason::Recovery =>
                    {
                        in_force.is_cut_off = true;
                    }
                    (Some(in_force), NotStarted::NotFound(_) | NotStarted::Unbuilt(_) | NotStarted::Unreached(_)) => {
                        in_force.attempts -= 1;
                        in_force.restarts -= u64::from(real.reason == LaunchReason::Policy);
                    }
                    _ => {}
                }
                self.tell_news(Event::NotStarted { attempt, why });
            }
            (Way::Ends(how), Phase::Alive(_)) => {
                real.phase = Phase::Over;
                if let Some(in_force) = in_force {
                    in_force.exit = Some(how.clone());
                }
                self.tell_news(ended(attempt, how, self.now));
            }
            (Way::Goes, phase) => {
                let is_unreported = phase != Phase::Over && !(phase == Phase::Pending && is_stopping);
                if let Some(in_force) = in_force.filter(|_| is_unreported) {
                    in_force.exit = Some(ExitStatus::Cause("its end was not reported".to_owned()));
                }
                self.real = None;
                self.tell_news(Event::Gone { attempt });
            }
            _ => {}
        }
    }

    fn closes(&mut self, result: Result<(), String>) {
        if !std::mem::take(&mut self.is_closing) {
            return;
        }
        if result.is_ok() {
            (self.open, self.known) = (None, None);
        }
        self.tell(Event::Closed(result));
    }

    fn others(&mut self, are_there: bool) {
        if std::mem::replace(&mut self.is_busy, are_there) && !are_there {
            self.tell(Event::SessionFree);
        }
    }

    fn obey(&mut self) {
        self.others(false);
        if self.is_closing {
            return self.closes(Ok(()));
        }
        match &self.real {
            Some(Real { phase: Phase::Pending, killed: false, .. }) => self.goes(Way::Starts),
            Some(Real { phase: Phase::Alive(_), killed: true, .. }) => self.goes(Way::Ends(code(137))),
            Some(Real { killed: true, .. } | Real { phase: Phase::Over, .. }) => self.goes(Way::Goes),
            _ => {}
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        self.notice();
        while let Some(due) = self.machine.due().filter(|&due| due <= end) {
            self.now = due;
            self.notice();
        }
        self.now = end;
    }

    /// As after each event: what is due is told, once.
    fn notice(&mut self) {
        if self.machine.due().is_some_and(|due| due <= self.now) {
            let before = self.machine.status();
            let (launched, was_doomed) = (self.latest, self.is_doomed);
            self.tell(Event::Due);
            // The next daemon starts what waits for it.
            let is_next = was_doomed && !self.is_doomed;
            let may_start = is_next
                || [Backoff, Waiting].contains(&before.state)
                    && before.next_start_at.is_some_and(|at| at.0 <= self.now.wall());
            assert!(may_start || self.latest == launched, "a start that nobody waited for, in {before:?}");
            // It has read the declaration, by which something else may be due.
            if is_next {
                return self.notice();
            }
        }
        assert!(self.machine.due().is_none_or(|due| due > self.now), "due again at once");
    }

    fn tell_news(&mut self, event: Event) {
        self.said.push(event.clone());
        self.tell(event);
    }

    fn tell(&mut self, event: Event) {
        let was_over = self.machine.status().outcome.is_some();
        let may_revive = matches!(event, Event::Declare(_) | Event::Update(_) | Event::Ordered(_));
        let effects = self.machine.step(event, self.now);
        self.renew(&effects);
        let is_launch = |effect: &Effect| matches!(effect, Effect::Launch { .. });
        assert!(!was_over || may_revive || !effects.iter().any(is_launch), "what is over starts again by itself");
        if !effects.is_empty() && std::mem::take(&mut self.is_doomed) {
            for effect in effects {
                if let Effect::Launch { attempt, launch, .. } = effect {
                    self.count(attempt, &launch);
                }
            }
            return self.crash(None);
        }
        for effect in effects {
            self.carry_out(effect);
        }
        self.check();
    }

    /// Another daemon with nothing but the record, which is then told the same declaration.
    fn crash(&mut self, meanwhile: Option<Way>) {
        if self.machine.is_gone() {
            return;
        }
        let text = serde_json::to_string(&self.machine).unwrap();
        assert!(!text.contains(SECRET), "{text}");
        self.machine = serde_json::from_str(&text).unwrap();
        (self.is_doomed, self.is_closing) = (false, false);
        let mut resumed = None;
        for effect in self.machine.resume() {
            match effect {
                Effect::Resume { attempt, .. } => {
                    assert_eq!(resumed.replace(attempt), None, "resumes two");
                }
                Effect::Interrupt { attempt } => assert_eq!(resumed, Some(attempt)),
                Effect::Kill { attempt } => {
                    assert_eq!(resumed, Some(attempt));
                    self.real.iter_mut().for_each(|real| real.killed = true);
                }
                other => self.carry_out(other),
            }
        }
        if let Some(attempt) = resumed {
            self.resume(attempt, meanwhile);
        } else {
            assert!(self.real.is_none(), "forgets an attempt");
        }
        self.check();
        if let Some(InForce { policy, is_missing, .. }) = &self.in_force {
            self.update(policy.clone(), *is_missing);
        }
    }

    /// What the launcher, or in its absence tmux, tells the next daemon.
    fn resume(&mut self, attempt: Attempt, meanwhile: Option<Way>) {
        let is_starting = self.machine.status().state == Starting;
        let Some(real) = &mut self.real else {
            return self.make_up(attempt, is_starting);
        };
        assert_eq!(real.attempt, attempt);
        let in_force = self.in_force.as_mut().filter(|_| real.is_of_present);
        match (real.phase, meanwhile) {
            (Phase::Pending, _) => self.make_up(attempt, is_starting),
            (Phase::Alive(_), Some(Way::Ends(how))) => {
                real.phase = Phase::Over;
                if let Some(in_force) = in_force {
                    in_force.exit = Some(how.clone());
                }
                self.tell_news(ended(attempt, how, self.now));
            }
            (Phase::Alive(pid), _) => self.tell(Event::Started { attempt, pid, at: self.now }),
            // It was told before, and is told once more.
            (Phase::Over, None) => {
                self.tell(ended(attempt, code(99), self.now));
            }
            (Phase::Over, Some(_)) => self.goes(Way::Goes),
        }
    }

    fn make_up(&mut self, attempt: Attempt, is_starting: bool) {
        if let Some(in_force) = self.in_force.as_mut().filter(|_| is_starting) {
            in_force.is_cut_off = true;
        }
        self.real = Some(Real {
            attempt,
            phase: Phase::Over,
            killed: false,
            is_of_present: false,
            reason: LaunchReason::Retry,
        });
        self.tell(Event::NotStarted { attempt, why: NotStarted::CutOff });
        self.real = None;
        self.tell(Event::Gone { attempt });
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Launch { attempt, launch, reason, .. } => self.launch(attempt, &launch, reason),
            Effect::Resume { .. } => panic!("takes up what it has not left"),
            Effect::Interrupt { attempt } => {
                assert_eq!(self.real.as_ref().map(|real| real.attempt), Some(attempt), "interrupts what is not");
            }
            Effect::InterruptAgain { attempt } => {
                let real = self.real.as_ref().filter(|real| real.attempt == attempt).expect("interrupts what is not");
                assert!(!real.killed, "interrupts what was killed");
            }
            Effect::Account(_)
            | Effect::Renew { .. }
            | Effect::ReadScreen { .. }
            | Effect::Answer { .. }
            | Effect::Approval(_) => {}
            Effect::Limit { attempt, limits } => {
                // One that ended while no daemon ran is not there any more.
                if self.real.as_ref().is_some_and(|real| real.attempt == attempt) {
                    self.tell(Event::Limited { attempt, error: limits.is_any().then(|| "no systemd".to_owned()) });
                }
            }
            Effect::Kill { attempt } => {
                let real = self.real.as_mut().filter(|real| real.attempt == attempt).expect("kills what is not");
                real.killed = true;
            }
            Effect::Close { session, .. } => {
                assert!(self.real.is_none(), "closes the session of something that is left");
                assert!(!std::mem::replace(&mut self.is_closing, true), "closes what is closing");
                assert_eq!(self.open, Some(session));
            }
            Effect::OfferShell { session, .. } => assert_eq!(self.open, Some(session)),
        }
    }

    fn launch(&mut self, attempt: Attempt, launch: &Arc<Launch>, reason: LaunchReason) {
        assert!(self.real.is_none(), "two attempts at once");
        assert!(self.is_wanted, "launches what is wanted no more");
        assert!(!self.is_closing, "launches into a session that is closing");
        assert!(!self.is_disabled(), "launches what must not run");
        assert!(self.orders.pause.is_none(), "launches in a pause");
        assert!(self.open.as_ref().is_none_or(|open| *open == launch.session), "leaves a session behind");
        let in_force = self.in_force.as_mut().unwrap();
        assert!(!in_force.is_missing, "launches although something is missing");
        assert_eq!(in_force.launch.as_ref(), Some(launch));
        let timeout_at = in_force.first_started.zip(in_force.policy.timeout).map(|(at, timeout)| at + timeout);
        assert!(timeout_at.is_none_or(|at| at > self.now), "launches after the timeout");
        let is_restart = self.machine.status().restarts > in_force.restarts;
        assert_eq!(reason == LaunchReason::Policy, is_restart, "{reason:?}");
        let is_fresh = matches!(reason, LaunchReason::First | LaunchReason::Declaration | LaunchReason::Restarted);
        assert_eq!(is_fresh, in_force.attempts == 0, "{reason:?}");
        assert_eq!(reason == LaunchReason::Recovery, in_force.is_cut_off, "{reason:?}");
        if self.is_busy && self.open.is_none() {
            assert!(attempt > self.latest, "a number is used twice");
            self.latest = attempt;
            return self.tell(Event::SessionBusy { attempt, holder: name("b") });
        }
        self.count(attempt, launch);
        self.real = Some(Real { attempt, phase: Phase::Pending, killed: false, is_of_present: true, reason });
    }

    fn count(&mut self, attempt: Attempt, launch: &Launch) {
        assert!(attempt > self.latest, "a number is used twice");
        self.latest = attempt;
        self.open = Some(launch.session.clone());
        let in_force = self.in_force.as_mut().unwrap();
        if !std::mem::take(&mut in_force.is_cut_off) {
            in_force.attempts += 1;
        }
    }

    /// Holds what the machine says against what is.
    fn check(&mut self) {
        let status = self.machine.status();
        let pid = self.real.as_ref().and_then(|real| match real.phase {
            Phase::Alive(pid) => Some(pid),
            Phase::Pending | Phase::Over => None,
        });
        assert_eq!((status.running, status.pid), (pid.is_some(), pid), "{status:?}");
        assert_eq!(self.machine.session(), self.open.as_ref());
        assert_eq!(status.session, self.known.as_ref().map(Name::to_string).unwrap_or_default());
        assert_eq!(status.outcome.is_some(), status.state == Exited);
        let may_run = matches!(status.state, Waiting | Stopping | Shown::Invalid);
        assert!(!self.is_disabled() || may_run, "runs although it must not: {status:?}");
        assert!(
            status.state != Stopping
                || self.machine.is_gone()
                || self.real.is_some()
                || self.is_closing
                || self.machine.due().is_some(),
            "stops without an end in sight: {status:?}"
        );
        if self.machine.is_gone() {
            assert!(self.real.is_none() && self.open.is_none() && !self.is_wanted, "gone too early");
        }
        let Some(in_force) = &mut self.in_force else { return };
        assert_eq!(status.attempt.unwrap_or_default(), in_force.attempts, "{status:?}");
        assert!(status.restarts >= in_force.restarts, "restarts went down");
        assert!(status.restarts < in_force.attempts.max(1), "more restarts than attempts");
        if status.restarts > in_force.restarts {
            assert!(in_force.policy.max_restarts.is_none_or(|most| status.restarts <= most), "too many restarts");
        }
        in_force.restarts = status.restarts;
        assert_eq!(status.exit.map(|exit| exit.how), in_force.exit);
    }

    /// Lets the world obey and time pass until nothing more happens that has to.
    fn settle(&mut self, is_settled: impl Fn(&Self) -> bool) {
        for _ in 0..40 {
            if is_settled(self) {
                return;
            }
            self.obey();
            self.notice();
            let due = self.machine.due().filter(|_| !is_settled(self));
            self.wait(due.map_or(Duration::ZERO, |due| due.since(self.now)));
        }
        panic!("no end in sight: {:?}", self.machine.status());
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_happens_a_removal_ends_with_nothing_left(moves in moves()) {
        let mut world = World::new();
        for next in moves {
            world.go(next);
        }
        let latest = world.latest;
        world.remove();
        world.notice();
        world.settle(|world| world.machine.is_gone());
        world.wait(seconds(1_000_000));
        prop_assert_eq!(world.latest, latest);
        prop_assert_eq!(world.machine.due(), None);
    }

    #[test]
    fn whatever_happens_what_is_declared_comes_to_run_if_it_can(moves in moves(), declaration in a_declaration()) {
        let mut world = World::new();
        for next in moves {
            world.go(next);
        }
        world.declare(declaration.clone());
        world.notice();
        let may_start = world.orders.enables(&declaration.policy) && world.orders.pause.is_none();
        let expected = if declaration.launch.is_ok() && may_start { Running } else { Waiting };
        world.settle(|world| world.machine.status().state == expected);
        prop_assert_eq!(world.machine.launch(), declaration.launch.as_ref().ok());
    }

    #[test]
    fn whatever_happens_a_restart_is_a_new_life(moves in moves(), declaration in a_declaration()) {
        let mut world = World::new();
        for next in moves {
            world.go(next);
        }
        world.declare(declaration.clone());
        world.notice();
        let generation = world.machine.status().generation + 1;
        let latest = world.latest;
        let own = Override { enabled: Some(true), generation: Some(generation), ..Override::default() };
        world.order(Orders { own: Some(own), pause: None });
        world.notice();
        let expected = if declaration.launch.is_ok() { Running } else { Waiting };
        world.settle(|world| world.machine.status().state == expected);
        prop_assert_eq!(world.machine.status().generation, generation);
        prop_assert_eq!(world.machine.status().attempt.unwrap_or_default(), world.in_force.unwrap().attempts);
        prop_assert!(world.latest > latest || expected == Waiting);
    }

    #[test]
    fn whatever_happens_what_is_stopped_ends_and_stays_so(moves in moves()) {
        let mut world = World::new();
        for next in moves {
            world.go(next);
        }
        let own = Override { enabled: Some(false), ..Override::default() };
        world.order(Orders { own: Some(own), pause: None });
        world.notice();
        world.settle(|world| world.machine.is_gone() || matches!(world.machine.status().state, Waiting | Shown::Invalid));
        let latest = world.latest;
        world.wait(seconds(1_000_000));
        prop_assert_eq!(world.latest, latest);
    }

    #[test]
    fn whatever_happens_a_stop_is_over_soon_after_its_deadline(moves in moves()) {
        let mut world = World::new();
        for next in moves {
            world.go(next);
        }
        world.settle(|world| world.machine.is_gone() || world.machine.status().state != Stopping);
    }
}
