//! A container, once it was started.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::Runtime;
use super::cri::{
    ContainerState, ContainerStatusResponse, ExecSyncRequest, ExecSyncResponse, Id, StatusRequest,
    StopContainerRequest,
};
use crate::wait_for;

/// A container is given as long as the slowest of composers takes.
const PATIENCE: Duration = Duration::from_secs(240);

/// In seconds.
const EXEC_DEADLINE: i64 = 30;

/// A container that runs, or has run.
pub struct Container {
    runtime: Arc<Runtime>,
    id: String,
    log_path: PathBuf,
}

impl Container {
    /// One that was started just now.
    pub(super) fn new(runtime: Arc<Runtime>, id: String, log_path: PathBuf) -> Container {
        let container = Container { runtime, id, log_path };
        // For a moment yet its process is runc, with what belongs to that.
        wait_for("runc to become the container", PATIENCE, || {
            let pid = running_pid(&container.status().info).unwrap_or_default();
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            (!comm.starts_with("runc:[")).then_some(())
        });
        container
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The file that has what it said.
    pub fn log_path(&self) -> &Path {
        &self.log_path
    }

    /// What it said so far: each line as in the log but for its time, such as
    /// `stdout F hello`.
    pub fn log(&self) -> Vec<String> {
        let log = fs::read(&self.log_path).expect("the container's log");
        let log = String::from_utf8(log).expect("the log is text");
        log.lines().map(|line| line.split_once(' ').map_or(line, |(_, said)| said).to_owned()).collect()
    }

    /// The pid on the host of its first process, while it runs.
    pub fn pid(&self) -> u32 {
        running_pid(&self.status().info).expect("the container runs")
    }

    /// Lets a crasher crash that was told to wait: `--until /crash`.
    pub fn crash(&self) {
        // Not a signal: whoever does not handle it yet would die of it, or miss it.
        let file = format!("/proc/{}/root/crash", self.pid());
        fs::write(&file, "").unwrap_or_else(|err| panic!("writing {file}: {err}"));
    }

    /// Waits for its end and returns its exit code: 128 and the signal if it died of one.
    pub fn wait_exited(&self) -> i32 {
        wait_for("the end of a container", PATIENCE, || {
            let status = self.status().status.expect("a container has a status");
            (status.state() == ContainerState::Exited).then_some(status.exit_code)
        })
    }

    /// True until it has ended.
    pub fn is_running(&self) -> bool {
        self.status().status.is_some_and(|status| status.state() == ContainerState::Running)
    }

    /// Runs a program in it, and returns its exit code and what it said.
    pub fn exec(&self, command: &[&str]) -> (i32, String) {
        let request = ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: EXEC_DEADLINE,
        };
        let ExecSyncResponse { exit_code, stdout, stderr } =
            self.runtime.client.call("RuntimeService/ExecSync", &request);
        (exit_code, String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
    }

    /// Kills it.
    pub fn kill(&self) {
        self.stop(0);
    }

    /// Has it end itself, and kills it after so many seconds.
    pub fn stop(&self, grace: u32) {
        let request = StopContainerRequest { container_id: self.id.clone(), timeout: grace.into() };
        self.runtime.client.call::<()>("RuntimeService/StopContainer", &request);
    }

    /// Makes the runtime forget it, and kills it if it still runs. Its log stays.
    pub fn remove(self) {
        let id = Id { id: self.id };
        self.runtime.client.call::<()>("RuntimeService/RemoveContainer", &id);
    }

    fn status(&self) -> ContainerStatusResponse {
        let request = StatusRequest { id: self.id.clone(), verbose: true };
        self.runtime.client.call("RuntimeService/ContainerStatus", &request)
    }
}

/// What the runtime says in its own words is JSON, and has the pid.
pub(super) fn running_pid(info: &BTreeMap<String, String>) -> Option<u32> {
    let said: Value = serde_json::from_str(info.get("info")?).expect("it is JSON");
    said["pid"].as_u64()?.try_into().ok().filter(|&pid| pid != 0)
}
