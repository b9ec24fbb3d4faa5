//! What the kernel runs when a process dies.
//!
//! One process per crash, run as root in the initial namespaces with no
//! environment of ours, the core on descriptor 0, and 1 and 2 closed
//! (`do_coredump` in the kernel's `fs/coredump.c`; core(5), "Piping core dumps
//! to a program").
//! The order of its work is its design, and [`capture()`] reads in that order.
//!
//! ```text
//!  argv ─▶ one line to kmsg ─▶ /proc/<pid> ─▶ core ─▶ close the pipe ─▶ the rest ─▶ publish
//!                                              └─ into <id>.zip.part ─┘      └─ <id>_….zip
//! ```
//!
//! Nothing outranks the core. Bad settings mean defaults, a vanished `/proc`
//! means a missing part, and both say so in the manifest. What stops a capture
//! is a spool that is not there or cannot be written to.

mod account;
mod capture;
mod cgroup;
mod cri;
mod deflate;
mod dump;
mod elf;
mod encoding;
pub mod kmsg;
mod logs;
mod lookup;
mod memory;
mod pipe;
mod pipeline;
mod place;
mod priority;
mod process;
mod rate;
mod selection;
mod settings;
mod space;
mod story;
#[cfg(test)]
#[path = "../../protocol/src/strange.rs"]
mod strange;
mod turn;

use std::ffi::OsString;
use std::io::{self, IsTerminal};

use protocol::argv::Argv;

pub use capture::capture;

const USAGE: &str = "\
composer: writes the core dump of a crashed process into the spool

It is run by the kernel, which `installer install` asks for; see core(5), \"Piping core dumps to a program\".
Its settings lie beside it, in composer.yaml.

  --version   what this is
  --help      this text";

/// Who runs us, and what for.
pub enum Invocation {
    /// A person, who wants to read something.
    Person {
        /// What to print.
        text: String,
        /// What to exit with.
        code: u8,
    },
    /// The kernel, with a core on standard input.
    Kernel(Argv),
}

/// Tells the kernel from a person. Arguments we do not understand are no reason
/// to refuse a core, so what counts as well is a pipe on standard input.
pub fn invocation(args: impl IntoIterator<Item = OsString>) -> Invocation {
    let args: Vec<OsString> = args.into_iter().collect();
    let text = |text: &str, code| Invocation::Person { text: text.to_owned(), code };
    match args.first().and_then(|arg| arg.to_str()) {
        Some("--version" | "-V") => text(concat!("composer ", env!("CARGO_PKG_VERSION")), 0),
        Some("--help" | "-h") => text(USAGE, 0),
        _ if pipe::is_one() || (args.len() > 1 && !io::stdin().is_terminal()) => {
            Invocation::Kernel(Argv::read(args))
        }
        _ => text(USAGE, 64),
    }
}
