//! The sections of a jcard that declare agents, as JSON Schema, for editors to complete and check.
//!
//! Draft 7, but only features that were already in draft 4: taplo supports no more, and tombi supports both. The schema accepts
//! everything that [`parse`] accepts without an error. Of what [`parse`] refuses, it refuses what can be judged by a value alone.
//!
//! [`parse`]: super::parse

use serde_json::{Value, json};

use crate::agent::approval::{LONGEST_PATTERN, MOST_RULES};
use crate::agent::conversation::RESUME_PROMPT;
use crate::agent::harness::{self, keys};
use crate::agent::labels;
use crate::agent::name::Name;
use crate::config::agents::MAX_GENERATION;
use crate::config::confinement::MOST_PATHS;
use crate::config::{MAX_AGENTS, MAX_REPLICAS};
use crate::sys::exec::MAX_ARGUMENT;
use crate::text::duration;

/// Every spelling of a unit of time that [`duration::parse`] knows.
const UNITS: &str = "ns|nsec|nanos|us|\u{b5}s|\u{3bc}s|usec|ms|msec|millis|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|\
                     d|days?|w|wks?|weeks?|months?|y|yrs?|years?";

/// The names of variables.
const VARIABLE: &str = "^[A-Za-z_][A-Za-z0-9_]*$";
/// What [`Package::new`](crate::agent::packages::Package::new) takes.
const PACKAGE: &str = "^(/(.*/)?[0-9a-z]{32}-[A-Za-z0-9_+.?=-]+|[A-Za-z0-9_+][A-Za-z0-9_+-]*(\\.[A-Za-z0-9_+-]+)*)$";

/// The schema. Everywhere but among the elements of arrays an empty string is "not set".
pub fn schema() -> Value {
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "jcard.toml",
        "description": "What agentd reads of a jcard. Other sections may hold anything.",
        "type": "object",
        "properties": {
            "agent": { "$ref": "#/definitions/agent" },
            "agents": { "type": "array", "maxItems": MAX_AGENTS, "items": { "$ref": "#/definitions/agent" } },
            "harnesses": {
                "description": "What agentd is to know of harnesses beyond what it comes with.",
                "type": "object",
                "additionalProperties": { "$ref": "#/definitions/harness" },
            },
        },
        // tombi warns about names that are not listed unless this allows them. In an entry, it should.
        "additionalProperties": true,
        "definitions": {
            "agent": {
                "title": "agent",
                "description": "One agent, or several alike.",
                "type": "object",
                "properties": fields(),
                "required": ["harness"],
            },
            "harness": {
                "title": "harness",
                "description": "One harness. What is not here stays as agentd comes with it.",
                "type": "object",
                "properties": Value::Object(keys::KEYS.iter().map(|key| (key.name.to_owned(), of_harness(key))).collect()),
                "additionalProperties": false,
            },
        },
    })
}

/// The fields of an agent, described in the words of the table in docs/jcard.md.
fn fields() -> Value {
    let groups = [program_fields(), life_fields(), confinement_fields()];
    Value::Object(groups.iter().filter_map(Value::as_object).flatten().map(|(k, v)| (k.clone(), v.clone())).collect())
}

