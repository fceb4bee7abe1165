//! Who may use the API's socket, and who keeps it. Umask and effective group are the whole process's, so these tests take turns.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use agentd::api::socket::{bind, keep};
use agentd::sys::unix_socket::{Error, claim, with_umask};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Group, Uid};
use tempfile::TempDir;

static TURN: Mutex<()> = Mutex::new(());

struct Room {
    folder: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Room {
    fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Self { folder: tempfile::tempdir().unwrap(), _turn: turn }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("agentd.sock")
    }
}

/// A real group that is not our own, if we are root and can give things away.
fn other_group() -> Option<Gid> {
    Uid::effective().is_root().then(|| Group::from_name("daemon").unwrap().unwrap().gid)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn group(path: &Path) -> Gid {
    Gid::from_raw(fs::symlink_metadata(path).unwrap().gid())
}

#[test]
fn a_group_gets_0660_whatever_the_umask() {
    let room = Room::new();
    let group_of_socket = other_group().unwrap_or(Gid::effective());
    for mask in [0o000, 0o022, 0o077] {
        let bound = with_umask(Mode::from_bits_truncate(mask), || bind(&room.path(), Some(group_of_socket)).unwrap());
        assert_eq!((mode(&room.path()), group(&room.path())), (0o660, group_of_socket));
        drop(bound);
    }
}

#[test]
fn without_a_group_the_socket_is_for_its_owner() {
    let room = Room::new();
    let _bound = bind(&room.path(), None).unwrap();
    assert_eq!(mode(&room.path()), 0o600);
}

#[test]
fn umask_and_group_of_the_process_are_as_before() {
    let room = Room::new();
    let before = with_umask(Mode::from_bits_truncate(0o027), || {
        _ = bind(&room.path(), other_group());
        nix::sys::stat::umask(Mode::from_bits_truncate(0o027))
    });
    assert_eq!(before.bits(), 0o027);
    assert_eq!(Gid::effective(), Gid::current());
}

/// The kernel tells when a name appears; what the socket is then, it was born as.
#[test]
fn no_instant_shows_the_socket_wider_or_with_another_group() {
    let Some(admins) = other_group() else { return };
    let room = Room::new();
    let path = room.path();
    let (done, stop) = std::sync::mpsc::channel::<()>();
    let name = path.clone();
    let watcher = std::thread::spawn(move || {
        let mut seen = std::collections::BTreeSet::new();
        while stop.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            if let Ok(metadata) = fs::symlink_metadata(&name) {
                seen.insert((metadata.mode() & 0o7777, metadata.gid()));
            }
        }
        seen
    });
    for _ in 0..500 {
        drop(bind(&path, Some(admins)).unwrap());
    }
    drop(done);
    let seen: Vec<_> = watcher.join().unwrap().into_iter().collect();
    assert_eq!(seen, [(0o660, admins.as_raw())]);
}

#[test]
fn a_setgid_directory_still_yields_the_right_socket_group() {
    let Some(admins) = other_group() else { return };
    let room = Room::new();
    fs::set_permissions(room.folder.path(), Permissions::from_mode(0o2755)).unwrap();
    let _bound = bind(&room.path(), Some(admins)).unwrap();
    assert_eq!((mode(&room.path()), group(&room.path())), (0o660, admins));
}

#[test]
fn a_missing_folder_is_made_and_those_above_it() {
    let room = Room::new();
    let path = room.folder.path().join("a/b/agentd.sock");
    let _bound = with_umask(Mode::from_bits_truncate(0o077), || bind(&path, other_group()).unwrap());
    let (above, folder) = (room.folder.path().join("a"), room.folder.path().join("a/b"));
    match other_group() {
        Some(admins) => {
            assert_eq!((mode(&above), group(&above)), (0o755, Gid::effective()));
            assert_eq!((mode(&folder), group(&folder)), (0o750, admins));
        }
        None => assert_eq!((mode(&above), mode(&folder)), (0o700, 0o700)),
    }
}

#[test]
fn a_folder_that_is_there_stays_as_it_is() {
    let room = Room::new();
    fs::set_permissions(room.folder.path(), Permissions::from_mode(0o711)).unwrap();
    let before = group(room.folder.path());
    let _bound = bind(&room.path(), other_group()).unwrap();
    assert_eq!((mode(room.folder.path()), group(room.folder.path())), (0o711, before));
}

