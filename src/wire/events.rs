//! Events: what happened, one after the other, as `GET /v1/events` sends it.
//!
//! The supervisor is the only writer. It keeps the latest events in a [`Ring`]; each client reads from there at its own pace, by the
//! number of the event that it has seen last. So a slow client costs nothing, and one that is too slow is told that it has
//! missed events. An event is on record, and `GET /v1/agents` agrees with it, before it is published.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::wire::activity::{Activity, Doing};
use crate::wire::approval::Approval;
use crate::wire::conversation::Conversation;
use crate::wire::hold::{Hold, HoldKind};
use crate::wire::reason::Changes;
use crate::wire::status::{AgentStatus, Errors, PendingRotation, State, Time};

/// Which event of which daemon. Those of one daemon are counted up from 1; another daemon's are of another epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    /// When the daemon started: milliseconds since 1970.
    pub(crate) epoch: u64,
    pub(crate) number: u64,
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.epoch, self.number)
    }
}

/// The text is not the id of an event.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no event's id; one looks like 1790000000000-17")]
pub struct NoId(String);

impl FromStr for Id {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        let parse = || {
            let (epoch, number) = text.split_once('-')?;
            Some(Self { epoch: epoch.parse().ok()?, number: number.parse().ok()? })
        };
        parse().ok_or_else(|| NoId(text.to_owned()))
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Id {
    fn schema_name() -> Cow<'static, str> {
        "EventId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string", "pattern": "^[0-9]+-[0-9]+$",
            "description": "Which event it is: to be sent as Last-Event-ID by who wants those after it.",
        })
    }
}

/// Something that happened. Kinds may be added; a client passes over those that it does not know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Which it is.
    pub id: Id,
    /// When.
    pub at: Time,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum What {
    /// The daemon has started, or begins to end.
    Daemon {
        /// Which of them.
        state: Course,
        /// Its version.
        version: String,
    },
    /// The declaration of an agent, with all that the agent needs, is new, has changed, or is gone.
    Declaration {
        /// The agent.
        name: String,
        /// Which of them.
        change: Change,
        /// What has changed, as far as that is known.
        #[serde(default, skip_serializing_if = "Changes::is_empty")]
        changed: Changes,
    },
    /// An agent entered a state, or made its next attempt in the same state.
    State {
        /// The agent.
        name: String,
        /// The state before; absent if the agent is new.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<State>,
        /// The agent as `GET /v1/agents` lists it, with the new state and why it is in it.
        agent: Box<AgentStatus>,
    },
    /// The daemon has taken over an agent that lived before the daemon started.
    Adopted {
        /// The agent.
        name: String,
        /// As in `state`.
        agent: Box<AgentStatus>,
    },
    /// An agent was removed, and nothing of it is left.
    Removed {
        /// The agent.
        name: String,
    },
    /// The agent is in another conversation than before, or it has become known how it came into the one it is in.
    Conversation {
        /// The agent.
        name: String,
        /// The id of the conversation before, if there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<String>,
        /// The conversation.
        conversation: Conversation,
    },
    /// An agent asks whether it may do something, or something came of that.
    Approval {
        /// The agent.
        name: String,
        /// What it asks; with a `decision` once something came of it.
        approval: Box<Approval>,
    },
    /// New values of an agent's secrets wait, wait for something else than before, or do not wait any more.
    Rotation {
        /// The agent.
        name: String,
        /// What they wait for; absent if nothing waits any more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rotation: Option<PendingRotation>,
    },
    /// A credential does not work: no agent of its group starts. Sent again when the hold is renewed.
    Hold {
        /// The hold.
        #[serde(flatten)]
        hold: Hold,
        /// How many agents it keeps from starting.
        agents: usize,
    },
    /// The agents of a group start again.
    Released {
        /// The group.
        group: String,
        /// What the hold was about.
        kind: HoldKind,
        /// When it began.
        since: Time,
    },
    /// What a running agent does has changed, or is no longer known.
    Activity {
        /// The agent.
        name: String,
        /// What it did before, if that was known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<Doing>,
        /// What it does; absent if that is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        activity: Option<Activity>,
    },
    /// Something needs attention, or the error has changed.
    Error {
        /// What it is about.
        about: Subject,
        /// The agent, if it is about one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// What.
        error: String,
    },
    /// The error is gone. Earlier builds said `mended`.
    #[serde(alias = "mended")]
    Resolved {
        /// What it was about.
        about: Subject,
        /// The agent, if it was about one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// The client has missed events: they are no longer kept, or a new daemon has started since. `GET /v1/agents` tells where things
    /// stand. Earlier builds said `lost`.
    #[serde(alias = "lost")]
    Missed {},
}

/// Where the daemon is heading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Course {
    /// It has begun.
    Started,
    /// It ends, and stops its agents.
    Stopping,
    /// It ends, and leaves its agents to the next daemon.
    Detaching,
}

/// What happened to the declaration of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It is new.
    Added,
    /// It has changed.
    Changed,
    /// It is gone: the agent is stopped.
    Removed,
}

/// What may need attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// One agent.
    Agent,
    /// The jcard.
    Config,
    /// The secrets.
    Secrets,
    /// What the next daemon would know.
    State,
    /// The agents' control groups.
    Groups,
    /// The overrides.
    Overrides,
}

