//! Puts the composer on the host and points the kernel at it.
//!
//! Every command looks at the host (`host`), decides what to do (`plan`, which
//! is pure), and does it (`execution`). What was there before the first change
//! is remembered on the host itself (`memory`), so that `uninstall` can give it
//! back whichever pod it runs in.
//!
//! Exit codes: 0 done, 1 could not, 64 configured wrongly.

mod change;
mod cluster;
mod config;
mod crash;
mod execution;
mod host;
mod lock;
mod memory;
mod plan;
mod selftest;
mod status;
mod step;
mod sysctl;
mod trial;
mod watch;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use protocol::host::{COMPOSER, HostRoot};

use crate::change::say;
use crate::cluster::DaemonSet;
use crate::config::Config;
use crate::host::Node;

/// `EX_USAGE` of sysexits.h: the command line or the configuration is wrong,
/// and trying again will not help.
const CONFIGURED_WRONGLY: u8 = 64;
/// Read if it is there and no other file is named.
const DEFAULT_CONFIG: &str = "/etc/coredump-handler/installer.yaml";

#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// YAML settings [default: /etc/coredump-handler/installer.yaml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the host's / is mounted
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    host_root: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this node collect; doing it twice changes nothing
    Install {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Install, then repair what others change, until SIGTERM; uninstall if the DaemonSet is removed
    Run,
    /// Is this node collecting, and if not, why?
    Status {
        /// Print an object instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Crash a child of our own and wait for its dump
    SelfTest,
    /// Give back what was there before; only what is still ours
    Uninstall {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// What we start in order to see it die
    #[command(name = crash::COMMAND, hide = true)]
    Crash {
        /// The command name to die under
        comm: String,
    },
}

/// The program: runs what `args` ask for and reports what became of it.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(err) => {
            // A closed stdout or stderr leaves nobody to tell.
            let _ = err.print();
            return if err.use_stderr() { ExitCode::from(CONFIGURED_WRONGLY) } else { ExitCode::SUCCESS };
        }
    };
    match obey(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Configured(problems)) => {
            for problem in problems {
                eprintln!("installer: {problem}");
            }
            ExitCode::from(CONFIGURED_WRONGLY)
        }
        Err(Failure::Other(err)) => {
            eprintln!("installer: {err:#}");
            ExitCode::FAILURE
        }
    }
}

/// Why a command failed, as far as its exit code tells.
enum Failure {
    /// These things are wrong with the configuration.
    Configured(Vec<String>),
    /// It could not.
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(err: anyhow::Error) -> Failure {
        Failure::Other(err)
    }
}

fn obey(cli: Cli) -> Result<(), Failure> {
    let own = env::current_exe().context("finding our own executable")?;
    if !cli.host_root.is_dir() {
        let problem = format!("--host-root: {} is not a directory", cli.host_root.display());
        return Err(Failure::Configured(vec![problem]));
    }
    let node = Node {
        config: load(cli.config.as_deref()).map_err(Failure::Configured)?,
        root: HostRoot::new(cli.host_root),
        // The one we were shipped with.
        composer: own.with_file_name(COMPOSER),
        installer: own,
    };
    match cli.command {
        Command::Install { dry_run: true } => {
            plan::install(&host::observe(&node)?, &node.config)?.iter().for_each(|step| say(step));
        }
        Command::Install { dry_run: false } => change::install(&node, lock::PATIENCE, |step| say(step))?,
        Command::Run => watch::run(&node, daemon_set(&node.config)?.as_ref())?,
        Command::Status { json } => status::report(&status::of(&node), json)?,
        Command::SelfTest => selftest::run(&node)?,
        Command::Uninstall { dry_run: true } => {
            plan::uninstall(&host::observe(&node)?, &node.config)?.iter().for_each(|step| say(step));
        }
        Command::Uninstall { dry_run: false } => change::uninstall(&node, say)?,
        Command::Crash { comm } => crash::die(&comm)?,
    }
    Ok(())
}

/// The DaemonSet that the API server is to be asked about, if there is one.
fn daemon_set(config: &Config) -> Result<Option<DaemonSet>, Failure> {
    let Some(name) = &config.daemon_set else { return Ok(None) };
    match DaemonSet::find(&|name| env::var(name).ok(), &config.account_dir, name) {
        Ok(daemon_set) => Ok(Some(daemon_set)),
        Err(err) => Err(Failure::Configured(vec![format!("daemon_set: {err:#}")])),
    }
}

/// Reads the configuration, or says all that is wrong with it.
fn load(file: Option<&Path>) -> Result<Config, Vec<String>> {
    let path = match file {
        Some(path) => path,
        None if Path::new(DEFAULT_CONFIG).exists() => Path::new(DEFAULT_CONFIG),
        None => return Config::read(""),
    };
    let named = |problem: String| format!("{}: {problem}", path.display());
    let yaml = std::fs::read_to_string(path).map_err(|err| vec![named(err.to_string())])?;
    Config::read(&yaml).map_err(|problems| problems.into_iter().map(named).collect())
}
