//! Changes the host: looks, plans and executes, one installer at a time.

use std::fmt::Display;
use std::io::{self, Write};

use anyhow::{Result, bail};

use crate::execution::{Done, execute};
use crate::host::{Directory, Node, observe};
use crate::lock::Lock;
use crate::plan::{self, Step};

/// Makes the host collect, and tells `did` about each thing it had to do.
///
/// # Errors
/// The first step that fails. The next attempt goes on from there.
pub fn install(node: &Node, mut did: impl FnMut(&Step)) -> Result<()> {
    let first = observe(node)?;
    if plan::install(&first, &node.config)?.is_empty() {
        return Ok(());
    }
    // What is locked must be there.
    if let Directory::Missing { missing } = &first.dir {
        for dir in missing {
            execute(node, &Step::MakeDir(dir.clone()))?;
        }
    }
    let _lock = Lock::take(&node.root.locate(&node.config.host_dir))?;
    let mut host = observe(node)?;
    if host.memory.is_none() && matches!(first.dir, Directory::Missing { .. }) {
        // What was made for the sake of the lock is to be remembered like the
        // rest, and making it twice does no harm.
        host.dir = first.dir;
    }
    for step in plan::install(&host, &node.config)? {
        execute(node, &step)?;
        did(&step);
    }
    Ok(())
}

/// Gives back what was there before, whatever fails on the way, and tells `did`
/// what became of it.
///
/// # Errors
/// All that failed.
pub fn uninstall(node: &Node, mut did: impl FnMut(&dyn Display)) -> Result<()> {
    let dir = node.root.locate(&node.config.host_dir);
    let _lock = if dir.exists() { Some(Lock::take(&dir)?) } else { None };
    let steps = plan::uninstall(&observe(node)?, &node.config);
    if steps.is_empty() {
        did(&"nothing is installed");
    }
    let mut failures = Vec::new();
    for step in steps {
        // What could not be given back is remembered for the next attempt.
        if step == Step::Forget && !failures.is_empty() {
            break;
        }
        match execute(node, &step) {
            Ok(Done::Done) => did(&step),
            Ok(Done::Kept(why)) => did(&why),
            Err(err) => {
                failures.push(format!("{err:#}"));
                // The rest is what a composer lives on.
                if matches!(step, Step::RemoveComposer(_)) {
                    break;
                }
            }
        }
    }
    if !failures.is_empty() {
        bail!("not everything could be given back: {}", failures.join("; "));
    }
    Ok(())
}

/// Tells the person at the terminal, who may have gone: a closed pipe must not
/// end a change halfway.
pub fn say(line: &dyn Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
