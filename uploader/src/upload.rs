//! The way of one dump from the spool into the store.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use protocol::spool::{Entry, Spool, State};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::dump::{Dump, metadata, read_manifest};
use crate::key::Template;
use crate::store::{Head, PutError, Store};

/// How many dumps are measured at a time. It takes a thread each, and those
/// that read for the network must not have to wait.
const MEASURED_AT_A_TIME: usize = 2;

/// Uploads dumps.
#[derive(Clone)]
pub struct Uploader(Arc<Inner>);

struct Inner {
    spool: Spool,
    store: Arc<dyn Store>,
    key: Template,
    part_size: u64,
    stop: CancellationToken,
    measuring: Semaphore,
}

/// What became of a dump, if something did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// It is in the store, and no longer in the spool.
    Stored,
    /// It is set aside: the store will never take it.
    Rejected,
    /// Somebody removed it from the spool before we could read it.
    Gone,
}

/// Why nothing became of a dump, by what there is to wait for.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The store; other dumps would fare no better.
    #[error("not uploaded")]
    Store(#[source] anyhow::Error),
    /// This dump, or the disk it is on; others may fare better.
    #[error("not to be had")]
    Dump(#[source] anyhow::Error),
}

impl Uploader {
    /// Uploads from `spool` to `store`, to keys made by `key`, in parts of
    /// `part_size` bytes.
    pub fn new(spool: Spool, store: Arc<dyn Store>, key: Template, part_size: u64) -> Uploader {
        let (stop, measuring) = (CancellationToken::new(), Semaphore::new(MEASURED_AT_A_TIME));
        Uploader(Arc::new(Inner { spool, store, key, part_size, stop, measuring }))
    }

    /// Where dumps are.
    pub fn spool(&self) -> &Spool {
        &self.0.spool
    }

    /// Where they go.
    pub fn store(&self) -> &dyn Store {
        &*self.0.store
    }

    /// Ends all uploads that are in flight.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }

    /// Uploads the dump of `entry`, has the store confirm it, and only then
    /// deletes it. Killed anywhere in between it leaves the dump where it was,
    /// and the next attempt finds the object there or puts the same bytes at
    /// the same key.
    ///
    /// # Errors
    /// If it has to be tried again.
    pub async fn upload(&self, entry: &Entry) -> Result<Fate, Trouble> {
        // In a task of its own, so that a panic (rusoto has some, on answers
        // nobody should give) is a failed attempt and no more.
        let (inner, name) = (Arc::clone(&self.0), entry.clone());
        let upload = tokio::spawn(async move { inner.upload(&name).await });
        upload.await.unwrap_or_else(|panic| Err(Trouble::Store(panic.into())))
    }
}

impl Inner {
    async fn upload(&self, entry: &Entry) -> Result<Fate, Trouble> {
        let began = Instant::now();
        let file = match self.spool.read(entry) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                log::info!(dump:% = entry.id(); "somebody removed it from the spool before it was uploaded");
                return Ok(Fate::Gone);
            }
            file => file.with_context(|| format!("opening {entry}")).map_err(Trouble::Dump)?,
        };
        let manifest = read_manifest(&file, entry.id()).map(|(_, manifest)| manifest).inspect_err(|why| {
            log::warn!(dump:% = entry.id(); "its manifest cannot be read, it is uploaded without: {why:#}");
        });
        let manifest = manifest.as_ref().ok();
        let (key, metadata) = (self.key.key(entry.id(), manifest), metadata(entry.id(), manifest));
        // Asked before the dump is read, which may take minutes: whether there
        // is a store to read it for, and whether it is there from an attempt
        // that was killed.
        let there = self.store.head(&key).await.map_err(|err| Trouble::Store(err.into()))?;
        let part_size = self.part_size;
        let measured = self.measured(move || Dump::measure(file, part_size, key, metadata)).await?;
        let dump = measured.with_context(|| format!("reading {entry}")).map_err(Trouble::Dump)?;
        match self.put(&dump, there).await {
            Ok(()) => {}
            Err(PutError::Never(why)) => {
                let aside = self.spool.set_state(entry, State::Rejected);
                aside.with_context(|| format!("setting {entry} aside")).map_err(Trouble::Dump)?;
                log::error!(dump:% = entry.id(); "rejected: {why:#}");
                return Ok(Fate::Rejected);
            }
            Err(PutError::Later(why)) => return Err(Trouble::Store(why)),
        }
        self.delete(entry).await?;
        let seconds = began.elapsed().as_secs_f32();
        log::info!(dump:% = entry.id(), key:% = dump.key, bytes = dump.bytes, seconds; "uploaded");
        Ok(Fate::Stored)
    }

    /// Does `measure`, when it is its turn and unless there is no time any more.
    async fn measured<T: Send + 'static>(
        &self,
        measure: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Trouble> {
        let _turn = self.measuring.acquire().await;
        tokio::select! {
            measured = spawn_blocking(measure) => measured.map_err(|panic| Trouble::Dump(panic.into())),
            () = self.stop.cancelled() => Err(Trouble::Store(PutError::stopped().into())),
        }
    }

    async fn put(&self, dump: &Dump, there: Head) -> Result<(), PutError> {
        if confirmed(dump, &there).is_ok() {
            return Ok(());
        }
        let put = self.store.put(dump, &self.stop).await;
        match put {
            Err(PutError::Never(why)) => return Err(PutError::Never(why)),
            Err(_) if self.stop.is_cancelled() => return put,
            _ => {}
        }
        // Whatever was said about the put: what counts is what is there. An
        // answer may have been lost on its way.
        match (put, self.store.head(&dump.key).await) {
            (_, Ok(head)) if confirmed(dump, &head).is_ok() => Ok(()),
            (Err(err), _) if there == Head::Denied => Err(err.doing("it also denies us to ask what it has")),
            (Err(err), _) | (Ok(()), Err(err)) => Err(err),
            (Ok(()), Ok(head)) => confirmed(dump, &head).map_err(PutError::Later),
        }
    }

    async fn delete(&self, entry: &Entry) -> Result<(), Trouble> {
        // Giving gigabytes back to a file system may take it a while.
        let path = self.spool.path(entry);
        let removed = spawn_blocking(move || std::fs::remove_file(path)).await;
        match removed.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok(()) => Ok(()),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                log::info!(dump:% = entry.id(); "somebody removed it from the spool while it was uploaded");
                Ok(())
            }
            Err(err) => {
                let err = anyhow::Error::from(err);
                Err(Trouble::Dump(err.context(format!("deleting {entry}, which is stored"))))
            }
        }
    }
}