impl What {
    /// The agent that it is about, if it is about one.
    pub fn agent(&self) -> Option<&str> {
        match self {
            Self::Declaration { name, .. }
            | Self::State { name, .. }
            | Self::Adopted { name, .. }
            | Self::Conversation { name, .. }
            | Self::Approval { name, .. }
            | Self::Rotation { name, .. }
            | Self::Activity { name, .. }
            | Self::Removed { name } => Some(name),
            Self::Error { name, .. } | Self::Resolved { name, .. } => name.as_deref(),
            Self::Daemon { .. } | Self::Missed {} | Self::Hold { .. } | Self::Released { .. } => None,
        }
    }

    /// As the `type` has it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Daemon { .. } => "daemon",
            Self::Declaration { .. } => "declaration",
            Self::State { .. } => "state",
            Self::Adopted { .. } => "adopted",
            Self::Removed { .. } => "removed",
            Self::Conversation { .. } => "conversation",
            Self::Approval { .. } => "approval",
            Self::Rotation { .. } => "rotation",
            Self::Hold { .. } => "hold",
            Self::Released { .. } => "released",
            Self::Activity { .. } => "activity",
            Self::Error { .. } => "error",
            Self::Resolved { .. } => "resolved",
            Self::Missed {} => "missed",
        }
    }

    /// The events of an agent that had one status, or was not there, and has another now.
    pub fn of_change(before: Option<&AgentStatus>, after: &AgentStatus) -> Vec<Self> {
        let mut happened = Vec::new();
        if before.map(|before| (before.state, before.attempt)) != Some((after.state, after.attempt)) {
            let (name, previous) = (after.name.clone(), before.map(|before| before.state));
            happened.push(Self::State { name, previous, agent: Box::new(after.clone()) });
        }
        let doing = |agent: &AgentStatus| agent.activity.as_ref().map(|activity| activity.status);
        let previous = before.and_then(doing);
        // That it ended says the rest.
        if previous != doing(after) && after.pid.is_some() {
            let (name, activity) = (after.name.clone(), after.activity.clone());
            happened.push(Self::Activity { name, previous, activity });
        }
        let former = before.and_then(|before| before.conversation.as_ref());
        if let Some(conversation) = after.conversation.as_ref().filter(|now| now.id.is_some() && former != Some(now)) {
            let previous = former.and_then(|former| former.id.clone());
            happened.push(Self::Conversation {
                name: after.name.clone(),
                previous,
                conversation: conversation.clone(),
            });
        }
        let (name, error) = (Some(after.name.as_str()), before.and_then(|before| before.error.as_deref()));
        happened.extend(Self::of_error(Subject::Agent, name, error, after.error.as_deref()));
        happened
    }

    /// The events of the daemon as a whole when its errors were these and are those now.
    pub fn of_errors(before: &Errors, after: &Errors) -> Vec<Self> {
        let subjects = [
            (Subject::Config, &before.config, &after.config),
            (Subject::Secrets, &before.secrets, &after.secrets),
            (Subject::State, &before.state, &after.state),
            (Subject::Groups, &before.groups, &after.groups),
            (Subject::Overrides, &before.overrides, &after.overrides),
        ];
        let told = subjects
            .into_iter()
            .filter_map(|(about, before, after)| Self::of_error(about, None, before.as_deref(), after.as_deref()));
        told.collect()
    }

    fn of_error(about: Subject, name: Option<&str>, before: Option<&str>, after: Option<&str>) -> Option<Self> {
        let name = name.map(str::to_owned);
        match after {
            _ if before == after => None,
            Some(error) => Some(Self::Error { about, name, error: error.to_owned() }),
            None => Some(Self::Resolved { about, name }),
        }
    }
}

/// Where a client is in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// It wants all events that are kept.
    Beginning,
    /// It has seen this event.
    Seen(Id),
}

/// As a client sends it back, in `after` or `Last-Event-ID`.
impl fmt::Display for Since {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beginning => formatter.write_str("0"),
            Self::Seen(id) => id.fmt(formatter),
        }
    }
}

impl FromStr for Since {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        if text == "0" { Ok(Self::Beginning) } else { text.parse().map(Self::Seen) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "7", "7-", "-7", "7-x", "7-1-2", "99999999999999999999-1"] {
            assert!(text.parse::<Id>().is_err() && text.parse::<Since>().is_err(), "{text}");
        }
        for text in ["0", "7-1"] {
            assert_eq!(text.parse::<Since>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_words_of_an_earlier_daemon_are_read() {
        let read = |text: &str| serde_json::from_str::<What>(text).unwrap();
        let resolved = What::Resolved { about: Subject::Secrets, name: None };
        for (word, earlier) in [("resolved", "mended"), ("missed", "lost")] {
            let event = |word: &str| read(&format!(r#"{{"type":"{word}","about":"secrets"}}"#));
            assert_eq!(event(word), event(earlier));
            assert_eq!(
                (event(word).kind(), serde_json::to_value(event(word)).unwrap()["type"].as_str()),
                (word, Some(word))
            );
        }
        assert_eq!(read(r#"{"type":"mended","about":"secrets"}"#), resolved);
    }

    #[test]
    fn an_error_is_published_on_start_change_and_resolution() {
        let told = |before: Option<&str>, after: Option<&str>| {
            let errors = |error: Option<&str>| Errors { config: error.map(str::to_owned), ..Errors::default() };
            What::of_errors(&errors(before), &errors(after)).pop()
        };
        let error = |text: &str| Some(What::Error { about: Subject::Config, name: None, error: text.to_owned() });
        assert_eq!(told(None, Some("a")), error("a"));
        assert_eq!(told(Some("a"), Some("b")), error("b"));
        assert_eq!(told(Some("b"), Some("b")), None);
        assert_eq!(told(Some("b"), None), Some(What::Resolved { about: Subject::Config, name: None }));
    }
}
