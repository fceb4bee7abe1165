//! The directory of the tmux socket, which the agent user owns, and the launch socket in it.
//!
//! Its owner can rename and replace its entries, so root never uses a path here: the directory is opened once, without following a
//! link as its last component, and everything goes through that descriptor. On the [path](crate::sys::safe_path) to it, root follows
//! no link that the agent user could have planted, either.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};
use tokio::net::UnixListener;

use crate::sys::PathError;
use crate::sys::account::Account;
use crate::sys::file_id::FileVersion;
use crate::sys::safe_path::{self, look, version_at};

/// The launch socket's name.
pub const LAUNCH_SOCKET: &str = "launch.sock";

/// How often to try to bind it. The directory's owner can interfere, but hardly every time.
const TRIES: u32 = 1000;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something.
    #[error(transparent)]
    System(#[from] PathError),
    /// The folder is on a file system that the agent user serves and that need not answer.
    #[error(transparent)]
    Served(safe_path::Error),
    /// The folder belongs to another user, and the agent user may not write to it.
    #[error("failed to use {} as the folder of the tmux socket: user {user:?} must be able to make a socket in it; chown it to that user, or name another --tmux-socket", path.display())]
    NotWritable {
        /// The folder.
        path: PathBuf,
        /// The agent user.
        user: String,
    },
    /// The folder of a user's sockets is that of an earlier user with the same name.
    #[error("failed to use {} as the folder of the sockets of user {user:?}: it is that of an earlier user of this name, whose uid was {owner}; remove it once nothing of that user runs any more: rm -r {}", path.display(), path.display())]
    OfEarlierUser {
        /// The folder.
        path: PathBuf,
        /// The agent user.
        user: String,
        /// Whose it is.
        owner: Uid,
    },
    /// The folder of a user's sockets is gone, and the user's name is another's by now.
    #[error("failed to make {} for user {user:?}: the name is that of another user now, whose uid is {now}", path.display())]
    OfLaterUser {
        /// The folder.
        path: PathBuf,
        /// The name of both.
        user: String,
        /// The uid of the one that is there now.
        now: Uid,
    },
    /// The path has no parent directory.
    #[error("{} is not the path of a socket; write for example /run/agentd/tmux.sock", .0.display())]
    NoFolder(PathBuf),
}

/// The folder, held open.
#[derive(Debug)]
pub struct SocketDir {
    path: PathBuf,
    descriptor: OwnedFd,
}

/// Keeps the launch socket where launchers look for it.
#[derive(Debug)]
pub struct LaunchSocketKeeper {
    path: PathBuf,
    account: Account,
    group: Option<Gid>,
    /// Whose the names of users are, if it is that of a user who is not the default one.
    names: Option<Names>,
    bound: Option<FileVersion>,
}

/// Which uid the name of each user means now. A user may be deleted, and made again with another one. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<Mutex<BTreeMap<String, Uid>>>);

impl Names {
    /// From now on, the name means this user.
    pub fn note(&self, account: &Account) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(account.name.clone(), account.uid);
    }

    /// Whether the name of this user means another one.
    pub fn is_anothers(&self, account: &Account) -> bool {
        self.other(account).is_some()
    }

    /// Whom the name of this user means, if it is another one.
    fn other(&self, account: &Account) -> Option<Uid> {
        let now = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&account.name).copied();
        now.filter(|&now| now != account.uid)
    }
}

