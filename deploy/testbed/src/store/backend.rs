//! `s3s-fs`, mended where it is kinder than a real store.
//!
//! | a real store | `s3s-fs` 0.14 |
//! |---|---|
//! | refuses a part whose `Content-MD5` is wrong | does not look |
//! | keeps the old object when it refuses a new one | has replaced it by then |
//! | needs a bucket | creates one |
//! | does not know an upload: 404 `NoSuchUpload` | 403 |
//! | completes an upload of exactly the parts named, or leaves it open | ignores their ETags, fails halfway with 500 |
//! | lists uploads, and parts with their ETags | neither |

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use base64::prelude::{BASE64_STANDARD, Engine};
use futures::{StreamExt, stream};
use hyper::http::{Extensions, HeaderMap, Method, Uri};
use s3s::auth::{Credentials, SecretKey};
use s3s::crypto::{Checksum, Md5};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;

use super::{ACCESS_KEY, SECRET_KEY};

/// S3's least size of a part that is not the last.
const MIN_PART: i64 = 5 * 1024 * 1024;

#[derive(Clone)]
pub(super) struct Backend {
    root: PathBuf,
    files: Arc<FileSystem>,
    /// Begun and not ended. Forgotten when the store stops, unlike objects.
    uploads: Arc<Mutex<HashMap<String, Upload>>>,
}

struct Upload {
    bucket: String,
    key: String,
    parts: BTreeMap<i32, Received>,
}

struct Received {
    e_tag: Option<ETag>,
    bytes: i64,
}

impl Backend {
    pub(super) fn new(root: &Path) -> anyhow::Result<Backend> {
        let files = FileSystem::new(root).map_err(|err| anyhow::anyhow!("{err:?}")).context("s3s-fs")?;
        Ok(Backend { root: root.to_owned(), files: Arc::new(files), uploads: Arc::default() })
    }

    pub(super) fn open_uploads(&self) -> usize {
        self.uploads().len()
    }

    pub(super) fn is_open(&self, id: &str) -> bool {
        self.uploads().contains_key(id)
    }

    pub(super) async fn begin_upload(&self, bucket: String, key: String) -> S3Result<String> {
        let input = CreateMultipartUploadInput { bucket, key, ..Default::default() };
        let begun = self.create_multipart_upload(internal(Method::POST, input)).await?;
        begun.output.upload_id.ok_or_else(|| s3_error!(InternalError))
    }

    pub(super) async fn keys(&self, bucket: String) -> S3Result<Vec<String>> {
        let input = ListObjectsV2Input { bucket, max_keys: Some(i32::MAX), ..Default::default() };
        let listed = self.files.list_objects_v2(internal(Method::GET, input)).await?;
        Ok(listed.output.contents.into_iter().flatten().filter_map(|object| object.key).collect())
    }

    pub(super) async fn metadata(&self, bucket: String, key: String) -> S3Result<BTreeMap<String, String>> {
        let input = HeadObjectInput { bucket, key, ..Default::default() };
        let head = self.files.head_object(internal(Method::HEAD, input)).await?;
        Ok(head.output.metadata.into_iter().flatten().collect())
    }

