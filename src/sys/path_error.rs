//! What failed, on which path, and why.

use std::io;
use std::path::{Path, PathBuf};

/// The system refused something that has a path.
#[derive(Debug, thiserror::Error)]
#[error("failed to {operation} {}: {source}", path.display())]
pub struct PathError {
    /// What was tried.
    pub operation: &'static str,
    /// With what.
    pub path: PathBuf,
    /// The reason.
    pub source: io::Error,
}

impl PathError {
    /// An error of this operation on this path.
    pub fn new(operation: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self { operation, path: path.into(), source: source.into() }
    }

    /// For `map_err`.
    pub fn of<S: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(S) -> Self {
        move |source| Self::new(operation, path, source)
    }
}
