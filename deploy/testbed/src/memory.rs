//! Memory whose every byte can be told from where it is, so that a test can
//! find out whether a dump has it.

pub mod mixed;

use std::fmt;
use std::hint;

use mixed::PAGE;

/// What memory is filled with.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Fill {
    /// Each aligned word is its own offset: compressible, and no byte can be
    /// at another's place unnoticed.
    Pattern,
    /// Incompressible, and the same each time.
    Random,
    /// Zeros that were written.
    Zero,
    /// Only the first and the last byte are touched, and are 1. The kernel
    /// dumps what was never touched as zeros, and it costs no memory.
    Sparse,
    /// As programs have it: pages of zeros, noise, pointers and integers, text.
    Mixed,
}

impl fmt::Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fill::Pattern => "pattern",
            Fill::Random => "random",
            Fill::Zero => "zero",
            Fill::Sparse => "sparse",
            Fill::Mixed => "mixed",
        })
    }
}

/// So many bytes of a fill.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Memory {
    /// What they are.
    pub fill: Fill,
    /// How many they are.
    pub length: usize,
}

impl Memory {
    /// What belongs at `offset` and after it. Nothing may lie beyond the end.
    pub fn read_at(&self, offset: usize, into: &mut [u8]) {
        assert!(offset + into.len() <= self.length, "{self:?} ends before {offset} + {}", into.len());
        let end = offset + into.len();
        match self.fill {
            Fill::Pattern => words(offset, into, |word| word),
            Fill::Random => words(offset, into, noise),
            Fill::Mixed => pages(offset, into),
            Fill::Zero | Fill::Sparse => into.fill(0),
        }
        if let (Fill::Sparse, [first, .., last]) = (self.fill, into) {
            *first = u8::from(offset == 0);
            *last = u8::from(end == self.length);
        }
    }

    /// The real thing.
    pub fn allocate(&self) -> Vec<u8> {
        // Zeroed memory of this size comes from a fresh mapping: it is there,
        // and costs nothing until it is touched.
        let mut bytes = vec![0; self.length];
        // The compiler might otherwise know that zeros need not be written.
        let all = hint::black_box(&mut bytes[..]);
        match (self.fill, all) {
            (Fill::Sparse, [first, .., last]) => (*first, *last) = (1, 1),
            (_, all) => self.read_at(0, all),
        }
        bytes
    }
}

fn words(offset: usize, into: &mut [u8], word: impl Fn(u64) -> u64) {
    let mut at = offset;
    let mut rest = into;
    while !rest.is_empty() {
        let bytes = word((at & !7) as u64).to_le_bytes();
        let bytes = &bytes[at & 7..];
        let take = bytes.len().min(rest.len());
        let (now, later) = rest.split_at_mut(take);
        now.copy_from_slice(&bytes[..take]);
        (at, rest) = (at + take, later);
    }
}

fn pages(offset: usize, into: &mut [u8]) {
    let mut at = offset;
    let mut rest = into;
    while !rest.is_empty() {
        let (page, within) = ((at / PAGE) as u64, at % PAGE);
        let take = (PAGE - within).min(rest.len());
        let (now, later) = rest.split_at_mut(take);
        if let Ok(whole) = <&mut [u8; PAGE]>::try_from(&mut *now) {
            mixed::write(page, whole);
        } else {
            let mut whole = [0; PAGE];
            mixed::write(page, &mut whole);
            now.copy_from_slice(&whole[within..within + take]);
        }
        (at, rest) = (at + take, later);
    }
}

/// `SplitMix64`: a generator that can be asked for any of its numbers.
pub(crate) fn noise(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_piece_of_memory_can_be_told_from_where_it_is() {
        for fill in [Fill::Pattern, Fill::Random, Fill::Zero, Fill::Sparse, Fill::Mixed] {
            let memory = Memory { fill, length: 100_003 };
            let whole = memory.allocate();
            for (from, to) in [(0, 100_003), (0, 2), (3, 5), (4093, 8200), (99_990, 100_003), (7, 7)] {
                let mut piece = vec![0xff; to - from];
                memory.read_at(from, &mut piece);
                assert_eq!(piece, whole[from..to], "{memory:?} {from}..{to}");
            }
        }
    }

    #[test]
    fn a_fill_is_what_it_says() {
        let of = |fill| Memory { fill, length: 4096 }.allocate();
        assert_eq!(of(Fill::Pattern)[1024..1032], 1024_u64.to_le_bytes());
        assert_eq!(of(Fill::Zero), [0; 4096]);
        let ones = of(Fill::Random).iter().map(|byte| byte.count_ones()).sum::<u32>();
        assert!((15_000..18_000).contains(&ones), "{ones} of 32768 bits are set");
    }
}
