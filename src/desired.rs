//! What should be: declarations, prompts and secrets, put together into what is to be launched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::account::Account;
use crate::config::{AgentSpec, Config, Entry, Kind, Name, Policy, Prompt, Workdir};
use crate::deputy;
use crate::frame::Bytes;
use crate::launch::Launch;
use crate::secrets::{MAX_STRING, Secrets};

/// Everything that should be, at one reading of the inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// By [`Name::key`].
    pub agents: BTreeMap<String, DesiredAgent>,
    /// Whether every agent that is not in `agents` is known to be undeclared; see [`Config::complete`].
    pub complete: bool,
    /// What is wrong with the jcard.
    pub config_error: Option<String>,
    /// What is wrong with the secrets.
    pub secrets_error: Option<String>,
}

/// One entry of the jcard, well or badly declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredAgent {
    /// As written.
    pub name: Name,
    /// The harness, when the entry tells.
    pub harness: Option<&'static str>,
    /// The agent, or what is wrong with its entry.
    pub declaration: Result<Declaration, String>,
}

/// How an agent should live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// How it is confined, in the API's words.
    pub kind: &'static str,
    /// When it is restarted, timed out, killed.
    pub policy: Policy,
    /// What is launched, or what is missing before it can be.
    pub launch: Result<Arc<Launch>, Missing>,
}

/// What an agent waits for, in a person's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("waiting: {0}")]
pub struct Missing(pub String);

/// What the agent user sees at the paths that declarations name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Prompt files.
    pub prompts: BTreeMap<PathBuf, deputy::Prompt>,
    /// Working directories.
    pub workdirs: BTreeMap<PathBuf, deputy::Workdir>,
}

/// The paths that have to be looked at before [`desired`] can tell.
pub fn paths(config: &Config, folder: &Path, account: &Account) -> (BTreeSet<PathBuf>, BTreeSet<PathBuf>) {
    let specs = || config.entries.iter().filter_map(|entry| entry.spec.as_ref().ok());
    let prompts = specs().filter_map(|spec| prompt_path(spec, folder)).collect();
    let workdirs = specs().map(|spec| workdir_path(spec, account)).collect();
    (prompts, workdirs)
}

fn prompt_path(spec: &AgentSpec, folder: &Path) -> Option<PathBuf> {
    match &spec.prompt {
        Some(Prompt::File(path)) => Some(folder.join(path)),
        Some(Prompt::Text(_)) | None => None,
    }
}

fn workdir_path(spec: &AgentSpec, account: &Account) -> PathBuf {
    match &spec.workdir {
        Workdir::Absolute(path) => path.clone(),
        Workdir::Home(path) => account.home.join(path),
    }
}

/// Puts it all together. `file` is the jcard, from whose folder relative prompt files are named.
pub fn desired(config: &Config, secrets: &Secrets, seen: &Seen, file: &Path, account: &Account) -> Desired {
    let folder = folder_of(file);
    let agent = |entry: &Entry| {
        let spec = entry.spec.as_ref().map_err(|findings| located(file, findings));
        let declaration = spec.and_then(|spec| declare(spec, secrets, seen, folder, account));
        let harness = entry.harness.map(|harness| harness.name);
        (entry.name.key(), DesiredAgent { name: entry.name.clone(), harness, declaration })
    };
    Desired {
        agents: config.entries.iter().map(agent).collect(),
        complete: config.complete,
        config_error: config.error().map(|findings| located(file, &findings)),
        secrets_error: None,
    }
}

/// The folder from which the jcard's relative paths are named.
pub fn folder_of(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new("/"))
}

/// Findings, a line each, with the file they are of.
pub fn located(file: &Path, findings: &str) -> String {
    let lines: Vec<String> = findings.lines().map(|line| format!("{}:{line}", file.display())).collect();
    lines.join("\n")
}

fn declare(
    spec: &AgentSpec,
    secrets: &Secrets,
    seen: &Seen,
    folder: &Path,
    account: &Account,
) -> Result<Declaration, String> {
    let kind = match spec.kind {
        Kind::Native => "native",
        Kind::Sandboxed => "native (unsandboxed)",
    };
    let mut missing = Vec::new();
    let prompt = match &spec.prompt {
        None => None,
        Some(Prompt::Text(text)) => Some(Bytes::from(text.as_str())),
        Some(Prompt::File(file)) => match seen.prompts.get(&folder.join(file)) {
            Some(deputy::Prompt::Text(text)) => Some(text.clone()).filter(|text| !text.as_slice().is_empty()),
            Some(deputy::Prompt::Refused(why)) => return Err(why.clone()),
            Some(deputy::Prompt::Unusable(why)) => {
                missing.push(format!("the prompt_file {why}"));
                None
            }
            Some(deputy::Prompt::Missing) | None => {
                missing.push(format!("the prompt_file {} does not exist", folder.join(file).display()));
                None
            }
        },
    };
    let workdir = workdir_path(spec, account);
    match seen.workdirs.get(&workdir) {
        Some(deputy::Workdir::Usable) => {}
        Some(deputy::Workdir::Missing(why)) => missing.push(format!("the workdir {why}")),
        None => missing.push(format!("the workdir {} does not exist", workdir.display())),
    }
    let environment = match environment(spec, secrets) {
        Ok(environment) => environment,
        Err(absent) => {
            missing.push(format!("the {absent} in the secrets directory"));
            BTreeMap::new()
        }
    };
    let launch = if missing.is_empty() {
        let (arguments, prompt) = arguments(spec, prompt);
        let (name, session) = (spec.name.clone(), spec.session.clone());
        Ok(Arc::new(Launch { name, session, arguments, prompt, environment, workdir }))
    } else {
        Err(Missing(missing.join("; ")))
    };
    Ok(Declaration { kind, policy: spec.policy.clone(), launch })
}

/// Command, `args`, the preset's words, the prompt; and where the prompt is.
fn arguments(spec: &AgentSpec, prompt: Option<Bytes>) -> (Vec<Bytes>, Option<usize>) {
    let mut arguments: Vec<Bytes> =
        spec.command.iter().chain(&spec.args).map(|word| Bytes::from(word.as_str())).collect();
    let mut at = None;
    if let Some(prompt) = prompt {
        arguments.extend(spec.harness.prompt_args.iter().copied().map(Bytes::from));
        at = Some(arguments.len());
        arguments.push(prompt);
    }
    (arguments, at)
}

/// Secrets, and `env` over them; or which secrets are not there.
fn environment(spec: &AgentSpec, secrets: &Secrets) -> Result<BTreeMap<String, Bytes>, String> {
    let mut environment = BTreeMap::new();
    match &spec.secrets {
        None => environment.extend(secrets.iter().map(|(name, value)| (name.clone(), value.clone()))),
        Some(names) => {
            let absent: Vec<&str> =
                names.iter().map(String::as_str).filter(|name| secrets.get(name).is_none()).collect();
            if !absent.is_empty() {
                let noun = if absent.len() == 1 { "secret" } else { "secrets" };
                let verb = if absent.len() == 1 { "is not" } else { "are not" };
                return Err(format!("{noun} {} {verb}", absent.join(", ")));
            }
            environment.extend(names.iter().filter_map(|name| Some((name.clone(), secrets.get(name)?.clone()))));
        }
    }
    environment.extend(spec.env.iter().map(|(name, value)| (name.clone(), Bytes::from(value.as_str()))));
    debug_assert!(environment.iter().all(|(name, value)| name.len() + 1 + value.as_slice().len() <= MAX_STRING));
    Ok(environment)
}
