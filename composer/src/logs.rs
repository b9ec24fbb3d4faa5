//! The end of a container's log, from the file itself: `crictl/logs.txt`.
//!
//! The file is as the CRI wants it, a line `TIME STREAM TAG TEXT` for each line
//! the container wrote, or several tagged `P` and one tagged `F` for a long one
//! ("CRI container log format" in kubernetes/design-proposals-archive,
//! `node/kubelet-cri-logging.md`). Docker's is JSON. `logs.txt` is in the
//! former, with long lines joined.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use serde::Deserialize;

/// The most that is read of a log, and, since joining only shortens, kept of
/// it. Five hundred lines of four KiB each.
const MAX_BYTES: usize = 2 << 20;
/// What the program said last may still be on its way, through the runtime's
/// shim and the runtime. It is here when nothing has come for so long.
const QUIET: Duration = Duration::from_millis(50);
/// Somebody else in the container may be talking all the time.
const QUIET_DEADLINE: Duration = Duration::from_millis(500);

/// The end of a log.
pub struct Tail {
    /// `logs.txt`.
    pub text: Vec<u8>,
    /// How many lines it has.
    pub lines: usize,
    /// What is to be said about it.
    pub problems: Vec<String>,
}

/// The last `lines` lines of the log of container `id`, which its runtime says
/// is at `path`, with those of the file before it if it has not as many. Waits
/// a moment for what is on its way.
///
/// # Errors
/// A sentence: it is not there, or is nothing that root should read.
pub fn tail(path: &Path, id: &str, lines: usize) -> Result<Tail, String> {
    let path = real(path, id)?;
    let why = |err: io::Error| format!("reading {}: {err}", path.display());
    let file = open_plain(&path).map_err(why)?;
    settle(&file);
    last_of(file, &path, lines).map_err(why)
}

/// The same of `file`, which was at `path` a moment ago.
fn last_of(mut file: File, path: &Path, lines: usize) -> io::Result<Tail> {
    // It may have been rotated away: then it is the one before. While the
    // runtime has not made the new one it is the last.
    match open_plain(path) {
        Ok(now) => file = now,
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => return Err(err),
    }
    let (mut bytes, mut whole) = end_of(&file, MAX_BYTES)?;
    let mut tail = last_lines(&bytes, whole, lines);
    if whole && tail.lines < lines {
        match predecessor(path, &file) {
            Ok(Some(older)) => {
                let (mut older, older_whole) = end_of(&older, MAX_BYTES - bytes.len())?;
                older.append(&mut bytes);
                (bytes, whole) = (older, older_whole);
                tail = last_lines(&bytes, whole, lines);
            }
            Ok(None) => {}
            Err(err) => tail.problems.push(format!("the log before {}: {err}", path.display())),
        }
    }
    if !whole && tail.lines < lines {
        let said = format!("logs.txt has the {} lines in the last {MAX_BYTES} bytes of the log", tail.lines);
        tail.problems.push(said);
    }
    Ok(tail)
}

/// Where the file is that `path` is the name of.
///
/// The directories are the node's, which may keep its logs on another disk. But
/// whoever may write to them could have left a link there, to any file of the
/// node. Docker leaves one, to a directory that is named by the id.
fn real(path: &Path, id: &str) -> Result<PathBuf, String> {
    let why = |err: io::Error| format!("looking for {}: {err}", path.display());
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(format!("{:?} is no path of a log", path.display()));
    };
    let file = fs::canonicalize(dir).map_err(why)?.join(name);
    if !fs::symlink_metadata(&file).map_err(why)?.is_symlink() {
        return Ok(file);
    }
    let target = fs::canonicalize(&file).map_err(why)?;
    match target.iter().any(|part| part == id) {
        true => Ok(target),
        false => Err(format!("{} is a link to {}", path.display(), target.display())),
    }
}

/// Waits until nothing has been added for a moment, or too much has.
fn settle(file: &File) {
    let len = || file.metadata().map_or(0, |meta| meta.len());
    let deadline = Instant::now() + QUIET_DEADLINE;
    let (mut last, mut since) = (len(), Instant::now());
    while since.elapsed() < QUIET && Instant::now() < deadline {
        thread::sleep(QUIET / 10);
        if len() != last {
            (last, since) = (len(), Instant::now());
        }
    }
}

/// Opens a regular file and nothing else: no link, and no fifo to wait for.
fn open_plain(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("is not a regular file")),
    }
}

