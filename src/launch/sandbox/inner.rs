//! The process inside a sandbox: starts the harness, and says how it ended.
//!
//! ```text
//! launcher ─ engine ┄ agentd-launcher inner TERMINAL ─ agentd-launcher start → the harness
//! ```
//!
//! It is the first process of its pid namespace, reaps all others, and ends as soon as the harness has ended or the launcher is gone.
//! Then the kernel kills everything that is left inside. It keeps its memory from the harness, which has the same user.
//!
//! The environment arrives over the [control channel](super::control) and is the harness's alone: what a declaration sets, such as
//! `LD_PRELOAD`, must not have an effect on the engine, which runs outside.
//!
//! | terminal | standard input and output | for |
//! |---|---|---|
//! | [`GIVEN`] | the harness's terminal, whose other end the launcher holds | bwrap, crun |
//! | [`MADE`] | a socket, relayed to a terminal that is made inside | runsc, whose kernel has terminals of its own |
//!
//! The harness is started in two steps, because only a process itself can become the leader of a session. On a terminal that was
//! given, the harness leads a session as it does without a sandbox. On one that was made, this process leads the session, because
//! only then gVisor lets it ask for the foreground process group; the harness leads that group.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::{Mode, umask};
use nix::sys::termios::{LocalFlags, SpecialCharacterIndices, tcgetattr};
use nix::unistd::{Pid, tcgetpgrp, tcsetpgrp};
use rustix::process::{WaitOptions, wait};
use rustix::termios::{Winsize, tcsetwinsize};

use super::control::{Expected, FromInside, MARKER, MAX_TO_INSIDE, Order, Size, ToInside};
use super::{filter, forward, homes, mounts};
use crate::launch::launcher::{ending, find};
use crate::launch::protocol::{Ending, Failure};
use crate::sys::frame::{self, Decoder};
use crate::sys::secret_bytes::SecretBytes;
use crate::sys::{fd, memory, poll};

/// The hidden command that runs inside a sandbox.
pub const COMMAND: &str = "inner";

/// The hidden command that becomes the harness.
pub const START_COMMAND: &str = "start";

/// The terminal is standard input.
pub(super) const GIVEN: &str = "given";

/// The terminal is to be made.
pub(super) const MADE: &str = "made";

/// How much is relayed at a time.
const PIECE: usize = 4096;

/// Runs the hidden command [`COMMAND`]; returns the exit status.
pub fn run(terminal: &str) -> u8 {
    let Ok(mut inside) = Inside::new(terminal == MADE) else { return 1 };
    match inside.start() {
        Ok(None) => 0,
        Ok(Some(harness)) => {
            inside.say(&FromInside::Started);
            inside.attend(&harness);
            0
        }
        Err(failure) => {
            inside.say(&FromInside::Failed(failure));
            1
        }
    }
}

struct Inside {
    control: UnixStream,
    decoder: Decoder,
    /// Readable once a child has ended.
    woken: UnixStream,
    is_made: bool,
}

/// The harness, and the terminal if that was made here.
struct Harness {
    pid: Pid,
    made: Option<Made>,
}

/// A terminal that was made inside.
struct Made {
    /// What was typed and printed passes through it.
    relay: UnixStream,
    other: OwnedFd,
    own: pty_process::blocking::Pts,
}

fn failed(what: &str, error: impl Into<io::Error>) -> Failure {
    let error = error.into();
    let message = format!("{what}: {error}");
    Failure { message, errno: error.raw_os_error(), missing: false, program: None, packages: false, proxy: None }
}

impl Inside {
    fn new(is_made: bool) -> io::Result<Self> {
        let control = UnixStream::from(io::stderr().as_fd().try_clone_to_owned()?);
        // Nothing else may be printed there.
        rustix::stdio::dup2_stderr(io::stdin())?;
        let (woken, waker) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(signal_hook::consts::SIGCHLD, waker)?;
        (&control).write_all(MARKER)?;
        Ok(Self { control, decoder: Decoder::new(MAX_TO_INSIDE), woken, is_made })
    }

    fn say(&mut self, message: &FromInside) {
        // A launcher that is gone needs no answer.
        let _ = self.control.set_nonblocking(false);
        if let Ok(frame) = frame::encode(message) {
            let _ = self.control.write_all(&frame);
        }
    }

