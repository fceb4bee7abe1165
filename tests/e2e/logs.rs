//! The log keeps the output of each attempt from first to last byte, whatever happens to daemon and tmux.

use std::fs;
use std::io::BufRead;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agentd::agent::name::Name;
use agentd::logs::attempt::AttemptId;
use agentd::logs::store::{Retention, Store};
use agentd::wire::status::{AgentStatus, State};
use nix::sys::signal::Signal;
use nix::unistd::Gid;

use crate::support::{Daemon, Process, Setup, Who, admin_gid, agent, as_user, get, is_root, owner, root, run};

/// A jcard entry: an agent that runs a bash script. `@DIR` and the like stand for paths as usual.
fn script(name: &str, script: &str, more: &str) -> String {
    assert!(!script.contains("'''"));
    format!(
        "[[agents]]\nname = {name:?}\nharness = \"custom\"\ncommand = [\"bash\", \"-c\", '''{script}''']\nworkdir = \"@WORK\"\n{more}\n\n"
    )
}

/// The directory where the daemon keeps the output of agents.
fn store(daemon: &Daemon) -> Store {
    let group = if is_root() { Gid::from_raw(admin_gid()) } else { Gid::effective() };
    Store::new(&daemon.path("log"), group, Retention::default())
}

/// The files of an agent's attempts, oldest first.
fn files(daemon: &Daemon, agent: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(daemon.path("log").join(agent))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "log"))
        .collect();
    files.sort_unstable();
    files
}

/// The output of the latest attempt.
fn printed(daemon: &Daemon, agent: &str) -> Vec<u8> {
    files(daemon, agent).last().map(|file| fs::read(file).unwrap()).unwrap_or_default()
}

fn text(daemon: &Daemon, agent: &str) -> String {
    String::from_utf8(printed(daemon, agent)).unwrap()
}

fn lines(numbers: std::ops::RangeInclusive<u32>) -> String {
    let lines: Vec<String> = numbers.map(|number| format!("line {number}\r\n")).collect();
    lines.concat()
}

/// The same bytes each time, in an order that means nothing to a terminal.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32).to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[test]
fn the_log_keeps_ten_lines_as_the_terminal_received_them() {
    let daemon = Setup::new().start(&agent("a", "print-lines 10; exit 0", ""));
    daemon.wait_for_state("a", State::Exited);
    assert_eq!(text(&daemon, "a"), lines(1..=10));
}

#[test]
fn the_last_output_is_logged_before_the_end_is_reported() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let daemon = Setup::new().start(&names.map(|name| agent(name, "print-bytes 70000; exit 3", "")).concat());
    for name in names {
        daemon.wait_for_state(name, State::Exited);
        let text = text(&daemon, name);
        assert!(text.ends_with("the last line\r\n") && text.len() == 71_000 + 15, "{}", text.len());
    }
}

#[test]
fn the_log_keeps_an_unfinished_line_and_escape_sequences() {
    let daemon = Setup::new().start(&script("a", r"printf '\e[1mhalf a'; read -r; printf ' line'", ""));
    daemon.wait("the first half", || (text(&daemon, "a") == "\u{1b}[1mhalf a").then_some(()));
    daemon.tmux(&["send-keys", "-t", "=a:", "Enter"]).unwrap();
    daemon.wait_for_state("a", State::Exited);
    assert_eq!(text(&daemon, "a"), "\u{1b}[1mhalf a\r\n line", "with the echo of what was typed");
}

#[test]
fn the_log_keeps_binary_output_byte_for_byte() {
    let setup = Setup::new();
    let noise = noise(1 << 20);
    setup.put(&setup.path("noise"), &noise);
    let daemon = setup.start(&script("a", "stty raw -echo; cat @DIR/noise", ""));
    daemon.wait_for_state("a", State::Exited);
    assert!(printed(&daemon, "a") == noise);
}

