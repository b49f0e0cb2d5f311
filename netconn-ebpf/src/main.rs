//! netconn's eBPF programs: one object for every kernel from 5.10 on.
//!
//! Built by `cargo xtask ebpf`. On other targets this crate is empty, so that tools can walk the whole workspace.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    feature(asm_experimental_arch),
    expect(unstable_features, reason = "atomic addition and loads from contexts exist as instructions only")
)]

#[cfg(target_arch = "bpf")]
mod programs;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
