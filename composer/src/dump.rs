//! The zip that a dump is, as it is being written: first the core, then what is
//! said about it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::time::Instant;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::sys::statfs::{XFS_SUPER_MAGIC, fstatfs};
use protocol::manifest::{CORE, Truncation};
use protocol::settings::Compression;
use protocol::spool::DumpId;
use protocol::zip64::{DEFLATE_END, Ended, Entry, Method};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::elf::Extent;
use crate::encoding::{Deflate, ZstdSink};
use crate::pipeline::{self, Encode, Limits, Spill, Stop, Total, Verbatim};
use crate::space::CONTEXT;

/// What of the dump is small is compressed by this level.
const LEVEL: i64 = 1;

/// A zip being written into a part, which has its core.
pub struct DumpZip<'part> {
    zip: ZipWriter<&'part File>,
    folder: DumpId,
    options: SimpleFileOptions,
}

/// How a core becomes an entry.
pub struct Plan<U, E> {
    /// How it is compressed.
    pub compression: Compression,
    /// By how many threads.
    pub threads: usize,
    /// Where what they have no time for waits.
    pub spill: Option<Spill>,
    /// How much of the dump may wait in the page cache to be written to the disk.
    pub window: u64,
    /// Whether all of it is for nothing.
    pub unwanted: U,
    /// Why so many bytes more should not be written.
    pub enough: E,
}

/// What was read from the pipe.
pub struct Copied {
    /// How many bytes.
    pub bytes: u64,
    /// Their CRC-32.
    pub crc32: u32,
    /// What the ELF headers among them say.
    pub extent: Extent,
    /// When the pipe was closed.
    pub released: Instant,
    /// Why before its end.
    pub stopped: Option<Stop<Truncation>>,
}

/// How much of what was written is not in the file for some time.
pub fn held_back(compression: Compression, threads: usize) -> u64 {
    match compression {
        Compression::Zstd => ZstdSink::<&File>::holds_back(threads),
        Compression::Deflate | Compression::Store => 0,
    }
}

impl<'part> DumpZip<'part> {
    /// Begins a zip in `file`, whose entries lie in a folder named `id` and
    /// bear the time of the crash, with the core: as much of it as `plan` lets in.
    /// Closes `pipe` as soon as it has been read. `last_words` are the manifest for
    /// the case that we die meanwhile.
    pub fn with_core(
        file: &'part File,
        id: &DumpId,
        time: Timestamp,
        last_words: Vec<u8>,
        pipe: impl Read,
        plan: Plan<impl Fn() -> bool + Sync, impl FnMut(u64) -> Option<Truncation> + Send>,
    ) -> io::Result<(DumpZip<'part>, Copied)> {
        let time = dos_time(time);
        let method = match plan.compression {
            Compression::Deflate => Method::Deflated,
            Compression::Zstd => Method::Zstd,
            Compression::Store => Method::Stored,
        };
        let dos_time = [time.timepart(), time.datepart()];
        let entry = Entry::begin(file, format!("{id}/{CORE}"), method, dos_time, last_words)?;
        let mut extent = Extent::default();
        let look = |piece: &[u8]| extent.feed(piece);
        let window = plan.window.clamp(LEAST_WINDOW, MOST_WINDOW);
        let mut out = Counted { file, bytes: 0, window, claims: Claims::new(file) };
        let limits = Limits { unwanted: plan.unwanted, enough: plan.enough };
        let verbatim = || vec![Box::new(Verbatim) as Box<dyn Encode>];
        let total = match plan.compression {
            Compression::Deflate => {
                let encoders =
                    (0..plan.threads).map(|_| Box::new(Deflate::new()) as Box<dyn Encode>).collect();
                let total = pipeline::run(pipe, &mut out, encoders, plan.spill, look, limits)?;
                out.cut(&total)?;
                out.write_all(&DEFLATE_END)?;
                total
            }
            Compression::Zstd => {
                let mut sink = ZstdSink::new(&mut out, plan.threads)?;
                let total = pipeline::run(pipe, &mut sink, verbatim(), plan.spill, look, limits)?;
                // It cannot be cut: a part whose frame has no end is for whoever
                // finds it.
                if let Some(Stop::Output(err)) = total.stopped {
                    return Err(err);
                }
                sink.finish()?;
                total
            }
            Compression::Store => {
                let total = pipeline::run(pipe, &mut out, verbatim(), plan.spill, look, limits)?;
                out.cut(&total)?;
                total
            }
        };
        out.claims.before(file, CONTEXT);
        let Total { bytes, crc32, released, stopped, .. } = total;
        let ended = Ended { crc32, compressed: out.bytes, uncompressed: bytes };
        // Only the manifest can say why it is not whole, and we may not come to that.
        match stopped.is_none() && extent.expected_bytes().is_some_and(|expected| bytes >= expected) {
            true => entry.end(file, ended)?,
            false => entry.end_early(file, ended)?,
        }
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(LEVEL))
            .last_modified_time(time)
            .unix_permissions(0o640);
        let zip = DumpZip { zip: ZipWriter::new_append(file)?, folder: id.clone(), options };
        Ok((zip, Copied { bytes, crc32, extent, released, stopped }))
    }

    /// Adds a small entry.
    pub fn entry(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.zip.start_file(format!("{}/{name}", self.folder), self.options)?;
        self.zip.write_all(content)
    }

    /// Writes the directory of the zip. Without it there is no zip.
    pub fn finish(self) -> io::Result<()> {
        let mut file = self.zip.finish()?;
        // What was claimed and is not needed.
        file.set_len(file.stream_position()?)
    }
}

/// Counts what is written.
struct Counted<'a> {
    file: &'a File,
    bytes: u64,
    /// How much of it may wait in the page cache. More would have the node's other
    /// writers wait, and its memory be spent on what is read once, if at all.
    window: u64,
    claims: Claims,
}

