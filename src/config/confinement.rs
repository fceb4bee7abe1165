//! How an entry's agent is confined: `type`, `sandbox`, and the fields about what a sandbox shows.

use std::path::{Component, Path, PathBuf};

use super::fields::Fields;
use crate::agent::harness::Harness;
use crate::agent::sandbox::{Engine, Home, Network, Sandbox};
use crate::agent::spec::{ByDefault, Kind, Limits, Policy};
use crate::config::{DefaultType, Options};

/// The memory of a sandboxed agent whose entry does not say it: that of the Go daemon.
pub(super) const MEMORY: u64 = 2 << 30;

/// The processes and threads of a sandboxed agent whose entry does not say it: those of the Go daemon.
pub(super) const TASKS: u64 = 512;

/// The most paths in `sandbox_read` or `sandbox_write`: each is an argument of the engine, and a mount.
pub(super) const MOST_PATHS: usize = 64;

/// What each sandbox has of its own.
const MADE_ANEW: [&str; 3] = ["/proc", "/dev", "/sys"];

/// What people call the engines.
const ENGINE_NAMES: [(&str, &str); 2] = [("gvisor", "runsc"), ("bubblewrap", "bwrap")];

/// Reads how the agent is confined.
pub(super) fn read(fields: &mut Fields<'_>, harness: Option<&Harness>, options: &Options) -> Kind {
    let (is_sandboxed, engine) = read_type(fields, options);
    let homes = [("kept", Home::Kept), ("fresh", Home::Fresh), ("real", Home::Real)];
    let networks = [("host", Network::Host), ("none", Network::None)];
    let engine = engine.unwrap_or(options.engine);
    let sandbox = Sandbox {
        engine,
        program: options.runsc.clone().filter(|_| engine == Engine::Runsc),
        read: read_paths(fields, "sandbox_read"),
        write: read_paths(fields, "sandbox_write"),
        home: fields.word("sandbox_home", "unknown agent.sandbox_home", &homes).unwrap_or_default(),
        seed: harness.map(|harness| harness.home_keep.iter().map(PathBuf::from).collect()).unwrap_or_default(),
        network: fields.word("network", "unknown agent.network", &networks).unwrap_or_default(),
        proxy: read_proxy(fields),
    };
    if !is_sandboxed {
        look_at_unused(fields, &sandbox);
        return Kind::Native;
    }
    look_at_proxy(fields, &sandbox);
    let has_no_way_out = sandbox.network == Network::None && !fields.is_set("sandbox_proxy");
    if let Some(harness) = harness.filter(|harness| has_no_way_out && harness.is_preset() && !harness.is_custom()) {
        let right = "write `network = \"host\"`, a `sandbox_proxy`, or `harness = \"custom\"` with the `command` if it can do without";
        let at = fields.place("network");
        fields.error(
            at,
            format!("{} cannot work without a network, because it needs its service; {right}", harness.name),
        );
    }
    if !options.unsandboxed {
        return Kind::Sandboxed(sandbox);
    }
    if sandbox.network == Network::None {
        let why = "because agentd runs with --unsandboxed: the agent has the network of the machine";
        let at = fields.place("network");
        fields.warn(
            at,
            format!("`network = \"none\"` is ignored, {why}; remove that option, or write `enabled = false`"),
        );
    }
    Kind::Unsandboxed
}

