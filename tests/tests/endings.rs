//! Every way in which a connection ends: in each state, by either side, by a timeout, and by an administrator.

use std::{
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use netconn_tests::{Daemon, Events, Forked, Netns, Pair, moment, pause, reset, rows, ss, step, until};
use serde_json::Value;
use socket2::{SockRef, TcpKeepalive};

/// A connection over a cable, from 10.0.0.1 (`here`) to 10.0.0.2 (`there`).
struct Link {
    pair: Pair,
    daemon: &'static Daemon,
    /// This end; `None` when it is closed.
    here: Option<TcpStream>,
    there: TcpStream,
}

impl Link {
    fn new() -> Self {
        let pair = Pair::new();
        let daemon = Daemon::shared();
        let listener = pair.there.run(|| TcpListener::bind("10.0.0.2:80").unwrap());
        let to: SocketAddr = listener.local_addr().unwrap();
        let here = pair.here.run(|| TcpStream::connect(to).unwrap());
        let (there, _) = listener.accept().unwrap();
        Self { pair, daemon, here: Some(here), there }
    }

    fn here(&self) -> &TcpStream {
        self.here.as_ref().unwrap()
    }

    /// Drops all packets that arrive at the other end from now on.
    fn silence(&self) {
        self.pair.there.exec("nft", &["add table inet t"]);
        self.pair.there.exec("nft", &["add chain inet t in { type filter hook input priority 0; policy drop; }"]);
    }

    fn heal(&self) {
        self.pair.there.exec("nft", &["flush ruleset"]);
    }

    /// Waits until this end has a state in the table, and checks that the table equals `ss`.
    fn wait_for(&self, state: &str) {
        let list = || self.daemon.list_all(self.pair.here.inode);
        until(8000, || format!("{:#?}", list()), || list().iter().any(|row| row["state"] == state));
        assert_eq!(rows(&self.daemon.list_all(self.pair.here.inode)), ss(&self.pair.here));
    }

    /// Waits until this end is no longer in the table.
    fn wait_for_the_end(&self) {
        let list = || self.daemon.list_all(self.pair.here.inode);
        until(15_000, || format!("{:#?}", list()), || list().is_empty());
    }

    /// Closes both ends and returns the only `IP Close` of this end.
    fn close(self) -> Value {
        moment();
        let Self { pair, daemon, here, there } = self;
        drop((here, there));
        moment();
        one_close(&daemon.events().within(&pair.here))
    }
}

/// Returns the only `IP Close`, which is that of the only connection.
fn one_close(events: &Events) -> Value {
    assert_eq!(events.of("IP Connect").one()["event.network.connectionStatus"], "SUCCESS");
    events.of("IP Close").one().clone()
}

#[test]
fn a_reset_in_each_state_is_the_peers() {
    for (state, errno) in [
        ("ESTABLISHED", 104),
        ("FIN_WAIT1", 104),
        ("FIN_WAIT2", 104),
        ("CLOSE_WAIT", 32),
        ("CLOSING", 104),
        ("LAST_ACK", 104),
    ] {
        let mut link = Link::new();
        match state {
            // The FIN is lost, so no acknowledgement moves the state on.
            "FIN_WAIT1" => {
                link.silence();
                link.here().shutdown(Shutdown::Write).unwrap();
            }
            "FIN_WAIT2" => link.here().shutdown(Shutdown::Write).unwrap(),
            "CLOSE_WAIT" => link.there.shutdown(Shutdown::Write).unwrap(),
            // The FIN of this end is lost, that of the other one arrives.
            "CLOSING" => {
                link.silence();
                link.here().shutdown(Shutdown::Write).unwrap();
                link.there.shutdown(Shutdown::Write).unwrap();
            }
            "LAST_ACK" => {
                link.there.shutdown(Shutdown::Write).unwrap();
                link.wait_for("CLOSE_WAIT");
                link.silence();
                // The process closes its socket, and only the kernel still has it.
                link.here.take();
            }
            _ => {}
        }
        link.wait_for(state);
        let Link { pair, daemon, here, there } = link;
        reset(there);
        moment();
        drop(here);
        moment();
        let events = daemon.events().within(&pair.here).with("dst.port.number", 80);
        let close = one_close(&events);
        assert_eq!(close["event.network.closeReason"], "reset_by_remote", "{state}");
        assert_eq!(close["event.network.errno"], errno, "{state}");
    }
}

#[test]
fn both_may_close_at_once() {
    let link = Link::new();
    link.silence();
    link.pair.here.exec("nft", &["add table inet t"]);
    link.pair.here.exec("nft", &["add chain inet t in { type filter hook input priority 0; policy drop; }"]);
    link.here().shutdown(Shutdown::Both).unwrap();
    link.there.shutdown(Shutdown::Both).unwrap();
    link.wait_for("FIN_WAIT1");
    link.heal();
    link.pair.here.exec("nft", &["flush ruleset"]);
    link.wait_for("TIME_WAIT");
    let list = || link.daemon.list_all(link.pair.there.inode);
    until(5000, || format!("{:#?}", list()), || list().iter().any(|row| row["state"] == "TIME_WAIT"));
    let Link { pair, daemon, .. } = link;
    let all = daemon.events();
    for namespace in [&pair.here, &pair.there] {
        assert_eq!(one_close(&all.within(namespace))["event.network.closeReason"], "local");
    }
}

#[test]
fn whoever_closes_first_is_reported() {
    for here_first in [true, false] {
        let link = Link::new();
        let Link { pair, daemon, here, there } = link;
        let there = Some(there);
        let (first, second) = if here_first { (here, there) } else { (there, here) };
        drop(first);
        moment();
        drop(second);
        moment();
        let all = daemon.events();
        let reasons =
            [&pair.here, &pair.there].map(|end| one_close(&all.within(end))["event.network.closeReason"].clone());
        assert_eq!(reasons, if here_first { ["local", "remote"] } else { ["remote", "local"] });
    }
}

#[test]
fn a_peer_that_is_not_heard_of_any_more_times_out() {
    let link = Link::new();
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(1)).with_interval(Duration::from_secs(1));
    SockRef::from(link.here()).set_tcp_keepalive(&keepalive.with_retries(2)).unwrap();
    link.silence();
    link.wait_for("ESTABLISHED");
    link.wait_for_the_end();
    let close = link.close();
    assert_eq!(close["event.network.closeReason"], "timed_out");
    assert_eq!(close["event.network.errno"], 110);

    // The second connection times out because sent data is not acknowledged.
    let link = Link::new();
    SockRef::from(link.here()).set_tcp_user_timeout(Some(Duration::from_secs(1))).unwrap();
    link.silence();
    SockRef::from(link.here()).send(b"hello").unwrap();
    link.wait_for_the_end();
    let close = link.close();
    assert_eq!(close["event.network.closeReason"], "timed_out");
    assert_eq!(close["event.network.errno"], 110);
    assert!(close["event.network.retransmits"].as_u64().unwrap() > 0);
}

