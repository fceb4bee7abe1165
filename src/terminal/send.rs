//! Sends text or keys to an agent.
//!
//! A program that gets a text and the Enter after it in one piece takes the Enter for a part of the text. So Enter is pressed apart,
//! once the screen shows a change and is quiet for a moment. Whether the program took it cannot be known: a change of the screen is
//! the best sign there is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::access::Operator;
use super::{Failure, REQUEST_TIMEOUT, Service, frame, note, paste_mode, present_state};
use crate::agent::name::{Key, Name};
use crate::deputy::Deputy;
use crate::tmux::desks::Desk;
use crate::tmux::{Paste, Tmux, Typist};
use crate::wire::status::{AgentStatus, State};
use crate::wire::terminal::{End, Kind, MAX_KEYS, MAX_TEXT, Malformed, Send, Why, is_key, sendable};

/// How long the screen may take to change after a paste, and after Enter or other keys.
const ECHO_TIMEOUT: Duration = Duration::from_secs(2);
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the screen is looked at.
const GLANCE_INTERVAL: Duration = Duration::from_millis(50);

/// How long before Enter. Programs that guess what is a paste from its speed wait for less.
const BEFORE_ENTER: Duration = Duration::from_millis(250);

/// How long another operator's text may take.
const TURN_TIMEOUT: Duration = Duration::from_secs(20);

/// Lets one operator at a time send to an agent.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Key, Weak<Semaphore>>>);

impl Turns {
    fn of(&self, agent: &Key) -> Arc<Semaphore> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(agent).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(Semaphore::new(1));
        turns.insert(agent.clone(), Arc::downgrade(&turn));
        turn
    }
}

/// What is sent.
enum What {
    Text { text: String, enter: bool },
    Keys(Vec<String>),
}

pub(super) async fn serve(
    service: &Service,
    turns: &Turns,
    operator: &Operator,
    asked: Send,
    socket: &mut UnixStream,
) -> Result<End, Failure> {
    let (name, what) = (asked.agent.clone(), what(asked, socket).await?);
    let (key, agent) = service.agent(&name).await?;
    if agent.state != State::Running {
        return Err(Failure::new(Why::NotRunning, present_state(&agent)));
    }
    let turn = turns.of(&key);
    let turn = timeout(TURN_TIMEOUT, turn.acquire()).await;
    let _turn = turn.map_err(|_| Failure::new(Why::Other, "another operator is sending to it"))?;
    let Desk { tmux, deputy, .. } = service.desk(&key)?;
    let typist = tmux.typist(&key).await.map_err(Failure::of)?;
    let typist = typist.ok_or_else(|| Failure::new(Why::NotRunning, "its program has just ended"))?;
    if !typist.takes_input {
        return Err(Failure::new(
            Why::Other,
            "an operator has disabled the input of its pane; tmux select-pane -e enables it",
        ));
    }
    if let What::Text { text, .. } = &what {
        Reading::of(service, &deputy, &typist, &agent).await.admit(text)?;
    }
    note(operator, &agent, &said(&what));
    let confirmed = pass_on(&tmux, &typist, &what).await;
    let confirmed = confirmed.map_err(|error| ended_meanwhile(error, service, &agent))?;
    Ok(End::Sent { confirmed })
}

/// An error, with the more probable reason if the agent has ended.
fn ended_meanwhile(error: crate::tmux::Error, service: &Service, before: &AgentStatus) -> Failure {
    let now = before.name.parse::<Key>().ok().and_then(|key| service.snapshot.borrow().agent(&key).cloned());
    match now {
        Some(now) if now.state == State::Running => Failure::of(error),
        Some(now) => Failure::new(Why::NotRunning, format!("it has ended meanwhile; {}", present_state(&now))),
        None => Failure::new(Why::Unknown, "it was removed meanwhile"),
    }
}

fn said(what: &What) -> String {
    match what {
        What::Text { text, enter: true } => format!("sends {} bytes of text and Enter", text.len()),
        What::Text { text, enter: false } => format!("sends {} bytes of text", text.len()),
        What::Keys(keys) => format!("sends {} keys", keys.len()),
    }
}

/// Reads what is to be sent, and checks it.
async fn what(asked: Send, socket: &mut UnixStream) -> Result<What, Failure> {
    let Send { keys, enter, .. } = asked;
    if !keys.is_empty() {
        if let Some(word) = keys.iter().find(|word| !is_key(word)) {
            return Err(Failure::new(Why::Invalid, format!("{word:?} is not the name of a key")));
        }
        if keys.len() > MAX_KEYS {
            return Err(Failure::new(Why::Invalid, format!("there are more than {MAX_KEYS} keys")));
        }
        return Ok(What::Keys(keys));
    }
    let bytes = timeout(REQUEST_TIMEOUT, text(socket)).await;
    let bytes = bytes.map_err(|_| Failure::new(Why::Invalid, "the text did not arrive in time"))??;
    let invalid = |error: crate::wire::terminal::Unsendable| Failure::new(Why::Invalid, error.to_string());
    Ok(What::Text { text: sendable(&bytes).map_err(invalid)?.to_owned(), enter })
}

