//! From a crash to a dump.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use protocol::host::DEFAULT_SPOOL_DIR;
use protocol::journal::{Line, Outcome};
use protocol::manifest::Truncation;
use protocol::spool::{Spool, State};
use testbed::elf;
use testbed::kernel::Sysctl;
use testbed::memory::{Fill, Memory};
use testbed::node::{self, Dump};
use testbed::wait_for;

use crate::{Collecting, Mounted, PATIENCE, kernel_log, peak_memory, unzip_approves};
use testbed::crash::Crasher;

#[test]
fn a_dump_has_every_byte_of_the_crash_and_says_whose_it_is() {
    let collecting = Collecting::new("");
    let crasher = Crasher::start(["--heap-mb", "64", "--comm", "a b"]);
    let (pid, address) = (crasher.pid, crasher.address);
    crasher.crash();

    let entry = collecting.node.wait_for_ready(1, PATIENCE).remove(0);
    let mut dump = collecting.node.open(&entry);
    let manifest = dump.manifest();
    assert_eq!(manifest.problems, [""; 0]);
    let crash = &manifest.crash;
    assert_eq!((crash.pid, crash.tid, crash.uid, crash.gid), (Some(pid), Some(pid), Some(0), Some(0)));
    assert_eq!(crash.signal_name.as_deref(), Some("SIGSEGV"));
    assert_eq!(crash.comm.as_ref().unwrap().to_string(), "a b");
    let exe = fs::canonicalize(env!("CARGO_BIN_EXE_crasher")).unwrap();
    assert_eq!(crash.exe.as_ref().unwrap().to_string(), exe.display().to_string());
    let cmdline: Vec<_> = crash.cmdline.as_ref().unwrap().iter().skip(1).map(ToString::to_string).collect();
    assert_eq!(cmdline, ["--heap-mb", "64", "--comm", "a b", "--wait"]);
    let age = manifest.captured_at.duration_since(crash.time.unwrap()).as_secs();
    assert!((0..60).contains(&age), "{age}");
    assert_eq!(manifest.core.truncated, None);
    assert_eq!(manifest.core.expected_bytes, Some(manifest.core.bytes));
    assert!(entry.to_string().ends_with("_a-b_SIGSEGV.zip"), "{entry}");

    let core = dump.entry("core");
    assert_eq!(core.len() as u64, manifest.core.bytes);
    let memory = Memory { fill: Fill::Pattern, length: 64 << 20 };
    let mut expected = vec![0; memory.length];
    memory.read_at(0, &mut expected);
    let found = elf::read_memory(&mut std::io::Cursor::new(&core), address, memory.length).unwrap();
    assert!(found == expected, "the memory in the core is not that of the process");

    let environ = String::from_utf8(dump.entry("proc/environ")).unwrap();
    assert!(environ.contains("SECRET=<redacted>") && !environ.contains("hidden"), "{environ}");
    for name in ["status", "stat", "cgroup", "limits", "auxv", "cmdline", "mountinfo", "maps"] {
        assert!(!dump.entry(&format!("proc/{name}")).is_empty(), "{name}");
    }
    assert!(String::from_utf8(dump.entry("proc/status")).unwrap().contains("CoreDumping:\t1"));

    let file = collecting.node.spool_dir().join(entry.to_string());
    unzip_approves(&file);
    assert!(kernel_log().contains(&format!("coredump-composer: pid {pid} (a b) crashed with signal 11")));
    let wrote = format!("coredump-composer: wrote {entry}");
    wait_for("its last line", PATIENCE, || kernel_log().contains(&wrote).then_some(()));
    assert!(gdb(&core).contains("Program terminated with signal SIGSEGV"));
}

/// What gdb says about a core.
fn gdb(core: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(core).unwrap();
    let mut gdb = Command::new("gdb");
    gdb.args(["-batch", "-nx", "-ex", "info registers", "-c"])
        .arg(file.path())
        .arg(env!("CARGO_BIN_EXE_crasher"));
    String::from_utf8_lossy(&node::run(&mut gdb).stdout).into_owned()
}

#[test]
fn what_a_plain_file_would_hold_is_what_the_dump_holds() {
    // The same process cannot crash twice. But two that are started alike,
    // without address space randomisation, have the same memory at the same
    // places: one is dumped into a file by the kernel alone, one through us,
    // and all that is mapped is compared.
    let collecting = Collecting::new("");
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    collecting.kernel.set(Sysctl::CoreUsesPid, "0");
    let pattern = Sysctl::CorePattern.read();
    let plain = dir.path().join("plain");
    let twins = Command::new("/usr/bin/env")
        .args(["setarch", "-R", "sh", "-c"])
        .arg(
            r#"ulimit -c unlimited
               echo "$1" > /proc/sys/kernel/core_pattern; "$0" --heap-mb 8 > /dev/null
               echo "$2" > /proc/sys/kernel/core_pattern; "$0" --heap-mb 8 > /dev/null
               true"#,
        )
        .arg(env!("CARGO_BIN_EXE_crasher"))
        .arg(&plain)
        .arg(&pattern)
        .output()
        .unwrap();
    assert!(twins.status.success(), "{twins:?}");
    let ours = collecting.dump().entry("core");
    let plain = fs::read(plain).unwrap();
    assert_eq!(ours.len(), plain.len());
    let segments = elf::segments(&mut &plain[..]).unwrap();
    assert_eq!(segments, elf::segments(&mut &ours[..]).unwrap());
    let differ = |a: &[u8], b: &[u8]| a.iter().zip(b).filter(|(a, b)| a != b).count();
    let (mut same, mut different) = (0, 0);
    for segment in segments {
        let range = segment.offset as usize..(segment.offset + segment.length) as usize;
        let n = differ(&plain[range.clone()], &ours[range.clone()]);
        different += n;
        same += range.len() - n;
    }
    // What differs is what the kernel gave each of the two: 16 random bytes,
    // a canary and pointers mangled with it, clocks in the vdso, its pid.
    assert!(same > 8 << 20 && different < 2048, "{different} bytes differ, {same} do not");
}

