//! The sections that declare agents: reads the entries, and makes sure that no two agents are the same.
//!
//! Entries are read in two passes, because the default name of an entry depends on how many others of its harness have no name.

use std::collections::{HashMap, HashSet, hash_map};
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::advice;
use super::confinement;
use super::fields::{Fields, alternatives, described, quoted};
use super::harnesses::Harnesses;
use super::position::Places;
use crate::agent::approval::{self, Asking};
use crate::agent::conversation::{RESUME_PROMPT, Resume};
use crate::agent::harness::{Approval, Harness, HookKind, Trust};
use crate::agent::hold::{self, OnHold};
use crate::agent::name::{InvalidName, Key, Name};
use crate::agent::packages;
use crate::agent::rotation::{OnRotate, Rotation};
use crate::agent::sandbox::Engine;
use crate::agent::skills;
use crate::agent::spec::{AgentSpec, Kind, Limits, Policy, Prompt, Restart, Workdir};
use crate::agent::verdict::Terms;
use crate::config::{Config, Entry, Finding, Lines, MAX_AGENTS, MAX_REPLICAS, MAX_TOGETHER, Options, Severity};
use crate::sys::exec::MAX_ARGUMENT;
use crate::text::suggest::nearest;

/// Reads every agent that a jcard declares.
pub(super) fn read(document: &DeTable<'_>, places: &Places<'_>, options: &Options) -> Config {
    let mut roster = Roster::default();
    let mut harnesses = Harnesses::read(document, places, &mut roster.findings);
    let entries = entries(document, places, &mut roster).into_iter();
    let drafts: Vec<_> = entries.map(|fields| Draft::read(fields, &mut harnesses)).collect();
    let bases = base_names(&drafts);
    for (table, (draft, base)) in drafts.into_iter().zip(bases).enumerate() {
        roster.enlist(table, draft, base, places, options);
    }
    roster.list_unplaced();
    let harnesses = harnesses.finish(&mut roster.findings);
    let Roster { entries, mut findings, sandbox_expected, incomplete, .. } = roster;
    if entries.is_empty() && !incomplete {
        findings.extend(advice::nothing_declared(document, places));
    }
    findings.sort_by_key(|finding| (finding.line, finding.column));
    Config { entries, harnesses, findings, sandbox_expected, complete: !incomplete }
}

/// Where the tables and their fields stand.
pub(super) fn lines(document: &DeTable<'_>, places: &Places<'_>) -> Vec<Lines> {
    entries(document, places, &mut Roster::default()).iter().map(Fields::lines).collect()
}

/// The tables of `[agent]` and `[[agents]]`.
fn entries<'a>(document: &'a DeTable<'a>, places: &'a Places<'a>, roster: &mut Roster) -> Vec<Fields<'a>> {
    let mut entries = Vec::new();
    let mut unusable = |at, message: String| {
        roster.findings.push(places.finding(at, Severity::Error, message));
        roster.incomplete = true;
    };
    if let Some(value) = document.get("agent") {
        let start = value.span().start;
        match value.get_ref() {
            DeValue::Table(table) => entries.push(Fields::new(table, start, places)),
            other => {
                let right = "write [agent] above one agent, or [[agents]] above each of several";
                unusable(start, format!("`agent` is {}; {right}", described(other)));
            }
        }
    }
    if let Some(value) = document.get("agents") {
        let start = value.span().start;
        match value.get_ref() {
            DeValue::Array(array) => {
                for value in array.iter().take(MAX_AGENTS) {
                    let start = value.span().start;
                    match value.get_ref() {
                        DeValue::Table(table) => entries.push(Fields::new(table, start, places)),
                        other => {
                            unusable(start, format!("an entry of `agents` is {}; write a table", described(other)));
                        }
                    }
                }
                if let Some(value) = array.get(MAX_AGENTS) {
                    let message = format!("there are too many entries; declare at most {MAX_AGENTS} agents");
                    unusable(value.span().start, message);
                }
            }
            other => {
                let right = "write [[agents]], in double brackets, above each agent";
                unusable(start, format!("`agents` is {}; {right}", described(other)));
            }
        }
    }
    entries
}

/// An entry, read only as far as its name depends on it.
struct Draft<'a> {
    fields: Fields<'a>,
    naming: Naming,
    harness: Option<Arc<Harness>>,
    /// Why that cannot be used.
    faults: Vec<Finding>,
    /// `None` if unknown.
    replicas: Option<u64>,
}

enum Naming {
    Given(Name),
    /// Named after the harness, or the most similar one if it is misspelled: a mistake in one entry must not change the numbers
    /// in the names of others.
    After(Arc<Harness>),
    Unknown,
}

