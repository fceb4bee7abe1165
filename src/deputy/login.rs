//! What logs a harness in: whether its files in the home have changed. What is in them is not read.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::text::glob;

/// The most files of a folder that are looked at.
const MOST: usize = 1_000;

/// A number that changes when a file does, or which files there are. The last part of the path may be a pattern.
pub(super) fn stamp(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match path.parent().filter(|_| glob::is_pattern(&name)) {
        Some(folder) => {
            let entries =
                fs::read_dir(folder).into_iter().flatten().flatten().take(MOST).map(|entry| entry.file_name());
            let mut fitting: Vec<_> = entries.filter(|entry| glob::fits(&name, &entry.to_string_lossy())).collect();
            fitting.sort();
            for entry in fitting {
                entry.hash(&mut hasher);
                look(&folder.join(entry), &mut hasher);
            }
        }
        None => look(path, &mut hasher),
    }
    hasher.finish()
}

fn look(path: &Path, hasher: &mut DefaultHasher) {
    let seen = fs::metadata(path).ok();
    seen.map(|it| (it.ino(), it.size(), it.mtime(), it.mtime_nsec())).hash(hasher);
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_file_that_appears_is_replaced_or_goes_is_a_change() {
        let folder = TempDir::new().unwrap();
        for path in [folder.path().join("token"), folder.path().join("*")] {
            let mut seen = vec![stamp(&path)];
            let file = folder.path().join("token");
            fs::write(&file, "a").unwrap();
            seen.push(stamp(&path));
            assert_eq!(seen.last(), Some(&stamp(&path)), "nothing has changed");
            fs::write(folder.path().join("new"), "bb").unwrap();
            fs::rename(folder.path().join("new"), &file).unwrap();
            seen.push(stamp(&path));
            assert!(seen[0] != seen[1] && seen[1] != seen[2], "{seen:?}");
            fs::remove_file(&file).unwrap();
            assert_eq!(stamp(&path), seen[0]);
        }
    }
}
