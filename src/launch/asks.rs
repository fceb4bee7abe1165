//! The questions of an attempt that wait at its launcher: whether its harness may use a tool. Nothing here blocks.
//!
//! The process that the harness's hook runs waits at the other end of a socket. It gets one answer: the daemon's, or no when the time is
//! over, whether or not there is a daemon. One that goes away withdraws its question.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use serde::{Deserialize, Serialize};

use super::protocol::FromLauncher;
use crate::agent::approval::{self, End, MOST_PASSED_ON, MOST_PENDING, Told};
use crate::sys::clock::Timestamp;
use crate::sys::random;

/// The most ends of questions that are kept for the next daemon.
const MOST_UNSAID: usize = 64;

/// What is asked, as the hook process says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// The tool.
    pub tool: String,
    /// What it wants to do.
    pub command: String,
    /// Whether there is more of that.
    #[serde(default)]
    pub cut: bool,
}

/// What the hook process is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Whether it may.
    pub allow: bool,
    /// Why, for the model.
    #[serde(default)]
    pub why: String,
}

/// The questions that wait.
#[derive(Debug)]
pub struct Asks {
    timeout: Duration,
    open: VecDeque<Open>,
    /// Ends that no daemon knows of, of questions that one knows of.
    unsaid: VecDeque<FromLauncher>,
}

#[derive(Debug)]
struct Open {
    number: u64,
    caller: UnixStream,
    wish: Wish,
    asked: Timestamp,
    limit: Instant,
    is_said: bool,
}

impl Open {
    fn is_gone(&self) -> bool {
        let mut ends = [PollFd::new(self.caller.as_fd(), PollFlags::empty())];
        let over = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        nix::poll::poll(&mut ends, PollTimeout::ZERO).is_ok()
            && ends[0].revents().is_some_and(|events| events.intersects(over))
    }
}

impl Asks {
    /// Each question waits for so long.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, open: VecDeque::new(), unsaid: VecDeque::new() }
    }

    /// A caller, who does not block, asks this.
    pub fn ask(&mut self, caller: UnixStream, text: &[u8], now: Instant) {
        let Ok(wish) = serde_json::from_slice::<Wish>(text) else {
            return reply(&caller, false, "agentd did not understand what was asked".to_owned());
        };
        let cut = wish.cut || wish.command.len() > MOST_PASSED_ON;
        let (tool, command) = (beginning(&wish.tool, MOST_PASSED_ON / 8), beginning(&wish.command, MOST_PASSED_ON));
        let wish = Wish { tool, command, cut };
        let Ok(number) = number() else {
            return reply(&caller, false, "agentd denied this, because it has no random numbers".to_owned());
        };
        let (asked, limit) = (Timestamp::now(), now + self.timeout);
        self.open.push_back(Open { number, caller, wish, asked, limit, is_said: false });
        if self.open.len() > MOST_PENDING
            && let Some(oldest) = self.open.pop_front()
        {
            reply(&oldest.caller, false, approval::too_many());
            self.note(&oldest, End::Crowded);
        }
    }

    /// The daemon answers.
    pub fn answer(&mut self, Told { number, allow, why }: Told) {
        if let Some(open) = self.open.iter().position(|open| open.number == number).and_then(|at| self.open.remove(at))
        {
            reply(&open.caller, allow, why);
            self.note(&open, End::Answered);
        }
    }

    /// Ends the questions whose time is over, and those that nobody asks any more.
    pub fn look(&mut self, now: Instant) {
        for open in std::mem::take(&mut self.open) {
            if open.is_gone() {
                self.note(&open, End::Withdrawn);
            } else if open.limit <= now {
                reply(&open.caller, false, approval::timed_out(self.timeout));
                self.note(&open, End::TimedOut);
            } else {
                self.open.push_back(open);
            }
        }
    }

    fn note(&mut self, open: &Open, end: End) {
        if open.is_said {
            self.unsaid.push_back(FromLauncher::AskOver { number: open.number, end });
            self.unsaid.drain(..self.unsaid.len().saturating_sub(MOST_UNSAID));
        }
    }

    /// The next thing to tell a daemon that listens.
    pub fn take(&mut self) -> Option<FromLauncher> {
        if let Some(end) = self.unsaid.pop_front() {
            return Some(end);
        }
        let timeout = self.timeout;
        let open = self.open.iter_mut().find(|open| !open.is_said)?;
        open.is_said = true;
        let Wish { tool, command, cut } = open.wish.clone();
        let asked = open.asked.boot();
        Some(FromLauncher::Ask(Box::new(Ask { number: open.number, tool, command, cut, asked, timeout })))
    }

    /// Whether there is something to [take](Asks::take).
    pub fn has_news(&self) -> bool {
        !self.unsaid.is_empty() || self.open.iter().any(|open| !open.is_said)
    }

    /// Another daemon listens, which knows of no question.
    pub fn begin_again(&mut self) {
        self.unsaid.clear();
        self.open.iter_mut().for_each(|open| open.is_said = false);
    }

    /// What to wait for: that a caller goes away.
    pub fn interest(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.open.iter().map(|open| PollFd::new(open.caller.as_fd(), PollFlags::empty()))
    }

    /// When the time of the next question is over.
    pub fn due(&self) -> Option<Instant> {
        self.open.iter().map(|open| open.limit).min()
    }

    /// Whether no question waits.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

