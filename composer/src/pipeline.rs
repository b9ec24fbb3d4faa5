//! The core's way from the pipe to the file: read here, encoded by several
//! threads, written in order by one more.
//!
//! ```text
//!  pipe ─▶ read ─▶ full ─▶ encode ─▶ done ─▶ write, in order ─▶ file
//!           ▲              encode                  │
//!           └───────────────── free ◀──────────────┘
//! ```
//!
//! Blocks go round. How many there are bounds the memory, and how far reading
//! gets ahead; it waits for nothing else. What a thread makes of a block depends
//! on the block alone, so the file does not depend on who was quicker.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// What is encoded at once. Less would cost size, since every block begins
/// without a history; more, memory and, on small cores, threads with no work.
pub const BLOCK: usize = 256 << 10;

/// Makes of each block what is to be written.
pub trait Encode: Send {
    /// Appends to `out`, or says that the block is to be written as it is.
    fn encode(&mut self, block: &[u8], out: &mut Vec<u8>) -> Written;
}

/// What of a block is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Written {
    /// What it was encoded as.
    Encoded,
    /// Its own bytes.
    Verbatim,
}

/// Writes a block as it is.
pub struct Verbatim;

impl Encode for Verbatim {
    fn encode(&mut self, _: &[u8], _: &mut Vec<u8>) -> Written {
        Written::Verbatim
    }
}

/// What went through.
pub struct Total {
    /// Bytes that were read.
    pub bytes: u64,
    /// Their CRC-32.
    pub crc32: u32,
    /// When the last of them had been read, and `input` was dropped.
    pub released: Instant,
}

/// Copies `input` to its end, or until it is `unwanted`, and drops it at once:
/// somebody waits for that. `look` is shown all that is read, in order. Returns
/// `output` when all is written to it.
///
/// # Errors
/// If reading or writing fails. `input` is dropped then, too.
pub fn run<W: Write + Send>(
    input: impl Read,
    output: W,
    encoders: Vec<Box<dyn Encode>>,
    mut look: impl FnMut(&[u8]),
    unwanted: impl Fn() -> bool,
) -> io::Result<(Total, W)> {
    // One in each thread's hands, one waiting for each, and two for those who
    // read and write.
    let blocks = 2 * encoders.len() + 2;
    let (free, freed) = mpsc::channel();
    let (full, filled) = mpsc::channel();
    let (done, finished) = mpsc::channel();
    let filled = Mutex::new(filled);
    thread::scope(|scope| {
        for encoder in encoders {
            let (filled, done) = (&filled, done.clone());
            thread::Builder::new().spawn_scoped(scope, move || encode(encoder, filled, &done))?;
        }
        drop(done);
        let writer = thread::Builder::new().spawn_scoped(scope, move || write(&finished, &free, output))?;
        let read = read(input, blocks, &freed, &full, &mut look, &unwanted);
        let released = Instant::now();
        drop(full);
        let (crc32, output) =
            writer.join().unwrap_or_else(|_| Err(io::Error::other("the writer panicked")))?;
        Ok((Total { bytes: read?, crc32, released }, output))
    })
}

/// A piece of the core on its way.
struct Block {
    number: u64,
    data: Vec<u8>,
    /// How much of `data` is the core's.
    len: usize,
    out: Vec<u8>,
    /// `None`: the encoder panicked.
    written: Option<Written>,
    crc32: u32,
}

impl Block {
    fn new() -> Block {
        let data = vec![0; BLOCK];
        Block { number: 0, data, len: 0, out: Vec::new(), written: None, crc32: 0 }
    }
}

