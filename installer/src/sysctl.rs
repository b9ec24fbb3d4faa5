//! The kernel's settings for core dumps, wherever they are mounted.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// A setting of the kernel that we set. They are ordered as they are set.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sysctl {
    /// How many helpers may run at once; not 0 so that the kernel waits for them.
    CorePipeLimit,
    /// What becomes of a core.
    CorePattern,
    /// Whether processes that changed their privileges are dumped.
    SuidDumpable,
}

impl Sysctl {
    /// All of them.
    pub const ALL: [Sysctl; 3] = [Sysctl::CorePipeLimit, Sysctl::CorePattern, Sysctl::SuidDumpable];

    /// Its directory and its name.
    fn parts(self) -> (&'static str, &'static str) {
        match self {
            Sysctl::CorePipeLimit => ("kernel", "core_pipe_limit"),
            Sysctl::CorePattern => ("kernel", "core_pattern"),
            Sysctl::SuidDumpable => ("fs", "suid_dumpable"),
        }
    }

    /// Its name, without its directory.
    pub fn name(self) -> &'static str {
        self.parts().1
    }

    /// What it is after boot if nobody sets it.
    pub fn kernel_default(self) -> &'static str {
        match self {
            Sysctl::CorePipeLimit | Sysctl::SuidDumpable => "0",
            Sysctl::CorePattern => "core",
        }
    }

    /// The file that it is, below `dir`.
    pub fn path(self, dir: &Path) -> PathBuf {
        let (group, name) = self.parts();
        // A pod may have the single files mounted side by side, which takes no
        // privilege, instead of all of /proc/sys, which does.
        if dir.join(group).is_dir() { dir.join(group).join(name) } else { dir.join(name) }
    }

    /// What it is now.
    ///
    /// # Errors
    /// If it is not there or may not be read.
    pub fn read(self, dir: &Path) -> Result<String> {
        let path = self.path(dir);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        // To the kernel a value ends at the first newline (`proc_dostring`).
        Ok(text.split('\n').next().unwrap_or_default().to_owned())
    }

    /// Sets it, and makes sure that it is set.
    ///
    /// # Errors
    /// If it may not be written, or the kernel made something else of it.
    pub fn write(self, dir: &Path, value: &str) -> Result<()> {
        let path = self.path(dir);
        let write = || {
            // Never created: a missing sysctl is a mount that is missing. And
            // not truncated first, so that no kill leaves it empty: the kernel
            // takes each write as the whole value.
            let mut file = OpenOptions::new().write(true).open(&path)?;
            let line = format!("{value}\n");
            file.write_all(line.as_bytes())?;
            // 0 in /proc; not 0 where plain files stand in for it.
            if file.metadata()?.len() > line.len() as u64 { file.set_len(line.len() as u64) } else { Ok(()) }
        };
        write().with_context(|| format!("writing {value:?} to {}", path.display()))?;
        let now = self.read(dir)?;
        ensure!(now == value, "the kernel made {now:?} of {value:?} in {}", path.display());
        Ok(())
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (group, name) = self.parts();
        write!(f, "{group}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_mounted_one_by_one_are_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("core_pattern"), "core\n").unwrap();
        assert_eq!(Sysctl::CorePattern.read(dir.path()).unwrap(), "core");
        fs::create_dir(dir.path().join("kernel")).unwrap();
        fs::write(dir.path().join("kernel/core_pattern"), "|/x %p\n").unwrap();
        assert_eq!(Sysctl::CorePattern.read(dir.path()).unwrap(), "|/x %p");
    }

    #[test]
    fn a_shorter_value_leaves_nothing_of_a_longer_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("core_pattern");
        fs::write(&file, "|/usr/lib/systemd/systemd-coredump %P\n").unwrap();
        Sysctl::CorePattern.write(dir.path(), "core").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "core\n");
    }

    #[test]
    fn a_value_that_did_not_stick_is_an_error() {
        let null = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", null.path().join("core_pattern")).unwrap();
        let err = Sysctl::CorePattern.write(null.path(), "core").unwrap_err();
        assert!(format!("{err:#}").contains(r#"made "" of "core""#), "{err:#}");
    }

    #[test]
    fn a_missing_sysctl_is_not_created() {
        let dir = tempfile::tempdir().unwrap();
        let err = Sysctl::CorePattern.write(dir.path(), "core").unwrap_err();
        assert!(format!("{err:#}").contains("core_pattern: No such file"), "{err:#}");
        assert!(!dir.path().join("core_pattern").exists());
    }
}
