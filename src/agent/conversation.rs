//! Conversations: which one the next attempt of an agent is in, and what follows if that does not work. Pure.
//!
//! A harness keeps what it heard and did under an id. For some harnesses agentd [chooses](SessionWords::new) the id, others
//! report theirs. An attempt [resumes](Plan::Resume) the conversation of the one before, if something is kept of that: its launcher
//! looks for the proof, and says what it [took](Taken). An id that does not work is given up at once, so that no restart fails for it
//! again:
//!
//! - a resume that ends at once with an error and without a turn is [made up for](Follow::Afresh) by a new conversation, once;
//! - a second such failure in a row leaves it to the policy, and yet begins another conversation.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::name::Name;
use crate::sys::secret_bytes::SecretBytes;
use crate::wire::conversation as wire;
use crate::wire::exit_status::ExitStatus;

/// How soon an attempt has ended that ended because its conversation could not be resumed.
pub const AT_ONCE: Duration = Duration::from_secs(15);

/// What a resumed attempt gets if the entry does not say.
pub const RESUME_PROMPT: &str = "Continue where you left off.";

/// Stands for the id in a command line. No argument can contain it, so nothing that an entry says is taken for it.
pub const SLOT: &str = "\0session\0";

/// Which attempts share a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resume {
    /// None.
    #[default]
    Never,
    /// Those of one life.
    Restart,
    /// Those of several lives, as long as the agent has the same thing to do.
    Always,
}

impl Resume {
    /// As the jcard has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Restart => "restart",
            Self::Always => "always",
        }
    }

    /// For serde.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub fn is_never(&self) -> bool {
        *self == Self::Never
    }
}

/// The id of a conversation: short, and no option, path or pattern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct SessionId(String);

/// The text is not an id of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the id of a conversation: it has 1 to {} letters, digits, `-`, `_` or `.`, and begins with a letter or digit",
    SessionId::MAX_LENGTH
)]
pub struct InvalidSessionId;

impl SessionId {
    /// The longest id, in bytes.
    pub const MAX_LENGTH: usize = 128;

    /// A random one, as version 4 of a UUID (RFC 9562), of these random bytes.
    pub fn random(bytes: [u8; 16]) -> Self {
        let [.., versioned, _, varied, _, _, _, _, _, _, _] = bytes;
        let mut bytes = bytes;
        (bytes[6], bytes[8]) = (versioned & 0x0f | 0x40, varied & 0x3f | 0x80);
        let digits = format!("{:032x}", u128::from_be_bytes(bytes));
        let groups = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
        Self(groups.join("-"))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SessionId {
    type Error = InvalidSessionId;

    fn try_from(text: String) -> Result<Self, InvalidSessionId> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let begins_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let is_id = begins_well && text.len() <= Self::MAX_LENGTH && text.bytes().all(is_allowed);
        if is_id { Ok(Self(text)) } else { Err(InvalidSessionId) }
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A command line with [places](SLOT) for the id of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line(pub Vec<SecretBytes>);

impl Line {
    /// The arguments for this conversation.
    pub fn filled(self, id: &SessionId) -> Vec<SecretBytes> {
        let fill = |word: SecretBytes| match std::str::from_utf8(word.as_slice()) {
            Ok(text) if text.contains(SLOT) => SecretBytes::from(text.replace(SLOT, id.as_str()).as_str()),
            // A prompt need not be text.
            Ok(_) | Err(_) => word,
        };
        self.0.into_iter().map(fill).collect()
    }
}

/// How a harness learns which conversation it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionWords {
    /// Begins one under an id of agentd's choice; `None` if the harness chooses.
    pub new: Option<Line>,
    /// Resumes one.
    pub resume: Line,
    /// A pattern of a file that exists if a conversation can be resumed, with `${HOME}` and `${SESSION}`.
    pub proof: Option<String>,
    /// Of harness, prompt, working directory and user: what has another one begins another conversation.
    pub scope: String,
}

/// What the launcher of an attempt is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plan {
    /// Begin a conversation whose id the harness chooses.
    Begin,
    /// Begin one under this id.
    New(SessionId),
    /// Resume this one, if something is kept of it.
    Resume {
        /// Which.
        id: SessionId,
        /// Whether the harness has reported work in it, which is a proof where no file is one.
        turned: bool,
    },
}

/// Whether something is kept of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The file exists.
    Found,
    /// It does not exist.
    Missing,
    /// That could not be found out.
    Unknown,
    /// The harness keeps no file that would say it.
    Undefined,
}

