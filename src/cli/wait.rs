//! `agentd wait`: until an agent, or each with a label, is in a state, as an exit status.
//!
//! The API tells of each change as it happens, so that no state is too short to be seen. Only where it does not, as between two
//! daemons, it is asked again and again, seldom enough to be no burden. A daemon that goes away is waited for: its agents live on
//! meanwhile.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use hyper::body::Bytes;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::complete;
use super::output::{block_on, complain, print, say};
use crate::agent::labels::{self, Selector};
use crate::client::{Answer, Client, Error, Messages};
use crate::text::duration;
use crate::text::printable::json_line;
use crate::wire::activity::Doing;
use crate::wire::events::{Event, What};
use crate::wire::exit_status::ExitStatus;
use crate::wire::reason::WaitingFor;
use crate::wire::status::{AgentStatus, State};

/// As promised: it came.
const REACHED: u8 = 0;
/// As for other misuse of the command line.
const MISUSED: u8 = 2;
/// It will not come by itself any more.
const OTHERWISE: u8 = 123;
/// As `timeout(1)` has it.
const TIMED_OUT: u8 = 124;
/// Likewise, for a failure of its own.
const UNKNOWN: u8 = 125;

/// The pause after the first question, and the longest.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// How long the last question may take after the timeout has passed.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// For how long after its start a daemon may not have read everything yet, and so not know of an agent.
const STARTUP_GRACE: Duration = Duration::from_secs(5);

/// How long an agent that nobody knows of may take to be known: its entry may have been saved this very moment. Longer than a daemon
/// waits for quiet by default.
const TO_BE_DECLARED: Duration = Duration::from_millis(1500);

/// A number alone is seconds, as for `timeout`(1) and for a `timeout` in the jcard.
fn seconds_or_duration(text: &str) -> Result<Duration, duration::Error> {
    text.parse().map(Duration::from_secs).or_else(|_| duration::parse(text))
}

/// What is waited for, and for how long.
#[derive(Clone, Debug, clap::Args)]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
pub struct Arguments {
    /// The agent; the case of its name does not matter
    #[arg(add = complete::names())]
    pub name: Option<String>,
    /// Wait for all agents that have this label now, `KEY` or `KEY=VALUE`; of several labels, all. The command ends with the largest of
    /// their exit statuses
    #[arg(short = 'l', long = "label", value_name = "LABEL", conflicts_with = "name")]
    pub labels: Vec<Selector>,
    /// The state or activity to wait for, or several separated by commas, of which any will do
    #[arg(long = "for", value_name = "STATE", value_enum, value_delimiter = ',', default_value = "exited")]
    pub states: Vec<Wanted>,
    /// How long to wait at most, such as 90s or 2h, or in seconds; without it, forever
    #[arg(long, value_name = "DURATION", value_parser = seconds_or_duration)]
    pub timeout: Option<Duration>,
    /// When it has exited, end with its own exit status instead of 0: 128 and the signal's number for one that was killed
    #[arg(long)]
    pub exit_code: bool,
    /// Print the agent as the API has it in the end
    #[arg(long)]
    pub json: bool,
}

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The agent is in this state.
    State(State),
    /// It runs, and waits for its next task.
    Idle,
    /// It runs, and asks a question that a person must answer.
    Blocked,
    /// It runs, and is known to work or to wait for its next task.
    Ready,
}

impl ValueEnum for Wanted {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::State(State::Waiting),
            Self::State(State::Starting),
            Self::State(State::Running),
            Self::State(State::Stopping),
            Self::State(State::Backoff),
            Self::State(State::Exited),
            Self::State(State::Invalid),
            Self::Idle,
            Self::Blocked,
            Self::Ready,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = match self {
            Self::State(state) => return state.to_possible_value(),
            Self::Idle => ("idle", "It runs, and waits for its next task"),
            Self::Blocked => ("blocked", "It runs, and asks a question that a person must answer"),
            Self::Ready => ("ready", "It runs, and is known to work or to wait for its next task"),
        };
        Some(PossibleValue::new(name).help(help))
    }
}

