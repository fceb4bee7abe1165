//! Looks whether this machine has what agents need: programs, workdirs, prompt files and secrets.
//!
//! As root, workdirs and prompt files are examined by a [deputy](crate::deputy) with the rights of the agent user, and root itself
//! follows no path that another user can redirect. Any other user looks with their own rights. What could not be looked at is
//! said, and is not taken to be missing.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::readlinkat;
use nix::sys::stat::SFlag;
use nix::unistd::{AccessFlags, Uid, eaccess};

use super::{Found, Level};
use crate::agent::seen::{SeenPrompt, SeenRepository, SeenWorkdir};
use crate::agent::spec::{AgentSpec, Prompt, Workdir};
use crate::agent::user::UserName;
use crate::cli::output;
use crate::cli::sandbox::{self, Attempt, Chosen};
use crate::cli::target::Target;
use crate::config::Entry;
use crate::deputy::Deputy;
use crate::inputs::users::{self, Rules, Standing};
use crate::sys::account::Account;
use crate::sys::safe_path;

/// Who looks, and where.
pub(super) struct Looker {
    /// The default user, or why there is none.
    account: Result<Account, String>,
    /// Who else may be an agent user.
    rules: Rules,
    secret_dir: PathBuf,
    /// What makes sandboxes, or why there is nothing.
    launcher: Result<PathBuf, String>,
    user: Uid,
    /// Where this user's shell looks for programs.
    path: std::ffi::OsString,
}

/// What was found at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Good,
    /// It does not serve, for this reason.
    Bad(String),
    /// It could not be looked at, for this reason.
    Unknown(String),
}

/// What agents need, with the names of those that need it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Program(String),
    Workdir(PathBuf),
    /// Git that works in the repository around this workdir.
    Git(PathBuf),
    /// A prompt file, which is guarded if it is for a sandboxed agent.
    PromptFile {
        path: PathBuf,
        guarded: bool,
    },
    Secret(String),
    Sandbox(Chosen),
}

impl Looker {
    /// Looks with the files and the agent user of the daemon that runs or could run.
    pub(super) fn new(target: &Target) -> Self {
        let account = target.account.as_ref().map(Account::clone).map_err(ToString::to_string);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let (secret_dir, rules) = (target.settings.secret_dir.clone(), target.rules());
        let launcher = target.launcher().map_err(|error| error.to_string());
        Self { account, rules, secret_dir, launcher, user: target.user_id, path }
    }

    /// A finding for everything that is missing or that could not be looked at. Relative prompt files are in `folder`.
    pub(super) fn look(&self, entries: &[Entry], folder: &Path) -> Vec<Found> {
        let default = match &self.account {
            Ok(account) => account,
            Err(error) => return vec![found(Level::Note, format!("could not look at this machine: {error}"))],
        };
        let mut of_users: BTreeMap<Option<&UserName>, Vec<&Entry>> = BTreeMap::new();
        for entry in entries {
            let user = entry.spec.as_ref().ok().and_then(|spec| spec.user.as_ref());
            of_users.entry(user.filter(|user| !users::is_default(user, default))).or_default().push(entry);
        }
        let mut all = Vec::new();
        for (user, entries) in of_users {
            match user {
                None => all.extend(self.look_as(default, &entries, folder)),
                Some(user) => all.extend(self.look_as_other(user, &entries, folder)),
            }
        }
        all
    }

    /// The findings about entries that name a user who is not the default one.
    fn look_as_other(&self, user: &UserName, entries: &[&Entry], folder: &Path) -> Vec<Found> {
        let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        let who = who(&names);
        match users::judge_now(&[user.clone()].into(), &self.rules).remove(user) {
            Some(Standing::Fit { account, dangers }) => {
                let danger = users::warning(user, &dangers).map(|warning| found(Level::Warning, warning));
                let all = danger.into_iter().chain(self.look_at_home(user, &account, &who));
                all.chain(self.look_as(&account, entries, folder)).collect()
            }
            Some(Standing::Unfit(error)) => {
                vec![found(Level::Error, format!("{who}: the `user` of the entry: {error}"))]
            }
            Some(Standing::Missing(problem)) => {
                vec![found(Level::Note, format!("{who}: the user {user} {problem}"))]
            }
            None => Vec::new(),
        }
    }

    /// Whether the user of these agents has a home.
    fn look_at_home(&self, user: &UserName, account: &Account, who: &str) -> Option<Found> {
        let home = account.home.clone();
        let seen = output::block_on(0, async {
            let deputy = self.may_become(account).then(|| Deputy::new(account, || {}));
            self.see(&Need::Workdir(home), account, deputy.as_ref()).await
        });
        let what = format!("the home {} of {user}", account.home.display());
        match seen.ok()? {
            Seen::Good => None,
            Seen::Bad(problem) => {
                Some(found(Level::Warning, format!("{who}: {what} {problem}; make it (mkhomedir_helper {user})")))
            }
            Seen::Unknown(why) => Some(found(Level::Note, format!("{who}: could not look at {what}: {why}"))),
        }
    }

