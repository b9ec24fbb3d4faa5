//! The headers of the one entry whose content comes ready made, which the `zip`
//! crate cannot take: first in the file, of unknown length, with ZIP64.
//!
//! They are written so that the file is a whole zip of that one entry when it
//! has ended, to which the `zip` crate then appends. Until then the local header
//! says what is to be said if the composer dies: see [`Entry::begin`]. Then they
//! are read, and the rest of the zip is written by [`cut`](Entry::cut),
//! [`small`] and [`directory`]. The numbers in the comments are sections of
//! PKWARE's APPNOTE.TXT, 6.3.10.

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

impl Method {
    const ALL: [Method; 3] = [Method::Stored, Method::Deflated, Method::Zstd];
}

/// What ends a deflate stream (RFC 1951, 3.2.6): a last block with fixed codes,
/// and in it nothing but its end.
pub const DEFLATE_END: [u8; 2] = [0x03, 0x00];
/// A zstd frame of nothing (RFC 8878, 3.1.1): its magic number, its size, a last
/// and empty block. It follows the core's frame: libarchive sees the end of an
/// entry only when there is room left for more, and of every 32nd core (they
/// consist of pages) the last bytes fill its 128 KiB.
pub const ZSTD_NOTHING: [u8; 9] = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x00, 0x01, 0x00, 0x00];

/// An entry that has begun.
#[derive(Debug)]
pub struct Entry {
    name: String,
    method: Method,
    /// MS-DOS time and date (4.4.6).
    time: [u16; 2],
    /// See [`Entry::begin`]. `None`: it is not one that has some.
    last_words: Option<Vec<u8>>,
}

/// What is known of an entry when it has ended.
#[derive(Clone, Debug, Eq, PartialEq)]
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
/// The same, once they have become true: see [`Entry::cut`].
const TRUE_WORDS: [u8; 2] = *b"CT";
/// As many bytes of them fit: what they share a header with is far smaller.
pub const MAX_LAST_WORDS: usize = 60 << 10;

/// How far an entry had come when its local header was written last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Stage {
    /// Its content has begun.
    Begun,
    /// Its content is all there.
    Ended(Ended),
    /// It was ended where it can be: its writer died, or was kept from the rest.
    Cut(Ended),
}

impl Stage {
    /// What there was to be known.
    pub fn ended(&self) -> Option<&Ended> {
        match self {
            Stage::Begun => None,
            Stage::Ended(ended) | Stage::Cut(ended) => Some(ended),
        }
    }
}

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
        let entry = Entry { name, method, time, last_words: Some(last_words) };
        file.write_all(&entry.local_header(&Stage::Begun))?;
        Ok(entry)
    }

    /// The entry that was begun at the begin of `file`, how far it came, and
    /// where its content begins. `None` unless every byte of the header is as
    /// we would have written it.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(file: &File) -> io::Result<Option<(Entry, Stage, u64)>> {
        let mut fixed = [0; FIXED];
        let mut rest = Vec::new();
        let read = file.read_exact_at(&mut fixed, 0).and_then(|()| {
            let [name, extra] =
                [26, 28].map(|at| usize::from(u16::from_le_bytes([fixed[at], fixed[at + 1]])));
            rest.resize(name + extra, 0);
            file.read_exact_at(&mut rest, FIXED as u64)?;
            Ok(name)
        });
        let name = match read {
            Ok(name) => name,
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(err) => return Err(err),
        };
        let parsed = parse(&fixed, &rest[..name], &rest[name..]);
        let whole =
            |(entry, stage): &(Entry, Stage)| entry.local_header(stage) == [&fixed[..], &rest].concat();
        Ok(parsed.filter(whole).map(|(entry, stage)| (entry, stage, (FIXED + rest.len()) as u64)))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How its content is compressed.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Its MS-DOS time and date.
    pub fn time(&self) -> [u16; 2] {
        self.time
    }

    /// What is to be said if its writer died; empty if there was too much of it.
    pub fn last_words(&self) -> &[u8] {
        self.last_words.as_deref().unwrap_or_default()
    }

    /// An entry that somebody else wrote, for the [`directory`].
    pub fn known(name: String, method: Method, time: [u16; 2]) -> Entry {
        Entry { name, method, time, last_words: None }
    }

    /// Ends it: what is known now goes into its header, and a directory of it
    /// behind its content, where `file` stands.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn end(self, file: &File, ended: Ended) -> io::Result<()> {
        self.end_as(file, Stage::Ended(ended.clone()), ended)
    }

    /// The same before its content is all there: whoever finds the file without
    /// what was to follow shall not take it for whole.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn end_early(self, file: &File, ended: Ended) -> io::Result<()> {
        self.end_as(file, Stage::Cut(ended.clone()), ended)
    }

    fn end_as(self, mut file: &File, stage: Stage, ended: Ended) -> io::Result<()> {
        let header = self.local_header(&stage);
        file.write_all_at(&header, 0)?;
        let at = header.len() as u64 + ended.compressed;
        file.write_all(&directory(&[Listed { entry: self, ended, at: 0 }], at))
    }

    /// Ends it in place of its writer, who died: what there is of it goes into
    /// its header, and that this is not what its writer found it to be. All that
    /// changes is in one sector, so that the header is whole whenever we die.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn cut(&self, file: &File, ended: Ended) -> io::Result<()> {
        file.write_all_at(&self.local_header(&Stage::Cut(ended)), 0)
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
    fn local_header(&self, stage: &Stage) -> Vec<u8> {
        let ended = stage.ended().unwrap_or(&NOTHING_YET);
        let mut extra = zip64_field(&[ended.uncompressed, ended.compressed]);
        if let Some(words) = &self.last_words {
            extra.extend(if matches!(stage, Stage::Cut(_)) { TRUE_WORDS } else { LAST_WORDS });
            extra.extend((words.len() as u16).to_le_bytes());
            extra.extend_from_slice(words);
        }
        [b"PK\x03\x04", &*self.common(ended, extra.len()), self.name.as_bytes(), &extra].concat()
    }
}

