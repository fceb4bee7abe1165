mod mistakes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::agent::conversation::{RESUME_PROMPT, Resume};
use crate::agent::harness::{Harness, shipped};
use crate::agent::hold::OnHold;
use crate::agent::name::{InvalidName, Name};
use crate::agent::packages::Package;
use crate::agent::rotation::Rotation;
use crate::agent::sandbox::{Engine, Home, Network, Sandbox};
use crate::agent::spec::{ByDefault, Kind, Limits, Policy, Prompt, Restart, Workdir};
use crate::agent::user::UserName;
use crate::sys::exec::MAX_ARGUMENT;
use crate::sys::secret_bytes::SecretBytes;

fn read(text: &str) -> Config {
    let config = parse(text.as_bytes(), &Options::default()).unwrap();
    schema::tests::agrees(text, &config);
    config
}

fn names(config: &Config) -> Vec<&str> {
    config.entries.iter().map(|entry| entry.name.as_str()).collect()
}

fn told(config: &Config) -> Vec<String> {
    config.findings.iter().map(ToString::to_string).collect()
}

/// The only agent of a jcard without findings.
fn agent(text: &str) -> AgentSpec {
    let config = read(text);
    assert_eq!(told(&config), Vec::<String>::new(), "{text}");
    assert!(config.complete);
    assert_eq!(config.entries.len(), 1);
    config.entries[0].spec.clone().unwrap()
}

/// The agent of an `[agent]` section with these lines after its harness.
fn agent_with(lines: &str) -> AgentSpec {
    agent(&format!("[agent]\nharness = \"custom\"\n{lines}\n"))
}

/// The agent of such a section about which there are warnings.
fn agent_despite_warnings(lines: &str) -> AgentSpec {
    let config = read(&format!("[agent]\nharness = \"custom\"\n{lines}\n"));
    assert!(config.error().is_none() && config.warning().is_some(), "{lines}");
    config.entries[0].spec.clone().unwrap()
}

/// The error of an `[agent]` section with these lines from line 3 on; there must be no other finding.
fn error_with(lines: &str) -> String {
    let text = format!("[agent]\nharness = \"custom\"\n{lines}\n");
    let config = read(&text);
    assert!(config.complete, "{lines}");
    assert_eq!(names(&config), ["custom"]);
    let error = config.entries[0].spec.clone().unwrap_err();
    assert_eq!(config.error().as_ref(), Some(&error));
    schema::tests::refuses(&text, &error);
    error
}

mod the_file {
    use super::*;

    fn refusal(text: impl AsRef<[u8]>) -> String {
        let findings = parse(text.as_ref(), &Options::default()).unwrap_err();
        assert!(findings.iter().all(|finding| finding.severity == Severity::Error));
        tell(&findings)
    }

    #[rstest]
    #[case("")]
    #[case("\n")]
    #[case(" \t\r\n")]
    #[case("\u{feff}")]
    #[case("\u{feff}\n")]
    fn a_file_of_white_space_is_unusable(#[case] text: &str) {
        assert!(refusal(text).starts_with("1:1: the file is empty; a jcard without agents still has a section"));
    }

    #[test]
    fn invalid_utf_8_is_unusable_and_located() {
        assert_eq!(refusal(b"[a]\nx = \"\xc3\xa9\xff\"\n"), "2:7: the file is not text in UTF-8; save it as UTF-8");
    }

    #[rstest]
    #[case("[agent]\nharness = \"claude-code\"\nprompt = sk-secret\n", 3)]
    #[case("[agent]\nenv = { KEY = \"sk-secret }\n", 2)]
    #[case("[agent]\nprompt = \"sk-secret\\q\"\n", 2)]
    #[case("[agent]\nprompt = \"\"\"sk-secret\n", 3)]
    #[case("[agent]\nprompt = \"a\"\nprompt = \"sk-secret\"\n", 3)]
    #[case("sk-secret\n", 1)]
    fn invalid_toml_is_unusable_located_and_not_quoted(#[case] text: &str, #[case] line: usize) {
        let refusal = refusal(text);
        assert!(refusal.starts_with(&format!("{line}:")), "{refusal}");
        assert!(refusal.contains("the file is not valid TOML: "), "{refusal}");
        assert!(!refusal.contains("secret"), "{refusal}");
    }

    #[rstest]
    #[case("# no agents today\n")]
    #[case("[mixtape]\nname = \"x\"\n")]
    #[case("agents = []\n")]
    fn a_jcard_without_agents_is_complete(#[case] text: &str) {
        assert_eq!(
            read(text),
            Config {
                entries: vec![],
                harnesses: shipped().to_vec(),
                findings: vec![],
                sandbox_expected: vec![],
                complete: true
            }
        );
    }

    #[test]
    fn other_sections_hold_anything() {
        let text = "title = 5\n[resources]\nmemory = 8192\ncpus = \"2\"\n[[network]]\nmode = []\n[secrets]\nharness = 1\n\
                    [agentd]\nname = false\n[agent]\nharness = \"claude-code\"\n[shared]\nagent = { harness = 1 }\n";
        assert_eq!(agent(text).name.as_str(), "claude-code");
    }

    #[test]
    fn a_byte_order_mark_and_crlf_are_accepted_and_not_counted() {
        let config = read("\u{feff}agent.harness = \"claude-code\"\r\nagent.promt = \"x\"\r\n");
        assert_eq!(names(&config), ["claude-code"]);
        assert_eq!(told(&config), ["2:7: unknown key \"promt\" is ignored; did you mean `prompt`?"]);
        assert_eq!(told(&read("\u{feff}agent.harness = 1\n"))[0].split(": ").next(), Some("1:17"));
    }

    #[rstest]
    #[case(
        "[[agent]]\nharness = \"custom\"\n",
        "1:1: `agent` is an array; write [agent] above one agent, or [[agents]] above each of several"
    )]
    #[case(
        "agent = \"custom\"\n",
        "1:9: `agent` is a string; write [agent] above one agent, or [[agents]] above each of several"
    )]
    #[case(
        "[agents]\nharness = \"custom\"\n",
        "1:1: `agents` is a table; write [[agents]], in double brackets, above each agent"
    )]
    #[case(
        "[agents.custom]\nharness = \"custom\"\n",
        "1:2: `agents` is a table; write [[agents]], in double brackets, above each agent"
    )]
    #[case("agents = 3\n", "1:10: `agents` is an integer; write [[agents]], in double brackets, above each agent")]
    #[case("agents = [{ harness = \"custom\" }, 3]\n", "1:35: an entry of `agents` is an integer; write a table")]
    fn a_section_of_the_wrong_kind_leaves_the_agents_unknown(#[case] text: &str, #[case] error: &str) {
        let config = read(text);
        assert!(!config.complete);
        assert_eq!(config.error().as_deref(), Some(error));
        assert!(config.entries.iter().all(|entry| entry.spec.is_ok()));
    }

    #[test]
    fn of_very_many_errors_the_first_are_listed() {
        let config = read(&format!("agents = [{}]\n", "1,".repeat(100_000)));
        assert_eq!(config.findings.len(), MAX_AGENTS + 1);
        assert_eq!(
            config.findings.last().unwrap().to_string(),
            "1:20011: there are too many entries; declare at most 10000 agents"
        );
        let error = config.error().unwrap();
        assert_eq!(error.lines().count(), MAX_TOLD + 1);
        assert!(error.ends_with("and 9951 more"));
    }

    #[test]
    fn findings_of_one_entry_are_limited() {
        let unknown_keys: String = (0..1_000).fold(String::new(), |text, number| text + &format!("x{number} = 1\n"));
        let config = read(&format!("[agent]\nharness = \"custom\"\nargs = [{}]\n{unknown_keys}", "1,".repeat(1_000)));
        assert_eq!(config.findings.len(), 2 * (MAX_NOTED + 1));
        let rest = "there is more like this in the entry, which is not listed; fix what is listed first";
        assert!(config.findings.last().unwrap().to_string().ends_with(rest));
        assert!(config.entries[0].spec.is_err());
    }
}

mod defaults {
    use super::*;

    fn plain() -> AgentSpec {
        AgentSpec {
            resume_prompt: RESUME_PROMPT.to_owned(),
            name: "claude-code".parse().unwrap(),
            harness: Harness::find("claude-code").unwrap(),
            command: vec!["claude".into()],
            args: vec![],
            prompt: None,
            interactive: None,
            results: false,
            approval: None,
            asking: None,
            workdir: Workdir::Absolute("/home/agent/workspace".into()),
            session: "claude-code".parse().unwrap(),
            user: None,
            umask: None,
            trust_repository: false,
            env: BTreeMap::new(),
            secrets: None,
            secret_files: false,
            skills: Vec::new(),
            packages: Vec::new(),
            packages_timeout: Duration::from_mins(10),
            kind: Kind::Native,
            policy: Policy {
                resume: Resume::Never,
                restart: Restart::No,
                max_restarts: None,
                timeout: None,
                idle_timeout: None,
                grace_period: Duration::from_secs(30),
                backoff: [3, 3, 3, 3, 3, 10, 30, 60, 300].map(Duration::from_secs).to_vec(),
                backoff_reset: Some(Duration::from_mins(10)),
                limits: Limits::default(),
                enabled: true,
                generation: 0,
                labels: BTreeMap::new(),
                max_cost: None,
                results: None,
                hold: OnHold::Wait,
                hold_retry: Duration::from_hours(1),
                by_default: ByDefault::default(),
                rotation: Rotation::default(),
            },
        }
    }

