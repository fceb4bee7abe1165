//! `agentd explain`: why an agent is in its state, what comes next, and what would change that, in sentences.
//!
//! [`explain`] turns the API's answer into data, [`render`] turns that into sentences; both are pure. `--json` prints the data.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::complete;
use super::output::{block_on, complain, print, say};
use super::table::{push_hanging, wrapped};
use super::times::Times;
use super::wording::{
    BY_ITSELF, all_of, confinement, dollars, faults, in_bytes, in_short, never_started, outcome, paint, since, until,
    words,
};
use crate::agent::harness::Harness;
use crate::client::{Answer, Client, Error};
use crate::sys::terminal::Terminal;
use crate::text::printable::escaped;
use crate::text::printable::json_line;
use crate::wire::activity::{Activity, Source};
use crate::wire::approval::Approval;
use crate::wire::conversation::Conversation;
use crate::wire::exit_status::ExitStatus;
use crate::wire::hold::{HoldKind, remedy};
use crate::wire::reason::{Causes, MissingPackages, MissingProgram, Problem, StopStage, StoppingBecause, WaitingFor};
use crate::wire::result::{StreamResult, Tokens};
use crate::wire::status::{AgentStatus, Exit, Outcome, PastAttempt, Resources, State, Time};

/// As that of `agentd status`.
const UNKNOWN: u8 = 4;

/// How many ends are told.
const ENDS: usize = 3;

/// Which agent, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The agent; the case of its name does not matter
    #[arg(add = complete::names())]
    pub name: String,
    /// Print times in UTC on a terminal, too
    #[arg(long)]
    pub utc: bool,
    /// Print the same as data
    #[arg(long)]
    pub json: bool,
}

/// What there is to say of an agent. Keys may be added, none removed or renamed; empty and absent ones are left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The agent's name.
    pub name: String,
    /// Where it is in its life.
    pub state: State,
    /// How it ended, once it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// From when on it has been in this state, as far as is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Why, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What it waits for, as data.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<WaitingFor>,
    /// Why it is being stopped, as data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopping_because: Option<StoppingBecause>,
    /// What needs attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What happens if nobody does anything, soonest first as far as is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<Next>,
    /// Its latest ends, the last one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ends: Vec<Past>,
    /// Why limits that are declared are not applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits_error: Option<String>,
    /// Why its environment is not all that it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_error: Option<String>,
    /// What it does, as data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
    /// Whether it calls none of the hooks that it was given.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hooks_unheard: bool,
    /// The conversation of its present or latest attempt, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// What its harness said of the latest attempt that ended, as data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<StreamResult>>,
    /// What it has cost under its present declaration, in US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// The tokens that it has taken under its present declaration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
    /// How it is confined, a sentence each; nothing if it runs as the agent user without a sandbox.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub confinement: Vec<String>,
    /// What it takes of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// What would change its state, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
    /// What is wrong with the daemon's inputs as a whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub daemon_errors: Vec<String>,
}

/// Something that will happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Next {
    /// What, as a sentence without its full stop.
    pub what: String,
    /// When, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

/// An attempt that is over, as far as the API tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Past {
    /// Its number over the agent's whole life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// When its harness was started, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// How it ended, and when.
    pub exit: Exit,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl From<&PastAttempt> for Past {
    fn from(past: &PastAttempt) -> Self {
        let PastAttempt { started_at, exit, reason, .. } = past.clone();
        Self { attempt: Some(past.attempt_shown()), started_at, exit, reason: Some(reason) }
    }
}

/// Asks the daemon behind `socket`, and prints the explanation: data to stdout, messages to stderr.
pub fn run(arguments: &Arguments, socket: &Path) -> ExitCode {
    let text = match block_on(UNKNOWN, ask(&arguments.name, socket)) {
        Ok(Ok((_, explanation))) if arguments.json => json_line(&explanation).into_bytes(),
        Ok(Ok((agent, explanation))) => {
            let terminal = Terminal::here();
            let color = terminal.color.then(|| paint(&agent)).filter(|paint| !paint.is_empty());
            let times = Times::here(terminal.width.is_some(), arguments.utc);
            render(&explanation, SystemTime::now(), &times, terminal.text_width(), color).into_bytes()
        }
        Ok(Err(Failure { error, faults })) => {
            for fault in faults {
                say(&fault);
            }
            return complain(UNKNOWN, &error.to_string());
        }
        Err(code) => return code,
    };
    print(&text, 0, UNKNOWN)
}

struct Failure {
    error: Error,
    /// Of the daemon: an agent may be missing because of them.
    faults: Vec<String>,
}

async fn ask(name: &str, socket: &Path) -> Result<(AgentStatus, Explanation), Failure> {
    let client = Client::new(socket).map_err(|error| Failure { error, faults: Vec::new() })?;
    let answer = client.agent(name).await;
    // What is said of the agent stands without it.
    let faults = client.health().await.map(|health| faults(&health.value)).unwrap_or_default();
    match answer {
        Ok(Answer { value, .. }) => {
            let others = client.agents().await.map(|answer| answer.value).unwrap_or_default();
            let explanation = explain(&value, concerning(&value, &others, faults));
            Ok((value, explanation))
        }
        Err(error) => Err(Failure { error, faults }),
    }
}

/// The faults of the daemon without the lines that are about the entries of other agents.
fn concerning(agent: &AgentStatus, others: &[AgentStatus], faults: Vec<String>) -> Vec<String> {
    let others = others.iter().filter(|other| other.name != agent.name).filter_map(|other| other.error.as_deref());
    let theirs: Vec<&str> = others.flat_map(str::lines).filter(|line| !line.is_empty()).collect();
    let is_theirs = |line: &str| theirs.iter().any(|error| line.ends_with(error));
    let without = |fault: String| {
        let lines: Vec<&str> = fault.lines().filter(|line| !is_theirs(line)).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    };
    faults.into_iter().filter_map(without).collect()
}

/// Everything there is to say. `daemon_errors` are those of the daemon as a whole.
pub fn explain(agent: &AgentStatus, daemon_errors: Vec<String>) -> Explanation {
    let mut ends: Vec<Past> = agent.history.iter().take(ENDS).map(Past::from).collect();
    if ends.is_empty() {
        // A daemon that cannot write its history still knows the latest exit.
        let attempt = agent.attempt_shown().filter(|_| matches!(agent.state, State::Exited | State::Backoff));
        ends.extend(agent.exit.clone().map(|exit| Past { attempt, started_at: None, exit, reason: None }));
    }
    Explanation {
        name: agent.name.clone(),
        state: agent.state,
        outcome: agent.outcome,
        since: since(agent),
        why: agent.reason.clone().or_else(|| why(agent)),
        waiting_for: agent.waiting_for.clone(),
        stopping_because: agent.stopping_because.clone(),
        error: agent.error.clone(),
        next: next(agent),
        ends,
        limits_error: agent.limits_error.clone(),
        environment_error: agent.environment_error.clone(),
        activity: agent.activity.clone(),
        hooks_unheard: agent.hooks_unheard,
        conversation: agent.conversation.as_ref().map(conversation),
        result: agent.result.clone(),
        cost_usd: agent.cost_usd,
        tokens: agent.tokens,
        confinement: confined(agent),
        resources: agent.resources.clone(),
        changes: changes(agent),
        daemon_errors,
    }
}

