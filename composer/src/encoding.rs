//! What becomes of the core's blocks: deflate, block by block, or zstd, which
//! has threads of its own.

use std::io::{self, Write};

use protocol::zip64::ZSTD_NOTHING;
use zstd::stream::raw::CParameter;
use zstd::stream::write::Encoder as ZstdEncoder;

use crate::deflate;
use crate::pipeline::{BLOCK, Encode, Written, is_zero};

/// Blocks of one deflate stream.
pub struct Deflate {
    encoder: deflate::Encoder,
    /// What a block of nothing becomes. The kernel writes every hole of a
    /// process's memory as zeros, and there is more of that than of anything.
    zeros: Vec<u8>,
}

impl Deflate {
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
            false => self.compress(block, out),
        }
        Written::Encoded
    }
}

impl Deflate {
    /// Compresses what gets smaller, and stores what does not: trying takes
    /// longer than anything else.
    fn compress(&mut self, block: &[u8], out: &mut Vec<u8>) {
        let mut rest = block;
        while !rest.is_empty() {
            let (run, is_noise) = next_run(rest);
            let (now, later) = rest.split_at(run);
            match is_noise {
                true => store(now, out),
                false => self.encoder.compress(now, out),
            }
            rest = later;
        }
    }
}

/// What is judged at once, and what a program's memory consists of.
const PAGE: usize = 4096;
/// So many pages of noise are worth a border in what is compressed.
const RUN: usize = 4;

/// The bytes that are of a kind from the beginning, and whether they are noise.
fn next_run(bytes: &[u8]) -> (usize, bool) {
    let pages = || bytes.chunks(PAGE);
    let noise = pages().take_while(|page| is_noise(page)).count();
    if noise >= RUN {
        return ((noise * PAGE).min(bytes.len()), true);
    }
    let mut noisy = 0;
    for (n, page) in pages().enumerate() {
        noisy = if is_noise(page) { noisy + 1 } else { 0 };
        if noisy == RUN {
            return ((n + 1 - RUN) * PAGE, false);
        }
    }
    (bytes.len(), false)
}

/// Whether a page will not get any smaller, by 256 bytes of it. Those of noise
/// are different: on average, 128 pairs of them are the same; of text or numbers
/// thousands are. The first 32 settle most cases.
fn is_noise(page: &[u8]) -> bool {
    if page.len() < PAGE {
        return false;
    }
    let pairs = |step: usize, samples: usize| {
        let mut seen = [0u8; 256];
        let mut pairs = 0;
        for byte in page.iter().step_by(step).take(samples) {
            let seen = &mut seen[usize::from(*byte)];
            pairs += u32::from(*seen);
            *seen = seen.saturating_add(1);
        }
        pairs
    };
    pairs(127, 32) < 8 && pairs(15, 256) < 200
}

/// Appends stored blocks (RFC 1951, 3.2.4), which begin and end with a byte.
fn store(bytes: &[u8], out: &mut Vec<u8>) {
    for piece in bytes.chunks(usize::from(u16::MAX)) {
        let len = piece.len() as u16;
        out.push(0);
        out.extend(len.to_le_bytes());
        out.extend((!len).to_le_bytes());
        out.extend_from_slice(piece);
    }
}

