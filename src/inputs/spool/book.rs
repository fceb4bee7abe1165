//! What is known of the spool, and one round of work on it. Blocks for as long as the file systems do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::AtFlags;
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, Uid, UnlinkatFlags, faccessat, unlinkat};

use super::absence::{Absence, Change, Here, Sight};
use super::task::{self, Flaw, Owners, Read, Version};
use super::{Command, News, Place, refused};
use crate::agent::name::{Key, Name, RunId};
use crate::agent::run::{LONGEST_TASK, Task};
use crate::inputs::overrides::ENDING;
use crate::inputs::overrides::folder::{self, Right};
use crate::sys::file_id::FileId;
use crate::sys::inotify::{AddWatchFlags, InotifyEvent, Queue, WatchDescriptor};
use crate::sys::safe_path;
use crate::sys::secret_bytes::SecretBytes;
use crate::text::printable::escaped;

/// The most entries of one folder that are listed.
const MAX_ENTRIES: usize = 20_000;

/// The most tasks that are told and not answered yet.
const MOST_TOLD: usize = 16;

/// The most text of such tasks, in bytes.
const MOST_TEXT: usize = 4 << 20;

/// The most problems that are told at once.
const MOST_PROBLEMS: usize = 20;

/// The most names in one problem.
const MOST_NAMES: usize = 5;

/// What is to be done in one round.
#[derive(Debug, Default)]
pub struct Work {
    /// In the order in which they were given.
    pub commands: Vec<Command>,
    /// What the kernel announces.
    pub events: Vec<InotifyEvent>,
    /// Whether to look at everything, whatever is announced.
    pub is_round: bool,
}

impl Work {
    /// Adds more work.
    pub fn extend(&mut self, more: Self) {
        self.commands.extend(more.commands);
        self.events.extend(more.events);
        self.is_round |= more.is_round;
    }
}

/// What is known of the spool.
#[derive(Debug)]
pub struct Book {
    place: Place,
    /// What is to be done in the next round.
    pub work: Work,
    /// The templates that there are. `None` until the first are known.
    templates: Option<BTreeMap<Key, Name>>,
    folders: BTreeMap<Key, Folder>,
    /// The tasks that were told and are not answered yet, with the lengths of their texts.
    told: BTreeMap<Key, usize>,
    /// What is wrong with the spool itself.
    problem: Option<String>,
    /// What is in it that belongs to no template.
    strays: Vec<String>,
    /// What was told last.
    error: Option<String>,
    is_listed: bool,
    watches: HashMap<WatchDescriptor, Watched>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Watched {
    Spool,
    Folder(Key),
}

/// What a folder of the spool holds.
#[derive(Clone, Debug)]
enum Kind {
    /// Tasks for this template.
    Tasks(Name),
}

/// One folder of the spool.
#[derive(Debug)]
struct Folder {
    kind: Kind,
    /// Its name in the spool.
    name: OsString,
    files: BTreeMap<Key, File>,
    /// What can be no task by its name, and when it is to be moved away.
    others: BTreeMap<OsString, Other>,
    /// The tasks to be read, in the order in which they were written.
    ready: BTreeSet<(SystemTime, Key)>,
    /// The tasks that may still be written, by when they are looked at again.
    unsettled: BTreeSet<(Instant, Key)>,
    absence: Absence,
    /// Which folder the kernel announces changes of.
    watched: Option<Here>,
    access: Access,
    /// What is wrong with the folder.
    problem: Option<String>,
    /// What is wrong with files in it that can be neither read nor moved away, by name.
    problems: BTreeMap<String, String>,
    /// How many files were refused, if that is known.
    refused: Option<usize>,
}

/// What can be done with a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// It cannot be listed.
    None,
    /// Nothing in it can be moved or removed.
    Read,
    /// Everything.
    Write,
}

/// A file that can be a task by its name.
#[derive(Debug)]
struct File {
    /// The id as its name spells it.
    id: RunId,
    version: Version,
    standing: Standing,
    /// Whether it was told that it was edited.
    is_edited: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// It may still be written.
    Unsettled(Instant),
    /// It is to be read. `true` if it is to be judged as it is.
    Ready(bool),
    /// It was told, or is on record: its removal means something.
    Known,
    /// It is to be removed or moved away, and that failed.
    Leaving(Leave),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Leave {
    Removed(FileId),
    Refused(String),
}

/// A file that can be no task by its name.
#[derive(Clone, Debug)]
struct Other {
    version: Version,
    /// When it is moved away; `None` if that failed.
    until: Option<Instant>,
    why: String,
}

/// What was announced of a name.
#[derive(Clone, Copy, Debug, Default)]
struct Happened {
    is_written: bool,
    is_removed: bool,
}

/// A folder that was opened in this round.
#[derive(Debug)]
struct Opened {
    folder: OwnedFd,
    here: Here,
    owner: Uid,
}

/// The folder of all, in this round.
#[derive(Clone, Default)]
enum Spool {
    #[default]
    NotTried,
    Opened(Rc<OwnedFd>),
    Unusable,
}

/// What was opened in this round.
#[derive(Default)]
struct Visit {
    spool: Spool,
    folders: BTreeMap<Key, Option<Rc<Opened>>>,
    /// The folders of what is refused.
    refused: BTreeMap<Key, Rc<OwnedFd>>,
    news: Vec<News>,
}

/// What follows from a round.
#[derive(Debug)]
pub struct Outcome {
    /// In the order in which it is to be told.
    pub news: Vec<News>,
    /// When to go on without being asked.
    pub due: Option<Instant>,
}

impl Book {
    /// Nothing is known yet.
    pub fn new(place: Place) -> Self {
        Self {
            place,
            work: Work::default(),
            templates: None,
            folders: BTreeMap::new(),
            told: BTreeMap::new(),
            problem: None,
            strays: Vec::new(),
            error: None,
            is_listed: false,
            watches: HashMap::new(),
        }
    }

