//! The way of one dump from the spool into the store.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use protocol::spool::{DumpId, Entry, Spool, State};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::dump::{Dump, metadata, read_manifest};
use crate::events::Events;
use crate::key::Template;
use crate::ledger::Ledger;
use crate::retention::{Reason, Retention};
use crate::store::{Head, PutError, Store, retry_after};

/// How many dumps are measured at a time, of the small ones and of the large
/// ones. It takes a thread each, and those that read for the network must not
/// have to wait; nor small ones until gigabytes are read.
const MEASURED_AT_A_TIME: usize = 2;

/// Uploads dumps.
#[derive(Clone)]
pub struct Uploader(Arc<Inner>);

struct Inner {
    spool: Spool,
    store: Arc<dyn Store>,
    key: Template,
    part_size: u64,
    retention: Retention,
    events: Events,
    stop: CancellationToken,
    measuring: [Semaphore; 2],
}

/// What became of a dump, if something did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// It is in the store, and no longer in the spool but as a copy.
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
    /// `part_size` bytes, and tells `events`; `retention` says what becomes of them
    /// then.
    pub fn new(
        spool: Spool,
        store: Arc<dyn Store>,
        key: Template,
        part_size: u64,
        retention: Retention,
        events: Events,
    ) -> Uploader {
        let stop = CancellationToken::new();
        let measuring = [(); 2].map(|()| Semaphore::new(MEASURED_AT_A_TIME));
        Uploader(Arc::new(Inner { spool, store, key, part_size, retention, events, stop, measuring }))
    }

    /// Where dumps are.
    pub fn spool(&self) -> &Spool {
        &self.0.spool
    }

    /// Where they go.
    pub fn store(&self) -> &dyn Store {
        &*self.0.store
    }

    /// Who is told what becomes of dumps.
    pub fn events(&self) -> &Events {
        &self.0.events
    }

    /// Up to how many bytes a dump is put in one request.
    pub fn part_size(&self) -> u64 {
        self.0.part_size
    }

    /// Ends all uploads that are in flight.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }

    /// Aborts uploads in parts whose dump is gone, and forgets them; those that
    /// could not be aborted are there the next time.
    pub async fn sweep(&self) {
        // Ledgers first: what has one then, and is not ready afterwards, will never
        // need it again.
        let spool = &self.0.spool;
        let (Ok(mut ids), Ok(found)) = (Ledger::list(spool), spool.list()) else { return };
        let entries = found.iter().map(|found| &found.entry);
        let ready: BTreeSet<_> =
            entries.filter(|entry| entry.state() == State::Ready).map(Entry::id).collect();
        ids.retain(|id| !ready.contains(id));
        for id in ids {
            let inner = Arc::clone(&self.0);
            // A task of its own, as in `upload`.
            let swept = tokio::spawn(async move {
                // Whose dump somebody removed may still be on its way.
                if let Ok(Some(ledger)) = Ledger::open(&inner.spool, &id) {
                    inner.discard(ledger).await;
                }
            });
            if let Err(panic) = swept.await {
                log::error!("an upload in parts could not be aborted: {panic}");
            }
        }
    }

    /// Removes uploaded dumps that may not stay, and says of each why.
    ///
    /// # Errors
    /// If the spool cannot be listed, or some of them cannot be removed.
    pub async fn expire(&self, removed: impl FnMut(Reason) + Send + 'static) -> anyhow::Result<()> {
        let inner = Arc::clone(&self.0);
        spawn_blocking(move || inner.retention.apply(&inner.spool, removed)).await?
    }

    /// Uploads the dump of `entry`, has the store confirm it, and only then
    /// lets it go. Killed anywhere in between it leaves the dump where it was,
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
        let bytes = file.metadata().map_err(|err| Trouble::Dump(err.into()))?.len();
        let large = bytes > part_size;
        let ledger = if large { self.ledger(entry.id())? } else { None };
        let measured = self.measured(large, move || Dump::measure(file, part_size, key, metadata)).await?;
        let dump = measured.with_context(|| format!("reading {entry}")).map_err(Trouble::Dump)?;
        let put = self.put(&dump, ledger.as_ref(), there).await;
        if let (Ok(()) | Err(PutError::Never(_)), Some(ledger)) = (&put, ledger) {
            self.discard(ledger).await;
        }
        match put {
            Ok(()) => {}
            Err(PutError::Never(why)) => {
                let aside = self.spool.set_state(entry, State::Rejected);
                aside.with_context(|| format!("setting {entry} aside")).map_err(Trouble::Dump)?;
                log::error!(dump:% = entry.id(); "rejected: {why:#}");
                return Ok(Fate::Rejected);
            }
            Err(PutError::Later(why)) => return Err(Trouble::Store(why)),
        }
        self.let_go(entry).await?;
        let seconds = began.elapsed().as_secs_f32();
        log::info!(dump:% = entry.id(), key:% = dump.key, bytes = dump.bytes, seconds; "uploaded");
        self.events.uploaded(entry.id(), manifest, &format!("{} in {}", dump.key, self.store));
        Ok(Fate::Stored)
    }

    /// Who has the ledger of a dump puts it in parts.
    fn ledger(&self, id: &DumpId) -> Result<Option<Ledger>, Trouble> {
        match Ledger::open(&self.spool, id) {
            Ok(Some(ledger)) => Ok(Some(ledger)),
            Ok(None) => Err(Trouble::Dump(anyhow!("somebody else is uploading it"))),
            Err(err) => {
                log::warn!(dump:% = id; "how far its upload is cannot be remembered: {err}");
                Ok(None)
            }
        }
    }

    /// Nothing of what is remembered is needed any more.
    async fn discard(&self, ledger: Ledger) {
        let id = ledger.id().clone();
        let discarded = self.store.discard(&ledger).await.map_err(anyhow::Error::from);
        if let Err(err) = discarded.and_then(|()| Ok(ledger.remove()?)) {
            log::warn!(dump:% = id; "what is left of its upload in parts is removed later: {err:#}");
        }
    }

    /// Does `measure`, when it is its turn and unless there is no time any more.
    async fn measured<T: Send + 'static>(
        &self,
        large: bool,
        measure: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Trouble> {
        let _turn = self.measuring[usize::from(large)].acquire().await;
        tokio::select! {
            measured = spawn_blocking(measure) => measured.map_err(|panic| Trouble::Dump(panic.into())),
            () = self.stop.cancelled() => Err(Trouble::Store(PutError::stopped().into())),
        }
    }

    async fn put(&self, dump: &Dump, ledger: Option<&Ledger>, there: Head) -> Result<(), PutError> {
        if confirmed(dump, &there).is_ok() {
            return Ok(());
        }
        let remembered = |ledger: Option<&Ledger>| ledger.is_some_and(|ledger| !ledger.is_empty());
        let resumes = remembered(ledger);
        match self.put_once(dump, ledger, &there).await {
            Err(PutError::Later(why)) if resumes && !remembered(ledger) => {
                log::warn!(key:% = dump.key; "what was remembered is of no use, the upload begins anew: {why:#}");
                self.put_once(dump, ledger, &there).await
            }
            put => put,
        }
    }

    async fn put_once(&self, dump: &Dump, ledger: Option<&Ledger>, there: &Head) -> Result<(), PutError> {
        let put = self.store.put(dump, ledger, &self.stop).await;
        match put {
            Err(PutError::Never(why)) => return Err(PutError::Never(why)),
            Err(_) if self.stop.is_cancelled() => return put,
            // It has said that it did not take it, and when to ask again.
            Err(PutError::Later(ref why)) if retry_after(why).is_some() => return put,
            _ => {}
        }
        // Whatever was said about the put: what counts is what is there. An
        // answer may have been lost on its way.
        match (put, self.store.head(&dump.key).await) {
            (_, Ok(head)) if confirmed(dump, &head).is_ok() => Ok(()),
            (Err(err), _) if *there == Head::Denied => Err(err.doing("it also denies us to ask what it has")),
            (Err(err), _) | (Ok(()), Err(err)) => Err(err),
            (Ok(()), Ok(head)) => confirmed(dump, &head).map_err(PutError::Later),
        }
    }

    async fn let_go(&self, entry: &Entry) -> Result<(), Trouble> {
        // Giving gigabytes back to a file system may take it a while.
        let (spool, stored, keeps) = (self.spool.clone(), entry.clone(), self.retention.keeps());
        let gone = spawn_blocking(move || match keeps {
            true => spool.set_state(&stored, State::Uploaded).map(drop),
            false => std::fs::remove_file(spool.path(&stored)),
        });
        match gone.await.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok(()) => Ok(()),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                log::info!(dump:% = entry.id(); "somebody removed it from the spool while it was uploaded");
                Ok(())
            }
            Err(err) => {
                let err = anyhow::Error::from(err);
                Err(Trouble::Dump(err.context(format!("letting go of {entry}, which is stored"))))
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

    #[tokio::test]
    async fn a_small_dump_is_measured_while_large_ones_are() {
        let store = crate::store::open(crate::config::StoreConfig::Dir("/nowhere".into()), None).unwrap();
        let (key, retention) = (Template::default(), Retention::new(None));
        let uploader = Uploader::new(Spool::at("/nowhere"), store, key, 1, retention, Events::default());
        let (held, holding) = std::sync::mpsc::channel::<()>();
        let holding = Arc::new(std::sync::Mutex::new(holding));
        let large = (0..MEASURED_AT_A_TIME + 1).map(|_| {
            let (inner, holding) = (Arc::clone(&uploader.0), Arc::clone(&holding));
            tokio::spawn(async move { inner.measured(true, move || holding.lock().unwrap().recv()).await })
        });
        let large: Vec<_> = large.collect();
        while uploader.0.measuring[1].available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let small = uploader.0.measured(false, || 1);
        assert_eq!(
            tokio::time::timeout(std::time::Duration::from_secs(10), small).await.unwrap().unwrap(),
            1
        );
        assert!(large.iter().all(|large| !large.is_finished()));
        drop(held);
    }

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