    /// The next message. Waits for it if the channel blocks; an error means that the launcher is gone.
    fn receive(&mut self) -> io::Result<Option<ToInside>> {
        let mut piece = [0; PIECE];
        loop {
            if let Some(message) = self.decoder.take().map_err(io::Error::other)? {
                return Ok(Some(message));
            }
            let room = self.decoder.missing().map_err(io::Error::other)?.min(PIECE);
            match fd::read(&self.control, &mut piece[..room]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.decoder.add(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Receives the order and starts the harness; `None` if the launcher is gone.
    fn start(&mut self) -> Result<Option<Harness>, Failure> {
        let Ok(Some(ToInside::Start(order))) = self.receive() else { return Ok(None) };
        if let Some((uid, gid)) = order.ids {
            become_user(uid, gid).map_err(|error| failed("the sandbox has no user of its own", error))?;
        }
        memory::keep_private();
        order.expected.iter().try_for_each(check)?;
        if let Some(home) = &order.seeded {
            fill(Path::new(OsStr::from_bytes(home.as_slice())))
                .map_err(|error| failed("the home cannot be filled", io::Error::other(error)))?;
        }
        let workdir = Path::new(OsStr::from_bytes(order.workdir.as_slice()));
        std::env::set_current_dir(workdir).map_err(|error| {
            failed(&format!("the workdir {} cannot be entered in the sandbox", workdir.display()), error)
        })?;
        // gVisor's kernel has no keyrings of the machine, and knows none of its files and calls but by its own leave.
        if order.ids.is_none() {
            leave_keyring().map_err(|error| failed("the session keyring cannot be left", error))?;
            filter::apply().map_err(|error| failed("system calls cannot be restricted", io::Error::other(error)))?;
        }
        if order.has_proxy {
            forward::start().map_err(|error| failed("the way to the proxy cannot be made", error))?;
        }
        umask(Mode::from_bits_truncate(order.umask));
        self.spawn(&order).map(Some)
    }

    fn spawn(&self, order: &Order) -> Result<Harness, Failure> {
        let words: Vec<&OsStr> = order.arguments.iter().map(|word| OsStr::from_bytes(word.as_slice())).collect();
        let Some((&program, arguments)) = words.split_first() else {
            return Err(failed("no program was given", Errno::EINVAL));
        };
        let path = order.environment.iter().find(|(name, _)| name.as_slice() == b"PATH").map(|(_, value)| value);
        let found = find(program, path.map_or(OsStr::new(""), |path| OsStr::from_bytes(path.as_slice())))?;
        let terminal = |error| failed("the sandbox has no terminal", error);
        let made = if self.is_made { Some(Made::open(order.size).map_err(terminal)?) } else { None };
        let (report, far) = UnixStream::pair().map_err(terminal)?;
        let mut command = Command::new(mounts::PROGRAM);
        command
            .arg(START_COMMAND)
            .arg(if self.is_made { MADE } else { GIVEN })
            .arg(&found)
            .arg(program)
            .args(arguments);
        let text = |bytes: &SecretBytes| OsStr::from_bytes(bytes.as_slice()).to_owned();
        command.env_clear().envs(order.environment.iter().map(|(name, value)| (text(name), text(value))));
        command.stderr(OwnedFd::from(far));
        if let Some(made) = &made {
            command.stdin(made.own().map_err(terminal)?).process_group(0);
            if !order.is_streamed {
                command.stdout(made.own().map_err(terminal)?);
            }
        }
        let child = command.spawn().map_err(|error| failed("the harness cannot be started", error))?;
        // It holds copies of both ends.
        drop(command);
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(|_| failed("the harness", Errno::EOVERFLOW))?);
        if let Some(made) = &made {
            tcsetpgrp(&made.own, pid).map_err(|errno| terminal(errno.into()))?;
            (&report).write_all(&[0]).map_err(terminal)?;
        }
        let mut answer = Vec::new();
        (&report).read_to_end(&mut answer).map_err(terminal)?;
        match answer.first_chunk() {
            None => Ok(Harness { pid, made }),
            Some(&errno) => Err(unstarted(&found, Errno::from_raw(i32::from_le_bytes(errno)))),
        }
    }

    /// Waits until the harness has ended and says how, or until the launcher is gone.
    fn attend(&mut self, harness: &Harness) {
        let mut made = harness.made.as_ref().map(Relay::of);
        if self.control.set_nonblocking(true).is_err() {
            return;
        }
        loop {
            if let Some(how) = reap(harness.pid) {
                if let Some(made) = &mut made {
                    made.finish();
                }
                return self.say(&FromInside::Ended(how));
            }
            loop {
                match (self.receive(), &harness.made) {
                    (Ok(None), _) => break,
                    (Ok(Some(ToInside::Signal(number))), Some(made)) => made.signal(number),
                    (Ok(Some(ToInside::Resize(size))), Some(made)) => made.resize(size),
                    (Ok(Some(_)), _) => {}
                    (Err(_), _) => return,
                }
            }
            let mut descriptors = vec![
                PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.woken.as_fd(), PollFlags::POLLIN),
            ];
            descriptors.extend(made.iter().flat_map(Relay::interest));
            if poll::wait(&mut descriptors, None).is_err() {
                return;
            }
            drop(descriptors);
            let mut buffer = [0; 64];
            while (&self.woken).read(&mut buffer).is_ok_and(|count| count > 0) {}
            if let Some(made) = &mut made {
                made.relay();
            }
        }
    }
}

fn unstarted(found: &Path, errno: Errno) -> Failure {
    let found = found.display();
    match errno {
        // The file itself was found.
        Errno::ENOENT => failed(&format!("{found}: its interpreter is missing in the sandbox"), errno),
        _ => failed(&format!("{found} cannot be run in the sandbox"), errno),
    }
}

/// Becomes this user in a user namespace of its own, which maps that to the present one.
///
/// For gVisor, whose sandbox without root knows only root: programs should not take themselves for root, and find files that are
/// their own.
fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    // Not every kernel has this file, or lets a process without privileges write to it.
    let _ = fs::write("/proc/self/setgroups", "deny");
    fs::write("/proc/self/uid_map", format!("{uid} 0 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} 0 1"))
}

fn leave_keyring() -> io::Result<()> {
    match keyutils::Keyring::join_anonymous_session() {
        Ok(_) => Ok(()),
        // A kernel without keys has none to read, and a filter that forbids this call forbids reading keys, too.
        Err(errno) if [Errno::ENOSYS as i32, Errno::EPERM as i32].contains(&errno.0) => Ok(()),
        Err(errno) => Err(io::Error::from_raw_os_error(errno.0)),
    }
}

/// Checks that the path leads to the file that the launcher examined: another process may have replaced it in between.
fn check(expected: &Expected) -> Result<(), Failure> {
    let path = Path::new(OsStr::from_bytes(expected.path.as_slice()));
    let what = || format!("{} in the sandbox", path.display());
    let metadata = fs::metadata(path).map_err(|error| failed(&what(), error))?;
    if (metadata.dev(), metadata.ino()) == (expected.device, expected.inode) {
        Ok(())
    } else {
        Err(failed(&what(), io::Error::other("it was replaced while the sandbox was made")))
    }
}

/// Fills a fresh home from its seed.
fn fill(home: &Path) -> Result<(), String> {
    let seed = Path::new(mounts::SEED);
    let entries = fs::read_dir(seed).map_err(|error| error.to_string())?;
    let names: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name().into())).collect();
    homes::fill(seed, home, &names.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}

