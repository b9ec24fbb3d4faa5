//! AWS: STS, and what is asked on the node itself.

use std::collections::BTreeMap;

use anyhow::Context;
use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use rusoto_credential::AwsCredentials;
use serde::Deserialize;
use xml::reader::{EventReader, XmlEvent};

use super::{Grant, Loan, Source, ask, document, post, refusal, refused, until};
use crate::config::{Container, Instance, WebIdentity};

const STS_VERSION: &str = "2011-06-15";
/// Six hours, the longest: "Use the Instance Metadata Service" in the EC2 user guide.
const METADATA_TOKEN_SECONDS: &str = "21600";

/// As the agents and the metadata write it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Lent {
    access_key_id: String,
    secret_access_key: String,
    token: String,
    expiration: String,
}

impl Lent {
    fn loan(self) -> anyhow::Result<Loan> {
        let life = until(&self.expiration)?;
        let pair = AwsCredentials::new(self.access_key_id, self.secret_access_key, Some(self.token), None);
        Ok(Loan { grant: Grant::Pair(pair), life })
    }
}

/// AssumeRoleWithWebIdentity, which takes no signature.
pub struct Sts {
    identity: WebIdentity,
    http: reqwest::Client,
}

impl Sts {
    pub fn new(identity: WebIdentity, http: reqwest::Client) -> Sts {
        Sts { identity, http }
    }

    async fn assume(&self) -> anyhow::Result<Loan> {
        let WebIdentity { sts, role, session, token } = &self.identity;
        let form = [
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", STS_VERSION),
            ("RoleArn", role),
            ("RoleSessionName", session),
            ("WebIdentityToken", &token.read()?),
        ];
        let (status, body) = ask(post(&self.http, format!("{sts}/"), &form)).await?;
        let mut said = elements(&body);
        let mut take = |name: &str| said.remove(name);
        if status != 200 {
            return Err(match (take("Code"), take("Message")) {
                (Some(code), message) => {
                    refused(status, format_args!("{code}: {}", message.unwrap_or_default()))
                }
                _ => refusal(status, &body),
            });
        }
        let mut need = |name: &str| take(name).with_context(|| format!("the answer has no {name}"));
        let lent = Lent {
            access_key_id: need("AccessKeyId")?,
            secret_access_key: need("SecretAccessKey")?,
            token: need("SessionToken")?,
            expiration: need("Expiration")?,
        };
        lent.loan()
    }
}

#[async_trait]
impl Source for Sts {
    async fn lend(&self) -> anyhow::Result<Loan> {
        let WebIdentity { sts, role, .. } = &self.identity;
        self.assume().await.with_context(|| format!("asking {sts} for the role {role}"))
    }
}

/// The texts of an XML document by the names of their elements, as far as it is
/// well-formed.
fn elements(xml: &[u8]) -> BTreeMap<String, String> {
    let (mut texts, mut within) = (BTreeMap::new(), String::new());
    for event in EventReader::new(xml) {
        match event {
            Ok(XmlEvent::StartElement { name, .. }) => within = name.local_name,
            Ok(XmlEvent::Characters(text)) => drop(texts.insert(within.clone(), text)),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    texts
}

/// The agent of EKS Pod Identity, or of ECS.
pub struct Agent {
    container: Container,
    http: reqwest::Client,
}

impl Agent {
    pub fn new(container: Container, http: reqwest::Client) -> Agent {
        Agent { container, http }
    }

    async fn credentials(&self) -> anyhow::Result<Loan> {
        let mut request = self.http.get(self.container.url.clone());
        if let Some(token) = &self.container.token {
            let mut value =
                HeaderValue::from_str(&token.read()?).with_context(|| format!("the token of {token}"))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let (status, body) = ask(request).await?;
        anyhow::ensure!(status == 200, refusal(status, &body));
        document::<Lent>(&body)?.loan()
    }
}

#[async_trait]
impl Source for Agent {
    async fn lend(&self) -> anyhow::Result<Loan> {
        self.credentials().await.with_context(|| format!("asking {} for credentials", self.container.url))
    }
}

/// The instance's metadata, version 2.
pub struct Metadata {
    instance: Instance,
    http: reqwest::Client,
}

impl Metadata {
    pub fn new(instance: Instance, http: reqwest::Client) -> Metadata {
        Metadata { instance, http }
    }

    async fn credentials(&self) -> anyhow::Result<Loan> {
        let base = format!("{}/latest", self.instance.metadata);
        let request = self.http.put(format!("{base}/api/token"));
        let request = request.header("x-aws-ec2-metadata-token-ttl-seconds", METADATA_TOKEN_SECONDS);
        // Its answer does not get further than the hop limit allows.
        let (status, token) = ask(request).await.context(
            "a pod that is not in the host's network needs HttpPutResponseHopLimit=2 on the instance",
        )?;
        anyhow::ensure!(status == 200, refusal(status, &token).context("asking for a session"));
        let token = HeaderValue::from_bytes(&token).context("the session's token")?;
        let get = |path: &str| {
            let request = self.http.get(format!("{base}/meta-data/iam/security-credentials/{path}"));
            ask(request.header("x-aws-ec2-metadata-token", token.clone()))
        };
        let (status, roles) = get("").await?;
        anyhow::ensure!(status != 404, "the instance has no role");
        anyhow::ensure!(status == 200, refusal(status, &roles));
        let roles = String::from_utf8_lossy(&roles).into_owned();
        let role = roles.lines().next().unwrap_or_default().trim();
        let (status, body) = get(role).await?;
        anyhow::ensure!(
            status == 200,
            refusal(status, &body).context(format!("asking for the role {role:?}"))
        );
        document::<Lent>(&body)?.loan()
    }
}

#[async_trait]
impl Source for Metadata {
    async fn lend(&self) -> anyhow::Result<Loan> {
        let metadata = &self.instance.metadata;
        self.credentials().await.with_context(|| format!("asking the instance's metadata at {metadata}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_as_deep_as_they_are() {
        let xml = b"<r xmlns=\"urn:x\"><a><Code>1 &amp; 2</Code></a><Id>3</Id>";
        let found = elements(xml);
        assert_eq!((found["Code"].as_str(), found["Id"].as_str()), ("1 & 2", "3"));
        assert!(elements(b"no XML").is_empty());
    }
}
