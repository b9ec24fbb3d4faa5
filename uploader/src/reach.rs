//! Asks the store, now and then, whether it is there: without a dump nobody
//! else does.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use protocol::spool::DumpId;
use tokio::time::{sleep, timeout};

use crate::key::Template;
use crate::monitor::Monitor;
use crate::upload::Uploader;

/// As often as the spool is listed: the same patience for both.
const EVERY: Duration = Duration::from_secs(180);
/// After it was not there.
const AGAIN: Duration = Duration::from_secs(10);
/// Longer than the network's own deadlines, which say more about what is wrong.
const DEADLINE: Duration = Duration::from_secs(60);

/// Asks for ever.
pub async fn ask(uploader: Uploader, monitor: Arc<Monitor>) {
    // No dump has this id, and none is needed: to say so is an answer.
    let key = Template::default().key(&DumpId::new(Timestamp::UNIX_EPOCH, 0, 0), None);
    loop {
        let answer = match timeout(DEADLINE, uploader.store().reach(&key)).await {
            Ok(answer) => answer.map_err(|err| format!("{:#}", anyhow::Error::from(err))),
            Err(_) => Err(format!("not within {} s", DEADLINE.as_secs())),
        };
        let pause = if answer.is_ok() { EVERY } else { AGAIN };
        monitor.asked(answer);
        sleep(pause).await;
    }
}
