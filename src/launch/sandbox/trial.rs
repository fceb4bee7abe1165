//! Tries an engine for real: makes a sandbox as the user who calls, in which a program starts and ends.
//!
//! Whether user namespaces are allowed depends on the user, the program, the kernel's settings, `AppArmor`, and what this process
//! runs in. Nothing but a try says it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::unistd::{Uid, mkdtemp};

use super::{Begun, FromInside, Request, explain, is_relayed, refused};
use crate::agent::sandbox::{Engine, Home, Network, Sandbox};
use crate::launch::protocol::{Ending, Failure};
use crate::sys::secret_bytes::SecretBytes;
use crate::sys::{fd, poll};

/// The hidden command that tries an engine: `try ENGINE [PROGRAM]`. It prints why the engine does not work.
pub const TRY_COMMAND: &str = "try";

/// How long a try may take.
const LIMIT: Duration = Duration::from_secs(15);

/// A folder to work in, which is gone after the try. It is none of those that every attempt has: no sandbox may work there.
struct Workdir(PathBuf);

impl Workdir {
    fn make() -> io::Result<Self> {
        let folder = std::env::temp_dir().canonicalize()?;
        Ok(Self(mkdtemp(&folder.join("try-agentd-XXXXXX"))?))
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Makes a sandbox with this engine, by its program or the one in this process's `PATH`.
pub fn try_engine(engine: Engine, program: Option<PathBuf>) -> Result<(), Failure> {
    let sandbox = Sandbox {
        engine,
        program,
        read: Vec::new(),
        write: Vec::new(),
        home: Home::Fresh,
        seed: Vec::new(),
        network: Network::Host,
        proxy: None,
    };
    let socket = Path::new("/nonexistent/agentd-try");
    let workdir = Workdir::make().map_err(|error| Failure::of_system("there is no folder to work in", &error))?;
    let variable = |name: &str, other: &str| (name.into(), std::env::var_os(name).unwrap_or_else(|| other.into()));
    let login: Vec<(OsString, OsString)> = vec![
        variable("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME".into(), format!("/home/agentd-try-{}", Uid::effective()).into()),
        variable("USER", "agent"),
    ];
    let arguments = [super::mounts::PROGRAM, "--version"].map(SecretBytes::from);
    let request = Request {
        skills: None,
        secrets: None,
        umask: 0o022,
        sandbox: &sandbox,
        agent: "try",
        workdir: &workdir.0,
        trust_repository: false,
        closure: &[],
        arguments: &arguments,
        environment: login.clone(),
        login: &login,
        mark: None,
        launch_socket: socket,
        is_streamed: false,
        tell: None,
    };
    let ready = request.prepare()?;
    let not_started = |error: io::Error| Failure::of_system(&format!("{engine} cannot be started"), &error);
    // Held open until the end, like a launcher's.
    let (near, far): (OwnedFd, OwnedFd) = if is_relayed(engine) {
        let (near, far) = UnixStream::pair().map_err(not_started)?;
        (near.into(), far.into())
    } else {
        let (near, far) = pty_process::blocking::open().map_err(|error| not_started(io::Error::other(error)))?;
        let far = std::os::fd::AsFd::as_fd(&far).try_clone_to_owned().map_err(not_started)?;
        (near.into(), far)
    };
    fd::set_nonblocking(&near).map_err(not_started)?;
    let begun = far.try_clone().and_then(|copy| ready.start(far, copy)).map_err(not_started)?;
    conclude(begun, &near)
}

/// Waits for the end of the program inside.
fn conclude(mut begun: Begun, terminal: &OwnedFd) -> Result<(), Failure> {
    let (engine, limit) = (begun.engine, Instant::now() + LIMIT);
    let result = loop {
        let said = begun.channel.receive();
        begun.held.release(&mut begun.channel)?;
        match said {
            Some(FromInside::Ended(Ending::Code(0))) => break Ok(()),
            Some(FromInside::Ended(how)) => {
                break Err(refused(format!("a program in a sandbox of {engine} failed: {how:?}")));
            }
            Some(FromInside::Failed(failure)) => break Err(failure),
            Some(FromInside::Started) => continue,
            None => {}
        }
        // Nobody reads what it prints.
        let _ = fd::read(terminal, &mut [0; 4096]);
        if let Ok(Some(status)) = begun.child.try_wait() {
            // What it said last may have arrived after the look above.
            while let Some(message) = begun.channel.receive() {
                if message == FromInside::Ended(Ending::Code(0)) {
                    return Ok(());
                }
            }
            break Err(explain(engine, &begun.channel.words(), &format!("ended with {status}")));
        }
        if Instant::now() >= limit {
            break Err(refused(format!("{engine} made no sandbox within {}", humantime::format_duration(LIMIT))));
        }
        begun.channel.send();
        let soon = Instant::now() + Duration::from_millis(50);
        let mut descriptors: Vec<PollFd<'_>> = begun
            .channel
            .descriptor()
            .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
            .into_iter()
            .collect();
        if poll::wait(&mut descriptors, Some(soon)).is_err() {
            break Err(refused("the try was interrupted".to_owned()));
        }
    };
    // The end of the channel ends what runs inside, and with that the engine.
    let Begun { mut child, channel, scratch, .. } = begun;
    drop(channel);
    let patience = Instant::now() + Duration::from_secs(2);
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() >= patience {
            let _ = child.kill();
            let _ = child.wait();
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(scratch);
    result
}

/// The engine that these words name, and its program.
pub fn words(words: &[OsString]) -> Option<(Engine, Option<PathBuf>)> {
    let (name, program) = match words {
        [name] => (name, None),
        [name, program] => (name, Some(program.into())),
        _ => return None,
    };
    Engine::named(OsStr::to_str(name)?).map(|engine| (engine, program))
}
