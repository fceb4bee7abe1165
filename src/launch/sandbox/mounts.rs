//! The file system inside a sandbox: from what was found on the machine to what is where. Pure.
//!
//! ```text
//! /usr /bin /lib* /opt /nix/store /etc/…   the machine's, read-only; of /etc only what programs need to run
//! /etc/passwd /etc/group                   the own user
//! /proc /dev                               made anew by the engine
//! /tmp                                     the attempt's own folder for temporary files
//! /run                                     the program of this launcher, and what resolv.conf leads to
//! the home                                 a folder of the agent's own, an empty one, or the user's
//! the working directory                    the real one, with the git directory that it belongs to
//! `sandbox_read`, `sandbox_write`          the real ones
//! ```
//!
//! The root is a folder that the launcher makes: folders, links and small files ([`Item`]). Over it come the mounts, parents first.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::forward;
use super::repository::Repository;
use crate::agent::sandbox::{Home, Sandbox};
use crate::agent::skills::Skill;
use crate::launch::protocol::Taught;
use crate::sys::steady_path;

/// Where the launcher's program is, inside.
pub(in crate::launch) const PROGRAM: &str = "/run/agentd/inner";

/// Where the socket for what hooks tell is, inside.
pub(in crate::launch) const TELL: &str = "/run/agentd/tell.sock";

/// Where the skills are, inside.
pub(in crate::launch) const SKILLS: &str = "/run/agentd/skills";

/// Where the files with secrets are, inside.
pub(in crate::launch) const SECRETS: &str = "/run/agentd/secrets";

/// Where the seed of a fresh home is, inside.
pub(super) const SEED: &str = "/run/agentd/seed";

/// The folder for temporary files, inside.
pub(in crate::launch) const TEMPORARY: &str = "/tmp";

/// What of the machine every sandbox has, as far as it exists.
pub(super) const SYSTEM: [&str; 12] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/nix/store",
    // On NixOS, what `PATH` consists of: links into the store.
    "/run/current-system",
    "/etc/static",
    "/etc/profiles",
];

/// What of `/etc` every sandbox has, as far as it exists. No file in it is about other users, or holds a secret.
pub(super) const SETTINGS: [&str; 37] = [
    "alternatives",
    "bash.bashrc",
    "bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "fonts",
    "gai.conf",
    "gitconfig",
    "host.conf",
    "hosts",
    "inputrc",
    "java-17-openjdk",
    "java-21-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "login.defs",
    "lsb-release",
    "magic",
    "mime.types",
    "nix",
    "nsswitch.conf",
    "os-release",
    "pki",
    "profile",
    "profile.d",
    "protocols",
    "rpc",
    "services",
    "shells",
    "ssl",
    "terminfo",
    "timezone",
    "zoneinfo",
];

/// The longest file of [`SETTINGS`] that is copied. Each mount costs more time than that.
pub(super) const MOST_COPIED: u64 = 256 << 10;

/// What of [`SETTINGS`] is edited in place, and shown as it is while the agent runs.
pub(super) const LIVE: [&str; 1] = ["hosts"];

/// What was found on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub uid: u32,
    pub gid: u32,
    /// The user's name.
    pub user: String,
    /// The user's home and shell.
    pub home: PathBuf,
    pub shell: PathBuf,
    /// What the home leads to.
    pub real_home: PathBuf,
    /// What of that an agent must not change, because it runs outside of the sandbox.
    pub run_outside: Vec<PathBuf>,
    /// The working directory as declared, and what that leads to.
    pub workdir: PathBuf,
    pub real_workdir: PathBuf,
    /// What was examined, and is to be what is mounted.
    pub examined: Vec<Examined>,
    /// What of [`SYSTEM`] and [`SETTINGS`] exists.
    pub system: Vec<(PathBuf, Found)>,
    /// What `/etc/resolv.conf` is, and what of `/run` it leads to.
    pub resolver: Option<(Found, Option<PathBuf>)>,
    /// The paths of the store that are shown, if not all of them are.
    pub closure: Option<Vec<PathBuf>>,
    /// The git repository that the working directory is in.
    pub repository: Option<Repository>,
    /// The folder that becomes the home, or that a fresh home is filled from.
    pub made_home: Option<PathBuf>,
    /// The attempt's folder for temporary files.
    pub temporary: PathBuf,
    /// The launcher's program.
    pub launcher: PathBuf,
    /// The socket behind which the proxy is, if there is one.
    pub gate: Option<PathBuf>,
    /// Where skills and files with secrets are inside, and the folders of the machine that they are.
    pub shown: Vec<(PathBuf, PathBuf)>,
    /// The socket for what hooks tell, if there is one.
    pub tell: Option<PathBuf>,
    /// What of `/proc` is covered.
    pub masked: Vec<PathBuf>,
    /// Folders that no sandbox may reach.
    pub hidden: Vec<PathBuf>,
    /// Which of the paths are files.
    pub files: BTreeSet<PathBuf>,
}

