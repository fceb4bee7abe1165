//! Attaches through the daemon's terminal socket: for operators who are neither root nor the agent user.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::pin;

use rustix::termios::tcgetwinsize;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedWriteHalf;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use super::relay::{GRACE, Own, Screen, Signals};
use crate::cli::terminal::{self as connection, Connection, Error, Reader};
use crate::deputy::kind::Kind as TerminalKind;
use crate::text::sieve::Sieve;
use crate::wire::terminal::{self, Accepted, Attach, Kind, Malformed, Request, Size};

/// Attaches, and returns when the operator has detached or the session has ended: the signal that ended it, if one did.
///
/// `greet` tells the operator how to leave, before the terminal becomes raw; `explain` gets the name under which tmux knows the
/// terminal.
pub async fn attach(
    socket: &Path,
    asked: Attach,
    greet: impl FnOnce(&Accepted),
    explain: impl FnOnce(&str),
) -> Result<Option<i32>, Error> {
    let resized = signal(SignalKind::window_change())?;
    let sieve = Sieve::new(asked.utf_8);
    let mut connection = Connection::open(socket, &Request::Attach(asked)).await?;
    match connection.answer().await? {
        (Kind::Accepted, body) => greet(&terminal::read(&body)?),
        (Kind::End, body) => return Err(unexpected(&body)),
        _ => return Err(Malformed::Body.into()),
    }
    match connection.answer().await? {
        (Kind::Started, body) => explain(&name(&body)?),
        (Kind::End, body) => return Err(unexpected(&body)),
        _ => return Err(Malformed::Body.into()),
    }
    // Until now a signal ended this process as usual.
    let mut signals = Signals::listen()?;
    let mut own = Own::open(sieve)?;
    let Connection { mut reader, mut writer } = connection;
    let ended = {
        let mut typing = pin!(type_in(&mut own.keyboard, resized, &mut writer));
        let mut showing = pin!(show(&mut reader, &mut own.screen));
        tokio::select! {
            biased;
            number = signals.next() => Ok(Some(number)),
            shown = &mut showing => shown.map(|()| None),
            // The keyboard or the connection is gone. The other side's last word says more, if it comes.
            () = &mut typing => timeout(GRACE, showing).await.unwrap_or(Err(Error::Gone)).map(|()| None),
        }
    };
    own.close(matches!(ended, Ok(None))).await;
    ended
}

/// The end of a session that has not begun.
fn unexpected(body: &[u8]) -> Error {
    connection::end(body).err().unwrap_or(Error::Malformed(Malformed::Body))
}

/// The name of a kind of terminal.
fn name(body: &[u8]) -> Result<String, Error> {
    match TerminalKind::named(Some(OsStr::from_bytes(body))) {
        TerminalKind::Named(name) => Ok(name),
        _ => Err(Malformed::Body.into()),
    }
}

/// The size of the screen; 0 if it does not report one.
pub fn size() -> Size {
    let size = tcgetwinsize(io::stdout()).ok();
    size.map_or_else(Size::default, |size| Size { columns: size.ws_col, rows: size.ws_row })
}

/// Sends what is typed, and the size when it changes, until the keyboard or the connection is gone.
async fn type_in(keyboard: &mut File, mut resized: Signal, writer: &mut OwnedWriteHalf) {
    let mut keys = [0; 4096];
    // The size may have changed since the request.
    let mut frame = terminal::frame(Kind::Size, &size().body());
    while writer.write_all(&frame).await.is_ok() {
        frame = tokio::select! {
            Some(()) = resized.recv() => terminal::frame(Kind::Size, &size().body()),
            read = keyboard.read(&mut keys) => match read {
                Ok(count @ 1..) => terminal::frame(Kind::Bytes, &keys[..count]),
                _ => break,
            },
        };
    }
    let _ = writer.write_all(&terminal::frame(Kind::End, b"")).await;
}

/// Shows what comes, until the end.
async fn show(reader: &mut Reader, screen: &mut Screen) -> Result<(), Error> {
    loop {
        match reader.next().await? {
            (Kind::Bytes, bytes) => screen.show(&bytes).await?,
            (Kind::End, body) => return connection::end(&body).map(drop),
            _ => return Err(Malformed::Body.into()),
        }
    }
}
