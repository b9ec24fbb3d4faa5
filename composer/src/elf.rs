//! How long a core says it is.
//!
//! The kernel writes the ELF header, then all program headers, then what they
//! describe (`elf_core_dump` in `fs/binfmt_elf.c`), so the length is known
//! after the first kilobytes. It has to be read from there: when the dumping
//! process gets a SIGKILL the kernel just stops, and the end of the pipe looks
//! like any other.

/// e_phnum when there are too many program headers for its 16 bits; elf(5).
const PN_XNUM: u64 = 0xffff;

/// The length an ELF core promises, read as its headers pass by. Memory is
/// bounded by one program header, however many there are.
#[derive(Debug)]
pub struct Extent {
    state: State,
    /// Bytes of the structure that is being read.
    pending: Vec<u8>,
    /// Bytes to skip before it.
    skip: u64,
    /// Bytes seen so far.
    seen: u64,
}

#[derive(Debug)]
enum State {
    Identification,
    Header(Format),
    Segments {
        format: Format,
        left: Count,
        size: u16,
        end: u64,
    },
    Known(u64),
    /// Not ELF, or ELF of a kind no kernel writes.
    NotElf,
}

/// How many program headers are still to come.
#[derive(Clone, Copy, Debug)]
enum Count {
    Exactly(u64),
    /// More than fit into e_phnum. The number is in a section header *behind*
    /// the core, but the first segment (the notes) begins right after the last
    /// program header (`fill_elf_note_phdr`), which tells it as well.
    UpToFirstSegment {
        begin: u64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Format {
    wide: bool,
    big_endian: bool,
}

impl Default for Extent {
    fn default() -> Extent {
        Extent { state: State::Identification, pending: Vec::new(), skip: 0, seen: 0 }
    }
}

impl Extent {
    /// Looks at the next bytes of the core.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_done() {
            let skipped = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            let wanted = self.wanted() - self.pending.len();
            let taken = (bytes.len() - skipped).min(wanted);
            self.skip -= skipped as u64;
            self.seen += (skipped + taken) as u64;
            self.pending.extend_from_slice(&bytes[skipped..skipped + taken]);
            bytes = &bytes[skipped + taken..];
            if self.skip == 0 && taken == wanted {
                let structure = std::mem::take(&mut self.pending);
                self.advance(&structure);
            }
        }
    }

