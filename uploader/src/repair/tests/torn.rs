//! Torn, cut or damaged at every byte there is.

use std::collections::BTreeSet;
use std::io::Write;

use proptest::prelude::*;
use zip::ZipArchive;

use super::super::*;
use super::repaired;
use super::sample::{FILES, METHODS, Piece, Stream, bytes_of, file_of, noise, sample, text, words};
use crate::dump::CHUNK;

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
fn a_core_that_its_composer_could_not_write_to_its_end_is_not_taken_for_whole() {
    for method in METHODS {
        let stream = sample(method);
        let mut file = stream.begun(&stream.bytes);
        let (core, ..) = zip64::Entry::read(&file).unwrap().unwrap();
        file.write_all(&stream.end).unwrap();
        core.end_early(&file, stream.ended()).unwrap();
        let dump = repaired(&file).unwrap();
        assert!(dump.core == stream.core);
        assert_eq!(dump.manifest.core.truncated, Some(Truncation::ComposerDied), "{method:?}");
        assert_eq!(repaired(&file).unwrap(), dump);
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
