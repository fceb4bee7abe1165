//! `agentd show`: the effective declaration of an agent, from the jcard, without a daemon.
//!
//! Every field has its value and where that comes from: a line of the jcard, or a default. Values of variables are never shown, and
//! secrets only by name. If a daemon answers, it is asked for the override in force.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::output::{block_on, complain, print, say};
use super::table::push_hanging;
use super::wording::fault;
use crate::agent::approval::Asking;
use crate::agent::harness::Approval;
use crate::agent::sandbox::Sandbox;
use crate::agent::spec::{AgentSpec, Kind, Policy, Prompt, Restart, Workdir};
use crate::client::Client;
use crate::config::{self, Config, Entry, Options};
use crate::sys::regular_file;
use crate::sys::terminal::Terminal;
use crate::text::printable::{escaped, json_line};
use crate::text::suggest::nearest;
use crate::wire::status::Override;

/// The exit statuses: printed, the entry is wrong, nothing is known.
const SHOWN: u8 = 0;
const WRONG: u8 = 1;
const UNKNOWN: u8 = 4;

/// How long the daemon may take to say what is overridden: the jcard is shown in any case.
const PATIENCE: Duration = Duration::from_secs(2);

/// What stands for the value of a variable.
const MASKED: &str = "[masked]";

/// Which agent, and how.
#[derive(Clone, Debug, clap::Args)]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
pub struct Arguments {
    /// The agent; the case of its name does not matter
    #[arg(add = super::complete::names())]
    pub name: String,
    /// The jcard [default: /etc/stereos/jcard.toml; without root: $XDG_CONFIG_HOME/agentd/jcard.toml]
    #[arg(long, value_name = "PATH", value_parser = super::path())]
    pub config: Option<PathBuf>,
    /// How agents are confined, as for the daemon.
    #[command(flatten)]
    pub sandboxing: super::Sandboxing,
    /// Print the same as data
    #[arg(long)]
    pub json: bool,
}

/// An agent as it is declared. Keys may be added, but not removed or renamed.
#[derive(Debug, PartialEq, Serialize)]
struct Declaration {
    name: String,
    /// The jcard, and the line of the entry.
    file: String,
    line: usize,
    fields: Vec<Field>,
    /// The override in force; absent if there is none, or if agentd does not answer.
    #[serde(rename = "override", skip_serializing_if = "Option::is_none")]
    overridden: Option<Override>,
}

/// A field of the entry.
#[derive(Debug, PartialEq, Serialize)]
struct Field {
    #[serde(rename = "field")]
    name: &'static str,
    /// Its value in force; null if it has none.
    value: Value,
    /// The line that sets it; absent for a default.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    /// What the value means, or why it does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{} {what}", file.display())]
    File { file: PathBuf, what: String },
    #[error("{} declares no agent {name:?}{}", file.display(), meant(nearest.as_deref()))]
    NoSuchAgent { file: PathBuf, name: String, nearest: Option<String> },
    #[error("{0}")]
    Wrong(String),
}

fn meant(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!("; did you mean {nearest:?}?")).unwrap_or_default()
}

/// Reads the jcard and prints the agent: data to stdout, messages to stderr. `socket` is that of the daemon that may know an override.
pub fn run(arguments: &Arguments, file: &Path, options: &Options, socket: &Path) -> ExitCode {
    match find(file, &arguments.name, options) {
        Ok(mut declaration) => {
            declaration.overridden = override_in_force(socket, &declaration.name);
            let text =
                if arguments.json { json_line(&declaration) } else { render(&declaration, Terminal::here().color) };
            print(text.as_bytes(), SHOWN, WRONG)
        }
        Err(Error::Wrong(errors)) => {
            for error in errors.lines() {
                say(error);
            }
            ExitCode::from(WRONG)
        }
        Err(error) => complain(UNKNOWN, &error.to_string()),
    }
}

/// What operators have said of the agent, if the daemon answers soon.
fn override_in_force(socket: &Path, name: &str) -> Option<Override> {
    let asked = block_on(WRONG, async {
        let client = Client::new(socket).ok()?;
        let answer = timeout(PATIENCE, client.agent(name)).await.ok()?.ok()?;
        answer.value.overridden
    });
    asked.ok().flatten()
}

