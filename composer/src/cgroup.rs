//! Which pod and container a process belongs to, by the names of its cgroups.
//!
//! `/proc/<pid>/cgroup` has one line `number:controllers:path` for each
//! hierarchy (cgroups(7)). The kubelet names the pod's cgroup and the runtime
//! the container's below it, in the manner of their drivers, which may differ:
//!
//! ```text
//!  cgroupfs  /kubepods/burstable/pod<uid>/<id>
//!  systemd   /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/crio-<id>.scope
//!  mixed     /system.slice/containerd.service/kubepods-burstable-pod<uid>.slice:cri-containerd:<id>
//! ```
//!
//! (`CgroupName` in the kubelet's `cgroup_manager_linux.go`, `getCgroupsPath`
//! in containerd, `cgmgr` in CRI-O.)
//!
//! The node named what is above a container, the container what is below. So
//! the first pod of a path counts, and nothing after its container is read: not
//! systemd's `init.scope`, not the containers of a Docker in a pod, and not the
//! pod of a Kubernetes in a pod, of which the node's runtime knows nothing.
//! Nobody can add a line: no cgroup has a newline in its name (`cgroup_mkdir`
//! in `kernel/cgroup/cgroup.c`).

/// The pod, and the container of it, that a process's cgroups name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodCgroup {
    /// The pod's uid as the API writes it; for a static pod, its hash.
    pub pod_uid: String,
    /// The container's id as the runtime writes it. None: the process is in the
    /// pod's own cgroup, or in one whose name is no id.
    pub container_id: Option<String>,
}

/// Reads `/proc/<pid>/cgroup`, as it looks from the initial cgroup namespace.
/// `None`: no line names a pod, so the process is the host's. `Err`: the lines
/// name different ones, so nothing is claimed.
///
/// Bytes that are not UTF-8 may be replaced before: they are never in a name
/// that counts.
pub fn pod(text: &str) -> Result<Option<PodCgroup>, String> {
    let mut pod: Option<Named> = None;
    // A line without a pod is no contradiction: controllers the runtime does
    // not manage stay at `/` (rdma, and v2 on a hybrid host), or where the
    // runtime itself is.
    for next in text.lines().filter_map(path).filter_map(|path| named(path).transpose()) {
        let next = next?;
        let Some(pod) = &mut pod else {
            pod = Some(next);
            continue;
        };
        if !dashed(pod.uid).eq(dashed(next.uid)) {
            let [one, two] = [pod.uid, next.uid].map(|uid| dashed(uid).collect::<String>());
            return Err(format!("the cgroups name two pods, {one} and {two}"));
        }
        match (pod.id, next.id) {
            (Some(one), Some(two)) if one != two => {
                return Err(format!("the cgroups name two containers, {one} and {two}"));
            }
            (None, id) => pod.id = id,
            _ => {}
        }
    }
    Ok(pod
        .map(|pod| PodCgroup { pod_uid: dashed(pod.uid).collect(), container_id: pod.id.map(str::to_owned) }))
}

/// What one path names.
struct Named<'a> {
    /// As it stands there: systemd's names have `_` for `-`.
    uid: &'a str,
    id: Option<&'a str>,
}

/// The path of a line, which may have colons itself.
fn path(line: &str) -> Option<&str> {
    let mut fields = line.splitn(3, ':');
    fields.next()?.parse::<u32>().ok()?;
    let path = fields.nth(1)?.strip_prefix('/')?;
    // Of a cgroup that was removed before its last process was reaped.
    Some(path.strip_suffix(" (deleted)").unwrap_or(path))
}

