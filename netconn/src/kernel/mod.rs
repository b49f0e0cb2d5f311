//! Everything between netconn and the kernel: what this kernel offers, the eBPF object, its hooks and its records.

pub mod preflight;
pub mod btf;
pub mod hooks;
pub mod layout;
pub mod fault;
pub mod decode;
pub mod rings;
pub mod losses;
pub mod keep;
pub mod flows;
pub mod load;
pub mod iterate;
mod sock_diag;
pub mod diag;
pub mod socket_info;
pub mod links;
pub mod packet_socket;
pub mod packet_watch;
pub mod other_socket;
pub mod capture;
pub mod inventory;
pub mod route;
