//! What agentd says of the real command line tools of the presets is true, against a stand-in for their services.
//!
//! They are too large for every run: `tests/real` installs them, runs these tests, and prints a table of what came of them.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harnesses::installed;
use crate::support::{Daemon, Process, Setup, as_user, give, is_root, path};

/// A real command line tool, and what its user sets up once.
struct Cli {
    harness: &'static str,
    program: &'static str,
    /// The variable of its credential.
    credential: &'static str,
    /// Arguments of every entry. `@URL` is the stand-in.
    args: &'static [&'static str],
    /// More variables.
    variables: &'static [(&'static str, &'static str)],
    /// Files below the home of the agent user.
    files: &'static [(&'static str, &'static str)],
    /// Whether it says what it does as data.
    streams: bool,
    /// The variable of a credential whose quota is known to be reset at a time, if that is another one.
    subscription: Option<&'static str>,
    /// More arguments where it is to ask, and what its screen says then; `None` if it never asks. `@FOLDER` is where it works.
    asks: Option<(&'static [&'static str], &'static str)>,
}

const OPENCODE: &str = r#"{"autoupdate":false,"model":"local/model","small_model":"local/model","permission":{"bash":"ask"},"provider":{"local":{"npm":"@ai-sdk/openai-compatible","name":"local","options":{"baseURL":"@URL/v1","apiKey":"{env:OPENAI_API_KEY}"},"models":{"model":{"name":"model"}}}}}"#;

const CLIS: [Cli; 8] = [
    Cli {
        harness: "claude-code",
        program: "claude",
        credential: "ANTHROPIC_API_KEY",
        args: &[],
        variables: &[
            ("ANTHROPIC_BASE_URL", "@URL"),
            ("DISABLE_AUTOUPDATER", "1"),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ],
        files: &[(
            ".claude.json",
            r#"{"hasCompletedOnboarding":true,"customApiKeyResponses":{"approved":["key-for-claude-code"],"rejected":[]}}"#,
        )],
        streams: true,
        subscription: Some("CLAUDE_CODE_OAUTH_TOKEN"),
        // In its mode `auto`, in which it begins, its service decides.
        asks: Some((&["--permission-mode", "default"], "Do you want to proceed?")),
    },
    Cli {
        harness: "codex",
        program: "codex",
        credential: "OPENAI_API_KEY",
        args: &[
            "-c",
            "model='gpt-5'",
            "-c",
            "model_provider='local'",
            "-c",
            "model_providers.local={name='local', base_url='@URL/v1', env_key='OPENAI_API_KEY', wire_api='responses'}",
        ],
        variables: &[],
        files: &[],
        streams: true,
        subscription: None,
        asks: Some((
            &["-c", "projects={'@FOLDER'={trust_level='trusted'}}"],
            "Would you like to run the following command?",
        )),
    },
    Cli {
        harness: "gemini-cli",
        program: "gemini",
        credential: "GEMINI_API_KEY",
        args: &[],
        variables: &[("GOOGLE_GEMINI_BASE_URL", "@URL")],
        files: &[(
            ".gemini/settings.json",
            r#"{"security":{"auth":{"selectedType":"gemini-api-key"}},"privacy":{"usageStatisticsEnabled":false}}"#,
        )],
        streams: true,
        subscription: None,
        asks: Some((&[], "Allow execution of")),
    },
    Cli {
        harness: "opencode",
        program: "opencode",
        credential: "OPENAI_API_KEY",
        args: &[],
        variables: &[("OPENCODE_CONFIG_CONTENT", OPENCODE), ("OPENCODE_DISABLE_AUTOUPDATE", "1")],
        files: &[],
        streams: true,
        subscription: None,
        asks: Some((&[], "Permission required")),
    },
    Cli {
        harness: "pi",
        program: "pi",
        credential: "OPENAI_API_KEY",
        args: &["--provider", "local", "--model", "model"],
        variables: &[("PI_OFFLINE", "1")],
        files: &[(
            ".pi/agent/models.json",
            r#"{"providers":{"local":{"baseUrl":"@URL/v1","api":"openai-completions","apiKey":"$OPENAI_API_KEY","models":[{"id":"model"}]}}}"#,
        )],
        streams: true,
        subscription: None,
        asks: None,
    },
    Cli {
        harness: "qwen-code",
        program: "qwen",
        credential: "OPENAI_API_KEY",
        args: &["--auth-type", "openai", "--model", "model"],
        variables: &[("OPENAI_BASE_URL", "@URL/v1")],
        files: &[],
        streams: true,
        subscription: None,
        asks: Some((&[], "Allow execution of")),
    },
    Cli {
        harness: "kimi",
        program: "kimi",
        credential: "KIMI_API_KEY",
        args: &[],
        variables: &[],
        files: &[(
            ".kimi-code/config.toml",
            "default_model = \"m\"\n[providers.local]\ntype = \"openai\"\nbase_url = \"@URL/v1\"\napi_key_env = \"KIMI_API_KEY\"\n\
             [models.m]\nprovider = \"local\"\nmodel = \"model\"\nmax_context_size = 100000\n",
        )],
        streams: false,
        subscription: None,
        asks: None,
    },
    Cli {
        harness: "aider",
        program: "aider",
        credential: "OPENAI_API_KEY",
        args: &["--model", "openai/model", "--no-show-model-warnings", "--no-analytics"],
        variables: &[("OPENAI_API_BASE", "@URL/v1")],
        files: &[],
        streams: false,
        subscription: None,
        // Whether files of its own may be ignored, even with a prompt that ends.
        asks: Some((&[], "(Y)es/(N)o")),
    },
];