#[test]
fn what_an_administrator_destroys_is_closed_here() {
    let link = Link::new();
    let port = link.here().local_addr().unwrap().port();
    let text = link.pair.here.exec("ss", &["-KtnH", "sport", "=", &format!(":{port}")]);
    if !text.contains("ESTAB") {
        // Kernels without INET_DIAG_DESTROY ignore it.
        link.wait_for("ESTABLISHED");
        assert_eq!(link.close()["event.network.closeReason"], "local");
        return;
    }
    moment();
    let close = link.close();
    assert_eq!(close["event.network.closeReason"], "reset_by_local");
}

#[test]
fn time_wait_has_the_owner_that_it_had() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    let (pid, port) = namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let mut child = Forked::new(|mut channel| {
            let client = TcpStream::connect(to).unwrap();
            step(&mut channel);
            pause(&mut channel);
            drop(client);
        });
        child.wait();
        let (server, peer) = listener.accept().unwrap();
        child.go();
        let pid = child.pid;
        child.join();
        moment();
        // The client's end is a minisock now.
        assert_eq!(rows(&daemon.list_all(namespace.inode)), ss(&namespace));
        drop(server);
        (pid, peer.port())
    });
    moment();
    let list = daemon.list_all(namespace.inode);
    assert_eq!(rows(&list), ss(&namespace));
    assert_eq!(list.len(), 1, "{list:#?}");
    let row = &list[0];
    assert_eq!((&row["state"], &row["local_port"], &row["pid"]), (&"TIME_WAIT".into(), &port.into(), &pid.into()));
    assert_eq!(row["attribution"], "connect");
    assert_eq!(row["direction"], "OUTGOING");
    assert!(row["process_name"].is_string() && row["connection_id"].is_string() && row["started_at"].is_string());
    // `list` only shows it on request.
    let shown =
        |state: &str| daemon.text(&["list", "-H", "--state", state, "--namespace", &namespace.inode.to_string()]);
    assert_eq!(shown("time-wait").lines().count(), 1);
    assert_eq!(shown("established"), "");
    let closed = daemon.events().within(&namespace).of("IP Close").with("src.process.pid", pid).one().clone();
    assert_eq!(closed["event.connection.id"], row["connection_id"]);
}

#[test]
fn a_process_that_is_killed_closes_what_it_had() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    let pid = namespace.run(|| {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let to = listener.local_addr().unwrap();
        let mut child = Forked::new(|mut channel| {
            let _held = TcpStream::connect(to).unwrap();
            step(&mut channel);
            pause(&mut channel);
        });
        child.wait();
        let (server, _) = listener.accept().unwrap();
        let pid = child.pid;
        drop(child); // SIGKILL
        moment();
        drop(server);
        pid
    });
    moment();
    let events = daemon.events().within(&namespace);
    let close = events.of("IP Close").with("event.network.direction", "OUTGOING").one().clone();
    assert_eq!((&close["src.process.pid"], &close["event.network.closeReason"]), (&pid.into(), &"local".into()));
}
