//! What is new in the journal and the one before it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use protocol::journal::{FILE_NAME, Line, MAX_BYTES, PREVIOUS};
use protocol::spool::Spool;
use serde::{Deserialize, Serialize};

/// More than a composer makes of a line; what is longer is passed over.
const CHUNK: usize = 64 << 10;
/// As much is read of a file at a time, so that one that nobody rotates takes
/// neither memory nor the node.
const MOST: u64 = MAX_BYTES;
/// Three or four lines, each with its random id.
const CONTEXT: u64 = 1024;

/// An end of what was read of a file, and what stands before it. Not the file's
/// name, which the next gets, nor its inode, which a file system may give the
/// next as well.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Mark {
    end: u64,
    crc32: u32,
}

/// What is new.
#[derive(Debug, Default)]
pub struct News {
    /// The lines, in order.
    pub lines: Vec<Line>,
    /// One for each file that has been read.
    pub read: Vec<Mark>,
}

/// The journals there are, the older first.
///
/// # Errors
/// If one cannot be opened.
pub fn files(spool: &Spool) -> io::Result<Vec<File>> {
    let open = |name| match spool.read_other(name) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        file => file.map(Some),
    };
    // The newer first: a rotation between the two shows one file twice. The
    // other way round it would hide one.
    let (newer, older) = (open(FILE_NAME)?, open(PREVIOUS)?);
    let inode =
        |file: &Option<File>| file.as_ref().map(|file| file.metadata().map(|meta| meta.ino())).transpose();
    let newer = if inode(&newer)? == inode(&older)? { None } else { newer };
    Ok(older.into_iter().chain(newer).collect())
}

/// Reads on in `files` from where `marks` are, or from the beginning of those
/// that have none. Lines that nobody understands are passed over, and one that
/// has no end yet waits.
///
/// # Errors
/// If one cannot be read; then nothing has been.
pub fn news(files: &[File], marks: &[Mark]) -> io::Result<News> {
    let mut news = News::default();
    for file in files {
        let len = file.metadata()?.len();
        let mut at = 0;
        for mark in marks {
            if mark.end > at && mark.end <= len && Mark::at(file, mark.end)? == *mark {
                at = mark.end;
            }
        }
        let stop = at.saturating_add(MOST);
        let mut chunk = vec![0; if at < len { CHUNK } else { 0 }];
        while at < stop {
            let n = file.read_at(&mut chunk, at)?;
            let whole = match chunk[..n].iter().rposition(|byte| *byte == b'\n') {
                Some(last) => last + 1,
                None if n == CHUNK => n,
                None => break,
            };
            let lines = chunk[..whole].split(|byte| *byte == b'\n');
            news.lines.extend(lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok()));
            at += whole as u64;
        }
        if at > 0 {
            news.read.push(Mark::at(file, at)?);
        }
    }
    Ok(news)
}

impl Mark {
    fn at(file: &File, end: u64) -> io::Result<Mark> {
        let start = end.saturating_sub(CONTEXT);
        let mut before = vec![0; (end - start) as usize];
        file.read_exact_at(&mut before, start)?;
        Ok(Mark { end, crc32: crc32fast::hash(&before) })
    }
}
