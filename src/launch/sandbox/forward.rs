//! The proxy as a harness in a sandbox reaches it: a port of the loopback device, forwarded to connections that come from [outside].
//!
//! It runs in the process inside, in a thread of its own. It holds a bounded number of connections, with one buffer for each direction:
//! whoever reads slowly slows down the other end of that connection, and nobody else.
//!
//! [outside]: super::proxy

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use nix::poll::{PollFd, PollFlags};

use super::proxy::{BACKLOG, PAUSE};
use crate::sys::{fd_passing, poll};

/// The port, on 127.0.0.1 of the sandbox alone: that of Squid, which people know as a proxy's.
pub(super) const PORT: u16 = 3128;

/// Where the socket is that connections come from, inside.
pub(super) const SOCKET: &str = "/run/agentd/proxy";

/// The most connections at a time. Others wait to be accepted.
const MOST: usize = 256;

/// The size of a buffer.
const PIECE: usize = 16 << 10;

/// What a client is told if there is no proxy.
const REFUSAL: &str = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain\r\nContent-Length: 52\r\nConnection: close\r\n\r\n\
                       agentd: the proxy of this sandbox cannot be reached\n";

/// Listens, and forwards until this process ends.
pub(super) fn start() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))?;
    spawn(listener, Path::new(SOCKET))
}

fn spawn(listener: TcpListener, socket: &'static Path) -> io::Result<()> {
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    thread::Builder::new().name("agentd-proxy".to_owned()).spawn(move || run(&listener, socket)).map(drop)
}

fn run(listener: &TcpListener, socket: &Path) {
    let mut connections: Vec<Connection> = Vec::new();
    let mut piece = vec![0; PIECE];
    loop {
        for number in wait(listener, &connections) {
            connections[number].advance(&mut piece);
        }
        connections.retain(|connection| !connection.is_over());
        while connections.len() < MOST {
            match listener.accept().and_then(|(client, _)| Connection::new(client, socket)) {
                Ok(connection) => connections.push(connection),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // For want of descriptors, or the client has gone.
                Err(_) => {
                    thread::sleep(PAUSE);
                    break;
                }
            }
        }
    }
}

/// Waits until there is something to do, and returns for which of the connections.
fn wait(listener: &TcpListener, connections: &[Connection]) -> Vec<usize> {
    let numbered = connections.iter().enumerate();
    let (owners, mut descriptors): (Vec<usize>, Vec<PollFd<'_>>) =
        numbered.flat_map(|(number, connection)| connection.interest().map(move |fd| (number, fd))).unzip();
    if connections.len() < MOST {
        descriptors.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
    }
    if poll::wait(&mut descriptors, None).is_err() {
        thread::sleep(PAUSE);
        return (0..connections.len()).collect();
    }
    let is_ready = |descriptor: &PollFd<'_>| descriptor.any().unwrap_or(true);
    let ready = owners.into_iter().zip(&descriptors).filter(|(_, descriptor)| is_ready(descriptor));
    let mut ready: Vec<usize> = ready.map(|(number, _)| number).collect();
    ready.dedup();
    ready
}

/// A client, and what it is connected to.
struct Connection {
    client: TcpStream,
    proxy: Proxy,
    up: Pipe,
    down: Pipe,
}

/// How far the way to the proxy is.
enum Proxy {
    /// A connection is to come from here.
    Asked(UnixStream),
    Connected(UnixStream),
    /// There is none. What the client sends is dropped.
    Absent,
}

impl Connection {
    fn new(client: TcpStream, socket: &Path) -> io::Result<Self> {
        client.set_nonblocking(true)?;
        // Pieces are passed on as they come.
        client.set_nodelay(true)?;
        let mut connection = Self { client, proxy: Proxy::Absent, up: Pipe::default(), down: Pipe::default() };
        match UnixStream::connect(socket) {
            Ok(asked) => connection.proxy = Proxy::Asked(asked),
            Err(_) => connection.refuse(),
        }
        Ok(connection)
    }

    fn refuse(&mut self) {
        self.proxy = Proxy::Absent;
        self.down = Pipe { waiting: REFUSAL.as_bytes().to_vec(), start: 0, is_read: true, is_shut: false };
    }

    fn is_over(&self) -> bool {
        self.up.is_over() && self.down.is_over()
    }

    /// What to wait for. A descriptor of which nothing is wanted is left out: the kernel would report its end again and again.
    fn interest(&self) -> impl Iterator<Item = PollFd<'_>> {
        let wanted = |from: &Pipe, to: &Pipe| {
            let reads = if from.wants() { PollFlags::POLLIN } else { PollFlags::empty() };
            reads | if to.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT }
        };
        let none = PollFlags::empty();
        let (client, proxy): (PollFlags, Option<(BorrowedFd<'_>, PollFlags)>) = match &self.proxy {
            Proxy::Asked(asked) => (none, Some((asked.as_fd(), PollFlags::POLLIN))),
            Proxy::Connected(proxy) => {
                (wanted(&self.up, &self.down), Some((proxy.as_fd(), wanted(&self.down, &self.up))))
            }
            Proxy::Absent => (wanted(&self.up, &self.down), None),
        };
        let all = [Some((self.client.as_fd(), client)), proxy];
        all.into_iter().flatten().filter(move |(_, flags)| *flags != none).map(|(fd, flags)| PollFd::new(fd, flags))
    }

    /// Does everything that can be done without blocking.
    fn advance(&mut self, piece: &mut [u8]) {
        if let Proxy::Asked(asked) = &self.proxy {
            let mut received = Vec::new();
            match fd_passing::receive(asked, &mut [0], &mut received) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => {}
            }
            match received.pop().map(UnixStream::from).filter(|proxy| proxy.set_nonblocking(true).is_ok()) {
                Some(proxy) => self.proxy = Proxy::Connected(proxy),
                None => self.refuse(),
            }
        }
        let Self { client, proxy, up, down } = self;
        match proxy {
            Proxy::Asked(_) => {}
            Proxy::Connected(proxy) => {
                up.pass(piece, &*client, &*proxy, || proxy.shutdown(Shutdown::Write));
                down.pass(piece, &*proxy, &*client, || client.shutdown(Shutdown::Write));
            }
            Proxy::Absent => {
                up.pass(piece, &*client, io::sink(), || Ok(()));
                down.pass(piece, io::empty(), &*client, || client.shutdown(Shutdown::Write));
            }
        }
    }
}

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    waiting: Vec<u8>,
    /// Where what is yet to be written begins.
    start: usize,
    /// Whether nothing more is read.
    is_read: bool,
    /// Whether the other end knows.
    is_shut: bool,
}