impl<'a> Draft<'a> {
    fn read(mut fields: Fields<'a>, harnesses: &mut Harnesses) -> Self {
        let harness = read_harness(&mut fields, harnesses);
        let nearest = || harnesses.find(nearest(fields.peek("harness")?, harnesses.names())?).cloned();
        let meant = harness.clone().or_else(nearest);
        let faults = harness.as_ref().map(|harness| harnesses.faults(&harness.name).to_vec()).unwrap_or_default();
        let naming = if fields.is_set("name") {
            fields.name("name").map_or(Naming::Unknown, Naming::Given)
        } else {
            meant.map_or(Naming::Unknown, Naming::After)
        };
        let replicas = if fields.is_set("replicas") {
            let right = format!("write a whole number from 1 to {MAX_REPLICAS}");
            fields.whole_number("replicas", &(1..=MAX_REPLICAS), &right)
        } else {
            Some(1)
        };
        Self { fields, naming, harness, faults, replicas }
    }

    /// The agents that the entry means; `None` if unknown. `declared` is the number of agents of the entries before it.
    fn names(&mut self, base: &Name, declared: usize) -> Option<Vec<Name>> {
        let replicas = self.replicas?;
        if usize::try_from(replicas).map_or(true, |replicas| declared + replicas > MAX_AGENTS) {
            let at = self.fields.place("replicas");
            self.fields.error(at, format!("these are too many agents; declare at most {MAX_AGENTS}, replicas counted"));
            return None;
        }
        if replicas == 1 {
            return Some(vec![base.clone()]);
        }
        let names: Result<_, _> = (0..replicas).map(|number| numbered(base.as_str(), number)).collect();
        if names.is_err() {
            let right = "replicas append a number to it; make it shorter";
            self.fields.error(self.fields.place("name"), format!("the `name` is too long; {right}"));
        }
        names.ok()
    }

    /// Records that there is no room for what the entry declares, and returns that error.
    fn too_large(&mut self) -> String {
        let most = MAX_TOGETHER >> 20;
        let message = format!(
            "arguments and variables are too large; those of all agents may have {most} MiB together, replicas counted"
        );
        self.fields.error(self.fields.place("replicas"), message);
        self.fields.errors().unwrap_or_default()
    }

    /// The session of the entry's only agent, if it is valid; replicas have separate sessions.
    fn session(&mut self) -> Session {
        let is_set = self.fields.is_set("session");
        if is_set && self.replicas.is_some_and(|replicas| replicas > 1) {
            let at = self.fields.place("session");
            self.fields.warn(at, "`session` is ignored; each of several replicas has a session named like itself");
        } else if is_set {
            return self.fields.name("session").map_or(Session::Unknown, Session::Given);
        }
        Session::LikeAgent
    }

    /// Reads everything else.
    fn spec(&mut self, base: Option<&Name>, options: &Options) -> Result<AgentSpec, String> {
        let fields = &mut self.fields;
        let command = fields.command("command");
        let args = fields.strings("args").unwrap_or_default();
        let prompt = fields.string("prompt").map(|text| Prompt::Text(text.to_owned()));
        let prompt_file = fields.string("prompt_file").map(|path| Prompt::File(PathBuf::from(path)));
        let interactive = fields.boolean("interactive");
        let resume_prompt = fields.string("resume_prompt").map(str::to_owned);
        let results = fields.boolean("results").unwrap_or_default();
        let max_cost = fields.max_cost("max_cost");
        let (approval, asks) = read_approval(fields, self.harness.as_deref());
        let user = fields.user("user");
        let default_workdir = || match &user {
            // The usual one is in the home of another user.
            Some(_) => Workdir::Home("workspace".into()),
            None => options.default_workdir.clone(),
        };
        let workdir = fields.workdir("workdir").unwrap_or_else(default_workdir);
        let umask = fields.umask("umask");
        let trust_repository = fields.boolean("trust_repository").unwrap_or_default();
        let env = fields.variables("env").unwrap_or_default();
        let secrets = fields.secrets("secrets");
        let secret_files = fields.boolean("secret_files").unwrap_or_default();
        let skills = read_skills(fields);
        let packages = fields.packages("extra_packages").unwrap_or_default();
        let packages_timeout = read_packages_timeout(fields);
        let kind = confinement::read(fields, self.harness.as_deref(), options);
        let asking = read_asking(fields, asks, self.harness.as_deref(), &args, &kind);
        let policy = read_policy(fields, self.harness.as_deref());
        let policy = confinement::with_defaults(fields, policy, &kind);
        look_at_secret_files(fields, secret_files, user.is_some() || kind.sandbox().is_some(), &policy.rotation);
        fields.unknown_keys();
        let prompt = prompt_file.or(prompt);
        let mut policy = policy;
        policy.max_cost = max_cost;
        if let Some(harness) = &self.harness {
            look_at_prompt(fields, harness, &args, prompt.as_ref(), interactive);
            if policy.resume != Resume::Never {
                look_at_resume(fields, harness, &args, prompt.is_some(), resume_prompt.as_deref());
            } else if resume_prompt.is_some() {
                let at = fields.place("resume_prompt");
                fields.warn(at, "`resume_prompt` is ignored; write `resume = \"restart\"`, or remove it");
            }
            policy.results = results.then(|| terms_of(harness));
            look_at_results(fields, harness, prompt.is_some(), interactive, results);
        }
        let faults = self.faults.iter().map(Finding::to_string).chain(fields.errors());
        let errors = Some(faults.collect::<Vec<_>>().join("\n")).filter(|errors| !errors.is_empty());
        match (errors, &self.harness, base) {
            (None, Some(harness), Some(name)) => Ok(AgentSpec {
                name: name.clone(),
                harness: Arc::clone(harness),
                command: command.unwrap_or_else(|| vec![harness.binary.clone()]),
                args,
                prompt,
                interactive,
                resume_prompt: resume_prompt.unwrap_or_else(|| RESUME_PROMPT.to_owned()),
                results,
                approval,
                asking,
                workdir,
                session: name.clone(),
                user,
                umask,
                trust_repository,
                env,
                secrets,
                secret_files,
                skills,
                packages,
                packages_timeout,
                kind,
                policy,
            }),
            (errors, ..) => Err(errors.unwrap_or_default()),
        }
    }
}

