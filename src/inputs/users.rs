//! The users that entries name: who may be one, and what each of them sees.
//!
//! An agent user other than the default one must not be, or be able to become, anybody who decides about agents: not root, and no
//! member of the group that administrates agentd or of the one that operates agents. And it must have been meant for agents: it is a
//! member of the agents' group. The user database is read again at each resync, outside of the loop.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use nix::unistd::{Gid, Group, Uid, User};

use crate::agent::seen::{Problem, Seen, SeenWorkdir};
use crate::agent::user::{AgentUser, UserName};
use crate::inputs::skills::Skills;
use crate::sys::account::Account;
use crate::wire::reason::WaitingFor;

/// Groups whose members can become root on many machines.
const MIGHTY: [&str; 3] = ["wheel", "sudo", "docker"];

/// Who may be an agent user beside the default one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Nobody: the daemon runs without root, as the default user.
    Nobody {
        /// Its name.
        own: String,
    },
    /// Members of a group who are in none of the others.
    Members {
        /// The group of agent users.
        agents: String,
        /// Those who may use the API, and those who may act on agents.
        banned: Vec<Banned>,
        /// The id of the default user, if it is known: another name with it would be no other user.
        default: Option<Uid>,
    },
}

/// A group whose members cannot be agent users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Banned {
    /// Its name.
    pub name: String,
    /// Its id.
    pub group: Gid,
}

/// What the user database says about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It has no such user.
    Absent,
    /// It has.
    Found {
        /// The user.
        account: Account,
        /// The names of the user's groups.
        groups: BTreeSet<String>,
    },
    /// It could not be asked, for this reason.
    Unknown(String),
}

/// Whether a user may be an agent user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may. `dangers` are groups that make it more than that.
    Fit {
        /// The user.
        account: Account,
        /// The groups.
        dangers: Vec<&'static str>,
    },
    /// It may not: the entry is wrong, and this is what would be right.
    Unfit(String),
    /// It was fit and is not there at present, or could not be looked up: the agent waits.
    Missing(Problem),
}

impl Standing {
    /// The user, if it is fit.
    pub fn account(&self) -> Option<&Account> {
        match self {
            Self::Fit { account, .. } => Some(account),
            Self::Unfit(_) | Self::Missing(_) => None,
        }
    }
}

/// The users that entries name, as they were last looked up.
pub type Standings = BTreeMap<UserName, Standing>;

/// What a user who is not the default one sees, or why nobody can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// This user sees that.
    Of {
        /// The user.
        account: Account,
        /// What it sees.
        seen: Seen,
    },
    /// The entry is wrong.
    Unfit(String),
    /// The agent waits for this.
    Missing(WaitingFor),
}

/// What agent users see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Views {
    /// The default user.
    pub own: Seen,
    /// The others.
    pub others: BTreeMap<UserName, View>,
    /// The skills that entries name, as root sees them.
    pub skills: Skills,
}

impl Views {
    /// What this user sees, if that is known; `None` is the default user.
    pub fn of(&self, user: Option<&UserName>) -> Option<&Seen> {
        match user {
            None => Some(&self.own),
            Some(user) => match self.others.get(user)? {
                View::Of { seen, .. } => Some(seen),
                View::Unfit(_) | View::Missing(_) => None,
            },
        }
    }

    /// The users who must not be agent users, and why.
    pub fn unfit(&self) -> impl Iterator<Item = (&UserName, &str)> {
        self.others.iter().filter_map(|(user, view)| match view {
            View::Unfit(error) => Some((user, error.as_str())),
            View::Of { .. } | View::Missing(_) => None,
        })
    }

    /// What each user sees, as far as that is known.
    pub fn all(&self) -> impl Iterator<Item = (Option<&UserName>, &Seen)> {
        let others = self.others.keys().filter_map(|user| Some((Some(user), self.of(Some(user))?)));
        std::iter::once((None, &self.own)).chain(others)
    }
}

impl From<Seen> for Views {
    /// Where nobody but the default user is named.
    fn from(own: Seen) -> Self {
        Self { own, ..Self::default() }
    }
}

/// The identity of a user that is not the default one.
pub fn identity(name: &UserName, account: &Account) -> AgentUser {
    AgentUser { name: name.clone(), uid: account.uid.as_raw() }
}

