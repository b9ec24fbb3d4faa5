//! What the kernel runs when a process dies.
