//! An S3 store for people without one: `dev-store --dir objects --bucket dumps`.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use testbed::store::{ACCESS_KEY, REGION, SECRET_KEY, Store};

/// An S3 store for people without one. It ends with SIGTERM or SIGINT.
#[derive(Parser)]
struct Args {
    /// Where objects are kept, as plain files.
    #[arg(long)]
    dir: PathBuf,
    /// A bucket to create, unless it is there.
    #[arg(long)]
    bucket: String,
    /// Where to listen; port 0 is any.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// A file to write the endpoint to once connections are taken.
    #[arg(long)]
    ready_file: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    // Before there are threads, which inherit it: the signals are for `wait`.
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    signals.thread_block()?;

    fs::create_dir_all(&args.dir).with_context(|| format!("creating {}", args.dir.display()))?;
    let store = Store::start_at(&args.dir, args.listen)?;
    store.create_bucket(&args.bucket)?;
    println!("endpoint={}", store.endpoint());
    println!("AWS_ACCESS_KEY_ID={ACCESS_KEY}\nAWS_SECRET_ACCESS_KEY={SECRET_KEY}\nAWS_REGION={REGION}");
    if let Some(path) = &args.ready_file {
        // Whoever waits for the file must not find it empty.
        let part = path.with_added_extension("part");
        fs::write(&part, format!("{}\n", store.endpoint()))
            .and_then(|()| fs::rename(&part, path))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    signals.wait()?;
    Ok(())
}
