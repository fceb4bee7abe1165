//! Reads the jcard, secrets, prompts and working directories whenever they may have changed, and publishes the desired state.
//!
//! Changes are noticed by inotify, or by reading again every `resync` where the file system sends no events (9p, virtiofs). They take
//! effect after they have been quiet for `settle`, at most ten times that after the first. A path that cannot be read is not taken for
//! empty: its last good reading stays in use.

pub mod answers;
pub mod assemble;
pub mod comparison;
pub mod overrides;
pub mod secrets;
pub mod skills;
pub mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use zeroize::Zeroizing;

use crate::agent::declaration::{Desired, Reading};
use crate::agent::seen::{Seen, SeenPrompt};
use crate::agent::user::{AgentUser, UserName};
use crate::config::{self, Config};
use crate::deputy::{self, Deputy};
use crate::inputs::assemble::{DeclarationContext, Paths, desired, folder_of, located, paths, users_to_judge};
use crate::inputs::overrides::Release;
use crate::inputs::secrets::{Known, Named};
use crate::inputs::skills::Skills;
use crate::inputs::users::{Database, Entry, Rules, Standing, Standings, View, Views};
use crate::state;
use crate::state::overrides::Kept;
use crate::sys::account::Account;
use crate::sys::blocking::{self, OneAtATime};
use crate::sys::regular_file;
use crate::sys::watch::{Target, Watcher};
use crate::text::glob;
use crate::wire::reason::WaitingFor;

/// How long the user database may take to answer before what is known of users stays in use.
pub(crate) const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(2);

/// How many times `settle` a change may be postponed because others follow it.
const MOST_SETTLES: u32 = 10;

/// Where the inputs are, and how to read them.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The jcard, and the account and key that its declarations are assembled with.
    pub place: DeclarationContext,
    /// The secrets directory.
    pub secret_dir: PathBuf,
    /// The overrides directory, and who may write to it.
    pub overrides: overrides::Place,
    /// Where the overrides in force are kept for the next daemon.
    pub state_dir: PathBuf,
    /// Options for reading the jcard.
    pub options: config::Options,
    /// Who may be an agent user beside the default one.
    pub rules: Rules,
    /// Tells who the users are that entries name.
    pub database: Database,
    /// Reads what belongs to the default user.
    pub deputy: Deputy,
    /// Those of other users.
    pub deputies: Arc<dyn Deputies>,
    /// How long changes must be quiet before they take effect.
    pub settle: Duration,
    /// How often to read everything without an announcement.
    pub resync: Duration,
    /// Notified at each resync, so that this is the only periodic clock.
    pub rounds: watch::Sender<()>,
}

/// The outcome of reading the inputs.
#[derive(Debug)]
pub enum News {
    /// The desired state has changed.
    Desired(Desired),
    /// An operator ends a hold.
    Release(Release),
    /// The files or folders where users log in have changed, of this user; `None` is the default one.
    Login(Option<UserName>),
    /// Everything was read: for the first time, or on request.
    Read,
}

/// A reason to read again that does not come from the file system here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nudge {
    /// The deputy noticed a change.
    Changed,
    /// A user requests it now (SIGHUP).
    Now,
}

enum Trigger {
    Changed,
    Asked,
    /// The last reading was incomplete.
    Again,
    Resync,
    End,
}

/// The last reading and its results.
#[derive(Default)]
struct Last {
    text: Option<Zeroizing<Vec<u8>>>,
    /// When the text was last read successfully.
    text_read: Option<SystemTime>,
    /// The reading that `config` is of.
    reading: Option<Reading>,
    config: Option<Config>,
    /// The error in the file as a whole.
    file_error: Option<String>,
    secrets: Known,
    /// Which files are secrets because `config` names them.
    named: Named,
    overrides: overrides::Known,
    /// What the next daemon would find of them; `None` if that is not known.
    kept: Option<Kept>,
    /// Why that is not what it should be.
    keep_error: Option<String>,
    onlookers: Onlookers,
    views: Views,
    /// How many entries seemed to expect a sandbox when that was last logged.
    unsandboxed: usize,
    desired: Option<Desired>,
}

/// The users who look at the paths that `config` names.
#[derive(Default)]
struct Onlookers {
    /// Those that it names beside the default one, or that it named before.
    named: BTreeSet<UserName>,
    standings: Standings,
    /// The question to the user database, which may be a server that does not answer.
    look_up: OneAtATime<BTreeMap<UserName, Entry>>,
    /// Whether it has not answered the last time.
    is_unanswered: bool,
    /// The paths, by the user who looks at them.
    paths: BTreeMap<Option<UserName>, Paths>,
    /// The deputies of other users that watch paths.
    watching: BTreeMap<UserName, Deputy>,
    told: BTreeMap<Option<UserName>, Told>,
}

/// The last known content of each prompt file, and since when it has been empty.
#[derive(Default)]
struct Told(BTreeMap<PathBuf, (SeenPrompt, Option<Instant>)>);

