//! Generates a history to search: events as the daemon writes them, distributed as on a server, in segments of the
//! store.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde_json::json;

/// The length at which a segment is closed, as in the daemon.
const SEGMENT_BYTES: u64 = 64 << 20;
/// The end of the history in epoch milliseconds, 2026-11-01T00:00:00Z. It is fixed, so that the events are always the
/// same.
const END_MS: u64 = 1_793_491_200_000;
/// The length of the history in milliseconds: 30 days.
const SPAN_MS: u64 = 30 * 24 * 3_600_000;
/// Number of remote addresses on the internet.
const OUTSIDE: u64 = 200_000;
/// Number of remote addresses in the private network.
const INSIDE: u64 = 2_000;

/// Ports of servers, and how many of 1,000 connections go to each; the others go to random ports.
const PORTS: [(u16, u64); 9] =
    [(443, 520), (80, 120), (53, 90), (5432, 60), (6379, 50), (8080, 40), (22, 30), (25, 15), (9200, 15)];
/// Programs, the busiest first.
const PROGRAMS: [&str; 16] = [
    "nginx",
    "java",
    "node",
    "python3",
    "curl",
    "envoy",
    "postgres",
    "redis-server",
    "chrome",
    "sshd",
    "prometheus",
    "git",
    "apt",
    "ntpd",
    "bash",
    "nmap",
];
const USERS: [&str; 6] = ["www-data", "app", "root", "deploy", "postgres", "alice"];

/// Writes `count` events into segments in a folder, and calls `each` for every closed segment, which it may remove.
pub fn events(count: u64, folder: &Path, mut each: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut random = Random(0x6E65_7463_6F6E_6E21);
    let mut segment: Option<(PathBuf, BufWriter<File>, u64)> = None;
    let mut line = Vec::with_capacity(2048);
    let (mut bytes, mut segments, mut pending) = (0, 0, None);
    for number in 0..count {
        // Times are spread evenly; 128 bits because the product exceeds 64 from seven billion events on.
        let time_ms = END_MS - SPAN_MS + (u128::from(number) * u128::from(SPAN_MS) / u128::from(count)) as u64;
        line.clear();
        let connection = pending.take();
        let is_end = connection.is_some();
        let connection = connection.unwrap_or_else(|| Connection::new(&mut random, number));
        connection.write(&mut line, number, time_ms, is_end)?;
        // Nearly all successful connections are followed by their end.
        pending = (!is_end && connection.succeeds && random.below(100) < 95).then_some(connection);
        let (path, mut file, length) = match segment.take() {
            Some(segment) => segment,
            None => {
                let path = folder.join(format!("events-{time_ms:013}.ndjson"));
                (path.clone(), BufWriter::with_capacity(1 << 20, File::create_new(path)?), 0)
            }
        };
        file.write_all(&line)?;
        let length = length + line.len() as u64;
        bytes += line.len() as u64;
        if length >= SEGMENT_BYTES || number + 1 == count {
            file.flush()?;
            segments += 1;
            each(&path)?;
        } else {
            segment = Some((path, file, length));
        }
    }
    let (from, to) = (END_MS - SPAN_MS, END_MS);
    println!("{}", json!({"events": count, "bytes": bytes, "segments": segments, "from": from, "to": to}));
    Ok(())
}

struct Connection {
    id: u64,
    is_outgoing: bool,
    succeeds: bool,
    remote: Ipv4Addr,
    /// The server's and the client's port.
    ports: (u16, u16),
    program: usize,
    user: usize,
    bytes: (u64, u64),
    duration_us: u64,
}

impl Connection {
    fn new(random: &mut Random, id: u64) -> Self {
        let is_outgoing = random.below(10) < 7;
        let remote = if random.below(10) < 4 {
            Ipv4Addr::from(0x0A00_0000 + random.skewed(INSIDE) as u32)
        } else {
            // From 20.0.0.0 to 115.255.255.255, which has no private network.
            Ipv4Addr::from(0x1400_0000 + (random.skewed(OUTSIDE) as u32).wrapping_mul(0x9E37) % 0x6000_0000)
        };
        let mut share = random.below(1000);
        // Shares are subtracted one after the other until the random number falls into one.
        let known = PORTS.iter().find(|(_, part)| {
            let is_it = share < *part;
            share = share.saturating_sub(*part);
            is_it
        });
        let server = known.map_or_else(|| 1024 + random.below(60_000) as u16, |(port, _)| *port);
        let client = 32_768 + random.below(28_000) as u16;
        Self {
            id,
            is_outgoing,
            succeeds: random.below(100) < 95,
            remote,
            ports: (server, client),
            program: random.skewed(PROGRAMS.len() as u64) as usize,
            user: random.skewed(USERS.len() as u64) as usize,
            bytes: (random.skewed(1 << 24), random.skewed(1 << 26)),
            duration_us: random.skewed(600_000_000),
        }
    }

