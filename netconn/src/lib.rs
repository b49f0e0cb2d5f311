//! netconn: traces every network connection of a Linux machine, the process that made it, and its outcome.
//!
//! The order of the modules is the order of dependency: each module uses only those above it. See `ARCHITECTURE.md`.

pub mod clock;
pub mod os;
pub mod service;
pub mod log_output;
pub mod shrink;
pub mod patience;
pub mod privileged;
pub mod kernel;
pub mod interfaces;
pub mod process;
pub mod names;
pub mod table;
pub mod rules;
pub mod encode;
pub mod lock_file;
pub mod state_dir;
pub mod forget;
pub mod line_file;
pub mod search_program;
pub mod store;
pub mod sink;
pub mod engine;
pub mod server;
pub mod doctor;
pub mod daemonless;
pub mod reload;
pub mod daemon;
pub mod cli;
