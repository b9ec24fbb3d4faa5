//! The short form of `make faults`. Needs root.

use testbed::faults::{
    Tally, at_once, disk_fails_briefly, hostile_names, in_a_loop, in_a_row, kill_anywhere,
    store_fails_briefly,
};

#[test]
fn whoever_is_killed_whenever_nothing_is_lost_and_nothing_lies() {
    let tally = kill_anywhere(20, 4);
    assert!(tally.is_clean(), "{tally:?}");
    assert!(!tally.notes.starts_with("0 whole, 0 truncated"), "{tally:?}");
}

#[test]
fn a_storm_and_a_crash_loop_are_kept_or_counted_and_cost_the_node_little() {
    for tally in [at_once(40), in_a_loop(20)] {
        assert!(tally.is_clean(), "{tally:?}");
    }
}

#[test]
fn a_full_disk_costs_what_there_is_no_room_for_and_nothing_else() {
    let tallies = disk_fails_briefly();
    assert!(tallies.iter().all(Tally::is_clean), "{tallies:?}");
    for (tally, what) in tallies.iter().zip(["skipped (disk_full)", "2 disk_full"]) {
        let known = tally.notes.contains("1 whole") && tally.notes.contains(what);
        assert!(known || tally.notes.contains("this kernel has no"), "{tally:?}");
    }
}

#[test]
fn whatever_was_wrong_with_the_store_all_arrives_in_the_end() {
    let tallies = store_fails_briefly();
    assert!(tallies.iter().all(Tally::is_clean), "{tallies:?}");
}

#[test]
fn whatever_a_process_calls_itself_its_dump_arrives_and_nobody_is_misled() {
    let tally = hostile_names(16, 4);
    assert!(tally.is_clean(), "{tally:?}");
}

#[test]
fn an_uploader_needs_no_more_for_the_last_dump_than_for_the_first() {
    let tally = in_a_row(60);
    assert!(tally.is_clean(), "{tally:?}");
}
