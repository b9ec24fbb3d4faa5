//! Settings: read all at once, then judged all at once.
//!
//! [`Reader`] collects what is wrong instead of stopping at the first, so that
//! one restart shows an operator all of their mistakes. What to do about them
//! is the caller's: installer and uploader refuse to start, the composer takes
//! the defaults and says so in the manifest. That the composer and the
//! installer read `composer.yaml` with the same code is why it lives here.

mod choice;

use std::time::Duration;

use bytesize::ByteSize;
use jiff::SignedDuration;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

use crate::host::{BadHostPath, DEFAULT_SPOOL_DIR, HostPath};

pub use choice::{BadPattern, Choice, Glob, LabelPattern};

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
    /// Smaller, and as fast: 7-Zip, bsdtar and Python 3.14 open it.
    Zstd,
    /// As it is.
    Store,
}

/// Whose crashes become dumps.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    /// Those of pods, and those of which nobody can say whose they are.
    Pods,
    /// Those of the host as well: it has no other collector while we have the
    /// kernel's only hook.
    All,
}

/// How many threads compress.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "Value")]
pub enum Threads {
    /// So many that the node stays usable.
    Auto,
    /// So many.
    Exactly(usize),
}

/// Each has its blocks in memory: so many take half of the 32 MiB that the
/// composer may have, and what the runtime says may take the other half.
const MAX_THREADS: usize = 8;

impl TryFrom<Value> for Threads {
    type Error = String;

    fn try_from(value: Value) -> Result<Threads, String> {
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        match (value.as_str(), number) {
            (Some("auto"), _) => Ok(Threads::Auto),
            (_, Some(number @ 1..=MAX_THREADS)) => Ok(Threads::Exactly(number)),
            _ => Err(format!("is neither `auto` nor a number from 1 to {MAX_THREADS}")),
        }
    }
}

impl Threads {
    /// How many, on a machine of so many processors: half of them, and at least
    /// two, since one would hold the crashed process longer than its writing does.
    pub fn count(self, processors: usize) -> usize {
        match self {
            Threads::Auto => (processors / 2).clamp(2, MAX_THREADS),
            Threads::Exactly(number) => number,
        }
    }
}

/// How much of the spool's disk is not ours to fill.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "Value")]
pub enum KeepFree {
    /// 15 % of it, and at least 2 GiB. The kubelet begins to evict pods when no
    /// more than 10 % of the disk is free (`nodefs.available`).
    Auto,
    /// So many bytes.
    Bytes(u64),
}

impl TryFrom<Value> for KeepFree {
    type Error = String;

    fn try_from(value: Value) -> Result<KeepFree, String> {
        match value.as_str() {
            Some("auto") => Ok(KeepFree::Auto),
            _ => serde_yaml::from_value(value)
                .map(|ByteSize(bytes)| KeepFree::Bytes(bytes))
                .map_err(|err| format!("is neither `auto` nor a size: {err}")),
        }
    }
}

impl KeepFree {
    /// How many bytes, on a disk of so many.
    pub fn bytes(self, disk: u64) -> u64 {
        match self {
            KeepFree::Auto => (disk / 20 * 3).max(2 << 30),
            KeepFree::Bytes(bytes) => bytes,
        }
    }
}

/// How many dumps of the same container there may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RateLimit {
    /// At once, and again after a while without any.
    pub burst: u32,
    /// One more after each of these. Zero: there is no limit.
    pub every: Duration,
}

const DEFAULT_RATE_LIMIT: RateLimit = RateLimit { burst: 5, every: Duration::from_secs(3600) };

impl RateLimit {
    /// Takes the mapping `{burst: …, every: …}`.
    fn read(reader: &mut Reader, key: &str) -> RateLimit {
        let mut limit = DEFAULT_RATE_LIMIT;
        let Some(mut section) = reader.section(key) else { return limit };
        match section.or("burst", limit.burst) {
            0 => section.reject("burst", "must be at least 1"),
            burst => limit.burst = burst,
        }
        match section.take::<SignedDuration>("every") {
            Some(every) if every.is_negative() => section.reject("every", "must not be negative"),
            every => limit.every = every.map_or(limit.every, SignedDuration::unsigned_abs),
        }
        reader.absorb(section.done());
        limit
    }
}

/// Where the container runtime listens.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub enum CriSocket {
    /// At one of the well-known paths.
    Auto,
    /// There.
    At(HostPath),
}

impl TryFrom<String> for CriSocket {
    type Error = BadHostPath;

    fn try_from(text: String) -> Result<CriSocket, BadHostPath> {
        match text.as_str() {
            "auto" => Ok(CriSocket::Auto),
            // As the kubelet and crictl are told.
            path => HostPath::try_from(path.strip_prefix("unix://").unwrap_or(path)).map(CriSocket::At),
        }
    }
}