    /// Does the work of one round.
    pub fn round(&mut self, queue: Option<&Queue>) -> Outcome {
        let Work { commands, events, is_round } = std::mem::take(&mut self.work);
        let mut visit = Visit::default();
        let mut is_due = is_round;
        for command in commands {
            is_due |= self.obey(command, &mut visit);
        }
        if self.templates.is_some() {
            let (events, is_unclear) = self.sort(events);
            // What was announced first: a task that a round finds has to settle.
            for (agent, names) in events {
                self.look_at(&agent, &names, &mut visit);
            }
            if is_due || is_unclear || !self.is_listed {
                self.look_at_everything(queue, &mut visit);
            }
            self.settle(&mut visit);
            self.read_tasks(&mut visit);
            self.prune(&mut visit);
            let error = self.problems();
            if error != self.error {
                self.error.clone_from(&error);
                visit.news.push(News::Error(error));
            }
            if !std::mem::replace(&mut self.is_listed, true) {
                visit.news.push(News::Listed);
            }
        }
        Outcome { news: visit.news, due: self.due() }
    }

    /// Carries out a command. Returns whether everything is to be looked at.
    fn obey(&mut self, command: Command, visit: &mut Visit) -> bool {
        match command {
            Command::Known { key, file, written } => {
                if let Some((agent, id)) = key.run()
                    && let Ok(id) = id.parse()
                {
                    let version = Version { file, written };
                    let file = File { id, version, standing: Standing::Known, is_edited: false };
                    self.folder(&agent).insert(&key, file);
                }
            }
            Command::Took { key } => drop(self.told.remove(&key)),
            Command::Later { key } => {
                self.told.remove(&key);
                let until = Instant::now() + self.place.resync;
                if let Some(folder) = self.folder_of(&key) {
                    folder.change(&key, Standing::Unsettled(until));
                }
            }
            Command::Refuse { key, why } => {
                self.told.remove(&key);
                self.refuse(&key, why, visit);
            }
            Command::Remove { key, file } => self.remove(&key, file, visit),
            Command::Templates(names) => {
                self.set_templates(names);
                return true;
            }
            Command::Write { agent, id, text } => self.write(&agent, &id, &text, visit),
        }
        false
    }

    fn set_templates(&mut self, names: Vec<Name>) {
        let templates: BTreeMap<Key, Name> = names.into_iter().map(|name| (name.key(), name)).collect();
        for (key, name) in &templates {
            let folder = self.folder(key);
            folder.kind = Kind::Tasks(name.clone());
        }
        for (key, folder) in &mut self.folders {
            if !templates.contains_key(key) {
                folder.forget_new();
            }
        }
        self.templates = Some(templates);
    }

    fn is_template(&self, agent: &Key) -> bool {
        self.templates.as_ref().is_some_and(|templates| templates.contains_key(agent))
    }

    fn folder(&mut self, agent: &Key) -> &mut Folder {
        self.folders.entry(agent.clone()).or_insert_with(|| Folder::new(Kind::Tasks(agent.to_name())))
    }

    fn folder_of(&mut self, run: &Key) -> Option<&mut Folder> {
        self.folders.get_mut(&run.run()?.0)
    }

    /// The path of a folder, for people.
    fn path(&self, agent: &Key) -> PathBuf {
        let name = self.folders.get(agent).map(|folder| folder.name.clone());
        self.place.directory.join(name.unwrap_or_else(|| agent.as_str().into()))
    }

    /// Sorts what was announced by folder and name, and tells whether everything is to be looked at.
    fn sort(&self, events: Vec<InotifyEvent>) -> (BTreeMap<Key, BTreeMap<OsString, Happened>>, bool) {
        let anything = AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_UNMOUNT
            | AddWatchFlags::IN_IGNORED;
        let written = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE;
        let removed = AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_DELETE;
        let mut sorted: BTreeMap<Key, BTreeMap<OsString, Happened>> = BTreeMap::new();
        let mut is_unclear = false;
        for InotifyEvent { wd, mask, name, .. } in events {
            is_unclear |= mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
            // What is left in the queue of a watch that was removed says nothing.
            let watched = self.watches.get(&wd);
            is_unclear |= watched.is_some() && mask.intersects(anything);
            match (watched, name) {
                (Some(Watched::Spool), Some(name)) if name.as_encoded_bytes().starts_with(b".") => {}
                (Some(Watched::Spool), _) => is_unclear = true,
                (Some(Watched::Folder(agent)), Some(name)) => {
                    let happened = sorted.entry(agent.clone()).or_default().entry(name).or_default();
                    happened.is_written |= mask.intersects(written);
                    happened.is_removed |= mask.intersects(removed);
                }
                _ => {}
            }
        }
        (sorted, is_unclear)
    }