    #[test]
    fn fill_in_for_every_absent_field() {
        assert_eq!(agent("[agent]\nharness = \"claude-code\"\n"), plain());
    }

    #[test]
    fn give_an_agent_of_another_user_a_workdir_in_its_home() {
        let spec = agent("[agent]\nharness = \"claude-code\"\nuser = \"reviewer\"\n");
        assert_eq!(spec.user.as_ref().map(UserName::as_str), Some("reviewer"));
        assert_eq!(spec.workdir, Workdir::Home("workspace".into()));
    }

    #[test]
    fn take_a_umask_in_octal_digits() {
        let umask = |text: &str| agent(&format!("[agent]\nharness = \"claude-code\"\numask = {text:?}\n")).umask;
        assert_eq!(["0002", "077", "0000"].map(umask), [Some(0o002), Some(0o077), Some(0)]);
    }

    #[test]
    fn fill_in_for_every_empty_string() {
        let mut text = "[agent]\nharness = \"claude-code\"\n".to_owned();
        for key in [
            "name",
            "command",
            "args",
            "prompt",
            "prompt_file",
            "interactive",
            "workdir",
            "restart",
            "max_restarts",
            "timeout",
            "idle_timeout",
            "grace_period",
            "session",
            "user",
            "umask",
            "trust_repository",
            "env",
            "secrets",
            "backoff",
            "backoff_reset",
            "replicas",
            "type",
            "memory",
            "cpu",
            "extra_packages",
        ] {
            writeln!(text, "{key} = \"\"").unwrap();
        }
        assert_eq!(agent(&text), plain());
    }

    #[rstest::rstest]
    #[case("", 9, Some(600))]
    #[case("backoff_reset = \"1h\"", 9, Some(3600))]
    #[case("backoff = [\"5s\"]", 1, None)]
    #[case("backoff = [\"5s\"]\nbackoff_reset = \"1h\"", 1, Some(3600))]
    #[case("backoff = []\nbackoff_reset = \"\"", 9, Some(600))]
    fn the_delays_start_over_unless_the_entry_gives_its_own(
        #[case] lines: &str,
        #[case] steps: usize,
        #[case] reset: Option<u64>,
    ) {
        let policy = agent(&format!("[agent]\nharness = \"claude-code\"\nrestart = \"on-failure\"\n{lines}\n")).policy;
        assert_eq!((policy.backoff.len(), policy.backoff_reset), (steps, reset.map(Duration::from_secs)));
    }

    #[test]
    fn fill_in_for_the_zero_values_that_writers_emit() {
        let text = "[agent]\nharness = \"claude-code\"\ncommand = []\nargs = []\nmax_restarts = 0\ntimeout = 0\nbackoff = []\n\
                    backoff_reset = 0\nreplicas = 1\npid_limit = 0\nextra_packages = []\n[agent.env]\n";
        assert_eq!(agent(text), plain());
    }
}

mod fields {
    use super::*;