    fn uploads(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn needs_bucket(&self, bucket: &str) -> S3Result<()> {
        if self.root.join(bucket).is_dir() { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }

    fn needs_upload(&self, id: &str, bucket: &str, key: &str) -> S3Result<()> {
        match self.uploads().get(id) {
            Some(upload) if upload.bucket == bucket && upload.key == key => Ok(()),
            _ => Err(s3_error!(NoSuchUpload)),
        }
    }

    /// Whether the parts the client wants are the parts we have.
    fn needs_parts(&self, id: &str, wanted: &[CompletedPart]) -> S3Result<()> {
        let uploads = self.uploads();
        let upload = uploads.get(id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        if !wanted.is_sorted_by_key(|part| part.part_number) {
            return Err(s3_error!(InvalidPartOrder));
        }
        for (at, part) in wanted.iter().enumerate() {
            let received = part.part_number.and_then(|number| upload.parts.get(&number));
            match received.filter(|received| part.e_tag.is_some() && received.e_tag == part.e_tag) {
                None => return Err(s3_error!(InvalidPart)),
                Some(part) if part.bytes < MIN_PART && at + 1 < wanted.len() => {
                    return Err(s3_error!(EntityTooSmall));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// The same request, as the store's own: `s3s-fs` lets nobody end an upload but
/// who began it, which with credentials that change is nobody.
fn ours<T>(mut request: S3Request<T>) -> S3Request<T> {
    let secret_key = SecretKey::from(SECRET_KEY);
    request.credentials = Some(Credentials { access_key: ACCESS_KEY.to_owned(), secret_key });
    request
}

/// A request of the store to itself.
fn internal<T>(method: Method, input: T) -> S3Request<T> {
    S3Request {
        input,
        method,
        uri: Uri::default(),
        headers: HeaderMap::new(),
        extensions: Extensions::new(),
        credentials: None,
        region: None,
        service: None,
        trailing_headers: None,
    }
}

/// Whether a body was refused. `s3s-fs` gives up on a body that breaks off and
/// leaves nothing of it, but calls that an internal error.
#[derive(Clone, Default)]
struct Refusal(Arc<AtomicBool>);

impl Refusal {
    fn or<T>(&self, result: S3Result<T>) -> S3Result<T> {
        if self.0.load(Ordering::Relaxed) { Err(s3_error!(BadDigest)) } else { result }
    }
}

/// The same body, which breaks off at its end if its MD5 is not the one
/// announced.
fn checked(body: StreamingBlob, announced: Option<String>) -> S3Result<(StreamingBlob, Refusal)> {
    let announced = announced.map(|md5| BASE64_STANDARD.decode(md5)).transpose();
    let announced = announced.map_err(|_| s3_error!(InvalidDigest))?;
    let refusal = Refusal::default();
    let refused = refusal.clone();
    let body = stream::unfold(Some((body, Md5::new())), move |state| {
        let (announced, refused) = (announced.clone(), refused.clone());
        async move {
            let (mut body, mut md5) = state?;
            let good = match body.next().await {
                Some(Ok(chunk)) => {
                    md5.update(&chunk);
                    return Some((Ok(chunk), Some((body, md5))));
                }
                // The body is not what was signed; or the connection broke, and
                // nobody will hear what we say.
                Some(Err(_)) => false,
                None => announced.is_none_or(|announced| announced == md5.finalize()),
            };
            refused.0.store(!good, Ordering::Relaxed);
            (!good).then(|| (Err(io::Error::other("is not what was announced")), None))
        }
    });
    Ok((StreamingBlob::wrap(body), refusal))
}

#[async_trait::async_trait]
impl S3 for Backend {
    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        self.files.create_bucket(req).await
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.files.head_bucket(req).await
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.files.list_objects_v2(req).await
    }

    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        self.needs_bucket(&req.input.bucket)?;
        let body = req.input.body.take().ok_or_else(|| s3_error!(IncompleteBody))?;
        let (body, refusal) = checked(body, req.input.content_md5.take())?;
        req.input.body = Some(body);
        refusal.or(self.files.put_object(req).await)
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        self.files.head_object(req).await
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.needs_bucket(&req.input.bucket)?;
        self.files.get_object(req).await
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.files.delete_object(req).await
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let CreateMultipartUploadInput { bucket, key, .. } = req.input.clone();
        self.needs_bucket(&bucket)?;
        let begun = self.files.create_multipart_upload(ours(req)).await?;
        let id = begun.output.upload_id.clone().ok_or_else(|| s3_error!(InternalError))?;
        self.uploads().insert(id, Upload { bucket, key, parts: BTreeMap::new() });
        Ok(begun)
    }

    async fn upload_part(
        &self,
        mut req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let (id, number) = (req.input.upload_id.clone(), req.input.part_number);
        let bytes = req.input.content_length.unwrap_or_default();
        self.needs_upload(&id, &req.input.bucket, &req.input.key)?;
        let body = req.input.body.take().ok_or_else(|| s3_error!(IncompleteBody))?;
        let (body, refusal) = checked(body, req.input.content_md5.take())?;
        req.input.body = Some(body);
        let received = refusal.or(self.files.upload_part(ours(req)).await)?;
        if let Some(upload) = self.uploads().get_mut(&id) {
            upload.parts.insert(number, Received { e_tag: received.output.e_tag.clone(), bytes });
        }
        Ok(received)
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let id = req.input.upload_id.clone();
        self.needs_upload(&id, &req.input.bucket, &req.input.key)?;
        let wanted = req.input.multipart_upload.as_ref().and_then(|upload| upload.parts.as_deref());
        self.needs_parts(&id, wanted.unwrap_or_default())?;
        let completed = self.files.complete_multipart_upload(ours(req)).await?;
        self.uploads().remove(&id);
        Ok(completed)
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let id = req.input.upload_id.clone();
        self.needs_upload(&id, &req.input.bucket, &req.input.key)?;
        let aborted = self.files.abort_multipart_upload(ours(req)).await?;
        self.uploads().remove(&id);
        Ok(aborted)
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let ListPartsInput { bucket, key, upload_id, .. } = req.input;
        self.needs_upload(&upload_id, &bucket, &key)?;
        let uploads = self.uploads();
        let parts = uploads.get(&upload_id).into_iter().flat_map(|upload| &upload.parts);
        let part = |(number, received): (&i32, &Received)| Part {
            part_number: Some(*number),
            e_tag: received.e_tag.clone(),
            size: Some(received.bytes),
            ..Default::default()
        };
        let parts = Some(parts.map(part).collect());
        let (bucket, key, upload_id) = (Some(bucket), Some(key), Some(upload_id));
        Ok(S3Response::new(ListPartsOutput { bucket, key, upload_id, parts, ..Default::default() }))
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let bucket = req.input.bucket;
        self.needs_bucket(&bucket)?;
        let prefix = req.input.prefix.unwrap_or_default();
        let uploads = self.uploads();
        let open =
            uploads.iter().filter(|(_, upload)| upload.bucket == bucket && upload.key.starts_with(&prefix));
        let open = open.map(|(id, upload)| MultipartUpload {
            upload_id: Some(id.clone()),
            key: Some(upload.key.clone()),
            ..Default::default()
        });
        let uploads = Some(open.collect());
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(bucket),
            uploads,
            ..Default::default()
        }))
    }
}