    /// Opens the spool, and makes it if there are templates and nothing that it would seem to remove.
    fn open_spool(&mut self, visit: &mut Visit) -> Option<Rc<OwnedFd>> {
        match &visit.spool {
            Spool::NotTried => {}
            Spool::Opened(spool) => return Some(Rc::clone(spool)),
            Spool::Unusable => return None,
        }
        let is_wanted = self.templates.as_ref().is_some_and(|templates| !templates.is_empty());
        let is_expected = self.folders.values().any(Folder::expects);
        let path = &self.place.directory;
        let makes = is_wanted && !is_expected;
        if makes
            && Uid::effective().is_root()
            && let Some(parent) = path.parent()
        {
            // What fails here fails below, with a better error.
            let _ = safe_path::open_private_dir(parent, Some(Mode::from_bits_truncate(0o755)));
        }
        let opened = folder::open_as(path, Right::read(self.place.group), makes);
        self.problem = match &opened {
            Ok(_) => None,
            Err(folder::Error::Absent(_)) if !is_wanted && !is_expected => None,
            Err(error @ folder::Error::Absent(_)) => {
                Some(format!("{error}; its runs go on, and no task is taken until it is there again"))
            }
            Err(error) => Some(format!("{error}; no task is taken until it is right")),
        };
        let opened = opened.ok().map(Rc::new);
        visit.spool = opened.clone().map_or(Spool::Unusable, Spool::Opened);
        opened
    }

    /// Opens the folder of a template. What is wrong with it is noted.
    fn open(&mut self, agent: &Key, visit: &mut Visit) -> Option<Rc<Opened>> {
        if let Some(opened) = visit.folders.get(agent) {
            return opened.clone();
        }
        let path = self.path(agent);
        let spool = self.open_spool(visit);
        let Some(spool) = spool else {
            if let Some(folder) = self.folders.get_mut(agent) {
                (folder.access, folder.problem) = (Access::None, None);
            }
            return None;
        };
        let is_template = self.is_template(agent);
        let (group, operators) = (self.place.group, self.place.operators.clone());
        let folder = self.folders.get_mut(agent)?;
        let makes = is_template && !folder.expects();
        let open = || -> Result<Opened, String> {
            let opened = folder::open_shared(&spool, &folder.name, &path, Right::written(group), makes);
            let (opened, owner) = opened.map_err(|error| error.to_string())?;
            if operators.is_agent(owner) {
                let path = path.display();
                return Err(format!(
                    "{path} belongs to the agent user with uid {owner}, who may not give tasks; chown root {path} ends that"
                ));
            }
            let failed = |error: io::Error| format!("failed to examine {}: {error}", path.display());
            let look = safe_path::look(&opened, OsStr::new("")).map_err(failed)?;
            let here = Here { id: look.version.id, mount: look.mount() };
            Ok(Opened { folder: opened, here, owner })
        };
        let opened = open();
        (folder.access, folder.problem) = match &opened {
            Ok(opened) => match faccessat(&opened.folder, ".", AccessFlags::W_OK, AtFlags::AT_EACCESS) {
                Ok(()) => (Access::Write, None),
                Err(error) => {
                    let path = path.display();
                    let problem = format!("{path} cannot be written ({error}); no task is taken until it can be");
                    (Access::Read, Some(problem))
                }
            },
            Err(_) if !is_template && !folder.expects() => (Access::None, None),
            Err(error) => {
                let more = if folder.expects() { "its runs go on, and no" } else { "no" };
                (Access::None, Some(format!("{error}; {more} task is taken until it is right")))
            }
        };
        let opened = opened.ok().map(Rc::new);
        visit.folders.insert(agent.clone(), opened.clone());
        opened
    }

    /// Looks at the whole spool.
    fn look_at_everything(&mut self, queue: Option<&Queue>, visit: &mut Visit) {
        self.strays.clear();
        let spool = self.open_spool(visit);
        if let Some(spool) = &spool {
            self.watch(queue, spool, Watched::Spool);
            match list(spool) {
                Ok((names, _)) => self.find_folders(spool, &names),
                Err(error) => {
                    self.problem = Some(format!("failed to read {}: {error}", self.place.directory.display()));
                }
            }
        }
        let agents: Vec<Key> = self.folders.keys().cloned().collect();
        for agent in agents {
            if let Some(opened) = self.open(&agent, visit) {
                let watch = self.watch(queue, &opened.folder, Watched::Folder(agent.clone()));
                if let Some(folder) = self.folders.get_mut(&agent) {
                    folder.watched = watch.map(|_| opened.here);
                }
                self.list_folder(&agent, &opened, visit);
            }
            let is_needed = self.is_template(&agent) || self.folders.get(&agent).is_some_and(Folder::is_needed);
            if !is_needed {
                self.folders.remove(&agent);
            }
        }
        let (folders, watches) = (&self.folders, &mut self.watches);
        watches.retain(|descriptor, watched| {
            let is_used = match watched {
                Watched::Spool => spool.is_some(),
                Watched::Folder(agent) => folders.contains_key(agent),
            };
            if !is_used && let Some(queue) = queue {
                queue.remove(*descriptor);
            }
            is_used
        });
    }

    /// Watches a folder that is open, whatever its name leads to.
    fn watch(&mut self, queue: Option<&Queue>, folder: &OwnedFd, watched: Watched) -> Option<WatchDescriptor> {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        // What cannot be watched is found by the rounds.
        let descriptor = queue.and_then(|queue| queue.add(&in_proc(folder), flags).ok());
        let is_old = |(of, other): (&WatchDescriptor, &Watched)| *other == watched && Some(*of) != descriptor;
        let old: Vec<_> = self.watches.iter().filter(|it| is_old(*it)).map(|(of, _)| *of).collect();
        for old in old {
            self.watches.remove(&old);
            if let Some(queue) = queue {
                queue.remove(old);
            }
        }
        if let Some(descriptor) = descriptor {
            self.watches.insert(descriptor, watched);
        }
        descriptor
    }