impl Told {
    /// Keeps the content of a prompt file that was emptied, until a second look after `patience` finds it still empty.
    ///
    /// It may be in the middle of a write, or on a full disk.
    fn keep_emptied(&mut self, seen: &mut BTreeMap<PathBuf, SeenPrompt>, now: Instant, patience: Duration) {
        self.0.retain(|path, _| seen.contains_key(path));
        for (path, prompt) in seen {
            match prompt {
                SeenPrompt::Text(text) if text.as_slice().is_empty() => {
                    let Some((before, since)) = self.0.get_mut(path) else { continue };
                    match *since {
                        Some(since) if now.saturating_duration_since(since) >= patience => drop(self.0.remove(path)),
                        known => {
                            if known.is_none() {
                                tracing::warn!(
                                    "{} was emptied; what it said stays in use until another look finds the same",
                                    path.display()
                                );
                            }
                            *since = known.or(Some(now));
                            *prompt = before.clone();
                        }
                    }
                }
                SeenPrompt::Text(_) => drop(self.0.insert(path.clone(), (prompt.clone(), None))),
                SeenPrompt::Refused(_) | SeenPrompt::Unusable(_) => {}
            }
        }
    }
}

struct Files {
    jcard: Result<Jcard, String>,
    secrets: Known,
    overrides: overrides::Known,
    releases: Vec<Release>,
    changed: Option<SystemTime>,
}

/// The jcard as it was read.
struct Jcard {
    text: Zeroizing<Vec<u8>>,
    modified: SystemTime,
}

impl Inputs {
    /// Reports the desired state, at first and whenever it changes, until `nudges` closes.
    pub async fn follow(self, mut nudges: mpsc::Receiver<Nudge>, say: impl Fn(News)) -> io::Result<()> {
        let mut watcher = Watcher::open();
        let mut last = self.last().await;
        let mut resync = interval_at(Instant::now() + self.resync, self.resync);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);

