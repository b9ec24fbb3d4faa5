//! The names in the spool, and what they say.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Keeps a name well under the 255 bytes a file system takes.
const MAX_HINT: usize = 150;

/// The name of a crash: `20261122T193101Z-28763-9f3a61c2`. UTC time of the
/// crash, host pid (0 if unknown), randomness.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DumpId(String);

/// A string that is no [`DumpId`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no dump id")]
pub struct BadDumpId(String);

impl DumpId {
    /// The id of a crash. `random` tells apart what the rest does not.
    pub fn new(time: Timestamp, pid: u32, random: u32) -> DumpId {
        DumpId(format!("{}-{pid}-{random:08x}", time.strftime("%Y%m%dT%H%M%SZ")))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DumpId {
    type Error = BadDumpId;

    fn try_from(id: String) -> Result<DumpId, BadDumpId> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let fits = |id: &str| {
            let mut parts = id.splitn(3, '-');
            let (time, pid, random) = (parts.next()?, parts.next()?, parts.next()?);
            let (day, second) = time.strip_suffix('Z')?.split_once('T')?;
            let random_is_hex = random.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            (day.len() == 8 && digits(day) && second.len() == 6 && digits(second))
                .then_some(digits(pid) && pid.len() <= 10 && random.len() == 8 && random_is_hex)
        };
        if fits(&id) == Some(true) { Ok(DumpId(id)) } else { Err(BadDumpId(id)) }
    }
}

impl From<DumpId> for String {
    fn from(id: DumpId) -> String {
        id.0
    }
}

impl fmt::Display for DumpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Words for people who read `ls`, filtered and never parsed: what they stand
/// for was chosen by the crashed container, and its true bytes are in the
/// manifest, where no shell will meet them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hint(String);

impl Hint {
    /// A hint of these words, each introduced by `_`.
    pub fn new<'a>(words: impl IntoIterator<Item = &'a [u8]>) -> Hint {
        let mut hint = String::new();
        for word in words.into_iter().filter(|word| !word.is_empty()) {
            hint.push('_');
            hint.extend(word.iter().map(|byte| match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' => char::from(*byte),
                _ => '-',
            }));
        }
        hint.truncate(MAX_HINT);
        Hint(hint)
    }
}

/// The suffix *is* the state; there is no other record of it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A composer is writing it, and holds its lock.
    Part,
    /// Complete and on disk. Readers may rely on every byte.
    Ready,
    /// Its composer died. What there is of it is still evidence.
    Torn,
    /// The store will never take it. A person has to look.
    Rejected,
    /// The store has it. What is left here is a copy, and may go at any time.
    Uploaded,
}

impl State {
    /// All of them.
    pub const ALL: [State; 5] = [State::Part, State::Ready, State::Torn, State::Rejected, State::Uploaded];

    const fn suffix(self) -> &'static str {
        match self {
            State::Part => ".zip.part",
            State::Ready => ".zip",
            State::Torn => ".zip.torn",
            State::Rejected => ".zip.rejected",
            State::Uploaded => ".zip.uploaded",
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Part => "part",
            State::Ready => "ready",
            State::Torn => "torn",
            State::Rejected => "rejected",
            State::Uploaded => "uploaded",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A name in the spool that is one of ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    id: DumpId,
    hint: Hint,
    state: State,
}

impl Entry {
    /// Understands a file name; `None` for strangers.
    pub fn parse(name: &str) -> Option<Entry> {
        let (stem, state) =
            State::ALL.iter().find_map(|state| Some((name.strip_suffix(state.suffix())?, *state)))?;
        let (id, hint) = stem.split_at(stem.find('_').unwrap_or(stem.len()));
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let may_have_hint = matches!(state, State::Ready | State::Rejected | State::Uploaded);
        if !hint.is_empty() && (!may_have_hint || !hint.bytes().all(plain)) {
            return None;
        }
        let id = DumpId::try_from(id.to_owned()).ok()?;
        Some(Entry { id, hint: Hint(hint.to_owned()), state })
    }

    /// Which crash.
    pub fn id(&self) -> &DumpId {
        &self.id
    }

    /// What state its dump is in.
    pub fn state(&self) -> State {
        self.state
    }

    /// The part of a crash.
    pub(crate) fn part(id: DumpId) -> Entry {
        Entry { id, hint: Hint::default(), state: State::Part }
    }

    /// The same crash, ready.
    pub(crate) fn ready(&self, hint: Hint) -> Entry {
        Entry { hint, ..self.with(State::Ready) }
    }