/// Reaps all children that have ended; returns the status of the harness if it is one of them.
fn reap(harness: Pid) -> Option<Ending> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid.as_raw_pid() == harness.as_raw() => return Some(ending(status)),
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return None,
            Err(error) => return Some(Ending::Cause(format!("its status was lost: {error}"))),
        }
    }
}

impl Made {
    /// Makes a terminal, and makes it that of the session of this process.
    fn open(size: Option<Size>) -> io::Result<Self> {
        let (other, own) = pty_process::blocking::open().map_err(io::Error::other)?;
        // The first process of a sandbox leads a session already.
        let _ = nix::unistd::setsid();
        rustix::process::ioctl_tiocsctty(&own)?;
        let relay = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        relay.set_nonblocking(true)?;
        let other = OwnedFd::from(other);
        fd::set_nonblocking(&other)?;
        let made = Self { relay, other, own };
        if let Some(size) = size {
            made.resize(size);
        }
        Ok(made)
    }

    fn own(&self) -> io::Result<Stdio> {
        Ok(self.own.as_fd().try_clone_to_owned()?.into())
    }

    /// The kernel signals the foreground process group if the size differs.
    fn resize(&self, size: Size) {
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        let _ = tcsetwinsize(&self.own, size);
    }

    /// Takes the keys that mean a signal out of what was typed, and sends those signals: gVisor's terminals do not (in 2022).
    fn heed_keys(&self, typed: &mut Vec<u8>) {
        let Ok(settings) = tcgetattr(&self.own) else { return };
        if !settings.local_flags.contains(LocalFlags::ISIG) {
            return;
        }
        let keys = [
            (SpecialCharacterIndices::VINTR, Signal::SIGINT),
            (SpecialCharacterIndices::VQUIT, Signal::SIGQUIT),
            (SpecialCharacterIndices::VSUSP, Signal::SIGTSTP),
        ];
        let meaning = |byte: u8| {
            let is_key = |index: SpecialCharacterIndices| settings.control_chars[index as usize] == byte;
            keys.iter().find(|(index, _)| byte != 0 && is_key(*index)).map(|(_, signal)| *signal)
        };
        // A key discards what was typed before it and is not read yet.
        while let Some(at) = typed.iter().position(|&byte| meaning(byte).is_some()) {
            if let Some(signal) = meaning(typed[at]) {
                self.signal(signal as i32);
            }
            typed.drain(..=at);
        }
    }

