//! Who may write overrides: root, and the current members of the operators' group; never a user that agents run as.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;

use nix::unistd::{Gid, Uid};
use tokio::sync::watch;

/// Whose files count.
#[derive(Clone, Debug)]
pub enum Operators {
    /// Those of root and of the members of this group, but not those of agent users.
    Group {
        /// The group.
        group: Gid,
        /// The users that agents run as, by their ids.
        agents: watch::Receiver<BTreeSet<u32>>,
    },
    /// Those of this user and of root: the daemon runs without root.
    Own(Uid),
}

impl Operators {
    /// The name of the owner of a file, if the file counts; else why it does not, and what would be right. Blocks.
    pub fn judge(&self, owner: Uid) -> Result<String, String> {
        let user = users::get_user_by_uid(owner.as_raw());
        let name = user.as_ref().map(|user| String::from_utf8_lossy(user.name().as_bytes()).into_owned());
        let shown = name.clone().unwrap_or_else(|| owner.to_string());
        match self {
            _ if owner.is_root() => Ok(shown),
            Self::Own(own) if owner == *own => Ok(shown),
            Self::Own(_) => Err(format!("it belongs to {shown}, and only your own files count")),
            Self::Group { agents, .. } if agents.borrow().contains(&owner.as_raw()) => {
                Err(format!("it belongs to the agent user {shown}, who may not operate agents; remove it"))
            }
            Self::Group { group, .. } => {
                let is_member = user.as_ref().and_then(|user| {
                    let groups = users::get_user_groups(user.name(), user.primary_group_id())?;
                    Some(groups.iter().any(|of| of.gid() == group.as_raw()))
                });
                if is_member == Some(true) {
                    return Ok(shown);
                }
                let group = users::get_group_by_gid(group.as_raw())
                    .map_or_else(|| group.to_string(), |group| group.name().to_string_lossy().into_owned());
                Err(format!("it belongs to {shown}, and only files of root and of members of group {group} count"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agents(uids: &[u32]) -> watch::Receiver<BTreeSet<u32>> {
        watch::channel(uids.iter().copied().collect()).1
    }

    const NOBODY_AT_ALL: u32 = 3_999_999_991;

    #[test]
    fn files_of_root_count_everywhere() {
        let group = Operators::Group { group: Gid::from_raw(NOBODY_AT_ALL), agents: agents(&[1000]) };
        for operators in [group, Operators::Own(Uid::from_raw(1000))] {
            assert_eq!(operators.judge(Uid::from_raw(0)), Ok("root".to_owned()));
        }
    }

    #[test]
    fn files_of_strangers_and_of_the_agent_user_do_not_count() {
        let (agent, stranger) = (Uid::from_raw(NOBODY_AT_ALL - 1), Uid::from_raw(NOBODY_AT_ALL));
        let operators = Operators::Group { group: Gid::from_raw(0), agents: agents(&[7, agent.as_raw()]) };
        assert!(operators.judge(agent).unwrap_err().contains("the agent user 3999999990, who may not operate agents"));
        assert!(operators.judge(Uid::from_raw(7)).unwrap_err().contains("who may not operate agents"));
        let said = operators.judge(stranger).unwrap_err();
        assert!(
            said.contains("it belongs to 3999999991, and only files of root and of members of group root"),
            "{said}"
        );
        assert!(Operators::Own(agent).judge(stranger).unwrap_err().contains("only your own files count"));
        assert!(Operators::Own(stranger).judge(stranger).is_ok());
    }
}