fn read_harness(fields: &mut Fields<'_>, harnesses: &Harnesses) -> Option<Arc<Harness>> {
    const CUSTOM: &str = "custom";
    let names = || harnesses.names();
    let at = fields.place("harness");
    if !fields.is_set("harness") {
        let right = if fields.is_set("command") {
            "write `harness = \"custom\"`, because the entry has a `command`".to_owned()
        } else {
            format!("write one of {}", alternatives(names()))
        };
        fields.error(at, format!("harness is required; {right}"));
        return None;
    }
    let text = fields.string("harness")?;
    if let Some(harness) = harnesses.find(text) {
        return Some(Arc::clone(harness));
    }
    let right = if let Some(near) = nearest(text, names()) {
        format!("did you mean {near:?}?")
    } else if fields.is_set("command") {
        "write \"custom\", because the entry has a `command`".to_owned()
    } else {
        let others = alternatives(names().filter(|&name| name != CUSTOM));
        format!("write {others}, or \"{CUSTOM}\" with `command = [{}]`", quoted(text))
    };
    fields.error(at, format!("unknown agent.harness {}; {right}", quoted(text)));
    None
}

/// The `approval` of an agent that asks an operator.
const ASK: &str = "ask";

/// What the harness may do without asking, for which it must have words.
///
/// The other value says whether it asks agentd.
fn read_approval(fields: &mut Fields<'_>, harness: Option<&Harness>) -> (Option<Approval>, bool) {
    let words = Approval::ALL.map(|approval| (approval.word(), Some(approval)));
    let words: Vec<_> = words.into_iter().chain([(ASK, None)]).collect();
    let approval = match fields.word("approval", "unknown agent.approval", &words) {
        Some(Some(approval)) => approval,
        Some(None) => return (None, true),
        None => return (None, false),
    };
    let Some(harness) = harness.filter(|harness| harness.approval_words(approval).is_none()) else {
        return (Some(approval), false);
    };
    let (name, word, at) = (&harness.name, approval.word(), fields.place("approval"));
    let known: Vec<String> = harness.approvals().map(|approval| format!("{:?}", approval.word())).collect();
    let known = if known.is_empty() {
        "remove it, and write in `args` what the program knows".to_owned()
    } else {
        format!("write {}", alternatives(known.iter().map(String::as_str)))
    };
    fields.error(
        at,
        format!("{name} has no words for the `approval` {word:?}; {known}, or `approval.{word}` in [harnesses.{name}]"),
    );
    (None, false)
}

fn read_approval_timeout(fields: &mut Fields<'_>) -> Option<Duration> {
    let timeout = fields.duration("approval_timeout")?;
    let at = fields.place("approval_timeout");
    if timeout.is_zero() {
        fields.error(at, "`approval_timeout` is too small; write how long an answer may take, for example \"10m\"");
        return None;
    }
    if timeout > approval::LONGEST_TIMEOUT {
        fields.error(at, "`approval_timeout` is too large; write at most \"168h\"");
        return None;
    }
    Some(timeout)
}

