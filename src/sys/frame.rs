//! Frames: the messages between agentd's processes, over Unix sockets.
//!
//! A frame is the length of its body as four bytes, least significant first, and the body as JSON. JSON, because the two ends may
//! be of different versions for hours (an agent's launcher outlives an upgrade of the daemon): a key that one end does not know
//! is skipped, and a missing one has a default.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::OwnedWriteHalf;
use zeroize::Zeroizing;

use crate::sys::fd_passing;
use crate::sys::memory::{append, make_room};

/// Why a frame could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed or ended inside a frame.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The peer announced more than the receiver accepts.
    #[error("a frame of {length} bytes is longer than the {limit} that are accepted here")]
    TooLong {
        /// The announced length.
        length: usize,
        /// The accepted length.
        limit: usize,
    },
    /// The body was invalid.
    #[error("a frame could not be understood")]
    Body,
}

/// How many bytes of a frame give the length of the rest.
const HEAD: usize = 4;

/// How many bytes of room are made before more data arrives.
const CHUNK: usize = 8192;

/// Writes one frame. Not cancel-safe: an incomplete frame ruins the connection.
pub async fn write<T: Serialize>(writer: &mut (impl AsyncWrite + Unpin), message: &T) -> Result<(), Error> {
    writer.write_all(&encode(message)?).await?;
    Ok(())
}

/// Writes one frame, and passes these descriptors with it.
pub async fn write_with<T: Serialize>(
    writer: &mut OwnedWriteHalf,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Error> {
    let frame = encode(message)?;
    let sent = fd_passing::send(writer.as_ref(), &frame, descriptors).await?;
    writer.write_all(&frame[sent..]).await?;
    Ok(())
}

/// The bytes of one frame.
pub fn encode<T: Serialize>(message: &T) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut frame = Clearing(Zeroizing::new(vec![0; HEAD]));
    serde_json::to_writer(&mut frame, message).map_err(|_| Error::Body)?;
    let Clearing(mut frame) = frame;
    let length = u32::try_from(frame.len() - HEAD).map_err(|_| Error::Body)?;
    frame[..HEAD].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// A buffer that leaves no data behind in freed memory.
struct Clearing(Zeroizing<Vec<u8>>);

impl io::Write for Clearing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        make_room(&mut self.0, bytes.len());
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decodes the bytes of frames as they arrive, whatever reads them.
pub struct Decoder {
    limit: usize,
    buffer: Zeroizing<Vec<u8>>,
}

impl Decoder {
    /// Refuses bodies of more than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, buffer: Zeroizing::default() }
    }

    /// How many bytes the incoming frame still lacks, as far as known.
    ///
    /// No more may be added at a time, so that descriptors of one frame are not taken for those of the next. Never 0 after
    /// [`Decoder::take`] has returned `None`.
    pub fn missing(&self) -> Result<usize, Error> {
        let Some(head) = self.buffer.first_chunk::<HEAD>() else { return Ok(HEAD - self.buffer.len()) };
        let length = u32::from_le_bytes(*head) as usize;
        if length > self.limit {
            return Err(Error::TooLong { length, limit: self.limit });
        }
        Ok(HEAD + length - self.buffer.len())
    }

    /// Takes the message if its frame is complete.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        if self.buffer.len() < HEAD || self.missing()? > 0 {
            return Ok(None);
        }
        // The frame ends with the buffer, and dropping the buffer clears it.
        let frame = std::mem::take(&mut self.buffer);
        serde_json::from_slice(&frame[HEAD..]).map(Some).map_err(|_| Error::Body)
    }

    /// Adds bytes, at most those that are [missing](Decoder::missing).
    pub fn add(&mut self, bytes: &[u8]) {
        append(&mut self.buffer, bytes);
    }

    /// Whether no byte of the next frame has arrived.
    pub fn is_between_frames(&self) -> bool {
        self.buffer.is_empty()
    }
}

/// Shows how much has arrived, but not what.
impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("limit", &self.limit).field("arrived", &self.buffer.len()).finish()
    }
}

/// Reads frames. A partial frame is kept, so waiting for it is cancel-safe.
pub struct Reader<R> {
    source: R,
    decoder: Decoder,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Refuses bodies of more than `limit` bytes.
    pub fn new(source: R, limit: usize) -> Self {
        Self { source, decoder: Decoder::new(limit) }
    }

