//! Processes crash that chose every name they have.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use protocol::journal::{FILE_NAME, Line, Outcome};
use protocol::spool::{Entry, State};
use protocol::text::one_line;

use super::Tally;
use super::daemon::Uploader;
use super::dump::{Kind, judge};
use super::kill::{Dice, by_pid};
use crate::crash::Crasher;
use crate::kernel::Kernel;
use crate::memory::{Fill, Memory};
use crate::node::{Dump, Node, program};
use crate::store::Store;
use crate::wait_for;

const BUCKET: &str = "dumps";
const MEMORY: Memory = Memory { fill: Fill::Mixed, length: 1 << 20 };
const PATIENCE: Duration = Duration::from_secs(240);

/// What means something to somebody who may come to see it.
const RUDE: [&[u8]; 20] = [
    b"\n",
    b"\r\n",
    b"\x1b[2K",
    b"\x07\x08\x7f",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    "\u{85}".as_bytes(),
    "\u{2028}".as_bytes(),
    "\u{202e}".as_bytes(),
    "ä\u{1f4a5}".as_bytes(),
    b" P1 s9 ",
    b"%e%s%n",
    b"..",
    b"\\x0a",
    b"\"}\n{\"",
    b"' ; reboot #",
    b"$(reboot)",
    b"(deleted)",
    b"\nX-Amz-Meta-Pod: other\r\n\r\n",
    FORGED.as_bytes(),
];
/// What looks like a line of the uploader's log.
const FORGED: &str = "\n[2026-11-22T19:31:02Z ERROR uploader] forged dump=x";
/// Bytes of a file's name, less what is put before it.
const MOST_NAME: usize = 200;
/// Bytes of a command's (`TASK_COMM_LEN`).
const MOST_COMM: usize = 15;
/// Bytes of a host's that the kernel hands over whole.
const MOST_HOST: usize = 60;
/// Bytes of an argument (`MAX_ARG_STRLEN`), less the option's name; so many are
/// about all that the kernel takes.
const MOST_ARGUMENT: usize = 120 << 10;
const MOST_ARGUMENTS: usize = 15;
/// Bytes of arguments that a dump has in `proc/cmdline`.
const KEPT_ARGUMENTS: usize = 1 << 20;
/// KiB of memory that a composer may have.
const MOST_KIB: u64 = 32 << 10;

/// A process, and what it called itself.
struct Stranger {
    pid: u32,
    address: u64,
    comm: Vec<u8>,
    exe: Vec<u8>,
    arguments: Vec<Vec<u8>>,
    hostname: Option<Vec<u8>>,
}

/// So many processes crash under names that are made to mislead; then one
/// uploader ships them. `seed` makes the same names again.
pub fn hostile_names(runs: usize, seed: u64) -> Tally {
    let (kernel, node, store) = (Kernel::lock(), Node::new(""), Store::temporary(BUCKET));
    node.install();
    node.upload_to(&store, BUCKET, "");
    let dir = node.path().join("strangers");
    fs::create_dir(&dir).expect("a directory for them");
    fs::copy(program("crasher"), dir.join("crasher")).expect("copying the crasher");
    let strangers: Vec<_> =
        (0..runs as u64).map(|run| crash(&dir, run, &mut Dice(seed ^ (run << 20)))).collect();

    let mut tally = Tally { case: "hostile names", runs, ..Tally::default() };
    let journal = || fs::read_to_string(node.spool_dir().join(FILE_NAME)).unwrap_or_default();
    let journal =
        wait_for("as many lines", PATIENCE, || Some(journal()).filter(|text| text.lines().count() >= runs));
    examine_spool(&node, &journal, &mut tally);
    let uploader = Uploader::start(&node);
    wait_for("an empty spool", PATIENCE, || node.dumps(State::Ready).is_empty().then_some(()));
    let log = || Uploader::log(&node);
    let log = wait_for("what the composers did", PATIENCE, || {
        Some(log()).filter(|log| log.matches("] captured dump=").count() >= runs)
    });
    drop(uploader);
    examine_log(&log, &mut tally);
    let objects = by_pid(store.objects(BUCKET));
    for stranger in &strangers {
        match objects.get(&stranger.pid).map(Vec::as_slice).unwrap_or_default() {
            [key] => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
                if !key.starts_with("_/_/") || !key.bytes().all(plain) {
                    tally.lied.push(format!("{key:?} is no key of a process of the host"));
                }
                examine(&store.path(BUCKET, key), stranger, &mut tally);
            }
            [] => tally.lost.push(format!("pid {}", stranger.pid)),
            more => tally.lied.push(format!("{more:?} are of one crash")),
        }
    }
    let longest = strangers.iter().map(|stranger| stranger.arguments.concat().len()).max().unwrap_or(0);
    tally.notes = format!("up to {} KiB of arguments", longest >> 10);
    drop(kernel);
    tally
}

