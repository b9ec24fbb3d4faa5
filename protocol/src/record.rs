//! How what a program logs becomes a line: one for each record, with the time of
//! the zone that `TZ` names, or of UTC.

use std::env;
use std::fmt::Write as _;
use std::io::{self, Write as _};

use env_logger::Env;
use env_logger::fmt::Formatter;
use jiff::Zoned;
use jiff::tz::TimeZone;
use log::kv::{Error, Key, Value, VisitSource};
use log::{Record, warn};

use crate::text::one_line;

/// Logs to stderr from now on, what `RUST_LOG` says, or all that is at least of
/// the level info.
pub fn begin() {
    env_logger::Builder::from_env(Env::default().default_filter_or("info")).format(write).init();
    if let (Some(zone), Err(_)) = (env::var_os("TZ"), TimeZone::try_system()) {
        warn!("TZ is {zone:?}, of which no time zone is known here: times are those of UTC");
    }
}

/// Writes `record` the way env_logger does, but as one line, whoever chose its
/// words: a store, a file system, a container.
fn write(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let (time, level, target) = (stamp(&Zoned::now()), record.level(), record.target());
    let style = out.default_level_style(level);
    writeln!(out, "[{time} {style}{level:<5}{style:#} {target}] {}", said(record))
}

/// RFC 3339, to the second.
fn stamp(now: &Zoned) -> String {
    match now.offset().is_zero() {
        true => now.strftime("%FT%TZ"),
        false => now.strftime("%FT%T%:z"),
    }
    .to_string()
}

/// Its message, and its fields.
fn said(record: &Record<'_>) -> String {
    let mut fields = Fields(record.args().to_string());
    let Ok(()) = record.key_values().visit(&mut fields) else { unreachable!("a string takes all text") };
    one_line(&fields.0)
}

struct Fields(String);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        Ok(write!(self.0, " {key}={value}")?)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn said_of(message: &str, fields: &[(&str, Value<'_>)]) -> String {
        said(&Record::builder().args(format_args!("{message}")).key_values(&fields).build())
    }

    #[test]
    fn the_time_says_of_which_zone_it_is() {
        let of = |zone: &str| stamp(&Timestamp::from_second(1_795_376_061).unwrap().in_tz(zone).unwrap());
        assert_eq!(of("UTC"), "2026-11-22T19:34:21Z");
        assert_eq!(of("Europe/Berlin"), "2026-11-22T20:34:21+01:00");
    }

    #[test]
    fn fields_follow_the_message() {
        let fields = [("dump", Value::from("an id")), ("bytes", Value::from(5))];
        assert_eq!(said_of("uploaded", &fields), "uploaded dump=an id bytes=5");
        assert_eq!(said_of("a\nb", &fields), r"a\x0ab dump=an id bytes=5");
    }

    mod hostile {
        use proptest::prelude::*;

        use super::*;
        use crate::strange;

        proptest! {
            #[test]
            fn whatever_is_said_is_one_line(message in strange::text(), value in strange::text()) {
                let line = said_of(&message, &[("reason", Value::from(&*value))]);
                prop_assert_eq!(&one_line(&line), &line);
                prop_assert_eq!(line, format!("{} reason={}", one_line(&message), one_line(&value)));
            }
        }
    }
}
