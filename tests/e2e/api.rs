//! The API as clients meet it, well-behaved and otherwise.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agentd::wire::status::State;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::{BOUND, Daemon, Process, Setup, agent, get, run};

fn one() -> Daemon {
    let daemon = Setup::new().start(&agent("Worker_1", "sleep inf", ""));
    daemon.wait_until_running("Worker_1");
    daemon
}

#[test]
fn health_reports_state_uptime_and_version() {
    let daemon = one();
    let response = daemon.get("/v1/health");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert!(response.body.starts_with("{\"state\":\"running\",\"uptime_seconds\":"), "{}", response.body);
    assert!(response.body.ends_with("}\n"));
    let health = daemon.health();
    assert!(health.uptime_seconds < 60);
    assert_eq!(health.version, env!("CARGO_PKG_VERSION"));
    assert_eq!((health.config_error, health.secrets_error), (None, None));
}

#[test]
fn agents_are_a_top_level_array_with_the_known_keys_first() {
    let daemon = one();
    let response = daemon.get("/v1/agents");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("content-length"), Some(response.body.len().to_string().as_str()));
    let known = r#"[{"name":"Worker_1","running":true,"session":"Worker_1","restarts":0,"#;
    assert!(response.body.starts_with(known), "{}", response.body);
    assert!(response.body.ends_with("}]\n"));
}

#[test]
fn the_array_is_empty_without_agents() {
    let daemon = Setup::new().start("[other]\n");
    assert_eq!(daemon.get("/v1/agents").body, "[]\n");
}

#[test]
fn an_agent_is_found_by_name_in_any_case_or_percent_encoded() {
    let daemon = one();
    for path in ["/v1/agents/Worker_1", "/v1/agents/worker_1", "/v1/agents/WORKER%5F1", "/v1/agents/%57orker_1?x=y"] {
        let response = daemon.get(path);
        assert_eq!(response.status, 200, "{path}");
        assert!(response.body.starts_with(r#"{"name":"Worker_1","running":true,"#), "{path}: {}", response.body);
    }
}

#[test]
fn an_unknown_agent_is_404_with_an_error_in_the_body() {
    let daemon = one();
    for path in ["/v1/agents/nobody", "/v1/agents/%2e%2e", "/v1/agents/%ff"] {
        let response = daemon.get(path);
        assert_eq!(
            (response.status, response.body.trim_end()),
            (404, r#"{"error":"agent not found","code":"no-such-agent"}"#),
            "{path}"
        );
        assert_eq!(response.header("content-type"), Some("application/json"));
    }
}

#[test]
fn an_unknown_path_is_404() {
    let daemon = one();
    for path in ["/", "/v1", "/v1/", "/v1/agents/", "/v1/health/", "/v2/agents", "/v1/agents/Worker_1/x"] {
        assert_eq!(daemon.get(path).status, 404, "{path}");
    }
}

#[test]
fn an_unsupported_method_is_405_with_an_allow_header() {
    let daemon = one();
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        for path in ["/v1/health", "/v1/agents", "/v1/agents/Worker_1"] {
            let response = daemon
                .request(&get(path).replacen("GET", method, 1).replace("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n"));
            assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD")), "{method} {path}");
        }
    }
    assert_eq!(daemon.request(&get("/nowhere").replacen("GET", "POST", 1)).status, 404);
}

#[test]
fn head_returns_the_length_and_no_body() {
    let daemon = one();
    let response = daemon.request(&get("/v1/agents").replacen("GET", "HEAD", 1));
    assert_eq!((response.status, response.body.as_str()), (200, ""));
    let length: usize = response.header("content-length").unwrap().parse().unwrap();
    assert_eq!(length, daemon.get("/v1/agents").body.len());
}

#[test]
fn http_1_0_queries_and_keep_alive_connections_work() {
    let daemon = one();
    assert_eq!(daemon.request("GET /v1/agents HTTP/1.0\r\n\r\n").status, 200);
    assert_eq!(daemon.get("/v1/health?verbose=1").status, 200);
    let two = format!("{}{}", get("/v1/health").replace("Connection: close\r\n", ""), get("/v1/agents"));
    let response = daemon.request(&two);
    assert_eq!(response.body.matches("HTTP/1.1 200").count(), 1, "the second response arrives on the same connection");
}

#[test]
fn curl_reads_the_api_as_the_readme_says() {
    let daemon = one();
    let socket = daemon.api_socket();
    let argv = ["curl", "-sS", "--fail", "--unix-socket", socket.to_str().unwrap(), "http://agentd/v1/agents"];
    let (status, body) = run(&mut crate::support::as_user(&daemon.daemon_account().name, &argv));
    assert_eq!((status, body.starts_with("[{\"name\":")), (Some(0), true), "{body}");
}

#[test]
fn a_removed_agent_is_listed_only_until_it_has_stopped() {
    let daemon =
        Setup::new().start(&agent("a", "stubborn; append @WORK/ready yes; sleep inf", "grace_period = \"500ms\""));
    daemon.wait_for_file("ready");
    daemon.edit_jcard("[other]\n");
    let agent = daemon.wait_for_state("a", State::Stopping);
    assert!(agent.running);
    daemon.wait_until_removed("a");
    assert_eq!(daemon.get("/v1/agents/a").status, 404);
}

/// Reads until the other side closes, which must happen within the bound.
fn wait_until_closed(stream: &mut UnixStream, bound: Duration) -> Vec<u8> {
    stream.set_read_timeout(Some(bound)).unwrap();
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => bytes,
        Err(error) => panic!("not closed within {bound:?}: {error}"),
    }
}

#[test]
fn silent_and_slow_clients_are_closed_within_10_s() {
    let daemon = one();
    let connect = || UnixStream::connect(daemon.api_socket()).unwrap();
    let start = Instant::now();
    let mut silent = connect();
    let mut half = connect();
    half.write_all(b"GET /v1/agents HTTP/1.1\r\nHost: ag").unwrap();
    let mut nonsense = connect();
    nonsense.write_all(b"\x16\x03\x01\x02\x00nonsense\r\n\r\n").unwrap();
    let asked = Instant::now();
    assert_eq!(daemon.get("/v1/agents").status, 200);
    assert!(asked.elapsed() < Duration::from_secs(2), "others are served in the meantime");
    for stream in [&mut silent, &mut half, &mut nonsense] {
        wait_until_closed(stream, Duration::from_secs(13).saturating_sub(start.elapsed()).max(Duration::from_secs(1)));
    }
}

#[test]
fn an_endless_header_is_refused() {
    let daemon = one();
    let mut stream = UnixStream::connect(daemon.api_socket()).unwrap();
    stream.write_all(b"GET /v1/agents HTTP/1.1\r\n").unwrap();
    let line = format!("X-Filler: {}\r\n", "x".repeat(1000));
    for _ in 0..200 {
        if stream.write_all(line.as_bytes()).is_err() {
            break;
        }
    }
    let answer = wait_until_closed(&mut stream, Duration::from_secs(13));
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "200 kB of header are too much");
}

