//! The real command line tools of the presets work in a sandbox of each engine, against a stand-in for their services.
//!
//! They are too large for every run: `tests/harnesses/prepare` installs them, and says how to run these tests.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agentd::wire::exit_status::ExitStatus;
use agentd::wire::status::State;
use rstest::rstest;

use crate::sandbox::has;
use crate::support::{Daemon, Setup, as_user, is_root, path};

/// The presets, and the arguments with which each runs commands unasked. `@URL` is the stand-in.
const PRESETS: [(&str, &str); 4] = [
    ("claude-code", r#"["--dangerously-skip-permissions"]"#),
    (
        "codex",
        r#"["-c", "model='gpt-5'", "-c", "model_provider='local'",
            "-c", "model_providers.local={name='local', base_url='@URL/v1', env_key='KEY', wire_api='responses'}"]"#,
    ),
    ("gemini-cli", r#"["--approval-mode=yolo"]"#),
    ("opencode", "[]"),
];

const OPENCODE: &str = r#"{"autoupdate":false,"model":"local/model","small_model":"local/model","provider":{"local":{
    "npm":"@ai-sdk/openai-compatible","name":"local","options":{"baseURL":"@URL/v1","apiKey":"key"},
    "models":{"model":{"name":"model"}}}}}"#;

/// What a user chooses once, in its home. Without it, a home that is not filled shows.
const GEMINI: &str =
    r#"{"security":{"auth":{"selectedType":"gemini-api-key"}},"privacy":{"usageStatisticsEnabled":false}}"#;

/// How long all four may take together: each starts in some seconds.
const LIMIT: Duration = Duration::from_mins(4);

/// How many times the presets have been run.
static RUNS: AtomicUsize = AtomicUsize::new(0);

/// The stand-in, which ends with its test.
struct Service(Child, String);