    /// The length of the whole core, if its headers have passed by.
    pub fn expected_bytes(&self) -> Option<u64> {
        match self.state {
            State::Known(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Whether what passed by cannot be the beginning of an ELF core.
    pub fn is_foreign(&self) -> bool {
        matches!(self.state, State::NotElf)
    }

    fn is_done(&self) -> bool {
        matches!(self.state, State::Known(_) | State::NotElf)
    }

    /// How long the structure is that is read next.
    fn wanted(&self) -> usize {
        match self.state {
            State::Identification => 16,
            State::Header(format) => format.header_bytes() - 16,
            State::Segments { size, .. } => usize::from(size),
            State::Known(_) | State::NotElf => 0,
        }
    }

    fn advance(&mut self, bytes: &[u8]) {
        self.state = match self.state {
            State::Identification => identification(bytes),
            State::Header(format) => self.header(format, bytes),
            State::Segments { format, left, size, end } => self.segment(format, left, size, end, bytes),
            State::Known(_) | State::NotElf => return,
        };
    }

    /// The rest of the ELF header; offsets as in elf(5), less the 16 bytes of
    /// the identification.
    fn header(&mut self, format: Format, bytes: &[u8]) -> State {
        let at = |narrow, wide| if format.wide { wide } else { narrow };
        let table = format.word(bytes, at(12, 16));
        let sections = format.word(bytes, at(16, 24));
        let size = format.half(bytes, at(26, 38));
        let count = format.half(bytes, at(28, 40));
        let section_size = format.half(bytes, at(30, 42));
        let section_count = format.half(bytes, at(32, 44));
        if u64::from(size) < format.segment_bytes() || table < self.seen {
            return State::NotElf;
        }
        self.skip = table - self.seen;
        let end = match sections {
            0 => 0,
            begin => begin.saturating_add(u64::from(section_size) * u64::from(section_count)),
        };
        let left = match u64::from(count) {
            PN_XNUM => Count::UpToFirstSegment { begin: table },
            count => Count::Exactly(count),
        };
        self.next(format, left, size, end)
    }

    fn segment(&self, format: Format, left: Count, size: u16, end: u64, bytes: &[u8]) -> State {
        let (offset, length) = match format.wide {
            true => (format.word(bytes, 8), format.word(bytes, 32)),
            false => (format.word(bytes, 4), format.word(bytes, 16)),
        };
        let left = match left {
            Count::Exactly(left) => left - 1,
            Count::UpToFirstSegment { begin } => match offset.checked_sub(begin) {
                Some(table) => (table / u64::from(size)).saturating_sub(1),
                None => return State::NotElf,
            },
        };
        self.next(format, Count::Exactly(left), size, end.max(offset.saturating_add(length)))
    }

    fn next(&self, format: Format, left: Count, size: u16, end: u64) -> State {
        match left {
            Count::Exactly(0) => State::Known(end.max(self.seen)),
            left => State::Segments { format, left, size, end },
        }
    }
}

fn identification(bytes: &[u8]) -> State {
    match bytes {
        [0x7f, b'E', b'L', b'F', class @ (1 | 2), data @ (1 | 2), ..] => {
            State::Header(Format { wide: *class == 2, big_endian: *data == 2 })
        }
        _ => State::NotElf,
    }
}

impl Format {
    fn header_bytes(self) -> usize {
        if self.wide { 64 } else { 52 }
    }

    fn segment_bytes(self) -> u64 {
        if self.wide { 56 } else { 32 }
    }

    fn half(self, bytes: &[u8], at: usize) -> u16 {
        self.number(&bytes[at..at + 2]) as u16
    }

    fn word(self, bytes: &[u8], at: usize) -> u64 {
        self.number(&bytes[at..at + if self.wide { 8 } else { 4 }])
    }

    fn number(self, bytes: &[u8]) -> u64 {
        let add = |number, byte: &u8| number << 8 | u64::from(*byte);
        match self.big_endian {
            true => bytes.iter().fold(0, add),
            false => bytes.iter().rev().fold(0, add),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An ELF core as the kernel lays it out, of these segments' lengths.
    fn core(wide: bool, big_endian: bool, lengths: &[u64]) -> Vec<u8> {
        let format = Format { wide, big_endian };
        let mut out = vec![0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, if big_endian { 2 } else { 1 }];
        out.resize(16, 0);
        let many = lengths.len() as u64 >= PN_XNUM;
        let table = format.header_bytes() as u64;
        let data = table + lengths.len() as u64 * format.segment_bytes();
        let end = data + lengths.iter().sum::<u64>();
        let mut put = |fields: &[(usize, u64)]| {
            for (bytes, value) in fields {
                let le = value.to_le_bytes();
                match big_endian {
                    true => out.extend(le[..*bytes].iter().rev()),
                    false => out.extend(&le[..*bytes]),
                }
            }
        };
        let word = if wide { 8 } else { 4 };
        put(&[(2, 4), (2, 62), (4, 1), (word, 0), (word, table), (word, if many { end } else { 0 })]);
        put(&[(4, 0), (2, table), (2, format.segment_bytes())]);
        put(&[(2, if many { PN_XNUM } else { lengths.len() as u64 }), (2, 64), (2, u64::from(many)), (2, 0)]);
        let mut offset = data;
        for length in lengths {
            put(&[(4, 4), (if wide { 4 } else { 0 }, 0)]);
            put(&[(word, offset), (word, 0), (word, 0), (word, *length), (word, *length)]);
            put(&[(if wide { 0 } else { 4 }, 0), (word, 0)]);
            offset += length;
        }
        out.resize(usize::try_from(end).unwrap(), 0xaa);
        if many {
            out.extend([0; 64]);
        }
        out
    }

    fn extent(pieces: &[&[u8]]) -> Extent {
        let mut extent = Extent::default();
        pieces.iter().for_each(|piece| extent.feed(piece));
        extent
    }

    #[test]
    fn the_promise_of_every_kind_of_core_is_understood() {
        for (wide, big_endian) in [(true, false), (true, true), (false, false), (false, true)] {
            let core = core(wide, big_endian, &[100, 0, 8192, 1]);
            assert_eq!(extent(&[&core]).expected_bytes(), Some(core.len() as u64), "{wide} {big_endian}");
        }
    }

    #[test]
    fn more_segments_than_sixteen_bits_count_are_understood() {
        for segments in [PN_XNUM - 1, PN_XNUM, 70_000] {
            let core = core(true, false, &vec![1; segments as usize]);
            assert_eq!(extent(&[&core]).expected_bytes(), Some(core.len() as u64), "{segments}");
        }
    }

    #[test]
    fn a_core_that_ends_within_its_headers_promises_nothing_yet() {
        let core = core(true, false, &[100, 100]);
        let headers = 64 + 2 * 56;
        assert_eq!(extent(&[&core[..headers - 1]]).expected_bytes(), None);
        assert!(!extent(&[&core[..headers - 1]]).is_foreign());
        assert_eq!(extent(&[&core[..headers]]).expected_bytes(), Some(core.len() as u64));
    }

    #[test]
    fn a_table_that_is_not_right_behind_the_header_is_found() {
        let mut core = core(true, false, &[100, 200]);
        core.splice(64..64, [0xff; 1000]);
        core[32..40].copy_from_slice(&1064u64.to_le_bytes());
        for piece in [1, 7, 64, 5000] {
            let pieces: Vec<_> = core.chunks(piece).collect();
            // The offsets in it are still those of before.
            assert_eq!(extent(&pieces).expected_bytes(), Some(core.len() as u64 - 300), "{piece}");
        }
        core[32..40].copy_from_slice(&63u64.to_le_bytes());
        assert!(extent(&[&core]).is_foreign(), "it would overlap the header");
    }

    #[test]
    fn what_is_no_elf_is_foreign() {
        assert!(extent(&[b"not an ELF file at all"]).is_foreign());
        assert!(extent(&[b"\x7fELF\x07\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"]).is_foreign());
        assert!(!extent(&[]).is_foreign());
        assert!(!extent(&[b"\x7fEL"]).is_foreign());
    }

    proptest! {
        #[test]
        fn how_the_pipe_cuts_it_does_not_matter(cuts in prop::collection::vec(1usize..200, 0..40)) {
            let core = core(true, false, &[1000, 20, 3000]);
            let mut extent = Extent::default();
            let mut rest = &core[..];
            for cut in cuts {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                extent.feed(piece);
                rest = tail;
            }
            extent.feed(rest);
            prop_assert_eq!(extent.expected_bytes(), Some(core.len() as u64));
        }
    }

    mod hostile {
        use super::*;

        proptest! {
            #[test]
            fn headers_cost_neither_memory_nor_a_panic(
                bytes in prop::collection::vec(any::<u8>(), 0..1000),
                changes in prop::collection::vec((0usize..300, any::<u8>()), 0..12),
                segment_size: u16,
                many: bool,
            ) {
                // A core that was right, a few bytes of its headers changed, and
                // then anything.
                let mut hostile = core(true, false, &[100; 4]);
                hostile[54..56].copy_from_slice(&segment_size.to_le_bytes());
                if many {
                    hostile[56..58].copy_from_slice(&0xffffu16.to_le_bytes());
                }
                for (at, byte) in changes {
                    hostile[6 + at] = byte;
                }
                hostile.extend(bytes);
                let mut extent = Extent::default();
                for _ in 0..200 {
                    extent.feed(&hostile);
                }
                prop_assert!(extent.pending.capacity() <= 2 * usize::from(u16::MAX));
            }
        }
    }
}
