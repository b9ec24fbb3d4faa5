//! A zstd frame (RFC 8878) as the composer writes it: of unknown length, without
//! a checksum, and behind it a frame of nothing.

use std::io;

use protocol::zip64::ZSTD_NOTHING;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::{Found, Input, Way};
use crate::dump::CHUNK;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The longest header of a frame (3.1.1).
const MAX_HEADER: usize = 18;
/// Last or not, type and size of a block (3.1.1.2).
const BLOCK_HEADER: usize = 3;
/// The most that is in one block (3.1.1.2.4).
const MAX_BLOCK: usize = 128 << 10;
/// What decoding may take of memory, as a power of two. Level 1 takes 19.
const WINDOW_LOG: u32 = 21;
/// A last block, raw and empty.
const LAST: [u8; BLOCK_HEADER] = [0x01, 0x00, 0x00];

/// How much of the stream is valid.
pub fn scan(input: &mut Input) -> io::Result<Found> {
    let ending = || [&LAST[..], &ZSTD_NOTHING].concat();
    let mut decoder = Decoder::new()?;
    decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
    let (mut way, mut out) = (Way::default(), vec![0; CHUNK]);
    let header = input.peek(MAX_HEADER)?;
    let Some(len) = header_len(header).filter(|len| *len <= header.len()) else {
        return Ok(way.damaged(ending()));
    };
    if decode(&mut decoder, &header[..len], &mut out, &mut way).is_err() {
        return Ok(way.damaged(ending()));
    }
    input.consume(len);
    loop {
        let next = input.peek(BLOCK_HEADER + MAX_BLOCK)?;
        let [a, b, c, ..] = *next else { return Ok(way.cut_short(ending())) };
        let head = u32::from_le_bytes([a, b, c, 0]);
        let (last, kind, size) = (head & 1 == 1, head >> 1 & 0b11, (head >> 3) as usize);
        let (len, verbatim) = match kind {
            0 => (size, true),
            1 => (1, true),
            2 => (size, false),
            _ => return Ok(way.damaged(ending())),
        };
        // Zeros are raw blocks of nothing, one after the other.
        if size > MAX_BLOCK || size == 0 && !last {
            return Ok(way.damaged(ending()));
        }
        let Some(block) = next.get(..BLOCK_HEADER + len) else { return Ok(way.cut_short(ending())) };
        if decode(&mut decoder, block, &mut out, &mut way).is_err() {
            return Ok(way.damaged(ending()));
        }
        input.consume(BLOCK_HEADER + len);
        way.block_ended(verbatim);
        if last {
            return Ok(match input.peek(ZSTD_NOTHING.len())?.starts_with(&ZSTD_NOTHING) {
                true => way.ended(&ZSTD_NOTHING),
                false => way.cut_short(ZSTD_NOTHING.to_vec()),
            });
        }
    }
}

/// How long the header of a frame is (3.1.1.1); `None` if it is none of ours.
fn header_len(bytes: &[u8]) -> Option<usize> {
    let (descriptor, _) = bytes.strip_prefix(&MAGIC)?.split_first()?;
    let single_segment = descriptor >> 5 & 1 == 1;
    let size = match (descriptor >> 6, single_segment) {
        (0, false) => 0,
        (0, true) => 1,
        (n, _) => 1 << n,
    };
    // No checksum, no dictionary.
    (descriptor & 0b1_1111 == 0).then_some(MAGIC.len() + 1 + usize::from(!single_segment) + size)
}

/// Decodes the next bytes of a frame, all of them.
fn decode(decoder: &mut Decoder, bytes: &[u8], out: &mut [u8], way: &mut Way) -> io::Result<()> {
    let mut input = InBuffer::around(bytes);
    loop {
        let mut output = OutBuffer::around(&mut *out);
        decoder.run(&mut input, &mut output)?;
        let wrote = output.pos();
        way.put(&out[..wrote]);
        if wrote < out.len() && input.pos() == bytes.len() {
            way.now.compressed += bytes.len() as u64;
            return Ok(());
        }
    }
}