        let mut files = self.read(&mut watcher, &last).await;
        if files.changed.is_some_and(|changed| changed.elapsed().is_ok_and(|age| age < self.settle)) {
            self.settle(&watcher, &mut nudges).await;
            files = self.read(&mut watcher, &last).await;
        }
        let mut done = self.act(files, &mut last, &say).await;
        say(News::Read);
        loop {
            let retry = tokio::time::sleep(Duration::from_secs(1));
            // Each arm only waits, and its event is checked again afterwards, so a canceled arm loses nothing.
            let trigger = tokio::select! {
                changed = watcher.changed() => { changed?; Trigger::Changed }
                nudge = nudges.recv() => match nudge {
                    Some(Nudge::Changed) => Trigger::Changed,
                    Some(Nudge::Now) => Trigger::Asked,
                    None => Trigger::End,
                },
                _ = resync.tick() => {
                    self.rounds.send_replace(());
                    Trigger::Resync
                }
                () = retry, if !done => Trigger::Again,
            };
            let mut is_asked = matches!(trigger, Trigger::Asked);
            let mut files = match trigger {
                Trigger::End => return Ok(()),
                Trigger::Asked | Trigger::Again | Trigger::Resync => self.read(&mut watcher, &last).await,
                Trigger::Changed => {
                    is_asked = self.settle(&watcher, &mut nudges).await;
                    self.read(&mut watcher, &last).await
                }
            };
            if matches!(trigger, Trigger::Resync) && is_news(&files, &last) {
                is_asked = self.settle(&watcher, &mut nudges).await;
                files = self.read(&mut watcher, &last).await;
            }
            done = self.act(files, &mut last, &say).await;
            if is_asked {
                say(News::Read);
            }
        }
    }

    /// Waits until nothing has changed for a while, but not forever. Returns whether a user asked not to wait.
    async fn settle(&self, watcher: &Watcher, nudges: &mut mpsc::Receiver<Nudge>) -> bool {
        let limit = Instant::now() + self.settle * MOST_SETTLES;
        loop {
            let quiet = self.settle.min(limit.saturating_duration_since(Instant::now()));
            if quiet.is_zero() {
                return false;
            }
            let change = async {
                tokio::select! {
                    changed = watcher.changed() => changed.ok().map(|()| Nudge::Changed),
                    nudge = nudges.recv() => nudge,
                }
            };
            match timeout(quiet, change).await {
                Ok(Some(Nudge::Changed)) => {}
                Ok(Some(Nudge::Now)) => return true,
                Ok(None) | Err(_) => return false,
            }
        }
    }

    /// Reads the files that root reads. Watches them first, so that no change is missed in between.
    async fn read(&self, watcher: &mut Watcher, last: &Last) -> Files {
        // What is in the directory is watched in any case; these are for where links lead.
        let named = last.named.files().map(|file| Target::Path(self.secret_dir.join(file)));
        let targets = named.chain([
            Target::Path(self.place.file.clone()),
            Target::Contents(self.secret_dir.clone()),
            Target::Entries(self.overrides.directory.clone()),
        ]);
        let targets = targets.collect();
        watcher.set(targets).await;
        let (config, secret_dir, known) = (self.place.file.clone(), self.secret_dir.clone(), last.secrets.clone());
        let named = last.named.clone();
        let (place, overrides) = (self.overrides.clone(), last.overrides.clone());
        let (now, patience) = (Instant::now().into_std(), self.resync);
        let work = move || {
            let reading = secrets::read(&secret_dir, &named, &known.secrets);
            let (jcard, changed) = read_config(&config);
            let changed = changed.max(reading.changed);
            let mut orders = overrides::read(&place, overrides.may_make());
            let releases = std::mem::take(&mut orders.releases);
            let overrides = overrides.after(orders, &place.directory, now, patience);
            Files { jcard, changed, secrets: known.after(reading, &secret_dir, now, patience), overrides, releases }
        };
        match blocking::run(work).await {
            Ok(files) => files,
            // No thread was available; what is known stays in use.
            Err(error) => Files {
                jcard: Err(format!("failed to read the inputs: {error}")),
                secrets: last.secrets.clone(),
                overrides: last.overrides.clone(),
                releases: Vec::new(),
                changed: None,
            },
        }
    }

    /// Acts on a reading. Returns whether it was complete.
    ///
    /// If nothing has changed, this costs no more than that comparison: nothing per agent.
    async fn act(&self, files: Files, last: &mut Last, say: &impl Fn(News)) -> bool {
        let before = last.reading;
        let is_edited = last.take_config(files.jcard, &self.place.file, &self.options).await;
        let secrets = if is_edited { self.named_secrets(files.secrets, last).await } else { files.secrets };
        let secrets_error = secrets.error.clone();
        let mut is_news = last.desired.as_ref().is_none_or(|before| before.secrets_error != secrets_error)
            || last.secrets.secrets != secrets.secrets;
        is_news |= last.overrides != files.overrides;
        last.secrets = secrets;
        last.overrides = files.overrides;
        is_news |= self.keep_overrides(last).await;
        let empty = Config {
            entries: Vec::new(),
            harnesses: Vec::new(),
            findings: Vec::new(),
            sandbox_expected: Vec::new(),
            complete: false,
        };
        let config = last.config.as_ref().unwrap_or(&empty);
        if is_edited {
            report_sandbox(&self.place.file, config, &mut last.unsandboxed);
            last.onlookers.named = users_to_judge(config, &self.place.account, &last.onlookers.named);
            self.deputies.name(&last.onlookers.named);
        }
        let onlookers = &mut last.onlookers;
        let standings = self.judge_users(onlookers).await;
        if is_edited || standings != onlookers.standings {
            onlookers.paths = paths(config, folder_of(&self.place.file), &self.place.account, &standings);
            onlookers.standings = standings;
        }
        let mut views = self.look_as_all(onlookers, &last.views).await;
        views.skills = self.read_skills(config, &last.views.skills).await;
        is_news |= is_edited || last.reading != before || views != last.views;
        report_unreachable(&views, &last.views);
        if is_news {
            let mut desired = desired(config, &last.secrets.secrets, &views, &self.place);
            desired.config_error = last.file_error.clone().or(desired.config_error);
            desired.config_read = last.text_read;
            desired.reading = last.reading;
            desired.secrets_error = secrets_error;
            self.order(&mut desired, last);
            if last.desired.as_ref() != Some(&desired) {
                report(&self.place.file, config, &desired, last.desired.as_ref());
                last.desired = Some(desired.clone());
                say(News::Desired(desired));
            }
        }
        for user in changed_logins(&views, &last.views) {
            say(News::Login(user));
        }
        files.releases.into_iter().for_each(|release| say(News::Release(release)));
        last.views = views;
        !last.onlookers.is_unanswered && last.views.all().all(|(_, seen)| seen.unreachable.is_empty())
    }

    /// The skills that the jcard names. If no thread is available, those from before.
    async fn read_skills(&self, config: &Config, before: &Skills) -> Skills {
        let specs = config.entries.iter().filter_map(|entry| entry.spec.as_ref().ok());
        if specs.map(|spec| spec.skills.len()).sum::<usize>() == 0 {
            return Skills::new();
        }
        let (config, folder) = (config.clone(), folder_of(&self.place.file).to_owned());
        blocking::run(move || skills::read(&config, &folder)).await.unwrap_or_else(|_| before.clone())
    }

    /// The secrets with the files that the jcard names: only now is it known which those are.
    async fn named_secrets(&self, mut known: Known, last: &mut Last) -> Known {
        let named = last.config.as_ref().map(Named::by).unwrap_or_default();
        if named == last.named {
            return known;
        }
        last.named = named.clone();
        known.limit_to(&named);
        let (secret_dir, patience, before) = (self.secret_dir.clone(), self.resync, known.clone());
        let now = Instant::now().into_std();
        let work = move || known.after(secrets::read(&secret_dir, &named, &known.secrets), &secret_dir, now, patience);
        // Without a thread, they are missing until the next reading.
        blocking::run(work).await.unwrap_or(before)
    }

    /// What an earlier daemon has left.
    async fn last(&self) -> Last {
        let state_dir = self.state_dir.clone();
        let kept = match blocking::run(move || state::overrides::read(&state_dir)).await {
            Ok(Ok(kept)) => Some(kept.unwrap_or_default()),
            Ok(Err(error)) => {
                tracing::error!("{error}; what operators said before is known only if their files still say it");
                None
            }
            Err(error) => {
                tracing::error!("failed to read the overrides that were in force: {error}");
                None
            }
        };
        Last { overrides: overrides::Known::kept_before(kept.clone()), kept, ..Last::default() }
    }

    /// Keeps the overrides for the next daemon before they take effect. Returns whether that has an error that is news.
    async fn keep_overrides(&self, last: &mut Last) -> bool {
        if !last.overrides.is_sure() || last.kept.as_ref() == Some(last.overrides.kept()) {
            return false;
        }
        let (state_dir, kept) = (self.state_dir.clone(), last.overrides.kept().clone());
        let written = blocking::run(move || state::overrides::write(&state_dir, &kept).map(|()| kept)).await;
        let error = match written {
            Ok(Ok(kept)) => {
                last.kept = Some(kept);
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let error = error.map(|error| format!("{error}; the next daemon may not know the overrides; trying again"));
        std::mem::replace(&mut last.keep_error, error.clone()) != error
    }

    /// Adds what operators want.
    fn order(&self, desired: &mut Desired, last: &Last) {
        let directory = &self.overrides.directory;
        // While not every entry is known, an agent may be declared by one of the others.
        let is_known = desired.complete && last.file_error.is_none();
        let undeclared = || last.overrides.undeclared(directory, |key| desired.agents.contains_key(key));
        let undeclared = is_known.then(undeclared).flatten();
        let errors: Vec<&str> = [last.overrides.error(), last.keep_error.as_ref(), undeclared.as_ref()]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        desired.override_error = Some(errors.join("\n")).filter(|errors| !errors.is_empty());
        desired.overrides = last.overrides.overrides().map(Arc::new);
        desired.override_dir = Some(directory.clone());
    }

    /// Looks up the users that entries name. Reports groups that make a user more than an agent user should be.
    ///
    /// While the user database does not answer, or if no thread is available to ask it, all stay as they were.
    async fn judge_users(&self, onlookers: &mut Onlookers) -> Standings {
        let Onlookers { named, standings: before, look_up, is_unanswered, .. } = onlookers;
        let mut entries = BTreeMap::new();
        *is_unanswered &= !named.is_empty();
        if !named.is_empty() && matches!(self.rules, Rules::Members { .. }) {
            let (names, database) = (named.clone(), self.database.clone());
            let found = look_up.run(LOOK_UP_TIMEOUT, move || database.look_up(&names)).await;
            entries = found.ok().flatten().unwrap_or_default();
            // A late answer may be about other names.
            let is_all = named.iter().all(|name| entries.contains_key(name));
            if std::mem::replace(is_unanswered, !is_all) == is_all {
                if is_all {
                    tracing::info!("the user database answers again");
                } else {
                    tracing::warn!("the user database does not answer; what is known of users stays in use");
                }
            }
        }
        let standings = users::judge_all(named, &self.rules, entries, before);
        for (name, standing) in &standings {
            if let Standing::Fit { dangers, .. } = standing
                && before.get(name) != Some(standing)
                && let Some(warning) = users::warning(name, dangers)
            {
                tracing::warn!("{warning}");
            }
        }
        standings
    }

    /// Looks at all paths at once, with the rights of the users that agents run as.
    async fn look_as_all(&self, onlookers: &mut Onlookers, before: &Views) -> Views {
        let Onlookers { standings, paths, watching, told, .. } = onlookers;
        let mut views = Views::default();
        for (name, standing) in &*standings {
            let view = match standing {
                Standing::Fit { .. } => continue,
                Standing::Unfit(error) => View::Unfit(error.clone()),
                Standing::Missing(problem) => {
                    View::Missing(WaitingFor::User { user: name.to_string(), problem: problem.clone() })
                }
            };
            views.others.insert(name.clone(), view);
        }
        // A user whom no entry names any more has nothing to watch.
        for (_, deputy) in watching.extract_if(.., |name, _| !paths.contains_key(&Some(name.clone()))) {
            deputy.watch(Vec::new());
        }
        let mut looks = JoinSet::new();
        for (user, paths) in &*paths {
            let account = user.as_ref().and_then(|user| standings.get(user)?.account());
            let deputy = match (user, account) {
                (Some(user), Some(account)) => {
                    let deputy = self.deputies.of(&users::identity(user, account), account).await;
                    watching.insert(user.clone(), deputy.clone());
                    deputy
                }
                (Some(_), None) => continue,
                (None, _) => self.deputy.clone(),
            };
            let before = before.of(user.as_ref()).cloned().unwrap_or_default();
            let (user, paths) = (user.clone(), paths.clone());
            looks.spawn(async move { (user, look(deputy, paths, before).await) });
        }
        told.retain(|user, _| paths.contains_key(user));
        for (user, mut seen) in looks.join_all().await {
            let told = told.entry(user.clone()).or_default();
            told.keep_emptied(&mut seen.prompts, Instant::now(), self.resync);
            let account = user.as_ref().and_then(|user| standings.get(user)?.account());
            match (user, account) {
                (Some(user), Some(account)) => {
                    drop(views.others.insert(user, View::Of { account: account.clone(), seen }));
                }
                _ => views.own = seen,
            }
        }
        views
    }
}

/// The users whose files that log them in have changed.
fn changed_logins(views: &Views, before: &Views) -> Vec<Option<UserName>> {
    let users = std::iter::once(None).chain(views.others.keys().cloned().map(Some));
    let has_changed = |user: &Option<UserName>| {
        let (Some(now), Some(before)) = (views.of(user.as_ref()), before.of(user.as_ref())) else { return false };
        now.logins.iter().any(|(path, stamp)| before.logins.get(path).is_some_and(|known| known != stamp))
    };
    users.filter(has_changed).collect()
}

/// Gives the deputies of users other than the default one.
pub trait Deputies: Debug + Send + Sync {
    /// The deputy of this user, who may be an agent user. Whatever else an agent of this user needs exists afterwards.
    fn of<'a>(&'a self, user: &'a AgentUser, account: &'a Account)
    -> Pin<Box<dyn Future<Output = Deputy> + Send + 'a>>;

    /// Notes whom entries name from now on.
    fn name(&self, users: &BTreeSet<UserName>);
}

