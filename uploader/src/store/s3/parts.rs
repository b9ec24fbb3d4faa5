//! Uploads in parts, which outlive the uploader: what the store has confirmed is
//! in the [`Ledger`], and is not sent again.

use anyhow::anyhow;
use backon::Retryable;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rusoto_s3::{
    AbortMultipartUploadRequest, CompleteMultipartUploadRequest, CompletedMultipartUpload, CompletedPart,
    CreateMultipartUploadRequest, ListMultipartUploadsRequest, S3 as _, UploadPartRequest,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::PutError;
use super::verdict::{answered, is_lost, verdict};
use super::{ABORT_DEADLINE, CONTENT_TYPE, S3, again, metadata};
use crate::dump::{Dump, Part};
use crate::ledger::{Ledger, Upload};

/// Why the parts have not become an object.
enum Failed {
    /// The upload can be gone on with.
    Yet(PutError),
    /// It is of no use any more: the store has forgotten it, or parts of it, or
    /// will never take the dump.
    Lost(PutError),
}

impl Failed {
    fn new<E: std::error::Error + Send + Sync + 'static>(err: rusoto_core::RusotoError<E>) -> Failed {
        let lost = is_lost(&err);
        match verdict(err) {
            err @ PutError::Later(_) if !lost => Failed::Yet(err),
            err => Failed::Lost(err),
        }
    }

    fn is_worth_a_retry(&self) -> bool {
        match self {
            Failed::Yet(err) => err.is_worth_a_retry(),
            Failed::Lost(_) => false,
        }
    }

    fn doing(self, what: String) -> Failed {
        match self {
            Failed::Yet(err) => Failed::Yet(err.doing(what)),
            Failed::Lost(err) => Failed::Lost(err.doing(what)),
        }
    }
}

impl S3 {
    pub(super) async fn put_in_parts(
        &self,
        dump: &Dump,
        key: &str,
        ledger: Option<&Ledger>,
        stop: &CancellationToken,
    ) -> Result<(), PutError> {
        let (mut upload, e_tags, ledger) = tokio::select! {
            upload = self.resume_or_begin(dump, key, ledger) => upload?,
            () = stop.cancelled() => return Err(PutError::stopped()),
        };
        let put = tokio::select! {
            put = self.put_parts(dump, &upload, e_tags, ledger) => put,
            () = stop.cancelled() => Err(Failed::Yet(PutError::stopped())),
        };
        match (put, ledger) {
            (Ok(()), ledger) => {
                // Whoever has the ledger now aborts what the stray has become.
                forget(ledger.filter(|_| !upload.stray));
                Ok(())
            }
            (Err(Failed::Yet(err)), Some(_)) => Err(err),
            (Err(Failed::Yet(err) | Failed::Lost(err)), ledger) => {
                match self.abort(&upload).await {
                    Ok(()) => forget(ledger),
                    Err(why) => {
                        log::warn!(key, upload_id:? = upload.upload_id; "an upload in parts was left behind unaborted: {:#}", anyhow::Error::from(why));
                        // By its id it would be gone on with.
                        upload.upload_id = None;
                        ledger.filter(|ledger| remembered(ledger, ledger.begin(&upload)));
                    }
                }
                Err(err)
            }
        }
    }

