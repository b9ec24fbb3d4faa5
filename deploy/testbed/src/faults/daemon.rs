//! The uploader, as a daemon.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use crate::node::Node;

const LOG: &str = "uploader.log";

/// The daemon, killed in the end however that comes.
pub struct Uploader(Child);

impl Uploader {
    /// That of `node`.
    pub fn start(node: &Node) -> Uploader {
        Uploader::start_with(node, node.uploader(["run"]))
    }

    /// The same by a command that ends up as one.
    pub fn start_with(node: &Node, mut command: Command) -> Uploader {
        let log = File::options().create(true).append(true).open(node.path().join(LOG)).expect("its log");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        Uploader(child.expect("starting the uploader"))
    }

    /// What all uploaders of `node` have said.
    pub fn log(node: &Node) -> String {
        fs::read_to_string(node.path().join(LOG)).expect("the uploader's log")
    }

    /// What the last one that listens says that a series is.
    pub fn metric(node: &Node, series: &str) -> Option<usize> {
        let log = Uploader::log(node);
        let address = log.rsplit_once("] listening address=")?.1.lines().next()?;
        let mut stream = TcpStream::connect(address).ok()?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Without warning.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        self.kill();
    }
}
