//! From what the host is to what it should be. Touches nothing.

use std::fmt;

use anyhow::{Result, anyhow, bail};
use protocol::host::{COMPOSER, COMPOSER_SETTINGS, HostPath, SPOOL_MODE, STATE};

use crate::config::Config;
use crate::host::{COMPOSER_MODE, Directory, HOST_DIR_MODE, Host, SETTINGS_MODE, Shipped};
use crate::memory::Memory;
use crate::sysctl::Sysctl;

/// One change to the host, or the decision to leave something as it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Make a directory.
    MakeDir(HostPath),
    /// Remove a file: something temporary of an installer that was killed, or
    /// the composer's settings.
    RemoveFile(HostPath),
    /// Write down what was there before.
    Remember(Memory),
    /// Give the host directory its mode.
    ProtectHostDir,
    /// Write the composer's settings.
    WriteSettings,
    /// Put the composer into place.
    CopyComposer,
    /// Give the spool its group and its mode.
    OpenSpool,
    /// Set a sysctl.
    Set {
        /// Which.
        sysctl: Sysctl,
        /// What it was.
        from: String,
        /// What it becomes.
        to: String,
    },
    /// Leave alone what somebody else has set since.
    Leave {
        /// Which.
        sysctl: Sysctl,
        /// What it is.
        found: String,
    },
    /// Remove the composer, which no pattern may name by then.
    RemoveComposer(HostPath),
    /// Remove what was remembered, if all of it has been given back.
    Forget,
    /// Remove a directory if it is empty.
    RemoveDir(HostPath),
    /// Leave a directory that was there before us.
    LeaveDir(HostPath),
}

/// What makes `host` collect. Nothing, if it does already.
///
/// The order is such that it can be killed between any two steps: memory comes
/// before change, and a pattern never names a composer that is not there yet.
///
/// # Errors
/// If no plan can: something is in the way, or a sysctl is out of reach.
pub fn install(host: &Host, config: &Config) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for (dir, state) in [(&config.host_dir, &host.dir), (&config.spool_dir, &host.spool)] {
        if *state == Directory::Other {
            bail!("{dir} is not a directory");
        }
    }
    let memory = memory(host, config)?;
    steps.extend(host.leftovers.iter().cloned().map(Step::RemoveFile));
    steps.extend(missing(&host.dir).iter().cloned().map(Step::MakeDir));
    if host.memory.as_ref() != Some(&memory) {
        steps.push(Step::Remember(memory));
    }
    if matches!(host.dir, Directory::Present { mode, .. } if mode != HOST_DIR_MODE) {
        steps.push(Step::ProtectHostDir);
    }
    if host.settings != (Shipped::Present { mode: SETTINGS_MODE, same: true }) {
        steps.push(Step::WriteSettings);
    }
    if host.composer != (Shipped::Present { mode: COMPOSER_MODE, same: true }) {
        steps.push(Step::CopyComposer);
    }
    steps.extend(missing(&host.spool).iter().cloned().map(Step::MakeDir));
    if !matches!(host.spool, Directory::Present { mode: SPOOL_MODE, gid, .. } if gid == config.spool_gid) {
        steps.push(Step::OpenSpool);
    }
    for (sysctl, to) in &config.sysctls {
        let from = value(host, *sysctl)?;
        if from != to {
            steps.push(Step::Set { sysctl: *sysctl, from: from.to_owned(), to: to.clone() });
        }
    }
    Ok(steps)
}