/// Asks the user database. Blocks.
pub fn look_up(name: &UserName) -> Entry {
    let unknown = |error: nix::Error| Entry::Unknown(format!("the user database could not be read: {error}"));
    // It tells a user that does not exist from a failure, which other ways to ask do not.
    match User::from_name(name.as_str()) {
        Err(error) => return unknown(error),
        Ok(None) => return Entry::Absent,
        Ok(Some(_)) => {}
    }
    let account = match Account::find(name.as_str()) {
        Ok(account) => account,
        Err(error) => return Entry::Unknown(error.to_string()),
    };
    let mut groups = BTreeSet::new();
    for &gid in account.groups.iter().chain([&account.gid]) {
        match Group::from_gid(gid) {
            Ok(group) => groups.extend(group.map(|group| group.name)),
            Err(error) => return unknown(error),
        }
    }
    Entry::Found { account, groups }
}

/// What the user database says of several names. Blocks.
pub fn look_up_all(names: &BTreeSet<UserName>) -> BTreeMap<UserName, Entry> {
    names.iter().map(|name| (name.clone(), look_up(name))).collect()
}

/// Judges users for the first time. Blocks.
pub fn judge_now(names: &BTreeSet<UserName>, rules: &Rules) -> Standings {
    let entries = match rules {
        Rules::Nobody { .. } => BTreeMap::new(),
        Rules::Members { .. } => look_up_all(names),
    };
    judge_all(names, rules, entries, &Standings::new())
}

/// Judges users anew by what the user database says of them. Whomever it has not answered about, or could not, stays as it was.
pub fn judge_all(
    names: &BTreeSet<UserName>,
    rules: &Rules,
    mut entries: BTreeMap<UserName, Entry>,
    before: &Standings,
) -> Standings {
    let mut standing = |name: &UserName| match rules {
        Rules::Nobody { own } => Standing::Unfit(not_root(own, name)),
        Rules::Members { .. } => {
            let unanswered = || Entry::Unknown("the user database does not answer".to_owned());
            judge(name, entries.remove(name).unwrap_or_else(unanswered), rules, before.get(name))
        }
    };
    let mut standings: Standings = names.iter().map(|name| (name.clone(), standing(name))).collect();
    refuse_aliases(&mut standings);
    standings
}

/// Refuses users that have the id of another one: to the kernel they are one user, and agents of both reach each other.
fn refuse_aliases(standings: &mut Standings) {
    let mut seen: BTreeMap<u32, UserName> = BTreeMap::new();
    for (name, standing) in standings.iter_mut() {
        let Some(uid) = standing.account().map(|account| account.uid.as_raw()) else { continue };
        match seen.get(&uid) {
            Some(first) => *standing = Standing::Unfit(same_id(name, first.as_str(), uid)),
            None => drop(seen.insert(uid, name.clone())),
        }
    }
}

fn same_id(name: &UserName, other: &str, uid: u32) -> String {
    format!("{name} has the id of {other} ({uid}), so both are one user; name {other}, or a user with an id of its own")
}

fn not_root(own: &str, name: &UserName) -> String {
    format!("without root, agents run as yourself ({own}), not as {name}; remove `user`, or start agentd as root")
}

/// Asks the user database: [`look_up_all`], but for tests.
#[derive(Clone)]
pub struct Database(Arc<LookUp>);

type LookUp = dyn Fn(&BTreeSet<UserName>) -> BTreeMap<UserName, Entry> + Send + Sync;

impl Database {
    /// What it says of several names. Blocks.
    pub fn look_up(&self, names: &BTreeSet<UserName>) -> BTreeMap<UserName, Entry> {
        (self.0)(names)
    }

    /// Of which `look_up` gives the answers.
    #[cfg(test)]
    pub(crate) fn of(
        look_up: impl Fn(&BTreeSet<UserName>) -> BTreeMap<UserName, Entry> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(look_up))
    }
}

impl Default for Database {
    fn default() -> Self {
        Self(Arc::new(look_up_all))
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Database")
    }
}

