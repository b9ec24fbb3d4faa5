//! Where a process's memory lies in its core, for tests that compare the two.

use std::io::{self, Read, Seek, SeekFrom};

/// One piece of memory in a core.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Segment {
    /// Where it was in the process.
    pub address: u64,
    /// How much of it the core has.
    pub length: u64,
    /// Where it is in the core.
    pub offset: u64,
}

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PT_LOAD: u64 = 1;

/// The loaded segments of a core from this kind of machine: 64 bits, little
/// endian, fewer than 65535 segments.
///
/// # Errors
/// If it is no such core or ends before its headers do.
pub fn segments(core: &mut impl Read) -> io::Result<Vec<Segment>> {
    let mut header = [0; HEADER];
    core.read_exact(&mut header)?;
    if header[..6] != *b"\x7fELF\x02\x01" || number(&header, 16, 2) != 4 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "is no 64-bit ELF core"));
    }
    let (table, count) = (number(&header, 32, 8), number(&header, 56, 2));
    // The kernel puts the table right behind the header; then a core can be
    // read as it comes out of a zip.
    if table != HEADER as u64 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "has its program headers elsewhere"));
    }
    let mut segments = Vec::new();
    for _ in 0..count {
        let mut entry = [0; PROGRAM_HEADER];
        core.read_exact(&mut entry)?;
        if number(&entry, 0, 4) == PT_LOAD {
            segments.push(Segment {
                offset: number(&entry, 8, 8),
                address: number(&entry, 16, 8),
                length: number(&entry, 32, 8),
            });
        }
    }
    Ok(segments)
}

/// The memory at `address` of the process that `core` is of. It must lie in
/// one segment, as what one allocation gave does.
///
/// # Errors
/// If the core does not have it.
pub fn read_memory(core: &mut (impl Read + Seek), address: u64, length: usize) -> io::Result<Vec<u8>> {
    core.rewind()?;
    let has = |segment: &Segment| {
        let at = address.checked_sub(segment.address)?;
        (at + length as u64 <= segment.length).then_some(segment.offset + at)
    };
    let offset = segments(core)?.iter().find_map(has);
    let offset = offset.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "is not in the core"))?;
    core.seek(SeekFrom::Start(offset))?;
    let mut memory = vec![0; length];
    core.read_exact(&mut memory)?;
    Ok(memory)
}

fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    bytes[at..at + width].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
