//! Assembles the desired state: declarations, prompts and secrets become launches.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::agent::approval::Asking;
use crate::agent::changes::Marks;
use crate::agent::conversation::{Line, Resume, SLOT, SessionWords};
use crate::agent::declaration::{Declaration, Desired, DesiredAgent, Missing, WaitingFor};
use crate::agent::fingerprint::Fingerprint;
use crate::agent::harness::hooks::Hooks;
use crate::agent::harness::{Choices, Harness, Session, keys};
use crate::agent::hold::Group;
use crate::agent::launch::Launch;
use crate::agent::program::expanded;
use crate::agent::sandbox::{Home, Network, Sandbox};
use crate::agent::secrets::Secrets;
use crate::agent::seen::{Problem, Seen, SeenPrompt, SeenWorkdir};
use crate::agent::skills::Skill;
use crate::agent::spec::{AgentSpec, Prompt, Workdir};
use crate::agent::user::{AgentUser, UserName};
use crate::config::{Config, Entry};
use crate::inputs::skills;
use crate::inputs::users::{self, Standing, Standings, View, Views};
use crate::state::key::{Key, Marker};
use crate::sys::account::Account;
use crate::sys::exec::MAX_ARGUMENT;
use crate::sys::secret_bytes::SecretBytes;

/// Paths that a user must look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// Prompt files.
    pub prompts: BTreeSet<PathBuf>,
    /// Those of them that are for a sandboxed agent, or where one can write.
    pub guarded: BTreeSet<PathBuf>,
    /// Working directories, and homes.
    pub workdirs: BTreeSet<PathBuf>,
    /// Where harnesses keep what logs them in. The last part of a path may be a pattern.
    pub logins: BTreeSet<PathBuf>,
}

/// The users that entries name beside the default one.
pub fn named_users(config: &Config, default: &Account) -> BTreeSet<UserName> {
    let named = config.entries.iter().filter_map(|entry| other_user(entry, default));
    named.cloned().collect()
}

/// The same, and those `before` who may be named by an entry that cannot be read now: what runs of it was declared before.
pub fn users_to_judge(config: &Config, default: &Account, before: &BTreeSet<UserName>) -> BTreeSet<UserName> {
    let mut named = named_users(config, default);
    if !config.complete || config.entries.iter().any(|entry| entry.spec.is_err()) {
        named.extend(before.iter().cloned());
    }
    named
}

/// The user that an entry names, unless that is the default one.
fn other_user<'a>(entry: &'a Entry, default: &Account) -> Option<&'a UserName> {
    entry.spec.as_ref().ok()?.user.as_ref().filter(|user| !users::is_default(user, default))
}

/// The paths that must be looked at before [`desired`] can decide, by the user who looks; `None` is the default user.
pub fn paths(
    config: &Config,
    folder: &Path,
    default: &Account,
    standings: &Standings,
) -> BTreeMap<Option<UserName>, Paths> {
    let mut all = BTreeMap::from([(None, Paths::default())]);
    let mut writable = BTreeSet::new();
    for entry in &config.entries {
        let Ok(spec) = &entry.spec else { continue };
        let user = other_user(entry, default);
        let account = user.map_or(Some(default), |user| standings.get(user).and_then(Standing::account));
        // Nobody can look for a user that there is not.
        let Some(account) = account else { continue };
        let paths = all.entry(user.cloned()).or_default();
        let (prompt, workdir) = (prompt_path(spec, folder), workdir_path(spec, account));
        if let Some(sandbox) = spec.kind.sandbox() {
            paths.guarded.extend(prompt.clone());
            writable.extend(in_place(sandbox, &account.home).write);
            writable.insert(workdir.clone());
        }
        paths.prompts.extend(prompt);
        paths.workdirs.insert(workdir);
        paths.logins.extend(spec.harness.login_files().iter().map(|file| account.home.join(file)));
        paths.workdirs.extend(user.map(|_| account.home.clone()));
    }
    for Paths { prompts, guarded, .. } in all.values_mut() {
        let is_writable = |path: &&PathBuf| writable.iter().any(|folder| path.starts_with(folder));
        guarded.extend(prompts.iter().filter(is_writable).cloned());
    }
    all
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

/// Where agents are declared and run. Constant for as long as the daemon runs.
#[derive(Clone, Debug)]
pub struct DeclarationContext {
    /// The jcard; relative prompt files are resolved from its folder.
    pub file: PathBuf,
    /// The account of the default user.
    pub account: Account,
    /// The key for fingerprints of launches.
    pub key: Key,
}

/// Assembles the desired state.
pub fn desired(config: &Config, secrets: &Secrets, views: &Views, place: &DeclarationContext) -> Desired {
    let file = place.file.as_path();
    let marker = KnownMarks::of(secrets, &place.key);
    let agent = |entry: &Entry| {
        let spec = entry.spec.as_ref().map_err(|findings| located(file, findings));
        let user = other_user(entry, &place.account);
        let declaration = spec.and_then(|spec| match Runner::of(user, views, place)? {
            Ok(runner) => {
                let found = skills::of_entry(&spec.skills, |path| views.skills.get(path));
                let found = found.map_err(|error| format!("{}: {error}", place.file.display()))?;
                declare(spec, secrets, found, &runner, place, &marker)
            }
            Err(missing) => {
                let launch = Err(Missing(vec![missing]));
                Ok(Declaration { kind: spec.kind.clone(), policy: spec.policy.clone(), launch })
            }
        });
        let harness = entry.harness.as_ref().map(|harness| Arc::clone(&harness.name));
        (entry.name.key(), DesiredAgent { name: entry.name.clone(), harness, user: user.cloned(), declaration })
    };
    Desired {
        agents: config.entries.iter().map(agent).collect(),
        complete: config.complete,
        config_error: config.error().map(|findings| located(file, &findings)),
        config_read: None,
        reading: None,
        unfit: Arc::new(views.unfit().map(|(user, error)| (user.clone(), error.to_owned())).collect()),
        secrets_error: None,
        overrides: None,
        override_dir: None,
        override_error: None,
        secrets: Arc::new(secrets.clone()),
    }
}

/// The folder from which the jcard's relative paths are resolved.
pub fn folder_of(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new("/"))
}

/// Prefixes each line of findings with the file. A line that does not begin with a position stays as it is.
pub fn located(file: &Path, findings: &str) -> String {
    let has_place = |line: &str| line.starts_with(|c: char| c.is_ascii_digit());
    let located = |line: &str| if has_place(line) { format!("{}:{line}", file.display()) } else { line.to_owned() };
    let lines: Vec<String> = findings.lines().map(located).collect();
    lines.join("\n")
}

/// Whom an agent runs as, and what that user sees.
struct Runner<'a> {
    /// `None` is the default user.
    user: Option<AgentUser>,
    account: &'a Account,
    seen: &'a Seen,
}

impl<'a> Runner<'a> {
    /// The outer error is that of the entry. The inner one is what the agent waits for.
    fn of(
        user: Option<&UserName>,
        views: &'a Views,
        place: &'a DeclarationContext,
    ) -> Result<Result<Self, WaitingFor>, String> {
        let Some(name) = user else {
            return Ok(Ok(Self { user: None, account: &place.account, seen: &views.own }));
        };
        match views.others.get(name) {
            Some(View::Of { account, seen }) => {
                Ok(Ok(Self { user: Some(users::identity(name, account)), account, seen }))
            }
            Some(View::Unfit(error)) => Err(format!("{}: the `user` of the entry: {error}", place.file.display())),
            Some(View::Missing(waiting_for)) => Ok(Err(waiting_for.clone())),
            None => Ok(Err(WaitingFor::Unread {})),
        }
    }
}

