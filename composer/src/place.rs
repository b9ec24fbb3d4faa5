//! Where the crashed process ran.

use crate::cgroup::{self, PodCgroup};
use crate::process::Process;

/// Where a process ran, by its cgroup.
#[derive(Debug, PartialEq)]
pub enum Place {
    /// In a pod.
    Pod(PodCgroup),
    /// In none.
    Host,
    /// Nobody knows, for this reason.
    Unknown(String),
}

impl Place {
    /// Where `process` ran.
    pub fn of(process: &Process) -> Place {
        let cgroup = process.file("cgroup").map_err(str::to_owned);
        match cgroup.and_then(|text| cgroup::pod(&String::from_utf8_lossy(text))) {
            Ok(Some(pod)) => Place::Pod(pod),
            // All who are on their way out are there, with cgroups of version 1.
            Ok(None) if process.is_leaving() => Place::Unknown("it had left its cgroup already".to_owned()),
            Ok(None) => Place::Host,
            Err(why) => Place::Unknown(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_on_its_way_out_is_not_taken_for_the_hosts() {
        let process = |cgroup: &str, maps: Result<Vec<u8>, String>| {
            let mut process = Process::unproven("");
            process.identity = Ok(());
            process.files = vec![("cgroup", Ok(cgroup.into())), ("maps", maps)];
            process
        };
        let gone = || Err("empty".to_owned());
        assert_eq!(Place::of(&process("9:pids:/\n", Ok(b"maps".to_vec()))), Place::Host);
        assert!(matches!(Place::of(&process("9:pids:/\n", gone())), Place::Unknown(_)));
        let in_pod = "0::/kubepods/podebd4ed5f-7157-41bc-8004-afdf4f6afe14/x\n";
        assert!(matches!(Place::of(&process(in_pod, gone())), Place::Pod(_)), "with version 2 they stay");
        assert_eq!(Place::of(&Process::unproven("why")), Place::Unknown("why".to_owned()));
    }
}
