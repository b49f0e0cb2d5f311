//! The `netconn-search` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    netconn_search::cli::main(std::env::args_os())
}