#[test]
fn a_folder_that_is_none_is_named() {
    let room = Room::new();
    fs::write(room.folder.path().join("file"), "").unwrap();
    let error = bind(&room.folder.path().join("file/agentd.sock"), None).unwrap_err();
    assert!(matches!(error, Error::Folder { .. }), "{error}");
    assert!(error.to_string().ends_with("file as the folder of a socket: it is not a folder"), "{error}");
}

#[test]
fn a_stale_socket_is_replaced() {
    let room = Room::new();
    drop(UnixListener::bind(room.path()).unwrap());
    let bound = bind(&room.path(), None).unwrap();
    UnixStream::connect(room.path()).unwrap();
    drop(bound);
}

#[test]
fn a_live_socket_is_not_stolen() {
    let room = Room::new();
    let first = bind(&room.path(), None).unwrap();
    let error = bind(&room.path(), None).unwrap_err();
    assert!(matches!(error, Error::Held { pid: Some(pid), .. } if pid.unsigned_abs() == std::process::id()), "{error}");
    UnixStream::connect(room.path()).unwrap();
    drop(first);
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let room = Room::new();
    fs::write(room.path(), "mine").unwrap();
    assert!(matches!(bind(&room.path(), None), Err(Error::NotASocket(_))));
    assert_eq!(fs::read(room.path()).unwrap(), b"mine");
}

#[test]
fn a_path_that_is_too_long_makes_no_folder() {
    let room = Room::new();
    let folder = room.folder.path().join("x".repeat(100));
    assert!(matches!(bind(&folder.join("agentd.sock"), None), Err(Error::TooLong(_))));
    assert!(!folder.exists());
}

#[test]
fn the_socket_goes_with_its_address_and_not_with_its_listener() {
    let room = Room::new();
    let agentd::sys::unix_socket::Bound { listener, address } = bind(&room.path(), None).unwrap();
    assert_eq!(address.path(), room.path());
    drop(listener);
    assert!(room.path().exists());
    drop(address);
    assert!(!room.path().exists());
}

#[test]
fn the_socket_of_another_is_not_removed() {
    let room = Room::new();
    let bound = bind(&room.path(), None).unwrap();
    fs::remove_file(room.path()).unwrap();
    let other = UnixListener::bind(room.path()).unwrap();
    drop(bound);
    UnixStream::connect(room.path()).unwrap();
    drop(other);
    claim(&room.path()).unwrap();
}

/// The socket of a daemon that keeps it, and what it tells when it binds it again.
fn kept(room: &Room, group: Option<Gid>) -> (tokio::sync::watch::Sender<()>, Kept) {
    let agentd::sys::unix_socket::Bound { address, .. } = bind(&room.path(), group).unwrap();
    let ((rounds, round), (sender, listeners)) = (tokio::sync::watch::channel(()), tokio::sync::mpsc::channel(1));
    let keeping = tokio::spawn(keep(address, group, round, sender));
    (rounds, Kept { listeners, keeping })
}

struct Kept {
    listeners: tokio::sync::mpsc::Receiver<tokio::net::UnixListener>,
    keeping: tokio::task::JoinHandle<agentd::sys::unix_socket::Address>,
}

#[tokio::test]
async fn a_socket_that_is_gone_is_bound_again_with_its_rights() {
    let room = Room::new();
    let group = Gid::effective();
    let (rounds, mut kept) = kept(&room, Some(group));
    for _ in 0..2 {
        fs::remove_file(room.path()).unwrap();
        rounds.send_replace(());
        let listener = kept.listeners.recv().await.unwrap();
        let status = fs::symlink_metadata(room.path()).unwrap();
        assert_eq!((status.mode() & 0o7777, status.gid()), (0o660, group.as_raw()));
        UnixStream::connect(room.path()).unwrap();
        drop(listener);
    }
    drop(rounds);
    drop(kept.keeping.await.unwrap());
    assert!(!room.path().exists(), "the last one goes with the daemon");
}

#[tokio::test]
async fn a_socket_of_another_in_its_place_is_left_alone() {
    let room = Room::new();
    let (rounds, mut kept) = kept(&room, None);
    fs::remove_file(room.path()).unwrap();
    let other = UnixListener::bind(room.path()).unwrap();
    rounds.send_replace(());
    drop(rounds);
    drop(kept.keeping.await.unwrap());
    assert!(kept.listeners.recv().await.is_none());
    UnixStream::connect(room.path()).unwrap();
    drop(other);
}
