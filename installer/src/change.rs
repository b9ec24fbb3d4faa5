//! Changes the host: looks, plans and executes, one installer at a time.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Error, Result, anyhow, ensure};

use crate::execution::{Done, execute};
use crate::host::{Directory, Host, Node, observe};
use crate::lock::{Lock, PATIENCE};
use crate::plan;
use crate::step::Step;
use crate::trial::NotRun;

/// Makes the host collect, whatever fails on the way, and tells `did` about
/// each thing it had to do. Waits for other installers as long as `patience`.
///
/// A host on which no trial has ever passed is given back if anything fails:
/// whoever collected its cores before is to go on.
///
/// # Errors
/// [`Busy`](crate::lock::Busy), [`Deleted`](crate::host::Deleted), whatever
/// leaves no plan, or all the steps that failed. The next attempt goes on from
/// there. [`NotRun`] if all is in place, and the kernel, which ran a composer here
/// before, was not seen to run this one.
pub fn install(node: &Node, patience: Duration, did: impl FnMut(&Step)) -> Result<()> {
    let Some((_lock, host)) = lock(node, patience)? else { return Ok(()) };
    let is_proven = host.trial.is_proven(host.memory.is_some());
    let failure = match plan::install(&host, &node.config) {
        Ok(steps) => execute_all(node, steps, is_proven, did),
        Err(err) if is_proven || host.memory.is_none() => return Err(err),
        Err(err) => return Err(given_back(node, err)),
    };
    match failure {
        None => Ok(()),
        Some(failure) if is_proven => Err(failure),
        Some(failure) => Err(given_back(node, failure)),
    }
}

/// Gives back a host that we cannot collect on, and says why we cannot.
fn given_back(node: &Node, failure: Error) -> Error {
    let steps = observe(node).and_then(|host| plan::retreat(&host, &node.config));
    match steps.and_then(|steps| give_back(node, steps, |_| ())) {
        Ok(()) => anyhow!("{failure:#}; this node is what it was before"),
        Err(err) => anyhow!("{failure:#}; {err:#}"),
    }
}

/// Executes all steps that can be, and returns what failed. On a host that is not
/// `proven`, and is to be given back then, none after one that failed: its pattern
/// is not to be taken for nothing.
fn execute_all(node: &Node, steps: Vec<Step>, proven: bool, mut did: impl FnMut(&Step)) -> Option<Error> {
    let mut undone: Vec<Step> = Vec::new();
    let mut failures: Vec<Error> = Vec::new();
    for step in steps {
        if undone.iter().any(|failed| !proven || step.needs(failed)) {
            undone.push(step);
            continue;
        }
        match execute(node, &step) {
            Ok(_) => did(&step),
            Err(err) => {
                failures.push(err);
                undone.push(step);
            }
        }
    }
    together(failures)
}

/// All that failed.
fn together(mut failures: Vec<Error>) -> Option<Error> {
    // Without all the rest it is not tried.
    if let Some(not_run) = failures.pop_if(|err| err.is::<NotRun>()) {
        return Some(not_run);
    }
    let failures: Vec<String> = failures.iter().map(|err| format!("{err:#}")).collect();
    (!failures.is_empty()).then(|| anyhow!("not everything could be done: {}", failures.join("; ")))
}

/// The host, locked; `None` if there is nothing to do.
fn lock(node: &Node, patience: Duration) -> Result<Option<(Lock, Host)>> {
    loop {
        let first = observe(node)?;
        match plan::install(&first, &node.config) {
            Ok(steps) if steps.is_empty() => return Ok(None),
            // There is something to give back.
            Err(_) if first.memory.is_some() && !first.trial.is_proven(true) => {}
            planned => drop(planned?),
        }
        // What is locked must be there. A kill between two of these leaves the
        // outer ones for ever: no memory can be written yet, and an empty
        // directory that is not the host_dir may be anybody's. Only a host_dir
        // two levels below anything that exists can come to that.
        if let Directory::Missing { missing } = &first.dir {
            for dir in missing {
                execute(node, &Step::MakeDir(dir.clone()))?;
            }
        }
        // Without it, the one before us has uninstalled: from the beginning.
        if let Some(lock) = Lock::take(&node.root.locate(&node.config.host_dir), patience)? {
            let mut host = observe(node)?;
            if host.memory.is_none() && matches!(first.dir, Directory::Missing { .. }) {
                // What was made for the sake of the lock is to be remembered
                // like the rest, and making it twice does no harm.
                host.dir = first.dir;
            }
            return Ok(Some((lock, host)));
        }
    }
}

/// Gives back what was there before, whatever fails on the way, and tells `did`
/// what became of it.
///
/// # Errors
/// All that failed.
pub fn uninstall(node: &Node, mut did: impl FnMut(&dyn Display)) -> Result<()> {
    // Without a directory there is nothing to lock, and nobody at work.
    let _lock = Lock::take(&node.root.locate(&node.config.host_dir), PATIENCE)?;
    let steps = plan::uninstall(&observe(node)?, &node.config)?;
    if steps.is_empty() {
        did(&"nothing is installed");
    }
    give_back(node, steps, did)
}

fn give_back(node: &Node, steps: Vec<Step>, mut did: impl FnMut(&dyn Display)) -> Result<()> {
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
    ensure!(failures.is_empty(), "not everything could be given back: {}", failures.join("; "));
    Ok(())
}

/// Tells the person at the terminal, who may have gone: a closed pipe must not
/// end a change halfway.
pub fn say(line: &dyn Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