/// A runtime that takes longer is not going to answer.
const DEFAULT_CRI_TIMEOUT: SignedDuration = SignedDuration::from_secs(5);
/// The dump waits for it; the crashed process does not.
const MAX_CRI_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);
/// As many as people scroll through.
const DEFAULT_LOG_LINES: u32 = 500;
/// They are in the composer's memory, one by one.
const MAX_LOG_LINES: u32 = 50_000;

/// `composer.yaml`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ComposerSettings {
    /// Where dumps go.
    pub spool_dir: HostPath,
    /// How the core is stored.
    pub compression: Compression,
    /// How many threads compress it.
    pub threads: Threads,
    /// Whether the values of environment variables are blotted out, in
    /// `proc/environ` and in what the runtime says. The core itself still has
    /// them; a dump is as secret as the process was.
    pub redact_environ: bool,
    /// Whose crashes become dumps.
    pub capture: Capture,
    /// Pods of which namespaces.
    pub namespaces: Choice<Glob>,
    /// Pods with which labels.
    pub labels: Choice<LabelPattern>,
    /// Where the container runtime listens.
    pub cri_socket: CriSocket,
    /// How long all that is asked of it may take.
    pub cri_timeout: Duration,
    /// How many lines of the container's log are kept.
    pub log_lines: u32,
    /// The most that is kept of a core, in bytes, before compression.
    pub max_core_bytes: Option<u64>,
    /// The most there may be in the spool, in bytes, of what the store does not have.
    pub spool_max_bytes: Option<u64>,
    /// What is to stay free of its disk.
    pub keep_free: KeepFree,
    /// How often a container may crash and have a dump of it.
    pub rate_limit: RateLimit,
}

impl Default for ComposerSettings {
    fn default() -> ComposerSettings {
        let Ok(spool_dir) = HostPath::try_from(DEFAULT_SPOOL_DIR) else { unreachable!("a constant") };
        ComposerSettings {
            spool_dir,
            compression: Compression::Deflate,
            threads: Threads::Auto,
            redact_environ: true,
            capture: Capture::All,
            namespaces: Choice::default(),
            labels: Choice::default(),
            cri_socket: CriSocket::Auto,
            cri_timeout: DEFAULT_CRI_TIMEOUT.unsigned_abs(),
            log_lines: DEFAULT_LOG_LINES,
            max_core_bytes: None,
            spool_max_bytes: None,
            keep_free: KeepFree::Auto,
            rate_limit: DEFAULT_RATE_LIMIT,
        }
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
            threads: reader.or("threads", default.threads),
            redact_environ: reader.or("redact_environ", default.redact_environ),
            capture: reader.or("capture", default.capture),
            namespaces: Choice::read(&mut reader, "namespaces"),
            labels: Choice::read(&mut reader, "labels"),
            cri_socket: reader.or("cri_socket", default.cri_socket),
            cri_timeout: cri_timeout(&mut reader),
            log_lines: log_lines(&mut reader),
            max_core_bytes: reader.take("max_core_bytes").map(|ByteSize(bytes)| bytes),
            spool_max_bytes: reader.take("spool_max_bytes").map(|ByteSize(bytes)| bytes),
            keep_free: reader.or("keep_free", default.keep_free),
            rate_limit: RateLimit::read(&mut reader, "rate_limit"),
        };
        (settings, reader.done())
    }
}

fn log_lines(reader: &mut Reader) -> u32 {
    let lines = reader.or("log_lines", DEFAULT_LOG_LINES);
    if lines > MAX_LOG_LINES {
        reader.reject("log_lines", format_args!("must be at most {MAX_LOG_LINES}"));
        return DEFAULT_LOG_LINES;
    }
    lines
}

