//! `installer.yaml`: what this node should be.

use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;
use protocol::argv::{CorePattern, helper};
use protocol::cluster::{DEFAULT_ACCOUNT_DIR, is_object_name};
use protocol::host::{COMPOSER, DEFAULT_HOST_DIR, DEFAULT_SPOOL_DIR, DEFAULT_SPOOL_GID, HostPath};
use protocol::settings::{ComposerSettings, Reader};
use serde_yaml::{Mapping, Value};

use crate::sysctl::Sysctl;

/// Where the kernel has its settings if nobody mounted them elsewhere.
const DEFAULT_SYSCTL_DIR: &str = "/proc/sys";
/// More crashes at once than a node survives in any other respect; what exceeds
/// the limit is not dumped at all.
const DEFAULT_CORE_PIPE_LIMIT: i64 = 256;
/// Half of the ten seconds in which drift is to be noticed.
const DEFAULT_CHECK_EVERY: SignedDuration = SignedDuration::from_secs(5);
const MAX_CHECK_EVERY: SignedDuration = SignedDuration::from_secs(10);
/// As finely as poll(2) can wait; less would not wait at all.
const MIN_CHECK_EVERY: SignedDuration = SignedDuration::from_millis(1);

/// All settings, and what follows from them alone.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory of the composer, its settings and our memory.
    pub host_dir: HostPath,
    /// Where dumps wait for the uploader.
    pub spool_dir: HostPath,
    /// The uploader's group.
    pub spool_gid: u32,
    /// Where we, not the host, see the kernel's settings.
    pub sysctl_dir: PathBuf,
    /// The longest a change by somebody else goes unnoticed.
    pub check_every: Duration,
    /// The DaemonSet whose removal gives the node back.
    pub daemon_set: Option<String>,
    /// Where the kubelet has mounted the account with which we ask about it.
    pub account_dir: PathBuf,
    /// What the sysctls should be, in the order in which they are set: a
    /// pattern may count on the pipe limit, and the kernel warns of a
    /// `suid_dumpable` of 2 unless the pattern is set before it
    /// (`validate_coredump_safety` in `fs/coredump.c`).
    pub sysctls: Vec<(Sysctl, String)>,
    /// The text of `composer.yaml`.
    pub composer_yaml: String,
}

impl Config {
    /// Reads every setting before it judges any.
    ///
    /// # Errors
    /// All that is wrong, a line each.
    pub fn read(yaml: &str) -> Result<Config, Vec<String>> {
        let mut reader = Reader::new(yaml);
        let host_dir = directory(&mut reader, "host_dir", DEFAULT_HOST_DIR);
        let spool_dir = directory(&mut reader, "spool_dir", DEFAULT_SPOOL_DIR);
        keep_apart(&mut reader, &host_dir, &spool_dir);
        let spool_gid = reader.or("spool_gid", DEFAULT_SPOOL_GID);
        let sysctl_dir = reader.or("sysctl_dir", PathBuf::from(DEFAULT_SYSCTL_DIR));
        let limit = reader.or("core_pipe_limit", DEFAULT_CORE_PIPE_LIMIT);
        if !(1..=i64::from(i32::MAX)).contains(&limit) {
            let why =
                "must be at least 1, because with 0 the kernel does not keep /proc/<pid> for the composer";
            reader.reject("core_pipe_limit", why);
        }
        let suid_dumpable = reader.take::<i64>("suid_dumpable");
        if suid_dumpable.is_some_and(|value| !(0..=2).contains(&value)) {
            reader.reject("suid_dumpable", "must be 0, 1 or 2");
        }
        let check_every = reader.or("check_every", DEFAULT_CHECK_EVERY);
        if !(MIN_CHECK_EVERY..=MAX_CHECK_EVERY).contains(&check_every) {
            reader.reject("check_every", "must be at least 1ms and at most 10s");
        }
        let daemon_set = reader.take::<String>("daemon_set");
        if let Some(name) = daemon_set.as_ref().filter(|name| !is_object_name(name)) {
            reader.reject("daemon_set", format_args!("{name:?} is no name of a DaemonSet"));
        }
        let account_dir = reader.or("account_dir", PathBuf::from(DEFAULT_ACCOUNT_DIR));
        let composer_yaml = composer_yaml(&mut reader, &spool_dir);
        let pattern = CorePattern::piping_to(&host_dir.join(COMPOSER))
            .map_err(|err| reader.reject("host_dir", err))
            .map_or_else(|()| String::new(), |pattern| pattern.to_string());

        let mut sysctls = vec![(Sysctl::CorePipeLimit, limit.to_string()), (Sysctl::CorePattern, pattern)];
        sysctls.extend(suid_dumpable.map(|value| (Sysctl::SuidDumpable, value.to_string())));
        let check_every = check_every.unsigned_abs();
        let config = Config {
            host_dir,
            spool_dir,
            spool_gid,
            sysctl_dir,
            check_every,
            daemon_set,
            account_dir,
            sysctls,
            composer_yaml,
        };
        match reader.done() {
            problems if problems.is_empty() => Ok(config),
            problems => Err(problems),
        }
    }

    /// What `sysctl` should be; `None` if it is to be left alone.
    pub fn wanted(&self, sysctl: Sysctl) -> Option<&str> {
        self.sysctls.iter().find(|(key, _)| *key == sysctl).map(|(_, value)| value.as_str())
    }