/// At most the last `max` bytes, and whether that is all.
fn end_of(file: &File, max: usize) -> io::Result<(Vec<u8>, bool)> {
    let len = file.metadata()?.len();
    let from = len.saturating_sub(max as u64);
    let mut bytes = vec![0; usize::try_from(len - from).unwrap_or(max)];
    let mut have = 0;
    while have < bytes.len() {
        match file.read_at(&mut bytes[have..], from + have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    bytes.truncate(have);
    Ok((bytes, from == 0))
}

/// The file that was rotated away last, if it is not `file`. The kubelet names
/// it `0.log.20261122-193101` and leaves it as it is until the next rotation,
/// when it is compressed (`rotateLatestLog` in its `container_log_manager.go`);
/// Docker, `….log.1`.
fn predecessor(path: &Path, file: &File) -> io::Result<Option<File>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(None);
    };
    let mut latest = None;
    for entry in fs::read_dir(dir)? {
        let found = entry?.file_name();
        let suffix = found.to_str().and_then(|found| found.strip_prefix(name)?.strip_prefix('.'));
        let Some(suffix) = suffix.filter(|suffix| is_time(suffix) || *suffix == "1") else { continue };
        latest = latest.max(Some(suffix.to_owned()));
    }
    let Some(suffix) = latest else { return Ok(None) };
    let older = open_plain(&dir.join(format!("{name}.{suffix}")))?;
    let [one, two] = [older.metadata()?, file.metadata()?].map(|meta| (meta.dev(), meta.ino()));
    Ok((one != two).then_some(older))
}

/// `20261122-193101`
fn is_time(suffix: &str) -> bool {
    suffix.len() == 15
        && suffix
            .bytes()
            .enumerate()
            .all(|(i, byte)| if i == 8 { byte == b'-' } else { byte.is_ascii_digit() })
}

/// The last `wanted` lines of `bytes`, which is the end of a log or the `whole`
/// of it.
fn last_lines(bytes: &[u8], whole: bool, wanted: usize) -> Tail {
    let mut raw_lines = bytes.split_inclusive(|byte| *byte == b'\n').peekable();
    // The first one began before.
    let fragment = if whole { None } else { raw_lines.next() };
    if let Some(fragment) = fragment.filter(|_| raw_lines.peek().is_none()) {
        let problem = "logs.txt has the end of a line that is too long to have its beginning".to_owned();
        return Tail { text: fragment.to_owned(), lines: 1, problems: vec![problem] };
    }
    let mut kept = VecDeque::new();
    // Of each stream the line that has not ended yet.
    let mut begun: BTreeMap<Vec<u8>, Record> = BTreeMap::new();
    let mut foreign = 0;
    for raw in raw_lines {
        let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
        match Record::parse(raw) {
            Some(mut record) => {
                if let Some(mut beginning) = begun.remove(&record.stream) {
                    beginning.text.append(&mut record.text);
                    record = Record { ends: record.ends, ..beginning };
                }
                match record.ends {
                    true => kept.push_back(record.line()),
                    false => drop(begun.insert(record.stream.clone(), record)),
                }
            }
            None => {
                foreign += 1;
                kept.push_back(raw.to_owned());
            }
        }
        if kept.len() > wanted {
            kept.pop_front();
        }
    }
    kept.extend(begun.values().map(Record::line));
    let skipped = kept.len().saturating_sub(wanted);
    let mut text = Vec::new();
    for line in kept.iter().skip(skipped) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    let problems = match foreign {
        0 => vec![],
        _ => vec![format!("{foreign} lines of the container's log are not as the CRI wants them")],
    };
    Tail { text, lines: kept.len() - skipped, problems }
}

/// What stands in one line of the file.
struct Record {
    time: Vec<u8>,
    stream: Vec<u8>,
    ends: bool,
    text: Vec<u8>,
}

impl Record {
    fn parse(raw: &[u8]) -> Option<Record> {
        if raw.starts_with(b"{") {
            return serde_json::from_slice(raw).ok().and_then(Docker::record);
        }
        let mut fields = raw.splitn(4, |byte| *byte == b' ');
        let [time, stream, tags] = [fields.next()?, fields.next()?, fields.next()?];
        let time_like = time.len() >= 20 && time[..4].iter().all(u8::is_ascii_digit) && time.contains(&b'T');
        let known = matches!(stream, b"stdout" | b"stderr")
            && matches!(tags.split(|byte| *byte == b':').next(), Some(b"F" | b"P"));
        (time_like && known).then(|| Record {
            time: time.to_owned(),
            stream: stream.to_owned(),
            ends: tags.starts_with(b"F"),
            text: fields.next().unwrap_or_default().to_owned(),
        })
    }

    fn line(&self) -> Vec<u8> {
        let tag = if self.ends { &b"F"[..] } else { b"P" };
        [&self.time, &self.stream, tag, &self.text].join(&b' ')
    }
}