/// Looks at paths with the rights of a user. `before` replaces what cannot be looked at now.
async fn look(deputy: Deputy, Paths { prompts, guarded, workdirs, logins }: Paths, before: Seen) -> Seen {
    let folder = |path: &PathBuf| path.parent().map(|folder| Target::Entries(folder.to_owned()));
    let is_pattern = |path: &&PathBuf| glob::is_pattern(&path.to_string_lossy());
    let patterns = logins.iter().filter(is_pattern).filter_map(folder);
    let files = prompts.iter().chain(&workdirs).chain(logins.iter().filter(|path| !is_pattern(path)));
    deputy.watch(files.cloned().map(Target::Path).chain(patterns).collect());
    let logins = look_at(&logins, |path| {
        let deputy = deputy.clone();
        async move { deputy.login(path).await }
    });
    let prompts = look_at(&prompts, |path| {
        let (deputy, guarded) = (deputy.clone(), guarded.contains(&path));
        async move { deputy.prompt(path, guarded).await }
    });
    let workdirs = look_at(&workdirs, |path| {
        let deputy = deputy.clone();
        async move { deputy.workdir(path).await }
    });
    let mut unreachable = BTreeMap::new();
    Seen {
        // Nothing waits for these: the next look tells.
        logins: seen(logins, &before.logins, &mut BTreeMap::new()).await,
        prompts: seen(prompts, &before.prompts, &mut unreachable).await,
        workdirs: seen(workdirs, &before.workdirs, &mut unreachable).await,
        unreachable,
    }
}

