//! What a run printed on its standard output and standard error, and the record of its end.
//!
//! ```text
//! LOG_DIR/NAME/runs/ID/stdout         what it printed on standard output
//! LOG_DIR/NAME/runs/ID/stderr         the same of standard error
//! LOG_DIR/NAME/runs/ID/result.json    how it ended
//! ```

/// One of the two streams of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
}

impl Output {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// The name of its file, and of its route.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}
