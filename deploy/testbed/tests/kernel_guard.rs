//! The kernel's settings are put back, whatever becomes of the test that
//! changed them. Needs root.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::panic;
use std::process::{Command, Stdio};

use testbed::kernel::{Kernel, Sysctl};

const HOLD: &str = "TESTBED_HOLD_KERNEL";

fn settings() -> [String; 4] {
    Sysctl::ALL.map(Sysctl::read)
}

fn change_all(kernel: &Kernel) {
    for (sysctl, value) in Sysctl::ALL.into_iter().zip(["1", "/dev/null %p", "7", "1"]) {
        kernel.set(sysctl, value);
    }
}

#[test]
fn what_was_there_is_there_again() {
    let kernel = Kernel::lock();
    let before = settings();
    change_all(&kernel);
    assert_eq!(settings(), ["1", "/dev/null %p", "7", "1"]);
    assert_eq!(Sysctl::ALL.map(|sysctl| kernel.before(sysctl).to_owned()), before);
    drop(kernel);
    let _again = Kernel::lock();
    assert_eq!(settings(), before);
}

#[test]
fn a_panic_leaves_nothing_changed() {
    let before = {
        let _kernel = Kernel::lock();
        settings()
    };
    let failed = panic::catch_unwind(|| {
        let kernel = Kernel::lock();
        change_all(&kernel);
        panic!("a failing test");
    });
    assert!(failed.is_err());
    let _kernel = Kernel::lock();
    assert_eq!(settings(), before);
}

#[test]
fn kill_9_leaves_nothing_changed() {
    let before = {
        let _kernel = Kernel::lock();
        settings()
    };
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_one_that_is_killed", "--nocapture"])
        .env(HOLD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with("changed")), "the holder gave up");
    assert_eq!(Sysctl::CorePattern.read(), "/dev/null %p");
    holder.kill().unwrap();
    assert_eq!(holder.wait().unwrap().signal(), Some(9));

    let _kernel = Kernel::lock(); // waits for the watchdog
    assert_eq!(settings(), before);
}

/// No test of its own: what `kill_9_leaves_nothing_changed` runs and kills.
#[test]
fn the_one_that_is_killed() {
    if std::env::var_os(HOLD).is_some() {
        let kernel = Kernel::lock();
        change_all(&kernel);
        println!("changed");
        std::io::stdin().read_line(&mut String::new()).unwrap();
    }
}