#[test]
fn a_flood_of_a_hundred_megabytes_does_not_burden_the_daemon() {
    const SIZE: usize = 100 << 20;
    let setup = Setup::new().quiet().args(["--log-size", "200MiB", "--settle", "0ms"]);
    let line = |number: usize| format!("{number:0>99}\n").into_bytes();
    let flood: Vec<u8> = (0..=SIZE / 100).flat_map(line).collect();
    setup.put(&setup.path("flood"), &flood);
    let daemon = setup.start(&script("a", "stty raw -echo; cat @DIR/flood", ""));
    let begun = Instant::now();
    let (mut worst, mut state) = (Duration::ZERO, None);
    while state != Some(State::Exited) {
        let asked = Instant::now();
        state = daemon.agent("a").map(|agent| agent.state);
        worst = worst.max(asked.elapsed());
        // tmux shows it in its own time.
        assert!(begun.elapsed() < Duration::from_mins(3), "{} bytes by now", printed(&daemon, "a").len());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(printed(&daemon, "a") == flood);
    assert!(worst < Duration::from_secs(2), "the API took {worst:?}");
    let passed = processor_time(daemon.pid());
    assert!(
        passed < begun.elapsed() / 2 + Duration::from_secs(1),
        "the daemon took {passed:?} of {:?}",
        begun.elapsed()
    );
}

fn processor_time(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[test]
fn the_log_keeps_output_printed_while_no_daemon_runs() {
    let script = "print-lines 3; wait-for @WORK/go; print-lines 3; wait-for @WORK/end; say the end; exit 3";
    let mut daemon = Setup::new().start(&agent("a", script, ""));
    daemon.wait("the first lines", || (text(&daemon, "a") == lines(1..=3)).then_some(()));
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.put(&daemon.work("go"), "");
    daemon.wait("the next lines", || (text(&daemon, "a") == lines(1..=3) + &lines(1..=3)).then_some(()));
    daemon.start_again();
    daemon.wait_until_running("a");
    daemon.put(&daemon.work("end"), "");
    daemon.wait_for_state("a", State::Exited);
    assert_eq!(text(&daemon, "a"), lines(1..=3) + &lines(1..=3) + "the end\r\n");
    assert_eq!(files(&daemon, "a").len(), 1, "there is one attempt");
}

#[test]
fn the_log_keeps_output_printed_after_the_tmux_server_ends() {
    let script = script("a", "trap 'echo farewell; exit 1' HUP; echo hello; while :; do sleep 0.1; done", "");
    let daemon = Setup::new().start(&script);
    daemon.wait("the greeting", || (text(&daemon, "a") == "hello\r\n").then_some(()));
    let server: i32 = daemon.tmux(&["display-message", "-p", "#{pid}"]).unwrap().trim().parse().unwrap();
    Process(server).signal(Signal::SIGKILL);
    daemon.wait_for_state("a", State::Exited);
    let kept = text(&daemon, "a");
    assert!(kept.starts_with("hello\r\n") && kept.ends_with("farewell\r\n"), "{kept}");
}

#[test]
fn an_end_is_reported_and_logged_while_tmux_is_stopped() {
    let daemon = Setup::new().start(&agent("a", "wait-for @WORK/end; print-lines 100; exit 3", ""));
    daemon.wait_until_running("a");
    let server = Process(daemon.tmux(&["display-message", "-p", "#{pid}"]).unwrap().trim().parse().unwrap());
    server.signal(Signal::SIGSTOP);
    daemon.put(&daemon.work("end"), "");
    daemon.wait_for_state("a", State::Exited);
    let kept = text(&daemon, "a");
    server.signal(Signal::SIGCONT);
    assert_eq!(kept, lines(1..=100));
}

#[test]
fn the_log_keeps_the_end_of_a_long_attempt_in_bounded_space() {
    let setup = Setup::new().args(["--log-size", "128KiB", "--settle", "0ms"]);
    let daemon = setup.start(&script("a", "seq -f 'line %.0f' 200000", ""));
    daemon.wait_for_state("a", State::Exited);
    let (file, all) = (&files(&daemon, "a")[0], lines(1..=200_000));
    let metadata = fs::metadata(file).unwrap();
    assert_eq!(metadata.len(), all.len() as u64, "offsets are true");
    assert!(metadata.blocks() * 512 <= 256 << 10, "{} blocks", metadata.blocks());
    let store = store(&daemon);
    let name: Name = "a".parse().unwrap();
    let log = store.open(&name, store.attempts(&name).unwrap()[0]).unwrap().unwrap();
    let begin = usize::try_from(log.begin().unwrap()).unwrap();
    assert!(all.len() - begin >= 128 << 10);
    assert!(printed(&daemon, "a")[begin..] == all.as_bytes()[begin..]);
}

#[test]
fn only_the_configured_number_of_attempts_is_kept() {
    let setup = Setup::new().args(["--log-attempts", "2", "--settle", "0ms"]);
    let more = "restart = \"on-failure\"\nmax_restarts = 3\nbackoff = [\"10ms\"]";
    let daemon = setup.start(&script("A", "echo x >>@WORK/runs; wc -l <@WORK/runs; exit 1", more));
    daemon.wait_for_state("A", State::Exited);
    let kept = store(&daemon).attempts(&"A".parse().unwrap()).unwrap();
    assert_eq!(kept, [(1, 1), (3, 3), (4, 4)].map(|(sequence, attempt)| AttemptId { sequence, attempt }));
    let texts: Vec<String> = files(&daemon, "a").iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    assert_eq!(texts, ["1\r\n", "3\r\n", "4\r\n"], "the first, and the latest");
    daemon.edit_jcard(&script("a", "echo another", ""));
    daemon.wait("the current declaration", || (text(&daemon, "a") == "another\r\n").then_some(()));
    let kept = store(&daemon).attempts(&"a".parse().unwrap()).unwrap();
    assert_eq!(kept.last(), Some(&AttemptId { sequence: 5, attempt: 5 }));
}

#[test]
fn all_logs_together_take_no_more_than_configured() {
    let setup = Setup::new().args(["--log-total", "150KiB", "--settle", "0ms", "--resync", "50ms"]);
    let more = "restart = \"on-failure\"\nmax_restarts = 4\nbackoff = [\"10ms\"]";
    let daemon = setup.start(&script("a", "head -c 50000 /dev/zero | tr '\\0' x; exit 1", more));
    daemon.wait_for_state("a", State::Exited);
    let kept = || store(&daemon).attempts(&"a".parse().unwrap()).unwrap();
    let numbers = || kept().iter().map(|kept| kept.attempt).collect::<Vec<_>>();
    // What went wrong first is worth more than what followed.
    daemon.wait("the oldest but the first to be removed", || (numbers() == [1, 5]).then_some(()));
    let used = daemon.wait("the use to be measured", || {
        serde_json::from_str::<AgentStatus>(&daemon.get("/v1/agents/a").body)
            .unwrap()
            .logs
            .filter(|it| it.attempts == 2)
    });
    assert!((100_000..150 << 10).contains(&used.bytes), "{used:?}");
    let status =
        daemon.agentd(&["status", "a", "--api-socket", daemon.api_socket().to_str().unwrap()]).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("Logs ") && status.contains(" in 2 attempts"), "{status}");
    let metrics = daemon.get("/metrics").body;
    let bytes = metrics.lines().find_map(|line| line.strip_prefix("agentd_log_bytes ")).unwrap();
    assert!((100_000..150 << 10).contains(&bytes.parse::<u64>().unwrap()), "{bytes}");
}

#[test]
fn secrets_are_redacted_in_logs_and_not_on_the_terminal() {
    let setup = Setup::new();
    setup.secret("KEY", "hunter2hunter2");
    setup.secret("CERT", "-----BEGIN-----\nthe-first-line\nthe-second-line\n");
    setup.secret("SHORT", "yes");
    let steps = [
        "echo \"key=$KEY; $SHORT; $PLAIN\"",
        "echo \"$CERT\"",
        // A secret in two pieces, then the beginnings of secrets that never complete.
        "printf '%s' \"${KEY:0:7}\"; sleep 0.2; printf '%s\\n' \"${KEY:7}\"",
        "printf '%s' \"${KEY:0:7}\"; sleep 0.2; echo other",
        "printf '%s' \"${KEY:0:9}\"",
    ];
    let entry = script("a", &steps.join("\n"), "env = { PLAIN = \"not-a-secret\" }");
    let daemon = setup.start(&entry);
    daemon.wait_for_state("a", State::Exited);
    let expected = [
        "key=********      ; yes; not-a-secret",
        "********       \r\n********      \r\n********       ",
        "********      ",
        "hunter2other",
        "hunter2hu",
    ];
    assert_eq!(text(&daemon, "a"), expected.join("\r\n"));
    assert!(daemon.capture("a").contains("key=hunter2hunter2; yes"), "an operator sees what is there");
}

#[test]
fn only_administrators_can_read_the_logs() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&agent("a", "say hello; exit 0", ""));
    daemon.wait_for_state("a", State::Exited);
    let file = files(&daemon, "a").remove(0);
    let admin = admin_gid();
    assert_eq!(owner(&daemon.path("log")), (0o750, 0, admin));
    assert_eq!(owner(&daemon.path("log/a")), (0o750, 0, admin));
    assert_eq!(owner(&file), (0o640, 0, admin));
    assert_eq!(owner(&file.with_extension("times")), (0o640, 0, admin));
    let read = |user: &str| run(&mut as_user(user, &["cat", file.to_str().unwrap()])).0;
    assert_eq!((read("op"), read("agent"), read("stranger")), (Some(0), Some(1), Some(1)));
}

