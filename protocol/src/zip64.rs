//! The headers of the one entry whose content comes ready made, which the `zip`
//! crate cannot take: first in the file, of unknown length, with ZIP64.
//!
//! They are written so that the file is a whole zip of that one entry when it
//! has ended, to which the `zip` crate then appends. Until then the local header
//! says what is to be said if the composer dies: see [`Entry::begin`]. The numbers
//! in the comments are sections of PKWARE's APPNOTE.TXT, 6.3.10.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

/// How an entry's content is compressed (4.4.5).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    /// It is not.
    Stored = 0,
    /// Deflate, without zlib's header.
    Deflated = 8,
    /// Zstandard.
    Zstd = 93,
}

/// An entry that has begun.
pub struct Entry {
    name: String,
    method: Method,
    /// MS-DOS time and date (4.4.6).
    time: [u16; 2],
    /// See [`Entry::begin`].
    last_words: Vec<u8>,
}

/// What is known of an entry when it has ended.
pub struct Ended {
    /// Of what was put in.
    pub crc32: u32,
    /// Bytes in the file.
    pub compressed: u64,
    /// Bytes that were put in.
    pub uncompressed: u64,
}

/// A number that does not fit; it is in the ZIP64 field instead (4.4.8).
const ELSEWHERE: u32 = u32::MAX;
/// What a reader has to know: 4.5 is ZIP64, 6.3 is Zstandard (4.4.3).
const ZIP64: u16 = 45;
const ZSTD: u16 = 63;
/// Unix, whose permissions are in the external attributes (4.4.2, 4.4.15).
const MADE_BY_UNIX: u16 = 3 << 8;
/// A regular file, as open as a dump is.
const ATTRIBUTES: u32 = 0o100_640 << 16;
/// The extra field of the last words (4.5.1), in the local header alone. Readers
/// skip what they do not know.
const LAST_WORDS: [u8; 2] = *b"CD";
/// As many bytes of them fit: what they share a header with is far smaller.
pub const MAX_LAST_WORDS: usize = 60 << 10;

impl Entry {
    /// Begins an entry at the begin of `file`, whose name is ASCII. Its content
    /// is to follow. `last_words` are for whoever finds the file if the content
    /// never ends; more than [`MAX_LAST_WORDS`] are left out.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn begin(
        mut file: &File,
        name: String,
        method: Method,
        time: [u16; 2],
        mut last_words: Vec<u8>,
    ) -> io::Result<Entry> {
        if last_words.len() > MAX_LAST_WORDS {
            last_words.clear();
        }
        let entry = Entry { name, method, time, last_words };
        file.write_all(&entry.local_header(&Ended { crc32: 0, compressed: 0, uncompressed: 0 }))?;
        Ok(entry)
    }

    /// Ends it: what is known now goes into its header, and a directory of it
    /// behind its content, where `file` stands.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn end(self, mut file: &File, ended: &Ended) -> io::Result<()> {
        let header = self.local_header(ended);
        file.write_all_at(&header, 0)?;
        file.write_all(&self.directory(ended, header.len() as u64 + ended.compressed))
    }

    /// What stands the same in both headers of an entry, but for the length of
    /// the extra fields.
    fn common(&self, ended: &Ended, extra: usize) -> Vec<u8> {
        let needs = if self.method == Method::Zstd { ZSTD } else { ZIP64 };
        let mut bytes = Vec::new();
        for number in [needs, 0, self.method as u16, self.time[0], self.time[1]] {
            bytes.extend(number.to_le_bytes());
        }
        for number in [ended.crc32, ELSEWHERE, ELSEWHERE] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend((self.name.len() as u16).to_le_bytes());
        bytes.extend((extra as u16).to_le_bytes());
        bytes
    }

    /// 4.3.7. As long whatever is in it.
    fn local_header(&self, ended: &Ended) -> Vec<u8> {
        let mut extra = zip64_field(ended);
        if !self.last_words.is_empty() {
            extra.extend(LAST_WORDS);
            extra.extend((self.last_words.len() as u16).to_le_bytes());
            extra.extend_from_slice(&self.last_words);
        }
        [b"PK\x03\x04", &*self.common(ended, extra.len()), self.name.as_bytes(), &extra].concat()
    }

    /// The central directory (4.3.12) of this entry alone, its end in ZIP64
    /// (4.3.14, 4.3.15), and the end that older readers know (4.3.16).
    fn directory(&self, ended: &Ended, at: u64) -> Vec<u8> {
        let mut bytes = b"PK\x01\x02".to_vec();
        bytes.extend((MADE_BY_UNIX | ZIP64).to_le_bytes());
        let extra = zip64_field(ended);
        bytes.extend(self.common(ended, extra.len()));
        // No comment, the first disk, nothing known of what it is.
        bytes.extend([0; 6]);
        bytes.extend(ATTRIBUTES.to_le_bytes());
        bytes.extend(0u32.to_le_bytes()); // where the entry begins
        bytes.extend(self.name.as_bytes());
        bytes.extend(extra);
        let (length, end) = (bytes.len() as u64, at + bytes.len() as u64);

        bytes.extend(b"PK\x06\x06");
        bytes.extend(44u64.to_le_bytes()); // what follows of this record
        bytes.extend((MADE_BY_UNIX | ZIP64).to_le_bytes());
        bytes.extend(ZIP64.to_le_bytes());
        bytes.extend([0; 8]); // disks
        for number in [1, 1, length, at] {
            bytes.extend(number.to_le_bytes());
        }

        bytes.extend(b"PK\x06\x07");
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(end.to_le_bytes());
        bytes.extend(1u32.to_le_bytes()); // disks in all

        bytes.extend(b"PK\x05\x06");
        bytes.extend([0; 4]); // disks
        for number in [1u16, 1] {
            bytes.extend(number.to_le_bytes());
        }
        for number in [length as u32, ELSEWHERE] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend([0; 2]); // no comment
        bytes
    }
}

