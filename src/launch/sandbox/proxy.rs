//! The way to a proxy, outside of a sandbox without a network: a socket that the sandbox has, behind which the launcher connects.
//!
//! ```text
//! harness ─ 127.0.0.1:3128 ─ inner ┄ socket of the attempt ┄ launcher ─ connects to `sandbox_proxy`, and hands the connection in
//! ```
//!
//! The socket of the proxy itself is not in the sandbox: one that the proxy makes anew after a restart would not be there, and neither
//! would a folder be the right thing to show. What passes through a connection does not pass through the launcher.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{AccessFlags, eaccess};

use super::mounts::{Mount, Plan, What};
use super::{forward, refused};
use crate::agent::sandbox::Sandbox;
use crate::launch::protocol::Failure;
use crate::sys::fd_passing;

/// The name of the socket in the attempt's folder.
const NAME: &str = "proxy";

/// How many connections may wait to be accepted.
pub(super) const BACKLOG: i32 = 1024;

/// How long the proxy may take to accept a connection, in seconds.
const ACCEPT_TIMEOUT: i64 = 10;

/// How long to wait if no connection can be accepted, for want of descriptors.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// The stack of the thread, which does little.
const STACK: usize = 128 << 10;

/// The variables that programs look for a proxy in.
const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"];

/// The variables that name what is reached without one.
const WITHOUT: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// Adds the variables that say where the proxy is, but for those that the entry sets.
pub(in crate::launch) fn add_proxy<'a>(
    environment: &mut BTreeMap<OsString, OsString>,
    sandbox: &Sandbox,
    declared: impl Iterator<Item = &'a String>,
) {
    if sandbox.proxy.is_none() {
        return;
    }
    let declared: Vec<&String> = declared.collect();
    let address = format!("http://127.0.0.1:{}", forward::PORT);
    let proxy = VARIABLES.map(|name| (name, address.as_str()));
    for (name, value) in proxy.into_iter().chain(WITHOUT.map(|name| (name, "localhost,127.0.0.1,::1"))) {
        if !declared.iter().any(|declared| *declared == name) {
            environment.insert(name.into(), value.into());
        }
    }
}

