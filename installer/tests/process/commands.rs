//! What each command does to a node, and what it says.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::node::{FOREIGN, Node, is_root, text};

#[test]
fn install_makes_the_node_collect_and_twice_changes_nothing() {
    let node = Node::new();
    node.fails(1, &["status"]);
    let planned = node.ok(&["install", "--dry-run"]);
    let done = node.ok(&["install"]);
    assert_eq!(planned, done);
    assert!(node.ok(&["status"]).contains("core_pattern"));
    let mode = |name: &str| node.host_dir().join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(""), mode("composer"), mode("composer.yaml")), (0o711, 0o755, 0o600));
    assert_eq!(node.spool().metadata().unwrap().permissions().mode() & 0o7777, 0o2770);

    let installed = node.snapshot();
    assert_eq!(node.ok(&["install"]), "");
    assert_eq!(node.snapshot(), installed);
}

#[test]
fn installers_take_turns() {
    let node = Node::new();
    let start = |_| node.command(&["install"]).stdout(Stdio::null()).spawn().unwrap();
    let installers: Vec<_> = (0..8).map(start).collect();
    for mut installer in installers {
        assert!(installer.wait().unwrap().success());
    }
    assert_eq!(node.ok(&["install"]), "");
    assert!(
        node.ok(&["uninstall", "--dry-run"]).contains(r#"core_pattern to "|/usr/share/apport/apport %p""#)
    );
}

#[test]
fn a_dry_run_and_status_change_nothing() {
    let node = Node::new();
    let before = node.snapshot();
    node.ok(&["install", "--dry-run"]);
    node.ok(&["uninstall", "--dry-run"]);
    node.fails(1, &["status", "--json"]);
    assert_eq!(node.snapshot(), before);
    node.ok(&["install"]);
    let installed = node.snapshot();
    assert!(
        node.ok(&["uninstall", "--dry-run"]).contains(r#"core_pattern to "|/usr/share/apport/apport %p""#)
    );
    assert_eq!(node.snapshot(), installed);
}

#[test]
fn a_narrow_umask_narrows_nothing() {
    let node = Node::new();
    let narrow = r#"umask 077; exec "$0" "$@""#;
    let install = node.command(&["install"]);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", narrow]).arg(install.get_program()).args(install.get_args());
    assert!(shell.output().unwrap().status.success());
    node.ok(&["status"]);
    let parent = node.spool().parent().unwrap().metadata().unwrap();
    assert_eq!(parent.permissions().mode() & 0o777, 0o755);
}

#[test]
fn uninstall_gives_back_exactly_what_was_there() {
    let node = Node::new();
    let before = node.snapshot();
    node.configure("suid_dumpable: 2");
    node.ok(&["install"]);
    assert_eq!(node.sysctl("fs/suid_dumpable"), "2");
    node.ok(&["uninstall"]);
    assert_eq!(node.snapshot(), before);
    assert!(node.ok(&["uninstall"]).contains("nothing is installed"));
}

#[test]
fn an_upgrade_gives_back_what_was_there_before_the_first_release() {
    let node = Node::new();
    let before = node.snapshot();
    node.ok(&["install"]);
    node.ship("two");
    node.configure("core_pipe_limit: 7");
    let status = node.fails(1, &["status"]);
    assert!(status.contains("is not the composer of this installer's version"), "{status}");
    assert!(status.contains(r#"is "256" and should be "7""#), "{status}");
    node.ok(&["install"]);
    node.ok(&["uninstall"]);
    assert_eq!(node.snapshot(), before);
}

#[test]
fn a_running_composer_is_replaced_and_lives_on() {
    let node = Node::new();
    // The installer writes what is then executed: were this process to do so,
    // another test's child could still have it open.
    fs::copy("/bin/sleep", node.path("bin/composer")).unwrap();
    node.ok(&["install"]);
    let composer = node.host_dir().join("composer");
    let mut running = Command::new(&composer).arg0("sleep").arg("60").spawn().unwrap();
    node.ship("two");
    node.ok(&["install"]);
    node.ok(&["status"]);
    assert_eq!(running.try_wait().unwrap(), None);
    node.ok(&["uninstall"]);
    assert!(!composer.exists());
    assert_eq!(running.try_wait().unwrap(), None);
    running.kill().unwrap();
    running.wait().unwrap();
}

#[test]
fn uninstall_leaves_alone_what_somebody_else_has_set_since() {
    let node = Node::new();
    node.ok(&["install"]);
    node.set("kernel/core_pattern", FOREIGN);
    let said = node.ok(&["uninstall"]);
    assert!(
        said.contains(&format!("leave kernel.core_pattern alone: somebody else has set it to {FOREIGN:?}"))
    );
    assert_eq!(
        (node.sysctl("kernel/core_pattern").as_str(), node.sysctl("kernel/core_pipe_limit").as_str()),
        (FOREIGN, "4")
    );
    assert!(!node.host_dir().exists());
}

#[test]
fn uninstall_deletes_no_evidence() {
    let node = Node::new();
    node.ok(&["install"]);
    let dump = node.spool().join("20261122T193101Z-28763-9f3a61c2.zip");
    fs::write(&dump, "evidence").unwrap();
    let said = node.ok(&["uninstall"]);
    assert!(said.contains("coredump-handler/spool: there is something in it"), "{said}");
    assert_eq!(fs::read(dump).unwrap(), b"evidence");
    assert!(!node.host_dir().exists());
}

#[test]
fn the_composer_stays_while_a_pattern_names_it() {
    let node = Node::new();
    node.ok(&["install"]);
    let by_hand = "|/opt/coredump-handler/composer %p";
    node.set("kernel/core_pattern", by_hand);
    let said = node.fails(1, &["uninstall"]);
    assert!(said.contains("composer stays: core_pattern is still"), "{said}");
    for kept in ["composer", "composer.yaml", "state.json"] {
        assert!(node.host_dir().join(kept).exists(), "{kept}");
    }
    assert_eq!(node.sysctl("kernel/core_pipe_limit"), "4", "the other sysctls are given back");
    node.set("kernel/core_pattern", "core");
    node.ok(&["uninstall"]);
    assert!(!node.host_dir().exists());
}

#[test]
fn what_cannot_be_given_back_is_reported_and_remembered() {
    let node = Node::new();
    let before = node.snapshot();
    node.configure("suid_dumpable: 1");
    node.ok(&["install"]);
    fs::rename(node.path("sys/fs/suid_dumpable"), node.path("sys/away")).unwrap();
    let said = node.fails(1, &["uninstall"]);
    assert!(said.contains("suid_dumpable: No such file"), "{said}");
    assert!(node.host_dir().join("state.json").exists());
    assert_eq!(node.sysctl("kernel/core_pattern"), "|/usr/share/apport/apport %p");
    fs::rename(node.path("sys/away"), node.path("sys/fs/suid_dumpable")).unwrap();
    node.ok(&["uninstall"]);
    assert_eq!(node.snapshot(), before);
}

#[test]
fn all_mistakes_are_reported_at_once_and_nothing_is_changed() {
    let node = Node::new();
    let before = node.snapshot();
    node.configure("core_pipe_limit: 0\ncheck_every: 1h\ncomposer: {speed: fast}");
    for command in ["install", "run", "status", "self-test", "uninstall"] {
        let said = node.fails(64, &[command]);
        assert_eq!(said.lines().count(), 3, "{said}");
        for problem in ["core_pipe_limit: must", "check_every: must", "composer.speed: is no setting"] {
            assert!(said.contains(&format!("installer.yaml: {problem}")), "{said}");
        }
    }
    assert_eq!(node.snapshot(), before);
}

#[test]
fn the_command_line_can_be_wrong_too() {
    let node = Node::new();
    node.fails(64, &["instal"]);
    let nowhere = node.path("nowhere");
    for command in ["install", "run", "status", "uninstall"] {
        let said = node.fails(64, &[command, "--host-root", nowhere.to_str().unwrap()]);
        assert!(said.contains("--host-root: ") && said.contains("nowhere is not a directory"), "{said}");
    }
    assert!(!nowhere.exists());
    node.ok(&["--help"]);
    node.ok(&["--version"]);
    fs::remove_file(node.path("installer.yaml")).unwrap();
    let said = node.fails(64, &["install"]);
    assert!(said.contains("installer.yaml: No such file"), "{said}");
    assert!(!node.host_dir().exists());
}

#[test]
fn a_memory_that_cannot_be_understood_stops_everything() {
    let node = Node::new();
    node.ok(&["install"]);
    fs::write(node.host_dir().join("state.json"), "{").unwrap();
    node.set("kernel/core_pattern", FOREIGN);
    let before = node.snapshot();
    for command in ["install", "uninstall", "run"] {
        let said = node.fails(1, &[command]);
        assert!(said.contains("state.json cannot be understood"), "{said}");
    }
    assert_eq!(node.snapshot(), before);
}

#[test]
fn without_the_sysctl_nothing_is_changed() {
    let node = Node::new();
    fs::remove_file(node.path("sys/kernel/core_pattern")).unwrap();
    let said = node.fails(1, &["install"]);
    assert!(said.contains("kernel/core_pattern: No such file"), "{said}");
    assert!(!node.host_dir().exists() && !node.path("sys/kernel/core_pattern").exists());
}

#[test]
fn one_failure_keeps_nothing_else_from_being_done_and_all_are_reported() {
    let node = Node::new();
    node.ok(&["install"]);
    // Names of leftovers, for something that no installer left.
    fs::create_dir(node.host_dir().join(".state.json.new")).unwrap();
    fs::create_dir(node.host_dir().join(".composer.yaml.new")).unwrap();
    node.set("kernel/core_pattern", FOREIGN);
    let said = node.fails(1, &["install"]);
    for name in [".state.json.new", ".composer.yaml.new"] {
        assert!(said.contains(&format!("{name}: Is a directory")), "{said}");
    }
    assert!(node.sysctl("kernel/core_pattern").starts_with("|/opt/coredump-handler/composer "));
}

#[test]
fn nothing_is_changed_that_is_not_remembered() {
    let node = Node::new();
    node.furnish();
    fs::create_dir(node.host_dir().join("state.json.new")).unwrap();
    fs::create_dir(node.host_dir().join(".state.json.new")).unwrap();
    let before = node.snapshot();
    let said = node.fails(1, &["install"]);
    assert!(said.contains("writing") && said.contains("state.json: File exists"), "{said}");
    assert_eq!(node.snapshot(), before);
}

#[test]
fn a_full_disk_gets_no_pattern_and_no_half_of_a_composer() {
    let node = Node::new();
    let install = node.command(&["install"]);
    let mut shell = Command::new("/bin/sh");
    // As on a full disk, the first few blocks can be written.
    shell.args(["-c", r#"trap "" XFSZ; ulimit -f 8; exec "$0" "$@""#]);
    let output = shell.arg(install.get_program()).args(install.get_args()).output().unwrap();
    let said = text(&output);
    assert!(output.status.code() == Some(1) && said.contains("composer: File too large"), "{said}");
    assert_eq!(node.sysctl("kernel/core_pattern"), "|/usr/share/apport/apport %p");
    let names = fs::read_dir(node.host_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["composer.yaml", "state.json"]);
    assert_eq!(node.sysctl("kernel/core_pipe_limit"), "256", "the rest is done");
    node.ok(&["install"]);
    node.ok(&["status"]);
}

#[test]
fn uninstall_needs_to_see_only_what_it_removes() {
    let node = Node::new();
    node.ok(&["install"]);
    fs::remove_file(node.path("bin/composer")).unwrap();
    fs::remove_dir_all(node.path("host/var/lib")).unwrap();
    fs::write(node.path("host/var/lib"), "a file").unwrap();
    let said = node.fails(1, &["status"]);
    assert!(said.contains("spool is not a directory"), "{said}");
    node.ok(&["uninstall"]);
    assert_eq!(node.sysctl("kernel/core_pattern"), "|/usr/share/apport/apport %p");
    assert!(!node.host_dir().exists());
    assert!(node.ok(&["uninstall"]).contains("nothing is installed"));
    fs::remove_dir(node.path("host/opt")).unwrap();
    fs::write(node.path("host/opt"), "a file").unwrap();
    assert!(node.ok(&["uninstall"]).contains("nothing is installed"));
    let said = node.fails(1, &["install"]);
    assert!(said.contains("/opt/coredump-handler is not a directory"), "{said}");
}

#[test]
fn uninstall_gives_directories_back_as_they_were() {
    let node = Node::new();
    node.furnish();
    fs::write(node.host_dir().join("README"), "not ours").unwrap();
    let before = node.snapshot();
    node.ok(&["install"]);
    let mode = |dir: PathBuf| dir.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(node.host_dir()), mode(node.spool())), (0o711, 0o2770));
    node.ok(&["uninstall"]);
    assert_eq!(node.snapshot(), before);
}

#[test]
fn what_others_share_is_not_closed() {
    for dir in [Node::host_dir, Node::spool] {
        let node = Node::new();
        node.furnish();
        fs::set_permissions(dir(&node), fs::Permissions::from_mode(0o1777)).unwrap();
        let before = node.snapshot();
        for command in ["install", "status"] {
            let said = node.fails(1, &[command]);
            assert!(said.contains("has mode 1777: others share it"), "{said}");
        }
        assert_eq!(node.snapshot(), before);
    }
}

#[test]
fn what_belongs_to_somebody_else_is_replaced_or_refused() {
    if !is_root() {
        return;
    }
    let stranger = |path: &Path| chown(path, Some(4711), None).unwrap();
    let refused = |node: &Node, commands: &[&str], why: &str| {
        for command in commands {
            let said = node.fails(1, &[command]);
            assert!(said.contains(why), "{command}: {said}");
        }
    };
    let node = Node::new();
    node.ok(&["install"]);
    for name in ["composer", "composer.yaml"] {
        stranger(&node.host_dir().join(name));
        refused(&node, &["status"], &format!("{name} belongs to uid 4711"));
    }
    node.ok(&["install"]);
    node.ok(&["status"]);
    stranger(&node.host_dir());
    refused(&node, &["install", "status"], "coredump-handler belongs to uid 4711");
    chown(node.host_dir(), Some(0), None).unwrap();
    stranger(&node.host_dir().join("state.json"));
    refused(&node, &["install", "run", "uninstall"], "state.json: it belongs to uid 4711");
    assert!(node.sysctl("kernel/core_pattern").starts_with("|/opt/coredump-handler/composer "));
}

#[test]
fn status_explains_what_the_kernel_runs() {
    let node = Node::new();
    node.ok(&["install"]);
    let explains = |name: &str, mode: u32, why: &str| {
        fs::set_permissions(node.host_dir().join(name), fs::Permissions::from_mode(mode)).unwrap();
        let said = node.fails(1, &["status"]);
        assert!(said.contains(&format!("not collecting: {why}\n")), "{said}");
        node.ok(&["install"]);
        node.ok(&["status"]);
    };
    let path = "/opt/coredump-handler";
    explains("", 0o755, &format!("host_dir: {path} has mode 755 and should have 711"));
    explains("", 0o1777, &format!("host_dir: {path} has mode 1777: others share it"));
    explains(
        "composer.yaml",
        0o666,
        &format!("settings: {path}/composer.yaml has mode 666 and should have 600"),
    );
}

#[test]
fn a_directory_deleted_under_its_mount_is_told_from_one_that_is_not_there() {
    for dir in [Node::host_dir, Node::spool] {
        let node = Node::new();
        node.ok(&["install"]);
        // What a mount shows after its source was deleted: open, and no name.
        fs::remove_dir_all(dir(&node)).unwrap();
        fs::create_dir(node.path("deleted")).unwrap();
        let open = fs::File::open(node.path("deleted")).unwrap();
        fs::remove_dir(node.path("deleted")).unwrap();
        symlink(format!("/proc/{}/fd/{}", std::process::id(), open.as_raw_fd()), dir(&node)).unwrap();
        for command in ["install", "run", "status"] {
            let said = node.fails(1, &[command]);
            assert!(said.contains("is deleted on the host; restart to mount it anew"), "{said}");
        }
    }
}

#[test]
fn status_explains_the_spool() {
    let node = Node::new();
    node.ok(&["install"]);
    let explains = |why: &str| {
        let said = node.fails(1, &["status"]);
        assert!(said.contains(&format!("FAIL spool            {why}")), "{said}");
        assert!(said.contains(&format!("not collecting: spool: {why}\n")), "one reason only: {said}");
    };
    fs::set_permissions(node.spool(), fs::Permissions::from_mode(0o550)).unwrap();
    explains("/var/lib/coredump-handler/spool has mode 550 and should have 2770");
    fs::remove_dir(node.spool()).unwrap();
    explains("/var/lib/coredump-handler/spool is not there");
    fs::write(node.spool(), "").unwrap();
    explains("/var/lib/coredump-handler/spool is not a directory");
    let said = node.fails(1, &["install"]);
    assert!(said.contains("spool is not a directory"), "{said}");
}

#[test]
fn status_names_every_reason_also_for_machines() {
    let node = Node::new();
    node.ok(&["install"]);
    fs::remove_file(node.host_dir().join("composer")).unwrap();
    symlink(node.path("bin/composer"), node.host_dir().join("composer")).unwrap();
    fs::write(node.host_dir().join("composer.yaml"), "spool_dir: /tmp").unwrap();
    node.set("kernel/core_pattern", FOREIGN);
    let output = node.run(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["collecting"], false);
    let failed: Vec<&str> = status["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["ok"] == false)
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    assert_eq!(failed, ["composer", "settings", "core_pattern"]);
    assert!(text(&output).contains(&format!("is {FOREIGN:?} and should be")));
    node.ok(&["install"]);
    node.ok(&["status"]);
}
