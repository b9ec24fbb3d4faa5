//! What `/proc` says about the crashed process, and whether it is still that
//! process of which it says so.
//!
//! The kernel keeps `/proc/<pid>` until we close the pipe if
//! `kernel.core_pipe_limit` is not 0, and else only until it has written the
//! core. But a SIGKILL can end the process before we look, and its pid may
//! then be another's.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;
use protocol::text::Text;

/// The files of `/proc/<pid>` that go into a dump, and the bytes that are kept
/// of each. `cmdline` and `environ` are as long as the process likes (execve
/// takes megabytes), `maps` and `mountinfo` as long as it made them; together,
/// and after redaction, they have to fit into 32 MiB with all else.
const FILES: [(&str, u64); 9] = [
    ("status", 64 << 10),
    ("stat", 64 << 10),
    ("cgroup", 64 << 10),
    ("limits", 64 << 10),
    ("auxv", 64 << 10),
    ("cmdline", 1 << 20),
    ("environ", 256 << 10),
    ("mountinfo", 1 << 20),
    ("maps", 4 << 20),
];
/// Those of the process; the others are read of the thread that crashed. The
/// main thread may have ended long ago, and has no memory, no namespaces and no
/// cgroup of its own then (`proc_cgroup_show` in the kernel's `kernel/cgroup/cgroup.c`).
const OF_PROCESS: [&str; 3] = ["status", "stat", "limits"];
/// Those that show the process's memory, and are empty when it has none left.
const OF_MEMORY: [&str; 4] = ["auxv", "cmdline", "environ", "maps"];

/// What of the arguments goes into the manifest. A megabyte of arguments of one
/// byte each would be thirty megabytes in the memory of whoever reads it.
const MAX_CMDLINE: usize = 8 << 10;

/// What stands where a secret was.
pub const REDACTED: &str = "<redacted>";

/// What was in `/proc/<pid>`, or, where it is not, why.
pub struct Process {
    /// Whether it is proven to be about the process that crashed. If not,
    /// nothing else is here.
    pub identity: Result<(), String>,
    /// Each file of [`FILES`].
    pub files: Vec<(&'static str, Result<Vec<u8>, String>)>,
    /// The executable.
    pub exe: Result<Text, String>,
    /// The command name of the thread that crashed.
    pub comm: Option<Text>,
    /// Its directory.
    dir: Option<File>,
}

impl Process {
    /// The arguments, or why they are not known, or not all of them.
    pub fn cmdline(&self) -> (Option<Vec<Text>>, Option<String>) {
        let bytes = match self.file("cmdline") {
            Ok(bytes) => bytes,
            Err(reason) => return (None, Some(reason.to_owned())),
        };
        let whole = bytes.strip_suffix(b"\0").unwrap_or(bytes);
        let kept = match whole.len() <= MAX_CMDLINE {
            true => whole,
            false => {
                &whole[..whole[..MAX_CMDLINE].iter().rposition(|byte| *byte == 0).unwrap_or(MAX_CMDLINE)]
            }
        };
        let problem = (kept.len() < whole.len()).then(|| {
            format!(
                "the manifest has {} of {} bytes of arguments; proc/cmdline has more",
                kept.len(),
                whole.len()
            )
        });
        (Some(kept.split(|byte| *byte == 0).map(Text::from).collect()), problem)
    }

    /// What one of [`FILES`] says.
    ///
    /// # Errors
    /// Why it says nothing.
    pub fn file(&self, name: &str) -> Result<&[u8], &str> {
        match self.files.iter().find(|(known, _)| *known == name) {
            Some((_, content)) => content.as_deref().map_err(String::as_str),
            None => Err("was never asked for"),
        }
    }

    /// Blots the values in `environ` out; the names stay.
    pub fn redact_environ(&mut self) {
        for (name, content) in &mut self.files {
            if let ("environ", Ok(bytes)) = (*name, content) {
                *bytes = redacted(bytes);
            }
        }
    }

    /// Nothing, for this reason.
    pub fn unproven(reason: &str) -> Process {
        let reason = || reason.to_owned();
        Process {
            identity: Err(reason()),
            files: FILES.iter().map(|(name, _)| (*name, Err(reason()))).collect(),
            exe: Err(reason()),
            comm: None,
            dir: None,
        }
    }

    /// Whether it had no memory left, and with it no cgroup of version 1: it was
    /// on its way out when we came.
    pub fn is_leaving(&self) -> bool {
        self.identity.is_ok() && self.file("maps").is_err()
    }

