//! The zip that a dump is, as it is being written.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use protocol::manifest::CORE;
use protocol::settings::Compression;
use protocol::spool::DumpId;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::elf::Extent;

/// The deflate level. Higher ones hold the crashed process several times as
/// long for a few percent of size.
const LEVEL: i64 = 1;
/// What is read from the pipe at a time: enough that the system calls do not
/// count, little enough to stay in the cache.
const CHUNK: usize = 128 << 10;

/// A zip being written into a part.
pub struct DumpZip<'part> {
    zip: ZipWriter<BufWriter<&'part File>>,
    folder: DumpId,
    options: SimpleFileOptions,
}

/// What was read from the pipe.
pub struct Copied {
    /// How many bytes.
    pub bytes: u64,
    /// Their CRC-32.
    pub crc32: u32,
    /// What the ELF headers among them say.
    pub extent: Extent,
}

impl<'part> DumpZip<'part> {
    /// Begins a zip in `file`, whose entries lie in a folder named `id` and
    /// bear the time of the crash.
    pub fn new(file: &'part File, id: &DumpId, time: Timestamp) -> DumpZip<'part> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(LEVEL))
            .last_modified_time(dos_time(time))
            .unix_permissions(0o640);
        DumpZip { zip: ZipWriter::new(BufWriter::with_capacity(CHUNK, file)), folder: id.clone(), options }
    }

    /// Copies the core, all of it, unless it turns out to be `unwanted`.
    pub fn core(
        &mut self,
        pipe: &mut impl Read,
        compression: Compression,
        unwanted: impl Fn() -> bool,
    ) -> io::Result<Copied> {
        let options = match compression {
            Compression::Deflate => self.options,
            Compression::Store => {
                self.options.compression_method(CompressionMethod::Stored).compression_level(None)
            }
        };
        // ZIP64 from the start: how long the core will be is not known, and
        // room for a long length cannot be made afterwards.
        self.zip.start_file(format!("{}/{CORE}", self.folder), options.large_file(true))?;
        let mut copied = Copied { bytes: 0, crc32: 0, extent: Extent::default() };
        let mut crc = crc32fast::Hasher::new();
        let mut chunk = vec![0; CHUNK];
        while !unwanted() {
            let n = match pipe.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) => return Err(err),
            };
            copied.extent.feed(&chunk[..n]);
            crc.update(&chunk[..n]);
            self.zip.write_all(&chunk[..n])?;
            copied.bytes += n as u64;
        }
        copied.crc32 = crc.finalize();
        Ok(copied)
    }

    /// Adds a small entry.
    pub fn entry(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.zip.start_file(format!("{}/{name}", self.folder), self.options)?;
        self.zip.write_all(content)
    }

    /// Writes the directory of the zip. Without it there is no zip.
    pub fn finish(self) -> io::Result<()> {
        self.zip.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
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
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_core_nobody_wants_is_not_read_to_its_end() {
        let file = tempfile::tempfile().unwrap();
        let id = DumpId::new(Timestamp::UNIX_EPOCH, 1, 1);
        let mut zip = DumpZip::new(&file, &id, Timestamp::UNIX_EPOCH);
        let asked = Cell::new(0);
        let unwanted = || asked.replace(asked.get() + 1) == 3;
        let copied = zip.core(&mut io::repeat(7), Compression::Deflate, unwanted).unwrap();
        assert_eq!(copied.bytes, 3 * CHUNK as u64);
    }
}
