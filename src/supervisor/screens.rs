//! Reads the screens of agents that have been quiet for a while, by the rules of their harnesses.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::agent::activity::{MOST_OF_DETAIL, News};
use crate::agent::harness::rule::{Match, Meaning, Rule};
use crate::agent::name::Key;
use crate::supervisor::resources::{Resources, Seat};
use crate::sys::clock::Timestamp;
use crate::sys::rate_limit::Brake;
use crate::text::printable;
use crate::tmux::{Found, Reading};
use crate::wire::activity::Doing;

/// How long a rule must hold. A screen that is being painted shows many things.
const HOLDS: Duration = Duration::from_secs(1);

/// How often to look at a screen that cannot be read, and the pause between two tries.
const TRIES: u32 = 3;
const AGAIN: Duration = Duration::from_secs(2);

/// A screen could not be read.
struct Unread;

/// Reads the screen of an agent twice. `None` if that did not work: then it says nothing, not even that no rule matches.
pub(super) async fn read(
    resources: Arc<Resources>,
    seat: Arc<Seat>,
    key: Key,
    rules: Arc<[Rule]>,
    printed: Timestamp,
) -> Option<News> {
    let Some(first) = look(&seat, &key, &rules).await.ok()? else { return Some(News::Shown { printed, shown: None }) };
    sleep(HOLDS).await;
    let again = look(&seat, &key, &rules).await.ok()?.filter(|again| again.rule == first.rule);
    let shown = match again {
        Some(found) => Some(meaning(&resources, &key, found).await),
        None => None,
    };
    Some(News::Shown { printed, shown })
}

/// What it shows, in one of a few tries: nobody looks again until something is printed.
async fn look(seat: &Seat, key: &Key, rules: &[Rule]) -> Result<Option<Found>, Unread> {
    for _ in 1..TRIES {
        if let Ok(found) = look_once(seat, key, rules).await {
            return Ok(found);
        }
        sleep(AGAIN).await;
    }
    look_once(seat, key, rules).await
}

async fn look_once(seat: &Seat, key: &Key, rules: &[Rule]) -> Result<Option<Found>, Unread> {
    match seat.sessions.read_screen(key, rules).await {
        Ok(Reading { found, faults }) => {
            static BRAKE: Brake = Brake::new();
            if let Some(fault) = faults.first()
                && BRAKE.pass().is_some()
            {
                tracing::warn!(agent = %key, "{}", printable::escaped(fault));
            }
            Ok(found)
        }
        Err(error) => {
            tracing::debug!(agent = %key, "failed to read its screen: {error}");
            Err(Unread)
        }
    }
}

/// What a match says, without the agent's secrets. What could not be redacted is left out.
async fn meaning(resources: &Resources, key: &Key, found: Found) -> (Doing, Option<String>) {
    let (doing, detail) = in_words(found);
    let snapshot = Arc::clone(&resources.snapshot.borrow());
    let detail = match (detail, snapshot.redactor(key).await) {
        (Some(detail), Ok(redactor)) => Some(short(&redactor.redact(&detail))),
        _ => None,
    };
    (doing, detail)
}

fn in_words(Found { means, matched, .. }: Found) -> (Doing, Option<String>) {
    let Match { line, url, code, .. } = matched;
    match means {
        Meaning::Login => {
            let address =
                url.map(|url| code.map_or_else(|| format!("open {url}"), |code| format!("open {url} code {code}")));
            (Doing::Login, Some(address.unwrap_or(line)))
        }
        Meaning::Blocked => (Doing::Blocked, Some(line)),
        Meaning::Quota => (Doing::Blocked, Some(format!("quota: {line}"))),
        Meaning::Idle => (Doing::Idle, None),
    }
}

/// As one line, and no longer than a detail.
pub(super) fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_OF_DETAIL).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_names_its_address_and_code() {
        let found = |url: Option<&str>, code: Option<&str>| {
            let matched = Match {
                line: "Log in".to_owned(),
                url: url.map(str::to_owned),
                code: code.map(str::to_owned),
                at: None,
            };
            in_words(Found { rule: 0, means: Meaning::Login, matched }).1.unwrap()
        };
        assert_eq!(found(Some("https://x/d"), Some("A-1")), "open https://x/d code A-1");
        assert_eq!(found(Some("https://x/d"), None), "open https://x/d");
        assert_eq!(found(None, Some("A-1")), "Log in");
    }
}
