//! Where things lie on the host, and whose paths they are.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The directory of the composer, its settings and the installer's memory.
pub const DEFAULT_HOST_DIR: &str = "/opt/coredump-handler";
/// Where dumps wait for the uploader.
pub const DEFAULT_SPOOL_DIR: &str = "/var/lib/coredump-handler/spool";
/// The group that may read and remove dumps: the uploader's, and the customary
/// id of "nonroot" in images without a user database.
pub const DEFAULT_SPOOL_GID: u32 = 65532;
/// Group may read, write and search, and files inherit the group; others nothing.
pub const SPOOL_MODE: u32 = 0o2770;

/// The composer's name within the host directory.
pub const COMPOSER: &str = "composer";
/// The composer's settings, beside it because the kernel gives a helper no
/// environment of ours.
pub const COMPOSER_SETTINGS: &str = "composer.yaml";
/// What the installer found before it changed anything.
pub const STATE: &str = "state.json";
/// Whether the kernel was seen to run the composer.
pub const TRIAL: &str = "trial.json";
/// The command name of a process whose crash only shows that: the composer writes
/// its line into the journal, and no dump, or each update would leave one per node
/// in the bucket, and an Event that alarms somebody. Only root can read it, or any
/// container could have its crashes pass for a trial.
pub const TRIAL_NAME: &str = "trial.name";

/// A path as the host's kernel would resolve it. You cannot open one: inside
/// our container it names some other file, or none.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPath(String);

/// Why a string is no [`HostPath`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an absolute path without `.`, `..` or control characters")]
pub struct BadHostPath(String);

impl HostPath {
    /// The path of `name` within this directory. `name` is one of ours, never
    /// a stranger's.
    pub fn join(&self, name: &str) -> HostPath {
        HostPath(format!("{}/{name}", self.0.trim_end_matches('/')))
    }

    /// The directory this lies in; `None` for `/`.
    pub fn parent(&self) -> Option<HostPath> {
        let parent = Path::new(&self.0).parent()?;
        Some(HostPath(parent.to_str()?.to_owned()))
    }

    /// The path as text, for a sysctl or a person.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for HostPath {
    type Error = BadHostPath;

    fn try_from(path: String) -> Result<HostPath, BadHostPath> {
        // `components` folds `.` and doubled slashes away, so it is compared
        // with what it came from.
        let parts: PathBuf = Path::new(&path).components().collect();
        let plain = Path::new(&path)
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let exact = parts.as_os_str() == path.trim_end_matches('/') || path == "/";
        if path.starts_with('/') && plain && exact && !path.contains(|c: char| c.is_control()) {
            Ok(HostPath(parts.to_str().unwrap_or("/").to_owned()))
        } else {
            Err(BadHostPath(path))
        }
    }
}

impl TryFrom<&str> for HostPath {
    type Error = BadHostPath;

    fn try_from(path: &str) -> Result<HostPath, BadHostPath> {
        HostPath::try_from(path.to_owned())
    }
}

impl From<HostPath> for String {
    fn from(path: HostPath) -> String {
        path.0
    }
}

impl fmt::Display for HostPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the host's `/` is, for us: `/host` in a pod, `/` for the composer, a
/// temporary directory in tests.
#[derive(Clone, Debug)]
pub struct HostRoot(PathBuf);

impl HostRoot {
    /// A root at `dir`, a path of our own.
    pub fn new(dir: impl Into<PathBuf>) -> HostRoot {
        HostRoot(dir.into())
    }

    /// The only way to get from a host path to one we can open.
    pub fn locate(&self, path: &HostPath) -> PathBuf {
        self.0.join(path.0.trim_start_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_path_is_absolute_and_plain() {
        for good in ["/opt/coredump-handler", "/opt/with space", "/"] {
            assert_eq!(HostPath::try_from(good).unwrap().as_str(), good);
        }
        assert_eq!(HostPath::try_from("/opt/x/").unwrap().as_str(), "/opt/x");
        for bad in ["", "opt", "./opt", "/opt/../etc", "/opt/./x", "/opt//x", "/a\nb"] {
            assert!(HostPath::try_from(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_host_path_is_found_below_the_host_root() {
        let path = HostPath::try_from("/opt/x").unwrap().join(COMPOSER);
        assert_eq!(HostRoot::new("/host").locate(&path), Path::new("/host/opt/x/composer"));
        assert_eq!(HostRoot::new("/").locate(&path), Path::new("/opt/x/composer"));
    }
}
