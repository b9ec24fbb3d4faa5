//! The benchmark measures, and leaves the machine as it was. Needs root. How
//! fast anything is, is not asked here.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use testbed::bench::handler::Handler;
use testbed::kernel::{Kernel, Sysctl};
use testbed::wait_for;

const PATIENCE: Duration = Duration::from_secs(300);

/// Small, into `dir`, with a group of its own.
fn start(dir: &TempDir, args: &[&str]) -> Child {
    testbed::node::dist();
    Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["--no-goals", "--dir"])
        .arg(dir.path())
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("starting the benchmark")
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_nothing_is_left(dir: TempDir, output: &Output) {
    let left: Vec<_> = fs::read_dir(dir.path()).expect("the directory of dumps").collect();
    assert!(left.is_empty(), "{left:?}\n{}", said(&output.stderr));
    let _kernel = Kernel::lock(); // another one may have it already
    let pattern = Sysctl::CorePattern.read();
    assert!(!pattern.contains(" meter "), "{pattern}\n{}", said(&output.stderr));
}

fn disk() -> TempDir {
    tempfile::tempdir_in("/var/tmp").expect("a directory in /var/tmp")
}

#[test]
fn it_has_a_row_for_every_handler() {
    let (dir, kept) = (disk(), disk());
    let path = kept.path().join("benchmarks.md");
    let args = ["--mib", "8", "--runs", "1", "--only", "mixed", "--small", "3", "--write"];
    let bench = start(&dir, &[&args[..], &[path.to_str().unwrap()]].concat());
    let output = bench.wait_with_output().expect("the benchmark");
    let table = said(&output.stdout);
    assert!(output.status.success(), "{table}{}", said(&output.stderr));
    for handler in Handler::ALL {
        let row = table.lines().find(|line| line.starts_with(&format!("| {handler} | ")));
        let row = row.unwrap_or_else(|| panic!("no row of {handler} in\n{table}"));
        // There will be a time when this has to be a number.
        let not_there = handler == Handler::Zstd && row.contains("not there yet");
        let held = row.split(['|', ' ']).filter(|word| !word.is_empty()).find_map(|word| word.parse().ok());
        assert!(not_there || held.is_some_and(|held: f64| held > 0.0), "{row}");
    }
    assert!(table.contains("## Small crashes") && !table.contains("## Goals"), "{table}");
    assert_eq!(fs::read_to_string(path).unwrap(), table);
    assert_nothing_is_left(dir, &output);
}

#[test]
fn a_goal_that_is_missed_is_its_exit_code() {
    // Only a discard that took no time at all would not miss it.
    let dir = disk();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    bench.args(["--mib", "8", "--runs", "1", "--only", "random", "--handlers", "discard,naive,raw,deflate"]);
    let output = bench.args(["--small", "0", "--dir"]).arg(dir.path()).output().expect("the benchmark");
    let table = said(&output.stdout);
    assert_eq!(output.status.success(), !table.contains("**no**"), "{table}{}", said(&output.stderr));
    assert!(table.contains("| random | deflate holds no longer than the raw file | "), "{table}");
    assert_nothing_is_left(dir, &output);
}

#[test]
fn broken_off_in_the_middle_of_a_crash_it_leaves_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let dir = disk();
        // It takes miniz_oxide long enough to be caught.
        let bench = start(&dir, &["--mib", "256", "--only", "random", "--handlers", "naive"]);
        let begun = || {
            let work = fs::read_dir(dir.path()).ok()?.next()?.ok()?.path();
            let mut dumps = fs::read_dir(work).ok()?.flatten();
            let written = |path: &fs::DirEntry| path.metadata().is_ok_and(|meta| meta.len() > 1 << 20);
            dumps.find(written)
        };
        wait_for("a dump to grow", PATIENCE, begun);
        killpg(Pid::from_raw(bench.id() as i32), signal).expect("Ctrl-C");
        let output = bench.wait_with_output().expect("the benchmark");
        assert_eq!(output.status.code(), Some(1), "{}", said(&output.stderr));
        assert!(said(&output.stderr).ends_with("interrupted\n"), "{}", said(&output.stderr));
        assert_nothing_is_left(dir, &output);
    }
}
