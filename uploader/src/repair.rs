//! A torn dump becomes one that can be read, in place: its core up to where it
//! is valid, what follows it as far as it is whole, a manifest that says so, and
//! a directory.
//!
//! Nothing is moved, and nothing that can be read is overwritten. So whoever is
//! killed here leaves a torn dump of which the next repair makes as much.

mod rest;
mod scan;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

use anyhow::Context;
use jiff::Timestamp;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use protocol::journal::{FILE_NAME, Line, Outcome, append, lines};
use protocol::manifest::{self, Attribution, CORE, Core, Crash, Manifest, Truncation};
use protocol::spool::{DumpId, Entry, Part, Spool, State};
use protocol::zip64::{self, Ended, Method, Stage};
use tokio_util::sync::CancellationToken;

use crate::dump::read_manifest;
use rest::Rest;
use scan::{Found, Input};

/// Bytes of a file in which nothing can be read and of which nobody wants to know
/// why: a header, and what the composer had written behind it when it died.
const MOST_REMOVED: u64 = 1 << 20;

/// What became of a torn dump.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Repaired {
    /// It is ready.
    Ready,
    /// There was nothing to repair, and it is gone.
    Removed,
    /// There was nothing to repair, and too much of it to be thrown away.
    Rejected,
    /// Somebody else is at it, or was.
    Taken,
}

/// Repairs the dump of `torn`.
///
/// # Errors
/// If it cannot be read or written, or `stop` came first. It is torn still.
pub fn repair(spool: &Spool, torn: &Entry, stop: &CancellationToken) -> anyhow::Result<Repaired> {
    let id = torn.id();
    let part = match spool.adopt(torn) {
        Ok(Some(part)) => part,
        Ok(None) => return Ok(Repaired::Taken),
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Repaired::Taken),
        Err(err) => return Err(err).with_context(|| format!("opening {torn} to repair it")),
    };
    forget(part.file()).with_context(|| format!("writing what there is of {torn} to the disk"))?;
    let manifest = match mend(part.file(), id, stop).with_context(|| format!("repairing {torn}"))? {
        Ok(manifest) => manifest,
        Err(nothing) => return give_up(spool, torn, part, &nothing),
    };
    let dump_bytes = part.file().metadata()?.len();
    let (core_bytes, truncated) = (manifest.core.bytes, manifest.core.truncated.clone());
    journal(
        spool,
        line(
            id,
            &manifest,
            Outcome::Captured { core_bytes, dump_bytes, truncated, held_ms: manifest.held_ms },
        ),
    );
    let published = part.publish(manifest.hint()).with_context(|| format!("publishing {torn}"))?;
    if let Err(err) = published.durable {
        log::warn!(dump:% = id; "a power cut may take its repair back: {err}");
    }
    log::info!(dump:% = id, core_bytes; "repaired");
    Ok(Repaired::Ready)
}

/// What the journal would have said of a crash, had its composer lived.
fn line(id: &DumpId, manifest: &Manifest, outcome: Outcome) -> Line {
    let Manifest { crash, container, .. } = manifest;
    Line {
        at: Timestamp::now(),
        id: id.clone(),
        outcome,
        pid: crash.pid,
        signal: crash.signal,
        comm: crash.comm.clone(),
        container: container.place(),
        pod_uid: container.pod_uid().cloned(),
    }
}

/// Writes it down, if nobody has: not a composer that died just after it, and
/// not a repair that was killed just before its end.
fn journal(spool: &Spool, line: Line) {
    if lines(spool).filter_map(Result::ok).any(|known| known.id == line.id) {
        return;
    }
    if let Err(err) = append(spool, &line) {
        log::warn!(dump:% = line.id; "nothing about it is in {FILE_NAME}: {err}");
    }
}

/// Has what is read from now on come from the disk: what a failing disk did not
/// take stays in memory, as if it had, until that is needed (seen on ext4: zeros
/// from then on, after a sync that had failed once).
fn forget(file: &File) -> io::Result<()> {
    file.sync_all()?;
    // At worst they stay.
    let _ = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    Ok(())
}

/// A dump of which nothing can be made.
#[derive(Debug)]
struct Nothing {
    why: &'static str,
    /// What is known of the crash.
    known: Manifest,
}