/// Which one it is, how it came into it, and what is remarkable about that.
fn conversation(conversation: &Conversation) -> String {
    let id = conversation.id.as_deref().unwrap_or("not known yet");
    let resumed = if conversation.resumed { ", resumed" } else { "" };
    let note = conversation.note.as_ref().map_or_else(String::new, |note| format!("; {note}"));
    format!("{id}{resumed}{note}")
}

fn confined(agent: &AgentStatus) -> Vec<String> {
    let Some(mut sentence) = confinement(agent) else { return Vec::new() };
    if agent.sandboxed_by_default {
        sentence.push_str(", because its entry has no `type` and agentd runs with --default-type sandboxed");
    }
    let harness = agent.harness.as_deref().and_then(Harness::find);
    let own = harness.filter(|harness| agent.sandbox.is_some() && harness.has_own_sandbox());
    let own = own.map(|harness| {
        format!(
            "The sandbox of {} itself is off unless its arguments say otherwise: it cannot be made inside another",
            harness.name
        )
    });
    let limits = agent.default_limits_error.as_ref();
    let limits = limits.map(|error| format!("{error}; they are those that every sandboxed agent has by default"));
    [sentence].into_iter().chain(own).chain(limits).collect()
}

/// The sentence that the daemon left out.
fn why(agent: &AgentStatus) -> Option<String> {
    let waits = (!agent.waiting_for.is_empty()).then(|| Causes(&agent.waiting_for).to_string());
    waits.or_else(|| agent.stopping_because.as_ref().map(StoppingBecause::to_string))
}

fn next(agent: &AgentStatus) -> Vec<Next> {
    let mut next = Vec::new();
    let mut push = |what: &str, at: Option<Time>| next.push(Next { what: what.to_owned(), at });
    match agent.state {
        State::Waiting if agent.waiting_for.iter().any(|cause| matches!(cause, WaitingFor::Enabled { .. })) => {
            push("Nothing happens by itself", None);
        }
        State::Waiting if agent.next_start_at.is_some() => {
            let lacks = |is: fn(&WaitingFor) -> bool| agent.waiting_for.iter().any(is);
            let what = if lacks(|cause| matches!(cause, WaitingFor::Packages { .. })) {
                "agentd tries its packages again"
            } else if lacks(|cause| matches!(cause, WaitingFor::Proxy { .. })) {
                "agentd looks for its proxy again"
            } else {
                "agentd looks for its program again"
            };
            push(what, agent.next_start_at);
        }
        State::Waiting => match agent.waiting_for.iter().find_map(held_until) {
            Some(until) => push("An agent that shares its credential tries it again", Some(until)),
            None => push("It starts as soon as nothing is missing", None),
        },
        State::Starting => push("Its harness starts any moment", None),
        State::Running if !agent.approvals.is_empty() => {
            push("What it asks is denied", agent.approvals.iter().map(|approval| approval.deadline).min());
        }
        State::Running => push("It runs until it ends by itself; then the `restart` of its entry decides", None),
        State::Stopping => {
            let is_killed = agent.stop_stage == Some(StopStage::Killed);
            if let Some(deadline) = agent.deadline.filter(|_| !is_killed) {
                push("agentd kills what is left of it", Some(deadline));
            }
            match &agent.stopping_because {
                Some(StoppingBecause::Changed { .. }) => {
                    push("When nothing of it is left, it starts as it is declared now", None);
                }
                Some(StoppingBecause::CostLimit {} | StoppingBecause::Idled { .. }) => {
                    push("When nothing of it is left, it has failed for good", None);
                }
                Some(StoppingBecause::TimedOut {}) => push("When nothing of it is left, it has exited for good", None),
                Some(StoppingBecause::Removed {} | StoppingBecause::Shutdown {}) => {
                    push("When nothing of it is left, it is no longer listed", None);
                }
                Some(StoppingBecause::Disabled { .. }) => {
                    push("When nothing of it is left, it waits until it is started again", None);
                }
                Some(StoppingBecause::Restarted { .. }) => push("When nothing of it is left, it starts again", None),
                // An older daemon does not say, and what a newer one says cannot be understood.
                Some(StoppingBecause::Unknown { .. }) | None => {}
            }
        }
        State::Backoff if agent.next_start_at.is_some() => push("It starts again", agent.next_start_at),
        State::Backoff => push("It starts again as soon as nothing of the previous attempt is left", None),
        State::Exited | State::Invalid => push("Nothing, until you change something", None),
    }
    if let Some(rotation) = &agent.rotation {
        let at_the_latest = if rotation.until.is_some() { "; the agent gets them" } else { "" };
        let what = format!("New values of {} wait: {}{at_the_latest}", rotation.secrets.join(", "), rotation.why);
        push(&what, rotation.until);
    }
    if agent.timeout_at.is_some() {
        push("Its `timeout` passes: agentd stops it for good", agent.timeout_at);
    }
    next
}

/// When a hold that keeps it from starting lets somebody try.
fn held_until(cause: &WaitingFor) -> Option<Time> {
    if let WaitingFor::Hold { until, .. } = cause { Some(*until) } else { None }
}

const SILENT: &str =
    "It printed nothing, so it probably did nothing: run its command as the agent user, and look at its login.";

const RELAUNCH: &str = "Edit what its entry launches, or a secret or prompt that it gets: it starts afresh.";

/// How to answer what it asks.
fn answers(approval: &Approval) -> String {
    let Approval { id, tool, command, cut, .. } = approval;
    let more = if *cut { "…" } else { "" };
    format!("It asks whether it may use {tool}: {command}{more}: agentd approve {id}, or agentd deny {id}.")
}

