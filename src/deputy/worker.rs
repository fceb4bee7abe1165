//! The deputy's main loop: reads requests and answers them, with the agent user's rights.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::stat::SFlag;
use nix::unistd::{AccessFlags, Uid, eaccess};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::protocol::{FILE_TIMEOUT, Input, MAX_FRAME, Numbered, Output, Program, Reply, Request, RunError};
use super::{line_mode, login, rules, screen, terminal, tmux_server};
use crate::agent::harness::rule::Rule;
use crate::agent::seen::{Problem, SeenPrompt, SeenRepository, SeenWorkdir};
use crate::logs::renderer;
use crate::sys::account::{self, Account};
use crate::sys::blocking;
use crate::sys::clock;
use crate::sys::exec::{MAX_ARGUMENT, single_quote};
use crate::sys::fd;
use crate::sys::fd_passing::Receiver;
use crate::sys::frame;
use crate::sys::inheritance;
use crate::sys::memory;
use crate::sys::panics;
use crate::sys::regular_file;
use crate::sys::repository::{self, Repository};
use crate::sys::secret_bytes::SecretBytes;
use crate::sys::steady_path;
use crate::sys::watch::Watcher;
use crate::text::printable::without_byte_order_mark;

/// Why the deputy could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process could not become the agent user.
    #[error(transparent)]
    Account(#[from] account::Error),
    /// The process could not give up what it inherited.
    #[error(transparent)]
    Inheritance(#[from] inheritance::Error),
    /// The socket or the runtime failed.
    #[error("failed to serve the daemon: {0}")]
    Io(#[from] io::Error),
    /// The daemon sent an invalid message.
    #[error("failed to understand the daemon: {0}")]
    Frame(#[from] frame::Error),
}

/// Becomes `user`, who must have that uid, and answers requests on standard input, a socket, until it closes.
pub fn run(user: &str, uid: Uid) -> Result<(), Error> {
    panics::end_this_process();
    let account = match become_deputy(user, uid) {
        Ok(account) => account,
        Err(error) => {
            say_unfit(&error)?;
            return Err(error);
        }
    };
    memory::keep_private();
    // A stop of the unit may send it to all processes in there. The daemon still needs this one for the agents' sessions, and its end
    // is this one's. Programs that are started get the default action back.
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::new(AtomicBool::new(false)))?;
    // Programs that it starts get new standard streams, and inherit no descriptors.
    fd::hand_down_none();
    // The process is named after the link that it was started by. It works without the new name, too.
    let _ = nix::sys::prctl::set_name(c"agentd-deputy");
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(socket()?, account))
}

fn become_deputy(user: &str, uid: Uid) -> Result<Account, Error> {
    inheritance::leave_session()?;
    let account = Account::find_again(user, uid)?;
    if Uid::effective().is_root() {
        inheritance::renounce()?;
    }
    account.assume()?;
    Ok(account)
}

fn socket() -> io::Result<std::os::unix::net::UnixStream> {
    let socket = std::os::unix::net::UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn say_unfit(error: &Error) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stream = UnixStream::from_std(socket()?)?;
        Ok(frame::write(&mut stream, &Numbered { number: 0, body: Reply::Unfit(error.to_string()) }).await?)
    })
}

/// The stack size of a rendering thread, which makes no deep calls.
const RENDERING_STACK: usize = 512 << 10;

const CHANGED: Numbered<Reply> = Numbered { number: 0, body: Reply::Changed };

