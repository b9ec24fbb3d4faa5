//! `uploader push`: uploads what is in the spool now, once.

use std::collections::BTreeSet;

use anyhow::Context;
use futures::StreamExt;
use protocol::spool::{DumpId, Entry, State};
use tokio::signal::unix::{SignalKind, signal};

use crate::upload::{Fate, Uploader};

/// Uploads all ready dumps, or those of `ids`. Each is tried once.
///
/// # Errors
/// If one of them is not in the store afterwards.
pub async fn push(uploader: &Uploader, ids: &[DumpId], parallel: usize) -> anyhow::Result<()> {
    let dir = uploader.spool().dir().display();
    let found = uploader.spool().list().with_context(|| format!("listing the spool {dir}"))?;
    let wanted =
        |entry: &Entry| entry.state() == State::Ready && (ids.is_empty() || ids.contains(entry.id()));
    let entries: Vec<Entry> = found.into_iter().map(|found| found.entry).filter(wanted).collect();

    let there: BTreeSet<_> = entries.iter().map(Entry::id).collect();
    let mut failed = 0;
    for id in ids.iter().filter(|id| !there.contains(id)) {
        log::error!(dump:% = id; "is not in the spool, or not ready");
        failed += 1;
    }
    let uploads = entries.iter().map(|entry| async move { (entry, uploader.upload(entry).await) });
    let mut uploads = futures::stream::iter(uploads).buffer_unordered(parallel);
    let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
    let stopper = uploader.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        // What is in flight ends by itself, and cleans up behind itself.
        stopper.stop();
    });
    while let Some((entry, result)) = uploads.next().await {
        match result {
            Ok(Fate::Stored | Fate::Gone) => {}
            Ok(Fate::Rejected) => failed += 1,
            Err(err) => {
                log::error!(dump:% = entry.id(); "{:#}", anyhow::Error::from(err));
                failed += 1;
            }
        }
    }
    anyhow::ensure!(failed == 0, "{failed} dumps were not uploaded");
    Ok(())
}
