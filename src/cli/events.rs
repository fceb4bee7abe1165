//! `agentd events`: what has happened and what happens, a line each.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::complete;
use super::output::{self, BETWEEN_DAEMONS, Failure, say};
use super::table::{push_hanging, wrapped};
use super::times::Times;
use super::wording::{outcome, wish};
use crate::agent::labels::Selector;
use crate::client::{Client, Error, Message};
use crate::sys::terminal::Terminal;
use crate::text::printable::{self, escaped};
use crate::wire::activity::Activity;
use crate::wire::approval::{Approval, Decision};
use crate::wire::conversation::Conversation;
use crate::wire::events::{Change, Course, Event, Since, Subject, What};
use crate::wire::hold::HoldKind;
use crate::wire::reason::LaunchReason;
use crate::wire::status::{AgentStatus, State};

/// Which events, and how.
#[derive(Clone, Debug, clap::Args)]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
pub struct Arguments {
    /// Only events about this agent, and those about no agent; the case of its name does not matter
    #[arg(add = complete::names())]
    pub name: Option<String>,
    /// Only events about agents that have this label, `KEY` or `KEY=VALUE`, and those about no agent; of several labels, all
    #[arg(short = 'l', long = "label", value_name = "LABEL")]
    pub labels: Vec<Selector>,
    /// Continue with new events
    #[arg(short, long)]
    pub follow: bool,
    /// Print only events after the one with this id; 0 prints all that are kept
    #[arg(long, value_name = "ID")]
    pub after: Option<Since>,
    /// Print times in UTC on a terminal, too
    #[arg(long)]
    pub utc: bool,
    /// Print events as the API has them, one on each line
    #[arg(long)]
    pub json: bool,
}

/// Prints events: data to stdout, talk to stderr.
pub fn run(arguments: &Arguments, socket: &Path) -> ExitCode {
    output::run(print(arguments, socket))
}

async fn print(arguments: &Arguments, socket: &Path) -> Result<(), Failure> {
    let client = Client::new(socket).map_err(Failure::Ask)?;
    if let Some(name) = &arguments.name {
        find(&client, name).await.map_err(Failure::Ask)?;
    }
    let labels: Vec<String> = arguments.labels.iter().map(Selector::to_string).collect();
    let mut last = arguments.after.unwrap_or(Since::Beginning).to_string();
    let (mut was_there, mut is_away) = (false, false);
    loop {
        let listened = listen(&client, arguments, &labels, &mut last, &mut was_there, &mut is_away).await;
        match listened {
            Err(Failure::Ask(error)) if arguments.follow && was_there && error.may_come_back() => {
                if !std::mem::replace(&mut is_away, true) {
                    say(&format!("{error}; waiting for it"));
                }
            }
            Ok(()) if arguments.follow => {}
            listened => return listened,
        }
        tokio::time::sleep(BETWEEN_DAEMONS).await;
    }
}

/// Finds out whether there is such an agent, or was: one that was removed has events that are kept.
async fn find(client: &Client, name: &str) -> Result<(), Error> {
    let missing = match client.agent(name).await {
        Err(error @ Error::NoSuchAgent { .. }) => error,
        other => return other.map(|_| ()),
    };
    let mut kept = match client.events(Some(name), &[], Some("0"), false).await {
        // No agent can have this name.
        Err(Error::Refused { .. }) => return Err(missing),
        kept => kept?,
    };
    while let Some(message) = kept.next().await? {
        let event = serde_json::from_str::<Event>(&message.data);
        if event.is_ok_and(|event| event.what.agent().is_some_and(|about| about.eq_ignore_ascii_case(name))) {
            return Ok(());
        }
    }
    Err(missing)
}

/// Prints what one daemon tells, until it tells no more.
async fn listen(
    client: &Client,
    arguments: &Arguments,
    labels: &[String],
    last: &mut String,
    was_there: &mut bool,
    is_away: &mut bool,
) -> Result<(), Failure> {
    let mut messages =
        client.events(arguments.name.as_deref(), labels, Some(last), arguments.follow).await.map_err(Failure::Ask)?;
    (*was_there, *is_away) = (true, false);
    loop {
        let next = messages.next().await;
        if let Some(id) = messages.last_id() {
            id.clone_into(last);
        }
        match next.map_err(Failure::Ask)? {
            Some(message) => print_one(&message, arguments).map_err(Failure::Print)?,
            None => return Ok(()),
        }
    }
}

