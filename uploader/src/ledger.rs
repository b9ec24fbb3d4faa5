//! What the store has of a dump so far, remembered beside it.
//!
//! `<id>.upload` is text: a line for the upload, and one for each part the store
//! has confirmed, in their order. Whoever puts a dump in parts holds its lock.
//! Nothing in it is synced: a line that is lost costs one part.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;

use protocol::spool::{DumpId, Spool};
use serde::{Deserialize, Serialize};

use crate::dump::{Dump, Positioned};

const SUFFIX: &str = ".upload";
const VERSION: u32 = 1;
/// 10,000 parts take less than one.
const MAX_LEDGER: u64 = 4 << 20;

/// An upload in parts that was begun, and of what.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Upload {
    version: u32,
    /// Which store, as it is called in the log.
    pub store: String,
    /// Where the object will be.
    pub key: String,
    /// What the store calls the upload. Not known as long as it has not answered,
    /// nor of one that is of no use any more and could not be aborted.
    pub upload_id: Option<String>,
    /// Whether one was begun before it, to the same key, that may still be there:
    /// what the store calls it nobody knows, or it could not be aborted.
    #[serde(default)]
    pub stray: bool,
    /// The MD5 of the key that its parts are encrypted with, if it is ours: with
    /// another one it cannot be gone on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer_key: Option<String>,
    bytes: u64,
    part_size: u64,
    sha256: String,
}

/// A part that the store has.
#[derive(Deserialize, Serialize)]
struct Sent {
    part: usize,
    e_tag: String,
}

impl Upload {
    /// An upload of `dump`.
    pub fn new(dump: &Dump, store: String, key: String, upload_id: Option<String>) -> Upload {
        let part_size = dump.parts.first().map_or(0, |part| part.bytes);
        let (bytes, sha256) = (dump.bytes, dump.sha256.clone());
        let (stray, customer_key) = (false, None);
        Upload { version: VERSION, store, key, upload_id, stray, customer_key, bytes, part_size, sha256 }
    }

    /// Whether `other` would send the same parts of the same bytes to the same
    /// place.
    pub fn is_like(&self, other: &Upload) -> bool {
        *other == Upload { upload_id: other.upload_id.clone(), stray: other.stray, ..self.clone() }
    }
}

/// The file, locked.
#[derive(Debug)]
pub struct Ledger {
    id: DumpId,
    path: PathBuf,
    file: File,
}

impl Ledger {
    /// The ledger of a dump, empty if it is new; `None` if somebody else has it.
    ///
    /// # Errors
    /// If it cannot be had at all: then an upload has to do without.
    pub fn open(spool: &Spool, id: &DumpId) -> io::Result<Option<Ledger>> {
        let name = format!("{id}{SUFFIX}");
        let path = spool.dir().join(&name);
        Ok(spool.claim(&name)?.map(|file| Ledger { id: id.clone(), path, file }))
    }

    /// The dumps that have one.
    ///
    /// # Errors
    /// If the spool cannot be listed.
    pub fn list(spool: &Spool) -> io::Result<Vec<DumpId>> {
        let mut ids = Vec::new();
        for item in fs::read_dir(spool.dir())? {
            let name = item?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            ids.extend(id.and_then(|id| DumpId::try_from(id.to_owned()).ok()));
        }
        Ok(ids)
    }

    /// Whose it is.
    pub fn id(&self) -> &DumpId {
        &self.id
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.file.metadata().is_ok_and(|meta| meta.len() == 0)
    }

    /// The upload, and the ETags of its parts from the first on. What cannot be
    /// understood, and what comes after it, is dropped.
    pub fn read(&self) -> Option<(Upload, Vec<String>)> {
        let mut text = Vec::new();
        let read = Positioned { file: &self.file, at: 0 }.take(MAX_LEDGER).read_to_end(&mut text);
        let known = read.ok().and_then(|_| parse(&text));
        if known.is_none() && !self.is_empty() {
            log::warn!(dump:% = self.id; "what was remembered of its upload cannot be read, it begins anew");
        }
        let whole = known.as_ref().map_or(0, |(_, _, whole)| *whole);
        // Or the next line would be the end of one that was cut short.
        self.file.set_len(whole as u64).ok()?;
        known.map(|(upload, e_tags, _)| (upload, e_tags))
    }

    /// Remembers an upload, and nothing else any more.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin(&self, upload: &Upload) -> io::Result<()> {
        self.clear()?;
        self.add(upload)
    }

    /// Remembers the next part.
    ///
    /// # Errors
    /// If it cannot be written. After that no other may be.
    pub fn sent(&self, part: usize, e_tag: &str) -> io::Result<()> {
        self.add(&Sent { part, e_tag: e_tag.to_owned() })
    }

    fn add(&self, line: &impl Serialize) -> io::Result<()> {
        (&self.file).write_all(format!("{}\n", serde_json::to_string(line)?).as_bytes())
    }

    /// Forgets all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn clear(&self) -> io::Result<()> {
        self.file.set_len(0)
    }

    /// There is no such upload any more.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(self.path)
    }
}

