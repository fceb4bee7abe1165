//! The daemon under measurement: it runs in a folder of its own, and is stopped and cleaned up however its scope ends.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};
use tempfile::TempDir;

use crate::client::Client;
use crate::harness::{self, Beacon, Begun};
use crate::process::{Process, Roles};
use crate::wait;

/// The interval for polling what takes far longer.
const PAUSE: Duration = Duration::from_millis(5);

/// How long a daemon may take to end.
const TO_END: Duration = Duration::from_mins(1);

/// What all daemons of one binary have in common.
pub struct Setting {
    /// The daemon's binary.
    pub binary: PathBuf,
    /// Its `--help`, which shows its flags.
    pub help: String,
    /// The user that agents run as.
    pub user: User,
    /// The group of the sockets, under root.
    pub group: String,
}

impl Setting {
    pub fn new(binary: PathBuf, user: User, group: String) -> Self {
        let output = Command::new(&binary).arg("--help").stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
        let help = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        Self { binary, help, user, group }
    }

    /// Whether the binary has such a flag. Every binary has the five flags of the contract.
    pub fn takes(&self, flag: &str) -> bool {
        let name = flag.trim_start_matches('-');
        self.help
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .any(|word| word.trim_start_matches('-') == name && word.starts_with('-'))
    }
}

/// A daemon, ready to be started, and then running.
pub struct Daemon<'a> {
    setting: &'a Setting,
    folder: TempDir,
    beacon: Beacon,
    child: Option<Child>,
}

