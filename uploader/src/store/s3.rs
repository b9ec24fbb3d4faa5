//! An object store that speaks S3. rusoto builds the requests and reads the
//! answers; [`transport`] carries them.

mod credentials;
mod options;
mod parts;
mod transport;
mod verdict;

use std::fmt;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backon::ExponentialBuilder;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream;
use rusoto_core::{ByteStream, Client, Region};
use rusoto_s3::{HeadObjectRequest, PutObjectRequest, S3 as _, S3Client};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::transport::Transport;
use self::verdict::{answered, verdict};
use super::{Head, PutError, Store};
use crate::bandwidth::Bandwidth;
use crate::config::S3Config;
use crate::dump::{CHUNK, Dump, Part};
use crate::key::ObjectKey;
use crate::ledger::Ledger;

const CONTENT_TYPE: &str = "application/zip";
/// An upload that is of no use is aborted if that takes no longer than this; the
/// store may be what failed.
const ABORT_DEADLINE: Duration = Duration::from_secs(5);

const RETRIES: usize = 3;
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// A bucket.
pub struct S3 {
    client: S3Client,
    bucket: String,
    prefix: String,
    endpoint: String,
    /// The MD5 of the key that objects are encrypted with, if it is ours.
    customer_key: Option<String>,
    bandwidth: Option<Arc<Bandwidth>>,
}

impl S3 {
    /// A client for a bucket. Connects to nothing yet.
    ///
    /// # Errors
    /// If there are no certificates to trust.
    pub fn new(config: S3Config, bandwidth: Option<Arc<Bandwidth>>) -> anyhow::Result<S3> {
        let region = Region::Custom { name: config.region.clone(), endpoint: config.endpoint.clone() };
        let (bucket, prefix, endpoint) =
            (config.bucket.clone(), config.prefix.clone(), config.endpoint.clone());
        let customer_key = options::customer_key(&config.options).map(|key| key.md5.clone());
        // The transport signs, since what is signed depends on the host name
        // and rusoto knows only one of the two ways to name a bucket.
        let client = Client::new_not_signing(Transport::new(config)?);
        let client = S3Client::new_with_client(client, region);
        Ok(S3 { client, bucket, prefix, endpoint, customer_key, bandwidth })
    }

    async fn put_whole(&self, dump: &Dump, part: Part, key: &str) -> Result<(), PutError> {
        let request = PutObjectRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            body: Some(self.body(dump, part)),
            content_length: Some(part.bytes as i64),
            content_md5: Some(STANDARD.encode(part.md5)),
            content_type: Some(CONTENT_TYPE.to_owned()),
            metadata: Some(metadata(dump)),
            ..Default::default()
        };
        self.client.put_object(request).await.map_err(verdict)?;
        Ok(())
    }

    /// A part, read from the file as the connection takes it and `bandwidth`
    /// allows: a chunk at a time is all that is ever in memory.
    fn body(&self, dump: &Dump, part: Part) -> ByteStream {
        let end = part.offset + part.bytes;
        let begin = (Arc::clone(&dump.file), self.bandwidth.clone(), part.offset);
        let chunks = stream::try_unfold(begin, move |(file, bandwidth, at)| async move {
            let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(CHUNK);
            if wanted == 0 {
                return Ok(None);
            }
            if let Some(bandwidth) = &bandwidth {
                sleep(bandwidth.reserve(wanted)).await;
            }
            let read = spawn_blocking(move || -> io::Result<_> {
                let mut chunk = vec![0; wanted];
                file.read_exact_at(&mut chunk, at)?;
                Ok((Bytes::from(chunk), file))
            });
            let (chunk, file) = read.await.map_err(io::Error::other)??;
            Ok(Some((chunk, (file, bandwidth, at + wanted as u64))))
        });
        ByteStream::new_with_size(chunks, usize::try_from(part.bytes).unwrap_or(usize::MAX))
    }
}

#[async_trait]
impl Store for S3 {
    async fn put(
        &self,
        dump: &Dump,
        ledger: Option<&Ledger>,
        stop: &CancellationToken,
    ) -> Result<(), PutError> {
        let key = dump.key.below(&self.prefix);
        let put = match dump.parts[..] {
            [part] => tokio::select! {
                put = self.put_whole(dump, part, &key) => put,
                () = stop.cancelled() => Err(PutError::stopped()),
            },
            _ => self.put_in_parts(dump, &key, ledger, stop).await,
        };
        put.map_err(|err| err.doing(format!("putting {key} into {self}")))
    }

    async fn head(&self, key: &ObjectKey) -> Result<Head, PutError> {
        let key = key.below(&self.prefix);
        let request =
            HeadObjectRequest { bucket: self.bucket.clone(), key: key.clone(), ..Default::default() };
        match self.client.head_object(request).await {
            Ok(head) => Ok(Head::Stored {
                bytes: head.content_length.and_then(|bytes| bytes.try_into().ok()).unwrap_or(0),
                sha256: head.metadata.and_then(|mut metadata| metadata.remove("sha256")).unwrap_or_default(),
            }),
            Err(err) => match answered(&err) {
                Some(404) => Ok(Head::Absent),
                Some(400 | 401 | 403) => Ok(Head::Denied),
                _ => Err(verdict(err).doing(format!("asking for {key} in {self}"))),
            },
        }
    }

    async fn discard(&self, ledger: &Ledger) -> Result<(), PutError> {
        match ledger.read() {
            Some((upload, _)) => self.abort_ours(ledger, &upload).await,
            None => Ok(()),
        }
    }
}

impl fmt::Display for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bucket {} at {}", self.bucket, self.endpoint)
    }
}

fn metadata(dump: &Dump) -> std::collections::HashMap<String, String> {
    dump.metadata.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// A few more attempts at one request of an upload in parts: hundreds of them
/// make one upload, and stores expect a client to ask again ("Retry" in the
/// best practices of the S3 user guide).
fn again() -> ExponentialBuilder {
    ExponentialBuilder::default().with_min_delay(FIRST_RETRY).with_jitter().with_max_times(RETRIES)
}