/// How it asks agentd whether it may do something. That takes hooks that can be asked to ask.
fn read_asking(
    fields: &mut Fields<'_>,
    asks: bool,
    harness: Option<&Harness>,
    args: &[String],
    kind: &Kind,
) -> Option<Asking> {
    let timeout = read_approval_timeout(fields);
    let rules = fields.approval_rules("approval_rules").unwrap_or_default();
    if !asks {
        let unused = [("approval_timeout", timeout.is_some()), ("approval_rules", !rules.is_empty())];
        for (key, _) in unused.into_iter().filter(|(_, is_set)| *is_set) {
            let at = fields.place(key);
            fields.warn(at, format!("`{key}` has no effect without `approval = \"ask\"`; write that, or remove it"));
        }
        return None;
    }
    let at = fields.place("approval");
    let harness = harness?;
    let name = &harness.name;
    if harness.hooks() != Some(HookKind::Claude) {
        let known: Vec<String> = harness.approvals().map(|approval| format!("{:?}", approval.word())).collect();
        let right = if known.is_empty() {
            "remove it, and write in `args` what the program knows".to_owned()
        } else {
            format!("write {}", alternatives(known.iter().map(String::as_str)))
        };
        fields.error(at, format!("{name} has no hook that could ask, so its `approval` cannot be \"ask\"; {right}"));
        return None;
    }
    let is_taken = |arg: &&String| {
        ["--settings", "--bare", "--safe-mode"].contains(&arg.as_str()) || arg.starts_with("--settings=")
    };
    if let Some(arg) = args.iter().find(is_taken) {
        let right = "remove it, and write settings into a file that the program reads by itself";
        fields.error(at, format!("{} in `args` leaves no room for the hook that asks; {right}", quoted(arg)));
        return None;
    }
    if kind.sandbox().is_some_and(|sandbox| sandbox.engine == Engine::Runsc) {
        let right = "write `sandbox = \"bwrap\"` or \"crun\", or another `approval`";
        fields.error(at, format!("an agent in a sandbox of runsc cannot ask; {right}"));
        return None;
    }
    Some(Asking { timeout: timeout.unwrap_or(approval::TIMEOUT), rules })
}

/// Checks whether the harness will take the prompt for a prompt, and end as it should. The content of a `prompt_file` is unknown
/// here.
fn look_at_prompt(
    fields: &mut Fields<'_>,
    harness: &Harness,
    args: &[String],
    prompt: Option<&Prompt>,
    interactive: Option<bool>,
) {
    let at = fields.place("interactive");
    match interactive {
        Some(_) if harness.is_custom() => {
            fields.warn(at, "`interactive` is ignored; what a custom command does is for its `args` to say");
        }
        Some(true) if prompt.is_some() && !harness.takes_prompt(interactive) => {
            let right = "write `interactive = false`, or remove the prompt";
            fields.error(at, format!("{} takes no prompt at its terminal; {right}", harness.name));
        }
        Some(false) if prompt.is_none() => {
            fields.error(at, "`interactive = false` needs something to do; write a `prompt` or a `prompt_file`");
        }
        Some(_) | None => {}
    }
    let Some(Prompt::Text(text)) = prompt else { return };
    let at = fields.place("prompt");
    if let Some(refusal) = harness.refuses(text.as_bytes()) {
        fields.error(at, refusal);
    } else if text.trim().is_empty() {
        fields.warn(at, "the `prompt` is nothing but white space; say what there is to do, or remove it");
    } else if harness.is_custom() && text.starts_with(['-', '@']) && args.last().is_none_or(|last| last != "--") {
        let right = "end `args` with \"--\" if the program knows that, or begin the prompt with a word";
        fields.warn(at, format!("the `prompt` begins like an option or the name of a file; {right}"));
    }
}

/// Checks whether an attempt can resume the conversation of the one before.
fn look_at_resume(
    fields: &mut Fields<'_>,
    harness: &Harness,
    args: &[String],
    has_prompt: bool,
    resume_prompt: Option<&str>,
) {
    let (name, at) = (&harness.name, fields.place("resume"));
    if !harness.has_conversations() {
        let right = format!("remove it, or write `session_new` and `session_resume` in [harnesses.{name}]");
        fields.error(at, format!("{name} has no words for a conversation that `resume` could resume; {right}"));
    }
    if let Some(word) = harness.says_session(args) {
        let right = "remove one of them";
        let at = fields.place("args");
        fields.error(at, format!("{} in `args` names a conversation, as `resume` does; {right}", quoted(word)));
    }
    if let Some(word) = harness.says_prompt(args).filter(|_| !has_prompt) {
        let right = "write a `prompt` or a `prompt_file`";
        fields.error(at, format!("`resume` with {} in `args` needs something to do; {right}", quoted(word)));
    }
    let at = fields.place("resume_prompt");
    match resume_prompt {
        Some(_) if !has_prompt => {
            let right = "write a `prompt`, or remove it";
            fields.warn(at, format!("`resume_prompt` is ignored, because the entry has no prompt; {right}"));
        }
        Some(text) if text.len() > MAX_ARGUMENT => {
            let right = format!("the kernel takes at most {MAX_ARGUMENT} bytes (128 KiB less one)");
            fields.error(at, format!("the `resume_prompt` is too long; {right}"));
        }
        Some(text) => {
            if let Some(refusal) = harness.refuses(text.as_bytes()) {
                fields.error(at, refusal);
            }
        }
        None => {}
    }
}