/// The prompt, if there is one. An error is one of the entry.
fn prompt(
    spec: &AgentSpec,
    folder: &Path,
    seen: &Seen,
    missing: &mut Vec<WaitingFor>,
) -> Result<Option<SecretBytes>, String> {
    let file = match &spec.prompt {
        None => return Ok(None),
        Some(Prompt::Text(text)) => return Ok(Some(SecretBytes::from(text.as_str()))),
        Some(Prompt::File(file)) => file,
    };
    let path = folder.join(file);
    let problem = match seen.prompts.get(&path) {
        Some(SeenPrompt::Text(text)) if !text.as_slice().is_empty() => {
            return match spec.harness.refuses(text.as_slice()) {
                Some(refusal) => Err(format!("{}: {refusal}", path.display())),
                None => Ok(Some(text.clone())),
            };
        }
        Some(SeenPrompt::Text(_)) if spec.interactive == Some(false) => Problem::Empty {},
        Some(SeenPrompt::Text(_)) => return Ok(None),
        Some(SeenPrompt::Refused(why)) => return Err(why.clone()),
        Some(SeenPrompt::Unusable(problem)) => problem.clone(),
        None => seen.unseen(&path),
    };
    missing.push(WaitingFor::PromptFile { path: path.display().to_string(), problem });
    Ok(None)
}

fn declare(
    spec: &AgentSpec,
    secrets: &Secrets,
    skills: Vec<Skill>,
    runner: &Runner<'_>,
    place: &DeclarationContext,
    marker: &KnownMarks,
) -> Result<Declaration, String> {
    let (folder, seen, account) = (folder_of(&place.file), runner.seen, runner.account);
    let mut missing = Vec::new();
    if let Some(user) = &runner.user {
        missing.extend(users::home(&user.name, account, seen));
    }
    let prompt = prompt(spec, folder, seen, &mut missing)?;
    let workdir = workdir_path(spec, account);
    let problem = match seen.workdirs.get(&workdir) {
        Some(SeenWorkdir::Usable) => None,
        Some(SeenWorkdir::Unusable(problem)) => Some(problem.clone()),
        None => Some(seen.unseen(&workdir)),
    };
    let path = || workdir.display().to_string();
    missing.extend(problem.map(|problem| WaitingFor::Workdir { path: path(), problem }));
    let environment = environment(spec, secrets)?.unwrap_or_else(|names| {
        missing.push(WaitingFor::Secrets { names });
        BTreeMap::new()
    });
    let launch = if missing.is_empty() {
        let home = &account.home;
        let (command, args) = (at_home(&spec.command, home), at_home(&spec.args, home));
        let text = prompt.clone();
        let max_cost = spec.policy.max_cost.map(|cost| cost.to_string());
        let session_words =
            session_words(spec, (&command, &args), text.as_ref(), (&workdir, runner.user.as_ref()), marker);
        let choices = Choices { max_cost: max_cost.as_deref(), ..spec.choices() };
        let (arguments, prompt) = spec.harness.command_line(&command, &args, &choices, prompt.as_ref());
        if let Some(length) = prompt.map(|at| arguments[at].as_slice().len()).filter(|&length| length > MAX_ARGUMENT) {
            let right = format!("the kernel takes at most {MAX_ARGUMENT} bytes (128 KiB less one)");
            return Err(format!("the prompt is too long: with its option it has {length} bytes; {right}"));
        }
        let is_secret = |name: &String| {
            let file = spec.secrets.as_ref().map_or(Some(name), |files| files.get(name));
            file.is_some_and(|file| secrets.get(file).is_some()) && !spec.env.contains_key(name)
        };
        let secrets_given = environment.keys().filter(|name| is_secret(name)).cloned().collect();
        let is_elsewhere = |(name, file): &(&String, &String)| name != file && is_secret(name);
        let elsewhere = spec.secrets.iter().flatten().filter(is_elsewhere);
        let mut launch = Launch {
            has_secret_files: spec.secret_files,
            skills_dir: skills_dir(spec).filter(|_| !skills.is_empty()),
            skills,
            secret_sources: elsewhere.map(|(name, file)| (name.clone(), file.clone())).collect(),
            name: spec.name.clone(),
            session: spec.session.clone(),
            user: runner.user.clone(),
            arguments,
            prompt,
            environment,
            secrets: secrets_given,
            workdir,
            umask: spec.umask,
            trust_repository: spec.trust_repository,
            asking: spec.asking.clone(),
            sandbox: spec.kind.sandbox().map(|sandbox| in_place(sandbox, home)),
            packages: spec.packages.clone(),
            packages_timeout: spec.packages_timeout,
            session_words,
            stream: spec.harness.stream().filter(|_| spec.results),
            group: Group::of_login(&spec.harness.name, &account.name),
            hooks: hooks(spec, &args, text.is_some()),
            rules: Arc::clone(spec.harness.rules()),
            fingerprint: Fingerprint::default(),
            marks: Marks::none(),
            is_certain: spec.secrets.is_some() || secrets.is_complete,
        };
        let credential = spec.harness.auth().iter().find_map(|name| Some((name, launch.environment.get(name)?)));
        if let Some((name, value)) = credential {
            launch.group = Group::of_variable(name, marker.marker.mark(name, [value.as_slice()]));
        }
        let changed = spec.harness.changed_variables(spec.interactive, launch.prompt.is_some());
        let mut taken_away = Vec::new();
        for (name, value) in changed {
            if let btree_map::Entry::Vacant(unset) = launch.environment.entry(name) {
                taken_away.extend(value.is_none().then(|| unset.key().clone()));
                unset.insert(SecretBytes::from(value.unwrap_or_default().as_str()));
            }
        }
        launch.fingerprint = marker.marker.fingerprint(&launch);
        launch.marks = marker.marks(spec, &launch, text.as_ref());
        // Those that are taken away are part of the declaration, and of no environment.
        for name in &taken_away {
            launch.environment.remove(name);
        }
        // Afterwards: the variables of a shipped table are not part of the declaration, so that a version of agentd that sets more of
        // them relaunches no agent. What the jcard changes in them is.
        for (name, value) in spec.harness.variables(spec.interactive, launch.prompt.is_some()) {
            launch.environment.entry(name.to_owned()).or_insert_with(|| SecretBytes::from(value));
        }
        Ok(Arc::new(launch))
    } else {
        Err(Missing(missing))
    };
    Ok(Declaration { kind: spec.kind.clone(), policy: spec.policy.clone(), launch })
}

/// Programs that start a harness where agentd is not.
const ELSEWHERE: [&str; 6] = ["docker", "kubectl", "lxc", "nerdctl", "podman", "ssh"];

/// The hooks that the harness is given: only if it stays at its terminal, or asks. Otherwise its output tells what it does.
fn hooks(spec: &AgentSpec, args: &[String], has_prompt: bool) -> Option<Hooks> {
    let kind = spec.harness.hooks()?;
    let stays = spec.harness.stays(spec.interactive, has_prompt);
    let is_free = kind.fits_beside(args) && kind.fits_beside(&spec.command);
    // What starts it elsewhere has no agentd there.
    let first = spec.command.first().map(|word| word.rsplit('/').next().unwrap_or_default());
    let is_here = first.is_some_and(|first| !ELSEWHERE.contains(&first));
    ((stays || spec.asking.is_some()) && is_free && is_here).then_some(Hooks {
        kind,
        at: spec.command.len(),
        has_prompt,
    })
}