/// The fields about what runs, and what it is given.
#[allow(clippy::too_many_lines, reason = "most of it is a field each")]
fn program_fields() -> Value {
    let harnesses: Vec<&str> = harness::shipped().iter().map(|harness| &*harness.name).collect();
    let text = || json!({ "type": "string", "maxLength": MAX_ARGUMENT });
    let name = || json!({ "type": "string", "pattern": format!("^[A-Za-z0-9_-]{{0,{}}}$", Name::MAX_LENGTH) });
    json!({
        "name": described(name(), "1 to 64 of `A-Z a-z 0-9 _ -`, unique regardless of case"),
        "harness": described(
            json!({ "type": "string", "anyOf": [{ "enum": harnesses }, { "pattern": format!("^[A-Za-z0-9_-]{{1,{}}}$", Name::MAX_LENGTH) }] }),
            "`claude-code`, `opencode`, `gemini-cli`, `codex`, `pi`, `qwen-code`, `kimi`, `aider`, `custom`, or one of `[harnesses]`; see [Harnesses](harnesses.md)",
        ),
        "command": described(
            json!({ "type": ["string", "array"], "maxLength": MAX_ARGUMENT, "items": text() }),
            "the program to run, or an array of the program and its first arguments; no shell interprets it; `~/` at its beginning is the home of the agent user",
        ),
        "args": with_default(array(&text()), json!([]), "more arguments, before the prompt; `~/` at the beginning of the first is the home of the agent user"),
        "prompt": described(text(), "one argument, whatever it contains, up to 131,071 bytes; everybody on the machine can see it"),
        "prompt_file": described(
            text(),
            "the file that holds the prompt, relative to the folder of the jcard; surrounding white space and a byte order mark are removed; read with the rights of the agent user only",
        ),
        "interactive": described(
            json!({ "type": ["boolean", "string"], "maxLength": 0 }),
            "`false`: the agent ends when it has finished the prompt; `true`: it stays at its terminal; see [Prompts](#prompts)",
        ),
        "results": with_default(
            json!({ "type": ["boolean", "string"], "maxLength": 0 }),
            json!(false),
            "`true`: the harness prints a machine-readable stream, from which agentd learns the result, the cost and more; see [Results](results.md)",
        ),
        "max_cost": described(
            json!({ "type": ["number", "string"], "maxLength": 0, "exclusiveMinimum": 0, "exclusiveMaximum": 1_000_000_000 }),
            "the most that a life of the agent may cost, in US dollars; then it is stopped, and has failed; needs `results = true`",
        ),
        "resume": with_default(
            json!({ "type": "string", "enum": ["never", "restart", "always", ""] }),
            json!("never"),
            "which attempts share a conversation: none, those of one life (`restart`), or those of all lives with the same work (`always`); see [Conversations](conversations.md)",
        ),
        "resume_prompt": with_default(
            json!({ "type": "string", "maxLength": MAX_ARGUMENT }),
            json!(RESUME_PROMPT),
            "what a resumed attempt gets in place of the prompt; see [Conversations](conversations.md)",
        ),
        "approval": described(
            json!({ "type": "string", "enum": ["readonly", "edits", "everything", "ask", ""] }),
            "what the harness may do without asking: `readonly`, `edits` (change files), `everything`; or `ask`: an operator answers; see [Approvals](approvals.md)",
        ),
        "approval_timeout": with_default(duration("*"), json!("10m"), "how long an operator may take to answer a question of the agent; then agentd denies"),
        "approval_rules": with_default(
            approval_rules(),
            json!([]),
            "regular expressions over the command that decide without a question: `{ match = \"^git status\", then = \"allow\" }`; a convenience, and no protection",
        ),
        "workdir": described(
            json!({ "type": "string", "maxLength": MAX_ARGUMENT, "pattern": "^($|/|~$|~/)" }),
            "absolute, or `~/…` in the home of the agent user; the agent waits while it is missing",
        ),
        "session": described(name(), "the tmux session"),
        "user": user(),
        "umask": umask(),
        "trust_repository": with_default(
            json!({ "type": ["boolean", "string"], "maxLength": 0 }),
            json!(false),
            "`true`: git of the agent works in the repository of another user; see [Repositories](#repositories)",
        ),
        "env": with_default(
            json!({
                "type": ["object", "string"],
                "maxLength": 0,
                "patternProperties": {
                    "^[^=]+$": { "type": ["string", "integer", "number", "boolean"], "maxLength": MAX_ARGUMENT },
                },
                "additionalProperties": false,
            }),
            json!({}),
            "variables; they override secrets of the same name; numbers and booleans are passed as they are written",
        ),
        "secrets": described(
            json!({
                "type": ["array", "object", "string"],
                "maxLength": 0,
                "items": { "type": "string", "pattern": VARIABLE },
                "patternProperties": {
                    VARIABLE: { "type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9._@+-]{0,254}$" },
                },
                "additionalProperties": false,
            }),
            "pass only these secrets, and wait until all of them exist; other secrets then do not relaunch the agent; as a table: variables with the files of their values",
        ),
        "secret_files": with_default(
            json!({ "type": ["boolean", "string"], "maxLength": 0 }),
            json!(false),
            "`true`: the values of the agent's secrets are in files, too; see [Files](secrets.md#files)",
        ),
        "skills": with_default(
            array(&json!({ "type": "string", "minLength": 1, "maxLength": MAX_ARGUMENT, "pattern": "^[^~*][^*]*(/[*])?$" })),
            json!([]),
            "folders with a SKILL.md that the agent can use; relative to the jcard unless absolute; see [Skills](skills.md)",
        ),
        "on_rotate": with_default(
            json!({ "type": "string", "enum": ["relaunch", "idle", "next", "files", ""] }),
            json!("relaunch"),
            "what new values of its secrets do to an agent that runs: `relaunch` it, relaunch it when it is `idle`, give them to its `next` start, or replace its `files`; see [Rotation](secrets.md#rotation)",
        ),
        "rotate_spread": with_default(duration("*"), json!("0s"), "the time between two agents that are relaunched for the same secret; `0s`: all at once"),
        "rotate_within": with_default(duration("*"), json!("1h"), "how long an agent that is not idle keeps the old values"),
    })
}

