//! Whether a dump is what it says it is.

use std::io::Cursor;
use std::panic;
use std::path::Path;

use protocol::manifest::Truncation;

use crate::elf;
use crate::memory::Memory;
use crate::node::Dump;

/// What a dump is, if it is what it says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Kind {
    /// All of the core.
    Whole,
    /// A beginning of it.
    Truncated(Truncation),
}

/// Compares a dump with the memory that the crashed process had at `address`.
/// Returns what is wrong with it, if something is.
pub fn judge(path: &Path, address: u64, memory: Memory) -> Result<Kind, String> {
    // Opening what is no dump panics.
    panic::catch_unwind(|| compare(path, address, memory))
        .unwrap_or_else(|_| Err("it cannot be read".to_owned()))
}

fn compare(path: &Path, address: u64, memory: Memory) -> Result<Kind, String> {
    let mut dump = Dump::open(path);
    let manifest = dump.manifest();
    let core = dump.entry("core");
    if core.len() as u64 != manifest.core.bytes {
        return Err(format!("the core has {} bytes, not {}", core.len(), manifest.core.bytes));
    }
    if format!("{:08x}", crc32fast::hash(&core)) != manifest.core.crc32 {
        return Err("the core's CRC-32 is another".to_owned());
    }
    if manifest.core.expected_bytes.is_some_and(|expected| expected > manifest.core.bytes)
        && manifest.core.truncated.is_none()
    {
        return Err("it does not say that it is truncated".to_owned());
    }
    let mut expected = vec![0; memory.length];
    memory.read_at(0, &mut expected);
    match manifest.core.truncated {
        None => match elf::read_memory(&mut Cursor::new(&core), address, memory.length) {
            Ok(found) if found == expected => Ok(Kind::Whole),
            Ok(_) => Err("the memory in it is not the process's".to_owned()),
            Err(err) => Err(format!("it says that it is whole, and the memory is not in it: {err}")),
        },
        Some(reason) => {
            // Of a core that ends within its headers there is nothing to compare.
            let segments = elf::segments(&mut &*core).unwrap_or_default();
            let within = |segment: &&elf::Segment| {
                (segment.address..segment.address + segment.length).contains(&address)
            };
            let there = segments.iter().find(within).and_then(|segment| {
                let begin = usize::try_from(segment.offset + address - segment.address).ok()?;
                core.get(begin..)
            });
            let there = there.unwrap_or_default();
            let there = &there[..there.len().min(expected.len())];
            match *there == expected[..there.len()] {
                true => Ok(Kind::Truncated(reason)),
                false => Err("what there is of the memory is not the process's".to_owned()),
            }
        }
    }
}
