//! Approvals: what an agent asks whether it may do, who answers, and what is passed on. Pure.
//!
//! ```text
//! harness ── runs ──▶ agentd tell --ask ──▶ launcher ──▶ daemon ──▶ API: agentd approve, agentd deny
//!                                              ◀── answer ──┘ ◀── .answers/ID.toml
//! ```
//!
//! The hook process waits at the launcher, so that a question outlives a restart of the daemon: the launcher asks it again. A question
//! has one answer. Without one it is denied when its time is over; silence never allows anything.
//!
//! All of this is a courtesy of the harness, and no boundary: the hook runs as the agent user.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::agent::name::Key;
use crate::sys::clock::Timestamp;
use crate::wire::approval::{Answer, Approval, Decider, Decision};
use crate::wire::status::Time;

/// The most questions of one agent that wait at once. One more is an answer to the oldest: no.
pub const MOST_PENDING: usize = 16;

/// How many decisions of one attempt are kept.
pub const MOST_DECIDED: usize = 32;

/// The longest name of a tool that is shown, in characters.
pub const MOST_OF_TOOL: usize = 64;

/// The longest command that is shown, in bytes.
pub const MOST_OF_COMMAND: usize = 4 << 10;

/// The longest command that a launcher passes on, in bytes. It is longer than what is shown, so that no secret is cut in two where
/// that would be seen.
pub const MOST_PASSED_ON: usize = 8 << 10;

/// The longest reason of an answer, in characters.
pub const MOST_OF_WHY: usize = 512;

/// The `approval_timeout` of an entry that gives none.
pub const TIMEOUT: Duration = Duration::from_mins(10);

/// The longest `approval_timeout`.
pub const LONGEST_TIMEOUT: Duration = Duration::from_hours(24 * 7);

/// The most `approval_rules` of one agent.
pub const MOST_RULES: usize = 64;

/// The longest regular expression of a rule, in bytes.
pub const LONGEST_PATTERN: usize = 1024;

/// How long after its time a question may still be heard of.
const SLACK: Duration = Duration::from_secs(5);

/// How many questions an attempt may ask at once, and how often one more.
const BURST: u32 = 60;
const ONE_MORE: Duration = Duration::from_secs(1);

/// How an attempt asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asking {
    /// How long an answer may take.
    pub timeout: Duration,
    /// What is decided without a question. The first that matches counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// A rule over the text of a command: a convenience, and no protection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// A regular expression.
    #[serde(rename = "match")]
    pub pattern: String,
    /// What happens if it matches.
    pub then: Then,
}

/// What a rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// An operator is asked.
    Ask,
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

impl Then {
    /// All of them, as they are written.
    pub const WORDS: [(&'static str, Self); 3] = [("ask", Self::Ask), ("allow", Self::Allow), ("deny", Self::Deny)];

    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ask => "ask",
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// A question, in words that can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What the launcher calls it: a random number, so that nobody can guess what it is about from its id.
    pub number: u64,
    /// The tool.
    pub tool: String,
    /// What it wants to do.
    pub command: String,
    /// Whether there is more of that than is shown.
    pub is_cut: bool,
    /// When it was asked.
    pub asked: Timestamp,
    /// How long the launcher waits for an answer.
    pub timeout: Duration,
}

/// How the wait for an answer ended, by the word of the launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The answer was passed on.
    Answered,
    /// The time was over: denied.
    TimedOut,
    /// Newer questions took its place: denied.
    Crowded,
    /// The harness does not wait any more.
    Withdrawn,
}

/// What an operator says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Whether the agent may.
    pub allow: bool,
    /// Who says so.
    pub who: String,
    /// What the agent learns of it.
    pub why: Option<String>,
}

impl Word {
    /// What the model reads.
    fn in_words(&self) -> String {
        let verb = if self.allow { "allowed" } else { "denied" };
        let why = self.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        format!("{} {verb} this{why}", self.who)
    }
}

/// What is passed on to an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Which question.
    pub number: u64,
    /// Whether it may.
    pub allow: bool,
    /// Why, for the model.
    pub why: String,
}