    /// A finding for everything that is missing or that could not be looked at of what these agents of a user need.
    fn look_as(&self, account: &Account, entries: &[&Entry], folder: &Path) -> Vec<Found> {
        let mut needs: BTreeMap<Need, Vec<&str>> = BTreeMap::new();
        for entry in entries {
            for need in entry.spec.iter().flat_map(|spec| needs_of(spec, account, folder)) {
                needs.entry(need).or_default().push(entry.name.as_str());
            }
        }
        let looked = output::block_on(0, async {
            let deputy = self.may_become(account).then(|| Deputy::new(account, || {}));
            let mut seen = Vec::new();
            for need in needs.keys() {
                seen.push(self.see(need, account, deputy.as_ref()).await);
            }
            seen
        });
        let Ok(looked) = looked else {
            return vec![found(Level::Note, "could not look at this machine: there is no event loop".to_owned())];
        };
        let judged = needs.iter().zip(looked);
        judged.filter_map(|((need, agents), seen)| judge(need, agents, &seen, account)).collect()
    }

    fn may_become(&self, account: &Account) -> bool {
        self.user.is_root() || self.user == account.uid
    }

    async fn see(&self, need: &Need, account: &Account, deputy: Option<&Deputy>) -> Seen {
        match (need, deputy) {
            (Need::Workdir(path), Some(deputy)) => match deputy.workdir(path.clone()).await {
                Ok(SeenWorkdir::Usable) => Seen::Good,
                Ok(SeenWorkdir::Unusable(problem)) => Seen::Bad(problem.to_string()),
                Err(error) => Seen::Unknown(error.to_string()),
            },
            (Need::Git(path), Some(deputy)) => match deputy.repository(path.clone()).await {
                Ok(SeenRepository::Usable) => Seen::Good,
                Ok(SeenRepository::Distrusted(why)) => Seen::Bad(format!("refuses to work there: {why}")),
                Err(error) => Seen::Unknown(error.to_string()),
            },
            // Only the agent user's own git counts.
            (Need::Git(_), None) => Seen::Good,
            (Need::PromptFile { path, guarded }, Some(deputy)) => match deputy.prompt(path.clone(), *guarded).await {
                Ok(SeenPrompt::Text(text)) if text.as_slice().is_empty() => Seen::Bad("is empty".to_owned()),
                Ok(SeenPrompt::Text(_)) => Seen::Good,
                Ok(SeenPrompt::Unusable(problem)) => Seen::Bad(problem.to_string()),
                Ok(SeenPrompt::Refused(why)) => Seen::Bad(format!("cannot be a prompt: {why}")),
                Err(error) => Seen::Unknown(error.to_string()),
            },
            (Need::Workdir(path), None) => {
                with_own_rights(path, fs::Metadata::is_dir, "is not a directory", AccessFlags::X_OK)
            }
            (Need::PromptFile { path, .. }, None) => {
                with_own_rights(path, fs::Metadata::is_file, "is not a file", AccessFlags::R_OK)
            }
            (Need::Program(program), _) => self.program(program, account),
            (Need::Sandbox(chosen), deputy) => self.sandbox(chosen, account, deputy).await,
            (Need::Secret(name), _) => match fs::symlink_metadata(self.secret_dir.join(name)) {
                Ok(_) => Seen::Good,
                Err(error) => absent_or_unknown(&error),
            },
        }
    }

    async fn sandbox(&self, chosen: &Chosen, account: &Account, deputy: Option<&Deputy>) -> Seen {
        let (deputy, launcher) = match (deputy, &self.launcher) {
            (Some(deputy), Ok(launcher)) => (deputy, launcher),
            (None, _) => return Seen::Unknown(format!("only {} and root can try it", account.name)),
            (_, Err(error)) => return Seen::Unknown(error.clone()),
        };
        match sandbox::attempt(deputy, launcher, chosen).await {
            Attempt::Works => Seen::Good,
            Attempt::Fails { why, remedy } => Seen::Bad(format!("cannot be made: {why}; {remedy}")),
            Attempt::Unknown(why) => Seen::Unknown(why),
        }
    }