/// Judges what the user database says about a name.
pub fn judge(name: &UserName, entry: Entry, rules: &Rules, before: Option<&Standing>) -> Standing {
    let Rules::Members { agents, banned, default } = rules else {
        return Standing::Unfit(format!("agents cannot run as {name} here"));
    };
    let was_fit = matches!(before, Some(Standing::Fit { .. } | Standing::Missing(Problem::Absent {})));
    let (account, groups) = match entry {
        Entry::Absent if was_fit => return Standing::Missing(Problem::Absent {}),
        Entry::Absent => {
            return Standing::Unfit(format!(
                "there is no user {name}; create it (useradd --create-home --groups {agents} {name}), or name another"
            ));
        }
        Entry::Unknown(detail) => {
            return match before {
                None | Some(Standing::Missing(Problem::Unchecked { .. })) => {
                    Standing::Missing(Problem::Unchecked { detail })
                }
                Some(before) => before.clone(),
            };
        }
        Entry::Found { account, groups } => (account, groups),
    };
    let is_in = |group: Gid| account.gid == group || account.groups.contains(&group);
    let root = Gid::from_raw(0);
    if account.uid.is_root() || is_in(root) {
        let what = if account.uid.is_root() { "is root" } else { "is in the group of root" };
        return Standing::Unfit(format!("{name} {what}, and agents must not be; name an unprivileged user"));
    }
    if Some(account.uid) == *default {
        return Standing::Unfit(same_id(name, "the default user", account.uid.as_raw()));
    }
    for Banned { name: group, group: gid } in banned {
        if is_in(*gid) {
            return Standing::Unfit(format!(
                "{name} is in group {group}, whose members decide about agents; remove it from the group (gpasswd -d {name} {group}), or name another user"
            ));
        }
    }
    if !groups.contains(agents) {
        return Standing::Unfit(format!(
            "{name} is not in group {agents}, whose members agents may run as; add it (usermod -aG {agents} {name}; the group: groupadd --system {agents}), or name another user"
        ));
    }
    let dangers = MIGHTY.into_iter().filter(|&group| groups.contains(group)).collect();
    Standing::Fit { account, dangers }
}

/// The warning about a user in groups whose members can become root.
pub fn warning(name: &UserName, dangers: &[&str]) -> Option<String> {
    let (noun, which) = if dangers.len() == 1 { ("group", "its members") } else { ("groups", "their members") };
    let list = dangers.join(", ");
    (!dangers.is_empty()).then(|| {
        format!("{name} is in {noun} {list}: {which} can become root, and so can its agents; remove it (gpasswd -d {name} {})", dangers[0])
    })
}

/// What is wrong with the home of a user, as that user sees it.
pub fn home(name: &UserName, account: &Account, seen: &Seen) -> Option<WaitingFor> {
    let problem = match seen.workdirs.get(&account.home) {
        Some(SeenWorkdir::Usable) => return None,
        Some(SeenWorkdir::Unusable(problem)) => problem.clone(),
        None => seen.unseen(&account.home),
    };
    Some(WaitingFor::Home { user: name.to_string(), path: account.home.display().to_string(), problem })
}

/// Whether a user is the default one, however it is named.
pub fn is_default(name: &UserName, default: &Account) -> bool {
    name.as_str() == default.name
}

