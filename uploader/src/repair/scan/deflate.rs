//! A deflate stream (RFC 1951) as the composer writes it: blocks that are joined
//! by sync flushes, and stored blocks. Elsewhere blocks end in the middle of a
//! byte, which is no place to end the stream at.

use std::io;

use protocol::zip64::DEFLATE_END;
use zlib_rs::{Inflate, InflateFlush, Status};

use super::{Found, Input, Way};
use crate::dump::CHUNK;

/// Room for more than comes out of one block: the composer puts 256 KiB into it.
const ROOM: usize = 512 << 10;
/// Length of an empty stored block, and its complement (3.2.4). That is what a
/// sync flush is, but for the type in the bits before; and then a byte begins.
const FLUSH: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// What a stored block begins with, where a byte begins: type, length, complement.
const STORED: usize = 5;
/// The largest there is (2).
const WINDOW_BITS: u8 = 15;

/// What the way to the next place to end at led to.
enum Next {
    /// To one.
    Place,
    /// To the end of the file.
    End,
    /// To something that is no stream of ours.
    Damage,
}

/// How much of the stream is valid.
pub fn scan(input: &mut Input) -> io::Result<Found> {
    let (inflate, out) = (Inflate::new(false, WINDOW_BITS), vec![0; ROOM]);
    let mut stream = Stream { inflate, out, way: Way::default() };
    loop {
        let next = match input.peek(STORED)? {
            [] => Next::End,
            [first, second, ..] if [*first, *second] == DEFLATE_END => {
                return Ok(stream.way.ended(&DEFLATE_END));
            }
            // Not the last one, and stored: 3.2.3.
            [first, ..] if first & 0b111 == 0 => stream.stored(input)?,
            _ => stream.coded(input)?,
        };
        match next {
            Next::Place => {}
            Next::End => return Ok(stream.way.cut_short(DEFLATE_END.to_vec())),
            Next::Damage => return Ok(stream.way.damaged(DEFLATE_END.to_vec())),
        }
    }
}

struct Stream {
    inflate: Inflate,
    out: Vec<u8>,
    way: Way,
}

impl Stream {
    /// Follows a stored block, which begins here with a byte, and so ends with
    /// one. Of a core that does not get any smaller there is nothing else.
    fn stored(&mut self, input: &mut Input) -> io::Result<Next> {
        let next = input.peek(STORED + usize::from(u16::MAX))?;
        let [_, a, b, c, d, ..] = *next else { return Ok(Next::End) };
        let len = u16::from_le_bytes([a, b]);
        if len != !u16::from_le_bytes([c, d]) {
            return Ok(Next::Damage);
        }
        let whole = STORED + usize::from(len);
        let Some(block) = next.get(..whole) else { return Ok(Next::End) };
        let mut used = 0;
        while used < whole {
            match self.step(&block[used..]) {
                Some((read, _)) => used += read,
                None => return Ok(Next::Damage),
            }
        }
        input.consume(whole);
        self.way.block_ended(len > 0);
        Ok(Next::Place)
    }

    /// Follows blocks to the next sync flush.
    fn coded(&mut self, input: &mut Input) -> io::Result<Next> {
        let mut block_began = self.way.now.bytes;
        loop {
            let next = input.peek(CHUNK)?;
            let flushed =
                next.windows(FLUSH.len()).position(|bytes| bytes == FLUSH).map(|at| at + FLUSH.len());
            // That a block has ended shows only if there is more to read. So one
            // byte behind a flush is read with it; and if there is none in sight,
            // the last bytes are not, with which one may begin.
            let (len, is_all) = match flushed {
                Some(flushed) if flushed < next.len() => (flushed + 1, false),
                _ if next.len() < CHUNK => (next.len(), true),
                _ => (next.len() - 2 * FLUSH.len(), false),
            };
            let mut used = 0;
            while used < len {
                let Some((read, wrote)) = self.step(&next[used..len]) else { return Ok(Next::Damage) };
                used += read;
                if used < len && wrote < self.out.len() {
                    // The end of a block, and if it was an empty one behind those
                    // four bytes, a sync flush.
                    if Some(used) == flushed && self.way.now.bytes == block_began {
                        input.consume(used);
                        self.way.block_ended(false);
                        return Ok(Next::Place);
                    }
                    block_began = self.way.now.bytes;
                }
            }
            if is_all {
                return Ok(self.at_the_end());
            }
            input.consume(len);
        }
    }

    /// The file may end with a sync flush, behind which there is nothing. If the
    /// stream can be ended here, it does.
    fn at_the_end(&mut self) -> Next {
        let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
        let ended = self.inflate.decompress(&DEFLATE_END, &mut self.out, InflateFlush::NoFlush);
        let read_it = self.inflate.total_in() - before_in == DEFLATE_END.len() as u64;
        if ended == Ok(Status::StreamEnd) && read_it && self.inflate.total_out() == before_out {
            self.way.block_ended(false);
        }
        Next::End
    }

    /// Inflates up to the end of a block, of `bytes`, or of the room there is.
    /// Returns how much was read and written; `None` if it is invalid, or if the
    /// stream ends, which it may not do here.
    fn step(&mut self, bytes: &[u8]) -> Option<(usize, usize)> {
        let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
        let result = self.inflate.decompress(bytes, &mut self.out, InflateFlush::Block);
        let read = (self.inflate.total_in() - before_in) as usize;
        let wrote = (self.inflate.total_out() - before_out) as usize;
        self.way.now.compressed += read as u64;
        self.way.put(&self.out[..wrote]);
        match result {
            Ok(Status::Ok) => Some((read, wrote)),
            // Neither read nor written: it will not get any further.
            Ok(Status::BufError | Status::StreamEnd) | Err(_) => None,
        }
    }
}