/// How the machine-readable output of a harness is judged.
fn terms_of(harness: &Harness) -> Terms {
    Terms { closing_record: harness.closing_record(), trusts_stream: harness.trust() == Trust::Stream }
}

/// A machine-readable stream needs a harness that has one, and something to do.
fn look_at_results(
    fields: &mut Fields<'_>,
    harness: &Harness,
    has_prompt: bool,
    interactive: Option<bool>,
    results: bool,
) {
    if !results {
        if fields.is_set("max_cost") {
            let at = fields.place("max_cost");
            fields
                .error(at, "`max_cost` needs `results = true`; without it, agentd does not learn what the agent costs");
        }
        return;
    }
    let at = fields.place("results");
    if harness.stream().is_none() {
        let right = "remove `results`, or set `stream` in its [harnesses] table";
        fields.error(at, format!("{} has no machine-readable output that agentd can read; {right}", harness.name));
    } else if !has_prompt {
        fields.error(at, "`results = true` needs something to do; write a `prompt` or a `prompt_file`");
    } else if interactive == Some(true) {
        fields.error(at, "`results = true` and `interactive = true` exclude each other; remove one of them");
    }
}

/// Whether the harness keeps running after it has finished its prompt.
fn stays_open(spec: &AgentSpec) -> bool {
    if spec.results {
        return false;
    }
    let stays = |prompt: &[u8]| spec.harness.stays_open(&spec.args, spec.interactive, prompt);
    match &spec.prompt {
        Some(Prompt::Text(text)) => stays(text.as_bytes()),
        // The content is seen later; most prompts are like this one.
        Some(Prompt::File(_)) => stays(b"words"),
        None => false,
    }
}

/// The session of an entry's agents.
enum Session {
    LikeAgent,
    Given(Name),
    Unknown,
}

fn read_packages_timeout(fields: &mut Fields<'_>) -> Duration {
    let timeout = fields.duration("extra_packages_timeout");
    if timeout.is_some_and(|timeout| timeout.is_zero()) {
        let right = "write how long a build may take, for example \"10m\"";
        fields.error(fields.place("extra_packages_timeout"), format!("`extra_packages_timeout` is too small; {right}"));
    }
    timeout.unwrap_or(packages::TIMEOUT)
}

/// What becomes of the agent when its credential does not work. By default it waits if that can be found out.
fn read_hold(fields: &mut Fields<'_>, harness: Option<&Harness>) -> OnHold {
    let words = OnHold::ALL.map(|on_hold| (on_hold.word(), on_hold));
    let said = if fields.is_boolean("hold") {
        fields.boolean("hold").map(|waits| if waits { OnHold::Wait } else { OnHold::Off })
    } else {
        fields.word("hold", "unknown agent.hold", &words)
    };
    let by_default = if harness.is_some_and(tells_of_its_credential) { OnHold::Wait } else { OnHold::Off };
    said.unwrap_or(by_default)
}

/// Whether anything is known of how it says that its credential does not work.
fn tells_of_its_credential(harness: &Harness) -> bool {
    harness.stream().is_some() || !harness.rules().is_empty()
}

fn read_hold_retry(fields: &mut Fields<'_>) -> Duration {
    let retry = fields.duration("hold_retry");
    if retry.is_some_and(|retry| retry.is_zero()) {
        let right = "write how long to wait before a login is tried again, for example \"1h\"";
        fields.error(fields.place("hold_retry"), format!("`hold_retry` is too small; {right}"));
    }
    retry.unwrap_or(hold::RETRY)
}