/// What would change the state, the nearest at hand first.
fn changes(agent: &AgentStatus) -> Vec<String> {
    let name = &agent.name;
    let again = format!("Run it again: agentd start {name}.");
    let mut changes: Vec<String> = match agent.state {
        State::Waiting => agent.waiting_for.iter().map(|cause| supply(agent, cause)).collect(),
        State::Starting | State::Invalid => Vec::new(),
        State::Running if !agent.approvals.is_empty() => agent.approvals.iter().map(answers).collect(),
        State::Running => vec![
            format!("Stop it: agentd stop {name}. Or run it afresh: agentd restart {name}."),
            "Edit what its entry launches, or a secret or prompt that it gets: it stops and starts afresh.".into(),
            "Remove its entry: it stops.".into(),
        ],
        State::Stopping => {
            let now = match agent.stopping_because {
                Some(StoppingBecause::Disabled { .. }) => Some(format!("Kill it at once: agentd stop --now {name}.")),
                Some(StoppingBecause::Restarted { .. }) => {
                    Some(format!("Kill it at once: agentd restart --now {name}."))
                }
                _ => None,
            };
            let shorter = "Shorten the `grace_period` of its entry: the kill comes sooner.".to_owned();
            now.into_iter().chain([shorter]).collect()
        }
        State::Backoff if agent.error.is_some() => {
            vec!["Fix the error above; agentd tries again by itself.".into()]
        }
        State::Backoff if agent.hold.is_some() => {
            let group =
                agent.hold.iter().map(|hold| format!("Let its group try at once: agentd release {}.", hold.group));
            group.chain([format!("Stop it: agentd stop {name}.")]).collect()
        }
        State::Backoff => vec![
            format!("Start it at once: agentd start {name}. Or stop it: agentd stop {name}."),
            "Wait; or edit what its entry launches, or a secret or prompt that it gets: it starts at once.".into(),
            "Set `restart = \"no\"` in its entry: it does not start again.".into(),
        ],
        State::Exited => match agent.outcome {
            Some(Outcome::Completed) => {
                let silent = agent.exit.as_ref().is_some_and(|exit| exit.silent).then(|| SILENT.to_owned());
                let usual =
                    [again, RELAUNCH.into(), "Set `restart = \"always\"` in its entry: it starts again.".into()];
                silent.into_iter().chain(usual).collect()
            }
            Some(Outcome::GaveUp) => {
                let more = format!(
                    "Raise the `max_restarts` of its entry above {}: it starts again; 0 means no limit.",
                    agent.restarts
                );
                vec![again, more, RELAUNCH.into()]
            }
            Some(Outcome::TimedOut) => {
                vec![again, format!("{RELAUNCH} A longer `timeout` alone does not bring it back.")]
            }
            // It would only fail again.
            Some(Outcome::Failed) if never_started(agent) => vec![RELAUNCH.into()],
            Some(Outcome::Failed) | None => vec![
                again,
                RELAUNCH.into(),
                "Set `restart = \"on-failure\"` or `\"always\"` in its entry: it starts again.".into(),
            ],
        },
    };
    if agent.state == State::Invalid {
        let errors = agent.error.iter().flat_map(|error| error.lines());
        changes.extend(errors.map(|error| format!("Fix {error}")));
    } else if agent.state == State::Exited && agent.error.is_some() && !is_launch_failure(agent) {
        changes.insert(0, "Fix the error above first: until then, edits of its entry have no effect.".into());
    }
    changes
}

/// Whether the error is why the latest attempt did not start: then an edit is what fixes it.
fn is_launch_failure(agent: &AgentStatus) -> bool {
    let cause = agent.exit.as_ref().and_then(|exit| match &exit.how {
        ExitStatus::Cause(cause) => Some(cause),
        ExitStatus::Code(_) | ExitStatus::Signal(_) => None,
    });
    agent.error.is_some() && cause == agent.error.as_ref()
}

/// Whether another section says what is wrong.
fn is_told_otherwise(explanation: &Explanation) -> bool {
    let lacks_program = explanation.waiting_for.iter().any(|cause| {
        matches!(cause, WaitingFor::Program { .. } | WaitingFor::Packages { .. } | WaitingFor::Proxy { .. })
    });
    explanation.state == State::Invalid || lacks_program
}

/// What would end this wait.
fn supply(agent: &AgentStatus, cause: &WaitingFor) -> String {
    let name = &agent.name;
    let user = agent.user.as_deref().unwrap_or("the agent user");
    match cause {
        WaitingFor::Enabled { by: Some(_), .. } => format!("Start it: agentd start {name}."),
        WaitingFor::Enabled { by: None, .. } => {
            format!("Remove `enabled = false` from its entry; or start it without an edit: agentd start {name}.")
        }
        WaitingFor::Hold { group, hold: HoldKind::Login, until, evidence } => {
            let remedy = remedy(group);
            format!("Its harness said {evidence:?}. To start it before the next try at {until}: {remedy}.")
        }
        WaitingFor::Hold { group, hold: HoldKind::Quota, until, evidence } => format!(
            "Its harness said {evidence:?}. It starts by itself at {until}; if you know better: agentd release {group}."
        ),
        WaitingFor::Turn { first: Some(first), .. } => {
            format!("It starts when {first}, which uses the same credential, has made a turn or lived for a while.")
        }
        WaitingFor::Turn { group, first: None, until } => match until {
            Some(until) => format!("It starts from {until} on; if you know better: agentd release {group}."),
            None => format!("It starts soon; if you know better: agentd release {group}."),
        },
        WaitingFor::Paused { .. } => "End the pause: agentd unpause --all.".to_owned(),
        WaitingFor::Workdir { path, problem } => match problem {
            Problem::Absent {} => {
                format!("Create the directory {path}, or name another as the entry's `workdir`.")
            }
            Problem::NotADirectory {} => {
                format!("Put a directory in the place of {path}, or name another as the entry's `workdir`.")
            }
            Problem::Unchecked { .. } => retried(cause),
            _ => {
                format!("Let {user} into the workdir ({path} {problem}), or name another as the entry's `workdir`.")
            }
        },
        WaitingFor::PromptFile { path, problem } => match problem {
            Problem::Absent {} => format!("Write {path}, or name another as the entry's `prompt_file`."),
            Problem::Empty {} => {
                format!("Write a prompt into {path}, or name another file as the entry's `prompt_file`.")
            }
            Problem::NotAFile {} => {
                format!("Put a regular file in the place of {path}, or name another as the entry's `prompt_file`.")
            }
            Problem::Unchecked { .. } => retried(cause),
            _ => format!("Let {user} read the prompt_file ({path} {problem})."),
        },
        WaitingFor::User { user, problem } => match problem {
            Problem::Absent {} => format!(
                "Create user {user} (useradd --create-home --groups agentd-agents {user}), or name another as the entry's `user`."
            ),
            Problem::Inaccessible { .. } => format!("Correct that, or name another as the entry's `user`: {cause}."),
            _ => retried(cause),
        },
        WaitingFor::Home { user, path, problem } => match problem {
            Problem::Absent {} => format!("Create the home {path} of user {user} (mkhomedir_helper {user})."),
            Problem::Unchecked { .. } => retried(cause),
            _ => format!("Let user {user} into the home {path}, which {problem}."),
        },
        WaitingFor::Secrets { names } => {
            let noun = if names.len() == 1 { "secret" } else { "secrets" };
            format!("Drop the {noun} {} into the secrets directory, or edit the entry's `secrets`.", names.join(", "))
        }
        WaitingFor::Session { name, holder } => {
            let session = name.as_ref().map_or_else(|| "it".to_owned(), |name| format!("the session {name}"));
            format!("Wait until {holder} has left {session}, or give one of them another `session`.")
        }
        WaitingFor::Program { program } => find(name, program),
        WaitingFor::Packages { packages } => build(name, packages),
        WaitingFor::Proxy { proxy } => format!(
            "See to the socket {}, or name another as the entry's `sandbox_proxy`; agentd looks again by itself, and at once after \
             an edit, SIGHUP, or `agentd start {name}`.",
            proxy.path
        ),
        WaitingFor::Unread {}
        | WaitingFor::Entry {}
        | WaitingFor::Backoff { .. }
        | WaitingFor::Retry {}
        | WaitingFor::PreviousAttempt {}
        | WaitingFor::Unknown { .. } => format!("Wait for this to end: {cause}."),
    }
}