/// Logs which paths cannot be looked at any more, and why.
fn report_unreachable(views: &Views, before: &Views) {
    for (user, seen) in views.all() {
        let known = before.of(user).map(|seen| &seen.unreachable);
        for (path, reason) in &seen.unreachable {
            if !known.is_some_and(|known| known.contains_key(path)) {
                tracing::warn!("failed to look at {}: {reason}; trying again", path.display());
            }
        }
    }
}

type Looks<T> = JoinSet<(PathBuf, Result<T, deputy::Error>)>;

fn look_at<T, F>(paths: &BTreeSet<PathBuf>, look: impl Fn(PathBuf) -> F) -> Looks<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T, deputy::Error>> + Send + 'static,
{
    let mut looks = JoinSet::new();
    for path in paths {
        let (path, look) = (path.clone(), look(path.clone()));
        looks.spawn(async move { (path, look.await) });
    }
    looks
}

async fn seen<T: Clone + 'static>(
    looks: Looks<T>,
    before: &BTreeMap<PathBuf, T>,
    unreachable: &mut BTreeMap<PathBuf, String>,
) -> BTreeMap<PathBuf, T> {
    let mut seen = BTreeMap::new();
    for (path, result) in looks.join_all().await {
        match result {
            Ok(it) => drop(seen.insert(path, it)),
            Err(error) => {
                seen.extend(before.get(&path).map(|it| (path.clone(), it.clone())));
                unreachable.insert(path, error.to_string());
            }
        }
    }
    seen
}

impl Last {
    /// Parses the jcard if it changed. Returns whether the result differs from before.
    async fn take_config(&mut self, jcard: Result<Jcard, String>, file: &Path, options: &config::Options) -> bool {
        let Jcard { text, modified } = match jcard {
            Ok(jcard) if self.text.as_ref() == Some(&jcard.text) => {
                self.reading = self.reading.map(|reading| match self.file_error {
                    None => Reading { modified: jcard.modified, ..reading },
                    Some(_) => reading,
                });
                return false;
            }
            Ok(jcard) => jcard,
            Err(error) if self.text.is_none() && self.file_error.as_ref() == Some(&error) => return false,
            Err(error) => {
                (self.text, self.file_error) = (None, Some(error));
                self.text_read = Some(SystemTime::now());
                return true;
            }
        };
        let now = SystemTime::now();
        self.text_read = Some(now);
        let options = options.clone();
        // The largest files take a while, and everything else continues meanwhile.
        let work = move || (config::parse(&text, &options), text);
        match blocking::run(work).await {
            Ok((Ok(config), text)) => {
                (self.config, self.file_error, self.text) = (Some(config), None, Some(text));
                self.reading = Some(Reading::after(self.reading, modified, now));
            }
            Ok((Err(findings), text)) => {
                let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
                (self.file_error, self.text) = (Some(located(file, &lines.join("\n"))), Some(text));
            }
            // No thread was available; it is read again.
            Err(error) => {
                (self.text, self.file_error) = (None, Some(format!("failed to parse {}: {error}", file.display())));
            }
        }
        true
    }
}

fn is_news(files: &Files, last: &Last) -> bool {
    files.jcard.as_ref().ok().map(|jcard| &jcard.text) != last.text.as_ref()
        || files.secrets.secrets != last.secrets.secrets
        || files.overrides.kept() != last.overrides.kept()
}

fn read_config(path: &Path) -> (Result<Jcard, String>, Option<SystemTime>) {
    match regular_file::read(path, config::MAX_SIZE) {
        Ok((text, metadata)) => {
            // A rename keeps the time of the last write, but changes the time of the status.
            let status_changed =
                u64::try_from(metadata.ctime()).ok().map(|at| SystemTime::UNIX_EPOCH + Duration::from_secs(at));
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            (Ok(Jcard { text, modified }), Some(modified).max(status_changed))
        }
        Err(regular_file::Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            let right = "write it (agentd init does); agents that it declared before stay as they are";
            (Err(format!("{} does not exist; {right}", path.display())), None)
        }
        Err(error) => {
            (Err(format!("failed to read {}: {error}; what it declared before stays in force", path.display())), None)
        }
    }
}