impl SocketDir {
    /// Opens the folder of that socket, and creates it if it is missing.
    ///
    /// A new folder gets mode 2750, the agent user, and the group if agentd runs as root, and mode 0700 otherwise. An existing
    /// one that belongs to the agent user gets that group and mode, too. A folder of another user is left as it is, if the agent
    /// user can write to it.
    pub fn of(socket: &Path, account: &Account, group: Option<Gid>) -> Result<Self, Error> {
        let folder = socket.parent().filter(|folder| folder.is_absolute() && socket.file_name().is_some());
        let path = folder.ok_or_else(|| Error::NoFolder(socket.to_owned()))?.to_owned();
        let failed = |operation| {
            let path = path.clone();
            move |source: io::Error| Error::from(PathError::new(operation, path, source))
        };
        let failed_to_go = |operation| {
            let failed = failed(operation);
            move |error: safe_path::Error| match error {
                safe_path::Error::Served { .. } => Error::Served(error),
                error => failed(error.into()),
            }
        };
        let (parent, made) = make(&path).map_err(failed_to_go("make"))?;
        let name = path.file_name().unwrap_or_default();
        let descriptor = safe_path::open_dir_at(&parent, name, &path).map_err(failed_to_go("open"))?;
        let status = fstat(&descriptor).map_err(|error| failed("examine")(error.into()))?;
        let owner = Uid::from_raw(status.st_uid);
        let group = group.filter(|_| Uid::effective().is_root());
        if made || owner == account.uid {
            let mode = if group.is_some() { 0o2750 } else { 0o700 };
            // While root still owns it, so that root does not need the right to do this to other users' files.
            if made {
                set_mode(&descriptor, mode).map_err(|error| failed("set the mode of")(error.into()))?;
            }
            let user = Some(account.uid).filter(|_| made && group.is_some());
            if user.is_some() || group.is_some_and(|group| group.as_raw() != status.st_gid) {
                fchown(&descriptor, user, group).map_err(|error| failed("change the owner of")(error.into()))?;
            }
            // A user's own existing folder may be shared on purpose.
            if !made && group.is_some() && status.st_mode & 0o7777 != mode {
                match set_mode(&descriptor, mode) {
                    // A unit without CAP_FOWNER. The folder is the agent user's, to share or not.
                    Err(Errno::EPERM) => {}
                    result => result.map_err(|error| failed("set the mode of")(error.into()))?,
                }
            }
        } else if !is_writable(&status, account) {
            return Err(Error::NotWritable { path, user: account.name.clone() });
        }
        Ok(Self { path, descriptor })
    }

    /// The same for a user who is not the default one, whose folder is in the folder of all users, which is made first.
    ///
    /// It is not taken over from an earlier user of that name: a server of that user's may be there.
    pub fn of_further_user(socket: &Path, account: &Account, group: Option<Gid>) -> Result<Self, Error> {
        if let Some(users) = socket.parent().and_then(Path::parent) {
            make_users_dir(users)?;
        }
        match Self::of(socket, account, group) {
            Err(Error::NotWritable { path, user }) => {
                let owner =
                    fs::symlink_metadata(&path).map_err(|error| PathError::new("examine", path.clone(), error))?;
                Err(Error::OfEarlierUser { path, user, owner: Uid::from_raw(owner.uid()) })
            }
            result => result,
        }
    }

    /// Where launchers connect.
    pub fn launch_socket(&self) -> PathBuf {
        self.path.join(LAUNCH_SOCKET)
    }

    /// Binds the launch socket in place of one that an earlier daemon left.
    ///
    /// Everyone may connect: the folder decides who can reach it, and each peer is verified.
    ///
    /// The socket gets its mode in a private folder, where its name cannot be given to another file, and without a change of the
    /// umask, which all threads of this process share.
    pub fn bind_launch_socket(&self) -> Result<UnixListener, Error> {
        let failed =
            |operation| move |source: io::Error| PathError::new(operation, self.launch_socket(), source).into();
        let mut tries = 0;
        loop {
            match self.bind_elsewhere().and_then(|(listener, elsewhere)| {
                self.put_in_place(&elsewhere)?;
                Ok(listener)
            }) {
                Err(error) if is_interference(&error) && tries < TRIES => tries += 1,
                bound => return bound.map_err(failed("bind")),
            }
        }
    }

    fn bind_elsewhere(&self) -> io::Result<(UnixListener, Private<'_>)> {
        let private = Private::make(&self.descriptor)?;
        let listener = UnixListener::bind(private.path())?;
        private.open_to_everybody()?;
        Ok((listener, private))
    }

