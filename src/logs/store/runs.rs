//! What the log folder has of runs beside the logs of their attempts: the two outputs, and the result.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{Error, FOLDER as DIRECTORY, Store, list, names, open_folder, parsed, remove, unlink_file};
use crate::agent::name::{Key, Name};
use crate::logs::attempt::{AttemptId, INDEX, Output};
use crate::logs::reader::Log;
use crate::sys::PathError;

/// The folder of all runs, in that of their template.
pub(in crate::logs) const FOLDER: &str = "runs";

/// How a run ended.
pub(in crate::logs) const RESULT: &str = "result.json";

/// A result that is being written.
const NEW_RESULT: &str = "result.new";

/// The longest result that is read, in bytes.
const LONGEST_RESULT: u64 = 4 << 20;

/// An output has no attempts of its own.
const NO_ATTEMPT: AttemptId = AttemptId { sequence: 0, attempt: 0 };

/// How much there was of an output of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputSize {
    /// How many bytes were printed, over all attempts.
    pub bytes: u64,
    /// Whether all of them are kept.
    pub is_whole: bool,
}

impl Store {
    /// Opens the files of a run's outputs for its launcher, after what earlier attempts have written.
    pub fn make_outputs(&self, run: &Name) -> Result<[OwnedFd; 2], Error> {
        let _changes = self.changing();
        let (path, folder) = self.make_folder(run)?;
        let [stdout, stderr] = Output::ALL.map(|output| {
            let path = path.join(output.file_name());
            let file = open_for_writing(&path, &folder, output, OFlag::O_CREAT)?;
            self.share(&path, &file, Mode::from_bits_truncate(0o640))?;
            Ok::<_, Error>(file)
        });
        Ok([stdout?, stderr?])
    }

    /// Opens an output of a run for reading; `None` if it is not kept.
    ///
    /// It has no times, and the attempt that it names means nothing.
    pub fn open_output(&self, run: &Key, output: Output) -> Result<Option<Log>, Error> {
        let file = self.open_in_run(run, output.file_name())?;
        Ok(file.map(|file| Log::new(NO_ATTEMPT, file, None, self.retention.size, self.readers.clone())))
    }

    /// How much there was of an output of a run; `None` if it is not kept.
    pub fn output_size(&self, run: &Key, output: Output) -> Result<Option<OutputSize>, Error> {
        let Some(log) = self.open_output(run, output)? else { return Ok(None) };
        let measure = || Ok(OutputSize { bytes: log.end()?, is_whole: log.is_whole()? });
        measure().map(Some).map_err(|error: io::Error| self.failed("examine", run, output.file_name(), error))
    }

    /// Puts down how a run has ended, so that a crash of the machine does not undo it.
    pub fn write_result(&self, run: &Key, result: &[u8]) -> Result<(), Error> {
        let _changes = self.changing();
        let (path, folders) = self.make_folders(run)?;
        let failed = |action, name: &str, error| Error::from(PathError::new(action, path.join(name), error));
        let Some(folder) = folders.last() else { return Ok(()) };
        // Of a daemon that was killed meanwhile.
        unlink_file(folder, NEW_RESULT).map_err(|error| failed("remove", NEW_RESULT, error))?;
        let mut file = File::from(self.make_file(&path.join(NEW_RESULT), folder, NEW_RESULT)?);
        file.write_all(result)
            .and_then(|()| file.sync_all())
            .map_err(PathError::of("write", &path.join(NEW_RESULT)))?;
        renameat(folder, NEW_RESULT, folder, RESULT).map_err(|error| failed("make", RESULT, error))?;
        for folder in folders.iter().rev() {
            nix::unistd::fsync(folder).map_err(|error| failed("sync", "", error))?;
        }
        self.note_growth();
        Ok(())
    }

    /// How a run has ended, as [it was put down](Self::write_result); `None` if it was not.
    pub fn read_result(&self, run: &Key) -> Result<Option<Vec<u8>>, Error> {
        let Some(file) = self.open_in_run(run, RESULT)? else { return Ok(None) };
        let mut result = Vec::new();
        let read = file.take(LONGEST_RESULT).read_to_end(&mut result);
        read.map_err(|error| self.failed("read", run, RESULT, error))?;
        Ok(Some(result))
    }

    /// Removes all that is kept of a run. A folder that holds something else stays.
    pub fn remove_run(&self, run: &Key) -> Result<(), Error> {
        let _changes = self.changing();
        let Some(top) = self.top(false)? else { return Ok(()) };
        self.remove_run_in(&top, run)?;
        self.note_growth();
        Ok(())
    }

