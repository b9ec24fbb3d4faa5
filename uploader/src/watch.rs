//! Tells when something in the spool may have changed. An event is a hint; the
//! directory is the truth.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A subscription to what happens in a directory; inotify(7).
pub struct Watch(AsyncFd<Descriptor>);

/// What happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// A name arrived, or so many that the kernel stopped counting: look.
    Look,
    /// The directory is no longer where it was: subscribe again.
    Lost,
}

struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// Subscribes to names that arrive in `dir` by rename, which is how dumps
    /// are published. Their directory has to be listed after this, so that
    /// nothing falls in between.
    ///
    /// # Errors
    /// If there is no such directory.
    pub fn new(dir: &Path) -> io::Result<Watch> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let arrivals = AddWatchFlags::IN_MOVED_TO;
        let departure = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        inotify.add_watch(dir, arrivals | departure | AddWatchFlags::IN_ONLYDIR)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, and asks only for what holds here: the descriptor is owned, \
                      and stays the same and open for as long as it is registered"
        )]
        let inotify = AsyncFd::with_interest(Descriptor(inotify), Interest::READABLE)?;
        Ok(Watch(inotify))
    }

    /// Waits for a change. Cancelling it loses none.
    ///
    /// # Errors
    /// If the kernel breaks off the subscription.
    pub async fn changed(&mut self) -> io::Result<Change> {
        loop {
            let mut ready = self.0.readable().await?;
            let lost = AddWatchFlags::IN_DELETE_SELF
                | AddWatchFlags::IN_MOVE_SELF
                | AddWatchFlags::IN_IGNORED
                | AddWatchFlags::IN_UNMOUNT;
            match ready.get_inner().0.read_events() {
                Ok(events) if events.iter().any(|event| event.mask.intersects(lost)) => {
                    return Ok(Change::Lost);
                }
                Ok(_) => return Ok(Change::Look), // IN_MOVED_TO and IN_Q_OVERFLOW alike
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(err) => return Err(err.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn arrivals_are_told_and_lesser_events_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(dir.path()).unwrap();
        fs::write(dir.path().join("a"), "x").unwrap();
        assert!(timeout(Duration::from_millis(50), watch.changed()).await.is_err());
        fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert_eq!(watch.changed().await.unwrap(), Change::Look);
        fs::rename(dir.path(), dir.path().with_extension("moved")).unwrap();
        assert_eq!(watch.changed().await.unwrap(), Change::Lost);
        fs::remove_dir_all(dir.path().with_extension("moved")).unwrap();
        assert!(Watch::new(&dir.path().join("nowhere")).is_err());
    }

    #[tokio::test]
    async fn an_overflow_is_a_reason_to_look() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(dir.path()).unwrap();
        let queue: usize =
            fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
        fs::write(dir.path().join("0"), "x").unwrap();
        for n in 0..queue + 10 {
            fs::rename(dir.path().join(n.to_string()), dir.path().join((n + 1).to_string())).unwrap();
        }
        let mut looks = 0;
        while let Ok(change) = timeout(Duration::from_millis(50), watch.changed()).await {
            assert_eq!(change.unwrap(), Change::Look);
            looks += 1;
        }
        assert!(looks > 0);
    }
}
