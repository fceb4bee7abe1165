//! What no sandbox shows, whatever its entry says: the folders of agentd itself, in which other agents' sandboxes are made. Pure.

use std::path::{Path, PathBuf};

use super::mounts::TEMPORARY;
use crate::launch::temporary_dir;

/// What is kept from all agents.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reserved<'a> {
    /// Folders that are nobody's.
    pub hidden: &'a [PathBuf],
    /// The folder in which each attempt gets folders of its own. An engine reads what it is to do there, so who could write to another
    /// attempt's would decide what runs outside of a sandbox.
    pub base: &'a Path,
}

impl Reserved<'_> {
    /// Why no agent may have this path, which has no links.
    pub fn why_not(&self, path: &Path) -> Option<String> {
        if path == Path::new(TEMPORARY) || path == Path::new("/var/tmp") {
            return Some("is the sandbox's own in every sandbox; name what is needed in it".to_owned());
        }
        if self.hidden.iter().any(|hidden| hidden.starts_with(path) || path.starts_with(hidden)) {
            return Some(
                "holds what agentd itself uses; name a folder below it that agentd does not use, or remove it"
                    .to_owned(),
            );
        }
        if self.base.starts_with(path) {
            let base = self.base.display();
            return Some(format!(
                "holds the temporary folders of all agents, which are in {base}; name what is needed beside those"
            ));
        }
        let first = path.strip_prefix(self.base).ok()?.components().next()?;
        temporary_dir::is_named_like_one(first.as_os_str())
            .then(|| "is in a temporary folder of agentd, which ends with its attempt; use another".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/srv/work", None)]
    #[case("/srv/tmp/work", None)]
    #[case("/srv/tmp/agentd-tools", None)]
    #[case("/tmp/work", None)]
    #[case("/srv", Some("holds the temporary folders of all agents, which are in /srv/tmp"))]
    #[case("/srv/tmp", Some("holds the temporary folders of all agents"))]
    #[case("/srv/tmp/agentd-tab3241a6148de9c5a7a4-1XQeVb/home", Some("is in a temporary folder of agentd"))]
    #[case("/srv/tmp/agentd-ab3241a6148de9c5a7a4-1XQeVb", Some("is in a temporary folder of agentd"))]
    #[case("/tmp", Some("is the sandbox's own"))]
    #[case("/var/tmp", Some("is the sandbox's own"))]
    #[case("/homes/other", Some("holds what agentd itself uses"))]
    fn what_is_of_agentd_is_no_agents(#[case] path: &str, #[case] expected: Option<&str>) {
        let reserved = Reserved { hidden: &["/homes".into()], base: Path::new("/srv/tmp") };
        let why = reserved.why_not(Path::new(path));
        assert_eq!(why.is_some(), expected.is_some(), "{why:?}");
        assert!(why.unwrap_or_default().starts_with(expected.unwrap_or_default()));
    }
}
