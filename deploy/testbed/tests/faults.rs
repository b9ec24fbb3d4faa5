//! The short form of `make faults`. Needs root.

use testbed::faults::kill_anywhere;

#[test]
fn whoever_is_killed_whenever_nothing_is_lost_and_nothing_lies() {
    let tally = kill_anywhere(20, 4);
    assert!(tally.is_clean(), "{tally:?}");
    assert!(!tally.notes.starts_with("0 whole, 0 truncated"), "{tally:?}");
}
