//! `uploader.yaml`, read all at once and judged all at once.

mod auth;
mod s3;

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use jiff::SignedDuration;
use nix::unistd::gethostname;
use protocol::cluster::{ApiServer, DEFAULT_ACCOUNT_DIR};
use protocol::host::{DEFAULT_HOST_DIR, DEFAULT_SPOOL_DIR, HostPath};
use protocol::settings::Reader;

use crate::dump::CHUNK;
use crate::hook::Hook;
use crate::key::Template;
use crate::retention::Limits;

pub use self::auth::{Auth, Container, Ibm, IbmProof, Instance, Pair, WebIdentity};
pub use self::s3::{CustomerKey, Encryption, ObjectOptions, S3Config};

/// Where the settings are if nobody says otherwise.
pub const DEFAULT_FILE: &str = "/etc/coredump-handler/uploader.yaml";

/// Two keeps one slow upload from idling the link; more would compete with the
/// workloads whose node this is.
const DEFAULT_PARALLEL: u32 = 2;
/// Each upload takes up to a megabyte of buffers, on both sides of the TLS;
/// this many stay below the 64 MiB that the uploader promises.
const MAX_PARALLEL: u32 = 32;
/// Large enough that a part's round trip does not count, small enough that a
/// broken connection does not cost much.
const DEFAULT_PART_SIZE: ByteSize = ByteSize::mib(16);
/// What S3 takes; "Amazon S3 multipart upload limits" in its user guide.
const PART_SIZES: std::ops::RangeInclusive<ByteSize> = ByteSize::mib(5)..=ByteSize::gib(5);
/// Less, for each upload, and stores would take its silence for its end.
const MIN_BANDWIDTH: u64 = CHUNK as u64;
/// Kubernetes kills 30 seconds after it asked, unless told otherwise; some of
/// that is for cleaning up after the grace.
const DEFAULT_GRACE: SignedDuration = SignedDuration::from_secs(20);
/// Where the kernel has its settings. To read them takes no mount, in a pod either.
const DEFAULT_SYSCTL_DIR: &str = "/proc/sys";

/// The settings.
#[derive(Debug)]
pub struct Config {
    /// The spool, as a path of ours.
    pub spool_dir: PathBuf,
    /// Where dumps go.
    pub store: StoreConfig,
    /// What they are called there.
    pub key: Template,
    /// How many are uploaded at a time.
    pub parallel: usize,
    /// Bytes of a part; a dump of more is uploaded in parts.
    pub part_size: u64,
    /// How many bytes may leave per second, all uploads together.
    pub bandwidth: Option<NonZeroU64>,
    /// What may stay of dumps that the store has. If unset they are deleted.
    pub retention: Option<Limits>,
    /// How long uploads in flight may go on after a SIGTERM.
    pub grace: Duration,
    /// Where metrics and probes are answered; nowhere, if unset.
    pub listen: Option<SocketAddr>,
    /// What makes the kernel run the composer.
    pub hook: Hook,
    /// Whether the uploader is ready while the store cannot be reached.
    pub ready_without_store: bool,
    /// How Events get to their pods; not at all, if unset.
    pub events: Option<EventsConfig>,
}

/// Where Events are sent.
#[derive(Debug)]
pub struct EventsConfig {
    /// Who takes them.
    pub server: ApiServer,
    /// What the cluster calls this node.
    pub node: String,
}

/// Where dumps go.
#[derive(Debug)]
pub enum StoreConfig {
    /// An object store.
    S3(Box<S3Config>),
    /// A directory: an NFS mount, a volume.
    Dir(PathBuf),
}

