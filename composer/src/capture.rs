//! From the kernel's call to a published dump. The order matters, and is the
//! order of the code.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::io::Read;
use std::num::NonZeroUsize;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use jiff::{Timestamp, Unit};
use nix::unistd::gethostname;
use protocol::argv::Argv;
use protocol::host::{HostRoot, TRIAL_NAME};
use protocol::journal::{self, Line, Outcome, Skip};
use protocol::manifest::{self, Attribution, Core, Manifest, Truncation};
use protocol::settings::{Capture, ComposerSettings, Compression};
use protocol::spool::{DumpId, Found, Part, Spool};
use protocol::text::Text;

use crate::account::Origin;
use crate::dump::{self, DumpZip, Plan};
use crate::logs::Tail;
use crate::lookup::{Findings, Lookup};
use crate::pipe::CorePipe;
use crate::pipeline::Spill;
use crate::place::Place;
use crate::process::{self, Process};
use crate::rate::{self, Who};
use crate::space::Space;
use crate::story::Story;
use crate::turn::{self, Turn};
use crate::{account, kmsg, logs, memory, settings};

/// Two megabytes from a disk that is not idle.
const LOG_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of arguments among the last words, where each may take five, and the path
/// of the executable, too: 60 KiB have room for both.
const MAX_LAST_ARGUMENTS: usize = 6 << 10;