/// Returns how many bytes there were.
fn read(
    mut input: impl Read,
    most: usize,
    freed: &Receiver<Block>,
    full: &Sender<Block>,
    look: &mut impl FnMut(&[u8]),
    unwanted: &impl Fn() -> bool,
) -> io::Result<u64> {
    let (mut bytes, mut number, mut made) = (0, 0, 0);
    loop {
        // A small core gets by with few.
        let next = match freed.try_recv() {
            Ok(block) => Ok(block),
            Err(_) if made < most => {
                made += 1;
                Ok(Block::new())
            }
            Err(_) => freed.recv(),
        };
        // Nobody to give it back: writing failed, and says why.
        let Ok(mut block) = next else { return Ok(bytes) };
        (block.len, block.number) = (0, number);
        let mut over = false;
        while block.len < BLOCK && !over {
            match input.read(&mut block.data[block.len..]) {
                Ok(0) => over = true,
                Ok(n) => {
                    look(&block.data[block.len..block.len + n]);
                    block.len += n;
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
            over |= unwanted();
        }
        bytes += block.len as u64;
        number += 1;
        let sent = block.len == 0 || full.send(block).is_ok();
        if over || !sent {
            return Ok(bytes);
        }
    }
}

fn encode(mut encoder: Box<dyn Encode>, filled: &Mutex<Receiver<Block>>, done: &Sender<Block>) {
    loop {
        let next = filled.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut block) = next else { return };
        block.out.clear();
        let data = &block.data[..block.len];
        block.crc32 = crc32fast::hash(data);
        // Without it the others would wait for this block for ever.
        block.written = panic::catch_unwind(AssertUnwindSafe(|| encoder.encode(data, &mut block.out))).ok();
        if done.send(block).is_err() {
            return;
        }
    }
}

/// Returns the CRC-32 of what was written.
fn write<W: Write>(finished: &Receiver<Block>, free: &Sender<Block>, mut output: W) -> io::Result<(u32, W)> {
    let (mut crc, mut next) = (crc32fast::Hasher::new(), 0);
    let mut early = BTreeMap::new();
    for block in finished {
        early.insert(block.number, block);
        while let Some(block) = early.remove(&next) {
            let written = block.written.ok_or_else(|| io::Error::other("an encoder panicked"))?;
            output.write_all(match written {
                Written::Encoded => &block.out,
                Written::Verbatim => &block.data[..block.len],
            })?;
            crc.combine(&crc32fast::Hasher::new_with_initial_len(block.crc32, block.len as u64));
            next += 1;
            // Whoever reads may be done already.
            let _ = free.send(block);
        }
    }
    Ok((crc.finalize(), output))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives `data` in pieces of these sizes, round and round.
    struct Pieces<'a>(&'a [u8], std::iter::Cycle<std::vec::IntoIter<usize>>);

    impl Read for Pieces<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = self.1.next().unwrap_or(1).min(buf.len()).max(1);
            self.0.read(&mut buf[..n])
        }
    }

    /// Writes each block's length before it; slower for some than for others.
    struct Framed;

    impl Encode for Framed {
        fn encode(&mut self, block: &[u8], out: &mut Vec<u8>) -> Written {
            if block[0].is_multiple_of(2) {
                thread::yield_now();
            }
            out.extend((block.len() as u64).to_le_bytes());
            out.extend_from_slice(block);
            Written::Encoded
        }
    }

    fn framed(data: &[u8]) -> Vec<u8> {
        let frame = |block: &[u8]| [&(block.len() as u64).to_le_bytes()[..], block].concat();
        data.chunks(BLOCK).flat_map(frame).collect()
    }

    fn encoders(threads: usize) -> Vec<Box<dyn Encode>> {
        (0..threads).map(|_| Box::new(Framed) as Box<dyn Encode>).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn blocks_are_written_in_order_whoever_is_quicker(
            len in 0..8 * BLOCK,
            pieces in proptest::collection::vec(1..BLOCK, 1..5),
            threads in 1usize..8,
        ) {
            let data: Vec<u8> = (0..len).map(|i| (i / 997) as u8).collect();
            let mut seen = 0;
            let input = Pieces(&data, pieces.into_iter().cycle());
            let (total, out) =
                run(input, Vec::new(), encoders(threads), |piece| seen += piece.len(), || false).unwrap();
            prop_assert!(out == framed(&data));
            prop_assert_eq!((total.bytes, seen), (len as u64, len));
            prop_assert_eq!(total.crc32, crc32fast::hash(&data));
        }
    }

    #[test]
    fn what_is_unwanted_ends_at_once() {
        let asked = std::cell::Cell::new(0);
        let unwanted = || asked.replace(asked.get() + 1) == 9;
        let (total, _) = run(io::repeat(7), io::sink(), encoders(2), |_| {}, unwanted).unwrap();
        assert_eq!(total.bytes, 10 * BLOCK as u64);
    }

    #[test]
    fn an_output_that_fails_ends_the_reading() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(buf.len()).ok_or(io::ErrorKind::StorageFull)?;
                Ok(buf.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let failed = run(io::repeat(7), Full(10 * BLOCK), encoders(3), |_| {}, || false).err().unwrap();
        assert_eq!(failed.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn an_input_that_fails_is_an_error() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let failed = run(Broken, Vec::new(), encoders(2), |_| {}, || false).err().unwrap();
        assert_eq!(failed.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_thread_that_panics_is_an_error_and_no_hole() {
        struct Panics;
        impl Encode for Panics {
            fn encode(&mut self, block: &[u8], _: &mut Vec<u8>) -> Written {
                assert_ne!(block[0], 1, "as it was told to");
                Written::Verbatim
            }
        }
        let mut data = vec![0; 20 * BLOCK];
        data[5 * BLOCK] = 1;
        let encoders: Vec<Box<dyn Encode>> = vec![Box::new(Panics), Box::new(Panics)];
        let failed = run(&*data, Vec::new(), encoders, |_| {}, || false).err().unwrap();
        assert_eq!(failed.to_string(), "an encoder panicked");
    }
}
