//! Hooks: how a harness is made to tell what it does, and what it says then. Pure.
//!
//! The harness runs `agentd tell`, which passes on what it is given to the launcher. Nobody's files are changed for that: the command
//! line alone asks for it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::agent::approval::Asking;
use crate::agent::conversation::SessionId;
use crate::wire::activity::Doing;

/// The hidden command that passes on what a hook is given.
pub const TELL_COMMAND: &str = "tell";

/// The variable that names the socket for that.
pub const TELL_VARIABLE: &str = "AGENTD_TELL";

/// What a hook may be given, in bytes.
pub const MOST_TOLD: usize = 64 << 10;

/// The option with which the command asks, and waits for the answer.
pub const ASK_OPTION: &str = "--ask";

/// The event of Claude Code that can be answered.
const ASKS: &str = "PermissionRequest";

/// How much longer a harness waits for a hook that asks than for its answer, in seconds.
const ASK_SLACK: u64 = 30;

/// How long a harness waits for a hook, in seconds. It ends within one by itself.
const TIMEOUT: u64 = 5;

/// The events of Claude Code that tell what it does.
const OF_CLAUDE: [&str; 10] = [
    "SessionStart",
    "UserPromptSubmit",
    "PreToolUse",
    "PostToolUse",
    "PostToolUseFailure",
    "PermissionRequest",
    "Notification",
    "Stop",
    "StopFailure",
    "SessionEnd",
];

/// Which hooks a harness has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookKind {
    /// Those of Claude Code, in its settings.
    Claude,
    /// The program that Codex starts when it has done its turn.
    CodexNotify,
}

/// The hooks that an attempt is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// Which.
    pub kind: HookKind,
    /// How many of its arguments come before those that ask for hooks.
    pub at: usize,
    /// Whether it has something to do from the start.
    pub has_prompt: bool,
}

impl HookKind {
    /// Whether these arguments of an entry leave room for those that ask for hooks.
    pub fn fits_beside(self, args: &[String]) -> bool {
        let is_taken = |arg: &String| match self {
            Self::Claude => {
                arg == "--settings" || arg.starts_with("--settings=") || arg == "--bare" || arg == "--safe-mode"
            }
            Self::CodexNotify => {
                let setting = arg.strip_prefix("-c").or(arg.strip_prefix("--config")).unwrap_or(arg);
                setting.trim_start_matches(['=', ' ']).starts_with("notify=")
            }
        };
        !args.iter().any(is_taken)
    }

    /// The arguments that ask for hooks, with this program as what they run, and what it is to ask.
    pub fn arguments(self, agentd: &str, asking: Option<&Asking>) -> [String; 2] {
        match self {
            Self::Claude => {
                let command = format!("'{}' {TELL_COMMAND}", agentd.replace('\'', r"'\''"));
                let hook = |command: &str, timeout: u64| json!([{ "hooks": [{ "type": "command", "command": command, "timeout": timeout }] }]);
                let plain = hook(&command, TIMEOUT);
                let mut hooks: Map<String, Value> =
                    OF_CLAUDE.iter().map(|&event| (event.to_owned(), plain.clone())).collect();
                if let Some(asking) = asking {
                    let how = json!(asking).to_string().replace('\'', r"'\''");
                    let timeout = asking.timeout.as_secs().saturating_add(ASK_SLACK);
                    hooks.insert(ASKS.to_owned(), hook(&format!("{command} {ASK_OPTION} '{how}'"), timeout));
                }
                let mut settings = json!({ "hooks": hooks });
                if asking.is_some() {
                    // In its mode `auto`, in which it may begin, its service answers instead.
                    settings["permissions"] = json!({ "defaultMode": "default" });
                }
                ["--settings".to_owned(), settings.to_string()]
            }
            Self::CodexNotify => ["-c".to_owned(), format!("notify={}", json!([agentd, TELL_COMMAND]))],
        }
    }
}

/// What a hook says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// What the harness does, and more about it.
    Doing(Doing, Option<String>),
    /// That it uses this tool, or has used it, with this input.
    Tool(Tool),
    /// That it asks whether it may use this tool.
    Asks(Tool, String),
    /// Nothing about what it does.
    Nothing,
}

/// A use of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// The tool, and what it is given.
    pub call: String,
    /// Whether it has been used.
    pub is_over: bool,
}

