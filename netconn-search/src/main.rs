//! The `netconn-search` command.

use std::process::ExitCode;

/// DataFusion asks for much memory, for a short time each: glibc's allocator takes longer. It serves C as well: zstd has a context
/// for each column of each file, which glibc got from the system and gave back each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    netconn_search::cli::main(std::env::args_os())
}
