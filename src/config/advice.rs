//! Warnings about an entry that is read as it is written, and was probably meant otherwise.
//!
//! None of these changes what an entry declares.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::fields::{Fields, KNOWN, quoted};
use super::position::Places;
use crate::agent::harness::Approval;
use crate::agent::sandbox::{Home, is_run_outside};
use crate::agent::spec::{AgentSpec, Prompt, Restart};
use crate::config::{DefaultType, Finding, Options, Severity};

/// A number of processors from which on it is more likely a percentage.
const MANY_PROCESSORS: u64 = 10;

/// In less memory than this, nothing starts.
const LITTLE_MEMORY: u64 = 1 << 20;

/// The longest command that a remedy repeats, in bytes.
const REPEATED: usize = 200;

/// Words that a shell would interpret when they stand alone.
const OPERATORS: [&str; 15] = ["&&", "||", "|", ";", "&", ">", ">>", "<", "<<", "2>", "2>>", "2>&1", "&>", ">&2", "|&"];

/// The length of the longest of them.
const LONGEST_OPERATOR: usize = 4;

/// Programs that interpret shell syntax in their arguments.
const SHELLS: [&str; 7] = ["sh", "bash", "dash", "zsh", "ksh", "fish", "busybox"];

/// Warns about everything in a valid entry that probably does not do what its author expects.
pub(super) fn look_at(fields: &mut Fields<'_>, spec: &AgentSpec) {
    command(fields, spec);
    home(fields, spec);
    prompt(fields, spec);
    restarts(fields, spec);
    processors(fields, spec);
    memory(fields, spec);
    overridden_secrets(fields, spec);
    sandbox(fields, spec);
    approval(fields, spec);
}

fn command(fields: &mut Fields<'_>, spec: &AgentSpec) {
    let at = fields.place("command");
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+~".contains(&byte));
    if let Some(text) = fields.peek("command").filter(|text| !is_plain(text)) {
        let text = text.trim();
        if is_shell_line(text) {
            let right = "write [\"sh\", \"-c\", …] around it";
            let fix = exact(text, || format!("command = [\"sh\", \"-c\", {}]", in_toml(text)));
            return fields.warn_exactly(at, "`command` has shell syntax, and no shell interprets it", right, fix);
        }
        if text.contains(char::is_whitespace) {
            let right = "write an array: the program, and each argument by itself";
            let fix = exact(text, || {
                let array = |words: &[&str]| words.iter().map(|word| in_toml(word)).collect::<Vec<_>>().join(", ");
                let words = array(&text.split_whitespace().collect::<Vec<_>>());
                let as_path = if text.starts_with(['/', '.', '~']) {
                    format!(", or [{}] if that is the path of the program", array(&[text]))
                } else {
                    String::new()
                };
                format!("command = [{words}]{as_path}")
            });
            return fields.warn_exactly(at, "`command` is one program's name with spaces", right, fix);
        }
    }
    let words = || spec.command.iter().chain(&spec.args);
    let operator = words().find(|word| word.len() <= LONGEST_OPERATOR && OPERATORS.contains(&word.as_str()));
    if let Some(operator) = operator.filter(|_| !words().any(|word| is_shell(word))) {
        let key = if spec.args.contains(operator) { "args" } else { "command" };
        let right = "write command = [\"sh\", \"-c\", \"…\"] with the whole line in one string";
        fields.warn(fields.place(key), format!("`{key}` has {operator:?}, and no shell interprets it; {right}"));
    }
    if spec.command.first().is_some_and(|program| program.starts_with('$')) {
        let right = "write an absolute path, or ~/ and a path below the agent user's home";
        fields.warn(at, format!("variables in `command` are not replaced; {right}"));
    }
}

fn is_shell(word: &str) -> bool {
    SHELLS.iter().any(|shell| word.rsplit('/').next() == Some(shell))
}

