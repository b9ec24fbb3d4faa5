//! Whether a container has crashed too often lately.
//!
//! A container that crashes, is restarted and crashes again has one cause, not a
//! thousand. What it has had is in `crashes.jsonl`, which is bounded, survives
//! us, and is the only memory there is of it.

use std::time::Duration;

use jiff::Timestamp;
use protocol::journal::{Line, Outcome, Skip, lines};
use protocol::settings::RateLimit;
use protocol::spool::Spool;
use protocol::text::Text;

/// Who it is that crashes.
#[derive(Clone, Copy, Debug)]
pub enum Who<'a> {
    /// A container, as the journal calls it.
    Container(&'a str),
    /// A program of the host, by its command name.
    Host(Option<&'a Text>),
}

impl Who<'_> {
    fn is_of(self, line: &Line) -> bool {
        match self {
            Who::Container(name) => line.container.as_deref() == Some(name),
            Who::Host(comm) => line.container.is_none() && line.comm.as_ref() == comm,
        }
    }
}

/// What the journal says of someone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Event {
    /// There was a dump.
    Dumped,
    /// There was none, since it had had its share.
    Limited,
}

/// Whether `who` has had as many dumps as the limit allows, as far as the journal
/// can be read.
pub fn is_exceeded(spool: &Spool, limit: RateLimit, who: Who, now: Timestamp) -> bool {
    if limit.every.is_zero() {
        return false;
    }
    let mut events = Vec::new();
    for line in lines(spool).filter_map(Result::ok) {
        let event = match line.outcome {
            Outcome::Captured { .. } => Event::Dumped,
            Outcome::Skipped { reason: Skip::RateLimit } => Event::Limited,
            _ => continue,
        };
        // A clock that was set back has written what is to come.
        if line.at <= now && who.is_of(&line) {
            events.push((line.at, event));
        }
    }
    !allows(limit, &events, now)
}

/// Whether after `events`, in their order, another dump is allowed `now`. As with
/// a bucket of `burst` tokens: each dump takes one, and one comes back `every` so
/// often.
fn allows(limit: RateLimit, events: &[(Timestamp, Event)], now: Timestamp) -> bool {
    let full = limit.every.saturating_mul(limit.burst);
    // How long it takes until all of them are back.
    let mut owed = Duration::ZERO;
    // Whose dumps the journal has forgotten already, of those it knows at least
    // that they were too many.
    if let Some((_, Event::Limited)) = events.first() {
        owed = full;
    }
    let mut last = events.first().map_or(now, |(at, _)| *at);
    for (at, event) in events.iter().copied() {
        owed = owed.saturating_sub(between(last, at));
        last = at;
        if event == Event::Dumped {
            owed = owed.saturating_add(limit.every).min(full);
        }
    }
    owed.saturating_sub(between(last, now)).saturating_add(limit.every) <= full
}

