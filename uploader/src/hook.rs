//! Whether the kernel hands its cores to our composer. Only looks: to set it is
//! the installer's.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use protocol::argv::helper;
use protocol::host::{COMPOSER, HostPath, HostRoot};

/// `kernel.core_pattern`, and the composer that it should name.
#[derive(Clone, Debug)]
pub struct Hook {
    sysctl_dir: PathBuf,
    composer: HostPath,
}

impl Hook {
    /// The pattern in `sysctl_dir`, a path of ours, and the composer in `host_dir`.
    pub fn new(sysctl_dir: PathBuf, host_dir: &HostPath) -> Hook {
        Hook { sysctl_dir, composer: host_dir.join(COMPOSER) }
    }

    /// Whether the pattern names our composer.
    ///
    /// # Errors
    /// Why not, for a person.
    pub fn owned(&self) -> Result<(), String> {
        let path = self.pattern();
        let pattern = fs::read_to_string(&path).map_err(|err| failed(&path, &err))?;
        match helper(&pattern) == Some(self.composer.as_str()) {
            true => Ok(()),
            false => Err(format!("core_pattern is {:?}, which is not {}", pattern.trim_end(), self.composer)),
        }
    }

    /// Whether the composer is there, for the kernel to run.
    ///
    /// # Errors
    /// Why not, for a person.
    pub fn in_place(&self) -> Result<(), String> {
        // In a pod the host's directory is mounted at its own path.
        let path = HostRoot::new("/").locate(&self.composer);
        let meta = fs::metadata(&path).map_err(|err| failed(&path, &err))?;
        match meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
            true => Ok(()),
            false => Err(format!("{}: cannot be executed", path.display())),
        }
    }

    fn pattern(&self) -> PathBuf {
        // As for the installer, single files may be mounted side by side.
        let group = self.sysctl_dir.join("kernel");
        if group.is_dir() { group.join("core_pattern") } else { self.sysctl_dir.join("core_pattern") }
    }
}

fn failed(path: &Path, err: &io::Error) -> String {
    format!("{}: {err}", path.display())
}

#[cfg(test)]
mod tests {
    use protocol::argv::CorePattern;

    use super::*;

    #[test]
    fn ours_is_what_names_our_composer_whoever_wrote_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("core_pattern");
        let host_dir = HostPath::try_from("/opt/x").unwrap();
        let hook = Hook::new(dir.path().into(), &host_dir);
        assert!(hook.owned().unwrap_err().ends_with("core_pattern: No such file or directory (os error 2)"));
        let ours = CorePattern::piping_to(&host_dir.join(COMPOSER)).unwrap();
        for (pattern, owned) in [
            (format!("{ours}\n"), true),
            ("|/opt/x/composer P%P future%Z\n".into(), true),
            ("|/opt/x/composer\n".into(), true),
            ("/opt/x/composer\n".into(), false),
            ("|/opt/x/composer2 P%P\n".into(), false),
            ("| /opt/x/composer P%P\n".into(), false),
            ("core\n".into(), false),
            (String::new(), false),
        ] {
            fs::write(&file, &pattern).unwrap();
            assert_eq!(hook.owned().is_ok(), owned, "{pattern:?}");
        }
        fs::create_dir(dir.path().join("kernel")).unwrap();
        fs::write(dir.path().join("kernel/core_pattern"), format!("{ours}\n")).unwrap();
        assert_eq!(hook.owned(), Ok(()));
    }

    #[test]
    fn a_composer_in_place_can_be_executed() {
        let dir = tempfile::tempdir().unwrap();
        let hook = Hook::new("/".into(), &HostPath::try_from(dir.path().to_str().unwrap()).unwrap());
        let composer = dir.path().join(COMPOSER);
        assert!(hook.in_place().unwrap_err().contains("No such file"));
        fs::write(&composer, "").unwrap();
        let mode = |mode| fs::set_permissions(&composer, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        assert!(hook.in_place().unwrap_err().ends_with("composer: cannot be executed"));
        mode(0o755);
        assert_eq!(hook.in_place(), Ok(()));
        fs::remove_file(&composer).unwrap();
        fs::create_dir(&composer).unwrap();
        assert!(hook.in_place().is_err());
    }
}
