//! Files that change atomically: readers see the old content or the new one, never a part.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc::{O_CLOEXEC, O_NOFOLLOW};

/// When the new content reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before it replaces the old content, so that one of them survives a crash of the machine.
    Now,
    /// When the caller or the kernel syncs it.
    Later,
}

/// Writes a temporary file beside the target, readable by its owner only (0600), and renames it.
///
/// Returns the new file. Blocks.
pub fn write(path: &Path, content: &[u8], durability: Durability) -> io::Result<File> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(O_NOFOLLOW | O_CLOEXEC);
    let mut file = options.open(&new)?;
    file.write_all(content)?;
    if durability == Durability::Now {
        file.sync_all()?;
    }
    fs::rename(&new, path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_write_replaces_the_file_and_leaves_nothing_beside_it() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.json");
        for (content, durability) in [("first", Durability::Now), ("second", Durability::Later)] {
            let file = write(&path, content.as_bytes(), durability).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(file.metadata().unwrap().ino(), fs::metadata(&path).unwrap().ino());
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_in_place_of_the_file_is_not_followed() {
        let folder = TempDir::new().unwrap();
        let (path, goal) = (folder.path().join("a.json"), folder.path().join("goal"));
        fs::write(&goal, "precious").unwrap();
        symlink(&goal, path.with_extension("new")).unwrap();
        assert!(write(&path, b"x", Durability::Later).is_err());
        assert_eq!(fs::read_to_string(&goal).unwrap(), "precious");
    }
}
