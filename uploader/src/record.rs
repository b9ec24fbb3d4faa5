//! How what is logged becomes a line.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use env_logger::fmt::Formatter;
use log::Record;
use log::kv::{Error, Key, Value, VisitSource};
use protocol::text::one_line;

/// Writes `record` the way env_logger does, but as one line, whoever chose its
/// words: a store, a file system, a container.
///
/// # Errors
/// If it cannot be written.
pub fn write(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let (time, level, target) = (out.timestamp(), record.level(), record.target());
    let style = out.default_level_style(level);
    writeln!(out, "[{time} {style}{level:<5}{style:#} {target}] {}", said(record))
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
    use super::*;

    fn said_of(message: &str, fields: &[(&str, Value<'_>)]) -> String {
        said(&Record::builder().args(format_args!("{message}")).key_values(&fields).build())
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
