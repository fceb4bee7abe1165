//! The accounts of the user database: those that agents run as.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use nix::unistd::{AccessFlags, Gid, Uid, eaccess, getresgid, getresuid, setgroups, setresgid, setresuid};
use users::os::unix::UserExt;

/// The shell to use if the account's shell does not exist.
const USUAL_SHELL: &str = "/bin/sh";

/// Why an account could not be found or assumed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No user has that name.
    #[error("there is no user {0:?}; create it (for example: useradd --create-home {0}), or name another with --user")]
    NoUser(String),
    /// This process's uid has no name.
    #[error("the user with uid {0} has no entry in the user database")]
    NoEntry(Uid),
    /// The name now means another user.
    #[error("user {name:?} had uid {before} when agentd was started and has uid {now}; restart agentd")]
    Changed {
        /// The name.
        name: String,
        /// The uid before.
        before: Uid,
        /// The uid now.
        now: Uid,
    },
    /// The user's groups could not be listed.
    #[error("failed to list the groups of user {0:?}")]
    Groups(String),
    /// The kernel refused to change this process's user or groups.
    #[error("failed to become user {name:?}: {source}")]
    Become {
        /// The user's name.
        name: String,
        /// The kernel's reason.
        source: nix::Error,
    },
}

/// A user of the system's user database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: Uid,
    /// Primary group.
    pub gid: Gid,
    /// All groups, including the primary one.
    pub groups: Vec<Gid>,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

impl Account {
    /// A user of whom nothing is known but the name and the id.
    pub fn known_as(name: &str, uid: Uid) -> Self {
        Self {
            name: name.to_owned(),
            uid,
            gid: Gid::from_raw(u32::MAX - 1),
            groups: Vec::new(),
            home: "/nonexistent".into(),
            shell: "/bin/sh".into(),
        }
    }

    /// Looks a user up by name.
    pub fn find(name: &str) -> Result<Self, Error> {
        users::get_user_by_name(name).ok_or_else(|| Error::NoUser(name.to_owned())).and_then(|user| Self::of(&user))
    }

    /// Looks up a user by name who was found before with this uid.
    pub fn find_again(name: &str, uid: Uid) -> Result<Self, Error> {
        match Self::find(name)? {
            account if account.uid == uid => Ok(account),
            account => Err(Error::Changed { name: account.name, before: uid, now: account.uid }),
        }
    }

    /// The user that this process runs as.
    pub fn current() -> Result<Self, Error> {
        Self::of_uid(Uid::effective())
    }

    /// Looks a user up by uid.
    pub fn of_uid(uid: Uid) -> Result<Self, Error> {
        users::get_user_by_uid(uid.as_raw()).ok_or(Error::NoEntry(uid)).and_then(|user| Self::of(&user))
    }

    fn of(user: &users::User) -> Result<Self, Error> {
        let name = user.name().to_string_lossy().into_owned();
        let groups =
            users::get_user_groups(&name, user.primary_group_id()).ok_or_else(|| Error::Groups(name.clone()))?;
        Ok(Self {
            uid: Uid::from_raw(user.uid()),
            gid: Gid::from_raw(user.primary_group_id()),
            groups: groups.iter().map(|group| Gid::from_raw(group.gid())).collect(),
            home: user.home_dir().to_owned(),
            shell: user.shell().to_owned(),
            name,
        })
    }

    /// Makes this process run as the account permanently: supplementary groups, then all three group ids, then all three user
    /// ids.
    ///
    /// Does nothing in a process that is not root, which must already run as that user.
    pub fn assume(&self) -> Result<(), Error> {
        let failed = |source| Error::Become { name: self.name.clone(), source };
        let root = Uid::effective().is_root();
        if root {
            setgroups(&self.groups).map_err(failed)?;
            setresgid(self.gid, self.gid, self.gid).map_err(failed)?;
            setresuid(self.uid, self.uid, self.uid).map_err(failed)?;
        }
        let (uids, gids) = (getresuid().map_err(failed)?, getresgid().map_err(failed)?);
        // Without root, the groups may differ from the user database, but grant no more than the user already has.
        let all_mine = [uids.real, uids.effective, uids.saved].iter().all(|&uid| uid == self.uid)
            && (!root || [gids.real, gids.effective, gids.saved].iter().all(|&gid| gid == self.gid));
        if all_mine { Ok(()) } else { Err(failed(nix::Error::EPERM)) }
    }

