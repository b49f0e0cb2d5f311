//! The output of `ss`, in netconn's terms.

use std::net::IpAddr;

use serde_json::Value;

use crate::Netns;

/// A socket: its state, its local end, and its remote end, which listeners do not have. An end is `ADDRESS PORT`.
pub type Socket = (String, String, Option<String>);

/// Returns the TCP sockets of a namespace by `ss -tan`, sorted.
pub fn ss(namespace: &Netns) -> Vec<Socket> {
    let text = namespace.exec("ss", &["-tanH"]);
    let mut sockets: Vec<Socket> = text
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let state = match words.next().unwrap() {
                "LISTEN" => "LISTENING",
                "ESTAB" => "ESTABLISHED",
                "SYN-SENT" => "SYN_SENT",
                "FIN-WAIT-1" => "FIN_WAIT1",
                "FIN-WAIT-2" => "FIN_WAIT2",
                "CLOSE-WAIT" => "CLOSE_WAIT",
                "LAST-ACK" => "LAST_ACK",
                "CLOSING" => "CLOSING",
                "TIME-WAIT" => "TIME_WAIT",
                "SYN-RECV" => "SYN_RECV",
                other => panic!("unknown state {other}: {line}"),
            };
            // Skips Recv-Q and Send-Q.
            let local = end(words.nth(2).unwrap());
            let remote = (state != "LISTENING").then(|| end(words.next().unwrap()));
            (state.to_owned(), local, remote)
        })
        .collect();
    sockets.sort();
    sockets
}

/// Returns the UDP sockets of a namespace by `ss -uanp`, sorted, with the processes that have them open.
pub fn ss_udp(namespace: &Netns) -> Vec<(Socket, Vec<u32>)> {
    let text = namespace.exec("ss", &["-uanpH"]);
    let mut sockets: Vec<_> = text
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (state, remote) = match words[0] {
                "UNCONN" => ("UNCONNECTED", None),
                "ESTAB" => ("ESTABLISHED", Some(end(words[4]))),
                other => panic!("unknown state {other}: {line}"),
            };
            let pids = line.split("pid=").skip(1).map(|rest| rest.split(',').next().unwrap().parse().unwrap());
            ((state.to_owned(), end(words[3]), remote), pids.collect())
        })
        .collect();
    sockets.sort();
    sockets
}

/// Returns the sockets in the rows of a netconn snapshot, sorted.
pub fn rows(rows: &[Value]) -> Vec<Socket> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut sockets: Vec<Socket> = rows
        .iter()
        .map(|row| {
            let local = format!("{} {}", text(&row["local_address"]), row["local_port"]);
            let remote = row.get("remote_address").map(|address| format!("{} {}", text(address), row["remote_port"]));
            (text(&row["state"]), local, remote)
        })
        .collect();
    sockets.sort();
    sockets
}

/// Converts an end as `ss` writes it: `[::ffff:10.0.0.1]:80` and `10.0.0.1%eth0:80` become `10.0.0.1 80`, `*:80`
/// becomes `:: 80`.
fn end(text: &str) -> String {
    let (address, port) = text.rsplit_once(':').unwrap();
    let address = address.split('%').next().unwrap().trim_matches(['[', ']']);
    let address: IpAddr = if address == "*" { "::".parse().unwrap() } else { address.parse().unwrap() };
    format!("{} {port}", address.to_canonical())
}