    /// Finds which folder is whose, whatever the case of its name, and what belongs to no template.
    fn find_folders(&mut self, spool: &OwnedFd, names: &[OsString]) {
        let mut of: BTreeMap<Key, OsString> = BTreeMap::new();
        for name in names.iter().filter(|name| !name.as_encoded_bytes().contains(&b'.')) {
            let key = name.to_str().and_then(|name| Some(name.parse::<Name>().ok()?.key()));
            let folder = key.as_ref().and_then(|key| Some((key, self.folders.get(key)?)));
            if let Some((key, folder)) = folder {
                let Kind::Tasks(declared) = &folder.kind;
                if !of.contains_key(key) || OsStr::new(declared.as_str()) == name {
                    of.insert(key.clone(), name.clone());
                }
                continue;
            }
            let path = self.place.directory.join(name);
            let shown = escaped(&path.display().to_string());
            match safe_path::open_dir_at(spool, name, &path) {
                Ok(folder) => {
                    let is_empty = list(&folder)
                        .is_ok_and(|(names, _)| names.iter().all(|name| name.as_encoded_bytes().contains(&b'.')));
                    if !is_empty {
                        self.strays.push(format!(
                            "{shown}: no agent of this name has [agents.runs]; declare it, or remove the tasks"
                        ));
                    }
                }
                Err(_) => self
                    .strays
                    .push(format!("{shown}: it is no folder of tasks; put a task into the folder of its agent")),
            }
        }
        for (key, folder) in &mut self.folders {
            let Kind::Tasks(declared) = &folder.kind;
            folder.name = of.remove(key).unwrap_or_else(|| declared.as_str().into());
        }
    }

    /// Looks at everything in a folder.
    fn list_folder(&mut self, agent: &Key, opened: &Opened, visit: &mut Visit) {
        let path = self.path(agent);
        let is_template = self.is_template(agent);
        let (settle, resync) = (self.place.settle, self.place.resync);
        let Some(folder) = self.folders.get_mut(agent) else { return };
        let (names, is_whole) = match list(&opened.folder) {
            Ok(listed) => listed,
            Err(error) => {
                folder.access = Access::None;
                folder.problem = Some(format!("failed to read {}: {error}", path.display()));
                return;
            }
        };
        let mut found = BTreeSet::new();
        let mut is_proven = false;
        for name in &names {
            let seen = folder.note(name, Happened::default(), &opened.folder, is_template, settle, &mut visit.news);
            if let Some((key, is_its_own)) = seen {
                is_proven |= is_its_own;
                found.insert(key);
            }
        }
        folder.forget_absent(&found, &names);
        if is_whole {
            let expected = folder.expected();
            let (found, announced) = (&found & &expected, BTreeSet::new());
            let (expected, found, announced) = (&expected, &found, &announced);
            let sight = Sight { here: opened.here, expected, found, announced, is_whole, is_proven };
            let change = folder.absence.after(&sight, Instant::now(), resync);
            folder.apply(change, &mut visit.news);
        } else {
            folder.absence.postpone(Instant::now() + resync);
            let problem = format!("{} has more than {MAX_ENTRIES} entries; remove what is no task", path.display());
            folder.problem.get_or_insert(problem);
        }
        self.leave(agent, opened, visit);
    }

    /// Looks at these names in a folder.
    fn look_at(&mut self, agent: &Key, names: &BTreeMap<OsString, Happened>, visit: &mut Visit) {
        let Some(opened) = self.open(agent, visit) else { return };
        let is_template = self.is_template(agent);
        let (settle, resync) = (self.place.settle, self.place.resync);
        let Some(folder) = self.folders.get_mut(agent) else { return };
        // What was announced of another folder says nothing of this one.
        if folder.watched != Some(opened.here) || !folder.absence.was_listed(opened.here) {
            return self.list_folder(agent, &opened, visit);
        }
        let (mut expected, mut announced, mut found) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (name, &happened) in names {
            if let Some(key) = folder.known(name) {
                if happened.is_removed {
                    announced.insert(key.clone());
                }
                expected.insert(key);
            }
            let seen = folder.note(name, happened, &opened.folder, is_template, settle, &mut visit.news);
            found.extend(seen.map(|(key, _)| key).filter(|key| expected.contains(key)));
        }
        let (expected, found, announced) = (&expected, &found, &announced);
        let sight = Sight { here: opened.here, expected, found, announced, is_whole: false, is_proven: false };
        let change = folder.absence.after(&sight, Instant::now(), resync);
        folder.apply(change, &mut visit.news);
    }

    /// Does what only time had to pass for.
    fn settle(&mut self, visit: &mut Visit) {
        let now = Instant::now();
        let is_due = |folder: &Folder| folder.access != Access::None && folder.due().is_some_and(|due| due <= now);
        let due: Vec<Key> = self.folders.iter().filter(|(_, it)| is_due(it)).map(|(key, _)| key.clone()).collect();
        for agent in due {
            let Some(opened) = self.open(&agent, visit) else { continue };
            let Some(folder) = self.folders.get_mut(&agent) else { continue };
            folder.ripen(&opened.folder, now, self.place.settle);
            if folder.absence.due().is_some_and(|due| due <= now) {
                self.list_folder(&agent, &opened, visit);
            }
            let others = self.folders.get(&agent).into_iter().flat_map(|folder| &folder.others);
            let others = others.filter(|(_, other)| other.until.is_some_and(|until| until <= now));
            let others: Vec<OsString> = others.map(|(name, _)| name.clone()).collect();
            for name in others {
                self.move_other(&agent, &name, &opened, visit);
            }
        }
    }