/// The environment, as a parameter.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Config {
    /// Reads of `uploader.yaml` only where the spool is, for those who want to
    /// look at it and have no credentials.
    pub fn spool_dir(yaml: &str) -> PathBuf {
        Reader::new(yaml).or("spool_dir", PathBuf::from(DEFAULT_SPOOL_DIR))
    }

    /// Reads `uploader.yaml`.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn read(yaml: &str, env: Env<'_>) -> Result<Config, Vec<String>> {
        let mut reader = Reader::new(yaml);
        let spool_dir = reader.or("spool_dir", PathBuf::from(DEFAULT_SPOOL_DIR));
        let store = store(&mut reader, env);
        if let Some(StoreConfig::Dir(path)) = &store
            && (path.starts_with(&spool_dir) || spool_dir.starts_with(path))
        {
            // A dump that is its own copy would be deleted as uploaded.
            reader.reject("store.dir.path", "is in the spool, or around it");
        }
        let key = template(&mut reader);
        let parallel = reader.or("parallel", DEFAULT_PARALLEL);
        if !(1..=MAX_PARALLEL).contains(&parallel) {
            reader.reject("parallel", format_args!("is {parallel}, not between 1 and {MAX_PARALLEL}"));
        }
        let part_size = reader.or("part_size", DEFAULT_PART_SIZE);
        if !PART_SIZES.contains(&part_size) {
            reader.reject("part_size", format_args!("is {part_size}, not between 5 MiB and 5 GiB"));
        }
        let bandwidth = reader.take::<ByteSize>("bandwidth");
        let least = ByteSize(MIN_BANDWIDTH * u64::from(parallel.min(MAX_PARALLEL)));
        if let Some(bandwidth) = bandwidth.filter(|bandwidth| *bandwidth < least) {
            let why =
                format_args!("is {bandwidth} per second, less than {least}: 128 KiB for each of `parallel`");
            reader.reject("bandwidth", why);
        }
        let retention = Limits::read(&mut reader, "retention");
        let grace = reader.or("grace", DEFAULT_GRACE);
        let grace = Duration::try_from(grace).unwrap_or_else(|_| {
            reader.reject("grace", "is negative");
            Duration::ZERO
        });
        let listen = reader.take::<SocketAddr>("listen");
        let sysctl_dir = reader.or("sysctl_dir", PathBuf::from(DEFAULT_SYSCTL_DIR));
        let Ok(host_dir) = HostPath::try_from(DEFAULT_HOST_DIR) else { unreachable!("a constant") };
        let hook = Hook::new(sysctl_dir, &reader.or("host_dir", host_dir));
        let ready_without_store = reader.or("ready_without_store", false);
        let events = events(&mut reader, env);
        match (store, key, reader.done()) {
            (Some(store), Some(key), problems) if problems.is_empty() => Ok(Config {
                spool_dir,
                store,
                key,
                parallel: parallel as usize,
                part_size: part_size.as_u64(),
                bandwidth: bandwidth.and_then(|bandwidth| NonZeroU64::new(bandwidth.as_u64())),
                retention,
                grace,
                listen,
                hook,
                ready_without_store,
                events,
            }),
            (_, _, problems) => Err(problems),
        }
    }
}

fn events(reader: &mut Reader, env: Env<'_>) -> Option<EventsConfig> {
    let account = reader.or("account_dir", PathBuf::from(DEFAULT_ACCOUNT_DIR));
    if !reader.or("events", false) {
        return None;
    }
    match ApiServer::find(env, &account) {
        Ok(server) => {
            // The host's name is mostly the same, but we see our pod's.
            let hostname = || gethostname().unwrap_or_default().to_string_lossy().into_owned();
            Some(EventsConfig { server, node: env("NODE_NAME").unwrap_or_else(hostname) })
        }
        Err(err) => {
            reader.reject("events", format_args!("{:#}", anyhow::Error::from(err)));
            None
        }
    }
}

fn template(reader: &mut Reader) -> Option<Template> {
    match reader.take::<String>("key").map(|text| Template::parse(&text)) {
        None => Some(Template::default()),
        Some(Ok(template)) => Some(template),
        Some(Err(err)) => {
            reader.reject("key", err);
            None
        }
    }
}