/// Whether there is to be a sandbox, and its engine if the entry names one.
fn read_type(fields: &mut Fields<'_>, options: &Options) -> (bool, Option<Engine>) {
    let types = [("native", false), ("sandboxed", true)];
    let declared = fields.word_or("type", "unknown agent.type", &types, |text| {
        let engine = Engine::named(text).map(Engine::name).or_else(|| called(text))?;
        Some(format!("did you mean `sandbox = \"{engine}\"`?"))
    });
    let engines = Engine::ALL.map(|engine| (engine.name(), Some(engine)));
    let engines: Vec<_> = [("none", None)].into_iter().chain(engines).collect();
    let right = "remove one of them";
    let at = fields.place("sandbox");
    let meant = |text: &str| Some(format!("did you mean \"{}\"?", called(text)?));
    match (declared, fields.word_or("sandbox", "unknown agent.sandbox", &engines, meant)) {
        (Some(true), Some(None)) => {
            fields.error(at, format!("`sandbox = \"none\"` contradicts `type = \"sandboxed\"`; {right}"));
            (true, None)
        }
        (Some(false), Some(Some(engine))) => {
            fields.error(at, format!("`sandbox = \"{engine}\"` contradicts `type = \"native\"`; {right}"));
            (true, Some(engine))
        }
        (_, Some(engine)) => (engine.is_some(), engine),
        (Some(is_sandboxed), None) => (is_sandboxed, None),
        (None, None) => (options.default_type == DefaultType::Sandboxed, None),
    }
}

/// The engine that people call this.
fn called(text: &str) -> Option<&'static str> {
    ENGINE_NAMES.iter().find(|(name, _)| text.eq_ignore_ascii_case(name)).map(|&(_, engine)| engine)
}

/// Judges fields about a sandbox that there is not to be.
fn look_at_unused(fields: &mut Fields<'_>, sandbox: &Sandbox) {
    const RIGHT: &str = "write `type = \"sandboxed\"`";
    if sandbox.network == Network::None {
        let at = fields.place("network");
        fields.error(at, format!("`network = \"none\"` needs a sandbox, and the agent has none; {RIGHT}"));
    }
    let unused = [
        ("sandbox_proxy", sandbox.proxy.is_some()),
        ("sandbox_read", !sandbox.read.is_empty()),
        ("sandbox_write", !sandbox.write.is_empty()),
        // Without a sandbox, the home is the real one.
        ("sandbox_home", fields.is_set("sandbox_home") && sandbox.home != Home::Real),
    ];
    for (key, is_given) in unused {
        if is_given {
            let at = fields.place(key);
            fields.warn(at, format!("`{key}` is ignored, because the agent has no sandbox; {RIGHT}, or remove it"));
        }
    }
}

/// Reads the socket of a proxy.
fn read_proxy(fields: &mut Fields<'_>) -> Option<PathBuf> {
    const KEY: &str = "sandbox_proxy";
    let text = fields.string(KEY)?;
    let read =
        text.strip_prefix("unix:").ok_or("is not a Unix socket; write \"unix:\" and its absolute path").and_then(path);
    read.map_err(|wrong| fields.error(fields.place(KEY), format!("the address in `{KEY}` {wrong}"))).ok()
}

/// Judges the proxy of a sandbox.
fn look_at_proxy(fields: &mut Fields<'_>, sandbox: &Sandbox) {
    if sandbox.proxy.is_none() {
        return;
    }
    let at = fields.place("sandbox_proxy");
    if sandbox.network != Network::None {
        let right = "write `network = \"none\"`, or remove it";
        fields.error(
            at,
            format!("`sandbox_proxy` keeps nothing in, because the agent has the network of the machine; {right}"),
        );
    }
    if sandbox.engine == Engine::Runsc {
        let right = "write `sandbox = \"bwrap\"` or `\"crun\"`";
        fields.error(at, format!("`sandbox_proxy` does not work with runsc, which reaches no socket outside; {right}"));
    }
}

