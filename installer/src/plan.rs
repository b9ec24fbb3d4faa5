//! From what the host is to what it should be. Touches nothing.

#[cfg(test)]
mod tests;

use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use protocol::argv;
use protocol::host::{COMPOSER, COMPOSER_SETTINGS, HostPath, SPOOL_MODE, TRIAL};

use crate::config::{Config, is_within};
use crate::host::{COMPOSER_MODE, Deleted, Directory, HOST_DIR_MODE, Host, SETTINGS_MODE, Shipped};
use crate::memory::{Found, Memory};
use crate::step::Step;
use crate::sysctl::Sysctl;
use crate::trial::Trial;

/// A node on which the kernel was seen not to run the composer: each try takes the
/// crashes of some seconds from whoever collects them there.
const LEAVE_ALONE: Duration = Duration::from_secs(3600);

/// What makes `host` collect. Nothing, if it does already.
///
/// The order is such that it can be killed between any two steps: memory comes
/// before change, and a pattern never names a composer that is not there yet.
///
/// # Errors
/// If no plan can: something is in the way, or out of reach.
pub fn install(host: &Host, config: &Config) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let [composer, settings] = [looked(&host.composer)?, looked(&host.settings)?];
    let spool = looked(&host.spool)?;
    check(host, &config.host_dir, &host.dir)?;
    check(host, &config.spool_dir, spool)?;
    if let Directory::Present { stranger: Some(uid), .. } = host.dir {
        bail!("{} belongs to uid {uid}, who could replace what root runs", config.host_dir);
    }
    ensure!(
        host.memory.is_some() || *looked(&host.executes)?,
        "{} is where nothing is executed: its file system is mounted noexec",
        config.host_dir
    );
    if let Trial::Failed { why, ago, .. } = &host.trial
        && host.memory.is_none()
        && *ago < LEAVE_ALONE
    {
        bail!(
            "{why}; this node is what it was before, and is left alone for an hour, or until it boots, gets another \
             composer, or is uninstalled"
        );
    }
    check_holder(host, config)?;
    let memory = memory(host, config)?;
    steps.extend(host.leftovers.iter().cloned().map(Step::RemoveFile));
    steps.extend(missing(&host.dir).iter().cloned().map(Step::MakeDir));
    let says_proven = matches!(
        host.trial,
        Trial::Untried | Trial::Outdated { proven: true } | Trial::Failed { proven: true, .. }
    );
    if host.memory.is_none() && says_proven {
        steps.push(Step::Doubt);
    }
    if host.memory.as_ref() != Some(&memory) {
        steps.push(Step::Remember(memory));
    }
    if matches!(host.dir, Directory::Present { mode, .. } if mode != HOST_DIR_MODE) {
        steps.push(Step::ProtectHostDir);
    }
    if *settings != (Shipped::Present { mode: SETTINGS_MODE, stranger: None, same: true }) {
        steps.push(Step::WriteSettings);
    }
    if *composer != (Shipped::Present { mode: COMPOSER_MODE, stranger: None, same: true }) {
        looked(&host.ours)?;
        steps.push(Step::CopyComposer);
    }
    steps.extend(missing(spool).iter().cloned().map(Step::MakeDir));
    if !matches!(*spool, Directory::Present { mode: SPOOL_MODE, gid, .. } if gid == config.spool_gid) {
        steps.push(Step::OpenSpool);
    }
    for (sysctl, to) in &config.sysctls {
        let from = value(host, *sysctl)?;
        if from != to {
            steps.push(Step::Set { sysctl: *sysctl, from: from.to_owned(), to: to.clone() });
        }
    }
    if !matches!(host.trial, Trial::NoKernel | Trial::Passed) {
        steps.push(Step::Try);
    }
    Ok(steps)
}

