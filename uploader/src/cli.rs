//! The command line: what a person or a pod asks for.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use protocol::host::DEFAULT_SPOOL_DIR;
use protocol::record;
use protocol::spool::{DumpId, Spool};

use crate::config::{Config, DEFAULT_FILE, Env};
use crate::events::Events;
use crate::monitor::Monitor;
use crate::retention::Retention;
use crate::upload::Uploader;
use crate::{daemon, push, store, view};

/// Configured wrongly; EX_USAGE in sysexits.h.
const MISCONFIGURED: u8 = 64;
/// Threads that wait for disks, and for the resolver of host names.
const BLOCKING_THREADS: usize = 8;

/// Ships finished dumps to a store.
#[derive(Parser)]
#[command(name = "uploader", version)]
struct Cli {
    /// The settings, in YAML [default: /etc/coredump-handler/uploader.yaml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The spool, whatever the settings say
    #[arg(long, global = true, value_name = "DIR")]
    spool: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Ship what is in the spool and what arrives there, until SIGTERM; repair what is torn
    Run,
    /// Ship what is in the spool now, once, and exit; repair what is torn
    Push {
        /// Only these dumps
        ids: Vec<String>,
    },
    /// The spool as a table
    Ls {
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
    /// One dump's manifest
    Show {
        /// The dump's id, or the beginning of it
        id: String,
        /// As it stands in the dump
        #[arg(long)]
        json: bool,
    },
}

/// Why there is nothing done.
enum Failure {
    /// It could not be done.
    CouldNot(anyhow::Error),
    /// The settings or the arguments are wrong; all that is wrong with them.
    Misconfigured(Vec<String>),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(err: E) -> Failure {
        Failure::CouldNot(err.into())
    }
}

/// Runs the program. `env` is the environment.
pub fn main(args: impl IntoIterator<Item = OsString>, env: Env<'_>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(err) => {
            let _ = err.print();
            return ExitCode::from(if err.use_stderr() { MISCONFIGURED } else { 0 });
        }
    };
    record::begin();
    match dispatch(cli, env) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::CouldNot(err)) => {
            eprintln!("uploader: {err:#}");
            ExitCode::FAILURE
        }
        Err(Failure::Misconfigured(problems)) => {
            problems.iter().for_each(|problem| eprintln!("uploader: {problem}"));
            ExitCode::from(MISCONFIGURED)
        }
    }
}

fn dispatch(cli: Cli, env: Env<'_>) -> Result<(), Failure> {
    match &cli.command {
        Command::Ls { json } => print(&view::ls(&spool_to_look_at(&cli)?, *json)?),
        Command::Show { id, json } => print(&view::show(&spool_to_look_at(&cli)?, id, *json)?),
        Command::Run => {
            let mut config = config(&cli, env)?;
            let (parallel, grace, listen) = (config.parallel, config.grace, config.listen);
            let monitor = Monitor::new(config.hook.clone(), config.ready_without_store);
            let (events, courier) =
                config.events.take().map(|config| Events::new(config, &monitor.metrics.events)).unzip();
            let uploader = uploader(config, events.unwrap_or_default())?;
            run(async {
                courier.map(|courier| tokio::spawn(courier.run()));
                daemon::run(uploader, parallel, grace, monitor, listen).await
            })
        }
        Command::Push { ids } => {
            let config = config(&cli, env)?;
            let parallel = config.parallel;
            let ids: Result<Vec<DumpId>, _> = ids.iter().map(|id| DumpId::try_from(id.clone())).collect();
            let ids = ids.map_err(|err| Failure::Misconfigured(vec![err.to_string()]))?;
            // Who pushes by hand sees what becomes of it.
            let uploader = uploader(config, Events::default())?;
            run(push::push(&uploader, &ids, parallel))
        }
    }
}

/// Looking at the spool takes no store and no credentials.
fn spool_to_look_at(cli: &Cli) -> Result<Spool, Failure> {
    let file = cli.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    let dir = match (&cli.spool, fs::read_to_string(&file)) {
        (Some(dir), _) => dir.clone(),
        (None, Ok(yaml)) => Config::spool_dir(&yaml),
        (None, Err(_)) if cli.config.is_none() => DEFAULT_SPOOL_DIR.into(),
        (None, Err(err)) => return Err(Failure::Misconfigured(vec![format!("{}: {err}", file.display())])),
    };
    Ok(Spool::open(&dir).with_context(|| format!("opening the spool {}", dir.display()))?)
}

fn config(cli: &Cli, env: Env<'_>) -> Result<Config, Failure> {
    let file = cli.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    let wrong = |problems: Vec<String>| {
        let named = problems.into_iter().map(|problem| format!("{}: {problem}", file.display()));
        Failure::Misconfigured(named.collect())
    };
    let yaml = fs::read_to_string(&file).map_err(|err| wrong(vec![err.to_string()]))?;
    let mut config = Config::read(&yaml, env).map_err(wrong)?;
    config.spool_dir = cli.spool.clone().unwrap_or(config.spool_dir);
    Ok(config)
}

fn uploader(config: Config, events: Events) -> anyhow::Result<Uploader> {
    let store = store::open(config.store, config.bandwidth)?;
    let retention = Retention::new(config.retention);
    Ok(Uploader::new(Spool::at(config.spool_dir), store, config.key, config.part_size, retention, events))
}

/// Runs to the end. One thread is enough for what waits for a network, and more
/// would each keep memory of their own.
fn run(work: impl Future<Output = anyhow::Result<()>>) -> Result<(), Failure> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().max_blocking_threads(BLOCKING_THREADS).build()?;
    let done = runtime.block_on(work);
    // Not waiting for a file that is still being read: who was told to end ends.
    runtime.shutdown_background();
    Ok(done?)
}

fn print(text: &str) -> Result<(), Failure> {
    use io::Write;
    writeln!(io::stdout(), "{text}").or_else(|err| match err.kind() {
        io::ErrorKind::BrokenPipe => Ok(()), // `ls | head`
        _ => Err(err.into()),
    })
}