/// Which conversation an attempt is in, as its launcher says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Its id, unless the harness chooses it and has not told it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<SessionId>,
    /// How the attempt came into it.
    pub way: Way,
}

/// How an attempt came into its conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// As was planned, it began one.
    New,
    /// It resumed one.
    Resumed,
    /// Nothing was kept of the one that it should resume, so it began one under the same id.
    Anew,
    /// Nothing was kept of the one that it should resume, so it began another.
    Lost,
}

impl Plan {
    /// What is made of the plan. `proof` is asked for what is to be resumed. `can_choose` is whether a conversation can begin under a given
    /// id.
    ///
    /// A proof that could not be looked for permits a resume: that is made up for if it fails, and a lost conversation is not.
    pub fn taken(self, can_choose: bool, proof: impl FnOnce(&SessionId) -> Proof) -> Taken {
        match self {
            Self::New(id) if can_choose => Taken { id: Some(id), way: Way::New },
            Self::Begin | Self::New(_) => Taken { id: None, way: Way::New },
            Self::Resume { id, turned } => match proof(&id) {
                Proof::Found | Proof::Unknown => Taken { id: Some(id), way: Way::Resumed },
                Proof::Undefined if turned => Taken { id: Some(id), way: Way::Resumed },
                Proof::Missing | Proof::Undefined if can_choose => Taken { id: Some(id), way: Way::Anew },
                Proof::Missing | Proof::Undefined => Taken { id: None, way: Way::Lost },
            },
        }
    }
}

/// The conversation of an agent's present or latest attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Conversation {
    /// `None` if the harness chooses it and has not told it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<SessionId>,
    /// [`SessionWords::scope`] of what began it; empty if nothing is to resume it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    scope: String,
    /// Whether a harness was started in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_used: bool,
    /// Whether a harness has worked in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    has_turned: bool,
    /// Whether the model has answered in the latest attempt.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    turned_lately: bool,
    /// How the latest attempt came into it, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    way: Option<Way>,
    /// Why it is not resumed any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spent: Option<String>,
    /// Whether the latest failure to resume one was made up for, and nothing has worked since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_made_up: bool,
    /// What is remarkable about it, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// What the next attempt is, as far as its conversation depends on that.
#[derive(Debug)]
pub struct Ask<'a> {
    /// How its harness learns of it.
    pub words: &'a SessionWords,
    /// Which attempts share one.
    pub resume: Resume,
    /// Whether it is the first of its life.
    pub is_first: bool,
}

/// What follows the end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// What the policy says.
    Policy,
    /// Another attempt in a new conversation, which does not count as a restart.
    Afresh,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// As the kernel says it.
    pub how: &'a ExitStatus,
    /// Since its harness was started; `None` if that was not seen.
    pub lived: Option<Duration>,
    /// Whether it did and said nothing, whatever its status.
    pub is_silent: bool,
    /// Whether its result says that it failed, whatever its status.
    pub is_error: bool,
    /// Whether its credential did not work: then no other conversation would help.
    pub is_held: bool,
}

impl Conversation {
    /// The conversation of the next attempt after one in `former`, and what its launcher is asked to do. `spare` is an id that nothing has.
    pub fn next(former: Option<&Self>, ask: &Ask<'_>, spare: Option<SessionId>) -> (Self, Plan) {
        let is_wanted = |former: &&Self| {
            former.scope == ask.words.scope
                && former.spent.is_none()
                && former.id.is_some()
                && (ask.resume == Resume::Always || !ask.is_first)
        };
        if let Some(former) = former.filter(is_wanted)
            && let Some(id) = former.id.clone()
        {
            let plan = if former.is_used { Plan::Resume { id, turned: former.has_turned } } else { Plan::New(id) };
            let note = former.note.clone().filter(|_| !former.is_used);
            return (Self { turned_lately: false, way: None, note, ..former.clone() }, plan);
        }
        let id = spare.filter(|_| ask.words.new.is_some());
        let plan = id.clone().map_or(Plan::Begin, Plan::New);
        let note = former.and_then(|former| former.spent.clone());
        let is_made_up = former.is_some_and(|former| former.is_made_up && former.spent.is_some());
        (Self { id, scope: ask.words.scope.clone(), is_made_up, note, ..Self::of_nobody() }, plan)
    }

