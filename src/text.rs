//! Pure text: escape sequences, durations, sizes, and what of a text may be shown.

pub mod ansi;
pub mod duration;
pub mod printable;
pub mod redact;
pub mod screen;
pub mod size;
pub mod suggest;
