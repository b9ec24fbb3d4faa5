//! Dumps to be torn.

use std::io::Write;

use flate2::{Compress, Compression, FlushCompress};
use protocol::zip64::{DEFLATE_END, ZSTD_NOTHING};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::super::*;

pub(super) const ID: &str = "20261122T193101Z-28763-9f3a61c2";
pub(super) const FILES: [&str; 3] = ["proc/status", "crictl/logs.txt", "composer.log"];

pub(super) fn id() -> DumpId {
    DumpId::try_from(ID.to_owned()).unwrap()
}

pub(super) fn words() -> Manifest {
    let json = include_str!("../../../../protocol/tests/golden/manifest-1-trusted.json");
    let mut words: Manifest = serde_json::from_str(json).unwrap();
    words.id = id();
    words
}

/// What a stream is made of.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    /// A block that is compressed.
    Coded(Vec<u8>),
    /// Blocks that are not.
    Verbatim(Vec<u8>),
}

/// A core, its stream without its end, and where the blocks of it end: in the
/// stream, and in the core.
pub(super) struct Stream {
    pub(super) method: Method,
    pub(super) core: Vec<u8>,
    pub(super) bytes: Vec<u8>,
    pub(super) end: Vec<u8>,
    pub(super) borders: Vec<(usize, usize)>,
}

impl Stream {
    pub(super) fn new(method: Method, pieces: &[Piece]) -> Stream {
        match method {
            Method::Deflated => Stream::deflated(pieces),
            Method::Zstd => Stream::zstd(pieces),
            Method::Stored => {
                let core = pieces.iter().flat_map(Piece::bytes).copied().collect::<Vec<_>>();
                let borders = (0..=core.len()).map(|n| (n, n)).collect();
                Stream { method, bytes: core.clone(), core, end: vec![], borders }
            }
        }
    }

    fn deflated(pieces: &[Piece]) -> Stream {
        let (mut core, mut bytes, mut borders) = (vec![], vec![], vec![(0, 0)]);
        for piece in pieces {
            core.extend(piece.bytes());
            match piece {
                Piece::Coded(data) => {
                    let mut deflate = Compress::new(Compression::new(1), false);
                    bytes.reserve(data.len() + data.len() / 4 + 128);
                    deflate.compress_vec(data, &mut bytes, FlushCompress::Sync).unwrap();
                    assert_eq!(deflate.total_in(), data.len() as u64);
                    borders.push((bytes.len(), core.len()));
                }
                Piece::Verbatim(data) => {
                    let mut at = core.len() - data.len();
                    for block in data.chunks(65535) {
                        let len = block.len() as u16;
                        bytes.extend([&[0][..], &len.to_le_bytes(), &(!len).to_le_bytes(), block].concat());
                        at += block.len();
                        borders.push((bytes.len(), at));
                    }
                }
            }
        }
        Stream { method: Method::Deflated, core, bytes, end: DEFLATE_END.to_vec(), borders }
    }

    fn zstd(pieces: &[Piece]) -> Stream {
        let mut core = vec![];
        let mut encoder = zstd::Encoder::new(vec![], 1).unwrap();
        let mut borders = vec![(0, 0)];
        for piece in pieces {
            encoder.write_all(piece.bytes()).unwrap();
            encoder.flush().unwrap();
            core.extend(piece.bytes());
            borders.push((encoder.get_ref().len(), core.len()));
        }
        let bytes = encoder.get_ref().clone();
        let mut end = encoder.finish().unwrap().split_off(bytes.len());
        end.extend(ZSTD_NOTHING);
        Stream { method: Method::Zstd, core, bytes, end, borders }
    }

    /// How much of the core is in blocks that end before `at` in the stream, and
    /// how much without the last of those.
    pub(super) fn whole(&self, at: usize) -> (usize, usize) {
        let blocks = self.borders.iter().filter(|(end, _)| *end <= at).count();
        (self.borders[blocks - 1].1, self.borders[blocks.saturating_sub(2)].1)
    }

    /// Where to tear it. One byte of what is stored is as good as another.
    pub(super) fn cuts(&self) -> impl Iterator<Item = usize> {
        (0..=self.bytes.len()).step_by(if self.method == Method::Stored { 29 } else { 1 })
    }

    /// A part whose core has not ended.
    pub(super) fn begun(&self, stream: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        let words = serde_json::to_vec(&words()).unwrap();
        zip64::Entry::begin(&file, format!("{ID}/core"), self.method, [0x6a3d, 0x5d76], words).unwrap();
        file.write_all(stream).unwrap();
        file
    }

    pub(super) fn ended(&self) -> Ended {
        Ended {
            crc32: crc32fast::hash(&self.core),
            compressed: (self.bytes.len() + self.end.len()) as u64,
            uncompressed: self.core.len() as u64,
        }
    }

    /// A dump that has all there is to have; and its manifest.
    pub(super) fn complete(&self) -> (File, Manifest) {
        let mut file = self.begun(&self.bytes);
        let (core, ..) = zip64::Entry::read(&file).unwrap().unwrap();
        file.write_all(&self.end).unwrap();
        core.end(&file, self.ended()).unwrap();
        let mut manifest = words();
        manifest.node = "written".into();
        manifest.core = Core {
            bytes: self.core.len() as u64,
            expected_bytes: Some(self.core.len() as u64),
            crc32: format!("{:08x}", crc32fast::hash(&self.core)),
            truncated: None,
        };
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        let mut zip = ZipWriter::new_append(&file).unwrap();
        for name in FILES {
            zip.start_file(format!("{ID}/{name}"), options).unwrap();
            zip.write_all(name.repeat(20).as_bytes()).unwrap();
        }
        zip.start_file(format!("{ID}/manifest.json"), options).unwrap();
        zip.write_all(&serde_json::to_vec_pretty(&manifest).unwrap()).unwrap();
        zip.finish().unwrap();
        (file, manifest)
    }
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Coded(bytes) | Piece::Verbatim(bytes) => bytes,
        }
    }
}

pub(super) const METHODS: [Method; 3] = [Method::Deflated, Method::Zstd, Method::Stored];

pub(super) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

pub(super) fn text(len: usize) -> Vec<u8> {
    (0..).flat_map(|n| format!("connection {n} refused\n").into_bytes()).take(len).collect()
}

/// Some of everything, and small enough to be torn everywhere. What is coded
/// has what looks like a sync flush, too, and is not.
pub(super) fn sample(method: Method) -> Stream {
    let flushes = [noise(40, 1), vec![0, 0, 0xff, 0xff], noise(40, 2), vec![0, 0, 0, 0xff, 0xff]].concat();
    Stream::new(
        method,
        &[
            Piece::Coded(text(400)),
            Piece::Verbatim(noise(150, 3)),
            Piece::Verbatim(flushes.clone()),
            Piece::Coded(vec![0; 3000]),
            Piece::Coded(flushes),
            Piece::Coded(text(100)),
        ],
    )
}

pub(super) fn bytes_of(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

pub(super) fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}
