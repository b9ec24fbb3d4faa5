//! The store fails, in each of the ways in which one can, or what is before it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use protocol::spool::{Entry, State};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::Tally;
use super::daemon::Uploader;
use crate::crash::Crasher;
use crate::kernel::Kernel;
use crate::node::Node;
use crate::store::{Fault, Operation, REGION, Request, Store};
use crate::wait_for;

const BUCKET: &str = "dumps";
/// MiB of the cores: some that go at once, and one that goes in three parts.
const CORES: [usize; 4] = [1, 1, 1, 12];
/// A request that hangs is given up after one minute or two, and then there is a
/// pause.
const PATIENCE: Duration = Duration::from_secs(180);
/// Long enough for each node to try more than once; and at least once.
const LASTING: Duration = Duration::from_secs(8);
const BRIEFLY: Duration = Duration::from_secs(2);
/// No resolver knows it until we say so.
const NAME: &str = "store.coredump.test";

/// Who is in the way.
#[derive(Clone, Copy)]
enum Harm {
    /// The store itself.
    Rule(fn(&Request) -> Option<Fault>),
    /// Nobody listens.
    Nobody,
    /// Somebody with another CA's certificate does.
    Stranger,
    /// The store's name means nothing.
    NoName,
}

const HARMS: [(&str, Harm); 12] = [
    ("store: refuses", Harm::Nobody),
    ("store: reset mid-body", Harm::Rule(|request| of_bytes(request, Fault::Cut { after: 100_000 }))),
    ("store: damaged byte", Harm::Rule(|request| of_bytes(request, Fault::Damage { offset: 70_000 }))),
    ("store: 200 with an error", Harm::Rule(completes)),
    ("store: hangs", Harm::Rule(|_| Some(Fault::Hang))),
    ("store: 1 KB/s", Harm::Rule(|request| of_bytes(request, Fault::Slow { rate: 1000 }))),
    ("store: 503", Harm::Rule(|_| Some(Fault::error(503, "SlowDown")))),
    ("store: 503, Retry-After", Harm::Rule(|_| Some(answer(503, "Retry-After", "3")))),
    ("store: 403 ExpiredToken", Harm::Rule(|_| Some(Fault::error(403, "ExpiredToken")))),
    ("store: wrong ETag", Harm::Rule(|request| of_bytes(request, answer(200, "ETag", "\"0\"")))),
    ("store: unknown CA", Harm::Stranger),
    ("store: unknown name", Harm::NoName),
];

/// So many of them are a short form.
const BRIEF: usize = 4;

/// For what has a dump's bytes in it.
fn of_bytes(request: &Request, fault: Fault) -> Option<Fault> {
    matches!(request.operation(), Operation::PutObject | Operation::UploadPart).then_some(fault)
}

fn completes(request: &Request) -> Option<Fault> {
    (request.operation() == Operation::CompleteUpload).then(|| Fault::error(200, "InternalError"))
}

fn answer(status: u16, name: &str, value: &str) -> Fault {
    Fault::Answer { status, headers: vec![(name.to_owned(), value.to_owned())], body: String::new() }
}

/// Some dumps wait, and for a while something is wrong with the store: on each of
/// several nodes something else, all at the same time.
pub fn store_fails() -> Vec<Tally> {
    suffer(&HARMS, LASTING)
}

/// A short form: what is soon over.
pub fn store_fails_briefly() -> Vec<Tally> {
    suffer(&HARMS[..BRIEF], BRIEFLY)
}

