//! A directory shaped like a host, with our programs in it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::statvfs::{FsFlags, statvfs};
use protocol::host::SPOOL_MODE;
use protocol::journal::{self, Line, lines};
use protocol::manifest::{FILE_NAME, Manifest};
use protocol::spool::{Entry, Spool, State};
use tempfile::TempDir;
use zip::{CompressionMethod, ZipArchive};

use crate::store::{ACCESS_KEY, REGION, SECRET_KEY, Store};
use crate::wait_for;

const UNLIMITED: &str = "keep_free: 64MiB, rate_limit: {every: 0s}";

/// A host of its own, gone when dropped.
pub struct Node {
    dir: TempDir,
}

impl Node {
    /// A node; `settings` is what `installer.yaml` has besides its two
    /// directories, such as `composer: {compression: store}`. How full this
    /// machine's disk is, and how often something crashes, makes no difference unless
    /// they have a `keep_free` or a `rate_limit`.
    pub fn new(settings: &str) -> Node {
        let node = Node { dir: short_dir() };
        fs::create_dir(node.host_dir()).expect("the host directory");
        fs::create_dir(node.spool_dir()).expect("the spool");
        fs::set_permissions(node.spool_dir(), PermissionsExt::from_mode(SPOOL_MODE))
            .expect("the spool's mode");

        let installer =
            format!("host_dir: {}\nspool_dir: {}\n", node.host_dir().display(), node.spool_dir().display());
        let settings = match settings.split_once("composer: {") {
            _ if settings.contains("keep_free") || settings.contains("rate_limit") => settings.to_owned(),
            Some((before, composer)) => format!("{before}composer: {{{UNLIMITED}, {composer}"),
            None => format!("{settings}\ncomposer: {{{UNLIMITED}}}\n"),
        };
        fs::write(node.installer_yaml(), format!("{installer}{settings}")).expect("installer.yaml");
        let objects = node.path().join("objects");
        fs::create_dir(&objects).expect("the directory of objects");
        node.write_uploader_yaml(&format!("store: {{dir: {{path: {}}}}}\n", objects.display()));
        node
    }

    /// Where everything of it lies.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where the composer goes.
    pub fn host_dir(&self) -> PathBuf {
        self.path().join("host")
    }

    /// Where dumps go.
    pub fn spool_dir(&self) -> PathBuf {
        self.path().join("spool")
    }

    /// The installer's settings.
    pub fn installer_yaml(&self) -> PathBuf {
        self.path().join("installer.yaml")
    }

    /// The uploader's settings. Until told otherwise it puts dumps into
    /// `objects/` of the node.
    pub fn uploader_yaml(&self) -> PathBuf {
        self.path().join("uploader.yaml")
    }

    /// Replaces the uploader's settings with these lines of YAML and the
    /// node's `spool_dir`.
    pub fn write_uploader_yaml(&self, settings: &str) {
        let yaml = format!("spool_dir: {}\n{settings}", self.spool_dir().display());
        fs::write(self.uploader_yaml(), yaml).expect("uploader.yaml");
    }

    /// Sends dumps to a bucket of `store`; `more` is further lines of YAML.
    pub fn upload_to(&self, store: &Store, bucket: &str, more: &str) {
        let ca_file = store.ca_file().map(|path| format!(", ca_file: {}", path.display()));
        self.write_uploader_yaml(&format!(
            "store: {{s3: {{bucket: {bucket}, endpoint: '{}', region: {REGION}, path_style: true{}}}}}\n{more}",
            store.endpoint(),
            ca_file.unwrap_or_default(),
        ));
    }

    /// The installer with this node's settings, to be run on this machine.
    pub fn installer(&self, args: impl IntoIterator<Item: AsRef<OsStr>>) -> Command {
        let mut command = Command::new(dist().join("installer"));
        command.args(args).arg("--config").arg(self.installer_yaml()).args(["--host-root", "/"]).env_clear();
        command
    }

    /// Makes this machine collect. What is in the journal from then on, crashes of
    /// the test have made.
    pub fn install(&self) {
        run(&mut self.installer(["install"]));
        fs::remove_file(self.spool_dir().join(journal::FILE_NAME)).expect("a trial is in the journal");
    }

    /// The uploader with this node's settings, and the pair of the store.
    pub fn uploader(&self, args: impl IntoIterator<Item: AsRef<OsStr>>) -> Command {
        let mut command = Command::new(dist().join("uploader"));
        command.args(args).arg("--config").arg(self.uploader_yaml()).env_clear();
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command
    }

    /// The dumps that are in a state, oldest id first.
    pub fn dumps(&self, state: State) -> Vec<Entry> {
        let found = self.spool().list().expect("the spool can be listed");
        found.into_iter().map(|found| found.entry).filter(|entry| entry.state() == state).collect()
    }

