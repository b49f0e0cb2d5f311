//! `netconn watch`: what it does when the daemon stops, and what its filters say about events.

use std::{
    fs,
    net::{TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use netconn_tests::{Daemon, Events, Netns, netconn, until};
use tempfile::TempDir;

/// A running `netconn watch` whose output goes to files. It is killed when dropped.
struct Watch {
    process: Child,
    folder: TempDir,
}

impl Watch {
    /// Starts it and waits until the daemon serves it, beside `others`.
    fn start(daemon: &Daemon, others: u64, options: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let file = |name: &str| fs::File::create(folder.path().join(name)).unwrap();
        let mut command = Command::new(netconn());
        command.args(["watch", "--format", "ndjson", "--socket"]).arg(daemon.socket()).args(options);
        let process = command.stdout(file("out")).stderr(file("errors")).spawn().unwrap();
        until(5000, || "nobody watches".into(), || daemon.health()["clients"] == others + 1);
        Self { process, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.path("errors")).unwrap()
    }

    fn events(&self) -> Events {
        Events::so_far(&self.path("out"))
    }

    /// Waits until it has told this.
    fn tells(&self, sentence: &str) {
        until(10_000, || format!("{sentence}: {}", self.errors()), || self.errors().contains(sentence));
    }

    /// Waits until it ends, and returns its exit code.
    fn ended(&mut self) -> Option<i32> {
        let mut status = None;
        until(
            10_000,
            || "watch does not end".into(),
            || {
                status = self.process.try_wait().unwrap();
                status.is_some()
            },
        );
        status.unwrap().code()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn watch_outlasts_a_daemon_and_says_so() {
    let namespace = Netns::new();
    let daemon = Daemon::start();
    let inode = namespace.inode.to_string();
    let watch = Watch::start(&daemon, 0, &["--namespace", &inode]);
    let mut once = Watch::start(&daemon, 1, &["--once"]);
    let mut piped = Command::new(netconn());
    piped.args(["watch", "--socket"]).arg(daemon.socket()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut unread = Watch { process: piped.spawn().unwrap(), folder: TempDir::new().unwrap() };
    until(5000, || "nobody watches".into(), || daemon.health()["clients"] == 3);
    let listen = || namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
    // A daemon that is killed tells its clients nothing.
    let killed = daemon.kill();
    watch.tells(" has gone (");
    assert_eq!(once.ended(), Some(69), "{}", once.errors());
    assert!(once.errors().contains(" has gone (") && !once.errors().contains("waiting"), "{}", once.errors());
    // Nothing is written, so that only a look at the pipe shows that nobody reads it.
    drop(unread.process.stdout.take());
    assert_eq!(unread.ended(), Some(0));
    let missed = listen();
    let daemon = killed.start();
    watch.tells(" are missing here");
    let seen = listen();
    let ports = || watch.events().of("IP Listen").values("local.port.number");
    until(5000, || format!("{:?}", ports()), || ports() == [seen]);
    assert_ne!(missed, seen);
    // One that is stopped in order says so in the stream, whatever the filter.
    let killed = daemon.end();
    watch.tells(" has stopped; waiting for the next one");
    let events = watch.events();
    assert_eq!(events.0.last().unwrap()["event.type"], "Sensor Stop");
    let daemon = killed.start();
    until(5000, || watch.errors(), || watch.errors().matches(" are missing here").count() == 2);
    daemon.stop();
}

#[test]
fn events_have_the_state_that_they_report() {
    let namespace = Netns::new();
    let daemon = Daemon::start();
    let inode = namespace.inode.to_string();
    let filters: [&[&str]; 5] = [
        &["--state", "established"],
        &["--state", "closed"],
        &["--state", "listening,unconnected"],
        &["--state", "all"],
        &["--failed"],
    ];
    let watches: Vec<Watch> = (0..)
        .zip(filters)
        .map(|(others, options)| Watch::start(&daemon, others, &[&["--once", "--namespace", &inode], options].concat()))
        .collect();
    namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Over before the event of the accepted end is due, which nobody accepts.
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.connect(peer.local_addr().unwrap()).unwrap();
        udp.send(b"x").unwrap();
        peer.recv(&mut [0; 1]).unwrap();
        let closed = listener.local_addr().unwrap();
        drop((listener, udp, peer));
        TcpStream::connect(closed).unwrap_err();
    });
    let all = daemon.stop().within(&namespace);
    let kinds = |events: &Events| {
        let mut kinds: Vec<String> = events
            .within(&namespace)
            .0
            .iter()
            .map(|event| {
                let text = |key: &str| event[key].as_str().unwrap_or("").to_owned();
                [text("event.type"), text("event.network.protocol"), text("event.network.failureReason")].join(" ")
            })
            .collect();
        kinds.sort_unstable();
        kinds
    };
    let found: Vec<Vec<String>> = watches
        .into_iter()
        .map(|mut watch| {
            assert_eq!(watch.ended(), Some(69), "{}", watch.errors());
            kinds(&watch.events())
        })
        .collect();
    let everything = kinds(&all);
    let only = |wanted: fn(&str) -> bool| everything.iter().filter(|kind| wanted(kind)).cloned().collect::<Vec<_>>();
    let is_failure = |kind: &str| kind.ends_with(" refused");
    assert_eq!(found[0], only(|kind| kind.starts_with("IP Connect") && !kind.ends_with(" refused")));
    assert_eq!(
        found[1],
        only(|kind| kind.starts_with("IP Close") || kind.starts_with("IP Listen End") || kind.ends_with(" refused"))
    );
    assert_eq!(found[2], only(|kind| kind.starts_with("IP Listen ") && !kind.starts_with("IP Listen End")));
    assert_eq!(found[3], everything);
    assert_eq!(found[4], ["IP Connect TCP refused"], "{everything:?}");
    // The kinds that the test is about are there, of both protocols.
    for kind in
        ["IP Connect TCP ", "IP Connect UDP ", "IP Close TCP ", "IP Close UDP ", "IP Listen TCP ", "IP Listen UDP "]
    {
        assert!(everything.iter().any(|found| found == kind), "{kind}: {everything:?}");
    }
    assert!(everything.iter().any(|kind| is_failure(kind)));
}
