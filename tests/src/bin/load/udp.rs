//! Sends datagrams on loopback as fast as one CPU sends and receives them. One thread does both: with a thread for each
//! end, sleeping and waking would cost more than everything else, and a different amount in each run.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use serde_json::json;

use crate::flood::cpu_seconds;

/// Bytes of a datagram.
const SIZE: usize = 64;
/// How many datagrams are sent before they are received. A socket's buffer takes more by default (212,992 bytes; a
/// small datagram takes 768), so that none is dropped.
const PART: usize = 32;

/// How sockets are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Manner {
    /// Connected sockets, with `send` and `recv`, which take no address.
    Connected,
    /// Unconnected sockets, with `sendto` and `recvfrom`, which run the sendmsg and recvmsg hooks each time.
    Unconnected,
    /// Like `Unconnected`, but each datagram comes from a new socket, as a DNS query does: each is a flow at either
    /// end.
    Fresh,
}

/// When to end: at this count or after this time, whichever comes first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) count: usize,
    pub(crate) duration: Option<Duration>,
}

/// Sends datagrams through this number of pairs of sockets in turn. Prints the elapsed time and the CPU time as JSON.
pub(crate) fn udp(manner: Manner, sockets: usize, limit: Limit) -> io::Result<()> {
    let pairs: Vec<_> = (0..sockets).map(|_| pair(manner)).collect::<io::Result<_>>()?;
    // After the sockets are made: their cost is not that of datagrams.
    let (since, cpu_before) = (Instant::now(), cpu_seconds()?);
    let is_late = || limit.duration.is_some_and(|duration| since.elapsed() >= duration);
    let mut sent = 0;
    // Each pair sends one part at a time.
    for pair in pairs.iter().cycle() {
        let part = PART.min(limit.count - sent);
        if part == 0 || is_late() {
            break;
        }
        deliver(manner, pair, part)?;
        sent += part;
    }
    let (seconds, cpu_seconds) = (since.elapsed().as_secs_f64(), cpu_seconds()? - cpu_before);
    let pid = std::process::id();
    println!("{}", json!({"pid": pid, "datagrams": sent, "seconds": seconds, "cpu_seconds": cpu_seconds}));
    Ok(())
}

/// The sending socket, the receiving socket, and the address of the latter.
type Pair = (UdpSocket, UdpSocket, SocketAddr);

fn pair(manner: Manner) -> io::Result<Pair> {
    let (sender, receiver) = (bind()?, bind()?);
    let to = receiver.local_addr()?;
    if manner == Manner::Connected {
        sender.connect(to)?;
        receiver.connect(sender.local_addr()?)?;
    }
    // After this time a datagram counts as dropped.
    receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok((sender, receiver, to))
}

fn bind() -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
}

/// Sends `count` datagrams, and then receives them. A dropped datagram is an error.
fn deliver(manner: Manner, (sender, receiver, to): &Pair, count: usize) -> io::Result<()> {
    let mut datagram = [0; SIZE];
    for _ in 0..count {
        match manner {
            Manner::Connected => sender.send(&datagram)?,
            Manner::Unconnected => sender.send_to(&datagram, to)?,
            Manner::Fresh => bind()?.send_to(&datagram, to)?,
        };
    }
    for _ in 0..count {
        match manner {
            Manner::Connected => receiver.recv(&mut datagram)?,
            Manner::Unconnected | Manner::Fresh => receiver.recv_from(&mut datagram)?.0,
        };
    }
    Ok(())
}