/// The upload, the ETags, and how much of the text that is.
fn parse(text: &[u8]) -> Option<(Upload, Vec<String>, usize)> {
    let mut lines = text.split_inclusive(|b| *b == b'\n').take_while(|line| line.ends_with(b"\n"));
    let first = lines.next()?;
    let upload: Upload = serde_json::from_slice(first).ok()?;
    if upload.version != VERSION {
        return None;
    }
    let (mut e_tags, mut whole) = (Vec::new(), first.len());
    for line in lines {
        match serde_json::from_slice(line) {
            Ok(Sent { part, e_tag }) if part == e_tags.len() + 1 => e_tags.push(e_tag),
            _ => break,
        }
        whole += line.len();
    }
    Some((upload, e_tags, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload() -> Upload {
        let text = |text: &str| text.to_owned();
        let (store, key, upload_id) = (text("bucket b at http://h"), text("k"), Some(text("u")));
        let (stray, customer_key, sha256) = (false, None, text("00"));
        Upload { version: 1, store, key, upload_id, stray, customer_key, bytes: 3, part_size: 2, sha256 }
    }

    fn ledger(dir: &tempfile::TempDir) -> Option<Ledger> {
        let id = DumpId::try_from("20261122T193101Z-1-00000000".to_owned()).unwrap();
        Ledger::open(&Spool::at(dir.path()), &id).unwrap()
    }

    #[test]
    fn what_was_sent_is_remembered_and_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = ledger(&dir).unwrap();
        assert!(held.is_empty() && held.read().is_none());
        held.begin(&upload()).unwrap();
        held.sent(1, "\"a\"").unwrap();
        held.sent(2, "\"b\"").unwrap();
        assert!(ledger(&dir).is_none(), "it has a holder");
        drop(held);
        let held = ledger(&dir).unwrap();
        assert_eq!(held.read(), Some((upload(), vec!["\"a\"".to_owned(), "\"b\"".to_owned()])));
        assert_eq!(Ledger::list(&Spool::at(dir.path())).unwrap(), [held.id().clone()]);
        held.begin(&upload()).unwrap();
        assert_eq!(held.read(), Some((upload(), vec![])));
        held.remove().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn wherever_it_was_cut_short_it_can_be_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let held = ledger(&dir).unwrap();
        held.begin(&upload()).unwrap();
        let first = fs::metadata(&held.path).unwrap().len() as usize;
        held.sent(1, "a").unwrap();
        let second = fs::metadata(&held.path).unwrap().len() as usize;
        held.sent(2, "b").unwrap();
        let text = fs::read(&held.path).unwrap();
        for cut in 0..text.len() {
            fs::write(&held.path, &text[..cut]).unwrap();
            let parts = held.read().map(|(_, e_tags)| e_tags.len());
            let expected = (cut >= first).then_some(usize::from(cut >= second));
            assert_eq!(parts, expected, "{cut}");
            if let Some(parts) = parts {
                held.sent(parts + 1, "c").unwrap();
                assert_eq!(held.read().unwrap().1.last().unwrap(), "c", "{cut}");
            }
        }
    }

    #[test]
    fn rubbish_is_nothing_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let held = ledger(&dir).unwrap();
        let later = serde_json::to_string(&Upload { version: 2, ..upload() }).unwrap() + "\n";
        for rubbish in ["\n", "{}\n", "\0\0\0\0\n", "[1]\n", &later] {
            fs::write(&held.path, rubbish).unwrap();
            assert_eq!(held.read(), None, "{rubbish:?}");
            assert!(held.is_empty(), "{rubbish:?}");
        }
        held.begin(&upload()).unwrap();
        for strange in ["\0\0\n", "{\"part\":2,\"e_tag\":\"b\"}\n", "{\"part\":0,\"e_tag\":\"b\"}\n"] {
            (&held.file).write_all(strange.as_bytes()).unwrap();
            assert_eq!(held.read(), Some((upload(), vec![])), "{strange:?}");
        }
    }

    #[test]
    fn only_the_same_bytes_to_the_same_place_are_the_same_upload() {
        let other = |change: fn(&mut Upload)| {
            let mut other = upload();
            change(&mut other);
            upload().is_like(&other)
        };
        assert!(other(|upload| upload.upload_id = Some("another".into())));
        assert!(other(|upload| upload.stray = true));
        assert!(!other(|upload| upload.store.push('x')));
        assert!(!other(|upload| upload.key.push('x')));
        assert!(!other(|upload| upload.bytes += 1));
        assert!(!other(|upload| upload.part_size += 1));
        assert!(!other(|upload| upload.sha256.push('x')));
    }

    mod hostile {
        use proptest::prelude::*;

        use super::*;
        use crate::strange;

        fn sample() -> Vec<u8> {
            let first = serde_json::to_string(&upload()).unwrap();
            format!("{first}\n{{\"part\":1,\"e_tag\":\"a\"}}\n{{\"part\":2,\"e_tag\":\"b\"}}\n").into_bytes()
        }

        proptest! {
            #[test]
            fn what_is_remembered_is_whole_lines_in_their_order(text in strange::changed(vec![sample()])) {
                if let Some((upload, e_tags, whole)) = parse(&text) {
                    prop_assert!(whole <= text.len() && text[..whole].ends_with(b"\n"));
                    prop_assert_eq!(text[..whole].iter().filter(|byte| **byte == b'\n').count(), e_tags.len() + 1);
                    let json = serde_json::to_string(&upload).unwrap();
                    prop_assert!(!json.contains('\n'));
                    prop_assert_eq!(parse(&text[..whole]), Some((upload, e_tags, whole)));
                }
            }
        }
    }
}
