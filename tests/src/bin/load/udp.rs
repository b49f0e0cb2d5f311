//! Datagrams on loopback, as fast as one processor sends and receives them. One thread does both: with one for each end, to
//! sleep and to be woken would cost more than all the rest, and never the same.

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
/// How many are sent before they are received: fewer than a socket's buffer takes by default (212,992 bytes, of which a small
/// datagram takes 768), so that none is dropped.
const PART: usize = 32;

/// How sockets are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Manner {
    /// Connected; `send` and `recv`, which name no address.
    Connected,
    /// Not connected; `sendto` and `recvfrom`, of which hooks are told each time.
    Unconnected,
    /// The same, each datagram from a new socket, as those who ask a name server do: each is a flow at either end.
    Fresh,
}

/// When to end: the first that comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) count: usize,
    pub(crate) duration: Option<Duration>,
}

/// Sends datagrams by so many pairs of sockets in turn, and says what that took.
pub(crate) fn udp(manner: Manner, sockets: usize, limit: Limit) -> io::Result<()> {
    let pairs: Vec<_> = (0..sockets).map(|_| pair(manner)).collect::<io::Result<_>>()?;
    let (since, cpu_before) = (Instant::now(), cpu_seconds()?);
    let is_late = || limit.duration.is_some_and(|duration| since.elapsed() >= duration);
    let mut sent = 0;
    // A part goes through one pair, the next one through the next.
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

/// A socket that sends, one that receives, and where that is.
type Pair = (UdpSocket, UdpSocket, SocketAddr);

fn pair(manner: Manner) -> io::Result<Pair> {
    let (sender, receiver) = (bind()?, bind()?);
    let to = receiver.local_addr()?;
    if manner == Manner::Connected {
        sender.connect(to)?;
        receiver.connect(sender.local_addr()?)?;
    }
    // One that does not come was dropped.
    receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok((sender, receiver, to))
}

fn bind() -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
}

/// Sends so many datagrams, and then receives them. One that was dropped is an error.
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
