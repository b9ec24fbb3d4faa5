//! What becomes of the core's blocks: deflate, block by block, or zstd, which
//! has threads of its own.

use std::io::{self, Write};

use zstd::stream::raw::CParameter;
use zstd::stream::write::Encoder as ZstdEncoder;

use crate::deflate;
use crate::pipeline::{BLOCK, Encode, Written};

/// Blocks of one deflate stream.
pub struct Deflate {
    encoder: deflate::Encoder,
    /// What a block of nothing becomes. The kernel writes every hole of a
    /// process's memory as zeros, and there is more of that than of anything.
    zeros: Vec<u8>,
}

impl Deflate {
    /// What ends the stream.
    pub const END: [u8; 2] = deflate::END;

    /// One thread's encoder.
    pub fn new() -> Deflate {
        let mut encoder = deflate::Encoder::new();
        let mut zeros = Vec::new();
        encoder.compress(&[0; BLOCK], &mut zeros);
        Deflate { encoder, zeros }
    }
}

impl Encode for Deflate {
    fn encode(&mut self, block: &[u8], out: &mut Vec<u8>) -> Written {
        match block.len() == BLOCK && is_zero(block) {
            true => out.extend_from_slice(&self.zeros),
            false => self.encoder.compress(block, out),
        }
        Written::Encoded
    }
}

/// Whether there is nothing but zeros. A quarter of a megabyte takes ten
/// microseconds, and what is not is mostly seen at once.
fn is_zero(block: &[u8]) -> bool {
    block.chunks(256).all(|chunk| chunk.iter().fold(0, |any, byte| any | byte) == 0)
}

/// A zstd frame that is compressed by several threads.
pub struct ZstdSink<W: Write>(ZstdEncoder<'static, W>);

/// The fastest level that is smaller than deflate.
const ZSTD_LEVEL: i32 = 1;
/// What a thread compresses at once: the least there is, since several of them
/// are in memory for each thread.
const ZSTD_JOB: u32 = 512 << 10;

/// A frame of nothing (RFC 8878, 3.1.1): its magic number, its size, a last and
/// empty block. libarchive sees the end of an entry only when there is room left
/// for more, and of every 32nd core (they consist of pages) the last bytes fill
/// its 128 KiB.
const NOTHING: [u8; 9] = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x00, 0x01, 0x00, 0x00];

impl<W: Write> ZstdSink<W> {
    /// Begins a frame.
    pub fn new(output: W, threads: usize) -> io::Result<ZstdSink<W>> {
        let mut encoder = ZstdEncoder::new(output, ZSTD_LEVEL)?;
        encoder.multithread(threads as u32)?;
        encoder.set_parameter(CParameter::JobSize(ZSTD_JOB))?;
        Ok(ZstdSink(encoder))
    }

    /// Ends it.
    pub fn finish(self) -> io::Result<()> {
        self.0.finish()?.write_all(&NOTHING)
    }
}

impl<W: Write> Write for ZstdSink<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