/// Rules over the text of a command.
fn approval_rules() -> Value {
    json!({
        "type": ["array", "string"],
        "maxLength": 0,
        "maxItems": MOST_RULES,
        "items": {
            "type": "object",
            "properties": {
                "match": { "type": "string", "minLength": 1, "maxLength": LONGEST_PATTERN },
                "then": { "type": "string", "enum": ["ask", "allow", "deny"] },
            },
            "required": ["match", "then"],
            "additionalProperties": false,
        },
    })
}

/// The fields about when it runs, for how long, and with how much.
fn life_fields() -> Value {
    let time = || duration("*");
    json!({
        "restart": with_default(
            json!({ "type": "string", "enum": ["no", "on-failure", "always", ""] }),
            json!("no"),
            "`no`, `on-failure` (a nonzero status, a signal, or an unknown end), `always`",
        ),
        "max_restarts": with_default(number(0, None), json!(0), "the number of restarts after which the agent gives up (outcome `gave-up`)"),
        "backoff": with_default(
            array(&duration("+")),
            json!(["3s", "3s", "3s", "3s", "3s", "10s", "30s", "1m", "5m"]),
            "the delay before each restart in a row; the last one repeats",
        ),
        "backoff_reset": described(time(), "an attempt that has run this long resets the delays"),
        "timeout": described(time(), "counted from the first start, restarts included; then the agent is stopped for good"),
        "idle_timeout": described(time(), "how long the agent may be `idle` or `blocked`, by the word of its harness; then it is stopped for good, as failed; see [Activity](activity.md)"),
        "grace_period": with_default(time(), json!("30s"), "the time between SIGINT and SIGKILL; halfway, what still runs gets a second SIGINT; `0s` kills at once"),
        "memory": described(
            quantity("integer", "[KkMmGgTt]([Ii]?[Bb])?|[Bb]"),
            "the limit for the agent and everything it starts: `2GiB` or `2G` (KiB, MiB, GiB, TiB, KB, MB, GB, TB)",
        ),
        "pid_limit": with_default(number(0, None), json!(0), "the limit of processes and threads of the agent and everything it starts"),
        "cpu": described(quantity("number", "%"), "the limit of processor time of the agent and everything it starts: `\"150%\"` of one processor, or `1.5`"),
        "extra_packages": with_default(
            array(&json!({ "type": "string", "minLength": 1, "maxLength": 255, "pattern": PACKAGE })),
            json!([]),
            "programs that the agent has beside those of the machine: names in nixpkgs, such as `ripgrep` or `python3Packages.numpy`, or store paths; Nix builds or downloads them as the agent user; see [Packages](#packages)",
        ),
        "extra_packages_timeout": with_default(time(), json!("10m"), "the time that Nix may take for `extra_packages`"),
        "enabled": with_default(
            json!({ "type": ["boolean", "string"], "maxLength": 0 }),
            json!(true),
            "`false`: the agent does not run; see [Stop, start, restart](using.md#stop-start-restart)",
        ),
        "generation": with_default(
            number(0, Some(MAX_GENERATION)),
            json!(0),
            "each higher number restarts the agent, also one that has ended",
        ),
        "hold": described(
            json!({ "anyOf": [
                { "type": "string", "enum": ["wait", "fail", "off", ""] },
                { "type": "boolean" },
            ] }),
            "when the credential does not work: `wait` until it does, `fail` as after every other failure, `off` for no holds; `true` is `wait`, `false` is `off`; see [Holds](holds.md)",
        ),
        "hold_retry": with_default(time(), json!("1h"), "how often one agent tries a login that did not work"),
        "replicas": with_default(
            number(1, Some(MAX_REPLICAS)),
            json!(1),
            "this many agents, `name-0`, `name-1`…, each in a session of its own",
        ),
        "type": with_default(
            json!({ "type": "string", "enum": ["native", "sandboxed", ""] }),
            json!("native"),
            "`native`, `sandboxed`; see [Sandboxes](#sandboxes); `--default-type` changes the default",
        ),
    })
}