/// A user of whom nothing is known but the name and the id: it was deleted, or could not be looked up, and something of it may run.
pub fn former(user: &AgentUser) -> Account {
    Account::known_as(user.name.as_str(), Uid::from_raw(user.uid))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn name(text: &str) -> UserName {
        text.parse().unwrap()
    }

    fn rules() -> Rules {
        let banned = |name: &str, gid| Banned { name: name.to_owned(), group: Gid::from_raw(gid) };
        Rules::Members {
            agents: "agentd-agents".to_owned(),
            banned: vec![banned("admin", 5), banned("crew", 6)],
            default: Some(Uid::from_raw(50)),
        }
    }

    fn found(uid: u32, gid: u32, groups: &[(u32, &str)]) -> Entry {
        Entry::Found {
            account: Account {
                name: "agent2".to_owned(),
                uid: Uid::from_raw(uid),
                gid: Gid::from_raw(gid),
                groups: groups.iter().map(|&(gid, _)| Gid::from_raw(gid)).collect(),
                home: "/home/agent2".into(),
                shell: "/bin/sh".into(),
            },
            groups: groups.iter().map(|&(_, name)| name.to_owned()).collect(),
        }
    }

    const MEMBER: (u32, &str) = (9, "agentd-agents");

    #[rstest]
    #[case::root(found(0, 7, &[MEMBER]), "is root")]
    #[case::group_of_root(found(7, 0, &[MEMBER]), "is in the group of root")]
    #[case::also_in_the_group_of_root(found(7, 7, &[MEMBER, (0, "root")]), "is in the group of root")]
    #[case::admin(found(7, 7, &[MEMBER, (5, "admin")]), "remove it from the group (gpasswd -d agent2 admin)")]
    #[case::admin_by_primary_group(found(7, 5, &[MEMBER]), "is in group admin")]
    #[case::operator(found(7, 7, &[MEMBER, (6, "crew")]), "is in group crew, whose members decide about agents")]
    #[case::not_meant_for_agents(found(7, 7, &[(7, "agent2")]), "add it (usermod -aG agentd-agents agent2")]
    #[case::another_name_of_the_default_user(found(50, 7, &[MEMBER]), "agent2 has the id of the default user (50)")]
    #[case::unknown(Entry::Absent, "create it (useradd --create-home --groups agentd-agents agent2)")]
    fn a_user_that_agents_must_not_be_is_refused_with_a_remedy(#[case] entry: Entry, #[case] expected: &str) {
        let Standing::Unfit(error) = judge(&name("agent2"), entry, &rules(), None) else { panic!("it is not refused") };
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn names_with_one_id_are_one_user() {
        let fit = |uid| judge(&name("x"), found(uid, 7, &[MEMBER]), &rules(), None);
        let mut standings: Standings = [(name("a"), fit(7)), (name("b"), fit(7)), (name("c"), fit(8))].into();
        refuse_aliases(&mut standings);
        let fit: Vec<&str> =
            standings.iter().filter(|(_, it)| it.account().is_some()).map(|(it, _)| it.as_str()).collect();
        assert_eq!(fit, ["a", "c"]);
        let Standing::Unfit(error) = &standings[&name("b")] else { panic!("it is not refused") };
        assert_eq!(error, "b has the id of a (7), so both are one user; name a, or a user with an id of its own");
    }

    #[test]
    fn a_member_who_could_become_root_is_fit_with_a_warning() {
        let fit = |groups: &[(u32, &str)]| match judge(&name("agent2"), found(7, 7, groups), &rules(), None) {
            Standing::Fit { account, dangers } => (account.uid.as_raw(), warning(&name("agent2"), &dangers)),
            other => panic!("{other:?}"),
        };
        assert_eq!(fit(&[MEMBER]), (7, None));
        for group in MIGHTY {
            let warning = fit(&[MEMBER, (8, group)]).1.unwrap();
            assert!(warning.contains(&format!("gpasswd -d agent2 {group}")), "{warning}");
        }
        assert!(fit(&[MEMBER, (8, "docker"), (3, "sudo")]).1.unwrap().contains("groups sudo, docker"));
    }

    #[test]
    fn a_user_that_was_fit_is_waited_for() {
        let (user, rules) = (name("agent2"), rules());
        let fit = judge(&user, found(7, 7, &[MEMBER]), &rules, None);
        let gone = judge(&user, Entry::Absent, &rules, Some(&fit));
        assert_eq!(gone, Standing::Missing(Problem::Absent {}));
        assert_eq!(judge(&user, Entry::Absent, &rules, Some(&gone)), gone, "also at the next look");
        assert_eq!(judge(&user, found(7, 7, &[MEMBER]), &rules, Some(&gone)), fit);
        let refused = judge(&user, found(7, 5, &[MEMBER]), &rules, Some(&fit));
        assert!(matches!(refused, Standing::Unfit(_)), "it has become an administrator");
    }

    #[test]
    fn a_failed_look_up_changes_nothing_and_proves_nothing() {
        let (user, rules) = (name("agent2"), rules());
        let failed = || Entry::Unknown("no answer".to_owned());
        let fit = judge(&user, found(7, 7, &[MEMBER]), &rules, None);
        let gone = judge(&user, Entry::Absent, &rules, Some(&fit));
        let refused = judge(&user, found(7, 5, &[MEMBER]), &rules, Some(&fit));
        for before in [fit, gone, refused] {
            assert_eq!(judge(&user, failed(), &rules, Some(&before)), before);
        }
        let unchecked = judge(&user, failed(), &rules, None);
        assert_eq!(unchecked, Standing::Missing(Problem::Unchecked { detail: "no answer".to_owned() }));
        let unknown = judge(&user, Entry::Absent, &rules, Some(&unchecked));
        assert!(matches!(unknown, Standing::Unfit(_)), "it was never seen: {unknown:?}");
    }

    #[test]
    fn without_root_nobody_else_can_be_an_agent_user() {
        let names = [name("root"), name("agent2")].into();
        for standing in judge_now(&names, &Rules::Nobody { own: "me".to_owned() }).into_values() {
            let Standing::Unfit(error) = standing else { panic!("{standing:?}") };
            assert!(error.contains("agents run as yourself (me)"), "{error}");
        }
    }

    #[test]
    fn the_user_database_knows_root_and_not_a_stranger() {
        assert!(matches!(look_up(&name("root")), Entry::Found { account, .. } if account.uid.is_root()));
        assert_eq!(look_up(&name("no-such-user-here")), Entry::Absent);
    }
}
