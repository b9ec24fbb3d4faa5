//! What gives requests the right to be answered.

mod choice;

use std::fmt;
use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use reqwest::Url;

pub(super) use self::choice::read;

/// One source of credentials.
#[derive(Debug)]
pub enum Auth {
    /// An HMAC pair that was given to us.
    Pair(Pair),
    /// A bearer token of IBM Cloud IAM.
    Ibm(Ibm),
    /// A role of AWS for who has the token of a service account.
    WebIdentity(WebIdentity),
    /// What an agent beside the container gives: EKS Pod Identity, ECS.
    Container(Container),
    /// The role of the EC2 instance.
    Instance(Instance),
}

/// An HMAC pair.
#[derive(Debug)]
pub struct Pair {
    /// The access key id.
    pub id: Secret,
    /// The secret access key.
    pub secret: Secret,
    /// The session token, if it is a pair that has one.
    pub token: Option<Secret>,
}

/// What is shown to IBM Cloud IAM.
#[derive(Debug)]
pub struct Ibm {
    /// Scheme, host and port of IAM.
    pub iam: String,
    /// What for.
    pub proof: IbmProof,
}

/// What IBM Cloud IAM gives a token for.
#[derive(Debug)]
pub enum IbmProof {
    /// An API key.
    ApiKey(Secret),
    /// The token of a service account, which a trusted profile trusts.
    Profile {
        /// The profile's id.
        id: String,
        /// The token.
        token: Secret,
    },
}

/// What is shown to AWS STS.
#[derive(Debug)]
pub struct WebIdentity {
    /// Scheme, host and port of STS.
    pub sts: String,
    /// Which role.
    pub role: String,
    /// What its sessions are called.
    pub session: String,
    /// The token of the service account.
    pub token: Secret,
}

/// Who is asked beside the container.
#[derive(Debug)]
pub struct Container {
    /// Where.
    pub url: Url,
    /// What is shown, if something is.
    pub token: Option<Secret>,
}

/// Who is asked about the instance.
#[derive(Debug)]
pub struct Instance {
    /// Scheme, host and port of the instance's metadata.
    pub metadata: String,
}

/// What nobody else may know.
pub enum Secret {
    /// As it stands in this variable of the environment, for the life of the process.
    Given(&'static str, String),
    /// In a file, which is read whenever it is needed: it may be replaced.
    File(PathBuf),
}

impl Secret {
    /// What it is now.
    ///
    /// # Errors
    /// If its file cannot be read, or has nothing in it.
    pub fn read(&self) -> anyhow::Result<String> {
        match self {
            Secret::Given(_, value) => Ok(value.clone()),
            Secret::File(path) => {
                let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
                let text = text.trim();
                anyhow::ensure!(!text.is_empty(), "{} is empty", path.display());
                Ok(text.to_owned())
            }
        }
    }
}

/// Where it is, never what it is.
impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Given(name, _) => f.write_str(name),
            Secret::File(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({self})")
    }
}

/// For the log: which source it is, and nothing that is secret.
impl fmt::Display for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::Pair(Pair { id, secret, .. }) => write!(f, "hmac, of {id} and {secret}"),
            Auth::Ibm(Ibm { iam, proof: IbmProof::ApiKey(key) }) => {
                write!(f, "ibm_api_key, of {key}, at {iam}")
            }
            Auth::Ibm(Ibm { iam, proof: IbmProof::Profile { id, token } }) => {
                write!(f, "ibm_trusted_profile, {id} with {token}, at {iam}")
            }
            Auth::WebIdentity(WebIdentity { sts, role, token, .. }) => {
                write!(f, "aws_web_identity, {role} with {token}, at {sts}")
            }
            Auth::Container(Container { url, .. }) => write!(f, "aws_container, at {url}"),
            Auth::Instance(Instance { metadata }) => write!(f, "aws_instance, at {metadata}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_a_file_is_what_is_in_it_now() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let secret = Secret::File(file.path().into());
        assert!(secret.read().unwrap_err().to_string().ends_with(" is empty"));
        for now in ["old", "new"] {
            fs::write(file.path(), format!("{now}\n")).unwrap();
            assert_eq!(secret.read().unwrap(), now);
        }
    }
}