    /// The runs of all templates, declared or not, of which something is kept.
    pub fn all_runs(&self) -> Result<Vec<Key>, Error> {
        let Some(top) = self.top(false)? else { return Ok(Vec::new()) };
        let names = names(&top).map_err(PathError::of("read", &self.path))?;
        let templates = names.iter().filter_map(|name| name.parse::<Key>().ok()).filter(|key| !key.is_run());
        // One that cannot be read keeps nobody from the others.
        Ok(templates.flat_map(|template| self.runs_in(&top, &template).unwrap_or_default()).collect())
    }

    /// The runs of a template of which something is kept.
    pub fn runs(&self, template: &Key) -> Result<Vec<Key>, Error> {
        match self.top(false)? {
            Some(top) => self.runs_in(&top, template),
            None => Ok(Vec::new()),
        }
    }

    pub(super) fn runs_in(&self, top: &OwnedFd, template: &Key) -> Result<Vec<Key>, Error> {
        let path = || self.path_of(template).join(FOLDER);
        let Some(folder) = folder_of_all(top, template).map_err(|error| PathError::new("open", path(), error))? else {
            return Ok(Vec::new());
        };
        let mut runs = Vec::new();
        let mut entries = Dir::from_fd(folder).map_err(|error| PathError::new("read", path(), error))?;
        for entry in entries.iter() {
            let entry = entry.map_err(|error| PathError::new("read", path(), error))?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let key = format!("{}+{name}", template.as_str()).parse::<Key>();
            runs.extend(key.ok().filter(|key| key.run().is_some_and(|(_, id)| id == name)));
        }
        Ok(runs)
    }

    pub(super) fn remove_run_in(&self, top: &OwnedFd, run: &Key) -> Result<(), Error> {
        let Some((template, id)) = run.run() else { return Ok(()) };
        let path = self.path_of(run);
        let opened = folder_of_all(top, &template).and_then(|all| match all {
            Some(all) => match openat(&all, id, DIRECTORY, Mode::empty()) {
                Ok(folder) => Ok(Some((all, folder))),
                Err(Errno::ENOENT) => Ok(None),
                Err(error) => Err(error),
            },
            None => Ok(None),
        });
        let Some((all, folder)) = opened.map_err(|error| PathError::new("open", &path, error))? else { return Ok(()) };
        let attempts = list(&path, &folder)?.into_iter().chain(parsed(&path, &folder, INDEX)?);
        attempts.for_each(|kept| remove(&folder, kept));
        // The result goes last: without it, the run would count as one that is not over.
        for name in Output::ALL.map(Output::file_name).into_iter().chain([NEW_RESULT, RESULT]) {
            unlink_file(&folder, name).map_err(|error| PathError::new("remove", path.join(name), error))?;
        }
        match unlinkat(&all, id, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOENT) => Ok(()),
            Err(error) => Err(PathError::new("remove", path, error).into()),
        }
    }

    /// Opens a file of a run for reading; `None` if it does not exist.
    fn open_in_run(&self, run: &Key, name: &str) -> Result<Option<File>, Error> {
        let Some((path, folder)) = self.folder_of(run)?.filter(|_| run.is_run()) else { return Ok(None) };
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match openat(&folder, name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(File::from(file))),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(PathError::new("open", path.join(name), error).into()),
        }
    }

    fn failed(&self, action: &'static str, run: &Key, name: &str, error: io::Error) -> Error {
        PathError::of(action, &self.path_of(run).join(name))(error).into()
    }
}

