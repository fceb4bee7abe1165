//! What an attempt asks whether it may do: only while its harness lives.

use super::{Attempt, Effect, Harness, Machine, State};
use crate::agent::approval::{Approvals, Asker, End, Outcome, Question, Word};
use crate::sys::clock::Timestamp;
use crate::wire::activity::{Activity, Doing, Source};
use crate::wire::approval::Approval;

/// The longest beginning of a question that its activity shows, in characters.
const MOST_OF_WISH: usize = 480;

impl Machine {
    /// What it asks, and what came of that.
    pub fn approvals(&self) -> &Approvals {
        &self.approvals
    }

    /// That it is blocked, and on what, as long as it waits for an answer.
    pub(super) fn asking(&self) -> Option<Activity> {
        let (Approval { tool, command, asked_at, .. }, others) = self.approvals.blocked_on()?;
        let more = if others == 0 { String::new() } else { format!(" (and {others} more)") };
        let mut wish = format!("permission: {tool}: wants to run {command}");
        if let Some((end, _)) = wish.char_indices().nth(MOST_OF_WISH) {
            // Nobody must take a part for the whole.
            wish.truncate(end);
            wish.push('…');
        }
        let detail = Some(wish + &more);
        Some(Activity { status: Doing::Blocked, since: *asked_at, detail, source: Source::Hook })
    }

    pub(super) fn asked(&mut self, attempt: Attempt, question: Question, now: Timestamp, effects: &mut Vec<Effect>) {
        let is_alive = matches!(
            self.state,
            State::Starting { .. } | State::Running { .. } | State::Stopping { harness: Harness::Alive { .. }, .. }
        );
        if self.attempt != attempt || !is_alive {
            return;
        }
        let agent = self.name.key();
        let asker = Asker { agent: &agent, name: self.name.as_str(), launch: attempt, attempt: self.total };
        let outcomes = self.approvals.ask(asker, question, now);
        self.follow_from(outcomes, effects);
    }

    pub(super) fn ask_over(
        &mut self,
        attempt: Attempt,
        number: u64,
        end: End,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        if self.attempt == attempt {
            let outcome = self.approvals.over(number, end, now);
            self.follow_from(outcome, effects);
        }
    }

    pub(super) fn answered(&mut self, id: &str, word: Word, effects: &mut Vec<Effect>) {
        let outcome = self.approvals.answer(id, word);
        self.follow_from(outcome, effects);
    }

    pub(super) fn expire_approvals(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let outcomes = self.approvals.expire(now);
        self.follow_from(outcomes, effects);
    }

    /// An attempt that is accounted for asks nothing any more, and the next one begins with nothing asked.
    pub(super) fn account_for_approvals(&mut self, effects: &mut Vec<Effect>, now: Timestamp) {
        if effects.iter().any(|effect| matches!(effect, Effect::Account(_))) {
            let outcomes = self.approvals.end(now);
            self.follow_from(outcomes, effects);
            for effect in &mut *effects {
                if let Effect::Account(past) = effect {
                    past.approvals = self.approvals.decided().cloned().collect();
                }
            }
        }
        if effects.iter().any(|effect| matches!(effect, Effect::Launch { .. })) {
            self.approvals.begin();
        }
    }

    fn follow_from(&self, outcomes: impl IntoIterator<Item = Outcome>, effects: &mut Vec<Effect>) {
        let attempt = self.attempt;
        effects.extend(outcomes.into_iter().map(|outcome| match outcome {
            Outcome::Tell(told) => Effect::Answer { attempt, told },
            Outcome::News(approval) => Effect::Approval(approval),
        }));
    }
}