/// How long a harness may take at most: Claude Code repeats refused requests for three minutes.
const LIMIT: Duration = Duration::from_mins(6);

/// One stand-in for all tests. It ends with the process namespace of the run.
fn service() -> &'static str {
    static SERVICE: OnceLock<String> = OnceLock::new();
    SERVICE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap().keep();
        let port = folder.join("port");
        let mut command = Command::new("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/harnesses/service.py")).arg(&port);
        let service = command.arg("--log").arg(folder.join("requests")).stdin(Stdio::null()).spawn().unwrap();
        thread::spawn(move || service.wait_with_output());
        let limit = Instant::now() + Duration::from_secs(30);
        while !port.exists() {
            assert!(Instant::now() < limit, "the stand-in for the services does not start");
            thread::sleep(Duration::from_millis(20));
        }
        format!("http://127.0.0.1:{}", fs::read_to_string(port).unwrap())
    })
}

impl Cli {
    fn entry(&self, name: &str, credential: &str, prompt: &str, more: &str) -> String {
        let url = service();
        let folder = installed();
        let node = folder.join("node_modules/.bin");
        let mut variables =
            vec![("PATH".to_owned(), format!("{}:{}:{}", node.display(), folder.join("aider/bin").display(), path()))];
        variables.extend(self.variables.iter().map(|(name, value)| ((*name).to_owned(), value.replace("@URL", url))));
        let variables: Vec<String> = variables.iter().map(|(name, value)| format!("{name} = {value:?}")).collect();
        let is_at_terminal = more.contains("interactive = true");
        let asks = self.asks.filter(|_| is_at_terminal).map_or(&[][..], |(args, _)| args);
        let filled = |arg: &&str| arg.replace("@URL", url).replace("@FOLDER", &format!("@WORK/{name}"));
        let args: Vec<String> = self.args.iter().chain(asks).map(filled).collect();
        // At its terminal, Aider takes no prompt.
        let more = if self.harness == "aider" { more.replace("interactive = true", "") } else { more.to_owned() };
        let subscription = self.subscription.filter(|_| credential.starts_with("spent"));
        format!(
            "[[agents]]\nname = {name:?}\nharness = {:?}\nworkdir = \"@WORK/{name}\"\nargs = {args:?}\nprompt = {prompt:?}\n\
             secrets = {{ {} = {:?} }}\nenv = {{ {} }}\nresults = {}\n{more}\n\n",
            self.harness,
            subscription.unwrap_or(self.credential),
            format!("of-{name}"),
            variables.join(", "),
            self.streams && !is_at_terminal,
        )
    }

