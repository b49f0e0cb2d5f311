//! Searches netconn's events with the PowerQuery language.
//!
//! The order of the modules is the order of dependency: each uses only those above it. See `ARCHITECTURE.md`.

mod confine;
pub mod engine;
pub mod range;
pub mod indicator;
pub mod output;
pub mod home;
pub mod saved;
pub mod hunt;
pub mod editor;
pub mod cli;
