//! Memory that is not needed any more.

/// Gives freed memory back to the system. The C library keeps what lay between things that stay, and what a dump of 100,000
/// sockets took is a tenth of all the daemon has (`malloc_trim(3)`); others give it back by themselves.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointers, and locks what it looks at.
    let _ = unsafe { libc::malloc_trim(0) };
}
