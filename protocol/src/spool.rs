//! The spool: a directory in which the name of a dump is its state.
//!
//! | name | state | who may move it on |
//! |---|---|---|
//! | `<id>.zip.part` | a composer is writing it and holds its lock | composer to ready; uploader to torn, once the lock is free |
//! | `<id>[_hint].zip` | complete, synced, never written again | uploader: to the store and away, or to uploaded, or to rejected |
//! | `<id>.zip.torn` | its composer died | uploader, holding its lock: to ready, repaired, or away if there is nothing to repair |
//! | `<id>[_hint].zip.rejected` | the store will never take this file | a person |
//! | `<id>[_hint].zip.uploaded` | the store has it, this is a copy | uploader: away |
//!
//! `<id>.upload` is no state of a dump: it is what the uploader remembers of an
//! upload in parts, and nobody else's business.
//!
//! Anything else in the directory is a stranger's and is never touched.

mod name;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2};

pub use name::{BadDumpId, DumpId, Entry, Hint, State};

/// Group (the uploader) may read a dump; nobody but its writer may write it.
const DUMP_MODE: u32 = 0o640;
/// The uploader repairs what a composer that died has left, and owns nothing.
const PART_MODE: u32 = 0o660;

/// An entry, and what the file system says about it.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its name.
    pub entry: Entry,
    /// Its size.
    pub bytes: u64,
    /// When it was last written.
    pub modified: SystemTime,
}

/// The spool's directory. Opening it creates nothing: if it is not there, a
/// disk may not be mounted, and dumps do not belong on another.
#[derive(Clone, Debug)]
pub struct Spool {
    dir: PathBuf,
}

impl Spool {
    /// The spool at `dir`.
    ///
    /// # Errors
    /// If there is no such directory.
    pub fn open(dir: impl Into<PathBuf>) -> io::Result<Spool> {
        let spool = Spool::at(dir);
        match fs::metadata(&spool.dir)?.is_dir() {
            true => Ok(spool),
            false => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// The spool at `dir`, whether it is there yet or not.
    pub fn at(dir: impl Into<PathBuf>) -> Spool {
        Spool { dir: dir.into() }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the file of `entry` is.
    pub fn path(&self, entry: &Entry) -> PathBuf {
        self.dir.join(entry.to_string())
    }

    /// Every dump there is, oldest id first. Strangers, and what has one of our
    /// names and is no regular file, are not ours.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<Found>> {
        let mut dumps = Vec::new();
        for item in fs::read_dir(&self.dir)? {
            let item = item?;
            let Some(entry) = item.file_name().to_str().and_then(Entry::parse) else { continue };
            match item.metadata() {
                Ok(meta) if meta.is_file() => {
                    dumps.push(Found { entry, bytes: meta.len(), modified: meta.modified()? });
                }
                // No dump; or one that moved on while we looked; or one that cannot
                // even be looked at, which is no reason to overlook the others.
                Ok(_) | Err(_) => {}
            }
        }
        dumps.sort_by(|a, b| a.entry.id().cmp(b.entry.id()));
        Ok(dumps)
    }

    /// Opens the file of `entry` for reading.
    ///
    /// # Errors
    /// If it is gone, may not be read, or is no regular file.
    pub fn read(&self, entry: &Entry) -> io::Result<File> {
        open_plain(OpenOptions::new().read(true), &self.path(entry))
    }

    /// Begins a dump: a part that is ours to write, and locked.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if the id is taken.
    pub fn create(&self, id: DumpId) -> io::Result<Part> {
        let entry = Entry::part(id);
        let path = self.path(&entry);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(PART_MODE).open(path)?;
        file.set_permissions(fs::Permissions::from_mode(PART_MODE))?; // whatever the umask is
        lock_newborn(&file);
        Ok(Part { spool: self.clone(), entry, file })
    }

    /// Takes over a torn dump, to repair it: it is ours to write, and locked.
    /// `None` if somebody else is at it, or was.
    ///
    /// # Errors
    /// If it is gone, may not be written, or is no regular file.
    pub fn adopt(&self, torn: &Entry) -> io::Result<Option<Part>> {
        let path = self.path(torn);
        let file = open_plain(OpenOptions::new().read(true).write(true), &path)?;
        // Otherwise it may have been published, and what is published is never
        // written to again.
        let ours = lock_of_that_name(&file, &path)?;
        Ok(ours.then(|| Part { spool: self.clone(), entry: torn.clone(), file }))
    }

    /// Gives the file of `entry` another state. A power cut may take that back,
    /// and then it is found out again.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] rather than replacing another dump.
    pub fn set_state(&self, entry: &Entry, state: State) -> io::Result<Entry> {
        let moved = entry.with(state);
        self.rename(entry, &moved)?;
        Ok(moved)
    }

    /// Renames, replacing nothing.
    fn rename(&self, from: &Entry, to: &Entry) -> io::Result<()> {
        renameat2(AT_FDCWD, &self.path(from), AT_FDCWD, &self.path(to), RenameFlags::RENAME_NOREPLACE)?;
        Ok(())
    }

    /// Opens a file of the spool that is no dump for reading.
    ///
    /// # Errors
    /// If it is not there, may not be read, or is no regular file.
    pub fn read_other(&self, name: &str) -> io::Result<File> {
        open_plain(OpenOptions::new().read(true), &self.dir.join(name))
    }

    /// Opens a file of the spool that is appended to, creating it if needed.
    ///
    /// # Errors
    /// If it may not be written or is no regular file.
    pub fn append(&self, name: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let file =
            open_plain(options.read(true).append(true).create(true).mode(PART_MODE), &self.dir.join(name))?;
        // Whatever the umask is. Who does not own it found it as it should be.
        let _ = file.set_permissions(fs::Permissions::from_mode(PART_MODE));
        Ok(file)
    }

    /// The same, locked. `None` if somebody else has it, or has just removed it.
    ///
    /// # Errors
    /// If it may not be written or is no regular file.
    pub fn claim(&self, name: &str) -> io::Result<Option<File>> {
        let file = self.append(name)?;
        Ok(lock_of_that_name(&file, &self.dir.join(name))?.then_some(file))
    }
}

/// Whether `file` is locked by us now, and still the one at `path`: between
/// opening and locking its name may have become another's.
fn lock_of_that_name(file: &File, path: &Path) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(err)) => return Err(err),
    }
    match fs::symlink_metadata(path) {
        Ok(there) => Ok(there.ino() == file.metadata()?.ino()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(err),
    }
}

