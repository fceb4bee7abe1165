//! A machine in a world that follows a script. At every moment the machine can be described and recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use agentd::agent::declaration::{Declaration, Missing, WaitingFor};
use agentd::agent::launch::Launch;
use agentd::agent::machine::{Attempt, Effect, Event, Machine, NotStarted, Removal};
use agentd::agent::name::Name;
use agentd::agent::orders::{Orders, Override};
use agentd::agent::rotation::Rotation;
use agentd::agent::spec::{ByDefault, Kind, Limits, Policy, Restart};
use agentd::cli::status::Sort;
use agentd::cli::status::board::{self, View};
use agentd::cli::times::Times;
use agentd::cli::{explain, status as table};
use agentd::observe::metrics;
use agentd::observe::ring::Ring;
use agentd::observe::snapshot::Snapshot;
use agentd::sys::clock::Timestamp;
use agentd::text::printable;
use agentd::wire::events::{Since, What};
use agentd::wire::exit_status::ExitStatus;
use agentd::wire::reason::{MissingPackages, MissingProgram, MissingProxy};
use agentd::wire::status::{AgentStatus, Errors, State, Usage};

/// More is never shown of one agent, beside what was said of it.
const MOST: usize = 16 << 10;

/// How much longer a text may become as JSON, in which it may stand as the reason, too.
const TIMES: usize = 2 * 6;

/// One agent's.
pub struct Life {
    pub machine: Machine,
    pub now: Timestamp,
    /// What is not gone.
    under_way: BTreeSet<Attempt>,
    /// How many bytes were said of it.
    said: usize,
    /// As it was described last.
    described: Option<(State, Option<String>)>,
}