async fn text(socket: &mut UnixStream) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    loop {
        let gone =
            |failure: Option<Failure>| failure.unwrap_or_else(|| Failure::new(Why::Invalid, "the text has no end"));
        match frame(socket).await.map_err(gone)? {
            (Kind::Bytes, piece) => bytes.extend(piece),
            (Kind::End, _) => return Ok(bytes),
            _ => return Err(Malformed::Body.into()),
        }
        if bytes.len() > MAX_TEXT {
            // The error says how long.
            return Ok(bytes);
        }
    }
}

/// How a program takes text, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    /// Whether it has asked for bracketed paste.
    is_bracketed: Option<bool>,
    /// Whether it reads lines, which the terminal edits, instead of keys.
    is_canonical: Option<bool>,
}

impl Reading {
    async fn of(service: &Service, deputy: &Deputy, typist: &Typist, agent: &AgentStatus) -> Self {
        let is_bracketed = match (typist.is_bracketed, Name::try_from(agent.name.as_str())) {
            (None, Ok(name)) => paste_mode::of(&service.logs, &name).await,
            (known, _) => known,
        };
        let is_canonical = match agent.pid {
            Some(pid) => deputy.is_canonical(pid).await.ok().and_then(Result::ok),
            None => None,
        };
        Self { is_bracketed, is_canonical }
    }

    /// Refuses a text that the program would misunderstand.
    fn admit(self, text: &str) -> Result<(), Failure> {
        /// What a terminal in canonical mode keeps of a line (`N_TTY_BUF_SIZE` less one).
        const LONGEST_LINE: usize = 4095;
        let refused = |message: &str| Err(Failure::new(Why::Other, message));
        match self {
            Self { is_bracketed: Some(true), .. } => Ok(()),
            Self { is_canonical: Some(true), .. } if text.lines().any(|line| line.len() > LONGEST_LINE) => {
                refused("its program reads lines, and its terminal would cut one of more than 4,095 bytes")
            }
            Self { is_canonical: Some(false), is_bracketed: Some(false) } => refused(
                "its program takes each key at once (raw mode), and has not asked for bracketed paste: it would take the text for commands; --keys sends keys",
            ),
            _ => Ok(()),
        }
    }
}

/// Sends it. Returns whether the screen changed.
async fn pass_on(tmux: &Tmux, typist: &Typist, what: &What) -> Result<bool, crate::tmux::Error> {
    match what {
        What::Keys(keys) => {
            let before = tmux.glance(typist).await?;
            tmux.press(typist, keys).await?;
            changes(tmux, typist, &before, CONFIRM_TIMEOUT).await
        }
        What::Text { text, enter } => {
            let before = tmux.glance(typist).await?;
            tmux.paste(typist, text, Paste::Text).await?;
            let is_echoed = changes(tmux, typist, &before, ECHO_TIMEOUT).await?;
            if !enter {
                return Ok(is_echoed);
            }
            sleep(BEFORE_ENTER).await;
            let before = tmux.glance(typist).await?;
            tmux.paste(typist, "\r", Paste::Key).await?;
            changes(tmux, typist, &before, CONFIRM_TIMEOUT).await
        }
    }
}

/// Whether the screen shows something else within that time.
async fn changes(tmux: &Tmux, typist: &Typist, before: &str, time: Duration) -> Result<bool, crate::tmux::Error> {
    let deadline = Instant::now() + time;
    loop {
        sleep(GLANCE_INTERVAL).await;
        if tmux.glance(typist).await? != before {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_refused_where_it_would_be_commands_or_cut() {
        let admits =
            |is_bracketed, is_canonical, text: &str| Reading { is_bracketed, is_canonical }.admit(text).is_ok();
        let long = "x".repeat(4096);
        for text in ["one", "one\ntwo", &long] {
            assert!(admits(Some(true), Some(false), text) && admits(None, None, text));
            assert!(!admits(Some(false), Some(false), text));
        }
        assert!(admits(Some(false), Some(true), "one\ntwo"));
        assert!(!admits(Some(false), Some(true), &long));
        assert!(admits(Some(false), Some(true), &long[..4095]));
    }

    #[test]
    fn an_agent_has_one_turn_at_a_time() {
        let turns = Turns::default();
        let [a, b] = ["a", "b"].map(crate::agent::name::key);
        let first = turns.of(&a);
        assert!(Arc::ptr_eq(&first, &turns.of(&a)) && !Arc::ptr_eq(&first, &turns.of(&b)));
        drop(first);
        assert!(turns.of(&b).try_acquire().is_ok());
    }
}