#[test]
fn a_core_of_five_gibibytes_goes_through_in_little_memory() {
    let collecting = Collecting::new("");
    Crasher::start(["--heap-mb", "5120", "--fill", "sparse"]).crash();
    let entry = collecting.node.wait_for_ready(1, PATIENCE).remove(0);
    let mut dump = collecting.node.open(&entry);
    let manifest = dump.manifest();
    assert!(manifest.core.bytes > 5 << 30, "{:?}", manifest.core);
    assert_eq!(manifest.core.expected_bytes, Some(manifest.core.bytes));
    assert_eq!(manifest.core.truncated, None);
    let kib = peak_memory(&mut dump);
    println!("a core of 5 GiB: at most {kib} KiB, held for {} ms", manifest.held_ms);
    assert!(kib < 32 << 10, "{kib} KiB");
    unzip_approves(&collecting.node.spool_dir().join(entry.to_string()));
}

#[test]
fn eight_threads_of_any_compression_take_little_memory() {
    for compression in ["deflate", "zstd", "store"] {
        let collecting = Collecting::new(&format!("composer: {{compression: {compression}, threads: 8}}"));
        Crasher::start(["--heap-mb", "1024", "--fill", "mixed"]).crash();
        let mut dump = collecting.dump();
        assert_eq!(dump.manifest().core.truncated, None);
        let kib = peak_memory(&mut dump);
        println!("a core of 1 GiB, {compression}: at most {kib} KiB");
        assert!(kib < 32 << 10, "{compression}: {kib} KiB");
    }
}

#[test]
fn a_process_of_a_hundred_thousand_arguments_takes_little_memory_too() {
    let collecting = Collecting::new("");
    let mut sh = Command::new("sh");
    sh.args(["-c", "kill -SEGV $$", "sh"]).args(std::iter::repeat_n("a", 100_000));
    assert!(sh.status().unwrap().core_dumped());
    let mut dump = collecting.dump();
    assert!(dump.manifest().crash.cmdline.unwrap().len() < 10_000);
    assert!(dump.entry("proc/cmdline").ends_with(&b"a\0".repeat(100_000)));
    let kib = peak_memory(&mut dump);
    assert!(kib < 32 << 10, "{kib} KiB");
}

#[test]
fn a_crash_that_is_killed_while_it_dumps_says_so() {
    let collecting = Collecting::new("");
    // Incompressible, so that it takes a while.
    let mut crasher = Crasher::start(["--heap-mb", "1024", "--fill", "random"]);
    crasher.let_go();
    let spool = Spool::open(collecting.node.spool_dir()).unwrap();
    wait_for("the middle of a dump", PATIENCE, || {
        spool.list().unwrap().into_iter().find(|found| found.bytes > 16 << 20)
    });
    crasher.kill();
    crasher.end();
    let entry = collecting.node.wait_for_ready(1, PATIENCE).remove(0);
    let mut dump = collecting.node.open(&entry);
    let core = dump.manifest().core;
    assert_eq!(core.truncated, Some(Truncation::KilledWhileDumping));
    assert!(core.bytes > 16 << 20 && core.bytes < core.expected_bytes.unwrap(), "{core:?}");
    unzip_approves(&collecting.node.spool_dir().join(entry.to_string()));
    assert_eq!(dump.entry("core").len() as u64, core.bytes);
}

#[test]
fn fifty_crashes_at_once_are_fifty_whole_dumps() {
    let collecting = Collecting::new("");
    // Who waits too long for a turn is counted as busy, and a disk may be, too.
    let spool_dir = collecting.node.spool_dir();
    let _disk = Mounted::tmpfs(&spool_dir, "size=1g,mode=2770");
    let crashers: Vec<_> = (0..50).map(|_| Crasher::start(["--heap-mb", "2"])).collect();
    let mut pids: Vec<_> = crashers.iter().map(|crasher| crasher.pid).collect();
    thread::scope(|scope| crashers.into_iter().for_each(|crasher| drop(scope.spawn(|| crasher.crash()))));
    let mut captured: Vec<_> = collecting
        .node
        .wait_for_ready(50, PATIENCE)
        .iter()
        .map(|entry| {
            let manifest = collecting.node.open(entry).manifest();
            assert_eq!(manifest.core.truncated, None);
            assert_eq!(manifest.problems, [""; 0]);
            manifest.crash.pid.unwrap()
        })
        .collect();
    captured.sort_unstable();
    pids.sort_unstable();
    assert_eq!(captured, pids);
    let journal = || fs::read_to_string(collecting.node.spool_dir().join("crashes.jsonl")).unwrap();
    let lines =
        wait_for("fifty lines", PATIENCE, || Some(journal()).filter(|text| text.lines().count() == 50));
    for line in lines.lines() {
        let line: Line = serde_json::from_str(line).unwrap();
        assert!(matches!(line.outcome, Outcome::Captured { truncated: None, .. }), "{line:?}");
    }
}

