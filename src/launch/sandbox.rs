//! Sandboxes: the harness sees its work and the programs of the machine, and little else.
//!
//! ```text
//! launcher ─ engine (bwrap, crun, runsc) ┄┄ agentd-launcher inner ─ the harness
//!    └──────────── control channel ─────────────────┘
//! ```
//!
//! The launcher starts the engine as the agent user, with the harness's terminal and in the agent's control group. So everything
//! that holds for other agents holds here: the terminal and the log, how the harness ended, being stopped and killed. Root makes no
//! sandbox, and no file holds a secret.
//!
//! What a sandbox consists of is a pure function of the declaration and of what was [found](machine) on the machine:
//! [`mounts::plan`], and from that the arguments of [bubblewrap](bwrap) or the [configuration](oci) of an OCI runtime. What the
//! launcher mounts may be replaced by another agent between the check and the mount. So the [process inside](inner) checks again.
//!
//! What cannot be sandboxed is not started. There is no fallback.

mod bwrap;
mod control;
mod explain;
mod filter;
mod forward;
mod homes;
mod identity;
pub mod inner;
mod machine;
mod mounts;
mod oci;
mod places;
mod proxy;
mod repository;
mod reserved;
mod trial;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;

pub use trial::{TRY_COMMAND, try_engine, words};

pub(super) use control::{Channel, FromInside, Size, ToInside};
use control::{Expected, Order};
use machine::{Owner, Prepared};
use mounts::{Examined, Facts, Item, Plan};
pub(super) use mounts::{PROGRAM, SECRETS, SKILLS, TELL, TEMPORARY};
use proxy::Gate;
pub(super) use proxy::add_proxy;

use crate::agent::sandbox::{Engine, Home, Sandbox};
use crate::launch::launcher::find;
use crate::launch::protocol::{Failure, Taught};
use crate::launch::temporary_dir::{self, Scratch};
use crate::sys::secret_bytes::SecretBytes;

/// Variables of a login that name what no sandbox has.
const OUTSIDE: [&str; 6] =
    ["DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK", "TMUX", "TMUX_PANE", "XAUTHORITY", "XDG_RUNTIME_DIR"];

/// The folder of the bundle that a fresh home is filled from.
const SEED: &str = "seed";

/// What of an environment is of use in a sandbox: everything that was declared, and of the rest what does not name something outside.
pub(super) fn of_inside<'a>(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    declared: impl Iterator<Item = &'a String>,
) -> Vec<(OsString, OsString)> {
    let declared: Vec<&String> = declared.collect();
    let is_of_use = |name: &OsString| {
        !OUTSIDE.iter().any(|outside| name == outside) || declared.iter().any(|declared| name == declared.as_str())
    };
    environment.into_iter().filter(|(name, _)| is_of_use(name)).collect()
}

/// What the sandbox of one attempt is made from.
pub(super) struct Request<'a> {
    pub sandbox: &'a Sandbox,
    /// The agent's name.
    pub agent: &'a str,
    pub workdir: &'a Path,
    /// What the agent is taught.
    pub skills: Option<&'a Taught>,
    /// The folder of the files with its secrets.
    pub secrets: Option<&'a Path>,
    /// Whether the repository of another user may be shown.
    pub trust_repository: bool,
    /// The umask of the harness.
    pub umask: u32,
    /// What its packages need of the store, should the sandbox not have all of the store.
    pub closure: &'a [PathBuf],
    /// The program and its arguments.
    pub arguments: &'a [SecretBytes],
    /// The environment of the login, in which the engine is looked for, too.
    pub login: &'a [(OsString, OsString)],
    /// The whole environment of the harness.
    pub environment: Vec<(OsString, OsString)>,
    /// The variable that the agent's processes are known by.
    pub mark: Option<(&'a str, &'a SecretBytes)>,
    /// The socket of the daemon.
    pub launch_socket: &'a Path,
    /// Whether the harness's standard output is read.
    pub is_streamed: bool,
    /// The socket for what hooks tell, if there is one.
    pub tell: Option<PathBuf>,
}

/// A sandbox that is ready to be started.
pub(super) struct Ready {
    pub engine: Engine,
    /// The size of the terminal, if it is known.
    pub size: Option<Size>,
    command: Command,
    held: Held,
    /// The way to the proxy, if there is one.
    gate: Option<Gate>,
    /// The folders that it consists of, which last as long as it does.
    pub scratch: Vec<Scratch>,
}