/// The fields about sandboxes, and labels.
fn confinement_fields() -> Value {
    json!({
        "sandbox": described(
            json!({ "type": "string", "enum": ["none", "bwrap", "runsc", "crun", ""] }),
            "what makes the sandbox: `bwrap`, `runsc` or `crun`, which imply `type = \"sandboxed\"`; `none`: there is none",
        ),
        "sandbox_read": with_default(paths(), json!([]), "paths that a sandboxed agent can read in addition"),
        "sandbox_write": with_default(paths(), json!([]), "paths that a sandboxed agent can write in addition"),
        "sandbox_home": with_default(
            json!({ "type": "string", "enum": ["kept", "fresh", "real", ""] }),
            json!("kept"),
            "the home in the sandbox: `kept` is one of the agent's own that outlives its attempts, `fresh` a new one at each start, `real` the user's",
        ),
        "network": with_default(
            json!({ "type": "string", "enum": ["host", "none", ""] }),
            json!("host"),
            "the network in the sandbox: `host` is that of the machine; `none` is for `custom`, or with a `sandbox_proxy`",
        ),
        "sandbox_proxy": described(
            json!({
                "type": "string",
                "maxLength": MAX_ARGUMENT,
                "pattern": "^($|unix:~?/)",
                "not": { "pattern": "(^|/)\\.\\.(/|$)|^unix:~?(/|\\./|\\.$)*$" },
            }),
            "`unix:` and the path of the socket of an HTTP proxy, which becomes the only way out of a sandbox with `network = \"none\"`",
        ),
        "labels": with_default(
            labels(),
            json!({}),
            "what agents can be selected by: `{ team = \"web\", review = \"\" }`, or `[\"team=web\", \"review\"]`; at most 32, keys and values of at most 63 of `A-Z a-z 0-9 . _ / -`",
        ),
    })
}

fn user() -> Value {
    json!({
        "type": "string",
        "maxLength": 32,
        "pattern": "^$|^[A-Za-z0-9_][A-Za-z0-9_.-]*$",
        "description": "the user that the agent runs as; see [Users](#users)",
    })
}

fn umask() -> Value {
    json!({
        "type": "string",
        "maxLength": 4,
        "pattern": "^$|^0?[0-7]{3}$",
        "default": "0022",
        "description": "the permissions that new files do not get, in octal digits; `0002` lets the group of a shared repository write",
    })
}

/// A key of a harness. What is wrong with most of them is only a warning, so editors say more here than `agentd check` refuses.
fn of_harness(key: &keys::Key) -> Value {
    let words = || json!({ "type": "array", "items": { "type": "string" } });
    let one_of = |words: &[&str]| json!({ "type": "string", "enum": words });
    let variables = || json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let schema = match key.name {
        "binary" => json!({ "type": "string", "minLength": 1 }),
        "session_proof" | "skills_dir" => json!({ "type": "string" }),
        "stays_by_default" | "looks_behind_dashes" | "closing_record" | "session_learned" | "asks" => {
            json!({ "type": "boolean" })
        }
        "stream" => one_of(&["claude", "codex", "gemini", "opencode", "pi", "none"]),
        "hooks" => one_of(&["claude", "codex-notify", "none"]),
        "trust" => one_of(&["status", "stream"]),
        "variables" | "variables_at_terminal" => variables(),
        "approval" => json!({
            "type": "object",
            "properties": { "readonly": words(), "edits": words(), "everything": words() },
            "additionalProperties": false,
        }),
        "rules" => json!({
            "type": "array",
            "maxItems": keys::MOST_RULES,
            "items": {
                "type": "object",
                "properties": {
                    "on": one_of(&["exit", "screen"]),
                    "match": { "type": "string", "minLength": 1, "maxLength": keys::LONGEST_PATTERN },
                    "means": one_of(&["login", "quota", "blocked", "idle"]),
                },
                "required": ["on", "match", "means"],
                "additionalProperties": false,
            },
        }),
        _ => words(),
    };
    described(schema, key.holds)
}