/// Whether what the store has is the dump.
fn confirmed(dump: &Dump, head: &Head) -> anyhow::Result<()> {
    match head {
        Head::Stored { bytes, sha256 } => anyhow::ensure!(
            *bytes == dump.bytes && *sha256 == dump.sha256,
            "the store has {bytes} bytes with SHA-256 {sha256:?} at {}, not {} with {:?}",
            dump.key,
            dump.bytes,
            dump.sha256
        ),
        Head::Absent => anyhow::bail!("the store took {}, and does not have it", dump.key),
        Head::Denied => {
            anyhow::bail!(
                "the store took {}, but does not allow us to ask whether it has it (HEAD)",
                dump.key
            )
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use protocol::spool::DumpId;

    use super::*;

    #[test]
    fn only_the_same_bytes_are_a_confirmation() {
        let id = DumpId::try_from("20261122T193101Z-1-00000000".to_owned()).unwrap();
        let dump = Dump {
            file: Arc::new(tempfile::tempfile().unwrap()),
            bytes: 3,
            key: Template::default().key(&id, None),
            metadata: vec![],
            sha256: "abc".into(),
            parts: vec![],
        };
        let stored = |bytes, sha256: &str| confirmed(&dump, &Head::Stored { bytes, sha256: sha256.into() });
        assert!(stored(3, "abc").is_ok());
        assert!(stored(2, "abc").is_err());
        assert!(stored(3, "abd").is_err());
        assert!(stored(3, "").is_err());
        assert!(confirmed(&dump, &Head::Absent).is_err());
        assert!(confirmed(&dump, &Head::Denied).is_err());
    }
}