/// Refuses a node that a collector in another `host_dir` holds: what was there
/// before it, it alone knows.
fn check_holder(host: &Host, config: &Config) -> Result<()> {
    let now = value(host, Sysctl::CorePattern).unwrap_or_default();
    ensure!(
        host.memory.is_some() || config.names_composer(now) || !argv::is_of_an_installer(now),
        "core_pattern is {now:?}: a collector in another host_dir holds this node, and has to give it back first"
    );
    Ok(())
}

/// Refuses a directory that cannot become ours.
fn check(host: &Host, dir: &HostPath, state: &Directory) -> Result<()> {
    let known = host.memory.as_ref().is_some_and(|memory| memory.knows(dir));
    match state {
        Directory::Other => bail!("{dir} is not a directory"),
        Directory::Deleted => bail!(Deleted(dir.clone())),
        // Unless it was ours and somebody opened it: then it is closed again.
        Directory::Present { mode, .. } if !known => {
            ensure!(
                !is_shared(*mode),
                "{dir} has mode {mode:o}: others share it, and it is not ours to close"
            );
        }
        Directory::Present { .. } | Directory::Missing { .. } => {}
    }
    Ok(())
}

/// Whether a directory of this mode, such as `/tmp`, is for everybody.
pub fn is_shared(mode: u32) -> bool {
    mode & 0o1002 != 0 // sticky, or writable for others
}

/// What has to be remembered before `host` is changed.
fn memory(host: &Host, config: &Config) -> Result<Memory> {
    let mut memory = host.memory.clone().unwrap_or_default();
    let spool = looked(&host.spool)?;
    for (dir, state) in [(&config.host_dir, &host.dir), (&config.spool_dir, spool)] {
        if let Directory::Present { mode, gid, .. } = *state {
            memory.note_found(dir, Found { mode, gid });
        }
    }
    if host.memory.is_none() && abandoned(&host.dir) {
        memory.note_dir(&config.host_dir);
    }
    for dir in missing(&host.dir).iter().chain(missing(spool)) {
        memory.note_dir(dir);
    }
    for (sysctl, wanted) in &config.sysctls {
        let now = value(host, *sysctl)?;
        let before = if is_orphan(host, config, *sysctl, now) { sysctl.kernel_default() } else { now };
        memory.note_sysctl(*sysctl, before, wanted);
    }
    Ok(memory)
}

/// An empty host directory and no memory: an installer was killed between
/// making it and remembering that, or the kubelet made it for us. Nobody else
/// will remove it.
fn abandoned(dir: &Directory) -> bool {
    matches!(dir, Directory::Present { empty: true, .. })
}

/// Whether `now` was set by an installer whose memory is lost. What was there
/// before it is lost too, and is certainly not this.
fn is_orphan(host: &Host, config: &Config, sysctl: Sysctl, now: &str) -> bool {
    if host.memory.is_some() {
        return false;
    }
    let pattern = value(host, Sysctl::CorePattern).unwrap_or_default();
    match sysctl {
        Sysctl::CorePattern => config.names_composer(now),
        // Numbers do not say who set them; company does.
        Sysctl::CorePipeLimit | Sysctl::SuidDumpable => {
            config.names_composer(pattern) && config.wanted(sysctl) == Some(now)
        }
    }
}