/// A zstd frame that is compressed by several threads.
pub struct ZstdSink<W: Write>(ZstdEncoder<'static, W>);

/// The fastest level that is smaller than deflate.
const ZSTD_LEVEL: i32 = 1;
/// What a thread compresses at once: the least there is, since several of them
/// are in memory for each thread.
const ZSTD_JOB: u32 = 512 << 10;

impl<W: Write> ZstdSink<W> {
    /// Begins a frame.
    pub fn new(output: W, threads: usize) -> io::Result<ZstdSink<W>> {
        let mut encoder = ZstdEncoder::new(output, ZSTD_LEVEL)?;
        encoder.multithread(threads as u32)?;
        encoder.set_parameter(CParameter::JobSize(ZSTD_JOB))?;
        Ok(ZstdSink(encoder))
    }

    /// At most so many bytes are in it, and not yet in the output: jobs that wait,
    /// run or are done, twice as many as may run (`ZSTDMT_createCCtx_advanced`
    /// in zstdmt_compress.c), and as much that is not a job yet.
    pub fn holds_back(threads: usize) -> u64 {
        3 * (threads as u64 + 2) * u64::from(ZSTD_JOB)
    }

    /// Ends it.
    pub fn finish(self) -> io::Result<()> {
        self.0.finish()?.write_all(&ZSTD_NOTHING)
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

#[cfg(test)]
mod tests {
    use flate2::{Decompress, FlushDecompress, Status};
    use proptest::prelude::*;
    use protocol::zip64::DEFLATE_END;

    use super::*;
    use crate::pipeline::{self, Limits};

    fn deflated(data: &[u8], threads: usize) -> Vec<u8> {
        let encoders = (0..threads).map(|_| Box::new(Deflate::new()) as Box<dyn Encode>).collect();
        let limits = Limits { unwanted: || false, enough: |_| None::<()> };
        let mut out = Vec::new();
        pipeline::run(data, &mut out, encoders, None, |_| {}, limits).unwrap();
        out.extend(DEFLATE_END);
        out
    }

    fn inflated(stream: &[u8], len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 1);
        let ended = Decompress::new(false).decompress_vec(stream, &mut out, FlushDecompress::Finish);
        assert_eq!(ended.unwrap(), Status::StreamEnd);
        out
    }

    /// Blocks and pieces of blocks, of zeros, noise and text.
    fn mixtures() -> impl Strategy<Value = Vec<u8>> {
        let len = prop_oneof![Just(BLOCK), Just(BLOCK - 1), Just(BLOCK + 1), 0..BLOCK];
        let piece = (0..3u8, len, any::<u64>()).prop_map(|(kind, len, seed)| -> Vec<u8> {
            let noise = |i: usize| (seed ^ i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 31;
            match kind {
                0 => vec![0; len],
                1 => (0..len).map(|i| noise(i) as u8).collect(),
                _ => b"connection refused by upstream ".iter().copied().cycle().take(len).collect(),
            }
        });
        proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn whatever_goes_in_comes_out_however_many_threads_there_are(data in mixtures(), threads in 1..=8usize) {
            prop_assert!(inflated(&deflated(&data, threads), data.len()) == data);
        }
    }

    /// As a program's random numbers are.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn noise_is_stored_and_the_rest_is_not() {
        let noise = noise(100 * PAGE);
        assert!(noise.chunks(PAGE).filter(|page| is_noise(page)).count() > 95);
        assert!(!is_noise(&noise[..PAGE - 1]) && !is_noise(&[0; PAGE]));
        let text = b"GET /api/v1/items HTTP/1.1 ".repeat(1000);
        let numbers: Vec<u8> =
            (0..PAGE as u64).flat_map(|n| (0x7f00_dead_0000 + n * 24).to_le_bytes()).collect();
        assert!(!text.chunks(PAGE).chain(numbers.chunks(PAGE)).any(is_noise));

        let out = deflated(&noise, 1);
        assert!(out.len() < noise.len() + 500, "{}", out.len());
        let mixed = [&text[..3 * PAGE], &noise[..RUN * PAGE], &text[..PAGE], &noise[..PAGE]].concat();
        assert_eq!(next_run(&mixed), (3 * PAGE, false));
        assert_eq!(next_run(&mixed[3 * PAGE..]), (RUN * PAGE, true));
        assert_eq!(next_run(&mixed[(3 + RUN) * PAGE..]), (2 * PAGE, false), "one page is not worth a border");
        assert!(inflated(&deflated(&mixed, 1), mixed.len()) == mixed);
    }

    #[test]
    fn holes_cost_next_to_nothing() {
        let out = deflated(&vec![0; 100 * BLOCK], 2);
        assert!(out.len() < 100 * 1500, "{}", out.len());
        assert!(is_zero(&[0; BLOCK]));
        for at in [0, 1, 255, 256, BLOCK - 1] {
            let mut block = [0; BLOCK];
            block[at] = 1;
            assert!(!is_zero(&block), "{at}");
        }
    }
}