/// The first pod of a path, and what is directly below it.
fn named(path: &str) -> Result<Option<Named<'_>>, String> {
    let mut segments = path.split('/');
    let mut in_kubepods = false;
    while let Some(segment) = segments.next() {
        match segment {
            // Here users name cgroups: with their own systemd, or because
            // pam_cgfs(8) gave them one (`user/<name>/<n>`). Anyone could be
            // any pod. A rootless Kubernetes is not the node's either.
            "user.slice" | "user" => return Ok(None),
            "kubepods" | "kubepods.slice" => in_kubepods = true,
            _ => {}
        }
        // A slice has the names of those above it in its own, which is why this
        // one needs nothing above it: the runtime may have put it elsewhere.
        if let Some((slice, rest)) = segment.split_once(".slice")
            && let Some((above, uid)) = slice.rsplit_once("-pod")
            && above.split('-').any(|name| name == "kubepods")
        {
            let below = match rest.strip_prefix(':') {
                Some(below) => Some(below),
                None if rest.is_empty() => segments.next(),
                None => return Ok(None),
            };
            return claim(uid, b'_', below);
        }
        // If this is no uid the search ends all the same: what is below was
        // named by others.
        if in_kubepods && let Some(uid) = segment.strip_prefix("pod") {
            return claim(uid, b'-', segments.next());
        }
    }
    Ok(None)
}

/// A pod with this uid, whose cgroup has this one below.
fn claim<'a>(uid: &'a str, dash: u8, below: Option<&'a str>) -> Result<Option<Named<'a>>, String> {
    let is_uid = uid.len() <= MAX_UID
        && uid.starts_with(|first: char| first.is_ascii_hexdigit())
        && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == dash);
    let name = below.unwrap_or_default();
    let name = name.strip_suffix(".scope").unwrap_or(name);
    // The runtime's name before the id (`docker-`, `cri-containerd-`) is not
    // checked: containers cannot make a cgroup here, and a runtime that is not
    // on our list would lose its own.
    let (runtime, id) = name.rsplit_once(['-', ':']).unwrap_or(("", name));
    // CRI-O's monitor of a container is a program of the node, which shares the
    // pod's slice so that its memory is charged to the pod. The container's
    // logs would not explain its crash.
    if runtime.ends_with("conmon") {
        return Ok(None);
    }
    // A static pod's manifest may have any. It is a pod, and we cannot say which.
    if !is_uid {
        return Err("the cgroup is of a pod whose uid is none that we know".to_owned());
    }
    Ok(Some(Named { uid, id: is_id(id).then_some(id) }))
}

/// A uid is a UUID, or for a static pod a hash of 32 digits unless its manifest
/// has one (`applyDefaults` in the kubelet's `config/common.go`), so there is
/// only a bound. Below `kubepods` a lost pod is worse than one that the runtime
/// does not know.
const MAX_UID: usize = 64;

