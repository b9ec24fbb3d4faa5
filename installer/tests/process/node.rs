//! A directory shaped like a host, with the installer and a composer to
//! install beside it. Nothing in it needs root.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

/// What the kernel says when nobody has set anything, and one thing that
/// somebody has.
const BEFORE: [(&str, &str); 3] = [
    ("kernel/core_pattern", "|/usr/share/apport/apport %p"),
    ("kernel/core_pipe_limit", "4"),
    ("fs/suid_dumpable", "0"),
];

/// What somebody else sets after us.
pub const FOREIGN: &str = "|/usr/lib/systemd/systemd-coredump %P %u";

pub struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    pub fn new() -> Node {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let node = Node { dir };
        for dir in ["bin", "host/opt", "host/var/lib", "sys/kernel", "sys/fs"] {
            fs::create_dir_all(node.path(dir)).unwrap();
        }
        // Copying an executable in a threaded test invites ETXTBSY.
        fs::hard_link(env!("CARGO_BIN_EXE_installer"), node.path("bin/installer")).unwrap();
        node.ship("one");
        for (name, value) in BEFORE {
            node.set(name, value);
        }
        node.configure("");
        node
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts a composer beside the installer, in more than one piece if copied.
    pub fn ship(&self, version: &str) {
        fs::write(self.path("bin/composer"), format!("composer {version}\n").repeat(2000)).unwrap();
    }

    /// Writes the configuration: what every test needs, and `more`.
    pub fn configure(&self, more: &str) {
        self.configure_for(fs::metadata(self.path("sys")).unwrap().gid(), more);
    }

    /// The same, and the spool is for this group.
    pub fn configure_for(&self, gid: u32, more: &str) {
        let sysctl_dir = self.path("sys");
        let yaml = format!("sysctl_dir: {}\nspool_gid: {gid}\n{more}\n", sysctl_dir.display());
        fs::write(self.path("installer.yaml"), yaml).unwrap();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.path("bin/installer"));
        command.args(["--config".as_ref(), self.path("installer.yaml").as_os_str()]);
        if !args.contains(&"--host-root") {
            command.args(["--host-root".as_ref(), self.path("host").as_os_str()]);
        }
        command.args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must succeed and returns what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        text(&output)
    }

    /// Runs a command that must fail with `code` and returns what it printed.
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output));
        text(&output)
    }

    /// A value as the kernel understands it: up to the first newline.
    pub fn sysctl(&self, name: &str) -> String {
        let text = fs::read_to_string(self.path("sys").join(name)).unwrap();
        text.lines().next().unwrap_or_default().to_owned()
    }

    /// Like the kernel, from one value to the other and nothing in between.
    pub fn set(&self, name: &str, value: &str) {
        let new = self.path("sys.new");
        fs::write(&new, format!("{value}\n")).unwrap();
        fs::rename(new, self.path("sys").join(name)).unwrap();
    }

    pub fn host_dir(&self) -> PathBuf {
        self.path("host/opt/coredump-handler")
    }

    pub fn spool(&self) -> PathBuf {
        self.path("host/var/lib/coredump-handler/spool")
    }

    /// Makes what the installer would have to make, the way others make it.
    pub fn furnish(&self) {
        for dir in [self.host_dir(), self.spool()] {
            fs::create_dir_all(&dir).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    /// Everything there is on the host: names, modes, groups, bytes and sysctls.
    pub fn snapshot(&self) -> Snapshot {
        let mut all = BTreeMap::new();
        look(&self.path("host"), &mut all);
        for (name, _) in BEFORE {
            all.insert(name.into(), (0, 0, self.sysctl(name).into_bytes()));
        }
        all
    }
}

/// By path, the mode, the group and the bytes.
type Snapshot = BTreeMap<PathBuf, (u32, u32, Vec<u8>)>;

fn look(path: &Path, all: &mut Snapshot) {
    let meta = path.symlink_metadata().unwrap();
    let mut bytes = Vec::new();
    if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            look(&entry.unwrap().path(), all);
        }
    } else {
        bytes = fs::read(path).unwrap();
    }
    all.insert(path.to_owned(), (meta.permissions().mode(), meta.gid(), bytes));
}

/// Waits for a condition, for as long as drift may go unnoticed.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether we are root; if not, says that the test shows nothing.
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("this test needs root, and has tested nothing");
    }
    root
}

/// All that a command printed.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}
