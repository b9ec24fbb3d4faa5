//! What a handler made of a core, and whether that is what it claims to be. A
//! handler that drops half of it would be the fastest.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use protocol::manifest::{CORE, Manifest};
use protocol::spool::{Spool, State};
use zip::{CompressionMethod, ZipArchive};

use super::handler::{Booth, Handler};
use crate::elf;
use crate::node::Dump;

/// What is left of the crash of a process, until this value is gone.
pub struct Remains<'a> {
    booth: &'a Booth,
    handler: Handler,
    pid: u32,
}

/// What it is.
#[derive(Debug)]
pub enum Finding {
    /// All of the core.
    Whole {
        /// How much that was.
        core_bytes: u64,
        /// What it is on the disk.
        dump_bytes: Option<u64>,
    },
    /// A dump other than the one asked for, because the composer does not know
    /// the setting; with what it says.
    NotThere(String),
}

impl<'a> Remains<'a> {
    /// Those of a process that `handler` has had.
    pub fn of(booth: &'a Booth, handler: Handler, pid: u32) -> Remains<'a> {
        Remains { booth, handler, pid }
    }

    /// The dump of one of ours, once it is there.
    ///
    /// # Errors
    /// If the spool cannot be listed.
    pub fn ready(&self) -> Result<Option<PathBuf>> {
        let spool = Spool::open(self.booth.spool(self.handler))?;
        let mine = format!("-{}-", self.pid);
        let mut found = spool.list()?.into_iter().map(|found| found.entry);
        let entry = found.find(|entry| entry.state() == State::Ready && entry.id().as_str().contains(&mine));
        Ok(entry.map(|entry| spool.path(&entry)))
    }

    /// Looks at it. A core has at least `least` bytes.
    ///
    /// # Errors
    /// If it is not what it has to be.
    pub fn examine(&self, least: u64) -> Result<Finding> {
        let dump = self.booth.dump(self.handler, self.pid);
        let (core_bytes, dump_bytes) = match self.handler.ours() {
            Some(method) => match self.composed(method)? {
                Composed::AsAsked(sizes) => sizes,
                Composed::Otherwise(why) => return Ok(Finding::NotThere(why)),
            },
            None if self.handler == Handler::Raw => {
                let bytes = fs::metadata(&dump)?.len();
                let segments = elf::segments(&mut File::open(&dump)?).context("the raw file")?;
                let end = segments.iter().map(|segment| segment.offset + segment.length).max();
                ensure!(end == Some(bytes), "the raw file has {bytes} bytes of a core of {end:?}");
                (bytes, Some(bytes))
            }
            None => {
                let count = self.booth.count(self.pid);
                let count = fs::read_to_string(&count).context("how much was read")?;
                let bytes = count.trim().parse().context("how much was read")?;
                (bytes, self.zipped(bytes)?)
            }
        };
        ensure!(core_bytes >= least, "{} got {core_bytes} bytes of {least} and more", self.handler);
        Ok(Finding::Whole { core_bytes, dump_bytes })
    }

    /// The size of the naive way's zip, if there is any, of so many bytes.
    fn zipped(&self, bytes: u64) -> Result<Option<u64>> {
        if self.handler != Handler::Naive {
            return Ok(None);
        }
        let file = File::open(self.booth.dump(self.handler, self.pid))?;
        let size = file.metadata()?.len();
        let mut zip = ZipArchive::new(file).context("the naive way's zip")?;
        let entry = zip.by_index(0)?;
        ensure!(entry.size() == bytes, "the naive way's zip has {} of {bytes} bytes", entry.size());
        Ok(Some(size))
    }

    fn composed(&self, method: CompressionMethod) -> Result<Composed> {
        let path = self.ready()?.context("the composer has published nothing")?;
        let size = fs::metadata(&path)?.len();
        let mut dump = Dump::open(&path);
        let Manifest { core, trusted, problems, .. } = dump.manifest();
        // Without the path that is before it.
        let setting = |problem: &String| Some(problem[problem.find("compression:")?..].to_owned());
        if let Some(why) = problems.iter().find_map(setting) {
            return Ok(Composed::Otherwise(why));
        }
        ensure!(problems.is_empty(), "the composer had problems: {problems:?}");
        ensure!(trusted, "the composer could not prove whose core it is");
        if core.truncated.is_some() || core.expected_bytes != Some(core.bytes) {
            bail!("the composer did not get all of the core: {core:?}");
        }
        let found = dump.method(CORE);
        ensure!(found == method, "the core is {found:?} in the dump, and was to be {method:?}");
        if method == CompressionMethod::Stored {
            ensure!(size > core.bytes, "the dump has {size} bytes, its core {}", core.bytes);
        }
        Ok(Composed::AsAsked((core.bytes, Some(size))))
    }
}

enum Composed {
    AsAsked((u64, Option<u64>)),
    Otherwise(String),
}

impl Drop for Remains<'_> {
    fn drop(&mut self) {
        let ready = self.handler.ours().and_then(|_| self.ready().ok().flatten());
        let (dump, count) = (self.booth.dump(self.handler, self.pid), self.booth.count(self.pid));
        for path in [dump, count, self.booth.usage(self.pid)].into_iter().chain(ready) {
            // Most of them never were.
            let _ = fs::remove_file(path);
        }
    }
}