/// What has to be remembered before `host` is changed.
fn memory(host: &Host, config: &Config) -> Result<Memory> {
    let mut memory = host.memory.clone().unwrap_or_default();
    if host.memory.is_none() && abandoned(&host.dir) {
        memory.note_dir(&config.host_dir);
    }
    for dir in missing(&host.dir).iter().chain(missing(&host.spool)) {
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
pub fn uninstall(host: &Host, config: &Config) -> Vec<Step> {
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
    if host.composer != Shipped::Missing {
        steps.push(Step::RemoveComposer(config.host_dir.join(COMPOSER)));
    }
    if host.settings != Shipped::Missing {
        steps.push(Step::RemoveFile(config.host_dir.join(COMPOSER_SETTINGS)));
    }
    // The directory of the memory, and those around it, go after the memory;
    // all others before it, or a kill in between would leave them for ever.
    let around = |dir: &HostPath| config.host_dir.join("").as_str().starts_with(dir.join("").as_str());
    let (after, before): (Vec<_>, Vec<_>) = memory.created.iter().cloned().rev().partition(around);
    steps.extend(before.into_iter().map(Step::RemoveDir));
    if host.memory.is_some() {
        if !memory.created.contains(&config.spool_dir) && matches!(host.spool, Directory::Present { .. }) {
            steps.push(Step::LeaveDir(config.spool_dir.clone()));
        }
        steps.push(Step::Forget);
    } else if abandoned(&host.dir) {
        steps.push(Step::RemoveDir(config.host_dir.clone()));
    }
    steps.extend(after.into_iter().map(Step::RemoveDir));
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
    match host.sysctls.get(&sysctl) {
        Some(Ok(value)) => Ok(value),
        Some(Err(err)) => Err(anyhow!("{err}")),
        None => Err(anyhow!("{sysctl} was not looked at")),
    }
}

fn missing(dir: &Directory) -> &[HostPath] {
    match dir {
        Directory::Missing { missing } => missing,
        Directory::Other | Directory::Present { .. } => &[],
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::MakeDir(dir) => write!(f, "make the directory {dir}"),
            Step::RemoveFile(file) => write!(f, "remove {file}"),
            Step::Remember(memory) => {
                write!(f, "remember in {STATE} what was there before:")?;
                for (sysctl, remembered) in &memory.sysctls {
                    write!(f, " {sysctl} {:?}", remembered.before)?;
                }
                Ok(())
            }
            Step::ProtectHostDir => write!(f, "give the host directory mode {HOST_DIR_MODE:o}"),
            Step::WriteSettings => write!(f, "write {COMPOSER_SETTINGS}"),
            Step::CopyComposer => write!(f, "put our {COMPOSER} into place"),
            Step::OpenSpool => write!(f, "give the spool its group and mode {SPOOL_MODE:o}"),
            Step::Set { sysctl, from, to } => write!(f, "set {sysctl} to {to:?} (was {from:?})"),
            Step::Leave { sysctl, found } => {
                write!(f, "leave {sysctl} alone: somebody else has set it to {found:?}")
            }
            Step::RemoveComposer(composer) => write!(f, "remove {composer}"),
            Step::Forget => write!(f, "remove {STATE}"),
            Step::RemoveDir(dir) => write!(f, "remove the directory {dir} if it is empty"),
            Step::LeaveDir(dir) => write!(f, "leave the directory {dir}: it was there before us"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Shipped = Shipped::Present { mode: 0o755, same: true };

    fn path(path: &str) -> HostPath {
        HostPath::try_from(path).unwrap()
    }

    fn config() -> Config {
        Config::read("host_dir: /opt/x\nspool_dir: /dumps/spool\nspool_gid: 7\nsuid_dumpable: 2").unwrap()
    }

    fn pattern() -> String {
        config().wanted(Sysctl::CorePattern).unwrap().to_owned()
    }

    fn sysctls(limit: &str, pattern: &str, suid: &str) -> Vec<(Sysctl, Result<String, String>)> {
        Sysctl::ALL.into_iter().zip([limit, pattern, suid].map(|value| Ok(value.to_owned()))).collect()
    }

    /// A host that nobody has installed anything on.
    fn bare() -> Host {
        Host {
            memory: None,
            dir: Directory::Missing { missing: vec![path("/opt/x")] },
            composer: Shipped::Missing,
            settings: Shipped::Missing,
            leftovers: vec![],
            spool: Directory::Missing { missing: vec![path("/dumps"), path("/dumps/spool")] },
            sysctls: sysctls("0", "core", "0").into_iter().collect(),
        }
    }

    /// The same host afterwards.
    fn installed() -> Host {
        Host {
            memory: Some(memory(&bare(), &config()).unwrap()),
            dir: Directory::Present { mode: 0o755, gid: 0, empty: false },
            composer: OURS,
            settings: Shipped::Present { mode: 0o644, same: true },
            leftovers: vec![],
            spool: Directory::Present { mode: 0o2770, gid: 7, empty: true },
            sysctls: sysctls("256", &pattern(), "2").into_iter().collect(),
        }
    }

    fn install(host: &Host) -> Vec<Step> {
        super::install(host, &config()).unwrap()
    }

    fn set(sysctl: Sysctl, from: &str, to: &str) -> Step {
        Step::Set { sysctl, from: from.to_owned(), to: to.to_owned() }
    }

    #[test]
    fn installing_twice_changes_nothing() {
        assert_eq!(install(&installed()), []);
    }

    #[test]
    fn memory_comes_first_and_the_pattern_after_all_it_needs() {
        assert_eq!(
            install(&bare()),
            [
                Step::MakeDir(path("/opt/x")),
                Step::Remember(installed().memory.unwrap()),
                Step::WriteSettings,
                Step::CopyComposer,
                Step::MakeDir(path("/dumps")),
                Step::MakeDir(path("/dumps/spool")),
                Step::OpenSpool,
                set(Sysctl::CorePipeLimit, "0", "256"),
                set(Sysctl::CorePattern, "core", &pattern()),
                set(Sysctl::SuidDumpable, "0", "2"),
            ]
        );
    }

    #[test]
    fn uninstalling_goes_backwards() {
        assert_eq!(
            uninstall(&installed(), &config()),
            [
                set(Sysctl::SuidDumpable, "2", "0"),
                set(Sysctl::CorePattern, &pattern(), "core"),
                set(Sysctl::CorePipeLimit, "256", "0"),
                Step::RemoveComposer(path("/opt/x/composer")),
                Step::RemoveFile(path("/opt/x/composer.yaml")),
                Step::RemoveDir(path("/dumps/spool")),
                Step::RemoveDir(path("/dumps")),
                Step::Forget,
                Step::RemoveDir(path("/opt/x")),
            ]
        );
        assert_eq!(uninstall(&bare(), &config()), []);
    }

    #[test]
    fn drift_is_repaired_and_teaches_us_nothing_about_before() {
        let mut host = installed();
        host.sysctls.insert(Sysctl::CorePattern, Ok("|/other %p".into()));
        host.composer = Shipped::Missing;
        let repair = [Step::CopyComposer, set(Sysctl::CorePattern, "|/other %p", &pattern())];
        assert_eq!(install(&host), repair);
    }

    #[test]
    fn what_a_stranger_set_is_left_to_the_stranger() {
        let mut host = installed();
        host.sysctls.insert(Sysctl::CorePattern, Ok("|/other %p".into()));
        let steps = uninstall(&host, &config());
        assert!(steps.contains(&Step::Leave { sysctl: Sysctl::CorePattern, found: "|/other %p".into() }));
        assert!(!steps.iter().any(|step| matches!(step, Step::Set { sysctl: Sysctl::CorePattern, .. })));
    }

    #[test]
    fn a_value_of_an_earlier_release_is_ours_and_what_was_before_stays() {
        let mut host = installed();
        let memory = host.memory.as_mut().unwrap();
        memory.sysctls.get_mut(&Sysctl::CorePattern).unwrap().ours = vec!["|/opt/x/composer %p".into()];
        host.sysctls.insert(Sysctl::CorePattern, Ok("|/opt/x/composer %p".into()));
        assert!(uninstall(&host, &config()).contains(&set(
            Sysctl::CorePattern,
            "|/opt/x/composer %p",
            "core"
        )));
        let [Step::Remember(memory), Step::Set { .. }] = &install(&host)[..] else { panic!("{host:?}") };
        let noted = &memory.sysctls[&Sysctl::CorePattern];
        assert_eq!((noted.before.as_str(), noted.ours.len()), ("core", 2));
    }

    #[test]
    fn our_own_values_are_never_what_was_before() {
        let lost = Host { memory: None, ..installed() };
        let [Step::Remember(memory)] = &install(&lost)[..] else { panic!("{lost:?}") };
        for (sysctl, noted) in &memory.sysctls {
            assert_eq!(noted.before, sysctl.kernel_default());
        }
        assert!(uninstall(&lost, &config()).contains(&set(Sysctl::CorePattern, &pattern(), "core")));
    }

    #[test]
    fn what_happens_to_be_right_already_is_remembered_and_stays() {
        let mut host = bare();
        host.sysctls = sysctls("256", "core", "0").into_iter().collect();
        let steps = install(&host);
        let memory = steps.iter().find_map(|step| match step {
            Step::Remember(memory) => Some(memory.clone()),
            _ => None,
        });
        assert_eq!(memory.as_ref().unwrap().sysctls[&Sysctl::CorePipeLimit].before, "256");
        let host = Host { memory, ..installed() };
        let touched = |step: &Step| matches!(step, Step::Set { sysctl: Sysctl::CorePipeLimit, .. });
        assert!(!uninstall(&host, &config()).iter().any(touched));
    }

    #[test]
    fn directories_that_were_there_before_stay() {
        let mut host = bare();
        host.dir = Directory::Present { mode: 0o755, gid: 0, empty: false };
        host.spool = Directory::Present { mode: 0o755, gid: 0, empty: true };
        let memory = memory(&host, &config()).unwrap();
        assert_eq!(memory.created, []);
        let steps = uninstall(&Host { memory: Some(memory), ..installed() }, &config());
        assert!(!steps.iter().any(|step| matches!(step, Step::RemoveDir(_))));
        assert!(steps.contains(&Step::LeaveDir(path("/dumps/spool"))));
    }

    #[test]
    fn what_a_killed_installer_left_is_swept_and_redone() {
        let mut host = bare();
        host.dir = Directory::Present { mode: 0o700, gid: 0, empty: true };
        let [Step::Remember(memory), Step::ProtectHostDir, ..] = &install(&host)[..] else {
            panic!("{host:?}")
        };
        assert!(memory.created.contains(&path("/opt/x")));
        assert_eq!(uninstall(&host, &config()), [Step::RemoveDir(path("/opt/x"))]);

        let mut host = installed();
        host.leftovers = vec![path("/opt/x/.composer.new")];
        assert_eq!(install(&host), [Step::RemoveFile(path("/opt/x/.composer.new"))]);
    }

    #[test]
    fn there_is_no_plan_for_what_is_in_the_way() {
        let host = Host { spool: Directory::Other, ..bare() };
        let err = super::install(&host, &config()).unwrap_err();
        assert_eq!(err.to_string(), "/dumps/spool is not a directory");
        let mut host = bare();
        host.sysctls.insert(Sysctl::CorePattern, Err("reading it: no such file".into()));
        assert_eq!(super::install(&host, &config()).unwrap_err().to_string(), "reading it: no such file");
    }
}
