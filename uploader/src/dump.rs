//! A dump of the spool, opened and measured: what an upload has to know before
//! its first byte.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use md5::Md5;
use protocol::manifest::{FILE_NAME, Manifest};
use protocol::spool::DumpId;
use sha2::{Digest, Sha256};

use crate::key::ObjectKey;

/// What is read at a time.
pub const CHUNK: usize = 128 << 10;
/// What S3 takes; "Amazon S3 multipart upload limits" in its user guide.
const MAX_PARTS: u64 = 10_000;
/// A manifest has a few kilobytes, and labels of at most 256 KiB; what is much
/// longer is none of ours.
pub const MAX_MANIFEST: u64 = 1 << 20;
/// S3 takes 2 KiB of user metadata in all.
const MAX_METADATA_VALUE: usize = 200;

/// A dump, measured. It is held open: deleting it meanwhile does not change
/// what is read.
#[derive(Clone, Debug)]
pub struct Dump {
    /// Its bytes, immutable since it is ready.
    pub file: Arc<File>,
    /// How many.
    pub bytes: u64,
    /// Their SHA-256, hexadecimal.
    pub sha256: String,
    /// What it is uploaded as; one part if it is small, and never none.
    pub parts: Vec<Part>,
    /// Where it goes.
    pub key: ObjectKey,
    /// The object's user metadata.
    pub metadata: Vec<(&'static str, String)>,
}

/// A stretch of a dump.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Part {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// Its MD5, which the store compares with what arrived.
    pub md5: [u8; 16],
}

impl Dump {
    /// Reads a dump once, in full.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn measure(
        file: File,
        part_size: u64,
        key: ObjectKey,
        mut metadata: Vec<(&'static str, String)>,
    ) -> io::Result<Dump> {
        let bytes = file.metadata()?.len();
        let (parts, sha256) = measure(&file, layout(bytes, part_size))?;
        metadata.push(("sha256", sha256.clone()));
        Ok(Dump { file: Arc::new(file), bytes, key, metadata, sha256, parts })
    }
}

/// What user metadata a dump has before it is read. Values are printable
/// ASCII, since they travel as HTTP headers, and cut, since S3 limits them.
pub fn metadata(id: &DumpId, manifest: Option<&Manifest>) -> Vec<(&'static str, String)> {
    let mut metadata = vec![("id", id.to_string())];
    if let Some(manifest) = manifest {
        metadata.push(("node", manifest.node.to_string()));
        metadata.extend(manifest.crash.signal_name.clone().map(|signal| ("signal", signal)));
        metadata.extend(manifest.crash.exe.as_ref().map(|exe| ("exe", exe.to_string())));
        if let Some(container) = manifest.container.present() {
            metadata.push(("namespace", container.pod.namespace.clone()));
            metadata.push(("pod", container.pod.name.clone()));
            metadata.push(("container", container.name.clone()));
        }
    }
    for (_, value) in &mut metadata {
        *value = value.chars().map(printable).collect();
        value.truncate(MAX_METADATA_VALUE);
    }
    metadata
}

/// A digest as text.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Neither blanks: what becomes of them in a header, and in its signature, is
/// seen differently by different stores.
fn printable(c: char) -> String {
    match c {
        ' ' => c.escape_unicode().to_string(),
        c => c.escape_default().to_string(),
    }
}

/// Where the parts of `bytes` begin and how long they are. Larger than asked
/// for if there would be too many.
fn layout(bytes: u64, part_size: u64) -> impl Iterator<Item = (u64, u64)> {
    let size = part_size.max(bytes.div_ceil(MAX_PARTS));
    let count = bytes.div_ceil(size).max(1);
    (0..count).map(move |n| (n * size, size.min(bytes - n * size)))
}

fn measure(mut file: &File, layout: impl Iterator<Item = (u64, u64)>) -> io::Result<(Vec<Part>, String)> {
    let mut sha256 = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut parts = Vec::new();
    for (offset, bytes) in layout {
        let mut md5 = Md5::new();
        let mut left = bytes;
        while left > 0 {
            let n = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            file.read_exact(&mut chunk[..n])?;
            sha256.update(&chunk[..n]);
            md5.update(&chunk[..n]);
            left -= n as u64;
        }
        parts.push(Part { offset, bytes, md5: md5.finalize().into() });
    }
    Ok((parts, hex(&sha256.finalize())))
}

