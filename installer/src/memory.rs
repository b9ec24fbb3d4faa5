//! `state.json`: what the installer found before it changed anything.
//!
//! Written before the change it is about, so that a kill between the two finds
//! a memory of something that has not happened, never a change without memory.
//!
//! ```json
//! { "version": 1,
//!   "sysctls": { "core_pattern": { "before": "core", "ours": ["|/opt/coredump-handler/composer P%P …"] } },
//!   "created": ["/opt/coredump-handler", "/var/lib/coredump-handler/spool"] }
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use protocol::host::HostPath;
use serde::{Deserialize, Serialize};

use crate::sysctl::Sysctl;

const VERSION: u32 = 1;

/// What was there before, and what of the present is our doing.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    version: u32,
    /// The sysctls we have set, or were about to.
    pub sysctls: BTreeMap<Sysctl, Remembered>,
    /// Directories we made, or were about to, the outer before the inner.
    pub created: Vec<HostPath>,
}

/// One sysctl.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    /// What it was before we first set it. Never overwritten.
    pub before: String,
    /// Every value we ever gave it. All of them, because a kill can leave the
    /// one before the last in place, and that is no stranger's.
    pub ours: Vec<String>,
}

impl Memory {
    /// The memory at `path`; `None` if there is none.
    ///
    /// # Errors
    /// If there is one and it cannot be understood. Then nobody may go on: the
    /// only record of what this host was would be overwritten.
    pub fn load(path: &Path) -> Result<Option<Memory>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(err).with_context(|| format!("reading {}", path.display())),
        };
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
}

impl Default for Memory {
    fn default() -> Memory {
        Memory { version: VERSION, sysctls: BTreeMap::new(), created: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(memory.sysctls.len(), 3);
        fs::write(&path, memory.to_json().unwrap()).unwrap();
        assert_eq!(Memory::load(&path).unwrap(), Some(memory));
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