/// Opens a regular file that has no other name. The uploader may write to the
/// spool and the composer is root: a link left for it there must lead nowhere,
/// and a fifo must not hold it up.
fn open_plain(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = options.custom_flags(flags.bits()).open(path)?;
    let meta = file.metadata()?;
    match meta.is_file() && meta.nlink() <= 1 {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a plain file")),
    }
}

/// The right to write a dump. Publishing consumes it: nothing can be appended
/// to a published dump because nothing is left to append with.
#[derive(Debug)]
pub struct Part {
    spool: Spool,
    entry: Entry,
    file: File,
}

impl Part {
    /// The file to write to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Bytes, then name, then the directory that holds the name: in that order
    /// a power cut at any point leaves nothing, a `.part`, or a whole `.zip`.
    ///
    /// # Errors
    /// If it could not be made ready; the part then stays where it is.
    pub fn publish(self, hint: Hint) -> io::Result<Published> {
        self.file.sync_all()?;
        let entry = self.entry.ready(hint);
        self.spool.rename(&self.entry, &entry)?;
        // Not before: whoever dies leaves a part that can be repaired. It may not
        // be ours, if it was adopted, and is ready all the same.
        let _ = self.file.set_permissions(fs::Permissions::from_mode(DUMP_MODE));
        let durable = File::open(&self.spool.dir).and_then(|dir| dir.sync_all());
        Ok(Published { entry, durable })
    }

    /// Nobody wants it: as if it had never been.
    ///
    /// # Errors
    /// If it could not be removed; somebody will find it torn then.
    pub fn discard(self) -> io::Result<()> {
        fs::remove_file(self.spool.path(&self.entry))
    }
}

/// A dump that is ready, whatever follows.
#[derive(Debug)]
pub struct Published {
    /// Its name.
    pub entry: Entry,
    /// Whether the name would survive a power cut.
    pub durable: io::Result<()>,
}

/// Locks a part that was just created. Somebody may be quicker, and look
/// whether it is abandoned; that takes no time. Somebody who keeps the lock
/// means harm, and a core is not lost for a lock.
fn lock_newborn(part: &File) {
    for _ in 0..20 {
        match part.try_lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
            Ok(()) | Err(TryLockError::Error(_)) => return,
        }
    }
}

