//! The programs read what strangers wrote: the properties named `hostile` of
//! their own tests.

use std::env;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::Tally;

/// Bytes of data that a test program may have. The largest text it is given has a
/// few megabytes, so that what has no bound is killed.
const MEMORY: u64 = 256 << 20;
/// Seconds of processor time that a test program may take, which is half an hour
/// of those that never end.
const TIME: u64 = 900;

/// Gives the readers so many texts, as many to each, and counts those that were
/// read as they should be.
pub fn hostile_texts(cases: usize) -> Tally {
    let listed = said(hostile(1).arg("--list"));
    let properties = listed.lines().filter(|line| line.ends_with(": test")).count();
    assert!(properties > 0, "there is no property to be tested: {listed}");
    let each = cases.div_ceil(properties);
    let began = Instant::now();
    let said = said(&mut hostile(each));
    let mut tally = Tally { case: "hostile texts", ..Tally::default() };
    let passed = said.lines().filter_map(|line| {
        line.strip_prefix("test result: ")?.split_once(". ")?.1.split_once(" passed")?.0.parse::<usize>().ok()
    });
    // Each of them stops at the first that fails.
    let passed: usize = passed.sum();
    tally.runs = passed * each;
    let failed = said.lines().filter(|line| line.starts_with("test ") && line.ends_with("FAILED"));
    tally.lied.extend(failed.map(str::to_owned));
    if tally.lied.is_empty() && passed < properties {
        tally.lost.push(format!("{} of {properties} properties did not come to an end", properties - passed));
    }
    let seconds = began.elapsed().as_secs();
    tally.notes = format!(
        "{each} for each of {properties} properties, in {seconds} s and at most {} MiB",
        MEMORY >> 20
    );
    tally
}

/// The tests, bounded in memory and time.
fn hostile(cases: usize) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).env("PROPTEST_CASES", cases.to_string());
    let runner = format!("target.'cfg(all())'.runner = ['prlimit', '--data={MEMORY}', '--cpu={TIME}']");
    cargo.args(["test", "--release", "--locked", "--lib", "--no-fail-fast", "--config", &runner]);
    cargo.args(["-p", "protocol", "-p", "composer", "-p", "uploader", "--", "hostile::"]);
    cargo
}

fn said(cargo: &mut Command) -> String {
    let output = cargo.stderr(Stdio::inherit()).output().expect("running cargo");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