impl Life {
    pub fn of(machine: Machine, said: usize) -> Self {
        let now =
            Timestamp::new(Duration::from_secs(1000), SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000));
        Self { machine, now, under_way: BTreeSet::new(), said, described: None }
    }

    /// The daemon dies, and the next one continues from the record.
    fn cut_off(&mut self) {
        let record = serde_json::to_vec(&self.machine).expect("it can be written down");
        self.machine = serde_json::from_slice(&record).expect("what was written down can be read");
        self.resume();
    }

    /// Continues from what an earlier daemon has recorded.
    pub fn resume(&mut self) {
        self.under_way.clear();
        let effects = self.machine.resume();
        self.take(effects);
        self.check();
    }

    /// The latest attempt that is not gone, or one that there never was.
    pub fn attempt(&self) -> Attempt {
        self.under_way.last().copied().unwrap_or_default()
    }

    pub fn tell(&mut self, event: Event) {
        if let Event::Gone { attempt } = event {
            self.under_way.remove(&attempt);
        }
        let effects = self.machine.step(event, self.now);
        self.take(effects);
        self.check();
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Launch { attempt, .. } => {
                    assert!(self.under_way.is_empty(), "{attempt} is launched beside {:?}", self.under_way);
                    self.under_way.insert(attempt);
                }
                Effect::Resume { attempt, .. } => drop(self.under_way.insert(attempt)),
                Effect::Account(past) => {
                    let body = printable::json_line(&past);
                    assert!(body.len() <= MOST + TIMES * self.said, "{} bytes for {}", body.len(), self.said);
                }
                _ => {}
            }
        }
    }

    /// Something happens that is this byte's.
    pub fn act(&mut self, byte: u8) {
        let attempt = self.attempt();
        let wait = Duration::from_millis(100 << (byte >> 4));
        match byte & 0x0f {
            0 => self.pass(wait),
            1 => self.pass(self.machine.due().map_or(wait, |due| due.since(self.now))),
            2 => self.pass(Duration::MAX),
            3 => self.tell(Event::Gone { attempt }),
            4 if byte & 0x10 == 0 => self.tell(Event::LookAgain),
            4 => self.tell(Event::Ordered(orders(byte >> 5))),
            5 => self.ended(attempt, ExitStatus::Code((byte >> 5).into())),
            6 => self.tell(Event::Started { attempt, pid: 100 + i32::from(byte), at: self.now }),
            7 => {
                let why = match byte >> 4 & 3 {
                    0 => NotStarted::CutOff,
                    1 => NotStarted::Failed("exec format error".to_owned()),
                    2 => NotStarted::NotFound(MissingProgram {
                        name: "claude".to_owned(),
                        user: "agent".to_owned(),
                        path: (byte & 0x40 == 0).then(|| "/usr/bin".to_owned()),
                        hint: None,
                    }),
                    _ if byte & 0x40 == 0 => NotStarted::Unbuilt(MissingPackages {
                        names: vec!["jq".to_owned()],
                        detail: "no such package".to_owned(),
                    }),
                    _ if byte & 0x80 == 0 => NotStarted::Unreached(MissingProxy {
                        path: "/run/proxy".to_owned(),
                        detail: "/run/proxy does not exist".to_owned(),
                    }),
                    _ => NotStarted::Retry("tmux does not answer".to_owned()),
                };
                self.tell(Event::NotStarted { attempt, why });
            }
            8 => self.tell(Event::Closed(Ok(()))),
            9 => self.tell(Event::Closed(Err("tmux does not answer".to_owned()))),
            10 => self.tell(Event::Declare(declaration(byte >> 4))),
            11 => self.tell(Event::Update(declaration(byte >> 4))),
            12 => self.tell(Event::Remove(if byte & 0x10 == 0 { Removal::Undeclared } else { Removal::Shutdown })),
            13 => self.tell(Event::Opened { attempt }),
            14 => self.tell(Event::SessionFree),
            _ if byte & 0x10 == 0 => self.tell(Event::Reject("it is wrong".to_owned())),
            _ => self.cut_off(),
        }
    }

    fn ended(&mut self, attempt: Attempt, how: ExitStatus) {
        self.tell(Event::Ended { attempt, how, at: self.now, usage: Usage::default(), result: None, evidence: None });
    }

    /// Time passes, and the machine notices; there is no end of that at one instant.
    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        if self.machine.due().is_some_and(|due| due <= self.now) {
            self.tell(Event::Due);
            let due = self.machine.due();
            // Once more where one thing was due after the other.
            if due.is_some_and(|due| due <= self.now) {
                self.tell(Event::Due);
            }
            let due = self.machine.due();
            assert!(due.is_none_or(|due| due > self.now), "it is due again and again: {:?}", self.machine);
        }
    }

    fn check(&mut self) {
        self.check_times();
        let status = self.machine.status();
        let shown = Some((status.state, status.reason));
        if self.described == shown {
            return;
        }
        self.described = shown;
        let record = serde_json::to_string(&self.machine).expect("it can be written down");
        let read: Machine = serde_json::from_str(&record).expect("what was written down can be read");
        let status = self.machine.status();
        // What is launched is not written down.
        let (reason, waiting_for) = (status.reason.clone(), status.waiting_for.clone());
        assert_eq!(AgentStatus { reason, waiting_for, ..read.status() }, status);
        assert_eq!(read.due(), self.machine.due());

        let snapshot = Snapshot::new(vec![status.clone()], Instant::now(), Errors::default());
        let most = MOST + TIMES * self.said;
        check_snapshot(&snapshot, most);
        let mut ring = Ring::new(SystemTime::UNIX_EPOCH);
        for what in What::of_change(None, &status) {
            ring.push(what);
        }
        for kept in ring.since(Since::Beginning) {
            let message = str::from_utf8(&kept.message).expect("an event is text");
            assert!(
                message.len() <= most && !message.contains(|character| character != '\n' && printable::acts(character))
            );
            let fields: Vec<&str> =
                message.split('\n').map(|line| line.split(": ").next().unwrap_or_default()).collect();
            assert_eq!(fields, ["id", "event", "data", "", ""], "{message:?}");
        }
    }

    fn check_times(&self) {
        let status = self.machine.status();
        assert!(status.pid.is_none_or(|pid| pid > 1), "{status:?}");
        assert_eq!(status.running, status.pid.is_some());
        let century = Duration::from_hours(101 * 365 * 24);
        assert!(self.machine.due().is_none_or(|due| due <= self.now + century || due.since(self.now) <= 2 * century));
    }
}

