//! Assembles the desired state: declarations, prompts and secrets become launches.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::agent::changes::Marks;
use crate::agent::declaration::{Declaration, Desired, DesiredAgent, Missing, WaitingFor};
use crate::agent::fingerprint::Fingerprint;
use crate::agent::launch::Launch;
use crate::agent::program::expanded;
use crate::agent::secrets::Secrets;
use crate::agent::seen::{Problem, Seen, SeenPrompt, SeenWorkdir};
use crate::agent::spec::{AgentSpec, Prompt, Workdir};
use crate::config::{Config, Entry};
use crate::state::key::{Key, Marker};
use crate::sys::account::Account;
use crate::sys::exec::MAX_ARGUMENT;
use crate::sys::secret_bytes::SecretBytes;

/// The paths that must be looked at before [`desired`] can decide.
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

/// Where agents are declared and run. Constant for as long as the daemon runs.
#[derive(Clone, Debug)]
pub struct DeclarationContext {
    /// The jcard; relative prompt files are resolved from its folder.
    pub file: PathBuf,
    /// The account that agents run as.
    pub account: Account,
    /// The key for fingerprints of launches.
    pub key: Key,
}

/// Assembles the desired state.
pub fn desired(config: &Config, secrets: &Secrets, seen: &Seen, place: &DeclarationContext) -> Desired {
    let file = place.file.as_path();
    let marker = KnownMarks::of(secrets, &place.key);
    let agent = |entry: &Entry| {
        let spec = entry.spec.as_ref().map_err(|findings| located(file, findings));
        let declaration = spec.and_then(|spec| declare(spec, secrets, seen, place, &marker));
        let harness = entry.harness.map(|harness| harness.name);
        (entry.name.key(), DesiredAgent { name: entry.name.clone(), harness, declaration })
    };
    Desired {
        agents: config.entries.iter().map(agent).collect(),
        complete: config.complete,
        config_error: config.error().map(|findings| located(file, &findings)),
        config_read: None,
        reading: None,
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

fn declare(
    spec: &AgentSpec,
    secrets: &Secrets,
    seen: &Seen,
    place: &DeclarationContext,
    marker: &KnownMarks,
) -> Result<Declaration, String> {
    let folder = folder_of(&place.file);
    let mut missing = Vec::new();
    let prompt = match &spec.prompt {
        None => None,
        Some(Prompt::Text(text)) => Some(SecretBytes::from(text.as_str())),
        Some(Prompt::File(file)) => {
            let path = folder.join(file);
            let mut lacks = |problem| {
                missing.push(WaitingFor::PromptFile { path: path.display().to_string(), problem });
                None
            };
            match seen.prompts.get(&path) {
                Some(SeenPrompt::Text(text)) if !text.as_slice().is_empty() => {
                    if let Some(refusal) = spec.harness.refuses(text.as_slice()) {
                        return Err(format!("{}: {refusal}", path.display()));
                    }
                    Some(text.clone())
                }
                Some(SeenPrompt::Text(_)) if spec.interactive == Some(false) => lacks(Problem::Empty {}),
                Some(SeenPrompt::Text(_)) => None,
                Some(SeenPrompt::Refused(why)) => return Err(why.clone()),
                Some(SeenPrompt::Unusable(problem)) => lacks(problem.clone()),
                None => lacks(seen.unseen(&path)),
            }
        }
    };
    let workdir = workdir_path(spec, &place.account);
    let problem = match seen.workdirs.get(&workdir) {
        Some(SeenWorkdir::Usable) => None,
        Some(SeenWorkdir::Unusable(problem)) => Some(problem.clone()),
        None => Some(seen.unseen(&workdir)),
    };
    let path = || workdir.display().to_string();
    missing.extend(problem.map(|problem| WaitingFor::Workdir { path: path(), problem }));
    let environment = match environment(spec, secrets) {
        Ok(environment) => environment,
        Err(names) => {
            missing.push(WaitingFor::Secrets { names });
            BTreeMap::new()
        }
    };
    let launch = if missing.is_empty() {
        let home = &place.account.home;
        let (command, args) = (at_home(&spec.command, home), at_home(&spec.args, home));
        let text = prompt.clone();
        let (arguments, prompt) = spec.harness.command_line(&command, &args, spec.interactive, prompt.as_ref());
        if let Some(length) = prompt.map(|at| arguments[at].as_slice().len()).filter(|&length| length > MAX_ARGUMENT) {
            let right = format!("the kernel takes at most {MAX_ARGUMENT} bytes (128 KiB less one)");
            return Err(format!("the prompt is too long: with its option it has {length} bytes; {right}"));
        }
        let is_secret = |name: &String| secrets.get(name).is_some() && !spec.env.contains_key(name);
        let secrets_given = environment.keys().filter(|name| is_secret(name)).cloned().collect();
        let mut launch = Launch {
            name: spec.name.clone(),
            session: spec.session.clone(),
            arguments,
            prompt,
            environment,
            secrets: secrets_given,
            workdir,
            packages: spec.packages.clone(),
            packages_timeout: spec.packages_timeout,
            fingerprint: Fingerprint::default(),
            marks: Marks::none(),
            is_certain: spec.secrets.is_some() || secrets.is_complete,
        };
        launch.fingerprint = marker.marker.fingerprint(&launch);
        launch.marks = marker.marks(spec, &launch, text.as_ref());
        // Afterwards: a preset's variables are not part of the declaration, so that a version of agentd that sets more of them
        // relaunches no agent.
        for (name, value) in spec.harness.variables(spec.interactive, launch.prompt.is_some()) {
            launch.environment.entry(name.to_owned()).or_insert_with(|| SecretBytes::from(value));
        }
        Ok(Arc::new(launch))
    } else {
        Err(Missing(missing))
    };
    Ok(Declaration { kind: spec.kind, policy: spec.policy.clone(), launch })
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
        marks.field("harness", checksum(spec.harness.name.as_bytes()));
        marks.field("interactive", checksum(format!("{:?}", spec.interactive).as_bytes()));
        marks.field("workdir", checksum(launch.workdir.as_os_str().as_encoded_bytes()));
        marks.field("session", checksum(launch.session.as_str().as_bytes()));
        let mut mark = |name: &str, values: &[&[u8]]| marks.field(name, self.marker.mark(name, values.iter().copied()));
        for (name, words) in [("command", &spec.command), ("args", &spec.args)] {
            // What is empty has no mark.
            if !words.is_empty() {
                mark(name, &words.iter().map(String::as_bytes).collect::<Vec<_>>());
            }
        }
        if !launch.packages.is_empty() {
            let names: Vec<&[u8]> = launch.packages.iter().map(|package| package.as_str().as_bytes()).collect();
            mark("extra_packages", &names);
        }
        if let (Some(from), Some(text)) = (&spec.prompt, prompt) {
            let name = if matches!(from, Prompt::File(_)) { "prompt_file" } else { "prompt" };
            mark(name, &[text.as_slice()]);
        }
        for (name, value) in &launch.environment {
            if let Some(&known) = self.secrets.get(name).filter(|_| launch.secrets.contains(name)) {
                marks.secret(name, known);
            } else {
                let name = format!("env.{name}");
                marks.field(&name, self.marker.mark(&name, [value.as_slice()]));
            }
        }
        marks.finish()
    }
}

/// The secrets, overridden by `env`; or the secrets that are missing.
fn environment(spec: &AgentSpec, secrets: &Secrets) -> Result<BTreeMap<String, SecretBytes>, Vec<String>> {
    let mut environment = BTreeMap::new();
    match &spec.secrets {
        None => environment.extend(secrets.iter().map(|(name, value)| (name.clone(), value.clone()))),
        Some(names) => {
            let absent: Vec<String> = names.iter().filter(|name| secrets.get(name).is_none()).cloned().collect();
            if !absent.is_empty() {
                return Err(absent);
            }
            environment.extend(names.iter().filter_map(|name| Some((name.clone(), secrets.get(name)?.clone()))));
        }
    }
    environment.extend(spec.env.clone());
    debug_assert!(environment.iter().all(|(name, value)| name.len() + 1 + value.as_slice().len() <= MAX_ARGUMENT));
    Ok(environment)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use nix::unistd::{Gid, Uid};
    use rstest::rstest;

    use super::*;
    use crate::agent::name::key;
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
        desired(config, &Secrets::of(secrets), seen, &place())
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
    fn preset_variables_are_overridable_and_not_fingerprinted() {
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
        let (prompts, workdirs) = paths(&config, folder_of(Path::new(FILE)), &account());
        assert_eq!(prompts, [PROMPT_FILE.into()].into());
        assert_eq!(workdirs, ["/home/agent/project".into(), "/home/agent/workspace".into()].into());
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
    #[case("secrets = [\"KEY\"]", "", "|TOKEN")]
    fn marks_name_what_differs(#[case] before: &str, #[case] after: &str, #[case] expected: &str) {
        let of = |lines| launched(&one(lines), SECRETS, text("from the file")).marks.clone();
        let changes = of(before).changes_to(&of(after)).unwrap();
        let told = [changes.fields.join(" "), changes.secrets.join(" ")].join("|");
        assert_eq!(told.trim_end_matches('|'), expected);
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
        assert_eq!((bad.name.as_str(), bad.harness), ("Bad", Some("codex")));
        let error = bad.declaration.as_ref().unwrap_err();
        let places: Vec<&str> = error.lines().map(|line| line.split(": ").next().unwrap()).collect();
        assert_eq!(places, ["/etc/agentd/jcard.toml:4:11", "/etc/agentd/jcard.toml:5:11"]);
        assert_eq!(desired.config_error.as_ref(), Some(error));
    }

    #[test]
    fn an_unsandboxed_agent_says_so() {
        let declaration = declaration(&one("type = \"sandboxed\""), &[], &seen(text(""))).unwrap();
        assert_eq!((declaration.kind, declaration.kind.in_words()), (Kind::Sandboxed, "native (unsandboxed)"));
        assert_eq!(
            [Kind::Native, Kind::Sandboxed].map(|kind| Kind::from_words(kind.in_words())),
            [Kind::Native, Kind::Sandboxed]
        );
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
