//! Who goes first.

/// How much less a thread weighs than others: a third of one that is as nice as
/// most are (sched(7), "The nice value"). With less still, a core that is larger
/// than what can be put away would hold its process for long on a busy node.
const NICE: i32 = 5;

/// Has this thread, and those it starts, stand back behind the node's own work,
/// and behind who reads the core, for whom the crashed process waits. It is no
/// reason to stop if it cannot.
pub fn lower() {
    let _ = rustix::process::nice(NICE);
}