/// Makes a zip of what there is of a dump, and returns its manifest; or says why
/// there is nothing to make it of.
fn mend(file: &File, id: &DumpId, stop: &CancellationToken) -> io::Result<Result<Manifest, Nothing>> {
    let Some(dump) = Torn::read(file, id, stop)? else {
        let known = nothing_known(id, file.metadata()?.modified()?);
        return Ok(Err(Nothing { why: "it does not begin as a dump does", known }));
    };
    if dump.found.bytes == 0 && dump.known() != Known::Whole {
        return Ok(Err(Nothing { why: "there is not one byte of its core", known: dump.manifest(id) }));
    }
    if let Some(manifest) = dump.repaired(file, id) {
        return Ok(Ok(manifest));
    }
    let manifest = dump.manifest(id);
    dump.write(file, &manifest)?;
    Ok(Ok(manifest))
}

/// Removes what there is not much of; the rest is for a person to look at.
fn give_up(
    spool: &Spool,
    torn: &Entry,
    part: Part,
    Nothing { why, known }: &Nothing,
) -> anyhow::Result<Repaired> {
    let (id, bytes) = (torn.id(), part.file().metadata()?.len());
    let reason = format!("the composer died, and of what it left nothing can be read: {why}");
    journal(spool, line(id, known, Outcome::Refused { reason }));
    if bytes > MOST_REMOVED {
        spool.set_state(torn, State::Rejected).with_context(|| format!("setting {torn} aside"))?;
        log::error!(dump:% = id, bytes; "set aside, since it cannot be repaired: {why}");
        return Ok(Repaired::Rejected);
    }
    part.discard().with_context(|| format!("removing {torn}, of which nothing can be read"))?;
    log::warn!(dump:% = id, bytes; "removed, since there was nothing to repair: {why}");
    Ok(Repaired::Removed)
}

/// What is known of a core.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Known {
    /// It is what the composer had written when it said that it had.
    Whole,
    /// The composer died before it had written it.
    Cut,
    /// It is not what the composer had written, which was this.
    Damaged(Ended),
}

/// A torn dump, and what is in it.
struct Torn {
    core: zip64::Entry,
    stage: Stage,
    /// Where the core's stream begins.
    content: u64,
    found: Found,
    rest: Rest,
    modified: SystemTime,
}

impl Torn {
    /// `None` if it does not begin with the header of a core.
    fn read(file: &File, id: &DumpId, stop: &CancellationToken) -> io::Result<Option<Torn>> {
        let modified = file.metadata()?.modified()?;
        let begun = zip64::Entry::read(file)?.filter(|(core, ..)| core.name() == format!("{id}/{CORE}"));
        let Some((core, stage, content)) = begun else { return Ok(None) };
        let end = stage.ended().map(|ended| content.saturating_add(ended.compressed));
        let found = scan::scan(core.method(), Input::new(file, content, end.unwrap_or(u64::MAX), stop))?;
        // A damaged core may leave a gap, which a zip may have.
        let core_end = content + found.ended().compressed;
        let rest = match end.unwrap_or(core_end) {
            begin if begin >= core_end => Rest::read(file, id, begin)?,
            _ => Rest::default(),
        };
        Ok(Some(Torn { core, stage, content, found, rest, modified }))
    }

    fn known(&self) -> Known {
        match &self.stage {
            // The bytes that end the stream may be missing: length and CRC are proof.
            Stage::Ended(ended) if *ended == self.found.ended() => Known::Whole,
            Stage::Ended(ended) => Known::Damaged(ended.clone()),
            Stage::Begun | Stage::Cut(_) => Known::Cut,
        }
    }

    /// The manifest that is there, if it is true. Then nothing is missing.
    fn own_manifest(&self) -> Option<&Manifest> {
        let (_, manifest) = self.rest.manifest.as_ref()?;
        agrees(manifest, &self.found).then_some(manifest)
    }