    /// Moves the socket into place, over whatever has the name. A directory there is renamed.
    fn put_in_place(&self, from: &Private<'_>) -> io::Result<()> {
        let put = || renameat(&from.descriptor, LAUNCH_SOCKET, &self.descriptor, LAUNCH_SOCKET);
        match put() {
            Err(Errno::EISDIR) => {
                renameat(&self.descriptor, LAUNCH_SOCKET, &self.descriptor, unknown_name().as_str())?;
                Ok(put()?)
            }
            result => Ok(result?),
        }
    }

    /// Removes the launch socket, if it exists.
    pub fn remove_launch_socket(&self) -> io::Result<()> {
        match unlinkat(self.descriptor.as_fd(), LAUNCH_SOCKET, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A temporary folder in which no other user can exchange files.
struct Private<'a> {
    within: &'a OwnedFd,
    name: String,
    descriptor: OwnedFd,
}

impl<'a> Private<'a> {
    fn make(within: &'a OwnedFd) -> io::Result<Self> {
        let name = unknown_name();
        mkdirat(within, name.as_str(), Mode::S_IRWXU)?;
        Self::enter(within, name.clone()).inspect_err(|_| {
            let _ = remove_folder(within, &name);
        })
    }

    /// Opens the folder.
    ///
    /// It may be a different one by now, even one that the parent folder's owner serves and lies about.
    fn enter(within: &'a OwnedFd, name: String) -> io::Result<Self> {
        let interfered = || io::Error::from(Errno::EEXIST);
        let descriptor =
            safe_path::open_dir_at(within, OsStr::new(&name), Path::new(&name)).map_err(|error| match error {
                safe_path::Error::System(PathError { source, .. }) => source,
                _ => interfered(),
            })?;
        let [above, it] = [look(within, OsStr::new(""))?, look(&descriptor, OsStr::new(""))?];
        let others = Mode::S_IRWXG | Mode::S_IRWXO;
        let is_private = it.owner == Uid::effective().as_raw() && it.mode & others.bits() == 0 && it.is_beside(&above);
        if is_private { Ok(Self { within, name, descriptor }) } else { Err(interfered()) }
    }

    fn path(&self) -> String {
        format!("/proc/self/fd/{}/{LAUNCH_SOCKET}", self.descriptor.as_raw_fd())
    }

    /// Lets everyone connect to the socket, and never changes the mode of another file in its place.
    fn open_to_everybody(&self) -> io::Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let socket = openat(&self.descriptor, LAUNCH_SOCKET, flags, Mode::empty())?;
        let it = look(&socket, OsStr::new(""))?;
        if it.mode & SFlag::S_IFMT.bits() != SFlag::S_IFSOCK.bits() || it.owner != Uid::effective().as_raw() {
            return Err(Errno::EEXIST.into());
        }
        // `fchmod(2)` does not accept a descriptor opened with O_PATH.
        fs::set_permissions(format!("/proc/self/fd/{}", socket.as_raw_fd()), fs::Permissions::from_mode(0o666))
    }
}

impl Drop for Private<'_> {
    fn drop(&mut self) {
        // If this fails, what is left does no harm.
        let _ = unlinkat(&self.descriptor, LAUNCH_SOCKET, UnlinkatFlags::NoRemoveDir);
        let _ = remove_folder(self.within, &self.name);
    }
}

/// Removes a folder if it is empty.
fn remove_folder(within: &OwnedFd, name: &str) -> nix::Result<()> {
    unlinkat(within, name, UnlinkatFlags::RemoveDir)
}

/// A name that cannot be predicted, and so cannot be taken.
fn unknown_name() -> String {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("{LAUNCH_SOCKET}.{}.{}", std::process::id(), now.as_nanos())
}

/// Whether the error may result from interference by the folder's owner.
fn is_interference(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(
            Errno::EEXIST
                | Errno::ENOENT
                | Errno::ENOTDIR
                | Errno::EISDIR
                | Errno::ELOOP
                | Errno::EACCES
                | Errno::EADDRINUSE
        )
    )
}