    /// One that nothing is known of, and that nothing resumes.
    fn of_nobody() -> Self {
        Self {
            id: None,
            scope: String::new(),
            is_used: false,
            has_turned: false,
            turned_lately: false,
            way: None,
            spent: None,
            is_made_up: false,
            note: None,
        }
    }

    /// One that a harness has told of, and that nothing resumes.
    pub fn told(id: SessionId) -> Self {
        Self { id: Some(id), is_used: true, ..Self::of_nobody() }
    }

    /// Its id, once it is known.
    pub fn id(&self) -> Option<&SessionId> {
        self.id.as_ref()
    }

    /// The harness runs in it.
    pub fn started(&mut self) {
        self.is_used = true;
    }

    /// The launcher has said what it took. It says so again to each daemon.
    pub fn took(&mut self, taken: Taken) {
        if self.way.is_some() {
            return;
        }
        let Taken { id, way } = taken;
        self.way = Some(way);
        let former = self.id.as_ref().map(ToString::to_string).unwrap_or_default();
        match way {
            Way::New => {}
            Way::Resumed => self.note = None,
            Way::Anew => {
                self.note = Some(format!("nothing was kept of it, so it began again under the same id, {former}"));
                self.has_turned = false;
            }
            Way::Lost => {
                self.note = Some(format!("nothing was kept of conversation {former}, so another one began"));
                self.has_turned = false;
            }
        }
        if self.id != id {
            self.id = id;
        }
    }

    /// The harness has told which conversation it is in. Returns whether that is news.
    pub fn learn(&mut self, id: SessionId) -> bool {
        match self.id.replace(id) {
            former if former == self.id => return false,
            None => {}
            Some(former) => {
                self.note = Some(format!("the harness changed to it from conversation {former}"));
                self.has_turned = false;
            }
        }
        self.is_used = true;
        true
    }

    /// The harness has told of a conversation that another agent has.
    pub fn refuse(&mut self, id: &SessionId, holder: &Name) {
        self.note =
            Some(format!("the harness told of conversation {id}, which is that of {holder}; it is not taken over"));
    }

    /// The harness works in it, so that something is kept of it. Whether the model answers is not known yet.
    pub fn began_work(&mut self) {
        self.has_turned = true;
    }

    /// The model has answered in it.
    pub fn turned(&mut self) {
        (self.has_turned, self.turned_lately) = (true, true);
    }

    /// The attempt has ended by itself.
    pub fn ended(&mut self, end: Ended<'_>) -> Follow {
        let is_at_once = end.lived.is_some_and(|lived| lived < AT_ONCE);
        // Who is killed from outside says nothing of the id.
        let is_error = matches!(end.how, ExitStatus::Code(code) if *code != 0) || end.is_silent || end.is_error;
        let is_again = matches!(self.way, Some(Way::Resumed | Way::Anew));
        if self.turned_lately || end.lived.is_some_and(|lived| lived >= AT_ONCE) {
            self.is_made_up = false;
        }
        if !(is_at_once && is_error && is_again) || self.turned_lately || end.is_held {
            return Follow::Policy;
        }
        let former = self.id.as_ref().map(ToString::to_string).unwrap_or_default();
        self.spent = Some(format!("conversation {former} could not be resumed ({}), so another one began", end.how));
        if self.way == Some(Way::Resumed) && !self.is_made_up {
            self.is_made_up = true;
            return Follow::Afresh;
        }
        Follow::Policy
    }

    /// What the next boot must know.
    #[must_use]
    pub fn kept(&self) -> Option<Self> {
        (!self.scope.is_empty() && self.is_used).then(|| self.clone())
    }

