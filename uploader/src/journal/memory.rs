//! What survives a restart: how far the journal has been read, and what that
//! adds up to. Both in one file, so that no kill can come between them.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use protocol::spool::Spool;
use serde::{Deserialize, Serialize};

use super::tail::Mark;

/// Its name in the spool, where it is with the journal or not at all.
const FILE_NAME: &str = "uploader.json";
/// The name under which it is written.
const TEMPORARY: &str = "uploader.json.new";
/// It has about 600 bytes. One with more is not ours.
const MOST: u64 = 64 << 10;

/// The memory.
#[derive(Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Memory {
    /// Ends of what was read.
    pub read: Vec<Mark>,
    /// The counters.
    pub crashes: BTreeMap<String, u64>,
}

impl Memory {
    /// What is remembered, which may be nothing; `None` if there is no spool.
    ///
    /// # Errors
    /// If it cannot be told whether there is one.
    pub fn load(spool: &Spool) -> io::Result<Option<Memory>> {
        let read = || -> io::Result<Memory> {
            let mut json = Vec::new();
            spool.read_other(FILE_NAME)?.take(MOST).read_to_end(&mut json)?;
            Ok(serde_json::from_slice(&json)?)
        };
        match read() {
            Ok(memory) => Ok(Some(memory)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                Ok(spool.dir().try_exists()?.then(Memory::default))
            }
            // Rather too many than none, and the node has to be watched.
            Err(err) => {
                log::warn!(
                    spool:% = spool.dir().display();
                    "{FILE_NAME} cannot be read, all that is in the journal is counted anew: {err}"
                );
                Ok(Some(Memory::default()))
            }
        }
    }

    /// Remembers it, by temp name, sync, rename. Whatever a kill or a power cut
    /// leaves, it is one that was true.
    ///
    /// # Errors
    /// If it could not be written; then the one before is still there.
    pub fn save(&self, spool: &Spool) -> io::Result<()> {
        let temporary = spool.dir().join(TEMPORARY);
        match fs::remove_file(&temporary) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&temporary)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(temporary, spool.dir().join(FILE_NAME))
    }
}
