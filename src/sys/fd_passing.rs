//! Passes descriptors over a Unix socket, together with bytes (`SCM_RIGHTS`, see `unix(7)`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;

/// How many descriptors a message can carry.
pub const MOST: usize = 2;

const SPACE: usize = rustix::cmsg_space!(ScmRights(MOST));

/// Sends at least one of the bytes, together with these descriptors, [`MOST`] at most.
///
/// Returns how many bytes were sent. Cancel-safe.
pub async fn send(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let work = || {
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
    };
    stream.async_io(Interest::WRITABLE, work).await
}

/// Sends one byte together with this descriptor, and waits until that is possible.
pub fn send_one(socket: impl AsFd, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives bytes without blocking, 0 at the end of the connection, and adds the descriptors that come with them.
///
/// Closes descriptors beyond [`MOST`].
pub fn receive(socket: impl AsFd, bytes: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let count = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags)?.bytes;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    descriptors.truncate(MOST);
    Ok(count)
}

/// Receives the bytes of a connection, and the descriptors that come with them.
#[derive(Debug)]
pub struct Receiver {
    half: OwnedReadHalf,
    received: Vec<OwnedFd>,
}

impl Receiver {
    /// A receiver for this connection, from which nothing was read before.
    pub fn new(half: OwnedReadHalf) -> Self {
        Self { half, received: Vec::new() }
    }

    /// Takes the descriptors received so far, up to [`MOST`]; others were closed.
    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.received)
    }

    fn receive(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        let Self { half, received } = self;
        let stream: &UnixStream = half.as_ref();
        let bytes = buffer.initialize_unfilled();
        let count = stream.try_io(Interest::READABLE, || receive(stream, bytes, received))?;
        buffer.advance(count);
        Ok(())
    }
}

impl AsyncRead for Receiver {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let stream: &UnixStream = self.half.as_ref();
            ready!(stream.poll_read_ready(context))?;
            match self.receive(buffer) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn descriptors_come_with_the_bytes_up_to_the_limit() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut receiver = Receiver::new(far.into_split().0);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"passed").unwrap();
        let count = send(&near, b"abc", &[file.as_fd(), file.as_fd()]).await.unwrap();
        assert_eq!(count, 3);
        let mut bytes = [0; 3];
        receiver.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"abc");
        let mut passed: Vec<File> = receiver.take_descriptors().into_iter().map(File::from).collect();
        assert_eq!((passed.len(), receiver.take_descriptors().len()), (2, 0));
        let mut text = String::new();
        file.rewind().unwrap();
        passed[0].read_to_string(&mut text).unwrap();
        assert_eq!(text, "passed");

        for _ in 0..2 {
            send(&near, b"d", &[file.as_fd(), file.as_fd()]).await.unwrap();
            receiver.read_exact(&mut [0]).await.unwrap();
        }
        assert_eq!(receiver.take_descriptors().len(), MOST);
        drop(near);
        assert_eq!(receiver.read(&mut bytes).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_receiver_that_expects_no_descriptors_gets_the_bytes() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        send(&near, b"abc", &[file.as_fd()]).await.unwrap();
        let mut bytes = [0; 3];
        far.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"abc");
    }
}