/// A line of Docker's `json-file` log.
#[derive(Deserialize)]
struct Docker {
    log: String,
    stream: String,
    time: String,
}

impl Docker {
    /// `None` if it would be more than one line.
    fn record(self) -> Option<Record> {
        let text = self.log.strip_suffix('\n');
        let parts = [text.unwrap_or(&self.log), &self.stream, &self.time];
        parts.iter().all(|part| !part.contains('\n')).then_some(())?;
        Some(Record {
            time: self.time.into_bytes(),
            stream: self.stream.into_bytes(),
            ends: text.is_some(),
            text: text.unwrap_or(&self.log).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const SAMPLE: &str = include_str!("../tests/logs/crash-spec_main_0.log");
    const AT: &str = "2026-11-22T19:31:02.260988932Z";

    /// The tail of a log of these files, the last of which is `0.log`.
    fn tail(files: &[(&str, &[u8])], lines: usize) -> (String, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        let tail = super::tail(&dir.path().join("0.log"), "id", lines).unwrap();
        let text = String::from_utf8(tail.text).unwrap();
        assert_eq!(text.lines().count(), tail.lines);
        (text, tail.problems)
    }

    #[test]
    fn a_log_of_whole_lines_is_kept_as_it_is() {
        assert_eq!(tail(&[("0.log", SAMPLE.as_bytes())], 500), (SAMPLE.to_owned(), vec![]));
        let last_two = SAMPLE.lines().skip(2).map(|line| format!("{line}\n")).collect::<String>();
        assert_eq!(tail(&[("0.log", SAMPLE.as_bytes())], 2), (last_two, vec![]));
    }

    #[test]
    fn partial_lines_are_joined_within_their_stream() {
        let log = format!(
            "{AT} stdout P a\n{AT} stderr P x\n{AT} stdout P b\n{AT} stderr F y z\n{AT} stdout F \n{AT} stderr P end"
        );
        let (text, problems) = tail(&[("0.log", log.as_bytes())], 500);
        assert_eq!(text, format!("{AT} stderr F xy z\n{AT} stdout F ab\n{AT} stderr P end\n"));
        assert!(problems.is_empty());
    }

    #[test]
    fn the_rotated_predecessor_fills_up_what_the_file_lacks() {
        let older = format!("{AT} stdout F 1\n{AT} stdout F 2\n{AT} stdout P 3a\n");
        let newer = format!("{AT} stdout F 3b\n{AT} stdout F 4\n");
        let files = [
            ("0.log.20261121-000000", &b"too old\n"[..]),
            ("0.log.20261122-193101", older.as_bytes()),
            ("0.log.20261123-000000.gz", b"compressed"),
            ("0.log.20261124-000000.tmp", b"half"),
            ("1.log.20261125-000000", b"another container's"),
            ("0.log", newer.as_bytes()),
        ];
        let expected = format!("{AT} stdout F 2\n{AT} stdout F 3a3b\n{AT} stdout F 4\n");
        assert_eq!(tail(&files, 3), (expected, vec![]));
        assert_eq!(tail(&files, 1).0, format!("{AT} stdout F 4\n"));
        assert_eq!(tail(&files, 500).0.lines().count(), 4);
    }

    #[test]
    fn a_log_by_docker_becomes_one_as_the_cri_wants_it() {
        let line = |log: &str| format!("{{\"log\":\"{log}\",\"stream\":\"stderr\",\"time\":\"{AT}\"}}\n");
        let log = [line("a\\tb\\n"), line("part "), line("whole\\n")].concat();
        let older = line("before\\n");
        let (text, _) = tail(&[("0.log.1", older.as_bytes()), ("0.log", log.as_bytes())], 9);
        assert_eq!(text, format!("{AT} stderr F before\n{AT} stderr F a\tb\n{AT} stderr F part whole\n"));
    }

    #[test]
    fn of_a_log_without_an_end_the_end_is_read_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        // Sparse: nobody waits for two gigabytes.
        let file = File::create(&path).unwrap();
        file.set_len(2 << 30).unwrap();
        let tail = super::tail(&path, "id", 500).unwrap();
        assert_eq!((tail.text.len(), tail.lines), (MAX_BYTES, 1));
        assert!(tail.problems[0].contains("too long"), "{:?}", tail.problems);
        file.write_at(format!("\n{AT} stdout F last\n").as_bytes(), (2 << 30) - 10).unwrap();
        let tail = super::tail(&path, "id", 500).unwrap();
        assert_eq!(tail.text, format!("{AT} stdout F last\n").as_bytes());
        assert!(
            tail.problems[0].contains("has the 1 lines in the last 2097152 bytes"),
            "{:?}",
            tail.problems
        );
    }

    #[test]
    fn bytes_that_are_no_log_are_kept_and_noted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let binary = b"\x00\xff{\n2026 is a year\n{\"log\": 1}\n2026-11-22T19:31:02.260988932Z stdout X t\n";
        fs::write(&path, binary).unwrap();
        let tail = super::tail(&path, "id", 500).unwrap();
        assert_eq!(tail.text, binary);
        assert_eq!(tail.problems, ["4 lines of the container's log are not as the CRI wants them"]);
        fs::write(&path, vec![b'\n'; MAX_BYTES]).unwrap();
        assert_eq!(super::tail(&path, "id", 500).unwrap().lines, 500);
    }

    #[test]
    fn what_is_no_file_of_this_container_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let refused = |name: &str| super::tail(&at(name), "8f31", 9).err().unwrap();
        assert!(refused("none").contains("No such file"));
        assert!(refused("nowhere/0.log").contains("No such file"));
        assert!(super::tail(Path::new(""), "8f31", 9).err().unwrap().contains("is no path of a log"));
        fs::create_dir(at("dir")).unwrap();
        assert!(refused("dir").contains("is not a regular file"));
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(refused("fifo").contains("is not a regular file"));
        fs::write(at("secret"), "secret").unwrap();
        symlink(at("secret"), at("0.log")).unwrap();
        assert!(refused("0.log").contains("is a link to"));
        let read = |name: &str| super::tail(&at(name), "8f31", 9).unwrap().text;
        fs::create_dir(at("8f31")).unwrap();
        fs::rename(at("secret"), at("8f31/8f31-json.log")).unwrap();
        symlink(at("8f31/8f31-json.log"), at("1.log")).unwrap();
        assert_eq!(read("1.log"), b"secret\n", "that is how Docker does it");
        symlink(at("8f31"), at("elsewhere")).unwrap();
        assert_eq!(read("elsewhere/8f31-json.log"), b"secret\n", "the node has its logs on another disk");
    }

