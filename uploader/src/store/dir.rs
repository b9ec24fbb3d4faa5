//! A directory as a store: an NFS mount, a volume.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::{Head, PutError, Store};
use crate::bandwidth::Bandwidth;
use crate::dump::{CHUNK, Dump, hex};
use crate::key::ObjectKey;
use crate::ledger::Ledger;

/// A store in `path`, which has to exist: if it does not, the volume is not
/// mounted, and dumps do not belong on the disk below.
#[derive(Clone)]
pub struct Dir {
    path: Arc<Path>,
    bandwidth: Option<Arc<Bandwidth>>,
}

impl Dir {
    /// A store in `path`.
    pub fn new(path: PathBuf, bandwidth: Option<Arc<Bandwidth>>) -> Dir {
        Dir { path: path.into(), bandwidth }
    }

    fn file(&self, key: &ObjectKey) -> PathBuf {
        self.path.join(key.to_string())
    }

    /// By temp name, fsync, rename, fsync of the directories, since they may be
    /// new. The temp name is made of the key, so an attempt that died is
    /// overwritten by the next.
    fn copy(&self, dump: &Dump, stop: &CancellationToken) -> anyhow::Result<()> {
        fs::read_dir(&self.path).with_context(|| format!("opening {}", self.path.display()))?;
        let to = self.file(&dump.key);
        let (Some(dir), Some(name)) = (to.parent(), to.file_name()) else {
            unreachable!("a key is never empty")
        };
        let temp = dir.join(format!(".{}.part", name.display()));
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o750)
            .create(dir)
            .with_context(|| format!("making {}", dir.display()))?;
        let write = || -> io::Result<()> {
            let mut out =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&temp)?;
            let mut chunk = vec![0; CHUNK];
            let mut at = 0;
            while at < dump.bytes {
                if stop.is_cancelled() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let n = dump.file.read_at(&mut chunk, at)?;
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if let Some(bandwidth) = &self.bandwidth {
                    thread::sleep(bandwidth.reserve(n));
                }
                out.write_all(&chunk[..n])?;
                at += n as u64;
            }
            out.sync_all()?;
            fs::rename(&temp, &to)?;
            let mut inside = dir.ancestors().take_while(|dir| dir.starts_with(&self.path));
            inside.try_for_each(|dir| File::open(dir)?.sync_all())
        };
        write()
            .inspect_err(|_| drop(fs::remove_file(&temp)))
            .with_context(|| format!("writing {}", to.display()))
    }

    /// Reads back what is there: a directory keeps no checksum that could be
    /// asked for.
    fn stored(&self, key: &ObjectKey) -> anyhow::Result<Head> {
        let path = self.file(key);
        let read = || -> io::Result<Head> {
            let mut file = match File::open(&path) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Head::Absent),
                file => file?,
            };
            let mut sha256 = Sha256::new();
            let mut chunk = vec![0; CHUNK];
            loop {
                match file.read(&mut chunk)? {
                    0 => break,
                    n => sha256.update(&chunk[..n]),
                }
            }
            Ok(Head::Stored { bytes: file.stream_position()?, sha256: hex(&sha256.finalize()) })
        };
        read().with_context(|| format!("reading back {}", path.display()))
    }
}

#[async_trait]
impl Store for Dir {
    async fn put(&self, dump: &Dump, _: Option<&Ledger>, stop: &CancellationToken) -> Result<(), PutError> {
        let (dir, dump, stop) = (self.clone(), dump.clone(), stop.clone());
        let copied = spawn_blocking(move || dir.copy(&dump, &stop)).await;
        copied.map_err(anyhow::Error::from).and_then(|copied| copied).map_err(PutError::Later)
    }

    async fn head(&self, key: &ObjectKey) -> Result<Head, PutError> {
        let (dir, key) = (self.clone(), key.clone());
        let read = spawn_blocking(move || dir.stored(&key)).await;
        read.map_err(anyhow::Error::from).and_then(|head| head).map_err(PutError::Later)
    }

    async fn discard(&self, ledger: &Ledger) -> Result<(), PutError> {
        if let Some((upload, _)) = ledger.read() {
            log::warn!(dump:% = ledger.id(), store = upload.store, upload_id:? = upload.upload_id; "an upload that is not of this store is left alone");
        }
        Ok(())
    }

    /// A key is as absent where nothing is mounted.
    async fn reach(&self, _: &ObjectKey) -> Result<(), PutError> {
        let path = Arc::clone(&self.path);
        let opened = spawn_blocking(move || {
            fs::read_dir(&path).map(drop).with_context(|| format!("opening {}", path.display()))
        });
        opened.await.map_err(anyhow::Error::from).and_then(|opened| opened).map_err(PutError::Later)
    }
}

impl fmt::Display for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}