async fn serve(socket: std::os::unix::net::UnixStream, account: Account) -> Result<(), Error> {
    let (reader, mut writer) = UnixStream::from_std(socket)?.into_split();
    let mut reader = frame::Reader::new(Receiver::new(reader), MAX_FRAME);
    let account = Arc::new(account);
    let hanging = Hanging::default();
    let mut watcher = Watcher::open();
    let (replies, mut outbox) = mpsc::channel::<Numbered<Reply>>(64);
    let (mut to_watch, mut preparing) = (None, JoinSet::new());
    loop {
        // One after the other. While one hangs in a file system, only the latest of those after it is kept.
        if preparing.is_empty()
            && let Some(targets) = to_watch.take()
        {
            preparing.spawn(blocking::run(watcher.prepare(targets)));
        }
        tokio::select! {
            request = reader.read::<Numbered<Request>>() => match request? {
                None => return Ok(()),
                Some(Numbered { body: Request::Watch(targets), .. }) => to_watch = Some(targets),
                Some(Numbered { number, body: Request::Render }) => {
                    let socket = reader.source_mut().take_descriptors().pop();
                    let body = socket.map_or_else(|| Reply::Short("its socket is missing".to_owned()), render);
                    frame::write(&mut writer, &Numbered { number, body }).await?;
                }
                Some(Numbered { number, body: Request::Terminal(wanted) }) => {
                    let mut sockets = reader.source_mut().take_descriptors().into_iter();
                    let started = match (sockets.next(), sockets.next()) {
                        (Some(socket), Some(daemon)) => terminal::start(wanted, (*account).clone(), socket, daemon),
                        _ => Err("its sockets are missing".to_owned()),
                    };
                    frame::write(&mut writer, &Numbered { number, body: Reply::Terminal(started) }).await?;
                }
                Some(Numbered { number, body }) => {
                    let (replies, account, hanging) = (replies.clone(), Arc::clone(&account), hanging.clone());
                    tokio::spawn(async move {
                        if let Some(body) = answer(body, &account, &hanging).await {
                            let _ = replies.send(Numbered { number, body }).await;
                        }
                    });
                }
            },
            Some(prepared) = preparing.join_next() => {
                // If there is no result because no thread was available, the watches stay; the daemon checks the paths anyway.
                if let Ok(Ok(watched)) = prepared
                    && watcher.adopt(watched)
                {
                    frame::write(&mut writer, &CHANGED).await?;
                }
            }
            Some(reply) = outbox.recv() => frame::write(&mut writer, &reply).await?,
            changed = watcher.changed() => {
                changed?;
                frame::write(&mut writer, &CHANGED).await?;
            }
        }
    }
}

/// Answers a request; `None` if it needs no answer.
async fn answer(request: Request, account: &Account, hanging: &Hanging) -> Option<Reply> {
    match request {
        Request::Tmux { program, arguments, input, timeout } => {
            Some(Reply::Tmux(tmux(program, &arguments, input, timeout, account).await))
        }
        Request::ReadScreen { program, arguments, rules, timeout } => {
            Some(read_screen(program, &arguments, rules, timeout, account).await)
        }
        Request::InLogin { program, arguments, timeout } => {
            Some(Reply::InLogin(in_login(&program, &arguments, timeout, account).await))
        }
        Request::Watch(_) | Request::Render | Request::Terminal(_) => None,
        request if hanging.contains(&request) => Some(Reply::FileSystemHangs),
        request => in_time(request, hanging, FILE_TIMEOUT, work_on_file).await,
    }
}

/// Renders text as requested on this socket, in a separate thread that ends with the connection. Does not wait for it: a terminal
/// emulator may be slow.
pub(super) fn render(socket: OwnedFd) -> Reply {
    let socket = std::os::unix::net::UnixStream::from(socket);
    let started = socket.set_nonblocking(false).and_then(|()| {
        // The daemon notices the end, even an early one.
        let work = move || drop(renderer::serve(socket));
        thread::Builder::new().name("agentd-text".to_owned()).stack_size(RENDERING_STACK).spawn(work)
    });
    match started {
        Ok(_) => Reply::Rendering,
        Err(error) => Reply::Short(format!("no thread can be started: {error}")),
    }
}

/// Blocks for as long as the file system does.
fn work_on_file(request: Request) -> Option<Reply> {
    Some(match request {
        Request::Prompt { path, guarded: false } => Reply::Prompt(read_prompt(&path)),
        Request::Prompt { path, guarded: true } => Reply::Prompt(read_guarded_prompt(&path)),
        Request::Workdir(path) => Reply::Workdir(look_at_workdir(&path)),
        Request::Repository(path) => Reply::Repository(match repository::look(&path) {
            Repository::OfAnother { why, .. } => SeenRepository::Distrusted(why),
            Repository::Usable | Repository::OfRoot(_) => SeenRepository::Usable,
        }),
        Request::SetMode { path, mode } => Reply::SetMode(
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                .map_err(|error| format!("failed to set the mode of {}: {error}", path.display())),
        ),
        Request::Server { socket, seen } => Reply::Server(tmux_server::tend(&socket, find(TMUX).ok().as_deref(), seen)),
        Request::EndServer(socket) => Reply::EndServer(tmux_server::end_deserted(&socket)),
        Request::Login(path) => Reply::Login(login::stamp(&path)),
        Request::Rules { rules, text } => Reply::Rules(rules::find(&rules, &text.0, clock::since_1970())),
        Request::LineMode(pid) => Reply::LineMode(line_mode::is_canonical(pid)),
        Request::Remind { socket, seen, ended } => Reply::Remind(tmux_server::remind(&socket, seen, ended)),
        Request::Tmux { .. }
        | Request::ReadScreen { .. }
        | Request::InLogin { .. }
        | Request::Watch(_)
        | Request::Render
        | Request::Terminal(_) => return None,
    })
}