fn cri_timeout(reader: &mut Reader) -> Duration {
    let mut timeout = reader.or("cri_timeout", DEFAULT_CRI_TIMEOUT);
    if !(SignedDuration::from_millis(1)..=MAX_CRI_TIMEOUT).contains(&timeout) {
        reader.reject("cri_timeout", "must be at least 1ms and at most 1m");
        timeout = DEFAULT_CRI_TIMEOUT;
    }
    timeout.unsigned_abs()
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
    fn what_is_asked_of_the_runtime_can_be_set() {
        let yaml = "capture: pods\nnamespaces: {include: [team-*], exclude: [team-b]}\n\
                    labels: {exclude: [debug, a=b]}\ncri_socket: unix:///run/x.sock\ncri_timeout: 2s\nlog_lines: 7";
        let (settings, problems) = ComposerSettings::read(yaml);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(settings.capture, Capture::Pods);
        assert!(settings.namespaces.admits_name("team-a") && !settings.namespaces.admits_name("team-b"));
        assert_eq!(settings.labels.exclude.len(), 2);
        assert_eq!(settings.cri_socket, CriSocket::At(HostPath::try_from("/run/x.sock").unwrap()));
        assert_eq!((settings.cri_timeout, settings.log_lines), (Duration::from_secs(2), 7));
    }

    #[test]
    fn mistakes_in_them_are_named_with_their_path() {
        let yaml = "namespaces: {include: [a b], excluded: []}\nlabels: [x]\ncri_socket: run.sock\n\
                    cri_timeout: 2h\ncapture: hosts\nlog_lines: -1";
        let (settings, problems) = ComposerSettings::read(yaml);
        assert_eq!(settings, ComposerSettings::default());
        let keys = ["capture", "namespaces.include", "namespaces.excluded", "labels", "cri_socket"];
        for (problem, key) in problems.iter().zip(keys.iter().chain(&["cri_timeout", "log_lines"])) {
            assert!(problem.starts_with(&format!("{key}: ")), "{problems:?}");
        }
        assert_eq!(problems.len(), 7, "{problems:?}");
    }

    #[test]
    fn threads_are_half_of_the_processors_or_what_was_asked_for() {
        let threads = |yaml: &str| ComposerSettings::read(yaml).0.threads;
        assert_eq!(threads("threads: auto"), Threads::Auto);
        assert_eq!(threads("threads: 8"), Threads::Exactly(8));
        assert_eq!([1, 2, 4, 8, 128].map(|processors| Threads::Auto.count(processors)), [2, 2, 2, 4, 8]);
        assert_eq!(Threads::Exactly(1).count(64), 1);
        for bad in ["threads: 0", "threads: 9", "threads: many", "threads: -1", "threads: 1.5"] {
            let (settings, problems) = ComposerSettings::read(bad);
            assert_eq!(settings.threads, Threads::Auto);
            assert!(problems[0].starts_with("threads: is neither `auto` nor a number"), "{problems:?}");
        }
    }

    #[test]
    fn sizes_have_units_and_what_is_kept_free_is_known() {
        let (settings, problems) =
            ComposerSettings::read("max_core_bytes: 1GiB\nspool_max_bytes: 5000\nkeep_free: 1MiB");
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!((settings.max_core_bytes, settings.spool_max_bytes), (Some(1 << 30), Some(5000)));
        assert_eq!(settings.keep_free.bytes(100 << 30), 1 << 20);
        assert_eq!(ComposerSettings::read("keep_free: auto").0.keep_free, KeepFree::Auto);
        assert_eq!(KeepFree::Auto.bytes(100 << 30), 15 << 30);
        assert_eq!(KeepFree::Auto.bytes(1 << 30), 2 << 30);
        let (settings, problems) = ComposerSettings::read("keep_free: -1\nmax_core_bytes: lots");
        assert_eq!(settings, ComposerSettings::default());
        assert!(problems[0].starts_with("max_core_bytes: "), "{problems:?}");
        assert!(problems[1].starts_with("keep_free: is neither"), "{problems:?}");
    }

    #[test]
    fn a_rate_limit_is_a_burst_and_what_comes_after_it() {
        let limit = |yaml: &str| {
            let (settings, problems) = ComposerSettings::read(yaml);
            (settings.rate_limit.burst, settings.rate_limit.every.as_secs(), problems.len())
        };
        assert_eq!(limit(""), (5, 3600, 0));
        assert_eq!(limit("rate_limit: {burst: 2, every: 1m}"), (2, 60, 0));
        assert_eq!(limit("rate_limit: {every: 0s}"), (5, 0, 0));
        assert_eq!(limit("rate_limit: {burst: 0, every: -1s, each: 1}"), (5, 3600, 3));
        assert_eq!(limit("rate_limit: none"), (5, 3600, 1));
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

    mod hostile {
        use proptest::prelude::*;

        use super::*;
        use crate::strange;

        const SAMPLES: [&str; 3] = [
            "spool_dir: /var/lib/x\ncompression: zstd\nthreads: 2\nmax_core_bytes: 1GiB\nkeep_free: 2GiB\n",
            "cri_timeout: 5s\nnamespaces: {include: [pay*], exclude: [kube-*]}\nlabels: {exclude: [app=web]}\n",
            "rate_limit: &r {burst: 5, every: 1h}\nlog_lines: 500\ncri_socket: auto\nother: [*r, *r]\n",
        ];

        proptest! {
            #[test]
            fn whatever_the_file_has_there_are_settings(
                yaml in strange::changed(SAMPLES.map(|sample| sample.as_bytes().to_vec()).into())
            ) {
                let (settings, problems) = ComposerSettings::read(&String::from_utf8_lossy(&yaml));
                prop_assert!(settings.rate_limit.burst > 0 && settings.threads.count(8) > 0);
                prop_assert!(settings.spool_dir.as_str().starts_with('/'));
                prop_assert!(problems.len() <= yaml.len(), "{problems:?}");
            }

            #[test]
            fn whatever_a_pattern_and_a_name_are_comparing_them_ends(
                pattern in "[a*]{0,40}|.*", name in "a{0,200}|.*"
            ) {
                let (settings, _) = ComposerSettings::read(&format!("namespaces: {{include: [{pattern:?}]}}"));
                let _ = settings.namespaces.admits_name(&name);
            }
        }
    }
}