    #[test]
    fn all_are_read() {
        let spec = agent(
            r#"
            [[agents]]
            name = "reviewer"
            harness = "gemini-cli"
            command = ["/opt/gemini", "--yolo"]
            args = ["--model", "", "a b"]
            prompt = "cd $HOME && make; echo \"é\"\n"
            interactive = false
            workdir = "/workspace"
            restart = "on-failure"
            max_restarts = 5
            timeout = "2h45m30s"
            grace_period = "1m"
            session = "review"
            secrets = ["API_KEY", "TOKEN", "API_KEY"]
            backoff = ["200ms", "1s", 5]
            backoff_reset = "10 min"
            type = "native"
            memory = "1.5GiB"
            pid_limit = 512
            cpu = "150%"
            enabled = false
            generation = 7
            env = { RUST_LOG = "debug", LITERAL = "${HOME}", EMPTY = "" }
            "#,
        );
        let text = |text: &str| text.to_owned();
        assert_eq!(
            spec,
            AgentSpec {
                resume_prompt: RESUME_PROMPT.to_owned(),
                name: "reviewer".parse().unwrap(),
                harness: Harness::find("gemini-cli").unwrap(),
                command: vec![text("/opt/gemini"), text("--yolo")],
                args: vec![text("--model"), text(""), text("a b")],
                prompt: Some(Prompt::Text(text("cd $HOME && make; echo \"é\"\n"))),
                interactive: Some(false),
                results: false,
                approval: None,
                asking: None,
                workdir: Workdir::Absolute("/workspace".into()),
                session: "review".parse().unwrap(),
                user: None,
                umask: None,
                trust_repository: false,
                env: [("RUST_LOG", "debug"), ("LITERAL", "${HOME}"), ("EMPTY", "")]
                    .map(|(name, value)| (text(name), SecretBytes::from(value)))
                    .into(),
                secrets: Some(["API_KEY", "TOKEN"].map(|name| (text(name), text(name))).into()),
                secret_files: false,
                skills: Vec::new(),
                packages: Vec::new(),
                packages_timeout: Duration::from_mins(10),
                kind: Kind::Native,
                policy: Policy {
                    resume: Resume::Never,
                    restart: Restart::OnFailure,
                    max_restarts: Some(5),
                    timeout: Some(Duration::from_secs(9930)),
                    idle_timeout: None,
                    grace_period: Duration::from_mins(1),
                    backoff: vec![Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5)],
                    backoff_reset: Some(Duration::from_mins(10)),
                    limits: Limits { memory: Some(3 << 29), tasks: Some(512), cpu: Some(150) },
                    enabled: false,
                    generation: 7,
                    labels: BTreeMap::new(),
                    max_cost: None,
                    results: None,
                    hold: OnHold::Wait,
                    hold_retry: Duration::from_hours(1),
                    by_default: ByDefault::default(),
                    rotation: Rotation::default(),
                },
            }
        );
    }

    #[rstest]
    #[case("claude-code", "claude")]
    #[case("opencode", "opencode")]
    #[case("gemini-cli", "gemini")]
    #[case("codex", "codex")]
    #[case("custom", "agent")]
    fn each_preset_has_its_binary(#[case] harness: &str, #[case] binary: &str) {
        assert_eq!(agent(&format!("[agent]\nharness = \"{harness}\"\n")).command, [binary]);
    }

    #[rstest]
    #[case(
        "memory = \"4 giga\"",
        "`memory` cannot be read; write a size like \"2GiB\" or \"2G\" (KiB, MiB, GiB, TiB, KB, MB, GB, TB), or a whole number of bytes"
    )]
    #[case(
        "memory = -1",
        "`memory` is out of range, which is from 0 to 18446744073709551615 bytes (16 EiB less one byte); write a size like \"2GiB\" or \"2G\" (KiB, MiB, GiB, TiB, KB, MB, GB, TB), or a whole number of bytes"
    )]
    #[case(
        "cpu = \"half\"",
        "`cpu` cannot be read; write a share of one processor like \"150%\", or a number of processors like 1.5"
    )]
    #[case(
        "memory = \"99999999999GiB\"",
        "`memory` is out of range, which is from 0 to 18446744073709551615 bytes (16 EiB less one byte); write a size like \"2GiB\" or \"2G\" (KiB, MiB, GiB, TiB, KB, MB, GB, TB), or a whole number of bytes"
    )]
    #[case(
        "memory = 99999999999999999999999999999999999999999",
        "`memory` is out of range, which is from 0 to 18446744073709551615 bytes (16 EiB less one byte); write a size like \"2GiB\" or \"2G\" (KiB, MiB, GiB, TiB, KB, MB, GB, TB), or a whole number of bytes"
    )]
    #[case(
        "cpu = \"99999999999999999999%\"",
        "`cpu` is out of range, which is from 0 to 18446744073709551615%; write a share of one processor like \"150%\", or a number of processors like 1.5"
    )]
    #[case(
        "cpu = -1.5",
        "`cpu` is out of range, which is from 0 to 18446744073709551615%; write a share of one processor like \"150%\", or a number of processors like 1.5"
    )]
    #[case(
        "generation = 9007199254740992",
        "`generation` is out of range; write a whole number from 0 to 9007199254740991; each higher one restarts the agent"
    )]
    #[case("enabled = \"no\"", "`enabled` is a string; write true or false, without quotes")]
    #[case(
        "pid_limit = 99999999999999999999",
        "`pid_limit` is out of range; write a whole number from 0 to 18446744073709551615, where 0 is no limit"
    )]
    #[case(
        "cpu = []",
        "`cpu` cannot be read; write a share of one processor like \"150%\", or a number of processors like 1.5"
    )]
    #[case(
        "pid_limit = \"many\"",
        "`pid_limit` is a string; write a whole number from 0 to 18446744073709551615, where 0 is no limit"
    )]
    #[case(
        "cpu = \"0.5%\"",
        "`cpu` is too small to be a limit; write a share of one processor like \"150%\", or a number of processors like 1.5"
    )]
    #[case(
        "memory = \"0.5b\"",
        "`memory` is too small to be a limit; write a size like \"2GiB\" or \"2G\" (KiB, MiB, GiB, TiB, KB, MB, GB, TB), or a whole number of bytes"
    )]
    fn a_limit_that_cannot_be_read_is_an_error(#[case] line: &str, #[case] error: &str) {
        let config = read(&format!("[agent]\nharness = \"custom\"\n{line}\n"));
        assert!(told(&config).len() == 1 && told(&config)[0].ends_with(error), "{:?}", told(&config));
        assert!(config.entries[0].spec.is_err());
    }

    #[rstest]
    #[case("memory = 1048576\npid_limit = 3\ncpu = 2", Limits { memory: Some(1 << 20), tasks: Some(3), cpu: Some(200) })]
    #[case("memory = \"1.5gib\"\ncpu = 0.5", Limits { memory: Some(3 << 29), tasks: None, cpu: Some(50) })]
    #[case("memory = 0\npid_limit = 0\ncpu = 0", Limits::default())]
    #[case("memory = \"0GiB\"\ncpu = 0.0", Limits::default())]
    fn limits_are_read(#[case] lines: &str, #[case] limits: Limits) {
        assert_eq!(agent_with(lines).policy.limits, limits);
    }

    #[rstest]
    #[case("interactive = true", Some(true))]
    #[case("interactive = false", Some(false))]
    #[case("", None)]
    fn interactive_is_true_false_or_unset(#[case] line: &str, #[case] expected: Option<bool>) {
        let spec =
            agent(&format!("[agent]\nharness = \"claude-code\"\nprompt = \"x\"\napproval = \"edits\"\n{line}\n"));
        assert_eq!(spec.interactive, expected);
    }

    #[rstest]
    #[case("codex", "prompt = \"-\"", "3:10: codex takes the prompt for an order to read its terminal; write the")]
    #[case("codex", "interactive = false", "3:15: `interactive = false` needs something to do; write a `prompt` or")]
    #[case(
        "codex",
        "prompt = \"x\"\ninteractive = \"no\"",
        "4:15: `interactive` is a string; write true or false, without"
    )]
    fn a_prompt_that_cannot_be_followed_is_an_error(#[case] harness: &str, #[case] lines: &str, #[case] error: &str) {
        let config = read(&format!("[agent]\nharness = \"{harness}\"\n{lines}\n"));
        assert_eq!(told(&config).len(), 1);
        assert!(config.error().unwrap().starts_with(error), "{:?}", config.error());
    }

    #[rstest]
    #[case(
        "custom",
        "prompt = \"- fix it\"",
        "3:10: the `prompt` begins like an option or the name of a file; end `args`"
    )]
    #[case("custom", "prompt = \"@x\"\nargs = [\"--\", \"y\"]", "3:10: the `prompt` begins like an option or the name")]
    #[case("custom", "interactive = true", "3:15: `interactive` is ignored; what a custom command does is for its")]
    #[case("codex", "prompt = \" \\n\"", "3:10: the `prompt` is nothing but white space; say what there is to do")]
    #[case("gemini-cli", "prompt_file = \"x\"", "2:11: gemini-cli stays at its terminal when it is done with the")]
    #[case("opencode", "prompt = \"x\"", "2:11: opencode stays at its terminal when it is done with the prompt, and")]
    fn a_prompt_that_may_be_misunderstood_causes_a_warning(
        #[case] harness: &str,
        #[case] lines: &str,
        #[case] warning: &str,
    ) {
        let config = read(&format!("[agent]\nharness = \"{harness}\"\n{lines}\n"));
        assert!(config.error().is_none());
        assert!(told(&config).len() == 1 && told(&config)[0].starts_with(warning), "{:?}", told(&config));
    }

    #[rstest]
    #[case("custom", "prompt = \"- fix it\"\nargs = [\"--\"]")]
    #[case("claude-code", "prompt = \"- fix it\"\napproval = \"edits\"")]
    #[case("gemini-cli", "prompt = \"- fix it\"\nargs = [\"--yolo\"]")]
    #[case("gemini-cli", "prompt = \"fix it\"\napproval = \"edits\"\nargs = [\"-p\"]")]
    #[case("gemini-cli", "prompt = \"fix it\"\ninteractive = true")]
    #[case("opencode", "prompt = \"fix it\"\ninteractive = false")]
    #[case("opencode", "")]
    fn a_clear_prompt_causes_no_warning(#[case] harness: &str, #[case] lines: &str) {
        agent(&format!("[agent]\nharness = \"{harness}\"\n{lines}\n"));
    }

    #[test]
    fn the_warning_of_agents_that_never_end_is_given_once() {
        let entry = |name: &str| format!("[[agents]]\nname = \"{name}\"\nharness = \"opencode\"\nprompt = \"x\"\n");
        assert_eq!(told(&read(&(entry("a") + &entry("b")))).len(), 1);
    }

    #[test]
    fn a_command_in_one_string_is_one_program() {
        assert_eq!(agent_despite_warnings("command = \"my agent --fast\"").command, ["my agent --fast"]);
    }

    #[test]
    fn prompt_file_takes_precedence() {
        let spec = agent_despite_warnings("prompt = \"x\"\nprompt_file = \"prompts/x.md\"");
        assert_eq!(spec.prompt, Some(Prompt::File("prompts/x.md".into())));
    }

    #[test]
    fn numbers_and_booleans_in_env_are_passed_as_text() {
        let spec = agent_with("env = { PORT = 8080, MASK = 0x1F, BIG = 1_000, RATIO = 1.50, DEBUG = true }");
        let value = |name: &str| String::from_utf8(spec.env[name].as_slice().to_vec()).unwrap();
        let values = ["PORT", "MASK", "BIG", "RATIO", "DEBUG"].map(value);
        assert_eq!(values, ["8080", "31", "1000", "1.50", "true"]);
    }

    #[rstest]
    #[case("~", "")]
    #[case("~/", "")]
    #[case("~/a/b", "a/b")]
    #[case("~//etc", "etc")]
    fn a_workdir_below_home_stays_below_home(#[case] workdir: &str, #[case] rest: &str) {
        assert_eq!(agent_with(&format!("workdir = \"{workdir}\"")).workdir, Workdir::Home(rest.into()));
    }

    #[rstest]
    #[case("timeout = 1800", Some(1800))]
    #[case("timeout = \"30m\"", Some(1800))]
    #[case("timeout = \"2 hours 30 min\"", Some(9000))]
    #[case("timeout = 0x10", Some(16))]
    #[case("timeout = 0", None)]
    #[case("timeout = \"0\"", None)]
    #[case("timeout = \"0s\"", None)]
    fn timeout_is_a_duration_or_seconds_and_zero_is_none(#[case] line: &str, #[case] seconds: Option<u64>) {
        assert_eq!(agent_with(line).policy.timeout, seconds.map(Duration::from_secs));
    }

    #[rstest]
    #[case("grace_period = \"0s\"", 0)]
    #[case("grace_period = 0", 0)]
    #[case("grace_period = 60", 60)]
    fn grace_period_may_be_zero(#[case] line: &str, #[case] seconds: u64) {
        assert_eq!(agent_with(line).policy.grace_period, Duration::from_secs(seconds));
    }

    #[test]
    fn an_empty_list_of_secrets_passes_none() {
        assert_eq!(agent_with("secrets = []").secrets, Some(BTreeMap::new()));
    }

    #[test]
    fn env_may_be_a_separate_table_or_dotted() {
        let inline = agent_with("env = { A = \"1\" }");
        assert_eq!(agent_with("env.A = \"1\""), inline);
        assert_eq!(agent_with("[agent.env]\nA = \"1\""), inline);
    }

    /// The kind of an entry with these lines, under these options.
    fn kind(lines: &str, options: &Options) -> Kind {
        let text = format!("[agent]\nharness = \"custom\"\n{lines}\n");
        let config = parse(text.as_bytes(), options).unwrap();
        assert_eq!(config.findings, [], "{lines}");
        config.entries[0].spec.as_ref().unwrap().kind.clone()
    }

    fn plain_sandbox(engine: Engine) -> Sandbox {
        let (read, write, seed) = (vec![], vec![], vec![]);
        Sandbox { engine, program: None, read, write, home: Home::Kept, seed, network: Network::Host, proxy: None }
    }

    #[rstest]
    #[case("", None)]
    #[case("type = \"native\"", None)]
    #[case("sandbox = \"none\"", None)]
    #[case("type = \"native\"\nsandbox = \"none\"", None)]
    #[case("type = \"sandboxed\"", Some(Engine::Bwrap))]
    #[case("type = \"sandboxed\"\nsandbox = \"\"", Some(Engine::Bwrap))]
    #[case("sandbox = \"bwrap\"", Some(Engine::Bwrap))]
    #[case("sandbox = \"runsc\"", Some(Engine::Runsc))]
    #[case("type = \"sandboxed\"\nsandbox = \"crun\"", Some(Engine::Crun))]
    fn type_or_sandbox_says_whether_there_is_a_sandbox(#[case] lines: &str, #[case] engine: Option<Engine>) {
        let expected = engine.map_or(Kind::Native, |engine| Kind::Sandboxed(plain_sandbox(engine)));
        assert_eq!(kind(lines, &Options::default()), expected);
        let expected = if engine.is_some() { Kind::Unsandboxed } else { Kind::Native };
        assert_eq!(kind(lines, &Options { unsandboxed: true, ..Options::default() }), expected);
    }

    #[test]
    fn options_say_what_an_entry_leaves_open() {
        let options = || Options {
            default_type: DefaultType::Sandboxed,
            engine: Engine::Runsc,
            runsc: Some("/opt/runsc".into()),
            ..Options::default()
        };
        let runsc = Sandbox { program: Some("/opt/runsc".into()), ..plain_sandbox(Engine::Runsc) };
        assert_eq!(kind("", &options()), Kind::Sandboxed(runsc.clone()));
        assert_eq!(kind("type = \"sandboxed\"", &options()), Kind::Sandboxed(runsc.clone()));
        assert_eq!(kind("sandbox = \"bwrap\"", &options()), Kind::Sandboxed(plain_sandbox(Engine::Bwrap)));
        assert_eq!(kind("type = \"native\"", &options()), Kind::Native);
        assert_eq!(kind("sandbox = \"none\"", &options()), Kind::Native);
        assert_eq!(kind("memory = \"1GiB\"", &options()), Kind::Sandboxed(runsc));
        assert_eq!(kind("", &Options { unsandboxed: true, ..options() }), Kind::Unsandboxed);
    }

    #[test]
    fn a_sandbox_has_what_its_entry_says() {
        let lines = "type = \"sandboxed\"\nsandbox_read = [\"/srv//x/\", \"~/.cache\"]\nsandbox_write = [\"/srv/./y\"]\n\
                     sandbox_home = \"fresh\"\nnetwork = \"none\"";
        let expected = Sandbox {
            read: vec!["/srv/x".into(), "~/.cache".into()],
            write: vec!["/srv/y".into()],
            home: Home::Fresh,
            network: Network::None,
            ..plain_sandbox(Engine::Bwrap)
        };
        assert_eq!(kind(lines, &Options::default()), Kind::Sandboxed(expected));
    }

    #[test]
    fn a_proxy_lets_a_preset_do_without_a_network() {
        let text =
            |proxy: &str| format!("[agent]\nharness = \"codex\"\nsandbox = \"bwrap\"\nnetwork = \"none\"\n{proxy}\n");
        let spec = agent(&text("sandbox_proxy = \"unix:~/proxy\""));
        assert_eq!(spec.kind.sandbox().unwrap().proxy, Some("~/proxy".into()));
        let config = parse(text("").as_bytes(), &Options::default()).unwrap();
        let wrong = config.entries[0].spec.as_ref().unwrap_err();
        assert!(wrong.contains("write `network = \"host\"`, a `sandbox_proxy`, or"), "{wrong}");
    }

    #[rstest]
    #[case("claude-code", &[".claude.json", ".claude/.credentials.json", ".claude/settings.json", ".claude/CLAUDE.md"])]
    #[case("codex", &[".codex/auth.json", ".codex/config.toml"])]
    #[case("gemini-cli", &[".gemini/oauth_creds.json", ".gemini/settings.json", ".gemini/installation_id"])]
    #[case("opencode", &[".local/share/opencode/auth.json", ".config/opencode/opencode.json"])]
    #[case("custom", &[])]
    fn a_home_is_filled_with_what_its_harness_needs(#[case] harness: &str, #[case] among: &[&str]) {
        let spec = agent(&format!("[agent]\nharness = \"{harness}\"\ntype = \"sandboxed\"\n"));
        let seed = &spec.kind.sandbox().unwrap().seed;
        let all: Vec<PathBuf> = Harness::find(harness).unwrap().home_keep.iter().map(PathBuf::from).collect();
        assert_eq!(*seed, all);
        assert!(among.iter().all(|path| seed.contains(&PathBuf::from(path))), "{seed:?}");
    }

    #[rstest]
    #[case("", None, None)]
    #[case("type = \"native\"", None, None)]
    #[case("type = \"sandboxed\"", Some(2 << 30), Some(512))]
    #[case("sandbox = \"crun\"", Some(2 << 30), Some(512))]
    #[case("type = \"sandboxed\"\nmemory = \"\"\npid_limit = 0", Some(2 << 30), Some(512))]
    #[case("type = \"sandboxed\"\nmemory = \"1GiB\"", Some(1 << 30), Some(512))]
    #[case("type = \"sandboxed\"\npid_limit = 7", Some(2 << 30), Some(7))]
    fn only_sandboxed_agents_have_limits_by_default(
        #[case] lines: &str,
        #[case] memory: Option<u64>,
        #[case] tasks: Option<u64>,
    ) {
        let limits = agent_with(lines).policy.limits;
        assert_eq!(limits, Limits { memory, tasks, cpu: None });
        let unsandboxed = Options { unsandboxed: true, ..Options::default() };
        let text = format!("[agent]\nharness = \"custom\"\n{lines}\n");
        let config = parse(text.as_bytes(), &unsandboxed).unwrap();
        let given = config.entries[0].spec.as_ref().unwrap().policy.limits;
        assert!(given.memory.is_none_or(|memory| memory == 1 << 30) && given.tasks.is_none_or(|tasks| tasks == 7));
    }

    #[rstest]
    #[case("", false, false, false)]
    #[case("type = \"sandboxed\"", false, false, true)]
    #[case("sandbox = \"crun\"\nmemory = \"\"\npid_limit = 0", false, false, true)]
    #[case("type = \"sandboxed\"\ncpu = 1", false, false, false)]
    #[case("type = \"sandboxed\"\nmemory = \"2GiB\"", false, false, false)]
    #[case("", true, true, true)]
    #[case("memory = \"1GiB\"", true, true, false)]
    #[case("sandbox = \"crun\"", true, false, true)]
    #[case("type = \"native\"", true, false, false)]
    fn what_an_entry_leaves_open_is_known(
        #[case] lines: &str,
        #[case] is_default: bool,
        #[case] sandbox: bool,
        #[case] limits: bool,
    ) {
        let default_type = if is_default { DefaultType::Sandboxed } else { DefaultType::Native };
        let text = format!("[agent]\nharness = \"custom\"\n{lines}\n");
        let config = parse(text.as_bytes(), &Options { default_type, ..Options::default() }).unwrap();
        let by_default = config.entries[0].spec.as_ref().unwrap().policy.by_default;
        assert_eq!(by_default, ByDefault { sandbox, limits });
    }

    #[rstest]
    #[case("secrets = [\"A\", \"B\"]", &[("A", "A"), ("B", "B")])]
    #[case("secrets = { A = \"A\" }", &[("A", "A")])]
    #[case("secrets = {}", &[])]
    #[case("secrets = { GH_TOKEN = \"github-reviewer\", GITHUB_TOKEN = \"github-reviewer\" }", &[("GH_TOKEN", "github-reviewer"), ("GITHUB_TOKEN", "github-reviewer")])]
    #[case("secrets.A = \"1.key@host+x\"", &[("A", "1.key@host+x")])]
    fn secrets_are_names_or_variables_with_files(#[case] line: &str, #[case] expected: &[(&str, &str)]) {
        let expected = expected.iter().map(|&(name, file)| (name.to_owned(), file.to_owned())).collect();
        assert_eq!(agent_with(line).secrets, Some(expected));
    }

    #[rstest]
    #[case("labels = { team = \"web\", review = \"\" }")]
    #[case("labels = [\"team=web\", \"review\"]")]
    #[case("labels = [\"review=\", \"team=web\"]")]
    #[case("labels.team = \"web\"\nlabels.review = \"\"")]
    fn labels_are_a_table_or_an_array(#[case] lines: &str) {
        let expected = [("review", ""), ("team", "web")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(agent_with(lines).policy.labels, expected.into());
    }

    #[test]
    fn at_most_32_labels_are_accepted() {
        let of = |count: usize| {
            let labels: Vec<String> = (0..count).map(|number| format!("\"k{number}\"")).collect();
            format!("labels = [{}]", labels.join(", "))
        };
        assert_eq!(agent_with(&of(32)).policy.labels.len(), 32);
        assert!(error_with(&of(33)).starts_with("3:10: `labels` has 33 labels; write at most 32"));
    }

    #[test]
    fn at_most_64_paths_are_accepted() {
        let of = |count: usize| {
            let paths: Vec<String> = (0..count).map(|number| format!("\"/p{number}\"")).collect();
            format!("type = \"sandboxed\"\nsandbox_read = [{}]", paths.join(", "))
        };
        assert_eq!(agent_with(&of(64)).kind.sandbox().unwrap().read.len(), 64);
        assert!(error_with(&of(65)).contains("`sandbox_read` has too many paths; write at most 64"));
    }

    #[rstest]
    #[case(
        "type = \"sandboxed\"\nsandbox = \"none\"",
        "4:11: `sandbox = \"none\"` contradicts `type = \"sandboxed\"`; remove one of them"
    )]
    #[case(
        "type = \"native\"\nsandbox = \"runsc\"",
        "4:11: `sandbox = \"runsc\"` contradicts `type = \"native\"`; remove one of them"
    )]
    #[case("sandbox = \"bubblewrap\"", "3:11: unknown agent.sandbox \"bubblewrap\"; did you mean \"bwrap\"?")]
    #[case("sandbox = \"gVisor\"", "3:11: unknown agent.sandbox \"gVisor\"; did you mean \"runsc\"?")]
    #[case("sandbox = \"docker\"", "3:11: unknown agent.sandbox \"docker\"; write none, bwrap, runsc or crun")]
    #[case("type = \"gvisor\"", "3:8: unknown agent.type \"gvisor\"; did you mean `sandbox = \"runsc\"`?")]
    #[case("type = \"crun\"", "3:8: unknown agent.type \"crun\"; did you mean `sandbox = \"crun\"`?")]
    #[case("network = false", "3:11: `network` is a boolean; write \"host\" or \"none\"")]
    #[case(
        "type = \"sandboxed\"\nsandbox_read = [\"/dev/shm\"]",
        "4:17: a path in `sandbox_read` is in /proc, /dev or /sys, which each sandbox has of its own; remove it"
    )]
    #[case("sandbox = true", "3:11: `sandbox` is a boolean; write \"none\", \"bwrap\", \"runsc\" or \"crun\"")]
    #[case(
        "type = \"sandboxed\"\nsandbox_home = \"mine\"",
        "4:16: unknown agent.sandbox_home \"mine\"; write kept, fresh or real"
    )]
    #[case("type = \"sandboxed\"\nnetwork = \"nome\"", "4:11: unknown agent.network \"nome\"; did you mean \"none\"?")]
    #[case(
        "type = \"sandboxed\"\nsandbox_proxy = \"unix:/run/p\"",
        "4:17: `sandbox_proxy` keeps nothing in, because the agent has the network of the machine; write `network = \"none\"`, or remove it"
    )]
    #[case(
        "sandbox = \"runsc\"\nnetwork = \"none\"\nsandbox_proxy = \"unix:/run/p\"",
        "5:17: `sandbox_proxy` does not work with runsc, which reaches no socket outside; write `sandbox = \"bwrap\"` or `\"crun\"`"
    )]
    #[case(
        "type = \"sandboxed\"\nnetwork = \"none\"\nsandbox_proxy = \"http://localhost:3128\"",
        "5:17: the address in `sandbox_proxy` is not a Unix socket; write \"unix:\" and its absolute path"
    )]
    #[case(
        "type = \"sandboxed\"\nnetwork = \"none\"\nsandbox_proxy = \"unix:/run/../p\"",
        "5:17: the address in `sandbox_proxy` has a `..`; write where it leads"
    )]
    #[case("trust_repository = \"yes\"", "3:20: `trust_repository` is a string; write true or false, without quotes")]
    #[case(
        "network = \"none\"",
        "3:11: `network = \"none\"` needs a sandbox, and the agent has none; write `type = \"sandboxed\"`"
    )]
    #[case(
        "type = \"sandboxed\"\nsandbox_write = \"/srv\"",
        "4:17: `sandbox_write` is a string; write an array of strings, in [ ]"
    )]
    #[case(
        "type = \"sandboxed\"\nsandbox_write = [\"/\"]",
        "4:18: a path in `sandbox_write` is the whole machine; name only what the agent needs"
    )]
    #[case(
        "sandbox_write = [\"~\"]",
        "3:18: a path in `sandbox_write` is the whole home; write `sandbox_home = \"real\"`, or name only what the agent needs"
    )]
    #[case(
        "sandbox_read = [\"/a\", \"\"]",
        "3:23: a path in `sandbox_read` is empty; write an absolute path, or remove it"
    )]
    #[case(
        "sandbox_read = [\"a/b\"]",
        "3:17: a path in `sandbox_read` is relative; write an absolute path, or ~/ and a path below the agent user's home"
    )]
    #[case("sandbox_read = [\"/a/../b\"]", "3:17: a path in `sandbox_read` has a `..`; write where it leads")]
    #[case(
        "sandbox_read = [\"/a\\u0000\"]",
        "3:17: a string in `sandbox_read` has a NUL character; remove it, no program can be given one"
    )]
    #[case(
        "secrets = \"A\"",
        "3:11: `secrets` is a string; write an array of names, or a table like { GH_TOKEN = \"github-reviewer\" }"
    )]
    #[case(
        "secrets = { A-B = \"x\" }",
        "3:13: \"A-B\" cannot be a variable in `secrets`; a secret's name has letters, digits and _, and does not begin with a digit"
    )]
    #[case("secrets = { A = 1 }", "3:17: the file of \"A\" in `secrets` is an integer; write a string, in quotes")]
    #[case(
        "secrets = { A = \"x/y\" }",
        "3:17: \"x/y\" cannot be a secret's file; write the name of a file in the secrets directory: up to 255 of `A-Z a-z 0-9 . _ @ + -`, beginning with a letter, a digit or _"
    )]
    #[case("secrets = { A = \"..\" }", "3:17: \"..\" cannot be a secret's file; write")]
    #[case("secrets = { A = \"\" }", "3:17: \"\" cannot be a secret's file; write")]
    #[case(
        "labels = \"web\"",
        "3:10: `labels` is a string; write a table like { team = \"web\" }, or an array like [\"review\", \"team=web\"]"
    )]
    #[case(
        "labels = { \"a b\" = \"x\" }",
        "3:12: \"a b\" cannot be the key of a label; write up to 63 of `A-Z a-z 0-9 . _ / -`, not beginning with -"
    )]
    #[case(
        "labels = { a = \"x y\" }",
        "3:12: \"x y\" cannot be the value of a label; write up to 63 of `A-Z a-z 0-9 . _ / -`, or nothing"
    )]
    #[case("labels = { a = 1 }", "3:16: the label \"a\" in `labels` is an integer; write a string, in quotes")]
    #[case("labels = [\"a=b\", \"a\"]", "3:18: the label \"a\" is there twice; remove one of them")]
    #[case("labels = [\"=b\"]", "3:11: \"\" cannot be the key of a label; write")]
    fn a_wrong_sandbox_secret_or_label_is_an_error(#[case] lines: &str, #[case] expected: &str) {
        let error = error_with(lines);
        assert!(error.starts_with(expected), "{error}");
        let text = format!("[agent]\nharness = \"custom\"\n{lines}\n");
        super::super::schema::tests::refuses(&text, &error);
    }

    #[rstest]
    #[case("claude-code")]
    #[case("codex")]
    #[case("gemini-cli")]
    #[case("opencode")]
    fn a_preset_without_a_network_is_an_error(#[case] harness: &str) {
        let text = format!("[agent]\nharness = \"{harness}\"\ntype = \"sandboxed\"\nnetwork = \"none\"\n");
        let error = read(&text).error().unwrap();
        let expected = format!("4:11: {harness} cannot work without a network, because it needs its service; write");
        assert!(error.starts_with(&expected), "{error}");
    }

    #[rstest]
    #[case("restart = \"sometimes\"", "3:11: invalid agent.restart \"sometimes\"; write no, on-failure or always")]
    #[case("restart = \"on_failure\"", "3:11: invalid agent.restart \"on_failure\"; did you mean \"on-failure\"?")]
    #[case("restart = true", "3:11: `restart` is a boolean; write \"no\", \"on-failure\" or \"always\"")]
    #[case("type = \"vm\"", "3:8: unknown agent.type \"vm\"; write native or sandboxed")]
    #[case(
        "max_restarts = -1",
        "3:16: `max_restarts` is out of range; write a whole number from 0 to 18446744073709551615, where 0 is no limit"
    )]
    #[case(
        "max_restarts = 99999999999999999999",
        "3:16: `max_restarts` is out of range; write a whole number from 0 to 18446744073709551615, where 0 is no limit"
    )]
    #[case(
        "max_restarts = \"3\"",
        "3:16: `max_restarts` is a string; write a whole number from 0 to 18446744073709551615, where 0 is no limit"
    )]
    #[case(
        "max_restarts = 1.5",
        "3:16: `max_restarts` is a float; write a whole number from 0 to 18446744073709551615, where 0 is no limit"
    )]
    #[case("timeout = -5", "3:11: `timeout`: the duration is negative; write for example 30s, 1h30m or 2 hours 30 min")]
    #[case(
        "timeout = \"-5s\"",
        "3:11: `timeout`: the duration is negative; write for example 30s, 1h30m or 2 hours 30 min"
    )]
    #[case(
        "timeout = \"5M\"",
        "3:11: `timeout`: the unit `M` would be a month; did you mean `m` for minutes? write for example 30s, 1h30m or 2 hours 30 min"
    )]
    #[case(
        "timeout = \"100\"",
        "3:11: `timeout`: the number 100 has no unit; write for example 30s, 1h30m or 2 hours 30 min"
    )]
    #[case("timeout = 1.5", "3:11: `timeout` is a float; write a duration like \"30s\", or whole seconds")]
    #[case(
        "timeout = 9223372037",
        "3:11: `timeout`: the duration is out of range, which is from 0 to 292 years; write for example 30s, 1h30m or 2 hours 30 min"
    )]
    #[case("grace_period = []", "3:16: `grace_period` is an array; write a duration like \"30s\", or whole seconds")]
    #[case("backoff = \"3s\"", "3:11: `backoff` is a string; write an array of durations, in [ ]")]
    #[case(
        "backoff = [\"1s\", \"\"]",
        "3:18: `backoff`: the duration is empty; write for example 30s, 1h30m or 2 hours 30 min"
    )]
    #[case("command = 5", "3:11: `command` is an integer; write a string or an array of strings")]
    #[case(
        "command = [\"\", \"x\"]",
        "3:11: the program in `command` is empty; write its name or path as the first string"
    )]
    #[case("args = \"--fast\"", "3:8: `args` is a string; write an array of strings, in [ ]")]
    #[case("args = [\"a\", 5]", "3:14: a string in `args` is an integer; write a string, in quotes")]
    #[case(
        "args = [\"a\\u0000\"]",
        "3:9: a string in `args` has a NUL character; remove it, no program can be given one"
    )]
    #[case("prompt = \"a\\u0000\"", "3:10: `prompt` has a NUL character; remove it, no program can be given one")]
    #[case("prompt = [\"a\"]", "3:10: `prompt` is an array; write a string, in quotes")]
    #[case(
        "user = \"a/b\"",
        "3:8: \"a/b\" cannot be a `user`; a user's name has 1 to 32 characters, of A-Z, a-z, 0-9, _, . and -; it does not begin with . or -, and is no number"
    )]
    #[case(
        "umask = \"22\"",
        "3:9: \"22\" cannot be a `umask`; write three or four octal digits in quotes, such as \"0002\" or \"0077\""
    )]
    #[case(
        "umask = \"0028\"",
        "3:9: \"0028\" cannot be a `umask`; write three or four octal digits in quotes, such as \"0002\" or \"0077\""
    )]
    #[case(
        "umask = \"1002\"",
        "3:9: \"1002\" cannot be a `umask`; write three or four octal digits in quotes, such as \"0002\" or \"0077\""
    )]
    #[case(
        "umask = 2",
        "3:9: `umask` is an integer; write three or four octal digits in quotes, such as \"0002\" or \"0077\""
    )]
    #[case("user = 1000", "3:8: `user` is an integer; write the name of a user, in quotes")]
    #[case(
        "workdir = \"src\"",
        "3:11: `workdir` is a relative path; write an absolute path, or ~/ and a path below the agent user's home"
    )]
    #[case(
        "workdir = \"~bob/src\"",
        "3:11: `workdir` is a relative path; write an absolute path, or ~/ and a path below the agent user's home"
    )]
    #[case(
        "session = \"a.b\"",
        "3:11: \"a.b\" cannot be a `session`; a name has 1 to 64 characters, of A-Z, a-z, 0-9, _ and -"
    )]
    #[case("env = [\"A=1\"]", "3:7: `env` is an array; write a table of strings, for example { RUST_LOG = \"info\" }")]
    #[case("env = { PORT = [] }", "3:16: the value of \"PORT\" in `env` is an array; write a string, in quotes")]
    #[case(
        "env = { \"A=B\" = \"x\" }",
        "3:9: \"A=B\" cannot be a name in `env`; a variable's name is not empty and has neither = nor a NUL"
    )]
    #[case(
        "env = { \"\" = \"x\" }",
        "3:9: \"\" cannot be a name in `env`; a variable's name is not empty and has neither = nor a NUL"
    )]
    #[case(
        "env = { A = \"x\\u0000\" }",
        "3:13: the value of \"A\" in `env` has a NUL character; remove it, no program can be given one"
    )]
    #[case(
        "secrets = \"API_KEY\"",
        "3:11: `secrets` is a string; write an array of names, or a table like { GH_TOKEN = \"github-reviewer\" }"
    )]
    #[case(
        "secrets = [\"API-KEY\"]",
        "3:12: \"API-KEY\" cannot be a name in `secrets`; a secret's name has letters, digits and _, and does not begin with a digit"
    )]
    #[case(
        "secrets = [\"\"]",
        "3:12: \"\" cannot be a name in `secrets`; a secret's name has letters, digits and _, and does not begin with a digit"
    )]
    fn a_bad_one_says_where_what_and_what_would_be_right(#[case] lines: &str, #[case] error: &str) {
        assert_eq!(error_with(lines), error);
    }

    #[test]
    fn all_of_an_entry_are_listed_in_the_order_of_the_file() {
        let error = error_with("workdir = \"x\"\nrestart = \"x\"\nargs = [1, \"ok\", 2]\nmax_restarts = -1");
        let places: Vec<_> = error.lines().map(|line| line.split(": ").next().unwrap()).collect();
        assert_eq!(places, ["3:11", "4:11", "5:9", "5:18", "6:16"]);
    }

    #[rstest]
    #[case("prompt = \"@\"", 0)]
    #[case("args = [\"@\"]", 0)]
    #[case("command = [\"x\", \"@\"]", 0)]
    #[case("env = { NAME = \"@\" }", "NAME=".len())]
    fn a_string_may_be_as_long_as_the_kernel_accepts(#[case] line: &str, #[case] extra: usize) {
        let fits =
            "é".repeat((MAX_ARGUMENT - extra) / 2) + if (MAX_ARGUMENT - extra).is_multiple_of(2) { "" } else { "x" };
        agent_with(&line.replace('@', &fits));
        let error = error_with(&line.replace('@', &(fits + "x")));
        assert!(error.contains("131072 bytes long; the kernel takes at most 131071 bytes"), "{error}");
        assert!(error.len() < 200);
    }

    #[rstest]
    #[case("env = { TOKEN = [\"sk-secret\"] }")]
    #[case("env = { TOKEN = \"sk-secret\\u0000\" }")]
    #[case("prompt = \"sk-secret\\u0000\"")]
    #[case("prompt = [\"sk-secret\"]")]
    #[case("args = [\"sk-secret\\u0000\"]")]
    fn no_error_quotes_what_may_be_secret(#[case] line: &str) {
        assert!(!error_with(line).contains("secret"));
    }

    #[test]
    fn debug_shows_no_prompt_argument_or_value() {
        let config = read(
            "[agent]\nharness = \"custom\"\nprompt = \"sk-secret\"\nargs = [\"sk-secret\"]\nenv.TOKEN = \"sk-secret\"\n",
        );
        assert!(!format!("{config:?}").contains("sk-secret"));
        let spec = config.entries[0].spec.as_ref().unwrap();
        assert!(format!("{:?}", spec.prompt).contains("Text(9 bytes)"));
    }
}

