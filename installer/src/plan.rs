//! From what the host is to what it should be. Touches nothing.

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

#[cfg(test)]
mod tests {
    use super::*;

    fn uninstall(host: &Host, config: &Config) -> Vec<Step> {
        super::uninstall(host, config).unwrap()
    }

    const OURS: Shipped = Shipped::Present { mode: 0o755, stranger: None, same: true };

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

    fn present(mode: u32, gid: u32, empty: bool) -> Directory {
        Directory::Present { mode, stranger: None, gid, empty }
    }

    /// A host that nobody has installed anything on.
    fn bare() -> Host {
        Host {
            memory: None,
            dir: Directory::Missing { missing: vec![path("/opt/x")] },
            executes: Ok(true),
            ours: Ok(()),
            composer: Ok(Shipped::Missing),
            settings: Ok(Shipped::Missing),
            leftovers: vec![],
            spool: Ok(Directory::Missing { missing: vec![path("/dumps"), path("/dumps/spool")] }),
            sysctls: sysctls("0", "core", "0").into_iter().collect(),
            trial: Trial::Untried,
        }
    }

    /// The same host afterwards.
    fn installed() -> Host {
        Host {
            memory: Some(memory(&bare(), &config()).unwrap()),
            dir: present(0o711, 0, false),
            executes: Ok(true),
            ours: Ok(()),
            composer: Ok(OURS),
            settings: Ok(Shipped::Present { mode: 0o600, stranger: None, same: true }),
            leftovers: vec![],
            spool: Ok(present(0o2770, 7, true)),
            sysctls: sysctls("256", &pattern(), "2").into_iter().collect(),
            trial: Trial::Passed,
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
                Step::Doubt,
                Step::Remember(installed().memory.unwrap()),
                Step::WriteSettings,
                Step::CopyComposer,
                Step::MakeDir(path("/dumps")),
                Step::MakeDir(path("/dumps/spool")),
                Step::OpenSpool,
                set(Sysctl::CorePipeLimit, "0", "256"),
                set(Sysctl::CorePattern, "core", &pattern()),
                set(Sysctl::SuidDumpable, "0", "2"),
                Step::Try,
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
                Step::RemoveFile(path("/opt/x/trial.json")),
                Step::RemoveDir(path("/opt/x")),
            ]
        );
        assert_eq!(uninstall(&bare(), &config()), []);
    }

    #[test]
    fn drift_is_repaired_and_teaches_us_nothing_about_before() {
        let mut host = installed();
        host.sysctls.insert(Sysctl::CorePattern, Ok("|/other %p".into()));
        host.composer = Ok(Shipped::Missing);
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
        host.dir = present(0o755, 0, false);
        host.spool = Ok(present(0o750, 5, true));
        let memory = memory(&host, &config()).unwrap();
        assert_eq!(memory.created, []);
        let host = Host { memory: Some(memory), ..installed() };
        assert_eq!(install(&host), []);
        assert_eq!(
            uninstall(&host, &config())[5..],
            [
                Step::GiveBackMode(path("/dumps/spool"), 0o750),
                Step::GiveBackGroup(path("/dumps/spool"), 5),
                Step::GiveBackMode(path("/opt/x"), 0o755),
                Step::LeaveDir(path("/dumps/spool")),
                Step::Forget,
                Step::RemoveFile(path("/opt/x/trial.json")),
            ]
        );
    }

    #[test]
    fn what_somebody_made_of_a_directory_since_is_left_to_them() {
        let mut host = Host { spool: Ok(present(0o750, 5, true)), ..bare() };
        let memory = memory(&host, &config()).unwrap();
        host = Host { memory: Some(memory), spool: Ok(present(0o2750, 6, true)), ..installed() };
        let give_back = |step: &Step| matches!(step, Step::GiveBackMode(..) | Step::GiveBackGroup(..));
        assert!(!uninstall(&host, &config()).iter().any(give_back));
        // Repaired, it is still given back as it was at first.
        assert_eq!(install(&host), [Step::OpenSpool]);
    }

    #[test]
    fn a_directory_that_others_share_is_not_ours_to_close() {
        for mode in [0o1777, 0o777, 0o1770, 0o2773] {
            let dir = Host { dir: present(mode, 0, false), ..bare() };
            let spool = Host { spool: Ok(present(mode, 0, false)), ..bare() };
            for (host, name) in [(dir, "/opt/x"), (spool, "/dumps/spool")] {
                let err = super::install(&host, &config()).unwrap_err().to_string();
                assert!(err.starts_with(&format!("{name} has mode {mode:o}: others share it")), "{err}");
            }
        }
        // Ours that somebody has opened is closed again.
        let host =
            Host { spool: Ok(present(0o1777, 7, false)), dir: present(0o777, 0, false), ..installed() };
        assert_eq!(install(&host), [Step::ProtectHostDir, Step::OpenSpool]);
    }

    #[test]
    fn what_belongs_to_somebody_else_is_replaced_or_refused() {
        let mut host = installed();
        host.composer = Ok(Shipped::Present { mode: 0o755, stranger: Some(1000), same: true });
        host.settings = Ok(Shipped::Present { mode: 0o600, stranger: Some(1000), same: true });
        assert_eq!(install(&host), [Step::WriteSettings, Step::CopyComposer]);
        host.dir = Directory::Present { mode: 0o711, stranger: Some(1000), gid: 0, empty: false };
        let err = super::install(&host, &config()).unwrap_err().to_string();
        assert_eq!(err, "/opt/x belongs to uid 1000, who could replace what root runs");
    }

    #[test]
    fn a_setting_that_comes_later_finds_the_value_of_the_host() {
        let without = Config::read("host_dir: /opt/x\nspool_dir: /dumps/spool\nspool_gid: 7").unwrap();
        let mut host = installed();
        host.memory = Some(memory(&Host { memory: None, ..bare() }, &without).unwrap());
        let [Step::Remember(memory)] = &install(&host)[..] else { panic!("{host:?}") };
        assert_eq!(memory.sysctls[&Sysctl::SuidDumpable].before, "2");
    }

    #[test]
    fn nothing_is_done_without_what_it_needs() {
        let steps = install(&bare());
        let after = |failed: fn(&Step) -> bool| {
            let failed = steps.iter().find(|step| failed(step)).unwrap();
            steps.iter().filter(|step| step.needs(failed)).cloned().collect::<Vec<_>>()
        };
        assert_eq!(after(|step| *step == Step::Doubt), steps);
        assert_eq!(after(|step| matches!(step, Step::Remember(_))), steps);
        let pattern = set(Sysctl::CorePattern, "core", &pattern());
        assert_eq!(after(|step| *step == Step::CopyComposer), [pattern, Step::Try]);
        let suid = set(Sysctl::SuidDumpable, "0", "2");
        assert_eq!(
            after(|step| matches!(step, Step::Set { sysctl: Sysctl::CorePattern, .. })),
            [suid, Step::Try]
        );
        assert_eq!(after(|step| *step == Step::OpenSpool), [Step::Try]);
    }

    #[test]
    fn what_cannot_be_looked_at_stops_an_install_and_no_uninstall() {
        let gone = || "permission denied".to_owned();
        let blind = Host {
            ours: Err(gone()),
            composer: Err(gone()),
            settings: Err(gone()),
            spool: Err(gone()),
            ..installed()
        };
        assert_eq!(super::install(&blind, &config()).unwrap_err().to_string(), gone());
        assert_eq!(uninstall(&blind, &config()), uninstall(&installed(), &config()));
        // A composer to install is missed only by those who have to install it.
        assert_eq!(install(&Host { ours: Err(gone()), ..installed() }), []);
        assert_eq!(
            super::install(&Host { ours: Err(gone()), ..bare() }, &config()).unwrap_err().to_string(),
            gone()
        );
    }

    #[test]
    fn what_a_killed_installer_left_is_swept_and_redone() {
        let mut host = bare();
        host.dir = present(0o755, 0, true);
        let [Step::Doubt, Step::Remember(memory), Step::ProtectHostDir, ..] = &install(&host)[..] else {
            panic!("{host:?}")
        };
        assert!(memory.created.contains(&path("/opt/x")));
        assert_eq!(uninstall(&host, &config()), [Step::RemoveDir(path("/opt/x"))]);

        let mut host = installed();
        host.leftovers = vec![path("/opt/x/.composer.new")];
        assert_eq!(install(&host), [Step::RemoveFile(path("/opt/x/.composer.new"))]);
    }

    #[test]
    fn the_kernel_is_tried_until_it_runs_the_composer_that_is_there() {
        let failed =
            |ago| Trial::Failed { why: "seccomp".into(), ago: Duration::from_secs(ago), proven: false };
        for trial in [Trial::Untried, Trial::Outdated { proven: true }, failed(0), failed(7200)] {
            assert_eq!(install(&Host { trial, ..installed() }), [Step::Try]);
        }
        assert_eq!(install(&Host { trial: Trial::NoKernel, ..installed() }), []);
        // One that was given back is not taken again at each start of a pod.
        let err = super::install(&Host { trial: failed(3599), ..bare() }, &config()).unwrap_err();
        assert!(
            err.to_string().starts_with("seccomp; this node is what it was before, and is left alone"),
            "{err}"
        );
        let again = install(&Host { trial: failed(3601), ..bare() });
        assert!(again.contains(&Step::Try) && !again.contains(&Step::Doubt), "{again:?}");
    }

    #[test]
    fn a_host_is_proven_when_a_trial_has_passed_since_it_is_ours() {
        for (trial, remembered, proven) in [
            (Trial::Untried, false, false),
            (Trial::Untried, true, true), // of a release without trials
            (Trial::Outdated { proven: false }, true, false),
            (Trial::Outdated { proven: true }, true, true),
            (Trial::Outdated { proven: true }, false, false),
            (Trial::Passed, true, true),
        ] {
            assert_eq!(trial.is_proven(remembered), proven, "{trial:?}");
        }
        let forgotten = Host { trial: Trial::Outdated { proven: true }, ..bare() };
        assert!(install(&forgotten).contains(&Step::Doubt));
        let retreat = retreat(&installed(), &config()).unwrap();
        assert_eq!(retreat.len() + 1, uninstall(&installed(), &config()).len());
    }

    #[test]
    fn there_is_no_plan_for_what_is_in_the_way() {
        let host = Host { spool: Ok(Directory::Deleted), ..bare() };
        let err = super::install(&host, &config()).unwrap_err();
        assert!(err.is::<Deleted>() && err.to_string().contains("/dumps/spool is deleted on the host"));
        let host = Host { spool: Ok(Directory::Other), ..bare() };
        let err = super::install(&host, &config()).unwrap_err();
        assert_eq!(err.to_string(), "/dumps/spool is not a directory");
        let host = Host { executes: Ok(false), ..bare() };
        let err = super::install(&host, &config()).unwrap_err();
        assert!(err.to_string().contains("mounted noexec"), "{err}");
        let others = argv::CorePattern::piping_to(&path("/elsewhere/composer")).unwrap().as_str().to_owned();
        let mut host = bare();
        host.sysctls.insert(Sysctl::CorePattern, Ok(others));
        let err = super::install(&host, &config()).unwrap_err().to_string();
        assert!(err.contains("|/elsewhere/composer P%P") && err.contains("in another host_dir"), "{err}");
        assert_eq!(super::uninstall(&host, &config()).unwrap_err().to_string(), err);
        // One that takes a node of ours is drift like any other's.
        host = Host { sysctls: host.sysctls, ..installed() };
        host.sysctls.insert(Sysctl::CorePipeLimit, Ok("256".into()));
        host.sysctls.insert(Sysctl::SuidDumpable, Ok("2".into()));
        assert!(matches!(&install(&host)[..], [Step::Set { sysctl: Sysctl::CorePattern, .. }]));
        let mut host = bare();
        host.sysctls.insert(Sysctl::CorePattern, Err("reading it: no such file".into()));
        assert_eq!(super::install(&host, &config()).unwrap_err().to_string(), "reading it: no such file");
    }
}
