//! `sandbox_proxy`: the only way out of a sandbox without a network is a proxy on a Unix socket.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;

use agentd::wire::reason::WaitingFor;
use agentd::wire::status::State;
use rstest::rstest;

use crate::sandbox::{has, shell};
use crate::support::{Setup, account, give, is_root};

/// How much `/large` is, in bytes.
const LARGE: usize = 32 << 20;

/// A server on the loopback device of the machine, as one on the internet would be. Returns its port.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        while let Ok((connection, _)) = listener.accept() {
            thread::spawn(move || serve(connection));
        }
    });
    port
}

fn serve(mut connection: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let body = if first.contains("/large") { vec![b'x'; LARGE] } else { b"hello from outside\n".to_vec() };
    write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    connection.write_all(&body)
}

/// A proxy that lets its clients connect to `api.example` alone, which is the server at this port.
struct Proxy {
    listener: UnixListener,
    path: PathBuf,
}

impl Proxy {
    fn start(path: PathBuf, port: u16) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let accepting = listener.try_clone().unwrap();
        thread::spawn(move || {
            while let Ok((client, _)) = accepting.accept() {
                thread::spawn(move || tunnel(client, port));
            }
        });
        Self { listener, path }
    }

    /// Ends it, and takes its socket away.
    fn end(self) {
        fs::remove_file(&self.path).unwrap();
        rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).unwrap();
    }
}

fn tunnel(mut client: UnixStream, port: u16) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.extend_from_slice(&byte);
    }
    if !head.starts_with(b"CONNECT api.example:80 HTTP/1.1\r\n") {
        return client.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    }
    let server = TcpStream::connect(("127.0.0.1", port))?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut up_from, mut up_to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut up_from, &mut up_to);
        let _ = up_to.shutdown(Shutdown::Write);
    });
    io::copy(&mut &server, &mut client)?;
    client.shutdown(Shutdown::Write)
}

/// A folder for the socket of a proxy.
fn folder(setup: &Setup) -> PathBuf {
    let folder = setup.path("proxy");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    folder.join("socket").canonicalize().unwrap_or_else(|_| folder.canonicalize().unwrap().join("socket"))
}

fn entry(engine: &str, script: &str) -> String {
    shell("a", engine, script, "network = \"none\"\nsandbox_proxy = \"unix:@DIR/proxy/socket\"")
}

/// `curl` through the tunnel that the variables name.
const CURL: &str = "curl -sS -p --max-time 60";