fn read_policy(fields: &mut Fields<'_>, harness: Option<&Harness>) -> Policy {
    let restarts = [("no", Restart::No), ("on-failure", Restart::OnFailure), ("always", Restart::Always)];
    let any_number = format!("write a whole number from 0 to {}, where 0 is no limit", u64::MAX);
    let default = Policy::default();
    let (backoff, reset) = (fields.durations("backoff"), fields.duration("backoff_reset"));
    // An entry with delays of its own says all about them, as it always did.
    let default_reset = default.backoff_reset.filter(|_| backoff.is_none());
    Policy {
        restart: fields.word("restart", "invalid agent.restart", &restarts).unwrap_or(default.restart),
        max_restarts: fields
            .whole_number("max_restarts", &(0..=u64::MAX), &any_number)
            .filter(|&restarts| restarts > 0),
        timeout: fields.duration("timeout").filter(|timeout| !timeout.is_zero()),
        idle_timeout: fields.duration("idle_timeout").filter(|timeout| !timeout.is_zero()),
        grace_period: fields.duration("grace_period").unwrap_or(default.grace_period),
        backoff: backoff.unwrap_or(default.backoff),
        backoff_reset: reset.filter(|reset| !reset.is_zero()).or(default_reset),
        limits: Limits {
            memory: fields.memory("memory"),
            tasks: fields.whole_number("pid_limit", &(0..=u64::MAX), &any_number).filter(|&tasks| tasks > 0),
            cpu: fields.processors("cpu"),
        },
        enabled: fields.boolean("enabled").unwrap_or(default.enabled),
        generation: generation(fields).unwrap_or(default.generation),
        labels: fields.labels("labels").unwrap_or_default(),
        resume: fields.word("resume", "invalid agent.resume", &RESUMES).unwrap_or(default.resume),
        // They are read elsewhere.
        max_cost: default.max_cost,
        results: default.results,
        rotation: read_rotation(fields),
        hold: read_hold(fields, harness),
        hold_retry: read_hold_retry(fields),
        by_default: default.by_default,
    }
}

const RESUMES: [(&str, Resume); 3] =
    [("never", Resume::Never), ("restart", Resume::Restart), ("always", Resume::Always)];

/// Checks whether files of secrets are of use.
fn look_at_secret_files(fields: &mut Fields<'_>, secret_files: bool, is_apart: bool, rotation: &Rotation) {
    if !secret_files && rotation.on_rotate == OnRotate::Files {
        let right = "write `secret_files = true`, too";
        fields.error(fields.place("on_rotate"), format!("`on_rotate = \"files\"` needs files to replace; {right}"));
    }
    if secret_files && !is_apart {
        let right = "name a `user` of its own, or a `sandbox`";
        let what = "every agent of the default user can read the files of this one";
        fields.warn(fields.place("secret_files"), format!("{what}; {right}"));
    }
}

/// Reads the paths of skills. What is there is looked at elsewhere.
fn read_skills(fields: &mut Fields<'_>) -> Vec<String> {
    let paths = fields.located_strings("skills").unwrap_or_default();
    if let Some((at, _)) = paths.get(skills::MOST) {
        fields.error(*at, format!("these are too many `skills`; write at most {} paths", skills::MOST));
    }
    let mut known = HashSet::new();
    for (at, path) in &paths {
        if path.is_empty() {
            fields.error(*at, "a path in `skills` is empty; write the path of a folder with a SKILL.md");
        } else if path.strip_suffix("/*").unwrap_or(path).contains('*') {
            let right = "write the path of a folder, or one that ends in \"/*\" for all folders there";
            fields.error(*at, format!("{} cannot be in `skills`; {right}", quoted(path)));
        } else if path.starts_with('~') {
            let right = "skills are not taken from a home; write an absolute path, or one relative to the jcard";
            fields.error(*at, format!("{} cannot be in `skills`; {right}", quoted(path)));
        } else if !known.insert(*path) {
            fields.warn(*at, format!("{} is twice in `skills`; remove one of them", quoted(path)));
        }
    }
    paths.into_iter().take(skills::MOST).map(|(_, path)| path.to_owned()).collect()
}

/// Reads what new values of secrets do.
fn read_rotation(fields: &mut Fields<'_>) -> Rotation {
    let words = OnRotate::ALL.map(|on_rotate| (on_rotate.word(), on_rotate));
    let default = Rotation::default();
    let rotation = Rotation {
        on_rotate: fields.word("on_rotate", "invalid `on_rotate`", &words).unwrap_or(default.on_rotate),
        spread: fields.duration("rotate_spread").unwrap_or(default.spread),
        within: fields.duration("rotate_within").unwrap_or(default.within),
    };
    if !rotation.spread.is_zero() && matches!(rotation.on_rotate, OnRotate::Next | OnRotate::Files) {
        let word = rotation.on_rotate.word();
        let right = format!("with `on_rotate = \"{word}\"` new values launch nothing; remove it");
        fields.warn(fields.place("rotate_spread"), format!("`rotate_spread` is ignored; {right}"));
    }
    if fields.is_set("rotate_within") && rotation.on_rotate != OnRotate::Idle {
        let right = "it limits how long `on_rotate = \"idle\"` waits; write that, or remove it";
        fields.warn(fields.place("rotate_within"), format!("`rotate_within` is ignored; {right}"));
    }
    rotation
}

/// The highest `generation`: the largest number that every reader of JSON holds exactly.
pub const MAX_GENERATION: u64 = (1 << 53) - 1;