mod unknown_keys {
    use super::*;

    #[rstest]
    #[case("promt = \"x\"", "3:1: unknown key \"promt\" is ignored; did you mean `prompt`?")]
    #[case("Workdir = \"x\"", "3:1: unknown key \"Workdir\" is ignored; did you mean `workdir`?")]
    #[case("color = { a = 1 }", "3:1: unknown key \"color\" is ignored; remove it if no other program reads it")]
    #[case("\"a\\u001bb\" = 1", "3:1: unknown key \"a\\u{1b}b\" is ignored; remove it if no other program reads it")]
    #[case("memroy = \"4GiB\"", "3:1: unknown key \"memroy\" is ignored; did you mean `memory`?")]
    fn are_warnings_and_the_agent_stands(#[case] line: &str, #[case] warning: &str) {
        let config = read(&format!("[agent]\nharness = \"custom\"\n{line}\n"));
        assert_eq!(told(&config), [warning]);
        assert_eq!(config.findings[0].severity, Severity::Warning);
        assert_eq!((config.error(), config.warning().as_deref()), (None, Some(warning)));
        assert!(config.entries[0].spec.is_ok() && config.complete);
    }

    #[test]
    fn of_packages_are_read() {
        let spec = agent_with("extra_packages = [\"ripgrep\", \"python3Packages.numpy\"]");
        assert_eq!(spec.packages.iter().map(Package::as_str).collect::<Vec<_>>(), ["ripgrep", "python3Packages.numpy"]);
        assert_eq!(spec.packages_timeout, Duration::from_mins(10));
        let spec = agent_with("type = \"native\"\nextra_packages = [\"jq\"]\nextra_packages_timeout = \"1h\"");
        assert_eq!((spec.packages.len(), spec.packages_timeout), (1, Duration::from_hours(1)));
    }

