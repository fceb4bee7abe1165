//! Writes one output of a run's harness, its standard output or error, in the launcher: exactly what was printed, secrets redacted.
//!
//! Nothing is added to an output, because programs read it. Bytes that are not kept, since the file is full or could not be written, are
//! a hole: so offsets and the file's length are always those of all that was printed.

use std::io;
use std::os::fd::OwnedFd;

use super::writer::TailFile;
use crate::text::redact::ByteStream;

/// Writes one output of a run.
pub struct OutputWriter {
    file: TailFile,
    redactor: ByteStream,
    /// How many bytes could not be written since.
    missing: u64,
    is_failing: bool,
}

impl OutputWriter {
    /// Writes to this file, which is opened for appending and has the output of earlier attempts, and keeps about `size` bytes of it.
    pub fn new(file: OwnedFd, size: u64, redactor: ByteStream) -> io::Result<Self> {
        let file = TailFile::with_earlier(file, size)?;
        Ok(Self { file, redactor, missing: 0, is_failing: false })
    }

    /// Writes output. Of consecutive failures, only the first is returned.
    pub fn write(&mut self, printed: &[u8]) -> io::Result<()> {
        if self.redactor.is_idle() {
            return self.put(printed);
        }
        let mut redacted = Vec::new();
        self.redactor.pass(printed, &mut redacted);
        self.put(&redacted)
    }

    /// Redacts with this from now on. What was held back is written first.
    pub fn redact(&mut self, redactor: ByteStream) -> io::Result<()> {
        let written = self.finish();
        self.redactor = redactor;
        written
    }

    /// Writes what was held back because it looked like the beginning of a secret.
    pub fn finish(&mut self) -> io::Result<()> {
        let mut redacted = Vec::new();
        self.redactor.finish(&mut redacted);
        let written = self.put(&redacted);
        if self.missing > 0 && self.file.skip(self.missing).is_ok() {
            self.missing = 0;
        }
        written
    }

    fn put(&mut self, text: &[u8]) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let before = self.file.end();
        let written = match self.missing {
            0 => Ok(()),
            missing => self.file.skip(missing),
        };
        let skipped = if written.is_ok() { std::mem::take(&mut self.missing) } else { 0 };
        let written = written.and_then(|()| self.file.append(text));
        if let Err(why) = written {
            let kept = self.file.end() - before - skipped;
            self.missing += text.len() as u64 - kept;
            return if std::mem::replace(&mut self.is_failing, true) { Ok(()) } else { Err(why) };
        }
        self.is_failing = false;
        self.file.shorten_in_place();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, OpenOptions};
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;
    use crate::logs::writer::{BLOCK, can_shrink};
    use crate::sys::secret_bytes::SecretBytes;
    use crate::text::redact::Redactor;

    fn writer(path: &Path, size: u64, secrets: &[&str]) -> OutputWriter {
        let file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        let redactor = Redactor::new(secrets.iter().map(|&secret| SecretBytes::from(secret)));
        OutputWriter::new(file.into(), size, ByteStream::new(redactor)).unwrap()
    }

    #[test]
    fn an_output_is_exactly_what_was_printed_over_all_attempts() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("stdout");
        for piece in [&b"a\0\xff\n"[..], b"", b"{\"b\":1}"] {
            let mut writer = writer(&path, 1 << 20, &[]);
            writer.write(piece).unwrap();
            writer.finish().unwrap();
        }
        assert_eq!(fs::read(path).unwrap(), b"a\0\xff\n{\"b\":1}");
    }

    #[test]
    fn a_secret_that_comes_in_pieces_is_redacted() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("stdout");
        let mut writer = writer(&path, 1 << 20, &["hunter2-hunter2"]);
        for piece in ["x hunter2", "-hunt", "er2 y hunter2-"] {
            writer.write(piece.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("x {:15} y ", "********"));
        writer.finish().unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with(" y hunter2-"), "it was none");
    }

    #[test]
    fn a_long_output_keeps_its_offsets_and_its_latest_bytes() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("stdout");
        let mut writer = writer(&path, 4 * BLOCK, &[]);
        let piece: Vec<u8> = (0..BLOCK).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for _ in 0..20 {
            writer.write(&piece).unwrap();
        }
        let text = fs::read(&path).unwrap();
        assert_eq!(text.len() as u64, 20 * BLOCK);
        assert!(text.ends_with(&piece) && text.starts_with(&[0; 64]));
        if can_shrink(&File::options().append(true).open(&path).unwrap()) {
            assert!(fs::metadata(&path).unwrap().blocks() * 512 <= 6 * BLOCK);
        }
    }

    #[test]
    fn bytes_that_could_not_be_written_are_a_hole_of_their_length() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("stdout");
        let mut writer = writer(&path, 1 << 20, &[]);
        writer.write(b"one").unwrap();
        // Nothing can be written to a file that is opened for reading.
        let working = std::mem::replace(
            &mut writer.file,
            TailFile::with_earlier(File::open(&path).unwrap().into(), 1 << 20).unwrap(),
        );
        writer.write(b"two").unwrap_err();
        writer.write(b"three").unwrap();
        writer.file = working;
        writer.write(b"four").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\0\0\0\0\0\0\0\0four");
    }
}
