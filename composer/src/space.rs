//! How much of the disk a dump may take.
//!
//! A collector that fills the disk has the kubelet evict the pods of the node.
//! So there is a bound, known before the first byte and kept with each block.

use std::fs::File;
use std::io;

use nix::sys::statvfs::{Statvfs, fstatvfs};
use protocol::journal::Skip;
use protocol::manifest::Truncation;
use protocol::settings::ComposerSettings;
use protocol::spool::{Spool, State};

use crate::memory;
use crate::pipeline::BLOCK;

/// What is said about a core has to fit in, too.
pub const CONTEXT: u64 = 4 << 20;
/// How often others are asked how much they have written by now.
const LOOK_EVERY: u64 = 16 << 20;

/// What is in the spool.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Bytes, of dumps in any state but uploaded: those are copies that the
    /// uploader gives up for us. No crash is refused for what the store has.
    pub bytes: u64,
    /// How many dumps are being written.
    pub parts: u64,
}

impl Usage {
    /// What is in `spool` now.
    pub fn of(spool: &Spool) -> io::Result<Usage> {
        let mut found = spool.list()?;
        found.retain(|found| found.entry.state() != State::Uploaded);
        let parts = found.iter().filter(|found| found.entry.state() == State::Part).count() as u64;
        Ok(Usage { bytes: found.iter().map(|found| found.bytes).sum(), parts })
    }
}

/// What the settings allow.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    keep_free: u64,
    spool_max_bytes: u64,
}

impl Bounds {
    fn new(settings: &ComposerSettings, disk: &Statvfs) -> Bounds {
        let size = disk.blocks() * disk.fragment_size();
        Bounds {
            keep_free: settings.keep_free.bytes(size),
            spool_max_bytes: settings.spool_max_bytes.unwrap_or(u64::MAX),
        }
    }

    /// What is in the way of `more` bytes where so many are free, and so many in
    /// the spool.
    fn hinder(&self, more: u64, free: u64, used: u64) -> Option<Truncation> {
        if free < self.keep_free.saturating_add(more) {
            return Some(Truncation::DiskFull);
        }
        (self.spool_max_bytes < used.saturating_add(more)).then_some(Truncation::SpoolFull)
    }
}

/// The disk, from where one dump is written.
pub struct Space<'a> {
    spool: &'a Spool,
    part: &'a File,
    bounds: Bounds,
    usage: Usage,
    /// How much has been written since we looked.
    since: u64,
    /// What may come on top of that, and of what is about to be written.
    reserve: u64,
}

impl<'a> Space<'a> {
    /// The disk of `spool`, in which `part` is to be written by someone who holds
    /// back so many bytes.
    pub fn new(
        spool: &'a Spool,
        part: &'a File,
        settings: &ComposerSettings,
        held_back: u64,
    ) -> io::Result<Space<'a>> {
        let bounds = Bounds::new(settings, &fstatvfs(part)?);
        Ok(Space { spool, part, bounds, usage: Usage::of(spool)?, since: 0, reserve: CONTEXT + held_back })
    }

    /// Bytes that may lie on the disk, and in the memory of the node, besides the
    /// dump, and for as long as it is being written.
    pub fn to_spare(&self) -> io::Result<u64> {
        let free = free(&fstatvfs(self.part)?).saturating_sub(self.bounds.keep_free);
        Ok(to_spare(memory::share()?, free, self.usage.parts))
    }

    /// How much of the dump may wait in the page cache.
    pub fn window(&self) -> u64 {
        // Half of it grows while the other half is being written.
        memory::share().unwrap_or(0) / 2 / self.usage.parts.max(1)
    }

    /// Why a dump should not even begin.
    pub fn refusal(&self) -> io::Result<Option<Skip>> {
        let least = self.reserve + BLOCK as u64;
        let hinder = self.bounds.hinder(least, free(&fstatvfs(self.part)?), self.usage.bytes);
        Ok(hinder.map(|hinder| match hinder {
            Truncation::SpoolFull => Skip::SpoolFull,
            _ => Skip::DiskFull,
        }))
    }

    /// Why `more` bytes should not be written. That the disk cannot be asked is
    /// no reason.
    pub fn enough(&mut self, more: u64) -> Option<Truncation> {
        self.since += more;
        if self.since > LOOK_EVERY
            && let Ok(usage) = Usage::of(self.spool)
        {
            (self.usage, self.since) = (usage, more);
        }
        let free = fstatvfs(self.part).map_or(u64::MAX, |disk| free(&disk));
        self.bounds.hinder(more + self.reserve, free, self.usage.bytes + self.since - more)
    }
}

/// Of the node's memory and of what is free on the disk, where so many dumps are
/// being written. So much of the disk a dump may lack in the end.
fn to_spare(memory: u64, free: u64, parts: u64) -> u64 {
    memory.min(free / 16) / parts.max(1)
}

/// Bytes that are there for anyone.
fn free(disk: &Statvfs) -> u64 {
    disk.blocks_available() * disk.fragment_size()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use protocol::settings::KeepFree;
    use protocol::spool::DumpId;

    use super::*;

    #[test]
    fn both_bounds_hold_to_the_byte() {
        let bounds = Bounds { keep_free: 100, spool_max_bytes: 50 };
        assert_eq!(bounds.hinder(10, 110, 40), None);
        assert_eq!(bounds.hinder(10, 109, 0), Some(Truncation::DiskFull));
        assert_eq!(bounds.hinder(10, 1000, 41), Some(Truncation::SpoolFull));
        assert_eq!(bounds.hinder(u64::MAX, u64::MAX - 1, 0), Some(Truncation::DiskFull));
    }

    #[test]
    fn what_is_to_spare_is_shared() {
        assert_eq!(to_spare(100, 10_000, 1), 100);
        assert_eq!(to_spare(100, 10_000, 4), 25);
        assert_eq!(to_spare(100, 160, 0), 10);
        assert_eq!(to_spare(100, 0, 1), 0);
    }

    #[test]
    fn what_the_store_has_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let id = DumpId::new(jiff::Timestamp::UNIX_EPOCH, 1, 1);
        for state in State::ALL {
            fs::write(dir.path().join(format!("{id}.zip.{state}")), [0; 10]).unwrap();
        }
        fs::rename(dir.path().join(format!("{id}.zip.ready")), dir.path().join(format!("{id}.zip"))).unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        assert_eq!(spool.list().unwrap().len(), 5);
        assert_eq!(Usage::of(&spool).unwrap(), Usage { bytes: 40, parts: 1 });
    }

    #[test]
    fn what_others_have_written_counts() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let id = |random| DumpId::new(jiff::Timestamp::UNIX_EPOCH, 1, random);
        let part = spool.create(id(1)).unwrap();
        let settings = ComposerSettings {
            keep_free: KeepFree::Bytes(0),
            spool_max_bytes: Some(CONTEXT + 2 * LOOK_EVERY + 1000),
            ..ComposerSettings::default()
        };
        let mut space = Space::new(&spool, part.file(), &settings, 0).unwrap();
        assert_eq!((space.usage.parts, space.refusal().unwrap()), (1, None));
        assert_eq!(space.enough(LOOK_EVERY), None);
        part.file().set_len(LOOK_EVERY).unwrap();
        fs::write(dir.path().join(format!("{}.zip", id(2))), [0; 1001]).unwrap();
        assert_eq!(space.enough(LOOK_EVERY), Some(Truncation::SpoolFull));
    }
}
