//! An object store that speaks S3. rusoto builds the requests and reads the
//! answers; [`transport`] carries them.

mod transport;
mod verdict;

use std::fmt;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream;
use rusoto_core::{ByteStream, Client, Region};
use rusoto_s3::{
    AbortMultipartUploadRequest, CompleteMultipartUploadRequest, CompletedMultipartUpload, CompletedPart,
    CreateMultipartUploadRequest, HeadObjectRequest, PutObjectRequest, S3 as _, S3Client, UploadPartRequest,
};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::transport::Transport;
use self::verdict::{answered, verdict};
use super::{Head, PutError, Store};
use crate::config::S3Config;
use crate::dump::{CHUNK, Dump, Part};
use crate::key::ObjectKey;

const CONTENT_TYPE: &str = "application/zip";
/// An upload that failed is aborted if that takes no longer than this; the
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
}

impl S3 {
    /// A client for a bucket. Connects to nothing yet.
    ///
    /// # Errors
    /// If there are no certificates to trust.
    pub fn new(config: S3Config) -> anyhow::Result<S3> {
        let region = Region::Custom { name: config.region.clone(), endpoint: config.endpoint.clone() };
        let (bucket, prefix, endpoint) =
            (config.bucket.clone(), config.prefix.clone(), config.endpoint.clone());
        // The transport signs, since what is signed depends on the host name
        // and rusoto knows only one of the two ways to name a bucket.
        let client = Client::new_not_signing(Transport::new(config)?);
        Ok(S3 { client: S3Client::new_with_client(client, region), bucket, prefix, endpoint })
    }

    async fn put_whole(&self, dump: &Dump, part: Part, key: &str) -> Result<(), PutError> {
        let request = PutObjectRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            body: Some(body(dump, part)),
            content_length: Some(part.bytes as i64),
            content_md5: Some(STANDARD.encode(part.md5)),
            content_type: Some(CONTENT_TYPE.to_owned()),
            metadata: Some(metadata(dump)),
            ..Default::default()
        };
        self.client.put_object(request).await.map_err(verdict)?;
        Ok(())
    }

    async fn put_in_parts(&self, dump: &Dump, key: &str, stop: &CancellationToken) -> Result<(), PutError> {
        let request = CreateMultipartUploadRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            content_type: Some(CONTENT_TYPE.to_owned()),
            metadata: Some(metadata(dump)),
            ..Default::default()
        };
        let begun = self.client.create_multipart_upload(request).await.map_err(verdict)?;
        let upload =
            begun.upload_id.ok_or_else(|| PutError::Later(anyhow!("the store gave no upload id")))?;
        let put = tokio::select! {
            put = self.put_parts(dump, key, &upload) => put,
            () = stop.cancelled() => Err(PutError::stopped()),
        };
        if put.is_err() {
            self.abort(key, upload).await;
        }
        put
    }

    async fn put_parts(&self, dump: &Dump, key: &str, upload: &str) -> Result<(), PutError> {
        let mut done = Vec::with_capacity(dump.parts.len());
        for (part, number) in dump.parts.iter().zip(1..) {
            let put = || self.put_part(dump, *part, number, key, upload);
            let sent = put.retry(again()).when(PutError::is_later).await;
            let sent = sent.map_err(|err| err.doing(format!("part {number} of {}", dump.parts.len())))?;
            done.push(sent);
        }
        let request = CompleteMultipartUploadRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            upload_id: upload.to_owned(),
            multipart_upload: Some(CompletedMultipartUpload { parts: Some(done) }),
            ..Default::default()
        };
        let complete = || async {
            let completed = self.client.complete_multipart_upload(request.clone()).await.map_err(verdict)?;
            // What is not the answer we know is no success, whatever its status.
            match completed.e_tag {
                Some(_) => Ok(()),
                None => Err(PutError::Later(anyhow!("the store did not say that it put the parts together"))),
            }
        };
        complete.retry(again()).when(PutError::is_later).await
    }

    async fn put_part(
        &self,
        dump: &Dump,
        part: Part,
        number: i64,
        key: &str,
        upload: &str,
    ) -> Result<CompletedPart, PutError> {
        let request = UploadPartRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            upload_id: upload.to_owned(),
            part_number: number,
            body: Some(body(dump, part)),
            content_length: Some(part.bytes as i64),
            content_md5: Some(STANDARD.encode(part.md5)),
            ..Default::default()
        };
        let sent = self.client.upload_part(request).await.map_err(verdict)?;
        let e_tag =
            sent.e_tag.ok_or_else(|| PutError::Later(anyhow!("the store gave no ETag for the part")))?;
        Ok(CompletedPart { e_tag: Some(e_tag), part_number: Some(number) })
    }

    /// Parts of an upload that is never completed are stored, and billed, for
    /// ever.
    async fn abort(&self, key: &str, upload_id: String) {
        let request = AbortMultipartUploadRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            upload_id: upload_id.clone(),
            ..Default::default()
        };
        let aborted = timeout(ABORT_DEADLINE, self.client.abort_multipart_upload(request)).await;
        let failed = match aborted {
            Ok(Ok(_)) => return,
            Ok(Err(err)) => format!("{:#}", anyhow::Error::from(verdict(err))),
            Err(_) => "it took too long".to_owned(),
        };
        log::warn!(key, upload_id; "an upload in parts was left behind unaborted: {failed}");
    }
}

#[async_trait]
impl Store for S3 {
    async fn put(&self, dump: &Dump, stop: &CancellationToken) -> Result<(), PutError> {
        let key = dump.key.below(&self.prefix);
        let put = match dump.parts[..] {
            [part] => tokio::select! {
                put = self.put_whole(dump, part, &key) => put,
                () = stop.cancelled() => Err(PutError::stopped()),
            },
            _ => self.put_in_parts(dump, &key, stop).await,
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

/// A part, read from the file as the connection takes it: a chunk at a time is
/// all that is ever in memory.
fn body(dump: &Dump, part: Part) -> ByteStream {
    let end = part.offset + part.bytes;
    let chunks = stream::try_unfold((Arc::clone(&dump.file), part.offset), move |(file, at)| async move {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(CHUNK);
        if wanted == 0 {
            return Ok(None);
        }
        let read = spawn_blocking(move || -> io::Result<_> {
            let mut chunk = vec![0; wanted];
            file.read_exact_at(&mut chunk, at)?;
            Ok((Bytes::from(chunk), file))
        });
        let (chunk, file) = read.await.map_err(io::Error::other)??;
        Ok(Some((chunk, (file, at + wanted as u64))))
    });
    ByteStream::new_with_size(chunks, usize::try_from(part.bytes).unwrap_or(usize::MAX))
}
