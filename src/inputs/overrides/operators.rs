//! Who may write overrides: root, and the current members of the operators' group; never the agent user.

use std::os::unix::ffi::OsStrExt;

use nix::unistd::{Gid, Uid};

/// Whose files count.
#[derive(Clone, Debug)]
pub enum Operators {
    /// Those of root and of the members of this group, but not those of this agent user.
    Group {
        /// The group.
        group: Gid,
        /// The agent user.
        agent: Uid,
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
            Self::Group { agent, .. } if owner == *agent => {
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

    const NOBODY_AT_ALL: u32 = 3_999_999_991;

    #[test]
    fn files_of_root_count_everywhere() {
        let group = Operators::Group { group: Gid::from_raw(NOBODY_AT_ALL), agent: Uid::from_raw(1000) };
        for operators in [group, Operators::Own(Uid::from_raw(1000))] {
            assert_eq!(operators.judge(Uid::from_raw(0)), Ok("root".to_owned()));
        }
    }

    #[test]
    fn files_of_strangers_and_of_the_agent_user_do_not_count() {
        let (agent, stranger) = (Uid::from_raw(NOBODY_AT_ALL - 1), Uid::from_raw(NOBODY_AT_ALL));
        let operators = Operators::Group { group: Gid::from_raw(0), agent };
        assert!(operators.judge(agent).unwrap_err().contains("the agent user 3999999990, who may not operate agents"));
        let said = operators.judge(stranger).unwrap_err();
        assert!(
            said.contains("it belongs to 3999999991, and only files of root and of members of group root"),
            "{said}"
        );
        assert!(Operators::Own(agent).judge(stranger).unwrap_err().contains("only your own files count"));
        assert!(Operators::Own(stranger).judge(stranger).is_ok());
    }
}