fn described(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    schema
}

fn with_default(mut schema: Value, default: Value, description: &str) -> Value {
    schema["default"] = default;
    described(schema, description)
}

fn array(items: &Value) -> Value {
    json!({ "type": ["array", "string"], "maxLength": 0, "items": items })
}

/// Paths that a sandbox shows: neither a root, nor one that leads up.
fn paths() -> Value {
    let path = json!({
        "type": "string",
        "maxLength": MAX_ARGUMENT,
        "pattern": "^~?/",
        "not": { "pattern": "(^|/)\\.\\.(/|$)|^~?(/|\\./|\\.$)*$|^/(/|\\./)*(proc|dev|sys)(/|$)" },
    });
    let mut paths = array(&path);
    paths["maxItems"] = MOST_PATHS.into();
    paths
}

fn labels() -> Value {
    let (key, value) = (labels::KEY, labels::VALUE);
    json!({
        "type": ["object", "array", "string"],
        "maxLength": 0,
        "maxProperties": labels::MOST,
        "maxItems": labels::MOST,
        "patternProperties": {
            format!("^{key}$"): { "type": "string", "pattern": format!("^{value}$") },
        },
        "additionalProperties": false,
        "items": { "type": "string", "pattern": format!("^{key}(={value})?$") },
    })
}

fn number(minimum: u64, maximum: Option<u64>) -> Value {
    let mut schema = json!({ "type": ["integer", "string"], "maxLength": 0, "minimum": minimum });
    if let Some(maximum) = maximum {
        schema["maximum"] = maximum.into();
    }
    schema
}

/// A pattern for numbers with units, `how_many` of them (`*`, `+`), or for seconds.
fn duration(how_many: &str) -> Value {
    let pattern = format!("^\\s*(\\+?0|\\+?([0-9.]+\\s*({UNITS})\\s*){how_many})\\s*$");
    json!({ "type": ["string", "integer"], "pattern": pattern, "minimum": 0, "maximum": duration::MAX.as_secs() })
}

