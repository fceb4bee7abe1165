//! What a task says beside its text, in `ID.toml`: TOML text in, [`Sidecar`] out.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// What is said beside the text of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sidecar {
    /// What the run can be selected by.
    pub labels: BTreeMap<String, String>,
    /// The working directory of the run.
    pub workdir: Option<PathBuf>,
    /// The run whose conversation it continues.
    pub continues: Option<String>,
}
