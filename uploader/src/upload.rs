//! The way of one dump from the spool into the store.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use protocol::spool::{Entry, Spool, State};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::dump::Dump;
use crate::key::Template;
use crate::store::{PutError, Store, Stored};

/// All an upload needs besides the dump.
#[derive(Clone)]
pub struct Uploader {
    /// Where dumps are.
    pub spool: Spool,
    /// Where they go.
    pub store: Arc<dyn Store>,
    /// What they are called there.
    pub key: Template,
    /// Bytes of a part.
    pub part_size: u64,
    /// Cancelled when uploads in flight have to end.
    pub stop: CancellationToken,
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

impl Uploader {
    /// Uploads the dump of `entry`, has the store confirm it, and only then
    /// deletes it. Killed anywhere in between it leaves the dump where it was,
    /// and the next attempt puts the same bytes at the same key.
    ///
    /// # Errors
    /// If it has to be tried again.
    pub async fn upload(&self, entry: &Entry) -> anyhow::Result<Fate> {
        let began = Instant::now();
        let (spool, name, part_size) = (self.spool.clone(), entry.clone(), self.part_size);
        let dump = match spawn_blocking(move || Dump::open(&spool, &name, part_size)).await? {
            Ok(dump) => dump,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(gone(entry)),
            Err(err) => return Err(err).with_context(|| format!("reading {entry}")),
        };
        if let Err(why) = &dump.manifest {
            log::warn!(dump:% = entry.id(); "its manifest cannot be read, it is uploaded without: {why}");
        }
        let key = self.key.key(&dump.id, dump.manifest.as_ref().ok());
        match self.put(&dump, &key).await {
            Ok(()) => {}
            Err(PutError::Never(why)) => {
                self.spool
                    .set_state(entry, State::Rejected)
                    .with_context(|| format!("setting {entry} aside"))?;
                log::error!(dump:% = entry.id(); "rejected: {why:#}");
                return Ok(Fate::Rejected);
            }
            Err(later @ PutError::Later(_)) => return Err(later.into()),
        }
        match std::fs::remove_file(self.spool.path(entry)) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                log::info!(dump:% = entry.id(); "somebody removed it from the spool while it was uploaded");
            }
            Err(err) => return Err(err).with_context(|| format!("deleting {entry}, which is stored")),
        }
        let seconds = began.elapsed().as_secs_f32();
        log::info!(dump:% = entry.id(), key:%, bytes = dump.bytes, seconds; "uploaded");
        Ok(Fate::Stored)
    }

    async fn put(&self, dump: &Dump, key: &crate::key::ObjectKey) -> Result<(), PutError> {
        self.store.put(dump, key, &self.stop).await?;
        confirmed(dump, &self.store.head(key).await?).map_err(PutError::Later)
    }
}

fn gone(entry: &Entry) -> Fate {
    log::info!(dump:% = entry.id(); "somebody removed it from the spool before it was uploaded");
    Fate::Gone
}

/// Whether what the store has is the dump.
fn confirmed(dump: &Dump, stored: &Stored) -> anyhow::Result<()> {
    anyhow::ensure!(
        stored.bytes == dump.bytes && stored.sha256 == dump.sha256,
        "the store has {} bytes with SHA-256 {:?}, not {} with {:?}",
        stored.bytes,
        stored.sha256,
        dump.bytes,
        dump.sha256
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_bytes_are_a_confirmation() {
        let dump = Dump {
            id: "20261122T193101Z-1-00000000".to_owned().try_into().unwrap(),
            file: Arc::new(tempfile::tempfile().unwrap()),
            bytes: 3,
            sha256: "abc".into(),
            parts: vec![],
            manifest: Err("none".into()),
        };
        let stored = |bytes, sha256: &str| confirmed(&dump, &Stored { bytes, sha256: sha256.into() });
        assert!(stored(3, "abc").is_ok());
        assert!(stored(2, "abc").is_err());
        assert!(stored(3, "abd").is_err());
        assert!(stored(3, "").is_err());
    }
}