/// A file or folder that was examined, and its path, which has no links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Examined {
    pub path: PathBuf,
    pub device: u64,
    pub inode: u64,
}

impl Examined {
    pub fn of(found: &steady_path::Found) -> Self {
        Self { path: found.path.clone(), device: found.status.st_dev, inode: found.status.st_ino }
    }

    /// Whether it still is at its path.
    pub fn is_there(&self) -> bool {
        let is_it = |it: Metadata| (it.dev(), it.ino()) == (self.device, self.inode);
        fs::symlink_metadata(&self.path).is_ok_and(is_it)
    }
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Folder,
    File,
    /// A file that is copied. Programs that change it replace it, which a mount would not show either.
    Small,
    /// A link that leads there.
    Link(PathBuf),
}

/// Something in the root folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    Folder(PathBuf),
    /// An empty file, which is mounted over.
    Blank(PathBuf),
    Link(PathBuf, PathBuf),
    File(PathBuf, String),
    /// What the machine has there.
    Copy(PathBuf),
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub at: PathBuf,
    pub what: What,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A file or folder of the machine, and everything that is mounted below it.
    Bind { from: PathBuf, writable: bool, is_file: bool },
    /// An empty file system in memory.
    Memory { writable: bool },
}

/// Where a mount will be, in a folder of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub mount: &'a Mount,
    pub folder: &'a Path,
    /// The way from the folder.
    pub below: &'a Path,
    /// Whether the agent can write in the folder.
    pub is_writable: bool,
}

/// The file system inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub items: Vec<Item>,
    pub mounts: Vec<Mount>,
    /// What of `/proc` is covered.
    pub masked: Vec<PathBuf>,
}

/// Plans the file system of a sandbox.
pub(super) fn plan(sandbox: &Sandbox, facts: &Facts) -> Plan {
    let mut plan = Plan { masked: facts.masked.clone(), ..Plan::default() };
    plan.add_base(facts);
    for (path, found) in &facts.system {
        plan.show(path, found);
    }
    plan.narrow_store(facts.closure.as_deref());
    if let Some((found, below)) = &facts.resolver {
        plan.show(Path::new("/etc/resolv.conf"), found);
        plan.mounts.extend(below.as_ref().map(|path| bind(path, path, false)));
    }
    plan.mounts.push(bind(Path::new(PROGRAM), &facts.launcher, false));
    plan.mounts.extend(facts.gate.iter().map(|gate| bind(Path::new(forward::SOCKET), gate, false)));
    plan.mounts.extend(facts.tell.iter().map(|tell| bind(Path::new(TELL), tell, false)));
    plan.add_home(sandbox.home, facts);
    plan.mounts.extend(sandbox.read.iter().map(|path| bind(path, path, false)));
    plan.add_workdir(facts);
    plan.mounts.extend(sandbox.write.iter().map(|path| bind(path, path, true)));
    plan.mounts.extend(facts.shown.iter().map(|(at, from)| bind(at, from, false)));
    // The last of several at one place is the one that is meant.
    plan.mounts.push(bind(Path::new(TEMPORARY), &facts.temporary, true));
    plan.hide(&facts.hidden);
    let fixed: Vec<PathBuf> = facts.run_outside.iter().filter_map(|path| in_home(path, facts)).collect();
    for path in &fixed {
        plan.fix(path);
    }
    plan.finish(&facts.files);
    plan
}