impl LaunchSocketKeeper {
    /// Looks after the launch socket beside that tmux socket.
    ///
    /// `is_bound` says whether an existing one was bound by this daemon. The other arguments are those of [`SocketDir::of`].
    pub fn new(socket: &Path, account: &Account, group: Option<Gid>, is_bound: bool) -> Self {
        let path = launch_socket_beside(socket);
        let bound = is_bound.then(|| version_at(&path)).flatten();
        Self { path, account: account.clone(), group, names: None, bound }
    }

    /// The same, of a user whose folder is in the folder of all users, which is made first.
    #[must_use]
    pub fn below_users(self, names: Names) -> Self {
        Self { names: Some(names), ..self }
    }

    /// Binds the launch socket again if it is no longer in its place, in a new directory if that is gone, too.
    pub fn restore(&mut self) -> Result<Option<UnixListener>, Error> {
        if self.bound.is_some() && version_at(&self.path) == self.bound {
            return Ok(None);
        }
        if let Some(path) = self.path.parent().filter(|path| version_at(path).is_none())
            && let Some(now) = self.names.as_ref().and_then(|names| names.other(&self.account))
        {
            return Err(Error::OfLaterUser { path: path.to_owned(), user: self.account.name.clone(), now });
        }
        let of = if self.names.is_some() { SocketDir::of_further_user } else { SocketDir::of };
        // Only the folder matters: the name of the tmux socket in it does not.
        let listener = of(&self.path, &self.account, self.group)?.bind_launch_socket()?;
        self.bound = version_at(&self.path);
        Ok(Some(listener))
    }
}

/// Makes the folder of the folders of users other than the default one. Only root can change it, and it is open to all: each user has
/// a folder in it, which no other user can replace.
fn make_users_dir(path: &Path) -> Result<(), Error> {
    let mode = Mode::from_bits_truncate(0o755);
    let failed = |error: safe_path::Error| match error {
        error @ safe_path::Error::Served { .. } => Error::Served(error),
        error => PathError::new("make", path, io::Error::from(error)).into(),
    };
    let folder = safe_path::open_private_dir(path, Some(mode)).map_err(failed)?;
    let folder = safe_path::open_dir_at(&folder, OsStr::new("."), path).map_err(failed)?;
    // Whatever the umask is.
    fchmod(&folder, mode).map_err(|error| PathError::new("set the mode of", path, error).into())
}

/// The launch socket for launchers of the tmux server with that socket.
pub fn launch_socket_beside(socket: &Path) -> PathBuf {
    socket.with_file_name(LAUNCH_SOCKET)
}

/// Creates the folder, and returns its parent and whether it had to be created. Missing parents become readable by everyone.
fn make(path: &Path) -> Result<(OwnedFd, bool), safe_path::Error> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let mode = Mode::from_bits_truncate(if Uid::effective().is_root() { 0o755 } else { 0o700 });
    let parent = safe_path::open_dir(parent, Some(mode))?;
    // The root folder has no name, and always exists.
    match mkdirat(parent.as_fd(), path.file_name().unwrap_or(OsStr::new(".")), Mode::S_IRWXU) {
        Ok(()) => Ok((parent, true)),
        Err(Errno::EEXIST) => Ok((parent, false)),
        Err(error) => Err(PathError::new("make", path, error).into()),
    }
}

/// Sets the mode, without the set-group-ID bit if that is forbidden (`RestrictSUIDSGID=`).
///
/// Without the bit, files in the folder have the agent user's group.
fn set_mode(folder: &OwnedFd, mode: u32) -> Result<(), Errno> {
    let set = |mode| fchmod(folder, Mode::from_bits_truncate(mode));
    match set(mode) {
        Err(Errno::EPERM) if mode & 0o7000 != 0 => set(mode & 0o777),
        result => result,
    }
}

