//! What of the daemon is to be seen from outside: numbers, and whether it is
//! alive and ready.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::spool::Found;

use crate::hook::Hook;
use crate::metrics::Metrics;

/// Some turns of the daemon's loop, each of which takes three minutes at most.
const STALLED: Duration = Duration::from_secs(600);

/// What there is to see.
pub struct Monitor {
    /// The numbers.
    pub metrics: Metrics,
    hook: Hook,
    /// Whether an uploader whose store cannot be reached is ready all the same.
    without_store: bool,
    signs: Mutex<Signs>,
}

/// How the last attempts went.
struct Signs {
    turned: Instant,
    spool: Result<(), String>,
    store: Result<(), String>,
}

impl Monitor {
    /// Nothing is known yet.
    pub fn new(hook: Hook, without_store: bool) -> Monitor {
        let not_yet = |what: &str| Err(format!("the {what} has not been asked yet"));
        let signs = Signs { turned: Instant::now(), spool: not_yet("spool"), store: not_yet("store") };
        Monitor { metrics: Metrics::new(), hook, without_store, signs: Mutex::new(signs) }
    }

    /// The daemon has listed the spool.
    pub fn listed(&self, found: &[Found]) {
        self.metrics.spool(found);
        let mut signs = self.signs();
        (signs.turned, signs.spool) = (Instant::now(), Ok(()));
    }

    /// The daemon could not list the spool.
    pub fn unlisted(&self, why: &dyn std::fmt::Display) {
        let mut signs = self.signs();
        (signs.turned, signs.spool) = (Instant::now(), Err(format!("the spool cannot be listed: {why}")));
    }

    /// The store has answered, or has not.
    pub fn asked(&self, answer: Result<(), String>) {
        self.signs().store = answer.map_err(|why| format!("the store does not answer: {why}"));
    }

    /// Whether the daemon goes on.
    ///
    /// # Errors
    /// Why that is to be doubted, for a person.
    pub fn alive(&self) -> Result<(), String> {
        alive(self.signs().turned.elapsed())
    }

    /// Why no crash of this node would end up in the store; a line each.
    pub fn obstacles(&self) -> Vec<String> {
        let (owned, in_place) = (self.hook.owned(), self.hook.in_place());
        let signs = self.signs();
        let store = if self.without_store { Ok(()) } else { signs.store.clone() };
        [signs.spool.clone(), owned, in_place, store].into_iter().filter_map(Result::err).collect()
    }

    /// All metrics as text.
    pub fn text(&self) -> String {
        self.metrics.text(self.hook.owned().is_ok())
    }

    fn signs(&self) -> MutexGuard<'_, Signs> {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn alive(silence: Duration) -> Result<(), String> {
    match silence > STALLED {
        true => Err(format!("the spool was last looked at {} s ago", silence.as_secs())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use protocol::host::HostPath;

    use super::*;

    /// A node whose kernel runs our composer.
    fn node(dir: &Path, without_store: bool) -> Monitor {
        let composer = dir.join("composer");
        fs::write(&composer, "").unwrap();
        fs::set_permissions(&composer, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.join("core_pattern"), format!("|{} P%P\n", composer.display())).unwrap();
        let host_dir = HostPath::try_from(dir.to_str().unwrap()).unwrap();
        Monitor::new(Hook::new(dir.into(), &host_dir), without_store)
    }

    #[test]
    fn it_is_ready_when_all_is_known_to_be_well() {
        let dir = tempfile::tempdir().unwrap();
        let monitor = node(dir.path(), false);
        assert_eq!(
            monitor.obstacles(),
            ["the spool has not been asked yet", "the store has not been asked yet"]
        );
        monitor.listed(&[]);
        monitor.asked(Ok(()));
        assert!(monitor.obstacles().is_empty());
    }

    #[test]
    fn each_obstacle_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let monitor = node(dir.path(), false);
        monitor.unlisted(&"gone");
        monitor.asked(Err("no route".into()));
        fs::remove_file(dir.path().join("composer")).unwrap();
        fs::write(dir.path().join("core_pattern"), "core\n").unwrap();
        let obstacles = monitor.obstacles();
        assert_eq!(obstacles.len(), 4, "{obstacles:?}");
        for (obstacle, start) in obstacles.iter().zip([
            "the spool cannot be listed: gone",
            "core_pattern is \"core\", which is not /",
            "/",
            "the store does not answer: no route",
        ]) {
            assert!(obstacle.starts_with(start), "{start} in {obstacles:?}");
        }
        assert!(monitor.text().contains("coredump_core_pattern_owned 0\n"));
    }

    #[test]
    fn a_store_that_does_not_answer_counts_unless_it_is_not_to() {
        let dir = tempfile::tempdir().unwrap();
        for without_store in [false, true] {
            let monitor = node(dir.path(), without_store);
            monitor.listed(&[]);
            monitor.asked(Err("no route".into()));
            assert_eq!(monitor.obstacles().is_empty(), without_store);
        }
    }

    #[test]
    fn a_loop_that_does_not_turn_is_not_alive() {
        assert_eq!(alive(STALLED), Ok(()));
        let why = alive(STALLED + Duration::from_secs(1)).unwrap_err();
        assert_eq!(why, "the spool was last looked at 601 s ago");
        let dir = tempfile::tempdir().unwrap();
        let monitor = node(dir.path(), false);
        assert_eq!(monitor.alive(), Ok(()));
        monitor.signs().turned -= STALLED + Duration::from_secs(1);
        assert!(monitor.alive().is_err());
        monitor.unlisted(&"gone");
        assert_eq!(monitor.alive(), Ok(()), "it turns, whatever it finds");
    }
}
