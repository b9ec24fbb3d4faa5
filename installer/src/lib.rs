//! Puts the composer on the host and points the kernel at it.
