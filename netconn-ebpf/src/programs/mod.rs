//! The programs and what they share. The order of the modules is the order of their dependencies: `kernel`, `task`, `path`,
//! `image` and `sock` read kernel memory, `maps` and `settings` are shared with the daemon, `emit` alone writes to the rings; the
//! others hold the programs.

mod kernel;
mod maps;
mod settings;
mod emit;
mod task;
mod sock;
mod storage;
mod life;
mod tcp_record;
mod datagram;
mod attempt;
mod tcp;
mod accept;
mod flow;
mod path;
mod image;
mod process;
mod iter;

/// The kernel opens its structures and most helpers to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Makes the verifier refuse a program that can panic: it sees a loop without an end.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
