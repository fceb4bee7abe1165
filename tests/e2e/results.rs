//! Results from the machine-readable output of harnesses: recorded streams, and bad ones.

use std::fs;
use std::time::{Duration, Instant};

use agentd::wire::exit_status::ExitStatus;
use agentd::wire::result::{StreamResult, Tokens};
use agentd::wire::status::{AgentStatus, Outcome, State};
use nix::sys::signal::Signal;
use rstest::rstest;

use crate::sandbox::has;
use crate::support::{Daemon, Setup, agent};

/// An entry of this preset with the fake harness, whose output is a stream.
fn streamed(harness: &str, script: &str, more: &str) -> String {
    agent("a", &format!("{script}; rest"), &format!("results = true\nhold = false\nprompt = \"do it\"\n{more}"))
        .replace("harness = \"custom\"", &format!("harness = {harness:?}"))
}

fn recording(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recordings/streams");
    fs::read(format!("{folder}/{name}")).unwrap()
}

/// A place with this stream in the file `stream`.
fn with_stream(stream: impl AsRef<[u8]>) -> Setup {
    let setup = Setup::new();
    setup.put(&setup.work("stream"), stream);
    setup
}

fn exited(daemon: &Daemon) -> (AgentStatus, StreamResult) {
    let agent = daemon.wait_for_state("a", State::Exited);
    let result = agent.result.clone().unwrap_or_else(|| panic!("{agent:?}"));
    (agent, *result)
}

/// The agent's output, as the log has it.
fn printed(daemon: &Daemon) -> String {
    let files = fs::read_dir(daemon.path("log/a")).unwrap().map(|entry| entry.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|it| it == "log"));
    String::from_utf8_lossy(&fs::read(logs.max().unwrap()).unwrap()).into_owned()
}

#[test]
fn a_stream_gives_a_result_and_a_transcript() {
    let daemon = with_stream(recording("claude-denied")).start(&streamed("claude-code", "replay @WORK/stream", ""));
    let (agent, result) = exited(&daemon);
    assert_eq!((agent.outcome, result.is_error, result.is_partial), (Some(Outcome::Completed), false, false));
    assert_eq!((result.text.as_str(), result.turns), ("Mock answer: the tool has run.", Some(2)));
    assert_eq!(result.denied, ["Write"]);
    let tokens = Tokens { input: 2400, output: 84, cache_read: 8000, cache_write: 600 };
    assert_eq!((agent.cost_usd, agent.tokens), (Some(0.032_775), Some(tokens)));
    let transcript = printed(&daemon);
    assert!(transcript.contains("> tool: Write /etc/x") && !transcript.contains("\"type\""), "{transcript}");
    assert!(daemon.screen("a").contains("Mock answer: the tool has run."), "{}", daemon.screen("a"));
    let one: AgentStatus = serde_json::from_str(&daemon.get("/v1/agents/a").body).unwrap();
    assert_eq!(one.history[0].result.as_ref().map(|result| result.turns), Some(Some(2)));
    let metrics = daemon.get("/metrics").body;
    assert!(metrics.contains("agentd_cost_usd_total{agent=\"a\"} 0.032775"), "{metrics}");
    assert!(metrics.contains("agentd_tokens_total{agent=\"a\",kind=\"cache_read\"} 8000"), "{metrics}");
}

#[rstest]
#[case::says_so("claude-rejected", "the harness says that it failed: API Error: Request rejected (429)")]
#[case::max_turns("claude-max-turns", "the harness says that it failed: ")]
#[case::cut("claude-bad-key-cut", "the stream ended without a result")]
fn an_agent_that_ends_with_0_has_failed_if_its_stream_says_so(#[case] name: &str, #[case] reason: &str) {
    let daemon = with_stream(recording(name)).start(&streamed("claude-code", "replay @WORK/stream", ""));
    let (agent, _) = exited(&daemon);
    assert_eq!(agent.exit.map(|exit| exit.how), Some(ExitStatus::Code(0)));
    assert_eq!(agent.outcome, Some(Outcome::Failed));
    assert!(agent.reason.as_ref().is_some_and(|said| said.starts_with(reason)), "{:?}", agent.reason);
}