    #[test]
    fn are_not_repeated_at_length() {
        let config = read(&format!("[agent]\nharness = \"custom\"\n{} = 1\n", "k".repeat(1_000_000)));
        assert!(told(&config)[0].len() < 200);
    }
}

mod naming {
    use super::*;

    #[rstest]
    #[case::one_unnamed_is_its_harness("[agent]\nharness = \"claude-code\"", &["claude-code"])]
    #[case::several_unnamed_are_numbered("[[agents]]\nharness = \"claude-code\"\n[[agents]]\nharness = \"codex\"\n[[agents]]\nharness = \"claude-code\"", &["claude-code-0", "codex", "claude-code-1"])]
    #[case::agent_comes_before_agents("[[agents]]\nharness = \"codex\"\n[agent]\nharness = \"codex\"\nprompt = \"x\"", &["codex-0", "codex-1"])]
    #[case::a_named_one_does_not_count("[[agents]]\nharness = \"codex\"\nname = \"x\"\n[[agents]]\nharness = \"codex\"", &["x", "codex"])]
    #[case::replicas_are_numbered("[agent]\nharness = \"custom\"\nname = \"rev\"\nreplicas = 3", &["rev-0", "rev-1", "rev-2"])]
    #[case::replicas_of_an_unnamed_one("[agent]\nharness = \"codex\"\nreplicas = 2", &["codex-0", "codex-1"])]
    #[case::one_replica_is_not_numbered("[agent]\nharness = \"custom\"\nname = \"rev\"\nreplicas = 1", &["rev"])]
    fn gives_each_agent_its_name(#[case] text: &str, #[case] expected: &[&str]) {
        let config = read(text);
        assert_eq!(told(&config), Vec::<String>::new());
        assert!(config.complete);
        assert_eq!(names(&config), expected);
        for entry in &config.entries {
            let spec = entry.spec.as_ref().unwrap();
            assert_eq!((&spec.name, &spec.session), (&entry.name, &entry.name));
            assert_eq!(entry.harness, Some(spec.harness.clone()));
        }
    }