/// Why this cannot be the socket of a proxy. One that is not there, or that this user may not write to yet, is waited for.
pub(super) fn look(proxy: &Path, hidden: &[PathBuf], user: &str) -> Result<(), Failure> {
    let not_yet = |why: &str| {
        let message = format!("`sandbox_proxy`: {} {why}", proxy.display());
        let proxy = Some(proxy.display().to_string());
        Err(Failure { message, errno: None, missing: true, program: None, packages: false, proxy })
    };
    let refusal = |why: &str| Err(refused(format!("`sandbox_proxy`: {} {why}", proxy.display())));
    if hidden.iter().any(|hidden| proxy.starts_with(hidden)) {
        return refusal("is a socket of agentd itself");
    }
    match proxy.canonicalize() {
        Ok(real) if real == proxy => {}
        Ok(real) => return refusal(&format!("leads through a link, which could be changed; write {}", real.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return not_yet("does not exist; start the proxy");
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return not_yet(&format!(
                "is in a folder that is closed to user {user}; let user {user} into it (chgrp, chmod g+x)"
            ));
        }
        Err(error) => return refusal(&format!("cannot be used: {error}")),
    }
    if !proxy.metadata().is_ok_and(|metadata| metadata.file_type().is_socket()) {
        return refusal("is not a socket");
    }
    match eaccess(proxy, AccessFlags::W_OK) {
        Ok(()) => Ok(()),
        Err(Errno::EACCES) => {
            not_yet(&format!("is closed to user {user}; let user {user} write to it (chgrp, chmod g+w)"))
        }
        Err(errno) => refusal(&format!("cannot be used: {}", errno.desc())),
    }
}

/// Why the agent could put another socket in the place of the proxy's, from inside.
pub(super) fn replaceable(proxy: &Path, plan: &Plan) -> Option<String> {
    let shows =
        |mount: &&Mount| matches!(&mount.what, What::Bind { from, writable: true, .. } if proxy.starts_with(from));
    let mount = plan.mounts.iter().find(shows)?;
    Some(format!(
        "`sandbox_proxy`: {} is in {}, where the agent can write and put another socket in its place; move it out of there",
        proxy.display(),
        mount.at.display()
    ))
}

/// The socket behind which the launcher connects to the proxy.
pub(super) struct Gate {
    listener: UnixListener,
    proxy: PathBuf,
}

impl Gate {
    /// Makes the socket in this folder, and returns its path.
    pub fn open(folder: &Path, proxy: &Path) -> io::Result<(PathBuf, Self)> {
        let open = std::fs::OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(folder)?;
        // However long the folder's path is.
        let short = format!("/proc/self/fd/{}/{NAME}", open.as_raw_fd());
        let listener = UnixListener::bind(short)?;
        rustix::net::listen(&listener, BACKLOG)?;
        Ok((folder.join(NAME), Self { listener, proxy: proxy.to_owned() }))
    }

    /// Serves it in a thread of its own, for as long as this process lives.
    pub fn serve(self) -> io::Result<()> {
        thread::Builder::new().name("agentd-proxy".to_owned()).stack_size(STACK).spawn(move || self.run()).map(drop)
    }

    fn run(&self) {
        loop {
            match self.listener.accept() {
                // If it fails, the process inside says so to its client.
                Ok((inside, _)) => drop(self.hand_in(&inside)),
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    fn hand_in(&self, inside: &UnixStream) -> io::Result<()> {
        let connection = connect_to(&self.proxy)?;
        fd_passing::send_one(inside, connection.as_fd())
    }
}

/// A connection to the proxy, whose path leads through no link.
fn connect_to(proxy: &Path) -> io::Result<OwnedFd> {
    let flags = (OFlag::O_PATH | OFlag::O_NOFOLLOW).bits();
    let target = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(proxy)?;
    if proxy.canonicalize()? != proxy || !target.metadata()?.file_type().is_socket() {
        return Err(Errno::ELOOP.into());
    }
    let connection = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // It bounds how long a proxy that accepts nothing is waited for.
    setsockopt(&connection, SendTimeout, &TimeVal::seconds(ACCEPT_TIMEOUT))?;
    let path = format!("/proc/self/fd/{}", target.as_raw_fd());
    connect(connection.as_raw_fd(), &UnixAddr::new(OsStr::from_bytes(path.as_bytes()))?)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;
    use crate::agent::sandbox::Home;
    use crate::launch::sandbox::mounts::plan;
    use crate::launch::sandbox::mounts::tests::{facts, sandbox};

    fn environment(declared: &[&str], proxy: Option<&str>) -> BTreeMap<OsString, OsString> {
        let declared: Vec<String> = declared.iter().map(|&name| name.to_owned()).collect();
        let mut environment: BTreeMap<OsString, OsString> =
            [("https_proxy", "http://far:1"), ("X", "y")].map(|(name, value)| (name.into(), value.into())).into();
        let sandbox = Sandbox { proxy: proxy.map(PathBuf::from), ..sandbox(Home::Kept) };
        add_proxy(&mut environment, &sandbox, declared.iter());
        environment
    }

    #[test]
    fn variables_name_the_proxy_unless_the_entry_sets_them() {
        let names = |environment: &BTreeMap<OsString, OsString>| environment.len();
        assert_eq!(names(&environment(&[], None)), 2);
        let given = environment(&[], Some("/run/p"));
        assert_eq!((names(&given), given[OsStr::new("https_proxy")].to_str()), (7, Some("http://127.0.0.1:3128")));
        let given = environment(&["https_proxy"], Some("/run/p"));
        assert_eq!(given[OsStr::new("https_proxy")], "http://far:1");
        assert_eq!(given[OsStr::new("NO_PROXY")], "localhost,127.0.0.1,::1");
    }

    #[test]
    fn only_a_socket_that_stays_where_it_is_can_be_a_proxy() {
        let folder = TempDir::new().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let _listener = UnixListener::bind(root.join("p")).unwrap();
        symlink(root.join("p"), root.join("link")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        assert!(look(&root.join("p"), &[], "agent").is_ok());
        let wrong = |name: &str, hidden: &[PathBuf]| look(&root.join(name), hidden, "agent").unwrap_err();
        assert!(wrong("none", &[]).missing && wrong("none", &[]).message.contains("does not exist; start the proxy"));
        for (name, hidden, expected) in [
            ("link", vec![], "leads through a link"),
            ("file", vec![], "is not a socket"),
            ("p", vec![root.clone()], "is a socket of agentd itself"),
        ] {
            let failure = wrong(name, &hidden);
            assert!(!failure.missing && failure.message.contains(expected), "{}", failure.message);
        }
        fs::set_permissions(root.join("p"), fs::Permissions::from_mode(0o0)).unwrap();
        if !nix::unistd::Uid::effective().is_root() {
            let failure = wrong("p", &[]);
            assert!(failure.message.ends_with("let user agent write to it (chgrp, chmod g+w)"), "{}", failure.message);
            assert!(failure.missing && failure.proxy == root.join("p").to_str().map(str::to_owned));
        }
    }

    #[test]
    fn a_proxy_where_the_agent_writes_is_refused() {
        let plan = plan(&sandbox(Home::Kept), &facts());
        assert_eq!(replaceable(Path::new("/run/p"), &plan), None);
        let why = replaceable(Path::new("/home/agent/project/p"), &plan).unwrap();
        assert!(why.contains("/home/agent/project/p is in /home/agent/project, where the agent can write"), "{why}");
    }

    #[test]
    fn a_connection_is_handed_in_also_after_the_proxy_came_back() {
        let folder = TempDir::new().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (path, gate) = Gate::open(&root, &root.join("p")).unwrap();
        gate.serve().unwrap();
        let ask = || {
            let inside = UnixStream::connect(&path).unwrap();
            let (mut descriptors, mut byte) = (Vec::new(), [0]);
            let flags = nix::poll::PollFlags::POLLIN;
            crate::sys::poll::wait(&mut [nix::poll::PollFd::new(inside.as_fd(), flags)], None).unwrap();
            fd_passing::receive(&inside, &mut byte, &mut descriptors).unwrap();
            descriptors.pop().map(UnixStream::from)
        };
        assert!(ask().is_none(), "there is no proxy");
        for _ in 0..2 {
            let listener = UnixListener::bind(root.join("p")).unwrap();
            let mut connection = ask().unwrap();
            let (mut server, _) = listener.accept().unwrap();
            connection.write_all(b"x").unwrap();
            server.read_exact(&mut [0]).unwrap();
            drop(listener);
            assert!(ask().is_none(), "nobody listens");
            fs::remove_file(root.join("p")).unwrap();
        }
        symlink("/dev/log", root.join("p")).unwrap();
        assert!(ask().is_none(), "a link is not followed");
    }
}
