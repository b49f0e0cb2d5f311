//! The `netconn-search` command.

use std::process::ExitCode;

/// DataFusion asks for much memory, for a short time each: glibc's allocator takes longer.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    netconn_search::cli::main(std::env::args_os())
}
