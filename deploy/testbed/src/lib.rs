//! A store, an API server, a crasher, a kernel and a containerd to try the three programs on; no part of a release.
//!
//! What tests call panics with a sentence when it cannot do its work: in a test
//! there is nothing else to do about it. The benchmark, [`mod@bench`], is no test.

pub mod bench;
pub mod containerd;
pub mod crash;
pub mod elf;
pub mod faults;
pub mod identity;
pub mod kernel;
pub mod kubelet;
pub mod kubernetes;
pub mod memory;
pub mod node;
pub mod store;

use std::thread;
use std::time::{Duration, Instant};

/// Long enough for a loaded machine to notice, short enough to watch.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Asks until there is an answer, and panics if there is none within `patience`.
/// `what` completes the sentence "waited in vain for ...".
pub fn wait_for<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = condition() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain for {what}");
        thread::sleep(POLL_EVERY);
    }
}