fn quantity(kind: &str, unit: &str) -> Value {
    let pattern = format!("^(\\s*[0-9]+(\\.[0-9]+)?\\s*({unit})?\\s*)?$");
    json!({ "type": ["string", kind], "pattern": pattern, "minimum": 0 })
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;
    use std::sync::LazyLock;

    use jsonschema::Validator;
    use proptest::prelude::*;
    use rstest::rstest;

    use super::super::{Config, fields};
    use super::*;

    static SCHEMA: LazyLock<Validator> = LazyLock::new(|| jsonschema::draft7::new(&schema()).unwrap());

    /// What an editor with this schema reports about a jcard, line by line.
    pub fn faults(text: &str) -> Vec<String> {
        // No editor can check what a library with 64-bit numbers cannot read.
        let Ok(document) = toml::from_str::<toml::Value>(text) else { return Vec::new() };
        let document = serde_json::to_value(document).unwrap();
        SCHEMA.iter_errors(&document).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    /// Asserts that the schema accepts what is read without an error.
    pub fn agrees(text: &str, config: &Config) {
        if config.error().is_none() {
            assert_eq!(faults(text), Vec::<String>::new(), "{text}");
        }
    }

    /// Asserts that the schema refuses an error that can be judged by a value alone.
    pub fn refuses(text: &str, error: &str) {
        const NOT_OF_A_VALUE: [&str; 11] = [
            "has the network of the machine",
            "does not work with runsc",
            "has a NUL character",
            "bytes long",
            "contradicts",
            "needs a sandbox",
            "without a network",
            "is there twice",
            "program in `command`",
            "9999999999",
            "too small",
        ];
        if !NOT_OF_A_VALUE.iter().any(|other| error.contains(other)) && !text.contains("9999999999") {
            assert_ne!(faults(text), Vec::<String>::new(), "{text}: {error}");
        }
    }

    #[test]
    fn the_schema_is_valid_draft_7() {
        assert!(jsonschema::draft7::meta::is_valid(&schema()));
    }

    /// The rows of the table of fields in docs/jcard.md: the field and its meaning.
    fn table() -> Vec<(String, String)> {
        let page = include_str!("../../docs/jcard.md");
        let lines = page.lines().skip_while(|line| !line.starts_with("| field | type |")).skip(2);
        let rows = lines.take_while(|line| line.starts_with('|')).map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            (cells[0].trim_matches('`').to_owned(), cells[3].to_owned())
        });
        rows.collect()
    }

    #[test]
    fn fields_are_exactly_those_read_and_documented() {
        let schema = schema();
        let described = schema["definitions"]["agent"]["properties"].as_object().unwrap();
        let fields: BTreeSet<&str> = described.keys().map(String::as_str).collect();
        assert_eq!(fields, fields::KNOWN.iter().copied().collect());
        let table = table();
        assert_eq!(fields, table.iter().map(|(field, _)| field.as_str()).collect());
        for (field, meaning) in &table {
            assert_eq!(described[field]["description"], meaning.as_str(), "{field}");
        }
    }

    #[rstest]
    #[case("[agent]\n")]
    #[case("[[agent]]\nharness = \"custom\"\n")]
    #[case("[agents]\nharness = \"custom\"\n")]
    #[case("agents = [1]\n")]
    #[case("[agent]\nharness = \"\"\n")]
    #[case("[agent]\nharness = \"claude code\"\n")]
    #[case("[agent]\nharness = \"custom\"\napproval = \"yes\"\n")]
    #[case("[harnesses.codex]\nreslts = []\n")]
    #[case("[harnesses.codex]\nasks = 1\n")]
    #[case("[[harnesses.codex.rules]]\non = \"exit\"\n")]
    #[case("[agent]\nharness = \"codex\"\nresults = 1\n")]
    #[case("[agent]\nharness = \"codex\"\nmax_cost = 0\n")]
    #[case("[agent]\nharness = \"custom\"\nname = \"a b\"\n")]
    #[case("[agent]\nharness = \"custom\"\nreplicas = 0\n")]
    #[case("[agent]\nharness = \"custom\"\nreplicas = 1001\n")]
    #[case("[agent]\nharness = \"custom\"\nmemory = \"4 giga\"\n")]
    fn the_schema_refuses_a_mistake(#[case] text: &str) {
        assert_ne!(faults(text), Vec::<String>::new());
    }

    #[rstest]
    #[case::quick_start(include_str!("../../examples/jcard.toml"))]
    #[case::harnesses(include_str!("../../examples/harness.toml"))]
    fn the_schema_accepts_the_examples(#[case] text: &str) {
        assert_eq!(faults(text), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn the_schema_accepts_every_duration(text in "[ +]?([0-9. ]{1,3} ?(n|u|µ|μ|m|k|min|hour|sec|day|month|y|w)?(s|r)? ?){0,3}") {
            let refused = !faults(&format!("[agent]\nharness = \"custom\"\ntimeout = {text:?}\n")).is_empty();
            prop_assert!(!refused || duration::parse(&text).is_err(), "{}", text);
        }

        #[test]
        fn the_schema_accepts_every_size(text in " ?[0-9]{0,3}(\\.[0-9]{0,2})? ?([kmgtKMGT]?[iI]?[bB]?|%)? ?") {
            for (key, is_one) in [("memory", crate::text::size::parse(&text).is_ok()), ("cpu", crate::text::size::percent(&text).is_ok())] {
                let refused = !faults(&format!("[agent]\nharness = \"custom\"\n{key} = {text:?}\n")).is_empty();
                prop_assert!(!refused || !is_one, "{} = {}", key, text);
            }
        }
    }
}
