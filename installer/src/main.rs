//! Puts the composer on the host and points the kernel at it.

use std::process::ExitCode;

fn main() -> ExitCode {
    installer::run(std::env::args_os())
}
