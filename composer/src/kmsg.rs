//! The kernel's log: the one place a helper can speak to that outlives a full
//! disk. Two lines per crash, began and ended, and no more: it is a ring, and
//! what we write pushes the kernel's own messages out of it.

use std::fs::OpenOptions;
use std::io::Write;

use protocol::text::one_line;

/// The kernel refuses a record of about 1,000 bytes (`devkmsg_write` in
/// `kernel/printk/printk.c`).
const MAX_BYTES: usize = 800;

/// Something happened that is in order.
pub fn notice(message: &str) {
    write(5, message);
}

/// Something happened that a person should look at.
pub fn error(message: &str) {
    write(3, message);
}

/// One write is one record. Failing to log is no reason to fail, and there is
/// nobody left to tell.
fn write(level: u8, message: &str) {
    let record = format!("<{level}>coredump-composer: {}\n", bounded(message));
    if let Ok(mut kmsg) = OpenOptions::new().write(true).open("/dev/kmsg") {
        let _ = kmsg.write_all(record.as_bytes());
    }
}

fn bounded(message: &str) -> String {
    let mut line = one_line(message);
    line.truncate(line.floor_char_boundary(MAX_BYTES));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_of_bounded_length() {
        assert_eq!(bounded("a\n<0>b"), r"a\x0a<0>b");
        assert!(bounded(&"ä".repeat(2000)).len() <= MAX_BYTES);
    }
}
