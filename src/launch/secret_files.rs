//! The values of an agent's secrets as files, for programs that read them again.
//!
//! The launcher makes a folder for the attempt beside its socket, which is in memory on most machines (`/run`), with the agent user's
//! rights. Root touches nothing in it. Its files are replaced by a rename, so that a reader sees an old value or a new one. The folder
//! is removed with the attempt; one whose launcher was killed is removed by the next launcher, as with the
//! [folders for temporary files](super::temporary_dir).

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::temporary_dir::{self, Scratch};
use crate::sys::secret_bytes::SecretBytes;
use crate::text::redact::{ByteStream, Redactor};

/// The folder beside the launch socket in which each attempt has one of its own.
const FOLDER: &str = "secrets";

/// The variable that names the attempt's own folder.
const VARIABLE: &str = "AGENTD_SECRETS";

/// What follows the name of a secret in the variable that names its file.
const SUFFIX: &str = "_FILE";

/// A file before it has its name.
const NEW: &str = ".new";

/// The files of one attempt. Dropping it removes them.
#[derive(Debug)]
pub(super) struct SecretFiles {
    folder: Scratch,
    /// Every value that was in a file, so that none shows in the log.
    known: Vec<SecretBytes>,
    present: BTreeMap<String, SecretBytes>,
}

impl SecretFiles {
    /// Writes these, by variable.
    pub fn make<'a>(
        launch_socket: &Path,
        agent: &str,
        secrets: impl Iterator<Item = (&'a String, &'a SecretBytes)>,
    ) -> io::Result<Self> {
        let base = launch_socket.parent().unwrap_or(Path::new("/")).join(FOLDER);
        match DirBuilder::new().mode(0o700).create(&base) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        temporary_dir::begin_removal_of_left(Some(base.as_os_str()), launch_socket, agent);
        let folder = Scratch::make(Some(base.as_os_str()), launch_socket, agent)?;
        let mut files = Self { folder, known: Vec::new(), present: BTreeMap::new() };
        files.replace(&secrets.map(|(name, value)| (name.clone(), value.clone())).collect())?;
        Ok(files)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The variables that say where the folder and the files are, which is `inside` if that is given.
    pub fn variables(&self, inside: Option<&Path>) -> Vec<(String, PathBuf)> {
        let folder = inside.unwrap_or(self.path());
        let files = self.present.keys().map(|name| (format!("{name}{SUFFIX}"), folder.join(name)));
        files.chain([(VARIABLE.to_owned(), folder.to_owned())]).collect()
    }

    /// What masks these values and all that were in the files before.
    pub fn to_redact(&self, secrets: &BTreeMap<String, SecretBytes>) -> ByteStream {
        ByteStream::new(Redactor::new(self.known.iter().chain(secrets.values()).cloned()))
    }

    /// Replaces the files whose values differ from these. Files of secrets that are not among them stay.
    pub fn replace(&mut self, secrets: &BTreeMap<String, SecretBytes>) -> io::Result<()> {
        for (name, value) in secrets {
            if !self.known.contains(value) {
                self.known.push(value.clone());
            }
            if self.present.get(name) == Some(value) {
                continue;
            }
            let new = self.path().join(NEW);
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&new)?;
            file.write_all(value.as_slice())?;
            fs::rename(&new, self.path().join(name))?;
            self.present.insert(name.clone(), value.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    fn values(values: &[(&str, &str)]) -> BTreeMap<String, SecretBytes> {
        values.iter().map(|&(name, value)| (name.to_owned(), SecretBytes::from(value))).collect()
    }

    #[test]
    fn files_are_private_are_replaced_and_leave_nothing() {
        let place = TempDir::new().unwrap();
        let first = values(&[("A", "one"), ("B", "two")]);
        let mut files = SecretFiles::make(&place.path().join("launch.sock"), "a", first.iter()).unwrap();
        let folder = files.path().to_owned();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            [mode(&place.path().join("secrets")), mode(&folder), mode(&folder.join("A"))],
            [0o700, 0o700, 0o400]
        );
        let before = fs::File::open(folder.join("A")).unwrap();
        files.replace(&values(&[("A", "new"), ("B", "two")])).unwrap();
        assert_eq!(fs::read(folder.join("A")).unwrap(), b"new");
        assert_eq!(io::read_to_string(before).unwrap(), "one", "who has it open reads on");
        let names = files.variables(Some(Path::new("/in")));
        let shown: Vec<String> = names.into_iter().map(|(name, path)| format!("{name}={}", path.display())).collect();
        assert_eq!(shown, ["A_FILE=/in/A", "B_FILE=/in/B", "AGENTD_SECRETS=/in"]);
        drop(files);
        assert!(!folder.exists());
    }

    #[test]
    fn old_and_new_values_are_masked() {
        let place = TempDir::new().unwrap();
        let first = values(&[("A", "first-secret-value")]);
        let files = SecretFiles::make(&place.path().join("launch.sock"), "a", first.iter()).unwrap();
        let mut redactor = files.to_redact(&values(&[("A", "second-secret-value")]));
        let mut shown = Vec::new();
        redactor.pass(b"first-secret-value second-secret-value.", &mut shown);
        redactor.finish(&mut shown);
        let shown = String::from_utf8(shown).unwrap();
        assert!(!shown.contains("secret-value"), "{shown}");
    }
}