fn print_one(message: &Message, arguments: &Arguments) -> io::Result<()> {
    let text = if arguments.json {
        printable::json(message.data.clone()) + "\n"
    } else {
        match serde_json::from_str::<Event>(&message.data) {
            Ok(event) => {
                let width = Terminal::here().width;
                render(&event, &Times::here(width.is_some(), arguments.utc), width)
            }
            // A newer daemon knows more kinds.
            Err(_) => escaped(&format!("{} {}", message.kind, message.data)) + "\n",
        }
    };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// An event as a line, which is wrapped at the width of a terminal: what follows the time stays beside it.
fn render(event: &Event, times: &Times, width: Option<usize>) -> String {
    /// Where there is less room, the terminal may break the lines.
    const LEAST_ROOM: usize = 20;
    let time = format!("{} ", times.show(event.at));
    let subject = event.what.agent().unwrap_or("agentd");
    let what = escaped(&format!("{subject}: {}", words(&event.what)));
    let indent = time.chars().count();
    let lines = match width {
        Some(width) => wrapped(&what, width.saturating_sub(indent).max(LEAST_ROOM)),
        None => vec![what],
    };
    let mut text = String::new();
    push_hanging(&mut text, &time, indent, lines);
    text
}

fn words(what: &What) -> String {
    match what {
        What::Daemon { state, version } => match state {
            Course::Started => format!("started, version {version}"),
            Course::Stopping => "stops all agents and ends".to_owned(),
            Course::Detaching => "ends and leaves its agents to the next daemon".to_owned(),
        },
        What::Declaration { change, changed, .. } => match change {
            Change::Added => "declared".to_owned(),
            Change::Changed => changed.to_string(),
            Change::Removed => "its entry was removed".to_owned(),
        },
        What::State { previous, agent, .. } => match previous.filter(|&previous| previous != agent.state) {
            Some(previous) => format!("{previous} → {}", described(agent)),
            None => described(agent),
        },
        What::Adopted { agent, .. } => format!("adopted: {}", described(agent)),
        What::Rotation { rotation: Some(rotation), .. } => {
            format!("new values of {} wait: {}", rotation.secrets.join(", "), rotation.why)
        }
        What::Rotation { rotation: None, .. } => "no new values of secrets wait any more".to_owned(),
        What::Removed { .. } => "removed".to_owned(),
        What::Approval { approval, .. } => asked(approval),
        What::Hold { hold, agents } => {
            let held = if *agents == 1 { "1 agent held".to_owned() } else { format!("{agents} agents held") };
            let until = hold.until.map_or_else(String::new, |until| format!(" until {until}"));
            let how = match hold.kind {
                HoldKind::Login => "does not work",
                HoldKind::Quota => "is exhausted",
            };
            format!("the {} of {} {how}{until} ({held}): {}", hold.kind, hold.group, hold.evidence)
        }
        What::Released { group, kind, .. } => format!("the {kind} hold of {group} is over"),
        What::Activity { previous, activity, .. } => {
            let now = activity.as_ref().map_or_else(|| "unknown".to_owned(), doing);
            previous.map_or_else(|| now.clone(), |previous| format!("{previous} → {now}"))
        }
        What::Conversation { conversation: Conversation { id, resumed, note }, .. } => {
            let id = id.as_deref().unwrap_or("unknown");
            let note = note.as_ref().map_or_else(String::new, |note| format!("; {note}"));
            format!("{} conversation {id}{note}", if *resumed { "resumed" } else { "in" })
        }
        What::Error { about, error, .. } => format!("error{}: {error}", about_what(*about)),
        What::Resolved { about, .. } => format!("error{} resolved", about_what(*about)),
        What::Missed {} => "events were missed; agentd status tells where things stand".to_owned(),
    }
}

fn doing(activity: &Activity) -> String {
    let detail = activity.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
    format!("{}{detail} (by {})", activity.status, activity.source)
}

fn described(agent: &AgentStatus) -> String {
    let how = agent.outcome.map(|it| format!(" ({})", outcome(it))).unwrap_or_default();
    let why = match agent.state {
        State::Starting => {
            let launch = agent.launch_reason.as_ref().filter(|reason| !matches!(reason, LaunchReason::First));
            launch.map(|launch| launch_words(launch, agent))
        }
        State::Running => None,
        _ => agent.reason.clone(),
    };
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    let pid = agent.pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
    let attempt = agent.attempt_shown().map(|attempt| format!(", attempt {attempt}")).unwrap_or_default();
    format!("{}{how}{attempt}{pid}{why}", agent.state)
}

/// Why it is launched. What its declaration changed says more than that it changed.
fn launch_words(launch: &LaunchReason, agent: &AgentStatus) -> String {
    match launch {
        LaunchReason::Declaration if !agent.changed.is_empty() => agent.changed.to_string(),
        _ => launch.to_string(),
    }
}

/// What is asked, or what came of it.
fn asked(approval: &Approval) -> String {
    let Approval { id, decision, .. } = approval;
    let Some(Decision { answer, who, why, .. }) = decision else {
        return format!("asks for approval {id}: {}", wish(approval));
    };
    let by = who.as_ref().map(|who| format!(" by {who}")).unwrap_or_default();
    let why = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    format!("approval {id} {answer}{by}{why}")
}

fn about_what(subject: Subject) -> &'static str {
    match subject {
        Subject::Agent => "",
        Subject::Config => " in the configuration",
        Subject::Secrets => " with the secrets",
        Subject::State => " with the state directory",
        Subject::Groups => " with the control groups",
        Subject::Overrides => " with the overrides",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line_of(what: &serde_json::Value) -> String {
        let mut event = json!({ "id": "7-1", "at": "2026-11-21T17:00:00.000Z" });
        event.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
        render(&serde_json::from_value(event).unwrap(), &Times::Exact, None)
    }

    #[test]
    fn each_event_is_told_in_words() {
        let agent = |state: &str| json!({ "name": "a", "running": false, "restarts": 0, "state": state, "attempt": 2 });
        let mut exited = agent("exited");
        exited["outcome"] = json!("failed");
        exited["reason"] = json!("exited with status 3");
        let mut starting = agent("starting");
        starting["reason"] = json!("attempt 2 is being started");
        let mut again = starting.clone();
        starting["launch_reason"] = json!("first");
        again["launch_reason"] = json!("policy");
        let mut edited = agent("starting");
        edited["launch_reason"] = json!("declaration");
        edited["changed"] = json!({ "fields": ["args"], "secrets": ["KEY"] });
        edited["attempt_total"] = json!(7);
        let mut running = agent("running");
        running["pid"] = json!(7);
        for (what, expected) in [
            (json!({ "type": "daemon", "state": "started", "version": "1" }), "agentd: started, version 1"),
            (json!({ "type": "declaration", "name": "a", "change": "changed" }), "a: its declaration has changed"),
            (
                json!({ "type": "declaration", "name": "a", "change": "changed", "changed": { "fields": ["prompt"] } }),
                "a: prompt changed",
            ),
            (
                json!({ "type": "state", "name": "a", "previous": "stopping", "agent": edited }),
                "a: stopping → starting, attempt 7: args and secret KEY changed",
            ),
            (
                json!({ "type": "state", "name": "a", "previous": "running", "agent": exited }),
                "a: running → exited (failed), attempt 2: exited with status 3",
            ),
            (json!({ "type": "state", "name": "a", "agent": starting }), "a: starting, attempt 2"),
            (
                json!({ "type": "activity", "name": "a", "previous": "working", "activity": {
                    "status": "blocked", "since": "2026-11-21T17:00:00.000Z", "detail": "permission: Bash", "source": "hook",
                } }),
                "a: working → blocked: permission: Bash (by hook)",
            ),
            (json!({ "type": "activity", "name": "a", "previous": "blocked" }), "a: blocked → unknown"),
            (
                json!({ "type": "state", "name": "a", "previous": "backoff", "agent": again }),
                "a: backoff → starting, attempt 2: restart by policy",
            ),
            (
                json!({ "type": "state", "name": "a", "previous": "starting", "agent": running }),
                "a: starting → running, attempt 2, process 7",
            ),
            (json!({ "type": "adopted", "name": "a", "agent": running }), "a: adopted: running, attempt 2, process 7"),
            (json!({ "type": "removed", "name": "a" }), "a: removed"),
            (json!({ "type": "error", "about": "agent", "name": "a", "error": "no" }), "a: error: no"),
            (json!({ "type": "error", "about": "config", "error": "no" }), "agentd: error in the configuration: no"),
            (json!({ "type": "resolved", "about": "secrets" }), "agentd: error with the secrets resolved"),
            (json!({ "type": "missed" }), "agentd: events were missed; agentd status tells where things stand"),
        ] {
            assert_eq!(line_of(&what), format!("2026-11-21T17:00:00.000Z {expected}\n"));
        }
    }

    /// A screen of a person, in UTC.
    fn screen(width: usize) -> String {
        let agent = json!({
            "name": "reviewer", "running": false, "restarts": 1, "state": "backoff", "attempt": 1,
            "reason": "exited with status 1; restart 1 of 5 follows",
        });
        let event = json!({
            "id": "7-1", "at": "2026-11-21T17:00:00.250Z", "type": "state", "name": "reviewer", "previous": "running",
            "agent": agent,
        });
        let event: Event = serde_json::from_value(event).unwrap();
        let times = Times::short(event.at.0);
        render(&event, &times, Some(width))
    }

    #[test]
    fn an_event_is_wrapped_beside_its_time() {
        let wide = "17:00:00 reviewer: running → backoff, attempt 1: exited with status 1; restart 1 of 5 follows\n";
        assert_eq!(screen(120), wide);
        let usual = "\
17:00:00 reviewer: running → backoff, attempt 1: exited with status 1; restart 1
         of 5 follows
";
        assert_eq!(screen(80), usual);
        let narrow = "\
17:00:00 reviewer: running → backoff, attempt 1:
         exited with status 1; restart 1 of 5
         follows
";
        assert_eq!(screen(50), narrow);
    }
}
