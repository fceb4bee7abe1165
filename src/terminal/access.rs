//! Who may use the terminal socket.

use std::collections::BTreeSet;

use nix::unistd::{Gid, Uid};
use tokio::sync::watch;

use crate::sys::account::Account;
use crate::sys::blocking;
use crate::sys::unix_socket::Peer;

/// Who may use the socket, besides those whom the mode of the file admits: both must agree.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The user that the daemon runs as.
    pub owner: Uid,
    /// The users that agents run as, by their ids.
    pub agents: watch::Receiver<BTreeSet<u32>>,
    /// The group whose members may, and its name; `None` without root.
    pub group: Option<(Gid, String)>,
}

/// An operator, as the kernel and the user database know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Operator {
    pub uid: Uid,
    pub name: String,
    pub pid: Option<i32>,
}

impl Rule {
    /// The operator at the other end, or why the peer is none. The message is for people.
    pub(super) async fn operator(&self, peer: Peer) -> Result<Operator, String> {
        let Peer { uid, pid } = peer;
        let account = blocking::run(move || Account::of_uid(uid)).await.map_err(|error| error.to_string())?;
        if uid.is_root() || uid == self.owner {
            // A user without an entry is known by its number.
            let name = account.map_or_else(|_| uid.to_string(), |account| account.name);
            return Ok(Operator { uid, name, pid });
        }
        let account = account.map_err(|error| error.to_string())?;
        self.judge(&account)?;
        Ok(Operator { uid, name: account.name, pid })
    }

    /// Whether this user, who is neither root nor the daemon's, may use the socket.
    fn judge(&self, account: &Account) -> Result<(), String> {
        match &self.group {
            _ if self.agents.borrow().contains(&account.uid.as_raw()) => {
                Err("agents must not act as operators".to_owned())
            }
            Some((group, _)) if account.groups.contains(group) => Ok(()),
            Some((_, name)) => Err(format!("{} is not a member of group {name}", account.name)),
            None => Err("only the user that agentd runs as may use this socket".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(uid: u32, groups: &[u32]) -> Account {
        let groups = groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
        let (home, shell) = ("/".into(), "/bin/sh".into());
        Account { name: "name".into(), uid: Uid::from_raw(uid), gid: Gid::from_raw(9), groups, home, shell }
    }

    fn agents(uids: &[u32]) -> watch::Receiver<BTreeSet<u32>> {
        watch::channel(uids.iter().copied().collect()).1
    }

    #[test]
    fn only_members_who_are_not_an_agent_user_may() {
        let group = Some((Gid::from_raw(7), "crew".to_owned()));
        let rule = Rule { owner: Uid::from_raw(0), agents: agents(&[5, 8]), group };
        assert_eq!(rule.judge(&account(6, &[9, 7])), Ok(()));
        assert_eq!(rule.judge(&account(6, &[9])), Err("name is not a member of group crew".to_owned()));
        for agent in [5, 8] {
            assert!(rule.judge(&account(agent, &[9, 7])).is_err(), "an agent user, even as a member");
        }
        let own = Rule { owner: Uid::from_raw(5), agents: agents(&[5]), group: None };
        assert!(own.judge(&account(6, &[7])).is_err());
    }

    #[tokio::test]
    async fn owner_may_always() {
        let rule = Rule { owner: Uid::effective(), agents: agents(&[Uid::effective().as_raw()]), group: None };
        let operator = rule.operator(Peer { pid: Some(9), uid: Uid::effective() }).await.unwrap();
        assert_eq!((operator.uid, operator.pid), (Uid::effective(), Some(9)));
    }
}
