//! What a kubelet makes of the collector's DaemonSet on one node: volumes,
//! security contexts, limits and probes are those of the manifests. Only the network
//! is the host's, since there is no other here.

mod manifest;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::containerd::{self, ContainerSpec, Containerd, Mount, Qos, Security};
use crate::kubernetes::ApiServer;

pub use manifest::Manifests;
use manifest::{Container, Field, HostPathType, Limits, Probe, SeccompProfile, Template, Volume};

/// Where a pod finds the token of its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What the cluster calls this machine.
pub const NODE: &str = "worker-3";
const TOKEN_VOLUME: &str = "kube-api-access";

/// A cluster, as far as a kubelet knows it.
pub struct Cluster<'a> {
    /// Its API server.
    pub api: &'a ApiServer,
    /// Secrets, by their names.
    pub secrets: BTreeMap<String, BTreeMap<String, String>>,
}

/// The collector's pod.
pub struct Pod {
    pod: containerd::Pod,
    template: Template,
    /// As in the template.
    containers: Vec<containerd::Container>,
}

/// Runs the pod of `manifests` with an image that `containerd` has. What it needs
/// on disk is made in `dir`.
pub fn run(
    containerd: &Containerd,
    manifests: Manifests,
    image: &str,
    cluster: &Cluster<'_>,
    dir: &Path,
) -> Pod {
    let Manifests { namespace, config_maps, template } = manifests;
    let mut volumes = BTreeMap::new();
    for volume in &template.spec.volumes {
        let path = match volume {
            Volume { config_map: Some(source), .. } => {
                let data =
                    config_maps.get(&source.name).unwrap_or_else(|| panic!("ConfigMap {}", source.name));
                files(&dir.join(&volume.name), data, 0o644, None)
            }
            Volume { secret: Some(source), .. } => {
                let nothing = BTreeMap::new();
                let data = cluster.secrets.get(&source.secret_name);
                assert!(data.is_some() || source.optional, "Secret {}", source.secret_name);
                let group = Some(template.spec.security_context.fs_group);
                files(&dir.join(&volume.name), data.unwrap_or(&nothing), source.default_mode, group)
            }
            Volume { host_path: Some(path), .. } => {
                match path.kind {
                    HostPathType::DirectoryOrCreate => {
                        fs::create_dir_all(&path.path).expect("a directory of the host")
                    }
                    HostPathType::File => assert!(Path::new(&path.path).is_file(), "{}", path.path),
                }
                PathBuf::from(&path.path)
            }
            Volume { name, .. } => panic!("volume {name} is of no kind that is known here"),
        };
        volumes.insert(volume.name.clone(), path);
    }
    if template.spec.automount_service_account_token {
        let file = |name: &str| fs::read_to_string(cluster.api.account().join(name)).expect("the account");
        let account = ["token", "ca.crt", "namespace"].map(|name| (name.to_owned(), file(name))).into();
        let group = Some(template.spec.security_context.fs_group);
        volumes.insert(TOKEN_VOLUME.to_owned(), files(&dir.join(TOKEN_VOLUME), &account, 0o640, group));
    }

    let labels: Vec<_> = pairs(&template.metadata.labels).collect();
    let annotations: Vec<_> = pairs(&template.metadata.annotations).collect();
    let pod = containerd.run_pod(&containerd::PodSpec {
        name: "coredump-handler-x7k2p",
        namespace: &namespace,
        labels: &labels,
        annotations: &annotations,
        qos: Qos::Burstable,
        host_network: true,
        ..containerd::PodSpec::default()
    });
    let start = |container| start(&pod, &template, container, image, cluster, &volumes);
    let containers = template.spec.containers.iter().map(start).collect();
    Pod { pod, containers, template }
}