#[test]
fn an_agent_that_says_nothing_has_failed_and_is_restarted() {
    let more = "restart = \"on-failure\"\nmax_restarts = 1\nbackoff = [\"0s\"]";
    let daemon = Setup::new().start(&streamed("codex", "say hello", more));
    let agent = daemon.wait_for_state("a", State::Exited);
    assert_eq!((agent.outcome, agent.restarts), (Some(Outcome::GaveUp), 1));
    assert!(agent.reason.unwrap().starts_with("the stream ended without a result"));
    assert!(printed(&daemon).contains("hello"));
}

#[test]
fn bad_lines_do_not_hide_a_result() {
    let mut stream = b"garbage\n{broken\n\x00\xff\n{\"type\":7}\n".to_vec();
    stream.extend(format!("{{\"type\":\"x\",\"text\":\"{}\"}}\n", "x".repeat(5 << 20)).into_bytes());
    stream.extend(
        "{\"type\":\"item.completed\",\"item\":{\"type\":\"agent_message\",\"text\":\"a\u{2028}b\"}}\n".bytes(),
    );
    // The last line has no end.
    stream.extend(b"{\"type\":\"turn.completed\",\"usage\":{\"output_tokens\":3}}");
    let daemon = with_stream(stream).start(&streamed("codex", "replay @WORK/stream", ""));
    let (agent, result) = exited(&daemon);
    assert_eq!((agent.outcome, result.text.as_str()), (Some(Outcome::Completed), "ab"));
    assert_eq!(result.note.as_deref(), Some("1 line was too long, and skipped"));
    assert_eq!(result.tokens.map(|tokens| tokens.output), Some(3));
}

#[test]
fn an_agent_that_costs_more_than_it_may_is_stopped_for_good() {
    let step = |cost| {
        format!(
            "{{\"type\":\"step_finish\",\"sessionID\":\"ses_1\",\"part\":{{\"reason\":\"tool-calls\",\"cost\":{cost}}}}}\n"
        )
    };
    let setup = with_stream([step(3.0), step(2.5)].concat());
    let more = "max_cost = 5.00\nrestart = \"always\"\nbackoff = [\"0s\"]\ngrace_period = \"10s\"";
    let daemon =
        setup.start(&streamed("opencode", "log @WORK/log; on-signal SIGINT 0; replay @WORK/stream; sleep inf", more));
    let agent = daemon.wait_for_state("a", State::Exited);
    assert_eq!((agent.outcome, agent.restarts, agent.cost_usd), (Some(Outcome::Failed), 0, Some(5.5)));
    assert!(agent.reason.as_ref().unwrap().starts_with("cost limit: $5.50 of at most $5.00"), "{:?}", agent.reason);
    daemon.wait_for_line("log", "SIGINT");
}

#[rstest]
#[case::each_of_its_own("", 0.5)]
#[case::in_one_conversation("\"session_id\":\"s-1\",", 0.25)]
fn the_costs_of_two_attempts_add_up_unless_one_contains_the_other(#[case] session: &str, #[case] expected: f64) {
    let stream =
        format!("{{\"type\":\"result\",{session}\"subtype\":\"success\",\"is_error\":true,\"total_cost_usd\":0.25}}\n");
    let more = "restart = \"on-failure\"\nmax_restarts = 1\nbackoff = [\"0s\"]";
    let daemon = with_stream(stream).start(&streamed("claude-code", "replay @WORK/stream", more));
    let agent = daemon.wait_for_state("a", State::Exited);
    assert_eq!((agent.outcome, agent.cost_usd), (Some(Outcome::GaveUp), Some(expected)));
}

#[test]
fn a_result_survives_a_daemon_that_is_killed() {
    let setup = with_stream(recording("claude-success"));
    let script = "log @WORK/log; replay @WORK/stream; await-exit @WORK/end";
    let mut daemon = setup.start(&streamed("claude-code", script, ""));
    daemon.wait_until("a", "its cost", |agent| agent.cost_usd.is_some());
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    let pid = daemon.pid_in("log");
    daemon.put(&daemon.work("end"), "0");
    if let Some(pid) = pid {
        daemon.wait_until_gone(pid);
    } else {
        daemon.wait("the end of the harness", || (!daemon.work("end").exists()).then_some(()));
    }
    daemon.start_again();
    let (agent, result) = exited(&daemon);
    assert_eq!((agent.outcome, agent.cost_usd), (Some(Outcome::Completed), Some(0.032_775)));
    assert_eq!(result.text, "Mock answer: the tool has run.");
}

