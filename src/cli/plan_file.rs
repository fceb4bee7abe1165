//! Reads a plan from a file of the caller's, and the prompt files that it names.

use std::path::Path;

use zeroize::Zeroizing;

use crate::agent::plan::{MAX_SIZE, Plan};
use crate::agent::run::LONGEST_TASK;
use crate::config::Finding;
use crate::config::plan::{Agents, PromptFiles, parse};
use crate::sys::regular_file;

/// Why a file holds no plan.
#[derive(Debug)]
pub(super) enum Fault {
    /// It cannot be read.
    Unread(String),
    /// This is wrong with it.
    Wrong(Vec<Finding>),
}

/// Reads a plan with all its prompts. `agents` is what it can name, as far as that is known. Prompt files are looked for in its folder.
pub(super) fn read(file: &Path, agents: Option<&Agents>) -> Result<Plan, Fault> {
    let text = content(file, MAX_SIZE).map_err(Fault::Unread)?;
    // An empty path is the current directory.
    let folder = file.parent().unwrap_or(Path::new(""));
    let longest = u64::try_from(LONGEST_TASK).unwrap_or(u64::MAX);
    let mut prompt_file = |path: &str| content(&folder.join(path), longest).map(|text| text.to_vec());
    parse(&text, agents, PromptFiles::Read(&mut prompt_file)).map_err(Fault::Wrong)
}

fn content(file: &Path, most: u64) -> Result<Zeroizing<Vec<u8>>, String> {
    let said = |error: regular_file::Error| match error {
        regular_file::Error::Io(error) if error.kind() == std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        regular_file::Error::Io(error) => format!("cannot be read: {error}"),
        other => format!("cannot be read: {other}"),
    };
    regular_file::read(file, most).map(|(text, _)| text).map_err(said)
}