fn is_writable(status: &FileStat, account: &Account) -> bool {
    let group = Gid::from_raw(status.st_gid);
    let needed = if account.uid.is_root() {
        0
    } else if status.st_uid == account.uid.as_raw() {
        0o300
    } else if account.groups.contains(&group) || account.gid == group {
        0o030
    } else {
        0o003
    };
    status.st_mode & needed == needed
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn current() -> Account {
        Account::current().unwrap()
    }

    #[test]
    fn a_missing_folder_is_made_with_its_parents() {
        let directory = tempfile::TempDir::new().unwrap();
        let socket = directory.path().join("a/b/tmux.sock");
        SocketDir::of(&socket, &current(), None).unwrap();
        let metadata = fs::metadata(directory.path().join("a/b")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o700);
        assert_eq!(metadata.uid(), current().uid.as_raw());
    }

    #[test]
    fn the_folder_of_users_is_open_to_all_and_only_roots_to_change() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("door/users");
        for _ in 0..2 {
            make_users_dir(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o755);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        }
        fs::set_permissions(directory.path().join("door"), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(make_users_dir(&path).is_err(), Uid::effective().is_root());
    }

    #[test]
    fn a_link_in_place_of_the_folder_is_not_followed() {
        let directory = tempfile::TempDir::new().unwrap();
        fs::create_dir(directory.path().join("target")).unwrap();
        symlink("target", directory.path().join("link")).unwrap();
        let error = SocketDir::of(&directory.path().join("link/tmux.sock"), &current(), None).unwrap_err();
        assert!(matches!(error, Error::System(PathError { operation: "open", .. })), "{error}");
    }

    #[tokio::test]
    async fn the_launch_socket_replaces_any_file_and_is_open_to_all() {
        let directory = tempfile::TempDir::new().unwrap();
        let folder = SocketDir::of(&directory.path().join("tmux.sock"), &current(), None).unwrap();
        symlink("/etc/passwd", folder.launch_socket()).unwrap();
        let _listener = folder.bind_launch_socket().unwrap();
        let mode = fs::symlink_metadata(folder.launch_socket()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o666);
        tokio::net::UnixStream::connect(folder.launch_socket()).await.unwrap();
        folder.remove_launch_socket().unwrap();
        assert!(!folder.launch_socket().exists());
    }

    #[tokio::test]
    async fn binding_leaves_nothing_beside_the_launch_socket() {
        let directory = tempfile::TempDir::new().unwrap();
        let folder = SocketDir::of(&directory.path().join("tmux.sock"), &current(), None).unwrap();
        for _ in 0..2 {
            let _listener = folder.bind_launch_socket().unwrap();
            let entries = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
            assert_eq!(entries.collect::<Vec<_>>(), [LAUNCH_SOCKET]);
        }
    }

    #[test]
    fn a_file_in_place_of_the_socket_keeps_its_mode() {
        let directory = tempfile::TempDir::new().unwrap();
        let folder = SocketDir::of(&directory.path().join("tmux.sock"), &current(), None).unwrap();
        let private = Private::make(&folder.descriptor).unwrap();
        let precious = directory.path().join("precious");
        fs::write(&precious, "").unwrap();
        fs::set_permissions(&precious, fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&precious, private.path()).unwrap();
        private.open_to_everybody().unwrap_err();
        fs::rename(&precious, private.path()).unwrap();
        private.open_to_everybody().unwrap_err();
        assert_eq!(fs::metadata(private.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_folder_in_place_of_the_private_one_is_not_entered() {
        let directory = tempfile::TempDir::new().unwrap();
        let folder = SocketDir::of(&directory.path().join("tmux.sock"), &current(), None).unwrap();
        fs::create_dir_all(directory.path().join("open/mine")).unwrap();
        fs::set_permissions(directory.path().join("open"), fs::Permissions::from_mode(0o750)).unwrap();
        symlink("open/mine", directory.path().join("link")).unwrap();
        for name in ["open", "link", "missing"] {
            let error = Private::enter(&folder.descriptor, name.to_owned()).err().unwrap();
            assert!(is_interference(&error), "{name}: {error}");
        }
    }

    /// A file system of another user's on a folder that answers nothing until this is dropped.
    struct Hung {
        folder: PathBuf,
        server: std::process::Child,
    }

    impl Hung {
        /// `None` where the system does not allow it.
        fn over(folder: PathBuf, tools: &Path) -> Option<Self> {
            use std::process::{Command, Stdio};
            let program = tools.join("hung-folder");
            let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/hung-folder.c");
            let is_built = Command::new("cc").arg("-o").arg(&program).arg(source).status().is_ok_and(|it| it.success());
            if !is_built || !Uid::effective().is_root() {
                return None;
            }
            let server = Command::new(program).arg(&folder).arg("65534").stderr(Stdio::null()).spawn().unwrap();
            let mut hung = Self { folder, server };
            let is_mounted = |path: &Path| {
                let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
                mounts.contains(&format!(" {} ", path.display()))
            };
            while !is_mounted(&hung.folder) {
                if hung.server.try_wait().unwrap().is_some() {
                    return None;
                }
                std::thread::yield_now();
            }
            Some(hung)
        }
    }

    impl Drop for Hung {
        fn drop(&mut self) {
            let _ = self.server.kill();
            let _ = self.server.wait();
            let _ = std::process::Command::new("umount").arg("-l").arg(&self.folder).output();
        }
    }

    #[test]
    fn a_hung_mount_in_place_of_the_private_folder_is_not_accessed() {
        let [directory, tools] = [(); 2].map(|()| tempfile::TempDir::new().unwrap());
        let folder = SocketDir::of(&directory.path().join("tmux.sock"), &current(), None).unwrap();
        let place = directory.path().join("place");
        fs::create_dir(&place).unwrap();
        let Some(_hung) = Hung::over(place, tools.path()) else { return };
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let error = Private::enter(&folder.descriptor, "place".to_owned()).err();
            let _ = tell.send(error.is_some_and(|error| is_interference(&error)));
        });
        assert_eq!(told.recv_timeout(std::time::Duration::from_secs(10)), Ok(true));
    }

    #[tokio::test]
    async fn binding_does_not_change_the_umask_of_other_threads() {
        let directory = tempfile::TempDir::new().unwrap();
        let folder = SocketDir::of(&directory.path().join("tmux.sock"), &current(), None).unwrap();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let umask = || {
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap().trim().to_owned()
        };
        // Isolates the umask from other tests. The thread below shares it.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
        let before = umask();
        std::thread::scope(|scope| {
            let watching = scope.spawn(|| {
                let mut seen = std::collections::BTreeSet::new();
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    seen.insert(umask());
                }
                seen
            });
            for _ in 0..200 {
                folder.bind_launch_socket().unwrap();
            }
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(watching.join().unwrap(), [before].into());
        });
    }

    #[tokio::test]
    async fn a_folder_in_place_of_the_launch_socket_is_renamed() {
        let directory = tempfile::TempDir::new().unwrap();
        let folder = SocketDir::of(&directory.path().join("tmux.sock"), &current(), None).unwrap();
        fs::create_dir_all(folder.launch_socket().join("full")).unwrap();
        folder.bind_launch_socket().unwrap();
    }

    #[tokio::test]
    async fn a_launch_socket_that_is_gone_is_bound_again() {
        let directory = tempfile::TempDir::new().unwrap();
        let folder = SocketDir::of(&directory.path().join("f/tmux.sock"), &current(), None).unwrap();
        let _listener = folder.bind_launch_socket().unwrap();
        let path = folder.launch_socket();
        let mut keeper = LaunchSocketKeeper::new(&path, &current(), None, true);
        assert!(keeper.restore().unwrap().is_none());
        let remove: [fn(&Path); 3] = [
            |path| fs::remove_file(path).unwrap(),
            |path| {
                fs::remove_file(path).unwrap();
                symlink("/etc/passwd", path).unwrap();
            },
            |path| fs::remove_dir_all(path.parent().unwrap()).unwrap(),
        ];
        for remove in remove {
            remove(&path);
            let _listener = keeper.restore().unwrap().unwrap();
            tokio::net::UnixStream::connect(&path).await.unwrap();
            assert!(keeper.restore().unwrap().is_none());
        }
    }

    #[test]
    fn a_relative_path_is_refused_with_an_example() {
        let error = SocketDir::of(Path::new("tmux.sock"), &current(), None).unwrap_err().to_string();
        assert!(error.contains("/run/agentd/tmux.sock"), "{error}");
    }
}
