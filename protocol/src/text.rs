//! Bytes chosen by strangers, as text that loses none of them.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that are usually UTF-8 and need not be: a command name, a path, an
/// argument. Written as text in which a backslash is `\\`, and each byte that
/// is no UTF-8 and each character that does something to the line is `\xNN`, so
/// that the bytes can be had back and a line of text stays one line.
#[derive(Clone, Default, Eq, Ord, PartialEq, PartialOrd, Hash)]
pub struct Text(Vec<u8>);

impl Text {
    /// The bytes as they were.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Text {
        Text(bytes.to_vec())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text(text.as_bytes().to_vec())
    }
}

impl From<&OsStr> for Text {
    fn from(text: &OsStr) -> Text {
        Text(text.as_bytes().to_vec())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str(r"\\")?,
                    c => write_plain(f, c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// A text for people that has words of strangers in it, as a part of one line.
/// What does something to the line is written as in [`Text`]; backslashes stay, so
/// this cannot be read back.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    let Ok(()) = text.chars().try_for_each(|c| write_plain(&mut line, c)) else {
        unreachable!("a string takes all text")
    };
    line
}

fn write_plain(f: &mut impl fmt::Write, c: char) -> fmt::Result {
    match is_plain(c) {
        true => f.write_char(c),
        false => c.encode_utf8(&mut [0; 4]).bytes().try_for_each(|byte| write!(f, "\\x{byte:02x}")),
    }
}

/// Whether `c` neither ends a line, for anyone, nor moves what is around it.
fn is_plain(c: char) -> bool {
    match c {
        // Line and paragraph separator; where a text turns (UAX #9, 2).
        '\u{2028}' | '\u{2029}' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => false,
        c => !c.is_control(),
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({self})")
    }
}

/// The inverse of [`Display`](fmt::Display). Total: a backslash that begins no
/// escape of ours stands for itself, so that text written by hand is readable.
impl FromStr for Text {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Text, Infallible> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&first, tail)) = rest.split_first() {
            let (byte, tail) = match (first, tail) {
                (b'\\', [b'\\', tail @ ..]) => (b'\\', tail),
                (b'\\', [b'x', high, low, tail @ ..]) => match (hex(*high), hex(*low)) {
                    (Some(high), Some(low)) => (high << 4 | low, tail),
                    _ => (first, &rest[1..]),
                },
                _ => (first, tail),
            };
            bytes.push(byte);
            rest = tail;
        }
        Ok(Text(bytes))
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        let Ok(text) = String::deserialize(deserializer)?.parse();
        Ok(text)
    }
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_cannot_be_shown_is_escaped() {
        let shown = |bytes: &[u8]| Text::from(bytes).to_string();
        assert_eq!(shown("läuft".as_bytes()), "läuft");
        assert_eq!(shown(b"a\xffb\nc\\d"), r"a\xffb\x0ac\\d");
        assert_eq!(shown("\u{85}".as_bytes()), r"\xc2\x85");
    }

    #[test]
    fn what_others_chose_neither_ends_a_line_nor_turns_it() {
        let rude = "a\n[b]\u{1b}[2K\u{85}\u{2028}\u{202e}c ä \\";
        assert_eq!(one_line(rude), r"a\x0a[b]\x1b[2K\xc2\x85\xe2\x80\xa8\xe2\x80\xaec ä \");
        assert_eq!(Text::from(rude).to_string(), one_line(rude) + r"\");
    }

    mod hostile {
        use super::*;
        use crate::strange;

        proptest! {
            #[test]
            fn no_byte_is_lost(bytes in prop_oneof![any::<Vec<u8>>(), strange::bytes()]) {
                let text = Text::from(&bytes[..]);
                let json = serde_json::to_string(&text).unwrap();
                prop_assert!(json.chars().all(is_plain), "{json}");
                prop_assert_eq!(serde_json::from_str::<Text>(&json).unwrap(), text);
            }

            #[test]
            fn a_line_stays_one(text in prop_oneof![any::<String>(), strange::text()]) {
                let line = one_line(&text);
                prop_assert!(line.chars().all(is_plain), "{line:?}");
                prop_assert_eq!(one_line(&line), line);
                prop_assert_eq!(Text::from(&*text).to_string().parse::<Text>().unwrap(), Text::from(&*text));
            }
        }
    }
}