/// Captures the core on standard input. Returns a line about the dump.
///
/// # Errors
/// If there is no dump and should be one: no spool, or it could not be written.
/// The pipe is closed then, and the crashed process free.
pub fn capture(argv: &Argv) -> anyhow::Result<String> {
    memory::restrain();
    let mut story = Story::begin();
    let comm = argv.comm.clone().unwrap_or_default();
    let [pid, signal] = [argv.pid.map(i64::from), argv.signal.map(i64::from)]
        .map(|number| number.map_or("?".to_owned(), |number| number.to_string()));
    kmsg::notice(&format!("pid {pid} ({comm}) crashed with signal {signal}"));
    story.note(format_args!("began: pid {pid} ({comm}), signal {signal}"));
    argv.problems.iter().for_each(|problem| story.problem(problem));

    let undumped = || format!("no dump of pid {pid}");
    let (pipe, small) = CorePipe::take().context("taking the pipe").with_context(undumped)?;
    small.iter().for_each(|problem| story.problem(problem));
    // Neither of the two may take the core with it.
    let read_process = || process::read(argv.pid, argv.tid, argv.pidfd, |cut| story.problem(cut));
    let mut process = guarded(read_process).unwrap_or_else(|why| Process::unproven(&why));
    match (&process.identity, &process.exe) {
        (Err(why), _) => story.problem(format_args!("nothing from /proc, which may be another's: {why}")),
        (Ok(()), Ok(exe)) => story.note(format_args!("read /proc: {exe}")),
        (Ok(()), Err(why)) => story.problem(why),
    }
    let (cmdline, problem) = process.cmdline();
    // Where all is missing it has been said.
    problem.iter().filter(|_| process.exe.is_ok()).for_each(|problem| story.problem(problem));
    let (settings, problems) =
        guarded(settings::read).unwrap_or_else(|why| (ComposerSettings::default(), vec![why]));
    problems.iter().for_each(|problem| story.problem(problem));
    if settings.redact_environ {
        process.redact_environ();
    }

    let dir = HostRoot::new("/").locate(&settings.spool_dir);
    let spool = Spool::open(&dir).with_context(|| format!("opening the spool {}", dir.display()));
    let spool = spool.with_context(undumped)?;
    let time = crash_time(argv, &mut story);
    let random = RandomState::new().hash_one(()); // std seeds it from getrandom(2)
    let id = DumpId::new(time.unwrap_or_else(now), argv.pid.unwrap_or(0), random as u32);
    let place = Place::of(&process);
    let dump = Dump { argv, time, spool: &spool, id: &id, cmdline, place: &place, settings: &settings };
    let mut origin = dump.origin();
    let result = match dump.admit(&mut story) {
        Ok(turn) => match spool.create(id.clone()) {
            Ok(part) => dump.write(part, turn, pipe, &process, &mut origin, &mut story),
            Err(err) => Err(err).with_context(|| format!("creating a dump in {}", spool.dir().display())),
        },
        Err(reason) => {
            drop(pipe);
            Ok(dump.left_out(reason, &origin))
        }
    };

    let outcome = match &result {
        Ok(captured) => captured.outcome.clone(),
        // Whoever repairs it will know what became of it, and write the line.
        Err(err) if dump.is_begun() => {
            return Err(anyhow!("dump {id} of pid {pid} is left to be repaired: {err:#}"));
        }
        Err(err) => Outcome::Refused { reason: format!("{err:#}") },
    };
    let line = Line {
        at: now(),
        id: id.clone(),
        outcome,
        pid: argv.pid,
        signal: argv.signal,
        comm: argv.comm.clone(),
        container: origin.container,
        pod_uid: origin.pod_uid,
    };
    let unjournaled = match journal::append(&spool, &line) {
        Ok(()) => String::new(),
        Err(err) => format!("; nothing about it is in {}: {err}", journal::FILE_NAME),
    };
    match result {
        Ok(captured) => Ok(captured.said + &unjournaled),
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

/// What became of a crash.
struct Captured {
    /// For people.
    said: String,
    /// For programs.
    outcome: Outcome,
}

/// What is known before the first byte of the core.
struct Dump<'a> {
    argv: &'a Argv,
    time: Option<Timestamp>,
    spool: &'a Spool,
    id: &'a DumpId,
    cmdline: Option<Vec<Text>>,
    place: &'a Place,
    settings: &'a ComposerSettings,
}

impl Dump<'_> {
    /// Whether there is to be a dump, as far as it can be known without asking
    /// anyone; waits until it is its turn.
    fn admit(&self, story: &mut Story) -> Result<Option<Turn>, Skip> {
        if self.is_trial() {
            return Err(Skip::Trial);
        }
        if *self.place == Place::Host {
            let who = Who::Host(self.argv.comm.as_ref());
            if self.settings.capture == Capture::Pods {
                return Err(Skip::NotAPod);
            }
            if rate::is_exceeded(self.spool, self.settings.rate_limit, who, now()) {
                return Err(Skip::RateLimit);
            }
        }
        let pod = match self.place {
            Place::Pod(who) => Some(&*who.pod_uid),
            Place::Host | Place::Unknown(_) => None,
        };
        let turn = settings::path().and_then(|path| Turn::wait(&path, turn::most(processors()), pod));
        match turn {
            Ok(turn) => turn.ok_or(Skip::Busy).map(Some),
            Err(err) => {
                story.note(format_args!("how many composers are working is not known: {err}"));
                Ok(None)
            }
        }
    }

    /// Whether the installer made it, which then has its name beside us.
    fn is_trial(&self) -> bool {
        let name = settings::path().and_then(|path| fs::read(path.with_file_name(TRIAL_NAME)));
        name.is_ok_and(|name| self.argv.comm.as_ref().is_some_and(|comm| comm.as_bytes() == name))
    }

    /// Where it ran, as far as that is known without asking anyone. A process
    /// that may have been in a container must not pass for the host's.
    fn origin(&self) -> Origin {
        let (container, pod_uid) = match self.place {
            Place::Unknown(_) => (Some("?".to_owned()), None),
            Place::Pod(who) => (who.container_id.clone(), Some(who.pod_uid.clone())),
            Place::Host => (None, None),
        };
        Origin { container, pod_uid }
    }

    /// It was not wanted, or there was no room for it.
    fn left_out(&self, reason: Skip, origin: &Origin) -> Captured {
        let whose = origin.container.as_deref().unwrap_or("the host");
        let said = format!("left out {} ({}): a process of {whose}", self.id, reason.as_str());
        Captured { said, outcome: Outcome::Skipped { reason } }
    }

    /// Writes and publishes. `origin` becomes what the runtime says it is.
    fn write(
        &self,
        part: Part,
        turn: Option<Turn>,
        pipe: CorePipe,
        process: &Process,
        origin: &mut Origin,
        story: &mut Story,
    ) -> anyhow::Result<Captured> {
        let (compression, threads) = (self.settings.compression, self.settings.threads.count(processors()));
        let held_back = dump::held_back(compression, threads);
        let mut space = Space::new(self.spool, part.file(), self.settings, held_back)
            .context("asking how full the disk is")?;
        let refusal = space.refusal().context("asking how full the disk is")?;
        // The runtime may take seconds to answer, and the crashed process cannot
        // be reaped until we have drained its pipe. So: both at once.
        let lookup = match self.place {
            Place::Pod(who) => Ok(Lookup::start(who.clone(), self.settings, self.spool)),
            Place::Host => Err(Findings::missing(None, "the process ran in no pod".to_owned())),
            Place::Unknown(why) => Err(Findings::undecided(None, why.clone())),
        };
        let skip = lookup.as_ref().map_or_else(|_| Arc::default(), Lookup::skip);
        if let Some(reason) = refusal {
            drop(pipe);
            part.discard().context("removing a dump that has no room")?;
            // Somebody will look for the dump, if there was to be one at all. No more
            // may wait for the runtime than may copy, so it is our turn until then.
            let found = lookup.map_or_else(|nothing| nothing, |lookup| lookup.wait());
            drop(turn);
            origin.learn(&found.container);
            return Ok(self.left_out(skip.get().cloned().unwrap_or(reason), origin));
        }
        let plan = Plan {
            compression,
            threads,
            spill: self.spill(&space, story),
            window: space.window(),
            unwanted: || skip.get().is_some(),
            enough: |more| space.enough(more),
        };
        let time = self.time.unwrap_or_else(now);
        let most = self.settings.max_core_bytes.unwrap_or(u64::MAX);
        let last_words = serde_json::to_vec(&self.last_words(process, story)).unwrap_or_default();
        // The pipe is closed when this is done, and as soon as it can be: the
        // crashed process is free to go then, whatever became of it.
        let copied = DumpZip::with_core(part.file(), self.id, time, last_words, pipe.take(most), plan);
        // What is left to do is little, or waiting.
        drop(turn);

        let found = lookup.map_or_else(|nothing| nothing, |lookup| lookup.wait());
        origin.learn(&found.container);
        if let Some(reason) = skip.get().cloned() {
            drop(copied);
            part.discard().context("removing a dump that is not wanted")?;
            return Ok(self.left_out(reason, origin));
        }
        let (mut zip, copied) = copied.context("copying the core")?;
        let held_ms = u64::try_from(story.until(copied.released).as_millis()).unwrap_or(u64::MAX);
        story.note(format_args!("closed the pipe after {} bytes and {held_ms} ms", copied.bytes));
        let whose = origin.container.as_deref().unwrap_or("none that is known");
        story.note(format_args!("container: {whose}"));
        self.add_context(&mut zip, process, &found, story)?;
        let manifest = Manifest {
            version: manifest::VERSION,
            id: self.id.clone(),
            node: node(),
            captured_at: ago(copied.released),
            crash: account::crash(self.argv, self.time, process, self.cmdline.clone()),
            core: account::core(&copied, self.settings.max_core_bytes, story),
            trusted: process.identity.is_ok(),
            container: found.container,
            held_ms,
            problems: story.problems().to_vec(),
        };
        if let Ok(kib) = memory::peak_kib() {
            story.note(format_args!("used at most {kib} KiB of memory"));
        }
        zip.entry("composer.log", story.log().as_bytes()).context("writing composer.log")?;
        // Last, so that its presence means the rest is there.
        zip.entry(manifest::FILE_NAME, &serde_json::to_vec_pretty(&manifest)?)
            .context("writing the manifest")?;
        zip.finish().context("finishing the zip")?;
        publish(part, &manifest)
    }

    /// Whether there is a part with something in it.
    fn is_begun(&self) -> bool {
        let ours = |found: &Found| found.entry.id() == self.id && found.bytes > 0;
        self.spool.list().is_ok_and(|dumps| dumps.iter().any(ours))
    }

    /// Room for what the encoders have no time for. Without it the crashed
    /// process is held for as long as they take.
    fn spill(&self, space: &Space, story: &mut Story) -> Option<Spill> {
        if self.settings.compression == Compression::Store {
            return None; // what the spill could take the file can take
        }
        let spill = space.to_spare().and_then(|room| Spill::new(self.spool.dir(), room));
        if let Err(err) = &spill {
            story.note(format_args!("nothing can be put away in the spool: {err}"));
        }
        spill.ok()
    }

    /// The manifest that is true if we die before the core has ended.
    fn last_words(&self, process: &Process, story: &Story) -> Manifest {
        let mut crash = account::crash(self.argv, self.time, process, self.cmdline.clone());
        let arguments =
            crash.cmdline.iter().flatten().map(|argument| argument.as_bytes().len()).sum::<usize>();
        crash.cmdline = crash.cmdline.filter(|_| arguments < MAX_LAST_ARGUMENTS);
        let (id, pod_uid) = match self.place {
            Place::Pod(who) => (who.container_id.clone(), Some(who.pod_uid.clone())),
            Place::Host | Place::Unknown(_) => (None, None),
        };
        let reason = "the composer died before its runtime had answered".to_owned();
        Manifest {
            version: manifest::VERSION,
            id: self.id.clone(),
            node: node(),
            captured_at: now(),
            crash,
            core: Core {
                bytes: 0,
                expected_bytes: None,
                crc32: format!("{:08x}", 0),
                truncated: Some(Truncation::ComposerDied),
            },
            trusted: process.identity.is_ok(),
            container: Attribution::Missing { reason, id, pod_uid },
            held_ms: 0,
            problems: story.problems().to_vec(),
        }
    }

    /// What `/proc` and the runtime say.
    fn add_context(
        &self,
        zip: &mut DumpZip,
        process: &Process,
        found: &Findings,
        story: &mut Story,
    ) -> anyhow::Result<()> {
        let mut add =
            |name: &str, content: &[u8]| zip.entry(name, content).with_context(|| format!("writing {name}"));
        for (name, content) in &process.files {
            match content {
                Ok(content) => add(&format!("proc/{name}"), content)?,
                Err(why) => story.note(format_args!("no proc/{name}: {why}")),
            }
        }
        found.problems.iter().for_each(|problem| story.problem(problem));
        for (name, content) in &found.files {
            add(&format!("crictl/{name}"), content)?;
        }
        let (Attribution::Present(container), 1..) = (&found.container, self.settings.log_lines) else {
            return Ok(());
        };
        match self.log(found.log.as_deref(), &container.id, process) {
            Ok(tail) => {
                tail.problems.iter().for_each(|problem| story.problem(problem));
                add("crictl/logs.txt", &tail.text)
            }
            Err(why) => {
                story.problem(format_args!("no crictl/logs.txt: {why}"));
                Ok(())
            }
        }
    }

    /// The end of the container's log. The pod has what it waits for, so there
    /// is time for what the process said last; but none for a disk that hangs.
    fn log(&self, path: Option<&Path>, id: &str, process: &Process) -> Result<Tail, String> {
        let path = path.ok_or("the runtime did not say where it is")?.to_owned();
        process.wait_until_gone();
        let (id, lines) = (id.to_owned(), self.settings.log_lines as usize);
        let (sender, tail) = mpsc::sync_channel(1);
        let reader = thread::Builder::new().name("log".to_owned());
        let reader = reader.spawn(move || drop(sender.send(logs::tail(&path, &id, lines))));
        reader.map_err(|err| format!("starting a thread: {err}"))?;
        tail.recv_timeout(LOG_DEADLINE).unwrap_or_else(|err| Err(format!("reading it: {err}")))
    }
}