    fn program(&self, program: &str, account: &Account) -> Seen {
        if program.starts_with('/') {
            return if self.user.is_root() {
                as_root(Path::new(program))
            } else {
                with_own_rights(Path::new(program), fs::Metadata::is_file, "is not a file", AccessFlags::X_OK)
            };
        }
        if program.contains('/') {
            return Seen::Unknown("its path is relative to the workdir".to_owned());
        }
        if self.user != account.uid {
            let name = &account.name;
            return Seen::Unknown(format!(
                "agents look for it in the PATH of the login shell of {name}; run this as {name}"
            ));
        }
        let is_there = |folder: PathBuf| {
            let file = folder.join(program);
            file.is_file() && eaccess(&file, AccessFlags::X_OK).is_ok()
        };
        if std::env::split_paths(&self.path).any(is_there) {
            Seen::Good
        } else {
            Seen::Bad("is not in the PATH of this shell".to_owned())
        }
    }
}

/// Everything that an agent needs of the machine.
fn needs_of(spec: &AgentSpec, account: &Account, folder: &Path) -> Vec<Need> {
    let workdir = match &spec.workdir {
        Workdir::Absolute(path) => path.clone(),
        Workdir::Home(rest) => account.home.join(rest),
    };
    let git = (!spec.trust_repository).then(|| Need::Git(workdir.clone()));
    let mut needs: Vec<Need> = [Need::Workdir(workdir)].into_iter().chain(git).collect();
    needs.extend(spec.command.first().map(|program| {
        let below_home = program.strip_prefix("~/").map(|rest| account.home.join(rest.trim_start_matches('/')));
        Need::Program(below_home.map_or_else(|| program.clone(), |path| path.display().to_string()))
    }));
    if let Some(Prompt::File(path)) = &spec.prompt {
        let path = folder.join(path);
        let path = std::path::absolute(&path).unwrap_or(path);
        needs.push(Need::PromptFile { path, guarded: spec.kind.sandbox().is_some() });
    }
    needs.extend(spec.kind.sandbox().map(|sandbox| Need::Sandbox(Chosen::of(sandbox))));
    needs.extend(spec.secrets.iter().flat_map(BTreeMap::values).cloned().map(Need::Secret));
    needs
}

