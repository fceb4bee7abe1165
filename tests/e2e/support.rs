//! The fixture: a daemon of the real binary with its own directories, and the means to observe it.
//!
//! Every [`Setup`] has one temporary directory for everything: jcard, secrets, sockets, state, the agents' workdir. Every process
//! that names or works in that directory belongs to the test, and ends with it. Nothing sleeps for a fixed time: tests wait for a
//! condition, with a bound, and show what the daemon said and did if the condition never comes.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use agentd::launch::socket_dir::launch_socket_beside;
use agentd::launch::temporary_dir;
use agentd::wire::exit_status;
use agentd::wire::status::{AgentStatus, Exit, Health, State};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Group, Pid, User, geteuid};
use tempfile::TempDir;

use crate::canary;
pub use crate::skip::skip;

/// How long anything may take before a test gives up on it.
pub const BOUND: Duration = Duration::from_secs(20);

/// A PATH that finds bash and the core utilities, wherever this machine keeps them.
pub fn path() -> String {
    std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned())
}

pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Whether the test can run as root. Otherwise it is skipped with a message. In CI, nothing is skipped.
pub fn root() -> bool {
    if !is_root() {
        skip("it needs root: run ./tests/run as root");
    }
    is_root()
}

pub fn account(name: &str) -> User {
    User::from_name(name)
        .unwrap()
        .unwrap_or_else(|| panic!("there is no user {name}: run ./tests/run, which lends one"))
}

fn myself() -> User {
    User::from_uid(geteuid()).unwrap().expect("the user that runs the tests has an account")
}

pub fn admin_gid() -> u32 {
    Group::from_name("admin").unwrap().expect("there is no group admin: run ./tests/run, which lends one").gid.as_raw()
}

/// The user that the daemon runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// As root. Its agents run as `agent` unless the test says otherwise.
    Root,
    /// As an ordinary user with its own agents: `op` when the tests run as root, otherwise the current user.
    User,
}

/// A jcard entry: an agent with the fake harness. `script` has its steps, separated by semicolons; `more` is further TOML.
/// `@HARNESS`, `@WORK` and `@DIR` stand for the fixture's paths, here and in every jcard.
pub fn agent(name: &str, script: &str, more: &str) -> String {
    format!(
        "[[agents]]\nname = {name:?}\nharness = \"custom\"\ncommand = \"@HARNESS\"\nworkdir = \"@WORK\"\nargs = {}\n{more}\n\n",
        steps(script)
    )
}

/// The fake harness's script as a TOML array.
pub fn steps(script: &str) -> String {
    let steps: Vec<Vec<&str>> = script.split(';').map(|step| step.split_whitespace().collect()).collect();
    format!("{:?}", steps.join(&"--"))
}

/// A place for a daemon, and how it will be started.
pub struct Setup {
    who: Who,
    user: Option<String>,
    args: Vec<String>,
    debug: bool,
    /// The value of a secret that every agent receives; see [`canary`](crate::canary).
    pub canary: String,
    wrapper: Vec<String>,
    env: Vec<(String, String)>,
    dir: TempDir,
}

/// How a command of agentd ended that this user gave to the daemon, and what it said.
pub fn by(user: &str, setup: &Setup, words: &[&str]) -> (Option<i32>, String) {
    let socket = setup.api_socket();
    let mut all = vec![binary().to_str().unwrap()];
    all.extend(words);
    all.extend(["--api-socket", socket.to_str().unwrap()]);
    run(&mut as_user(user, &all))
}

impl Setup {
    /// As root when the tests are, otherwise as an ordinary user.
    pub fn new() -> Self {
        Self::of(if is_root() { Who::Root } else { Who::User })
    }

