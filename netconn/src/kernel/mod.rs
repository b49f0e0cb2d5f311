//! Everything between netconn and the kernel: what this kernel offers, the eBPF object, its hooks and its records.

pub mod btf;
pub mod decode;
pub mod hooks;
mod iterate;
pub mod load;
pub mod preflight;
pub mod route;