/// Does the work in a separate thread, which is abandoned if it takes too long.
async fn in_time(
    request: Request,
    hanging: &Hanging,
    timeout: Duration,
    work: impl FnOnce(Request) -> Option<Reply> + Send + 'static,
) -> Option<Reply> {
    let done = Arc::new(AtomicBool::new(false));
    let work = {
        let (asked, hanging, done) = (request.clone(), hanging.clone(), Arc::clone(&done));
        move || {
            let reply = work(asked.clone());
            let mut requests = hanging.requests();
            done.store(true, Ordering::Relaxed);
            requests.remove(&asked);
            reply
        }
    };
    if let Ok(reply) = tokio::time::timeout(timeout, blocking::run(work)).await {
        return reply.unwrap_or_else(|error| Some(Reply::Short(error.to_string())));
    }
    let mut requests = hanging.requests();
    if !done.load(Ordering::Relaxed) {
        requests.insert(request);
    }
    Some(Reply::FileSystemHangs)
}

/// The requests whose thread hangs. A request never gets a second thread: threads are limited, and those never return.
#[derive(Clone, Debug, Default)]
struct Hanging(Arc<Mutex<BTreeSet<Request>>>);

impl Hanging {
    fn contains(&self, request: &Request) -> bool {
        self.requests().contains(request)
    }

