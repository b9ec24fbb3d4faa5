//! A crash that only shows that the kernel runs the composer: the installer makes
//! one whenever it has put a composer into place. The composer writes a line about
//! it into the journal, and no dump, or each update would leave one per node in
//! the bucket, and an Event that alarms somebody.
//!
//! It is known by its command name, which anybody can take who does not want to be
//! dumped. They need no trick of ours for that (`PR_SET_DUMPABLE` in prctl(2)).

use crate::argv::Argv;

const PREFIX: &str = "trial-";
/// Hexadecimal digits after the prefix: as many as a command name has room for.
const DIGITS: usize = 9;

/// The command name of a trial, of its own for each `seed`.
pub fn comm(seed: u64) -> String {
    format!("{PREFIX}{:0DIGITS$x}", seed & ((1 << (4 * DIGITS)) - 1))
}

/// Whether this crash is a trial.
pub fn is_one(crash: &Argv) -> bool {
    let digits = crash.comm.as_ref().and_then(|comm| comm.as_bytes().strip_prefix(PREFIX.as_bytes()));
    digits.is_some_and(|digits| {
        digits.len() == DIGITS && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_known_by_a_name_that_the_kernel_does_not_cut() {
        let is_one = |comm: &str| is_one(&Argv { comm: Some(comm.into()), ..Argv::default() });
        for seed in [0, 1, 0xffff_ffff, u64::MAX] {
            assert!(comm(seed).len() == 15 && is_one(&comm(seed)), "{}", comm(seed));
        }
        for other in ["trial-", "trial-12345678", "trial-1234567890", "trial-12345678g", "trials-12345678"] {
            assert!(!is_one(other), "{other}");
        }
    }
}