    pub fn of(who: Who) -> Self {
        let dir = tempfile::Builder::new().prefix("ad-").tempdir().unwrap();
        assert!(
            dir.path().as_os_str().len() < 60,
            "{} is too long for sockets below it: set TMPDIR",
            dir.path().display()
        );
        let setup = Self {
            who,
            user: None,
            args: ["--settle", "0ms"].map(str::to_owned).into(),
            debug: true,
            canary: canary::of(dir.path().file_name().unwrap().to_str().unwrap()),
            wrapper: Vec::new(),
            env: vec![("PATH".to_owned(), path()), ("DAEMON_ONLY".to_owned(), "must not reach an agent".to_owned())],
            dir,
        };
        fs::set_permissions(setup.dir(), Permissions::from_mode(0o755)).unwrap();
        for (folder, mode) in [("bin", 0o755), ("work", 0o755), ("secrets", 0o700), ("home", 0o700)] {
            fs::create_dir(setup.path(folder)).unwrap();
            fs::set_permissions(setup.path(folder), Permissions::from_mode(mode)).unwrap();
        }
        fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/fake-harness"), setup.path("bin/fake-harness"))
            .unwrap();
        fs::set_permissions(setup.path("bin/fake-harness"), Permissions::from_mode(0o755)).unwrap();
        let daemon = setup.daemon_account();
        for owned in ["", "secrets", "home"] {
            give(&setup.path(owned), &daemon);
        }
        setup.secret(canary::NAME, &setup.canary);
        setup.for_agents(account_of_agents(who, None).name.as_str())
    }

    /// The agent user of a daemon that runs as root.
    pub fn user(mut self, name: &str) -> Self {
        self.user = Some(name.to_owned());
        self.for_agents(name)
    }

    fn for_agents(self, name: &str) -> Self {
        let agent = account(name);
        give(&self.path("work"), &agent);
        self
    }

    /// Further arguments of the daemon. Without `--settle` it applies changes at once.
    pub fn args<const N: usize>(mut self, args: [&str; N]) -> Self {
        if args.contains(&"--settle") {
            self.args.clear();
        }
        self.args.extend(args.map(str::to_owned));
        self
    }

    /// Without `--debug`. All other scenarios use it for the sake of the canary, because it makes agentd log the most.
    pub fn quiet(mut self) -> Self {
        self.debug = false;
        self
    }

    /// A variable in the daemon's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Shell commands that run before `exec agentd …` in the same process.
    pub fn after(mut self, commands: &str) -> Self {
        self.wrapper = ["bash", "-c", &format!("{commands}\nexec \"$@\""), "bash"].map(str::to_owned).into();
        self
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        if relative.is_empty() { self.dir().to_owned() } else { self.dir().join(relative) }
    }

    /// Makes a working directory of this user's, `of-USER`.
    pub fn make_workdir_of(&self, user: &User) -> PathBuf {
        let workdir = self.path(&format!("of-{}", user.name));
        fs::create_dir(&workdir).unwrap();
        give(&workdir, user);
        workdir
    }

    /// A path in the agents' workdir.
    pub fn work(&self, relative: &str) -> PathBuf {
        self.path("work").join(relative)
    }

    pub fn jcard(&self) -> PathBuf {
        self.path("jcard.toml")
    }

    pub fn api_socket(&self) -> PathBuf {
        self.path("api/agentd.sock")
    }

    pub fn tmux_socket(&self) -> PathBuf {
        self.path("tmux/tmux.sock")
    }

    pub fn terminal_socket(&self) -> PathBuf {
        self.path("door/terminal.sock")
    }

    pub fn daemon_account(&self) -> User {
        if self.who == Who::User && is_root() { account("op") } else { myself() }
    }

    pub fn agent_account(&self) -> User {
        account_of_agents(self.who, self.user.as_deref())
    }

    pub fn expand(&self, text: &str) -> String {
        let dir = self.dir().to_str().unwrap();
        text.replace("@HARNESS", "@DIR/bin/fake-harness").replace("@WORK", "@DIR/work").replace("@DIR", dir)
    }

