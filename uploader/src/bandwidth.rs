//! How fast dumps may leave, all uploads together.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A limit in bytes per second.
pub struct Bandwidth {
    per_second: NonZeroU64,
    /// When all that was asked for so far is through.
    free: Mutex<Instant>,
}

impl Bandwidth {
    /// A limit.
    pub fn new(per_second: NonZeroU64) -> Bandwidth {
        Bandwidth { per_second, free: Mutex::new(Instant::now()) }
    }

    /// How long to wait before sending this many bytes. It is whoever asks first
    /// who goes first, so that uploads share it evenly.
    pub fn reserve(&self, bytes: usize) -> Duration {
        let now = Instant::now();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = now.max(*free);
        *free = begin + Duration::from_secs_f64(bytes as f64 / self.per_second.get() as f64);
        begin - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_together_send_no_more_than_the_limit_and_each_its_share() {
        let bandwidth = Bandwidth::new(NonZeroU64::new(1000).unwrap());
        let began = Instant::now();
        let send = |chunks| {
            let bandwidth = &bandwidth;
            async move {
                for _ in 0..chunks {
                    tokio::time::sleep(bandwidth.reserve(100)).await;
                }
                began.elapsed().as_secs_f64()
            }
        };
        let (one, two, three) = tokio::join!(send(50), send(50), send(10));
        assert!((10.5..11.1).contains(&one) && (10.5..11.1).contains(&two), "{one} {two}");
        assert!(three < 3.1, "{three}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_used_is_not_made_up_for() {
        let bandwidth = Bandwidth::new(NonZeroU64::new(1000).unwrap());
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(bandwidth.reserve(5000), Duration::ZERO);
        assert_eq!(bandwidth.reserve(1), Duration::from_secs(5));
    }
}