#[test]
fn an_agent_cannot_reach_its_log() {
    let daemon = Setup::new().start(&script("a", "ls -l /proc/self/fd /proc/$PPID/fd; true", ""));
    daemon.wait_for_state("a", State::Exited);
    let seen = text(&daemon, "a");
    assert!(seen.contains("/dev/pts/"), "{seen}");
    if is_root() {
        assert!(!seen.contains(".log") && seen.contains("Permission denied"), "{seen}");
    }
}

#[test]
fn an_agent_runs_with_an_error_if_its_log_cannot_be_written() {
    let setup = Setup::new();
    setup.put(&setup.path("log"), "in the way");
    let daemon = setup.start(&agent("a", "print-lines 10; sleep inf", ""));
    daemon.wait_until_running("a");
    let told = daemon.wait_until("a", "its log", |agent| agent.log_error.is_some()).log_error.unwrap();
    assert!(told.starts_with("failed to open") && told.contains("/log"), "{told}");
    assert!(daemon.log().contains("what it prints is not kept"));
    daemon.wait("its lines in the pane", || daemon.capture("a").contains("line 10").then_some(()));
}

#[test]
fn an_ordinary_users_daemon_keeps_logs_for_that_user() {
    let daemon = Setup::of(Who::User).start(&agent("a", "print-lines 3; exit 0", ""));
    daemon.wait_for_state("a", State::Exited);
    assert_eq!(text(&daemon, "a"), lines(1..=3));
    let user = daemon.daemon_account().uid.as_raw();
    for (path, mode) in
        [(daemon.path("log"), 0o700), (daemon.path("log/a"), 0o700), (files(&daemon, "a").remove(0), 0o600)]
    {
        let (found, found_user, _) = owner(&path);
        assert_eq!((found, found_user), (mode, user), "{}", path.display());
    }
}