    #[test]
    fn puts_agent_first() {
        let config = read("[[agents]]\nharness = \"codex\"\n[agent]\nharness = \"codex\"\nprompt = \"x\"\n");
        assert!(config.entries[0].spec.as_ref().unwrap().prompt.is_some());
    }

    #[test]
    fn replicas_ignore_session_and_copy_the_rest() {
        let config =
            read("[agent]\nharness = \"custom\"\nname = \"rev\"\nreplicas = 2\nsession = \"s\"\nenv.A = \"1\"\n");
        assert_eq!(names(&config), ["rev-0", "rev-1"]);
        assert_eq!(
            told(&config),
            ["5:11: `session` is ignored; each of several replicas has a session named like itself"]
        );
        for entry in &config.entries {
            let spec = entry.spec.as_ref().unwrap();
            assert_eq!(spec.session, entry.name);
            assert_eq!(spec.env["A"].as_slice(), b"1");
        }
    }

    #[test]
    fn the_first_of_entries_with_one_name_in_any_case_has_it() {
        let config =
            read("[agent]\nharness = \"custom\"\nname = \"Rev\"\n[[agents]]\nharness = \"codex\"\nname = \"rev\"\n");
        assert_eq!(names(&config), ["Rev"]);
        assert!(config.entries[0].spec.is_ok());
        assert!(config.complete);
        assert_eq!(
            config.error().unwrap(),
            "6:8: duplicate agent name \"rev\", which the entry at line 3 has; give each a name of its own, which differs in more than its case"
        );
    }

