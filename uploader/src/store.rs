//! Where dumps go. All that is particular to a kind of store is behind
//! [`Store`]; rusoto in particular is known to the module `s3` and no other.

mod dir;
mod s3;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::config::StoreConfig;
use crate::dump::Dump;
use crate::key::ObjectKey;

/// A place that keeps dumps.
#[async_trait]
pub trait Store: Send + Sync + fmt::Display {
    /// Puts `dump` at its key, replacing what is there. When it returns, the
    /// store has said that it has every byte. When `stop` is cancelled it
    /// gives up, and leaves nothing half done if it can.
    async fn put(&self, dump: &Dump, stop: &CancellationToken) -> Result<(), PutError>;

    /// Asks the store what it has at `key`.
    async fn head(&self, key: &ObjectKey) -> Result<Head, PutError>;
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

    fn is_later(&self) -> bool {
        matches!(self, PutError::Later(_))
    }

    /// Adds what was being done.
    pub fn doing(self, what: impl fmt::Display + Send + Sync + 'static) -> PutError {
        match self {
            PutError::Later(err) => PutError::Later(err.context(what)),
            PutError::Never(err) => PutError::Never(err.context(what)),
        }
    }
}

/// The store the settings ask for.
///
/// # Errors
/// If there can be no client for it.
pub fn open(config: StoreConfig) -> anyhow::Result<Arc<dyn Store>> {
    Ok(match config {
        StoreConfig::S3(config) => Arc::new(s3::S3::new(config)?),
        StoreConfig::Dir(path) => Arc::new(dir::Dir::new(path)),
    })
}
