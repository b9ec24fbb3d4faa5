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
    assert!(uninstall(&host, &config()).contains(&set(Sysctl::CorePattern, "|/opt/x/composer %p", "core")));
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
    let host = Host { spool: Ok(present(0o1777, 7, false)), dir: present(0o777, 0, false), ..installed() };
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
    let failed = |ago| Trial::Failed { why: "seccomp".into(), ago: Duration::from_secs(ago), proven: false };
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