#[test]
fn an_agents_terminal_follows_the_size_of_its_pane() {
    let program = "trap 'stty size' WINCH; stty size; while :; do sleep 0.05; done";
    let daemon = Setup::new().start(&script("a", program, ""));
    daemon.wait_until_running("a");
    let size = daemon.tmux(&["display-message", "-p", "-t", "=a:", "#{pane_height} #{pane_width}"]).unwrap();
    daemon.wait("its size", || (text(&daemon, "a").trim() == size.trim()).then_some(()));
    daemon.tmux(&["resize-window", "-t", "=a:", "-x", "91", "-y", "17"]).unwrap();
    daemon.wait("the new size", || text(&daemon, "a").ends_with("17 91\r\n").then_some(()));
}

#[test]
fn an_agent_has_job_control_and_a_controlling_terminal() {
    let program =
        "set -m; sleep 60 & kill -STOP %1; wait %1; jobs >/dev/tty; kill -KILL %1; [ -t 0 ] && echo on $(tty)";
    let daemon = Setup::new().start(&script("a", program, ""));
    daemon.wait_for_state("a", State::Exited);
    let said = text(&daemon, "a");
    assert!(said.contains("Stopped") && said.contains("on /dev/pts/"), "{said}");
}

#[test]
fn nothing_typed_into_a_pane_is_lost() {
    let daemon = Setup::new().start(&script("a", "stty raw -echo; echo ready; head -c 20000 | md5sum >@WORK/sum", ""));
    daemon.wait("it to be ready", || text(&daemon, "a").contains("ready").then_some(()));
    let typed = "0123456789abcdef\u{3}\u{4}x\u{1a}".repeat(1000);
    daemon.put(&daemon.path("typed"), &typed);
    fs::set_permissions(daemon.path("typed"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    daemon
        .tmux(&["load-buffer", daemon.path("typed").to_str().unwrap(), ";", "paste-buffer", "-r", "-t", "=a:"])
        .unwrap();
    daemon.wait_for_state("a", State::Exited);
    let (_, expected) = run(std::process::Command::new("md5sum").arg(daemon.path("typed")));
    assert_eq!(daemon.lines("sum")[0].split(' ').next(), expected.split(' ').next());
    assert!(daemon.try_request(&get("/v1/health")).is_ok());
}

/// An agent that counts, until it is stopped.
fn counter(name: &str) -> String {
    script(name, "n=0; while :; do n=$((n + 1)); echo \"tick $n\"; sleep 0.05; done", "")
}

/// The last number that an agent is known to have printed.
fn last_tick(daemon: &Daemon, agent: &str) -> Option<u32> {
    let text = text(daemon, agent);
    text.lines().rev().skip(1).find_map(|line| line.strip_prefix("tick ")?.parse().ok())
}

#[test]
fn a_removed_log_continues_in_a_new_file() {
    let setup = Setup::new().args(["--resync", "100ms", "--settle", "0ms"]);
    let daemon = setup.start(&["removed", "moved", "folder", "all"].map(counter).concat());
    for name in ["removed", "moved", "folder", "all"] {
        daemon.wait("the first lines", || last_tick(&daemon, name));
    }
    let socket = daemon.api_socket();
    let words = ["logs", "-f", "removed", "--api-socket", socket.to_str().unwrap()];
    let mut follower = daemon.agentd(&words).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut told = std::io::BufReader::new(follower.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(told.next().unwrap(), "tick 1");
    let file = |name: &str| files(&daemon, name).pop().unwrap();
    fs::remove_file(file("removed")).unwrap();
    fs::rename(file("moved"), file("moved").with_extension("log.gz")).unwrap();
    fs::remove_dir_all(daemon.path("log/folder")).unwrap();
    for name in ["removed", "moved", "folder"] {
        let before = daemon.wait("the log to continue", || last_tick(&daemon, name));
        daemon.wait("more of the log", || last_tick(&daemon, name).filter(|&now| now > before));
        let text = text(&daemon, name);
        assert!(text.starts_with('[') && text.contains("their file was moved or removed]\r\ntick "), "{text}");
        assert_eq!(daemon.agent(name).unwrap().log_error, None);
    }
    // A follower also continues, and misses nothing.
    let expected = daemon.wait("more of the log", || last_tick(&daemon, "removed"));
    let told = told.filter_map(|line| line.strip_prefix("tick ")?.parse::<u32>().ok());
    for (number, next) in told.zip(2..=expected) {
        assert_eq!(number, next);
    }
    fs::rename(daemon.path("log"), daemon.path("old")).unwrap();
    daemon.wait("a new folder", || last_tick(&daemon, "all"));
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn a_log_removed_without_a_daemon_continues_under_the_next() {
    let mut daemon = Setup::new().start(&counter("a"));
    daemon.wait("the first lines", || last_tick(&daemon, "a"));
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    fs::remove_dir_all(daemon.path("log/a")).unwrap();
    daemon.start_again();
    daemon.wait("the log to continue", || last_tick(&daemon, "a"));
    assert_eq!(daemon.agent("a").unwrap().log_error, None);
}

#[test]
fn a_file_grown_beyond_the_log_size_ends_its_launcher_at_last() {
    const MIB: u64 = 1 << 20;
    let setup = Setup::new().args(["--log-size", "64KiB", "--settle", "0ms"]);
    let daemon = setup.start(&script("a", "echo hello; sleep inf", ""));
    daemon.wait("its greeting", || (text(&daemon, "a") == "hello\r\n").then_some(()));
    // As the launcher could, which has this file open for writing.
    let file = fs::File::options().write(true).open(files(&daemon, "a").remove(0)).unwrap();
    let allocate = |from: i64| {
        nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), from, 100 << 20).unwrap();
        daemon.wait("the space to be released", || (file.metadata().unwrap().blocks() * 512 < 2 * MIB).then_some(()));
    };
    allocate(0);
    let told = daemon.wait_until("a", "the reason", |agent| agent.log_error.is_some()).log_error.unwrap();
    assert!(told.contains("more than it was told to"), "{told}");
    // The daemon checks a file of any length in no time.
    file.set_len(8 << 40).unwrap();
    for query in ["lines=3", "since=1h", "raw=true"] {
        let begun = Instant::now();
        assert!(daemon.get(&format!("/v1/agents/a/log?{query}")).body.len() < 1 << 20);
        assert!(begun.elapsed() < Duration::from_secs(5), "{query}: {:?}", begun.elapsed());
    }
    allocate(9 << 40);
    // One look of the daemon can release two allocations, and then it counts them as one.
    daemon.wait("the second warning", || {
        (daemon.log().lines().filter(|line| line.contains("they were given back")).count() == 2).then_some(())
    });
    allocate(10 << 40);
    let ended = daemon.wait_for_state("a", State::Exited);
    assert!(ended.reason.unwrap().contains("it was ended, because its launcher took"));
}

#[test]
fn a_log_since_a_time_omits_lines_scrolled_off_before() {
    let more = "for n in $(seq 300); do echo old $n; done; sleep 2.5; echo new; sleep inf";
    let daemon = Setup::new().start(&script("a", more, ""));
    daemon.wait("something", || text(&daemon, "a").contains("old 300").then_some(()));
    let socket = daemon.api_socket();
    let said = |words: &[&str]| {
        let words = [&["logs", "a"], words, &["--api-socket", socket.to_str().unwrap()]].concat();
        let (code, said) = run(&mut daemon.agentd(&words));
        assert_eq!(code, Some(0), "{said}");
        said
    };
    daemon.wait("the last line", || said(&[]).ends_with("new\n").then_some(()));
    let text = said(&["--since", "1s"]);
    assert!(text.ends_with("new\n") && !text.contains("old 200\n"), "{text}");
    assert_eq!(said(&["--since", "2099-01-01"]), "");
    for all in [&[][..], &["--since", "1h"]] {
        assert_eq!(said(all).lines().count(), 301);
    }
}

#[test]
fn a_log_restarts_with_an_error_if_holes_are_unsupported() {
    if !root() {
        return;
    }
    let setup = Setup::new().args(["--log-size", "64KiB", "--settle", "0ms"]);
    fs::create_dir(setup.path("log")).unwrap();
    let folder = setup.path("log");
    let mount = |words: &[&str]| run(std::process::Command::new(words[0]).args(&words[1..]).arg(&folder)).0;
    assert_eq!(mount(&["mount", "-t", "ramfs", "ramfs"]), Some(0));
    let daemon = setup.start(&script("a", "seq -f 'line %.0f' 20000", ""));
    let told = daemon.wait_for_state("a", State::Exited).log_error;
    let text = text(&daemon, "a");
    assert_eq!(mount(&["umount", "--lazy"]), Some(0));
    assert!(told.as_ref().is_some_and(|told| told.contains("cannot take back the beginning of a file")), "{told:?}");
    let (note, rest) = text.split_once("\r\n").unwrap();
    let gone: usize = note.strip_prefix('[').unwrap().split(' ').next().unwrap().parse().unwrap();
    assert_eq!(note, format!("[{gone} bytes that were printed before this are kept no more]"));
    assert!(rest.ends_with("line 20000\r\n") && rest.len() <= 140 << 10, "{}", rest.len());
}