    /// Tries again to remove and to move away what could not be.
    fn leave(&mut self, agent: &Key, opened: &Opened, visit: &mut Visit) {
        let Some(folder) = self.folders.get(agent) else { return };
        let leaving = |(key, file): (&Key, &File)| match &file.standing {
            Standing::Leaving(leave) => Some((key.clone(), leave.clone())),
            _ => None,
        };
        let leaving: Vec<_> = folder.files.iter().filter_map(leaving).collect();
        let others = folder.others.iter().filter(|(_, other)| other.until.is_none());
        let others: Vec<OsString> = others.map(|(name, _)| name.clone()).collect();
        for (key, leave) in leaving {
            match leave {
                Leave::Removed(file) => self.remove(&key, file, visit),
                Leave::Refused(why) => self.refuse(&key, why, visit),
            }
        }
        for name in others {
            self.move_other(agent, &name, opened, visit);
        }
    }

    /// Reads tasks and tells them, as long as enough were answered.
    fn read_tasks(&mut self, visit: &mut Visit) {
        let operators = self.place.operators.clone();
        let mut owners: BTreeMap<Key, (Rc<Opened>, Owners<'_>)> = BTreeMap::new();
        let agents = self.folders.iter().filter(|(_, folder)| !folder.ready.is_empty());
        let agents: Vec<Key> = agents.map(|(agent, _)| agent.clone()).filter(|agent| self.is_template(agent)).collect();
        for agent in agents {
            if let Some(opened) = self.open(&agent, visit)
                && self.folders.get(&agent).is_some_and(|folder| folder.access == Access::Write)
            {
                let of = Owners::new(&operators, opened.owner);
                owners.insert(agent, (opened, of));
            }
        }
        while self.told.len() < MOST_TOLD && self.told.values().sum::<usize>() <= MOST_TEXT - LONGEST_TASK {
            let firsts = owners.keys().filter_map(|agent| Some((self.folders.get(agent)?.ready.first()?, agent)));
            let Some((_, agent)) = firsts.min() else { return };
            let Some((opened, owners)) = owners.get(agent) else { return };
            let agent = agent.clone();
            self.read_first(&agent, opened, owners, visit);
        }
    }

    /// Reads the first task of those that are ready in a folder.
    fn read_first(&mut self, agent: &Key, opened: &Opened, owners: &Owners<'_>, visit: &mut Visit) {
        let now = Instant::now();
        let (settle, resync) = (self.place.settle, self.place.resync);
        let Some(folder) = self.folders.get_mut(agent) else { return };
        let Kind::Tasks(name) = folder.kind.clone();
        let Some((_, key)) = folder.ready.first().cloned() else { return };
        let file = folder.files.get(&key).filter(|file| matches!(file.standing, Standing::Ready(_)));
        let Some(file) = file else {
            folder.ready.pop_first();
            return;
        };
        let (id, version, is_settled) = (file.id.clone(), file.version, file.standing == Standing::Ready(true));
        match task::read(&opened.folder, &id, owners, is_settled) {
            Ok(Read { text, by, is_own, version, sidecar }) => {
                folder.problems.remove(id.as_str());
                folder.change_to(&key, version, Standing::Known);
                self.told.insert(key, text.as_slice().len());
                let task = Task { agent: name, id, text, by, is_own, written: version.written };
                visit.news.push(News::Task { task, file: version.file, sidecar });
            }
            Err(Flaw::Gone) => folder.drop(&key),
            Err(Flaw::Unfinished) => {
                let look = safe_path::look(&opened.folder, OsStr::new(id.as_str()));
                let version = look.map_or(version, |look| look.version.into());
                folder.change_to(&key, version, Standing::Unsettled(now + settle));
            }
            Err(Flaw::Unreadable(error)) => {
                folder.problems.insert(id.to_string(), format!("it cannot be read: {error}"));
                folder.change(&key, Standing::Unsettled(now + resync));
            }
            Err(Flaw::Wrong(why)) => {
                visit.news.push(News::Refused { agent: name, id: id.to_string(), why: why.clone() });
                self.refuse(&key, why, visit);
            }
        }
    }

    /// Moves a task away, unless another file has taken its place.
    fn refuse(&mut self, key: &Key, why: String, visit: &mut Visit) {
        let Some((agent, _)) = key.run() else { return };
        let opened = self.open(&agent, visit);
        let Some(folder) = self.folders.get_mut(&agent) else { return };
        let Some(file) = folder.files.get(key) else { return };
        let (id, version) = (file.id.clone(), file.version);
        let Some(opened) = opened else { return folder.change(key, Standing::Leaving(Leave::Refused(why))) };
        let name = OsStr::new(id.as_str());
        let moved = match safe_path::look(&opened.folder, name) {
            Ok(look) if Version::from(look.version).file == version.file => {
                self.move_away(&agent, name, id.as_str(), &why, &opened, visit)
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        let Some(folder) = self.folders.get_mut(&agent) else { return };
        match moved {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let problem = format!("it was refused ({why}), and cannot be moved away: {error}");
                folder.problems.insert(id.to_string(), problem);
                folder.change(key, Standing::Leaving(Leave::Refused(why)));
            }
            _ => self.left(&agent, key, name, &opened, visit),
        }
    }

    /// A file has left. What is there instead is another one.
    fn left(&mut self, agent: &Key, key: &Key, name: &OsStr, opened: &Opened, visit: &mut Visit) {
        let (is_template, settle) = (self.is_template(agent), self.place.settle);
        let Some(folder) = self.folders.get_mut(agent) else { return };
        folder.drop(key);
        folder.note(name, Happened::default(), &opened.folder, is_template, settle, &mut visit.news);
    }

    /// Moves something away that can be no task by its name.
    fn move_other(&mut self, agent: &Key, name: &OsStr, opened: &Opened, visit: &mut Visit) {
        let Some(folder) = self.folders.get_mut(agent) else { return };
        let Some(other) = folder.others.get(name).cloned() else { return };
        match safe_path::look(&opened.folder, name) {
            Ok(look) if Version::from(look.version) != other.version && other.until.is_some() => {
                // It is still being written.
                let (version, until) = (look.version.into(), Some(Instant::now() + self.place.settle));
                folder.others.insert(name.to_owned(), Other { version, until, ..other });
                return;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return drop(folder.others.remove(name)),
            _ => {}
        }
        let shown = escaped(&name.to_string_lossy());
        if other.until.is_some() {
            let Kind::Tasks(agent) = folder.kind.clone();
            visit.news.push(News::Refused { agent, id: shown.clone(), why: other.why.clone() });
        }
        let moved = self.move_away(agent, name, &plain(name), &other.why, opened, visit);
        let Some(folder) = self.folders.get_mut(agent) else { return };
        match moved {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let problem = format!("it can be no task ({}), and cannot be moved away: {error}", other.why);
                folder.problems.insert(shown, problem);
                folder.others.insert(name.to_owned(), Other { until: None, ..other });
            }
            _ => {
                folder.problems.remove(&shown);
                folder.others.remove(name);
            }
        }
    }

    fn move_away(
        &mut self,
        agent: &Key,
        name: &OsStr,
        base: &str,
        why: &str,
        opened: &Opened,
        visit: &mut Visit,
    ) -> io::Result<()> {
        let group = self.place.group;
        let refused = if let Some(refused) = visit.refused.get(agent) {
            Rc::clone(refused)
        } else {
            let path = self.path(agent).join(refused::FOLDER);
            let refused = refused::open(&opened.folder, opened.owner, &path, group).map_err(io::Error::other)?;
            let refused = Rc::new(refused);
            visit.refused.insert(agent.clone(), Rc::clone(&refused));
            refused
        };
        refused::put(&opened.folder, &refused, (name, base), why, group)?;
        if let Some(folder) = self.folders.get_mut(agent) {
            // With a note, and perhaps with what was beside it.
            folder.refused = folder.refused.map(|count| count + 3);
        }
        Ok(())
    }

    /// Removes the file of a run that is over, and what is beside it.
    fn remove(&mut self, key: &Key, file: FileId, visit: &mut Visit) {
        self.told.remove(key);
        let Some((agent, folded)) = key.run() else { return };
        let opened = self.open(&agent, visit);
        let Some(folder) = self.folders.get_mut(&agent) else { return };
        let id = folder.files.get(key).map_or_else(|| folded.to_owned(), |file| file.id.to_string());
        let leaving = Standing::Leaving(Leave::Removed(file));
        let Some(opened) = opened else { return folder.change(key, leaving) };
        let unlink = |name: &OsStr| match unlinkat(&opened.folder, name, UnlinkatFlags::NoRemoveDir) {
            Err(error) if io::Error::from(error).kind() != io::ErrorKind::NotFound => Err(io::Error::from(error)),
            _ => Ok(()),
        };
        let name = OsStr::new(&id);
        let (removed, is_gone) = match safe_path::look(&opened.folder, name) {
            Ok(look) if look.version.id == file => (unlink(name), true),
            Ok(_) => (Ok(()), false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Ok(()), true),
            Err(error) => (Err(error), false),
        };
        if removed.is_ok() && is_gone {
            // If what is beside it stays, that is no harm.
            let _ = unlink(&beside(&id));
        }
        match removed {
            Ok(()) => {
                visit.news.push(News::Removed { key: key.clone() });
                self.left(&agent, key, name, &opened, visit);
            }
            Err(error) => {
                folder.problems.insert(id, format!("its run is over, and it cannot be removed: {error}"));
                folder.change(key, leaving);
            }
        }
    }

    /// Writes a task of the daemon itself, unless there is a file of its name.
    fn write(&mut self, agent: &Name, id: &RunId, text: &SecretBytes, visit: &mut Visit) {
        let key = agent.key();
        self.folder(&key);
        let written = match self.open(&key, visit) {
            Some(opened) => task::write(&opened.folder, id, text).map_err(|error| error.to_string()),
            None => Err("its folder cannot be opened".to_owned()),
        };
        let Some(folder) = self.folders.get_mut(&key) else { return };
        match written {
            Ok(()) => drop(folder.problems.remove(id.as_str())),
            Err(error) => {
                tracing::warn!(run = %agent.of_run(id), "its task cannot be written: {error}");
                folder.problems.insert(id.to_string(), format!("the task of a schedule cannot be written: {error}"));
            }
        }
    }

    /// Removes the oldest of what was refused where there is too much.
    fn prune(&mut self, visit: &mut Visit) {
        for (agent, refused) in &visit.refused {
            if let Some(folder) = self.folders.get_mut(agent)
                && folder.refused.is_none_or(|count| count > refused::MOST)
            {
                folder.refused = refused::prune(refused).ok();
            }
        }
    }

    /// What needs attention.
    fn problems(&self) -> Option<String> {
        let mut lines: Vec<String> = self.problem.iter().chain(&self.strays).cloned().collect();
        for (agent, folder) in &self.folders {
            let path = self.path(agent);
            lines.extend(folder.problem.clone());
            let shown = |name: &str| escaped(&path.join(name).display().to_string());
            lines.extend(folder.problems.iter().map(|(name, problem)| format!("{}: {problem}", shown(name))));
            lines.extend(missed(&folder.absence, &path));
        }
        if let Some(more) = lines.len().checked_sub(MOST_PROBLEMS).filter(|&more| more > 0) {
            lines.truncate(MOST_PROBLEMS);
            lines.push(format!("and {more} more like these"));
        }
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    fn due(&self) -> Option<Instant> {
        let open = self.folders.values().filter(|folder| folder.access != Access::None);
        open.filter_map(Folder::due).min()
    }
}

impl Folder {
    fn new(kind: Kind) -> Self {
        let Kind::Tasks(name) = &kind;
        Self {
            name: name.as_str().into(),
            kind,
            files: BTreeMap::new(),
            others: BTreeMap::new(),
            ready: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            absence: Absence::default(),
            watched: None,
            access: Access::None,
            problem: None,
            problems: BTreeMap::new(),
            refused: None,
        }
    }

    /// The runs whose files are expected to be there.
    fn expected(&self) -> BTreeSet<Key> {
        let known = self.files.iter().filter(|(_, file)| file.standing == Standing::Known);
        known.map(|(key, _)| key.clone()).collect()
    }

    fn expects(&self) -> bool {
        self.files.values().any(|file| file.standing == Standing::Known)
    }

    /// Whether there is a file in it that was told.
    fn is_needed(&self) -> bool {
        self.files.values().any(|file| matches!(file.standing, Standing::Known | Standing::Leaving(_)))
    }

    /// The run whose file has exactly this name, and is expected to be there.
    fn known(&self, name: &OsStr) -> Option<Key> {
        let key = self.key(&name.to_str()?.parse().ok()?);
        let file = self.files.get(&key)?;
        (file.standing == Standing::Known && file.id.as_str() == name).then_some(key)
    }

    fn key(&self, id: &RunId) -> Key {
        let Kind::Tasks(agent) = &self.kind;
        agent.of_run(id).key()
    }

    fn insert(&mut self, key: &Key, file: File) {
        self.drop(key);
        self.files.insert(key.clone(), file);
        self.enter(key);
    }

    /// Changes how a file stands.
    fn change(&mut self, key: &Key, standing: Standing) {
        self.exit(key);
        if let Some(file) = self.files.get_mut(key) {
            file.standing = standing;
        }
        self.enter(key);
    }

    /// Changes how a file stands, and which version of it is known.
    fn change_to(&mut self, key: &Key, version: Version, standing: Standing) {
        self.exit(key);
        if let Some(file) = self.files.get_mut(key) {
            (file.version, file.standing) = (version, standing);
        }
        self.enter(key);
    }

    /// Forgets a file.
    fn drop(&mut self, key: &Key) {
        self.exit(key);
        self.absence.forget(key);
        if let Some(file) = self.files.remove(key) {
            self.problems.remove(file.id.as_str());
        }
    }

    fn enter(&mut self, key: &Key) {
        match self.files.get(key) {
            Some(File { standing: Standing::Unsettled(until), .. }) => {
                self.unsettled.insert((*until, key.clone()));
            }
            Some(File { standing: Standing::Ready(_), version, .. }) => {
                self.ready.insert((version.written, key.clone()));
            }
            _ => {}
        }
    }

    fn exit(&mut self, key: &Key) {
        match self.files.get(key) {
            Some(File { standing: Standing::Unsettled(until), .. }) => {
                self.unsettled.remove(&(*until, key.clone()));
            }
            Some(File { standing: Standing::Ready(_), version, .. }) => {
                self.ready.remove(&(version.written, key.clone()));
            }
            _ => {}
        }
    }

    /// Forgets what is not told yet: its template is gone.
    fn forget_new(&mut self) {
        let is_new = |file: &File| matches!(file.standing, Standing::Unsettled(_) | Standing::Ready(_));
        let new: Vec<Key> = self.files.iter().filter(|(_, it)| is_new(it)).map(|(key, _)| key.clone()).collect();
        for key in &new {
            self.drop(key);
        }
        self.others.clear();
    }

    /// Forgets what is not told yet, and is not there any more.
    fn forget_absent(&mut self, found: &BTreeSet<Key>, names: &[OsString]) {
        let is_absent = |(key, file): &(&Key, &File)| file.standing != Standing::Known && !found.contains(*key);
        let absent: Vec<Key> = self.files.iter().filter(is_absent).map(|(key, _)| key.clone()).collect();
        for key in &absent {
            self.drop(key);
        }
        if !self.others.is_empty() {
            let names: BTreeSet<&OsString> = names.iter().collect();
            self.others.retain(|name, _| names.contains(name));
        }
    }

    /// Looks at one name. Returns the run if the file is that of one, and whether it is the very file that is expected.
    fn note(
        &mut self,
        name: &OsStr,
        happened: Happened,
        folder: &OwnedFd,
        is_template: bool,
        settle: Duration,
        news: &mut Vec<News>,
    ) -> Option<(Key, bool)> {
        if name.as_encoded_bytes().contains(&b'.') {
            return None;
        }
        let id = name.to_str().and_then(|name| name.parse::<RunId>().ok());
        let look = match safe_path::look(folder, name) {
            Ok(look) => look,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.others.remove(name);
                let key = id.map(|id| (self.key(&id), id));
                let is_new = |file: &File, id: &RunId| file.id == *id && file.standing != Standing::Known;
                if let Some((key, id)) = key
                    && self.files.get(&key).is_some_and(|file| is_new(file, &id))
                {
                    self.drop(&key);
                }
                return None;
            }
            // What cannot be examined is there.
            Err(_) => return id.map(|id| (self.key(&id), false)),
        };
        let version = Version::from(look.version);
        let now = Instant::now();
        let until = now + settle.saturating_sub(age(version.written));
        let Some(id) = id else {
            if is_template {
                let why = format!("its name cannot be an id: {}", crate::agent::name::InvalidRunId);
                self.others.entry(name.to_owned()).or_insert(Other { version, until: Some(until), why });
            }
            return None;
        };
        let key = self.key(&id);
        if let Some(file) = self.files.get_mut(&key).filter(|file| file.id != id) {
            let is_there = safe_path::look(folder, OsStr::new(file.id.as_str())).is_ok();
            if is_there {
                if is_template {
                    let why = format!(
                        "its name differs from {} only in case, and both are one id; choose another name",
                        file.id
                    );
                    self.others.entry(name.to_owned()).or_insert(Other { version, until: Some(until), why });
                }
                return None;
            }
            file.id = id.clone();
        }
        let fresh = if happened.is_written { Standing::Ready(false) } else { Standing::Unsettled(until) };
        let Some(file) = self.files.get_mut(&key) else {
            if is_template {
                self.insert(&key, File { id, version, standing: fresh, is_edited: false });
            }
            return Some((key, false));
        };
        let is_same_file = file.version.file == version.file;
        match &file.standing {
            Standing::Known => {
                if version != file.version && !std::mem::replace(&mut file.is_edited, true) {
                    news.push(News::Edited { key: key.clone() });
                }
                return Some((key, is_same_file));
            }
            Standing::Leaving(_) if is_same_file => {}
            Standing::Unsettled(_) | Standing::Ready(_) if !happened.is_written && version == file.version => {}
            _ if is_template => self.insert(&key, File { id, version, standing: fresh, is_edited: false }),
            _ => self.drop(&key),
        }
        Some((key, false))
    }

    /// Makes tasks ready that were not written for long enough.
    fn ripen(&mut self, folder: &OwnedFd, now: Instant, settle: Duration) {
        while let Some((_, key)) = self.unsettled.first().filter(|(until, _)| *until <= now).cloned() {
            let Some(file) = self.files.get(&key) else {
                self.unsettled.pop_first();
                continue;
            };
            match safe_path::look(folder, OsStr::new(file.id.as_str())) {
                Ok(look) if Version::from(look.version) == file.version => self.change(&key, Standing::Ready(true)),
                Ok(look) => self.change_to(&key, look.version.into(), Standing::Unsettled(now + settle)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.drop(&key),
                Err(_) => self.change(&key, Standing::Ready(true)),
            }
        }
    }

    /// Takes in what is known of absent files now, and tells it.
    fn apply(&mut self, change: Change, news: &mut Vec<News>) {
        let Change { gone, missed, found } = change;
        for key in gone {
            self.drop(&key);
            news.push(News::Gone { key });
        }
        news.extend(missed.into_iter().map(|key| News::Missed { key }));
        news.extend(found.into_iter().map(|key| News::Found { key }));
    }

    fn due(&self) -> Option<Instant> {
        let unsettled = self.unsettled.first().map(|(until, _)| *until);
        let other = self.others.values().filter_map(|other| other.until).min();
        [unsettled, other, self.absence.due()].into_iter().flatten().min()
    }
}

/// How long ago that was; zero if it is still to come.
fn age(written: SystemTime) -> Duration {
    SystemTime::now().duration_since(written).unwrap_or_default()
}

fn in_proc(folder: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

/// The names in a folder, and whether these are all.
fn list(folder: &OwnedFd) -> io::Result<(Vec<OsString>, bool)> {
    let entries = fs::read_dir(in_proc(folder))?.take(MAX_ENTRIES + 1);
    let mut names: Vec<OsString> = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    let is_whole = names.len() <= MAX_ENTRIES;
    names.truncate(MAX_ENTRIES);
    Ok((names, is_whole))
}

/// What is beside the task of this name.
fn beside(id: &str) -> OsString {
    format!("{id}{ENDING}").into()
}

/// A name for a file whose own name can be anything.
fn plain(name: &OsStr) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let plain = |c: char| if is_plain(c) { c } else { '_' };
    name.to_string_lossy().chars().map(plain).take(RunId::MAX_LENGTH).collect()
}

/// What is missed in a folder, as a problem.
fn missed(absence: &Absence, folder: &Path) -> Option<String> {
    let count = absence.missed().count();
    if count == 0 {
        return None;
    }
    let mut names = absence.missed().take(MOST_NAMES).filter_map(Key::run).map(|(_, id)| id.to_owned());
    let mut names = names.by_ref().collect::<Vec<_>>().join(", ");
    if let Some(more) = count.checked_sub(MOST_NAMES).filter(|&more| more > 0) {
        // Writing to a string never fails.
        let _ = write!(names, " and {more} more");
    }
    let stays = "these runs go on until another look finds the same";
    Some(format!("no longer in {}: {names}; {stays}", folder.display()))
}
