//! What a declaration changes, by name: found out from marks, so that no value need be kept for it.
//!
//! A mark is a short keyed hash of one field, variable or secret. A record keeps only 16 bits of each: a change shows, and yet a
//! guess at a secret could not be confirmed even with the key.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::agent::declaration::Declaration;
use crate::agent::spec::{Kind, Policy};
pub use crate::wire::reason::Changes;

/// How many hexadecimal digits of a mark are put on record.
const RECORDED: usize = 4;

/// What comes before the name of a secret.
const SECRET: &str = "secret.";

/// The marks of what is launched: which key they were made with, and then `NAME=MARK` for each field, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks(Arc<str>);

/// Collects [`Marks`].
#[derive(Debug)]
pub struct Marking(String);

impl Marking {
    /// Of marks that are made with the key of this name.
    pub fn new(key: &str) -> Self {
        Self(key.to_owned())
    }

    /// Adds that of a field, such as `prompt` or `env.MODE`.
    pub fn field(&mut self, name: &str, mark: u32) {
        // Writing to a string never fails.
        let _ = write!(self.0, "\n{name}={mark:08x}");
    }

    /// Adds that of a secret.
    pub fn secret(&mut self, name: &str, mark: u32) {
        let _ = write!(self.0, "\n{SECRET}{name}={mark:08x}");
    }

    /// All of them.
    pub fn finish(self) -> Marks {
        Marks(self.0.into())
    }
}

impl Marks {
    /// For tests and for launches that nobody compares.
    pub fn none() -> Self {
        Self("".into())
    }

    fn key(&self) -> &str {
        self.0.lines().next().unwrap_or_default()
    }

    fn by_name(&self) -> BTreeMap<&str, &str> {
        self.0.lines().skip(1).filter_map(|line| line.rsplit_once('=')).collect()
    }

    /// Which names have other marks in `later`, or are in one of them only; `None` if their keys differ, so that nothing is known.
    pub fn changes_to(&self, later: &Self) -> Option<Changes> {
        if self.key() != later.key() {
            return None;
        }
        let (before, after) = (self.by_name(), later.by_name());
        let mut changes = Changes::default();
        for name in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
            let is_same = match (before.get(name), after.get(name)) {
                // One of them may be from a record.
                (Some(one), Some(other)) => one.starts_with(other) || other.starts_with(one),
                _ => false,
            };
            match name.strip_prefix(SECRET) {
                _ if is_same => {}
                Some(secret) => changes.secrets.push(secret.to_owned()),
                None => changes.fields.push((*name).to_owned()),
            }
        }
        Some(changes)
    }
}

impl Marks {
    /// The secrets that have other values in `later`, if nothing else differs: neither a field, nor which secrets there are. Empty if
    /// nothing differs at all, `None` if something else does or if that is not known.
    pub fn rotated_to(&self, later: &Self) -> Option<Vec<String>> {
        let changes = self.changes_to(later)?;
        let (before, after) = (self.by_name(), later.by_name());
        let has = |marks: &BTreeMap<&str, &str>, name: &str| marks.contains_key(format!("{SECRET}{name}").as_str());
        let are_in_both = changes.secrets.iter().all(|name| has(&before, name) && has(&after, name));
        (changes.fields.is_empty() && are_in_both).then_some(changes.secrets)
    }

    /// The names of the secrets.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.by_name().into_keys().filter_map(|name| name.strip_prefix(SECRET))
    }
}

impl Serialize for Marks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut short = self.key().to_owned();
        for (name, mark) in self.by_name() {
            // Writing to a string never fails.
            let _ = write!(short, "\n{name}={}", mark.get(..RECORDED).unwrap_or(mark));
        }
        serializer.serialize_str(&short)
    }
}

impl<'de> Deserialize<'de> for Marks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

/// What was declared before, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    /// Its confinement and policy.
    pub policy: (&'a Kind, &'a Policy),
    /// What it launched.
    pub marks: Option<&'a Marks>,
}

/// What `later` changes, sorted. What is missing now, or was then, cannot be compared.
pub fn changes(before: Before<'_>, later: &Declaration) -> Changes {
    let launch = later.launch.as_ref().ok();
    let launched = before.marks.zip(launch).and_then(|(marks, launch)| marks.changes_to(&launch.marks));
    let mut changes = launched.unwrap_or_default();
    let fields = of_policy(before.policy, (&later.kind, &later.policy));
    changes.extend(Changes { fields: fields.into_iter().map(str::to_owned).collect(), secrets: Vec::new() });
    changes
}