    /// As the API shows it.
    pub fn shown(&self) -> wire::Conversation {
        wire::Conversation {
            id: self.id.as_ref().map(ToString::to_string),
            resumed: self.way == Some(Way::Resumed),
            note: self.note.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn id(text: &str) -> SessionId {
        SessionId::try_from(text.to_owned()).unwrap()
    }

    fn words(chooses: bool, scope: &str) -> SessionWords {
        SessionWords {
            new: chooses.then(|| Line(Vec::new())),
            resume: Line(Vec::new()),
            proof: None,
            scope: scope.to_owned(),
        }
    }

    fn next(
        former: Option<&Conversation>,
        words: &SessionWords,
        resume: Resume,
        is_first: bool,
        spare: &str,
    ) -> (Conversation, Plan) {
        Conversation::next(former, &Ask { words, resume, is_first }, Some(id(spare)))
    }

    /// One that began under the id `x`, and in which a harness ran.
    fn begun() -> Conversation {
        let (mut conversation, plan) = next(None, &words(true, "s"), Resume::Restart, true, "x");
        conversation.took(plan.taken(true, |_| Proof::Missing));
        conversation.started();
        conversation
    }

    fn end(code: i32, seconds: u64) -> Ended<'static> {
        static CODES: [ExitStatus; 2] = [ExitStatus::Code(0), ExitStatus::Code(1)];
        let how = &CODES[usize::from(code != 0)];
        Ended { how, lived: Some(Duration::from_secs(seconds)), is_silent: false, is_error: false, is_held: false }
    }

    #[rstest]
    #[case(Resume::Restart, false, "s", true)]
    #[case(Resume::Restart, true, "s", false)]
    #[case(Resume::Always, true, "s", true)]
    #[case(Resume::Always, false, "s", true)]
    #[case(Resume::Always, true, "another prompt", false)]
    fn a_conversation_goes_on_within_its_bounds(
        #[case] resume: Resume,
        #[case] is_first: bool,
        #[case] scope: &str,
        #[case] goes_on: bool,
    ) {
        let (conversation, plan) = next(Some(&begun()), &words(true, scope), resume, is_first, "y");
        let expected = if goes_on { Plan::Resume { id: id("x"), turned: false } } else { Plan::New(id("y")) };
        assert_eq!((conversation.id(), plan), (Some(&id(if goes_on { "x" } else { "y" })), expected));
    }

    #[rstest]
    #[case(Proof::Found, false, true, Some("x"), Way::Resumed)]
    #[case(Proof::Unknown, false, true, Some("x"), Way::Resumed)]
    #[case(Proof::Missing, true, true, Some("x"), Way::Anew)]
    #[case(Proof::Missing, true, false, None, Way::Lost)]
    #[case(Proof::Undefined, true, false, Some("x"), Way::Resumed)]
    #[case(Proof::Undefined, false, false, None, Way::Lost)]
    #[case(Proof::Undefined, false, true, Some("x"), Way::Anew)]
    fn a_resume_needs_a_proof(
        #[case] proof: Proof,
        #[case] turned: bool,
        #[case] can_choose: bool,
        #[case] expected: Option<&str>,
        #[case] way: Way,
    ) {
        let taken = Plan::Resume { id: id("x"), turned }.taken(can_choose, |_| proof);
        assert_eq!(taken, Taken { id: expected.map(id), way });
        let mut conversation = next(Some(&begun()), &words(can_choose, "s"), Resume::Restart, false, "y").0;
        conversation.took(taken);
        let shown = conversation.shown();
        assert_eq!((shown.resumed, shown.note.is_some()), (way == Way::Resumed, way != Way::Resumed), "{shown:?}");
    }

    fn resumed() -> Conversation {
        let (mut conversation, plan) = next(Some(&begun()), &words(true, "s"), Resume::Restart, false, "y");
        conversation.took(plan.taken(true, |_| Proof::Found));
        conversation.started();
        conversation
    }

    #[rstest]
    #[case::error(end(1, 14), false, Follow::Afresh)]
    #[case::silent(Ended { is_silent: true, ..end(0, 1) }, false, Follow::Afresh)]
    #[case::result(Ended { is_error: true, ..end(0, 1) }, false, Follow::Afresh)]
    #[case::late(end(1, 15), false, Follow::Policy)]
    #[case::completed(end(0, 1), false, Follow::Policy)]
    #[case::turned(end(1, 1), true, Follow::Policy)]
    #[case::held(Ended { is_held: true, ..end(1, 1) }, false, Follow::Policy)]
    #[case::unseen(Ended { lived: None, ..end(1, 1) }, false, Follow::Policy)]
    fn a_resume_that_fails_at_once_is_made_up_for(
        #[case] end: Ended<'_>,
        #[case] turned: bool,
        #[case] expected: Follow,
    ) {
        let mut conversation = resumed();
        if turned {
            conversation.turned();
        }
        assert_eq!(conversation.ended(end), expected);
        let (after, plan) = next(Some(&conversation), &words(true, "s"), Resume::Restart, false, "z");
        assert_eq!(matches!(plan, Plan::New(_)), expected == Follow::Afresh);
        assert_eq!(after.shown().note.is_some(), expected == Follow::Afresh);
    }

    #[test]
    fn what_is_killed_from_outside_keeps_its_conversation() {
        let mut conversation = resumed();
        let how = ExitStatus::Signal("SIGKILL".parse().unwrap());
        assert_eq!(conversation.ended(Ended { how: &how, ..end(1, 1) }), Follow::Policy);
        let plan = next(Some(&conversation), &words(true, "s"), Resume::Restart, false, "z").1;
        assert_eq!(plan, Plan::Resume { id: id("x"), turned: false });
    }

    #[test]
    fn an_id_that_the_harness_tells_is_taken_over() {
        let (mut conversation, plan) = next(None, &words(false, "s"), Resume::Restart, true, "y");
        assert_eq!((conversation.id(), &plan), (None, &Plan::Begin));
        conversation.took(plan.taken(false, |_| Proof::Undefined));
        conversation.started();
        assert!(conversation.learn(id("told")) && !conversation.learn(id("told")));
        conversation.turned();
        let plan = next(Some(&conversation), &words(false, "s"), Resume::Restart, false, "y").1;
        assert_eq!(plan, Plan::Resume { id: id("told"), turned: true });
        assert!(conversation.learn(id("cleared")));
        let plan = next(Some(&conversation), &words(false, "s"), Resume::Restart, false, "y").1;
        assert_eq!(plan, Plan::Resume { id: id("cleared"), turned: false });
        assert!(conversation.shown().note.unwrap().contains("told"));
    }

    #[rstest]
    #[case("")]
    #[case("-x")]
    #[case("../x")]
    #[case("a/b")]
    #[case("a*")]
    #[case("a b")]
    #[case("\u{e9}")]
    fn what_could_be_an_option_path_or_pattern_is_no_id(#[case] text: &str) {
        assert_eq!(SessionId::try_from(text.to_owned()), Err(InvalidSessionId));
        assert!(SessionId::try_from("a".repeat(SessionId::MAX_LENGTH + 1)).is_err());
    }

    #[test]
    fn a_random_id_is_a_uuid_of_version_4() {
        assert_eq!(SessionId::random([0xff; 16]).as_str(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(SessionId::random([0; 16]).as_str(), "00000000-0000-4000-8000-000000000000");
    }

    proptest! {
        /// Whatever fails, and whether the harness keeps anything: no id is resumed again that failed at once, and each failure is made
        /// up for only if something worked since the one before.
        #[test]
        fn no_id_that_failed_is_tried_again(
            steps in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), 0_u64..30), 1..40),
            chooses in any::<bool>(),
        ) {
            let mut former: Option<Conversation> = None;
            let mut failed = Vec::new();
            let (mut made_up, mut worked) = (false, true);
            for (at, (is_kept, fails, turns, seconds)) in steps.into_iter().enumerate() {
                let spare = format!("spare{at}");
                let (mut conversation, plan) = next(former.as_ref(), &words(chooses, "s"), Resume::Restart, at == 0, &spare);
                let taken = plan.taken(chooses, |_| if is_kept { Proof::Found } else { Proof::Missing });
                prop_assert!(taken.id.as_ref().is_none_or(|id| !failed.contains(id)), "{taken:?}");
                prop_assert!(!made_up || taken.way == Way::New, "what makes up for a failure is a new conversation");
                conversation.took(taken.clone());
                conversation.started();
                if !chooses && taken.id.is_none() {
                    conversation.learn(id(&format!("told{at}")));
                }
                if turns {
                    conversation.turned();
                }
                worked |= turns || seconds >= AT_ONCE.as_secs();
                let follow = conversation.ended(end(i32::from(fails), seconds));
                if follow == Follow::Afresh {
                    prop_assert!(worked && fails && taken.way == Way::Resumed);
                    worked = false;
                }
                made_up = follow == Follow::Afresh;
                if fails && !turns && seconds < AT_ONCE.as_secs() && matches!(taken.way, Way::Resumed | Way::Anew) {
                    failed.extend(taken.id);
                }
                let text = serde_json::to_string(&conversation).unwrap();
                former = Some(serde_json::from_str(&text).unwrap());
            }
        }
    }
}