    /// Writes a file atomically, as careful writers do: `NAME.tmp`, then rename. The file belongs to the daemon's user.
    pub fn put(&self, path: &Path, content: impl AsRef<[u8]>) {
        let new = PathBuf::from(format!("{}.tmp", path.display()));
        fs::write(&new, content).unwrap();
        let private = path.starts_with(self.path("secrets"));
        fs::set_permissions(&new, Permissions::from_mode(if private { 0o600 } else { 0o644 })).unwrap();
        give(&new, &self.daemon_account());
        fs::rename(&new, path).unwrap();
    }

    pub fn edit_jcard(&self, text: &str) {
        self.put(&self.jcard(), self.expand(text));
    }

    pub fn secret(&self, name: &str, value: impl AsRef<[u8]>) {
        self.put(&self.path("secrets").join(name), value);
    }

    /// The lines of a file in the workdir, or none if it does not exist.
    pub fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.work(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// How many times a harness with `log @WORK/NAME` was started.
    pub fn starts(&self, name: &str) -> usize {
        self.lines(name).iter().filter(|line| line.starts_with("start ")).count()
    }

    /// Waits until there are so many starts. More than that is a failure.
    pub fn wait_for_starts(&self, name: &str, expected: usize) {
        self.wait(&format!("{expected} starts in {name}"), || (self.starts(name) >= expected).then_some(()));
        assert_eq!(self.starts(name), expected);
    }

    /// The pid that a `child FILE` step left.
    pub fn pid_in(&self, name: &str) -> Option<i32> {
        self.lines(name).first()?.parse().ok()
    }

    /// What the daemon has written to stderr.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("stderr")).unwrap_or_default()).into_owned()
    }

    /// The daemon, ready to be spawned.
    pub fn daemon_command(&self) -> Command {
        self.agentd(&[])
    }

