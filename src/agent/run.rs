//! What a template is: how its runs are made, ordered and kept.
//!
//! An agent with a table `[agents.runs]` is a template. It is never started itself: each task makes a run of it, which is one bounded
//! life of an agent with that task. A [queue](queue) decides which run starts next.

pub mod queue;

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::agent::name::{Name, RunId};
use crate::sys::secret_bytes::SecretBytes;

/// The longest task, in bytes.
pub const LONGEST_TASK: usize = 1 << 20;

/// The most runs of one template that can be under way at once.
pub const MOST_AT_ONCE: u64 = 1000;

/// The most runs of one template that can wait.
pub const MOST_WAITING: u64 = 10_000;

/// The most finished runs of one template that can be kept.
pub const MOST_KEPT: u64 = 10_000;

/// The table `[agents.runs]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// How many runs are under way at once.
    pub at_once: u32,
    /// How many wait; a further one is refused.
    pub waiting: u32,
    /// How many are kept after their end, with their output.
    pub keep: u32,
    /// What becomes of a run that a stop of the daemon or of the machine interrupts.
    pub interrupted: Interrupted,
    /// How a run is given its task.
    pub task: TaskBy,
}

impl Default for Template {
    fn default() -> Self {
        Self { at_once: 1, waiting: 100, keep: 100, interrupted: Interrupted::default(), task: TaskBy::default() }
    }
}

/// What becomes of a run that a stop of the daemon or of the machine interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interrupted {
    /// It has ended: `interrupted`.
    #[default]
    Fail,
    /// It runs again, at the place in line that it had.
    Again,
}

/// How a harness is given a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TaskBy {
    /// On its standard input.
    Stdin,
    /// As its prompt, among its arguments.
    #[default]
    Argument,
    /// In a file, whose path is in its prompt.
    File,
}

/// A task that was found, before anything is done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The template, as it is declared.
    pub agent: Name,
    /// The writer's choice.
    pub id: RunId,
    /// What is to be done.
    pub text: SecretBytes,
    /// Who wrote it: a user's name, or a number if it has none. Advisory.
    pub by: String,
    /// When it was written, which is its place in line.
    pub written: SystemTime,
}
