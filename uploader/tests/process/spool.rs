//! A spool with dumps in it, and an uploader that is run on it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::spool::{DumpId, Entry, Hint, Spool, State};
use protocol::zip64::{self, Method};
use testbed::memory::{Fill, Memory};
use testbed::store::{ACCESS_KEY, Request, SECRET_KEY, Store};
use testbed::wait_for;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// For things that take a moment, on a machine that has other things to do.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The bucket of all stores here.
pub const BUCKET: &str = "dumps";

const MANIFEST: &str = include_str!("../../../protocol/tests/golden/manifest-1.json");

/// A spool, and settings that send its dumps somewhere.
pub struct Node {
    dir: tempfile::TempDir,
    env: Vec<(&'static str, String)>,
}

impl Node {
    /// A node whose uploader has these settings.
    pub fn new(settings: &str) -> Node {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::create_dir(dir.path().join("spool")).unwrap();
        let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into())];
        let node = Node { dir, env: keys.into() };
        node.configure(settings);
        node
    }

    /// A node whose dumps go to `store`, in parts of 5 MiB.
    pub fn shipping_to(store: &Store) -> Node {
        Node::new(&s3(store, "part_size: 5MiB\ngrace: 2s\n"))
    }

    /// Changes the settings.
    pub fn configure(&self, settings: &str) {
        let yaml = format!("spool_dir: {}\n{settings}", self.spool_dir().display());
        fs::write(self.path("uploader.yaml"), yaml).unwrap();
    }

    /// Uploaders to come have no environment.
    pub fn clear_env(&mut self) {
        self.env.clear();
    }

    /// Changes the environment of uploaders to come.
    pub fn set_env(&mut self, name: &'static str, value: String) {
        self.env.retain(|(known, _)| *known != name);
        self.env.push((name, value));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn spool_dir(&self) -> PathBuf {
        self.path("spool")
    }

    pub fn spool(&self) -> Spool {
        Spool::at(self.spool_dir())
    }

    /// A dump whose core has this many incompressible bytes, published the way
    /// a composer does.
    pub fn dump(&self, core_bytes: usize) -> Entry {
        self.dump_with(MANIFEST, core_bytes)
    }

    /// The same with another manifest.
    pub fn dump_with(&self, manifest: &str, core_bytes: usize) -> Entry {
        let part = self.spool().create(fresh_id()).unwrap();
        let id =
            self.spool().list().unwrap().into_iter().map(|found| found.entry.id().clone()).max().unwrap();
        let mut zip = ZipWriter::new(part.file());
        let options =
            SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
        zip.start_file(format!("{id}/core"), options).unwrap();
        let memory = Memory { fill: Fill::Random, length: core_bytes };
        let mut chunk = vec![0; 1 << 20];
        for at in (0..core_bytes).step_by(chunk.len()) {
            let n = chunk.len().min(core_bytes - at);
            memory.read_at(at, &mut chunk[..n]);
            zip.write_all(&chunk[..n]).unwrap();
        }
        zip.start_file(format!("{id}/manifest.json"), options).unwrap();
        zip.write_all(manifest.replace("20261122T193101Z-28763-9f3a61c2", id.as_str()).as_bytes()).unwrap();
        zip.finish().unwrap();
        part.publish(Hint::new([&b"default"[..], b"crash", b"main", b"SIGSEGV"])).unwrap().entry
    }

    /// A dump whose composer died, and its core up to the last whole block.
    pub fn torn(&self, core_bytes: usize) -> (Entry, Vec<u8>) {
        let id = fresh_id();
        let part = self.spool().create(id.clone()).unwrap();
        let words = MANIFEST.replace("20261122T193101Z-28763-9f3a61c2", id.as_str()).into_bytes();
        zip64::Entry::begin(part.file(), format!("{id}/core"), Method::Deflated, [0, 0x21], words).unwrap();
        let mut core = vec![0; core_bytes];
        Memory { fill: Fill::Random, length: core_bytes }.read_at(0, &mut core);
        // Stored blocks (RFC 1951, 3.2.4).
        for block in core.chunks(10_000) {
            let len = block.len() as u16;
            part.file()
                .write_all(&[&[0][..], &len.to_le_bytes(), &(!len).to_le_bytes(), block].concat())
                .unwrap();
        }
        part.file().write_all(&[0, 0x10, 0x27, 0xef, 0xd8, 1, 2, 3]).unwrap();
        drop(part);
        let part = Entry::parse(&format!("{id}.zip.part")).unwrap();
        (self.spool().set_state(&part, State::Torn).unwrap(), core)
    }

    /// The states of all dumps.
    pub fn states(&self) -> Vec<State> {
        self.spool().list().unwrap().into_iter().map(|found| found.entry.state()).collect()
    }

    /// Waits until the spool has no dump any more.
    pub fn wait_until_empty(&self) {
        wait_for("an empty spool", PATIENCE, || self.states().is_empty().then_some(()));
    }

    /// The uploader with these arguments and this node's settings.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uploader"));
        command.args(args).arg("--config").arg(self.path("uploader.yaml"));
        command.env_clear().envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the uploader to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs the uploader to its end, with this system call tampered with.
    pub fn strace(&self, syscall: &str, fault: &str, args: &[&str]) -> Output {
        let traced = self.command(args);
        let mut strace = Command::new("strace");
        let (trace, inject) = (format!("trace={syscall}"), format!("inject={syscall}:{fault}"));
        strace.args(["-f", "-qq", "-e", &trace, "-e", &inject, "-o", "/dev/null"]);
        strace.arg(traced.get_program()).args(traced.get_args());
        strace.envs(self.env.iter().map(|(name, value)| (name, value)));
        strace.output().expect("this test needs strace (the Debian package of that name)")
    }

    /// Starts the daemon.
    pub fn start(&self) -> Daemon {
        self.start_as(self.command(&["run"]))
    }

    /// Starts the daemon by a command that ends up as one.
    pub fn start_as(&self, mut command: Command) -> Daemon {
        let log = self.path("log");
        let stderr = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = command.stdin(Stdio::null()).stderr(stderr).spawn().unwrap();
        Daemon { child, log }
    }
}