    fn write(&self, line: &mut Vec<u8>, number: u64, time_ms: u64, is_end: bool) -> io::Result<()> {
        let Self { id, is_outgoing, succeeds, remote, ports: (server, client), program, user, .. } = self;
        let local = Ipv4Addr::new(10, 1, 2, 3);
        // src is the end that began the connection, as in real events.
        let (source, destination) = if *is_outgoing { (local, *remote) } else { (*remote, local) };
        let (local_port, remote_port) = if *is_outgoing { (client, server) } else { (server, client) };
        let direction = if *is_outgoing { "OUTGOING" } else { "INCOMING" };
        let kind = if is_end { "IP Close" } else { "IP Connect" };
        let status = if *succeeds { "SUCCESS" } else { "FAILURE" };
        let moment = Timestamp::from_millisecond(time_ms.cast_signed()).map_err(io::Error::other)?;
        write!(
            line,
            "{{\"event.type\":\"{kind}\",\"event.category\":\"ip\",\"event.time\":{time_ms},\"timestamp\":\"{moment:.9}\",\
             \"event.id\":\"f3d83904a3084574-{number:x}\",\"event.connection.id\":\"4b8dbc7457bc4640-{id:x}-1\",\
             \"event.network.direction\":\"{direction}\",\"event.network.protocol\":\"TCP\",\
             \"event.network.protocolName\":\"tcp\",\"event.network.connectionStatus\":\"{status}\",",
        )?;
        if !succeeds {
            write!(line, "\"event.network.failureReason\":\"refused\",\"event.network.errno\":111,")?;
        }
        if is_end {
            let (sent, received) = self.bytes;
            write!(
                line,
                "\"event.network.closeReason\":\"local\",\"event.network.bytesSent\":{sent},\
                 \"event.network.bytesReceived\":{received},\"event.network.packetsSent\":{},\
                 \"event.network.packetsReceived\":{},\"event.network.durationMs\":{}.{:03},\
                 \"event.network.rttUs\":{},\"event.network.retransmits\":0,",
                sent / 1400 + 3,
                received / 1400 + 3,
                self.duration_us / 1000,
                self.duration_us % 1000,
                200 + sent % 50_000,
            )?;
        }
        let (program, pid) = (PROGRAMS[*program], 1000 + id % 5000);
        writeln!(
            line,
            "\"event.network.namespace\":4026531833,\"event.network.communityId\":\"1:9h4eIY732TJUt6HTTHM{:08x}=\",\
             \"src.ip.address\":\"{source}\",\"src.port.number\":{client},\"dst.ip.address\":\"{destination}\",\
             \"dst.port.number\":{server},\"local.ip.address\":\"{local}\",\"local.port.number\":{local_port},\
             \"remote.ip.address\":\"{remote}\",\"remote.port.number\":{remote_port},\"src.process.pid\":{pid},\
             \"src.process.tid\":{pid},\"src.process.name\":\"{program}\",\"src.process.image.path\":\"/usr/bin/{program}\",\
             \"src.process.cmdline\":\"/usr/bin/{program} --serve --worker {}\",\"src.process.user\":\"{}\",\
             \"src.process.userId\":{},\"src.process.uid\":\"4b8dbc7457bc4640-{pid}-8110791\",\
             \"src.process.startTime\":{},\"src.process.parent.pid\":1,\"src.process.parent.name\":\"systemd\",\
             \"src.process.parent.image.path\":\"/usr/lib/systemd/systemd\",\"src.process.attribution\":\"connect\",\
             \"src.process.systemdUnit\":\"{program}.service\",\"src.process.cgroupPath\":\"/system.slice/{program}.service\",\
             \"endpoint.name\":\"web-1\",\"endpoint.os\":\"linux\",\"agent.uuid\":\"f76c8ed6-9a12-449e-98e1-8070d8a903f8\",\
             \"agent.version\":\"0.1.0\",\"dataSource.name\":\"netconn\",\"dataSource.vendor\":\"netconn\",\
             \"dataSource.category\":\"security\"}}",
            u32::from(*remote) ^ u32::from(*client),
            id % 32,
            USERS[*user],
            user + 1000,
            END_MS - SPAN_MS + id % 5000 * 1000,
        )
    }
}

/// A random number generator (splitmix64) with a fixed seed, so that the events are always the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Returns a number below `limit`; small numbers are more frequent, like addresses and lengths in real traffic.
    fn skewed(&mut self, limit: u64) -> u64 {
        let part = self.next() as f64 / u64::MAX as f64;
        ((limit as f64).powf(part) as u64 - 1).min(limit - 1)
    }
}