    /// The binary with `verb`, then the daemon's own flags, as the daemon's user in the daemon's environment.
    pub fn agentd(&self, verb: &[&str]) -> Command {
        let mut argv = Vec::new();
        if self.who == Who::User && is_root() {
            argv = become_user(&self.daemon_account().name);
        }
        argv.extend(self.wrapper.iter().cloned());
        argv.push(binary().to_str().unwrap().to_owned());
        argv.extend(verb.iter().map(|&word| word.to_owned()));
        if verb.is_empty() {
            for (flag, value) in [
                ("--config", self.jcard()),
                ("--secret-dir", self.path("secrets")),
                ("--api-socket", self.api_socket()),
                ("--tmux-socket", self.tmux_socket()),
                ("--terminal-socket", self.terminal_socket()),
                ("--state-dir", self.path("state")),
                ("--log-dir", self.path("log")),
                ("--override-dir", self.path("overrides")),
            ] {
                argv.extend([flag.to_owned(), value.to_str().unwrap().to_owned()]);
            }
            if self.who == Who::Root {
                argv.extend(["--user", &self.agent_account().name, "--admin-group", "admin"].map(str::to_owned));
            }
            argv.extend(self.args.iter().cloned());
            argv.extend(self.debug.then(|| "--debug".to_owned()));
        }
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).env_clear().envs(self.env.iter().cloned()).current_dir(self.dir());
        command.env("HOME", self.path("home")).env("XDG_CONFIG_HOME", self.path("home/config"));
        command.env("XDG_RUNTIME_DIR", self.path("home/run")).env("XDG_STATE_HOME", self.path("home/state"));
        command.stdin(Stdio::null());
        command
    }

    /// Starts the daemon under this jcard and waits until its API answers.
    pub fn start(self, jcard: &str) -> Daemon {
        self.edit_jcard(jcard);
        self.start_as_it_is()
    }

    /// The same, with the current jcard.
    pub fn start_as_it_is(self) -> Daemon {
        let command = self.daemon_command();
        self.start_by(command)
    }

    /// The same, with a command of the test.
    pub fn start_by(self, command: Command) -> Daemon {
        let mut daemon = Daemon { setup: Arc::new(self), child: None };
        daemon.spawn(command);
        daemon.wait_for_api();
        daemon
    }

    /// A program with the agent user's rights and a clean environment.
    pub fn as_agent(&self, argv: &[&str]) -> Command {
        as_user(&self.agent_account().name, argv)
    }

    /// The output of a tmux client of the agent user. An error is its stderr.
    pub fn tmux(&self, words: &[&str]) -> Result<String, String> {
        let socket = self.tmux_socket();
        let argv = [&["timeout", "10", "tmux", "-N", "-S", socket.to_str().unwrap()], words].concat();
        let output = self.as_agent(&argv).output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!("tmux {words:?}: {}", String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// Scrollback and screen of the agent's own pane, the oldest of its session. Empty if there is none.
    pub fn capture(&self, session: &str) -> String {
        self.capture_from(session, "-")
    }

    /// The part of it that is visible without scrolling back.
    pub fn screen(&self, session: &str) -> String {
        self.capture_from(session, "0")
    }

    fn capture_from(&self, session: &str, line: &str) -> String {
        let panes =
            self.tmux(&["list-panes", "-s", "-t", &format!("={session}"), "-F", "#{pane_id}"]).unwrap_or_default();
        let oldest = panes.lines().min_by_key(|id| id.trim_start_matches('%').parse::<u32>().ok());
        oldest.and_then(|id| self.tmux(&["capture-pane", "-p", "-S", line, "-t", id]).ok()).unwrap_or_default()
    }

    pub fn has_session(&self, session: &str) -> bool {
        self.tmux(&["has-session", "-t", &format!("={session}")]).is_ok()
    }

    /// Attaches an operator's real terminal to a session.
    pub fn attach(&self, session: &str) -> Attached {
        let screen = tempfile::NamedTempFile::new_in(self.dir()).unwrap();
        let client = format!(
            "stty rows 24 cols 80; exec tmux -N -S {} attach-session -t ={session}",
            self.tmux_socket().display()
        );
        let mut child = self
            .as_agent(&["script", "-qfc", &client, "/dev/null"])
            .current_dir(self.dir())
            .stdin(Stdio::piped())
            .stdout(screen.reopen().unwrap())
            .spawn()
            .unwrap();
        let keyboard = child.stdin.take().unwrap();
        let attached = Attached { child, keyboard, screen };
        self.wait("the operator to be attached", || {
            self.tmux(&["list-clients", "-t", &format!("={session}")])
                .is_ok_and(|clients| !clients.is_empty())
                .then_some(())
        });
        attached
    }

    /// Every process of this test: all that name its directory, or work in it.
    pub fn processes(&self) -> Vec<Process> {
        let needle = self.dir().as_os_str().as_bytes();
        Process::all()
            .filter(|process| {
                process.cmdline().windows(needle.len()).any(|window| window == needle)
                    || fs::read_link(process.file("cwd")).is_ok_and(|cwd| cwd.starts_with(self.dir()))
            })
            .collect()
    }

    /// Waits until `poll` returns something.
    #[allow(clippy::unused_self, reason = "it is this test that waits")]
    pub fn wait<T>(&self, what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = poll() {
                return found;
            }
            assert!(start.elapsed() < BOUND, "waited {BOUND:?} for {what}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until that file exists in the workdir, and returns its content.
    pub fn wait_for_file(&self, name: &str) -> Vec<u8> {
        self.wait(&format!("the file {name}"), || fs::read(self.work(name)).ok())
    }

    /// Waits until that log in the workdir has that line.
    pub fn wait_for_line(&self, name: &str, line: &str) {
        self.wait(&format!("{line:?} in {name}"), || self.lines(name).iter().any(|found| found == line).then_some(()));
    }

    /// Waits until the process has ended. A zombie counts as ended.
    pub fn wait_until_gone(&self, pid: i32) {
        self.wait(&format!("process {pid} to be gone"), || (!Process(pid).is_alive()).then_some(()));
    }

    /// Sends a request as is. Reads the response until the other side closes.
    pub fn request(&self, request: &str) -> Response {
        self.try_request(request).unwrap_or_else(|error| panic!("{request:?}: {error}"))
    }

    pub fn try_request(&self, request: &str) -> std::io::Result<Response> {
        let mut stream = UnixStream::connect(self.api_socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(request.as_bytes())?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        Response::parse(&bytes)
            .ok_or_else(|| std::io::Error::other(format!("no HTTP: {:?}", String::from_utf8_lossy(&bytes))))
    }

    pub fn get(&self, path: &str) -> Response {
        self.request(&get(path))
    }

    pub fn agents(&self) -> Vec<AgentStatus> {
        self.try_agents().unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn try_agents(&self) -> std::io::Result<Vec<AgentStatus>> {
        let response = self.try_request(&get("/v1/agents"))?;
        serde_json::from_str(&response.body)
            .map_err(|error| std::io::Error::other(format!("{error}: {}", response.body)))
    }

    pub fn agent(&self, name: &str) -> Option<AgentStatus> {
        self.agents().into_iter().find(|agent| agent.name == name)
    }

    pub fn health(&self) -> Health {
        serde_json::from_str(&self.get("/v1/health").body).unwrap()
    }

    /// Waits until the agent is listed and meets the condition.
    pub fn wait_until(&self, name: &str, what: &str, asked: impl Fn(&AgentStatus) -> bool) -> AgentStatus {
        self.wait(&format!("{name} to be {what}"), || self.agent(name).filter(&asked))
    }

    pub fn wait_for_state(&self, name: &str, state: State) -> AgentStatus {
        self.wait_until(name, &format!("{state:?}"), |agent| agent.state == state)
    }

    /// Waits until the agent runs, and returns the pid of its harness.
    pub fn wait_until_running(&self, name: &str) -> i32 {
        self.wait_until(name, "running, with a pid", |agent| agent.running && agent.pid.is_some()).pid.unwrap()
    }

    /// Waits until the agent is no longer listed.
    pub fn wait_until_removed(&self, name: &str) {
        self.wait(&format!("{name} to be removed"), || self.agent(name).is_none().then_some(()));
    }

    fn show(&self) {
        eprintln!("---- agents, as the API has them");
        match self.try_request(&get("/v1/agents")) {
            Ok(response) => eprintln!("{}", response.body),
            Err(error) => eprintln!("{error}"),
        }
        eprintln!("---- the daemon's stderr\n{}", self.log());
        for session in self.tmux(&["list-sessions", "-F", "#{session_name}"]).unwrap_or_default().lines() {
            eprintln!("---- the pane of {session}\n{}", self.capture(session).trim_end());
        }
        eprintln!("---- processes");
        for process in self.processes() {
            eprintln!("{process}");
        }
    }
}

/// Ends every process of the test.
impl Drop for Setup {
    fn drop(&mut self) {
        let start = Instant::now();
        loop {
            let left = self.processes();
            if left.is_empty() || start.elapsed() > BOUND {
                break;
            }
            for process in left {
                process.signal(Signal::SIGKILL);
            }
            thread::sleep(Duration::from_millis(5));
        }
        // Their launchers would have done it.
        let users = fs::read_dir(self.path("door/users")).into_iter().flatten().flatten().map(|user| user.path());
        let sockets = users.map(|user| user.join("tmux.sock")).chain([self.tmux_socket()]);
        let prefixes: Vec<_> =
            sockets.map(|socket| temporary_dir::prefix_of_all(&launch_socket_beside(&socket))).collect();
        for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
            if prefixes.iter().any(|prefix| entry.file_name().as_bytes().starts_with(prefix.as_bytes())) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// A daemon that was started.
pub struct Daemon {
    setup: Arc<Setup>,
    child: Option<Child>,
}

impl Deref for Daemon {
    type Target = Setup;

    fn deref(&self) -> &Setup {
        &self.setup
    }
}

impl Daemon {
    pub fn start_again(&mut self) {
        self.start_again_unawaited();
        self.wait_for_api();
    }

    /// The same, without waiting for the API.
    pub fn start_again_unawaited(&mut self) {
        self.spawn(self.daemon_command());
    }

    /// The fixture of the daemon, for other threads.
    pub fn place(&self) -> Arc<Setup> {
        Arc::clone(&self.setup)
    }

    fn spawn(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "the daemon still runs");
        let stderr = OpenOptions::new().create(true).append(true).open(self.path("stderr")).unwrap();
        self.child = Some(command.stdout(stderr.try_clone().unwrap()).stderr(stderr).spawn().unwrap());
    }

    fn wait_for_api(&mut self) {
        let start = Instant::now();
        while !self.setup.try_request(&get("/v1/health")).is_ok_and(|response| response.status == 200) {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "the daemon ended at once: {}", ended.unwrap());
            assert!(start.elapsed() < BOUND, "the daemon's API does not answer");
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.as_ref().expect("a daemon that was not stopped").id()).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        Process(self.pid()).signal(signal);
    }

    /// The daemon's own process that acts with the agent user's rights.
    pub fn deputy(&self) -> Process {
        let is_it = |process: &Process| process.argv().get(1).is_some_and(|word| word == "deputy");
        self.wait("the deputy", || Process::all().find(|it| is_it(it) && it.parent().0 == self.pid()))
    }

    /// Sends SIGTERM and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// Waits for the daemon's own end.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a daemon that was not stopped");
        let status = self.setup.wait("the daemon to end", || child.try_wait().unwrap());
        self.child = None;
        status
    }
}

/// Shows what happened if the test failed, otherwise checks that the canary is only where it belongs. Kills the daemon. Its
/// remaining processes end with the [`Setup`].
impl Drop for Daemon {
    fn drop(&mut self) {
        let leaks = if thread::panicking() { Vec::new() } else { self.leaks(&self.canary) };
        if thread::panicking() || !leaks.is_empty() {
            self.setup.show();
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        assert_eq!(leaks, [""; 0], "a secret is where it should not be");
        assert!(thread::panicking() || self.tmux_as_root().is_empty(), "{:?}", self.tmux_as_root());
    }
}

/// An operator's terminal.
pub struct Attached {
    child: Child,
    keyboard: ChildStdin,
    screen: tempfile::NamedTempFile,
}

impl Attached {
    pub fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Everything that was ever drawn.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.screen.path()).unwrap()).into_owned()
    }

    pub fn is_attached(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that ends with the test.
pub struct Bystander(Child);

impl Bystander {
    pub fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    pub fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process, by its pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(pub i32);

impl Process {
    pub fn all() -> impl Iterator<Item = Self> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Self))
    }

    fn file(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0))
    }

    pub fn cmdline(self) -> Vec<u8> {
        fs::read(self.file("cmdline")).unwrap_or_default()
    }

    pub fn argv(self) -> Vec<String> {
        strings(&self.cmdline())
    }

    pub fn environ(self) -> Vec<u8> {
        fs::read(self.file("environ")).unwrap_or_default()
    }

    /// The fields of `/proc/PID/stat` from the state on.
    fn stat(self) -> Option<Vec<String>> {
        let stat = fs::read(self.file("stat")).ok()?;
        Some(String::from_utf8_lossy(&stat).rsplit_once(") ")?.1.split_whitespace().map(str::to_owned).collect())
    }

    fn number(self, field: usize) -> i32 {
        self.stat().and_then(|stat| stat[field].parse().ok()).unwrap_or_else(|| panic!("process {} is gone", self.0))
    }

    pub fn parent(self) -> Self {
        Self(self.number(1))
    }

    /// Its parent, and so on up to the first process, as far as they are alive.
    pub fn ancestors(self) -> impl Iterator<Item = Self> {
        let parent = |process: &Self| process.stat()?[1].parse().ok().filter(|&pid| pid > 0).map(Self);
        std::iter::successors(parent(&self), parent)
    }

    /// The file name of its executable.
    pub fn executable(self) -> Option<String> {
        Some(fs::read_link(self.file("exe")).ok()?.file_name()?.to_str()?.to_owned())
    }

    pub fn group(self) -> i32 {
        self.number(2)
    }

    pub fn session(self) -> i32 {
        self.number(3)
    }

    /// The foreground process group of its terminal.
    pub fn foreground(self) -> i32 {
        self.number(5)
    }

    /// The first word of a line of `/proc/PID/status`.
    fn status(self, key: &str) -> String {
        let status = fs::read(self.file("status")).unwrap();
        let status = String::from_utf8_lossy(&status);
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    }

    pub fn resident_kib(self) -> u64 {
        self.status("VmRSS").parse().unwrap()
    }

    /// Its peak memory.
    pub fn peak_kib(self) -> u64 {
        self.status("VmHWM").parse().unwrap()
    }

    /// Its effective user.
    pub fn acts_as(self) -> Option<u32> {
        Some(fs::metadata(self.file("")).ok()?.uid())
    }

    /// Whether a debugger such as strace is attached.
    pub fn is_traced(self) -> bool {
        self.status("TracerPid") != "0"
    }

    /// Its real user.
    pub fn user(self) -> u32 {
        self.status("Uid").parse().unwrap()
    }

    /// The signals that it blocks, as a mask.
    pub fn blocked(self) -> u64 {
        u64::from_str_radix(&self.status("SigBlk"), 16).unwrap()
    }

    /// Whether it has ended and its parent has not waited for it.
    pub fn is_zombie(self) -> bool {
        self.stat().is_some_and(|stat| stat[0] == "Z")
    }

    /// Whether it is alive. A zombie is not.
    pub fn is_alive(self) -> bool {
        self.stat().is_some_and(|stat| stat[0] != "Z" && stat[0] != "X")
    }

    /// Whether it can still act. An exiting process cannot, even before it is a zombie.
    pub fn can_act(self) -> bool {
        const PF_EXITING: u32 = 4;
        let flags = self.stat().and_then(|stat| stat[6].parse::<u32>().ok());
        self.is_alive() && flags.is_some_and(|flags| flags & PF_EXITING == 0)
    }

    pub fn signal(self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.0), signal);
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.0, self.argv().join(" ").chars().take(300).collect::<String>())
    }
}