    /// Waits until so many dumps are ready.
    pub fn wait_for_ready(&self, count: usize, patience: Duration) -> Vec<Entry> {
        wait_for(&format!("{count} ready dumps in {}", self.spool_dir().display()), patience, || {
            Some(self.dumps(State::Ready)).filter(|dumps| dumps.len() >= count)
        })
    }

    /// Opens a dump.
    pub fn open(&self, entry: &Entry) -> Dump {
        Dump::open(&self.spool().path(entry))
    }

    /// What composers have said so far of their crashes.
    pub fn journal(&self) -> Vec<Line> {
        lines(&self.spool()).collect::<Result<_, _>>().expect("the journal")
    }

    /// Where dumps go, as our programs see it.
    pub fn spool(&self) -> Spool {
        Spool::open(self.spool_dir()).expect("the spool is there")
    }
}

/// A dump's zip.
pub struct Dump {
    zip: ZipArchive<File>,
    folder: String,
}

impl Dump {
    /// Opens a dump's file, wherever it is.
    pub fn open(path: &Path) -> Dump {
        let file = File::open(path).unwrap_or_else(|err| panic!("opening {}: {err}", path.display()));
        let zip = ZipArchive::new(file).unwrap_or_else(|err| panic!("{} is no zip: {err}", path.display()));
        let first = zip.file_names().flatten().next().expect("a dump has entries");
        let folder = first.split('/').next().unwrap_or_default().to_owned();
        Dump { zip, folder }
    }

    /// Its entries without the folder, in their order in the zip.
    pub fn names(&self) -> Vec<String> {
        let inside = |name: &str| name.strip_prefix(&self.folder)?.strip_prefix('/').map(str::to_owned);
        self.zip.file_names().flatten().filter_map(|name| inside(&name)).collect()
    }

    /// One entry, as it comes, for a core that is better not kept in memory.
    pub fn stream(&mut self, name: &str) -> impl Read + '_ {
        let path = format!("{}/{name}", self.folder);
        self.zip.by_name(&path).unwrap_or_else(|err| panic!("no {path} in the dump: {err}"))
    }

    /// One entry.
    pub fn entry(&mut self, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.stream(name).read_to_end(&mut bytes).unwrap_or_else(|err| panic!("reading {name}: {err}"));
        bytes
    }

    /// How one entry is compressed, which may be in a way that cannot be read
    /// here.
    pub fn method(&mut self, name: &str) -> CompressionMethod {
        let path = format!("{}/{name}", self.folder);
        let index = self.zip.index_for_name(&path).unwrap_or_else(|| panic!("no {path} in the dump"));
        let entry = self.zip.by_index_raw(index).unwrap_or_else(|err| panic!("{path} in the dump: {err}"));
        entry.compression()
    }

    /// What is known about it.
    pub fn manifest(&mut self) -> Manifest {
        let bytes = self.entry(FILE_NAME);
        serde_json::from_slice(&bytes).unwrap_or_else(|err| panic!("{FILE_NAME} is no manifest: {err}"))
    }
}

/// Runs a program to its end and panics, with all it said, if it did not exit
/// with 0.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|err| panic!("running {command:?}: {err}"));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        said(&output.stdout),
        said(&output.stderr)
    );
    output
}

/// The directory of the release's programs: `$DIST`, or `dist/` of the workspace.
pub fn dist() -> PathBuf {
    let dist = std::env::var_os("DIST")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist"), PathBuf::from);
    for program in ["composer", "installer", "uploader"] {
        let path = dist.join(program);
        assert!(path.is_file(), "{} is not there: run `make build` first", path.display());
    }
    dist
}

/// One of our own programs, which cargo puts beside the one that asks, or above
/// it if that is a test.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("this program is somewhere");
    let dir = own.parent().expect("it is in a directory");
    let dir = if dir.ends_with("deps") { dir.parent().expect("cargo has a target directory") } else { dir };
    dir.join(name)
}

/// A directory with a short name, since the pattern that names the composer
/// has 127 bytes, on a file system from which the kernel will run it.
pub fn short_dir() -> TempDir {
    let dir = tempfile::Builder::new().prefix("cdh.").tempdir_in(short_dir_parent());
    dir.expect("a temporary directory for the node")
}

/// Where such a directory can be.
pub(crate) fn short_dir_parent() -> &'static Path {
    let runs = |dir: &&str| statvfs(*dir).is_ok_and(|fs| !fs.flags().contains(FsFlags::ST_NOEXEC));
    let dir = ["/tmp", "/var/tmp", "/run"].into_iter().find(runs);
    Path::new(dir.expect("/tmp, /var/tmp or /run allows to run programs"))
}
