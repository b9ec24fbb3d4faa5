//! Does the real composer behave? It is run the way the kernel runs it, less
//! the kernel: `deploy/testbed/tests` has that.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use protocol::journal::{Line, Outcome};
use protocol::manifest::{Attribution, Manifest, Truncation};
use protocol::spool::{Spool, State, is_abandoned};
use protocol::zip64;

const ARGS: [&[u8]; 11] =
    [b"P4711", b"I4712", b"u0", b"g0", b"s11", b"t1795375861", b"c0", b"d1", b"F", b"hweb-0", b"emy app"];

/// A directory shaped like a host: the composer, its settings and a spool.
struct Node(tempfile::TempDir);

impl Node {
    fn new() -> Node {
        let node = Node(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        // A link, since an executable that is copied in a threaded test may be
        // "busy": another thread's child may still hold it open for writing.
        fs::hard_link(env!("CARGO_BIN_EXE_composer"), node.path("composer")).unwrap();
        fs::create_dir(node.path("spool")).unwrap();
        node.settings("");
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// How full this machine's disk is makes no difference.
    fn settings(&self, more: &str) {
        let yaml = format!("spool_dir: {}\nkeep_free: 64MiB\n{more}", self.path("spool").display());
        fs::write(self.path("composer.yaml"), yaml).unwrap();
    }

    fn spool(&self) -> Spool {
        Spool::open(self.path("spool")).unwrap()
    }

    /// Starts the composer the way the kernel does: no environment, `/` as its
    /// directory, the core on 0, and 1 and 2 closed.
    fn start(&self, args: &[&[u8]]) -> Child {
        self.start_after(":", args)
    }

    /// The same, after what a shell does first.
    fn start_after(&self, first: &str, args: &[&[u8]]) -> Child {
        Command::new("/bin/sh")
            .arg("-c")
            .arg(format!(r#"{first}; exec "$0" "$@" >&- 2>&-"#))
            .arg(self.path("composer"))
            .args(args.iter().map(|arg| OsStr::from_bytes(arg)))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn crash_with(&self, args: &[&[u8]], core: &[u8]) -> ExitStatus {
        feed(self.start(args), core)
    }

    /// Crashes once and opens the dump.
    fn crash(&self, args: &[&[u8]], core: &[u8]) -> Dump {
        assert!(self.crash_with(args, core).success());
        self.only_dump()
    }

    fn only_dump(&self) -> Dump {
        let dumps = self.spool().list().unwrap();
        let [dump] = &dumps[..] else { panic!("{dumps:?}") };
        assert_eq!(dump.entry.state(), State::Ready);
        Dump::open(&self.spool().path(&dump.entry))
    }

    fn journal(&self) -> Vec<Line> {
        let text = fs::read_to_string(self.path("spool/crashes.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn feed(mut composer: Child, core: &[u8]) -> ExitStatus {
    // A composer that refuses closes the pipe, as it should.
    let _ = composer.stdin.take().unwrap().write_all(core);
    composer.wait().unwrap()
}

struct Dump {
    name: String,
    zip: zip::ZipArchive<File>,
    manifest: Manifest,
}

impl Dump {
    fn open(path: &Path) -> Dump {
        let mut zip = zip::ZipArchive::new(File::open(path).unwrap()).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let manifest = read(&mut zip, "manifest.json");
        Dump { name, zip, manifest: serde_json::from_slice(&manifest).unwrap() }
    }

    fn read(&mut self, entry: &str) -> Vec<u8> {
        read(&mut self.zip, entry)
    }
}

fn read(zip: &mut zip::ZipArchive<File>, entry: &str) -> Vec<u8> {
    let mut names = zip.file_names().map(|name| name.unwrap().into_owned());
    let name =
        names.find(|name| name.split_once('/').unwrap().1 == entry).unwrap_or_else(|| panic!("no {entry}"));
    drop(names);
    let mut content = Vec::new();
    zip.by_name(&name).unwrap().read_to_end(&mut content).unwrap();
    content
}

/// The headers of an ELF core of one segment of `bytes`, and those bytes.
fn elf(bytes: usize) -> Vec<u8> {
    let mut core = b"\x7fELF\x02\x01\x01".to_vec();
    core.resize(32, 0);
    core.extend(64u64.to_le_bytes());
    core.resize(54, 0);
    core.extend([56, 0, 1, 0]);
    core.resize(64 + 8, 0);
    core.extend(120u64.to_le_bytes());
    core.resize(64 + 32, 0);
    core.extend((bytes as u64).to_le_bytes());
    core.resize(120, 0);
    core.extend((0..bytes).map(|i| (i * 7 / 3) as u8));
    core
}

#[test]
fn only_of_a_whole_core_its_header_says_that_it_has_ended() {
    for (core, whole) in [(&elf(300_000)[..], true), (&elf(300_000)[..250_000], false)] {
        let node = Node::new();
        assert!(node.crash_with(&ARGS, core).success());
        let dump = node.spool().list().unwrap().remove(0).entry;
        let (_, stage, _) = zip64::Entry::read(&node.spool().read(&dump).unwrap()).unwrap().unwrap();
        assert_eq!(matches!(stage, zip64::Stage::Ended(_)), whole, "{stage:?}");
    }
}

#[test]
fn a_core_arrives_byte_for_byte() {
    let node = Node::new();
    let core = elf(3_000_000);
    let mut dump = node.crash(&ARGS, &core);
    assert!(dump.read("core") == core);
    let manifest = &dump.manifest;
    assert_eq!(manifest.core.bytes, core.len() as u64);
    assert_eq!(manifest.core.expected_bytes, Some(core.len() as u64));
    assert_eq!(manifest.core.crc32, format!("{:08x}", crc32fast::hash(&core)));
    assert_eq!(manifest.core.truncated, None);
    assert_eq!(manifest.crash.signal_name.as_deref(), Some("SIGSEGV"));
    assert_eq!(manifest.crash.time.unwrap().to_string(), "2026-11-22T19:31:01Z");
    assert!(matches!(&manifest.container, Attribution::Missing { id: None, .. }));
    let id = manifest.id.as_str();
    assert!(id.starts_with("20261122T193101Z-4711-"), "{id}");
    assert_eq!(dump.name, format!("{id}_my-app_SIGSEGV.zip"));
    let last = dump.zip.len() - 1;
    assert_eq!(
        dump.zip.by_index(last).unwrap().name().unwrap(),
        format!("{id}/manifest.json"),
        "it is the last"
    );
    let mode = fs::metadata(node.path("spool").join(&dump.name)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let [line] = &node.journal()[..] else { panic!("one line") };
    assert!(
        matches!(line.outcome, Outcome::Captured { truncated: None, core_bytes, .. } if core_bytes == core.len() as u64)
    );
}

#[test]
fn settings_decide_whether_the_core_is_compressed() {
    for (setting, method) in
        [("deflate", zip::CompressionMethod::Deflated), ("store", zip::CompressionMethod::Stored)]
    {
        let node = Node::new();
        node.settings(&format!("compression: {setting}"));
        let core = elf(100_000);
        let mut dump = node.crash(&ARGS, &core);
        assert!(dump.read("core") == core);
        let name = format!("{}/core", dump.manifest.id);
        assert_eq!(dump.zip.by_name(&name).unwrap().compression(), method);
    }
}

#[test]
fn a_core_cut_short_says_so() {
    let node = Node::new();
    let core = elf(1000);
    let mut dump = node.crash(&ARGS, &core[..500]);
    assert_eq!(dump.read("core"), &core[..500]);
    assert_eq!(dump.manifest.core.expected_bytes, Some(1120));
    assert_eq!(dump.manifest.core.truncated, Some(Truncation::KilledWhileDumping));
}

#[test]
fn what_is_no_core_is_kept_as_it_is_and_says_so() {
    for (input, truncated, problem) in [
        (&b"certainly not an ELF file"[..], None, "does not begin like an ELF core"),
        (b"", Some(Truncation::KilledWhileDumping), "ended before its headers did"),
        (&elf(9)[..70], Some(Truncation::KilledWhileDumping), "ended before its headers did"),
    ] {
        let node = Node::new();
        let mut dump = node.crash(&ARGS, input);
        assert_eq!(dump.read("core"), input);
        assert_eq!(dump.manifest.core.expected_bytes, None);
        assert_eq!(dump.manifest.core.truncated, truncated);
        let problems = &dump.manifest.problems;
        assert!(problems.iter().any(|p| p.contains(problem)), "{problems:?}");
    }
}

#[test]
fn hostile_names_stay_text_and_leave_no_path_outside_the_spool() {
    for comm in [&b"e../../../etc/passwd"[..], b"e\xff\xfe", b"ea\nb\"c'd", b"e$(reboot)", b"e", b"e../"] {
        let node = Node::new();
        let mut args = ARGS;
        args[10] = comm;
        args[9] = b"h../../x";
        let core = elf(10);
        let mut dump = node.crash(&args, &core);
        assert_eq!(dump.read("core"), core);
        assert_eq!(dump.manifest.crash.comm.as_ref().unwrap().as_bytes(), &comm[1..]);
        assert!(dump.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{}", dump.name);
        let found: Vec<_> =
            fs::read_dir(node.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(node.journal().len(), 1);
    }
}

#[test]
fn arguments_nobody_understands_cost_no_core() {
    for args in [&[][..], &[&b"Pabc"[..], b"s-"], &[b"4711", b"11"], &[b"\xff", b""]] {
        let node = Node::new();
        let core = elf(100);
        let mut dump = node.crash(args, &core);
        assert_eq!(dump.read("core"), core);
        assert_eq!(dump.manifest.crash.pid, None);
        assert!(dump.manifest.problems.iter().any(|p| p.contains("%P")), "{:?}", dump.manifest.problems);
    }
}

#[test]
fn bad_settings_cost_no_core_and_the_manifest_names_them() {
    let node = Node::new();
    node.settings("compression: gzip\ncompresion: store\n");
    let dump = node.crash(&ARGS, &elf(10));
    let problems = dump.manifest.problems.join("\n");
    assert!(problems.contains("composer.yaml: compression: unknown variant"), "{problems}");
    assert!(problems.contains("composer.yaml: compresion: is no setting"), "{problems}");
}

#[test]
fn a_process_that_is_gone_is_missing_with_a_reason() {
    let node = Node::new();
    let mut args = ARGS;
    args[0] = b"P4294967295";
    let mut dump = node.crash(&args, &elf(10));
    assert_eq!(dump.manifest.crash.exe, None);
    let log = String::from_utf8(dump.read("composer.log")).unwrap();
    assert!(log.contains("opening /proc/4294967295: No such file"), "{log}");
    assert!(!dump.zip.file_names().any(|name| name.unwrap().contains("/proc/")));
}

#[test]
fn nothing_is_written_where_there_is_no_spool() {
    let node = Node::new();
    fs::remove_dir(node.path("spool")).unwrap();
    assert!(!node.crash_with(&ARGS, &elf(1 << 20)).success());
    assert!(!node.path("spool").exists());
    fs::write(node.path("spool"), "a file").unwrap();
    assert!(!node.crash_with(&ARGS, &elf(1 << 20)).success());
    assert_eq!(fs::read(node.path("spool")).unwrap(), b"a file");
}

#[test]
fn fifty_crashes_at_once_are_fifty_dumps() {
    let node = Node::new();
    thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| assert!(node.crash_with(&ARGS, &elf(100_000)).success()));
        }
    });
    let dumps = node.spool().list().unwrap();
    assert_eq!(dumps.len(), 50);
    let ids: std::collections::BTreeSet<_> =
        dumps.iter().map(|dump| Dump::open(&node.spool().path(&dump.entry)).manifest.id).collect();
    assert_eq!(ids.len(), 50);
    assert_eq!(node.journal().len(), 50);
}

#[test]
fn while_it_writes_the_part_is_locked_and_killed_it_is_abandoned() {
    let node = Node::new();
    let mut composer = node.start(&ARGS);
    let mut pipe = composer.stdin.take().unwrap();
    pipe.write_all(&elf(1 << 20)[..1 << 19]).unwrap();
    let part = wait_for("a part", || node.spool().list().unwrap().pop()).entry;
    assert_eq!(part.state(), State::Part);
    assert!(!is_abandoned(&node.spool().read(&part).unwrap()).unwrap());
    composer.kill().unwrap();
    composer.wait().unwrap();
    assert!(is_abandoned(&node.spool().read(&part).unwrap()).unwrap());
    assert_eq!(node.spool().list().unwrap().len(), 1, "it stays: what there is of it is evidence");
}

#[test]
fn a_dump_that_cannot_be_ended_is_no_refused_one_but_left_to_be_repaired() {
    let node = Node::new();
    node.settings("compression: zstd");
    // Noise, of which a file may have a MiB (in the shell's blocks of 512 bytes).
    let mut core = elf(0);
    File::open("/dev/urandom").unwrap().take(8 << 20).read_to_end(&mut core).unwrap();
    let composer = node.start_after("trap '' XFSZ; ulimit -f 2048", &ARGS);
    assert!(!feed(composer, &core).success());
    let [part] = &node.spool().list().unwrap()[..] else { panic!("one part") };
    assert_eq!(part.entry.state(), State::Part);
    assert!(part.bytes > 0 && is_abandoned(&node.spool().read(&part.entry).unwrap()).unwrap());
    assert!(!node.path("spool/crashes.jsonl").exists(), "whoever repairs it writes the line");
}

#[test]
fn memory_does_not_grow_with_the_core() {
    let node = Node::new();
    let mut composer = node.start(&ARGS);
    let mut pipe = composer.stdin.take().unwrap();
    let block = elf(1 << 20);
    for _ in 0..256 {
        pipe.write_all(&block).unwrap();
    }
    drop(pipe);
    assert!(composer.wait().unwrap().success());
    let log = String::from_utf8(node.only_dump().read("composer.log")).unwrap();
    let line = log.lines().find(|line| line.contains("KiB of memory")).unwrap();
    let kib: u64 =
        line.split_whitespace().find_map(|word| word.parse().ok().filter(|kib| *kib > 100)).unwrap();
    assert!(kib < 16 << 10, "{line}");
}

#[test]
fn a_person_is_told_what_this_is() {
    let run = |arg: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_composer")).args(arg).stdin(Stdio::null()).output().unwrap()
    };
    let version = run(&["--version"]);
    assert!(version.status.success() && version.stdout.starts_with(b"composer "));
    assert!(run(&["--help"]).stdout.starts_with(b"composer: "));
    assert_eq!(run(&[]).status.code(), Some(64));
    assert_eq!(run(&["what"]).status.code(), Some(64));
}

fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Some(value) = condition() {
            return value;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("no {what} in time");
}