/// How a program comes to be found.
fn find(agent: &str, MissingProgram { name, user, path, hint }: &MissingProgram) -> String {
    if hint.as_ref().is_some_and(|hint| hint.contains("`--runsc-path`")) {
        return "Correct the flag `--runsc-path` of agentd, and restart agentd.".to_owned();
    }
    if let Some(hint) = hint {
        return format!("Edit the entry: {hint}.");
    }
    match path {
        Some(path) => format!(
            "Install {name} for user {user}, where the PATH finds it ({path}), or name its full path as the entry's `command`; \
             agentd looks again by itself, and at once after an edit, SIGHUP, or `agentd start {agent}`."
        ),
        None => format!("Install {name}, or name another program as the entry's `command`."),
    }
}

/// How packages come to be built.
fn build(agent: &str, MissingPackages { names, .. }: &MissingPackages) -> String {
    format!(
        "Try it as the agent user: nix build {}; or correct the entry's `extra_packages`. agentd tries again by itself, and at once \
         after an edit, SIGHUP, or `agentd start {agent}`.",
        names.iter().map(|name| installable(name)).collect::<Vec<_>>().join(" ")
    )
}

/// A package as Nix has it.
fn installable(name: &str) -> String {
    if name.starts_with('/') { name.to_owned() } else { format!("nixpkgs#{name}") }
}

fn retried(cause: &WaitingFor) -> String {
    format!("Wait; {cause}. agentd looks again by itself.")
}

/// Under each of these words stands what it means; see the tests.
const LABEL: usize = 11;

/// The explanation as sentences, in lines of `width` characters. `color` is for the state, which is said in words all the same.
pub fn render(explanation: &Explanation, now: SystemTime, times: &Times, width: usize, color: Option<&str>) -> String {
    let mut text = String::new();
    let state = match explanation.outcome {
        Some(outcome_) => format!("{} ({})", explanation.state, outcome(outcome_)),
        None => explanation.state.to_string(),
    };
    let name = escaped(&explanation.name);
    let first = match explanation.since {
        Some(since) => {
            format!("{name} has been in state {state} for {}, since {}.", words(ago(since, now)), times.show(since))
        }
        None => format!("{name} is in state {state}."),
    };
    for line in wrapped(&first, width) {
        let _ = writeln!(text, "{line}");
    }
    if let Some(color) = color {
        // Broken after its width is known, which is that of the words alone.
        text = text.replacen(&format!("in state {state}"), &format!("in state {color}{state}\x1b[0m"), 1);
    }
    let mut section = |label: &str, paragraphs: Vec<String>| {
        let lines = paragraphs.iter().flat_map(|it| wrapped(&escaped(it), width.saturating_sub(LABEL)));
        push_hanging(&mut text, &format!("{label:LABEL$}"), LABEL, lines);
    };
    let lines = |text: &Option<String>| text.iter().flat_map(|text| text.lines()).map(sentence).collect();
    section("Why", lines(&explanation.why));
    // The errors of an invalid entry are under "To change", and a cause that stands above is not repeated.
    let is_said = |error: &String| explanation.why.as_ref().is_some_and(|why| why.contains(error.as_str()));
    let error = explanation.error.clone().filter(|error| !is_told_otherwise(explanation) && !is_said(error));
    section("To fix", lines(&error));
    let next = |Next { what, at }: &Next| match at {
        Some(at) => format!("{what} {}, at {}.", until(*at, now), times.show(*at)),
        None => format!("{what}."),
    };
    section("Does", does(explanation, now));
    section("Next", explanation.next.iter().map(next).collect());
    section("Ended", ends(explanation, now, times));
    section("Talks in", lines(&explanation.conversation));
    section("Result", explanation.result.iter().flat_map(|result| said(result)).collect());
    section("Cost", cost(explanation).into_iter().collect());
    section("Sandbox", explanation.confinement.iter().map(|how| sentence(how)).collect());
    section("Limits", lines(&explanation.limits_error));
    section("Variables", lines(&explanation.environment_error));
    section("Takes", explanation.resources.iter().map(takes).filter(|text| !text.is_empty()).collect());
    section("To change", explanation.changes.iter().map(|change| sentence(change)).collect());
    section("agentd", explanation.daemon_errors.iter().flat_map(|error| error.lines()).map(sentence).collect());
    text
}

/// What it does, since when, and how that is known.
fn does(explanation: &Explanation, now: SystemTime) -> Vec<String> {
    let told = explanation.activity.as_ref().map(|Activity { status, since: Time(since), detail, source }| {
        let time = words(now.duration_since(*since).unwrap_or_default());
        let detail = detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
        let how = match source {
            Source::Stream => "by its output",
            Source::Hook => "by its hook",
            Source::Screen => "by its screen",
        };
        sentence(&format!("It has been {status} for {time}, {how}{detail}"))
    });
    let unheard = "Its hooks are not heard: it calls none of those that agentd gave it, so what it does is known by its output and \
                   screen at most.";
    told.into_iter().chain(explanation.hooks_unheard.then(|| unheard.to_owned())).collect()
}

/// What its harness said of its work: a sentence of figures, what is remarkable, and the end of its final message.
fn said(result: &StreamResult) -> Vec<String> {
    const MOST_LINES: usize = 6;
    const MOST_CHARACTERS: usize = 500;
    let StreamResult { text, is_error, is_partial, subtype, turns, duration_api_ms, model, denied, note, .. } = result;
    let first = match (is_error, is_partial) {
        (true, _) => "Its harness says that it failed",
        (false, true) => "Its harness has not said how it ended",
        (false, false) => "Its harness says that it succeeded",
    };
    let parts = [
        // `success` says nothing more, and may contradict the rest.
        subtype.clone().filter(|word| word != "success"),
        turns.map(|turns| format!("{turns} {}", if turns == 1 { "turn" } else { "turns" })),
        duration_api_ms.map(|ms| format!("{} for its model", words(Duration::from_millis(ms)))),
        model.clone(),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    let denied = (!denied.is_empty()).then(|| format!("It was denied: {}.", denied.join(", ")));
    let note = note.as_deref().map(|note| sentence(&format!("Note: {note}")));
    let from = text.char_indices().rev().nth(MOST_CHARACTERS - 1).map_or(0, |(at, _)| at);
    let lines: Vec<&str> = text[from..].lines().filter(|line| !line.trim().is_empty()).collect();
    let cut = lines.len().saturating_sub(MOST_LINES);
    let mut message: Vec<String> = lines[cut..].iter().map(|line| format!("> {line}")).collect();
    if let Some(first) = message.first_mut().filter(|_| from > 0 || cut > 0) {
        first.insert(2, '…');
    }
    [format!("{first}{parts}.")].into_iter().chain(denied).chain(note).chain(message).collect()
}

/// What it has cost, as far as its harness says that.
fn cost(explanation: &Explanation) -> Option<String> {
    let cost = explanation.cost_usd.map(dollars);
    let tokens = explanation.tokens.as_ref().map(|tokens| {
        let Tokens { input, output, cache_read, cache_write } = *tokens;
        let parts = [(input, "sent"), (output, "received"), (cache_read, "from a cache"), (cache_write, "to a cache")];
        let parts = parts.iter().filter(|(number, _)| *number > 0).map(|(number, of)| format!("{number} {of}"));
        format!("{} tokens ({})", in_short(all_of(tokens)), parts.collect::<Vec<_>>().join(", "))
    });
    let parts: Vec<String> = [cost, tokens].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("{} under its present declaration.", parts.join(", ")))
}