    /// The source that it reads from.
    pub fn source_mut(&mut self) -> &mut R {
        &mut self.source
    }

    /// How many bytes of memory it holds for incoming data.
    #[cfg(fuzzing)]
    pub fn capacity(&self) -> usize {
        self.decoder.buffer.capacity()
    }

    /// Reads the next frame; `None` if the peer has closed the connection between two frames. Cancel-safe.
    pub async fn read<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        loop {
            if let Some(message) = self.decoder.take()? {
                return Ok(Some(message));
            }
            let missing = self.decoder.missing()?;
            let buffer = &mut self.decoder.buffer;
            // Memory grows with what has arrived, not with what was announced.
            make_room(buffer, missing.min(CHUNK));
            match (&mut self.source).take(missing as u64).read_buf(&mut **buffer).await? {
                0 if buffer.is_empty() => return Ok(None),
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                _ => {}
            }
        }
    }
}

/// Shows how much has arrived, but not what.
impl<R> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("decoder", &self.decoder).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sys::secret_bytes::SecretBytes;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    proptest! {
        #[test]
        fn any_bytes_arrive_as_they_were_sent(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5)) {
            runtime().block_on(async {
                let (mut near, far) = tokio::io::duplex(7);
                let sent: Vec<SecretBytes> = messages.into_iter().map(SecretBytes::from).collect();
                let ((), received) = tokio::join!(
                    async { for message in &sent { write(&mut near, message).await.unwrap(); } drop(near) },
                    async {
                        let mut reader = Reader::new(far, 10_000);
                        let mut received = Vec::new();
                        while let Some(message) = reader.read::<SecretBytes>().await.unwrap() { received.push(message); }
                        received
                    }
                );
                prop_assert_eq!(sent, received);
                Ok(())
            })?;
        }

        #[test]
        fn garbage_is_an_error_or_an_end_and_never_a_panic(garbage in prop::collection::vec(any::<u8>(), 0..64)) {
            runtime().block_on(async {
                let mut reader = Reader::new(&garbage[..], 1000);
                while let Ok(Some(_)) = reader.read::<SecretBytes>().await {}
            });
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_the_body() {
        let announced = 10_000_000_u32.to_le_bytes();
        let result = runtime().block_on(Reader::new(&announced[..], 1000).read::<SecretBytes>());
        assert!(matches!(result, Err(Error::TooLong { length: 10_000_000, limit: 1000 })));
    }

    #[test]
    fn an_empty_body_is_an_error_and_takes_no_memory() {
        let zeros = vec![0; 100_000];
        let mut reader = Reader::new(&zeros[..], 1000);
        runtime().block_on(async {
            for _ in 0..10 {
                assert!(matches!(reader.read::<SecretBytes>().await, Err(Error::Body)));
            }
        });
        assert!(reader.decoder.buffer.capacity() < 10_000);
    }

    #[test]
    fn a_connection_that_ends_inside_a_frame_is_an_error() {
        let cut = [5, 0, 0, 0, b'"'];
        assert!(matches!(runtime().block_on(Reader::new(&cut[..], 1000).read::<SecretBytes>()), Err(Error::Io(_))));
    }

    #[test]
    fn debug_shows_no_content() {
        assert_eq!(format!("{:?}", SecretBytes::from("hunter2")), "[7 bytes]");
        let mut decoder = Decoder::new(1000);
        decoder.add(b"hunter2");
        let reader = Reader { source: (), decoder };
        let shown = format!("{reader:?}");
        assert!(shown.contains("arrived: 7") && !shown.contains("hunter2") && !shown.contains("104"), "{shown}");
    }

    #[test]
    fn a_reader_keeps_nothing_of_a_frame() {
        let (first, second) = ([2, 0, 0, 0, b'7', b'7'], [5, 0, 0, 0, b'"', b'h']);
        let sent = [&first[..], &second].concat();
        let mut reader = Reader::new(&sent[..], 1000);
        runtime().block_on(async {
            assert_eq!(reader.read::<u8>().await.unwrap(), Some(77));
            assert_eq!(reader.decoder.buffer.capacity(), 0);
            assert!(
                matches!(reader.read::<SecretBytes>().await, Err(Error::Io(_))),
                "the next frame is read from its beginning"
            );
        });
        assert_eq!(*reader.decoder.buffer, second);
    }
}
