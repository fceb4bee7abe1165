//! Reads the skills that entries name: finds their folders, and looks whether each is what a harness can use.
//!
//! As root, only what root alone can change is read: the skill itself, and every folder and link on the way. Otherwise an agent could
//! write the instructions of another one. No link in a skill is followed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use crate::agent::skills::{FILE, LARGEST, MOST, MOST_FILES, Skill, judge};
use crate::config::Config;
use crate::sys::regular_file;
use crate::sys::safe_path;

/// What each path of an entry leads to, or why it cannot be used.
pub type Skills = BTreeMap<String, Result<Vec<Skill>, String>>;

/// Stands for all folders in a folder.
const ALL: &str = "*";

/// The skills that the entries of a jcard in this folder name. Blocks.
pub fn read(config: &Config, folder: &Path) -> Skills {
    let specs = config.entries.iter().filter_map(|entry| entry.spec.as_ref().ok());
    let paths: BTreeSet<&String> = specs.flat_map(|spec| &spec.skills).collect();
    paths.into_iter().map(|path| (path.clone(), of_path(path, folder))).collect()
}

/// The skills that an entry names by these paths, sorted by name.
pub fn of_entry<'a>(
    paths: &[String],
    skills: impl Fn(&str) -> Option<&'a Result<Vec<Skill>, String>>,
) -> Result<Vec<Skill>, String> {
    let mut found: BTreeMap<&str, &Skill> = BTreeMap::new();
    for path in paths {
        let all = skills(path).ok_or_else(|| format!("skills: {path} was not read yet"))?;
        for skill in all.as_ref().map_err(|error| format!("skills: {error}"))? {
            if let Some(other) = found.insert(&skill.name, skill).filter(|other| other.folder != skill.folder) {
                let (one, another) = (other.folder.display(), skill.folder.display());
                return Err(format!("skills: {one} and {another} have the same name; an agent can have one of them"));
            }
        }
    }
    if found.len() > MOST {
        return Err(format!("skills: these are {}; an agent can have {MOST}", found.len()));
    }
    Ok(found.into_values().cloned().collect())
}

fn of_path(path: &str, folder: &Path) -> Result<Vec<Skill>, String> {
    let whole = folder.join(path);
    if whole.file_name() != Some(OsStr::new(ALL)) {
        return one(&whole).map(|skill| vec![skill]);
    }
    let above = whole.parent().unwrap_or(Path::new("/"));
    let opened = open(above)?;
    let mut names = Vec::new();
    for entry in listed(&opened, above)? {
        let Some(name) = entry.to_str().filter(|name| !name.starts_with('.')) else { continue };
        // A link to a folder is one, too.
        if names.len() <= MOST && (is_folder(&opened, name) || above.join(name).is_dir()) {
            names.push(name.to_owned());
        }
    }
    if names.len() > MOST {
        return Err(format!("{path}: there are more than {MOST} folders"));
    }
    names.sort_unstable();
    names.iter().map(|name| one(&above.join(name))).collect()
}

fn open(path: &Path) -> Result<OwnedFd, String> {
    let opened = if Uid::effective().is_root() {
        safe_path::open_private_dir(path, None)
    } else {
        safe_path::open_dir(path, None)
    };
    opened.map_err(|error| error.to_string())
}

/// The path of what was opened, which has no links.
fn real(opened: &OwnedFd, path: &Path) -> Result<PathBuf, String> {
    fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn is_folder(opened: &OwnedFd, name: &str) -> bool {
    safe_path::look(opened, OsStr::new(name)).is_ok_and(|it| it.mode & 0o170_000 == 0o040_000)
}

fn listed(opened: &OwnedFd, path: &Path) -> Result<Vec<std::ffi::OsString>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let entries = fs::read_dir(real(opened, path)?).map_err(failed)?;
    // One more shows that there are too many.
    entries.take(MOST_FILES + 1).map(|entry| entry.map(|entry| entry.file_name()).map_err(failed)).collect()
}