/// What follows from what happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The launcher is to be told this.
    Tell(Told),
    /// People learn of a question, or of what came of it.
    News(Box<Approval>),
}

/// The questions of one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Approvals {
    /// Not on record: its launcher asks again.
    #[serde(skip)]
    pending: VecDeque<Pending>,
    /// Of the present or latest attempt, the latest last.
    #[serde(skip_serializing_if = "VecDeque::is_empty")]
    decided: VecDeque<Approval>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pending {
    number: u64,
    approval: Approval,
    deadline: Timestamp,
    word: Option<Word>,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The agent.
    pub agent: &'a Key,
    /// Its name, as people see it.
    pub name: &'a str,
    /// Which of its launches.
    pub launch: u64,
    /// The number of the attempt, as people see it.
    pub attempt: u64,
}

impl Approvals {
    /// An attempt asks a question, or asks it again.
    pub fn ask(&mut self, asker: Asker<'_>, question: Question, now: Timestamp) -> Vec<Outcome> {
        let Question { number, tool, command, is_cut, asked, timeout } = question;
        if let Some(known) = self.pending.iter().find(|pending| pending.number == number) {
            // The answer may have been lost.
            return known.word.iter().map(|word| Outcome::Tell(told(number, word))).collect();
        }
        let id = id(asker, number, &tool, &command);
        if self.all().any(|approval| approval.id == id) {
            let why = "agentd has had this very question before".to_owned();
            return vec![Outcome::Tell(Told { number, allow: false, why })];
        }
        let asked = if asked > now { now } else { asked };
        let deadline = asked + timeout.min(LONGEST_TIMEOUT);
        let approval = Approval {
            id,
            agent: asker.name.to_owned(),
            attempt: Some(asker.attempt).filter(|&attempt| attempt > 0),
            tool,
            command,
            cut: is_cut,
            asked_at: Time(asked.wall()),
            deadline: Time(deadline.wall()),
            decision: None,
        };
        let mut outcomes = vec![Outcome::News(Box::new(approval.clone()))];
        self.pending.push_back(Pending { number, approval, deadline, word: None });
        if self.pending.len() > MOST_PENDING
            && let Some(oldest) = self.pending.pop_front()
        {
            let why = too_many();
            outcomes.push(Outcome::Tell(Told { number: oldest.number, allow: false, why }));
            outcomes.push(self.decide(oldest, End::Crowded, now));
        }
        outcomes
    }

    /// An operator answers. Only the first answer counts, and only if the question is still open.
    pub fn answer(&mut self, id: &str, word: Word) -> Option<Outcome> {
        let pending = self.pending.iter_mut().find(|pending| pending.approval.id == id && pending.word.is_none())?;
        let outcome = Outcome::Tell(told(pending.number, &word));
        pending.word = Some(word);
        Some(outcome)
    }

    /// The launcher does not wait for an answer any more.
    pub fn over(&mut self, number: u64, end: End, now: Timestamp) -> Option<Outcome> {
        let at = self.pending.iter().position(|pending| pending.number == number)?;
        let pending = self.pending.remove(at)?;
        Some(self.decide(pending, end, now))
    }

    /// The attempt is over: nobody waits any more.
    pub fn end(&mut self, now: Timestamp) -> Vec<Outcome> {
        let pending = std::mem::take(&mut self.pending);
        pending.into_iter().map(|pending| self.decide(pending, End::Withdrawn, now)).collect()
    }

    /// Another attempt begins.
    pub fn begin(&mut self) {
        *self = Self::default();
    }

    /// When the end of a question is overdue.
    pub fn due(&self) -> Option<Timestamp> {
        self.pending.iter().map(|pending| pending.deadline + SLACK).min()
    }