fn of_policy((kind, before): (&Kind, &Policy), (later_kind, later): (&Kind, &Policy)) -> Vec<&'static str> {
    let fields = [
        ("restart", before.restart != later.restart),
        ("max_restarts", before.max_restarts != later.max_restarts),
        ("timeout", before.timeout != later.timeout),
        ("idle_timeout", before.idle_timeout != later.idle_timeout),
        ("grace_period", before.grace_period != later.grace_period),
        ("backoff", before.backoff != later.backoff),
        ("backoff_reset", before.backoff_reset != later.backoff_reset),
        ("memory", before.limits.memory != later.limits.memory),
        ("pid_limit", before.limits.tasks != later.limits.tasks),
        ("cpu", before.limits.cpu != later.limits.cpu),
        // What else of a sandbox differs is found out from the marks.
        ("type", kind.in_words() != later_kind.in_words()),
        ("labels", before.labels != later.labels),
        ("resume", before.resume != later.resume),
        ("max_cost", before.max_cost != later.max_cost),
        ("on_rotate", before.rotation.on_rotate != later.rotation.on_rotate),
        ("rotate_spread", before.rotation.spread != later.rotation.spread),
        ("rotate_within", before.rotation.within != later.rotation.within),
        ("hold", before.hold != later.hold),
        ("hold_retry", before.hold_retry != later.hold_retry),
    ];
    fields.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::declaration::{Missing, WaitingFor};
    use crate::agent::launch::Launch;

    fn marks(key: &str, fields: &[(&str, u32)], secrets: &[(&str, u32)]) -> Marks {
        let mut marking = Marking::new(key);
        for &(name, mark) in fields {
            marking.field(name, mark);
        }
        for &(name, mark) in secrets {
            marking.secret(name, mark);
        }
        marking.finish()
    }

    fn named(changes: &Changes) -> String {
        [changes.fields.join(" "), changes.secrets.join(" ")].join("|")
    }

    #[test]
    fn names_of_other_marks_are_told_and_no_others() {
        let before = marks("k", &[("args", 1), ("env.A", 2), ("prompt", 3)], &[("KEY", 4), ("OLD", 5)]);
        let after = marks("k", &[("args", 1), ("env.B", 2), ("prompt", 9)], &[("KEY", 8), ("NEW", 5)]);
        assert_eq!(named(&before.changes_to(&after).unwrap()), "env.A env.B prompt|KEY NEW OLD");
        assert_eq!(before.changes_to(&before), Some(Changes::default()));
    }

    #[test]
    fn marks_of_different_keys_tell_nothing() {
        let of = |key| marks(key, &[("args", 1)], &[]);
        assert_eq!(of("k").changes_to(&of("l")), None);
    }

    #[test]
    fn a_rotation_changes_values_of_secrets_and_nothing_else() {
        let before = marks("k", &[("args", 1)], &[("KEY", 4), ("OTHER", 5)]);
        let rotated = |fields: &[(&str, u32)], secrets: &[(&str, u32)]| before.rotated_to(&marks("k", fields, secrets));
        assert_eq!(rotated(&[("args", 1)], &[("KEY", 6), ("OTHER", 5)]).unwrap(), ["KEY"]);
        assert_eq!(rotated(&[("args", 1)], &[("KEY", 4), ("OTHER", 5)]).unwrap(), [""; 0], "the same");
        assert_eq!(rotated(&[("args", 2)], &[("KEY", 6), ("OTHER", 5)]), None, "a field, too");
        assert_eq!(rotated(&[("args", 1)], &[("KEY", 6)]), None, "a secret is gone");
        assert_eq!(rotated(&[("args", 1)], &[("KEY", 6), ("OTHER", 5), ("NEW", 1)]), None, "a secret is new");
        assert_eq!(before.rotated_to(&marks("l", &[("args", 1)], &[("KEY", 6), ("OTHER", 5)])), None, "another key");
    }

    #[test]
    fn a_record_keeps_sixteen_bits_which_compare_with_all() {
        let before = marks("k", &[("args", 0x1234_5678), ("prompt", 0x1111_0000)], &[("KEY", 0xabcd_ef01)]);
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(text, r#""k\nargs=1234\nprompt=1111\nsecret.KEY=abcd""#);
        let read: Marks = serde_json::from_str(&text).unwrap();
        assert_eq!(read.changes_to(&before), Some(Changes::default()));
        let after = marks("k", &[("args", 0x1234_5678), ("prompt", 0x2222_0000)], &[("KEY", 0xabce_ef01)]);
        assert_eq!(named(&read.changes_to(&after).unwrap()), "prompt|KEY");
    }

    fn declaration(policy: Policy, marks: Option<Marks>) -> Declaration {
        let launch = marks.map_or_else(
            || Err(Missing(vec![WaitingFor::Unread {}])),
            |marks| Ok(Arc::new(Launch { marks, ..Launch::of_nothing() })),
        );
        Declaration { kind: Kind::Native, policy, launch }
    }

    #[test]
    fn each_field_of_the_policy_is_named() {
        use crate::agent::conversation::Resume;
        use crate::agent::cost::MaxCost;
        use crate::agent::hold::OnHold;
        use crate::agent::rotation::{OnRotate, Rotation};
        use crate::agent::spec::{Limits, Restart};
        use std::time::Duration;
        let (before, second) = (Policy::default(), Duration::from_secs(1));
        let (limits, rotation) = (Limits::default(), Rotation::default());
        for (field, policy) in [
            ("restart", Policy { restart: Restart::Always, ..before.clone() }),
            ("max_restarts", Policy { max_restarts: Some(1), ..before.clone() }),
            ("timeout", Policy { timeout: Some(second), ..before.clone() }),
            ("idle_timeout", Policy { idle_timeout: Some(second), ..before.clone() }),
            ("grace_period", Policy { grace_period: second, ..before.clone() }),
            ("backoff", Policy { backoff: vec![second], ..before.clone() }),
            ("backoff_reset", Policy { backoff_reset: None, ..before.clone() }),
            ("memory", Policy { limits: Limits { memory: Some(1), ..limits }, ..before.clone() }),
            ("pid_limit", Policy { limits: Limits { tasks: Some(1), ..limits }, ..before.clone() }),
            ("cpu", Policy { limits: Limits { cpu: Some(1), ..limits }, ..before.clone() }),
            ("labels", Policy { labels: [("team".to_owned(), "x".to_owned())].into(), ..before.clone() }),
            ("resume", Policy { resume: Resume::Always, ..before.clone() }),
            ("max_cost", Policy { max_cost: MaxCost::parse("5"), ..before.clone() }),
            ("on_rotate", Policy { rotation: Rotation { on_rotate: OnRotate::Next, ..rotation }, ..before.clone() }),
            ("rotate_spread", Policy { rotation: Rotation { spread: second, ..rotation }, ..before.clone() }),
            ("rotate_within", Policy { rotation: Rotation { within: second, ..rotation }, ..before.clone() }),
            ("hold", Policy { hold: OnHold::Fail, ..before.clone() }),
            ("hold_retry", Policy { hold_retry: second, ..before.clone() }),
            ("", before.clone()),
        ] {
            let marks = marks("k", &[], &[]);
            let known = Before { policy: (&Kind::Native, &before), marks: Some(&marks) };
            let told = changes(known, &declaration(policy, Some(marks.clone())));
            assert_eq!(told.fields.join(" "), field);
        }
        let known = Before { policy: (&Kind::Unsandboxed, &before), marks: None };
        assert_eq!(changes(known, &declaration(before.clone(), None)).fields, ["type"]);
    }

    #[test]
    fn policy_and_launch_are_told_together() {
        let (policy, before) = (Policy::default(), marks("k", &[("prompt", 1)], &[]));
        let known = Before { policy: (&Kind::Native, &policy), marks: Some(&before) };
        let later = Policy { backoff_reset: None, ..policy.clone() };
        let told = changes(known, &declaration(later.clone(), Some(marks("k", &[("prompt", 2)], &[("KEY", 1)]))));
        assert_eq!(named(&told), "backoff_reset prompt|KEY");
        let told = changes(known, &declaration(later, None));
        assert_eq!(named(&told), "backoff_reset|", "what is missing cannot be compared");
    }
}
