//! Repairs that do not come to their end, or are done again.

use zip::ZipArchive;

use super::super::*;
use super::repaired;
use super::sample::{FILES, METHODS, Stream, bytes_of, file_of, id, sample};

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
fn a_repair_ends_when_it_is_told_to_and_changes_nothing() {
    let stream = sample(Method::Deflated);
    let file = stream.begun(&stream.bytes);
    let before = bytes_of(&file);
    let stop = CancellationToken::new();
    stop.cancel();
    assert!(mend(&file, &id(), &stop).is_err());
    assert!(bytes_of(&file) == before);
}
