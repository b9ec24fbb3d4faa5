//! A crash to be had on demand.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::node::program;
use crate::wait_for;

/// How long its end may take on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(240);

/// A process that waits to crash.
pub struct Crasher {
    child: Child,
    /// Its pid, as it sees it.
    pub pid: u32,
    /// Where its memory is.
    pub address: u64,
}

impl Crasher {
    /// Starts one and waits until its memory is filled.
    pub fn start(args: impl IntoIterator<Item: AsRef<OsStr>>) -> Crasher {
        let mut command = Command::new(program("crasher"));
        command.args(args);
        Crasher::start_with(command)
    }

    /// The same of a command that ends up as a crasher.
    pub fn start_with(mut command: Command) -> Crasher {
        let mut child = command
            .arg("--wait")
            .env("SECRET", "hidden")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting the crasher");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("the crasher says a line");
        let said: serde_json::Value = serde_json::from_str(&line).expect("the line is JSON");
        let number = |name: &str| said[name].as_u64().expect("a number");
        Crasher { child, pid: number("pid") as u32, address: number("address") }
    }

    /// Lets it crash, and goes on at once.
    pub fn let_go(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Kills it with a signal that nothing survives.
    pub fn kill(&mut self) {
        self.child.kill().expect("killing the crasher");
    }

    /// Lets it crash if it has not yet, and waits for its end, which is when the
    /// composer has let it go.
    pub fn end(mut self) -> ExitStatus {
        self.let_go();
        wait_for("the end of the crasher", PATIENCE, || self.child.try_wait().expect("the crasher"))
    }

    /// Lets it crash, and makes sure that it did and that the kernel dumped it.
    pub fn crash(self) {
        let ended = self.end();
        assert!(ended.signal().is_some() && ended.core_dumped(), "{ended}");
    }
}