/// Logs one line about all entries whose agents the Go daemon would run in a sandbox, if it is another number of them than before.
fn report_sandbox(path: &Path, config: &Config, before: &mut usize) {
    let count = config.sandbox_expected.len();
    if count > 0 && count != *before {
        let (entries, run, lines_are) =
            if count == 1 { ("entry", "runs", "line") } else { ("entries", "run", "lines") };
        let lines: Vec<String> =
            config.sandbox_expected.iter().take(10).map(|finding| finding.line.to_string()).collect();
        let more = if count > lines.len() { ", …" } else { "" };
        tracing::warn!(
            "{}: {count} {entries} without a `type` {run} without a sandbox, which the Go daemon would use ({lines_are} {}{more}); start agentd with --default-type sandboxed to have it, or write `type = \"native\"` if none is meant",
            path.display(),
            lines.join(", ")
        );
    }
    *before = count;
}

/// Logs one line for everything new that needs attention.
fn report(path: &Path, config: &Config, desired: &Desired, before: Option<&Desired>) {
    let path = path.display();
    let news = |error: Option<&String>, before: Option<&String>| error.filter(|&error| Some(error) != before).cloned();
    let before_config = before.and_then(|before| before.config_error.as_ref());
    for line in news(desired.config_error.as_ref(), before_config).iter().flat_map(|error| error.lines()) {
        tracing::error!("{line}");
    }
    if desired.config_error.is_none() && before_config.is_some() {
        tracing::info!("{path}: resolved");
    }
    for line in config
        .warning()
        .filter(|_| before.is_none_or(|before| before.agents != desired.agents))
        .iter()
        .flat_map(|text| text.lines())
    {
        tracing::warn!("{path}:{line}");
    }
    let before_secrets = before.and_then(|before| before.secrets_error.as_ref());
    for line in news(desired.secrets_error.as_ref(), before_secrets).iter().flat_map(|error| error.lines()) {
        tracing::error!("secrets: {line}");
    }
    let before_overrides = before.and_then(|before| before.override_error.as_ref());
    for line in news(desired.override_error.as_ref(), before_overrides).iter().flat_map(|error| error.lines()) {
        tracing::warn!("overrides: {line}");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tempfile::TempDir;

    use super::*;
    use crate::agent::name::key;
    use crate::agent::seen::{Problem, SeenWorkdir};
    use crate::deputy::{Reply, Request};
    use crate::state::key::Key;

    const JCARD: &str = "[[agents]]\nname = \"well\"\nharness = \"custom\"\nworkdir = \"/well\"\nprompt_file = \"p\"\n\
                         [[agents]]\nname = \"ill\"\nharness = \"custom\"\nworkdir = \"/ill\"\n";

    struct World {
        directory: TempDir,
        /// Whether the deputy answers about `/ill`.
        answers: Arc<AtomicBool>,
        /// How many times the deputy has looked.
        looks: Arc<AtomicUsize>,
        inputs: Inputs,
    }

    /// Where no user can be named.
    #[derive(Debug)]
    struct NoOthers;

    impl Deputies for NoOthers {
        fn of<'a>(&'a self, user: &'a AgentUser, _: &'a Account) -> Pin<Box<dyn Future<Output = Deputy> + Send + 'a>> {
            unreachable!("{user:?}")
        }

        fn name(&self, _: &BTreeSet<UserName>) {}
    }

    impl World {
        fn new(jcard: &str, answers: bool) -> Self {
            let directory = TempDir::new().unwrap();
            fs::write(directory.path().join("jcard.toml"), jcard).unwrap();
            let answers = Arc::new(AtomicBool::new(answers));
            let looks = Arc::new(AtomicUsize::new(0));
            let (ill, count) = (Arc::clone(&answers), Arc::clone(&looks));
            let deputy = Deputy::of(move |request| {
                let is_look = matches!(request, Request::Prompt { .. } | Request::Workdir(_));
                count.fetch_add(usize::from(is_look), Ordering::Relaxed);
                match request {
                    Request::Prompt { .. } => Some(Reply::Prompt(SeenPrompt::Unusable(Problem::Absent {}))),
                    Request::Workdir(path) if path.ends_with("ill") && !ill.load(Ordering::Relaxed) => {
                        Some(Reply::FileSystemHangs)
                    }
                    Request::Workdir(_) => Some(Reply::Workdir(SeenWorkdir::Usable)),
                    _ => None,
                }
            });
            let inputs = Inputs {
                place: DeclarationContext {
                    file: directory.path().join("jcard.toml"),
                    account: Account::current().unwrap(),
                    key: Key::ephemeral().unwrap(),
                },
                secret_dir: directory.path().join("secrets"),
                overrides: overrides::Place::new(
                    directory.path().join("overrides"),
                    nix::unistd::Gid::effective(),
                    watch::channel([1000].into()).1,
                ),
                state_dir: directory.path().to_owned(),
                options: config::Options::default(),
                rules: Rules::Nobody { own: Account::current().unwrap().name },
                database: Database::default(),
                deputy,
                deputies: Arc::new(NoOthers),
                settle: Duration::from_millis(1),
                resync: Duration::from_hours(1),
                rounds: watch::channel(()).0,
            };
            Self { directory, answers, looks, inputs }
        }

        fn follow(&self) -> (mpsc::Sender<Nudge>, mpsc::UnboundedReceiver<Desired>) {
            let (nudges, nudged) = mpsc::channel(16);
            let (say, said) = mpsc::unbounded_channel();
            tokio::spawn(self.inputs.clone().follow(nudged, move |news| {
                if let News::Desired(desired) = news {
                    say.send(desired).unwrap();
                }
            }));
            (nudges, said)
        }

        fn write(&self, jcard: &str) {
            fs::write(self.directory.path().join("jcard.toml"), jcard).unwrap();
        }
    }

    /// What the agent waits for, if anything.
    fn missing(desired: &Desired, agent: &str) -> Option<String> {
        desired.agents[&key(agent)].declaration.clone().unwrap().launch.err().map(|missing| missing.to_string())
    }

    #[tokio::test]
    async fn an_unreadable_path_holds_up_only_its_own_agent() {
        let world = World::new(JCARD, false);
        let (_nudges, mut said) = world.follow();
        let desired = said.recv().await.unwrap();
        assert!(missing(&desired, "well").unwrap().ends_with("/p does not exist"));
        assert_eq!(
            missing(&desired, "ill").unwrap(),
            "the workdir /ill could not be looked at: the file system does not answer"
        );
        world.answers.store(true, Ordering::Relaxed);
        assert_eq!(missing(&said.recv().await.unwrap(), "ill"), None);
    }

    #[tokio::test]
    async fn rereading_looks_once_at_each_path_and_reports_only_changes() {
        let agent = |number| {
            format!("[[agents]]\nname = 'a{number}'\nharness = 'custom'\nworkdir = '/well'\nprompt_file = 'p'\n")
        };
        let jcard = (0..100).map(agent).collect::<Vec<_>>().concat();
        let world = World::new(&jcard, true);
        let (nudges, nudged) = mpsc::channel(16);
        let (say, mut said) = mpsc::unbounded_channel();
        tokio::spawn(world.inputs.clone().follow(nudged, move |news| say.send(news).unwrap()));
        assert!(matches!(said.recv().await, Some(News::Desired(_))));
        assert!(matches!(said.recv().await, Some(News::Read)));
        assert_eq!(world.looks.load(Ordering::Relaxed), 2, "a workdir and a prompt file, of a hundred agents");
        nudges.send(Nudge::Now).await.unwrap();
        assert!(matches!(said.recv().await, Some(News::Read)));
        assert_eq!(world.looks.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn nothing_is_assembled_unless_something_has_changed() {
        let world = World::new(JCARD, true);
        let (mut watcher, mut last, said) = (Watcher::open(), Last::default(), Cell::new(0));
        let say = |_| said.set(said.get() + 1);
        for (jcard, expected) in [(Some(JCARD), 1), (None, 1), (Some(&JCARD.replace("/well", "/very/well")), 2)] {
            if let Some(jcard) = jcard {
                world.write(jcard);
            }
            let files = world.inputs.read(&mut watcher, &last).await;
            world.inputs.act(files, &mut last, &say).await;
            assert_eq!(said.get(), expected);
            // Assembling again would find a different state, and report it.
            last.desired = last.desired.map(|desired| Desired { complete: !desired.complete, ..desired });
        }
    }

    #[tokio::test]
    async fn the_generation_rises_with_each_jcard_that_is_taken_over() {
        let world = World::new(JCARD, true);
        let (mut watcher, mut last) = (Watcher::open(), Last::default());
        let modified = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut generations = Vec::new();
        let edited = JCARD.replace("/well", "/very/well");
        let steps = [(JCARD, 1), (JCARD, 2), ("[[agents]\n", 3), (edited.as_str(), 4), (JCARD, 5)];
        for (jcard, seconds) in steps {
            world.write(jcard);
            let file = fs::File::options().append(true).open(&world.inputs.place.file).unwrap();
            file.set_modified(modified(seconds)).unwrap();
            let files = world.inputs.read(&mut watcher, &last).await;
            world.inputs.act(files, &mut last, &|_| ()).await;
            let reading = last.desired.as_ref().unwrap().reading.unwrap();
            generations.push(reading.generation);
            // What could not be taken over leaves the reading before in force.
            let expected = if seconds == 3 { 2 } else { seconds };
            assert_eq!(reading.modified, modified(expected), "{jcard}");
        }
        let [first, written_again, bad, edited, back] = generations[..] else { unreachable!() };
        assert!(first == written_again && first == bad && first < edited && edited < back, "{generations:?}");
    }

    #[tokio::test]
    async fn overrides_are_not_kept_while_nobody_knows_them() {
        let world = World::new(JCARD, true);
        let (kept, folder) = (world.directory.path().join("overrides.json"), world.directory.path().join("overrides"));
        fs::write(&kept, "{").unwrap();
        fs::write(&folder, "").unwrap();
        let (mut watcher, mut last) = (Watcher::open(), world.inputs.last().await);
        let look = async |watcher: &mut Watcher, last: &mut Last| {
            let files = world.inputs.read(watcher, last).await;
            world.inputs.act(files, last, &|_| ()).await;
        };
        look(&mut watcher, &mut last).await;
        assert_eq!(fs::read_to_string(&kept).unwrap(), "{", "the next daemon would take it that nothing was in force");
        fs::remove_file(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        look(&mut watcher, &mut last).await;
        assert!(state::overrides::read(world.directory.path()).unwrap().is_some());
    }

    #[tokio::test]
    async fn a_path_that_can_no_longer_be_looked_at_keeps_its_last_answer() {
        let world = World::new(JCARD, true);
        let (_nudges, mut said) = world.follow();
        assert_eq!(missing(&said.recv().await.unwrap(), "ill"), None);
        world.answers.store(false, Ordering::Relaxed);
        world.write(&JCARD.replace("prompt_file", "# prompt_file"));
        let desired = said.recv().await.unwrap();
        assert_eq!((missing(&desired, "well"), missing(&desired, "ill")), (None, None));
    }

    #[test]
    fn a_prompt_that_is_emptied_stays_until_a_second_look() {
        let (path, now, patience) = (PathBuf::from("/p"), Instant::now(), Duration::from_secs(5));
        let text = |text: &str| SeenPrompt::Text(crate::sys::secret_bytes::SecretBytes::from(text));
        let mut told = Told::default();
        let mut look = |seen: SeenPrompt, seconds: u64| {
            let mut seen = [(path.clone(), seen)].into();
            told.keep_emptied(&mut seen, now + Duration::from_secs(seconds), patience);
            seen.remove(&path).unwrap()
        };
        assert_eq!(look(text(""), 0), text(""), "it never said anything");
        assert_eq!(look(text("work"), 1), text("work"));
        let absent = || SeenPrompt::Unusable(Problem::Absent {});
        assert_eq!(look(absent(), 2), absent());
        assert_eq!(look(text(""), 3), text("work"));
        assert_eq!(look(text("more"), 4), text("more"));
        assert_eq!(look(text(""), 100), text("more"));
        assert_eq!(look(text(""), 104), text("more"));
        assert_eq!(look(text(""), 105), text(""));
    }

    #[tokio::test]
    async fn missing_secrets_stay_in_use_and_are_reported() {
        let world = World::new("[agent]\nname = \"a\"\nharness = \"custom\"\nworkdir = \"/well\"\n", true);
        let folder = world.inputs.secret_dir.clone();
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("KEY"), "value").unwrap();
        let (nudges, mut said) = world.follow();
        let launched = said.recv().await.unwrap().agents;
        fs::rename(&folder, folder.with_extension("away")).unwrap();
        nudges.send(Nudge::Now).await.unwrap();
        let desired = said.recv().await.unwrap();
        assert!(desired.secrets_error.unwrap().contains("secrets is gone"));
        assert_eq!(desired.agents, launched);
        fs::rename(folder.with_extension("away"), &folder).unwrap();
        nudges.send(Nudge::Now).await.unwrap();
        let desired = said.recv().await.unwrap();
        assert_eq!((desired.agents, desired.secrets_error), (launched, None));
    }

    #[tokio::test]
    async fn a_user_database_that_hangs_holds_up_only_its_users() {
        let entry = "[[agents]]\nname = \"b\"\nharness = \"custom\"\nuser = \"agent2\"\n";
        let mut world = World::new(&format!("{JCARD}{entry}"), true);
        world.inputs.rules = Rules::Members { agents: "agentd-agents".to_owned(), banned: Vec::new(), default: None };
        let asked = Arc::new(AtomicUsize::new(0));
        let (release, hang) = std::sync::mpsc::channel::<()>();
        let (count, hang) = (Arc::clone(&asked), std::sync::Mutex::new(hang));
        world.inputs.database = Database::of(move |names| {
            count.fetch_add(1, Ordering::Relaxed);
            let _ = hang.lock().unwrap().recv();
            names.iter().map(|name| (name.clone(), Entry::Absent)).collect()
        });
        let (_nudges, mut said) = world.follow();
        let mut next = async || timeout(Duration::from_secs(20), said.recv()).await.expect("it goes on").unwrap();
        let desired = next().await;
        assert!(missing(&desired, "well").unwrap().ends_with("/p does not exist"));
        assert!(missing(&desired, "b").unwrap().contains("the user database does not answer"));
        world.write(&format!("{}{entry}", JCARD.replace("prompt_file", "# prompt_file")));
        let desired = next().await;
        assert_eq!(missing(&desired, "well"), None, "other changes take effect");
        assert_eq!(asked.load(Ordering::Relaxed), 1, "it is asked only once");
        drop(release);
        let error = next().await.agents[&key("b")].declaration.clone().unwrap_err();
        assert!(error.contains("there is no user agent2"), "{error}");
    }

    #[tokio::test]
    async fn a_request_is_answered_in_the_middle_of_changes() {
        let mut world = World::new(JCARD, true);
        world.inputs.settle = Duration::from_mins(1);
        let (nudges, nudged) = mpsc::channel(16);
        let (say, mut said) = mpsc::unbounded_channel();
        tokio::spawn(world.inputs.clone().follow(nudged, move |news| {
            if matches!(news, News::Read) {
                say.send(()).unwrap();
            }
        }));
        for _ in 0..2 {
            nudges.send(Nudge::Changed).await.unwrap();
            nudges.send(Nudge::Now).await.unwrap();
            timeout(Duration::from_secs(20), said.recv()).await.expect("it is said").unwrap();
        }
    }

    #[tokio::test]
    async fn a_fifo_as_jcard_is_an_error_and_not_waited_for() {
        let world = World::new(JCARD, true);
        let (nudges, mut said) = world.follow();
        said.recv().await.unwrap();
        fs::remove_file(&world.inputs.place.file).unwrap();
        nix::unistd::mkfifo(&world.inputs.place.file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        nudges.send(Nudge::Now).await.unwrap();
        let mut desired = said.recv().await.unwrap();
        while !desired.config_error.as_ref().is_some_and(|error| error.contains("it is not a regular file")) {
            desired = said.recv().await.unwrap();
        }
        assert!(desired.agents.contains_key(&key("well")));
    }
}