fn store(reader: &mut Reader, env: Env<'_>) -> Option<StoreConfig> {
    let Some(mut store) = reader.section("store") else {
        reader.reject("store", "is missing: s3 or dir");
        return None;
    };
    let config = match (store.section("s3"), store.section("dir")) {
        (Some(mut section), None) => {
            let config = s3::read(&mut section, env);
            store.absorb(section.done());
            config.map(|config| StoreConfig::S3(Box::new(config)))
        }
        (None, Some(mut section)) => {
            let path = section.required::<PathBuf>("path");
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                section.reject("path", "is not absolute");
            }
            store.absorb(section.done());
            path.map(StoreConfig::Dir)
        }
        (None, None) => {
            store.reject("s3", "is missing, and so is dir");
            None
        }
        (Some(_), Some(_)) => {
            store.reject("dir", "is there, and so is s3: one of them is one too many");
            None
        }
    };
    reader.absorb(store.done());
    config
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn with_keys(name: &str) -> Option<String> {
        name.starts_with("AWS_").then(|| "x".to_owned())
    }

    #[test]
    fn little_has_to_be_said() {
        let config = Config::read("store: {s3: {bucket: dumps}}", &with_keys).unwrap();
        let StoreConfig::S3(s3) = config.store else { panic!() };
        assert_eq!(s3.endpoint, "https://s3.us-east-1.amazonaws.com");
        assert_eq!((config.parallel, config.part_size, config.bandwidth), (2, 16 << 20, None));
        assert_eq!(config.retention, None);
        assert_eq!(config.spool_dir, Path::new(DEFAULT_SPOOL_DIR));
        assert_eq!((config.listen, config.ready_without_store), (None, false));
        assert!(matches!(
            Config::read("store: {dir: {path: /mnt}}", &|_| None).unwrap().store,
            StoreConfig::Dir(path) if path == Path::new("/mnt")
        ));
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let yaml = "store: {s3: {bucket: Bad_Name, endpoint: 'ftp://x', regio: eu, ca_file: /no/such}}\n\
                    parallel: 0\npart_size: 1MiB\nkey: '{pod}.zip'\ngrace: soon\nparalel: 2\n";
        let problems = Config::read(yaml, &|_| None).unwrap_err();
        for start in [
            "store.s3.bucket: \"Bad_Name\" is no name",
            "store.s3.endpoint: \"ftp://x\" is not",
            "store.s3.ca_file: /no/such: No such file",
            "store.s3.access_key_id_file: is missing",
            "store.s3.regio: is no setting",
            "parallel: is 0",
            "part_size: is 1.0 MiB",
            "key: ",
            "grace: ",
            "paralel: is no setting",
        ] {
            assert!(problems.iter().any(|p| p.starts_with(start)), "{start} in {problems:#?}");
        }
        assert_eq!(problems.len(), 10, "{problems:#?}");
    }

    #[test]
    fn each_mistake_is_named() {
        let s3 = |more: &str| format!("store: {{s3: {{bucket: dumps, {more}}}}}");
        let bucket = |name: &str| format!("store: {{s3: {{bucket: {name}}}}}");
        let long = format!("prefix: {}", "x".repeat(121));
        let retention = |what: &str| format!("store: {{dir: {{path: /x}}}}\nretention: {{{what}}}");
        for (yaml, key) in [
            (bucket("ab"), "store.s3.bucket"),
            (bucket("a..b"), "store.s3.bucket"),
            (bucket("-ab"), "store.s3.bucket"),
            (bucket("ab."), "store.s3.bucket"),
            (bucket("under_score"), "store.s3.bucket"),
            (bucket("[]"), "store.s3.bucket"),
            (s3("prefix: a/../b"), "store.s3.prefix"),
            (s3("prefix: ./b"), "store.s3.prefix"),
            (s3("prefix: \"a\\nb\""), "store.s3.prefix"),
            (s3(&long), "store.s3.prefix"),
            (s3("endpoint: s3.example"), "store.s3.endpoint"),
            (s3("endpoint: 'https://'"), "store.s3.endpoint"),
            (s3("endpoint: 'https://host/path'"), "store.s3.endpoint"),
            (s3("endpoint: 'https://user@host'"), "store.s3.endpoint"),
            ("store: {dir: {path: relative}}".to_owned(), "store.dir.path"),
            ("store: {dir: {path: /x}}\nparallel: 33".to_owned(), "parallel"),
            ("store: {dir: {path: /x}}\npart_size: 6GiB".to_owned(), "part_size"),
            ("store: {dir: {path: /x}}\nbandwidth: 255KiB".to_owned(), "bandwidth"),
            ("store: {dir: {path: /x}}\nbandwidth: 0".to_owned(), "bandwidth"),
            ("store: {dir: {path: /x}}\ngrace: -1s".to_owned(), "grace"),
            ("store: {dir: {path: /x}}\nretention: keep".to_owned(), "retention"),
            (retention("after_upload: archive"), "retention.after_upload"),
            (retention("after_upload: keep, max_age: 1 month"), "retention.max_age"),
            (retention("after_upload: keep, max_age: -1d"), "retention.max_age"),
            (retention("after_upload: keep, max_bytes: all"), "retention.max_bytes"),
            (retention("after_upload: keep, keep_free: 15%"), "retention.keep_free"),
            (retention("after_upload: keep, max_files: 3"), "retention.max_files"),
            (retention("max_age: 1d"), "retention.max_age"),
            (retention("after_upload: delete, max_bytes: 1GiB"), "retention.max_bytes"),
            (retention("after_upload: delete, keep_free: auto"), "retention.keep_free"),
            ("store: {dir: {path: /x}}\nkey: '{x}'".to_owned(), "key"),
            ("store: {dir: {path: /x}}\nlisten: 9464".to_owned(), "listen"),
            ("store: {dir: {path: /x}}\nlisten: localhost:9464".to_owned(), "listen"),
            ("store: {dir: {path: /x}}\nhost_dir: opt".to_owned(), "host_dir"),
            ("store: {dir: {path: /x}}\nready_without_store: perhaps".to_owned(), "ready_without_store"),
        ] {
            let problems = Config::read(&yaml, &with_keys).unwrap_err();
            assert_eq!(problems.len(), 1, "{yaml}: {problems:?}");
            assert!(problems[0].starts_with(&format!("{key}: ")), "{yaml}: {problems:?}");
        }
    }

    #[test]
    fn what_is_said_is_what_is_meant() {
        let pem = certificate();
        let yaml = format!(
            "spool_dir: /s\nstore: {{s3: {{bucket: dumps, prefix: /a/b/, endpoint: 'http://h:1/', region: eu-de, \
             path_style: true, ca_file: {}, access_key_id_file: /id, secret_access_key_file: /secret}}}}\n\
             key: '{{id}}'\nparallel: 32\npart_size: 5GiB\nbandwidth: 4MiB\ngrace: 1m\nlisten: '[::]:9464'\n\
             ready_without_store: true",
            pem.display()
        );
        assert_eq!(Config::spool_dir(&yaml), Path::new("/s"));
        let config = Config::read(&yaml, &|_| None).unwrap();
        assert_eq!((config.parallel, config.part_size, config.grace.as_secs()), (32, 5 << 30, 60));
        assert_eq!(config.bandwidth.unwrap().get(), 4 << 20);
        assert_eq!(Ok(config.key), Template::parse("{id}"));
        assert_eq!((config.listen.unwrap().port(), config.ready_without_store), (9464, true));
        let StoreConfig::S3(s3) = config.store else { panic!() };
        assert_eq!(
            (s3.prefix.as_str(), s3.endpoint.as_str(), s3.region.as_str()),
            ("a/b", "http://h:1", "eu-de")
        );
        assert!(s3.path_style && s3.authorities.len() == 1);
        assert_eq!(s3.auth.to_string(), "hmac, of /id and /secret");
    }

    /// A file with a certificate in it.
    fn certificate() -> tempfile::TempPath {
        let store = testbed::store::Store::temporary_tls("dumps");
        let copy = tempfile::NamedTempFile::new().unwrap();
        fs::copy(store.ca_file().unwrap(), copy.path()).unwrap();
        copy.into_temp_path()
    }

    #[test]
    fn there_is_exactly_one_store() {
        for yaml in ["", "store: {}", "store: {dir: {path: /x}, s3: {bucket: abc}}", "store: {dir: {}}"] {
            assert_eq!(Config::read(yaml, &with_keys).unwrap_err().len(), 1, "{yaml}");
        }
    }

    #[test]
    fn a_store_in_the_spool_would_be_no_store() {
        for path in ["/s/spool", "/s/spool/x", "/s"] {
            let yaml = format!("spool_dir: /s/spool\nstore: {{dir: {{path: {path}}}}}");
            let problems = Config::read(&yaml, &|_| None).unwrap_err();
            assert_eq!(problems, ["store.dir.path: is in the spool, or around it"]);
        }
    }

    #[test]
    fn there_is_time_to_clean_up_before_kubernetes_kills() {
        let grace = Duration::try_from(DEFAULT_GRACE).unwrap();
        assert!(grace + crate::daemon::LAST_WORDS < Duration::from_secs(30));
    }

    #[test]
    fn a_secret_does_not_reach_the_log() {
        let env = |name: &str| name.starts_with("AWS_").then(|| format!("the {name}"));
        let config = Config::read("store: {s3: {bucket: dumps}}", &env).unwrap();
        assert!(!format!("{config:?}").contains("the "), "{config:?}");
    }

    mod hostile {
        use proptest::prelude::*;

        use super::*;
        use crate::strange;

        const SAMPLES: [&str; 2] = [
            "store: {s3: {bucket: dumps, prefix: a/b, region: eu-de, endpoint: 'https://s3.example:9000'}}\n\
             parallel: 4\npart_size: 16MiB\nbandwidth: 10MB\ngrace: 20s\nlisten: 127.0.0.1:9100\n",
            "store: {dir: {path: /objects}}\nkey: '{namespace}/{pod}/{id}.zip'\nspool_dir: /spool\nready_without_store: true\n",
        ];

        proptest! {
            #[test]
            fn whatever_the_file_has_it_is_settings_or_problems(
                yaml in strange::changed(SAMPLES.map(|sample| sample.as_bytes().to_vec()).into())
            ) {
                match Config::read(&String::from_utf8_lossy(&yaml), &with_keys) {
                    Ok(config) => {
                        prop_assert!((1..=MAX_PARALLEL as usize).contains(&config.parallel));
                        prop_assert!(config.part_size > 0);
                    }
                    Err(problems) => prop_assert!((1..=yaml.len() + 1).contains(&problems.len())),
                }
            }
        }
    }
}