#[test]
fn a_daemon_that_comes_later_learns_what_was_said() {
    let setup = with_stream(recording("claude-success"));
    let mut daemon =
        setup.start(&streamed("claude-code", "wait-for @WORK/go; replay @WORK/stream; await-exit @WORK/end", ""));
    daemon.wait_until_running("a");
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.put(&daemon.work("go"), "");
    daemon.start_again();
    daemon.wait_until("a", "its cost", |agent| agent.running && agent.cost_usd.is_some());
    daemon.put(&daemon.work("end"), "0");
    assert_eq!(exited(&daemon).0.outcome, Some(Outcome::Completed));
}

#[test]
fn no_exit_is_lost_and_nobody_waits_for_a_pipe() {
    for (script, status) in [
        ("replay @WORK/stream; close; exit 3", 3),
        ("close; sleep 0.2; exit 4", 4),
        ("own-session @WORK/child; replay @WORK/stream; exit 5", 5),
    ] {
        let setup = with_stream(recording("claude-success"));
        let begun = Instant::now();
        let daemon = setup.start(&streamed("claude-code", script, ""));
        let agent = daemon.wait_for_state("a", State::Exited);
        assert_eq!(agent.exit.map(|exit| exit.how), Some(ExitStatus::Code(status)), "{script}");
        assert_eq!(agent.outcome, Some(Outcome::Failed));
        assert!(begun.elapsed() < Duration::from_secs(20), "{script}: {:?}", begun.elapsed());
    }
}

#[test]
fn a_flood_is_passed_on_in_bounded_memory() {
    let line = format!(
        "{{\"type\":\"item.completed\",\"item\":{{\"type\":\"reasoning\",\"text\":\"{}\"}}}}\n",
        "x".repeat(500)
    );
    let stream = [line.repeat(100_000).as_bytes(), &recording("codex-success")].concat();
    let daemon = with_stream(stream).start(&streamed("codex", "replay @WORK/stream; await-exit @WORK/end", ""));
    let agent = daemon.wait_until("a", "its tokens", |agent| agent.tokens.is_some());
    let launcher = fs::read_to_string(format!("/proc/{}/stat", agent.pid.unwrap())).unwrap();
    let parent = launcher.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().to_owned();
    let status = fs::read_to_string(format!("/proc/{parent}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB");
    assert!(peak.parse::<u64>().unwrap() < 64 << 10, "{peak} KiB");
    daemon.put(&daemon.work("end"), "0");
    assert_eq!(exited(&daemon).0.outcome, Some(Outcome::Completed));
}

#[rstest]
#[case::bwrap("bwrap")]
#[case::runsc("runsc")]
fn a_sandboxed_agent_has_a_result_too(#[case] engine: &str) {
    if !has(engine) {
        return;
    }
    let more = format!(
        "type = \"sandboxed\"\nsandbox = {engine:?}\nsandbox_home = \"fresh\"\nsandbox_read = [\"@DIR/bin\"]\n"
    );
    let daemon =
        with_stream(recording("claude-rejected")).start(&streamed("claude-code", "replay @WORK/stream", &more));
    let (agent, result) = exited(&daemon);
    assert_eq!((agent.outcome, result.is_error), (Some(Outcome::Failed), true), "{agent:?}");
    assert!(printed(&daemon).contains("API Error: Request rejected (429)"));
}

#[test]
fn without_results_nothing_of_it_changes() {
    let entry = streamed("claude-code", "replay @WORK/stream", "").replace("results = true\n", "");
    let daemon = with_stream(recording("claude-rejected")).start(&entry);
    let agent = daemon.wait_for_state("a", State::Exited);
    assert_eq!((agent.outcome, agent.result), (Some(Outcome::Completed), None));
    assert!(printed(&daemon).contains("\"type\""));
}