#[test]
fn a_client_that_never_reads_is_closed_within_bounded_memory() {
    let daemon = one();
    let daemon_process = Process(daemon.pid());
    let before = daemon_process.resident_kib();
    let mut stream = UnixStream::connect(daemon.api_socket()).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let request = get("/v1/agents").replace("Connection: close\r\n", "").repeat(100);
    let start = Instant::now();
    while start.elapsed() < BOUND {
        match stream.write_all(request.as_bytes()) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                assert_eq!(daemon.get("/v1/agents").status, 200, "others are served");
            }
            Err(_) => break,
        }
    }
    assert!(start.elapsed() < BOUND, "a client that never reads is closed");
    assert!(daemon_process.resident_kib() < before + 32 * 1024);
}

/// Returns how long the API takes to answer another client in the meantime.
fn answers_others(daemon: &Daemon) -> Duration {
    let asked = Instant::now();
    assert_eq!(daemon.get("/v1/agents").status, 200);
    asked.elapsed()
}

fn may_open_many_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// A thousand clients, each of which has sent as many of these bytes as the daemon accepted.
fn a_thousand_send(daemon: &Daemon, bytes: impl Fn(usize) -> Vec<u8>) -> Vec<UnixStream> {
    let send = |number: usize| {
        let mut client = UnixStream::connect(daemon.api_socket()).unwrap();
        client.set_nonblocking(true).unwrap();
        // A client that was rejected earlier has not sent them.
        let _ = client.write(&bytes(number));
        client
    };
    (0..1000).map(send).collect()
}

