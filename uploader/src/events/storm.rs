//! One Event a minute about the same, however often it happens: the first at
//! once, and what comes after it together. Touches nothing, knows no clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Event, Reason, Subject};

/// How long what is the same is collected.
const PERIOD: Duration = Duration::from_secs(60);
/// More containers than a node has, for each of the reasons.
const MOST: usize = 1024;

/// What happened lately.
#[derive(Default)]
pub struct Storm(BTreeMap<(Subject, Reason), Lately>);

struct Lately {
    /// When the next may be sent.
    until: Instant,
    waiting: Option<Event>,
}

/// What becomes of an Event.
pub enum Admission {
    /// It is to be sent, perhaps with what had been waiting.
    Now(Event),
    /// It waits, and is sent with others.
    Later,
    /// There is no room for it.
    Never,
}

impl Storm {
    /// Decides about `event`.
    pub fn admit(&mut self, event: Event, now: Instant) -> Admission {
        let key = (event.subject.clone(), event.reason);
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            self.0.retain(|_, lately| lately.until > now || lately.waiting.is_some());
            if self.0.len() >= MOST {
                return Admission::Never;
            }
        }
        let lately = self.0.entry(key).or_insert(Lately { until: now, waiting: None });
        let sum = match lately.waiting.take() {
            Some(mut waiting) => {
                waiting.add(event);
                waiting
            }
            None => event,
        };
        if lately.until > now {
            lately.waiting = Some(sum);
            return Admission::Later;
        }
        lately.until = now + PERIOD;
        Admission::Now(sum)
    }

    /// What has been waiting long enough.
    pub fn due(&mut self, now: Instant) -> Vec<Event> {
        let mut due = Vec::new();
        self.0.retain(|_, lately| {
            if lately.until > now {
                return true;
            }
            lately.until = now + PERIOD;
            let waiting = lately.waiting.take();
            let lives = waiting.is_some();
            due.extend(waiting);
            lives
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use protocol::spool::DumpId;

    use super::*;

    fn event(pod: &str, second: i64) -> Event {
        let at = Timestamp::from_second(second).unwrap();
        let subject = Subject::new("default", pod, "uid", "main").unwrap();
        let id = DumpId::new(at, 1, 7);
        Event::once(subject, Reason::Dumped, &id, format!("at {second}"), at)
    }

    fn now(admission: Admission) -> Option<Event> {
        match admission {
            Admission::Now(event) => Some(event),
            Admission::Later | Admission::Never => None,
        }
    }

    #[test]
    fn the_first_is_sent_at_once_and_the_others_together() {
        let (mut storm, began) = (Storm::default(), Instant::now());
        let at = |second| began + Duration::from_secs(second);
        assert_eq!(now(storm.admit(event("a", 0), at(0))).unwrap().count, 1);
        for second in 1..18 {
            assert!(now(storm.admit(event("a", second), at(second as u64))).is_none());
        }
        assert_eq!(now(storm.admit(event("b", 5), at(5))).unwrap().count, 1, "another pod");
        assert!(storm.due(at(59)).is_empty());
        let due = storm.due(at(60));
        assert_eq!(due.len(), 1);
        let sum = &due[0];
        assert_eq!((sum.count, sum.first.as_second(), sum.last.as_second()), (17, 1, 17));
        assert_eq!(sum.message, "at 17");
        assert!(now(storm.admit(event("a", 61), at(61))).is_none(), "that one counts as well");
        assert_eq!(storm.due(at(120)).len(), 1);
    }

    #[test]
    fn what_waited_goes_with_the_next_if_that_comes_first() {
        let (mut storm, began) = (Storm::default(), Instant::now());
        assert!(now(storm.admit(event("a", 0), began)).is_some());
        assert!(now(storm.admit(event("a", 1), began)).is_none());
        let sum = now(storm.admit(event("a", 90), began + PERIOD)).unwrap();
        assert_eq!((sum.count, sum.first.as_second(), sum.last.as_second()), (2, 1, 90));
        assert!(storm.due(began + 2 * PERIOD).is_empty());
    }

    #[test]
    fn it_remembers_no_more_than_it_has_to() {
        let (mut storm, began) = (Storm::default(), Instant::now());
        for n in 0..MOST {
            assert!(now(storm.admit(event(&format!("p-{n}"), 0), began)).is_some());
        }
        assert!(matches!(storm.admit(event("one-more", 0), began), Admission::Never));
        assert!(matches!(storm.admit(event("p-0", 0), began), Admission::Later));
        assert!(now(storm.admit(event("one-more", 0), began + PERIOD)).is_some());
        assert_eq!(storm.0.len(), 2, "who has nothing waiting is forgotten");
        assert_eq!(storm.due(began + 2 * PERIOD).len(), 1);
        assert!(storm.due(began + 3 * PERIOD).is_empty() && storm.0.is_empty());
    }
}
