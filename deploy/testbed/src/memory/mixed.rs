//! Memory as programs have it: pages of zeros, noise, words and text.
//!
//! Of every hundred pages 30 are zeros, 10 noise, 35 pointers and small
//! integers, 25 text, in an order that is random and the same each time. What
//! is in them was chosen such that compressors make of it what issue 4 had seen
//! them make of such a core: miniz_oxide level 6 makes a 3.2th of it, libdeflate
//! level 1 a 3.05th, ISA-L level 1 a 2.9th, zstd level 1 a 3.1th.

use std::sync::LazyLock;

use super::noise;

/// What is of one kind. The kernel dumps pages, too.
pub const PAGE: usize = 4096;

/// What a page has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Nothing.
    Zero,
    /// What cannot be compressed: keys, what was compressed already.
    Noise,
    /// Pointers and small integers.
    Words,
    /// What programs say.
    Text,
}

impl Kind {
    /// What the page of this number has.
    pub fn of(page: u64) -> Kind {
        match noise(!page) % 100 {
            0..30 => Kind::Zero,
            30..40 => Kind::Noise,
            40..75 => Kind::Words,
            _ => Kind::Text,
        }
    }
}

/// Writes the page of this number.
pub fn write(page: u64, into: &mut [u8; PAGE]) {
    // Each page draws its numbers from somewhere else.
    let seed = noise(page) & !0xffff;
    match Kind::of(page) {
        Kind::Zero => into.fill(0),
        Kind::Noise => write_words(into, |at| noise(seed + at)),
        Kind::Words => write_words(into, |at| word(at, noise(seed + at))),
        Kind::Text => write_text(into, seed),
    }
}

fn write_words(into: &mut [u8; PAGE], word: impl Fn(u64) -> u64) {
    for (at, bytes) in into.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *bytes = word(at as u64).to_le_bytes();
    }
}

/// Objects of four words: how many hold them, which of a few types they are
/// of, where on a heap of 256 MiB another one is, and a number.
fn word(at: u64, random: u64) -> u64 {
    let value = random >> 8;
    match at % 4 {
        0 => value & 3,
        1 => 0x55d0_1c20_0000 + (value & 31) * 0x1a0,
        2 => 0x7f3a_4000_0000 | (value & 0xfff_fff0),
        _ => value & if random & 1 == 0 { 0xff } else { 0xffff },
    }
}

/// The most of a word and the blank behind it. So many bytes can be copied
/// without looking how many they are.
const LONGEST: usize = 16;

/// Words with their blank, and how long that is.
static VOCABULARY: LazyLock<Vec<([u8; LONGEST], usize)>> = LazyLock::new(|| {
    let blanked = |word: &str| {
        let mut bytes = [b' '; LONGEST];
        bytes[..word.len()].copy_from_slice(word.as_bytes());
        (bytes, word.len() + 1)
    };
    include_str!("vocabulary.txt").split_whitespace().map(blanked).collect()
});

/// Words, any after any.
fn write_text(into: &mut [u8; PAGE], seed: u64) {
    let vocabulary = &**VOCABULARY;
    // The last one begins within the page.
    let mut text = [0; PAGE + LONGEST];
    let (mut at, mut drawn) = (0, 0);
    while at < PAGE {
        let (word, length) = vocabulary[noise(seed + drawn) as u32 as usize % vocabulary.len()];
        text[at..at + LONGEST].copy_from_slice(&word);
        at += length;
        drawn += 1;
    }
    into.copy_from_slice(&text[..PAGE]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_hundred_pages_there_are_as_many_of_each_kind_as_is_said() {
        const PAGES: u64 = 100_000;
        let count = |kind| (0..PAGES).filter(|page| Kind::of(*page) == kind).count();
        for (kind, percent) in [(Kind::Zero, 30), (Kind::Noise, 10), (Kind::Words, 35), (Kind::Text, 25)] {
            let off = count(kind).abs_diff(percent * PAGES as usize / 100);
            assert!(off < 500, "{kind:?}: {off} of {PAGES} pages too many or too few");
        }
    }

    #[test]
    fn pages_are_what_they_are_said_to_be() {
        let mut sizes = [(0, 0); 4];
        for page in 0..2000 {
            let mut bytes = [0xff; PAGE];
            write(page, &mut bytes);
            let kind = Kind::of(page);
            match kind {
                Kind::Zero => assert_eq!(bytes, [0; PAGE]),
                Kind::Text => assert!(bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ')),
                Kind::Noise | Kind::Words => {}
            }
            let packed = miniz_oxide::deflate::compress_to_vec(&bytes, 6).len();
            let (whole, size) = &mut sizes[kind as usize];
            (*whole, *size) = (*whole + PAGE, *size + packed);
        }
        let ratios = sizes.map(|(whole, packed)| whole as f64 / packed as f64);
        let [zero, noise, words, text] = ratios;
        assert!(zero > 100.0 && noise < 1.01, "{ratios:?}");
        assert!((2.0..3.5).contains(&words) && (2.0..4.0).contains(&text), "{ratios:?}");
    }
}