#[test]
fn the_daemon_survives_bad_clients_and_releases_its_memory() {
    const MOST_KIB: u64 = 2048;
    const SOON: Duration = Duration::from_secs(5);
    may_open_many_files();
    let jcard: String = (0..20).map(|number| agent(&format!("a{number}"), "sleep inf", "")).collect();
    let daemon = Setup::new().start(&jcard);
    for number in 0..20 {
        daemon.wait_until_running(&format!("a{number}"));
    }
    let process = Process(daemon.pid());
    for _ in 0..100 {
        daemon.get("/v1/agents");
    }
    let before = process.resident_kib();
    let check = |what: &str| {
        let delay = answers_others(&daemon);
        assert!(delay < SOON, "{what}: {delay:?}");
        let now = process.resident_kib();
        eprintln!("{what}: {now} KiB, before {before} KiB; an answer to others in {delay:?}");
        assert!(now <= before + MOST_KIB, "{what}: the memory has grown");
    };

    for _ in 0..10_000 {
        assert_eq!(daemon.get("/v1/health").status, 200);
    }
    check("10,000 connections one after another");

    let stay = get("/v1/agents").replace("Connection: close\r\n", "");
    let mut clients = a_thousand_send(&daemon, |_| stay.clone().into_bytes());
    for client in &mut clients {
        client.set_nonblocking(false).unwrap();
        assert!(client.read(&mut [0; 100]).unwrap() > 0, "every client is answered");
    }
    check("1,000 clients at once");
    drop(clients);
    check("they all went");

    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        for shift in [13, -7, 17] {
            state ^= if shift > 0 { state << shift } else { state >> -shift };
        }
        state
    };
    let noise: Vec<Vec<u8>> =
        (0..1000).map(|_| (0..random() % 200).flat_map(|_| random().to_le_bytes()).collect()).collect();
    let clients = a_thousand_send(&daemon, |number| noise[number].clone());
    check("random bytes");
    drop(clients);

    let half = format!("GET /v1/agents HTTP/1.1\r\nX: {}", "x".repeat(15_000));
    let clients = a_thousand_send(&daemon, |_| half.clone().into_bytes());
    check("1,000 huge headers without an end");
    drop(clients);

    let huge = format!("GET /v1/agents HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let clients = a_thousand_send(&daemon, |_| huge.clone().into_bytes());
    check("headers of 1 MiB");
    drop(clients);

    let many = stay.repeat(2000);
    let clients = a_thousand_send(&daemon, |_| many.clone().into_bytes());
    check("1,000 clients that pipeline and never read");
    drop(clients);
    check("all of it");
    assert!(process.is_alive() && daemon.pid() == process.0);
}

#[test]
fn the_daemon_handles_a_thousand_connections_at_once() {
    let daemon = Setup::new().after("ulimit -Sn 1024").start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    may_open_many_files();
    let idle: Vec<UnixStream> = (0..1000).map(|_| UnixStream::connect(daemon.api_socket()).unwrap()).collect();
    let asked = Instant::now();
    assert_eq!(daemon.get("/v1/agents").status, 200);
    assert!(asked.elapsed() < Duration::from_secs(5));
    daemon.edit_jcard(&(agent("a", "sleep inf", "") + &agent("b", "sleep inf", "")));
    daemon.wait_until_running("b");
    assert!(Process(daemon.pid()).resident_kib() < 64 * 1024);
    for mut stream in idle {
        wait_until_closed(&mut stream, Duration::from_secs(13));
    }
    assert_eq!(daemon.get("/v1/agents").status, 200);
}

#[test]
fn the_socket_has_mode_0660_from_the_first_instant() {
    for _ in 0..5 {
        let setup = Setup::new().after("umask 000");
        let socket = setup.api_socket();
        let done = AtomicBool::new(false);
        let modes = thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut modes = Vec::new();
                let start = Instant::now();
                loop {
                    let last = done.load(Ordering::Relaxed) || start.elapsed() > BOUND;
                    if let Ok(meta) = fs::symlink_metadata(&socket) {
                        modes.push(meta.permissions().mode() & 0o7777);
                        modes.dedup();
                    }
                    if last {
                        return modes;
                    }
                }
            });
            let daemon = setup.start("[other]\n");
            done.store(true, Ordering::Relaxed);
            let modes = watcher.join().unwrap();
            drop(daemon);
            modes
        });
        assert_eq!(modes, [0o660], "and never had another mode");
    }
}

#[test]
fn a_stale_socket_is_replaced() {
    let mut daemon = one();
    daemon.signal(nix::sys::signal::Signal::SIGKILL);
    daemon.ended();
    assert!(daemon.api_socket().exists(), "a killed daemon leaves its socket");
    daemon.start_again();
    assert_eq!(daemon.get("/v1/health").status, 200);
}

#[test]
fn a_passed_socket_is_served_and_left_in_place() {
    let setup = Setup::new().after("exec 3<&0 </dev/null\nexport LISTEN_FDS=1 LISTEN_PID=$$");
    let socket = setup.api_socket();
    fs::create_dir(socket.parent().unwrap()).unwrap();
    let passed = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
    let before = socket.metadata().unwrap().ino();
    let mut command = setup.daemon_command();
    command.stdin(OwnedFd::from(passed));
    let mut daemon = setup.start_by(command);
    assert!(daemon.stop().success());
    assert_eq!(socket.metadata().unwrap().ino(), before);
}