    /// Gives up the questions whose end was not heard of: their launcher denies them by itself.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Outcome> {
        let late: VecDeque<Pending>;
        (late, self.pending) = std::mem::take(&mut self.pending).into_iter().partition(|it| it.deadline + SLACK <= now);
        late.into_iter().map(|pending| self.decide(pending, End::TimedOut, now)).collect()
    }

    fn decide(&mut self, pending: Pending, end: End, now: Timestamp) -> Outcome {
        let Pending { mut approval, word, .. } = pending;
        let at = Time(now.wall());
        let plain = |answer, by, why: Option<&str>| Decision { answer, by, who: None, why: why.map(str::to_owned), at };
        approval.decision = Some(match (end, word) {
            (End::Answered, Some(Word { allow, who, why })) => {
                let answer = if allow { Answer::Allow } else { Answer::Deny };
                Decision { answer, by: Decider::Operator, who: Some(who), why, at }
            }
            (End::TimedOut, _) => plain(Answer::Deny, Decider::Timeout, None),
            (End::Crowded, _) => plain(Answer::Deny, Decider::Excess, None),
            // One that nobody answered here was not answered, whatever the launcher says.
            (End::Answered | End::Withdrawn, _) => plain(Answer::Withdrawn, Decider::Agent, None),
        });
        self.decided.push_back(approval.clone());
        self.decided.drain(..self.decided.len().saturating_sub(MOST_DECIDED));
        Outcome::News(Box::new(approval))
    }

    /// What waits for an answer, the oldest first.
    pub fn pending(&self) -> impl Iterator<Item = &Approval> {
        self.pending.iter().map(|pending| &pending.approval)
    }

    /// What was decided, the latest last.
    pub fn decided(&self) -> impl Iterator<Item = &Approval> {
        self.decided.iter()
    }

    /// Whether there is nothing to put on record.
    pub fn is_unrecorded(&self) -> bool {
        self.decided.is_empty()
    }

    fn all(&self) -> impl Iterator<Item = &Approval> {
        self.pending().chain(self.decided())
    }

    /// What it is blocked on: the oldest question, as a detail of its activity, and how many there are beside it.
    pub fn blocked_on(&self) -> Option<(&Approval, usize)> {
        Some((self.pending().next()?, self.pending.len().saturating_sub(1)))
    }
}

/// Why the oldest of too many questions is denied, for the model.
pub fn too_many() -> String {
    format!("agentd denied this: more than {MOST_PENDING} questions were asked at once")
}

/// Why a question is denied that nobody has answered, for the model.
pub fn timed_out(timeout: Duration) -> String {
    let waited = humantime::format_duration(timeout);
    format!("agentd denied this, because nobody answered within {waited}; do what you can without it")
}

fn told(number: u64, word: &Word) -> Told {
    Told { number, allow: word.allow, why: word.in_words() }
}

/// The letters of an id: no two of them look alike.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// How many letters an id has.
const LENGTH: usize = 8;

/// The id of a question. It is made of what is asked, so that a launcher cannot ask another question under an id that somebody is
/// about to allow; and it is the same for the next daemon.
fn id(asker: Asker<'_>, number: u64, tool: &str, command: &str) -> String {
    let mut hash = Sha256::new();
    for part in [asker.agent.as_str(), tool, command] {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(part);
    }
    hash.update(asker.launch.to_le_bytes());
    hash.update(number.to_le_bytes());
    hash.finalize().iter().take(LENGTH).map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}

/// Whether a text can be an id, or the beginning of one.
pub fn is_id(text: &str) -> bool {
    (1..=LENGTH).contains(&text.len()) && text.bytes().all(|byte| LETTERS.contains(&byte))
}

/// Whether a text can be a whole id.
pub fn is_whole_id(text: &str) -> bool {
    text.len() == LENGTH && is_id(text)
}

/// Limits how often an attempt asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Questions that count, at that time.
    spent: u32,
    at: Option<Timestamp>,
}

impl Pace {
    /// Whether one more question may be asked now.
    pub fn may_ask(&mut self, now: Timestamp) -> bool {
        let passed = self.at.map_or(Duration::ZERO, |at| now.since(at));
        let regained = u32::try_from(passed.as_nanos() / ONE_MORE.as_nanos()).unwrap_or(u32::MAX);
        if regained > 0 || self.at.is_none() {
            self.at = Some(now);
            self.spent = self.spent.saturating_sub(regained);
        }
        let may = self.spent < BURST;
        self.spent = self.spent.saturating_add(u32::from(may));
        may
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;
    use crate::agent::name::key;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::new(Duration::from_secs(1000), UNIX_EPOCH) + Duration::from_secs(seconds)
    }