/// Whether a text looks like a line for a shell, and not like a program and its arguments.
fn is_shell_line(text: &str) -> bool {
    let is_operator = |word: &str| OPERATORS.contains(&word) || word.ends_with(';');
    let mut words = text.split_whitespace();
    let starts_with_builtin = words.clone().count() > 1 && words.clone().next().is_some_and(|first| first == "cd");
    let sets_variable = words.clone().count() > 1
        && words
            .next()
            .and_then(|first| first.split_once('='))
            .is_some_and(|(name, _)| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
    starts_with_builtin
        || sets_variable
        || text.split_whitespace().any(is_operator)
        || text.contains(['|', '`', '"', '\'', '<', '>'])
        || text.contains("&&")
        || text.contains("$(")
        || (text.contains('$') && text.contains(char::is_whitespace))
}

/// Warns where `~` stays as it is.
fn home(fields: &mut Fields<'_>, spec: &AgentSpec) {
    let mut words = spec.command.iter().chain(&spec.args);
    let is_in_value = spec.env.values().any(|value| value.as_slice().starts_with(b"~"));
    let is_in_path =
        matches!(&spec.prompt, Some(Prompt::File(path)) if path.as_os_str().as_encoded_bytes().starts_with(b"~"));
    if !is_in_value && !is_in_path && !words.any(|word| word.starts_with('~')) {
        return;
    }
    let right = "write the absolute path";
    let means_home = |text: &str| text == "~" || text.starts_with("~/");
    let runs_shell = spec.command.iter().chain(&spec.args).any(|word| is_shell(word));
    let mut before = "";
    for key in ["command", "args"] {
        for (number, (at, text)) in fields.elements(key).into_iter().enumerate() {
            // A line for a shell, which replaces it.
            let is_line = runs_shell && before.starts_with('-') && before.ends_with('c');
            before = text;
            if is_line {
                continue;
            }
            let is_other_users = number == 0 && key == "command" && text.starts_with('~') && !means_home(text);
            if is_other_users || number > 0 && means_home(text) {
                fields.warn(at, format!("`~` is not replaced here; {right}"));
            }
        }
    }
    if fields.peek("prompt_file").is_some_and(|text| text.starts_with('~')) {
        let at = fields.place("prompt_file");
        fields.warn(at, format!("`~` is not replaced in `prompt_file`, which is relative to the jcard; {right}"));
    }
    for (at, name, text) in fields.values("env") {
        if means_home(text) {
            fields.warn(at, format!("`~` is not replaced in the value of {}; {right}", quoted(name)));
        }
    }
}

fn prompt(fields: &mut Fields<'_>, spec: &AgentSpec) {
    if matches!(spec.prompt, Some(Prompt::File(_))) && fields.is_set("prompt") {
        let at = fields.place("prompt");
        fields.warn(at, "`prompt` is ignored, because `prompt_file` takes precedence; remove one of them");
    }
}

fn restarts(fields: &mut Fields<'_>, spec: &AgentSpec) {
    let policy = &spec.policy;
    match policy.restart {
        Restart::No => {
            let unused = [
                ("max_restarts", policy.max_restarts.is_some()),
                ("backoff", !fields.is_empty("backoff")),
                ("backoff_reset", !fields.is_empty("backoff_reset")),
            ];
            for (key, is_given) in unused {
                if is_given {
                    let right = "write `restart = \"on-failure\"` or `\"always\"`, or remove it";
                    let at = fields.place(key);
                    fields.warn(at, format!("`{key}` is about restarts, and `restart = \"no\"` makes none; {right}"));
                }
            }
        }
        Restart::Always if spec.prompt.is_some() && ends(spec) => {
            if !fields.is_set("max_restarts") && policy.timeout.is_none() {
                let right = "write `restart = \"on-failure\"`, or set `max_restarts` or `timeout` (`max_restarts = 0` if this is meant)";
                let at = fields.place("restart");
                fields.warn(at, format!("`restart = \"always\"` repeats a finished prompt without end; {right}"));
            }
        }
        Restart::Always | Restart::OnFailure => {}
    }
}

/// Whether the harness may end when it has finished its prompt.
fn ends(spec: &AgentSpec) -> bool {
    let prompt = match &spec.prompt {
        Some(Prompt::Text(text)) => text.as_bytes(),
        Some(Prompt::File(_)) | None => b"words",
    };
    let stays = spec.harness.stays_open(&spec.args, spec.interactive, prompt);
    !stays && (spec.interactive != Some(true) || spec.harness.is_custom())
}

fn processors(fields: &mut Fields<'_>, spec: &AgentSpec) {
    let Some(share) = spec.policy.limits.cpu.filter(|&share| share >= MANY_PROCESSORS * 100) else { return };
    // A percentage is no number.
    if let Some(number) = fields.spelled("cpu").and_then(|text| text.trim().parse::<f64>().ok()) {
        let at = fields.place("cpu");
        let right =
            format!("write \"{number}%\" or {} for a share of one, or \"{share}%\" if this is meant", number / 100.0);
        fields.warn(at, format!("`cpu` is {number} processors; {right}"));
    }
}

fn memory(fields: &mut Fields<'_>, spec: &AgentSpec) {
    if let Some(bytes) = spec.policy.limits.memory.filter(|&bytes| bytes < LITTLE_MEMORY) {
        let at = fields.place("memory");
        let noun = if bytes == 1 { "byte" } else { "bytes" };
        let right = "write a size with its unit, like \"2GiB\"";
        fields.warn(at, format!("`memory` is {bytes} {noun}, in which no program runs; {right}"));
    }
}

fn overridden_secrets(fields: &mut Fields<'_>, spec: &AgentSpec) {
    let both: Vec<&String> =
        spec.secrets.iter().flat_map(BTreeMap::keys).filter(|name| spec.env.contains_key(*name)).collect();
    for name in both {
        let right = "remove the name from one of them";
        let at = fields.place("secrets");
        fields
            .warn(at, format!("the secret {} has no effect, because `env` sets that variable; {right}", quoted(name)));
    }
}

/// Warns about what probably does not work in the sandbox.
fn sandbox(fields: &mut Fields<'_>, spec: &AgentSpec) {
    let Some(sandbox) = spec.kind.sandbox() else { return };
    let name = &spec.harness.name;
    let args = spec.harness.args_with_approval(spec.approval, &spec.command, &spec.args);
    if let Some(word) = spec.harness.asks_for_own_sandbox(&spec.command, &args) {
        let is_in = |words: &[String]| words.iter().any(|given| given.starts_with(word));
        let (key, right) = if is_in(&spec.args) {
            ("args", "remove it: the agent's commands are confined already")
        } else if is_in(&spec.command) {
            ("command", "remove it: the agent's commands are confined already")
        } else {
            ("approval", "write `approval = \"everything\"`: the agent's commands are confined already")
        };
        let at = fields.place(key);
        fields
            .warn(at, format!("{} makes {name} sandbox its commands, which fails in a sandbox; {right}", quoted(word)));
    }
    if sandbox.home == Home::Fresh && !spec.harness.is_custom() && spec.policy.restart != Restart::No {
        let at = fields.place("sandbox_home");
        let right = "write `sandbox_home = \"kept\"` to keep them";
        fields.warn(at, format!("each restart loses {name}'s conversations with the home; {right}"));
    }
    let what = "lets the agent have programs run outside of its sandbox, such as at the next login";
    if sandbox.home == Home::Real {
        let at = fields.place("sandbox_home");
        let right = "write `sandbox_home = \"kept\"`, and `sandbox_write` for the folders that it needs";
        fields.warn(at, format!("the user's own home {what}; {right}"));
    }
    for (at, path) in fields.elements("sandbox_write") {
        let below_home = path.strip_prefix("~/").map(Path::new);
        if below_home.is_some_and(is_run_outside) {
            fields.warn(at, format!("writing to {} {what}; name a folder that has nothing of that kind", quoted(path)));
        }
    }
}

/// Warns about an `approval` that has no effect, or that nothing confines.
fn approval(fields: &mut Fields<'_>, spec: &AgentSpec) {
    let Some(approval) = spec.approval else { return };
    let at = fields.place("approval");
    if let Some(word) = spec.harness.says_approval(approval, &spec.command, &spec.args) {
        let key = if spec.args.iter().any(|given| given == word) { "args" } else { "command" };
        let right = "remove one of them";
        fields.warn(at, format!("`approval` has no effect, because `{key}` says {}; {right}", quoted(word)));
    } else if approval == Approval::Everything && spec.kind.sandbox().is_none() && spec.user.is_none() {
        let what = format!(
            "nothing confines what {} does unasked, and it can do all that the agent user can",
            spec.harness.name
        );
        fields.warn(at, format!("{what}; write `type = \"sandboxed\"`, or give it a `user` of its own"));
    }
}

/// Whether the harness asks for permission although nobody is there, because the entry does not say what it may do.
pub(super) fn asks_nobody(spec: &AgentSpec) -> bool {
    let asks = || spec.harness.asks(&spec.command, &spec.args);
    spec.prompt.is_some() && spec.approval.is_none() && ends(spec) && asks()
}

/// A finding if the Go daemon, which agentd replaces, would run the entry's agent in a sandbox.
pub(super) fn sandbox_expected(fields: &Fields<'_>, options: &Options) -> Option<Finding> {
    let is_said = fields.is_set("type") || fields.is_set("sandbox");
    if is_said || options.unsandboxed || options.default_type == DefaultType::Sandboxed {
        return None;
    }
    let is_given = |key: &str| fields.is_set(key) && !fields.is_empty(key);
    let telling = ["extra_packages", "memory", "pid_limit"].into_iter().find(|key| is_given(key));
    if telling.is_none() && !options.from_go {
        return None;
    }
    let what = "without a `type`, this agent runs without a sandbox; the Go daemon would sandbox it";
    let right = "write `type = \"sandboxed\"` to have it, or `type = \"native\"` if none is meant";
    let at = telling.map_or_else(|| fields.start(), |key| fields.place(key));
    Some(fields.finding(at, Severity::Warning, format!("{what}; {right}")))
}

/// A finding if a jcard declares no agent and looks as if it should.
pub(super) fn nothing_declared(document: &DeTable<'_>, places: &Places<'_>) -> Option<Finding> {
    document.iter().find_map(|(key, value)| {
        let table = match value.get_ref() {
            DeValue::Table(table) => Some(table),
            DeValue::Array(array) => array.iter().find_map(|element| element.get_ref().as_table()),
            _ => None,
        }?;
        let is_known = |key: &str| KNOWN.contains(&key);
        let name = key.get_ref().as_ref();
        let distance = ["agent", "agents"].map(|known| strsim::levenshtein(&name.to_lowercase(), known));
        let distance = distance.into_iter().min()?;
        let is_near = distance <= 1 || distance <= 2 && table.keys().any(|key| is_known(key.get_ref()));
        let what = if is_near {
            format!("no agents are declared, and {} is ignored; did you mean [[agents]]?", quoted(name))
        } else if ["default", "defaults"].contains(&name.to_lowercase().as_str()) {
            let right = "write [[agents]] above each agent, with all of its fields";
            format!("no agents are declared, and {} is ignored; {right}", quoted(name))
        } else if table.keys().any(|key| key.get_ref() == "harness") {
            format!("no agents are declared, and {} has a `harness`; write [[agents]] above each agent", quoted(name))
        } else {
            return None;
        };
        Some(places.finding(key.span().start, Severity::Warning, what))
    })
}

/// A remedy that repeats a text of the file, unless it is long.
fn exact(text: &str, fix: impl Fn() -> String) -> Option<String> {
    (text.len() <= REPEATED && !text.contains(char::is_control)).then(fix)
}

/// A text as a TOML string.
fn in_toml(text: &str) -> String {
    if text.contains(['"', '\\']) && !text.contains('\'') {
        return format!("'{text}'");
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_text_survives_as_a_toml_string(text in "[ -~é]{0,30}") {
            let document = format!("x = {}\n", in_toml(&text));
            let read: toml::Table = toml::from_str(&document).unwrap();
            prop_assert_eq!(read["x"].as_str(), Some(text.as_str()));
        }

        #[test]
        fn any_command_line_is_judged_without_a_panic(text in ".{0,60}") {
            let _ = is_shell_line(&text);
        }
    }
}
