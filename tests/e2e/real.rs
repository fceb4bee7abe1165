//! What agentd says of the real command line tools of the presets is true, against a stand-in for their services.
//!
//! They are too large for every run: `tests/real` installs them, runs these tests, and prints a table of what came of them.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harnesses::installed;
use crate::support::{Daemon, Setup, as_user, give, is_root, path};

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
    },
    Cli {
        harness: "opencode",
        program: "opencode",
        credential: "OPENAI_API_KEY",
        args: &[],
        variables: &[("OPENCODE_CONFIG_CONTENT", OPENCODE), ("OPENCODE_DISABLE_AUTOUPDATE", "1")],
        files: &[],
        streams: true,
    },
    Cli {
        harness: "pi",
        program: "pi",
        credential: "OPENAI_API_KEY",
        args: &["--provider", "local", "--model", "model"],
        variables: &[("PI_OFFLINE", "1")],
        files: &[(
            ".pi/agent/models.json",
            r#"{"providers":{"local":{"baseUrl":"@URL/v1","api":"openai-completions","apiKey":"OPENAI_API_KEY","models":[{"id":"model"}]}}}"#,
        )],
        streams: true,
    },
    Cli {
        harness: "qwen-code",
        program: "qwen",
        credential: "OPENAI_API_KEY",
        args: &["--auth-type", "openai", "--model", "model"],
        variables: &[("OPENAI_BASE_URL", "@URL/v1")],
        files: &[],
        streams: true,
    },
    Cli {
        harness: "kimi",
        program: "kimi",
        credential: "KIMI_API_KEY",
        args: &[],
        variables: &[],
        files: &[(
            ".kimi-code/config.toml",
            "default_model = \"m\"\n[providers.local]\ntype = \"openai\"\nbase_url = \"@URL/v1\"\napi_key = \"key-for-kimi\"\n\
             [models.m]\nprovider = \"local\"\nmodel = \"model\"\nmax_context_size = 100000\n",
        )],
        streams: false,
    },
    Cli {
        harness: "aider",
        program: "aider",
        credential: "OPENAI_API_KEY",
        args: &["--model", "openai/model", "--no-show-model-warnings", "--no-analytics"],
        variables: &[("OPENAI_API_BASE", "@URL/v1")],
        files: &[],
        streams: false,
    },
];

/// How long a harness may take at most: Claude Code repeats refused requests for three minutes.
const LIMIT: Duration = Duration::from_mins(6);

/// One stand-in for all tests. It ends with the process namespace of the run.
fn service() -> &'static str {
    static SERVICE: OnceLock<String> = OnceLock::new();
    SERVICE.get_or_init(|| {
        let port = tempfile::tempdir().unwrap().keep().join("port");
        let mut command = Command::new("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/harnesses/service.py")).arg(&port);
        let service = command.stdin(Stdio::null()).spawn().unwrap();
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
    fn entry(&self, name: &str, prompt: &str, more: &str) -> String {
        let url = service();
        let folder = installed();
        let node = folder.join("node_modules/.bin");
        let mut variables =
            vec![("PATH".to_owned(), format!("{}:{}:{}", node.display(), folder.join("aider/bin").display(), path()))];
        variables.extend(self.variables.iter().map(|(name, value)| ((*name).to_owned(), value.replace("@URL", url))));
        let variables: Vec<String> = variables.iter().map(|(name, value)| format!("{name} = {value:?}")).collect();
        let args: Vec<String> = self.args.iter().map(|arg| arg.replace("@URL", url)).collect();
        format!(
            "[[agents]]\nname = {name:?}\nharness = {:?}\nworkdir = \"@WORK/{name}\"\nargs = {args:?}\nprompt = {prompt:?}\n\
             secrets = {{ {} = {:?} }}\nenv = {{ {} }}\nresults = {}\n{more}\n\n",
            self.harness,
            self.credential,
            format!("of-{name}"),
            variables.join(", "),
            self.streams && !more.contains("interactive = true"),
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
        cli.entry(&name, &prompt.replace("@NAME", &name), more)
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

fn with_streams() -> Vec<&'static Cli> {
    CLIS.iter().filter(|cli| cli.streams).collect()
}

#[test]
#[ignore = "tests/real installs more than two gigabytes"]
fn real_harnesses_say_what_came_of_a_prompt() {
    let clis: Vec<&Cli> = CLIS.iter().collect();
    let prompt = "please RUN[echo made >by-the-tool] now, @NAME";
    let daemon =
        start("prompt", &clis, "key-for-", prompt, "interactive = false\napproval = \"everything\"\nrestart = \"no\"");
    each("prompt", &daemon, &clis, |cli, name| {
        let agent = wait_for(&daemon, name, "over", |agent| agent["state"] == "exited");
        assert_eq!(agent["outcome"], "completed", "{agent:#}");
        // Aider has no tools.
        assert!(cli.harness == "aider" || daemon.work(name).join("by-the-tool").exists(), "{agent:#}");
        if !cli.streams {
            return format!("completed, {}", agent["exit"]);
        }
        let result = &agent["result"];
        assert!(result["text"].as_str().unwrap_or_default().contains("the tool has run"), "{agent:#}");
        assert!(agent["tokens"]["output"].as_u64().is_some_and(|tokens| tokens > 0), "{agent:#}");
        format!("completed, {} tokens, {} $", agent["tokens"]["output"], agent["cost_usd"])
    });
}

#[test]
#[ignore = "tests/real installs more than two gigabytes"]
fn real_harnesses_get_over_an_overload() {
    let clis = with_streams();
    let more = "interactive = false\napproval = \"everything\"\nrestart = \"no\"";
    let daemon = start("overload", &clis, "flaky-key-for-", "MODE[flaky] hello there, @NAME", more);
    each("overload", &daemon, &clis, |_, name| {
        let agent = wait_for(&daemon, name, "over", |agent| agent["state"] == "exited");
        assert_eq!(agent["outcome"], "completed", "{agent:#}");
        "completed".to_owned()
    });
}
