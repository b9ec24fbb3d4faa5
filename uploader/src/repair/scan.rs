//! How much of a core there is. Nothing is trusted: after a power cut any page of
//! the file may be zeros, or what was on the disk before.
//!
//! A stream is followed from block to block. It can be ended wherever a block
//! has ended with a byte, and everything up to there was valid.

mod deflate;
mod zstd;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crc32fast::Hasher;
use protocol::zip64::{Ended, Method};
use tokio_util::sync::CancellationToken;

use crate::dump::CHUNK;

/// What there is of a core.
#[derive(Debug)]
pub struct Found {
    /// How long it is.
    pub bytes: u64,
    /// Its CRC-32.
    pub crc32: u32,
    /// How long the valid part of its stream is.
    pub compressed: u64,
    /// What has to be written behind that; nothing if the stream has ended.
    pub ending: Vec<u8>,
}

impl Found {
    /// What there is to be known when the stream has its end.
    pub fn ended(&self) -> Ended {
        let compressed = self.compressed + self.ending.len() as u64;
        Ended { crc32: self.crc32, compressed, uncompressed: self.bytes }
    }
}

/// Reads the content of an entry, as far as it is valid.
///
/// # Errors
/// If the file cannot be read, or not any longer: see [`Input`].
pub fn scan(method: Method, mut input: Input) -> io::Result<Found> {
    match method {
        Method::Stored => stored(&mut input),
        Method::Deflated => deflate::scan(&mut input),
        Method::Zstd => zstd::scan(&mut input),
    }
}

/// All there is: zeros or garbage cannot be told from a core.
fn stored(input: &mut Input) -> io::Result<Found> {
    let mut way = Way::default();
    loop {
        let bytes = input.peek(CHUNK)?;
        if bytes.is_empty() {
            way.block_ended(true);
            return Ok(way.cut_short(vec![]));
        }
        let n = bytes.len();
        way.now.compressed += n as u64;
        way.put(bytes);
        input.consume(n);
    }
}

/// A stretch of a file, read with a look ahead, until it is over or we are told
/// to stop.
pub struct Input<'a> {
    file: &'a File,
    stop: &'a CancellationToken,
    /// What is read next, and where to end.
    at: u64,
    end: u64,
    read: Vec<u8>,
    used: usize,
}

impl<'a> Input<'a> {
    /// Reads `file` from `at` to `end`, or its own end.
    pub fn new(file: &'a File, at: u64, end: u64, stop: &'a CancellationToken) -> Input<'a> {
        Input { file, stop, at, end, read: Vec::new(), used: 0 }
    }

    /// What comes next: at least `n` bytes, unless that is all there is.
    fn peek(&mut self, n: usize) -> io::Result<&[u8]> {
        if self.read.len() - self.used < n {
            self.read.drain(..self.used);
            self.used = 0;
        }
        while self.read.len() - self.used < n {
            if self.stop.is_cancelled() {
                return Err(io::Error::other("the uploader is stopping"));
            }
            let old = self.read.len();
            let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
            self.read.resize(old + left.min(CHUNK), 0);
            let got = self.file.read_at(&mut self.read[old..], self.at)?;
            self.read.truncate(old + got);
            self.at += got as u64;
            if got == 0 {
                break;
            }
        }
        Ok(&self.read[self.used..])
    }

    fn consume(&mut self, n: usize) {
        self.used += n;
    }
}

/// A place in a stream, and what came out of it up to there.
#[derive(Clone, Default)]
struct Mark {
    compressed: u64,
    bytes: u64,
    crc: Hasher,
}

/// How far a stream has been followed.
#[derive(Default)]
struct Way {
    /// Where we are.
    now: Mark,
    /// The last place where the stream can be ended.
    good: Mark,
    /// The same if what follows is damaged. In a block that has its bytes
    /// verbatim zeros and garbage are valid: if the damage begins in it, it is
    /// the block after it that tells.
    safe: Mark,
}

impl Way {
    /// This came out.
    fn put(&mut self, bytes: &[u8]) {
        self.now.bytes += bytes.len() as u64;
        self.now.crc.update(bytes);
    }

    /// The stream can be ended here.
    fn block_ended(&mut self, verbatim: bool) {
        self.safe = if verbatim { self.good.clone() } else { self.now.clone() };
        self.good = self.now.clone();
    }

    /// The file ends before the stream does.
    fn cut_short(self, ending: Vec<u8>) -> Found {
        Found::at(self.good, ending)
    }

    /// What comes next is no stream of ours.
    fn damaged(self, ending: Vec<u8>) -> Found {
        Found::at(self.safe, ending)
    }

    /// The stream ends here, with these bytes.
    fn ended(mut self, end: &[u8]) -> Found {
        self.good.compressed += end.len() as u64;
        Found::at(self.good, vec![])
    }
}

impl Found {
    fn at(mark: Mark, ending: Vec<u8>) -> Found {
        Found { bytes: mark.bytes, crc32: mark.crc.finalize(), compressed: mark.compressed, ending }
    }
}
