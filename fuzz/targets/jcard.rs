//! Fuzzes the jcard: whatever the text, each finding has a position in it and fits on a line, and the kernel and tmux accept each agent
//! that it declares. A good entry is not affected by the entries beside it.

#![no_main]

use std::collections::HashSet;
use std::path::{Component, Path};

use agentd::agent::labels;
use agentd::agent::secrets::is_secret_file;
use agentd::agent::spec::{AgentSpec, Kind, Prompt, Workdir};
use agentd::config::{Config, Entry, Finding, MAX_AGENTS, Options, Severity, parse};
use agentd::sys::exec::MAX_ARGUMENT;
use agentd::sys::exec::is_variable_name;
use agentd::text::duration::MAX;
use libfuzzer_sys::fuzz_target;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Stands for a secret.
const CANARY: &str = "hunter2";

fuzz_target!(|text: &[u8]| {
    let strict = Options::default();
    let read = parse(text, &strict);
    match &read {
        Ok(config) => {
            check(config, text, &strict);
            check_with_a_neighbour(config, text, &strict);
        }
        Err(findings) => {
            assert!(!findings.is_empty());
            for finding in findings {
                check_finding(finding, text);
                assert!(finding.severity == Severity::Error && !finding.message.contains(CANARY), "{finding:?}");
            }
        }
    }

    let lax = Options { unsandboxed: true, default_workdir: Workdir::Home("workspace".into()), ..Options::default() };
    match (&read, parse(text, &lax)) {
        (Ok(read), Ok(config)) => {
            check(&config, text, &lax);
            assert_eq!(names(read), names(&config));
            assert_eq!(read.complete, config.complete);
        }
        (Err(findings), Err(others)) => assert_eq!(findings, &others),
        (read, config) => panic!("{read:?}, {config:?}"),
    }
    if !text.starts_with(BYTE_ORDER_MARK) {
        assert_eq!(parse(&[BYTE_ORDER_MARK, text].concat(), &strict), read);
    }
});

fn names(config: &Config) -> Vec<&str> {
    config.entries.iter().map(|entry| entry.name.as_str()).collect()
}

fn check(config: &Config, text: &[u8], options: &Options) {
    for finding in &config.findings {
        check_finding(finding, text);
    }
    assert!(config.findings.is_sorted_by_key(|finding| (finding.line, finding.column)));
    assert_eq!(config.error().is_some(), config.findings.iter().any(|finding| finding.severity == Severity::Error));
    assert!(config.complete || config.error().is_some());

    assert!(config.entries.len() <= MAX_AGENTS);
    let told: HashSet<_> = config.findings.iter().map(ToString::to_string).collect();
    let mut taken = HashSet::new();
    let mut sessions = HashSet::new();
    for Entry { name, harness, spec, .. } in &config.entries {
        assert!(taken.insert(name.key()), "{name} twice");
        match spec {
            Ok(spec) => {
                assert_eq!((name, harness), (&spec.name, &Some(spec.harness.clone())));
                assert!(sessions.insert(spec.session.clone()), "session {} twice", spec.session);
                check_spec(spec, options);
            }
            Err(errors) => {
                assert!(!errors.is_empty());
                assert!(errors.lines().all(|line| told.contains(line) || line.ends_with(" more")), "{errors}");
            }
        }
    }
}

fn check_finding(finding: &Finding, text: &[u8]) {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let readable = text.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let line = finding.line.checked_sub(1).and_then(|before| readable.split('\n').nth(before));
    assert!(line.is_some_and(|line| (1..=line.chars().count() + 1).contains(&finding.column)), "{finding:?}");
    let message = &finding.message;
    assert!(!message.is_empty() && message.len() < 1000 && !message.contains(char::is_control), "{message:?}");
}

fn check_spec(spec: &AgentSpec, options: &Options) {
    let is_argument = |text: &String| text.len() <= MAX_ARGUMENT && !text.contains('\0');
    assert!(spec.command.first().is_some_and(|program| !program.is_empty()));
    assert!(spec.command.iter().chain(&spec.args).all(is_argument));
    match &spec.prompt {
        Some(Prompt::Text(prompt)) => assert!(!prompt.is_empty() && is_argument(prompt)),
        Some(Prompt::File(path)) => assert!(is_path(path)),
        None => {}
    }
    match &spec.workdir {
        Workdir::Absolute(path) => assert!(path.is_absolute() && is_path(path)),
        // Joined to the home it must be below it.
        Workdir::Home(path) => assert!(path == Path::new("") || path.is_relative() && is_path(path)),
    }
    for (name, value) in &spec.env {
        let value = std::str::from_utf8(value.as_slice()).expect("a jcard is text");
        assert!(!name.is_empty() && !name.contains('=') && is_argument(&format!("{name}={value}")), "{name:?}");
    }
    assert!(spec.secrets.iter().flatten().all(|(name, file)| is_variable_name(name) && is_secret_file(file)));
    assert!(spec.policy.labels.len() <= labels::MOST);
    assert!(spec.policy.labels.iter().all(|(key, value)| labels::is_key(key) && labels::is_value(value)));
    match &spec.kind {
        Kind::Native => {}
        Kind::Unsandboxed => assert!(options.unsandboxed),
        Kind::Sandboxed(sandbox) => {
            assert!(!options.unsandboxed);
            assert!(sandbox.read.iter().chain(&sandbox.write).all(|path| is_shown(path)));
        }
    }

    let policy = &spec.policy;
    assert!(!policy.backoff.is_empty());
    let limits = [policy.timeout, policy.backoff_reset];
    assert!(policy.max_restarts != Some(0) && limits.iter().flatten().all(|limit| !limit.is_zero()));
    let mut durations = limits.iter().flatten().chain(&policy.backoff).chain([&policy.grace_period]);
    assert!(durations.all(|&duration| duration <= MAX));
}

fn is_path(path: &Path) -> bool {
    path.to_str().is_some_and(|path| !path.is_empty() && !path.contains('\0'))
}

/// Whether a sandbox may show this path: neither everything nor the whole home, and nothing that is above what it says.
fn is_shown(path: &Path) -> bool {
    let is_above = path.components().any(|part| part == Component::ParentDir);
    is_path(path)
        && !is_above
        && path != Path::new("/")
        && path != Path::new("~")
        && (path.is_absolute() || path.starts_with("~"))
}

/// One more entry, with a name and a session of its own, changes nothing about the others.
fn check_with_a_neighbour(config: &Config, text: &[u8], options: &Options) {
    const NEIGHBOUR: &str = "neighbour-of-all-others";
    let entry = format!("\n[[agents]]\nname = \"{NEIGHBOUR}\"\nharness = \"custom\"\n");
    // Not where the text has another form, or the neighbour already.
    let Ok(with) = parse(&[text, entry.as_bytes()].concat(), options) else { return };
    let is_neighbour = |entry: &Entry| entry.name.as_str() == NEIGHBOUR;
    if config.entries.iter().any(is_neighbour) || !with.entries.iter().any(is_neighbour) {
        return;
    }
    assert!(with.entries.iter().filter(|entry| !is_neighbour(entry)).eq(&config.entries));
    assert_eq!(with.complete, config.complete);
    if config.entries.is_empty() {
        // A card that declares nothing is advised to, which the neighbour makes needless.
        assert!(with.findings.iter().all(|finding| config.findings.contains(finding)));
    } else {
        assert_eq!(with.findings, config.findings);
    }
}