fn suffer(harms: &[(&'static str, Harm)], lasting: Duration) -> Vec<Tally> {
    let crashed = &crash();
    thread::scope(|scope| {
        let ship = |(case, harm)| scope.spawn(move || ship(crashed, case, harm, lasting));
        let harmed: Vec<_> = harms.iter().copied().map(ship).collect();
        harmed.into_iter().map(|harmed| harmed.join().expect("a node with its store")).collect()
    })
}

/// A node on which something has crashed.
fn crash() -> Node {
    let (kernel, node) = (Kernel::lock(), Node::new(""));
    node.install();
    for mib in CORES {
        Crasher::start(["--heap-mb", &mib.to_string(), "--fill", "random"]).crash();
    }
    node.wait_for_ready(CORES.len(), PATIENCE);
    drop(kernel);
    node
}

/// Ships what is on the node `crashed`, while there is harm and after that.
fn ship(crashed: &Node, case: &'static str, harm: Harm, lasting: Duration) -> Tally {
    let node = Node::new("");
    let dumps: Vec<_> = crashed
        .dumps(State::Ready)
        .into_iter()
        .map(|entry| {
            let file = entry.to_string();
            fs::copy(crashed.spool_dir().join(&file), node.spool_dir().join(&file)).expect("copying a dump");
            let sum = sha256(&node.spool_dir().join(&file));
            (entry, sum)
        })
        .collect();
    let home = tempfile::tempdir().expect("a directory for the store");
    let open = if matches!(harm, Harm::Stranger) { Store::start_tls } else { Store::start };
    let store = open(home.path()).expect("the store starts");
    store.create_bucket(BUCKET).expect("the bucket is created");
    node.upload_to(&store, BUCKET, "part_size: 5MiB\n");

    let mut harmed = Harmed { node: &node, home: &home, dumps, tally: Tally { case, ..Tally::default() } };
    harmed.tally.runs = harmed.dumps.len();
    let (store, _uploader) = harmed.suffer(store, harm, lasting);
    let over = Instant::now();
    wait_for(&format!("an empty spool ({case})"), PATIENCE, || {
        node.dumps(State::Ready).is_empty().then_some(())
    });
    let seconds = over.elapsed().as_secs_f64();
    harmed.look();
    harmed.dumps.retain(|(entry, _)| !store.objects(BUCKET).contains(&key(entry)));
    let mut tally = harmed.tally;
    tally.lost.extend(harmed.dumps.iter().map(|(entry, _)| format!("{case}: {entry} never arrived")));
    if store.open_uploads() > 0 {
        tally.lied.push(format!("{case}: {} uploads in parts are left", store.open_uploads()));
    }
    let failed = Uploader::log(&node).matches("not uploaded").count();
    tally.notes = format!("{failed} attempts failed; all had arrived {seconds:.0} s after it was over");
    tally
}

/// A node whose store fails.
struct Harmed<'a> {
    node: &'a Node,
    home: &'a TempDir,
    /// And their SHA-256.
    dumps: Vec<(Entry, Vec<u8>)>,
    tally: Tally,
}

impl Harmed<'_> {
    /// Starts the uploader while there is harm, and returns when it is over.
    fn suffer(&mut self, store: Store, harm: Harm, lasting: Duration) -> (Store, Uploader) {
        let node = self.node;
        match harm {
            Harm::Rule(rule) => {
                store.set_faults(rule);
                let uploader = Uploader::start(node);
                self.watch(lasting);
                wait_for(&format!("harm ({})", self.tally.case), PATIENCE, || {
                    store.requests().iter().any(|request| rule(request).is_some()).then_some(())
                });
                store.clear_faults();
                (store, uploader)
            }
            Harm::Stranger => {
                store.be_stranger();
                let uploader = Uploader::start(node);
                self.watch(lasting);
                assert!(store.requests().is_empty(), "nobody trusts a stranger");
                store.clear_faults();
                (store, uploader)
            }
            Harm::Nobody => {
                let address = store.addr();
                drop(store);
                let uploader = Uploader::start(node);
                self.watch(lasting);
                (Store::start_at(self.home.path(), address).expect("the store comes back"), uploader)
            }
            Harm::NoName => {
                let hosts = node.path().join("hosts");
                fs::write(&hosts, "127.0.0.1 localhost\n").expect("the hosts");
                let uploader = Uploader::start_with(node, among(&hosts, node, store.addr()));
                self.watch(lasting);
                assert!(store.requests().is_empty(), "the store has no name yet");
                fs::write(&hosts, format!("127.0.0.1 localhost {NAME}\n")).expect("the hosts");
                (store, uploader)
            }
        }
    }

    /// Whatever leaves the spool meanwhile has to be in the store.
    fn watch(&mut self, lasting: Duration) {
        let over = Instant::now() + lasting;
        while Instant::now() < over {
            self.look();
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn look(&mut self) {
        let there = self.node.dumps(State::Ready);
        let (home, tally) = (self.home.path(), &mut self.tally);
        for (entry, sum) in self.dumps.iter().filter(|(entry, _)| !there.contains(entry)) {
            let object = home.join(BUCKET).join(key(entry));
            match object.is_file() {
                true if sha256(&object) == *sum => {}
                true => tally.lied.push(format!("{}: {entry} is another in the store", tally.case)),
                false => tally.lost.push(format!("{}: {entry} is gone and not in the store", tally.case)),
            }
        }
    }
}

/// The uploader of `node`, for whom only these hosts have names, and a store at
/// [`NAME`].
fn among(hosts: &Path, node: &Node, store: SocketAddr) -> Command {
    node.write_uploader_yaml(&format!(
        "store: {{s3: {{bucket: {BUCKET}, endpoint: 'http://{NAME}:{}', region: {REGION}, path_style: true}}}}\n\
         part_size: 5MiB\n",
        store.port()
    ));
    let (servers, uploader) = (node.path().join("resolv.conf"), node.uploader(["run"]));
    // Nobody answers there, and whoever asks hears so at once.
    fs::write(&servers, "nameserver 127.0.0.1\n").expect("the name servers");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec"]);
    command.arg(r#"mount --bind "$0" /etc/hosts; mount --bind "$1" /etc/resolv.conf; shift; exec "$@""#);
    command.args([hosts, &servers]).arg(uploader.get_program()).args(uploader.get_args());
    command.envs(uploader.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Where the dump of a process of the host goes.
fn key(entry: &Entry) -> String {
    format!("_/_/{}.zip", entry.id())
}

fn sha256(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap_or_else(|err| panic!("reading {}: {err}", path.display()));
    Sha256::digest(bytes).to_vec()
}
