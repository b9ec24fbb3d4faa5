//! Who goes first.

/// How much less a thread weighs than others: a tenth of the weight of one that
/// is as nice as most are (sched(7), "The nice value").
const NICE: i32 = 10;

/// Has this thread, and those it starts, stand back behind the node's own work,
/// and behind who reads the core, for whom the crashed process waits. It is no
/// reason to stop if it cannot.
pub fn lower() {
    let _ = rustix::process::nice(NICE);
}
