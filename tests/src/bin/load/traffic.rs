//! One connection, as a client and as a server sees it.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use clap::ValueEnum;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Addresses of loopback that clients go round, so that connections in TIME_WAIT leave ports for others.
const ADDRESSES: usize = 1000;
const REQUEST: &[u8] = b"GET /index.html HTTP/1.0\r\nHost: localhost\r\nUser-Agent: load\r\n\r\n";
/// What the server answers: 1,024 bytes, headers counted in.
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

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// No data; the client closes at once with RST.
    Rst,
    /// No data; the client closes at once with FIN, then the server.
    Fin,
    /// A small request and an answer of a kilobyte, after which the server closes, as in HTTP/1.0.
    Http,
}

/// A listener on all addresses, at a port that is free.
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

/// The addresses to connect to, one after the other.
pub(crate) fn destinations(port: u16) -> Vec<SockAddr> {
    let address = |number: usize| {
        let [.., third, fourth] = number.to_be_bytes();
        SocketAddrV4::new(Ipv4Addr::new(127, 1, third, fourth), port).into()
    };
    (1..=ADDRESSES).map(address).collect()
}

/// A connection that is closed with RST.
pub(crate) fn connect(to: &SockAddr) -> io::Result<Socket> {
    let client = socket()?;
    client.set_linger(Some(Duration::ZERO))?;
    client.connect(to)?;
    Ok(client)
}

/// A client's part, from its beginning to its end.
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

/// A server's part with one connection.
pub(crate) fn serve(kind: Kind, listener: &Socket) -> io::Result<()> {
    let (mut server, _) = listener.accept()?;
    let mut buffer = [0; 256];
    match kind {
        // The end of the connection comes as an error if it is a RST.
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