    fn requests(&self) -> MutexGuard<'_, BTreeSet<Request>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) const TMUX: &str = "tmux";

async fn tmux(
    program: Program,
    arguments: &[String],
    Input(input): Input,
    timeout: Duration,
    account: &Account,
) -> Result<Output, RunError> {
    let mut command = Command::new(path_of(&program)?);
    command.arg0(TMUX).args(arguments).env_clear().envs(account.base_environment()).env("LANG", "C.UTF-8");
    output(command, TMUX, input, timeout, not_started).await
}

/// Reads a screen. The rules are applied in another thread: others must not wait for an expression.
async fn read_screen(
    program: Program,
    arguments: &[String],
    rules: Vec<Rule>,
    timeout: Duration,
    account: &Account,
) -> Reply {
    let output = match tmux(program, arguments, Input::default(), timeout, account).await {
        Ok(output) if output.success => output,
        Ok(output) => return Reply::ReadScreen(Ok(Err(output.stderr))),
        Err(error) => return Reply::ReadScreen(Err(error)),
    };
    let reading = blocking::run(move || screen::read(&output.stdout, &rules));
    match tokio::time::timeout(FILE_TIMEOUT, reading).await {
        Ok(Ok(reading)) => Reply::ReadScreen(Ok(Ok(reading))),
        Ok(Err(error)) => Reply::Short(error.to_string()),
        Err(_) => Reply::Short("the rules of its screen take too long".to_owned()),
    }
}

/// Runs a program as the login shell of the agent user starts it, or by the same rules as a launcher does without one.
async fn in_login(
    program: &Path,
    arguments: &[String],
    timeout: Duration,
    account: &Account,
) -> Result<Output, RunError> {
    let environment = account.base_environment();
    let (mut command, first) = if account.refuses_logins() {
        let mut command = Command::new(program);
        command.args(arguments);
        (command, program.to_owned())
    } else {
        let (account, _) = account.clone().with_a_shell();
        let words = [program].into_iter().chain(arguments.iter().map(Path::new)).map(single_quote).collect::<Vec<_>>();
        let line = [b"exec ".to_vec(), words.join(&b' ')].concat();
        let mut command = Command::new(&account.shell);
        command.arg0(account.login_shell_name()).arg("-c").arg(OsString::from_vec(line));
        (command, account.shell)
    };
    command.env_clear().envs(environment).current_dir("/");
    let name = program.display().to_string();
    let not_started =
        |error: &io::Error| RunError::Start { program: first.display().to_string(), reason: error.to_string() };
    output(command, &name, String::new(), timeout, not_started).await
}

/// Runs a command to its end.
async fn output(
    mut command: Command,
    name: &str,
    input: String,
    timeout: Duration,
    not_started: impl Fn(&io::Error) -> RunError,
) -> Result<Output, RunError> {
    let failed = |error: io::Error| not_started(&error);
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(failed)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A program that does not read it says why it ends.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let output = async {
        let ((), stdout, stderr, status) = tokio::join!(write, text(stdout), text(stderr), child.wait());
        Ok(Output { success: status.map_err(failed)?.success(), stdout, stderr })
    };
    let timed_out = |_| Err(RunError::TimedOut { program: name.to_owned(), timeout });
    tokio::time::timeout(timeout, output).await.unwrap_or_else(timed_out)
}

/// The file to run.
pub(super) fn path_of(program: &Program) -> Result<PathBuf, RunError> {
    let path = match program {
        Program::Installed => find(TMUX),
        Program::OfServer(socket) => tmux_server::program_of_server(socket),
    };
    path.map_err(|error| not_started(&error))
}

/// Why tmux could not be started, from this system error.
pub(super) fn not_started(error: &io::Error) -> RunError {
    let reason = match error.kind() {
        io::ErrorKind::NotFound => {
            format!("not found in PATH ({}); install it", std::env::var("PATH").unwrap_or_default())
        }
        _ => error.to_string(),
    };
    RunError::Start { program: TMUX.to_owned(), reason }
}

/// Searches this process's `PATH`: the child's is the agent user's.
fn find(program: &str) -> io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file() && eaccess(candidate, AccessFlags::X_OK).is_ok())
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Reads the beginning of a stream, as much as a screen can hold and an answer has room for.
async fn text(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    const ROOM: u64 = 64 << 10;
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        let mut pipe = pipe.take(ROOM);
        // What cannot be read is left out; the caller judges by the exit status.
        let _ = pipe.read_to_end(&mut bytes).await;
        // The rest is read as well: otherwise its writer would block, and never end.
        let _ = tokio::io::copy(&mut pipe.into_inner(), &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read_prompt(path: &Path) -> SeenPrompt {
    match regular_file::open(path) {
        Ok((file, _)) => prompt_in(&file, path),
        Err(regular_file::Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            SeenPrompt::Unusable(Problem::Absent {})
        }
        Err(regular_file::Error::Io(error)) => SeenPrompt::Unusable(unreadable(&error)),
        Err(regular_file::Error::Link | regular_file::Error::NotRegular | regular_file::Error::TooLarge(_)) => {
            SeenPrompt::Unusable(Problem::NotAFile {})
        }
    }
}

/// Reads a prompt file that a sandboxed agent may have replaced: what a link or another name of a file leads to may be something
/// that its sandbox does not show.
fn read_guarded_prompt(path: &Path) -> SeenPrompt {
    let refused = |detail: String| SeenPrompt::Unusable(Problem::Inaccessible { detail });
    let path = match std::path::absolute(path) {
        Ok(path) => path,
        Err(error) => return SeenPrompt::Unusable(unreadable(&error)),
    };
    match steady_path::find(&path) {
        Ok(found) if found.kind() != SFlag::S_IFREG => SeenPrompt::Unusable(Problem::NotAFile {}),
        Ok(found) if found.is_replaceable && found.status.st_nlink > 1 => refused(
            "has other names (hard links), by which a sandboxed agent could show itself another file; copy it"
                .to_owned(),
        ),
        Ok(found) => match found.open() {
            Ok(file) => prompt_in(&file, &path),
            Err(error) => SeenPrompt::Unusable(unreadable(&error)),
        },
        Err(steady_path::Error::Link(link)) => refused(format!(
            "is not read for a sandboxed agent, because {} is a link that an agent could have placed; name what it leads to",
            link.display()
        )),
        Err(steady_path::Error::System(error)) if error.source.kind() == io::ErrorKind::NotFound => {
            SeenPrompt::Unusable(Problem::Absent {})
        }
        Err(steady_path::Error::System(error)) => SeenPrompt::Unusable(unreadable(&error.source)),
    }
}

fn unreadable(error: &io::Error) -> Problem {
    Problem::Inaccessible { detail: format!("cannot be read by the agent user: {error}") }
}

fn prompt_in(file: &File, path: &Path) -> SeenPrompt {
    const ROOM: u64 = 4 << 20;
    let mut text = Vec::new();
    if let Err(error) = file.take(ROOM).read_to_end(&mut text) {
        return SeenPrompt::Unusable(unreadable(&error));
    }
    let text = trim(without_byte_order_mark(&text));
    if text.len() > MAX_ARGUMENT {
        return SeenPrompt::Refused(format!(
            "the prompt in {} is too long; an argument can have {MAX_ARGUMENT} bytes (128 KiB less one)",
            path.display()
        ));
    }
    if text.contains(&0) {
        return SeenPrompt::Refused(format!(
            "the prompt in {} holds a NUL byte, which no argument can",
            path.display()
        ));
    }
    SeenPrompt::Text(SecretBytes::from(text.to_vec()))
}

/// Trims Unicode white space, or ASCII white space if the bytes are not text.
fn trim(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => bytes.trim_ascii(),
    }
}

fn look_at_workdir(path: &Path) -> SeenWorkdir {
    let inaccessible = |detail| SeenWorkdir::Unusable(Problem::Inaccessible { detail });
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => SeenWorkdir::Unusable(Problem::NotADirectory {}),
        Ok(_) => match eaccess(path, AccessFlags::X_OK) {
            Ok(()) => SeenWorkdir::Usable,
            Err(error) => inaccessible(format!("cannot be entered by the agent user: {}", error.desc())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => SeenWorkdir::Unusable(Problem::Absent {}),
        Err(error) => inaccessible(format!("cannot be reached by the agent user: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use tempfile::TempDir;

    use super::*;
    use crate::sys::watch::Target;

    #[tokio::test]
    async fn a_hung_file_system_takes_one_thread_per_request() {
        let (hanging, request) = (Hanging::default(), Request::Workdir("/w".into()));
        let (answer_late, late) = std::sync::mpsc::channel::<()>();
        let hang = move |_| late.recv().ok().map(|()| Reply::Changed);
        let reply = in_time(request.clone(), &hanging, Duration::from_millis(10), hang).await;
        assert!(matches!(reply, Some(Reply::FileSystemHangs)));
        assert!(
            hanging.contains(&request) && !hanging.contains(&Request::Prompt { path: "/w".into(), guarded: false })
        );
        drop(answer_late);
        while hanging.contains(&request) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[test]
    fn a_guarded_prompt_is_no_link_and_has_no_other_name() {
        let directory = TempDir::new().unwrap();
        let at = |name: &str| directory.path().canonicalize().unwrap().join(name);
        fs::write(at("secret"), "secret").unwrap();
        fs::create_dir(at("folder")).unwrap();
        fs::write(at("folder/own"), " do it\n").unwrap();
        symlink(at("secret"), at("folder/link")).unwrap();
        symlink("folder", at("around")).unwrap();
        fs::hard_link(at("secret"), at("folder/other")).unwrap();
        mkfifo(&at("folder/fifo"), Mode::S_IRWXU).unwrap();
        assert_eq!(read_guarded_prompt(&at("folder/own")), SeenPrompt::Text(SecretBytes::from("do it")));
        for (name, why) in [
            ("folder/link", "folder/link is a link"),
            ("around/own", "around is a link"),
            ("folder/other", "hard links"),
        ] {
            let SeenPrompt::Unusable(problem) = read_guarded_prompt(&at(name)) else { panic!("{name} is read") };
            assert!(problem.to_string().contains(why), "{problem}");
        }
        assert_eq!(read_guarded_prompt(&at("folder/fifo")), SeenPrompt::Unusable(Problem::NotAFile {}));
        assert_eq!(read_guarded_prompt(&at("folder/none")), SeenPrompt::Unusable(Problem::Absent {}));
    }

    #[tokio::test]
    async fn resolving_what_to_watch_delays_no_answer() {
        let directory = TempDir::new().unwrap();
        let secrets = directory.path().join("secrets");
        fs::create_dir(&secrets).unwrap();
        for number in 0..30 {
            symlink(format!("{}", number + 1), directory.path().join(number.to_string())).unwrap();
        }
        for number in 0..3000 {
            symlink("../0", secrets.join(format!("_{number}"))).unwrap();
        }
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let (reader, mut writer) = UnixStream::from_std(near).unwrap().into_split();
        tokio::spawn(serve(far, Account::current().unwrap()));
        let requests = [Request::Watch(vec![Target::Contents(secrets)]), Request::Workdir("/".into())];
        for (number, body) in (1..).zip(requests) {
            frame::write(&mut writer, &Numbered { number, body }).await.unwrap();
        }
        let mut reader = frame::Reader::new(reader, MAX_FRAME);
        for expected in [2, 0] {
            assert_eq!(reader.read::<Numbered<Reply>>().await.unwrap().unwrap().number, expected);
        }
    }

    #[tokio::test]
    async fn endless_output_is_cut_but_read_to_its_end() {
        // The bytes that take the most room in a frame, and a character that is cut in the middle.
        for (piece, expected) in [("\u{1}", 64 << 10), ("\u{20ac}", 21846)] {
            let (mut program, pipe) = tokio::io::duplex(1 << 10);
            let write = async {
                program.write_all(piece.repeat(20 << 20 >> 3).as_bytes()).await.unwrap();
                drop(program);
            };
            let ((), stdout) = tokio::join!(write, text(Some(pipe)));
            assert_eq!(stdout.chars().count(), expected);
            let output = Output { success: true, stderr: stdout.clone(), stdout };
            let mut frame = Vec::new();
            frame::write(&mut frame, &Numbered { number: 1, body: Reply::Tmux(Ok(output)) }).await.unwrap();
            assert!(frame.len() < MAX_FRAME);
        }
    }

    #[test]
    fn a_prompt_is_trimmed() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("prompt");
        fs::write(&path, " \n fix\tthe tests \u{a0}\n").unwrap();
        assert_eq!(read_prompt(&path), SeenPrompt::Text(SecretBytes::from("fix\tthe tests")));
    }

    #[test]
    fn a_byte_order_mark_is_not_part_of_a_prompt() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("prompt");
        fs::write(&path, "\u{feff}\n---\ntitle: x\n---\n").unwrap();
        assert_eq!(read_prompt(&path), SeenPrompt::Text(SecretBytes::from("---\ntitle: x\n---")));
    }

    #[test]
    fn a_fifo_is_not_a_prompt_and_does_not_block() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("prompt");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert_eq!(read_prompt(&path), SeenPrompt::Unusable(Problem::NotAFile {}));
    }

    #[test]
    fn a_missing_prompt_is_missing() {
        assert_eq!(read_prompt(Path::new("/nonexistent/prompt")), SeenPrompt::Unusable(Problem::Absent {}));
    }

    #[test]
    fn a_prompt_over_the_limit_is_refused() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("prompt");
        fs::write(&path, vec![b'x'; MAX_ARGUMENT]).unwrap();
        assert!(matches!(read_prompt(&path), SeenPrompt::Text(text) if text.as_slice().len() == MAX_ARGUMENT));
        fs::write(&path, vec![b'x'; MAX_ARGUMENT + 1]).unwrap();
        assert!(matches!(read_prompt(&path), SeenPrompt::Refused(reason) if reason.contains("131071")));
    }

    #[test]
    fn a_file_is_not_a_workdir() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "").unwrap();
        assert_eq!(look_at_workdir(&path), SeenWorkdir::Unusable(Problem::NotADirectory {}));
        assert_eq!(look_at_workdir(directory.path()), SeenWorkdir::Usable);
    }

    #[tokio::test]
    async fn concurrent_requests_for_one_mode_all_succeed() {
        let directory = TempDir::new().unwrap();
        let request = Request::SetMode { path: directory.path().to_owned(), mode: 0o700 };
        let (account, hanging) = (Arc::new(Account::current().unwrap()), Hanging::default());
        let many = (0..50).map(|_| {
            let (request, account, hanging) = (request.clone(), Arc::clone(&account), hanging.clone());
            async move { answer(request, &account, &hanging).await }
        });
        for reply in many.collect::<tokio::task::JoinSet<_>>().join_all().await {
            assert!(matches!(reply, Some(Reply::SetMode(Ok(())))), "{reply:?}");
        }
    }
}