#[rstest]
#[case("bwrap")]
#[case("crun")]
fn a_proxy_is_the_only_way_out(#[case] engine: &str) {
    if !has(engine) {
        return;
    }
    let setup = Setup::new();
    let (port, path) = (server(), folder(&setup));
    let proxy = Proxy::start(path.clone(), port);
    let script = format!(
        "env | grep -i _proxy | sort >variables
        {CURL} http://api.example/ >answer 2>problems
        {CURL} http://other.example/ 2>forbidden
        curl -sS --noproxy '*' --max-time 5 http://127.0.0.1:{port}/ 2>direct
        echo one >done; until test -e again; do sleep 0.05; done
        {CURL} -o /dev/null -w '%{{http_connect}}' http://api.example/ >without 2>/dev/null
        echo two >gone; until test -e back; do sleep 0.05; done
        {CURL} http://api.example/ >later 2>>problems
        echo three >end; sleep 1000"
    );
    let daemon = setup.start(&entry(engine, &script));
    daemon.wait_for_file("done");
    let address = "http://127.0.0.1:3128";
    let without = "localhost,127.0.0.1,::1";
    let expected = ["HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];
    let mut expected: Vec<String> = expected
        .iter()
        .map(|name| format!("{name}={}", if name.to_lowercase() == "no_proxy" { without } else { address }))
        .collect();
    let mut variables = daemon.lines("variables");
    variables.sort();
    expected.sort();
    assert_eq!(variables, expected);
    assert_eq!(daemon.lines("answer"), ["hello from outside"], "{:?}", daemon.lines("problems"));
    assert!(daemon.lines("forbidden").concat().contains("403"), "{:?}", daemon.lines("forbidden"));
    assert!(daemon.lines("direct").concat().contains("Failed to connect"), "{:?}", daemon.lines("direct"));
    proxy.end();
    daemon.put(&daemon.work("again"), "");
    daemon.wait_for_file("gone");
    assert_eq!(daemon.lines("without"), ["502"]);
    let _proxy = Proxy::start(path, port);
    daemon.put(&daemon.work("back"), "");
    daemon.wait_for_file("end");
    assert_eq!(daemon.lines("later"), ["hello from outside"], "{:?}", daemon.lines("problems"));
}

#[rstest]
#[case("bwrap")]
#[case("crun")]
fn many_connections_and_a_slow_reader_get_what_they_ask_for(#[case] engine: &str) {
    if !has(engine) {
        return;
    }
    let setup = Setup::new();
    let (port, path) = (server(), folder(&setup));
    let _proxy = Proxy::start(path, port);
    let ask = "CONNECT api.example:80 HTTP/1.1\\r\\n\\r\\n";
    // The slow one reads nothing until the others have their answers.
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/3128; printf '{ask}' >&3; IFS= read -r -u3 line; IFS= read -r -u3 line
        printf 'GET /large HTTP/1.1\\r\\n\\r\\n' >&3
        for i in $(seq 200); do exec {{c}}<>/dev/tcp/127.0.0.1/3128; printf '{ask}' >&$c; all+=($c); done
        for c in ${{all[@]}}; do IFS= read -r -u$c line; echo \"$line\" >>lines; IFS= read -r -u$c line; printf 'GET / HTTP/1.1\\r\\n\\r\\n' >&$c; done
        for c in ${{all[@]}}; do tail -n1 <&$c >>answers; done
        wc -c <&3 >large; echo >done; sleep 1000"
    );
    let daemon = setup.start(&entry(engine, &script));
    daemon.wait_for_file("done");
    let answers = daemon.lines("answers");
    assert!(answers.len() == 200 && answers.iter().all(|line| line == "hello from outside"), "{answers:?}");
    let lines = daemon.lines("lines");
    assert!(lines.len() == 200 && lines.iter().all(|line| line.starts_with("HTTP/1.1 200")), "{lines:?}");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\nConnection: close\r\n\r\n").len();
    assert_eq!(daemon.lines("large").concat().trim(), (head + LARGE).to_string());
}

#[test]
fn an_agent_waits_for_its_proxy_and_is_told_what_cannot_be_one() {
    if !has("bwrap") {
        return;
    }
    let setup = Setup::new();
    let (port, path) = (server(), folder(&setup));
    std::os::unix::fs::symlink(path.with_file_name("file"), path.with_file_name("link")).unwrap();
    fs::write(path.with_file_name("file"), "").unwrap();
    let inside = UnixListener::bind(setup.work("socket")).unwrap();
    if is_root() {
        give(&setup.work("socket"), &account("agent"));
    }
    let of = |name: &str, socket: &str| {
        shell(name, "bwrap", "echo >@WORK/started; sleep 1000", "network = \"none\"\n@PROXY")
            .replace("@PROXY", &format!("sandbox_proxy = \"unix:{socket}\"\nrestart = \"no\""))
    };
    let entries = [
        of("waits", "@DIR/proxy/socket"),
        of("link", "@DIR/proxy/link"),
        of("file", "@DIR/proxy/file"),
        of("inside", "@WORK/socket"),
    ];
    let daemon = setup.start(&entries.concat());
    for (name, expected) in [
        ("link", "leads through a link"),
        ("file", "is not a socket"),
        ("inside", "where the agent can write and put another socket in its place"),
    ] {
        let agent = daemon.wait_until(name, "failed", |agent| agent.error.is_some());
        assert!(agent.error.as_deref().unwrap_or_default().contains(expected), "{name}: {:?}", agent.error);
    }
    let says =
        |reason: &Option<String>| reason.as_deref().unwrap_or_default().contains("does not exist; start the proxy");
    let agent = daemon.wait_until("waits", "the reason", |agent| agent.state == State::Waiting && says(&agent.reason));
    assert!(matches!(agent.waiting_for.as_slice(), [WaitingFor::Proxy { .. }]), "{:?}", agent.waiting_for);
    assert!(agent.exit.is_none() && agent.restarts == 0, "{agent:?}");
    assert!(!daemon.work("started").exists());
    let _proxy = Proxy::start(path, port);
    daemon.wait_for_state("waits", State::Running);
    drop(inside);
}