/// Reads paths that a sandbox shows in addition.
fn read_paths(fields: &mut Fields<'_>, key: &str) -> Vec<PathBuf> {
    let Some(texts) = fields.located_strings(key) else { return Vec::new() };
    if let Some((at, _)) = texts.get(MOST_PATHS) {
        fields.error(*at, format!("`{key}` has too many paths; write at most {MOST_PATHS}, or a folder above several"));
    }
    let mut paths = Vec::new();
    for (at, text) in texts.into_iter().take(MOST_PATHS) {
        match path(text) {
            Ok(path) if MADE_ANEW.iter().any(|folder| path.starts_with(folder)) => {
                fields.error(
                    at,
                    format!(
                        "a path in `{key}` is in /proc, /dev or /sys, which each sandbox has of its own; remove it"
                    ),
                );
            }
            Ok(path) => paths.push(path),
            Err(wrong) => fields.error(at, format!("a path in `{key}` {wrong}")),
        }
    }
    paths
}

/// A path as a sandbox is told it: absolute, or below the home as `~/…`. The error says what is wrong, and what would be right.
pub(super) fn path(text: &str) -> Result<PathBuf, &'static str> {
    const ABSOLUTE: &str = "is relative; write an absolute path, or ~/ and a path below the agent user's home";
    let (start, rest) = match text {
        "" => return Err("is empty; write an absolute path, or remove it"),
        "~" => ("~", ""),
        _ if text.starts_with('/') => ("/", text),
        _ => ("~", text.strip_prefix("~/").ok_or(ABSOLUTE)?),
    };
    let mut path = PathBuf::from(start);
    for component in Path::new(rest).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => return Err("has a `..`; write where it leads"),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if path == Path::new("/") {
        return Err("is the whole machine; name only what the agent needs");
    }
    if path == Path::new("~") {
        return Err("is the whole home; write `sandbox_home = \"real\"`, or name only what the agent needs");
    }
    Ok(path)
}

/// The policy with the defaults of a sandboxed agent. 0 is not set, as for the Go daemon: writers emit it for every field.
pub(super) fn with_defaults(fields: &Fields<'_>, policy: Policy, kind: &Kind) -> Policy {
    let Kind::Sandboxed(_) = kind else { return policy };
    let limits = policy.limits;
    let by_default =
        ByDefault { sandbox: !["type", "sandbox"].into_iter().any(|key| fields.is_set(key)), limits: !limits.is_any() };
    let limits = Limits { memory: limits.memory.or(Some(MEMORY)), tasks: limits.tasks.or(Some(TASKS)), ..limits };
    Policy { limits, by_default, ..policy }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/srv/data", "/srv/data")]
    #[case("//srv/./data//", "/srv/data")]
    #[case("~/.cache", "~/.cache")]
    #[case("~///x/./y/", "~/x/y")]
    #[case("/~", "/~")]
    #[case("/srv/...", "/srv/...")]
    fn a_path_is_absolute_or_below_the_home(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(path(text).as_deref(), Ok(Path::new(expected)));
    }

    #[rstest]
    #[case("", "is empty")]
    #[case("/", "is the whole machine")]
    #[case("//", "is the whole machine")]
    #[case("/.", "is the whole machine")]
    #[case("~", "is the whole home")]
    #[case("~/", "is the whole home")]
    #[case("~/.", "is the whole home")]
    #[case("srv", "is relative")]
    #[case("./srv", "is relative")]
    #[case("~agent/x", "is relative")]
    #[case("../x", "is relative")]
    #[case("/srv/..", "has a `..`")]
    #[case("/srv/../etc", "has a `..`")]
    #[case("~/../other", "has a `..`")]
    fn a_path_that_says_too_much_or_too_little_is_refused(#[case] text: &str, #[case] expected: &str) {
        let wrong = path(text).unwrap_err();
        assert!(wrong.starts_with(expected), "{text:?} {wrong}");
    }

    proptest! {
        #[test]
        fn a_path_never_leads_up_and_is_never_a_root(text in "[/.~a]{0,12}") {
            if let Ok(path) = path(&text) {
                prop_assert!(path.components().all(|component| !matches!(component, Component::ParentDir)));
                prop_assert!(path.starts_with("/") || path.starts_with("~"));
                prop_assert!(path.components().count() > 1);
            }
        }
    }
}