/// A sandbox that is being started.
pub(super) struct Begun {
    pub engine: Engine,
    pub child: Child,
    pub channel: Channel,
    pub held: Held,
    pub scratch: Vec<Scratch>,
}

/// What is to be started inside, until it is certain that the sandbox was made from what was examined.
pub(super) struct Held {
    order: Option<Order>,
    examined: Vec<Examined>,
}

impl Held {
    /// Has the harness started, once the process inside runs. By then everything is mounted.
    ///
    /// That process checks what it sees, unless its kernel gives files numbers of its own. Then this check is all there is, and what
    /// another agent has replaced and put back in between goes unnoticed.
    pub fn release(&mut self, channel: &mut Channel) -> Result<(), Failure> {
        let Some(order) = self.order.take_if(|_| channel.is_inside()) else { return Ok(()) };
        if let Some(Examined { path, .. }) = self.examined.iter().find(|examined| !examined.is_there()) {
            return Err(refused(format!("{} was replaced while the sandbox was made", path.display())));
        }
        channel.say(&ToInside::Start(order));
        Ok(())
    }
}

impl Request<'_> {
    fn of_login(&self, name: &str) -> Option<&OsStr> {
        self.login.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
    }

    /// Makes everything that the engine needs.
    pub fn prepare(&self) -> Result<Ready, Failure> {
        let engine = self.sandbox.engine;
        let program = self.sandbox.program.as_deref().map_or(OsStr::new(engine.name()), Path::as_os_str);
        let program = find(program, self.of_login("PATH").unwrap_or_default())?;
        let base = self.of_login(temporary_dir::VARIABLE);
        let make = || Scratch::make(base, self.launch_socket, self.agent);
        let (bundle, temporary) = make().and_then(|bundle| Ok((bundle, make()?))).map_err(|error| Failure {
            missing: true,
            ..Failure::of_system("the sandbox has no folder of its own", &error)
        })?;
        let home = Path::new(self.of_login("HOME").unwrap_or_default());
        if !home.is_absolute() {
            return Err(refused("the login names no home directory, so that the sandbox has none".to_owned()));
        }
        let made_home = self.make_home(home, bundle.path())?;
        let launcher = std::env::current_exe()
            .map_err(|error| Failure::of_system("the launcher does not find its program", &error))?;
        let user = self.of_login("USER").or(self.of_login("LOGNAME")).and_then(OsStr::to_str).unwrap_or("agent");
        let shell = Path::new(self.of_login("SHELL").unwrap_or(OsStr::new("/bin/sh")));
        let hidden = self.hidden(home);
        let proxy = self.sandbox.proxy.as_deref();
        proxy.map_or(Ok(()), |proxy| proxy::look(proxy, &hidden, user))?;
        let gate = proxy.map(|proxy| Gate::open(bundle.path(), proxy)).transpose();
        let gate = gate.map_err(|error| Failure::of_system("the sandbox has no way to its proxy", &error))?;
        let (gate_path, gate) = gate.unzip();
        let base = bundle.path().parent().unwrap_or(Path::new("/"));
        let base = base.canonicalize().map_err(|error| Failure::of_system("the folder for temporary files", &error))?;
        let prepared = Prepared {
            made_home,
            temporary: temporary.path().to_owned(),
            base,
            launcher,
            gate: gate_path,
            tell: self.tell.clone(),
        };
        let owner = Owner { user, home, shell, trusts: self.trust_repository };
        let mut facts = machine::look(self.sandbox, owner, self.workdir, prepared, hidden).map_err(refused)?;
        if let Some(closure) = &mut facts.closure {
            let missing: Vec<PathBuf> = self.closure.iter().filter(|path| !closure.contains(path)).cloned().collect();
            closure.extend(missing);
        }
        facts.shown = self.skills.map(|taught| mounts::skills(taught, home)).unwrap_or_default();
        facts.shown.extend(self.secrets.map(|folder| (PathBuf::from(SECRETS), folder.to_owned())));
        let plan = mounts::plan(self.sandbox, &facts);
        if let Some(why) = proxy.and_then(|proxy| proxy::replaceable(proxy, &plan)) {
            return Err(refused(why));
        }
        places::make(&plan).map_err(refused)?;
        let root = bundle.path().join("rootfs");
        make_root(&root, &plan.items)
            .map_err(|error| Failure::of_system("the root of the sandbox cannot be made", &error))?;
        let command = self.command(&program, &plan, bundle.path(), &root, (facts.uid, facts.gid))?;
        let held = Held { order: Some(self.order(&facts)), examined: facts.examined };
        Ok(Ready { engine, size: None, command, held, gate, scratch: vec![bundle, temporary] })
    }

    fn make_home(&self, home: &Path, bundle: &Path) -> Result<Option<PathBuf>, Failure> {
        let Sandbox { seed, read, write, .. } = self.sandbox;
        let fill = |new: &Path| {
            let seed = homes::not_shown(home, seed, read.iter().chain(write));
            homes::fill(home, new, &seed)?;
            let identity = identity::of(home, |name| self.of_login(name));
            identity.map_or(Ok(()), |identity| homes::write_git_config(new, &identity.config()))
        };
        let made = match self.sandbox.home {
            Home::Real => return Ok(None),
            Home::Kept => homes::kept(home, self.agent, fill),
            Home::Fresh => {
                let folder = bundle.join(SEED);
                let made = fs::DirBuilder::new().mode(0o700).create(&folder);
                made.map_err(|error| Failure::of_system("the home cannot be made", &error))?;
                fill(&folder).map(|()| folder)
            }
        };
        made.map(Some).map_err(|error| refused(format!("the home of the sandbox cannot be made: {error}")))
    }

    /// The folders of agentd that no agent may reach from inside.
    ///
    /// That of kept homes is made if it is absent, because only what is there can be covered, and a home may be kept there later. In
    /// a home where it cannot be made, none is kept.
    fn hidden(&self, home: &Path) -> Vec<PathBuf> {
        let _ = homes::make_folder_of_all(home);
        let tmux = std::env::var_os("TMUX");
        // The socket's path, the server, and a session.
        let tmux = tmux.as_ref().and_then(|tmux| tmux.as_bytes().split(|&byte| byte == b',').next());
        let sockets = [Some(self.launch_socket), tmux.map(|path| Path::new(OsStr::from_bytes(path)))];
        let folders = sockets.into_iter().flatten().filter_map(|socket| socket.parent()?.canonicalize().ok());
        folders.chain(home.join(homes::FOLDER).canonicalize().ok()).collect()
    }

    fn command(
        &self,
        program: &Path,
        plan: &Plan,
        bundle: &Path,
        root: &Path,
        ids: (u32, u32),
    ) -> Result<Command, Failure> {
        let Sandbox { engine, network, .. } = *self.sandbox;
        let terminal = if is_relayed(engine) { inner::MADE } else { inner::GIVEN };
        let inner = [inner::COMMAND, terminal];
        let mut command = Command::new(program);
        if engine == Engine::Bwrap {
            command.args(bwrap::arguments(plan, root, network, ids, &inner));
        } else {
            let environment =
                self.mark.map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value.as_slice())));
            let environment = environment.into_iter().collect();
            let settings = oci::Settings { engine, network, ids, environment, inner: &inner };
            if let Some(path) = oci::unspeakable(plan) {
                return Err(refused(format!(
                    "{engine} takes no path like {}, which is not UTF-8; use bwrap",
                    path.display()
                )));
            }
            let config = oci::config(plan, &settings).to_string();
            fs::write(bundle.join("config.json"), config)
                .map_err(|error| Failure::of_system("the sandbox cannot be described to its engine", &error))?;
            command.args(oci::arguments(engine, network, bundle));
        }
        // The harness's own environment does not belong to what runs outside.
        command.env_clear().envs(self.of_login("PATH").map(|path| ("PATH", path)));
        command.envs(self.mark.map(|(name, value)| (name, OsStr::from_bytes(value.as_slice()))));
        Ok(command)
    }

    fn order(&self, facts: &Facts) -> Order {
        let secret = |text: &OsStr| SecretBytes::from(text.as_bytes().to_vec());
        let environment = self.environment.iter().map(|(name, value)| (secret(name), secret(value))).collect();
        let is_relayed = is_relayed(self.sandbox.engine);
        // gVisor gives files numbers of its own.
        let expected = if is_relayed { Vec::new() } else { facts.examined.iter().map(Expected::of).collect() };
        let seeded = facts.made_home.as_ref().filter(|_| self.sandbox.home == Home::Fresh);
        Order {
            arguments: self.arguments.to_vec(),
            environment,
            workdir: secret(self.workdir.as_os_str()),
            umask: self.umask,
            expected,
            seeded: seeded.map(|_| secret(facts.home.as_os_str())),
            ids: is_relayed.then_some((facts.uid, facts.gid)),
            size: None,
            has_proxy: self.sandbox.proxy.is_some(),
            is_streamed: self.is_streamed,
        }
    }
}

