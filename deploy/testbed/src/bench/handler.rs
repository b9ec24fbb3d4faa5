//! Who takes the core: what is compared.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use protocol::argv::{CorePattern, MAX_PATTERN, SPECIFIERS};
use protocol::host::{COMPOSER, COMPOSER_SETTINGS, HostPath, SPOOL_MODE};
use serde::{Deserialize, Serialize};
use zip::CompressionMethod;

/// A program that the kernel gives a core to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Handler {
    /// Reads, and does nothing else: the floor.
    Discard,
    /// `cat > file`.
    Raw,
    /// What the incumbent does.
    Naive,
    /// The composer as it is by default.
    Deflate,
    /// The composer with `compression: zstd`.
    Zstd,
    /// The composer with `compression: store`.
    Store,
}

impl Handler {
    /// All of them, in the order of the tables.
    pub const ALL: [Handler; 6] =
        [Handler::Discard, Handler::Raw, Handler::Naive, Handler::Deflate, Handler::Zstd, Handler::Store];

    /// A word, for arguments and paths.
    pub fn name(self) -> &'static str {
        match self {
            Handler::Discard => "discard",
            Handler::Raw => "raw",
            Handler::Naive => "naive",
            Handler::Deflate => "deflate",
            Handler::Zstd => "zstd",
            Handler::Store => "store",
        }
    }

    /// How the core's entry in the zip has to be compressed, if this is ours.
    pub fn ours(self) -> Option<CompressionMethod> {
        match self {
            Handler::Discard | Handler::Raw | Handler::Naive => None,
            Handler::Deflate => Some(CompressionMethod::Deflated),
            Handler::Zstd => Some(CompressionMethod::ZSTD),
            Handler::Store => Some(CompressionMethod::Stored),
        }
    }
}

/// What it is called in the tables.
impl fmt::Display for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Handler::Discard => "discard",
            Handler::Raw => "raw file",
            Handler::Naive => "the naive way",
            Handler::Deflate => "ours, deflate",
            Handler::Zstd => "ours, zstd",
            Handler::Store => "ours, store",
        })
    }
}

/// Where the programs are that the kernel runs, and where they write. The
/// benchmark makes it, and its handlers find it around themselves.
pub struct Booth {
    dir: PathBuf,
}

/// The program of the handlers.
const PROGRAM: &str = "h";
/// A link to where dumps go: `dir` is there for its short name.
const WORK: &str = "work";

impl Booth {
    /// Puts everything into `dir`: `program`, and a composer for each of its
    /// settings, which have their spools in `work`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn furnish(dir: &Path, work: &Path, program: &Path, composer: &Path) -> Result<Booth> {
        let booth = Booth { dir: dir.to_owned() };
        std::os::unix::fs::symlink(work, dir.join(WORK)).context("linking to the directory of dumps")?;
        fs::copy(program, dir.join(PROGRAM))
            .with_context(|| format!("copying the handlers' program {}", program.display()))?;
        for handler in Handler::ALL.into_iter().filter(|handler| handler.ours().is_some()) {
            let spool = work.join(handler.name());
            fs::create_dir(&spool)?;
            fs::set_permissions(&spool, PermissionsExt::from_mode(SPOOL_MODE))?;
            let own = dir.join(handler.name());
            fs::create_dir(&own)?;
            fs::copy(composer, own.join(COMPOSER)).context("copying the composer")?;
            let settings = format!(
                "spool_dir: {}\ncompression: {}\nkeep_free: 64MiB\nrate_limit: {{every: 0s}}\n",
                spool.display(),
                handler.name()
            );
            fs::write(own.join(COMPOSER_SETTINGS), settings)?;
        }
        Ok(booth)
    }

    /// The one that this program is in.
    ///
    /// # Errors
    /// If the program does not know where it is.
    pub fn around_us() -> io::Result<Booth> {
        let program = std::env::current_exe()?;
        Ok(Booth { dir: program.parent().unwrap_or(Path::new("/")).to_owned() })
    }

    /// A pattern that has the kernel run `handler` under a meter.
    ///
    /// # Errors
    /// If the directory's name is too long.
    pub fn metered(&self, handler: Handler) -> Result<String> {
        let program = self.dir.join(PROGRAM);
        let specifiers = SPECIFIERS.join(" ");
        let pattern = format!("|{} meter {} {specifiers}", program.display(), handler.name());
        ensure!(pattern.len() <= MAX_PATTERN, "this pattern is too long for the kernel: {pattern}");
        Ok(pattern)
    }

    /// A pattern that has the kernel run `handler` itself. Where that one
    /// leaves its output is not known then, unless it is ours.
    ///
    /// # Errors
    /// If the directory's name is too long.
    pub fn plain(&self, handler: Handler) -> Result<String> {
        match handler.ours() {
            None => Ok(format!("|{} {}", self.dir.join(PROGRAM).display(), handler.name())),
            Some(_) => {
                let composer = HostPath::try_from(self.composer(handler).display().to_string())?;
                Ok(CorePattern::piping_to(&composer)?.as_str().to_owned())
            }
        }
    }

    /// The command that has a core on its standard input. `arguments` are the
    /// kernel's.
    ///
    /// # Errors
    /// If its output cannot be created.
    pub fn command(&self, handler: Handler, pid: u32, arguments: &[&str]) -> io::Result<Command> {
        let ourselves = || {
            let mut command = Command::new(self.dir.join(PROGRAM));
            command.arg(handler.name());
            command
        };
        let mut command = match handler {
            Handler::Discard => ourselves(),
            Handler::Raw => Command::new("cat"),
            Handler::Naive => {
                let mut command = ourselves();
                command.arg(self.dump(handler, pid));
                command
            }
            Handler::Deflate | Handler::Zstd | Handler::Store => {
                let mut command = Command::new(self.composer(handler));
                command.args(arguments);
                command
            }
        };
        command.stdout(match handler {
            Handler::Discard | Handler::Naive => File::create(self.count(pid))?.into(),
            Handler::Raw => File::create(self.dump(handler, pid))?.into(),
            Handler::Deflate | Handler::Zstd | Handler::Store => Stdio::null(),
        });
        Ok(command)
    }

    /// Where a handler that has no spool writes what it makes of a core.
    pub fn dump(&self, handler: Handler, pid: u32) -> PathBuf {
        self.dir.join(WORK).join(format!("{}.{pid}", handler.name()))
    }

    /// Where a handler says how many bytes it has read.
    pub fn count(&self, pid: u32) -> PathBuf {
        self.dir.join(WORK).join(format!("count.{pid}"))
    }

    /// Where the meter says what it has seen.
    pub fn usage(&self, pid: u32) -> PathBuf {
        self.dir.join(WORK).join(format!("usage.{pid}"))
    }

    /// The spool of one of ours.
    pub fn spool(&self, handler: Handler) -> PathBuf {
        self.dir.join(WORK).join(handler.name())
    }

    fn composer(&self, handler: Handler) -> PathBuf {
        self.dir.join(handler.name()).join(COMPOSER)
    }
}