    fn version(&self) -> String {
        let folder = installed();
        let places =
            format!("{}:{}:{}", folder.join("node_modules/.bin").display(), folder.join("aider/bin").display(), path());
        let output = Command::new(self.program).arg("--version").env("PATH", places).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_version = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
        said.split_whitespace().find(is_version).unwrap_or("?").to_owned()
    }

    /// A row of the table.
    fn report(&self, tried: &str, came: &str, took: Duration) {
        let Some(table) = std::env::var_os("AGENTD_REAL_TABLE") else { return };
        let mut table = fs::OpenOptions::new().append(true).open(table).unwrap();
        let row = format!("| {} | {} | {tried} | {came} | {:.1} |\n", self.harness, self.version(), took.as_secs_f64());
        table.write_all(row.as_bytes()).unwrap();
    }
}

/// A daemon with one agent of each of these, whose names begin with `tried`.
fn start(tried: &str, clis: &[&Cli], credential: &str, prompt: &str, more: &str) -> Daemon {
    assert!(is_root(), "run tests/real as root");
    let setup = Setup::new();
    let user = setup.agent_account();
    for cli in clis {
        let name = format!("{tried}-{}", cli.harness);
        setup.secret(&format!("of-{name}"), format!("{credential}{}", cli.harness));
        for (file, content) in cli.files {
            let file = user.dir.join(file);
            for folder in
                file.ancestors().skip(1).take_while(|folder| *folder != user.dir).collect::<Vec<_>>().iter().rev()
            {
                fs::create_dir_all(folder).unwrap();
                give(folder, &user);
            }
            if !file.exists() {
                fs::write(&file, content.replace("@URL", service())).unwrap();
                give(&file, &user);
            }
        }
        let make = format!(
            "git init -q {name} && git -C {name} -c user.name=a -c user.email=a@b commit -q --allow-empty -m first"
        );
        let mut command = as_user(&user.name, &["bash", "-c", &make]);
        let output = command.current_dir(setup.path("work")).env("HOME", setup.path("work")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let entries = clis.iter().map(|cli| {
        let name = format!("{tried}-{}", cli.harness);
        cli.entry(&name, credential, &prompt.replace("@NAME", &name), more)
    });
    setup.start(&entries.collect::<String>())
}

/// The agent, once it is as asked for.
fn wait_for(daemon: &Daemon, name: &str, what: &str, asked: impl Fn(&Value) -> bool) -> Value {
    let limit = Instant::now() + LIMIT;
    loop {
        let agent: Value = serde_json::from_str(&daemon.get(&format!("/v1/agents/{name}")).body).unwrap();
        if asked(&agent) {
            return agent;
        }
        let printed = || daemon.get(&format!("/v1/agents/{name}/log")).body;
        assert!(Instant::now() < limit, "{name} is not {what}: {agent:#}\n{}", printed());
        thread::sleep(Duration::from_millis(100));
    }
}

/// Tries it with each, beside each other. Prints what failed for each before it fails.
fn each(tried: &str, daemon: &Daemon, clis: &[&Cli], check: impl Fn(&Cli, &str) -> String + Sync) {
    let start = Instant::now();
    let failed: Vec<String> = thread::scope(|scope| {
        let check = &check;
        let threads: Vec<_> = clis
            .iter()
            .map(|cli| {
                scope.spawn(move || {
                    let name = format!("{tried}-{}", cli.harness);
                    let came = check(cli, &name);
                    cli.report(tried, &came, start.elapsed());
                })
            })
            .collect();
        let ends = threads
            .into_iter()
            .zip(clis)
            .filter_map(|(thread, cli)| thread.join().err().map(|_| cli.harness.to_owned()));
        ends.collect()
    });
    assert!(failed.is_empty(), "{tried}: {failed:?}\n{}", daemon.log());
}

/// Those of whom this is true; of them those that `AGENTD_REAL_ONLY` names, if it is set.
fn those(is_meant: impl Fn(&Cli) -> bool) -> Vec<&'static Cli> {
    let only = std::env::var("AGENTD_REAL_ONLY").unwrap_or_default();
    let is_named = |cli: &&Cli| only.is_empty() || only.split(',').any(|name| name == cli.harness);
    CLIS.iter().filter(is_named).filter(|cli| is_meant(cli)).collect()
}

#[test]
#[ignore = "tests/real installs more than two gigabytes"]
fn real_harnesses_say_what_came_of_a_prompt() {
    let clis = those(|_| true);
    let prompt = "please RUN[echo made >by-the-tool] now, @NAME";
    let daemon =
        start("prompt", &clis, "key-for-", prompt, "interactive = false\napproval = \"everything\"\nrestart = \"no\"");
    each("prompt", &daemon, &clis, |cli, name| {
        let agent = wait_for(&daemon, name, "over", |agent| agent["state"] == "exited");
        assert_eq!(agent["outcome"], "completed", "{agent:#}");
        // Aider has no tools.
        assert!(cli.harness == "aider" || daemon.work(name).join("by-the-tool").exists(), "{agent:#}");
        if !cli.streams {
            return "completed".to_owned();
        }
        let result = &agent["result"];
        assert!(result["text"].as_str().unwrap_or_default().contains("the tool has run"), "{agent:#}");
        assert!(agent["tokens"]["output"].as_u64().is_some_and(|tokens| tokens > 0), "{agent:#}");
        let cost = agent["cost_usd"].as_f64().map_or_else(String::new, |cost| format!(", {cost} $"));
        format!("completed, {} tokens{cost}", agent["tokens"]["output"])
    });
}

#[test]
#[ignore = "tests/real installs more than two gigabytes"]
fn real_harnesses_are_held_when_their_key_is_refused() {
    let clis = those(|_| true);
    let more = "interactive = false\napproval = \"everything\"\nrestart = \"on-failure\"\nbackoff = [\"1s\"]";
    let daemon = start("bad-key", &clis, "dead-key-for-", "hello there, @NAME", more);
    each("bad-key", &daemon, &clis, |cli, name| {
        if cli.harness == "aider" {
            // Nothing but its prose, which may be about anything, says that it failed.
            let agent = wait_for(&daemon, name, "over", |agent| agent["state"] == "exited");
            assert_eq!((&agent["outcome"], agent["hold"].is_null()), (&Value::from("completed"), true), "{agent:#}");
            return "not held: it exits with 0".to_owned();
        }
        let agent = wait_for(&daemon, name, "held", |agent| agent["hold"]["kind"] == "login");
        assert_eq!((&agent["state"], agent["restarts"].as_u64()), (&Value::from("waiting"), Some(0)), "{agent:#}");
        daemon.secret(&format!("of-{name}"), format!("key-for-{}", cli.harness));
        let agent = wait_for(&daemon, name, "completed", |agent| agent["outcome"] == "completed");
        assert_eq!(agent["restarts"].as_u64(), Some(0), "{agent:#}");
        "held (login), completed with another key".to_owned()
    });
}

#[test]
#[ignore = "tests/real installs more than two gigabytes"]
fn real_harnesses_wait_for_their_quota() {
    let clis = those(|_| true);
    let more = "interactive = false\napproval = \"everything\"\nrestart = \"on-failure\"\nbackoff = [\"1s\"]";
    let daemon = start("quota", &clis, "spent-key-for-", "hello there, @NAME", more);
    each("quota", &daemon, &clis, |_, name| {
        let is_over = |agent: &Value| agent["hold"]["kind"] == "quota" || agent["outcome"] == "completed";
        let agent = wait_for(&daemon, name, "held", is_over);
        if agent["outcome"] == "completed" {
            // It waits by itself.
            return "completed: it waits by itself".to_owned();
        }
        assert!(agent["next_start_at"].is_string() && agent["state"] == "backoff", "{agent:#}");
        assert!(agent["hold"]["until"].is_string(), "{agent:#}");
        let agent = wait_for(&daemon, name, "completed", |agent| agent["outcome"] == "completed");
        assert_eq!((agent["restarts"].as_u64(), agent["attempt"].as_u64()), (Some(0), Some(2)), "{agent:#}");
        "held (quota), completed after it".to_owned()
    });
}

#[test]
#[ignore = "tests/real installs more than two gigabytes"]
fn real_harnesses_get_over_an_overload() {
    let clis = those(|_| true);
    let more = "interactive = false\napproval = \"everything\"\nrestart = \"no\"";
    let daemon = start("overload", &clis, "flaky-key-for-", "MODE[flaky] hello there, @NAME", more);
    each("overload", &daemon, &clis, |_, name| {
        let agent = wait_for(&daemon, name, "over", |agent| agent["state"] == "exited");
        assert_eq!(agent["outcome"], "completed", "{agent:#}");
        assert!(agent["hold"].is_null(), "{agent:#}");
        "completed, not held".to_owned()
    });
}

#[test]
#[ignore = "tests/real installs more than two gigabytes"]
fn real_harnesses_that_ask_are_blocked() {
    let clis = those(|cli| cli.asks.is_some());
    let prompt = "please RUN[!touch /by-the-tool] now, @NAME";
    let daemon = start("asks", &clis, "key-for-", prompt, "interactive = true\nrestart = \"no\"");
    each("asks", &daemon, &clis, |cli, name| {
        let (_, question) = cli.asks.unwrap();
        let limit = Instant::now() + LIMIT;
        // When the question was certainly not on the screen yet.
        let mut before = Instant::now();
        let mut is_asked = false;
        let (agent, after) = loop {
            let now = Instant::now();
            assert!(now < limit, "{name} is not blocked:\n{}", daemon.screen(name));
            let agent: Value = serde_json::from_str(&daemon.get(&format!("/v1/agents/{name}")).body).unwrap();
            if agent["activity"]["status"] == "blocked" {
                break (agent, before.elapsed());
            }
            is_asked |= daemon.screen(name).contains(question);
            if !is_asked {
                before = now;
            }
            thread::sleep(Duration::from_millis(100));
        };
        while !daemon.screen(name).contains(question) {
            assert!(Instant::now() < limit, "{name} asks something else:\n{}", daemon.screen(name));
            thread::sleep(Duration::from_millis(100));
        }
        let source = &agent["activity"]["source"];
        let most = Duration::from_secs(if source == "screen" { 5 } else { 3 });
        assert!(after < most, "{after:?}: {agent:#}");
        format!("blocked by its {} {:.1} s after it asked", source.as_str().unwrap_or_default(), after.as_secs_f64())
    });
}

#[test]
#[ignore = "tests/real installs more than two gigabytes"]
fn real_harnesses_go_on_in_their_conversation_after_a_kill() {
    let clis = those(|cli| cli.streams);
    let more = "interactive = false\napproval = \"everything\"\nrestart = \"on-failure\"\nbackoff = [\"1s\"]\n\
                resume = \"restart\"\nresume_prompt = \"SAY[it went on] and do\"";
    // A tool that takes its time: the first turn is kept by then.
    let daemon = start("resume", &clis, "key-for-", "RUN[echo made >by-the-tool; sleep 60] @NAME", more);
    each("resume", &daemon, &clis, |_, name| {
        let limit = Instant::now() + LIMIT;
        while !daemon.work(name).join("by-the-tool").exists() {
            assert!(
                Instant::now() < limit,
                "{name} runs no tool: {}",
                daemon.get(&format!("/v1/agents/{name}/log")).body
            );
            thread::sleep(Duration::from_millis(100));
        }
        let before = wait_for(&daemon, name, "in a conversation", |agent| agent["conversation"]["id"].is_string());
        Process(before["pid"].as_i64().unwrap().try_into().unwrap()).signal(Signal::SIGKILL);
        let after = wait_for(&daemon, name, "completed", |agent| agent["outcome"] == "completed");
        assert_eq!(before["conversation"]["id"], after["conversation"]["id"], "{after:#}");
        assert_eq!(after["conversation"]["resumed"], true, "{after:#}");
        assert!(after["result"]["text"].as_str().unwrap_or_default().contains("it went on"), "{after:#}");
        "resumed, completed".to_owned()
    });
}
