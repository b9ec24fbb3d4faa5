//! From the kernel's call to a published dump. The order matters, and is the
//! order of the code.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::panic::{self, AssertUnwindSafe};

use anyhow::{Context, anyhow};
use jiff::{Timestamp, Unit};
use nix::sys::signal::Signal;
use nix::unistd::gethostname;
use protocol::argv::Argv;
use protocol::host::HostRoot;
use protocol::journal::{self as crashes, Line, Outcome};
use protocol::manifest::{self, Core, Crash, Manifest, Section, Truncation};
use protocol::settings::ComposerSettings;
use protocol::spool::{DumpId, Hint, Part, Spool};
use protocol::text::Text;

use crate::dump::{Copied, DumpZip};
use crate::pipe::CorePipe;
use crate::process::{self, Process};
use crate::story::Story;
use crate::{journal, kmsg, settings};

/// Captures the core on standard input. Returns a line about the dump.
///
/// # Errors
/// If there is no dump: no spool, or it could not be written. The pipe is
/// closed then, and the crashed process free.
pub fn capture(argv: &Argv) -> anyhow::Result<String> {
    let mut story = Story::begin();
    let comm = argv.comm.clone().unwrap_or_default();
    let [pid, signal] = [argv.pid.map(i64::from), argv.signal.map(i64::from)]
        .map(|number| number.map_or("?".to_owned(), |number| number.to_string()));
    kmsg::notice(&format!("pid {pid} ({comm}) crashed with signal {signal}"));
    story.note(format_args!("began: pid {pid} ({comm}), signal {signal}"));
    argv.problems.iter().for_each(|problem| story.problem(problem));

    let (pipe, small) = CorePipe::take().context("taking the pipe")?;
    small.iter().for_each(|problem| story.problem(problem));
    // Neither of the two may take the core with it.
    let read_process = || process::read(argv.pid, argv.tid, argv.pidfd, |cut| story.problem(cut));
    let mut process = guarded(read_process).unwrap_or_else(|why| Process::missing(&why));
    match &process.exe {
        Section::Present(exe) => story.note(format_args!("read /proc: {exe}")),
        Section::Missing { reason } => story.problem(reason),
    }
    let (cmdline, problem) = process.cmdline();
    // Where all is missing it has been said.
    problem.iter().filter(|_| process.exe.present().is_some()).for_each(|problem| story.problem(problem));
    let (settings, problems) =
        guarded(settings::read).unwrap_or_else(|why| (ComposerSettings::default(), vec![why]));
    problems.iter().for_each(|problem| story.problem(problem));
    if settings.redact_environ {
        process.redact_environ();
    }

    let dir = HostRoot::new("/").locate(&settings.spool_dir);
    let spool = Spool::open(&dir).with_context(|| format!("opening the spool {}", dir.display()))?;
    let time = crash_time(argv, &mut story);
    let random = RandomState::new().hash_one(()); // std seeds it from getrandom(2)
    let id = DumpId::new(time.unwrap_or_else(now), argv.pid.unwrap_or(0), random as u32);
    let dump = Dump { argv, time, id: &id, cmdline, settings: &settings };
    let result = match spool.create(id.clone()) {
        Ok(part) => dump.write(part, pipe, &process, &mut story),
        Err(err) => Err(err).with_context(|| format!("creating a dump in {}", spool.dir().display())),
    };

    let outcome = match &result {
        Ok((_, outcome)) => outcome.clone(),
        Err(err) => Outcome::Refused { reason: format!("{err:#}") },
    };
    let comm = argv.comm.clone();
    let line = Line { at: now(), id: id.clone(), outcome, pid: argv.pid, signal: argv.signal, comm };
    let unjournaled = match journal::append(&spool, &line) {
        Ok(()) => String::new(),
        Err(err) => format!("; nothing about it is in {}: {err}", crashes::FILE_NAME),
    };
    match result {
        Ok((said, _)) => Ok(said + &unjournaled),
        Err(err) => Err(anyhow!("no dump {id} of pid {pid}: {err:#}{unjournaled}")),
    }
}

/// What `work` gives, or what to say about its panic.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| "the composer panicked; see the kernel's log".to_owned())
}

/// When the kernel says it was.
fn crash_time(argv: &Argv, story: &mut Story) -> Option<Timestamp> {
    let time = Timestamp::from_second(argv.time?).ok().filter(|time| *time >= Timestamp::UNIX_EPOCH);
    if time.is_none() {
        story.problem("the kernel's %t is no time of ours");
    }
    time
}

/// What is known before the first byte of the core.
struct Dump<'a> {
    argv: &'a Argv,
    time: Option<Timestamp>,
    id: &'a DumpId,
    cmdline: Option<Vec<Text>>,
    settings: &'a ComposerSettings,
}