impl Wanted {
    fn is_reached(self, agent: &AgentStatus) -> bool {
        let doing = agent.activity.as_ref().map(|activity| activity.status).filter(|_| agent.state == State::Running);
        match self {
            Self::State(state) => agent.state == state,
            Self::Idle => doing == Some(Doing::Idle),
            Self::Blocked => doing == Some(Doing::Blocked),
            Self::Ready => matches!(doing, Some(Doing::Idle | Doing::Working)),
        }
    }
}

/// Waits, and prints how that went: data to stdout, messages to stderr.
pub fn run(arguments: &Arguments, socket: &Path) -> ExitCode {
    if arguments.name.is_none() && arguments.labels.is_empty() {
        return complain(MISUSED, "name the agent to wait for, or write --label");
    }
    if arguments.exit_code && !arguments.states.contains(&Wanted::State(State::Exited)) {
        return complain(MISUSED, "--exit-code needs an agent that has exited; leave out --for");
    }
    let waited = match block_on(UNKNOWN, wait_for_all(arguments, socket)) {
        Ok(Ok(waited)) => waited,
        Ok(Err(message)) => return complain(UNKNOWN, &message),
        Err(code) => return code,
    };
    let mut ended: Vec<Ended> = waited.into_iter().map(|waited| conclude(waited, arguments)).collect();
    ended.iter().filter_map(|ended| ended.message.as_ref()).for_each(|message| say(message));
    let status = ended.iter().map(|ended| ended.status).max().unwrap_or(UNKNOWN);
    let bodies: Vec<Bytes> = ended.iter_mut().filter_map(|ended| ended.body.take()).collect();
    let body = match bodies.as_slice() {
        _ if !arguments.json => Bytes::new(),
        bodies if !arguments.labels.is_empty() => {
            let agents: Vec<Value> = bodies.iter().filter_map(|body| serde_json::from_slice(body).ok()).collect();
            json_line(&agents).into()
        }
        bodies => bodies.first().cloned().unwrap_or_default(),
    };
    print(&body, status, UNKNOWN)
}

/// How the waiting for one agent ended, as the command says it.
struct Ended {
    status: u8,
    message: Option<String>,
    body: Option<Bytes>,
}

fn conclude(Waited { end, last }: Waited, arguments: &Arguments) -> Ended {
    let (status, message) = match end {
        End::Reached => match last.as_ref().filter(|_| arguments.exit_code).map(|Answer { value, .. }| value) {
            Some(agent) if agent.state == State::Exited => match own_status(agent) {
                Ok(status) => (status, None),
                Err(why) => (UNKNOWN, Some(format!("the exit status of {} is not known: {why}", agent.name))),
            },
            _ => (REACHED, None),
        },
        End::Otherwise(why) => (OTHERWISE, Some(why)),
        End::TimedOut(why) => (TIMED_OUT, Some(why)),
        End::Unknown(error) => (UNKNOWN, Some(error.to_string())),
    };
    Ended { status, message, body: last.map(|Answer { body, .. }| body) }
}

/// Waits for the agent that is named, or for all that have the labels. The error is that there is none.
async fn wait_for_all(arguments: &Arguments, socket: &Path) -> Result<Vec<Waited>, String> {
    let limit = arguments.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    if let Some(name) = &arguments.name {
        return Ok(vec![wait(arguments, name, limit, socket).await]);
    }
    let names = labeled(arguments, limit, socket).await?;
    let mut waits = JoinSet::new();
    for (at, name) in names.into_iter().enumerate() {
        let (arguments, socket) = (arguments.clone(), socket.to_owned());
        waits.spawn(async move { (at, wait(&arguments, &name, limit, &socket).await) });
    }
    let mut waited = waits.join_all().await;
    waited.sort_by_key(|(at, _)| *at);
    Ok(waited.into_iter().map(|(_, waited)| waited).collect())
}