/// A crash of a process in `dir` that names itself as `dice` will.
fn crash(dir: &Path, run: u64, dice: &mut Dice) -> Stranger {
    // Every eighth has all that the kernel takes.
    let mut arguments: Vec<_> = (0..dice.roll(4)).map(|_| rude(dice, 100)).collect();
    if run % 8 == 7 {
        arguments.extend((0..MOST_ARGUMENTS).map(|_| rude(dice, MOST_ARGUMENT)));
    }
    let mut name = rude(dice, MOST_NAME);
    name.iter_mut().filter(|byte| **byte == b'/').for_each(|byte| *byte = b'_');
    let exe = dir.join(OsString::from_vec([format!("{run}").as_bytes(), &name].concat()));
    fs::hard_link(dir.join("crasher"), &exe).expect("giving the crasher another name");
    let home = dir.join(OsString::from_vec([format!("home{run}").as_bytes(), &name].concat()));
    fs::create_dir(&home).expect("a directory for one of them");
    let hostname = run.is_multiple_of(3).then(|| rude(dice, MOST_HOST));
    let mut command = match &hostname {
        Some(hostname) => {
            let mut unshare = Command::new("unshare");
            let script = r#"printf %s "$NAME" > /proc/sys/kernel/hostname; exec "$0" "$@""#;
            unshare.args(["--uts", "sh", "-c", script]).arg(&exe).env("NAME", option("", hostname));
            unshare
        }
        None => Command::new(&exe),
    };
    let comm = rude(dice, MOST_COMM);
    // Which it is told to say not once.
    command.args(["--heap-mb", "1", "--fill", "mixed", "--repeat", "0"]).arg(option("--comm=", &comm));
    command.args(arguments.iter().map(|argument| option("--stdout=", argument)));
    let mut variable = rude(dice, 50);
    variable.retain(|byte| *byte != b'=');
    command.env(option("X", &variable), option("", &rude(dice, 5000))).current_dir(home);
    let crasher = Crasher::start_with(command);
    let (pid, address) = (crasher.pid, crasher.address);
    let mut exe = exe.into_os_string().into_vec();
    if run.is_multiple_of(2) {
        fs::remove_file(OsStr::from_bytes(&exe)).expect("deleting its program");
        exe.extend(b" (deleted)");
    }
    crasher.crash();
    Stranger { pid, address, comm, exe, arguments, hostname }
}

/// A few of [`RUDE`], of `most` bytes at the most, and not none.
fn rude(dice: &mut Dice, most: usize) -> Vec<u8> {
    let piece = |dice: &mut Dice| RUDE[dice.roll(RUDE.len() as u64) as usize];
    let mut bytes = piece(dice).to_vec();
    while bytes.len() < most && (most > 1000 || dice.roll(4) > 0) {
        bytes.extend(piece(dice));
        bytes.extend(b"abc");
    }
    bytes.truncate(most);
    bytes
}

fn option(name: &str, value: &[u8]) -> OsString {
    OsString::from_vec([name.as_bytes(), value].concat())
}

