//! What goes from thread to thread: blocks, full and empty.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::spill::Spill;
use super::{BLOCK, Written};

/// What of the core may be known and not yet encoded, in blocks: 16 GiB of holes.
const MOST_WAITING: usize = 64 << 10;

/// A piece of the core on its way.
pub struct Block {
    /// How many there are before it.
    pub number: u64,
    pub data: Vec<u8>,
    /// How much of `data` is the core's.
    pub len: usize,
    /// What it is encoded as.
    pub out: Vec<u8>,
    pub written: io::Result<Written>,
    pub crc32: u32,
}

impl Block {
    fn new() -> Block {
        let data = vec![0; BLOCK];
        Block { number: 0, data, len: 0, out: Vec::new(), written: Ok(Written::Verbatim), crc32: 0 }
    }
}

/// What waits to be encoded.
enum Waiting {
    Here(Block),
    Away {
        number: u64,
        len: usize,
        /// Where in the spill. `None`: it consists of zeros.
        slot: Option<u32>,
    },
}

/// Where the threads meet.
pub struct Belt {
    state: Mutex<State>,
    changed: Condvar,
    spill: Option<Spill>,
}

struct State {
    waiting: VecDeque<Waiting>,
    /// How many of those are away.
    away: usize,
    /// Blocks without content, and how many there may be besides.
    free: Vec<Block>,
    unmade: usize,
    /// The same of the spill's slots.
    free_slots: Vec<u32>,
    unused_slots: Range<u32>,
    /// Nothing more will be read.
    is_over: bool,
    /// Nothing more will be written.
    is_stopped: bool,
}

impl State {
    /// A block without content. A small core gets by with few.
    fn block(&mut self) -> Option<Block> {
        self.free.pop().or_else(|| {
            self.unmade = self.unmade.checked_sub(1)?;
            Some(Block::new())
        })
    }

    /// A slot that was used is in the page cache already.
    fn slot(&mut self) -> Option<u32> {
        self.free_slots.pop().or_else(|| self.unused_slots.next())
    }

    fn send_away(&mut self, block: &Block, slot: Option<u32>) {
        self.away += 1;
        self.waiting.push_back(Waiting::Away { number: block.number, len: block.len, slot });
    }
}

impl Belt {
    /// With so many blocks, at least two, and what the spill has room for.
    pub fn new(blocks: usize, spill: Option<Spill>) -> Belt {
        let state = State {
            waiting: VecDeque::new(),
            away: 0,
            free: Vec::new(),
            unmade: blocks,
            free_slots: Vec::new(),
            unused_slots: 0..spill.as_ref().map_or(0, |spill| spill.slots),
            is_over: false,
            is_stopped: false,
        };
        Belt { state: Mutex::new(state), changed: Condvar::new(), spill }
    }

    /// The first block to fill.
    pub fn first(&self) -> Option<Block> {
        self.state().block()
    }

    /// Lets a full block wait for its encoder, and gives another to fill: the
    /// same again, if its content was put away. `None`: nobody will write it.
    pub fn put(&self, block: Block) -> Option<Block> {
        let mut is_zero = None;
        let mut state = self.state();
        loop {
            if state.is_stopped {
                return None;
            }
            // Nothing may wait here behind what is away, or there might be no
            // block left to bring that back.
            if state.away == 0
                && let Some(next) = state.block()
            {
                state.waiting.push_back(Waiting::Here(block));
                self.changed.notify_all();
                return Some(next);
            }
            if let Some(spill) = &self.spill
                && state.waiting.len() < MOST_WAITING
            {
                if *is_zero.get_or_insert_with(|| super::is_zero(&block.data[..block.len])) {
                    state.send_away(&block, None);
                    self.changed.notify_all();
                    return Some(block);
                }
                if let Some(slot) = state.slot() {
                    drop(state);
                    let put = spill.put(slot, &block.data[..block.len]);
                    state = self.state();
                    match put {
                        Ok(()) => {
                            state.send_away(&block, Some(slot));
                            self.changed.notify_all();
                            return Some(block);
                        }
                        // The disk has no more of them; those it has are as good as before.
                        Err(_) => state.unused_slots = 0..0,
                    }
                    continue;
                }
            }
            state = self.wait(state);
        }
    }

    /// The block that has waited longest. `None`: there will be none.
    pub fn take(&self) -> Option<Block> {
        let mut state = self.state();
        loop {
            if state.is_stopped {
                return None;
            }
            match state.waiting.pop_front() {
                Some(Waiting::Here(block)) => return Some(block),
                Some(Waiting::Away { number, len, slot }) => match state.block() {
                    Some(block) => {
                        state.away -= 1;
                        drop(state);
                        return Some(self.bring_back(Block { number, len, ..block }, slot));
                    }
                    None => state.waiting.push_front(Waiting::Away { number, len, slot }),
                },
                None if state.is_over => return None,
                None => {}
            }
            state = self.wait(state);
        }
    }

    fn bring_back(&self, mut block: Block, slot: Option<u32>) -> Block {
        let data = &mut block.data[..block.len];
        block.written = Ok(Written::Verbatim);
        match (&self.spill, slot) {
            (Some(spill), Some(slot)) => {
                if let Err(err) = spill.get(slot, data) {
                    block.written = Err(err);
                }
                self.state().free_slots.push(slot);
            }
            _ => data.fill(0),
        }
        self.changed.notify_all();
        block
    }

    /// Takes back a block that has been written.
    pub fn give_back(&self, block: Block) {
        self.state().free.push(block);
        self.changed.notify_all();
    }

    /// Nothing more will be put.
    pub fn end(&self) {
        self.state().is_over = true;
        self.changed.notify_all();
    }

    /// Nothing more is wanted.
    pub fn stop(&self) {
        self.state().is_stopped = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}