/// What gives `host` back what was there before, the last change first.
///
/// # Errors
/// If it is held, and not from our `host_dir`.
pub fn uninstall(host: &Host, config: &Config) -> Result<Vec<Step>> {
    check_holder(host, config)?;
    let mut steps = Vec::new();
    let memory = host.memory.clone().unwrap_or_else(|| orphans(host, config));
    for (sysctl, remembered) in memory.sysctls.iter().rev() {
        match value(host, *sysctl) {
            Ok(now) if now == remembered.before => {}
            Ok(now) if !remembered.ours.iter().any(|ours| ours == now) => {
                steps.push(Step::Leave { sysctl: *sysctl, found: now.to_owned() });
            }
            // Also if it cannot be read: then setting it will fail, and say why.
            now => steps.push(Step::Set {
                sysctl: *sysctl,
                from: now.unwrap_or("unreadable").to_owned(),
                to: remembered.before.clone(),
            }),
        }
    }
    steps.extend(host.leftovers.iter().cloned().map(Step::RemoveFile));
    if host.composer != Ok(Shipped::Missing) {
        steps.push(Step::RemoveComposer(config.host_dir.join(COMPOSER)));
    }
    if host.settings != Ok(Shipped::Missing) {
        steps.push(Step::RemoveFile(config.host_dir.join(COMPOSER_SETTINGS)));
    }
    steps.extend(given_back(host, config, &memory));
    // The directory of the memory, and those around it, go after the memory;
    // all others before it, or a kill in between would leave them for ever.
    let around = |dir: &HostPath| is_within(&config.host_dir, dir);
    let (after, before): (Vec<_>, Vec<_>) = memory.created.iter().cloned().rev().partition(around);
    steps.extend(before.into_iter().map(Step::RemoveDir));
    if host.memory.is_some() {
        if !memory.created.contains(&config.spool_dir) && matches!(host.spool, Ok(Directory::Present { .. }))
        {
            steps.push(Step::LeaveDir(config.spool_dir.clone()));
        }
        steps.push(Step::Forget);
    }
    // With a memory, and without this, a host would count as proven.
    if !matches!(host.trial, Trial::NoKernel | Trial::Untried) {
        steps.push(Step::RemoveFile(config.host_dir.join(TRIAL)));
    }
    if host.memory.is_none() && abandoned(&host.dir) {
        steps.push(Step::RemoveDir(config.host_dir.clone()));
    }
    steps.extend(after.into_iter().map(Step::RemoveDir));
    Ok(steps)
}

/// The same for a host that we cannot collect on: all but what is known of that.
///
/// # Errors
/// As above.
pub fn retreat(host: &Host, config: &Config) -> Result<Vec<Step>> {
    let mut steps = uninstall(host, config)?;
    steps.retain(|step| *step != Step::RemoveFile(config.host_dir.join(TRIAL)));
    Ok(steps)
}

/// What gives directories back as they were found, as far as they are what we
/// made of them. The mode first: it may close what the other group is to get.
fn given_back(host: &Host, config: &Config, memory: &Memory) -> Vec<Step> {
    let mut steps = Vec::new();
    let spool = host.spool.as_ref().unwrap_or(&Directory::Other);
    for (dir, state, mode_of_ours, gid_of_ours) in [
        (&config.spool_dir, spool, SPOOL_MODE, Some(config.spool_gid)),
        (&config.host_dir, &host.dir, HOST_DIR_MODE, None),
    ] {
        let Some(found) = memory.found.get(dir) else { continue };
        let Directory::Present { mode, gid, .. } = *state else { continue };
        if mode == mode_of_ours && mode != found.mode {
            steps.push(Step::GiveBackMode(dir.clone(), found.mode));
        }
        if Some(gid) == gid_of_ours && gid != found.gid {
            steps.push(Step::GiveBackGroup(dir.clone(), found.gid));
        }
    }
    steps
}

/// A memory of what is ours by its looks, for want of a better one.
fn orphans(host: &Host, config: &Config) -> Memory {
    let mut memory = Memory::default();
    for sysctl in Sysctl::ALL {
        if let Some(now) = value(host, sysctl).ok().filter(|now| is_orphan(host, config, sysctl, now)) {
            memory.note_sysctl(sysctl, sysctl.kernel_default(), now);
        }
    }
    memory
}

fn value(host: &Host, sysctl: Sysctl) -> Result<&str> {
    host.sysctls.get(&sysctl).map_or_else(|| bail!("{sysctl} was not looked at"), looked).map(String::as_str)
}

/// What was seen, or why it could not be.
fn looked<T>(seen: &Result<T, String>) -> Result<&T> {
    seen.as_ref().map_err(|err| anyhow!("{err}"))
}

fn missing(dir: &Directory) -> &[HostPath] {
    match dir {
        Directory::Missing { missing } => missing,
        Directory::Other | Directory::Deleted | Directory::Present { .. } => &[],
    }
}