/// Whether this can be a container's id: 64 digits with containerd, CRI-O and
/// Docker. Half of that is longer than any word that happens to be hex; twice
/// that has room for a longer hash, and bounds what goes into the manifest.
fn is_id(name: &str) -> bool {
    (32..=128).contains(&name.len()) && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A uid as the API writes it: systemd would take its dashes for levels of the
/// hierarchy, so the kubelet makes them `_` (`escapeSystemdCgroupName`).
fn dashed(uid: &str) -> impl Iterator<Item = char> {
    uid.chars().map(|char| if char == '_' { '-' } else { char })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const UID: &str = "7feba246-8ecc-4c65-8241-5020cf7a196c";
    const ID: &str = "f47a1f021a15c540315f9d500e0316f8fd60b3e62f97823ab460773ffa2610fa";
    const OTHER_UID: &str = "ebd4ed5f-7157-41bc-8004-afdf4f6afe14";
    const OTHER_ID: &str = "2931aa398062759b9ca3f1df74ec3eaacb35a4b68eaa200ddc96794f078d9c9e";
    /// A uid in a slice's name.
    const UID_: &str = "7feba246_8ecc_4c65_8241_5020cf7a196c";
    const OTHER_UID_: &str = "ebd4ed5f_7157_41bc_8004_afdf4f6afe14";

    fn is(uid: &str, id: Option<&str>) -> Result<Option<PodCgroup>, String> {
        Ok(Some(PodCgroup { pod_uid: uid.to_owned(), container_id: id.map(str::to_owned) }))
    }

    #[test]
    fn every_machine_we_have_seen_is_read_as_its_fixture_says() {
        let mut seen = 0;
        for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cgroup")).unwrap() {
            let file = entry.unwrap().path();
            let text = fs::read_to_string(&file).unwrap();
            let (header, lines): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with('#'));
            let expected = header.iter().find_map(|line| line.strip_prefix("# expect: ")).unwrap();
            let expected = match expected.split(' ').collect::<Vec<_>>()[..] {
                ["host"] => Ok(None),
                ["pod", uid, "container", "none"] => is(uid, None),
                ["pod", uid, "container", id] => is(uid, Some(id)),
                _ => panic!("{}: {expected}", file.display()),
            };
            assert_eq!(pod(&lines.join("\n")), expected, "{}", file.display());
            seen += 1;
        }
        assert!(seen >= 37, "only {seen}");
    }

    /// Made by the rules, for want of a machine: the kubelet's `CgroupName` and
    /// CRI-O's `containerCgroupPath`, Kubernetes below another cgroup or
    /// another container, systemd in a container (its systemd(1) makes
    /// `init.scope` and `system.slice`).
    #[test]
    fn the_container_is_what_is_directly_below_the_pod() {
        for path in [
            &format!("/kubepods/pod{UID}/{ID}"),
            &format!("/kubepods/burstable/pod{UID}/crio-{ID}"),
            &format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/{ID}"),
            &format!("/kubepods.slice/pod{UID}/{ID}"),
            &format!("/k3s/kubepods/besteffort/pod{UID}/{ID}"),
            &format!("/a.slice/a-pods.slice/a-pods-kubepods.slice/a-pods-kubepods-pod{UID_}.slice/{ID}"),
            &format!("/a_b.slice/a_b-kubepods.slice/a_b-kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope"),
            &format!("/../../kubepods/burstable/pod{UID}/{ID}"),
            &format!("/docker/{OTHER_ID}/kubelet/kubepods/burstable/pod{UID}/{ID}"),
            &format!("/system.slice/docker-{OTHER_ID}.scope/kubepods/burstable/pod{UID}/{ID}"),
            &format!("/kubepods/burstable/pod{UID}/{ID}/init.scope"),
            &format!("/kubepods/burstable/pod{UID}/{ID}/docker/{OTHER_ID}"),
            &format!("/kubepods.slice/kubepods-pod{UID_}.slice/docker-{ID}.scope/system.slice/a.service"),
            &format!("/kubepods.slice/kubepods-pod{UID_}.slice/docker-{ID}.scope (deleted)"),
            &format!("/kubepods.slice/kubepods-pod{UID_}.slice:cri-containerd:{ID}/init.scope"),
            &format!("/kubepods/burstable/pod{UID}/{ID}/kubepods/besteffort/pod{OTHER_UID}/{OTHER_ID}"),
            &format!("/kubepods-pod{UID_}.slice/docker-{ID}.scope/kubepods-pod{OTHER_UID_}.slice/{OTHER_ID}"),
            &format!("/kubepods/pod{UID}/{ID}/user.slice/user-0.slice"),
        ] {
            assert_eq!(pod(&format!("0::{path}\n")), is(UID, Some(ID)), "{path}");
        }
    }

    #[test]
    fn a_pod_without_a_container_is_still_a_pod() {
        let long = "a".repeat(129);
        for below in
            ["", "/", "/init", "/..", "/12ab", "/crio-12ab.scope", &ID[..31], &long, "/kata_overhead"]
                .iter()
                .map(|below| format!("/{}", below.trim_start_matches('/')))
                .chain([format!("/{}", ID.to_uppercase()), format!("/kata_{ID}"), format!("/{ID}.service")])
        {
            for path in [
                format!("/kubepods/pod{UID}{below}"),
                format!("/kubepods.slice/kubepods-pod{UID_}.slice{below}"),
            ] {
                assert_eq!(pod(&format!("0::{path}")), is(UID, None), "{path}");
            }
        }
        assert_eq!(pod(&format!("0::/kubepods/pod{UID}")), is(UID, None));
        assert_eq!(pod(&format!("0::/kubepods/pod{UID} (deleted)")), is(UID, None));
        assert_eq!(pod(&format!("0::/kubepods-pod{UID_}.slice:")), is(UID, None));
        for id in [&ID[..32], &ID.repeat(2)] {
            assert_eq!(pod(&format!("0::/kubepods/pod{UID}/{id}")), is(UID, Some(id)));
        }
    }

    #[test]
    fn what_only_looks_like_a_pod_is_the_hosts() {
        for path in [
            &format!("/pod{UID}/{ID}"),
            &format!("/machine/pod{UID}/{ID}"),
            &format!("/machine.slice/machine-pod{UID_}.slice/{ID}"),
            &format!("/mykubepods/pod{UID}/{ID}"),
            &format!("/mykubepods-pod{UID_}.slice/{ID}"),
            &format!("/kubepods/{UID}/{ID}"),
            &format!("/kubepods/burstable/my-pod{UID}/{ID}"),
            &format!("/kubepods-mypod{UID_}.slice/{ID}"),
            &format!("/kubepods-pod{UID_}.slices/{ID}"),
            &format!("/kubepods-pod{UID_}/{ID}"),
            &format!("/kubepods/burstable/pod{UID}/crio-conmon-{ID}"),
            &format!("/kubepods-pod{UID_}.slice/crio-conmon-{ID}.scope"),
            &format!("/kubepods-pod{UID_}.slice:crio-conmon:{ID}"),
            &format!("/user.slice/user-1000.slice/user@1000.service/kubepods/pod{UID}/{ID}"),
            &format!("/user.slice/kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope"),
            &format!("/user/eve/0/kubepods/pod{UID}/{ID}"),
            "/",
            "/kubepods",
            "/kubepods.slice/kubepods-burstable.slice",
            "/nomad/cpuset",
            "/podruntime/kubelet",
            "/system/kubelet",
            "",
        ] {
            assert_eq!(pod(&format!("0::{path}\n")), Ok(None), "{path}");
        }
    }

    #[test]
    fn a_pod_with_a_strange_uid_is_one_of_which_nobody_can_say_which() {
        for path in [
            &format!("/kubepods-pod{UID}.slice/{ID}"),
            &format!("/kubepods/pod{UID_}/{ID}"),
            &format!("/kubepods/pod/{ID}"),
            &format!("/kubepods/pod-{UID}/{ID}"),
            &format!("/kubepods/pod../{ID}"),
            &format!("/kubepods/podman/{ID}"),
            &format!("/kubepods/pod{}/{ID}", "a".repeat(65)),
            // Nor do its containers name another.
            &format!("/kubepods/podstrange/{ID}/kubepods/pod{OTHER_UID}/{OTHER_ID}"),
            &format!("/kubepods.slice/kubepods-podstrange.slice/{ID}/kubepods/pod{OTHER_UID}/{OTHER_ID}"),
        ] {
            let why = pod(&format!("0::{path}\n")).expect_err(path);
            assert!(why.contains("whose uid"), "{why}");
        }
    }

    #[test]
    fn a_line_that_is_none_is_no_line() {
        let path = format!("/kubepods/pod{UID}/{ID}");
        for line in ["", ":", "::", "0:", "0:cpu", "0::", "#", "-1::", "x::", "::/", "0::kubepods/poda/b"] {
            assert_eq!(pod(line), Ok(None), "{line}");
            assert_eq!(pod(&format!("{line}\n0::{path}\n{line}")), is(UID, Some(ID)), "{line}");
        }
        for line in [format!("0:{path}"), format!("#0::{path}"), format!("0::.{path}")] {
            assert_eq!(pod(&line), Ok(None), "{line}");
        }
        assert_eq!(pod(&format!("0::/a:b:c{path}:d")), is(UID, None));
    }

    #[test]
    fn lines_may_say_less_but_not_something_else() {
        let line = |uid: &str, below: &str| format!("1:cpu:/kubepods/pod{uid}{below}\n");
        let (one, whole) = (line(UID, ""), line(UID, &format!("/{ID}")));
        let slice = format!("2:cpu:/kubepods-pod{UID_}.slice/docker-{ID}.scope\n");
        let host = "3:rdma:/\n0::/system.slice/containerd.service\n";
        for text in [format!("{whole}{one}{host}"), format!("{host}{one}{whole}"), format!("{slice}{whole}")]
        {
            assert_eq!(pod(&text), is(UID, Some(ID)), "{text}");
        }
        let other_pod = line(OTHER_UID, &format!("/{ID}"));
        let other_container = line(UID, &format!("/{OTHER_ID}"));
        assert_eq!(
            pod(&format!("{slice}{other_pod}")),
            Err(format!("the cgroups name two pods, {UID} and {OTHER_UID}"))
        );
        assert_eq!(
            pod(&format!("{one}{whole}{other_container}")),
            Err(format!("the cgroups name two containers, {ID} and {OTHER_ID}"))
        );
    }

    /// Names that mean something here, and some that do not.
    fn segments() -> impl Strategy<Value = String> {
        let segment = prop_oneof![
            Just("kubepods".to_owned()),
            Just("kubepods.slice".to_owned()),
            Just("user.slice".to_owned()),
            Just("..".to_owned()),
            Just(format!("pod{OTHER_UID}")),
            Just(format!("kubepods-pod{OTHER_UID_}.slice")),
            Just(format!("kubepods-pod{OTHER_UID_}.slice:cri-containerd:{OTHER_ID}")),
            Just(format!("crio-{OTHER_ID}.scope")),
            Just(format!("crio-conmon-{OTHER_ID}.scope")),
            Just(OTHER_ID.to_owned()),
            "[^\n/]*",
        ];
        prop::collection::vec(segment, 0..6).prop_map(|segments| segments.join("/"))
    }

    mod hostile {
        use super::*;
        use crate::strange;

        /// What `/proc/<pid>/cgroup` has on the machines we have seen, changed.
        fn text() -> impl Strategy<Value = String> {
            let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cgroup")).unwrap();
            let samples = files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
            strange::changed(samples).prop_map(|text| String::from_utf8_lossy(&text).into_owned())
        }

        proptest! {
            #[test]
            fn nothing_makes_it_panic(text in text(), lines in prop::collection::vec(segments(), 0..4)) {
                if let Ok(Some(PodCgroup { pod_uid, container_id })) = pod(&text) {
                    prop_assert!(pod_uid.len() <= MAX_UID && container_id.is_none_or(|id| is_id(&id)));
                }
                let _ = pod(&format!("0::/{}", lines.join("\n1:cpu:/")));
            }

            #[test]
            fn a_container_cannot_name_its_own_pod(forged in segments(), other_line in segments()) {
                for container in [
                    format!("/kubepods/burstable/pod{UID}/{ID}"),
                    format!("/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope"),
                    format!("/system.slice/containerd.service/kubepods-pod{UID_}.slice:cri-containerd:{ID}"),
                ] {
                    let text = format!("2:cpu:{container}/{forged}\n1:pids:{container}/{other_line}\n");
                    prop_assert_eq!(pod(&text), is(UID, Some(ID)));
                }
            }

            #[test]
            fn a_user_cannot_name_a_pod(forged in segments()) {
                for home in ["/user.slice/user-1000.slice/user@1000.service", "/user/eve/0"] {
                    prop_assert_eq!(pod(&format!("0::{home}/{forged}")), Ok(None));
                }
            }
        }
    }
}
