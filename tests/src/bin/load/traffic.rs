//! The client's and the server's part of one connection.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use clap::ValueEnum;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Number of loopback addresses that clients connect to in turn: connections in TIME_WAIT occupy a port of one address
/// only.
const ADDRESSES: usize = 1000;
const REQUEST: &[u8] = b"GET /index.html HTTP/1.0\r\nHost: localhost\r\nUser-Agent: load\r\n\r\n";
/// The server's answer: 1,024 bytes with its headers.
const ANSWER: [u8; 1024] = {
    let mut answer = [b'x'; 1024];
    let head = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 958\r\n\r\n";
    let mut at = 0;
    while at < head.len() {
        answer[at] = head[at];
        at += 1;
    }
    answer
};

/// What a connection transfers, and how it closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// No data; the client closes at once with RST.
    Rst,
    /// No data; the client closes at once with FIN, then the server.
    Fin,
    /// A small request and an answer of a kilobyte, after which the server closes, as in HTTP/1.0.
    Http,
}

/// Returns a listener on all addresses at a free port, and this port.
pub(crate) fn listen() -> io::Result<(Socket, u16)> {
    let listener = socket()?;
    listener.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0).into())?;
    listener.listen(65_535)?;
    let port = listener.local_addr()?.as_socket().map_or(0, |address| address.port());
    Ok((listener, port))
}

fn socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
}

/// Returns the addresses to connect to in turn.
pub(crate) fn destinations(port: u16) -> Vec<SockAddr> {
    let address = |number: usize| {
        let [.., third, fourth] = number.to_be_bytes();
        SocketAddrV4::new(Ipv4Addr::new(127, 1, third, fourth), port).into()
    };
    (1..=ADDRESSES).map(address).collect()
}

/// Connects a socket that is closed with RST when it is dropped.
pub(crate) fn connect(to: &SockAddr) -> io::Result<Socket> {
    let client = socket()?;
    // Without TIME_WAIT, which would use up the ports in a long flood.
    client.set_linger(Some(Duration::ZERO))?;
    client.connect(to)?;
    Ok(client)
}

/// Plays the client's part of one connection, from connecting to closing.
pub(crate) fn client(kind: Kind, to: &SockAddr) -> io::Result<()> {
    match kind {
        Kind::Rst => drop(connect(to)?),
        Kind::Fin => socket()?.connect(to)?,
        Kind::Http => {
            let mut client = socket()?;
            client.connect(to)?;
            client.write_all(REQUEST)?;
            let mut buffer = [0; ANSWER.len()];
            while client.read(&mut buffer)? != 0 {}
        }
    }
    Ok(())
}

/// Plays the server's part of one connection, from accepting to closing.
pub(crate) fn serve(kind: Kind, listener: &Socket) -> io::Result<()> {
    let (mut server, _) = listener.accept()?;
    let mut buffer = [0; 256];
    match kind {
        // A RST is reported as an error.
        Kind::Rst | Kind::Fin => _ = server.read(&mut buffer),
        Kind::Http => {
            let mut length = 0;
            while length < REQUEST.len() {
                match server.read(&mut buffer[length..])? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => length += count,
                }
            }
            server.write_all(&ANSWER)?;
        }
    }
    Ok(())
}