/// Where each skill is in a sandbox with this home: in a folder that it learns of, and where its harness looks.
pub(super) fn skills(taught: &Taught, home: &Path) -> Vec<(PathBuf, PathBuf)> {
    let folders = [Some(PathBuf::from(SKILLS)), taught.folder.as_ref().map(|below| home.join(below))];
    let folders: Vec<PathBuf> = folders.into_iter().flatten().collect();
    let of = |skill: &Skill| {
        folders.iter().map(|folder| (folder.join(&skill.name), skill.folder.clone())).collect::<Vec<_>>()
    };
    taught.skills.iter().flat_map(of).collect()
}

fn bind(at: &Path, from: &Path, writable: bool) -> Mount {
    Mount { at: at.to_owned(), what: What::Bind { from: from.to_owned(), writable, is_file: false } }
}

/// Where something in the real home is inside.
fn in_home(path: &Path, facts: &Facts) -> Option<PathBuf> {
    path.strip_prefix(&facts.real_home).ok().map(|below| facts.home.join(below))
}

impl Plan {
    fn add_base(&mut self, facts: &Facts) {
        let Facts { uid, gid, user, home, shell, .. } = facts;
        let (home, shell) = (home.display(), shell.display());
        let root = |line: &'static str, id: u32| if id == 0 { "" } else { line };
        let users = format!(
            "{}{user}:x:{uid}:{gid}::{home}:{shell}\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
            root("root:x:0:0:root:/root:/usr/sbin/nologin\n", *uid)
        );
        let groups = format!("{}{user}:x:{gid}:\nnogroup:x:65534:\n", root("root:x:0:\n", *gid));
        let folders = ["/dev", "/etc", "/proc", "/run/agentd", "/var"];
        self.items.extend(folders.map(|path| Item::Folder(path.into())));
        self.items.push(Item::File("/etc/passwd".into(), users));
        self.items.push(Item::File("/etc/group".into(), groups));
        self.items.push(Item::Link("/var/tmp".into(), "../tmp".into()));
    }

    fn show(&mut self, path: &Path, found: &Found) {
        match found {
            Found::Small => self.items.push(Item::Copy(path.to_owned())),
            Found::Link(to) => self.items.push(Item::Link(path.to_owned(), to.clone())),
            Found::Folder | Found::File => self.mounts.push(bind(path, path, false)),
        }
    }

    /// Shows only these paths of the store.
    fn narrow_store(&mut self, closure: Option<&[PathBuf]>) {
        let Some(closure) = closure else { return };
        self.mounts.retain(|mount| mount.at != Path::new("/nix/store"));
        self.mounts.extend(closure.iter().map(|path| bind(path, path, false)));
    }

    fn add_home(&mut self, home: Home, facts: &Facts) {
        let memory = Mount { at: facts.home.clone(), what: What::Memory { writable: true } };
        match (home, &facts.made_home) {
            (Home::Real, _) => {
                self.mounts.push(bind(&facts.home, &facts.real_home, true));
                let covered = facts.run_outside.iter();
                self.mounts.extend(covered.filter_map(|path| Some(bind(&in_home(path, facts)?, path, false))));
            }
            (Home::Kept, Some(kept)) => self.mounts.push(bind(&facts.home, kept, true)),
            (Home::Fresh, Some(seed)) => {
                self.mounts.push(memory);
                self.mounts.push(bind(Path::new(SEED), seed, false));
            }
            (Home::Kept | Home::Fresh, None) => self.mounts.push(memory),
        }
    }