    #[test]
    fn only_the_replica_whose_name_is_taken_is_in_error() {
        let config = read(
            "[agent]\nharness = \"custom\"\nname = \"a-1\"\n[[agents]]\nharness = \"custom\"\nname = \"a\"\nreplicas = 3\n",
        );
        assert_eq!(names(&config), ["a-1", "a-0", "a-2"]);
        assert!(config.entries.iter().all(|entry| entry.spec.is_ok()));
        assert_eq!(config.findings.len(), 1);
    }

    #[test]
    fn the_later_entry_with_the_same_session_is_in_error() {
        let config = read(
            "[[agents]]\nharness = \"custom\"\nname = \"a\"\nsession = \"b\"\n[[agents]]\nharness = \"custom\"\nname = \"b\"\n\
             [[agents]]\nharness = \"custom\"\nname = \"c\"\nsession = \"B\"\n",
        );
        assert_eq!(names(&config), ["a", "b", "c"]);
        assert!(config.complete);
        let error = config.entries[1].spec.clone().unwrap_err();
        assert_eq!(
            error,
            "7:8: duplicate session \"b\", which the entry at line 4 has; give each a session of its own"
        );
        assert!(config.entries[0].spec.is_ok() && config.entries[2].spec.is_ok());
        assert_eq!(config.error(), Some(error));
    }

    #[test]
    fn an_entry_in_error_still_has_its_name_and_replicas() {
        let config = read("[agent]\nharness = \"nope\"\nname = \"rev\"\nreplicas = 2\nrestart = 1\n");
        assert_eq!(names(&config), ["rev-0", "rev-1"]);
        assert!(config.complete);
        for entry in &config.entries {
            assert_eq!(entry.harness, None);
            assert_eq!(entry.spec.as_ref().unwrap_err().lines().count(), 2);
        }
        assert_eq!(config.findings.len(), 2);
    }

    #[test]
    fn a_named_entry_without_harness_is_an_entry() {
        let config = read("[[agents]]\nname = \"rev\"\n");
        assert_eq!(names(&config), ["rev"]);
        assert!(config.complete);
        let error = config.entries[0].spec.clone().unwrap_err();
        assert_eq!(
            error,
            "1:1: harness is required; write one of claude-code, opencode, gemini-cli, codex, pi, qwen-code, kimi, aider or custom"
        );
    }

    #[rstest]
    #[case::no_harness("harness = \"\"", "harness is required")]
    #[case::unknown_harness("harness = \"nope\"", "unknown agent.harness \"nope\"; write claude-code")]
    #[case::misspelt_harness("harness = \"claude\"", "unknown agent.harness \"claude\"; did you mean \"claude-code\"?")]
    #[case::harness_of_another_type("harness = 1", "`harness` is an integer")]
    #[case::bad_name("harness = \"custom\"\nname = \"a b\"", "\"a b\" cannot be a `name`; a name has 1 to 64")]
    #[case::name_of_another_type("harness = \"custom\"\nname = 5", "`name` is an integer")]
    #[case::no_replicas(
        "harness = \"custom\"\nreplicas = 0",
        "`replicas` is out of range; write a whole number from 1 to 1000"
    )]
    #[case::too_many_replicas("harness = \"custom\"\nreplicas = 1001", "`replicas` is out of range")]
    #[case::replicas_of_another_type("harness = \"custom\"\nreplicas = \"2\"", "`replicas` is a string")]
    #[case::too_long_with_a_number(
        "harness = \"custom\"\nname = \"aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggg\"\nreplicas = 2",
        "the `name` is too long; replicas"
    )]
    fn leaves_the_agents_unknown_when_an_entry_does_not_tell(#[case] lines: &str, #[case] error: &str) {
        let config = read(&format!("[[agents]]\n{lines}\n[[agents]]\nharness = \"codex\"\n"));
        assert!(!config.complete);
        assert_eq!((config.entries.len(), config.entries[1].name.as_str()), (2, "codex"));
        assert!(config.entries[1].spec.is_ok());
        assert!(config.entries[0].spec.as_ref().unwrap_err().contains(error));
        assert!(config.error().unwrap().contains(error), "{:?}", config.error());
    }

    #[rstest]
    #[case::no_replicas("harness = \"custom\"\nname = \"rev\"\nreplicas = 0", "rev")]
    #[case::too_many_replicas("harness = \"custom\"\nreplicas = 1001", "custom")]
    #[case::bad_name("harness = \"custom\"\nname = \"a b/é\"", "a_b__")]
    #[case::name_of_another_type("harness = \"custom\"\nname = 5", "5")]
    #[case::name_of_no_word("harness = \"custom\"\nname = []", "custom")]
    #[case::misspelt_harness("harness = \"claude\"", "claude-code")]
    #[case::unknown_harness("harness = \"no pe\"", "no_pe")]
    #[case::nothing("prompt = \"x\"", "unnamed")]
    fn lists_an_unnamed_entry_under_its_likely_name(#[case] lines: &str, #[case] name: &str) {
        let config = read(&format!("[[agents]]\n{lines}\n"));
        assert_eq!(names(&config), [name]);
        assert!(config.entries[0].spec.is_err() && !config.complete);
    }

    #[test]
    fn an_unnamed_entry_does_not_take_the_name_of_another() {
        let bad = "[[agents]]\nharness = \"custom\"\nname = \"rev\"\nreplicas = 0\n";
        let good = "[[agents]]\nharness = \"custom\"\nname = \"Rev\"\n";
        let config = read(&[bad, good, bad].concat());
        assert_eq!(names(&config), ["rev-2", "Rev", "rev-3"]);
        assert!(config.entries[1].spec.is_ok());
    }

    #[test]
    fn many_entries_with_one_bad_name_are_listed_quickly() {
        let bad = "[[agents]]\nharness = \"custom\"\nname = \"é\"\n";
        let config = read(&bad.repeat(MAX_AGENTS));
        assert_eq!((config.entries.len(), config.entries[MAX_AGENTS - 1].name.as_str()), (MAX_AGENTS, "_-10000"));
    }

    #[test]
    fn a_misspelt_harness_does_not_renumber_the_others() {
        let config = read("[[agents]]\nharness = \"claude\"\n[[agents]]\nharness = \"claude-code\"\n");
        assert_eq!(names(&config), ["claude-code-0", "claude-code-1"]);
        assert!(config.entries[0].spec.is_err() && config.entries[1].spec.is_ok());
        assert!(!config.complete);
    }

    #[test]
    fn an_excessive_number_of_agents_is_refused() {
        let entry = |number| format!("[[agents]]\nharness = \"custom\"\nname = \"a{number}\"\nreplicas = 1000\n");
        let config = read(&(0..11).map(entry).collect::<String>());
        assert_eq!((config.entries.len(), names(&config)[MAX_AGENTS]), (MAX_AGENTS + 1, "a10"));
        assert!(config.entries[MAX_AGENTS].spec.is_err());
        assert!(!config.complete);
        let error = config.error().unwrap();
        assert!(error.starts_with("44:12: these are too many agents; declare at most 10000"), "{error}");
    }

    #[test]
    fn replicas_cannot_make_an_entry_fill_the_memory() {
        let entry = |name: &str, length: usize| {
            format!(
                "[[agents]]\nharness = \"custom\"\nname = \"{name}\"\nreplicas = 1000\nprompt = \"{}\"\n",
                "x".repeat(length)
            )
        };
        let config = read(&[entry("a", 60_000), entry("b", 60_000), entry("c", 1)].concat());
        assert!(config.complete);
        let good = config.entries.iter().filter(|entry| entry.spec.is_ok()).map(|entry| &entry.name.as_str()[..1]);
        assert_eq!(good.collect::<String>(), "a".repeat(1000) + &"c".repeat(1000));
        assert_eq!(
            config.error().unwrap(),
            "9:12: arguments and variables are too large; those of all agents may have 64 MiB together, replicas counted"
        );
    }

    #[rstest]
    #[case("a", true)]
    #[case("A-z_0", true)]
    #[case("-", true)]
    #[case("", false)]
    #[case("a.b", false)]
    #[case("a b", false)]
    #[case("é", false)]
    #[case("a\n", false)]
    fn a_name_is_of_letters_digits_and_two_signs(#[case] text: &str, #[case] is_name: bool) {
        assert_eq!(
            text.parse::<Name>().map(|name| name.as_str() == text),
            if is_name { Ok(true) } else { Err(InvalidName) }
        );
    }

    #[test]
    fn a_name_has_at_most_64_bytes() {
        assert!(Name::try_from("a".repeat(64).as_str()).is_ok());
        assert!(Name::try_from("a".repeat(65).as_str()).is_err());
    }
}