fn find(file: &Path, name: &str, options: &Options) -> Result<Declaration, Error> {
    let unusable = |what: String| Error::File { file: file.to_owned(), what };
    let text = match regular_file::read(file, config::MAX_SIZE) {
        Ok((text, _)) => text,
        Err(regular_file::Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(unusable("does not exist; agentd init writes one to begin with".to_owned()));
        }
        Err(error) => return Err(unusable(fault(&error))),
    };
    let config = config::parse(&text, options).map_err(|findings| {
        let lines: Vec<String> = findings.iter().map(|finding| format!("{}:{finding}", file.display())).collect();
        Error::Wrong(lines.join("\n"))
    })?;
    let Config { entries, .. } = config;
    let Some(entry) = entries.iter().find(|entry| entry.name.as_str().eq_ignore_ascii_case(name)) else {
        let nearest = nearest(name, entries.iter().map(|entry| entry.name.as_str())).map(str::to_owned);
        return Err(Error::NoSuchAgent { file: file.to_owned(), name: name.to_owned(), nearest });
    };
    let Entry { name, table, spec, .. } = entry;
    let spec = spec.as_ref().map_err(|errors| {
        let lines: Vec<String> = errors.lines().map(|error| format!("{}:{error}", file.display())).collect();
        Error::Wrong(lines.join("\n"))
    })?;
    let lines = config::lines(&text).into_iter().nth(*table).unwrap_or(config::Lines { header: 1, fields: [].into() });
    let siblings = entries.iter().filter(|other| other.table == *table).count();
    let fields = fields(spec, siblings, |field| lines.fields.get(field).copied());
    Ok(Declaration {
        name: name.to_string(),
        file: file.display().to_string(),
        line: lines.header,
        fields,
        overridden: None,
    })
}

