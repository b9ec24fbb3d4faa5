//! What a pod is told of its cluster, so that it can ask the API server: in its
//! environment, and in the directory that the kubelet mounts into it
//! ("Accessing the Kubernetes API from a Pod" in the Kubernetes documentation).

use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

/// Where the kubelet mounts a pod's account.
pub const DEFAULT_ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The environment variables that say where the API server is.
const ADDRESS: [&str; 2] = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"];

/// The API server as a pod sees it, and the account with which it may ask.
#[derive(Clone, Debug)]
pub struct ApiServer {
    url: String,
    account: PathBuf,
}

/// Why the API server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// We are in no pod.
    #[error("{0} is not set, as it is in every pod")]
    NoPod(&'static str),
    /// The account is incomplete.
    #[error("{}", .0.display())]
    NoAccount(PathBuf, #[source] io::Error),
}

impl ApiServer {
    /// The one that `env`, the environment, names; `account` is the directory
    /// of the pod's account. Looks whether all of it is there.
    ///
    /// # Errors
    /// [`Unreachable`].
    pub fn find(env: &dyn Fn(&str) -> Option<String>, account: &Path) -> Result<ApiServer, Unreachable> {
        let get = |name| env(name).filter(|value| !value.is_empty()).ok_or(Unreachable::NoPod(name));
        let [host, port] = ADDRESS.map(get);
        let (host, port) = (host?, port?);
        let host = if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host };
        let server = ApiServer { url: format!("https://{host}:{port}"), account: account.to_owned() };
        server.authority()?;
        server.token()?;
        server.namespace()?;
        Ok(server)
    }

    /// `https://HOST:PORT`, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The certificates to trust, in PEM, and no others.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn authority(&self) -> Result<String, Unreachable> {
        self.read("ca.crt")
    }

    /// What to say as `Authorization: Bearer`. To be read for each request: the
    /// kubelet writes another before this one expires, within the hour.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn token(&self) -> Result<String, Unreachable> {
        Ok(self.read("token")?.trim().to_owned())
    }

    /// The namespace of the pod.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn namespace(&self) -> Result<String, Unreachable> {
        Ok(self.read("namespace")?.trim().to_owned())
    }

    fn read(&self, name: &str) -> Result<String, Unreachable> {
        let path = self.account.join(name);
        fs::read_to_string(&path).map_err(|err| Unreachable::NoAccount(path, err))
    }
}

/// Whether this can be the name of a pod, a DaemonSet, a namespace, and so part
/// of an address ("Object Names and IDs" in the Kubernetes documentation).
pub fn is_object_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |label: &str| {
        label.bytes().all(|b| plain(b) || b == b'-')
            && label.bytes().next().is_some_and(plain)
            && label.bytes().last().is_some_and(plain)
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(host: &'static str) -> impl Fn(&str) -> Option<String> {
        move |name| match name {
            "KUBERNETES_SERVICE_HOST" => Some(host.to_owned()),
            "KUBERNETES_SERVICE_PORT" => Some("6443".to_owned()),
            _ => None,
        }
    }

    fn account() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ca.crt", "token", "namespace"] {
            fs::write(dir.path().join(name), format!("{name}\n")).unwrap();
        }
        dir
    }

    #[test]
    fn an_address_of_ipv6_is_put_into_brackets() {
        let account = account();
        for (host, url) in [
            ("10.96.0.1", "https://10.96.0.1:6443"),
            ("fd00::1", "https://[fd00::1]:6443"),
            ("kubernetes.default.svc", "https://kubernetes.default.svc:6443"),
        ] {
            assert_eq!(ApiServer::find(&pod(host), account.path()).unwrap().url(), url);
        }
    }

    #[test]
    fn the_token_is_the_one_of_this_moment() {
        let account = account();
        let server = ApiServer::find(&pod("::1"), account.path()).unwrap();
        assert_eq!((&*server.token().unwrap(), &*server.namespace().unwrap()), ("token", "namespace"));
        fs::write(account.path().join("token"), "another").unwrap();
        assert_eq!(server.token().unwrap(), "another");
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = account();
        let why = |env: &dyn Fn(&str) -> Option<String>| ApiServer::find(env, dir.path()).unwrap_err();
        assert!(why(&|_| None).to_string().starts_with("KUBERNETES_SERVICE_HOST is not set"));
        assert!(why(&|name| (name == ADDRESS[0]).then(|| "::1".into())).to_string().contains(ADDRESS[1]));
        fs::remove_file(dir.path().join("token")).unwrap();
        assert!(why(&pod("::1")).to_string().ends_with("/token"));
    }

    #[test]
    fn what_could_lead_elsewhere_is_no_name() {
        assert!(["a", "kube-system", "web-0.example", "0"].into_iter().all(is_object_name));
        let long = "a".repeat(254);
        for bad in ["", ".", "..", "a/b", "A", "-a", "a-", "a..b", "a?b", "a%2fb", "ä", &long] {
            assert!(!is_object_name(bad), "{bad}");
        }
    }
}