impl<'a> Daemon<'a> {
    /// Prepares everything but the jcard. The folder has its own copies of the binary and of this program, the harness: every
    /// user can reach them there, and two daemons share no memory.
    pub fn prepare(setting: &'a Setting) -> Self {
        let folder =
            tempfile::Builder::new().prefix("ad-").permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
        let shown = folder.path().display();
        assert!(folder.path().as_os_str().len() < 60, "{shown} is too long for sockets below it: set TMPDIR");
        let path = |name: &str| folder.path().join(name);
        for (name, mode) in [("work", 0o755), ("staging", 0o755), ("secrets", 0o700), ("home", 0o700)] {
            fs::create_dir(path(name)).unwrap();
            fs::set_permissions(path(name), Permissions::from_mode(mode)).unwrap();
        }
        let mut programs = vec![(setting.binary.clone(), "agentd"), (std::env::current_exe().unwrap(), harness::ROLE)];
        // Earlier builds have no launcher.
        let launcher = setting.binary.with_file_name("agentd-launcher");
        programs.extend(launcher.exists().then_some((launcher, "agentd-launcher")));
        for (program, name) in programs {
            fs::copy(program, path(name)).unwrap();
            fs::set_permissions(path(name), Permissions::from_mode(0o755)).unwrap();
            // Pages that are not on the disk yet would count as private memory of the process.
            File::open(path(name)).and_then(|file| file.sync_all()).unwrap();
        }
        if geteuid().is_root() {
            let user = &setting.user;
            chown(path("work"), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        let beacon = Beacon::new(&path("beacon"));
        Self { setting, folder, beacon, child: None }
    }

    /// Starts a daemon with this many agents, and waits until all of them run.
    pub fn with_agents(setting: &'a Setting, agents: usize) -> (Self, Vec<Begun>) {
        let mut daemon = Self::prepare(setting);
        daemon.declare(agents, "first");
        daemon.start();
        let begun = daemon.wait_for(agents, "first");
        (daemon, begun)
    }

    /// Replaces the jcard with one of this many agents that report with this token. Returns the time.
    pub fn declare(&self, agents: usize, token: &str) -> Duration {
        let jcard: String = (1..=agents).map(|number| self.entry(number, token)).collect();
        self.declare_text(&jcard)
    }

    /// Replaces the jcard with this text. Returns the time.
    pub fn declare_text(&self, jcard: &str) -> Duration {
        // Written elsewhere, so that the rename is the only change that the daemon sees.
        let new = self.path("staging/jcard.toml");
        fs::write(&new, jcard).unwrap();
        let at = harness::now();
        fs::rename(&new, self.path("jcard.toml")).unwrap();
        at
    }

    fn entry(&self, number: usize, token: &str) -> String {
        let (work, harness, beacon) = (self.path("work"), self.path("harness"), self.path("beacon"));
        format!(
            "[[agents]]\nname = 'agent-{number}'\nharness = 'custom'\nrestart = 'no'\n\
             workdir = '{}'\ncommand = '{}'\nargs = ['{}', '{}', '{token}']\n\n",
            work.display(),
            harness.display(),
            harness::ROLE,
            beacon.display()
        )
    }

    /// Starts the daemon. Returns the time.
    pub fn start(&mut self) -> Duration {
        let mut command = Command::new(self.path("agentd"));
        for (flag, place) in [
            ("--config", "jcard.toml"),
            ("--secret-dir", "secrets"),
            ("--api-socket", "api/agentd.sock"),
            ("--tmux-socket", "tmux/tmux.sock"),
        ] {
            command.arg(flag).arg(self.path(place));
        }
        let (state, logs) = (self.path("state"), self.path("logs"));
        let mut beyond = vec![("--state-dir", state.to_str().unwrap()), ("--log-dir", logs.to_str().unwrap())];
        let terminal = self.path("door/terminal.sock");
        beyond.push(("--terminal-socket", terminal.to_str().unwrap()));
        let overrides = self.path("overrides");
        beyond.push(("--override-dir", overrides.to_str().unwrap()));
        beyond.push(("--settle", "0ms"));
        if geteuid().is_root() {
            beyond
                .extend([("--user", self.setting.user.name.as_str()), ("--admin-group", self.setting.group.as_str())]);
        }
        for (flag, value) in beyond.into_iter().filter(|(flag, _)| self.setting.takes(flag)) {
            command.args([flag, value]);
        }
        let log = File::create(self.path("log")).unwrap();
        command.env_clear().env("HOME", self.path("home")).envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let at = harness::now();
        self.child = Some(command.spawn().unwrap());
        at
    }

    /// Replaces the secret with a new one. Returns the time.
    pub fn change_secret(&self, value: &str) -> Duration {
        let new = self.path("staging/secret");
        fs::write(&new, value).unwrap();
        let at = harness::now();
        fs::rename(&new, self.path("secrets/SECRET")).unwrap();
        at
    }

    /// Sends SIGTERM, and measures how long it takes until the daemon and all that it kept running are gone.
    pub fn stop(&mut self, begun: &[Begun]) -> Duration {
        let (process, mut child) = (self.process().expect("it was started"), self.child.take().expect("likewise"));
        let from = Instant::now();
        process.signal(Signal::SIGTERM);
        child.wait().unwrap();
        let took = from.elapsed();
        wait::until("the harnesses to be gone", PAUSE, || {
            begun.iter().all(|it| !Process(it.pid).lives()).then_some(())
        });
        took
    }

    /// Kills the daemon with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// The next harness that begins with this token.
    pub fn begun(&self, token: &str) -> Begun {
        self.beacon.wait(token)
    }

    /// Waits until this many harnesses have begun with this token, and the API says that all agents run.
    pub fn wait_for(&self, agents: usize, token: &str) -> Vec<Begun> {
        let begun = (0..agents).map(|_| self.begun(token)).collect();
        self.wait_until_running(agents);
        begun
    }

    /// Waits until the API says that this many agents run. Returns the time.
    pub fn wait_until_running(&self, agents: usize) -> Duration {
        let mut client = self.client();
        wait::until("all agents to be running", PAUSE, || {
            let all = client.agents().unwrap();
            (all.len() == agents && all.iter().all(|agent| agent.running)).then(harness::now)
        })
    }

    /// A new connection to the API.
    pub fn client(&self) -> Client {
        wait::until("the API", PAUSE, || Client::connect(&self.path("api/agentd.sock")).ok())
    }

    /// The processes that keep these harnesses running.
    pub fn roles(&self, begun: &[Begun]) -> Roles {
        let harnesses: Vec<i32> = begun.iter().map(|begun| begun.pid).collect();
        Roles::of(self.process().expect("it was started"), &harnesses)
    }

    /// A place in the daemon's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn process(&self) -> Option<Process> {
        self.child.as_ref().map(|child| Process(i32::try_from(child.id()).unwrap()))
    }

    /// Kills whatever the daemon has left behind.
    fn sweep(&self) {
        let limit = Instant::now() + TO_END;
        while Instant::now() < limit {
            let left: Vec<Process> = Process::all().filter(|process| process.is_of(self.folder.path())).collect();
            if left.is_empty() {
                return;
            }
            for process in left {
                process.signal(Signal::SIGKILL);
            }
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if thread::panicking() && !wait::interrupted() {
            eprintln!("the daemon's log:\n{}", fs::read_to_string(self.path("log")).unwrap_or_default());
        }
        if let (Some(process), Some(mut child)) = (self.process(), self.child.take()) {
            process.signal(Signal::SIGTERM);
            let limit = Instant::now() + TO_END;
            while Instant::now() < limit && child.try_wait().is_ok_and(|status| status.is_none()) {
                thread::sleep(PAUSE);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        self.sweep();
    }
}