    fn add_workdir(&mut self, facts: &Facts) {
        let repository = facts.repository.as_ref();
        let top = repository.and_then(|repository| repository.top.as_ref());
        self.mounts.extend(top.filter(|top| **top != facts.real_workdir).map(|top| bind(top, top, false)));
        self.mounts.push(bind(&facts.workdir, &facts.real_workdir, true));
        if facts.workdir != facts.real_workdir {
            self.mounts.push(bind(&facts.real_workdir, &facts.real_workdir, true));
        }
        let Some(repository) = repository else { return };
        let paths = repository.writable.iter().map(|path| (path, true));
        for (path, writable) in paths.chain(repository.read_only.iter().map(|path| (path, false))) {
            self.mounts.push(bind(path, path, writable));
            // The same under the declared path of the working directory.
            if facts.workdir != facts.real_workdir
                && let Ok(below) = path.strip_prefix(&facts.real_workdir)
            {
                self.mounts.push(bind(&facts.workdir.join(below), path, writable));
            }
        }
    }

    /// Covers what would be reachable through one of the mounts.
    fn hide(&mut self, hidden: &[PathBuf]) {
        for path in hidden {
            let shows = |mount: &Mount| match &mount.what {
                What::Bind { from, .. } => path.strip_prefix(from).ok().map(|below| mount.at.join(below)),
                What::Memory { .. } => None,
            };
            let places: BTreeSet<PathBuf> = self.mounts.iter().filter_map(shows).collect();
            for at in &places {
                self.fix(at);
            }
            self.mounts.extend(places.into_iter().map(|at| Mount { at, what: What::Memory { writable: false } }));
        }
    }

    /// Keeps what is mounted there from being moved together with a folder around it, by a mount of each of these of its own: after
    /// that the agent could put something else in the place that it covers outside.
    fn fix(&mut self, at: &Path) {
        let around = |mount: &&Mount| at.starts_with(&mount.at) && mount.at != at;
        let around = self.mounts.iter().filter(around).max_by_key(|mount| mount.at.components().count());
        let Some(Mount { at: top, what: What::Bind { from, writable: true, .. } }) = around.cloned() else { return };
        let between = at.ancestors().skip(1).take_while(|folder| **folder != top);
        let own = between.filter_map(|folder| Some(bind(folder, &from.join(folder.strip_prefix(&top).ok()?), true)));
        self.mounts.extend(own);
    }