/// Every name is one of ours, and every line of the journal is one.
fn examine_spool(node: &Node, journal: &str, tally: &mut Tally) {
    for file in fs::read_dir(node.spool_dir()).expect("the spool") {
        let name = file.expect("the spool").file_name();
        let entry = name.to_str().and_then(Entry::parse);
        if name != FILE_NAME && entry.is_none_or(|entry| entry.state() != State::Ready) {
            tally.lied.push(format!("{name:?} is in the spool"));
        }
    }
    if journal.lines().count() != tally.runs {
        tally.lied.push(format!("{FILE_NAME} has {} lines", journal.lines().count()));
    }
    for line in journal.lines() {
        let whole = |line: Line| matches!(line.outcome, Outcome::Captured { truncated: None, .. });
        if !serde_json::from_str(line).is_ok_and(whole) || line.chars().any(char::is_control) {
            tally.lied.push(format!("{FILE_NAME} has the line {line:?}"));
        }
    }
}

/// Every line is one of the uploader's own, and two of them are of each crash.
fn examine_log(log: &str, tally: &mut Tally) {
    for line in log.lines() {
        if one_line(line) != line || !line.starts_with("[20") || line.starts_with(FORGED.trim_start()) {
            tally.lied.push(format!("the log has the line {line:?}"));
        }
    }
    for word in ["captured", "uploaded"] {
        let lines = log.lines().filter(|line| line.contains(&format!("] {word} dump="))).count();
        if lines != tally.runs {
            tally.lied.push(format!("{lines} lines of the log say that something was {word}"));
        }
    }
}

/// A dump is whole, and calls the process as it called itself.
fn examine(path: &Path, stranger: &Stranger, tally: &mut Tally) {
    let mut lied = |what: String| tally.lied.push(format!("{}: {what}", path.display()));
    match judge(path, stranger.address, MEMORY) {
        Ok(Kind::Whole) => {}
        Ok(other) => lied(format!("it is {other:?}")),
        Err(why) => lied(why),
    }
    let mut dump = Dump::open(path);
    let crash = dump.manifest().crash;
    let called = [&crash.comm, &crash.exe].map(|text| text.as_ref().map(|text| text.as_bytes().to_vec()));
    if called != [Some(stranger.comm.clone()), Some(stranger.exe.clone())] {
        lied(format!("it is of {called:?}, not {:?}", [&stranger.comm, &stranger.exe]));
    }
    // The kernel takes a line of it, and has a `!` for a name that is none
    // (`cn_esc_printf` in `fs/coredump.c`).
    let expected = stranger.hostname.as_ref().map(|name| match name.split(|byte| *byte == b'\n').next() {
        None | Some(b"") => b"!".to_vec(),
        Some(b"..") => b"!.".to_vec(),
        Some(name) => name.to_vec(),
    });
    let hostname = crash.hostname.map(|name| name.as_bytes().to_vec());
    if expected.is_some() && hostname != expected {
        lied(format!("its host is {hostname:?}, not {expected:?}"));
    }
    let arguments =
        stranger.arguments.iter().flat_map(|argument| [b"--stdout=", &argument[..], b"\0"].concat());
    let arguments: Vec<u8> = arguments.collect();
    let cmdline = dump.entry("proc/cmdline");
    let found = cmdline.windows(arguments.len().max(1)).any(|window| window == arguments);
    if !found && !arguments.is_empty() && cmdline.len() < KEPT_ARGUMENTS {
        lied("its arguments are others".to_owned());
    }
    let log = String::from_utf8(dump.entry("composer.log")).expect("composer.log is text");
    let line = |line: &str| {
        one_line(line) == line
            && line.trim_start().split_once(" ms  ").is_some_and(|(ms, _)| ms.parse::<u64>().is_ok())
    };
    log.lines().filter(|text| !line(text)).for_each(|line| lied(format!("its story has the line {line:?}")));
    let kib = log
        .lines()
        .find_map(|line| line.split_once("used at most ")?.1.split(' ').next()?.parse::<u64>().ok());
    if kib.is_none_or(|kib| kib > MOST_KIB) {
        lied(format!("its composer had {kib:?} KiB of memory"));
    }
}
