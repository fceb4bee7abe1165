//! The cases whose instructions are counted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use agentd::agent::declaration::Desired;
use agentd::agent::machine::{Event, Machine};
use agentd::agent::reconcile::{Held, HeldAgent, InForce, Place, plan};
use agentd::agent::secrets::Secrets;
use agentd::agent::seen::{Seen, SeenWorkdir};
use agentd::api::{self, Limits, Sources};
use agentd::config::{self, Options};
use agentd::inputs::assemble::{DeclarationContext, desired};
use agentd::observe::ring::Ring;
use agentd::observe::snapshot::Snapshot;
use agentd::state::key::Key;
use agentd::sys::account::Account;
use agentd::sys::clock::Timestamp;
use agentd::sys::process::Identity;
use agentd::wire::exit_status::ExitStatus;
use agentd::wire::status::{AgentStatus, Errors, Usage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

/// The names of all cases. The number at the end of a name is the number of agents.
pub const NAMES: [&str; 13] = [
    "attempt/1",
    "desired/100",
    "desired/500",
    "get-agents/1",
    "get-agents/100",
    "jcard/100",
    "plan/nothing-changed/100",
    "plan/nothing-changed/500",
    "plan/one-changed/100",
    "plan/one-changed/500",
    "status-body/100",
    "status-body/500",
    "step/1",
];

/// Each time it is called, the work is done once.
pub type Work = Box<dyn FnMut()>;

/// The case of this name, ready to run.
pub fn find(name: &str) -> Work {
    let (what, agents) = name.rsplit_once('/').expect("a number of agents");
    let agents = agents.parse().expect("a number of agents");
    match what {
        "jcard" => parse_jcard(agents),
        "desired" => put_together(agents),
        "plan/nothing-changed" => plan_for(agents, &jcard(agents, None)),
        "plan/one-changed" => plan_for(agents, &jcard(agents, Some(agents / 2))),
        "attempt" => live(),
        "step" => end(),
        "status-body" => tell(agents),
        "get-agents" => get(agents),
        other => panic!("there is no case {other}"),
    }
}

/// A jcard of this many agents. The agent with the number `other` has another argument.
fn jcard(agents: usize, other: Option<usize>) -> String {
    (0..agents).fold(String::new(), |mut text, number| {
        let argument = if other == Some(number) { "other" } else { "usual" };
        writeln!(
            text,
            "[[agents]]\nname = 'agent-{number}'\nharness = 'claude-code'\nprompt = 'Review the open pull requests.'\n\
             args = ['--model', '{argument}']\nworkdir = '/work'\nrestart = 'on-failure'\nmax_restarts = 5\ntimeout = '2h'\n\
             env = {{ LANG = 'C.UTF-8', EDITOR = 'true' }}\n"
        )
        .expect("a string takes everything");
        text
    })
}

fn parse(jcard: &str) -> config::Config {
    config::parse(jcard.as_bytes(), &Options::default()).expect("it is good")
}

fn place() -> DeclarationContext {
    DeclarationContext {
        file: "/etc/agentd/jcard.toml".into(),
        account: Account::current().expect("whoever runs this has an account"),
        key: Key::ephemeral().expect("the system has random bytes"),
    }
}

fn seen() -> Seen {
    Seen { workdirs: [("/work".into(), SeenWorkdir::Usable)].into(), ..Seen::default() }
}

fn of(jcard: &str, place: &DeclarationContext) -> Desired {
    desired(&parse(jcard), &Secrets::default(), &seen().into(), place)
}

fn parse_jcard(agents: usize) -> Work {
    let text = jcard(agents, None);
    Box::new(move || drop(black_box(parse(black_box(&text)))))
}

fn put_together(agents: usize) -> Work {
    let (config, place, views) = (parse(&jcard(agents, None)), place(), seen().into());
    Box::new(move || drop(black_box(desired(black_box(&config), &Secrets::default(), &views, &place))))
}

/// The plan when this many agents run as declared, and this is declared now.
fn plan_for(agents: usize, now: &str) -> Work {
    let place = place();
    let before = of(&jcard(agents, None), &place).agents;
    let held: Held = before
        .into_iter()
        .map(|(key, agent)| {
            let launch = agent.declaration.clone().and_then(|good| good.launch.map_err(|missing| missing.to_string()));
            let in_force = launch.map_or(InForce::Nothing, |launch| InForce::Here(launch.fingerprint.clone()));
            (key, HeldAgent { desired: Some(agent), in_force: Some(in_force), given: None, place: Place::Nowhere })
        })
        .collect();
    let desired = of(now, &place);
    Box::new(move || drop(black_box(plan(black_box(&desired), &held))))
}

/// A tree without a process, because callgrind does not support pidfds.
fn launcher() -> Identity {
    serde_json::from_str(r#"{"pid": 4710, "started": 1}"#).expect("it was written so")
}

/// Agents that run.
fn running(agents: usize) -> BTreeMap<agentd::agent::name::Key, Machine> {
    let launcher = launcher();
    let desired = of(&jcard(agents, None), &place());
    let run = |(key, agent): (agentd::agent::name::Key, agentd::agent::declaration::DesiredAgent)| {
        let (mut machine, now) = (Machine::new(agent.name), Timestamp::now());
        machine.describe(machine.name().clone(), agent.harness.as_deref(), None);
        for event in [
            Event::Declare(agent.declaration.expect("it is good")),
            Event::Opened { attempt: 1 },
            Event::Met { attempt: 1, launcher },
            Event::Started { attempt: 1, pid: 4711, at: now },
        ] {
            drop(machine.step(event, now));
        }
        assert!(machine.status().running);
        (key, machine)
    };
    desired.agents.into_iter().map(run).collect()
}

/// An agent's first attempt, from the declaration to the backoff.
fn live() -> Work {
    let launcher = launcher();
    let desired = of(&jcard(1, None), &place());
    let agent = desired.agents.into_values().next().expect("one");
    let declaration = agent.declaration.clone().expect("it is good");
    Box::new(move || {
        let (mut machine, now) = (Machine::new(agent.name.clone()), Timestamp::now());
        for event in [
            Event::Declare(declaration.clone()),
            Event::Opened { attempt: 1 },
            Event::Met { attempt: 1, launcher },
            Event::Started { attempt: 1, pid: 4711, at: now },
            ended(now),
            Event::Gone { attempt: 1 },
        ] {
            drop(black_box(machine.step(black_box(event), now)));
        }
        black_box(machine);
    })
}

fn ended(at: Timestamp) -> Event {
    Event::Ended { attempt: 1, how: ExitStatus::Code(1), at, usage: Usage::default(), result: None, evidence: None }
}

/// One step: the harness of a running agent has ended. A second is news of an attempt that has ended already.
fn end() -> Work {
    let now = Timestamp::now();
    let mut machines: Vec<Machine> = (0..2).filter_map(|_| running(1).into_values().next()).collect();
    Box::new(move || {
        let mut machine = machines.pop().expect("it is done twice");
        drop(black_box(machine.step(black_box(ended(now)), now)));
        std::mem::forget(black_box(machine));
    })
}

/// From machines to the body of `GET /v1/agents`.
fn tell(agents: usize) -> Work {
    let (machines, started) = (running(agents), Instant::now());
    Box::new(move || drop(black_box(snapshot(black_box(&machines), started))))
}

fn snapshot(machines: &BTreeMap<agentd::agent::name::Key, Machine>, started: Instant) -> Snapshot {
    let statuses: Vec<AgentStatus> = machines.values().map(Machine::status).collect();
    Snapshot::new(statuses, started, Errors::default())
}

/// A hundred requests, one after the other on one connection; client and server in one thread.
fn get(agents: usize) -> Work {
    let snapshot = Arc::new(snapshot(&running(agents), Instant::now()));
    let length = snapshot.agents_body().len();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).expect("a socket");
    listener.set_nonblocking(true).expect("a socket that does not block");
    let ((keep, snapshot), (ring, happenings)) =
        (watch::channel(snapshot), watch::channel(Ring::new(SystemTime::now())));
    let sources = Sources { snapshot, happenings, desks: None, logs: None, renderers: None };
    let mut client = runtime.block_on(async {
        let listener = tokio::net::UnixListener::from_std(listener).expect("a listener");
        tokio::spawn(api::serve(
            listener,
            tokio::sync::mpsc::channel(1).1,
            sources,
            Limits::default(),
            std::future::pending(),
        ));
        tokio::net::UnixStream::connect(&socket).await.expect("a connection")
    });
    let mut answer = vec![0; length + 1024];
    Box::new(move || {
        let _ = (&keep, &ring, &folder);
        runtime.block_on(async {
            for _ in 0..100 {
                client.write_all(b"GET /v1/agents HTTP/1.1\r\nHost: agentd\r\n\r\n").await.expect("it listens");
                let mut read = 0;
                while read < length || !answer[..read].ends_with(b"]\n") {
                    read += client.read(&mut answer[read..]).await.expect("it answers");
                }
            }
        });
    })
}