    /// Whether a `core_pattern` makes the kernel run the composer in our
    /// directory, whoever wrote it and with whichever specifiers.
    pub fn names_composer(&self, pattern: &str) -> bool {
        helper(pattern) == Some(self.host_dir.join(COMPOSER).as_str())
    }
}

fn directory(reader: &mut Reader, key: &str, default: &str) -> HostPath {
    let Ok(default) = HostPath::try_from(default) else { unreachable!("a constant") };
    let dir = reader.or(key, default);
    if dir.as_str() == "/" {
        reader.reject(key, "is /, whose mode and owner are not ours to set");
    }
    dir
}

/// Whether `path` is `dir` or in it.
pub fn is_within(path: &HostPath, dir: &HostPath) -> bool {
    path.join("").as_str().starts_with(dir.join("").as_str())
}

/// Whoever may remove dumps must not be able to replace the composer, and must
/// be able to get to the dumps.
fn keep_apart(reader: &mut Reader, host_dir: &HostPath, spool_dir: &HostPath) {
    if host_dir.as_str() == "/" || spool_dir.as_str() == "/" {
        return; // refused already
    }
    if is_within(host_dir, spool_dir) {
        reader.reject("spool_dir", "is the host_dir or around it, and its group could replace the composer");
    } else if is_within(spool_dir, host_dir) {
        reader.reject("spool_dir", "is in the host_dir, which is root's");
    }
}

/// The `composer:` mapping as it is, and where the spool is, which the two
/// must never disagree about.
fn composer_yaml(reader: &mut Reader, spool_dir: &HostPath) -> String {
    let mut composer = reader.or("composer", Mapping::new());
    let spool_dir = Value::from(spool_dir.as_str());
    if composer.insert("spool_dir".into(), spool_dir.clone()).is_some_and(|other| other != spool_dir) {
        reader.reject("composer.spool_dir", "is not the spool_dir of the installer");
    }
    match serde_yaml::to_string(&composer) {
        Ok(yaml) => {
            let (_, problems) = ComposerSettings::read(&yaml);
            reader.absorb(problems.iter().map(|problem| format!("composer.{problem}")).collect());
            format!("# Written by the installer, from `composer:` in its own configuration.\n{yaml}")
        }
        Err(err) => {
            reader.reject("composer", err);
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_settings_at_all_are_good_settings() {
        let config = Config::read("").unwrap();
        assert_eq!(config.wanted(Sysctl::CorePipeLimit), Some("256"));
        assert_eq!(config.wanted(Sysctl::SuidDumpable), None);
        assert!(config.names_composer(config.wanted(Sysctl::CorePattern).unwrap()));
        assert_eq!(ComposerSettings::read(&config.composer_yaml), (ComposerSettings::default(), vec![]));
    }

    #[test]
    fn suid_dumpable_comes_after_the_pattern() {
        let config = Config::read("suid_dumpable: 2").unwrap();
        let order: Vec<Sysctl> = config.sysctls.iter().map(|(sysctl, _)| *sysctl).collect();
        assert_eq!(order, [Sysctl::CorePipeLimit, Sysctl::CorePattern, Sysctl::SuidDumpable]);
    }

    #[test]
    fn the_composer_gets_its_mapping_and_our_spool() {
        let config = Config::read("spool_dir: /dumps/spool\ncomposer: {redact_environ: false}").unwrap();
        let (settings, problems) = ComposerSettings::read(&config.composer_yaml);
        assert_eq!((settings.spool_dir.as_str(), settings.redact_environ), ("/dumps/spool", false));
        assert_eq!(problems, Vec::<String>::new());
        Config::read("spool_dir: /s/s\ncomposer: {spool_dir: /s/s}").unwrap();
    }

    #[test]
    fn a_longer_name_is_no_directory_below() {
        Config::read("host_dir: /a/b\nspool_dir: /a/bc").unwrap();
        Config::read("host_dir: /a/bc\nspool_dir: /a/b").unwrap();
    }

    #[test]
    fn each_mistake_is_named() {
        for (yaml, problem) in [
            ("core_pipe_limit: 0", "core_pipe_limit: must be at least 1"),
            ("core_pipe_limit: 4294967296", "core_pipe_limit: must be"),
            ("suid_dumpable: 3", "suid_dumpable: must be 0, 1 or 2"),
            ("check_every: 0s", "check_every: must be"),
            ("check_every: 11s", "check_every: must be"),
            ("check_every: soon", "check_every: "),
            ("daemon_set: a/../b", "daemon_set: \"a/../b\" is no name"),
            ("daemon_set: ''", "daemon_set: \"\" is no name"),
            ("host_dir: opt", "host_dir: "),
            ("host_dir: /", "host_dir: is /"),
            ("spool_dir: /", "spool_dir: is /"),
            ("host_dir: /a/b\nspool_dir: /a/b", "spool_dir: is the host_dir or around it"),
            ("host_dir: /a/b/c/d\nspool_dir: /a/b", "spool_dir: is the host_dir or around it"),
            ("host_dir: /a/b\nspool_dir: /a/b/c", "spool_dir: is in the host_dir"),
            ("host_dir: /with a blank", "host_dir: /with a blank/composer has a blank"),
            ("composer: {compresion: deflate}", "composer.compresion: is no setting"),
            ("composer: {spool_dir: /elsewhere}", "composer.spool_dir: is not"),
            ("composer: 3", "composer: "),
            ("speed: fast", "speed: is no setting"),
        ] {
            let problems = Config::read(yaml).unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].starts_with(problem), "{problems:?}");
        }
    }
}
