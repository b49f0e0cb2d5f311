//! A program that tests run as a child with another executable than their own.
//!
//! `actor accept FD` accepts a connection from the listener that it inherited as descriptor FD, and holds it until its
//! standard input ends.
//!
//! `actor chain PORT COUNT` connects to PORT of 127.0.0.1 and executes the file beside it whose name is the other port of the
//! pair (PORT and PORT + 1, even and odd), with one less to do.

use std::{
    io::Read as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::{fd::FromRawFd as _, unix::process::CommandExt as _},
    path::Path,
    process::Command,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["accept", descriptor] => accept(descriptor),
        ["chain", port, count] => chain(port.parse().unwrap(), count.parse().unwrap()),
        _ => panic!("actor accept FD | actor chain PORT COUNT"),
    }
}

fn chain(port: u16, count: u32) {
    // Refused, which is an event too.
    let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    if count > 1 {
        let next = (port ^ 1).to_string();
        let own = std::env::args().next().unwrap();
        let program = Path::new(&own).with_file_name(&next);
        let error = Command::new(program).args(["chain", &next, &(count - 1).to_string()]).exec();
        panic!("{error}");
    }
}

fn accept(descriptor: &str) {
    // SAFETY: the parent passes the descriptor to this process, which owns it from now on.
    let listener = unsafe { TcpListener::from_raw_fd(descriptor.parse().unwrap()) };
    let _held = listener.accept().unwrap();
    let _ = std::io::stdin().read(&mut [0]);
}