fn start(
    pod: &containerd::Pod,
    template: &Template,
    container: &Container,
    image: &str,
    cluster: &Cluster<'_>,
    volumes: &BTreeMap<String, PathBuf>,
) -> containerd::Container {
    let security = &container.security_context;
    assert!(!security.run_as_non_root || security.run_as_user != 0, "{} would run as root", container.name);
    let mut mounts: Vec<_> = container
        .volume_mounts
        .iter()
        .map(|mount| {
            let volume = volumes.get(&mount.name).unwrap_or_else(|| panic!("volume {}", mount.name));
            Mount {
                host_path: mount.sub_path.as_ref().map_or_else(|| volume.clone(), |path| volume.join(path)),
                container_path: mount.mount_path.clone(),
                read_only: mount.read_only,
            }
        })
        .collect();
    let token = volumes.get(TOKEN_VOLUME).cloned();
    mounts.extend(token.map(|host_path| Mount {
        host_path,
        container_path: SERVICE_ACCOUNT.to_owned(),
        read_only: true,
    }));
    let api = cluster.api.env();
    let mut env: Vec<_> = api.iter().map(|(name, value)| (*name, &**value)).collect();
    env.extend(container.env.iter().map(|env| match env.value_from.field_ref.field_path {
        Field::NodeName => (&*env.name, NODE),
    }));
    pod.run_container(&ContainerSpec {
        name: &container.name,
        image: Some(image),
        command: &words(&container.command),
        env: &env,
        user: Some(security.run_as_user),
        security: Security {
            group: Some(security.run_as_group),
            groups: &[template.spec.security_context.fs_group],
            drops: &words(&security.capabilities.drop),
            read_only_root: security.read_only_root_filesystem,
            no_new_privileges: !security.allow_privilege_escalation,
            seccomp: matches!(template.spec.security_context.seccomp_profile, SeccompProfile::RuntimeDefault),
        },
        mounts: &mounts,
        memory: Some(memory(&container.resources.limits)),
        ..ContainerSpec::default()
    })
}

impl Pod {
    /// Asks its probes.
    ///
    /// # Errors
    /// What the one says that is not content.
    pub fn probe(&self) -> Result<(), String> {
        for (container, running) in self.template.spec.containers.iter().zip(&self.containers) {
            if !running.is_running() {
                return Err(format!("{} has ended: {:?}", container.name, running.log()));
            }
            for probe in container.liveness_probe.iter().chain(&container.readiness_probe) {
                ask(container, running, probe).map_err(|said| format!("{}: {said}", container.name))?;
            }
        }
        Ok(())
    }

    /// One of its containers.
    pub fn container(&self, name: &str) -> &containerd::Container {
        let index = self.template.spec.containers.iter().position(|container| container.name == name);
        &self.containers[index.unwrap_or_else(|| panic!("container {name}"))]
    }

    /// Ends its containers, all at once and within the grace period, and then
    /// the pod. Returns what they ended with.
    pub fn terminate(self) -> BTreeMap<String, i32> {
        let grace = self.template.spec.termination_grace_period_seconds;
        std::thread::scope(|scope| {
            for container in &self.containers {
                scope.spawn(move || container.stop(grace));
            }
        });
        let names = self.template.spec.containers.iter().map(|container| container.name.clone());
        let ends = names.zip(self.containers.iter().map(containerd::Container::wait_exited)).collect();
        self.pod.remove();
        ends
    }
}

fn ask(container: &Container, running: &containerd::Container, probe: &Probe) -> Result<(), String> {
    match probe {
        Probe { exec: Some(exec), .. } => match running.exec(&words(&exec.command)) {
            (0, _) => Ok(()),
            (code, said) => Err(format!("{code}: {said}")),
        },
        Probe { http_get: Some(get), .. } => {
            let port =
                container.ports.iter().find(|port| port.name == get.port).expect("the port of a probe");
            let url = format!("http://127.0.0.1:{}{}", port.container_port, get.path);
            let curl = Command::new("curl")
                .args(["-sS", "--fail-with-body", "--noproxy", "*", &url])
                .output()
                .expect("starting curl");
            let said = || String::from_utf8_lossy(&[&*curl.stdout, &curl.stderr].concat()).into_owned();
            if curl.status.success() { Ok(()) } else { Err(said()) }
        }
        Probe { .. } => panic!("{} has a probe of a kind that is not known here", container.name),
    }
}

/// Makes a volume of files.
fn files(dir: &Path, data: &BTreeMap<String, String>, mode: u32, group: Option<u32>) -> PathBuf {
    fs::create_dir_all(dir).expect("the directory of a volume");
    for (name, content) in data {
        let path = dir.join(name);
        fs::write(&path, content).expect("a file of a volume");
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("its mode");
        chown(&path, None, group).expect("its group");
    }
    dir.to_owned()
}

fn pairs(map: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    map.iter().map(|(key, value)| (&**key, &**value))
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Bytes.
fn memory(limits: &Limits) -> u64 {
    let mib = limits.memory.strip_suffix("Mi").and_then(|mib| mib.parse::<u64>().ok());
    mib.unwrap_or_else(|| panic!("{} is no memory in Mi", limits.memory)) << 20
}