    fn question(number: u64) -> Question {
        Question {
            number,
            tool: "Bash".to_owned(),
            command: "git push".to_owned(),
            is_cut: false,
            asked: at(0),
            timeout: Duration::from_mins(1),
        }
    }

    fn ask(approvals: &mut Approvals, number: u64) -> Vec<Outcome> {
        let agent = key("a");
        approvals.ask(Asker { agent: &agent, name: "A", launch: 3, attempt: 3 }, question(number), at(0))
    }

    fn word(allow: bool) -> Word {
        Word { allow, who: "op".to_owned(), why: Some("not today".to_owned()) }
    }

    fn ids(approvals: &Approvals) -> Vec<String> {
        approvals.pending().map(|approval| approval.id.clone()).collect()
    }

    fn decision(outcome: &Outcome) -> (Answer, Decider) {
        match outcome {
            Outcome::News(approval) => approval.decision.as_ref().map(|it| (it.answer, it.by)).unwrap(),
            Outcome::Tell(told) => panic!("{told:?}"),
        }
    }

    #[test]
    fn an_operator_answers_once() {
        let mut approvals = Approvals::default();
        assert!(matches!(&ask(&mut approvals, 7)[..], [Outcome::News(it)] if it.decision.is_none() && it.agent == "A"));
        let id = ids(&approvals).remove(0);
        let why = "op denied this: not today".to_owned();
        let told = Outcome::Tell(Told { number: 7, allow: false, why });
        assert_eq!(approvals.answer(&id, word(false)), Some(told.clone()));
        assert_eq!(approvals.answer(&id, word(true)), None, "the first answer counts");
        assert_eq!(ask(&mut approvals, 7), [told], "its launcher may not have heard it");
        let over = approvals.over(7, End::Answered, at(1)).unwrap();
        assert_eq!(decision(&over), (Answer::Deny, Decider::Operator));
        assert_eq!((approvals.answer(&id, word(true)), approvals.over(7, End::Answered, at(2))), (None, None));
        let decided = approvals.decided().next().unwrap().decision.clone().unwrap();
        assert_eq!((decided.who.as_deref(), decided.why.as_deref()), (Some("op"), Some("not today")));
    }

    #[test]
    fn what_the_launcher_did_is_what_came_of_it() {
        for (end, expected) in [
            (End::TimedOut, (Answer::Deny, Decider::Timeout)),
            (End::Withdrawn, (Answer::Withdrawn, Decider::Agent)),
            (End::Crowded, (Answer::Deny, Decider::Excess)),
        ] {
            let mut approvals = Approvals::default();
            ask(&mut approvals, 7);
            // The answer came too late.
            approvals.answer(&ids(&approvals)[0], word(true)).unwrap();
            assert_eq!(decision(&approvals.over(7, end, at(1)).unwrap()), expected);
        }
        let mut approvals = Approvals::default();
        ask(&mut approvals, 7);
        let lie = approvals.over(7, End::Answered, at(1)).unwrap();
        assert_eq!(decision(&lie), (Answer::Withdrawn, Decider::Agent), "nobody has allowed it");
    }

    #[test]
    fn the_oldest_of_too_many_questions_is_denied() {
        let mut approvals = Approvals::default();
        for number in 0..1000 {
            let outcomes = ask(&mut approvals, number);
            let denied = outcomes.iter().find_map(|outcome| match outcome {
                Outcome::Tell(told) => Some(told.number),
                Outcome::News(_) => None,
            });
            assert_eq!(denied, number.checked_sub(MOST_PENDING as u64));
        }
        assert_eq!((approvals.pending().count(), approvals.decided().count()), (MOST_PENDING, MOST_DECIDED));
    }

