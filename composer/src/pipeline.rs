//! The core's way from the pipe to the file: read here, encoded by several
//! threads, written in order by one more.
//!
//! ```text
//!  pipe ─▶ read ─▶ waiting ─▶ encode ─▶ done ─▶ write, in order ─▶ file
//!           ▲         │       encode                  │
//!           │       spill                             │
//!           └───────────────── free ◀─────────────────┘
//! ```
//!
//! Blocks go round. How many there are bounds the memory. When all of them are
//! in use, what is read waits in the [`Spill`] instead; and when that is full,
//! too, reading waits, and with it the crashed process. What a thread makes of a
//! block depends on the block alone, so the file does not depend on who was
//! quicker.

mod belt;
mod spill;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Instant;

use crate::priority;
use belt::{Belt, Block};

pub use spill::Spill;

/// What is encoded at once. Less would cost size, since every block begins
/// without a history; more, memory and, on small cores, threads with no work.
pub const BLOCK: usize = 256 << 10;
/// When the disk is full, so much of what was written is given up, for what is
/// said about the core to have room.
const RESERVE: u64 = 4 << 20;

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

/// Who says when to end before the end.
pub struct Limits<U, E> {
    /// Asked while reading and writing: whether all of it is for nothing.
    pub unwanted: U,
    /// Asked before so many bytes are written: whether, and why, they may not be.
    pub enough: E,
}

/// What went through: whole blocks.
pub struct Total<S> {
    /// Bytes of the input.
    pub bytes: u64,
    /// Their CRC-32.
    pub crc32: u32,
    /// Bytes of the output. If it failed, there may be more in it.
    pub written: u64,
    /// When the last byte had been read, and the input was dropped.
    pub released: Instant,
    /// Why there is no more, if it is not because the input ended.
    pub stopped: Option<Stop<S>>,
}

/// Why a copy ends before its end.
#[derive(Debug)]
pub enum Stop<S> {
    /// As [`Limits::enough`] says.
    Enough(S),
    /// The input could not be read.
    Input(io::Error),
    /// The output could not be written, or not be made.
    Output(io::Error),
}

/// Copies `input` to its end, unless something is in the way, and drops it at
/// once: somebody waits for that. `look` is shown all that is read, in order.
/// Returns when all is written to `output`.
///
/// # Errors
/// If no threads can be had, or it turns out to be unwanted.
pub fn run<S: Send>(
    input: impl Read,
    output: impl Write + Send,
    encoders: Vec<Box<dyn Encode>>,
    spill: Option<Spill>,
    mut look: impl FnMut(&[u8]),
    limits: Limits<impl Fn() -> bool + Sync, impl FnMut(u64) -> Option<S> + Send>,
) -> io::Result<Total<S>> {
    let Limits { unwanted, enough } = limits;
    // One in each thread's hands, one waiting for each, and two for those who
    // read and write.
    let belt = Belt::new(2 * encoders.len() + 2, spill);
    let (done, finished) = mpsc::channel();
    thread::scope(|scope| {
        // However this ends, nobody may wait for ever.
        let end = Finally(&belt, Belt::end);
        let mut threads = 0;
        let mut refused = None;
        for encoder in encoders {
            let (belt, done) = (&belt, done.clone());
            match thread::Builder::new().spawn_scoped(scope, move || encode(encoder, belt, &done)) {
                Ok(_) => threads += 1,
                Err(err) => refused = Some(err),
            }
        }
        drop(done);
        // One does, if need be.
        if let Some(err) = refused.filter(|_| threads == 0) {
            return Err(err);
        }
        let stop = Finally(&belt, Belt::stop);
        let unwanted = &unwanted;
        let writing = move || write(&finished, stop, output, unwanted, enough);
        let writer = thread::Builder::new().spawn_scoped(scope, writing)?;
        let (read, released) = read(input, &belt, &mut look, unwanted);
        drop(end);
        let (mark, stopped) = writer.join().map_err(|_| io::Error::other("the writer panicked"))??;
        let stopped = stopped.or_else(|| read.err().map(Stop::Input));
        Ok(Total { bytes: mark.bytes, crc32: mark.crc.finalize(), written: mark.written, released, stopped })
    })
}

/// Ends or stops the belt, also in a panic.
struct Finally<'a>(&'a Belt, fn(&Belt));

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        self.1(self.0);
    }
}

/// Returns when the input was dropped.
fn read(
    mut input: impl Read,
    belt: &Belt,
    look: &mut impl FnMut(&[u8]),
    unwanted: &impl Fn() -> bool,
) -> (io::Result<()>, Instant) {
    let (mut next, mut number) = (belt.first(), 0);
    let mut read = Ok(());
    while let Some(mut block) = next {
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
                Err(err) => (over, read) = (true, Err(err)),
            }
            over |= unwanted();
        }
        if over {
            // Before the last block has found its place: that may take a while.
            drop(input);
            let released = Instant::now();
            if block.len > 0 {
                belt.put(block);
            }
            return (read, released);
        }
        next = belt.put(block);
        number += 1;
    }
    drop(input);
    (read, Instant::now())
}