    fn signal(&self, number: i32) {
        if let (Ok(signal), Ok(group)) = (Signal::try_from(number), tcgetpgrp(&self.own))
            && group.as_raw() > 1
        {
            let _ = killpg(group, signal);
        }
    }
}

/// What passes between the launcher and a terminal that was made here.
struct Relay<'a> {
    made: &'a Made,
    typed: Vec<u8>,
    printed: Vec<u8>,
    /// Whether the launcher types no more.
    is_over: bool,
}

impl<'a> Relay<'a> {
    fn of(made: &'a Made) -> Self {
        Self { made, typed: Vec::new(), printed: Vec::new(), is_over: false }
    }

    fn interest(&self) -> [PollFd<'_>; 2] {
        let when = |is_wanted, flag| if is_wanted { flag } else { PollFlags::empty() };
        let (reads, writes) = (PollFlags::POLLIN, PollFlags::POLLOUT);
        let relay = when(self.typed.is_empty() && !self.is_over, reads) | when(!self.printed.is_empty(), writes);
        let other = when(self.printed.is_empty(), reads) | when(!self.typed.is_empty(), writes);
        [PollFd::new(self.made.relay.as_fd(), relay), PollFd::new(self.made.other.as_fd(), other)]
    }

    /// Passes on as much as possible without blocking.
    fn relay(&mut self) {
        let Made { relay, other, .. } = self.made;
        if self.typed.is_empty() && !self.is_over {
            self.is_over = !take(relay, &mut self.typed);
            self.made.heed_keys(&mut self.typed);
        }
        give(&mut self.typed, other);
        if self.printed.is_empty() {
            take(other, &mut self.printed);
        }
        give(&mut self.printed, relay);
    }

    /// Passes on everything that the harness has printed.
    fn finish(&mut self) {
        let Made { relay, other, .. } = self.made;
        let _ = relay.set_nonblocking(false);
        loop {
            let mut writer = relay;
            if writer.write_all(&self.printed).is_err() {
                return;
            }
            self.printed.clear();
            take(other, &mut self.printed);
            if self.printed.is_empty() {
                return;
            }
        }
    }
}

/// Reads what is available. Returns whether there may be more later.
fn take(source: impl AsFd, bytes: &mut Vec<u8>) -> bool {
    let mut buffer = [0; PIECE];
    match fd::read(source, &mut buffer) {
        Ok(count) => {
            bytes.extend_from_slice(&buffer[..count]);
            count > 0
        }
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Writes as much as possible. What cannot be written at all is dropped.
fn give(bytes: &mut Vec<u8>, goal: impl AsFd) {
    while !bytes.is_empty() {
        match fd::write(&goal, bytes) {
            Ok(count) => drop(bytes.drain(..count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => bytes.clear(),
        }
    }
}

/// Runs the hidden command [`START_COMMAND`]: becomes the harness. Returns the exit status if that fails.
pub fn start(words: &[OsString]) -> u8 {
    let [terminal, found, name, arguments @ ..] = words else { return 1 };
    let Ok(report) = io::stderr().as_fd().try_clone_to_owned().map(UnixStream::from) else { return 1 };
    let errno = become_harness(terminal == MADE, &report, found, name, arguments).raw_os_error();
    let _ = (&report).write_all(&errno.unwrap_or(Errno::EIO as i32).to_le_bytes());
    1
}

fn become_harness(
    is_made: bool,
    report: &UnixStream,
    found: &OsStr,
    name: &OsStr,
    arguments: &[OsString],
) -> io::Error {
    let prepared = if is_made {
        // Until this process group is in the foreground.
        let mut reader = report;
        reader.read_exact(&mut [0])
    } else {
        lead_session()
    };
    let prepared = prepared.and_then(|()| Ok(rustix::stdio::dup2_stderr(io::stdin())?));
    prepared.err().unwrap_or_else(|| Command::new(found).arg0(name).args(arguments).exec())
}

/// Makes standard input the terminal of a session that this process leads.
fn lead_session() -> io::Result<()> {
    nix::unistd::setsid()?;
    Ok(rustix::process::ioctl_tiocsctty(io::stdin())?)
}
