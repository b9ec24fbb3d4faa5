//! Blocks of the core that have been read and that nobody has had time for: in
//! a file without a name, which is gone when we are.
//!
//! The kernel hands a core over faster than few processors compress it, and the
//! crashed process is held until it has. So what does not fit into our memory
//! waits in the page cache, which is the node's to reclaim. It is to be bounded
//! such that none of it ever need reach the disk, where it would cost more than
//! compressing does.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use super::BLOCK;

/// The most there ever is; what is known of each block takes memory, too.
const MOST: u64 = 4 << 30;

/// A file with room for blocks.
pub struct Spill {
    file: File,
    /// How many blocks it may have.
    pub slots: u32,
}

impl Spill {
    /// Room for so many bytes in the directory `dir`.
    ///
    /// # Errors
    /// If there can be no such file there (`O_TMPFILE` in open(2)).
    pub fn new(dir: &Path, room: u64) -> io::Result<Spill> {
        let mut options = OpenOptions::new();
        let flags = (OFlag::O_TMPFILE | OFlag::O_CLOEXEC).bits();
        let file = options.read(true).write(true).mode(0o600).custom_flags(flags).open(dir)?;
        Ok(Spill { file, slots: (room.min(MOST) / BLOCK as u64) as u32 })
    }

    /// Puts a block into a slot.
    ///
    /// # Errors
    /// If the disk is full or broken.
    pub fn put(&self, slot: u32, block: &[u8]) -> io::Result<()> {
        self.file.write_all_at(block, position(slot))
    }

    /// Gets what was put there.
    ///
    /// # Errors
    /// If the disk is broken.
    pub fn get(&self, slot: u32, block: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(block, position(slot))
    }
}

fn position(slot: u32) -> u64 {
    u64::from(slot) * BLOCK as u64
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_put_is_got_and_leaves_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let spill = Spill::new(dir.path(), 2 * BLOCK as u64 + 1).unwrap();
        assert_eq!(spill.slots, 2);
        spill.put(1, b"second").unwrap();
        spill.put(0, b"first").unwrap();
        let (mut first, mut second) = ([0; 5], [0; 6]);
        spill.get(0, &mut first).unwrap();
        spill.get(1, &mut second).unwrap();
        assert_eq!((&first, &second), (b"first", b"second"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(spill.get(2, &mut first).is_err());
        assert!(Spill::new(Path::new("/proc"), 1 << 30).is_err(), "no such files there");
    }
}
