//! What netconn reports, and how it is asked for and shown: events, rows of snapshots, filters, the client of the daemon's
//! socket. Every program of netconn uses this crate; it loads no eBPF program and holds no query engine.
//!
//! The order of the modules is the order of dependency: each uses only those above it. See `ARCHITECTURE.md`.

pub mod term;
pub mod state;
pub mod lines;
pub mod moment;
pub mod json;
pub mod value;
pub mod csv_cell;
pub mod members;
pub mod holder;
pub mod fact;
pub mod community_id;
pub mod field;
pub mod event;
pub mod socket_kind;
mod ranges;
mod words;
pub mod filter;
pub mod row;
pub mod format;
pub mod packet_socket;
pub mod snapshot;
pub mod segment_name;
pub mod health;
pub mod settings;
pub mod config;
pub mod config_files;
pub mod client;
pub mod read_ahead;
pub mod exit;