fn one(path: &Path) -> Result<Skill, String> {
    let shown = path.display();
    let name = path.file_name().and_then(OsStr::to_str).ok_or_else(|| format!("{shown} has no name"))?;
    let opened = open(path)?;
    let (text, _) = regular_file::read_in(&opened, OsStr::new(FILE), LARGEST)
        .map_err(|error| format!("{}: {error}", path.join(FILE).display()))?;
    let text = std::str::from_utf8(&text).map_err(|_| format!("{} is not text", path.join(FILE).display()))?;
    judge(name, text).map_err(|error| format!("{}: {error}", path.join(FILE).display()))?;
    let folder = real(&opened, path)?;
    measure(&folder, &mut 0).map_err(|error| format!("{shown}: {error}"))?;
    Ok(Skill { name: name.to_owned(), folder })
}

/// Whether it is not too large, and holds nothing that cannot be read to its end.
fn measure(folder: &Path, count: &mut usize) -> Result<(), String> {
    for entry in fs::read_dir(folder).map_err(|error| error.to_string())? {
        *count += 1;
        if *count > MOST_FILES {
            return Err(format!("it has more than {MOST_FILES} files"));
        }
        let entry = entry.map_err(|error| error.to_string())?;
        let path = entry.path();
        let metadata = fs::symlink_metadata(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        if metadata.is_dir() {
            // What is mounted in it may never answer.
            safe_path::open_dir(&path, None).map_err(|error| error.to_string())?;
            measure(&path, count)?;
        } else if metadata.is_file() && metadata.len() > LARGEST {
            return Err(format!("{} has {} bytes; {LARGEST} are the most", path.display(), metadata.len()));
        } else if !metadata.is_file() && !metadata.is_symlink() {
            return Err(format!("{} is neither a file nor a folder", path.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    fn skill(folder: &Path, name: &str) {
        fs::create_dir_all(folder.join(name)).unwrap();
        fs::write(folder.join(name).join(FILE), format!("---\nname: {name}\ndescription: x\n---\n")).unwrap();
    }

    fn names(path: &str, folder: &Path) -> Vec<String> {
        of_path(path, folder).unwrap().into_iter().map(|skill| skill.name).collect()
    }

    #[test]
    fn a_star_stands_for_all_folders_and_a_link_has_the_name_that_it_is_given() {
        let place = TempDir::new().unwrap();
        let folder = place.path().join("skills");
        skill(&folder, "b");
        skill(&folder, "a");
        fs::create_dir_all(folder.join(".hidden")).unwrap();
        fs::write(folder.join("README"), "").unwrap();
        assert_eq!(names("./skills/*", place.path()), ["a", "b"]);
        skill(&place.path().join("store"), "c");
        symlink(place.path().join("store/c"), folder.join("c")).unwrap();
        assert_eq!(names("skills/*", place.path()), ["a", "b", "c"]);
        let found = of_path("skills/c", place.path()).unwrap();
        assert_eq!(found[0].folder, place.path().join("store/c").canonicalize().unwrap());
    }

    #[test]
    fn a_wrong_skill_is_named_with_its_file() {
        let place = TempDir::new().unwrap();
        skill(place.path(), "a");
        let error = || of_path("a", place.path()).unwrap_err();
        fs::write(place.path().join("a/large"), vec![0; usize::try_from(LARGEST).unwrap() + 1]).unwrap();
        assert!(error().contains("a/large has 1048577 bytes"), "{}", error());
        fs::remove_file(place.path().join("a/large")).unwrap();
        (0..MOST_FILES).for_each(|number| fs::write(place.path().join("a").join(number.to_string()), "").unwrap());
        assert!(error().contains("more than 1000 files"), "{}", error());
        assert!(of_path("b", place.path()).unwrap_err().contains("/b"));
    }

    #[test]
    fn two_skills_of_one_name_are_an_error_and_one_skill_twice_is_not() {
        let place = TempDir::new().unwrap();
        skill(&place.path().join("one"), "a");
        skill(&place.path().join("two"), "a");
        let all: Skills = ["one/a", "one/*", "two/a"].map(|path| (path.to_owned(), of_path(path, place.path()))).into();
        let of = |paths: &[&str]| {
            of_entry(&paths.iter().map(|&path| path.to_owned()).collect::<Vec<_>>(), |path| all.get(path))
        };
        assert_eq!(of(&["one/a", "one/*"]).unwrap().len(), 1);
        assert!(of(&["one/a", "two/a"]).unwrap_err().contains("have the same name"));
    }
}