/// None, if the clock has been set back.
fn between(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use protocol::journal::{FILE_NAME, PREVIOUS};

    use super::*;

    const LIMIT: RateLimit = RateLimit { burst: 5, every: Duration::from_secs(3600) };

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_795_000_000 + 60 * minutes).unwrap()
    }

    /// In which minutes somebody who crashes so often is dumped.
    fn dumped(minutes: impl Iterator<Item = i64>) -> Vec<i64> {
        let (mut events, mut when) = (Vec::new(), Vec::new());
        for minute in minutes {
            if allows(LIMIT, &events, at(minute)) {
                events.push((at(minute), Event::Dumped));
                when.push(minute);
            }
        }
        when
    }

    #[test]
    fn a_burst_and_then_one_an_hour() {
        assert_eq!(dumped((0..200).step_by(2)), [0, 2, 4, 6, 8, 60, 120, 180]);
        assert_eq!(dumped((0..600).step_by(60)).len(), 10, "once an hour is always allowed");
        let night = (0..10).chain(600..610);
        assert_eq!(dumped(night), [0, 1, 2, 3, 4, 600, 601, 602, 603, 604], "a quiet night fills it again");
    }

    #[test]
    fn what_the_journal_has_forgotten_was_too_much() {
        let limited: Vec<_> = (0..50).map(|minute| (at(minute), Event::Limited)).collect();
        assert!(!allows(LIMIT, &limited, at(50)));
        assert!(allows(LIMIT, &limited, at(60)), "one an hour");
        let never_again = RateLimit { burst: 1, every: Duration::MAX / 2 };
        assert!(!allows(never_again, &[(at(0), Event::Limited)], at(1)));
    }

    #[test]
    fn what_counts_is_the_dumps_of_the_same_one() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let line = |container: &str, outcome: &str| {
            format!(
                r#"{{"at":"{}","id":"20261122T193101Z-1-00000000","outcome":{outcome},"pid":1,"signal":11,"comm":"x"{container}}}"#,
                at(0)
            )
        };
        let captured = r#"{"captured":{"core_bytes":1,"dump_bytes":1,"truncated":null,"held_ms":1}}"#;
        let [a, b, host] = [r#","container":"n/p/a""#, r#","container":"n/p/b""#, ""];
        let limit = RateLimit { burst: 2, ..LIMIT };
        let exceeded = |who| is_exceeded(&spool, limit, who, at(1));
        assert!(!exceeded(Who::Container("n/p/a")), "there is no journal yet");
        fs::write(dir.path().join(PREVIOUS), line(a, captured) + "\n").unwrap();
        let skipped = r#"{"skipped":{"reason":"rate_limit"}}"#;
        let lines = [
            line(a, skipped),
            line(b, captured),
            "{half a li".to_owned(),
            line(host, captured),
            line(host, captured),
        ];
        fs::write(dir.path().join(FILE_NAME), lines.join("\n") + "\n").unwrap();
        assert!(!exceeded(Who::Container("n/p/a")) && !exceeded(Who::Container("n/p/b")));
        fs::write(dir.path().join(FILE_NAME), lines.join("\n") + "\n" + &line(a, captured)).unwrap();
        assert!(exceeded(Who::Container("n/p/a")) && !exceeded(Who::Container("n/p/b")));
        let comm = Text::from("x");
        assert!(exceeded(Who::Host(Some(&comm))) && !exceeded(Who::Host(None)));
        assert!(!is_exceeded(
            &spool,
            RateLimit { every: Duration::ZERO, ..limit },
            Who::Host(Some(&comm)),
            at(1)
        ));
    }

    mod hostile {
        use std::fs;

        use proptest::prelude::*;
        use protocol::journal::{FILE_NAME, PREVIOUS, append};
        use protocol::spool::DumpId;

        use super::*;
        use crate::strange;

        fn journals() -> impl Strategy<Value = Vec<u8>> {
            let golden = include_bytes!("../../protocol/tests/golden/crashes-1.jsonl");
            strange::changed(vec![golden.to_vec()])
        }

        proptest! {
            #[test]
            fn whatever_is_in_the_journal_a_line_is_added_to_it_and_nobody_is_limited_by_others(
                before in journals(), previous in journals(), comm in strange::bytes(), container in strange::text()
            ) {
                let dir = tempfile::tempdir().unwrap();
                let spool = Spool::open(dir.path()).unwrap();
                fs::write(dir.path().join(FILE_NAME), &before).unwrap();
                fs::write(dir.path().join(PREVIOUS), previous).unwrap();
                let name = format!("ours/{container}");
                let line = Line {
                    at: Timestamp::UNIX_EPOCH,
                    id: DumpId::new(Timestamp::UNIX_EPOCH, 7, 7),
                    outcome: Outcome::Refused { reason: "no space\nleft".into() },
                    pid: Some(7),
                    signal: Some(11),
                    comm: Some(comm[..].into()),
                    container: Some(name.clone()),
                    pod_uid: None,
                };
                append(&spool, &line).unwrap();
                let after = fs::read(dir.path().join(FILE_NAME)).unwrap();
                prop_assert!(after.starts_with(&before));
                let last = after.strip_suffix(b"\n").unwrap().rsplit(|byte| *byte == b'\n').next().unwrap();
                prop_assert_eq!(serde_json::from_slice::<Line>(last).unwrap(), line);
                let limit = RateLimit { burst: 1, every: Duration::from_secs(3600) };
                prop_assert!(!is_exceeded(&spool, limit, Who::Container(&name), Timestamp::now()));
            }
        }
    }
}
