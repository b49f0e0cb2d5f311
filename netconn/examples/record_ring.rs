//! Records the ring's records of one network namespace, for tests without a kernel; see `tests/recorded.rs`.
//!
//! `cargo run --release --example record_ring -- NAME FILE COMMAND…` (as root) runs a command in the namespace NAME
//! (`ip netns add NAME`) and writes the records of its connections and processes to FILE. Each record follows its
//! length, which is 4 bytes in the machine's byte order.

use std::{collections::HashSet, fs, os::unix::fs::MetadataExt as _, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use netconn::kernel::{
    capture::Capture,
    decode::{Record, decode},
    load::CaptureOptions,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, file, command @ ..] = &arguments[..] else { bail!("usage: record_ring NAME FILE COMMAND…") };
    let inode = fs::metadata(format!("/run/netns/{name}")).context("no such namespace")?.ino();
    let mut capture = Capture::start(&CaptureOptions::one_shot(8 << 20))?;
    let status = Command::new("ip").args(["netns", "exec", name]).args(command).status()?;
    println!("{}: {status}", command.join(" "));
    thread::sleep(Duration::from_millis(200));
    let mut records: Vec<Vec<u8>> = Vec::new();
    while capture.rings().next(|record| records.push(record.to_vec())) != 0 {}
    let (mut sockets, mut processes) = (HashSet::new(), HashSet::new());
    for record in &records {
        let tcp = match decode(record) {
            Some(Record::Tcp(record)) => record,
            Some(Record::Unsent(record)) => &record.attempt,
            _ => continue,
        };
        if u64::from(tcp.namespace) == inode {
            sockets.insert(tcp.socket);
            processes.insert(tcp.state.owner.tgid);
        }
    }
    for record in &records {
        if let Some(Record::Owner(record)) = decode(record)
            && sockets.contains(&record.socket)
        {
            processes.insert(record.owner.tgid);
        }
    }
    let is_wanted = |record: &Vec<u8>| match decode(record) {
        Some(Record::Tcp(record)) => sockets.contains(&record.socket),
        Some(Record::Unsent(record)) => sockets.contains(&record.attempt.socket),
        Some(Record::Owner(record)) => sockets.contains(&record.socket),
        Some(Record::Exec(record, ..)) => processes.contains(&record.tgid),
        Some(Record::Fork(record)) => processes.contains(&record.tgid),
        Some(Record::Exit(record)) => processes.contains(&record.tgid),
        Some(
            Record::Flow(_) | Record::UdpSocket(_) | Record::Refused(_) | Record::Released(_) | Record::Cgroup(..),
        )
        | None => false,
    };
    let mut out = Vec::new();
    for record in records.iter().filter(|record| is_wanted(record)) {
        out.extend_from_slice(&u32::try_from(record.len())?.to_ne_bytes());
        out.extend_from_slice(record);
    }
    fs::write(file, out)?;
    Ok(())
}