fn encode(mut encoder: Box<dyn Encode>, belt: &Belt, done: &Sender<Block>) {
    priority::lower();
    while let Some(mut block) = belt.take() {
        block.out.clear();
        let data = &block.data[..block.len];
        block.crc32 = crc32fast::hash(data);
        if block.written.is_ok() {
            // Without the guard the others would wait for this block for ever.
            let encode = AssertUnwindSafe(|| encoder.encode(data, &mut block.out));
            block.written = panic::catch_unwind(encode).map_err(|_| io::Error::other("an encoder panicked"));
        }
        if done.send(block).is_err() {
            return;
        }
    }
}

/// How far it has come.
#[derive(Clone, Default)]
struct Mark {
    bytes: u64,
    written: u64,
    crc: crc32fast::Hasher,
}

/// Returns what was written, and why there is no more.
///
/// # Errors
/// If it is unwanted.
fn write<S>(
    finished: &Receiver<Block>,
    stop: Finally,
    mut output: impl Write,
    unwanted: &impl Fn() -> bool,
    mut enough: impl FnMut(u64) -> Option<S>,
) -> io::Result<(Mark, Option<Stop<S>>)> {
    priority::lower();
    // The newest, and of those before it what a full disk may send us back to.
    let mut marks = VecDeque::from([Mark::default()]);
    let mut early = BTreeMap::new();
    let mut next = 0;
    for block in finished {
        early.insert(block.number, block);
        while let Some(block) = early.remove(&next) {
            let mut mark = marks.back().cloned().unwrap_or_default();
            if unwanted() {
                return Err(io::Error::other("nobody wants it"));
            }
            match write_block(&block, &mut output, &mut enough) {
                Ok(written) => mark.written += written,
                Err(stopped) => return Ok((last_good(&marks, &stopped), Some(stopped))),
            }
            mark.bytes += block.len as u64;
            mark.crc.combine(&crc32fast::Hasher::new_with_initial_len(block.crc32, block.len as u64));
            while marks.get(1).is_some_and(|second| second.written + RESERVE <= mark.written) {
                marks.pop_front();
            }
            marks.push_back(mark);
            next += 1;
            stop.0.give_back(block);
        }
    }
    Ok((marks.pop_back().unwrap_or_default(), None))
}

/// Returns how many bytes it takes.
fn write_block<S>(
    block: &Block,
    output: &mut impl Write,
    enough: &mut impl FnMut(u64) -> Option<S>,
) -> Result<u64, Stop<S>> {
    let bytes = match &block.written {
        Ok(Written::Encoded) => &block.out,
        Ok(Written::Verbatim) => &block.data[..block.len],
        Err(err) => return Err(Stop::Output(io::Error::new(err.kind(), err.to_string()))),
    };
    if let Some(why) = enough(bytes.len() as u64) {
        return Err(Stop::Enough(why));
    }
    output.write_all(bytes).map_err(Stop::Output)?;
    Ok(bytes.len() as u64)
}

fn last_good<S>(marks: &VecDeque<Mark>, stopped: &Stop<S>) -> Mark {
    let mark = match stopped {
        Stop::Output(err) if is_disk_full(err) => marks.front(),
        _ => marks.back(),
    };
    mark.cloned().unwrap_or_default()
}