/// What of a hook's input matters.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(clippy::struct_field_names, reason = "they are named as harnesses name them")]
struct Input {
    hook_event_name: String,
    notification_type: String,
    message: String,
    source: String,
    error: Value,
    tool_name: String,
    tool_input: Value,
    background_tasks: Value,
    #[serde(rename = "last-assistant-message")]
    last_message: Value,
    /// The event of Codex.
    #[serde(rename = "type")]
    kind: String,
}

/// What a hook was given, as its harness writes it. `None` if it is nothing that hooks are given.
pub fn read(text: &[u8], hooks: Hooks) -> Option<Told> {
    let input: Input = serde_json::from_slice(text).ok()?;
    match hooks.kind {
        HookKind::Claude => (!input.hook_event_name.is_empty()).then(|| of_claude(&input, hooks.has_prompt)),
        HookKind::CodexNotify => (!input.kind.is_empty()).then(|| match input.kind.as_str() {
            // What names the conversation calls the same program, while the first turn goes on.
            "agent-turn-complete" if is_title(&input.last_message) => Told::Nothing,
            "agent-turn-complete" => Told::Doing(Doing::Idle, None),
            "approval-requested" => Told::Doing(Doing::Blocked, Some("permission".to_owned())),
            _ => Told::Nothing,
        }),
    }
}

/// The conversation that a hook was called in, as far as the harness says that. A hook of Codex may be called in that of a helper.
pub fn conversation(text: &[u8], hooks: Hooks) -> Option<SessionId> {
    #[derive(Deserialize)]
    struct Input {
        session_id: String,
    }
    let input: Input = serde_json::from_slice(text).ok().filter(|_| hooks.kind == HookKind::Claude)?;
    SessionId::try_from(input.session_id).ok()
}

fn of_claude(input: &Input, has_prompt: bool) -> Told {
    let working = Told::Doing(Doing::Working, None);
    match (input.hook_event_name.as_str(), input.notification_type.as_str()) {
        // One that is compacted goes on with what it did.
        ("SessionStart", _) if has_prompt && input.source != "clear" || input.source == "compact" => working,
        ("UserPromptSubmit", _) => working,
        ("PreToolUse", _) => Told::Tool(tool(input, false)),
        ("PostToolUse" | "PostToolUseFailure", _) => Told::Tool(tool(input, true)),
        ("PermissionRequest", _) => Told::Asks(tool(input, false), wish(input)),
        ("Notification", "permission_prompt") => {
            let message = (!input.message.is_empty()).then(|| format!("permission: {}", input.message));
            Told::Doing(Doing::Blocked, Some(message.unwrap_or_else(|| "permission".to_owned())))
        }
        // Whether it may go on although it cannot have its own check made, for example.
        ("Notification", "elicitation_dialog" | "agent_needs_input") => {
            Told::Doing(Doing::Blocked, Some(input.message.clone()).filter(|message| !message.is_empty()))
        }
        // It goes on when what it started in the background is done.
        ("Stop", _) if is_any(&input.background_tasks) => working,
        ("SessionStart" | "Stop", _) | ("Notification", "idle_prompt") => Told::Doing(Doing::Idle, None),
        ("StopFailure", _) => {
            let error = input.error.as_str().or(input.error.get("type").and_then(Value::as_str)).unwrap_or_default();
            let doing = if error.starts_with("authentication") { Doing::Login } else { Doing::Idle };
            Told::Doing(doing, Some(error.to_owned()).filter(|error| !error.is_empty()))
        }
        _ => Told::Nothing,
    }
}

/// Whether this is the answer of what names a conversation: an object with a title, and nothing else.
fn is_title(message: &Value) -> bool {
    let object = message.as_str().and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
    object.is_some_and(|object| object.len() == 1 && object.contains_key("title"))
}

fn is_any(tasks: &Value) -> bool {
    tasks.as_array().is_some_and(|tasks| !tasks.is_empty()) || tasks.as_u64().is_some_and(|count| count > 0)
}

fn tool(input: &Input, is_over: bool) -> Tool {
    Tool { call: format!("{} {}", input.tool_name, input.tool_input), is_over }
}

