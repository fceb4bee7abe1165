//! What the next daemon must know: records, histories, and the lock on both.

pub mod conversations;
pub mod history;
pub mod key;
pub mod lock;
pub mod overrides;
pub mod record;