/// The manifest of the dump in `file`, as it stands there and as we read it.
///
/// # Errors
/// If the file is no dump of that id.
pub fn read_manifest(file: &File, id: &DumpId) -> anyhow::Result<(Vec<u8>, Manifest)> {
    let mut zip = zip::ZipArchive::new(io::BufReader::new(Positioned { file, at: 0 }))?;
    let mut json = Vec::new();
    zip.by_name(&format!("{id}/{FILE_NAME}"))?.take(MAX_MANIFEST).read_to_end(&mut json)?;
    let manifest: Manifest = serde_json::from_slice(&json)?;
    anyhow::ensure!(manifest.id == *id, "it says that it is {}", manifest.id);
    Ok((json, manifest))
}

/// Reads a file at a position of its own: the file's one position may be in
/// use elsewhere.
pub struct Positioned<'a> {
    /// The file.
    pub file: &'a File,
    /// Where it is read next.
    pub at: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl io::Seek for Positioned<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let at = match to {
            io::SeekFrom::Start(at) => Some(at),
            io::SeekFrom::Current(by) => self.at.checked_add_signed(by),
            io::SeekFrom::End(by) => self.file.metadata()?.len().checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn parts_cover_a_dump_exactly() {
        for (bytes, part_size) in [(0, 5), (1, 5), (5, 5), (6, 5), (14, 5), (1_000_000, 7)] {
            let mut at = 0;
            for (offset, length) in layout(bytes, part_size) {
                assert_eq!(offset, at);
                at += length;
            }
            assert_eq!(at, bytes);
        }
        assert_eq!(layout(16 * MIB, 16 * MIB).count(), 1);
        assert_eq!(layout(0, 16 * MIB).count(), 1);
    }

    #[test]
    fn there_are_never_more_parts_than_the_store_takes() {
        let parts: Vec<_> = layout(5 << 40, 16 * MIB).collect();
        assert_eq!(parts.len() as u64, MAX_PARTS);
        assert!(parts.iter().all(|(_, bytes)| *bytes <= 5 << 30));
    }

    #[test]
    fn metadata_fits_into_headers_whatever_the_process_was_called() {
        let json = include_str!("../../protocol/tests/golden/manifest-1.json");
        let mut manifest: Manifest = serde_json::from_str(json).unwrap();
        manifest.crash.exe = Some(format!("/tmp/a   b/ä\n{}", "x".repeat(4096)).as_str().into());
        let metadata = metadata(&manifest.id, Some(&manifest));
        assert_eq!(metadata.len(), 7);
        assert!(metadata.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() < 2048 - 70);
        assert!(
            metadata.iter().all(|(_, value)| value.bytes().all(|b| (b'!'..0x7f).contains(&b))),
            "{metadata:?}"
        );
    }

    mod hostile {
        use std::io::Write;

        use proptest::prelude::*;
        use protocol::manifest::Attribution;
        use zip::ZipWriter;
        use zip::write::SimpleFileOptions;

        use super::*;
        use crate::strange;

        const MANIFEST: &str = include_str!("../../protocol/tests/golden/manifest-1.json");

        fn manifest() -> Manifest {
            serde_json::from_str(MANIFEST).unwrap()
        }

        fn zip() -> Vec<u8> {
            let (mut zip, id) = (ZipWriter::new(io::Cursor::new(Vec::new())), manifest().id);
            for (name, content) in [("core", "core"), (FILE_NAME, MANIFEST)] {
                zip.start_file(format!("{id}/{name}"), SimpleFileOptions::default()).unwrap();
                zip.write_all(content.as_bytes()).unwrap();
            }
            zip.finish().unwrap().into_inner()
        }

        proptest! {
            #[test]
            fn whatever_is_ready_has_its_own_manifest_or_none(bytes in strange::changed(vec![zip()])) {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(&bytes).unwrap();
                if let Ok((json, read)) = read_manifest(&file, &manifest().id) {
                    prop_assert_eq!(read.id, manifest().id);
                    prop_assert!(json.len() as u64 <= MAX_MANIFEST);
                }
            }

            #[test]
            fn whatever_names_are_they_add_no_header_to_a_request(
                names in prop::array::uniform4(prop_oneof![8 => strange::text(), 1 => ".{0,3000}"]),
                exe in prop_oneof![8 => strange::bytes(), 1 => Just(vec![0xff; 4096])],
            ) {
                let mut manifest = manifest();
                let [namespace, pod, name, node] = names;
                (manifest.node, manifest.crash.exe) = (node.as_str().into(), Some(exe[..].into()));
                let Attribution::Present(container) = &mut manifest.container else { unreachable!("it has one") };
                (container.pod.namespace, container.pod.name, container.name) = (namespace, pod, name);
                let metadata = metadata(&manifest.id, Some(&manifest));
                let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
                prop_assert!(bytes < 2048 - 70, "{bytes}");
                for (_, value) in metadata {
                    prop_assert!(value.bytes().all(|byte| byte.is_ascii_graphic()), "{value:?}");
                }
            }
        }
    }
}
