//! Who is let into the store besides its own pair, and for how long.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::AUTHORIZATION;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{Body, S3Result, s3_error};

use super::fault::Fault;
use super::{ACCESS_KEY, SECRET_KEY};

const SESSION_TOKEN: &str = "x-amz-security-token";

/// What the store lets in. All clones are the same.
#[derive(Clone, Default)]
pub struct Passes(Arc<Mutex<Issued>>);

#[derive(Default)]
struct Issued {
    count: u32,
    /// By their ids.
    sessions: BTreeMap<String, (Session, Instant)>,
    bearers: BTreeMap<String, Instant>,
}

/// An HMAC pair that is good only with a token.
#[derive(Clone, Debug)]
pub struct Session {
    /// The access key id.
    pub id: String,
    /// The secret access key.
    pub secret: String,
    /// The session token.
    pub token: String,
}

impl Passes {
    /// A new session that ends after `life`.
    pub fn session(&self, life: Duration) -> Session {
        let mut issued = self.issued();
        issued.count += 1;
        let n = issued.count;
        let (id, secret) = (format!("ASIA{n}"), format!("session-secret-{n}"));
        let session = Session { id, secret, token: format!("session-token-{n}//+=") };
        issued.sessions.insert(session.id.clone(), (session.clone(), Instant::now() + life));
        session
    }

    /// A new bearer token that ends after `life`.
    pub fn bearer(&self, life: Duration) -> String {
        let mut issued = self.issued();
        issued.count += 1;
        let token = format!("bearer.token-{}", issued.count);
        issued.bearers.insert(token.clone(), Instant::now() + life);
        token
    }

    /// Whatever was given out is good no more.
    pub fn revoke(&self) {
        let mut issued = self.issued();
        issued.sessions.clear();
        issued.bearers.clear();
    }

    /// Whether a request may reach the store, which checks the signature; and
    /// how it is refused, if not. IBM's store says the same of all tokens.
    pub(super) fn refuse(&self, request: &mut hyper::Request<Body>) -> Option<Fault> {
        let text = |name: &str| Some(request.headers().get(name)?.to_str().ok()?.to_owned());
        let said = text(AUTHORIZATION.as_str())?;
        let issued = self.issued();
        if let Some(token) = said.strip_prefix("Bearer ") {
            if issued.bearers.get(token).is_none_or(|end| Instant::now() >= *end) {
                return Some(Fault::error(403, "AccessDenied"));
            }
            request.headers_mut().remove(AUTHORIZATION);
            request.extensions_mut().insert(Bearer);
            return None;
        }
        let id = said.split_once("Credential=").and_then(|(_, rest)| rest.split('/').next());
        let (session, token) = (id.and_then(|id| issued.sessions.get(id)), text(SESSION_TOKEN));
        match (session, token) {
            (None, None) => None,
            (Some((session, _)), Some(token)) if session.token != token => {
                Some(Fault::error(400, "InvalidToken"))
            }
            (Some(_), Some(_)) if !said.contains(SESSION_TOKEN) => {
                Some(Fault::error(403, "AccessDenied")) // it has to be signed as well
            }
            (Some((_, end)), Some(_)) => (Instant::now() >= *end).then(|| Fault::error(400, "ExpiredToken")),
            (None, Some(_)) | (Some(_), None) => Some(Fault::error(403, "InvalidAccessKeyId")),
        }
    }

    fn issued(&self) -> MutexGuard<'_, Issued> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl S3Auth for Passes {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let issued = self.issued();
        match issued.sessions.get(access_key) {
            _ if access_key == ACCESS_KEY => Ok(SecretKey::from(SECRET_KEY)),
            Some((session, _)) => Ok(SecretKey::from(session.secret.as_str())),
            None => Err(s3_error!(InvalidAccessKeyId)),
        }
    }
}

/// A request that had a bearer token instead of a signature.
#[derive(Clone)]
struct Bearer;

/// Lets in who is signed for, or has shown a bearer token.
pub(super) struct Gate;

#[async_trait::async_trait]
impl S3Access for Gate {
    async fn check(&self, request: &mut S3AccessContext<'_>) -> S3Result<()> {
        let known = request.credentials().is_some() || request.extensions_mut().get::<Bearer>().is_some();
        if known { Ok(()) } else { Err(s3_error!(AccessDenied, "Signature is required")) }
    }
}
