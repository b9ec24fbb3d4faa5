//! Where dumps go. All that is particular to a kind of store is behind
//! [`Store`]; rusoto in particular is known to the module `s3` and no other.

mod dir;
mod s3;

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::bandwidth::Bandwidth;
use crate::config::StoreConfig;
use crate::dump::Dump;
use crate::key::ObjectKey;
use crate::ledger::Ledger;

/// A place that keeps dumps.
#[async_trait]
pub trait Store: Send + Sync + fmt::Display {
    /// Puts `dump` at its key, replacing what is there. When it returns, the
    /// store has said that it has every byte. When `stop` is cancelled it
    /// gives up. What is done by then, and in `ledger`, is not done again.
    async fn put(
        &self,
        dump: &Dump,
        ledger: Option<&Ledger>,
        stop: &CancellationToken,
    ) -> Result<(), PutError>;

    /// Asks the store what it has at `key`.
    async fn head(&self, key: &ObjectKey) -> Result<Head, PutError>;

    /// Has the store drop what `ledger` remembers, if it is this store's.
    async fn discard(&self, ledger: &Ledger) -> Result<(), PutError>;

    /// Asks whether it is there, by way of a `key` that need not be.
    async fn reach(&self, key: &ObjectKey) -> Result<(), PutError> {
        self.head(key).await.map(drop)
    }
}

/// What a store says it has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Head {
    /// An object.
    Stored {
        /// How many bytes.
        bytes: u64,
        /// Their SHA-256, hexadecimal; empty if the store knows of none.
        sha256: String,
    },
    /// Nothing.
    Absent,
    /// It does not say: our credentials are wrong or outdated, or their rights
    /// too few.
    Denied,
}

/// What to do next is the only thing a caller can ask of a failed upload, so
/// it is the only thing the type says.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The store, the network or our credentials. The dump is blameless.
    #[error("the store is not taking uploads")]
    Later(#[source] anyhow::Error),
    /// This dump, this store: never. Set it aside and go on.
    #[error("the store will not take this dump")]
    Never(#[source] anyhow::Error),
}

impl PutError {
    /// There is no time any more.
    pub fn stopped() -> PutError {
        PutError::Later(anyhow::anyhow!("the uploader is being stopped"))
    }

    /// Whether the same request may soon fare better.
    fn is_worth_a_retry(&self) -> bool {
        match self {
            PutError::Later(err) => retry_after(err).is_none(),
            PutError::Never(_) => false,
        }
    }

    /// Adds what was being done.
    pub fn doing(self, what: impl fmt::Display + Send + Sync + 'static) -> PutError {
        match self {
            PutError::Later(err) => PutError::Later(err.context(what)),
            PutError::Never(err) => PutError::Never(err.context(what)),
        }
    }
}

/// What a store said that did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{said}")]
struct Refusal {
    said: String,
    /// When it wants to be asked again.
    retry_after: Option<Duration>,
}

/// How long a store wants to be left alone that failed with this error.
pub fn retry_after(err: &anyhow::Error) -> Option<Duration> {
    err.chain().find_map(|err| err.downcast_ref::<Refusal>())?.retry_after
}

/// The store the settings ask for.
///
/// # Errors
/// If there can be no client for it.
pub fn open(config: StoreConfig, bandwidth: Option<NonZeroU64>) -> anyhow::Result<Arc<dyn Store>> {
    let bandwidth = bandwidth.map(|limit| Arc::new(Bandwidth::new(limit)));
    Ok(match config {
        StoreConfig::S3(config) => Arc::new(s3::S3::new(*config, bandwidth)?),
        StoreConfig::Dir(path) => Arc::new(dir::Dir::new(path, bandwidth)),
    })
}