    /// The same crash in another state.
    pub(super) fn with(&self, state: State) -> Entry {
        Entry { state, ..self.clone() }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.id, self.hint.0, self.state.suffix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "20261122T193101Z-28763-9f3a61c2";

    fn id() -> DumpId {
        DumpId::try_from(ID.to_owned()).unwrap()
    }

    #[test]
    fn an_id_says_when_who_and_which() {
        let time = Timestamp::from_second(1_795_375_861).unwrap();
        assert_eq!(DumpId::new(time, 28763, 0x9f3a_61c2), id());
    }

    #[test]
    fn names_are_understood_as_they_are_written() {
        for (name, state) in [
            (format!("{ID}.zip.part"), State::Part),
            (format!("{ID}.zip"), State::Ready),
            (format!("{ID}_payments_api-7d9c6_api_SIGSEGV.zip"), State::Ready),
            (format!("{ID}.zip.torn"), State::Torn),
            (format!("{ID}_x.zip.rejected"), State::Rejected),
            (format!("{ID}_x.zip.uploaded"), State::Uploaded),
        ] {
            let entry = Entry::parse(&name).unwrap();
            assert_eq!((entry.to_string(), entry.id(), entry.state()), (name, &id(), state));
        }
    }

    #[test]
    fn strangers_are_not_understood() {
        for name in [
            "",
            "core.1234",
            "crashes.jsonl",
            "20261122T193101Z-28763-9f3a61c2.upload",
            ".zip",
            "20261122T193101Z-28763-9f3a61c2",
            "20261122T193101Z-28763-9f3a61c2.zip.gz",
            "20261122T193101Z-28763-9f3a61c2 copy.zip",
            "20261122T193101Z-28763-9f3a61c2_a/b.zip",
            "20261122T193101Z-28763-9f3a61c2_x.zip.part",
            "20261122T193101Z-28763-9F3A61C2.zip",
            "20261122T193101Z--9f3a61c2.zip",
            "2026T1Z-1-9f3a61c2.zip",
            "2026112T193101Z-1-9f3a61c2.zip",
            "2026112xT193101Z-1-9f3a61c2.zip",
            "20261122T19310Z-1-9f3a61c2.zip",
            "20261122T19310xZ-1-9f3a61c2.zip",
            "20261122T193101Z-12345678901-9f3a61c2.zip",
            "20261122T193101Z-1-9f3a61c.zip",
        ] {
            assert_eq!(Entry::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_hint_is_harmless_whatever_it_is_made_of() {
        let hint = Hint::new([&b"../../etc"[..], b"", b"a b\n\xff", b"SIGSEGV"]);
        assert_eq!(hint.0, "_..-..-etc_a-b--_SIGSEGV");
        let long = Hint::new([&[b'x'; 4096][..]]);
        let entry = Entry { id: id(), hint: long, state: State::Rejected };
        assert!(entry.to_string().len() < 255);
        assert_eq!(Entry::parse(&entry.to_string()), Some(entry));
    }

    mod hostile {
        use std::path::Path;

        use proptest::prelude::*;

        use super::*;
        use crate::spool::Spool;
        use crate::strange;

        fn names() -> impl Strategy<Value = Vec<u8>> {
            let suffixes =
                [".zip.part", ".zip", "_payments_api-7d9c6_api_SIGSEGV.zip", ".zip.torn", "_x.zip.rejected"];
            strange::changed(suffixes.map(|suffix| format!("{ID}{suffix}").into_bytes()).into())
        }

        proptest! {
            #[test]
            fn a_name_that_is_ours_is_of_a_file_in_the_spool(name in names()) {
                let name = String::from_utf8_lossy(&name);
                if let Some(entry) = Entry::parse(&name) {
                    prop_assert_eq!(entry.to_string(), &*name);
                    prop_assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)));
                    for entry in State::ALL.map(|state| entry.with(state)) {
                        let path = Spool::at("/spool").path(&entry);
                        prop_assert_eq!(path.parent(), Some(Path::new("/spool")));
                    }
                }
            }

            #[test]
            fn whatever_a_hint_is_made_of_it_can_be_read_again(
                words in prop::collection::vec(prop_oneof![strange::bytes(), any::<Vec<u8>>()], 0..6)
            ) {
                let entry = Entry::part(id()).ready(Hint::new(words.iter().map(Vec::as_slice)));
                prop_assert!(entry.with(State::Rejected).to_string().len() < 255);
                prop_assert_eq!(Entry::parse(&entry.to_string()), Some(entry));
            }
        }
    }
}