    #[test]
    fn a_log_that_is_rotated_at_the_last_moment_is_read_in_order_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, format!("{AT} stdout F old\n")).unwrap();
        let held = || File::open(dir.path().join("0.log.20261122-193101")).unwrap();
        fs::rename(&path, dir.path().join("0.log.20261122-193101")).unwrap();
        let text = |tail: io::Result<Tail>| String::from_utf8(tail.unwrap().text).unwrap();
        assert_eq!(text(last_of(held(), &path, 9)), format!("{AT} stdout F old\n"));
        fs::write(&path, format!("{AT} stderr F last\n")).unwrap();
        let expected = format!("{AT} stdout F old\n{AT} stderr F last\n");
        assert_eq!(text(last_of(held(), &path, 9)), expected);
    }

    #[test]
    fn what_was_said_last_is_waited_for_but_not_for_ever() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = File::create(dir.path().join("0.log")).unwrap();
        let while_it_talks = || {
            let talking = AtomicBool::new(true);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while talking.load(Ordering::Relaxed) {
                        io::Write::write_all(&mut &file, b".").unwrap();
                        thread::sleep(Duration::from_millis(1));
                    }
                });
                let began = Instant::now();
                settle(&file);
                talking.store(false, Ordering::Relaxed);
                began.elapsed()
            })
        };
        // A machine that is busy may make it pause.
        assert!((0..10).any(|_| while_it_talks() >= QUIET_DEADLINE));
        let began = Instant::now();
        settle(&file);
        assert!(began.elapsed() >= QUIET);
    }

    mod hostile {
        use proptest::prelude::*;

        use super::*;
        use crate::strange;

        fn samples() -> Vec<Vec<u8>> {
            let docker = |log: &str| {
                format!("{{\"log\":\"{log}\",\"stream\":\"stderr\",\"time\":\"{AT}\"}}\n")
                    .repeat(3)
                    .into_bytes()
            };
            vec![SAMPLE.as_bytes().to_vec(), docker("text\\n"), docker("two\\nlines\\n")]
        }

        proptest! {
            #[test]
            fn whatever_a_log_has_there_are_so_many_lines_and_no_more(
                bytes in strange::changed(samples()), whole: bool, wanted in 0usize..20
            ) {
                let tail = last_lines(&bytes, whole, wanted);
                let lines = tail.text.iter().filter(|byte| **byte == b'\n').count();
                // A part of one line, where there is no more, has no end.
                prop_assert!(tail.lines == lines || (!whole && tail.lines == 1), "{} {lines}", tail.lines);
                prop_assert!(tail.lines <= wanted.max(1));
                prop_assert!(tail.text.len() <= bytes.len() + tail.lines + 1);
            }
        }
    }
}