/// Checks that what the API and the command line say about these agents is readable for programs and for people.
pub fn check_snapshot(snapshot: &Snapshot, most: usize) {
    let body = text(&snapshot.agents_body(), most);
    let agents: Vec<AgentStatus> = serde_json::from_str(&body).expect("it is what clients read");
    assert_eq!(text(printable::json_line(&agents).as_bytes(), most), body, "clients read what was written");
    let now = SystemTime::now();
    let view = |width| View { now, width, color: false, sort: Sort::Attention };
    let mut shown = vec![table::render(&agents.iter().collect::<Vec<_>>(), now)];
    shown.extend([50, 80, 120].map(|width| board::render(&agents, &view(width))));
    for agent in &agents {
        let whole = snapshot.agent_in_full(&agent.name.parse().expect("it is a name")).expect("it is there");
        let whole: AgentStatus =
            serde_json::from_str(&text(printable::json_line(&whole).as_bytes(), most)).expect("likewise");
        shown.push(table::render_history(&whole.history, now, Some(80)));
        shown.push(table::render_history(&whole.history, now, None));
        shown.push(explain::render(&explain::explain(&whole, Vec::new()), now, &Times::Exact, 80, None));
    }
    for shown in shown {
        assert!(!shown.contains(|character| character != '\n' && printable::acts(character)), "{shown:?}");
        assert!(shown.len() <= 4 * most, "{} bytes", shown.len());
    }
}

/// What they say to a monitoring system.
pub fn check_metrics(snapshot: Snapshot, most: usize) {
    let text = metrics::text(&Arc::new(snapshot));
    assert!(text.ends_with("# EOF\n") && text.len() <= most, "{} bytes", text.len());
    assert!(!text.contains(|character| character != '\n' && printable::acts(character)), "{text:?}");
}

fn text(body: &[u8], most: usize) -> String {
    let text = str::from_utf8(body).expect("JSON is text");
    assert!(text.len() <= most, "{} bytes where {most} would do", text.len());
    let line = text.strip_suffix('\n').expect("it ends with its line");
    assert!(!line.contains(printable::acts), "{line:?}");
    text.to_owned()
}

/// One of a few.
pub fn declaration(which: u8) -> Declaration {
    let (Ok(name), Ok(session)) = ("a".try_into(), Name::try_from(if which & 8 == 0 { "a" } else { "b" })) else {
        unreachable!("these are names");
    };
    let launch = Launch { name, session, ..Launch::of_nothing() };
    let seconds = Duration::from_secs;
    let policy = Policy {
        restart: [Restart::Always, Restart::OnFailure, Restart::No, Restart::Always][usize::from(which & 3)],
        max_restarts: (which & 1 != 0).then_some(2),
        timeout: (which & 2 != 0).then_some(seconds(100)),
        grace_period: seconds(which.into()),
        backoff: vec![seconds(1), seconds(60)],
        backoff_reset: (which & 4 != 0).then_some(seconds(10)),
        limits: Limits::default(),
        enabled: which & 16 == 0,
        generation: u64::from(which >> 5),
        labels: BTreeMap::new(),
        max_cost: None,
        results: None,
        by_default: ByDefault::default(),
        rotation: Rotation::default(),
        ..Policy::default()
    };
    let launch = if which == 15 { Err(Missing(vec![WaitingFor::Unread {}])) } else { Ok(Arc::new(launch)) };
    Declaration { kind: Kind::Native, policy, launch }
}

/// One of a few.
fn orders(which: u8) -> Orders {
    let own = Override {
        enabled: (which & 1 != 0).then_some(which & 2 == 0),
        generation: (which & 4 != 0).then(|| u64::from(which)),
        now: which & 2 != 0,
        by: Some("op".to_owned()),
        at: None,
    };
    let pause = (which == 3).then(|| Override { enabled: Some(false), ..Override::default() });
    Orders { own: (which != 0).then_some(own), pause }
}