    /// The upload that is remembered, or a new one; and the ledger, unless it
    /// cannot be written or has something else to remember. In the first case,
    /// because the disk is full or we may not write there, dumps have to leave
    /// all the more.
    async fn resume_or_begin<'a>(
        &self,
        dump: &Dump,
        key: &str,
        mut ledger: Option<&'a Ledger>,
    ) -> Result<(Upload, Vec<String>, Option<&'a Ledger>), PutError> {
        let upload = |id| {
            let mut upload = Upload::new(dump, self.to_string(), key.to_owned(), id);
            upload.customer_key = self.customer_key.clone();
            upload
        };
        // What cannot be read was begun all the same.
        let mut stray = ledger.is_some_and(|ledger| !ledger.is_empty());
        if let Some(held) = ledger
            && let Some((known, e_tags)) = held.read()
        {
            let (sent, parts) = (e_tags.len(), dump.parts.len());
            if known.upload_id.is_some() && known.is_like(&upload(None)) && sent <= parts {
                log::info!(dump:% = held.id(), sent, parts; "its upload goes on");
                return Ok((known, e_tags, ledger));
            }
            log::warn!(dump:% = held.id(), key = known.key; "the upload that was begun cannot be gone on with, it begins anew");
            // The store may yet get to what it was asked before we were killed.
            stray = known.stray || known.upload_id.is_none();
            if let Err(err) = self.abort_ours(held, &known).await {
                log::warn!(dump:% = held.id(); "that upload was left behind: {:#}", anyhow::Error::from(err));
                stray = true;
                // A stray is looked for at one key only.
                ledger = ledger.filter(|_| known.key == key);
            }
        }
        let upload = |id| {
            let mut upload = upload(id);
            upload.stray = stray;
            upload
        };
        // Before the store is asked: its answer may be lost, or find us dead.
        let ledger = ledger.filter(|ledger| remembered(ledger, ledger.begin(&upload(None))));
        let request = CreateMultipartUploadRequest {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            content_type: Some(CONTENT_TYPE.to_owned()),
            metadata: Some(metadata(dump)),
            ..Default::default()
        };
        let begun = self.client.create_multipart_upload(request).await;
        let begun = begun.map_err(|err| {
            // It has refused, and there is nothing more to look for.
            if let Some(400..500) = answered(&err) {
                forget(ledger.filter(|_| !stray));
            }
            verdict(err)
        })?;
        let id = begun.upload_id.ok_or_else(|| PutError::Later(anyhow!("the store gave no upload id")))?;
        let upload = upload(Some(id));
        let ledger = ledger.filter(|ledger| remembered(ledger, ledger.begin(&upload)));
        Ok((upload, vec![], ledger))
    }

    async fn put_parts(
        &self,
        dump: &Dump,
        upload: &Upload,
        mut e_tags: Vec<String>,
        mut ledger: Option<&Ledger>,
    ) -> Result<(), Failed> {
        for (part, number) in dump.parts.iter().zip(1..).skip(e_tags.len()) {
            let put = || self.put_part(dump, *part, number, upload);
            let sent = put.retry(again()).when(Failed::is_worth_a_retry).await;
            let e_tag = sent.map_err(|err| err.doing(format!("part {number} of {}", dump.parts.len())))?;
            ledger = ledger.filter(|ledger| remembered(ledger, ledger.sent(number, &e_tag)));
            e_tags.push(e_tag);
        }
        let part = |(e_tag, number)| CompletedPart { e_tag: Some(e_tag), part_number: Some(number) };
        let request = CompleteMultipartUploadRequest {
            bucket: self.bucket.clone(),
            key: upload.key.clone(),
            upload_id: upload.upload_id.clone().unwrap_or_default(),
            multipart_upload: Some(CompletedMultipartUpload {
                parts: Some(e_tags.into_iter().zip(1..).map(part).collect()),
            }),
            ..Default::default()
        };
        let complete = || async {
            let completed = self.client.complete_multipart_upload(request.clone()).await;
            // What is not the answer we know is no success, whatever its status.
            match completed.map_err(Failed::new)?.e_tag {
                Some(_) => Ok(()),
                None => Err(later("the store did not say that it put the parts together")),
            }
        };
        complete.retry(again()).when(Failed::is_worth_a_retry).await
    }

    async fn put_part(
        &self,
        dump: &Dump,
        part: Part,
        number: usize,
        upload: &Upload,
    ) -> Result<String, Failed> {
        let request = UploadPartRequest {
            bucket: self.bucket.clone(),
            key: upload.key.clone(),
            upload_id: upload.upload_id.clone().unwrap_or_default(),
            part_number: number as i64,
            body: Some(self.body(dump, part)),
            content_length: Some(part.bytes as i64),
            content_md5: Some(STANDARD.encode(part.md5)),
            ..Default::default()
        };
        let sent = self.client.upload_part(request).await.map_err(Failed::new)?;
        sent.e_tag.ok_or_else(|| later("the store gave no ETag for the part"))
    }

    /// Aborts what is remembered, if it is of this store and of that dump; what
    /// else a file in the spool may name is not ours.
    pub(super) async fn abort_ours(&self, ledger: &Ledger, upload: &Upload) -> Result<(), PutError> {
        let ours = upload.store == self.to_string()
            && upload.key.starts_with(&self.prefix)
            && upload.key.contains(ledger.id().as_str());
        if !ours {
            log::warn!(dump:% = ledger.id(), key = upload.key, store = upload.store, upload_id:? = upload.upload_id; "an upload that is not of this store is left alone");
            return Ok(());
        }
        self.abort(upload).await.map_err(|err| err.doing(format!("aborting the upload of {}", upload.key)))
    }

    /// Parts of an upload that is never completed are stored, and billed, for
    /// ever.
    async fn abort(&self, upload: &Upload) -> Result<(), PutError> {
        let abort = async {
            let mut ids = Vec::from_iter(upload.upload_id.clone());
            if ids.is_empty() || upload.stray {
                ids.extend(self.begun(&upload.key).await?);
            }
            for upload_id in ids {
                let (bucket, key) = (self.bucket.clone(), upload.key.clone());
                let request = AbortMultipartUploadRequest { bucket, key, upload_id, ..Default::default() };
                match self.client.abort_multipart_upload(request).await {
                    Err(err) if !is_lost(&err) => return Err(verdict(err)),
                    _ => {}
                }
            }
            Ok(())
        };
        let late = |_| PutError::Later(anyhow!("it took too long"));
        timeout(ABORT_DEADLINE, abort).await.map_err(late)?
    }

    /// What the store calls the uploads that were begun to exactly that key. They
    /// are ours: the key has the dump's id in it, and we its ledger.
    async fn begun(&self, key: &str) -> Result<Vec<String>, PutError> {
        let (bucket, prefix) = (self.bucket.clone(), Some(key.to_owned()));
        let request = ListMultipartUploadsRequest { bucket, prefix, ..Default::default() };
        let listed = self.client.list_multipart_uploads(request).await.map_err(verdict)?;
        let mut uploads = listed.uploads.unwrap_or_default();
        uploads.retain(|upload| upload.key.as_deref() == Some(key));
        Ok(uploads.into_iter().filter_map(|upload| upload.upload_id).collect())
    }
}

fn later(why: &'static str) -> Failed {
    Failed::Yet(PutError::Later(anyhow!(why)))
}

/// If not, the next start has to begin anew; this one goes on.
fn remembered(ledger: &Ledger, written: std::io::Result<()>) -> bool {
    written
        .inspect_err(
            |err| log::warn!(dump:% = ledger.id(); "how far its upload is cannot be remembered: {err}"),
        )
        .is_ok()
}

/// There is no such upload any more. If that stays remembered all the same the
/// store will say so.
fn forget(ledger: Option<&Ledger>) {
    let _ = ledger.map(Ledger::clear);
}
