//! What the kernel runs when a process dies.

use std::env;
use std::panic;
use std::process::ExitCode;

use composer::{Invocation, kmsg};

fn main() -> ExitCode {
    match composer::invocation(env::args_os().skip(1)) {
        Invocation::Person { text, code } => {
            println!("{text}");
            ExitCode::from(code)
        }
        Invocation::Kernel(argv) => {
            // The kernel ignores our exit status, and stderr goes nowhere.
            panic::set_hook(Box::new(|panic| kmsg::error(&panic.to_string())));
            match composer::capture(&argv) {
                Ok(dump) => {
                    kmsg::notice(&dump);
                    ExitCode::SUCCESS
                }
                Err(err) => {
                    kmsg::error(&format!("{err:#}"));
                    ExitCode::FAILURE
                }
            }
        }
    }
}
