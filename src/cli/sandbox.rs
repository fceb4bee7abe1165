//! Whether sandboxes can be made on this machine, found out by a real one.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::agent::sandbox::{Engine, Sandbox};
use crate::config::Entry;
use crate::deputy::{Deputy, Output};
use crate::sys::procfs;

/// The check of `agentd doctor`.
pub(super) const NAME: &str = "sandbox";

/// How long a try may take, with the login before it.
pub(super) const PATIENCE: Duration = Duration::from_secs(40);

/// The hidden command of the launcher that makes a sandbox.
const TRY: &str = "try";

/// What makes a sandbox: an engine, by name so that it can be sorted, and its program if that is named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Chosen {
    engine: &'static str,
    program: Option<PathBuf>,
}

impl Chosen {
    pub(super) fn of(Sandbox { engine, program, .. }: &Sandbox) -> Self {
        Self { engine: engine.name(), program: program.clone() }
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.program {
            Some(program) => write!(f, "{} ({})", self.engine, program.display()),
            None => f.write_str(self.engine),
        }
    }
}

/// The engines that entries ask for, with the agents that do.
pub(super) fn engines<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> BTreeMap<Chosen, Vec<&'a str>> {
    let mut engines: BTreeMap<Chosen, Vec<&str>> = BTreeMap::new();
    for entry in entries {
        if let Some(sandbox) = entry.spec.as_ref().ok().and_then(|spec| spec.kind.sandbox()) {
            engines.entry(Chosen::of(sandbox)).or_default().push(entry.name.as_str());
        }
    }
    engines
}

/// What came of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Works,
    Fails {
        why: String,
        /// What to do.
        remedy: String,
    },
    /// It could not be tried.
    Unknown(String),
}

/// Makes a sandbox as the agent user.
pub(super) async fn attempt(deputy: &Deputy, launcher: &Path, chosen: &Chosen) -> Attempt {
    let program = chosen.program.iter().map(|program| program.display().to_string());
    let arguments = [TRY, chosen.engine].map(str::to_owned).into_iter().chain(program).collect();
    match deputy.run_in_login(launcher.to_owned(), arguments, PATIENCE).await {
        Ok(Ok(Output { success: true, .. })) => Attempt::Works,
        Ok(Ok(Output { stderr, .. })) => {
            let why = said(&stderr).unwrap_or_else(|| format!("{chosen} makes no sandbox, and says nothing"));
            Attempt::Fails { why, remedy: remedy(chosen, Forbids::here()) }
        }
        Ok(Err(error)) => Attempt::Unknown(error.to_string()),
        Err(error) => Attempt::Unknown(error.to_string()),
    }
}

/// The launcher's message: before it, the login may have said something.
pub(super) fn said(stderr: &str) -> Option<String> {
    let last = stderr.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    Some(last.strip_prefix("agentd: ").unwrap_or(last).to_owned())
}

/// What of the kernel's settings keeps ordinary users from making user namespaces, which all engines need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forbids {
    Nothing,
    /// `user.max_user_namespaces` is 0.
    Number,
    /// `kernel.unprivileged_userns_clone` is 0.
    Clone,
    /// `kernel.apparmor_restrict_unprivileged_userns` is 1.
    AppArmor,
}

impl Forbids {
    fn here() -> Self {
        let setting = |path: &str| {
            let text = procfs::read(format!("/proc/sys/{path}")).ok()?;
            str::from_utf8(&text).ok()?.trim().parse().ok()
        };
        Self::by(
            setting("user/max_user_namespaces"),
            setting("kernel/unprivileged_userns_clone"),
            setting("kernel/apparmor_restrict_unprivileged_userns"),
        )
    }

    /// By the settings, as far as the kernel has them.
    fn by(number: Option<u64>, clone: Option<u64>, apparmor: Option<u64>) -> Self {
        match (number, clone, apparmor) {
            (Some(0), ..) => Self::Number,
            (_, Some(0), _) => Self::Clone,
            (.., Some(1..)) => Self::AppArmor,
            _ => Self::Nothing,
        }
    }
}

fn remedy(Chosen { engine, program }: &Chosen, forbids: Forbids) -> String {
    match forbids {
        Forbids::Number => {
            "user.max_user_namespaces is 0; allow user namespaces: sysctl -w user.max_user_namespaces=15000".to_owned()
        }
        Forbids::Clone => {
            "kernel.unprivileged_userns_clone is 0; allow user namespaces: sysctl -w kernel.unprivileged_userns_clone=1"
                .to_owned()
        }
        Forbids::AppArmor => format!(
            "kernel.apparmor_restrict_unprivileged_userns is 1; load an AppArmor profile that allows user namespaces for \
             {engine} (rule `userns,`), or allow them for all programs: sysctl -w \
             kernel.apparmor_restrict_unprivileged_userns=0"
        ),
        Forbids::Nothing => {
            let others: Vec<&str> = Engine::ALL.map(Engine::name).into_iter().filter(|other| other != engine).collect();
            let flag = if program.is_some() { ", correct --runsc-path" } else { "" };
            format!(
                "install {engine} where the login shell of the agent user finds it{flag}, or write another `sandbox` ({}) or \
                 `type = \"native\"`",
                others.join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::config::{self, Options};

    fn chosen(engine: Engine) -> Chosen {
        Chosen { engine: engine.name(), program: None }
    }

    #[rstest]
    #[case(Some(0), Some(0), Some(1), "user.max_user_namespaces=15000")]
    #[case(Some(9), Some(0), Some(1), "kernel.unprivileged_userns_clone=1")]
    #[case(Some(9), None, Some(1), "kernel.apparmor_restrict_unprivileged_userns=0")]
    #[case(Some(9), Some(1), Some(0), "install bwrap where the login shell")]
    #[case(None, None, None, "write another `sandbox` (runsc, crun)")]
    fn a_remedy_names_the_setting_to_change(
        #[case] number: Option<u64>,
        #[case] clone: Option<u64>,
        #[case] apparmor: Option<u64>,
        #[case] expected: &str,
    ) {
        let remedy = remedy(&chosen(Engine::Bwrap), Forbids::by(number, clone, apparmor));
        assert!(remedy.contains(expected), "{remedy}");
    }

    #[test]
    fn the_last_line_says_why() {
        assert_eq!(said("motd\nagentd: bwrap is missing\n\n").as_deref(), Some("bwrap is missing"));
        assert_eq!(said(" \n"), None);
    }

    #[test]
    fn each_engine_that_an_entry_asks_for_is_tried_once() {
        let entry = |name: &str, sandbox: &str| {
            format!("[[agents]]\nname = {name:?}\nharness = \"custom\"\nsandbox = {sandbox:?}\n")
        };
        let text = [entry("a", "crun"), entry("b", "none"), entry("c", "runsc"), entry("d", "crun")].concat();
        let options = Options { runsc: Some("/opt/runsc".into()), ..Options::default() };
        let config = config::parse(text.as_bytes(), &options).unwrap();
        let found: Vec<String> = engines(&config.entries)
            .into_iter()
            .map(|(chosen, agents)| format!("{chosen}: {}", agents.join(" ")))
            .collect();
        assert_eq!(found, ["crun: a d", "runsc (/opt/runsc): c"]);
    }
}
