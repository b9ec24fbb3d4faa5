//! The floor: nobody can have a core sooner than who reads it and does nothing
//! else.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, fcntl};

/// What fs.pipe-max-size allows anyone, and what is read at a time at most.
const PIPE_BYTES: usize = 1 << 20;

/// Reads standard input to its end, as fast as can be, and returns how much it
/// was.
///
/// # Errors
/// If the pipe cannot be enlarged, without which this is not the floor, or read.
pub fn run() -> io::Result<u64> {
    let mut pipe = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES as i32))?;
    let mut buffer = vec![0; PIPE_BYTES];
    let mut bytes = 0;
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes += n as u64,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}