/// The fixed part of a local header (4.3.7).
const FIXED: usize = 30;
/// Of an entry that has begun.
const NOTHING_YET: Ended = Ended { crc32: 0, compressed: 0, uncompressed: 0 };

/// What a local header (4.3.7) says, as far as it can be understood.
fn parse(fixed: &[u8; FIXED], name: &[u8], extra: &[u8]) -> Option<(Entry, Stage)> {
    let [method, time, date] = [8, 10, 12].map(|at| u16::from_le_bytes([fixed[at], fixed[at + 1]]));
    let method = Method::ALL.into_iter().find(|known| *known as u16 == method)?;
    let (crc32, _) = fixed[14..].split_first_chunk()?;
    let (uncompressed, rest) = extra.get(4..)?.split_first_chunk()?;
    let (compressed, rest) = rest.split_first_chunk()?;
    let (id, words) = rest.split_first_chunk()?;
    let ended = Ended {
        crc32: u32::from_le_bytes(*crc32),
        compressed: u64::from_le_bytes(*compressed),
        uncompressed: u64::from_le_bytes(*uncompressed),
    };
    let stage = match *id {
        TRUE_WORDS => Stage::Cut(ended),
        _ if ended == NOTHING_YET => Stage::Begun,
        _ => Stage::Ended(ended),
    };
    let name = str::from_utf8(name).ok().filter(|name| name.is_ascii())?.to_owned();
    let last_words = Some(words.get(2..)?.to_vec());
    Some((Entry { name, method, time: [time, date], last_words }, stage))
}

/// An entry as the directory has it.
#[derive(Debug)]
pub struct Listed {
    /// Its name, method and time.
    pub entry: Entry,
    /// Its content.
    pub ended: Ended,
    /// Where its local header is.
    pub at: u64,
}

/// A small entry that is stored, to be written as it is where it is to be.
pub fn small(name: String, time: [u16; 2], content: &[u8], crc32: u32, at: u64) -> (Vec<u8>, Listed) {
    let bytes = content.len() as u64;
    let (entry, ended) =
        (Entry::known(name, Method::Stored, time), Ended { crc32, compressed: bytes, uncompressed: bytes });
    let header = entry.local_header(&Stage::Ended(ended.clone()));
    ([&*header, content].concat(), Listed { entry, ended, at })
}

/// The central directory (4.3.12) of these entries, to be written at `at`, its
/// end in ZIP64 (4.3.14, 4.3.15), and the end that older readers know (4.3.16).
pub fn directory(entries: &[Listed], at: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Listed { entry, ended, at } in entries {
        bytes.extend(b"PK\x01\x02");
        bytes.extend((MADE_BY_UNIX | ZIP64).to_le_bytes());
        let extra = zip64_field(&[ended.uncompressed, ended.compressed, *at]);
        bytes.extend(entry.common(ended, extra.len()));
        // No comment, the first disk, nothing known of what it is.
        bytes.extend([0; 6]);
        bytes.extend(ATTRIBUTES.to_le_bytes());
        bytes.extend(ELSEWHERE.to_le_bytes()); // where the entry begins
        bytes.extend(entry.name.as_bytes());
        bytes.extend(extra);
    }
    let (count, length, end) = (entries.len() as u64, bytes.len() as u64, at + bytes.len() as u64);

    bytes.extend(b"PK\x06\x06");
    bytes.extend(44u64.to_le_bytes()); // what follows of this record
    bytes.extend((MADE_BY_UNIX | ZIP64).to_le_bytes());
    bytes.extend(ZIP64.to_le_bytes());
    bytes.extend([0; 8]); // disks
    for number in [count, count, length, at] {
        bytes.extend(number.to_le_bytes());
    }

    bytes.extend(b"PK\x06\x07");
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(end.to_le_bytes());
    bytes.extend(1u32.to_le_bytes()); // disks in all

    bytes.extend(b"PK\x05\x06");
    bytes.extend([0; 4]); // disks
    for number in [count as u16, count as u16] {
        bytes.extend(number.to_le_bytes());
    }
    for number in [length as u32, ELSEWHERE] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend([0; 2]); // no comment
    bytes
}