/// How the harness learns which conversation it is in, if attempts share one.
fn session_words(
    spec: &AgentSpec,
    (command, args): (&[String], &[String]),
    prompt: Option<&SecretBytes>,
    (workdir, user): (&Path, Option<&AgentUser>),
    marker: &KnownMarks,
) -> Option<Arc<SessionWords>> {
    let harness = &spec.harness;
    if spec.policy.resume == Resume::Never || !harness.has_conversations() {
        return None;
    }
    let max_cost = spec.policy.max_cost.map(|cost| cost.to_string());
    let line = |session, prompt: Option<&SecretBytes>| {
        let choices = Choices { session: Some(session), max_cost: max_cost.as_deref(), ..spec.choices() };
        Line(harness.command_line(command, args, &choices, prompt).0)
    };
    // What was said once is not said again.
    let again = prompt.map(|_| SecretBytes::from(spec.resume_prompt.as_str()));
    let user = user.map(|user| format!("{}:{}", user.name, user.uid)).unwrap_or_default();
    let said = prompt.map(SecretBytes::as_slice).unwrap_or_default();
    let scope = [harness.name.as_bytes(), workdir.as_os_str().as_encoded_bytes(), user.as_bytes(), said];
    Some(Arc::new(SessionWords {
        new: (!harness.session_learned()).then(|| line(Session::New(SLOT), prompt)),
        resume: line(Session::Resume(SLOT), again.as_ref()),
        proof: harness.session_proof().map(str::to_owned),
        scope: marker.marker.scope(scope),
    }))
}

/// The sandbox with paths that begin at the root.
fn in_place(sandbox: &Sandbox, home: &Path) -> Sandbox {
    let absolute = |path: &PathBuf| path.strip_prefix("~").map_or_else(|_| path.clone(), |rest| home.join(rest));
    let all = |paths: &[PathBuf]| paths.iter().map(absolute).collect();
    Sandbox {
        read: all(&sandbox.read),
        write: all(&sandbox.write),
        proxy: sandbox.proxy.as_ref().map(absolute),
        ..sandbox.clone()
    }
}

/// The words, the first of which may begin with the home of the agent user.
fn at_home<'a>(words: &'a [String], home: &Path) -> Cow<'a, [String]> {
    // A home that is no text cannot be in a word of a jcard.
    let first = words.first().and_then(|first| expanded(first, home)?.into_os_string().into_string().ok());
    match first {
        Some(first) => Cow::Owned(std::iter::once(first).chain(words.iter().skip(1).cloned()).collect()),
        None => Cow::Borrowed(words),
    }
}

/// The mark of something that everybody may know, which needs no key (FNV-1a).
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, &byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// That of a preset does not change with the version of agentd.
fn harness_mark(harness: &Harness) -> u32 {
    if harness.is_of_jcard() { checksum(keys::written(harness).as_bytes()) } else { checksum(harness.name.as_bytes()) }
}

/// Makes marks. Those of the secrets are made once for all agents.
struct KnownMarks {
    marker: Marker,
    secrets: BTreeMap<String, u32>,
}

impl KnownMarks {
    fn of(secrets: &Secrets, key: &Key) -> Self {
        let marker = key.marker();
        let mark = |(name, value): (&String, &SecretBytes)| (name.clone(), marker.mark(name, [value.as_slice()]));
        let secrets = secrets.iter().map(mark).collect();
        Self { marker, secrets }
    }

    /// Those of a launch that lacks the variables of its preset, and whose prompt is this text.
    fn marks(&self, spec: &AgentSpec, launch: &Launch, prompt: Option<&SecretBytes>) -> Marks {
        let mut marks = self.marker.begin();
        marks.field("harness", harness_mark(&spec.harness));
        marks.field("interactive", checksum(format!("{:?}", spec.interactive).as_bytes()));
        marks.field("workdir", checksum(launch.workdir.as_os_str().as_encoded_bytes()));
        marks.field("session", checksum(launch.session.as_str().as_bytes()));
        if let Some(user) = &launch.user {
            marks.field("user", checksum(format!("{}:{}", user.name, user.uid).as_bytes()));
        }
        if spec.results {
            marks.field("results", 1);
        }
        if let Some(approval) = spec.approval {
            marks.field("approval", checksum(approval.word().as_bytes()));
        }
        if let Some(Asking { timeout, rules }) = &spec.asking {
            marks.field("approval", checksum(b"ask"));
            marks.field("approval_timeout", checksum(&timeout.as_nanos().to_le_bytes()));
            let rules: Vec<String> =
                rules.iter().map(|rule| format!("{}\0{}\0", rule.pattern, rule.then.word())).collect();
            marks.field("approval_rules", checksum(rules.concat().as_bytes()));
        }
        if let Some(umask) = spec.umask {
            marks.field("umask", umask);
        }
        if spec.secret_files {
            marks.field("secret_files", 1);
        }
        if spec.trust_repository {
            marks.field("trust_repository", 1);
        }
        let mut mark = |name: &str, values: &[&[u8]]| marks.field(name, self.marker.mark(name, values.iter().copied()));
        for (name, words) in [("command", &spec.command), ("args", &spec.args)] {
            // What is empty has no mark.
            if !words.is_empty() {
                mark(name, &words.iter().map(String::as_bytes).collect::<Vec<_>>());
            }
        }
        if let Some(Sandbox { engine, program, read, write, home, seed: _, network, proxy }) = &launch.sandbox {
            let bytes = |path: &'_ PathBuf| path.as_os_str().as_encoded_bytes().to_vec();
            let mut sandbox = vec![engine.name().as_bytes().to_vec()];
            sandbox.extend(program.as_ref().map(bytes));
            let of = |paths: &[PathBuf]| paths.iter().map(bytes).collect::<Vec<_>>();
            // What is as it is by default has no mark: it did not change with the sandbox.
            let word = |word: Option<&str>| word.map(|word| word.as_bytes().to_vec()).into_iter().collect();
            for (name, values) in [
                ("sandbox", sandbox),
                ("sandbox_read", of(read)),
                ("sandbox_write", of(write)),
                ("sandbox_home", word((*home != Home::default()).then_some(home.word()))),
                ("sandbox_proxy", proxy.iter().map(bytes).collect()),
                ("network", word((*network != Network::default()).then_some(network.word()))),
            ] {
                if !values.is_empty() {
                    mark(name, &values.iter().map(Vec::as_slice).collect::<Vec<_>>());
                }
            }
        }
        if !launch.packages.is_empty() {
            let names: Vec<&[u8]> = launch.packages.iter().map(|package| package.as_str().as_bytes()).collect();
            mark("extra_packages", &names);
        }
        if !launch.skills.is_empty() {
            let folders = launch.skills.iter().map(|skill| skill.folder.as_os_str().as_encoded_bytes());
            mark("skills", &folders.collect::<Vec<_>>());
        }
        if let (Some(from), Some(text)) = (&spec.prompt, prompt) {
            let name = if matches!(from, Prompt::File(_)) { "prompt_file" } else { "prompt" };
            mark(name, &[text.as_slice()]);
        }
        for (name, value) in &launch.environment {
            if launch.secrets.contains(name) {
                let is_own = spec.secrets.as_ref().is_none_or(|files| files.get(name) == Some(name));
                let known = self.secrets.get(name).filter(|_| is_own);
                marks.secret(name, known.copied().unwrap_or_else(|| self.marker.mark(name, [value.as_slice()])));
            } else {
                let name = format!("env.{name}");
                marks.field(&name, self.marker.mark(&name, [value.as_slice()]));
            }
        }
        marks.finish()
    }
}