    #[test]
    fn a_question_whose_end_is_not_heard_of_is_given_up() {
        let mut approvals = Approvals::default();
        ask(&mut approvals, 7);
        assert_eq!(approvals.due().map(Timestamp::boot), Some(at(65).boot()));
        assert_eq!(approvals.expire(at(64)), []);
        assert_eq!(decision(&approvals.expire(at(65))[0]), (Answer::Deny, Decider::Timeout));
        assert_eq!((approvals.due(), approvals.pending().count()), (None, 0));
    }

    #[test]
    fn an_id_is_of_what_is_asked() {
        let (a, b) = (key("a"), key("b"));
        let of = |agent, launch, number, command| {
            let asker = Asker { agent, name: "", launch, attempt: 1 };
            id(asker, number, "Bash", command)
        };
        let one = of(&a, 1, 1, "ls");
        assert_eq!(one, of(&a, 1, 1, "ls"), "the next daemon finds the same");
        for other in [of(&b, 1, 1, "ls"), of(&a, 2, 1, "ls"), of(&a, 1, 2, "ls"), of(&a, 1, 1, "rm")] {
            assert_ne!(one, other);
        }
        assert!(is_whole_id(&one) && is_id(&one[..3]) && !is_whole_id(&one[..3]));
        for text in ["", "abcdefghi", "abc-", "../x", "ABC", "0", "l"] {
            assert!(!is_id(text), "{text}");
        }
    }

    #[test]
    fn the_pace_is_bounded() {
        let mut pace = Pace::default();
        assert_eq!((0..1000).filter(|_| pace.may_ask(at(0))).count(), 60);
        assert_eq!((0..1000).filter(|_| pace.may_ask(at(5))).count(), 5);
        assert_eq!((0..1000).filter(|_| pace.may_ask(at(5000))).count(), 60);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask(u64),
        Answer(usize, bool),
        Over(u64, End),
        Expire(u64),
        End,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let end = prop::sample::select(vec![End::Answered, End::TimedOut, End::Crowded, End::Withdrawn]);
        let step = prop_oneof![
            4 => (0..24_u64).prop_map(Step::Ask),
            2 => (0..20_usize, any::<bool>()).prop_map(|(at, allow)| Step::Answer(at, allow)),
            2 => (0..24_u64, end).prop_map(|(number, end)| Step::Over(number, end)),
            1 => (0..120_u64).prop_map(Step::Expire),
            1 => Just(Step::End),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn nothing_is_allowed_but_by_an_operator_and_each_question_has_one_answer(steps in steps()) {
            let mut approvals = Approvals::default();
            let mut allowed: Vec<String> = Vec::new();
            let (mut told, mut decided) = (std::collections::BTreeMap::new(), Vec::new());
            for step in steps {
                let outcomes = match step {
                    Step::Ask(number) => ask(&mut approvals, number),
                    Step::Answer(at, allow) => {
                        let id = ids(&approvals).get(at).cloned();
                        let answer = id.as_ref().and_then(|id| approvals.answer(id, word(allow)));
                        if answer.is_some() && allow {
                            allowed.extend(id);
                        }
                        answer.into_iter().collect()
                    }
                    Step::Over(number, end) => approvals.over(number, end, at(1)).into_iter().collect(),
                    Step::Expire(seconds) => approvals.expire(at(seconds)),
                    Step::End => approvals.end(at(1)),
                };
                for outcome in outcomes {
                    match outcome {
                        Outcome::Tell(it) => {
                            let before = told.insert(it.number, it.allow);
                            // A lost answer is sent again, and a question that comes back after its end is denied.
                            prop_assert!(before.is_none_or(|before| before == it.allow || !it.allow));
                        }
                        Outcome::News(it) => if let Some(decision) = it.decision {
                            if decision.answer == Answer::Allow {
                                prop_assert!(allowed.contains(&it.id));
                            }
                            decided.push(it.id);
                        },
                    }
                }
                prop_assert!(approvals.pending().count() <= MOST_PENDING);
                prop_assert!(approvals.decided().count() <= MOST_DECIDED);
            }
            let count = decided.len();
            decided.sort();
            decided.dedup();
            prop_assert_eq!(decided.len(), count, "each is decided once");
        }
    }
}