/// Where the kept home of this agent is, or would be, as seen from outside.
pub(super) fn kept_home(home: &Path, agent: &str) -> PathBuf {
    homes::place(home, agent)
}

/// Whether the terminal of this engine's sandboxes is made inside.
pub(super) fn is_relayed(engine: Engine) -> bool {
    engine == Engine::Runsc
}

/// Whether every sandbox shows this path.
pub(super) fn is_of_system(path: &Path) -> bool {
    mounts::SYSTEM.iter().any(|system| path.starts_with(system))
}

impl Ready {
    /// The folder that a fresh home is filled from, which is of no use once it is.
    pub fn seed(&self) -> Option<PathBuf> {
        self.scratch
            .first()
            .filter(|_| self.held.order.as_ref().is_some_and(|order| order.seeded.is_some()))
            .map(|bundle| bundle.path().join(SEED))
    }

    /// Starts the engine with this as standard input and output.
    ///
    /// It is in a process group of its own, and leads no session: the process inside leads that of the terminal.
    pub fn start(self, stdin: OwnedFd, stdout: OwnedFd) -> io::Result<Begun> {
        let Self { engine, size, mut command, mut held, gate, scratch } = self;
        gate.map_or(Ok(()), Gate::serve)?;
        if let Some(order) = &mut held.order {
            order.size = size;
        }
        let (near, far) = UnixStream::pair()?;
        command.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout)).stderr(Stdio::from(OwnedFd::from(far)));
        let child = command.process_group(0).spawn()?;
        Ok(Begun { engine, child, channel: Channel::new(near)?, held, scratch })
    }
}

