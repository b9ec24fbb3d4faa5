//! The crasher crashes, and its core has its memory. Needs root.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use testbed::elf;
use testbed::kernel::{Kernel, Sysctl};
use testbed::memory::{Fill, Memory};

/// The most that is compared at a time.
const PIECE: usize = 1 << 20;

/// Crashes and answers with the signal and the address of the memory.
fn crash(args: &[&str], comm: &str) -> (Option<i32>, u64) {
    // A pipe ignores the limit on cores; a file, which these go to, does not.
    let mut crasher = Command::new("/bin/sh")
        .args(["-c", r#"ulimit -c unlimited && exec "$0" "$@""#, env!("CARGO_BIN_EXE_crasher"), "--wait"])
        .args(args)
        .args(["--comm", comm])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starting the crasher");
    let mut line = String::new();
    let stdout = crasher.stdout.take().expect("stdout is piped");
    BufReader::new(stdout).read_line(&mut line).expect("the crasher says a line");
    let said: serde_json::Value = serde_json::from_str(&line).expect("the line is JSON");
    assert_eq!(said["pid"], crasher.id());
    let seen = fs::read_to_string(format!("/proc/{}/comm", crasher.id())).expect("the crasher waits");
    assert_eq!(seen.trim_end(), comm);
    // `wait` closes its stdin, which is what it waits for.
    let ended = crasher.wait().expect("waiting for the crasher");
    (ended.signal(), said["address"].as_u64().expect("an address"))
}

fn assert_core_has(core: &Path, address: u64, memory: Memory) {
    let mut core = File::open(core).expect("the kernel wrote a core");
    for at in (0..memory.length).step_by(PIECE) {
        let mut expected = vec![0; PIECE.min(memory.length - at)];
        memory.read_at(at, &mut expected);
        let found = elf::read_memory(&mut core, address + at as u64, expected.len())
            .expect("the core has the memory");
        assert!(found == expected, "{memory:?} differs in the MiB at {at}");
    }
}

#[test]
fn a_core_has_the_memory_of_the_crash() {
    let dir = tempfile::Builder::new().prefix("cdh.").tempdir_in("/tmp").unwrap();
    let kernel = Kernel::lock();
    kernel.set(Sysctl::CoreUsesPid, "0");
    kernel.set(Sysctl::CorePattern, &format!("{}/core.%e", dir.path().display()));
    let crashes = [
        (Fill::Pattern, "SEGV", 11, 3),
        (Fill::Random, "SIGABRT", 6, 3),
        (Fill::Zero, "BUS", 7, 3),
        (Fill::Sparse, "SEGV", 11, 64),
        (Fill::Mixed, "SEGV", 11, 3),
    ];
    for (fill, name, signal, heap_mb) in crashes {
        let comm = format!("c {fill}");
        let args = ["--heap-mb", &heap_mb.to_string(), "--fill", &fill.to_string(), "--signal", name];
        let (died_of, address) = crash(&args, &comm);
        assert_eq!(died_of, Some(signal), "{fill} with {name}");
        let core = dir.path().join(format!("core.{comm}"));
        assert_core_has(&core, address, Memory { fill, length: heap_mb << 20 });
    }
}
