//! Those who give credentials for a store, on loopback: IBM Cloud IAM, AWS STS,
//! the agent of EKS Pod Identity and the metadata of an EC2 instance, all at one
//! address. They refuse in the words of the
//! real ones.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http_body_util::BodyExt;
use hyper::Method;
use jiff::Timestamp;
use s3s::{Body, HttpResponse};

use crate::store::front::{Front, answer};
use crate::store::server::{Server, any_port};
use crate::store::{Fault, Passes, Request};

/// The trusted profile that IAM knows.
pub const PROFILE: &str = "Profile-9f3a61c2-4a3b-4c1d-8e2f-0123456789ab";
/// The role that STS knows.
pub const ROLE: &str = "arn:aws:iam::123456789012:role/coredump-uploader";
/// The role of the instance.
const INSTANCE_ROLE: &str = "nodes";
const METADATA_TOKEN: &str = "AQAEAMetadata==";

/// All of them.
pub struct Identity {
    server: Server,
    front: Arc<Front>,
    desk: Arc<Mutex<Desk>>,
}

/// What they all know.
struct Desk {
    passes: Passes,
    /// What has to be shown: the API key, or the token of the service account.
    secret: String,
    life: Duration,
}

impl Identity {
    /// They give `passes`, for an hour, to who knows `secret`.
    pub fn start(passes: Passes, secret: &str) -> Identity {
        let life = Duration::from_secs(3600);
        let desk = Arc::new(Mutex::new(Desk { passes, secret: secret.to_owned(), life }));
        let asked = Arc::clone(&desk);
        let front = Arc::new(Front::new(move |request| reply(Arc::clone(&asked), request)));
        let server = Server::start(Arc::clone(&front), any_port(), None).expect("a port on loopback");
        Identity { server, front, desk }
    }

    /// Where they are, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.addr())
    }

    /// How long what they give is good for from now on.
    pub fn set_life(&self, life: Duration) {
        lock(&self.desk).life = life;
    }

    /// Every request so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.front.requests()
    }

    /// From now on each request meets this fault; with `None`, no other does.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.front.set_rule(fault.map(|fault| Box::new(move |_: &Request| Some(fault.clone())) as _));
    }
}

async fn reply(desk: Arc<Mutex<Desk>>, request: hyper::Request<Body>) -> io::Result<HttpResponse> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let form: BTreeMap<String, String> = form_urlencoded::parse(&body).into_owned().collect();
    let desk = lock(&desk);
    let (status, said) = match (&head.method, head.uri.path()) {
        (&Method::POST, "/identity/token") => desk.iam(&form),
        (&Method::POST, "/") => desk.sts(&form),
        (&Method::GET, "/v1/credentials") => desk.agent(header("authorization")),
        (&Method::PUT, "/latest/api/token") => match header("x-aws-ec2-metadata-token-ttl-seconds") {
            Some(_) => (200, METADATA_TOKEN.to_owned()),
            None => (400, String::new()),
        },
        (&Method::GET, path) if path.starts_with("/latest/meta-data/") => {
            desk.metadata(path, header("x-aws-ec2-metadata-token"))
        }
        _ => (404, String::new()),
    };
    answer(status, &[], said)
}