/// Whether it is because there is no room, for anyone or for us.
pub fn is_disk_full(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether there is nothing but zeros. A quarter of a megabyte takes ten
/// microseconds, and what is not is mostly seen at once.
pub fn is_zero(block: &[u8]) -> bool {
    block.chunks(256).all(|chunk| chunk.iter().fold(0, |any, byte| any | byte) == 0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

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

    fn spill(slots: u32) -> Option<Spill> {
        Some(Spill::new(&std::env::temp_dir(), u64::from(slots) * BLOCK as u64).unwrap())
    }

    type NoLimits = Limits<fn() -> bool, fn(u64) -> Option<()>>;

    fn all() -> NoLimits {
        Limits { unwanted: || false, enough: |_| None }
    }

    /// Some blocks are zeros.
    fn data(len: usize) -> Vec<u8> {
        (0..len).map(|i| if i / BLOCK % 3 == 1 { 0 } else { (i / 997) as u8 }).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn blocks_are_written_in_order_whoever_is_quicker(
            len in 0..12 * BLOCK,
            pieces in proptest::collection::vec(1..BLOCK, 1..5),
            threads in 1usize..8,
            slots in 0..10u32,
        ) {
            let data = data(len);
            let (mut out, mut seen) = (Vec::new(), 0);
            let input = Pieces(&data, pieces.into_iter().cycle());
            let look = |piece: &[u8]| seen += piece.len();
            let total = run(input, &mut out, encoders(threads), spill(slots), look, all()).unwrap();
            prop_assert!(out == framed(&data));
            prop_assert_eq!((total.bytes, seen), (len as u64, len));
            prop_assert_eq!(total.written, out.len() as u64);
            prop_assert_eq!(total.crc32, crc32fast::hash(&data));
            prop_assert!(total.stopped.is_none());
        }
    }

    #[test]
    fn who_reads_does_not_wait_for_who_writes() {
        struct Tells<'a>(&'a [u8], #[expect(dead_code, reason = "its end is what tells")] Sender<()>);
        impl Read for Tells<'_> {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.0.read(buf)
            }
        }
        /// Writes nothing before the input is dropped.
        struct Waits<'a>(Receiver<()>, &'a mut Vec<u8>);
        impl Write for Waits<'_> {
            fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
                assert!(self.0.recv().is_err());
                self.1.write(buf)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let data = data(30 * BLOCK);
        let (tell, told) = mpsc::channel();
        let mut out = Vec::new();
        let output = Waits(told, &mut out);
        let total = run(Tells(&data, tell), output, encoders(2), spill(30), |_| {}, all()).unwrap();
        assert_eq!(total.bytes, data.len() as u64);
        assert!(out == framed(&data));
    }

    #[test]
    fn what_is_unwanted_ends_at_once() {
        let asked = AtomicUsize::new(0);
        let limits =
            Limits { unwanted: || asked.fetch_add(1, Ordering::Relaxed) >= 9, enough: |_| None::<()> };
        let mut out = Vec::new();
        assert!(run(io::repeat(7), &mut out, encoders(2), spill(9), |_| {}, limits).is_err());
        assert!(out.len() < framed(&[7; 9 * BLOCK]).len());

        // Also if that is known when all has been read.
        let asked = AtomicUsize::new(0);
        let limits =
            Limits { unwanted: || asked.fetch_add(1, Ordering::Relaxed) >= 25, enough: |_| None::<()> };
        let data = data(20 * BLOCK);
        let mut out = Vec::new();
        assert!(run(&*data, &mut out, encoders(2), spill(30), |_| {}, limits).is_err());
        assert!(out.len() < framed(&data).len());
    }

    #[test]
    fn what_is_enough_is_whole_blocks() {
        let mut asked = 0;
        let enough = |bytes| {
            asked += 1;
            (asked > 7).then_some(bytes)
        };
        let limits = Limits { unwanted: || false, enough };
        let mut out = Vec::new();
        let total = run(io::repeat(7), &mut out, encoders(2), spill(3), |_| {}, limits).unwrap();
        assert!(out == framed(&vec![7; 7 * BLOCK]));
        assert_eq!((total.bytes, total.written), (7 * BLOCK as u64, out.len() as u64));
        assert_eq!(total.crc32, crc32fast::hash(&vec![7; 7 * BLOCK]));
        assert!(matches!(total.stopped, Some(Stop::Enough(bytes)) if bytes == BLOCK as u64 + 8));
    }

    /// Has room for so many bytes.
    struct Full(usize, io::ErrorKind);

    impl Write for Full {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(buf.len()).ok_or(self.1)?;
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_fails_ends_the_reading_and_a_full_one_is_given_room() {
        let blocks = 40;
        let room = blocks * (BLOCK + 8) + 1;
        for (kind, lost) in [(io::ErrorKind::StorageFull, RESERVE), (io::ErrorKind::TimedOut, 0)] {
            let full = Full(room, kind);
            let total = run(io::repeat(7), full, encoders(3), spill(5), |_| {}, all()).unwrap();
            let stopped = total.stopped.unwrap();
            assert!(matches!(&stopped, Stop::Output(err) if err.kind() == kind), "{stopped:?}");
            let frame = BLOCK as u64 + 8;
            assert_eq!(total.written % frame, 0);
            assert_eq!(total.written, (blocks as u64 - lost.div_ceil(frame)) * frame);
            assert_eq!(total.bytes, total.written / frame * BLOCK as u64);
            assert_eq!(total.crc32, crc32fast::hash(&vec![7; total.bytes as usize]));
        }
    }

    #[test]
    fn what_was_read_of_an_input_that_fails_is_written() {
        struct Broken(usize);
        impl Read for Broken {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::BrokenPipe)?;
                Ok(buf.len().min(1024))
            }
        }
        let mut out = Vec::new();
        let total = run(Broken(500), &mut out, encoders(2), None, |_| {}, all()).unwrap();
        assert!(matches!(total.stopped, Some(Stop::Input(_))));
        assert_eq!(total.bytes, 500 << 10);
        assert_eq!(out.len(), (500 << 10) + 8 * 2);
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
        let mut out = Vec::new();
        let total = run(&*data, &mut out, encoders, None, |_| {}, all()).unwrap();
        assert_eq!((total.bytes, out.len()), (5 * BLOCK as u64, 5 * BLOCK));
        let Some(Stop::Output(err)) = total.stopped else { panic!("it stopped") };
        assert_eq!(err.to_string(), "an encoder panicked");
    }
}
