//! What follows the core in a torn dump: small entries, of which the last may
//! be in the middle of being written.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use protocol::manifest::{CORE, FILE_NAME, Manifest};
use protocol::spool::DumpId;
use protocol::zip64::{Ended, Entry, Listed, Method};
use zip::CompressionMethod;
use zip::read::{ZipFile, read_zipfile_from_stream};

use crate::dump::{MAX_MANIFEST, Positioned};

/// What is longer is none of the composer's: it bounds logs and lists by less.
const MAX_BYTES: u64 = 16 << 20;
/// It writes a third of that.
const MAX_ENTRIES: usize = 64;

/// The entries that are whole.
#[derive(Debug, Default)]
pub struct Rest {
    /// All but the manifest.
    pub entries: Vec<Listed>,
    /// The manifest, if it is there: then everything is.
    pub manifest: Option<(Listed, Manifest)>,
    /// Where they end; nothing if there are none.
    pub end: Option<u64>,
}

impl Rest {
    /// Reads the entries that follow each other from `at` on, up to the first
    /// that is not whole, or not ours.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(file: &File, id: &DumpId, mut at: u64) -> io::Result<Rest> {
        let mut rest = Rest::default();
        let bytes = file.metadata()?.len();
        while at < bytes && rest.manifest.is_none() && rest.entries.len() < MAX_ENTRIES {
            let Some((listed, content, end)) = entry(file, id, at).filter(|(_, _, end)| *end <= bytes) else {
                break;
            };
            if rest.entries.iter().any(|known| known.entry.name() == listed.entry.name()) {
                break;
            }
            if listed.entry.name() == manifest(id) {
                let manifest = serde_json::from_slice(&content).ok();
                let Some(manifest) = manifest.filter(|manifest: &Manifest| manifest.id == *id) else { break };
                rest.manifest = Some((listed, manifest));
            } else {
                rest.entries.push(listed);
            }
            rest.end = Some(end);
            at = end;
        }
        Ok(rest)
    }
}

/// The entry at `at`, its content if it is the manifest, and where it ends.
fn entry(file: &File, id: &DumpId, at: u64) -> Option<(Listed, Vec<u8>, u64)> {
    let mut lengths = [0; 4];
    file.read_exact_at(&mut lengths, at + 26).ok()?;
    let [name, extra] = [0, 2].map(|at| u64::from(u16::from_le_bytes([lengths[at], lengths[at + 1]])));
    let mut reader = Positioned { file, at };
    let mut zip = read_zipfile_from_stream(&mut reader).ok()??;
    let entry = known(&zip, id)?;
    // Of one that is being written they are zero.
    let (crc32, compressed, uncompressed) = (zip.crc32(), zip.compressed_size(), zip.size());
    if compressed == 0 || uncompressed > MAX_BYTES {
        return None;
    }
    let mut content = Vec::new();
    // Behind its end, where its CRC is looked at.
    let read = match entry.name() == manifest(id) {
        true => (&mut zip).take(MAX_MANIFEST).read_to_end(&mut content).ok()? as u64,
        false => io::copy(&mut (&mut zip).take(MAX_BYTES + 1), &mut io::sink()).ok()?,
    };
    let listed = Listed { entry, ended: Ended { crc32, compressed, uncompressed }, at };
    let end = compressed.checked_add(at + 30 + name + extra)?;
    (read == uncompressed).then_some((listed, content, end))
}

fn manifest(id: &DumpId) -> String {
    format!("{id}/{FILE_NAME}")
}

/// What the directory says of it, if it is one of ours.
fn known(zip: &ZipFile<impl Read>, id: &DumpId) -> Option<Entry> {
    let name = str::from_utf8(zip.name_raw()).ok()?;
    let within = name.strip_prefix(id.as_str())?.strip_prefix('/')?;
    let plain = within.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/'));
    let method = match zip.compression() {
        CompressionMethod::Stored => Method::Stored,
        CompressionMethod::Deflated => Method::Deflated,
        _ => return None,
    };
    let time = zip.last_modified()?;
    let ours = plain && !within.contains("..") && !within.is_empty() && within != CORE && !zip.encrypted();
    ours.then(|| Entry::known(name.to_owned(), method, [time.timepart(), time.datepart()]))
}