/// A response of the API.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.to_lowercase(), v.to_owned()));
        Some(Self { status, headers: headers.collect(), body: body.to_owned() })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: agentd\r\nConnection: close\r\n\r\n")
}

/// The result of a `dump FOLDER` step, once it is complete.
pub struct Dump(PathBuf);

impl Dump {
    pub fn of(setup: &Setup, name: &str) -> Self {
        setup.wait(&format!("the dump {name}"), || setup.work(name).is_dir().then_some(()));
        Self(fs::canonicalize(setup.work(name)).unwrap())
    }

    pub fn text(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap().trim_end().to_owned()
    }

    pub fn argv(&self) -> Vec<String> {
        strings(&fs::read(self.0.join("argv")).unwrap())
    }

    /// The words after the step `rest`.
    pub fn rest(&self) -> Vec<String> {
        self.argv().into_iter().skip_while(|word| word != "rest").skip(1).collect()
    }

    pub fn environ(&self) -> Vec<String> {
        strings(&fs::read(self.0.join("environ")).unwrap())
    }

    pub fn var(&self, name: &str) -> Option<String> {
        let prefix = format!("{name}=");
        self.environ().iter().find_map(|var| var.strip_prefix(&prefix).map(str::to_owned))
    }

    /// A line of `/proc/PID/status`.
    pub fn status(&self, key: &str) -> String {
        let status = self.text("status");
        status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).expect(key).trim().to_owned()
    }
}