/// What it asks for: the tool, and of its input what a person decides by.
fn wish(input: &Input) -> String {
    let of_input = |key: &str| input.tool_input.get(key).and_then(Value::as_str);
    let name = if input.tool_name.is_empty() { "a tool" } else { &input.tool_name };
    match of_input("command") {
        Some(command) => format!("permission: {name}: wants to run {command}"),
        None => match ["file_path", "path", "url", "query", "pattern"].into_iter().find_map(of_input) {
            Some(object) => format!("permission: {name}: {object}"),
            None => format!("permission: {name}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::agent::approval::{Rule, Then};

    const CLAUDE: Hooks = Hooks { kind: HookKind::Claude, at: 1, has_prompt: true };
    const CODEX: Hooks = Hooks { kind: HookKind::CodexNotify, at: 1, has_prompt: true };

    fn doing(doing: Doing, detail: Option<&str>) -> Told {
        Told::Doing(doing, detail.map(str::to_owned))
    }

    #[test]
    fn a_hook_of_claude_says_in_which_conversation_it_is_called() {
        let text = br#"{"hook_event_name":"SessionStart","source":"clear","session_id":"0b-1"}"#;
        assert_eq!(conversation(text, CLAUDE).as_ref().map(SessionId::as_str), Some("0b-1"));
        assert_eq!(conversation(text, CODEX), None);
        for text in [r#"{"session_id":"../x"}"#, r#"{"session_id":7}"#, "{}", "x"] {
            assert_eq!(conversation(text.as_bytes(), CLAUDE), None, "{text}");
        }
    }

    #[rstest]
    #[case::start(r#"{"hook_event_name":"SessionStart","source":"startup"}"#, doing(Doing::Working, None))]
    #[case::cleared(r#"{"hook_event_name":"SessionStart","source":"clear"}"#, doing(Doing::Idle, None))]
    #[case::prompt(r#"{"hook_event_name":"UserPromptSubmit","prompt":"x"}"#, doing(Doing::Working, None))]
    #[case::asks_by_notification(
        r#"{"hook_event_name":"Notification","notification_type":"permission_prompt","message":"Claude needs your permission to use Bash"}"#,
        doing(Doing::Blocked, Some("permission: Claude needs your permission to use Bash"))
    )]
    #[case::asks_for_something_else(
        r#"{"hook_event_name":"Notification","notification_type":"agent_needs_input","message":"Claude needs your input"}"#,
        doing(Doing::Blocked, Some("Claude needs your input"))
    )]
    #[case::idle(r#"{"hook_event_name":"Notification","notification_type":"idle_prompt"}"#, doing(Doing::Idle, None))]
    #[case::other_notification(
        r#"{"hook_event_name":"Notification","notification_type":"auth_success"}"#,
        Told::Nothing
    )]
    #[case::stop(r#"{"hook_event_name":"Stop","background_tasks":[]}"#, doing(Doing::Idle, None))]
    #[case::background(r#"{"hook_event_name":"Stop","background_tasks":[{"id":"b1"}]}"#, doing(Doing::Working, None))]
    #[case::login(
        r#"{"hook_event_name":"StopFailure","error":"authentication_failed"}"#,
        doing(Doing::Login, Some("authentication_failed"))
    )]
    #[case::overload(
        r#"{"hook_event_name":"StopFailure","error":"overloaded"}"#,
        doing(Doing::Idle, Some("overloaded"))
    )]
    #[case::end(r#"{"hook_event_name":"SessionEnd","reason":"other"}"#, Told::Nothing)]
    #[case::unknown(r#"{"hook_event_name":"Sneezed"}"#, Told::Nothing)]
    fn an_event_of_claude_says_what_it_does(#[case] text: &str, #[case] expected: Told) {
        assert_eq!(read(text.as_bytes(), CLAUDE), Some(expected));
    }

    #[test]
    fn a_session_without_a_prompt_begins_idle() {
        let start = br#"{"hook_event_name":"SessionStart","source":"startup"}"#;
        assert_eq!(read(start, Hooks { has_prompt: false, ..CLAUDE }), Some(doing(Doing::Idle, None)));
        let compacted = br#"{"hook_event_name":"SessionStart","source":"compact"}"#;
        assert_eq!(read(compacted, Hooks { has_prompt: false, ..CLAUDE }), Some(doing(Doing::Working, None)));
    }

    #[test]
    fn a_question_names_the_tool_and_the_command() {
        let asks = |tool: &str, input: &str| {
            let text =
                format!(r#"{{"hook_event_name":"PermissionRequest","tool_name":"{tool}","tool_input":{input}}}"#);
            match read(text.as_bytes(), CLAUDE) {
                Some(Told::Asks(_, wish)) => wish,
                told => panic!("{told:?}"),
            }
        };
        assert_eq!(asks("Bash", r#"{"command":"npm test"}"#), "permission: Bash: wants to run npm test");
        assert_eq!(asks("Edit", r#"{"file_path":"/etc/hosts"}"#), "permission: Edit: /etc/hosts");
        assert_eq!(asks("Other", "[1]"), "permission: Other");
    }

    #[test]
    fn a_use_of_a_tool_is_known_again() {
        let of = |event: &str, command: &str| {
            let text =
                format!(r#"{{"hook_event_name":"{event}","tool_name":"Bash","tool_input":{{"command":"{command}"}}}}"#);
            match read(text.as_bytes(), CLAUDE) {
                Some(Told::Tool(tool) | Told::Asks(tool, _)) => tool,
                told => panic!("{told:?}"),
            }
        };
        assert_eq!(of("PermissionRequest", "ls").call, of("PostToolUse", "ls").call);
        assert_ne!(of("PermissionRequest", "ls").call, of("PostToolUse", "id").call);
        assert!(of("PostToolUseFailure", "ls").is_over && !of("PreToolUse", "ls").is_over);
    }

    #[rstest]
    #[case(
        r#"{"type":"agent-turn-complete","thread-id":"x","last-assistant-message":"done"}"#,
        Some(doing(Doing::Idle, None))
    )]
    #[case(
        r#"{"type":"agent-turn-complete","thread-id":"y","last-assistant-message":"{\"title\": \"Fix the tests\"}"}"#,
        Some(Told::Nothing)
    )]
    #[case(r#"{"type":"agent-turn-complete","last-assistant-message":null}"#, Some(doing(Doing::Idle, None)))]
    #[case(r#"{"type":"sneezed"}"#, Some(Told::Nothing))]
    #[case(r#"{"hook_event_name":"Stop"}"#, None)]
    fn codex_says_when_its_turn_is_over(#[case] text: &str, #[case] expected: Option<Told>) {
        assert_eq!(read(text.as_bytes(), CODEX), expected);
    }

    #[test]
    fn the_arguments_name_the_program_and_nothing_else() {
        let [option, settings] = HookKind::Claude.arguments("/opt/it's here/agentd", None);
        assert_eq!(option, "--settings");
        let settings: Value = serde_json::from_str(&settings).unwrap();
        assert_eq!(settings.as_object().unwrap().len(), 1);
        let events = settings["hooks"].as_object().unwrap();
        assert_eq!(events.len(), OF_CLAUDE.len());
        for event in events.values() {
            assert_eq!(event[0]["hooks"][0]["command"], r"'/opt/it'\''s here/agentd' tell");
        }
        assert_eq!(
            HookKind::CodexNotify.arguments("/usr/bin/agentd", None),
            ["-c", r#"notify=["/usr/bin/agentd","tell"]"#]
        );
    }

    #[test]
    fn one_hook_asks_and_waits_for_the_answer() {
        let rule = Rule { pattern: "it's".to_owned(), then: Then::Allow };
        let asking = Asking { timeout: Duration::from_mins(1), rules: vec![rule] };
        let [_, settings] = HookKind::Claude.arguments("/a", Some(&asking));
        let settings: Value = serde_json::from_str(&settings).unwrap();
        let of = |event: &str| settings["hooks"][event][0]["hooks"][0].clone();
        let expected =
            r#"'/a' tell --ask '{"rules":[{"match":"it'\''s","then":"allow"}],"timeout":{"nanos":0,"secs":60}}'"#;
        assert_eq!(of("PermissionRequest")["command"], expected);
        assert_eq!(of("PermissionRequest")["timeout"], 90);
        assert_eq!(of("Stop")["command"], "'/a' tell");
        assert_eq!(settings["permissions"], serde_json::json!({ "defaultMode": "default" }));
    }

    #[test]
    fn an_entry_that_has_settings_of_its_own_is_given_no_hooks() {
        let fits =
            |kind: HookKind, args: &[&str]| kind.fits_beside(&args.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert!(fits(HookKind::Claude, &["--model", "x"]));
        for args in [&["--settings", "x.json"][..], &["--settings={}"], &["--bare"], &["--safe-mode"]] {
            assert!(!fits(HookKind::Claude, args), "{args:?}");
        }
        assert!(fits(HookKind::CodexNotify, &["-c", "model=\"x\"", "-s", "workspace-write"]));
        for args in [&["-c", "notify=[]"][..], &["-cnotify=[]"], &["--config=notify=[]"], &["--config", "notify=[]"]] {
            assert!(!fits(HookKind::CodexNotify, args), "{args:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_says_nothing_of_work(text in prop::collection::vec(any::<u8>(), 0..200)) {
            for hooks in [CLAUDE, CODEX] {
                prop_assert!(matches!(read(&text, hooks), None | Some(Told::Nothing)));
            }
        }
    }
}
