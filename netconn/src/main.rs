//! The `netconn` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    netconn::cli::main(std::env::args_os())
}