/// How it asks, if it does.
fn of_asking(
    asking: Option<&Asking>,
    field: impl Fn(&'static str, Value) -> Field,
    noted: impl Fn(&'static str, Value, &'static str) -> Field,
) -> [Field; 2] {
    let none = |name| noted(name, Value::Null, "it does not ask");
    let fields = asking.map(|Asking { timeout, rules }| {
        [field("approval_timeout", json!(span(*timeout))), field("approval_rules", json!(rules))]
    });
    fields.unwrap_or_else(|| ["approval_timeout", "approval_rules"].map(none))
}

/// Every field that an entry may have, in the order of the documentation.
#[expect(clippy::too_many_lines, reason = "a line for each field")]
fn fields(spec: &AgentSpec, siblings: usize, line: impl Fn(&str) -> Option<usize>) -> Vec<Field> {
    let field = |name, value| Field { name, value, line: line(name), note: None };
    let noted = |name, value, note: &'static str| Field { note: Some(note), ..field(name, value) };
    let AgentSpec {
        name,
        harness,
        command,
        args,
        prompt,
        interactive,
        resume_prompt,
        results,
        approval,
        asking,
        workdir,
        session,
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
    } = spec;
    let Policy {
        restart,
        max_restarts,
        timeout,
        idle_timeout,
        grace_period,
        backoff,
        backoff_reset,
        limits,
        by_default: _,
        enabled,
        generation,
        labels,
        resume,
        max_cost,
        results: _,
        rotation,
        hold,
        hold_retry,
    } = policy;
    let (text, path) = match prompt {
        Some(Prompt::Text(text)) => (json!(text), Value::Null),
        Some(Prompt::File(path)) => (Value::Null, json!(path.display().to_string())),
        None => (Value::Null, Value::Null),
    };
    let prompt = match (prompt, line("prompt")) {
        (Some(Prompt::File(_)), Some(_)) => noted("prompt", text, "not used: prompt_file wins"),
        _ => field("prompt", text),
    };
    let workdir = match workdir {
        Workdir::Absolute(path) => path.display().to_string(),
        Workdir::Home(path) => format!("~/{}", path.display()),
    };
    let variables: Value =
        env.keys().map(|name| (name.clone(), json!(MASKED))).collect::<serde_json::Map<_, _>>().into();
    let user = match user {
        Some(user) => field("user", json!(user.as_str())),
        None => noted("user", Value::Null, "the default user"),
    };
    let secrets = match secrets {
        Some(files) if files.iter().all(|(name, file)| name == file) => {
            field("secrets", json!(files.keys().collect::<Vec<_>>()))
        }
        Some(files) => field("secrets", json!(files)),
        None => noted("secrets", Value::Null, "all of them"),
    };
    let or_noted = |name, value: Option<Value>, note| match value {
        Some(value) => field(name, value),
        None => noted(name, Value::Null, note),
    };
    let limit = |name, value| or_noted(name, value, "no limit");
    let confinement = confinement(kind, field, noted);
    let approval = if asking.is_some() { Some("ask") } else { approval.map(Approval::word) };
    let [approval_timeout, approval_rules] = of_asking(asking.as_ref(), field, noted);
    let all = [
        field("name", json!(name.as_str())),
        field("harness", json!(harness.name)),
        field("command", json!(command)),
        field("args", json!(args)),
        prompt,
        field("prompt_file", path),
        or_noted("interactive", interactive.map(Value::from), "as the harness's preset"),
        field("resume", json!(resume.word())),
        field("resume_prompt", json!(resume_prompt)),
        field("results", json!(results)),
        limit("max_cost", max_cost.map(|cost| json!(cost.dollars()))),
        or_noted("approval", approval.map(Value::from), "as the harness is configured"),
        approval_timeout,
        approval_rules,
        field("workdir", json!(workdir)),
        field("session", json!(session.as_str())),
        user,
        field("umask", json!(umask.map_or_else(|| "0022".to_owned(), |umask| format!("{umask:04o}")))),
        field("trust_repository", json!(trust_repository)),
        field("env", variables),
        secrets,
        field("secret_files", json!(secret_files)),
        field("skills", json!(skills)),
        field("on_rotate", json!(rotation.on_rotate.word())),
        field("rotate_spread", json!(span(rotation.spread))),
        field("rotate_within", json!(span(rotation.within))),
        field("restart", json!(in_words(*restart))),
        limit("max_restarts", max_restarts.map(Value::from)),
        field("backoff", json!(backoff.iter().copied().map(span).collect::<Vec<_>>())),
        field("backoff_reset", json!(backoff_reset.map(span))),
        limit("timeout", timeout.map(|timeout| json!(span(timeout)))),
        limit("idle_timeout", idle_timeout.map(|timeout| json!(span(timeout)))),
        field("grace_period", json!(span(*grace_period))),
        limit("memory", limits.memory.map(Value::from)),
        limit("pid_limit", limits.tasks.map(Value::from)),
        limit("cpu", limits.cpu.map(|percent| json!(format!("{percent}%")))),
        field("extra_packages", json!(packages)),
        field("extra_packages_timeout", json!(span(*packages_timeout))),
        field("enabled", json!(enabled)),
        field("generation", json!(generation)),
        field("hold", json!(hold.word())),
        field("hold_retry", json!(span(*hold_retry))),
        field("replicas", json!(siblings)),
    ];
    all.into_iter().chain(confinement).chain([field("labels", json!(labels))]).collect()
}

/// The fields about how an agent is confined.
fn confinement(
    kind: &Kind,
    field: impl Fn(&'static str, Value) -> Field,
    noted: impl Fn(&'static str, Value, &'static str) -> Field,
) -> Vec<Field> {
    const NO_SANDBOX: &str = "no sandbox";
    let Some(Sandbox { engine, read, write, home, network, proxy, .. }) = kind.sandbox() else {
        let kind = match kind {
            Kind::Unsandboxed => noted("type", json!("sandboxed"), "runs without a sandbox: --unsandboxed"),
            Kind::Native | Kind::Sandboxed(_) => field("type", json!("native")),
        };
        let rest = ["sandbox", "sandbox_read", "sandbox_write", "sandbox_home", "network", "sandbox_proxy"];
        return [kind].into_iter().chain(rest.map(|name| noted(name, Value::Null, NO_SANDBOX))).collect();
    };
    let paths = |paths: &[PathBuf]| json!(paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>());
    vec![
        field("type", json!("sandboxed")),
        field("sandbox", json!(engine.name())),
        field("sandbox_read", paths(read)),
        field("sandbox_write", paths(write)),
        field("sandbox_home", json!(home.word())),
        field("network", json!(network.word())),
        match proxy {
            Some(path) => field("sandbox_proxy", json!(format!("unix:{}", path.display()))),
            None => noted("sandbox_proxy", Value::Null, "none"),
        },
    ]
}

fn in_words(restart: Restart) -> &'static str {
    match restart {
        Restart::No => "no",
        Restart::OnFailure => "on-failure",
        Restart::Always => "always",
    }
}

/// A duration as a jcard has it.
fn span(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// The fields as a table: what it is, where it comes from, and its value as TOML has it.
fn render(declaration: &Declaration, color: bool) -> String {
    const FIELD: usize = "extra_packages_timeout".len() + 2;
    const FROM: usize = "line 10000".len() + 2;
    let Declaration { name, file, line, fields, overridden } = declaration;
    let mut text = String::new();
    let head = format!("{} is declared in {}:{line}", escaped(name), escaped(file));
    push_hanging(&mut text, "", 0, [head]);
    let (dim, plain) = if color { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    for Field { name, value, line, note } in fields {
        let from = line.map_or_else(|| "default".to_owned(), |line| format!("line {line}"));
        let shown = match (value, note) {
            (Value::Null, Some(note)) => format!("- ({note})"),
            (Value::Null, None) => "-".to_owned(),
            (Value::Number(bytes), None) if *name == "memory" => size(bytes.as_u64().unwrap_or_default()),
            (value, Some(note)) => format!("{} ({note})", toml(value)),
            (value, None) => toml(value),
        };
        let label = format!("{name:FIELD$}{dim}{from:FROM$}{plain}");
        push_hanging(&mut text, &label, 0, [escaped(&shown)]);
    }
    if let Some(Override { enabled, generation, now, by, at: _ }) = overridden {
        let said = [
            enabled.map(|enabled| format!("enabled = {enabled}")),
            generation.map(|generation| format!("generation = {generation}")),
            now.then(|| "now = true".to_owned()),
        ];
        let said: Vec<String> = said.into_iter().flatten().collect();
        let by = by.as_ref().map_or_else(String::new, |by| format!(" (by {by})"));
        let label = format!("{:FIELD$}{dim}{:FROM$}{plain}", "override", "in force");
        push_hanging(&mut text, &label, 0, [escaped(&format!("{}{by}", said.join(", ")))]);
    }
    text
}

/// Bytes as a jcard has them, in the largest unit of which they are a whole number.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("\"{}{unit}\"", bytes >> shift))
}

/// A value in the notation of TOML.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("[{}]", values.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(values) if values.is_empty() => "{}".to_owned(),
        Value::Object(values) => {
            let pairs: Vec<String> = values.iter().map(|(key, value)| format!("{key} = {}", toml(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        // Strings, numbers and booleans are written alike.
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    const JCARD: &str = r#"
[[agents]]
name = "reviewer"
harness = "claude-code"
prompt = "Review \"all\"\nof it."
restart = "on-failure"
max_restarts = 5
timeout = "1h30m"
cpu = "150%"
env = { TOKEN = "hunter2hunter2" }

[[agents]]
name = "w"
harness = "custom"
command = ["sh", "-c"]
prompt = "x"
prompt_file = "task.md"
secrets = ["B", "A"]
replicas = 2

[[agents]]
name = "bad"
harness = "nope"
"#;

    fn found(name: &str) -> Result<Declaration, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jcard.toml");
        fs::write(&file, JCARD).unwrap();
        let path = |text: String| text.replace(&*file.to_string_lossy(), "jcard.toml");
        let found = find(&file, name, &Options::default()).map_err(|error| path(error.to_string()))?;
        Ok(Declaration { file: path(found.file), ..found })
    }

    #[test]
    fn every_field_has_its_value_and_its_origin() {
        let expected = r#"reviewer is declared in jcard.toml:2
name                    line 3      "reviewer"
harness                 line 4      "claude-code"
command                 default     ["claude"]
args                    default     []
prompt                  line 5      "Review \"all\"\nof it."
prompt_file             default     -
interactive             default     - (as the harness's preset)
resume                  default     "never"
resume_prompt           default     "Continue where you left off."
results                 default     false
max_cost                default     - (no limit)
approval                default     - (as the harness is configured)
approval_timeout        default     - (it does not ask)
approval_rules          default     - (it does not ask)
workdir                 default     "/home/agent/workspace"
session                 default     "reviewer"
user                    default     - (the default user)
umask                   default     "0022"
trust_repository        default     false
env                     line 10     { TOKEN = "[masked]" }
secrets                 default     - (all of them)
secret_files            default     false
skills                  default     []
on_rotate               default     "relaunch"
rotate_spread           default     "0s"
rotate_within           default     "1h"
restart                 line 6      "on-failure"
max_restarts            line 7      5
backoff                 default     ["3s", "3s", "3s", "3s", "3s", "10s", "30s", "1m", "5m"]
backoff_reset           default     "10m"
timeout                 line 8      "1h30m"
idle_timeout            default     - (no limit)
grace_period            default     "30s"
memory                  default     - (no limit)
pid_limit               default     - (no limit)
cpu                     line 9      "150%"
extra_packages          default     []
extra_packages_timeout  default     "10m"
enabled                 default     true
generation              default     0
hold                    default     "wait"
hold_retry              default     "1h"
replicas                default     1
type                    default     "native"
sandbox                 default     - (no sandbox)
sandbox_read            default     - (no sandbox)
sandbox_write           default     - (no sandbox)
sandbox_home            default     - (no sandbox)
network                 default     - (no sandbox)
sandbox_proxy           default     - (no sandbox)
labels                  default     {}
"#;
        assert_eq!(render(&found("Reviewer").unwrap(), false), expected);
    }

    #[test]
    fn an_override_in_force_has_a_row_of_its_own() {
        let mut found = found("reviewer").unwrap();
        let before = render(&found, false);
        let own = Override { enabled: Some(false), generation: Some(3), by: Some("op".into()), ..Override::default() };
        found.overridden = Some(own);
        let row = "override                in force    enabled = false, generation = 3 (by op)\n";
        assert_eq!(render(&found, false), before + row);
        let data: Value = serde_json::from_str(&json_line(&found)).unwrap();
        assert_eq!(data["override"], json!({ "enabled": false, "generation": 3, "by": "op" }));
    }

    #[test]
    fn sizes_are_shown_as_jcards_have_them() {
        let sizes = [2 << 30, 3 << 29, 4096, 1000, 0].map(size);
        assert_eq!(sizes, ["\"2GiB\"", "\"1536MiB\"", "\"4KiB\"", "1000", "0"]);
    }

    #[test]
    fn a_replica_has_the_lines_of_its_entry() {
        let text = render(&found("w-1").unwrap(), false);
        for line in [
            "w-1 is declared in jcard.toml:12",
            "prompt                  line 16     - (not used: prompt_file wins)",
            "prompt_file             line 17     \"task.md\"",
            "secrets                 line 18     [\"A\", \"B\"]",
            "replicas                line 19     2",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
        }
    }

    #[test]
    fn no_value_of_a_variable_is_shown() {
        let found = found("reviewer").unwrap();
        for text in [render(&found, true), json_line(&found), format!("{found:?}")] {
            assert!(text.contains("TOKEN") && !text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_shown_has_a_reason() {
        assert_eq!(
            found("reviwer").unwrap_err(),
            "jcard.toml declares no agent \"reviwer\"; did you mean \"reviewer\"?"
        );
        let error = found("bad").unwrap_err();
        assert!(error.starts_with("jcard.toml:23:11: unknown agent.harness \"nope\""), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let error = find(&folder.path().join("x"), "a", &Options::default()).unwrap_err();
        assert!(error.to_string().contains("agentd init"), "{error}");
    }

    #[test]
    fn every_field_of_the_schema_is_shown() {
        let schema = config::schema();
        let known = schema["definitions"]["agent"]["properties"].as_object().unwrap().keys();
        let known: BTreeSet<&str> = known.map(String::as_str).collect();
        let shown = found("reviewer").unwrap().fields;
        assert_eq!(shown.iter().map(|field| field.name).collect::<BTreeSet<_>>(), known);
    }
}
