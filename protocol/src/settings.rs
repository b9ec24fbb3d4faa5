//! Settings: read all at once, then judged all at once.
//!
//! [`Reader`] collects what is wrong instead of stopping at the first, so that
//! one restart shows an operator all of their mistakes. What to do about them
//! is the caller's: installer and uploader refuse to start, the composer takes
//! the defaults and says so in the manifest. That the composer and the
//! installer read `composer.yaml` with the same code is why it lives here.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

use crate::host::{DEFAULT_SPOOL_DIR, HostPath};

/// A YAML mapping from which settings are taken one by one.
#[derive(Debug)]
pub struct Reader {
    path: String,
    map: Mapping,
    problems: Vec<String>,
}

impl Reader {
    /// Reads a whole file's text. No text at all is an empty mapping.
    pub fn new(yaml: &str) -> Reader {
        match serde_yaml::from_str(yaml) {
            Ok(value) => Reader::from_value(String::new(), value),
            Err(err) => Reader {
                path: String::new(),
                map: Mapping::new(),
                problems: vec![format!("is not YAML: {err}")],
            },
        }
    }

    fn from_value(path: String, value: Value) -> Reader {
        let (map, problems) = match value {
            Value::Mapping(map) => (map, vec![]),
            Value::Null => (Mapping::new(), vec![]),
            _ if path.is_empty() => (Mapping::new(), vec!["is not a mapping of settings".to_owned()]),
            _ => (Mapping::new(), vec![format!("{path}: is not a mapping of settings")]),
        };
        Reader { path, map, problems }
    }

    /// Takes a setting, if it is there and makes sense.
    pub fn take<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        let value = self.map.remove(key)?;
        match serde_yaml::from_value(value) {
            Ok(value) => Some(value),
            Err(err) => {
                self.reject(key, err);
                None
            }
        }
    }

    /// Takes a setting, or its default.
    pub fn or<T: DeserializeOwned>(&mut self, key: &str, default: T) -> T {
        self.take(key).unwrap_or(default)
    }

    /// Takes a setting that has no default.
    pub fn required<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        if !self.map.contains_key(key) {
            self.reject(key, "is missing");
        }
        self.take(key)
    }

    /// Takes a mapping within this one, to be read in its turn and given to
    /// [`Reader::done`] with its own problems. `None` if it is not there.
    pub fn section(&mut self, key: &str) -> Option<Reader> {
        let value = self.map.remove(key)?;
        Some(Reader::from_value(format!("{}{key}", self.prefix()), value))
    }

    /// Notes that what was read under `key` cannot be.
    pub fn reject(&mut self, key: &str, why: impl std::fmt::Display) {
        self.problems.push(format!("{}{key}: {why}", self.prefix()));
    }

    /// Adds the problems of a section.
    pub fn absorb(&mut self, problems: Vec<String>) {
        self.problems.extend(problems);
    }

    /// All that was wrong. What nobody took is wrong as well.
    pub fn done(mut self) -> Vec<String> {
        for key in std::mem::take(&mut self.map).keys() {
            let key = match key {
                Value::String(key) => key.clone(),
                other => format!("{other:?}"),
            };
            self.reject(&key, "is no setting");
        }
        self.problems
    }

    fn prefix(&self) -> String {
        if self.path.is_empty() { String::new() } else { format!("{}.", self.path) }
    }
}

/// How the core is stored in the zip.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Any `unzip` opens it.
    Deflate,
    /// As it is.
    Store,
}

/// `composer.yaml`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ComposerSettings {
    /// Where dumps go.
    pub spool_dir: HostPath,
    /// How the core is stored.
    pub compression: Compression,
    /// Whether the values in `proc/environ` are blotted out. The core itself
    /// still has them; a dump is as secret as the process was.
    pub redact_environ: bool,
}

impl Default for ComposerSettings {
    fn default() -> ComposerSettings {
        let Ok(spool_dir) = HostPath::try_from(DEFAULT_SPOOL_DIR) else { unreachable!("a constant") };
        ComposerSettings { spool_dir, compression: Compression::Deflate, redact_environ: true }
    }
}

impl ComposerSettings {
    /// Takes what makes sense of `yaml` and the default for the rest, and says
    /// what did not. One bad setting costs no other: a typing mistake in one
    /// line must not send dumps to another spool.
    pub fn read(yaml: &str) -> (ComposerSettings, Vec<String>) {
        let mut reader = Reader::new(yaml);
        let default = ComposerSettings::default();
        let settings = ComposerSettings {
            spool_dir: reader.or("spool_dir", default.spool_dir),
            compression: reader.or("compression", default.compression),
            redact_environ: reader.or("redact_environ", default.redact_environ),
        };
        (settings, reader.done())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let yaml = "spool_dir: relative\ncompression: gzip\nredact_environ: false\nsurprise: 1\n";
        let (settings, problems) = ComposerSettings::read(yaml);
        assert_eq!(settings, ComposerSettings { redact_environ: false, ..ComposerSettings::default() });
        assert_eq!(problems.len(), 3, "{problems:?}");
        for (problem, key) in problems.iter().zip(["spool_dir: ", "compression: ", "surprise: is no"]) {
            assert!(problem.starts_with(key), "{problem}");
        }
    }

    #[test]
    fn half_a_file_is_no_settings_and_says_so() {
        for broken in ["spool_dir: [/a", "- a\n- b", "text"] {
            let (settings, problems) = ComposerSettings::read(broken);
            assert_eq!(settings, ComposerSettings::default());
            assert_eq!(problems.len(), 1, "{broken}: {problems:?}");
        }
        assert_eq!(ComposerSettings::read("").1, Vec::<String>::new());
    }

    #[test]
    fn a_problem_in_a_section_names_the_whole_path() {
        let mut reader = Reader::new("store: {s3: {bucket: 1, typo: 2}}");
        let mut store = reader.section("store").unwrap();
        let mut s3 = store.section("s3").unwrap();
        assert_eq!(s3.required::<Vec<String>>("bucket"), None);
        assert_eq!(s3.required::<String>("region"), None);
        store.absorb(s3.done());
        reader.absorb(store.done());
        let problems = reader.done();
        assert!(problems[0].starts_with("store.s3.bucket: invalid type"), "{problems:?}");
        assert_eq!(problems[1..], ["store.s3.region: is missing", "store.s3.typo: is no setting"]);
    }
}