/// With the full stop that belongs at its end.
fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.ends_with(['.', '!', '?', ':']) { text.to_owned() } else { format!("{text}.") }
}

fn ago(Time(at): Time, now: SystemTime) -> Duration {
    now.duration_since(at).unwrap_or_default()
}

/// The latest ends, a sentence each. A long cause that stands above is not repeated.
fn ends(explanation: &Explanation, now: SystemTime, times: &Times) -> Vec<String> {
    const SHORT: usize = 40;
    let mut said: Vec<&str> = explanation.why.iter().chain(&explanation.error).map(String::as_str).collect();
    let mut sentences = Vec::new();
    for past in &explanation.ends {
        let cause = match &past.exit.how {
            ExitStatus::Cause(cause) if cause.chars().count() > SHORT => Some(cause.as_str()),
            _ => None,
        };
        let is_said = cause.is_some_and(|cause| said.iter().any(|text| text.contains(cause)));
        said.extend(cause);
        sentences.push(end(past, is_said, now, times));
    }
    sentences
}

fn end(past: &Past, is_said: bool, now: SystemTime, times: &Times) -> String {
    let Past { attempt, started_at, exit, reason } = past;
    let is_by_itself = reason.as_deref() == Some(BY_ITSELF);
    let how = match &exit.how {
        _ if is_said => "the same cause as above".to_owned(),
        ExitStatus::Signal(signal) if is_by_itself => format!("killed by {signal} (not by agentd)"),
        how => how.to_string(),
    };
    let oom = exit.oom_kills.filter(|&kills| kills > 0);
    let oom = oom.map_or_else(String::new, |kills| format!("; {kills} of its processes killed for lack of memory"));
    // A cause says more than that, and would contradict it.
    let is_idle = is_by_itself && !matches!(exit.how, ExitStatus::Code(_));
    let why = reason.as_ref().filter(|reason| !reason.is_empty() && !is_idle);
    let why = why.map_or_else(String::new, |why| format!("; {why}"));
    let attempt = attempt.map_or_else(String::new, |attempt| format!("attempt {attempt}, "));
    let ran = started_at.and_then(|Time(started)| exit.at.0.duration_since(started).ok());
    let ran = ran.map_or_else(String::new, |ran| format!("after {}, ", words(ran)));
    let silent = if exit.silent { ", and printed nothing" } else { "" };
    let ago = words(ago(exit.at, now));
    sentence(&format!("{ago} ago, {attempt}{ran}at {}: {how}{silent}{oom}{why}", times.show(exit.at)))
}

