//! Pure text: escape sequences, durations, sizes, redaction, and what is safe to show.

pub mod ansi;
pub mod duration;
pub mod glob;
pub mod printable;
pub mod redact;
pub mod screen;
pub mod sieve;
pub mod size;
pub mod suggest;
