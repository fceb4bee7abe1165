//! The table of states and events in the documentation of the machine, drawn from what the machine does.

use std::collections::BTreeMap;

use super::records::{LATER_LIVES, LIVES, life};
use super::*;

const STATES: [&str; 11] = [
    "invalid", "waiting", "absent", "queued", "starting", "running", "stopping", "backoff", "exited", "closing", "gone",
];

const EVENTS: [&str; 13] = [
    "declare",
    "update",
    "ordered",
    "remove",
    "started",
    "not started",
    "ended",
    "gone",
    "session busy",
    "session free",
    "look again",
    "closed",
    "due",
];

fn state(machine: &Machine) -> &'static str {
    STATES[match machine.state {
        State::Invalid => 0,
        State::Waiting => 1,
        State::Absent { .. } => 2,
        State::Queued { .. } => 3,
        State::Starting { .. } => 4,
        State::Running { .. } => 5,
        State::Stopping { .. } => 6,
        State::Backoff { .. } => 7,
        State::Exited { .. } => 8,
        State::Closing { .. } => 9,
        State::Gone { .. } => 10,
    }]
}

/// The ways in which something of this name can happen to such an agent.
fn events(name: &str, life: &Life) -> Vec<Event> {
    let attempt = life.machine.latest_attempt();
    let at = life.now;
    match name {
        "declare" => {
            [launching(launch("a", "y")), launching(launch("c", "x")), missing(plain())].map(Event::Declare).into()
        }
        "update" => [plain(), restarting(Restart::Always), timing_out(1), missing(plain())].map(Event::Update).into(),
        "ordered" => [stopped(false), stopped(true), raised(9), paused(), Orders::default()].map(Event::Ordered).into(),
        "remove" => vec![Event::Remove(Removal::Undeclared)],
        "started" => vec![Event::Started { attempt, pid: 107, at }],
        "not started" => [failed("no such program"), retry("busy"), not_found(), unbuilt(), NotStarted::CutOff]
            .map(|why| Event::NotStarted { attempt, why })
            .into(),
        "ended" => [0, 1]
            .map(|status| Event::Ended {
                attempt,
                how: code(status),
                at,
                usage: Usage::default(),
                result: None,
                evidence: None,
            })
            .into(),
        "gone" => vec![Event::Gone { attempt }],
        "session busy" => vec![Event::SessionBusy { attempt, holder: super::name("b") }],
        "session free" => vec![Event::SessionFree],
        "look again" => vec![Event::LookAgain],
        "closed" => vec![Event::Closed(Ok(())), Event::Closed(Err("busy".to_owned()))],
        "due" => vec![Event::Due],
        other => panic!("there is no event {other}"),
    }
}

/// Where each event may lead from each state, row by row.
#[allow(clippy::too_many_lines, reason = "most of it is a list of lives")]
fn drawn() -> Vec<String> {
    let mut leads: BTreeMap<(usize, usize), Vec<&str>> = BTreeMap::new();
    let starts = LIVES.into_iter().chain(LATER_LIVES).map(|what| move || life(what));
    let more: [fn() -> Life; 14] = [
        || {
            let mut life = Life::running(plain());
            life.order(stopped(false));
            life
        },
        || {
            let mut life = Life::over(plain(), code(0));
            life.order(stopped(false));
            life
        },
        || {
            let mut life = Life::new();
            life.order(paused());
            life.declare(plain());
            life
        },
        || {
            let mut life = Life::running(plain());
            life.order(raised(3));
            life
        },
        || {
            let mut life = Life::running(timing_out(60));
            life.end(1, code(1));
            life.wait(seconds(3));
            life.not_started(2, not_found());
            life
        },
        || Life::running(restarting(Restart::Always)),
        || {
            let mut life = Life::running(plain());
            life.declare(launching(launch("a", "y")));
            life
        },
        || {
            let mut life = Life::over(restarting(Restart::Always), code(1));
            life.update(missing(restarting(Restart::Always)));
            life
        },
        || {
            let mut life = Life::running(plain());
            life.declare(missing(plain()));
            life
        },
        || {
            let mut life = Life::running(timing_out(60));
            life.wait(seconds(56));
            life.end(1, code(1));
            life.wait(seconds(3));
            life
        },
        || {
            let mut life = Life::running(plain());
            life.ended(1, code(0));
            life.declare(missing(plain()));
            life
        },
        || {
            let mut life = Life::over(plain(), code(0));
            life.declare(launching(launch("b", "x")));
            life.update(missing(launching(launch("b", "x"))));
            life
        },
        || Life::starting(restarting(Restart::Always)),
        || {
            let mut life = Life::over(plain(), code(0));
            life.remove();
            life.closed();
            life
        },
    ];
    let lives: Vec<Box<dyn Fn() -> Life>> = starts
        .map(|start| Box::new(start) as Box<dyn Fn() -> Life>)
        .chain(more.into_iter().map(|start| Box::new(start) as Box<dyn Fn() -> Life>))
        .collect();
    for start in &lives {
        for (column, name) in EVENTS.into_iter().enumerate() {
            for number in 0..events(name, &start()).len() {
                for pass in [seconds(0), seconds(5), seconds(100_000)] {
                    let mut life = start();
                    // What is due in between may go unnoticed.
                    let from = if name == "due" { life.machine.due() } else { Some(life.now) };
                    let Some(from) = from else { continue };
                    life.now = from + pass;
                    let before = state(&life.machine);
                    let event = events(name, &life).remove(number);
                    life.tell(event);
                    let after = state(&life.machine);
                    let row = STATES.iter().position(|&state| state == before).unwrap();
                    let cell = leads.entry((row, column)).or_default();
                    if !cell.contains(&after) {
                        cell.push(after);
                    }
                }
            }
        }
    }
    let mut table = vec![format!("| | {} |", EVENTS.join(" | ")), format!("|---|{}", "---|".repeat(EVENTS.len()))];
    for (row, &from) in STATES.iter().enumerate() {
        let cells = (0..EVENTS.len()).map(|column| {
            let mut cell = leads.get(&(row, column)).cloned().unwrap_or_default();
            cell.sort_by_key(|state| STATES.iter().position(|other| other == state));
            if cell == [from] { String::new() } else { cell.join(", ") }
        });
        table.push(format!("| {from} | {} |", cells.collect::<Vec<_>>().join(" | ")));
    }
    table
}

#[test]
fn in_the_documentation_is_what_the_machine_does() {
    let source = include_str!("../../machine.rs");
    let written: Vec<&str> = source.lines().filter_map(|line| line.strip_prefix("//! ")).collect();
    let written: Vec<&str> = written.into_iter().filter(|line| line.starts_with('|')).collect();
    let drawn = drawn();
    assert!(written == drawn, "the table should be\n//! {}", drawn.join("\n//! "));
}