/// The agents that a finding is about.
fn who(agents: &[&str]) -> String {
    match agents {
        [agent] => (*agent).to_owned(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
        [] => String::new(),
    }
}

fn judge(need: &Need, agents: &[&str], seen: &Seen, account: &Account) -> Option<Found> {
    let who = who(agents);
    let (what, right) = match need {
        Need::Program(program) => {
            let right = format!("install it for {}, or write its absolute path as `command`", account.name);
            (format!("the program {program}"), right)
        }
        Need::Workdir(path) => {
            (format!("the workdir {}", path.display()), format!("make it, so that {} can enter it", account.name))
        }
        Need::Git(path) => (
            format!("git in the workdir {}", path.display()),
            format!(
                "write `trust_repository = true` if {} is to trust what git runs there, unless its git has `safe.directory`",
                account.name
            ),
        ),
        Need::PromptFile { path, .. } => {
            (format!("the prompt_file {}", path.display()), format!("write it, so that {} can read it", account.name))
        }
        Need::Sandbox(chosen) => (format!("the sandbox of {chosen}"), String::new()),
        Need::Secret(name) => {
            (format!("the secret {name}"), "put it into the secrets directory, or edit `secrets`".to_owned())
        }
    };
    match seen {
        Seen::Good => None,
        Seen::Bad(problem) => {
            let right = if right.is_empty() { right } else { format!("; {right}") };
            Some(found(Level::Warning, format!("{who}: {what} {problem}{right}")))
        }
        Seen::Unknown(why) => Some(found(Level::Note, format!("{who}: could not look at {what}: {why}"))),
    }
}

fn found(severity: Level, message: String) -> Found {
    Found { severity, position: None, message }
}

fn absent_or_unknown(error: &io::Error) -> Seen {
    match error.kind() {
        io::ErrorKind::NotFound => Seen::Bad("does not exist".to_owned()),
        io::ErrorKind::NotADirectory => Seen::Bad("is below something that is not a directory".to_owned()),
        _ => Seen::Unknown(error.to_string()),
    }
}

/// What this user, who is not root, sees. Not being allowed to use it says nothing about the agent user.
fn with_own_rights(path: &Path, is_right: fn(&fs::Metadata) -> bool, wrong: &str, access: AccessFlags) -> Seen {
    match fs::metadata(path) {
        Ok(metadata) if !is_right(&metadata) => Seen::Bad(wrong.to_owned()),
        Ok(_) => match eaccess(path, access) {
            Ok(()) => Seen::Good,
            Err(error) => Seen::Unknown(io::Error::from(error).to_string()),
        },
        Err(error) => absent_or_unknown(&error),
    }
}

/// How many links root follows to a program.
const MOST_LINKS: usize = 8;

/// What root sees without following what another user could have put there.
fn as_root(program: &Path) -> Seen {
    let mut path = program.to_owned();
    for _ in 0..MOST_LINKS {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let folder = match safe_path::open_dir(parent, None) {
            Ok(folder) => folder,
            Err(error) => return absent_or_unknown(&io::Error::from(error)),
        };
        let name = path.file_name().unwrap_or_default();
        let look = match safe_path::look(&folder, name) {
            Ok(look) => look,
            Err(error) => return absent_or_unknown(&error),
        };
        let kind = SFlag::from_bits_truncate(look.mode & SFlag::S_IFMT.bits());
        if kind == SFlag::S_IFREG {
            let is_executable = look.mode & 0o111 != 0;
            return if is_executable { Seen::Good } else { Seen::Bad("is not executable".to_owned()) };
        }
        if kind != SFlag::S_IFLNK {
            return Seen::Bad("is not a file".to_owned());
        }
        if look.owner != 0 {
            return Seen::Unknown("another user's link leads to it".to_owned());
        }
        match readlinkat(&folder, name) {
            Ok(target) => path = parent.join(target),
            Err(error) => return absent_or_unknown(&error.into()),
        }
    }
    Seen::Unknown("too many links lead to it".to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::config::{self, Options};

    /// What somebody who is not the agent user sees of an entry with these lines, and of files in a folder.
    fn seen(folder: &Path, lines: &str) -> Vec<(Level, String)> {
        let text = format!("[agent]\nharness = \"custom\"\n{lines}\n");
        let config = config::parse(text.as_bytes(), &Options::default()).unwrap();
        let own = Account::current().unwrap();
        let other = Uid::from_raw(own.uid.as_raw() + 1);
        let account = Account { uid: other, name: "agent".to_owned(), home: folder.to_owned(), ..own.clone() };
        let looker = Looker {
            account: Ok(account),
            rules: Rules::Nobody { own: "agent".to_owned() },
            secret_dir: folder.join("secrets"),
            launcher: Err("there is no launcher".to_owned()),
            user: Uid::from_raw(own.uid.as_raw() + 2),
            path: folder.join("bin").into(),
        };
        let found = looker.look(&config.entries, folder);
        let shown = |text: String| text.replace(&*folder.to_string_lossy(), "");
        found.into_iter().map(|Found { severity, message, .. }| (severity, shown(message))).collect()
    }

    #[test]
    fn everything_that_is_missing_is_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let lines = "command = \"/nowhere/program\"\nworkdir = \"~/work\"\nprompt_file = \"p.md\"\nsecrets = [\"KEY\"]";
        let expected = [
            "custom: the program /nowhere/program does not exist; install it for agent, or write its absolute path as `command`",
            "custom: the workdir /work does not exist; make it, so that agent can enter it",
            "custom: the prompt_file /p.md does not exist; write it, so that agent can read it",
            "custom: the secret KEY does not exist; put it into the secrets directory, or edit `secrets`",
        ];
        assert_eq!(seen(folder.path(), lines), expected.map(|text| (Level::Warning, text.to_owned())));
        fs::create_dir_all(folder.path().join("work")).unwrap();
        fs::create_dir_all(folder.path().join("secrets")).unwrap();
        fs::write(folder.path().join("secrets/KEY"), "x").unwrap();
        fs::write(folder.path().join("p.md"), "x").unwrap();
        assert_eq!(seen(folder.path(), &lines.replace("/nowhere/program", "/bin/sh")), []);
    }

    #[test]
    fn a_program_without_a_path_is_for_the_agent_user_to_find() {
        let folder = tempfile::tempdir().unwrap();
        let found = seen(folder.path(), "command = \"my-agent\"\nworkdir = \"/\"");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, Level::Note);
        assert!(found[0].1.starts_with("custom: could not look at the program my-agent: agents look"), "{found:?}");
    }

    #[test]
    fn several_agents_with_one_need_are_one_finding() {
        let folder = tempfile::tempdir().unwrap();
        let found = seen(folder.path(), "command = \"/bin/sh\"\nworkdir = \"/nowhere\"\nreplicas = 3");
        assert_eq!(found.len(), 1);
        assert!(found[0].1.starts_with("custom-0 and 2 more: the workdir /nowhere does not exist"), "{found:?}");
    }

    #[test]
    fn root_follows_only_links_of_root_to_a_program() {
        if !Uid::effective().is_root() {
            return;
        }
        let folder = tempfile::tempdir_in("/root").unwrap();
        let program = folder.path().join("program");
        fs::write(&program, "").unwrap();
        assert_eq!(as_root(&program), Seen::Bad("is not executable".to_owned()));
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let link = folder.path().join("link");
        symlink("program", &link).unwrap();
        assert_eq!(as_root(&link), Seen::Good);
        std::os::unix::fs::lchown(&link, Some(12345), None).unwrap();
        assert_eq!(as_root(&link), Seen::Unknown("another user's link leads to it".to_owned()));
        assert_eq!(as_root(folder.path()), Seen::Bad("is not a file".to_owned()));
    }
}