    /// Waits until it has closed its files, or has taken too long for that: it
    /// gives its memory back first, ten gigabytes in a third of a second.
    pub fn wait_until_gone(&self) {
        let deadline = Instant::now() + GONE_DEADLINE;
        let Some(dir) = &self.dir else { return };
        while is_there(dir) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What one process gives back within takes less.
const GONE_DEADLINE: Duration = Duration::from_secs(5);

/// Whether any thread of it still has something to close: only when a thread has
/// is it no longer counted (`release_task` in `kernel/exit.c`), but for the main
/// one, which is there until its parent has heard of it.
fn is_there(dir: &File) -> bool {
    let Ok(status) = read_file(dir, "status", 64 << 10, &mut |_| {}) else { return false };
    let is_zombie = field(&status, "State:").is_some_and(|state| state.starts_with('Z'));
    !(is_zombie && field(&status, "Threads:") == Some("1"))
}

/// Reads all there is about process `pid`, whose thread `tid` crashed. What
/// cannot be proven to be about that process is not told. `note` hears what was
/// cut.
pub fn read(pid: Option<u32>, tid: Option<u32>, pidfd: Option<u32>, mut note: impl FnMut(String)) -> Process {
    let Some(pid) = pid else { return Process::unproven("the kernel gave no pid") };
    let path = format!("/proc/{pid}");
    let dir = match OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(&path) {
        Ok(dir) => dir,
        Err(err) => return Process::unproven(&format!("opening {path}: {err}")),
    };
    // Through the open directories: once its process is gone this gives ESRCH,
    // never the files of another that got its pid.
    let thread = open_dir(&dir, &format!("task/{}", tid.unwrap_or(pid)));
    let thread = match &thread {
        Ok(thread) => thread,
        Err(err) => return Process::unproven(&format!("opening the thread that crashed in {path}: {err}")),
    };
    let mut cut = Vec::new();
    let files = FILES.map(|(name, limit)| {
        let of = if OF_PROCESS.contains(&name) { &dir } else { thread };
        (name, read_file(of, name, limit, &mut |what| cut.push(what)))
    });
    let exe = match readlinkat(thread, "exe") {
        Ok(exe) => Ok(Text::from(OsStr::new(&exe))),
        Err(err) => Err(format!("reading {path}/exe: {err}")),
    };
    let comm = read_file(thread, "comm", 64, &mut |what| cut.push(what)).ok();
    let comm = comm.map(|comm| Text::from(comm.strip_suffix(b"\n").unwrap_or(&comm)));
    // Last: what holds now held all the while the directory was open.
    match identify(pid, pidfd, thread) {
        Ok(()) => {
            cut.into_iter().for_each(&mut note);
            Process { identity: Ok(()), files: files.into(), exe, comm, dir: Some(dir) }
        }
        Err(reason) => Process::unproven(&reason),
    }
}

fn open_dir(dir: &File, name: &str) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let opened: OwnedFd = openat(dir.as_fd(), name, flags, Mode::empty())?;
    Ok(File::from(opened))
}

fn read_file(dir: &File, name: &str, limit: u64, note: &mut impl FnMut(String)) -> Result<Vec<u8>, String> {
    let read = || -> io::Result<Vec<u8>> {
        let file: OwnedFd = openat(dir.as_fd(), name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        let mut content = Vec::new();
        File::from(file).take(limit + 1).read_to_end(&mut content)?;
        Ok(content)
    };
    match read() {
        Ok(content) if content.is_empty() && OF_MEMORY.contains(&name) => {
            Err(format!("proc/{name} is empty: the process had no memory any more"))
        }
        Ok(mut content) => {
            if content.len() as u64 > limit {
                content.truncate(limit as usize);
                note(format!("proc/{name} is longer than the {limit} bytes that were kept"));
            }
            Ok(content)
        }
        Err(err) => Err(format!("reading proc/{name}: {err}")),
    }
}

/// Whether `thread` is of the crashed process.
///
/// A pidfd from the kernel proves it: if it still names the pid while the
/// directory is open, nobody else can have had that pid since the crash.
/// Without one (before Linux 6.16) the process has to be dumping core at this
/// moment, and to have been there when we were started: the kernel keeps the
/// crashed process until then, so whoever got its pid came later, or in the
/// same hundredth of a second.
fn identify(pid: u32, pidfd: Option<u32>, thread: &File) -> Result<(), String> {
    let fdinfo = pidfd.and_then(|fd| fs::read(format!("/proc/self/fdinfo/{fd}")).ok());
    match fdinfo.as_deref().and_then(|fdinfo| field(fdinfo, "Pid:")) {
        Some(now) => identified(pid, now),
        None => {
            let status = read_file(thread, "status", 1 << 20, &mut |_| {})?;
            dumping(pid, field(&status, "CoreDumping:"))?;
            let ours =
                fs::read("/proc/self/stat").map_err(|err| format!("reading /proc/self/stat: {err}"))?;
            let theirs = read_file(thread, "stat", 64 << 10, &mut |_| {})?;
            was_there(pid, start_time(&theirs), start_time(&ours))
        }
    }
}

/// What a pidfd's `Pid:` means; "Pidfds and proc" in pidfd_open(2).
fn identified(pid: u32, now: &str) -> Result<(), String> {
    match now {
        now if now == pid.to_string() => Ok(()),
        "-1" => Err(format!("process {pid} was gone before /proc was read")),
        now => Err(format!("the kernel says the crashed process is {now}, not {pid}")),
    }
}

/// What `CoreDumping:` of proc_pid_status(5) means.
fn dumping(pid: u32, core_dumping: Option<&str>) -> Result<(), String> {
    match core_dumping {
        Some("1") => Ok(()),
        Some(_) => Err(format!("process {pid} is not dumping core, so it is not the one that crashed")),
        None => Err(format!("whether process {pid} is the one that crashed cannot be told")),
    }
}

/// What the start times of the process and of ours mean.
fn was_there(pid: u32, theirs: Option<u64>, ours: Option<u64>) -> Result<(), String> {
    match (theirs, ours) {
        (Some(theirs), Some(ours)) if theirs <= ours => Ok(()),
        (Some(_), Some(_)) => Err(format!("process {pid} was started after the one of that pid had crashed")),
        (None, _) | (_, None) => Err(format!("when process {pid} was started cannot be told")),
    }
}

/// Field 22 of proc_pid_stat(5), in clock ticks since the boot. The second is
/// the command in brackets, which may hold anything.
fn start_time(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    str::from_utf8(&stat[end + 1..]).ok()?.split_whitespace().nth(19)?.parse().ok()
}

fn field<'a>(text: &'a [u8], name: &str) -> Option<&'a str> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let value = lines.find_map(|line| line.strip_prefix(name.as_bytes()))?;
    Some(str::from_utf8(value).ok()?.trim())
}

/// `NAME=` stays of each variable; of what is no variable nothing stays, since
/// a process may write there what it likes.
fn redacted(environ: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for variable in environ.split(|byte| *byte == 0).filter(|variable| !variable.is_empty()) {
        if let Some(end) = variable.iter().position(|byte| *byte == b'=') {
            out.extend_from_slice(&variable[..=end]);
        }
        out.extend_from_slice(REDACTED.as_bytes());
        out.push(0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_is_not_the_crashed_one() {
        let process = read(Some(std::process::id()), None, None, |_| {});
        let reason = process.identity.clone().unwrap_err();
        assert!(reason.contains("is not dumping core"), "{reason}");
        assert_eq!(process.cmdline(), (None, Some(reason.clone())));
        assert_eq!(process.file("cgroup"), Err(&*reason));
    }

    #[test]
    fn a_process_that_is_gone_leaves_a_reason() {
        let process = read(Some(u32::MAX), None, None, |_| {});
        let reason = process.identity.unwrap_err();
        assert!(reason.contains("No such file"), "{reason}");
    }

    #[test]
    fn a_file_is_kept_up_to_its_limit_and_an_empty_one_only_if_it_may_be_empty() {
        let dir = tempfile::tempdir().unwrap();
        let opened = File::open(dir.path()).unwrap();
        let mut said = Vec::new();
        let mut read = |name: &str, content: &str, limit| {
            fs::write(dir.path().join(name), content).unwrap();
            read_file(&opened, name, limit, &mut |what| said.push(what))
        };
        assert_eq!(read("maps", "12345", 5), Ok(b"12345".to_vec()));
        assert_eq!(read("maps", "123456", 5), Ok(b"12345".to_vec()));
        assert_eq!(read("limits", "", 5), Ok(vec![]));
        assert!(matches!(read("maps", "", 5), Err(reason) if reason.contains("no memory")));
        assert_eq!(said, ["proc/maps is longer than the 5 bytes that were kept"]);
        assert!(read_file(&opened, "no", 5, &mut |_| {}).is_err());
    }

    #[test]
    fn identity_is_what_the_kernel_says() {
        assert_eq!(identified(7, "7"), Ok(()));
        assert!(identified(7, "-1").unwrap_err().contains("was gone"));
        assert!(identified(7, "8").unwrap_err().contains("is 8, not 7"));
        assert_eq!(dumping(7, Some("1")), Ok(()));
        assert!(dumping(7, Some("0")).is_err());
        assert!(dumping(7, None).is_err());
        assert_eq!(was_there(7, Some(5), Some(5)), Ok(()));
        assert!(was_there(7, Some(6), Some(5)).unwrap_err().contains("was started after"));
        assert!(was_there(7, None, Some(5)).is_err());
        assert!(was_there(7, Some(5), None).is_err());
    }

    #[test]
    fn a_command_does_not_move_the_start_time() {
        let stat = b"11 (a) R 1 (\xff) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 5150 20 21\n";
        assert_eq!(start_time(stat), Some(5150));
        assert_eq!(start_time(b"11 (a) S 1"), None);
        let ours = start_time(&fs::read("/proc/self/stat").unwrap()).unwrap();
        let parents = format!("/proc/{}/stat", std::os::unix::process::parent_id());
        assert!(start_time(&fs::read(parents).unwrap()).unwrap() <= ours);
    }

    #[test]
    fn a_process_is_there_until_it_has_ended() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let dir = File::open(format!("/proc/{}", child.id())).unwrap();
        assert!(is_there(&dir));
        drop(child.stdin.take());
        while is_there(&dir) {
            thread::yield_now();
        }
        assert!(read_file(&dir, "status", 1 << 10, &mut |_| {}).unwrap().starts_with(b"Name:"), "a zombie");
        child.wait().unwrap();
        assert!(!is_there(&dir), "and nothing");
    }

    #[test]
    fn a_descriptor_that_is_no_pidfd_proves_nothing() {
        let process = read(Some(std::process::id()), None, Some(0), |_| {});
        let reason = process.identity.unwrap_err();
        assert!(reason.contains("is not dumping core"), "{reason}");
    }

    #[test]
    fn names_survive_redaction_and_values_do_not() {
        assert_eq!(redacted(b"A=1\0SECRET=x=y\0\0loose\0"), b"A=<redacted>\0SECRET=<redacted>\0<redacted>\0");
        assert_eq!(redacted(b""), b"");
    }

    #[test]
    fn arguments_are_split_where_the_kernel_ends_them() {
        let mut process = Process::unproven("");
        process.files = vec![("cmdline", Ok(b"a\0\0b c\0".to_vec()))];
        assert_eq!(process.cmdline(), (Some(vec!["a".into(), "".into(), "b c".into()]), None));
        process.files = vec![("cmdline", Ok(b"a\0".repeat(500_000)))];
        let (some, problem) = process.cmdline();
        assert_eq!(some.unwrap().len(), MAX_CMDLINE / 2);
        assert!(problem.unwrap().contains("8191 of 999999 bytes"));
        assert_eq!(Process::unproven("gone").cmdline(), (None, Some("gone".into())));
    }

    mod hostile {
        use proptest::prelude::*;

        use super::*;
        use crate::strange;

        fn own(name: &str) -> Vec<u8> {
            fs::read(format!("/proc/self/{name}")).unwrap()
        }

        fn samples() -> Vec<Vec<u8>> {
            let environ = b"PATH=/bin\0SECRET=x=y\0\0loose\0".to_vec();
            vec![
                own("status"),
                own("stat"),
                own("cmdline"),
                environ,
                b"pos:\t0\nPid:\t7\nNSpid:\t7\n".to_vec(),
            ]
        }

        proptest! {
            #[test]
            fn what_proc_says_is_read_whatever_it_is(text in strange::changed(samples())) {
                let _ = start_time(&text);
                for name in ["Pid:", "CoreDumping:", "State:", "Threads:"] {
                    prop_assert!(field(&text, name).is_none_or(|value| !value.contains('\n')));
                }
                let _ = identified(7, field(&text, "Pid:").unwrap_or_default());
                prop_assert!(redacted(&text).len() <= text.len() + (text.len() + 1) * (REDACTED.len() + 1));
                let mut process = Process::unproven("");
                process.files = vec![("cmdline", Ok(text))];
                let (cmdline, _) = process.cmdline();
                prop_assert!(cmdline.unwrap().iter().map(|arg| arg.as_bytes().len() + 1).sum::<usize>() <= MAX_CMDLINE + 1);
            }

            #[test]
            fn no_value_of_a_variable_is_kept(values in prop::collection::vec("[^\0]{0,20}", 0..6)) {
                let environ: String = values.iter().map(|value| format!("NAME={value}hidden\0")).collect();
                let redacted = String::from_utf8(redacted(environ.as_bytes())).unwrap();
                prop_assert_eq!(redacted, format!("NAME={REDACTED}\0").repeat(values.len()));
            }

            #[test]
            fn a_command_cannot_have_been_started_at_another_time(comm in strange::bytes()) {
                let rest = b" R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 5150 20 21\n";
                prop_assert_eq!(start_time(&[b"11 (", &comm[..], b")", rest].concat()), Some(5150));
            }
        }
    }
}