/// Where the harness looks for skills, below the home.
fn skills_dir(spec: &AgentSpec) -> Option<PathBuf> {
    let below = spec.harness.skills_dir()?.strip_prefix("${HOME}/")?;
    let below = PathBuf::from(below);
    below.components().all(|part| matches!(part, Component::Normal(_))).then_some(below)
}

type Environment = BTreeMap<String, SecretBytes>;

/// The secrets, overridden by `env`; or the files of secrets that are missing. The outer error is that of the entry.
fn environment(spec: &AgentSpec, secrets: &Secrets) -> Result<Result<Environment, Vec<String>>, String> {
    let mut environment = BTreeMap::new();
    match &spec.secrets {
        // Files of other names are for the entries that name them.
        None => environment.extend(secrets.variables().map(|(name, value)| (name.clone(), value.clone()))),
        Some(files) => {
            let absent: BTreeSet<&String> = files.values().filter(|file| secrets.get(file).is_none()).collect();
            if !absent.is_empty() {
                return Ok(Err(absent.into_iter().cloned().collect()));
            }
            let given = files.iter().filter_map(|(name, file)| Some((name.clone(), secrets.get(file)?.clone())));
            environment.extend(given);
        }
    }
    environment.extend(spec.env.clone());
    let is_too_large = |(name, value): &(&String, &SecretBytes)| name.len() + 1 + value.as_slice().len() > MAX_ARGUMENT;
    if let Some((name, _)) = environment.iter().find(is_too_large) {
        let right = format!("name and value together may have {MAX_ARGUMENT} bytes");
        return Err(format!("the secret for the variable {name} is too large; {right}"));
    }
    Ok(Ok(environment))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use nix::unistd::{Gid, Uid};
    use rstest::rstest;

    use super::*;
    use crate::agent::name::key;
    use crate::agent::sandbox::Engine;
    use crate::agent::spec::Kind;
    use crate::config::{Options, parse};

    const FILE: &str = "/etc/agentd/jcard.toml";
    const PROMPT_FILE: &str = "/etc/agentd/prompt.md";

    fn account() -> Account {
        Account {
            name: "agent".to_owned(),
            uid: Uid::from_raw(1000),
            gid: Gid::from_raw(1000),
            groups: vec![],
            home: "/home/agent".into(),
            shell: "/bin/sh".into(),
        }
    }

    static KEY: LazyLock<Key> = LazyLock::new(|| Key::ephemeral().unwrap());

    fn place() -> DeclarationContext {
        DeclarationContext { file: FILE.into(), account: account(), key: KEY.clone() }
    }

    fn config(text: &str) -> Config {
        parse(text.as_bytes(), &Options { unsandboxed: true, ..Options::default() }).unwrap()
    }

    /// One agent with workdir `/w` and these lines.
    fn one(lines: &str) -> Config {
        config(&format!("[agent]\nname = \"a\"\nharness = \"custom\"\nworkdir = \"/w\"\n{lines}\n"))
    }

    /// The agent user's view: `/w` and the home exist, and so does this prompt file.
    fn seen(prompt: SeenPrompt) -> Seen {
        Seen {
            prompts: [(PROMPT_FILE.into(), prompt)].into(),
            workdirs: ["/w", "/home/agent", "/home/agent/project"]
                .map(|path| (PathBuf::from(path), SeenWorkdir::Usable))
                .into(),
            ..Seen::default()
        }
    }

    fn text(prompt: &str) -> SeenPrompt {
        SeenPrompt::Text(SecretBytes::from(prompt))
    }

    fn desire(config: &Config, secrets: &[(&str, &str)], seen: &Seen) -> Desired {
        desired(config, &Secrets::of(secrets), &seen.clone().into(), &place())
    }

    fn declaration(config: &Config, secrets: &[(&str, &str)], seen: &Seen) -> Result<Declaration, String> {
        desire(config, secrets, seen).agents.remove(&key("a")).unwrap().declaration
    }

    /// The launch of the only agent; nothing may be missing.
    fn launched(config: &Config, secrets: &[(&str, &str)], prompt: SeenPrompt) -> Arc<Launch> {
        declaration(config, secrets, &seen(prompt)).unwrap().launch.unwrap()
    }

    /// What the only agent waits for.
    fn missing(config: &Config, secrets: &[(&str, &str)], seen: &Seen) -> String {
        declaration(config, secrets, seen).unwrap().launch.unwrap_err().to_string()
    }

    fn words(launch: &Launch) -> Vec<&str> {
        launch.arguments.iter().map(|argument| std::str::from_utf8(argument.as_slice()).unwrap()).collect()
    }

    fn variables(launch: &Launch) -> Vec<(&str, &str)> {
        launch
            .environment
            .iter()
            .map(|(name, value)| (name.as_str(), std::str::from_utf8(value.as_slice()).unwrap()))
            .collect()
    }

    #[rstest]
    #[case("claude-code", &["claude", "-v", "-p", "do it"])]
    #[case("opencode", &["opencode", "-v", "--prompt", "do it"])]
    #[case("gemini-cli", &["gemini", "-v", "do it"])]
    #[case("codex", &["codex", "exec", "--skip-git-repo-check", "-v", "--", "do it"])]
    #[case("custom", &["agent", "-v", "do it"])]
    fn a_harness_gets_words_args_and_prompt_as_it_takes_them(#[case] harness: &str, #[case] expected: &[&str]) {
        let lines = format!("name = \"a\"\nharness = \"{harness}\"\nworkdir = \"/w\"\nargs = [\"-v\"]\n");
        let launch = launched(&config(&format!("[agent]\n{lines}prompt = \"do it\"\n")), &[], text(""));
        assert_eq!(words(&launch), expected);
        assert_eq!(launch.prompt, Some(expected.len() - 1));
        let interactive = launched(&config(&format!("[agent]\n{lines}")), &[], text(""));
        let (words, prompt) = (words(&interactive), interactive.prompt);
        assert_eq!((words[0], words[words.len() - 1], prompt), (expected[0], "-v", None));
    }

    #[rstest]
    #[case("command = \"my agent\"", &["my agent", "x", "p"])]
    #[case("command = [\"nice\", \"-n\", \"5\", \"agent\"]", &["nice", "-n", "5", "agent", "x", "p"])]
    fn a_command_replaces_the_binary(#[case] command: &str, #[case] expected: &[&str]) {
        let config = one(&format!("{command}\nargs = [\"x\"]\nprompt = \"p\""));
        assert_eq!(words(&launched(&config, &[], text(""))), expected);
    }

    #[rstest]
    #[case("  two\n\nlines \n")]
    #[case("-p --help")]
    #[case("$(touch x) `y` \"z\" 'w' \\ ; #{pane_id} %s")]
    #[case("schön \u{1f600} \u{1}\u{7f}")]
    fn a_prompt_is_one_argument_byte_for_byte(#[case] prompt: &str) {
        let mut config = one("args = [\"x\"]");
        config.entries[0].spec.as_mut().unwrap().prompt = Some(Prompt::Text(prompt.to_owned()));
        assert_eq!(words(&launched(&config, &[], text("other"))), ["agent", "x", prompt]);
    }

    #[rstest]
    #[case("prompt_file = \"prompt.md\"")]
    #[case("prompt_file = \"/etc/agentd/prompt.md\"")]
    #[case("prompt = \"not this\"\nprompt_file = \"prompt.md\"")]
    fn a_prompt_file_is_relative_to_the_jcard_and_wins(#[case] lines: &str) {
        assert_eq!(words(&launched(&one(lines), &[], text("from the file"))), ["agent", "from the file"]);
    }

    #[test]
    fn a_prompt_file_need_not_be_text() {
        let prompt = SeenPrompt::Text(SecretBytes::from(b"caf\xe9".to_vec()));
        let launch = launched(&one("prompt_file = \"prompt.md\""), &[], prompt);
        assert_eq!(launch.arguments[1].as_slice(), b"caf\xe9");
    }

    #[test]
    fn an_empty_prompt_file_is_interactive_also_beside_a_prompt() {
        let config = one("prompt = \"not this\"\nprompt_file = \"prompt.md\"");
        let launch = launched(&config, &[], text(""));
        assert_eq!((words(&launch), launch.prompt), (vec!["agent"], None));
    }

    #[rstest]
    #[case(SeenPrompt::Unusable(Problem::Absent {}), "the prompt_file /etc/agentd/prompt.md does not exist")]
    #[case(SeenPrompt::Unusable(Problem::NotAFile {}), "the prompt_file /etc/agentd/prompt.md is not a regular file")]
    fn an_agent_waits_for_a_prompt_file_without_a_prompt(#[case] prompt: SeenPrompt, #[case] expected: &str) {
        assert_eq!(missing(&one("prompt_file = \"prompt.md\""), &[], &seen(prompt)), expected);
    }

    #[test]
    fn content_of_a_prompt_file_is_only_taken_for_a_prompt() {
        let of = |harness: &str| {
            config(&format!(
                "[agent]\nname = \"a\"\nharness = \"{harness}\"\nworkdir = \"/w\"\nprompt_file = \"prompt.md\"\n"
            ))
        };
        let matter = "---\ntitle: x\n---\nfix it";
        let launch = launched(&of("gemini-cli"), &[], text(matter));
        assert_eq!((words(&launch), launch.prompt), (vec!["gemini", &format!("--prompt={matter}")], Some(1)));
        let error = declaration(&of("codex"), &[], &seen(text("-"))).unwrap_err();
        assert!(error.starts_with("/etc/agentd/prompt.md: codex takes the prompt for an order"), "{error}");
    }

    #[test]
    fn an_agent_that_must_end_waits_for_an_empty_prompt_file() {
        let config = config(
            "[agent]\nname = \"a\"\nharness = \"codex\"\nworkdir = \"/w\"\nprompt_file = \"prompt.md\"\ninteractive = false\n",
        );
        assert_eq!(missing(&config, &[], &seen(text(""))), "the prompt_file /etc/agentd/prompt.md is empty");
    }

    #[test]
    fn a_prompt_too_long_with_its_option_is_an_error_of_the_entry() {
        let config =
            config("[agent]\nname = \"a\"\nharness = \"gemini-cli\"\nworkdir = \"/w\"\nprompt_file = \"prompt.md\"\n");
        let long = "-".repeat(MAX_ARGUMENT);
        let error = declaration(&config, &[], &seen(text(&long))).unwrap_err();
        assert!(error.starts_with("the prompt is too long: with its option it has 131080 bytes; "), "{error}");
    }

    #[test]
    fn variables_of_a_shipped_table_are_overridable_and_not_fingerprinted() {
        let of = |lines: &str| {
            let config = format!("[agent]\nname = \"a\"\nharness = \"gemini-cli\"\nworkdir = \"/w\"\n{lines}\n");
            launched(&self::config(&config), &[], text(""))
        };
        let (plain, declared) = (of(""), of("env = { GEMINI_CLI_TRUST_WORKSPACE = \"false\" }"));
        assert_eq!(variables(&plain), [("GEMINI_CLI_TRUST_WORKSPACE", "true")]);
        assert_eq!(variables(&declared), [("GEMINI_CLI_TRUST_WORKSPACE", "false")]);
        let bare = Launch { environment: BTreeMap::new(), ..(*plain).clone() };
        assert_eq!(KEY.fingerprint(&bare), plain.fingerprint);
        assert_ne!(plain.fingerprint, declared.fingerprint);
    }

    #[test]
    fn variables_that_the_jcard_gives_a_harness_are_fingerprinted() {
        let of = |table: &str| {
            let config = format!("[agent]\nname = \"a\"\nharness = \"gemini-cli\"\nworkdir = \"/w\"\n{table}\n");
            launched(&self::config(&config), &[], text(""))
        };
        let plain = of("");
        let same = of("[harnesses.gemini-cli]\nvariables = { GEMINI_CLI_TRUST_WORKSPACE = \"true\" }");
        assert_eq!(plain.fingerprint, same.fingerprint);
        let changed = [
            "{ GEMINI_CLI_TRUST_WORKSPACE = \"false\" }",
            "{ GEMINI_CLI_TRUST_WORKSPACE = \"true\", B = \"b\" }",
            "{}",
        ];
        let launches = changed.map(|variables| of(&format!("[harnesses.gemini-cli]\nvariables = {variables}")));
        assert_eq!(variables(&launches[0]), [("GEMINI_CLI_TRUST_WORKSPACE", "false")]);
        assert_eq!(variables(&launches[1]), [("B", "b"), ("GEMINI_CLI_TRUST_WORKSPACE", "true")]);
        assert_eq!(variables(&launches[2]), []);
        for (at, launch) in launches.iter().enumerate() {
            assert_ne!(launch.fingerprint, plain.fingerprint, "{}", changed[at]);
            assert!(launches[..at].iter().all(|other| other.fingerprint != launch.fingerprint), "{}", changed[at]);
        }
    }

    #[test]
    fn a_prompt_that_no_argument_can_hold_is_an_error_of_the_entry() {
        let refused = SeenPrompt::Refused("the prompt in p is too long".into());
        let declaration = declaration(&one("prompt_file = \"prompt.md\""), &[], &seen(refused));
        assert_eq!(declaration.unwrap_err(), "the prompt in p is too long");
    }

    const SECRETS: &[(&str, &str)] = &[("KEY", "k"), ("TOKEN", "t")];

    #[rstest]
    #[case::all("", &[("KEY", "k"), ("TOKEN", "t")])]
    #[case::listed("secrets = [\"TOKEN\"]", &[("TOKEN", "t")])]
    #[case::none_listed("secrets = []", &[])]
    #[case::env_over_secrets("env = { KEY = \"mine\", MORE = \"m\" }", &[("KEY", "mine"), ("MORE", "m"), ("TOKEN", "t")])]
    #[case::env_empty_over_secrets("env = { KEY = \"\" }", &[("KEY", ""), ("TOKEN", "t")])]
    #[case::env_of_a_secret_that_is_not_listed("secrets = [\"TOKEN\"]\nenv = { KEY = \"mine\" }", &[("KEY", "mine"), ("TOKEN", "t")])]
    fn the_environment_is_secrets_and_env_over_them(#[case] lines: &str, #[case] expected: &[(&str, &str)]) {
        assert_eq!(variables(&launched(&one(lines), SECRETS, text(""))), expected);
    }

    #[rstest]
    #[case("secrets = [\"KEY\", \"A\"]", "the secret A is not in the secrets directory")]
    #[case("secrets = [\"B\", \"KEY\", \"A\"]", "the secrets A, B are not in the secrets directory")]
    #[case("secrets = [\"A\"]\nenv = { A = \"mine\" }", "the secret A is not in the secrets directory")]
    fn an_agent_waits_for_a_listed_secret_that_is_absent(#[case] lines: &str, #[case] expected: &str) {
        assert_eq!(missing(&one(lines), SECRETS, &seen(text(""))), expected);
    }

    #[rstest]
    #[case("/w", "/w")]
    #[case("~", "/home/agent")]
    #[case("~/project", "/home/agent/project")]
    #[case("~//project", "/home/agent/project")]
    fn a_workdir_is_absolute_or_below_the_home(#[case] workdir: &str, #[case] expected: &str) {
        let config = config(&format!("[agent]\nname = \"a\"\nharness = \"custom\"\nworkdir = \"{workdir}\"\n"));
        assert_eq!(launched(&config, &[], text("")).workdir, Path::new(expected));
    }

    #[test]
    fn everything_that_is_missing_is_named() {
        let mut seen = seen(SeenPrompt::Unusable(Problem::Absent {}));
        let detail = "cannot be entered by the agent user: Permission denied".to_owned();
        seen.workdirs.insert("/w".into(), SeenWorkdir::Unusable(Problem::Inaccessible { detail }));
        let config = one("prompt_file = \"prompt.md\"\nsecrets = [\"A\"]");
        assert_eq!(
            missing(&config, &[], &seen),
            "the prompt_file /etc/agentd/prompt.md does not exist; \
             the workdir /w cannot be entered by the agent user: Permission denied; \
             the secret A is not in the secrets directory"
        );
    }

    #[test]
    fn an_agent_waits_for_paths_not_looked_at() {
        let missing = missing(&one("prompt_file = \"prompt.md\""), &[], &Seen::default());
        assert_eq!(missing, "the prompt_file /etc/agentd/prompt.md does not exist; the workdir /w does not exist");
    }

    #[test]
    fn the_paths_to_look_at_are_those_of_good_entries() {
        let config = config(
            "[agent]\nharness = \"codex\"\nprompt_file = \"prompt.md\"\nworkdir = \"~/project\"\n\
             [[agents]]\nharness = \"opencode\"\nprompt = \"p\"\n\
             [[agents]]\nharness = \"custom\"\nworkdir = \"/bad\"\nprompt_file = \"bad.md\"\nrestart = \"maybe\"\n",
        );
        let mut all = paths(&config, folder_of(Path::new(FILE)), &account(), &Standings::new());
        let Paths { prompts, guarded, workdirs, .. } = all.remove(&None).unwrap();
        assert!(all.is_empty() && guarded.is_empty());
        assert_eq!(prompts, [PROMPT_FILE.into()].into());
        assert_eq!(workdirs, ["/home/agent/project".into(), "/home/agent/workspace".into()].into());
    }

    #[test]
    fn prompts_that_a_sandboxed_agent_can_replace_are_guarded() {
        let text = "[[agents]]\nname = \"a\"\nharness = \"codex\"\nprompt_file = \"own.md\"\nworkdir = \"~/a\"\nsandbox = \"bwrap\"\n\
             sandbox_write = [\"~/out\"]\n\
             [[agents]]\nharness = \"codex\"\nprompt_file = \"/home/agent/a/b.md\"\nname = \"b\"\n\
             [[agents]]\nharness = \"codex\"\nprompt_file = \"/home/agent/out/c.md\"\nname = \"c\"\n\
             [[agents]]\nharness = \"codex\"\nprompt_file = \"/home/agent/d.md\"\nname = \"d\"\n";
        let config = parse(text.as_bytes(), &Options::default()).unwrap();
        let all = paths(&config, Path::new("/j"), &account(), &Standings::new());
        let expected = ["/j/own.md", "/home/agent/a/b.md", "/home/agent/out/c.md"];
        assert_eq!(all[&None].guarded, expected.map(PathBuf::from).into());
    }

    #[rstest]
    #[case("", "", "")]
    #[case("command = \"b\"", "", "command")]
    #[case("args = [\"b\"]", "", "args")]
    #[case("session = \"b\"", "", "session")]
    #[case("prompt = \"b\"", "prompt = \"c\"", "prompt")]
    #[case("prompt = \"b\"", "prompt_file = \"prompt.md\"", "prompt prompt_file")]
    #[case("env = { B = \"b\", C = \"c\" }", "env = { B = \"c\", D = \"c\" }", "env.B env.C env.D")]
    #[case("env = { KEY = \"b\" }", "", "env.KEY|KEY")]
    #[case("umask = \"0002\"", "", "umask")]
    #[case("umask = \"0002\"", "umask = \"0077\"", "umask")]
    #[case("trust_repository = true", "trust_repository = false", "trust_repository")]
    #[case("secrets = [\"KEY\"]", "", "|TOKEN")]
    fn marks_name_what_differs(#[case] before: &str, #[case] after: &str, #[case] expected: &str) {
        let of = |lines| launched(&one(lines), SECRETS, text("from the file")).marks.clone();
        let changes = of(before).changes_to(&of(after)).unwrap();
        let told = [changes.fields.join(" "), changes.secrets.join(" ")].join("|");
        assert_eq!(told.trim_end_matches('|'), expected);
    }

    #[rstest]
    #[case("", "", "")]
    #[case("", "sandbox = \"crun\"", "sandbox")]
    #[case("sandbox_read = [\"/a\"]", "sandbox_read = [\"/b\"]", "sandbox_read")]
    #[case("sandbox_write = [\"/a\"]", "", "sandbox_write")]
    #[case("sandbox_home = \"fresh\"", "sandbox_home = \"kept\"", "sandbox_home")]
    #[case("network = \"none\"", "network = \"host\"", "network")]
    #[case(
        "network = \"none\"\nsandbox_proxy = \"unix:/run/o\"",
        "network = \"none\"\nsandbox_proxy = \"unix:/run/p\"",
        "sandbox_proxy"
    )]
    fn marks_of_a_sandbox_name_what_differs(#[case] before: &str, #[case] after: &str, #[case] expected: &str) {
        let of = |lines| {
            let text = format!(
                "[agent]\nname = \"a\"\nharness = \"custom\"\nworkdir = \"/w\"\ntype = \"sandboxed\"\n{lines}\n"
            );
            let config = parse(text.as_bytes(), &Options::default()).unwrap();
            launched(&config, SECRETS, self::text("from the file")).marks.clone()
        };
        assert_eq!(of(before).changes_to(&of(after)).unwrap().fields.join(" "), expected);
    }

    #[test]
    fn a_changed_secret_is_named_and_nothing_can_be_guessed_from_its_mark() {
        let of = |value: &str| launched(&one(""), &[("KEY", value), ("TOKEN", "t")], text("")).marks.clone();
        let changes = of("k").changes_to(&of("l")).unwrap();
        assert_eq!((changes.fields.len(), changes.secrets), (0, vec!["KEY".to_owned()]));
        let recorded: String = serde_json::from_str(&serde_json::to_string(&of("k")).unwrap()).unwrap();
        let secrets: Vec<usize> =
            recorded.lines().filter_map(|line| Some(line.strip_prefix("secret.")?.rsplit_once('=')?.1.len())).collect();
        assert_eq!(secrets, [4, 4], "16 bits each: {recorded}");
    }

    #[test]
    fn a_leading_tilde_in_command_and_first_argument_is_the_home() {
        let launch = launched(&one("command = \"~/bin/x\"\nargs = [\"~/y\", \"~/z\"]"), &[], text(""));
        assert_eq!(words(&launch), ["/home/agent/bin/x", "/home/agent/y", "~/z"]);
        let launch = launched(&one("command = [\"sh\", \"~/y\"]\nargs = [\"a~/b\"]"), &[], text(""));
        assert_eq!(words(&launch), ["sh", "~/y", "a~/b"]);
    }

    #[test]
    fn the_same_inputs_give_the_same_launch() {
        let config = one("prompt_file = \"prompt.md\"\nenv = { B = \"2\", A = \"1\" }\nrestart = \"always\"");
        let first = desire(&config, &[("X", "1"), ("Y", "2")], &seen(text("p")));
        assert_eq!(desire(&config, &[("Y", "2"), ("X", "1")], &seen(text("p"))), first);
    }

    #[rstest]
    #[case("restart = \"always\"")]
    #[case("max_restarts = 3")]
    #[case("timeout = \"1h\"")]
    #[case("grace_period = \"5s\"")]
    #[case("backoff = [\"1s\", \"5s\"]\nbackoff_reset = \"10m\"")]
    #[case("type = \"sandboxed\"")]
    fn policy_is_not_part_of_the_launch(#[case] lines: &str) {
        let (before, after) = (one(""), one(lines));
        let of = |config| declaration(config, SECRETS, &seen(text(""))).unwrap();
        assert_ne!(of(&before), of(&after));
        assert_eq!(of(&before).launch, of(&after).launch);
    }

    #[rstest]
    #[case::command("command = \"b\"", SECRETS, "p")]
    #[case::args("args = [\"b\"]", SECRETS, "p")]
    #[case::prompt("", SECRETS, "b")]
    #[case::session("session = \"b\"", SECRETS, "p")]
    #[case::umask("umask = \"0002\"", SECRETS, "p")]
    #[case::trust("trust_repository = true", SECRETS, "p")]
    #[case::env("env = { B = \"b\" }", SECRETS, "p")]
    #[case::env_of_a_secret("env = { KEY = \"b\" }", SECRETS, "p")]
    #[case::secret_changed("", &[("KEY", "k"), ("TOKEN", "b")], "p")]
    #[case::secret_added("", &[("KEY", "k"), ("TOKEN", "t"), ("B", "b")], "p")]
    #[case::secret_removed("", &[("KEY", "k")], "p")]
    fn every_launch_field_is_part_of_the_launch(
        #[case] lines: &str,
        #[case] secrets: &[(&str, &str)],
        #[case] prompt: &str,
    ) {
        let of = |lines: &str, secrets, prompt| {
            launched(&one(&format!("prompt_file = \"prompt.md\"\n{lines}")), secrets, text(prompt))
        };
        assert_ne!(of(lines, secrets, prompt), of("", SECRETS, "p"));
    }

    /// The views of a user with this uid, who sees these directories, and of the default user, who sees nothing.
    fn views_of(uid: u32, workdirs: &[&str]) -> Views {
        let account = Account { name: "b".to_owned(), uid: Uid::from_raw(uid), home: "/home/b".into(), ..account() };
        let workdirs = workdirs.iter().map(|path| (PathBuf::from(path), SeenWorkdir::Usable)).collect();
        let view = View::Of { account, seen: Seen { workdirs, ..Seen::default() } };
        Views { others: [("b".parse().unwrap(), view)].into(), ..Views::default() }
    }

    fn as_b(lines: &str) -> Config {
        config(&format!("[agent]\nname = \"a\"\nharness = \"custom\"\nuser = \"b\"\n{lines}\n"))
    }

    fn declared_as_b(lines: &str, views: &Views) -> Result<Declaration, String> {
        desired(&as_b(lines), &Secrets::of(&[]), views, &place()).agents.remove(&key("a")).unwrap().declaration
    }

    #[test]
    fn an_agent_runs_in_the_home_and_with_the_eyes_of_its_user() {
        let views = views_of(1001, &["/home/b", "/home/b/workspace"]);
        let launch = declared_as_b("command = \"~/x\"", &views).unwrap().launch.unwrap();
        assert_eq!((launch.workdir.as_path(), words(&launch)), (Path::new("/home/b/workspace"), vec!["/home/b/x"]));
        assert_eq!(launch.user, Some(AgentUser { name: "b".parse().unwrap(), uid: 1001 }));
        let again =
            |uid| declared_as_b("command = \"~/x\"", &views_of(uid, &["/home/b", "/home/b/workspace"])).unwrap().launch;
        assert_ne!(again(1002).unwrap().fingerprint, launch.fingerprint);
        assert_eq!(again(1001).unwrap().fingerprint, launch.fingerprint);
    }

    #[test]
    fn a_missing_home_or_user_is_waited_for_and_an_unfit_one_is_an_error() {
        let waits = |views: &Views| declared_as_b("workdir = \"/w\"", views).unwrap().launch.unwrap_err().to_string();
        assert_eq!(waits(&views_of(1001, &["/w"])), "the home /home/b of user b does not exist");
        let gone = WaitingFor::User { user: "b".to_owned(), problem: Problem::Absent {} };
        let with = |view| Views { others: [("b".parse().unwrap(), view)].into(), ..Views::default() };
        assert_eq!(waits(&with(View::Missing(gone))), "there is no user b any more");
        let error = declared_as_b("", &with(View::Unfit("b is root; no".to_owned()))).unwrap_err();
        assert_eq!(error, "/etc/agentd/jcard.toml: the `user` of the entry: b is root; no");
    }

    #[test]
    fn each_user_looks_at_the_paths_of_its_own_entries() {
        let text = "[[agents]]\nname = \"a\"\nharness = \"custom\"\nworkdir = \"~/x\"\n\
                    [[agents]]\nname = \"b\"\nharness = \"custom\"\nuser = \"b\"\nprompt_file = \"p\"\n\
                    [[agents]]\nname = \"c\"\nharness = \"custom\"\nuser = \"c\"\n\
                    [[agents]]\nname = \"d\"\nharness = \"custom\"\nuser = \"agent\"\nworkdir = \"/d\"\n";
        let config = config(text);
        let user = |name: &str| -> UserName { name.parse().unwrap() };
        assert_eq!(named_users(&config, &account()), [user("b"), user("c")].into());
        let fit = Account { name: "b".to_owned(), home: "/home/b".into(), ..account() };
        let standings = [
            (user("b"), Standing::Fit { account: fit, dangers: Vec::new() }),
            (user("c"), Standing::Unfit("no".to_owned())),
        ];
        let all = paths(&config, Path::new("/etc/agentd"), &account(), &standings.into());
        let shown = |paths: &BTreeSet<PathBuf>| -> Vec<String> {
            paths.iter().map(|path| path.display().to_string()).collect()
        };
        let [own, b] = [None, Some(user("b"))].map(|user| &all[&user]);
        assert_eq!((all.len(), shown(&own.prompts)), (2, Vec::new()));
        assert_eq!(shown(&own.workdirs), ["/d", "/home/agent/x"]);
        assert_eq!(shown(&b.prompts), ["/etc/agentd/p"]);
        assert_eq!(shown(&b.workdirs), ["/home/b", "/home/b/workspace"]);
    }

    #[test]
    fn the_default_user_by_name_gives_the_same_launch() {
        let launch = |lines: &str| launched(&one(lines), SECRETS, text(""));
        let named = launch("user = \"agent\"");
        assert_eq!((named.user.clone(), named), (None, launch("")));
    }

    #[test]
    fn the_workdir_is_part_of_the_launch() {
        let elsewhere = config("[agent]\nname = \"a\"\nharness = \"custom\"\nworkdir = \"~\"\n");
        assert_ne!(launched(&elsewhere, SECRETS, text("")), launched(&one(""), SECRETS, text("")));
    }

    #[test]
    fn a_secret_that_is_not_listed_is_not_part_of_the_launch() {
        let config = one("secrets = [\"KEY\"]");
        let of = |secrets| launched(&config, secrets, text(""));
        assert_eq!(of(&[("KEY", "k")]), of(&[("KEY", "k"), ("TOKEN", "t")]));
    }

    #[test]
    fn replicas_differ_in_name_and_session_only() {
        let config = one("replicas = 2\nprompt = \"p\"");
        let desired = desire(&config, SECRETS, &seen(text("")));
        let launches: Vec<_> =
            desired.agents.into_values().map(|agent| agent.declaration.unwrap().launch.unwrap()).collect();
        assert_eq!(launches.iter().map(|launch| launch.session.as_str()).collect::<Vec<_>>(), ["a-0", "a-1"]);
        let renamed =
            Launch { name: launches[0].name.clone(), session: launches[0].session.clone(), ..(*launches[1]).clone() };
        assert_eq!(KEY.fingerprint(&renamed), launches[0].fingerprint);
    }

    #[test]
    fn a_wrong_entry_is_located_and_the_others_stand() {
        let config = config(
            "[[agents]]\nname = \"Bad\"\nharness = \"codex\"\nrestart = \"maybe\"\ntimeout = -1\n\
             [[agents]]\nname = \"a\"\nharness = \"custom\"\nworkdir = \"/w\"\n",
        );
        let desired = desire(&config, &[], &seen(text("")));
        assert!(desired.complete && desired.secrets_error.is_none());
        assert!(desired.agents[&key("a")].declaration.is_ok());
        let bad = &desired.agents[&key("bad")];
        assert_eq!((bad.name.as_str(), bad.harness.as_deref()), ("Bad", Some("codex")));
        let error = bad.declaration.as_ref().unwrap_err();
        let places: Vec<&str> = error.lines().map(|line| line.split(": ").next().unwrap()).collect();
        assert_eq!(places, ["/etc/agentd/jcard.toml:4:11", "/etc/agentd/jcard.toml:5:11"]);
        assert_eq!(desired.config_error.as_ref(), Some(error));
    }

    /// The command lines that begin a conversation and resume it.
    fn session_lines(launch: &Launch) -> (String, String) {
        let words = launch.session_words.as_deref().unwrap();
        let told = |line: &Line| {
            let words: Vec<String> =
                line.0.iter().map(|word| String::from_utf8_lossy(word.as_slice()).replace(SLOT, "SESSION")).collect();
            words.join(" ")
        };
        (words.new.as_ref().map(told).unwrap_or_default(), told(&words.resume))
    }

    #[test]
    fn a_conversation_takes_away_no_other_words() {
        let text = "[agent]\nname = \"a\"\nharness = \"claude-code\"\nworkdir = \"/w\"\nargs = [\"-v\"]\nprompt = \"do it\"\nresume = \"always\"\n\
                    resume_prompt = \"go on\"\napproval = \"everything\"\nresults = true\nmax_cost = 2.5\n";
        let launch = launched(&config(text), &[], SeenPrompt::Text(SecretBytes::from("unused")));
        let options =
            "claude --output-format stream-json --verbose --max-budget-usd 2.50 --dangerously-skip-permissions -v";
        let new = format!("{options} --session-id SESSION -p do it");
        assert_eq!(session_lines(&launch), (new, format!("{options} --resume SESSION -p go on")));
    }

    #[rstest]
    #[case(
        "claude-code",
        "",
        "claude -v --session-id SESSION -p do it",
        "claude -v --resume SESSION -p Continue where you left off."
    )]
    #[case(
        "claude-code",
        "resume_prompt = \"- go on\"",
        "claude -v --session-id SESSION -p do it",
        "claude -v --resume SESSION -p -- - go on"
    )]
    #[case("codex", "", "", "codex exec --skip-git-repo-check -v resume SESSION -- Continue where you left off.")]
    fn a_conversation_has_command_lines_of_its_own(
        #[case] harness: &str,
        #[case] more: &str,
        #[case] new: &str,
        #[case] resume: &str,
    ) {
        let of = |more: &str| {
            let entry = "workdir = \"/w\"\nargs = [\"-v\"]\nprompt = \"do it\"";
            let text = format!("[agent]\nname = \"a\"\nharness = \"{harness}\"\n{entry}\n{more}\n");
            launched(&config(&text), &[], SeenPrompt::Text(SecretBytes::from("unused")))
        };
        let shared = of(&format!("resume = \"always\"\n{more}"));
        assert_eq!(session_lines(&shared), (new.into(), resume.into()));
        let alone = of("");
        assert_eq!((&alone.session_words, &alone.arguments), (&None, &shared.arguments));
        assert!(alone.fingerprint.differs_from(&shared.fingerprint));
        let other = of("resume = \"restart\"\nresume_prompt = \"Go on.\"");
        assert_eq!(other.fingerprint, shared.fingerprint, "nothing is launched again for it");
    }

    #[test]
    fn an_unsandboxed_agent_says_so() {
        let declaration = declaration(&one("type = \"sandboxed\""), &[], &seen(text(""))).unwrap();
        let words = declaration.kind.in_words();
        assert_eq!((declaration.kind, words), (Kind::Unsandboxed, "native (unsandboxed)"));
        for kind in [Kind::Native, Kind::Unsandboxed] {
            assert_eq!(Kind::from_words(kind.in_words(), None), kind);
        }
        assert_eq!(Kind::from_words("sandboxed", Some(Engine::Crun)).sandbox().unwrap().engine, Engine::Crun);
    }

    #[rstest]
    #[case("", "")]
    #[case("1:2: wrong", "/j.toml:1:2: wrong")]
    #[case("1:2: wrong\n3:4: also", "/j.toml:1:2: wrong\n/j.toml:3:4: also")]
    fn findings_are_located_line_by_line(#[case] findings: &str, #[case] expected: &str) {
        assert_eq!(located(Path::new("/j.toml"), findings), expected);
    }

    #[rstest]
    #[case("/etc/stereos/jcard.toml", "/etc/stereos")]
    #[case("/jcard.toml", "/")]
    #[case("jcard.toml", "")]
    fn relative_paths_are_resolved_from_the_jcards_folder(#[case] file: &str, #[case] folder: &str) {
        assert_eq!(folder_of(Path::new(file)), Path::new(folder));
    }
}