/// Settings that send dumps to `store`.
pub fn s3(store: &Store, more: &str) -> String {
    s3_with(store, "", more)
}

/// The same, with more said about the store.
pub fn s3_with(store: &Store, about: &str, more: &str) -> String {
    let ca = store.ca_file().map_or(String::new(), |path| format!(", ca_file: {}", path.display()));
    format!(
        "store: {{s3: {{bucket: {BUCKET}, endpoint: '{}', path_style: true{ca}, {about}}}}}\n{more}",
        store.endpoint()
    )
}

/// Where the dump of `entry` is in a store.
pub fn key(entry: &Entry) -> String {
    format!("default/crash/{}.zip", entry.id())
}

/// The numbers of the parts that were sent, in their order.
pub fn parts(store: &Store) -> Vec<u32> {
    store.requests().iter().filter_map(Request::part).collect()
}

fn fresh_id() -> DumpId {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    DumpId::new(Timestamp::from_second(1_795_375_861 + i64::from(n)).unwrap(), 28763, n)
}

/// `uploader run`; killed when dropped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// All it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it has logged this.
    pub fn wait_for_log(&self, text: &str) {
        wait_for(&format!("{text:?} in the log"), PATIENCE, || self.log().contains(text).then_some(()));
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
    }

    /// Waits for its end; true if it exited with 0.
    pub fn wait(mut self) -> bool {
        self.child.wait().unwrap().success()
    }

    /// The most memory it ever had, in KiB.
    pub fn peak_memory(&self) -> u64 {
        let status =
            fs::read_to_string(Path::new("/proc").join(self.child.id().to_string()).join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    /// kill -9
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