/// Makes it ready, and says so.
fn publish(part: Part, manifest: &Manifest) -> anyhow::Result<Captured> {
    let dump_bytes = part.file().metadata().context("measuring the dump")?.len();
    let published = part.publish(manifest.hint()).context("publishing the dump")?;
    let truncated = manifest.core.truncated.clone();
    let whole = truncated.as_ref().map_or("whole", |reason| reason.as_str());
    let (ready, core_bytes, held_ms) = (published.entry, manifest.core.bytes, manifest.held_ms);
    let mut said = format!("wrote {ready}: {core_bytes} bytes of core, {whole}, held for {held_ms} ms");
    if let Err(err) = published.durable {
        said = format!("{said}; a power cut may take it back: {err}");
    }
    Ok(Captured { said, outcome: Outcome::Captured { core_bytes, dump_bytes, truncated, held_ms } })
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

fn node() -> Text {
    Text::from(gethostname().unwrap_or_default().as_os_str())
}

fn now() -> Timestamp {
    ago(Instant::now())
}

/// What time it was then.
fn ago(then: Instant) -> Timestamp {
    let now = Timestamp::now();
    let then = now.checked_sub(then.elapsed()).unwrap_or(now);
    then.round(Unit::Millisecond).unwrap_or(then)
}

#[cfg(test)]
mod hostile {
    use proptest::prelude::*;
    use protocol::zip64::MAX_LAST_WORDS;

    use super::*;
    use crate::strange;

    /// Of as many bytes as there may be, each of which may take as many as it can.
    fn long(most: usize) -> impl Strategy<Value = Vec<u8>> {
        let sample =
            prop_oneof![Just(vec![0xff; most]), Just([b'a', 0].repeat(most / 2)), Just(vec![b'a'; most])];
        sample.prop_flat_map(|sample| strange::changed(vec![sample])).prop_map(move |mut bytes| {
            bytes.truncate(most);
            bytes
        })
    }

    proptest! {
        #[test]
        fn whatever_a_process_calls_itself_there_is_room_for_last_words(
            cmdline in long(20_000), exe in long(4095), comm in strange::bytes(), hostname in long(64)
        ) {
            let mut process = Process::unproven("");
            process.files = vec![("cmdline", Ok(cmdline))];
            process.exe = Ok(exe[..].into());
            process.comm = Some(comm[..comm.len().min(15)].into());
            let mut story = Story::begin();
            let (cmdline, problem) = process.cmdline();
            problem.iter().for_each(|problem| story.problem(problem));
            let argv = Argv { pid: Some(1), hostname: Some(hostname[..].into()), ..Argv::default() };
            let (settings, spool) = (ComposerSettings::default(), Spool::at("/nowhere"));
            let id = DumpId::new(Timestamp::UNIX_EPOCH, 1, 2);
            let place = Place::Unknown("why".to_owned());
            let dump =
                Dump { argv: &argv, time: None, spool: &spool, id: &id, cmdline, place: &place, settings: &settings };
            let words = serde_json::to_vec(&dump.last_words(&process, &story)).unwrap();
            prop_assert!(words.len() <= MAX_LAST_WORDS, "{}", words.len());
            let read: Manifest = serde_json::from_slice(&words).unwrap();
            prop_assert_eq!(read.crash.exe, Some(exe[..].into()));
        }
    }
}