/// What went wrong if the engine ended like that before anything ran inside.
pub(super) fn explain(engine: Engine, words: &str, end: &str) -> Failure {
    refused(explain::explain(engine, words, end, machine::kernel_settings()))
}

fn make_root(root: &Path, items: &[Item]) -> io::Result<()> {
    fs::create_dir(root)?;
    let place = |path: &Path| -> io::Result<PathBuf> {
        let path = root.join(path.strip_prefix("/").unwrap_or(path));
        match path.parent() {
            // Several are in one folder.
            Some(parent) if !parent.is_dir() => fs::create_dir_all(parent)?,
            _ => {}
        }
        Ok(path)
    };
    for item in items {
        match item {
            Item::Folder(path) => fs::create_dir_all(place(path)?)?,
            Item::Blank(path) => fs::write(place(path)?, "")?,
            Item::File(path, text) => fs::write(place(path)?, text)?,
            Item::Copy(path) => copy(path, &place(path)?)?,
            Item::Link(path, to) => symlink(to, place(path)?)?,
        }
    }
    Ok(())
}

/// Copies a file of the machine. One that has been replaced or removed meanwhile is left out.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut text = Vec::new();
    match fs::File::open(from).and_then(|file| file.take(mounts::MOST_COPIED).read_to_end(&mut text)) {
        Ok(_) => fs::write(to, text),
        Err(_) => Ok(()),
    }
}

/// A failure that a person has to see to.
fn refused(message: String) -> Failure {
    Failure { message, errno: Some(Errno::EPERM as i32), missing: false, program: None, packages: false, proxy: None }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn kept_homes_are_hidden_before_there_are_any() {
        let folder = TempDir::new().unwrap();
        let home = folder.path().canonicalize().unwrap();
        let sandbox = mounts::tests::sandbox(Home::Real);
        let request = Request {
            skills: None,
            secrets: None,
            sandbox: &sandbox,
            agent: "a",
            workdir: &home,
            trust_repository: false,
            umask: 0o022,
            closure: &[],
            arguments: &[],
            login: &[],
            environment: Vec::new(),
            mark: None,
            launch_socket: Path::new("/nonexistent/launch.sock"),
            is_streamed: false,
            tell: None,
        };
        assert!(request.hidden(&home).contains(&home.join(homes::FOLDER)));
        assert!(request.hidden(Path::new("/proc/nonexistent")).iter().all(|path| !path.ends_with("homes")));
    }
}