/// Opens the folder of all runs of a template; `None` if there is none.
fn folder_of_all(top: &OwnedFd, template: &Key) -> nix::Result<Option<OwnedFd>> {
    match open_folder(top, template).and_then(|folder| openat(&folder, FOLDER, DIRECTORY, Mode::empty())) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens the outputs of a run for the daemon, which watches how much they take; `None` if they are not kept.
pub(super) fn live_outputs(path: &Path, folder: &OwnedFd) -> Result<Option<[File; 2]>, Error> {
    let open = |output: Output| match open_for_writing(&path.join(output.file_name()), folder, output, OFlag::empty()) {
        Ok(file) => Ok(Some(File::from(file))),
        Err(Error::System(PathError { source, .. })) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let [stdout, stderr] = Output::ALL.map(open);
    Ok(stdout?.zip(stderr?).map(|(stdout, stderr)| [stdout, stderr]))
}

fn open_for_writing(path: &Path, folder: &OwnedFd, output: Output, more: OFlag) -> Result<OwnedFd, Error> {
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | more;
    let file = openat(folder, output.file_name(), flags, Mode::S_IRUSR | Mode::S_IWUSR);
    Ok(file.map_err(PathError::of("open", path))?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use nix::unistd::{Gid, Uid};
    use tempfile::TempDir;

    use super::*;
    use crate::agent::machine::Numbers;
    use crate::agent::name::key;
    use crate::logs::store::Retention;

    fn store(total: Option<u64>) -> (TempDir, Store) {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("log/agentd");
        (directory, Store::new(&path, Gid::effective(), Retention { total, ..Retention::default() }))
    }

    fn run(id: &str) -> Name {
        Name::try_from("Fixer").unwrap().of_run(&id.parse().unwrap())
    }

    fn print(store: &Store, id: &str, bytes: usize) {
        let files = store.create(&run(id), Numbers::of(1)).unwrap();
        File::from(files.text).write_all(&vec![7; bytes]).unwrap();
        for (file, more) in store.make_outputs(&run(id)).unwrap().into_iter().zip([bytes, 0]) {
            File::from(file).write_all(&vec![7; more]).unwrap();
        }
        // Files have different times.
        std::thread::sleep(std::time::Duration::from_millis(10));
    }

    #[test]
    fn a_run_has_a_folder_below_that_of_its_template() {
        let (_directory, store) = store(None);
        print(&store, "T1", 3);
        print(&store, "T1", 2);
        let folder = store.path().join("fixer/runs/t1");
        let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        let attempts = ["00000001-1.log", "00000001-1.times", "00000002-1.log", "00000002-1.times"];
        assert_eq!(names, attempts.into_iter().chain(["stderr", "stdout"]).collect::<Vec<_>>());
        let (of_folder, of_file) = if Uid::effective().is_root() { (0o750, 0o640) } else { (0o700, 0o600) };
        let mode = |path: &str| fs::metadata(store.path().join(path)).unwrap().permissions().mode() & 0o7777;
        for path in ["fixer", "fixer/runs", "fixer/runs/t1"] {
            assert_eq!(mode(path), of_folder, "{path}");
        }
        assert_eq!(mode("fixer/runs/t1/stdout"), of_file);
        assert_eq!(store.attempts(&run("t1")).unwrap().len(), 2, "the case of its id does not matter");
        assert_eq!(store.attempts(&Name::try_from("fixer").unwrap()).unwrap(), [], "the template has none");
        assert_eq!(fs::read(folder.join("stdout")).unwrap(), [7; 5], "of both attempts");
        let live = store.live(&run("t1")).unwrap().unwrap();
        assert!(live.outputs.is_some() && store.is_in_place(&live).unwrap());
    }

    #[test]
    fn an_output_is_read_with_its_size() {
        let (_directory, store) = store(None);
        let key = key("fixer+t1");
        assert!(store.open_output(&key, Output::Stdout).unwrap().is_none());
        assert_eq!(store.output_size(&key, Output::Stdout).unwrap(), None);
        print(&store, "t1", 3);
        let log = store.open_output(&key, Output::Stdout).unwrap().unwrap();
        assert_eq!(log.read(0).unwrap().bytes, [7; 3]);
        let size = |output| store.output_size(&key, output).unwrap().unwrap();
        assert_eq!(size(Output::Stdout), OutputSize { bytes: 3, is_whole: true });
        assert_eq!(size(Output::Stderr), OutputSize { bytes: 0, is_whole: true });
        // As a writer leaves what it could not write, or frees.
        let [stdout, stderr] = store.make_outputs(&run("t1")).unwrap().map(File::from);
        stdout.set_len(1 << 20).unwrap();
        stderr.set_len(1 << 20).unwrap();
        (&stderr).write_all(b"x").unwrap();
        assert_eq!(size(Output::Stdout), OutputSize { bytes: 1 << 20, is_whole: false });
        assert_eq!(size(Output::Stderr), OutputSize { bytes: (1 << 20) + 1, is_whole: false });
    }

    #[test]
    fn a_result_is_kept_whole_and_can_be_read() {
        let (_directory, store) = store(None);
        let key = key("fixer+t1");
        assert_eq!(store.read_result(&key).unwrap(), None);
        store.write_result(&key, b"{}").unwrap();
        fs::write(store.path().join("fixer/runs/t1").join(NEW_RESULT), "half").unwrap();
        store.write_result(&key, b"{\"a\":1}").unwrap();
        assert_eq!(store.read_result(&key).unwrap().unwrap(), b"{\"a\":1}");
        assert_eq!(fs::read_dir(store.path().join("fixer/runs/t1")).unwrap().count(), 1);
        assert_eq!(store.runs(&"fixer".parse().unwrap()).unwrap(), [key]);
    }

    #[test]
    fn nothing_of_a_run_that_is_removed_is_left() {
        let (_directory, store) = store(None);
        print(&store, "t1", 3);
        print(&store, "t2", 3);
        store.write_result(&key("fixer+t1"), b"{}").unwrap();
        store.remove_run(&key("fixer+t1")).unwrap();
        store.remove_run(&key("fixer+t1")).unwrap();
        store.remove_run(&key("other+t1")).unwrap();
        assert!(!store.path().join("fixer/runs/t1").exists());
        assert_eq!(store.runs(&key("fixer")).unwrap(), [key("fixer+t2")]);
        fs::write(store.path().join("fixer/runs/t2/note"), "mine").unwrap();
        store.remove_run(&key("fixer+t2")).unwrap();
        assert_eq!(fs::read_dir(store.path().join("fixer/runs/t2")).unwrap().count(), 1, "what is not agentd's stays");
    }

    #[test]
    fn the_total_takes_outputs_of_the_oldest_runs_that_are_over_and_no_result() {
        let (_directory, store) = store(Some(200 << 10));
        for id in ["t1", "t2", "t3"] {
            print(&store, id, 40 << 10);
        }
        for id in ["t2", "t3"] {
            store.write_result(&key(&format!("fixer+{id}")), b"{}").unwrap();
        }
        store.limit_total().unwrap();
        let left = |id: &str, output| store.open_output(&key(&format!("fixer+{id}")), output).unwrap().is_some();
        assert!(left("t1", Output::Stdout), "it is not over");
        assert!(!(left("t2", Output::Stdout) && store.attempts(&run("t2")).unwrap().len() == 1));
        assert!(left("t3", Output::Stdout), "it is later");
        let uses = store.uses().unwrap();
        assert!(uses.bytes <= 200 << 10, "{uses:?}");
        assert_eq!(store.use_of(&key("fixer")).unwrap().bytes, uses.bytes);
        let none = Store::new(store.path(), Gid::effective(), Retention { total: Some(0), ..Retention::default() });
        none.limit_total().unwrap();
        assert!(!left("t3", Output::Stdout) && left("t1", Output::Stdout));
        for id in ["t2", "t3"] {
            assert_eq!(store.read_result(&key(&format!("fixer+{id}"))).unwrap().unwrap(), b"{}");
        }
    }

    #[test]
    fn runs_go_with_their_template_unless_one_of_them_is_held() {
        let (_directory, store) = store(None);
        for number in 0..=super::super::MOST_FORMER + 2 {
            let name = Name::try_from(format!("a{number}")).unwrap();
            let run = name.of_run(&"t1".parse().unwrap());
            store.create(&run, Numbers::of(1)).unwrap();
            drop(store.make_outputs(&run).unwrap());
            let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 + number as u64);
            for folder in [name.as_str().to_owned(), format!("{name}/runs")] {
                File::open(store.path().join(folder)).unwrap().set_modified(time).unwrap();
            }
        }
        store.tidy(&[key("a0+t1")].into()).unwrap();
        let is_there = |name: &str| store.path().join(name).exists();
        assert!(is_there("a0/runs/t1/stdout") && !is_there("a1") && !is_there("a2") && is_there("a3/runs/t1"));
    }

    #[test]
    fn no_link_leads_out_of_the_folder() {
        let (directory, store) = store(None);
        print(&store, "t1", 3);
        let elsewhere = directory.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("stdout"), "secret").unwrap();
        let runs = store.path().join("fixer/runs");
        symlink(&elsewhere, runs.join("t2")).unwrap();
        store.open_output(&key("fixer+t2"), Output::Stdout).unwrap_err();
        store.make_outputs(&run("t2")).unwrap_err();
        store.write_result(&key("fixer+t2"), b"{}").unwrap_err();
        store.remove_run(&key("fixer+t2")).unwrap_err();
        fs::remove_file(runs.join("t1/stdout")).unwrap();
        symlink(elsewhere.join("stdout"), runs.join("t1/stdout")).unwrap();
        store.open_output(&key("fixer+t1"), Output::Stdout).unwrap_err();
        store.make_outputs(&run("t1")).unwrap_err();
        store.remove_run(&key("fixer+t1")).unwrap();
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1);
        fs::rename(&runs, directory.path().join("runs")).unwrap();
        symlink(directory.path().join("runs"), &runs).unwrap();
        store.create(&run("t1"), Numbers::of(1)).unwrap_err();
        store.limit_total().unwrap_err();
    }
}
