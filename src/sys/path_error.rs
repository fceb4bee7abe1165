//! An error of the system on a path: the operation, the path, and the reason.

use std::io;
use std::path::{Path, PathBuf};

/// The system refused an operation on a path.
#[derive(Debug, thiserror::Error)]
#[error("failed to {operation} {}: {source}", path.display())]
pub struct PathError {
    /// The operation.
    pub operation: &'static str,
    /// The path.
    pub path: PathBuf,
    /// The reason.
    pub source: io::Error,
}

impl PathError {
    /// An error of this operation on this path.
    pub fn new(operation: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self { operation, path: path.into(), source: source.into() }
    }

    /// Converts an error, for `map_err`.
    pub fn of<S: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(S) -> Self {
        move |source| Self::new(operation, path, source)
    }
}