    /// The mounts whose places are in a folder of the machine, with that folder and the way from there.
    pub fn places(&self) -> impl Iterator<Item = Place<'_>> {
        self.mounts.iter().enumerate().filter_map(|(number, mount)| {
            // Parents come first, so the last one that holds the place is the closest.
            let around = self.mounts[..number].iter().rfind(|other| mount.at.starts_with(&other.at))?;
            let What::Bind { from, writable, is_file: false } = &around.what else { return None };
            Some(Place { mount, folder: from, below: mount.at.strip_prefix(&around.at).ok()?, is_writable: *writable })
        })
    }

    /// Parents first, one mount at each place, and a place for each mount.
    fn finish(&mut self, files: &BTreeSet<PathBuf>) {
        let mut taken = BTreeSet::new();
        let mut mounts: Vec<Mount> = std::mem::take(&mut self.mounts);
        // The last of several at one place is the one that is meant.
        mounts.reverse();
        mounts.retain(|mount| taken.insert(mount.at.clone()));
        mounts.reverse();
        mounts.sort_by_key(|mount| mount.at.components().count());
        for mount in &mut mounts {
            if let What::Bind { from, is_file, .. } = &mut mount.what {
                *is_file = files.contains(from);
            }
        }
        for (number, mount) in mounts.iter().enumerate() {
            if mounts[..number].iter().any(|other| mount.at.starts_with(&other.at)) {
                continue;
            }
            let is_file = matches!(mount.what, What::Bind { is_file: true, .. });
            self.items.push(if is_file { Item::Blank(mount.at.clone()) } else { Item::Folder(mount.at.clone()) });
        }
        self.mounts = mounts;
        self.items.sort();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::agent::sandbox::{Engine, Network};

    /// An agent on Debian that works on a project of its own.
    pub fn facts() -> Facts {
        let link = |to: &str| Found::Link(to.into());
        Facts {
            uid: 1000,
            gid: 1000,
            user: "agent".to_owned(),
            home: "/home/agent".into(),
            shell: "/bin/bash".into(),
            real_home: "/home/agent".into(),
            run_outside: Vec::new(),
            shown: Vec::new(),
            examined: Vec::new(),
            masked: vec!["/proc/keys".into()],
            workdir: "/home/agent/project".into(),
            real_workdir: "/home/agent/project".into(),
            system: vec![
                ("/usr".into(), Found::Folder),
                ("/bin".into(), link("usr/bin")),
                ("/nix/store".into(), Found::Folder),
                ("/etc/hosts".into(), Found::File),
                ("/etc/services".into(), Found::Small),
            ],
            resolver: Some((link("../run/systemd/resolve/stub-resolv.conf"), Some("/run/systemd/resolve".into()))),
            closure: None,
            repository: None,
            made_home: Some("/home/agent/.local/state/agentd/homes/a".into()),
            temporary: "/tmp/agentd-t1".into(),
            launcher: "/usr/libexec/agentd-launcher".into(),
            gate: None,
            tell: None,
            hidden: vec!["/run/agentd".into(), "/home/agent/.local/state/agentd/homes".into()],
            files: ["/etc/hosts", "/usr/libexec/agentd-launcher"].map(PathBuf::from).into(),
        }
    }

    pub fn sandbox(home: Home) -> Sandbox {
        Sandbox {
            engine: Engine::Bwrap,
            program: None,
            read: Vec::new(),
            write: Vec::new(),
            home,
            seed: Vec::new(),
            network: Network::Host,
            proxy: None,
        }
    }

    /// The mounts, a line each.
    fn shown(plan: &Plan) -> Vec<String> {
        let line = |Mount { at, what }: &Mount| match what {
            What::Bind { from, writable, is_file } => {
                let access = if *writable { "rw" } else { "ro" };
                let kind = if *is_file { " file" } else { "" };
                format!("{access} {} <- {}{kind}", at.display(), from.display())
            }
            What::Memory { writable } => format!("{} {} memory", if *writable { "rw" } else { "ro" }, at.display()),
        };
        plan.mounts.iter().map(line).collect()
    }

    #[test]
    fn a_sandbox_has_the_system_a_home_and_the_work() {
        let plan = plan(&sandbox(Home::Kept), &facts());
        assert_eq!(
            shown(&plan),
            [
                "ro /usr <- /usr",
                "rw /tmp <- /tmp/agentd-t1",
                "ro /nix/store <- /nix/store",
                "ro /etc/hosts <- /etc/hosts file",
                "rw /home/agent <- /home/agent/.local/state/agentd/homes/a",
                "ro /run/systemd/resolve <- /run/systemd/resolve",
                "ro /run/agentd/inner <- /usr/libexec/agentd-launcher file",
                "rw /home/agent/project <- /home/agent/project",
            ]
        );
        let has = |item: Item| assert!(plan.items.contains(&item), "{item:?} in {:?}", plan.items);
        has(Item::Link("/bin".into(), "usr/bin".into()));
        has(Item::Link("/etc/resolv.conf".into(), "../run/systemd/resolve/stub-resolv.conf".into()));
        has(Item::Blank("/etc/hosts".into()));
        has(Item::Copy("/etc/services".into()));
        has(Item::Folder("/home/agent".into()));
        assert!(!plan.items.contains(&Item::Folder("/home/agent/project".into())), "it is made in the home");
        let passwd = plan.items.iter().find_map(|item| match item {
            Item::File(path, text) if path == Path::new("/etc/passwd") => Some(text.as_str()),
            _ => None,
        });
        assert_eq!(
            passwd.unwrap().lines().nth(1),
            Some("agent:x:1000:1000::/home/agent:/bin/bash"),
            "the own user, and none of the machine's"
        );
    }

    #[test]
    fn declared_paths_are_shown_and_a_repository_is_protected() {
        let mut sandbox = sandbox(Home::Fresh);
        sandbox.read = vec!["/srv/data".into()];
        sandbox.write = vec!["/srv/data/out".into()];
        let git = |name: &str| PathBuf::from(format!("/srv/repo/.git{name}"));
        let repository = Repository {
            top: Some("/srv/repo".into()),
            writable: vec![git("")],
            read_only: vec![git("/config"), git("/hooks")],
        };
        let facts = Facts {
            workdir: "/work".into(),
            real_workdir: "/srv/repo/sub".into(),
            repository: Some(repository),
            made_home: None,
            closure: Some(vec!["/nix/store/a-b".into()]),
            ..facts()
        };
        let shown = shown(&plan(&sandbox, &facts));
        for expected in [
            "ro /srv/data <- /srv/data",
            "rw /srv/data/out <- /srv/data/out",
            "ro /srv/repo <- /srv/repo",
            "rw /srv/repo/.git <- /srv/repo/.git",
            "ro /srv/repo/.git/hooks <- /srv/repo/.git/hooks",
            "rw /srv/repo/sub <- /srv/repo/sub",
            "rw /work <- /srv/repo/sub",
            "rw /home/agent memory",
            "ro /nix/store/a-b <- /nix/store/a-b",
        ] {
            assert!(shown.iter().any(|line| line == expected), "{expected} in {shown:#?}");
        }
        assert!(!shown.iter().any(|line| line.starts_with("ro /nix/store <-")));
        let at = |line: &str| shown.iter().position(|shown| shown.starts_with(line)).unwrap();
        assert!(
            at("ro /srv/repo <-") < at("rw /srv/repo/.git <-")
                && at("rw /srv/repo/.git <-") < at("ro /srv/repo/.git/h")
        );
    }

    #[test]
    fn what_is_hidden_is_covered_wherever_it_would_show() {
        let mut sandbox = sandbox(Home::Real);
        sandbox.read = vec!["/run".into()];
        let run_outside = vec!["/data/agent/.profile".into(), "/data/agent/.config/fish".into()];
        let hidden = vec!["/run/agentd".into(), "/data/agent/.local/state/agentd/homes".into(), "/opt/tmp".into()];
        let system = vec![("/opt".into(), Found::Folder)];
        let facts = Facts { real_home: "/data/agent".into(), run_outside, hidden, system, ..facts() };
        let shown = shown(&plan(&sandbox, &facts));
        for expected in [
            "ro /run/agentd memory",
            "ro /opt/tmp memory",
            "rw /home/agent <- /data/agent",
            "ro /home/agent/.local/state/agentd/homes memory",
            "rw /home/agent/.local/state/agentd <- /data/agent/.local/state/agentd",
            "rw /home/agent/.local/state <- /data/agent/.local/state",
            "rw /home/agent/.local <- /data/agent/.local",
            "ro /home/agent/.profile <- /data/agent/.profile",
            "rw /home/agent/.config <- /data/agent/.config",
            "ro /home/agent/.config/fish <- /data/agent/.config/fish",
        ] {
            assert_eq!(shown.iter().filter(|line| *line == expected).count(), 1, "{expected} in {shown:#?}");
        }
        // What is read-only is not made writable by that.
        assert!(!shown.iter().any(|line| line.starts_with("rw /opt") || line.starts_with("rw /run")), "{shown:#?}");
    }

    #[test]
    fn nothing_takes_the_place_of_the_own_tmp() {
        let mut sandbox = sandbox(Home::Kept);
        sandbox.write = vec!["/tmp".into()];
        let shown = shown(&plan(&sandbox, &facts()));
        let of_tmp: Vec<_> = shown.iter().filter(|line| line.contains(" /tmp <-")).collect();
        assert_eq!(of_tmp, ["rw /tmp <- /tmp/agentd-t1"]);
    }

    #[test]
    fn places_in_folders_of_the_machine_are_named() {
        let mut sandbox = sandbox(Home::Kept);
        sandbox.read = vec!["/usr/share/x".into()];
        let plan = plan(&sandbox, &facts());
        let places: Vec<(&Path, &Path, bool)> =
            plan.places().map(|place| (place.folder, place.below, place.is_writable)).collect();
        let kept = Path::new("/home/agent/.local/state/agentd/homes/a");
        assert_eq!(places, [(Path::new("/usr"), Path::new("share/x"), false), (kept, Path::new("project"), true)]);
    }
}