    /// What is to be said about it.
    fn manifest(&self, id: &DumpId) -> Manifest {
        if let Some(manifest) = self.own_manifest() {
            return manifest.clone();
        }
        let words = serde_json::from_slice(self.core.last_words()).ok();
        let words = words.filter(|words: &Manifest| words.id == *id);
        let written = self.rest.manifest.as_ref().map(|(_, manifest)| manifest.clone());
        let mut manifest = written.or(words).unwrap_or_else(|| nothing_known(id, self.modified));
        let Found { bytes, crc32, .. } = self.found;
        let (truncated, problem) = match self.known() {
            Known::Whole => (
                None,
                "the composer died after the core: of what follows it there is only what is in the zip, and \
                 whether it is as long as its headers promise nobody has looked at"
                    .to_owned(),
            ),
            Known::Cut if self.core.method() == Method::Stored => (
                Some(Truncation::ComposerDied),
                format!(
                    "the composer died before the end of the core, of which there are {bytes} bytes; if the machine \
                     went down, the last of them may be none of the core's"
                ),
            ),
            Known::Cut => (
                Some(Truncation::ComposerDied),
                format!("the composer died before the end of the core, of which there are {bytes} bytes"),
            ),
            Known::Damaged(Ended { uncompressed, crc32, .. }) => (
                Some(Truncation::ComposerDied),
                format!(
                    "the composer died, and the disk does not have what it had written: a core of {uncompressed} bytes \
                     with the CRC-32 {crc32:08x}, of which {bytes} bytes can be read and need not all be right"
                ),
            ),
        };
        let expected_bytes = manifest.core.expected_bytes;
        manifest.core = Core { bytes, expected_bytes, crc32: format!("{crc32:08x}"), truncated };
        manifest.problems.push(problem);
        manifest
    }

    /// The manifest, if an earlier repair has left nothing to do. It leaves a gap
    /// where a core was damaged, behind which we would find nothing any more.
    fn repaired(&self, file: &File, id: &DumpId) -> Option<Manifest> {
        let is_cut = matches!(&self.stage, Stage::Cut(ended) if *ended == self.found.ended());
        let (_, manifest) =
            read_manifest(file, id).ok().filter(|_| is_cut && self.found.ending.is_empty())?;
        agrees(&manifest, &self.found).then_some(manifest)
    }

    /// Makes a zip of it.
    ///
    /// Killed in between, this leaves what is read as the same core again: what
    /// was not valid is gone before the stream is ended, and only when it has
    /// its end does the header say how long it is. Only where a core is damaged
    /// can small entries be lost, if it is here that we are killed.
    fn write(self, file: &File, manifest: &Manifest) -> io::Result<()> {
        let stands = self.own_manifest().is_some();
        let stream_end = self.content + self.found.compressed;
        let ended = self.found.ended();
        if self.rest.end.is_none() {
            file.set_len(stream_end)?;
        }
        file.write_all_at(&self.found.ending, stream_end)?;
        if self.stage.ended() != Some(&ended) {
            self.core.cut(file, ended.clone())?;
        }
        let at = self.rest.end.unwrap_or(self.content + ended.compressed);
        let time = self.core.time();
        let mut name = self.core.name().to_owned();
        name.replace_range(name.len() - CORE.len().., manifest::FILE_NAME);
        let mut entries = vec![zip64::Listed { entry: self.core, ended, at: 0 }];
        entries.extend(self.rest.entries);
        let mut bytes = Vec::new();
        match self.rest.manifest {
            Some((listed, _)) if stands => entries.push(listed),
            _ => {
                let json = serde_json::to_vec_pretty(manifest)?;
                let (entry, listed) = zip64::small(name, time, &json, crc32fast::hash(&json), at);
                bytes.extend(entry);
                entries.push(listed);
            }
        }
        bytes.extend(zip64::directory(&entries, at + bytes.len() as u64));
        file.set_len(at)?;
        file.write_all_at(&bytes, at)
    }
}

/// Whether a manifest speaks of this core.
fn agrees(manifest: &Manifest, found: &Found) -> bool {
    manifest.core.bytes == found.bytes && manifest.core.crc32 == format!("{:08x}", found.crc32)
}

/// The manifest of a dump whose composer has left no word.
fn nothing_known(id: &DumpId, modified: SystemTime) -> Manifest {
    let reason = "the composer died, and what it knew is lost".to_owned();
    Manifest {
        version: manifest::VERSION,
        id: id.clone(),
        node: "".into(),
        captured_at: Timestamp::try_from(modified).unwrap_or_default(),
        crash: Crash::default(),
        core: Core { bytes: 0, expected_bytes: None, crc32: String::new(), truncated: None },
        trusted: false,
        container: Attribution::Missing { reason: reason.clone(), id: None, pod_uid: None },
        held_ms: 0,
        problems: vec![reason],
    }
}