/// The extra field that has what is elsewhere (4.5.3).
fn zip64_field(numbers: &[u64]) -> Vec<u8> {
    let mut field = 0x0001u16.to_le_bytes().to_vec();
    field.extend((8 * numbers.len() as u16).to_le_bytes());
    numbers.iter().for_each(|number| field.extend(number.to_le_bytes()));
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
        entry.end(&file, Ended { crc32, compressed: content.len() as u64, uncompressed }).unwrap();
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

    #[test]
    fn a_header_is_read_as_it_was_written_and_only_then() {
        let file = tempfile::tempfile().unwrap();
        let words = b"{\"version\": 1}".to_vec();
        Entry::begin(&file, "dir/core".to_owned(), Method::Zstd, [1, 2], words.clone()).unwrap();
        let (entry, stage, at) = Entry::read(&file).unwrap().unwrap();
        assert_eq!((entry.name(), entry.method(), entry.time()), ("dir/core", Method::Zstd, [1, 2]));
        assert_eq!((entry.last_words(), stage), (&*words, Stage::Begun));
        assert_eq!(at, file.metadata().unwrap().len());

        let ended = Ended { crc32: 7, compressed: 8, uncompressed: 9 << 32 };
        entry.cut(&file, ended.clone()).unwrap();
        assert_eq!(file.metadata().unwrap().len(), at, "the header is as long as before");
        assert_eq!(Entry::read(&file).unwrap().unwrap().1, Stage::Cut(ended.clone()));
        entry.end_early(&file, ended.clone()).unwrap();
        let (entry, stage, _) = Entry::read(&file).unwrap().unwrap();
        assert_eq!(stage, Stage::Cut(ended.clone()));
        entry.end(&file, ended.clone()).unwrap();
        assert_eq!(Entry::read(&file).unwrap().unwrap().1, Stage::Ended(ended));

        let mut header = vec![0; at as usize];
        file.read_exact_at(&mut header, 0).unwrap();
        for cut in 0..at {
            let short = tempfile::tempfile().unwrap();
            short.write_all_at(&header[..cut as usize], 0).unwrap();
            assert!(Entry::read(&short).unwrap().is_none(), "{cut}");
        }
        for at in [0, 4, 6, 8, 18, 22, 26, 28, 30 + 8, 30 + 8 + 2, 30 + 8 + 20, 30 + 8 + 22] {
            let wrong = tempfile::tempfile().unwrap();
            let mut header = header.clone();
            header[at] ^= 0x80;
            wrong.write_all_at(&header, 0).unwrap();
            assert!(Entry::read(&wrong).unwrap().is_none(), "{at}");
        }
    }

    mod hostile {
        use proptest::prelude::*;

        use super::*;
        use crate::strange;

        fn headers() -> Vec<Vec<u8>> {
            let sample = |stage: &Stage| {
                let entry = Entry {
                    name: "20261122T193101Z-28763-9f3a61c2/core".to_owned(),
                    method: Method::Deflated,
                    time: [1, 2],
                    last_words: Some(b"{\"version\": 1}".to_vec()),
                };
                [&entry.local_header(stage)[..], &[7; 100]].concat()
            };
            let ended = Ended { crc32: 1, compressed: 100, uncompressed: 200 };
            [Stage::Begun, Stage::Ended(ended.clone()), Stage::Cut(ended)].iter().map(sample).collect()
        }

        proptest! {
            #[test]
            fn what_is_taken_for_a_header_is_one_that_we_would_write(bytes in strange::changed(headers())) {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(&bytes).unwrap();
                if let Some((entry, stage, content)) = Entry::read(&file).unwrap() {
                    prop_assert_eq!(entry.local_header(&stage), &bytes[..content as usize]);
                }
            }
        }
    }
}
