//! What a stream says, collected for tests and for fuzzing.

use super::{Fact, Sink};

/// Everything that a stream has said.
#[derive(Debug, Default, PartialEq)]
pub struct Said {
    /// The facts, in their order.
    pub facts: Vec<Fact>,
    /// What was to be shown.
    pub shown: String,
}

impl Sink for Said {
    fn fact(&mut self, fact: Fact) {
        self.facts.push(fact);
    }

    fn show(&mut self, text: &str) {
        self.shown.push_str(text);
    }
}
