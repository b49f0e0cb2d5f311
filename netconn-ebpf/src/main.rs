//! netconn's eBPF programs: one object for every kernel from 5.10 on.
//!
//! `tcp`, `accept`, `attempt`, `inherit`, `flow`, `datagram`, `process` and `iter` hold the programs, `sock`, `task` and
//! `kernel` everything that reads kernel memory, `emit` all writes to the ring buffer, `maps` what is shared with the daemon.
//! Built by `cargo xtask ebpf`; on other targets this crate is empty, so that tools can walk the whole workspace.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    feature(asm_experimental_arch),
    expect(unstable_features, reason = "atomic addition is to be had as an instruction only")
)]

#[cfg(target_arch = "bpf")]
mod accept;
#[cfg(target_arch = "bpf")]
mod attempt;
#[cfg(target_arch = "bpf")]
mod datagram;
#[cfg(target_arch = "bpf")]
mod emit;
#[cfg(target_arch = "bpf")]
mod flow;
#[cfg(target_arch = "bpf")]
mod inherit;
#[cfg(target_arch = "bpf")]
mod iter;
#[cfg(target_arch = "bpf")]
mod kernel;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod path;
#[cfg(target_arch = "bpf")]
mod process;
#[cfg(target_arch = "bpf")]
mod sock;
#[cfg(target_arch = "bpf")]
mod task;
#[cfg(target_arch = "bpf")]
mod tcp;

/// Kernel structures and most helpers are open to GPL-compatible programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A panic must not load: the verifier refuses a program that can reach this loop.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
