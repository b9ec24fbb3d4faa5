//! What can be wrong with a store.

use std::time::Duration;

/// What happens to a request instead of, or besides, the store's answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The request is read to its end and answered with this.
    Answer {
        /// The HTTP status.
        status: u16,
        /// Headers, such as `Retry-After`.
        headers: Vec<(String, String)>,
        /// The body.
        body: String,
    },
    /// The request is read to its end and never answered.
    Hang,
    /// The connection closes before the request was read.
    Disconnect,
    /// The connection closes after so many bytes of the body, or all of it.
    Cut {
        /// Bytes that are read.
        after: u64,
    },
    /// The body is read no faster than this, until the faults are cleared.
    Slow {
        /// Bytes in a second.
        rate: u64,
    },
    /// The store does what was asked, and the connection closes before it says so.
    LoseAnswer,
    /// The store takes this long before it reads the request.
    Delay(Duration),
    /// One bit of the body's byte at this offset arrives wrong.
    Damage {
        /// Counted from 0. Beyond the end nothing happens.
        offset: u64,
    },
}

impl Fault {
    /// An error as S3 tells it. With status 200 it is the error that
    /// `CompleteMultipartUpload` may hide behind its early status line.
    pub fn error(status: u16, code: &str) -> Fault {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <Error><Code>{code}</Code><Message>as the test wishes</Message></Error>"
        );
        let headers = vec![("Content-Type".to_owned(), "application/xml".to_owned())];
        Fault::Answer { status, headers, body }
    }
}