/// True if no living process is writing `part`: the kernel drops the lock when
/// its holder dies, however it dies.
///
/// Never to be asked of a part that was written to within the last minute:
/// between its creation and its locking a newborn looks abandoned, and the
/// question itself takes the lock.
///
/// # Errors
/// If the file system has no locks.
pub fn is_abandoned(part: &File) -> io::Result<bool> {
    match part.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(err)) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const ID: &str = "20261122T193101Z-28763-9f3a61c2";

    fn id() -> DumpId {
        DumpId::try_from(ID.to_owned()).unwrap()
    }

    #[test]
    fn a_part_becomes_ready_whole_and_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let part = spool.create(id()).unwrap();
        assert!(spool.create(id()).is_err(), "the name is taken");
        part.file().write_all(b"zip").unwrap();
        let [found] = &spool.list().unwrap()[..] else { panic!("one part") };
        assert_eq!(found.entry.state(), State::Part);
        assert!(!is_abandoned(&spool.read(&found.entry).unwrap()).unwrap(), "its writer lives");
        let mode = |entry| fs::metadata(spool.path(entry)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&found.entry), PART_MODE);

        let ready = part.publish(Hint::new([&b"x"[..]])).unwrap().entry;
        assert_eq!(ready.to_string(), format!("{ID}_x.zip"));
        assert_eq!(fs::read(spool.path(&ready)).unwrap(), b"zip");
        assert_eq!(mode(&ready), DUMP_MODE);
    }

    #[test]
    fn nothing_is_left_of_a_part_that_nobody_wants() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        spool.create(id()).unwrap().discard().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_dump_replaces_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let part = spool.create(id()).unwrap();
        fs::write(dir.path().join(format!("{ID}.zip")), "older").unwrap();
        let err = part.publish(Hint::default()).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(dir.path().join(format!("{ID}.zip"))).unwrap(), b"older");
    }

    #[test]
    fn the_part_of_a_dead_composer_is_abandoned() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        drop(spool.create(id()).unwrap());
        let part = spool.list().unwrap().remove(0).entry;
        assert!(is_abandoned(&spool.read(&part).unwrap()).unwrap());
        assert_eq!(spool.set_state(&part, State::Torn).unwrap().to_string(), format!("{ID}.zip.torn"));
    }

    #[test]
    fn a_torn_dump_is_adopted_by_one_at_a_time_and_published_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let tear = || {
            drop(spool.create(id()).unwrap());
            spool.set_state(&Entry::part(id()), State::Torn).unwrap()
        };
        let torn = tear();
        let part = spool.adopt(&torn).unwrap().unwrap();
        assert!(spool.adopt(&torn).unwrap().is_none(), "somebody is at it");
        part.file().write_all(b"zip").unwrap();
        let ready = part.publish(Hint::default()).unwrap().entry;
        assert_eq!(fs::read(spool.path(&ready)).unwrap(), b"zip");
        assert_eq!(spool.adopt(&torn).unwrap_err().kind(), io::ErrorKind::NotFound);

        fs::remove_file(spool.path(&ready)).unwrap();
        spool.adopt(&tear()).unwrap().unwrap().discard().unwrap();
        assert!(spool.list().unwrap().is_empty());
        std::os::unix::fs::symlink(dir.path().join("target"), spool.path(&torn)).unwrap();
        fs::write(dir.path().join("target"), "secret").unwrap();
        assert!(spool.adopt(&torn).is_err(), "a link leads nowhere");
    }

    #[test]
    fn links_directories_and_fifos_are_no_dumps() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let target = dir.path().join("target");
        fs::write(&target, "secret").unwrap();
        let linked = Entry::parse(&format!("{ID}.zip")).unwrap();
        std::os::unix::fs::symlink(&target, spool.path(&linked)).unwrap();
        fs::create_dir(dir.path().join(format!("{ID}.zip.torn"))).unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(spool.list().unwrap().is_empty());
        assert!(spool.read(&linked).is_err());
        assert!(spool.append(&linked.to_string()).is_err());
        assert!(spool.append("fifo").is_err());
        assert!(spool.read_other("fifo").is_err());
        fs::hard_link(&target, dir.path().join("hard")).unwrap();
        assert!(spool.append("hard").is_err());
        assert!(spool.claim("hard").is_err());
        assert_eq!(fs::read(&target).unwrap(), b"secret");
    }
}
