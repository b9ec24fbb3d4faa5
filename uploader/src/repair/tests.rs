//! Dumps are torn at every byte there is, and repaired.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::process::Command;

use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;
use protocol::spool::State;
use protocol::zip64::{DEFLATE_END, ZSTD_NOTHING};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::*;
use crate::dump::CHUNK;

const ID: &str = "20261122T193101Z-28763-9f3a61c2";
const FILES: [&str; 3] = ["proc/status", "crictl/logs.txt", "composer.log"];

fn id() -> DumpId {
    DumpId::try_from(ID.to_owned()).unwrap()
}

fn words() -> Manifest {
    let json = include_str!("../../../protocol/tests/golden/manifest-1-trusted.json");
    let mut words: Manifest = serde_json::from_str(json).unwrap();
    words.id = id();
    words
}

/// What a stream is made of.
#[derive(Clone, Debug)]
enum Piece {
    /// A block that is compressed.
    Coded(Vec<u8>),
    /// Blocks that are not.
    Verbatim(Vec<u8>),
}

/// A core, its stream without its end, and where the blocks of it end: in the
/// stream, and in the core.
struct Stream {
    method: Method,
    core: Vec<u8>,
    bytes: Vec<u8>,
    end: Vec<u8>,
    borders: Vec<(usize, usize)>,
}

