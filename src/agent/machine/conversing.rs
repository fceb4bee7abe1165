//! How an agent's attempts share conversations.

use super::life::Life;
use super::{Attempt, Machine};
use crate::agent::conversation::{Ask, Conversation, Plan, Resume, SessionId, Taken};
use crate::agent::launch::Launch;
use crate::agent::name::Name;
use crate::wire::result::{StreamResult, Tokens};

/// Enters the conversation of the next attempt, and returns what its launcher is asked to do; `None` if attempts share none.
pub(super) fn plan(
    conversation: &mut Option<Conversation>,
    spare: &mut Option<SessionId>,
    launch: &Launch,
    life: &Life,
) -> Option<Plan> {
    let resume = life.policy.resume;
    let Some(words) = launch.session_words.as_deref().filter(|_| resume != Resume::Never) else {
        *conversation = None;
        return None;
    };
    let ask = Ask { words, resume, is_first: life.attempts == 0 };
    let (next, plan) = Conversation::next(conversation.as_ref(), &ask, spare.clone());
    // An id serves once.
    spare.take_if(|spare| next.id() == Some(spare));
    *conversation = Some(next);
    Some(plan)
}

impl Machine {
    /// Whether it has no id for the next conversation that needs one.
    pub fn lacks_spare(&self) -> bool {
        self.spare.is_none()
    }

    /// Gives it an id that nothing has.
    pub fn give_spare(&mut self, id: SessionId) {
        self.spare = Some(id);
    }

    /// The id of the conversation of the present or latest attempt, once it is known.
    pub fn conversation(&self) -> Option<&SessionId> {
        self.conversation.as_ref()?.id()
    }

    /// What the next boot must know of its conversation, if anything. The outer `None` says that it is not known yet.
    #[allow(clippy::option_option, reason = "that nothing is to be kept is something else than not to know")]
    pub fn conversation_kept(&self) -> Option<Option<Conversation>> {
        let is_kept = self.life.as_ref()?.policy.resume == Resume::Always;
        Some(self.conversation.as_ref().filter(|_| is_kept).and_then(Conversation::kept))
    }

    /// Lets it go on with what was kept over a boot.
    pub fn remember(&mut self, conversation: Conversation) {
        self.conversation.get_or_insert(conversation);
    }

    pub(super) fn took(&mut self, attempt: Attempt, taken: Taken) {
        if self.attempt == attempt
            && let Some(conversation) = &mut self.conversation
        {
            conversation.took(taken);
            self.note_conversation();
        }
    }

    pub(super) fn told_of(&mut self, attempt: Attempt, id: SessionId) {
        if self.attempt != attempt {
            return;
        }
        match &mut self.conversation {
            Some(conversation) => _ = conversation.learn(id),
            None => self.conversation = Some(Conversation::told(id)),
        }
        self.note_conversation();
    }

    pub(super) fn told_of_anothers(&mut self, attempt: Attempt, id: &SessionId, holder: &Name) {
        if self.attempt == attempt
            && let Some(conversation) = &mut self.conversation
        {
            conversation.refuse(id, holder);
        }
    }

    fn note_conversation(&mut self) {
        let id = self.conversation().map(ToString::to_string);
        self.latest.iter_mut().for_each(|latest| latest.conversation.clone_from(&id));
    }
}

/// Whether a result says that the model has answered.
pub(super) fn says_of_work(result: &StreamResult) -> bool {
    let is_answered = !result.is_error && (result.turns.is_some_and(|turns| turns > 0) || !result.text.is_empty());
    is_answered || has_worked(result.tokens)
}

/// Whether the model has answered.
pub(super) fn has_worked(tokens: Option<Tokens>) -> bool {
    tokens.is_some_and(|tokens| tokens.output > 0)
}