fn strings(bytes: &[u8]) -> Vec<String> {
    let mut parts: Vec<String> =
        bytes.split(|&byte| byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    parts.pop_if(|last| last.is_empty());
    parts
}

/// The time from one point to another, or zero if they are in reverse order.
pub fn between(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

pub fn code(exit: Option<&Exit>) -> Option<i32> {
    match exit?.how {
        exit_status::ExitStatus::Code(code) => Some(code),
        _ => None,
    }
}

/// A program as that user, with that user's groups and a clean environment.
pub fn as_user(name: &str, argv: &[&str]) -> Command {
    let mut all = if is_root() { become_user(name) } else { Vec::new() };
    all.extend(argv.iter().map(|&word| word.to_owned()));
    let mut command = Command::new(&all[0]);
    command.args(&all[1..]).env_clear().env("PATH", path()).env("TERM", "xterm").env("HOME", "/").stdin(Stdio::null());
    command
}

fn become_user(name: &str) -> Vec<String> {
    let user = account(name);
    let (uid, gid) = (format!("--reuid={}", user.uid), format!("--regid={}", user.gid));
    ["setpriv", &uid, &gid, "--init-groups", "--"].map(str::to_owned).into()
}

/// Changes the owner of a file, as far as permitted.
pub fn give(path: &Path, to: &User) {
    if is_root() {
        chown(path, Some(to.uid.as_raw()), Some(to.gid.as_raw())).unwrap();
    }
}

fn account_of_agents(who: Who, user: Option<&str>) -> User {
    match who {
        Who::Root => account(user.unwrap_or("agent")),
        Who::User if is_root() => account("op"),
        Who::User => myself(),
    }
}

/// The daemon's binary at a path that every user can reach: a copy of it if the build directory is private.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let built = Path::new(env!("CARGO_BIN_EXE_agentd"));
        let open = |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0);
        if !is_root() || built.ancestors().all(open) {
            return built.to_owned();
        }
        let folder = tempfile::Builder::new().prefix("ad-bin-").permissions(Permissions::from_mode(0o755)).tempdir();
        let folder = folder.unwrap().keep();
        for built in [built, Path::new(env!("CARGO_BIN_EXE_agentd-launcher"))] {
            let copy = folder.join(built.file_name().unwrap());
            fs::copy(built, &copy).unwrap();
            fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
        }
        folder.join("agentd")
    })
}

pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_below(&entry.path())),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    files
}

/// Permission bits, user and group of a path.
pub fn owner(path: &Path) -> (u32, u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (meta.mode() & 0o7777, meta.uid(), meta.gid())
}

/// The output of a program on stdout and then stderr, and how it ends. A program that does not end is killed.
pub fn run(command: &mut Command) -> (Option<i32>, String) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let process = Process(i32::try_from(child.id()).unwrap());
    let (done, ended) = mpsc::channel::<()>();
    let guard = thread::spawn(move || {
        if ended.recv_timeout(BOUND) == Err(mpsc::RecvTimeoutError::Timeout) {
            process.signal(Signal::SIGKILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    guard.join().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// The same program in the same environment, with its arguments mapped. Arguments mapped to `None` are left out.
pub fn with_args(command: &Command, map: impl FnMut(&str) -> Option<String>) -> Command {
    let mut other = Command::new(command.get_program());
    other.args(command.get_args().map(|arg| arg.to_str().unwrap()).filter_map(map)).env_clear().stdin(Stdio::null());
    other.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    other.current_dir(command.get_current_dir().unwrap());
    other
}
