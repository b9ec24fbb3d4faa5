//! What strangers may write, for the properties of those who read it: real
//! samples with something wrong with them, since what is wrong throughout is
//! given up at its first byte. The other crates have this file among their tests, too.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// What means something to somebody: to a reader of lines, of fields, of JSON,
/// of paths, of numbers; to a terminal, a shell, a formatter.
const TOKENS: [&[u8]; 36] = [
    b"\n",
    b"\r\n",
    b"\0",
    b"\t",
    b" ",
    b"\x1b[2K",
    b"\x08",
    b"\x7f",
    b"\xff",
    b"\xed\xa0\x80",
    "\u{85}".as_bytes(),
    "\u{2028}".as_bytes(),
    "\u{202e}".as_bytes(),
    "\u{feff}".as_bytes(),
    "\u{1f4a5}".as_bytes(),
    "ä".as_bytes(),
    b"/",
    b"../",
    b".",
    b"-",
    b"_",
    b":",
    b"=",
    b",",
    b"\\",
    b"\"",
    b"'",
    b"{",
    b"}",
    b"[",
    b"]",
    b"%s%n",
    b"&a *a",
    b"18446744073709551616",
    b"1e999",
    b"[2026-11-22T19:31:02Z ERROR uploader] forged dump=x",
];

/// What may have gone wrong with a text.
#[derive(Clone, Debug)]
enum Change {
    Insert(Index, Vec<u8>),
    Overwrite(Index, Vec<u8>),
    Remove(Index, Index),
    Repeat(Index, u8, u16),
    Cut(Index),
}

impl Change {
    fn apply(&self, text: &mut Vec<u8>) {
        let at = |index: &Index| index.index(text.len() + 1);
        match self {
            Change::Insert(to, bytes) => drop(text.splice(at(to)..at(to), bytes.iter().copied())),
            Change::Overwrite(from, bytes) => {
                let (from, end) = (at(from), text.len().min(at(from) + bytes.len()));
                text.splice(from..end, bytes.iter().copied());
            }
            Change::Remove(one, other) => {
                let (one, other) = (at(one), at(other));
                text.drain(one.min(other)..one.max(other));
            }
            Change::Repeat(from, len, times) => {
                let (from, end) = (at(from), text.len().min(at(from) + usize::from(*len)));
                let piece = text[from..end].repeat(usize::from(*times));
                text.splice(from..from, piece);
            }
            Change::Cut(end) => text.truncate(at(end)),
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<Index>;
    prop_oneof![
        6 => (index(), bytes()).prop_map(|(to, bytes)| Change::Insert(to, bytes)),
        6 => (index(), bytes()).prop_map(|(from, bytes)| Change::Overwrite(from, bytes)),
        3 => (index(), index()).prop_map(|(one, other)| Change::Remove(one, other)),
        1 => (index(), 1u8..40, 1u16..500).prop_map(|(from, len, times)| Change::Repeat(from, len, times)),
        1 => index().prop_map(Change::Cut),
    ]
}

/// A few bytes.
pub fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        select(&TOKENS[..]).prop_map(<[u8]>::to_vec),
        vec(any::<u8>(), 0..8),
        "[a-zA-Z0-9.-]{0,12}".prop_map(String::into_bytes),
    ];
    vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

/// The same as a text.
pub fn text() -> impl Strategy<Value = String> {
    bytes().prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// One of `samples` with some changes; now and then nothing like it.
pub fn changed(samples: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let sample = prop_oneof![9 => select(samples), 1 => bytes()];
    (sample, vec(change(), 0..6)).prop_map(|(mut sample, changes)| {
        changes.iter().for_each(|change| change.apply(&mut sample));
        sample
    })
}