/// Which run of an agent is wanted.
pub(super) fn generation(fields: &mut Fields<'_>) -> Option<u64> {
    let right = format!("write a whole number from 0 to {MAX_GENERATION}; each higher one restarts the agent");
    fields.whole_number("generation", &(0..=MAX_GENERATION), &right)
}

/// The name of an entry before its replicas are numbered.
enum Base {
    Known(Name),
    /// The entry is listed under this likely name, but which agents it means is unknown.
    Guessed(Name),
    Unknown,
}

/// The base name of each entry.
fn base_names(drafts: &[Draft<'_>]) -> Vec<Base> {
    let mut unnamed: HashMap<&str, u64> = HashMap::new();
    for draft in drafts {
        if let Naming::After(harness) = &draft.naming {
            *unnamed.entry(&harness.name).or_default() += 1;
        }
    }
    let mut named: HashMap<Arc<str>, u64> = HashMap::new();
    let base_name = |draft: &Draft<'_>| match &draft.naming {
        Naming::Given(name) => Base::Known(name.clone()),
        Naming::After(harness) => {
            let number = named.entry(Arc::clone(&harness.name)).or_default();
            *number += 1;
            let is_only_one = unnamed.get(&*harness.name) == Some(&1);
            let name = if is_only_one { Name::try_from(&*harness.name) } else { numbered(&harness.name, *number - 1) };
            // An entry whose harness is only guessed uses up a number.
            match name {
                Ok(name) if draft.harness.is_some() => Base::Known(name),
                Ok(name) => Base::Guessed(name),
                Err(InvalidName) => Base::Unknown,
            }
        }
        Naming::Unknown => Base::Unknown,
    };
    drafts.iter().map(base_name).collect()
}

/// As much of a text as can be a name.
fn as_name(text: &str) -> Option<Name> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name: String = text.chars().map(|c| if is_allowed(c) { c } else { '_' }).take(Name::MAX_LENGTH).collect();
    Name::try_from(name).ok()
}

fn numbered(base: &str, number: u64) -> Result<Name, InvalidName> {
    Name::try_from(format!("{base}-{number}").as_str())
}

/// The agents so far, and the names and sessions in use.
#[derive(Default)]
struct Roster {
    entries: Vec<Entry>,
    findings: Vec<Finding>,
    sandbox_expected: Vec<Finding>,
    incomplete: bool,
    /// Whether the warning about agents that never end was given. Once is enough: those who want that have many such entries.
    is_stay_told: bool,
    /// Whether the warning about agents that ask nobody was given.
    is_ask_told: bool,
    /// Entries that do not say which agents they mean.
    unplaced: Vec<Unplaced>,
    /// How many agents are declared, counting those whose name is taken.
    declared: usize,
    /// The bytes that the arguments and variables of all agents take.
    size: usize,
    /// The line at which each name, as a key, was first used.
    names: HashMap<Key, usize>,
    /// The line at which each session was first used.
    sessions: HashMap<Name, usize>,
}

/// An entry that does not say which agents it means, listed so that its author finds it.
struct Unplaced {
    /// How many entries come before it.
    at: usize,
    /// See [`Entry::table`].
    table: usize,
    /// Its name, as far as it can be determined.
    name: Name,
    harness: Option<Arc<Harness>>,
    error: String,
}