mod real_files {
    use super::*;

    #[test]
    fn a_writer_that_emits_every_field() {
        let text = r#"
            [mixtape]
            name = "vm"
            [[agents]]
            type = "sandboxed"
            name = "reviewer-0"
            harness = "claude-code"
            prompt = ""
            prompt_file = ""
            workdir = "/workspace"
            restart = ""
            max_restarts = 0
            timeout = ""
            grace_period = "30s"
            session = ""
            replicas = 1
            extra_packages = []
            memory = ""
            pid_limit = 0
            [agents.env]
            TOKEN = "x"
            [[agents]]
            type = "sandboxed"
            name = "reviewer-1"
            harness = "claude-code"
            timeout = 1800
        "#;
        let config = parse(text.as_bytes(), &Options { unsandboxed: true, ..Options::default() }).unwrap();
        assert_eq!(told(&config), Vec::<String>::new());
        assert_eq!(names(&config), ["reviewer-0", "reviewer-1"]);
        let config = read(text);
        assert_eq!(told(&config), Vec::<String>::new());
        let limits = Limits { memory: Some(2 << 30), tasks: Some(512), cpu: None };
        assert!(config.entries.iter().all(|entry| entry.spec.as_ref().unwrap().policy.limits == limits));
        assert!(config.complete);
    }

    #[test]
    fn five_hundred_replicas() {
        let config = read("[agent]\nharness = \"opencode\"\nname = \"w\"\nreplicas = 500\nmemory = \"4GiB\"\n");
        assert_eq!(config.entries.len(), 500);
        assert_eq!(config.entries[499].name.as_str(), "w-499");
        assert!(config.findings.is_empty());
        assert!(config.entries.iter().all(|entry| entry.spec.as_ref().unwrap().policy.limits.memory == Some(4 << 30)));
    }

    #[test]
    fn a_prompt_of_shell_lines_is_taken_literally() {
        let spec = agent("[agent]\nharness = \"codex\"\nprompt = '''\ncd \"$HOME\" && make\n\tdone;'''\n");
        assert_eq!(spec.prompt, Some(Prompt::Text("cd \"$HOME\" && make\n\tdone;".into())));
    }
}

/// Lines of an entry, valid or not, for any harness.
fn any_line() -> impl Strategy<Value = String> {
    let key = proptest::sample::select(vec![
        "name",
        "harness",
        "command",
        "args",
        "prompt",
        "prompt_file",
        "interactive",
        "approval",
        "workdir",
        "restart",
        "max_restarts",
        "timeout",
        "grace_period",
        "session",
        "env",
        "secrets",
        "backoff",
        "backoff_reset",
        "replicas",
        "type",
        "sandbox",
        "sandbox_read",
        "sandbox_write",
        "sandbox_home",
        "network",
        "sandbox_proxy",
        "trust_repository",
        "labels",
        "memory",
        "promt",
    ]);
    let value = proptest::sample::select(vec![
        "\"\"",
        "\"a\"",
        "\"x y\"",
        "\"custom\"",
        "\"edits\"",
        "\"codex\"",
        "\"cdex\"",
        "\"always\"",
        "\"no\"",
        "\"5s\"",
        "\"5M\"",
        "\"/w\"",
        "\"~/w\"",
        "\"native\"",
        "\"sandboxed\"",
        "\"none\"",
        "\"runsc\"",
        "\"kept\"",
        "[\"/\"]",
        "[\"/w\", \"~/w\"]",
        "[\"~/..\"]",
        "[\"a\", \"a=b\"]",
        "0",
        "1",
        "2",
        "-1",
        "1001",
        "1.5",
        "true",
        "1979-05-27",
        "[]",
        "[\"a\"]",
        "[\"1s\", 2]",
        "[[]]",
        "{}",
        "{ A = \"b\" }",
        "{ A = 1 }",
        "\"\\u0000\"",
    ]);
    (key, value).prop_map(|(key, value)| format!("{key} = {value}\n"))
}

/// The lines of an entry, each key once.
fn any_entry() -> impl Strategy<Value = String> {
    proptest::collection::vec(any_line(), 0..8).prop_map(|lines| {
        let lines: BTreeMap<_, _> =
            lines.into_iter().map(|line| (line.split(' ').next().map(str::to_owned), line)).collect();
        lines.into_values().collect()
    })
}

fn any_jcard() -> impl Strategy<Value = String> {
    (any_entry(), proptest::collection::vec(any_entry(), 0..5), any::<bool>()).prop_map(|(agent, agents, has_agent)| {
        let first = if has_agent { format!("[agent]\n{agent}") } else { "[other]\n".to_owned() };
        agents.iter().fold(first, |text, entry| text + "[[agents]]\n" + entry)
    })
}

/// A jcard as read, without positions.
fn without_places(text: &str) -> Config {
    let mut config = read(text);
    for entry in &mut config.entries {
        entry.spec = entry.spec.clone().map_err(|_| String::new());
    }
    for finding in config.findings.iter_mut().chain(&mut config.sandbox_expected) {
        (finding.line, finding.column) = (1, 1);
        if let Some((message, _)) = finding.message.split_once(" at line ") {
            finding.message = message.to_owned();
        }
    }
    config
}

proptest! {
    #[test]
    fn arbitrary_bytes_cause_no_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&text, &Options::default());
    }

    #[test]
    fn arbitrary_toml_characters_cause_no_panic(text in "(\\[\\[?agents?\\]?\\]\n|[a-z\\[\\]{}=\".,#\n é-]{0,12}){0,8}") {
        let _ = parse(text.as_bytes(), &Options::default());
    }

    #[test]
    fn cut_files_cause_no_panic_and_findings_are_inside_them(text in any_jcard(), cut in any::<prop::sample::Index>()) {
        let text = &text[..cut.index(text.len() + 1)];
        let findings = parse(text.as_bytes(), &Options::default()).map_or_else(|findings| findings, |config| config.findings);
        let lines: Vec<_> = text.split('\n').collect();
        for finding in findings {
            let line = lines.get(finding.line - 1);
            prop_assert!(line.is_some_and(|line| finding.column <= line.chars().count() + 1), "{}", finding);
        }
    }

    #[test]
    fn names_and_sessions_are_unique_and_errors_are_listed(text in any_jcard()) {
        let config = read(&text);
        let keys: BTreeSet<_> = config.entries.iter().map(|entry| entry.name.key()).collect();
        prop_assert_eq!(keys.len(), config.entries.len());
        let specs: Vec<_> = config.entries.iter().filter_map(|entry| entry.spec.as_ref().ok()).collect();
        let sessions: BTreeSet<_> = specs.iter().map(|spec| &spec.session).collect();
        prop_assert_eq!(sessions.len(), specs.len());
        let all_good = config.complete && specs.len() == config.entries.len();
        prop_assert!(all_good || config.error().is_some());
        for entry in &config.entries {
            match &entry.spec {
                Ok(spec) => prop_assert_eq!(&spec.name, &entry.name),
                Err(error) => prop_assert!(!error.is_empty()),
            }
        }
    }

    #[test]
    fn an_entry_never_changes_those_before_it(text in any_jcard(), last in any_entry()) {
        let before = read(&text);
        // Another entry without a name would change the numbers of those before.
        let after = read(&format!("{text}[[agents]]\nname = \"last\"\n{}", last.replace("name = ", "#")));
        prop_assert_eq!(&after.entries[..before.entries.len()], &before.entries[..]);
    }

    #[test]
    fn a_bad_entry_never_affects_the_others(bad in any_entry(), at in 0..=2_usize) {
        let good = |name: &str| format!("[[agents]]\nname = \"good-{name}\"\nharness = \"custom\"\nprompt = \"{name}\"\n");
        let mut entries = vec![good("a"), good("b")];
        let alone = read(&entries.concat());
        entries.insert(at, format!("[[agents]]\n{bad}"));
        let together = read(&entries.concat());
        for entry in &alone.entries {
            // Its table may be another.
            let is_it = |other: &Entry| Entry { table: entry.table, ..other.clone() } == *entry;
            prop_assert!(together.entries.iter().any(is_it));
        }
    }

    #[test]
    fn comments_and_white_space_change_nothing(text in any_jcard()) {
        let commented = text.replace('\n', " # a comment\r\n\n\t\n");
        prop_assert_eq!(without_places(&commented), without_places(&text));
    }
}