/// The agents that have the labels. A daemon that is not there is waited for if there is a limit, as for an agent that is named.
async fn labeled(arguments: &Arguments, limit: Option<Instant>, socket: &Path) -> Result<Vec<String>, String> {
    let client = Client::new(socket).map_err(|error| error.to_string())?;
    let agents = loop {
        match client.agents().await {
            Ok(agents) => break agents.value,
            Err(error) if error.may_come_back() && limit.is_some_and(|limit| Instant::now() < limit) => {
                sleep(LONGEST).await;
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    let meant = agents.into_iter().filter(|agent| labels::fits_all(&arguments.labels, &agent.labels));
    let names: Vec<String> = meant.map(|agent| agent.name).collect();
    if names.is_empty() {
        let labels: Vec<String> = arguments.labels.iter().map(Selector::to_string).collect();
        return Err(format!("no agent has the label {}; agentd status lists all", labels.join(" and ")));
    }
    Ok(names)
}

/// How the waiting ended, with the agent as it was seen last.
struct Waited {
    end: End,
    last: Option<Answer<AgentStatus>>,
}

enum End {
    Reached,
    Otherwise(String),
    TimedOut(String),
    Unknown(Error),
}

async fn wait(arguments: &Arguments, name: &str, limit: Option<Instant>, socket: &Path) -> Waited {
    let mut last = None;
    let client = match Client::new(socket) {
        Ok(client) => client,
        Err(error) => return Waited { end: End::Unknown(error), last },
    };
    let (mut pause, mut is_away) = (SHORTEST, false);
    let asked = Instant::now();
    let mut listener: Option<Messages<'_>> = None;
    loop {
        let mut is_unknown = false;
        let is_last = limit.is_some_and(|limit| limit <= Instant::now());
        if listener.is_none() && !is_last {
            // Before it is asked how things stand: nothing is missed between.
            listener = in_time(limit, client.events(Some(name), &[], None, true)).await.and_then(Result::ok);
        }
        let missing = match ask(&client, name, limit).await {
            Some(Ok(answer)) => {
                let verdict = judge(&answer.value, &arguments.states);
                let why = describe(&answer.value);
                last = Some(answer);
                is_away = false;
                match verdict {
                    Verdict::Reached => return Waited { end: End::Reached, last },
                    Verdict::Never => return Waited { end: End::Otherwise(why), last },
                    Verdict::NotYet => None,
                }
            }
            Some(Err(Error::NoSuchAgent { .. }))
                if last.is_none() && asked.elapsed() < TO_BE_DECLARED || is_young(&client).await =>
            {
                is_unknown = true;
                None
            }
            Some(Err(Error::NoSuchAgent { .. })) if last.is_some() => {
                let why = format!("{name} was stopped and is gone: its entry was removed, or agentd was stopped");
                return Waited { end: End::Otherwise(why), last };
            }
            Some(Err(error)) if !error.may_come_back() || (last.is_none() && limit.is_none()) => {
                return Waited { end: End::Unknown(error), last };
            }
            Some(Err(error)) => {
                if !std::mem::replace(&mut is_away, true) {
                    say(&format!("{error}; waiting for it"));
                }
                Some(error)
            }
            None => None,
        };
        if is_last {
            let seen = last.as_ref().map_or_else(|| format!("{name} is not known yet"), |it| describe(&it.value));
            let after = humantime::format_duration(arguments.timeout.unwrap_or_default());
            let end = missing.map_or_else(|| End::TimedOut(format!("timed out after {after}: {seen}")), End::Unknown);
            return Waited { end, last };
        }
        // Nothing need happen for it to be settled that there is none.
        let next = (listener.is_none() || is_unknown).then(|| Instant::now() + pause);
        let passed = async {
            match next.into_iter().chain(limit).min() {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            heard = hear(&mut listener, name, &arguments.states) => if let Some(agent) = heard {
                return Waited { end: End::Reached, last: Some(agent) };
            },
            () = passed => pause = (pause * 3 / 2).min(LONGEST),
        }
    }
}

/// Until something has happened to the agent: it came into a wanted state, which is answered, or something else, which is to be
/// asked. For ever where there is nobody to listen to; who tells nothing any more is dropped. Cancel-safe.
async fn hear(listener: &mut Option<Messages<'_>>, name: &str, wanted: &[Wanted]) -> Option<Answer<AgentStatus>> {
    let Some(messages) = listener else { return std::future::pending().await };
    while let Ok(Some(message)) = messages.next().await {
        let Ok(event) = serde_json::from_str::<Event>(&message.data) else { continue };
        match event.what {
            What::State { agent, .. } if agent.name.eq_ignore_ascii_case(name) => {
                if judge(&agent, wanted) == Verdict::Reached {
                    let body = json_line(&agent);
                    return Some(Answer { value: *agent, body: body.into() });
                }
                return None;
            }
            what if what.agent().is_none_or(|about| about.eq_ignore_ascii_case(name)) => return None,
            _ => {}
        }
    }
    *listener = None;
    None
}

/// `None` if there was no answer by the time that is up.
async fn ask(client: &Client, name: &str, limit: Option<Instant>) -> Option<Result<Answer<AgentStatus>, Error>> {
    in_time(limit, client.agent(name)).await
}

/// `None` if it has not come by the time that is up.
async fn in_time<T>(limit: Option<Instant>, coming: impl Future<Output = T>) -> Option<T> {
    let patience = limit.map(|limit| limit.saturating_duration_since(Instant::now()).max(LEAST_PATIENCE));
    let up = async {
        match patience {
            Some(patience) => sleep(patience).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        come = coming => Some(come),
        () = up => None,
    }
}

/// Whether the daemon may not know all its agents yet. One that is gone again will be asked again.
async fn is_young(client: &Client) -> bool {
    match client.health().await {
        Ok(health) => Duration::from_secs(health.value.uptime_seconds) < STARTUP_GRACE,
        Err(error) => error.may_come_back(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Reached,
    NotYet,
    /// Not by itself.
    Never,
}

fn judge(agent: &AgentStatus, wanted: &[Wanted]) -> Verdict {
    match agent.state {
        _ if wanted.iter().any(|wanted| wanted.is_reached(agent)) => Verdict::Reached,
        State::Exited | State::Invalid => Verdict::Never,
        // Only a person starts it.
        State::Waiting if agent.waiting_for.iter().any(|cause| matches!(cause, WaitingFor::Enabled { .. })) => {
            Verdict::Never
        }
        State::Waiting | State::Starting | State::Running | State::Stopping | State::Backoff => Verdict::NotYet,
    }
}

fn describe(agent: &AgentStatus) -> String {
    let why = agent.error.as_ref().filter(|_| agent.state == State::Invalid).or(agent.reason.as_ref());
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    let what = if agent.state == State::Backoff { "in " } else { "" };
    format!("{} is {what}{}{why}", agent.name, agent.state)
}

/// The exit status of an agent that has exited, as a shell has it; or why there is none.
fn own_status(agent: &AgentStatus) -> Result<u8, String> {
    let exit = agent.exit.as_ref().ok_or("it never ran")?;
    match &exit.how {
        // Only the lowest eight bits get to whoever waits (`exit(3)`).
        ExitStatus::Code(code) => Ok(code.to_le_bytes()[0]),
        // The kernel has 64 signals.
        ExitStatus::Signal(signal) => Ok(128 | signal.number().to_le_bytes()[0]),
        ExitStatus::Cause(cause) => Err(cause.clone()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case("1", Some(1_000))]
    #[case("1s", Some(1_000))]
    #[case("1h30m", Some(5_400_000))]
    #[case("-1", None)]
    #[case("1 fortnight", None)]
    fn number_alone_is_seconds(#[case] text: &str, #[case] milliseconds: Option<u64>) {
        assert_eq!(seconds_or_duration(text).ok(), milliseconds.map(Duration::from_millis));
    }

    fn agent(state: &str, more: &serde_json::Value) -> AgentStatus {
        let mut agent = json!({ "name": "a", "running": false, "restarts": 0, "state": state });
        agent.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(agent).unwrap()
    }

    #[rstest]
    #[case("exited", &[Wanted::State(State::Exited)], Verdict::Reached)]
    #[case("running", &[Wanted::State(State::Exited)], Verdict::NotYet)]
    #[case("waiting", &[Wanted::State(State::Exited)], Verdict::NotYet)]
    #[case("backoff", &[Wanted::State(State::Running)], Verdict::NotYet)]
    #[case("exited", &[Wanted::State(State::Running)], Verdict::Never)]
    #[case("exited", &[Wanted::Idle], Verdict::Never)]
    #[case("invalid", &[Wanted::State(State::Exited)], Verdict::Never)]
    #[case("invalid", &[Wanted::State(State::Running), Wanted::State(State::Invalid)], Verdict::Reached)]
    fn what_will_not_come_by_itself_is_not_waited_for(
        #[case] state: &str,
        #[case] wanted: &[Wanted],
        #[case] verdict: Verdict,
    ) {
        assert_eq!(judge(&agent(state, &json!({})), wanted), verdict);
    }

    #[rstest]
    #[case(None, &[])]
    #[case(Some("working"), &[Wanted::Ready])]
    #[case(Some("idle"), &[Wanted::Ready, Wanted::Idle])]
    #[case(Some("blocked"), &[Wanted::Blocked])]
    #[case(Some("login"), &[])]
    fn what_an_agent_does_is_waited_for(#[case] doing: Option<&str>, #[case] reached: &[Wanted]) {
        let activity =
            doing.map(|doing| json!({ "status": doing, "since": "2026-11-21T17:00:00.000Z", "source": "hook" }));
        let more = activity.map_or_else(|| json!({}), |activity| json!({ "activity": activity }));
        for wanted in [Wanted::Ready, Wanted::Idle, Wanted::Blocked] {
            let expected = if reached.contains(&wanted) { Verdict::Reached } else { Verdict::NotYet };
            assert_eq!(judge(&agent("running", &more), &[wanted]), expected, "{wanted:?}");
            assert_eq!(judge(&agent("stopping", &more), &[wanted]), Verdict::NotYet);
        }
    }

    #[rstest]
    #[case(json!({ "code": 0 }), Ok(0))]
    #[case(json!({ "code": 7 }), Ok(7))]
    #[case(json!({ "code": 255 }), Ok(255))]
    #[case(json!({ "code": 256 }), Ok(0))]
    #[case(json!({ "signal": "SIGKILL" }), Ok(137))]
    #[case(json!({ "signal": "SIG34" }), Ok(162))]
    #[case(json!({ "signal": "SIGRTMIN+3" }), Ok(165))]
    #[case(json!({ "signal": "SIGRTMIN+30" }), Ok(192))]
    #[case(json!({ "signal": "SIG65" }), Err("ended by SIG65"))]
    #[case(json!({ "signal": "nonsense" }), Err("ended by nonsense"))]
    #[case(json!({ "cause": "the tmux server died" }), Err("the tmux server died"))]
    fn the_agents_own_status_is_as_a_shell_has_it(
        #[case] mut exit: serde_json::Value,
        #[case] expected: Result<u8, &str>,
    ) {
        exit["at"] = json!("2026-11-21T17:00:00.000Z");
        let status = own_status(&agent("exited", &json!({ "exit": exit })));
        assert_eq!(status.as_ref().map(|&code| code).map_err(String::as_str), expected);
    }

    #[test]
    fn one_that_never_ran_has_no_status() {
        assert_eq!(own_status(&agent("exited", &json!({}))), Err("it never ran".to_owned()));
    }
}