#[test]
fn namespaces_and_hostile_names_lead_nobody_astray() {
    let collecting = Collecting::new("");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--uts", "sh", "-c"]);
    command.arg(r#"printf 'P1 s9 "x' > /proc/sys/kernel/hostname; "$0" "$@"; true"#);
    command.arg(env!("CARGO_BIN_EXE_crasher")).args(["--comm", "../\n P1 e\"'"]);
    let crasher = Crasher::start_with(command);
    let pid = crasher.pid;
    assert!(pid < 10, "{pid}: it is in a pid namespace of its own");
    assert!(crasher.end().success());
    let manifest = collecting.dump().manifest();
    assert_ne!(manifest.crash.pid, Some(pid));
    assert_eq!(manifest.crash.signal, Some(11));
    assert_eq!(manifest.crash.hostname.unwrap().as_bytes(), br#"P1 s9 "x"#);
    assert_eq!(manifest.crash.comm.unwrap().as_bytes(), b"../\n P1 e\"'");
    assert!(manifest.crash.exe.is_some(), "{:?}", manifest.problems);
}

#[test]
fn a_pattern_without_a_pidfd_still_tells_whose_crash_it_is() {
    // As on kernels before 6.16, and as an earlier release might have asked.
    let collecting = Collecting::new("");
    let pattern = Sysctl::CorePattern.read();
    assert!(pattern.contains(" F%F"));
    collecting.kernel.set(Sysctl::CorePattern, &pattern.replace(" F%F", ""));
    Crasher::start(["--heap-mb", "1"]).crash();
    let manifest = collecting.dump().manifest();
    assert_eq!(manifest.problems, [""; 0]);
    assert!(manifest.crash.exe.is_some());
}

#[test]
fn a_spool_that_cannot_be_written_to_is_said_to_be_so_by_all() {
    let collecting = Collecting::new("");
    let spool_dir = collecting.node.spool_dir();
    let _disk = Mounted::tmpfs(&spool_dir, "ro,mode=2770,gid=65532");
    Crasher::start(["--heap-mb", "1"]).crash();
    wait_for("the reason in the kernel's log", PATIENCE, || {
        let reason = format!("creating a dump in {}: Read-only file system", spool_dir.display());
        kernel_log().contains(&reason).then_some(())
    });
    let status = collecting.node.installer(["status"]).output().unwrap();
    assert_eq!(status.status.code(), Some(1));
    let said = String::from_utf8(status.stderr).unwrap();
    assert!(said.contains("cannot be written to: EROFS"), "{said}");
}

/// A disk of its own for the default spool: by default 15 % of one are to stay
/// free, and this machine's may be fuller than that.
const ROOM: &str = "size=8g,mode=2770";

/// Directories that were made for a test.
struct Made(Vec<PathBuf>);

impl Made {
    fn all_of(dir: &Path) -> Made {
        let missing = dir.ancestors().filter(|dir| !dir.exists()).map(Path::to_owned).collect();
        fs::create_dir_all(dir).unwrap();
        Made(missing)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // Each only if it is empty: whatever else is there is somebody's.
        self.0.iter().for_each(|dir| drop(fs::remove_dir(dir)));
    }
}

#[test]
fn without_its_settings_the_composer_takes_the_defaults_and_says_so() {
    let collecting = Collecting::new("");
    fs::remove_file(collecting.node.host_dir().join("composer.yaml")).unwrap();
    let dir = Path::new(DEFAULT_SPOOL_DIR);
    if !dir.exists() {
        Crasher::start(["--heap-mb", "1"]).crash();
        let reason = format!("opening the spool {DEFAULT_SPOOL_DIR}: No such file");
        wait_for("the reason in the kernel's log", PATIENCE, || kernel_log().contains(&reason).then_some(()));
    }
    let _made = Made::all_of(dir);
    let _disk = Mounted::tmpfs(dir, ROOM);
    let spool = Spool::at(dir);
    Crasher::start(["--heap-mb", "1"]).crash();
    let found = wait_for("a dump in the default spool", PATIENCE, || {
        spool.list().unwrap().into_iter().find(|found| found.entry.state() == State::Ready)
    });
    let problems = Dump::open(&spool.path(&found.entry)).manifest().problems;
    assert!(problems.len() == 1 && problems[0].contains("composer.yaml: No such file"), "{problems:?}");
    assert!(collecting.node.dumps(State::Ready).is_empty());
}