/// A question, as a launcher passes it on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// What the launcher calls it.
    pub number: u64,
    /// The tool.
    pub tool: String,
    /// What it wants to do: at most 8 KiB.
    pub command: String,
    /// Whether there is more of that.
    #[serde(default)]
    pub cut: bool,
    /// When it was asked, on the boot clock.
    pub asked: Duration,
    /// How long the launcher waits for an answer.
    pub timeout: Duration,
}

/// Fails only if the caller is gone, or does not read: then its question is withdrawn.
fn reply(mut caller: &UnixStream, allow: bool, why: String) {
    if let Ok(text) = serde_json::to_vec(&Reply { allow, why }) {
        let _ = caller.write_all(&text);
    }
}

/// Keeps ids apart, and what they are of unguessable.
fn number() -> io::Result<u64> {
    random::bytes().map(u64::from_ne_bytes)
}

/// The beginning of a text that is longer, in bytes.
pub fn beginning(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const TIMEOUT: Duration = Duration::from_mins(1);

    fn ask(asks: &mut Asks, command: &str) -> UnixStream {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        let wish = Wish { tool: "Bash".to_owned(), command: command.to_owned(), cut: false };
        asks.ask(far, &serde_json::to_vec(&wish).unwrap(), Instant::now());
        near
    }

    fn told(mut caller: UnixStream) -> Option<Reply> {
        let mut text = Vec::new();
        caller.read_to_end(&mut text).unwrap();
        serde_json::from_slice(&text).ok()
    }

    fn asked(asks: &mut Asks) -> Ask {
        match asks.take() {
            Some(FromLauncher::Ask(ask)) => *ask,
            said => panic!("{said:?}"),
        }
    }

    fn end(asks: &mut Asks) -> (u64, End) {
        match asks.take() {
            Some(FromLauncher::AskOver { number, end }) => (number, end),
            said => panic!("{said:?}"),
        }
    }

    #[test]
    fn a_question_is_asked_once_and_answered_once() {
        let mut asks = Asks::new(TIMEOUT);
        let caller = ask(&mut asks, "ls");
        let Ask { number, tool, command, cut, timeout, .. } = asked(&mut asks);
        assert_eq!((tool.as_str(), command.as_str(), cut, timeout), ("Bash", "ls", false, TIMEOUT));
        assert!(asks.take().is_none());
        for allow in [true, false] {
            asks.answer(Told { number, allow, why: String::new() });
        }
        assert_eq!(told(caller).map(|reply| reply.allow), Some(true));
        assert!(asks.has_news());
        assert_eq!(end(&mut asks), (number, End::Answered));
        assert!(asks.take().is_none() && !asks.has_news() && asks.is_empty() && asks.due().is_none());
    }

    #[test]
    fn another_daemon_is_asked_again() {
        let mut asks = Asks::new(TIMEOUT);
        let (_first, second) = (ask(&mut asks, "ls"), ask(&mut asks, "id"));
        let (one, two) = (asked(&mut asks), asked(&mut asks));
        drop(second);
        asks.look(Instant::now());
        asks.begin_again();
        assert_eq!(asked(&mut asks), one, "with the same number");
        assert_ne!(one.number, two.number);
        assert!(asks.take().is_none(), "what was withdrawn is not a question");
    }

    #[test]
    fn silence_and_too_many_questions_are_denied() {
        let mut asks = Asks::new(TIMEOUT);
        let callers: Vec<_> = (0..=MOST_PENDING).map(|_| ask(&mut asks, "ls")).collect();
        assert_eq!(asks.interest().count(), MOST_PENDING);
        assert!(asks.unsaid.is_empty(), "nobody knows of the first one");
        asks.look(Instant::now());
        assert_eq!(asks.interest().count(), MOST_PENDING);
        asks.look(Instant::now() + TIMEOUT);
        assert!(asks.is_empty());
        let replies: Vec<_> = callers.into_iter().map(|caller| told(caller).unwrap()).collect();
        assert!(replies.iter().all(|reply| !reply.allow));
        assert!(replies[0].why.contains("more than 16") && replies[1].why.contains("within 1m"), "{replies:?}");
    }

    #[test]
    fn one_who_goes_away_withdraws_its_question() {
        let mut asks = Asks::new(TIMEOUT);
        let caller = ask(&mut asks, "ls");
        caller.shutdown(std::net::Shutdown::Write).unwrap();
        asks.look(Instant::now());
        let number = asked(&mut asks).number;
        drop(caller);
        asks.look(Instant::now());
        assert_eq!(end(&mut asks), (number, End::Withdrawn));
    }

    #[test]
    fn garbage_is_denied_and_a_long_command_is_cut() {
        let mut asks = Asks::new(TIMEOUT);
        let (near, far) = UnixStream::pair().unwrap();
        asks.ask(far, b"garbage", Instant::now());
        assert!(!told(near).unwrap().allow && asks.is_empty());
        let _caller = ask(&mut asks, &"ä".repeat(MOST_PASSED_ON));
        let Ask { command, cut, .. } = asked(&mut asks);
        assert!(cut && command.len() <= MOST_PASSED_ON && command.chars().all(|c| c == 'ä'));
    }
}