impl Pipe {
    fn is_empty(&self) -> bool {
        self.start == self.waiting.len()
    }

    fn wants(&self) -> bool {
        self.is_empty() && !self.is_read
    }

    fn is_over(&self) -> bool {
        self.is_shut
    }

    /// Reads, writes, and passes on the end, as far as that does not block.
    fn pass(
        &mut self,
        piece: &mut [u8],
        mut from: impl Read,
        mut to: impl Write,
        shut: impl FnOnce() -> io::Result<()>,
    ) {
        if self.wants() {
            let read = from.read(piece);
            self.is_read = !matches!(&read, Ok(1..)) && !read.as_ref().is_err_and(is_transient);
            self.waiting.clear();
            self.waiting.extend_from_slice(&piece[..read.unwrap_or(0)]);
            self.start = 0;
        }
        while !self.is_empty() {
            match to.write(&self.waiting[self.start..]) {
                Ok(count @ 1..) => self.start += count,
                Err(error) if is_transient(&error) => return,
                // Nobody takes it anymore.
                Ok(_) | Err(_) => (self.start, self.is_read) = (self.waiting.len(), true),
            }
        }
        if self.is_read && !self.is_shut {
            self.is_shut = true;
            let _ = shut();
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::launch::sandbox::proxy::Gate;

    /// The port, and a proxy behind it that serves each connection like this.
    fn forwarded(serve: fn(UnixStream)) -> (TempDir, SocketAddr, UnixListener) {
        let folder = TempDir::new().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let proxy = UnixListener::bind(root.join("p")).unwrap();
        let (socket, gate) = Gate::open(&root, &root.join("p")).unwrap();
        gate.serve().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        spawn(listener, Box::leak(socket.into_boxed_path())).unwrap();
        let accepting = proxy.try_clone().unwrap();
        thread::spawn(move || {
            while let Ok((connection, _)) = accepting.accept() {
                thread::spawn(move || serve(connection));
            }
        });
        (folder, address, proxy)
    }

    fn connect(address: SocketAddr) -> TcpStream {
        let client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        client
    }

    #[expect(clippy::needless_pass_by_value, reason = "as the other servers of these tests")]
    fn echo(connection: UnixStream) {
        let _ = io::copy(&mut &connection, &mut &connection);
    }

    #[test]
    fn bytes_and_ends_pass_in_both_directions() {
        let (_folder, address, _proxy) = forwarded(echo);
        let mut clients: Vec<TcpStream> = (0..200).map(|_| connect(address)).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.write_all(format!("{number}").as_bytes()).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            assert_eq!(text, number.to_string());
        }
    }

    #[test]
    fn clients_beyond_the_most_wait_for_others_to_end() {
        let (_folder, address, _proxy) = forwarded(echo);
        let mut clients: Vec<TcpStream> = (0..MOST + 20).map(|_| connect(address)).collect();
        for client in &mut clients {
            client.write_all(b"x").unwrap();
        }
        // Each of them makes room when it has been answered.
        for mut client in clients {
            client.read_exact(&mut [0]).unwrap();
        }
    }

    #[test]
    fn a_slow_reader_slows_nobody_down_and_loses_nothing() {
        const LENGTH: usize = 32 << 20;
        fn flood(mut connection: UnixStream) {
            let mut wanted = [0];
            if connection.read_exact(&mut wanted).is_ok() {
                let _ = connection.write_all(&vec![wanted[0]; if wanted[0] == b'L' { LENGTH } else { 1 }]);
            }
        }
        let (_folder, address, _proxy) = forwarded(flood);
        let mut slow = connect(address);
        slow.write_all(b"L").unwrap();
        for _ in 0..100 {
            let (mut quick, mut answer) = (connect(address), Vec::new());
            quick.write_all(b"s").unwrap();
            quick.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, b"s");
        }
        let mut received = Vec::new();
        slow.read_to_end(&mut received).unwrap();
        assert!(received.len() == LENGTH && received.iter().all(|&byte| byte == b'L'));
    }

    #[test]
    fn without_a_proxy_clients_are_told_so() {
        let (folder, address, proxy) = forwarded(echo);
        drop(proxy);
        std::fs::remove_file(folder.path().join("p")).unwrap();
        let (mut client, mut answer) = (connect(address), String::new());
        client.write_all(b"CONNECT example.com:443 HTTP/1.1\r\n\r\n").unwrap();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, REFUSAL);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{answer}");
    }
}