/// The extra field that has what is elsewhere (4.5.3).
fn zip64_field(ended: &Ended) -> Vec<u8> {
    let mut field = Vec::new();
    for number in [0x0001u16, 16] {
        field.extend(number.to_le_bytes());
    }
    for number in [ended.uncompressed, ended.compressed] {
        field.extend(number.to_le_bytes());
    }
    field
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use zip::{CompressionMethod, ZipArchive, ZipWriter};

    use super::*;

    fn options() -> zip::write::SimpleFileOptions {
        zip::write::SimpleFileOptions::default().compression_method(CompressionMethod::Deflated)
    }

    /// The entry alone, ended.
    fn file(method: Method, content: &[u8], uncompressed: u64) -> File {
        let mut file = tempfile::tempfile().unwrap();
        let entry =
            Entry::begin(&file, "dir/core".to_owned(), method, [0x6a3d, 0x5d76], b"{}".to_vec()).unwrap();
        file.write_all(content).unwrap();
        let crc32 = crc32fast::hash(content);
        entry.end(&file, &Ended { crc32, compressed: content.len() as u64, uncompressed }).unwrap();
        file
    }

    #[test]
    fn it_is_a_zip_that_others_read_and_append_to() {
        for content in [&b""[..], b"the core"] {
            let file = file(Method::Stored, content, content.len() as u64);
            let mut zip = ZipWriter::new_append(&file).unwrap();
            zip.start_file("dir/more", options()).unwrap();
            zip.write_all(b"more").unwrap();
            zip.finish().unwrap();
            let mut zip = ZipArchive::new(&file).unwrap();
            assert_eq!(zip.len(), 2);
            let mut core = Vec::new();
            let mut entry = zip.by_name("dir/core").unwrap();
            assert_eq!(entry.unix_mode(), Some(0o100_640));
            assert_eq!(entry.last_modified().unwrap().to_string(), "2026-11-22 13:17:58");
            entry.read_to_end(&mut core).unwrap();
            drop(entry);
            assert_eq!(core, content);
            assert_eq!(zip.by_name("dir/more").unwrap().size(), 4);
        }
    }

    #[test]
    fn a_method_the_crate_does_not_know_survives_appending() {
        let file = file(Method::Zstd, b"some frame", 5 << 32);
        let mut zip = ZipWriter::new_append(&file).unwrap();
        zip.start_file("dir/more", options()).unwrap();
        zip.finish().unwrap();
        let mut zip = ZipArchive::new(&file).unwrap();
        let entry = zip.by_index_raw(0).unwrap();
        assert_eq!((entry.size(), entry.compressed_size()), (5 << 32, 10));
        assert_eq!(format!("{:?}", entry.compression()), "Unsupported(93)");
    }
}
