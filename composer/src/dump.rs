//! The zip that a dump is, as it is being written: first the core, then what is
//! said about it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::time::Instant;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use protocol::manifest::CORE;
use protocol::settings::Compression;
use protocol::spool::DumpId;
use protocol::zip64::{Ended, Entry, Method};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::elf::Extent;
use crate::encoding::{Deflate, ZstdSink};
use crate::pipeline::{self, Encode, Total, Verbatim};

/// What of the dump is small is compressed by this level.
const LEVEL: i64 = 1;

/// A zip being written into a part, which has its core.
pub struct DumpZip<'part> {
    zip: ZipWriter<&'part File>,
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
    /// When the pipe was closed.
    pub released: Instant,
}

impl<'part> DumpZip<'part> {
    /// Begins a zip in `file`, whose entries lie in a folder named `id` and
    /// bear the time of the crash, with the core: all of it, unless it turns out
    /// to be `unwanted`. Closes `pipe` as soon as it has been read. `last_words`
    /// are the manifest for the case that we die meanwhile.
    pub fn with_core(
        file: &'part File,
        id: &DumpId,
        time: Timestamp,
        last_words: Vec<u8>,
        pipe: impl Read,
        (compression, threads): (Compression, usize),
        unwanted: impl Fn() -> bool,
    ) -> io::Result<(DumpZip<'part>, Copied)> {
        let time = dos_time(time);
        let method = match compression {
            Compression::Deflate => Method::Deflated,
            Compression::Zstd => Method::Zstd,
            Compression::Store => Method::Stored,
        };
        let dos_time = [time.timepart(), time.datepart()];
        let entry = Entry::begin(file, format!("{id}/{CORE}"), method, dos_time, last_words)?;
        let mut extent = Extent::default();
        let look = |piece: &[u8]| extent.feed(piece);
        let mut out = Counted { file, bytes: 0 };
        let total = match compression {
            Compression::Deflate => {
                let encoders = (0..threads).map(|_| Box::new(Deflate::new()) as Box<dyn Encode>).collect();
                let (total, out) = pipeline::run(pipe, &mut out, encoders, look, unwanted)?;
                out.write_all(&Deflate::END)?;
                total
            }
            Compression::Zstd => {
                let sink = ZstdSink::new(&mut out, threads)?;
                let (total, sink) = pipeline::run(pipe, sink, vec![Box::new(Verbatim)], look, unwanted)?;
                sink.finish()?;
                total
            }
            Compression::Store => pipeline::run(pipe, &mut out, vec![Box::new(Verbatim)], look, unwanted)?.0,
        };
        let Total { bytes, crc32, released } = total;
        entry.end(file, &Ended { crc32, compressed: out.bytes, uncompressed: bytes })?;
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(LEVEL))
            .last_modified_time(time)
            .unix_permissions(0o640);
        let zip = DumpZip { zip: ZipWriter::new_append(file)?, folder: id.clone(), options };
        Ok((zip, Copied { bytes, crc32, extent, released }))
    }

    /// Adds a small entry.
    pub fn entry(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.zip.start_file(format!("{}/{name}", self.folder), self.options)?;
        self.zip.write_all(content)
    }

    /// Writes the directory of the zip. Without it there is no zip.
    pub fn finish(self) -> io::Result<()> {
        self.zip.finish()?;
        Ok(())
    }
}

/// Counts what is written.
struct Counted<'a> {
    file: &'a File,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buf)?;
        self.bytes += n as u64;
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