impl Service {
    fn start(setup: &Setup) -> Self {
        let port = setup.path("port");
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/harnesses/service.py");
        let dump = setup.path("dump");
        fs::create_dir(&dump).unwrap();
        let mut command = Command::new("python3");
        command.arg(program).arg(&port).arg("--dump").arg(&dump).stdin(Stdio::null());
        let child = command.spawn().unwrap();
        let limit = Instant::now() + Duration::from_secs(30);
        while !port.exists() {
            assert!(Instant::now() < limit, "the stand-in for the services does not start");
            thread::sleep(Duration::from_millis(20));
        }
        let url = format!("http://127.0.0.1:{}", fs::read_to_string(port).unwrap());
        Self(child, url)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where `tests/harnesses/prepare` has installed them.
pub(crate) fn installed() -> PathBuf {
    let folder = std::env::var("AGENTD_REAL_FOLDER").unwrap_or_else(|_| "harnesses".to_owned());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name(folder);
    assert!(folder.join("stamp").exists(), "run tests/real, or tests/harnesses/prepare first");
    folder
}

fn entry(name: &str, harness: &str, args: &str, service: &Service, confined: &str) -> String {
    let url = &service.1;
    let folder = installed();
    let variables = [
        ("PATH", format!("{}:{}", folder.join("node_modules/.bin").display(), path())),
        ("ANTHROPIC_BASE_URL", url.clone()),
        ("ANTHROPIC_API_KEY", "sk-ant-of-the-stand-in".to_owned()),
        ("GOOGLE_GEMINI_BASE_URL", url.clone()),
        ("GEMINI_API_KEY", "key".to_owned()),
        ("KEY", "key".to_owned()),
        ("OPENCODE_CONFIG_CONTENT", OPENCODE.replace("@URL", url).replace('\n', " ")),
        ("DISABLE_AUTOUPDATER", "1".to_owned()),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
    ];
    let variables: Vec<String> = variables.iter().map(|(name, value)| format!("{name} = {value:?}")).collect();
    let confined = confined.replace("@INSTALLED", folder.to_str().unwrap());
    format!(
        "[[agents]]\nname = {name:?}\nharness = {harness:?}\nworkdir = \"@WORK/{name}\"\ninteractive = false\n\
         args = {}\nprompt = \"please RUN[echo made >by-the-tool] now\"\nrestart = \"no\"\n{confined}\n\
         env = {{ {} }}\n\n",
        args.replace("@URL", url),
        variables.join(", ")
    )
}

/// A git repository for each agent, and the user's own choices in its home.
fn make_work(setup: &Setup, names: &[String]) {
    let user = setup.agent_account();
    let settings = user.dir.join(".gemini/settings.json");
    fs::create_dir_all(settings.parent().unwrap()).unwrap();
    fs::write(&settings, GEMINI).unwrap();
    for path in [settings.parent().unwrap(), &settings] {
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
    for name in names {
        let make = format!(
            "git init -q {name} && git -C {name} -c user.name=a -c user.email=a@b commit -q --allow-empty -m first"
        );
        let mut command = as_user(&user.name, &["bash", "-c", &make]);
        let output = command.current_dir(setup.path("work")).env("HOME", setup.path("work")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Runs all presets. Returns the daemon, and for each agent how it ended, whether its tool ran, and what it printed.
fn run(confined: &str, presets: &[(&str, &str)]) -> (Daemon, Vec<(String, ExitStatus, bool, String)>) {
    let setup = Setup::new();
    let service = Service::start(&setup);
    // Kept homes have the names of their agents, and the user is that of all tests.
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let name = |(harness, _): &(&str, &str)| format!("{harness}-{}-{run}", std::process::id());
    let names: Vec<String> = presets.iter().map(name).collect();
    make_work(&setup, &names);
    let entries =
        presets.iter().zip(&names).map(|((harness, args), name)| entry(name, harness, args, &service, confined));
    let daemon = setup.start(&entries.collect::<String>());
    let limit = Instant::now() + LIMIT;
    let ends = names.into_iter().map(|name| {
        loop {
            let agent = daemon.agent(&name).unwrap();
            let printed = || daemon.get(&format!("/v1/agents/{name}/log")).body;
            if agent.state == State::Exited {
                let how = agent.exit.expect("it has ended").how;
                break (name.clone(), how, daemon.work(&name).join("by-the-tool").exists(), printed());
            }
            assert!(agent.error.is_none() && Instant::now() < limit, "{name}: {agent:?}\n{}", printed());
            thread::sleep(Duration::from_millis(200));
        }
    });
    let ends = ends.collect();
    (daemon, ends)
}

/// Removes what the agents have kept.
fn forget(daemon: Daemon, names: impl Iterator<Item = String>) {
    let homes = daemon.agent_account().dir.join(".local/state/agentd/homes");
    drop(daemon);
    for name in names {
        fs::remove_dir_all(homes.join(name)).unwrap();
    }
}

#[rstest]
#[case("bwrap")]
#[case("crun")]
#[case("runsc")]
#[ignore = "tests/harnesses/prepare installs more than a gigabyte"]
fn real_harnesses_finish_a_prompt_in_a_sandbox(#[case] engine: &str) {
    assert!(is_root() && has(engine), "run ./tests/run as root");
    let confined = format!("type = \"sandboxed\"\nsandbox = {engine:?}\nsandbox_read = [\"@INSTALLED\"]");
    let (daemon, ends) = run(&confined, &PRESETS);
    for (name, how, has_run, printed) in &ends {
        assert_eq!((how, *has_run), (&ExitStatus::of_code(0), true), "{name}: {printed}");
        assert!(printed.contains("Mock answer: the tool has run."), "{name}: {printed}");
    }
    forget(daemon, ends.into_iter().map(|(name, ..)| name));
}

/// The command fails, and codex ends as if all were well. `agentd check` warns of such an entry.
#[rstest]
#[case("bwrap")]
#[case("crun")]
#[case("runsc")]
#[ignore = "tests/harnesses/prepare installs more than a gigabyte"]
fn codex_runs_no_command_in_its_own_sandbox_inside_another(#[case] engine: &str) {
    assert!(is_root() && has(engine), "run ./tests/run as root");
    let (name, args) = PRESETS[1];
    let args = args.replacen('[', "[\"--sandbox\", \"workspace-write\", ", 1);
    let confined = format!("type = \"sandboxed\"\nsandbox = {engine:?}\nsandbox_read = [\"@INSTALLED\"]");
    let (daemon, ends) = run(&confined, &[(name, &args)]);
    let (_, how, has_run, printed) = &ends[0];
    assert_eq!((how, *has_run), (&ExitStatus::of_code(0), false), "{printed}");
    // The stand-in says so when it is told what came of the command.
    assert!(printed.contains("Mock answer: the tool has run."), "{printed}");
    let told = fs::read_to_string(daemon.path("dump/responses-tools.json")).unwrap();
    let came = told.rsplit_once("function_call_output").unwrap().1;
    // gVisor of 2022 lacks a file that bubblewrap reads before it makes namespaces.
    let why = if engine == "runsc" {
        "bwrap: Can't read /proc/sys/kernel/overflowuid"
    } else {
        "bwrap: No permissions to create new namespace"
    };
    assert!(came.contains(why), "{came}");
    forget(daemon, ends.into_iter().map(|(name, ..)| name));
}