fn takes(resources: &Resources) -> String {
    let Resources { cpu_usec, memory, memory_max, tasks, tasks_max } = resources;
    let of = |limit: Option<String>| limit.map_or_else(String::new, |limit| format!(" of at most {limit}"));
    let parts = [
        memory.map(|bytes| format!("{} of memory{}", in_bytes(bytes), of(memory_max.map(in_bytes)))),
        tasks.map(|tasks| format!("{tasks} processes and threads{}", of(tasks_max.map(|limit| limit.to_string())))),
        cpu_usec.map(|usec| format!("{} of processor time so far", words(Duration::from_micros(usec)))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { String::new() } else { sentence(&parts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-11-21T17:00:10.000Z";

    fn now() -> SystemTime {
        humantime::parse_rfc3339(NOW).unwrap()
    }

    fn at(seconds: u32) -> String {
        format!("2026-11-21T17:00:{seconds:02}.000Z")
    }

    fn agent(state: &str, more: &Value) -> AgentStatus {
        let mut agent = json!({ "name": "a", "running": false, "restarts": 0, "state": state });
        agent.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(agent).unwrap()
    }

    fn text(agent: &AgentStatus) -> String {
        render(&explain(agent, Vec::new()), now(), &Times::Exact, 80, None)
    }

    #[test]
    fn a_backoff_is_explained_with_end_next_start_and_timeout() {
        let agent = agent(
            "backoff",
            &json!({
                "reason": "exited with status 3; restart 1 of 5 follows", "attempt": 1, "exit": { "code": 3, "at": at(8) },
                "next_start_at": at(11), "timeout_at": "2026-11-21T19:00:10.000Z",
                "limits_error": "its limits are not applied: agentd does not run under systemd",
            }),
        );
        let expected = "\
a has been in state backoff for 2s, since 2026-11-21T17:00:08.000Z.
Why        exited with status 3; restart 1 of 5 follows.
Next       It starts again in 1s, at 2026-11-21T17:00:11.000Z.
           Its `timeout` passes: agentd stops it for good in 2h, at
           2026-11-21T19:00:10.000Z.
Ended      2s ago, attempt 1, at 2026-11-21T17:00:08.000Z: exited with status 3.
Limits     its limits are not applied: agentd does not run under systemd.
To change  Start it at once: agentd start a. Or stop it: agentd stop a.
           Wait; or edit what its entry launches, or a secret or prompt that it
           gets: it starts at once.
           Set `restart = \"no\"` in its entry: it does not start again.
";
        assert_eq!(text(&agent), expected);
    }

    #[test]
    fn what_is_missing_is_told_with_what_would_supply_it() {
        let agent = agent(
            "waiting",
            &json!({
                "reason": "the prompt_file /j/task.md does not exist; the workdir /x does not exist; the secrets A, B are not in the secrets directory",
                "declared_at": at(5),
                "waiting_for": [
                    { "kind": "prompt-file", "path": "/j/task.md", "problem": "absent" },
                    { "kind": "workdir", "path": "/x", "problem": "absent" },
                    { "kind": "secrets", "names": ["A", "B"] },
                ],
            }),
        );
        let expected = "\
a has been in state waiting for 5s, since 2026-11-21T17:00:05.000Z.
Why        the prompt_file /j/task.md does not exist; the workdir /x does not
           exist; the secrets A, B are not in the secrets directory.
Next       It starts as soon as nothing is missing.
To change  Write /j/task.md, or name another as the entry's `prompt_file`.
           Create the directory /x, or name another as the entry's `workdir`.
           Drop the secrets A, B into the secrets directory, or edit the entry's
           `secrets`.
";
        assert_eq!(text(&agent), expected);
    }

    #[rstest]
    #[case(
        json!({ "kind": "secrets", "names": ["A"] }),
        "Drop the secret A into the secrets directory, or edit the entry's `secrets`."
    )]
    #[case(
        json!({ "kind": "workdir", "path": "/x", "problem": "absent" }),
        "Create the directory /x, or name another as the entry's `workdir`."
    )]
    #[case(
        json!({ "kind": "workdir", "path": "/x", "problem": "not-a-directory" }),
        "Put a directory in the place of /x, or name another as the entry's `workdir`."
    )]
    #[case(
        json!({ "kind": "workdir", "path": "/x", "problem": "inaccessible", "detail": "cannot be entered by a: no" }),
        "Let the agent user into the workdir (/x cannot be entered by a: no), or name another as the entry's `workdir`."
    )]
    #[case(
        json!({ "kind": "workdir", "path": "/x", "problem": "unchecked", "detail": "no answer" }),
        "Wait; the workdir /x could not be looked at: no answer. agentd looks again by itself."
    )]
    #[case(
        json!({ "kind": "workdir", "path": "/x", "problem": "haunted", "ghosts": 3 }),
        "Let the agent user into the workdir (/x cannot be used: haunted), or name another as the entry's `workdir`."
    )]
    #[case(
        json!({ "kind": "prompt-file", "path": "/p", "problem": "absent" }),
        "Write /p, or name another as the entry's `prompt_file`."
    )]
    #[case(
        json!({ "kind": "prompt-file", "path": "/p", "problem": "empty" }),
        "Write a prompt into /p, or name another file as the entry's `prompt_file`."
    )]
    #[case(
        json!({ "kind": "prompt-file", "path": "/p", "problem": "not-a-file" }),
        "Put a regular file in the place of /p, or name another as the entry's `prompt_file`."
    )]
    #[case(
        json!({ "kind": "prompt-file", "path": "/p", "problem": "inaccessible", "detail": "cannot be read by a: no" }),
        "Let the agent user read the prompt_file (/p cannot be read by a: no)."
    )]
    #[case(
        json!({ "kind": "prompt-file", "path": "/p", "problem": "unchecked", "detail": "no answer" }),
        "Wait; the prompt_file /p could not be looked at: no answer. agentd looks again by itself."
    )]
    #[case(
        json!({ "kind": "session", "name": "s", "holder": "b" }),
        "Wait until b has left the session s, or give one of them another `session`."
    )]
    #[case(
        json!({ "kind": "session", "holder": "b" }),
        "Wait until b has left it, or give one of them another `session`."
    )]
    #[case(
        json!({ "kind": "hold", "group": "KEY-1a2b3c", "hold": "login", "until": at(30), "evidence": "API Error: 401" }),
        "Its harness said \"API Error: 401\". To start it before the next try at 2026-11-21T17:00:30.000Z: replace KEY, or run agentd \
         release KEY-1a2b3c."
    )]
    #[case(
        json!({ "kind": "hold", "group": "codex@agent", "hold": "login", "until": at(30), "evidence": "no" }),
        "Its harness said \"no\". To start it before the next try at 2026-11-21T17:00:30.000Z: log in to codex as user agent, or run \
         agentd release codex@agent."
    )]
    #[case(
        json!({ "kind": "hold", "group": "KEY-1a2b3c", "hold": "quota", "until": at(30), "evidence": "limit" }),
        "Its harness said \"limit\". It starts by itself at 2026-11-21T17:00:30.000Z; if you know better: agentd release KEY-1a2b3c."
    )]
    #[case(
        json!({ "kind": "turn", "group": "KEY-1a2b3c", "first": "b" }),
        "It starts when b, which uses the same credential, has made a turn or lived for a while."
    )]
    #[case(
        json!({ "kind": "turn", "group": "KEY-1a2b3c", "until": at(30) }),
        "It starts from 2026-11-21T17:00:30.000Z on; if you know better: agentd release KEY-1a2b3c."
    )]
    #[case(
        json!({ "kind": "unread" }),
        "Wait for this to end: its declaration could not be read yet."
    )]
    #[case(
        json!({ "kind": "moonrise", "at": "night" }),
        "Wait for this to end: moonrise (a newer agentd knows what that is)."
    )]
    fn each_thing_that_can_be_missing_has_a_remedy(#[case] missing: Value, #[case] remedy: &str) {
        let agent = agent("waiting", &json!({ "reason": "in any words", "waiting_for": [missing] }));
        assert_eq!(explain(&agent, Vec::new()).changes, [remedy]);
    }

    #[test]
    fn a_reason_that_a_daemon_leaves_out_is_made_of_the_data() {
        let why = |state, more: &Value| explain(&agent(state, more), Vec::new()).why;
        let waiting = json!({ "waiting_for": [{ "kind": "unread" }, { "kind": "moonrise" }] });
        let expected = "its declaration could not be read yet; moonrise (a newer agentd knows what that is)";
        assert_eq!(why("waiting", &waiting).as_deref(), Some(expected));
        let stopping = json!({ "stopping_because": { "kind": "shutdown" } });
        assert_eq!(why("stopping", &stopping).as_deref(), Some("agentd is being stopped"));
    }

    #[rstest]
    #[case("completed", "restart = \"always\"")]
    #[case("failed", "restart = \"on-failure\"")]
    #[case("timed-out", "A longer `timeout` alone does not bring it back")]
    #[case("gave-up", "max_restarts` of its entry above 4")]
    fn each_outcome_has_what_would_bring_the_agent_back(#[case] outcome: &str, #[case] remedy: &str) {
        let agent = agent("exited", &json!({ "outcome": outcome, "restarts": 4 }));
        let changes = explain(&agent, Vec::new()).changes.join("\n");
        assert!(changes.contains(remedy) && changes.contains(RELAUNCH), "{changes}");
        assert!(changes.starts_with("Run it again: agentd start a."), "{changes}");
    }

    #[rstest]
    #[case("running", None, "Stop it: agentd stop a. Or run it afresh: agentd restart a.")]
    #[case("backoff", None, "Start it at once: agentd start a. Or stop it: agentd stop a.")]
    #[case("stopping", Some("disabled"), "Kill it at once: agentd stop --now a.")]
    #[case("stopping", Some("restarted"), "Kill it at once: agentd restart --now a.")]
    #[case("stopping", Some("removed"), "Shorten the `grace_period` of its entry: the kill comes sooner.")]
    fn the_command_that_changes_a_state_comes_first(
        #[case] state: &str,
        #[case] because: Option<&str>,
        #[case] command: &str,
    ) {
        let more = because.map_or_else(|| json!({}), |kind| json!({ "stopping_because": { "kind": kind } }));
        assert_eq!(explain(&agent(state, &more), Vec::new()).changes[0], command);
    }

    #[test]
    fn a_held_agent_is_released_and_not_started() {
        let hold =
            json!({ "kind": "quota", "since": at(0), "until": at(30), "evidence": "limit", "group": "KEY-1a2b3c" });
        let changes = explain(&agent("backoff", &json!({ "hold": hold, "next_start_at": at(30) })), Vec::new()).changes;
        assert_eq!(changes, ["Let its group try at once: agentd release KEY-1a2b3c.", "Stop it: agentd stop a."]);
    }

    #[test]
    fn a_login_that_does_not_work_is_tried_again_at_a_time() {
        let cause =
            json!({ "kind": "hold", "group": "KEY-1a2b3c", "hold": "login", "until": at(30), "evidence": "401" });
        let next = explain(&agent("waiting", &json!({ "waiting_for": [cause] })), Vec::new()).next;
        assert_eq!(next[0].what, "An agent that shares its credential tries it again");
        assert_eq!(next[0].at.map(|at| at.to_string()), Some(at(30)));
    }

    #[test]
    fn each_mistake_of_an_invalid_entry_is_to_be_fixed() {
        let error = "/etc/j.toml:3:1: `harness` is missing; write one\n/etc/j.toml:4:1: `restart` is unknown";
        let agent = agent("invalid", &json!({ "error": error, "reason": "its entry is wrong" }));
        assert_eq!(
            explain(&agent, Vec::new()).changes,
            ["Fix /etc/j.toml:3:1: `harness` is missing; write one", "Fix /etc/j.toml:4:1: `restart` is unknown"]
        );
    }

    #[rstest]
    #[case("changed", Some("When nothing of it is left, it starts as it is declared now"))]
    #[case("timed-out", Some("When nothing of it is left, it has exited for good"))]
    #[case("removed", Some("When nothing of it is left, it is no longer listed"))]
    #[case("shutdown", Some("When nothing of it is left, it is no longer listed"))]
    #[case("moonset", None)]
    fn a_stop_is_told_with_its_deadline_and_what_follows(#[case] kind: &str, #[case] follows: Option<&str>) {
        let because = json!({ "kind": kind });
        for stage in ["interrupted", "clearing", "begged"] {
            let more = json!({ "stopping_because": because, "stop_stage": stage, "deadline": at(30) });
            let next = explain(&agent("stopping", &more), Vec::new()).next;
            assert_eq!(next[0].at.map(|at| at.to_string()), Some(at(30)));
            assert_eq!(next.get(1).map(|next| next.what.as_str()), follows);
        }
    }

    #[test]
    fn one_that_was_killed_is_not_going_to_be() {
        let because = json!({ "kind": "changed" });
        let more = json!({ "stopping_because": because, "stop_stage": "killed", "deadline": at(3) });
        let next = explain(&agent("stopping", &more), Vec::new()).next;
        assert!(!next.is_empty() && next.iter().all(|next| next.at.is_none()), "{next:?}");
    }

    #[test]
    fn an_older_daemon_without_data_is_explained_without_a_guess() {
        let reason = "its declaration has changed; interrupted, will be killed at the deadline";
        let explanation = explain(&agent("stopping", &json!({ "reason": reason, "deadline": at(30) })), Vec::new());
        assert_eq!(explanation.why.as_deref(), Some(reason));
        assert_eq!(explanation.next.len(), 1, "the deadline alone");
        let waiting = explain(&agent("waiting", &json!({ "reason": "the workdir /x does not exist" })), Vec::new());
        assert_eq!(waiting.changes, Vec::<String>::new());
    }

    #[test]
    fn the_history_is_used_if_present_and_limited_to_three() {
        let past = |attempt: u64| {
            json!({
                "attempt": attempt, "declared_at": at(0), "started_at": at(2), "exit": { "signal": "SIGKILL", "at": at(5) },
                "reason": "its timeout has passed",
            })
        };
        let history = [past(9), past(8), past(7), past(6)];
        let agent = agent("running", &json!({ "exit": { "code": 1, "at": at(1) }, "history": history }));
        let text = render(&explain(&agent, Vec::new()), now(), &Times::Exact, 120, None);
        let first = "Ended      5s ago, attempt 9, after 3s, at 2026-11-21T17:00:05.000Z: ended by SIGKILL; its timeout has passed.\n";
        assert!(text.contains(first), "{text}");
        assert!(text.contains("attempt 7") && !text.contains("attempt 6") && !text.contains("status 1"), "{text}");
    }

    #[test]
    fn a_long_cause_is_told_once() {
        let cause = "claude: not found in PATH of user agent (/usr/local/bin:/usr/bin:/bin)";
        let past = json!({ "attempt": 1, "declared_at": at(0), "exit": { "cause": cause, "at": at(5) }, "reason": "it could not be started" });
        let more = json!({
            "outcome": "failed", "error": cause, "exit": { "cause": cause, "at": at(5) }, "history": [past, past],
            "reason": format!("it could not be started: {cause}"),
        });
        let agent = agent("exited", &more);
        let text = text(&agent);
        assert_eq!(text.matches("/usr/local/bin").count(), 1, "{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("the same cause as above") && !words.contains("on-failure"), "{text}");
    }

    #[rstest]
    #[case(json!({ "signal": "SIGTERM" }), "killed by SIGTERM (not by agentd).")]
    #[case(json!({ "cause": "the tmux server died" }), "the tmux server died.")]
    #[case(json!({ "code": 2 }), "exited with status 2; it ended by itself.")]
    fn an_end_that_agentd_did_not_cause_is_said_so(#[case] mut exit: Value, #[case] expected: &str) {
        exit["at"] = json!(at(5));
        let past = json!({ "attempt": 1, "declared_at": at(0), "exit": exit, "reason": BY_ITSELF });
        let text = text(&agent("running", &json!({ "history": [past] })));
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&format!("at {}: {expected}", at(5))), "{text}");
    }

    #[test]
    fn what_the_harness_said_and_cost_is_told() {
        let more = json!({
            "outcome": "failed", "cost_usd": 1.234, "tokens": { "input": 1200, "output": 800, "cache_read": 10000 },
            "conversation": { "id": "abc", "resumed": true, "note": "older one is gone" },
            "result": {
                "text": "first\n\nI gave up.\u{1b}[2J", "is_error": true, "subtype": "error_max_turns", "turns": 1,
                "duration_api_ms": 61000, "model": "m-1", "denied": ["Bash"], "note": "2 lines were skipped",
            },
        });
        let text = render(&explain(&agent("exited", &more), Vec::new()), now(), &Times::Exact, 120, None);
        let expected = "\
Talks in   abc, resumed; older one is gone.
Result     Its harness says that it failed (error_max_turns, 1 turn, 1m 1s for its model, m-1).
           It was denied: Bash.
           Note: 2 lines were skipped.
           > first
           > I gave up.\\u{1b}[2J
Cost       $1.23, 12k tokens (1200 sent, 800 received, 10000 from a cache) under its present declaration.
";
        assert!(text.contains(expected), "{text}");
        let silent = explain(&agent("running", &json!({})), Vec::new());
        let text = render(&silent, now(), &Times::Exact, 120, None);
        assert!(!text.contains("Result") && !text.contains("Cost"), "{text}");
    }

    #[test]
    fn of_a_long_message_the_end_is_told() {
        let result = |text: String| StreamResult { text, ..StreamResult::default() };
        let lines: Vec<String> = (0..100).map(|number| format!("line {number}")).collect();
        let told = said(&result(lines.join("\n")));
        assert_eq!(told.len(), 7, "{told:?}");
        assert_eq!((told[1].as_str(), told[6].as_str()), ("> …line 94", "> line 99"));
        let told = said(&result("é".repeat(2_000)));
        assert_eq!(told[1].chars().count(), 503, "{told:?}");
        assert_eq!(said(&StreamResult::default()), ["Its harness says that it succeeded."]);
    }

    #[test]
    fn mistakes_in_other_entries_are_left_out() {
        let wrong =
            |name: &str, error: &str| AgentStatus { name: name.into(), ..agent("invalid", &json!({ "error": error })) };
        let others = [wrong("a", "/j:1:1: x"), wrong("b", "/j:5:1: y\n/j:6:1: z")];
        let faults = vec!["configuration: /j:5:1: y\n/j:6:1: z\n/j:1:1: x".to_owned(), "secrets: no".to_owned()];
        assert_eq!(concerning(&others[0], &others, faults), ["/j:1:1: x", "secrets: no"]);
    }

    const WAITING: &str = "the prompt_file /j/task.md does not exist; the secret A is not in the secrets directory";

    /// A screen of a person, in UTC.
    fn screen(width: usize) -> String {
        let agent = agent(
            "backoff",
            &json!({
                "reason": "exited with status 3; restart 1 of 5 follows", "attempt": 1, "exit": { "code": 3, "at": at(8) },
                "next_start_at": at(11), "timeout_at": "2026-11-22T01:00:10.000Z",
            }),
        );
        render(&explain(&agent, vec![WAITING.to_owned()]), now(), &Times::short(now()), width, None)
    }

    #[test]
    fn a_screen_of_80_columns_has_short_times() {
        let expected = "\
a has been in state backoff for 2s, since 17:00:08.
Why        exited with status 3; restart 1 of 5 follows.
Next       It starts again in 1s, at 17:00:11.
           Its `timeout` passes: agentd stops it for good in 8h, at 2026-11-22
           01:00:10.
Ended      2s ago, attempt 1, at 17:00:08: exited with status 3.
To change  Start it at once: agentd start a. Or stop it: agentd stop a.
           Wait; or edit what its entry launches, or a secret or prompt that it
           gets: it starts at once.
           Set `restart = \"no\"` in its entry: it does not start again.
agentd     the prompt_file /j/task.md does not exist; the secret A is not in the
           secrets directory.
";
        assert_eq!(screen(80), expected);
    }

    #[test]
    fn a_screen_of_50_columns_is_wrapped() {
        let expected = "\
a has been in state backoff for 2s, since
17:00:08.
Why        exited with status 3; restart 1 of 5
           follows.
Next       It starts again in 1s, at 17:00:11.
           Its `timeout` passes: agentd stops it
           for good in 8h, at 2026-11-22 01:00:10.
Ended      2s ago, attempt 1, at 17:00:08: exited
           with status 3.
To change  Start it at once: agentd start a. Or
           stop it: agentd stop a.
           Wait; or edit what its entry launches,
           or a secret or prompt that it gets: it
           starts at once.
           Set `restart = \"no\"` in its entry: it
           does not start again.
agentd     the prompt_file /j/task.md does not
           exist; the secret A is not in the
           secrets directory.
";
        assert_eq!(screen(50), expected);
    }

    #[test]
    fn a_screen_of_120_columns_uses_all_of_them() {
        let expected = "\
a has been in state backoff for 2s, since 17:00:08.
Why        exited with status 3; restart 1 of 5 follows.
Next       It starts again in 1s, at 17:00:11.
           Its `timeout` passes: agentd stops it for good in 8h, at 2026-11-22 01:00:10.
Ended      2s ago, attempt 1, at 17:00:08: exited with status 3.
To change  Start it at once: agentd start a. Or stop it: agentd stop a.
           Wait; or edit what its entry launches, or a secret or prompt that it gets: it starts at once.
           Set `restart = \"no\"` in its entry: it does not start again.
agentd     the prompt_file /j/task.md does not exist; the secret A is not in the secrets directory.
";
        assert_eq!(screen(120), expected);
    }

    #[test]
    fn what_it_takes_is_told_in_peoples_units() {
        let resources =
            json!({ "cpu_usec": 3_700_000, "memory": 12_999_999, "memory_max": 2_147_483_648_u64, "tasks": 5 });
        let text = text(&agent("running", &json!({ "resources": resources })));
        let expected = "12.3 MiB of memory of at most 2 GiB, 5 processes and threads, 3s of";
        assert!(text.contains(expected), "{text}");
        assert_eq!([0, 1023, 1024, u64::MAX].map(in_bytes), ["0 bytes", "1023 bytes", "1 KiB", "17179869183.9 GiB"]);
    }

    #[test]
    fn the_data_matches_the_sentences_and_omits_absent_values() {
        let agent = agent("backoff", &json!({ "exit": { "code": 3, "at": at(8) }, "next_start_at": at(11) }));
        let mut data = serde_json::to_value(explain(&agent, Vec::new())).unwrap();
        assert!(data["changes"].as_array_mut().is_some_and(|changes| !changes.is_empty()));
        data.as_object_mut().unwrap().remove("changes");
        let expected = json!({
            "name": "a", "state": "backoff", "since": at(8), "next": [{ "what": "It starts again", "at": at(11) }],
            "ends": [{ "exit": { "code": 3, "at": at(8) } }],
        });
        assert_eq!(data, expected);
    }

    #[test]
    fn completion_without_output_is_said() {
        let exit = json!({ "code": 0, "at": at(8), "silent": true });
        let text = text(&agent("exited", &json!({ "outcome": "completed", "exit": exit })));
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words.contains("exited with status 0, and printed nothing. To change It printed nothing, so"),
            "{text}"
        );
    }

    #[test]
    fn color_changes_no_word_and_is_for_the_state_alone() {
        let agent = agent("exited", &json!({ "outcome": "gave-up", "exit": { "code": 3, "at": at(8) } }));
        let explanation = explain(&agent, Vec::new());
        let colored = render(&explanation, now(), &Times::Exact, 80, Some("\x1b[31m"));
        assert!(colored.starts_with("a has been in state \x1b[31mexited (gave-up)\x1b[0m for 2s"), "{colored}");
        let plain = colored.replace("\x1b[31m", "").replace("\x1b[0m", "");
        assert_eq!(plain, render(&explanation, now(), &Times::Exact, 80, None));
    }

    #[test]
    fn nothing_from_the_api_can_move_the_cursor() {
        let hostile = "a\x1b[2J\r\u{9b}31m\u{202e}é";
        let mut agent =
            agent("exited", &json!({ "reason": hostile, "error": format!("{hostile}!"), "limits_error": hostile }));
        agent.name = hostile.to_owned();
        agent.exit =
            Some(Exit { how: ExitStatus::Cause(hostile.to_owned()), at: Time(now()), oom_kills: None, silent: false });
        let text = render(&explain(&agent, vec![hostile.to_owned()]), now(), &Times::Exact, 400, None);
        assert_eq!(text.matches(r"a\u{1b}[2J\r\u{9b}31m\u{202e}é").count(), 7, "{text}");
        assert_eq!(text.chars().filter(|&c| c.is_control() && c != '\n').count(), 0, "{text}");
    }

    #[test]
    fn no_line_is_wider_than_it_may_be_but_for_single_words() {
        let reason = "the workdir /home/agent/workspace/of/a/project does not exist; the secret A is not in the secrets directory";
        let agent = agent(
            "waiting",
            &json!({
                "reason": reason, "declared_at": at(5), "error": "x y ".repeat(100),
                "waiting_for": [
                    { "kind": "workdir", "path": "/home/agent/workspace/of/a/project", "problem": "absent" },
                    { "kind": "secrets", "names": ["A"] },
                ],
            }),
        );
        for width in 60..140 {
            let text = render(&explain(&agent, Vec::new()), now(), &Times::Exact, width, None);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}: {text}");
        }
    }
}
