//! Dumps are torn at every byte there is, and repaired.

mod hostile;
mod killed;
mod sample;
mod spool;
mod torn;

use std::io::Read;

use protocol::zip64::ZSTD_NOTHING;
use zip::{CompressionMethod, ZipArchive};

use self::sample::{ID, id};
use super::*;

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
