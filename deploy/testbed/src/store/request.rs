//! What the store was asked.

use std::collections::BTreeMap;

use hyper::header::HOST;
use hyper::http::request::Parts;

/// One request, as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `PUT`, ...
    pub method: String,
    /// The host it was addressed to, with its port.
    pub host: String,
    /// The path, still percent-encoded; with the bucket, if it is path style.
    pub path: String,
    /// The query, still percent-encoded and without its `?`.
    pub query: String,
    /// The headers, their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// How many bytes of body came with it. Known once it is answered.
    pub body_bytes: u64,
    /// The status it was answered with; `None` if it was not, or not yet.
    pub status: Option<u16>,
}

/// What a request is about, as far as our programs ask such things.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Operation {
    /// A whole object at once.
    PutObject,
    /// Size, checksum, metadata.
    HeadObject,
    /// An object, or a list of them.
    Get,
    /// The object goes.
    DeleteObject,
    /// An upload in parts begins.
    CreateUpload,
    /// A part of it.
    UploadPart,
    /// Its parts become the object.
    CompleteUpload,
    /// It is given up.
    AbortUpload,
    /// Anything else.
    Other,
}

impl Request {
    pub(crate) fn new(parts: &Parts) -> Request {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let headers: BTreeMap<String, String> =
            parts.headers.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect();
        Request {
            method: parts.method.to_string(),
            host: headers.get(HOST.as_str()).cloned().unwrap_or_default(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers,
            body_bytes: 0,
            status: None,
        }
    }

    /// What it is about.
    pub fn operation(&self) -> Operation {
        let (upload, whole) = (self.parameter("uploadId").is_some(), self.query.is_empty());
        match self.method.as_str() {
            "PUT" if self.parameter("partNumber").is_some() => Operation::UploadPart,
            "PUT" if whole || self.parameter("x-id").is_some() => Operation::PutObject,
            "POST" if self.parameter("uploads").is_some() => Operation::CreateUpload,
            "POST" if upload => Operation::CompleteUpload,
            "DELETE" if upload => Operation::AbortUpload,
            "DELETE" => Operation::DeleteObject,
            "HEAD" => Operation::HeadObject,
            "GET" => Operation::Get,
            _ => Operation::Other,
        }
    }

    /// A parameter of the query, still percent-encoded; empty if it has no value.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let pairs = self.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()
    }

    /// The number of the part, if it is one.
    pub fn part(&self) -> Option<u32> {
        self.parameter("partNumber")?.parse().ok()
    }
}
