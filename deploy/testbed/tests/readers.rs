//! Do other people's programs read our dumps, byte for byte? The composer of
//! `dist/` is run the way the kernel runs it, and needs no root for that.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use testbed::memory::{Fill, Memory};
use testbed::node;

/// What reads an entry of a zip to its standard output.
type Reader = fn(&Path, &str) -> Command;

fn command(words: &[&str], zip: &Path, entry: &str) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(zip).arg(entry);
    command
}

const UNZIP: Reader = |zip, entry| command(&["unzip", "-p"], zip, entry);
const SEVEN_ZIP: Reader = |zip, entry| command(&["7z", "e", "-so", "-bd"], zip, entry);
const BSDTAR: Reader = |zip, entry| command(&["bsdtar", "-xOf"], zip, entry);
const PYTHON: Reader = |zip, entry| {
    let script = "import shutil, sys, zipfile\n\
                  entry = zipfile.ZipFile(sys.argv[1]).open(sys.argv[2])\n\
                  shutil.copyfileobj(entry, sys.stdout.buffer)";
    command(&["python3", "-c", script], zip, entry)
};

/// A composer with these settings and a spool.
struct Composer(TempDir);

impl Composer {
    fn new(settings: &str) -> Composer {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let composer = Composer(dir);
        // Not by us: whoever another test starts meanwhile would have it open for
        // writing, and then it cannot be run.
        node::run(Command::new("cp").arg(node::dist().join("composer")).arg(composer.path("composer")));
        fs::create_dir(composer.path("spool")).expect("the spool");
        let yaml = format!("spool_dir: {}\nkeep_free: 64MiB\n{settings}\n", composer.path("spool").display());
        fs::write(composer.path("composer.yaml"), yaml).expect("its settings");
        composer
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Gives it a core and returns the dump, and the core's SHA-256.
    fn dump(&self, core: &Memory) -> (PathBuf, String) {
        let mut composer = Command::new(self.path("composer"))
            .args(["P4294967295", "s11", "t1795375861", "ecrasher"])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .spawn()
            .expect("starting the composer");
        let mut pipe = composer.stdin.take().expect("it is piped");
        let mut sha256 = Sha256::new();
        let mut chunk = vec![0; 1 << 20];
        for at in (0..core.length).step_by(chunk.len()) {
            let chunk = &mut chunk[..(core.length - at).min(1 << 20)];
            core.read_at(at, chunk);
            sha256.update(&chunk);
            pipe.write_all(chunk).expect("the composer reads");
        }
        drop(pipe);
        assert!(composer.wait().expect("the composer").success());
        let names = fs::read_dir(self.path("spool")).expect("the spool").flatten().map(|entry| entry.path());
        let dump = names.filter(|path| path.extension().is_some_and(|suffix| suffix == "zip")).max();
        (dump.expect("a dump"), hex(sha256))
    }
}

fn hex(sha256: Sha256) -> String {
    sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of what a reader says the core is, if it is content with the zip.
fn read(reader: Reader, dump: &Path) -> Result<String, String> {
    let name = dump.file_name().expect("a name").to_string_lossy().into_owned();
    let id = name.split(['_', '.']).next().expect("an id").to_owned();
    let mut command = reader(dump, &format!("{id}/core"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a reader");
    let mut out = child.stdout.take().expect("it is piped");
    let mut sha256 = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match out.read(&mut chunk).expect("what it reads") {
            0 => break,
            n => sha256.update(&chunk[..n]),
        }
    }
    let mut said = String::new();
    child.stderr.take().expect("it is piped").read_to_string(&mut said).expect("it is text");
    match child.wait().expect("the reader").success() {
        true => Ok(hex(sha256)),
        false => Err(format!("{command:?}: {said}")),
    }
}

fn all_read(readers: &[Reader], settings: &str, cores: &[Memory]) {
    let composer = Composer::new(settings);
    for core in cores {
        let (dump, sha256) = composer.dump(core);
        for reader in readers {
            assert_eq!(read(*reader, &dump).as_ref(), Ok(&sha256), "{core:?}, {settings}");
        }
        fs::remove_file(dump).expect("removing the dump");
    }
}

fn cores() -> Vec<Memory> {
    let of = |fill| {
        [0, 1, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 9_999_999].map(|length| Memory { fill, length })
    };
    [Fill::Mixed, Fill::Zero, Fill::Random, Fill::Pattern].into_iter().flat_map(of).collect()
}

#[test]
fn everybody_reads_deflate() {
    for settings in ["compression: deflate", "threads: 1", "threads: 8"] {
        all_read(&[UNZIP, SEVEN_ZIP, BSDTAR, PYTHON], settings, &cores());
    }
}

#[test]
fn everybody_reads_what_is_stored() {
    all_read(&[UNZIP, SEVEN_ZIP, BSDTAR, PYTHON], "compression: store", &cores());
}

#[test]
fn seven_zip_and_bsdtar_read_zstd() {
    for settings in ["{compression: zstd}", "{compression: zstd, threads: 5}"] {
        let settings = settings.trim_matches(['{', '}']).replace(", ", "\n");
        all_read(&[SEVEN_ZIP, BSDTAR], &settings, &cores());
    }
}

#[test]
fn a_core_of_more_than_four_gibibytes_is_read_as_well() {
    let core = Memory { fill: Fill::Sparse, length: (4 << 30) + 12_345 };
    all_read(&[UNZIP, SEVEN_ZIP, BSDTAR, PYTHON], "", &[core]);
    all_read(&[BSDTAR], "compression: zstd", &[core]);
}

#[test]
fn the_number_of_threads_changes_no_byte_of_the_core() {
    let core = Memory { fill: Fill::Pattern, length: 5_000_000 };
    let entry = |threads: usize| {
        let composer = Composer::new(&format!("threads: {threads}"));
        let dump = fs::read(composer.dump(&core).0).expect("the dump");
        let second = dump.windows(4).skip(4).position(|at| at == b"PK\x03\x04").expect("a second entry");
        // Without the first header (its name and its extra fields differ, and
        // their lengths are where APPNOTE.TXT 4.3.7 says).
        let length = |at: usize| usize::from(u16::from_le_bytes([dump[at], dump[at + 1]]));
        dump[30 + length(26) + length(28)..second].to_vec()
    };
    let one = entry(1);
    assert!((2..=8).all(|threads| entry(threads) == one));
}