    /// Whether the login shell refuses logins, as `nologin(8)` and `false(1)` do.
    pub fn refuses_logins(&self) -> bool {
        self.shell.file_name().is_none_or(|name| name == "nologin" || name == "false")
    }

    /// The account with a shell that can be run, and a warning if that is not the account's own.
    pub fn with_a_shell(self) -> (Self, Option<String>) {
        let shell = &self.shell;
        let usable = match shell.metadata() {
            _ if !shell.is_absolute() => Err(io::Error::other("it is not an absolute path")),
            Ok(metadata) if metadata.is_file() => eaccess(shell, AccessFlags::X_OK).map_err(io::Error::from),
            Ok(_) => Err(io::Error::other("it is not a file")),
            Err(error) => Err(error),
        };
        match usable {
            Ok(()) => (self, None),
            Err(error) => {
                let shell = shell.display();
                let warning =
                    format!("the login shell {shell} cannot be run ({error}); {USUAL_SHELL} stands in for it");
                (Self { shell: USUAL_SHELL.into(), ..self }, Some(warning))
            }
        }
    }

    /// The initial environment of every process of the user.
    ///
    /// The `PATH` includes the folders of both NixOS and the Filesystem Hierarchy Standard, for users whose shell sets none.
    pub fn base_environment(&self) -> Vec<(OsString, OsString)> {
        let name = &self.name;
        let path = format!(
            "/run/wrappers/bin:/etc/profiles/per-user/{name}/bin:/run/current-system/sw/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
        );
        vec![
            ("HOME".into(), self.home.clone().into()),
            ("USER".into(), name.into()),
            ("LOGNAME".into(), name.into()),
            ("SHELL".into(), self.shell.clone().into()),
            ("PATH".into(), path.into()),
        ]
    }

    /// The name under which a login shell is started: the shell's own with a leading dash.
    pub fn login_shell_name(&self) -> OsString {
        let mut name = OsString::from("-");
        name.push(self.shell.file_name().unwrap_or(self.shell.as_os_str()));
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_with_its_home_and_groups() {
        let root = Account::find("root").unwrap();
        assert_eq!(root.uid, Uid::from_raw(0));
        assert!(root.groups.contains(&root.gid));
        assert!(root.home.is_absolute());
    }

    #[test]
    fn a_name_that_now_means_another_user_is_an_error() {
        assert!(Account::find_again("root", Uid::from_raw(0)).is_ok());
        let error = Account::find_again("root", Uid::from_raw(54_321)).unwrap_err().to_string();
        assert!(error.contains("54321") && error.contains("uid 0"), "{error}");
    }

    #[test]
    fn an_unknown_user_is_an_error_with_a_remedy() {
        let error = Account::find("no-such-user-here").unwrap_err().to_string();
        assert!(error.contains("no-such-user-here") && error.contains("--user"), "{error}");
    }

    #[test]
    fn a_shell_that_cannot_be_run_is_replaced_with_a_warning() {
        let with = |shell: &str| Account { shell: shell.into(), ..Account::find("root").unwrap() }.with_a_shell();
        let (account, warning) = with("/bin/sh");
        assert_eq!((account.shell.to_str(), warning), (Some("/bin/sh"), None));
        for shell in ["/nonexistent/fish", "/", "/etc/passwd", "sh"] {
            let (account, warning) = with(shell);
            assert_eq!(account.shell.to_str(), Some("/bin/sh"), "{shell}");
            assert!(warning.unwrap().starts_with(&format!("the login shell {shell} cannot be run")));
        }
    }
}
