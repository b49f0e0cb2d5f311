//! The program `netconn-search`, which `netconn search` and `netconn hunt` start.

use std::process::ExitCode;

/// DataFusion allocates much memory for short times, for which mimalloc is faster than glibc. It serves C code as well:
/// zstd allocates a context for each column of each file, which glibc requested from the system and returned every
/// time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    netconn_search::cli::main(std::env::args_os())
}
