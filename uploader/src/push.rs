//! `uploader push`: uploads what is in the spool now, once. What is torn is
//! repaired before, and what the store has is removed after it, if it may not stay.

use std::collections::BTreeSet;

use anyhow::Context;
use futures::StreamExt;
use protocol::spool::{DumpId, Entry, State};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::repair::repair;
use crate::upload::{Fate, Uploader};

/// Uploads all dumps that are ready or torn, or those of `ids`. Each is tried once.
///
/// # Errors
/// If one of them is not in the store afterwards.
pub async fn push(uploader: &Uploader, ids: &[DumpId], parallel: usize) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
    let (stopper, stopping) = (uploader.clone(), stop.clone());
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        // What is in flight ends by itself, and the next one goes on with it.
        stopping.cancel();
        stopper.stop();
    });
    let mut failed = 0;
    for torn in wanted(uploader, ids, State::Torn)? {
        let (spool, entry, stop) = (uploader.spool().clone(), torn.clone(), stop.clone());
        let repaired = spawn_blocking(move || repair(&spool, &entry, &stop)).await;
        if let Err(err) = repaired.map_err(Into::into).flatten() {
            log::error!(dump:% = torn.id(); "not repaired: {err:#}");
            failed += 1;
        }
    }
    let entries = wanted(uploader, ids, State::Ready)?;
    let there: BTreeSet<_> = entries.iter().map(Entry::id).collect();
    for id in ids.iter().filter(|id| !there.contains(id)) {
        log::error!(dump:% = id; "is not in the spool, or not ready");
        failed += 1;
    }
    let uploads = entries.iter().map(|entry| async move { (entry, uploader.upload(entry).await) });
    let mut uploads = futures::stream::iter(uploads).buffer_unordered(parallel);
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
    // Who asks for some dumps is not thinking of the others.
    if ids.is_empty()
        && let Err(err) = uploader.expire(|_| {}).await
    {
        log::warn!("uploaded dumps are not seen to: {err:#}");
    }
    anyhow::ensure!(failed == 0, "{failed} dumps were not uploaded");
    Ok(())
}

/// The dumps in that state, or those of them that were asked for.
fn wanted(uploader: &Uploader, ids: &[DumpId], state: State) -> anyhow::Result<Vec<Entry>> {
    let dir = uploader.spool().dir().display();
    let found = uploader.spool().list().with_context(|| format!("listing the spool {dir}"))?;
    let wanted = |entry: &Entry| entry.state() == state && (ids.is_empty() || ids.contains(entry.id()));
    Ok(found.into_iter().map(|found| found.entry).filter(wanted).collect())
}