impl Desk {
    /// "Identity token" in the API reference of IBM Cloud IAM.
    fn iam(&self, form: &BTreeMap<String, String>) -> (u16, String) {
        let said = |name: &str| form.get(name).map(String::as_str);
        let refusal = |code: &str, message: &str| {
            let context =
                r#"{"requestId":"bHM2Ym4","requestType":"incoming.Identity_Token","locale":"en_US"}"#;
            let body = format!(r#"{{"errorCode":"{code}","errorMessage":"{message}","context":{context}}}"#);
            (400, body)
        };
        match said("grant_type") {
            Some("urn:ibm:params:oauth:grant-type:apikey") if said("apikey") != Some(&self.secret) => {
                refusal("BXNIM0415E", "Provided API key could not be found.")
            }
            Some("urn:ibm:params:oauth:grant-type:cr-token")
                if said("cr_token") != Some(&self.secret) || said("profile_id") != Some(PROFILE) =>
            {
                // In the form of IAM, but in words of our own: its own are not known to us.
                refusal("BXNIM0000E", "The compute resource token is not valid for the profile.")
            }
            Some("urn:ibm:params:oauth:grant-type:apikey" | "urn:ibm:params:oauth:grant-type:cr-token") => {
                let (token, seconds) = (self.passes.bearer(self.life), self.life.as_secs());
                let expiration = Timestamp::now().as_second() + seconds as i64;
                let body = format!(
                    r#"{{"access_token":"{token}","refresh_token":"not_supported","token_type":"Bearer","expires_in":{seconds},"expiration":{expiration},"scope":"ibm openid"}}"#
                );
                (200, body)
            }
            _ => (400, String::new()),
        }
    }

    /// AssumeRoleWithWebIdentity in the API reference of AWS STS.
    fn sts(&self, form: &BTreeMap<String, String>) -> (u16, String) {
        let said = |name: &str| form.get(name).map(String::as_str);
        let refusal = |status, code: &str, message: &str| {
            let body = format!(
                "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  <Error>\n    \
                 <Type>Sender</Type>\n    <Code>{code}</Code>\n    <Message>{message}</Message>\n  </Error>\n  \
                 <RequestId>1fd1964b-1544-11ea-ba37-99c3c1dede42</RequestId>\n</ErrorResponse>\n"
            );
            (status, body)
        };
        let known = [("Action", "AssumeRoleWithWebIdentity"), ("Version", "2011-06-15")];
        if known.iter().any(|(name, value)| said(name) != Some(value)) || said("RoleSessionName").is_none() {
            return refusal(400, "ValidationError", "a parameter is missing");
        }
        if said("RoleArn") != Some(ROLE) {
            return refusal(403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity");
        }
        if said("WebIdentityToken") != Some(&self.secret) {
            let message = "Token expired: current date/time 1731098245 must be before the expiration date/time 1731095240";
            return refusal(400, "ExpiredTokenException", message);
        }
        let session = self.passes.session(self.life);
        let body = format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  \
             <AssumeRoleWithWebIdentityResult>\n    <Audience>sts.amazonaws.com</Audience>\n    <Credentials>\n      \
             <AccessKeyId>{}</AccessKeyId>\n      <SecretAccessKey>{}</SecretAccessKey>\n      \
             <SessionToken>{}</SessionToken>\n      <Expiration>{}</Expiration>\n    </Credentials>\n  \
             </AssumeRoleWithWebIdentityResult>\n</AssumeRoleWithWebIdentityResponse>\n",
            session.id,
            session.secret,
            session.token,
            self.expiration()
        );
        (200, body)
    }

    /// What the agent of EKS Pod Identity says, in plain text if it refuses.
    fn agent(&self, token: Option<&str>) -> (u16, String) {
        match token {
            None => (400, "Service account token cannot be empty\n".to_owned()),
            Some(token) if token != self.secret => {
                (400, "Service account token cannot be parsed: token is malformed\n".to_owned())
            }
            Some(_) => (200, self.session()),
        }
    }

    /// "Use the Instance Metadata Service" in the EC2 user guide.
    fn metadata(&self, path: &str, token: Option<&str>) -> (u16, String) {
        if token != Some(METADATA_TOKEN) {
            return (401, "<html><title>401 - Unauthorized</title></html>".to_owned());
        }
        match path.strip_prefix("/latest/meta-data/iam/security-credentials/") {
            Some("") => (200, INSTANCE_ROLE.to_owned()),
            Some(INSTANCE_ROLE) => (200, self.session()),
            _ => (404, "<html><title>404 - Not Found</title></html>".to_owned()),
        }
    }

    fn session(&self) -> String {
        let session = self.passes.session(self.life);
        format!(
            r#"{{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"{}","SecretAccessKey":"{}","Token":"{}","Expiration":"{}"}}"#,
            session.id,
            session.secret,
            session.token,
            self.expiration()
        )
    }

    /// In whole seconds, as the real ones say it.
    fn expiration(&self) -> String {
        let end = Timestamp::try_from(SystemTime::now() + self.life).expect("a time of this century");
        format!("{end:.0}")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