impl Roster {
    fn enlist(&mut self, table: usize, mut draft: Draft<'_>, called: Base, places: &Places<'_>, options: &Options) {
        let base = match &called {
            Base::Known(name) => Some(name),
            Base::Guessed(_) | Base::Unknown => None,
        };
        let names = base.and_then(|base| draft.names(base, self.declared));
        let session = draft.session();
        let mut spec = draft.spec(base, options);
        if let Ok(spec) = &spec {
            advice::look_at(&mut draft.fields, spec);
        }
        self.sandbox_expected.extend(advice::sandbox_expected(&draft.fields, options));
        if let Ok(spec) = &spec
            && stays_open(spec)
            && !self.is_stay_told
        {
            self.is_stay_told = true;
            let right = "write `interactive = false` to have it end, or `interactive = true` if this is meant";
            let at = draft.fields.place("harness");
            let name = &spec.harness.name;
            draft.fields.warn(
                at,
                format!("{name} stays at its terminal when it is done with the prompt, and never ends; {right}"),
            );
        }
        if let Ok(spec) = &spec
            && advice::asks_nobody(spec)
            && !self.is_ask_told
        {
            self.is_ask_told = true;
            let right = "write `approval = \"readonly\"`, `\"edits\"` or `\"everything\"`";
            let at = draft.fields.place("harness");
            let name = &spec.harness.name;
            draft.fields.warn(at, format!("{name} asks for permission, and nobody is there to give it; {right}"));
        }
        if let (Ok(declared), Some(names)) = (&spec, &names) {
            let together = size(declared).saturating_mul(names.len());
            if together > MAX_TOGETHER - self.size {
                spec = Err(draft.too_large());
            } else {
                self.size += together;
            }
        }
        let harness = draft.harness.clone();
        let name_at = draft.fields.place("name");
        if names.is_none() {
            let spelled = |key| draft.fields.spelled(key).and_then(|text| as_name(&text));
            let name = match called {
                Base::Known(name) | Base::Guessed(name) => Some(name),
                Base::Unknown => spelled("name").or_else(|| spelled("harness")).or_else(|| as_name("unnamed")),
            };
            // Recorded together with what kept the entry from saying it.
            let error = spec.err().or_else(|| draft.fields.errors()).unwrap_or_default();
            self.unplaced.extend(name.map(|name| Unplaced { at: self.entries.len(), table, name, harness, error }));
            self.findings.extend(draft.fields.into_findings());
            self.incomplete = true;
            return;
        }
        let session_at = if let Session::Given(_) = session { draft.fields.place("session") } else { name_at };
        self.findings.extend(draft.fields.into_findings());
        let names = names.unwrap_or_default();
        self.declared += names.len();
        for name in names {
            if let Err(line) = claim(&mut self.names, name.key(), places.locate(name_at).0) {
                let right = "give each a name of its own, which differs in more than its case";
                let message = format!("duplicate agent name \"{name}\", which the entry at line {line} has; {right}");
                self.findings.push(places.finding(name_at, Severity::Error, message));
                continue;
            }
            let session = match &session {
                Session::LikeAgent => Some(name.clone()),
                Session::Given(session) => Some(session.clone()),
                Session::Unknown => None,
            };
            let mut spec = spec.clone();
            if let Some(session) = session {
                if let Err(line) = claim(&mut self.sessions, session.clone(), places.locate(session_at).0) {
                    let right = "give each a session of its own";
                    let message =
                        format!("duplicate session \"{session}\", which the entry at line {line} has; {right}");
                    let finding = places.finding(session_at, Severity::Error, message);
                    let errors: Vec<_> = spec.err().into_iter().chain([finding.to_string()]).collect();
                    spec = Err(errors.join("\n"));
                    self.findings.push(finding);
                }
                spec = spec.map(|spec| AgentSpec { name: name.clone(), session, ..spec });
            }
            self.entries.push(Entry { name, harness: harness.clone(), table, spec });
        }
    }

    /// Inserts the entries that do not say which agents they mean, in the order of the file.
    ///
    /// If the name of one is taken, a number is appended.
    fn list_unplaced(&mut self) {
        let mut next: HashMap<Key, u64> = HashMap::new();
        let mut listed = Vec::new();
        for Unplaced { at, table, name, harness, error } in std::mem::take(&mut self.unplaced) {
            let number = next.entry(name.key()).or_insert(2);
            let mut candidate = Some(name.clone());
            while let Some(taken) = candidate.take_if(|name| self.names.contains_key(&name.key())) {
                let shorter: String = name.as_str().chars().take(Name::MAX_LENGTH - 8).collect();
                candidate = numbered(&shorter, *number).ok().filter(|candidate| *candidate != taken);
                *number += 1;
            }
            let Some(name) = candidate else { continue };
            self.names.insert(name.key(), 0);
            listed.push((at, Entry { name, harness, table, spec: Err(error) }));
        }
        let mut placed = std::mem::take(&mut self.entries).into_iter();
        let mut count = 0;
        for (at, entry) in listed {
            self.entries.extend(placed.by_ref().take(at - count));
            count = at;
            self.entries.push(entry);
        }
        self.entries.extend(placed);
    }
}

/// The bytes that an agent's arguments and variables take.
fn size(spec: &AgentSpec) -> usize {
    let prompt = match &spec.prompt {
        Some(Prompt::Text(text)) => text.len(),
        Some(Prompt::File(_)) | None => 0,
    };
    let pairs = spec.secrets.iter().chain([&spec.policy.labels]).flatten().flat_map(|(key, value)| [key, value]);
    let texts = spec.command.iter().chain(&spec.args).chain(spec.env.keys()).chain(pairs);
    let packages = spec.packages.iter().map(|package| package.as_str().len());
    let values = spec.env.values().map(|value| value.as_slice().len());
    prompt
        + spec.resume_prompt.len()
        + texts.map(String::len).chain(packages).chain(values).map(|length| length + size_of::<String>()).sum::<usize>()
}

/// Claims something that must be unique; returns the line of its owner if it is taken.
fn claim<K: Eq + Hash>(taken: &mut HashMap<K, usize>, wanted: K, line: usize) -> Result<(), usize> {
    match taken.entry(wanted) {
        hash_map::Entry::Occupied(holder) => Err(*holder.get()),
        hash_map::Entry::Vacant(free) => {
            free.insert(line);
            Ok(())
        }
    }
}