impl Dump<'_> {
    /// Writes and publishes; returns what to say about it, to people and to
    /// programs.
    fn write(
        &self,
        part: Part,
        mut pipe: CorePipe,
        process: &Process,
        story: &mut Story,
    ) -> anyhow::Result<(String, Outcome)> {
        let mut zip = DumpZip::new(part.file(), self.id, self.time.unwrap_or_else(now));
        let copied = zip.core(&mut pipe, self.settings.compression);
        // From here on the crashed process is free to go, whatever became of it.
        drop(pipe);
        let copied = copied.context("copying the core")?;
        let held_ms = u64::try_from(story.elapsed().as_millis()).unwrap_or(u64::MAX);
        let captured_at = now();
        story.note(format_args!("closed the pipe after {} bytes", copied.bytes));

        let core = describe(&copied, story);
        for (name, content) in &process.files {
            match content {
                Section::Present(content) => {
                    zip.entry(&format!("proc/{name}"), content)
                        .with_context(|| format!("writing proc/{name}"))?;
                }
                Section::Missing { reason } => story.note(format_args!("no proc/{name}: {reason}")),
            }
        }
        if let Some(kib) = peak_memory_kib() {
            story.note(format_args!("used at most {kib} KiB of memory"));
        }
        zip.entry("composer.log", story.log().as_bytes()).context("writing composer.log")?;
        let manifest = Manifest {
            version: manifest::VERSION,
            id: self.id.clone(),
            node: Text::from(gethostname().unwrap_or_default().as_os_str()),
            captured_at,
            crash: self.crash(process),
            core,
            container: Section::Missing { reason: "not looked up yet".to_owned() },
            held_ms,
            problems: story.problems().to_vec(),
        };
        // Last, so that its presence means the rest is there.
        zip.entry(manifest::FILE_NAME, &serde_json::to_vec_pretty(&manifest)?)
            .context("writing the manifest")?;
        zip.finish().context("finishing the zip")?;

        let dump_bytes = part.file().metadata().context("measuring the dump")?.len();
        let published = part.publish(hint(&manifest)).context("publishing the dump")?;
        let truncated = manifest.core.truncated;
        let whole = truncated.as_ref().map_or("whole", |reason| reason.as_str());
        let (ready, bytes) = (published.entry, copied.bytes);
        let mut said = format!("wrote {ready}: {bytes} bytes of core, {whole}, held for {held_ms} ms");
        if let Err(err) = published.durable {
            said = format!("{said}; a power cut may take it back: {err}");
        }
        Ok((said, Outcome::Captured { core_bytes: copied.bytes, dump_bytes, truncated, held_ms }))
    }

    fn crash(&self, process: &Process) -> Crash {
        let argv = self.argv;
        Crash {
            pid: argv.pid,
            tid: argv.tid,
            uid: argv.uid,
            gid: argv.gid,
            signal: argv.signal,
            signal_name: argv.signal.map(signal_name),
            time: self.time,
            // The kernel has made a `!` of each `/` in %e (`cn_esc_printf`).
            comm: process.comm.clone().or_else(|| argv.comm.clone()),
            exe: process.exe.present().cloned(),
            cmdline: self.cmdline.clone(),
            hostname: argv.hostname.clone(),
            dumpable: argv.dumpable,
            core_limit: argv.core_limit,
        }
    }
}

/// What the core is, and whether it is all there.
fn describe(copied: &Copied, story: &mut Story) -> Core {
    let expected_bytes = copied.extent.expected_bytes();
    let truncated = match expected_bytes {
        Some(expected) if copied.bytes >= expected => None,
        Some(_) => Some(Truncation::KilledWhileDumping),
        None if copied.extent.is_foreign() => {
            story.problem("the core does not begin like an ELF core; how long it should be is not known");
            None
        }
        None => {
            story.problem("the core ended before its headers did");
            Some(Truncation::KilledWhileDumping)
        }
    };
    Core { bytes: copied.bytes, expected_bytes, crc32: format!("{:08x}", copied.crc32), truncated }
}

fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("SIG{signal}"), |signal| signal.as_str().to_owned())
}

/// For people who read `ls`: the pod and container, or the command of a
/// process that is in none we know, and the signal.
fn hint(manifest: &Manifest) -> Hint {
    let crash = &manifest.crash;
    let signal = crash.signal_name.as_deref().unwrap_or_default().as_bytes();
    let comm = crash.comm.as_ref().map_or(&b""[..], Text::as_bytes);
    match manifest.container.present() {
        Some(c) => Hint::new([c.pod.namespace.as_bytes(), c.pod.name.as_bytes(), c.name.as_bytes(), signal]),
        None => Hint::new([comm, signal]),
    }
}

fn peak_memory_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

fn now() -> Timestamp {
    let now = Timestamp::now();
    now.round(Unit::Millisecond).unwrap_or(now)
}
