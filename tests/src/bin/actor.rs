//! A program that tests run as a child with another executable than their own.
//!
//! `actor accept FD` accepts a connection from the listener that it inherited as descriptor FD, and holds it until its
//! standard input ends.

use std::{io::Read as _, net::TcpListener, os::fd::FromRawFd as _};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, descriptor] = &arguments[..] else { panic!("actor accept FD") };
    assert_eq!(what, "accept");
    // SAFETY: the parent passes the descriptor to this process, which owns it from now on.
    let listener = unsafe { TcpListener::from_raw_fd(descriptor.parse().unwrap()) };
    let _held = listener.accept().unwrap();
    let _ = std::io::stdin().read(&mut [0]);
}