impl Stream {
    fn new(method: Method, pieces: &[Piece]) -> Stream {
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
    fn whole(&self, at: usize) -> (usize, usize) {
        let blocks = self.borders.iter().filter(|(end, _)| *end <= at).count();
        (self.borders[blocks - 1].1, self.borders[blocks.saturating_sub(2)].1)
    }

    /// Where to tear it. One byte of what is stored is as good as another.
    fn cuts(&self) -> impl Iterator<Item = usize> {
        (0..=self.bytes.len()).step_by(if self.method == Method::Stored { 29 } else { 1 })
    }

    /// A part whose core has not ended.
    fn begun(&self, stream: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        let words = serde_json::to_vec(&words()).unwrap();
        zip64::Entry::begin(&file, format!("{ID}/core"), self.method, [0x6a3d, 0x5d76], words).unwrap();
        file.write_all(stream).unwrap();
        file
    }

    fn ended(&self) -> Ended {
        Ended {
            crc32: crc32fast::hash(&self.core),
            compressed: (self.bytes.len() + self.end.len()) as u64,
            uncompressed: self.core.len() as u64,
        }
    }

    /// A dump that has all there is to have; and its manifest.
    fn complete(&self) -> (File, Manifest) {
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

const METHODS: [Method; 3] = [Method::Deflated, Method::Zstd, Method::Stored];

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn text(len: usize) -> Vec<u8> {
    (0..).flat_map(|n| format!("connection {n} refused\n").into_bytes()).take(len).collect()
}

/// Some of everything, and small enough to be torn everywhere. What is coded
/// has what looks like a sync flush, too, and is not.
fn sample(method: Method) -> Stream {
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

fn bytes_of(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// What is in a dump, every entry of it read to its end.
#[derive(Debug, PartialEq)]
struct Contents {
    core: Vec<u8>,
    manifest: Manifest,
    files: Vec<String>,
}

fn contents(file: &File) -> Contents {
    let mut zip = ZipArchive::new(file).unwrap();
    let mut core = Vec::new();
    let raw = zip.by_index_raw(0).unwrap();
    assert_eq!(raw.name().unwrap(), format!("{ID}/core"));
    let (method, size, crc32) = (raw.compression(), raw.size(), raw.crc32());
    drop(raw);
    if matches!(method, CompressionMethod::Deflated | CompressionMethod::Stored) {
        zip.by_index(0).unwrap().read_to_end(&mut core).unwrap();
    } else {
        let mut frames = Vec::new();
        zip.by_index_raw(0).unwrap().read_to_end(&mut frames).unwrap();
        assert!(frames.ends_with(&ZSTD_NOTHING));
        core = zstd::decode_all(&*frames).unwrap();
    }
    let mut files = Vec::new();
    for n in 1..zip.len() {
        let mut entry = zip.by_index(n).unwrap();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        let name = entry.name().unwrap()[ID.len() + 1..].to_owned();
        assert!(name == manifest::FILE_NAME || content == name.repeat(20), "{name}");
        files.push(name);
    }
    assert_eq!(files.pop().unwrap(), manifest::FILE_NAME);
    let (_, manifest) = read_manifest(file, &id()).unwrap();
    assert_eq!((size, crc32), (core.len() as u64, crc32fast::hash(&core)));
    assert_eq!((manifest.core.bytes, &manifest.core.crc32), (size, &format!("{crc32:08x}")));
    Contents { core, manifest, files }
}

/// Repairs a dump; `None` if there is nothing to repair.
fn repaired(file: &File) -> Option<Contents> {
    let manifest = mend(file, &id(), &CancellationToken::new()).unwrap().ok()?;
    let contents = contents(file);
    assert_eq!(contents.manifest, manifest);
    Some(contents)
}

/// What there has to be of a core that was torn at `cut`, where `tail` follows.
fn check_torn(stream: &Stream, cut: usize, tail: &[u8]) -> Result<(), TestCaseError> {
    let file = stream.begun(&[&stream.bytes[..cut], tail].concat());
    let (whole, safe) = stream.whole(cut);
    let least = if tail.is_empty() { whole } else { safe };
    let Some(dump) = repaired(&file) else {
        prop_assert_eq!(least, 0, "{:?} torn at {} is nothing", stream.method, cut);
        return Ok(());
    };
    prop_assert!(
        dump.core.len() >= least,
        "{:?} torn at {}: {} of {}",
        stream.method,
        cut,
        dump.core.len(),
        least
    );
    if tail.is_empty() || stream.method != Method::Stored {
        prop_assert!(stream.core.starts_with(&dump.core), "{:?} torn at {}", stream.method, cut);
    }
    prop_assert_eq!(dump.manifest.core.truncated, Some(Truncation::ComposerDied));
    prop_assert_eq!(&dump.manifest.crash, &words().crash);
    prop_assert!(
        dump.manifest.problems.last().unwrap().starts_with("the composer died before the end of the core")
    );
    prop_assert!(dump.files.is_empty());
    Ok(())
}

#[test]
fn a_core_that_is_torn_at_any_byte_is_there_to_the_last_whole_block() {
    for method in METHODS {
        let stream = sample(method);
        assert!(stream.borders.len() > 6);
        for cut in stream.cuts() {
            check_torn(&stream, cut, &[]).unwrap();
        }
    }
}

#[test]
fn a_flush_is_found_wherever_what_is_read_at_once_ends() {
    let random = noise(CHUNK, 5);
    let stream = |len: usize| {
        let pieces = [Piece::Coded(random[..len].to_vec()), Piece::Verbatim(noise(100, 6))];
        Stream::new(Method::Deflated, &pieces)
    };
    // Noise gets longer.
    let about = CHUNK * CHUNK / stream(CHUNK).borders[1].0;
    let mut seen = BTreeSet::new();
    for len in about - 40..about + 40 {
        let stream = stream(len);
        seen.insert(stream.borders[1].0);
        check_torn(&stream, stream.borders[1].0 + 50, &[]).unwrap();
    }
    assert!(seen.range(CHUNK - 8..CHUNK + 5).count() > 8, "{seen:?}");
}

#[test]
fn zeros_and_garbage_at_the_end_are_no_part_of_the_core() {
    for method in METHODS {
        let stream = sample(method);
        for cut in stream.cuts() {
            check_torn(&stream, cut, &[0; 4096]).unwrap();
            check_torn(&stream, cut, &[0xff; 4096]).unwrap();
        }
    }
}

#[test]
fn an_end_that_was_written_and_not_said_is_none() {
    for method in [Method::Deflated, Method::Zstd] {
        let stream = sample(method);
        for cut in 0..=stream.end.len() {
            let dump = repaired(&stream.begun(&[&stream.bytes, &stream.end[..cut]].concat())).unwrap();
            assert!(dump.core == stream.core);
            assert_eq!(dump.manifest.core.truncated, Some(Truncation::ComposerDied));
        }
    }
}

#[test]
fn what_follows_a_whole_core_is_kept_as_far_as_it_is_whole() {
    for method in METHODS {
        let stream = sample(method);
        let (file, written) = stream.complete();
        let (bytes, directory) = (bytes_of(&file), ZipArchive::new(&file).unwrap().central_directory_start());
        let (_, _, content) = zip64::Entry::read(&file).unwrap().unwrap();
        let mut ends = Vec::new();
        let mut zip = ZipArchive::new(&file).unwrap();
        for n in 1..zip.len() {
            let entry = zip.by_index_raw(n).unwrap();
            ends.push(entry.data_start().unwrap() + entry.compressed_size());
        }
        let begin = content + stream.ended().compressed;
        for cut in begin..=bytes.len() as u64 {
            for tail in [&[][..], &[0; 64]] {
                let state = [&bytes[..cut as usize], tail].concat();
                let dump = repaired(&file_of(&state)).unwrap();
                assert!(dump.core == stream.core);
                // Of some the last byte is a zero.
                let is_whole = |end: &&u64| state.get(..**end as usize) == Some(&bytes[..**end as usize]);
                let kept = ends.iter().filter(is_whole).count();
                assert_eq!(dump.files, FILES[..kept.min(3)], "{method:?} cut at {cut}");
                assert_eq!(dump.manifest.core.truncated, None);
                assert_eq!(dump.manifest == written, kept == 4, "{:?}", dump.manifest);
            }
        }
        assert_eq!(ends[3], directory);
    }
}

#[test]
fn an_entry_that_is_being_written_is_none() {
    let stream = sample(Method::Deflated);
    let (file, _) = stream.complete();
    let mut bytes = bytes_of(&file);
    let mut zip = ZipArchive::new(&file).unwrap();
    let at = zip.by_index_raw(2).unwrap().header_start() as usize;
    bytes[at + 14..at + 26].fill(0);
    let dump = repaired(&file_of(&bytes)).unwrap();
    assert_eq!(dump.files, FILES[..1]);
}

#[test]
fn a_core_that_was_damaged_on_the_disk_is_there_up_to_the_damage_and_says_so() {
    for method in METHODS {
        let stream = sample(method);
        let (file, written) = stream.complete();
        let (_, _, content) = zip64::Entry::read(&file).unwrap().unwrap();
        let bytes = bytes_of(&file);
        for at in stream.cuts().filter(|at| *at < stream.bytes.len()) {
            let mut bytes = bytes.clone();
            bytes[content as usize + at] ^= 1 << (at % 8);
            let (whole, safe) = stream.whole(at);
            let Some(dump) = repaired(&file_of(&bytes)) else {
                assert_eq!(safe, 0);
                continue;
            };
            assert!(dump.core.len() >= safe, "{method:?} flipped at {at}");
            let same = dump.core.len().min(whole);
            assert!(dump.core[..same] == stream.core[..same], "{method:?} flipped at {at}");
            assert_eq!(dump.files, FILES, "{method:?} flipped at {at}");
            assert_eq!(
                (dump.manifest.node, dump.manifest.crash),
                (written.node.clone(), written.crash.clone())
            );
            if dump.core == stream.core {
                continue; // A bit that means nothing.
            }
            assert_eq!(dump.manifest.core.truncated, Some(Truncation::ComposerDied));
            assert!(
                dump.manifest.problems.last().unwrap().contains("the disk does not have what it had written")
            );
        }
    }
}

#[test]
fn a_header_whose_numbers_are_garbage_costs_nothing() {
    for method in METHODS {
        let stream = sample(method);
        for compressed in [1, 1 << 40, u64::MAX] {
            let file = stream.begun(&stream.bytes);
            let (core, ..) = zip64::Entry::read(&file).unwrap().unwrap();
            core.cut(&file, Ended { crc32: 1, compressed, uncompressed: u64::MAX }).unwrap();
            let dump = repaired(&file).map(|dump| dump.core);
            let there = dump.unwrap_or_default();
            assert!(stream.core.starts_with(&there));
            assert!(compressed == 1 || there == stream.core, "{method:?} {compressed}");
        }
    }
}

#[test]
fn what_ends_a_stream_is_written_again_if_it_is_lost() {
    for method in [Method::Deflated, Method::Zstd] {
        let stream = sample(method);
        let (file, written) = stream.complete();
        let (_, _, content) = zip64::Entry::read(&file).unwrap().unwrap();
        let end = content + stream.bytes.len() as u64;
        file.write_all_at(&vec![0xff; stream.end.len()], end).unwrap();
        let dump = repaired(&file).unwrap();
        assert!(dump.core == stream.core);
        assert_eq!((dump.manifest, &*dump.files), (written, &FILES.map(str::to_owned)[..]));
    }
}

/// All that may be on the disk if the repair of `before`, which leads to
/// `after`, is killed.
fn killed(before: &[u8], after: &[u8], stream: &Stream) -> Vec<Vec<u8>> {
    let (_, stage, content) = zip64::Entry::read(&file_of(after)).unwrap().unwrap();
    let content = content as usize;
    let core_end = content + stage.ended().unwrap().compressed as usize;
    let same = before.iter().zip(after).skip(content).take_while(|(a, b)| a == b).count() + content;
    let valid = match stream.method {
        Method::Deflated => core_end - 2,
        Method::Zstd => core_end - 12,
        Method::Stored => core_end,
    };
    assert!(same >= valid, "what is valid is not touched");
    let mut states = vec![before.to_vec(), before[..valid].to_vec()];
    states.extend((valid..=core_end).map(|end| [&before[..content], &after[content..end]].concat()));
    states.extend((core_end..=after.len()).map(|end| after[..end].to_vec()));
    states
}

#[test]
fn a_repair_that_is_killed_anywhere_costs_nothing() {
    for method in METHODS {
        let stream = sample(method);
        for cut in [stream.bytes.len() / 3, stream.borders[4].0] {
            let file = stream.begun(&stream.bytes[..cut]);
            let before = bytes_of(&file);
            let dump = repaired(&file).unwrap();
            for (n, state) in killed(&before, &bytes_of(&file), &stream).into_iter().enumerate() {
                let again = repaired(&file_of(&state)).unwrap();
                assert!(again.core == dump.core, "{method:?} torn at {cut}, state {n}");
                assert_eq!(again.manifest.core.truncated, Some(Truncation::ComposerDied), "state {n}");
            }
        }
        // Of one whose core was whole all that changes is behind what is kept.
        let (file, _) = stream.complete();
        let mut zip = ZipArchive::new(&file).unwrap();
        let end = zip.by_index_raw(3).unwrap().header_start() as usize;
        drop(zip);
        let before = &bytes_of(&file)[..end + 40];
        let file = file_of(before);
        let dump = repaired(&file).unwrap();
        assert_eq!(dump.files, FILES[..2]);
        let after = bytes_of(&file);
        assert!(after[..end] == before[..end]);
        for cut in end..=after.len() {
            let again = repaired(&file_of(&after[..cut])).unwrap();
            assert_eq!((&again.core, &again.files), (&dump.core, &dump.files));
            assert_eq!(again.manifest.core, dump.manifest.core);
        }
    }
}

#[test]
fn a_repaired_dump_with_a_gap_is_not_repaired_again() {
    let stream = sample(Method::Deflated);
    let (file, _) = stream.complete();
    let (_, _, content) = zip64::Entry::read(&file).unwrap().unwrap();
    file.write_all_at(&[0xff; 64], content + stream.borders[3].0 as u64).unwrap();
    let dump = repaired(&file).unwrap();
    assert_eq!(dump.files, FILES);
    assert!(dump.core.len() < stream.core.len());
    assert_eq!(repaired(&file).unwrap(), dump);
}

#[test]
fn last_words_of_another_are_not_believed() {
    let stream = sample(Method::Deflated);
    for lie in [serde_json::to_vec(&words()).unwrap(), b"{".to_vec(), vec![]] {
        let mut file = tempfile::tempfile().unwrap();
        let other = DumpId::try_from("20261122T193101Z-1-00000000".to_owned()).unwrap();
        zip64::Entry::begin(&file, format!("{other}/core"), stream.method, [0, 0x21], lie).unwrap();
        file.write_all(&stream.bytes).unwrap();
        assert!(repaired(&file).is_none(), "it is not the dump that its name says");
        let manifest = mend(&file, &other, &CancellationToken::new()).unwrap().unwrap();
        assert_eq!((&manifest.id, &manifest.crash), (&other, &Crash::default()));
        assert!(!manifest.trusted && manifest.container.present().is_none());
        assert_eq!(manifest.core.bytes, stream.core.len() as u64);
    }
}

#[test]
fn a_repair_ends_when_it_is_told_to_and_changes_nothing() {
    let stream = sample(Method::Deflated);
    let file = stream.begun(&stream.bytes);
    let before = bytes_of(&file);
    let stop = CancellationToken::new();
    stop.cancel();
    assert!(mend(&file, &id(), &stop).is_err());
    assert!(bytes_of(&file) == before);
}

/// A torn dump in a spool.
fn torn(spool: &Spool, bytes: &[u8]) -> Entry {
    let part = spool.create(id()).unwrap();
    part.file().write_all(bytes).unwrap();
    drop(part);
    let part = spool.list().unwrap().remove(0).entry;
    spool.set_state(&part, State::Torn).unwrap()
}

#[test]
fn unzip_finds_nothing_wrong_with_a_repaired_dump() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let stream = sample(Method::Deflated);
    let cut = bytes_of(&stream.begun(&stream.bytes[..300]));
    let (file, _) = stream.complete();
    let (_, _, content) = zip64::Entry::read(&file).unwrap().unwrap();
    file.write_all_at(&[0xff; 64], content + stream.borders[3].0 as u64).unwrap();
    for bytes in [cut, bytes_of(&file)] {
        let torn = torn(&spool, &bytes);
        assert_eq!(repair(&spool, &torn, &CancellationToken::new()).unwrap(), Outcome::Ready);
        let ready = spool.list().unwrap().remove(0).entry;
        assert_eq!(ready.to_string(), format!("{ID}{}.zip", "_crasher_SIGSEGV"));
        let unzip = Command::new("unzip").arg("-t").arg(spool.path(&ready)).output().unwrap();
        assert!(unzip.status.success(), "{unzip:?}");
        let said = String::from_utf8(unzip.stdout).unwrap();
        assert!(said.contains("No errors detected") && !said.contains("warning"), "{said}");
        std::fs::remove_file(spool.path(&ready)).unwrap();
    }
}

#[test]
fn what_somebody_else_repairs_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let stream = sample(Method::Deflated);
    let torn = torn(&spool, &bytes_of(&stream.begun(&stream.bytes)));
    let before = std::fs::read(spool.path(&torn)).unwrap();
    let theirs = spool.adopt(&torn).unwrap().unwrap();
    assert_eq!(repair(&spool, &torn, &CancellationToken::new()).unwrap(), Outcome::Taken);
    assert!(std::fs::read(spool.path(&torn)).unwrap() == before);
    drop(theirs);
    assert_eq!(repair(&spool, &torn, &CancellationToken::new()).unwrap(), Outcome::Ready);
    assert_eq!(repair(&spool, &torn, &CancellationToken::new()).unwrap(), Outcome::Taken);
}

#[test]
fn a_dump_of_which_there_is_nothing_is_removed() {
    let stream = sample(Method::Deflated);
    for bytes in [vec![], vec![0; 100_000], bytes_of(&stream.begun(&stream.bytes[..20]))] {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let torn = torn(&spool, &bytes);
        assert_eq!(repair(&spool, &torn, &CancellationToken::new()).unwrap(), Outcome::Removed);
        assert!(spool.list().unwrap().is_empty());
    }
}

#[test]
fn much_of_which_nothing_can_be_read_is_for_a_person() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let torn = torn(&spool, &vec![7; MOST_REMOVED as usize + 1]);
    assert_eq!(repair(&spool, &torn, &CancellationToken::new()).unwrap(), Outcome::Rejected);
    assert_eq!(spool.list().unwrap()[0].entry.state(), State::Rejected);
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let len = prop_oneof![Just(256usize << 10), 1..300_000usize, 1..2000usize];
    let piece = (0..4u8, len, any::<u64>()).prop_map(|(kind, len, seed)| match kind {
        0 => Piece::Coded(vec![0; len]),
        1 => Piece::Coded(noise(len, seed)),
        2 => Piece::Verbatim(noise(len, seed)),
        _ => Piece::Coded(text(len)),
    });
    proptest::collection::vec(piece, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_mixture_that_is_torn_anywhere_is_there_to_the_last_whole_block(
        pieces in pieces(), zstd in any::<bool>(), cut in any::<prop::sample::Index>(), tail in any::<bool>(),
    ) {
        let stream = Stream::new(if zstd { Method::Zstd } else { Method::Deflated }, &pieces);
        // Half of them where a block ends, as most composers die.
        let border = stream.borders[cut.index(stream.borders.len())].0;
        for cut in [border, cut.index(stream.bytes.len() + 1)] {
            check_torn(&stream, cut, if tail { &[0; 200_000] } else { &[] })?;
        }
    }
}