/// Room on the disk that a file has before it is written to.
///
/// XFS takes room ahead of whoever writes, up to as much as he has written
/// already (`xfs_iomap_prealloc_size` in `fs/xfs/xfs_iomap.c`), which may be more
/// than is to spare; but not where there is some.
struct Claims {
    /// Up to where in the file; `None` where nobody takes more than he needs.
    end: Option<u64>,
}

/// So much at a time.
const CLAIM: u64 = 1 << 20;

impl Claims {
    fn new(file: &File) -> Claims {
        let is_xfs = fstatfs(file).is_ok_and(|fs| fs.filesystem_type() == XFS_SUPER_MAGIC);
        Claims { end: is_xfs.then_some(0) }
    }

    /// Before so many bytes are written where `file` stands.
    fn before(&mut self, mut file: &File, bytes: u64) {
        if let Some(end) = self.end
            && let Ok(at) = file.stream_position()
            && at + bytes > end
        {
            // Without it, writing will tell what is wrong.
            let more = bytes.max(CLAIM);
            let _ = fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, at as i64, more as i64);
            self.end = Some(at + more);
        }
    }
}

/// Less would be many small writes.
const LEAST_WINDOW: u64 = 8 << 20;
/// More would be a long one.
const MOST_WINDOW: u64 = 512 << 20;

impl Counted<'_> {
    /// Has the kernel begin to write to the disk what is not there yet, and forget
    /// what is (`generic_fadvise` in `mm/fadvise.c`).
    fn write_back(&self) {
        // At worst it happens later.
        let _ = posix_fadvise(self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }

    /// Gives up what was written besides `total`.
    fn cut<S>(&mut self, total: &Total<S>) -> io::Result<()> {
        let surplus = self.bytes - total.written;
        if surplus > 0 {
            let end = self.file.stream_position()? - surplus;
            self.file.set_len(end)?;
            self.file.seek(SeekFrom::Start(end))?;
            self.bytes = total.written;
            self.claims = Claims::new(self.file);
        }
        Ok(())
    }
}

impl Write for Counted<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.claims.before(self.file, buf.len() as u64);
        let n = self.file.write(buf)?;
        let before = self.bytes;
        self.bytes += n as u64;
        if self.bytes / self.window > before / self.window {
            self.write_back();
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A zip knows times from 1980 on, in no zone; ours are UTC.
fn dos_time(time: Timestamp) -> zip::DateTime {
    let t = time.to_zoned(TimeZone::UTC).datetime();
    let part = |n: i8| u8::try_from(n).unwrap_or(0);
    let year = u16::try_from(t.year()).unwrap_or(0);
    zip::DateTime::from_date_and_time(
        year,
        part(t.month()),
        part(t.day()),
        part(t.hour()),
        part(t.minute()),
        part(t.second()),
    )
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::Command;

    use nix::unistd::geteuid;
    use zip::ZipArchive;

    use super::*;

    fn id() -> DumpId {
        DumpId::new(Timestamp::UNIX_EPOCH, 1, 2)
    }

    type NoLimits = Plan<fn() -> bool, fn(u64) -> Option<Truncation>>;

    fn plan(compression: Compression) -> NoLimits {
        Plan { compression, threads: 2, spill: None, window: 0, unwanted: || false, enough: |_| None }
    }

    /// Noise, so that it gets no smaller.
    fn core(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        (0..len / 8).flat_map(|_| next()).collect()
    }

    /// Runs `test` with a file on a disk of 16 MiB. Only root can have one.
    fn on_a_small_disk(test: impl FnOnce(&File)) {
        if !geteuid().is_root() {
            return;
        }
        struct Mounted(tempfile::TempDir);
        impl Drop for Mounted {
            fn drop(&mut self) {
                let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
            }
        }
        let mounted = Mounted(tempfile::tempdir().unwrap());
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(mounted.0.path());
        assert!(mount.status().unwrap().success());
        test(&File::create_new(mounted.0.path().join("part")).unwrap());
    }

    #[test]
    fn a_full_disk_leaves_a_whole_zip_of_what_there_is() {
        for compression in [Compression::Deflate, Compression::Store] {
            on_a_small_disk(|file| {
                let core = core(30 << 20);
                let (mut zip, copied) =
                    DumpZip::with_core(file, &id(), Timestamp::UNIX_EPOCH, vec![], &*core, plan(compression))
                        .unwrap();
                assert!(matches!(copied.stopped, Some(Stop::Output(_))));
                assert!((10 << 20..14 << 20).contains(&copied.bytes), "{}", copied.bytes);
                zip.entry("more", &core[..2 << 20]).unwrap();
                zip.finish().unwrap();
                let mut zip = ZipArchive::new(file).unwrap();
                let mut read = Vec::new();
                zip.by_name(&format!("{}/core", id())).unwrap().read_to_end(&mut read).unwrap();
                assert!(read == core[..copied.bytes as usize]);
                assert_eq!(crc32fast::hash(&read), copied.crc32);
                assert_eq!(zip.by_name(&format!("{}/more", id())).unwrap().size(), 2 << 20);
            });
        }
    }

    #[test]
    fn a_frame_that_finds_the_disk_full_is_for_whoever_finds_it() {
        on_a_small_disk(|file| {
            let core = core(30 << 20);
            let plan = plan(Compression::Zstd);
            let full = DumpZip::with_core(file, &id(), Timestamp::UNIX_EPOCH, vec![], &*core, plan);
            assert_eq!(full.err().unwrap().kind(), io::ErrorKind::StorageFull);
            assert!(file.metadata().unwrap().len() > 15 << 20);
        });
    }
}
