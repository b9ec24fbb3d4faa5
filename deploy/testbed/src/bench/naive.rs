//! The naive way: `io::copy` into an entry of a zip, one thread, deflate level
//! 6 by miniz_oxide.
//!
//! That is what the incumbent's `zip` and `flate2` come down to. Here flate2
//! would take zlib-rs, several times as fast, since cargo gives it the features
//! that anyone in the build asks for. Hence miniz_oxide itself, called as
//! flate2 calls it, and a zip of one entry around it (APPNOTE.TXT 4.3).

use std::io::{self, Read, Seek, SeekFrom, Write};

use miniz_oxide::deflate::core::CompressorOxide;
use miniz_oxide::deflate::stream::deflate;
use miniz_oxide::{DataFormat, MZFlush, MZStatus};

/// What `zip` takes if nobody says otherwise.
const LEVEL: u8 = 6;
/// As in `flate2::zio::Writer`.
const BUFFER: usize = 32 << 10;
const NAME: &[u8] = b"core";

/// Copies `core` into an entry of a zip, and returns how much it was.
///
/// # Errors
/// If reading or writing fails, or either side of the entry has 4 GiB: the
/// naive way knows no ZIP64.
pub fn write(core: &mut impl Read, mut zip: impl Write + Seek) -> io::Result<u64> {
    // What is not known yet is written once it is.
    let start = local_header(0, 0, 0)?;
    zip.write_all(&start)?;
    let mut entry = Entry::new(&mut zip);
    let bytes = io::copy(core, &mut entry)?;
    let (crc, packed) = entry.finish()?;
    zip.rewind()?;
    zip.write_all(&local_header(crc, packed, bytes)?)?;
    let directory_at = zip.seek(SeekFrom::End(0))?;
    let directory = directory_header(crc, packed, bytes)?;
    zip.write_all(&directory)?;
    zip.write_all(&end_of_directory(small(directory_at)?, directory.len() as u32))?;
    Ok(bytes)
}

struct Entry<W> {
    to: W,
    compressor: Box<CompressorOxide>,
    buffer: Box<[u8; BUFFER]>,
    crc: crc32fast::Hasher,
    packed: u64,
}

impl<W: Write> Entry<W> {
    fn new(to: W) -> Entry<W> {
        let mut compressor = Box::<CompressorOxide>::default();
        compressor.set_format_and_level(DataFormat::Raw, LEVEL);
        Entry { to, compressor, buffer: Box::new([0; BUFFER]), crc: crc32fast::Hasher::new(), packed: 0 }
    }

    /// Has a bit of `input` compressed, and returns how much, and whether it was
    /// the end.
    fn step(&mut self, input: &[u8], flush: MZFlush) -> io::Result<(usize, bool)> {
        let did = deflate(&mut self.compressor, input, &mut self.buffer[..], flush);
        let status = did.status.map_err(|err| io::Error::other(format!("miniz_oxide: {err:?}")))?;
        self.to.write_all(&self.buffer[..did.bytes_written])?;
        self.packed += did.bytes_written as u64;
        Ok((did.bytes_consumed, status == MZStatus::StreamEnd))
    }

    /// The checksum, and the bytes of the entry.
    fn finish(mut self) -> io::Result<(u32, u64)> {
        while !self.step(&[], MZFlush::Finish)?.1 {}
        Ok((self.crc.finalize(), self.packed))
    }
}

impl<W: Write> Write for Entry<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Maybe it only got rid of what it had; zero would mean that it is full.
        let mut taken = 0;
        while taken == 0 && !bytes.is_empty() {
            (taken, _) = self.step(bytes, MZFlush::None)?;
        }
        self.crc.update(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn small(bytes: u64) -> io::Result<u32> {
    u32::try_from(bytes).map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "4 GiB want ZIP64"))
}

/// Version 2.0, no flags, deflate, midnight of the first of January 1980, and
/// what is in the entry.
fn common(crc: u32, packed: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let mut header = Vec::new();
    [20_u16, 0, 8, 0, 0x21].iter().for_each(|field| header.extend(field.to_le_bytes()));
    [crc, small(packed)?, small(bytes)?].iter().for_each(|field| header.extend(field.to_le_bytes()));
    header.extend((NAME.len() as u16).to_le_bytes());
    header.extend([0; 2]); // no extra field
    Ok(header)
}

/// 4.3.7
fn local_header(crc: u32, packed: u64, bytes: u64) -> io::Result<Vec<u8>> {
    Ok([b"PK\x03\x04", &common(crc, packed, bytes)?[..], NAME].concat())
}

/// 4.3.12, of the entry that is first
fn directory_header(crc: u32, packed: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let made_by = 20_u16.to_le_bytes();
    // No comment, the first disk, no attributes, at the beginning.
    Ok([b"PK\x01\x02", &made_by[..], &common(crc, packed, bytes)?[..], &[0; 14], NAME].concat())
}

/// 4.3.16
fn end_of_directory(at: u32, length: u32) -> Vec<u8> {
    let entries = [1_u16.to_le_bytes(), 1_u16.to_le_bytes()].concat();
    [b"PK\x05\x06", &[0; 4][..], &entries, &length.to_le_bytes(), &at.to_le_bytes(), &[0; 2]].concat()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use miniz_oxide::deflate::compress_to_vec;
    use zip::{CompressionMethod, ZipArchive};

    use super::*;
    use crate::memory::{Fill, Memory};

    fn packed(core: &[u8]) -> Vec<u8> {
        let mut zip = Cursor::new(Vec::new());
        let bytes = write(&mut &core[..], &mut zip).unwrap();
        assert_eq!(bytes, core.len() as u64);
        zip.into_inner()
    }

    #[test]
    fn it_is_a_zip_with_the_core_in_it() {
        for length in [0, 1, 100_003, 3 << 20] {
            let core = Memory { fill: Fill::Mixed, length }.allocate();
            let mut zip = ZipArchive::new(Cursor::new(packed(&core))).unwrap();
            let mut entry = zip.by_name("core").unwrap();
            assert_eq!((entry.size(), entry.compression()), (length as u64, CompressionMethod::Deflated));
            let mut found = Vec::new();
            entry.read_to_end(&mut found).unwrap(); // checks the CRC
            assert!(found == core, "{length} bytes are others");
        }
    }

    /// The entry as it lies in the zip.
    fn raw(zip: Vec<u8>) -> Vec<u8> {
        let mut zip = ZipArchive::new(Cursor::new(zip)).unwrap();
        let mut raw = Vec::new();
        zip.by_index_raw(0).unwrap().read_to_end(&mut raw).unwrap();
        raw
    }

    #[test]
    fn its_encoder_is_miniz_oxide_at_level_6_and_not_the_one_that_flate2_has_here() {
        let core = Memory { fill: Fill::Mixed, length: 3 << 20 }.allocate();
        let expected = compress_to_vec(&core, 6);
        assert!(raw(packed(&core)) == expected);

        let mut other = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default().compression_level(Some(6));
        other.start_file("core", options).unwrap();
        other.write_all(&core).unwrap();
        assert!(raw(other.finish().unwrap().into_inner()) != expected, "they cannot be told apart");
    }
}
