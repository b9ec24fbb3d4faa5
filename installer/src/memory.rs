//! `state.json`: what the installer found before it changed anything.
//!
//! Written before the change it is about, so that a kill between the two finds
//! a memory of something that has not happened, never a change without memory.
//!
//! ```json
//! { "version": 1,
//!   "sysctls": { "core_pattern": { "before": "core", "ours": ["|/opt/coredump-handler/composer P%P …"] } },
//!   "created": ["/opt/coredump-handler"],
//!   "found": { "/var/lib/coredump-handler/spool": { "mode": 493, "gid": 0 } } }
//! ```
//!
//! JSON has no octal numbers: 493 is 755.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::OFlag;
use protocol::host::HostPath;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::host::{is_absence, stranger};
use crate::sysctl::Sysctl;

const VERSION: u32 = 1;

/// What was there before, and what of the present is our doing.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Memory {
    version: u32,
    /// The sysctls we have set, or were about to.
    pub sysctls: BTreeMap<Sysctl, Remembered>,
    /// Directories we made, or were about to, the outer before the inner.
    pub created: Vec<HostPath>,
    /// Directories that were there before us and that we protect, as they were
    /// when we first saw them. The first release did not remember them.
    #[serde(default)]
    pub found: BTreeMap<HostPath, Found>,
    /// What a later release remembers besides, for when it comes back.
    #[serde(flatten)]
    later: BTreeMap<String, Value>,
}

/// One sysctl.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Remembered {
    /// What it was before we first set it. Never overwritten.
    pub before: String,
    /// Every value we ever gave it. All of them, because a kill can leave the
    /// one before the last in place, and that is no stranger's.
    pub ours: Vec<String>,
}

/// A directory as somebody else had left it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Found {
    /// Its permission bits.
    pub mode: u32,
    /// Its group.
    pub gid: u32,
}

impl Memory {
    /// The memory at `path`; `None` if there is none.
    ///
    /// # Errors
    /// If there is one and it cannot be understood. Then nobody may go on: the
    /// only record of what this host was would be overwritten. Neither if it is
    /// somebody else's: whoever owns it chooses what we write into the kernel.
    pub fn load(path: &Path) -> Result<Option<Memory>> {
        let reading = || format!("reading {}", path.display());
        // A stranger's link is not followed, and a stranger's fifo not waited for.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
            Err(err) if is_absence(&err) => return Ok(None),
            file => file.with_context(reading)?,
        };
        let text = own_text(file).with_context(reading)?;
        let understood = || -> Result<Memory> {
            #[derive(Deserialize)]
            struct Versioned {
                version: u32,
            }
            let Versioned { version } = serde_json::from_str(&text)?;
            ensure!(version == VERSION, "it is of version {version}, and this installer knows {VERSION}");
            Ok(serde_json::from_str(&text)?)
        };
        let refusal = || {
            format!(
                "{} cannot be understood, and without it nobody knows what this host was before; \
                 mend it, or move it away to let the kernel's defaults count as what was there",
                path.display()
            )
        };
        understood().with_context(refusal).map(Some)
    }

    /// Its text.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Notes that `sysctl` was `before`, unless that is known, and that we are
    /// going to set it to `value`.
    pub fn note_sysctl(&mut self, sysctl: Sysctl, before: &str, value: &str) {
        let remembered = self
            .sysctls
            .entry(sysctl)
            .or_insert_with(|| Remembered { before: before.to_owned(), ours: Vec::new() });
        if !remembered.ours.iter().any(|ours| ours == value) {
            remembered.ours.push(value.to_owned());
        }
    }

    /// Notes that we are going to make `dir`.
    pub fn note_dir(&mut self, dir: &HostPath) {
        if !self.created.contains(dir) {
            self.created.push(dir.clone());
        }
    }

    /// Notes that `dir` was there before us, unless it is known.
    pub fn note_found(&mut self, dir: &HostPath, found: Found) {
        if !self.knows(dir) {
            self.found.insert(dir.clone(), found);
        }
    }

    /// Whether `dir` is one we made, or took over from whoever did.
    pub fn knows(&self, dir: &HostPath) -> bool {
        self.created.contains(dir) || self.found.contains_key(dir)
    }
}

impl Default for Memory {
    fn default() -> Memory {
        let (sysctls, created, found, later) = Default::default();
        Memory { version: VERSION, sysctls, created, found, later }
    }
}

fn own_text(mut file: File) -> Result<String> {
    let meta = file.metadata()?;
    if let Some(uid) = stranger(&meta) {
        bail!("it belongs to uid {uid}, and not to us: find out who wrote it, and move it away");
    }
    ensure!(meta.is_file(), "it is not a regular file");
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_before_is_noted_once_and_what_is_ours_each_time() {
        let mut memory = Memory::default();
        memory.note_sysctl(Sysctl::CorePattern, "core", "|/a");
        memory.note_sysctl(Sysctl::CorePattern, "|/a", "|/b");
        memory.note_sysctl(Sysctl::CorePattern, "|/b", "|/a");
        let noted = &memory.sysctls[&Sysctl::CorePattern];
        assert_eq!((noted.before.as_str(), &noted.ours[..]), ("core", &["|/a".to_owned(), "|/b".into()][..]));
    }

    #[test]
    fn the_file_of_the_first_release_is_understood_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let json = r#"{"version":1,"sysctls":{"core_pattern":{"before":"core","ours":["|/x"]},
            "core_pipe_limit":{"before":"0","ours":["256"]},"suid_dumpable":{"before":"0","ours":["2"]}},
            "created":["/opt/x"]}"#;
        fs::write(&path, json).unwrap();
        let memory = Memory::load(&path).unwrap().unwrap();
        assert_eq!((memory.sysctls.len(), memory.found.len()), (3, 0));
        fs::write(&path, memory.to_json().unwrap()).unwrap();
        assert_eq!(Memory::load(&path).unwrap(), Some(memory));
    }

    #[test]
    fn the_file_of_the_second_release_is_understood_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let json = r#"{"version":1,"sysctls":{},"created":[],"found":{"/var/x":{"mode":493,"gid":5}}}"#;
        fs::write(&path, json).unwrap();
        let memory = Memory::load(&path).unwrap().unwrap();
        assert_eq!(memory.found.into_values().next(), Some(Found { mode: 0o755, gid: 5 }));
    }

    #[test]
    fn what_a_later_release_added_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        fs::write(&path, r#"{"version":1,"sysctls":{},"created":[],"labels":{"a":[1]}}"#).unwrap();
        let mut memory = Memory::load(&path).unwrap().unwrap();
        memory.note_sysctl(Sysctl::CorePattern, "core", "|/a");
        let json: Value = serde_json::from_str(&memory.to_json().unwrap()).unwrap();
        assert_eq!(json["labels"]["a"][0], 1);
    }

    #[test]
    fn a_memory_of_a_later_version_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        fs::write(&path, r#"{"version":2,"everything":"else"}"#).unwrap();
        let err = Memory::load(&path).unwrap_err();
        assert!(format!("{err:#}").contains("it is of version 2"), "{err:#}");
    }
}
