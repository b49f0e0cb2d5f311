//! Reading BPF iterators.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read},
    iter,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    thread,
    time::Duration,
};

use aya::programs::Iter;
use bytemuck::AnyBitPattern;
use netconn_common::{FileRecord, TcpRecord};
use nix::sched::{CloneFlags, setns};
use tracing::debug;

/// What the kernel gives at once at most (`bpf_seq_read` in `kernel/bpf/bpf_iter.c`: `PAGE_SIZE << 3`).
const READ_BYTES: usize = 32 << 10;
/// How often the rest goes on while something is read.
const MEANWHILE: Duration = Duration::from_millis(1);
/// Times in a row that the kernel may say that it found nothing in a million objects.
const AGAIN_MAX: u32 = 1000;
/// The process's own network namespace, whatever namespace the calling thread has entered.
const OWN_NAMESPACE: &str = "/proc/self/ns/net";

/// All records of an iterator, in the network namespace of the caller where that matters.
pub(super) fn here<T: AnyBitPattern>(program: &mut Iter) -> io::Result<Vec<T>> {
    let mut records = Vec::new();
    add_here(program, &mut records)?;
    Ok(records)
}

fn add_here<T: AnyBitPattern>(program: &mut Iter, records: &mut Vec<T>) -> io::Result<()> {
    let link = program.attach().map_err(io::Error::other)?;
    let link = program.take_link(link).map_err(io::Error::other)?;
    let mut file = link.into_file().map_err(io::Error::other)?;
    read(&mut file, records)
}

/// All records of an iterator in every network namespace, and the inodes of those that were read: not those that the
/// caller may not enter. To be called on a thread that nobody needs in its old namespace afterwards.
pub(super) fn all_namespaces<T: AnyBitPattern>(program: &mut Iter) -> io::Result<(Vec<T>, HashSet<u64>)> {
    namespaces(program, |_| true, || true)
}

/// The same in the network namespaces of which the inode is wanted, and where there is anything, as `is_any` says when
/// it is called inside: to look through a hash table of 262,144 buckets for nothing takes the kernel more than 20 ms.
pub(super) fn namespaces<T: AnyBitPattern>(
    program: &mut Iter,
    wanted: impl Fn(u64) -> bool,
    is_any: impl Fn() -> bool,
) -> io::Result<(Vec<T>, HashSet<u64>)> {
    let mut records = Vec::new();
    let own = own_namespace();
    if own.is_none_or(&wanted) && is_any() {
        add_here(program, &mut records)?;
    }
    let mut read: HashSet<u64> = own.into_iter().collect();
    for (inode, namespace) in other_namespaces().into_iter().filter(|(inode, _)| wanted(*inode)) {
        match setns(&namespace, CloneFlags::CLONE_NEWNET) {
            Ok(()) => {
                if is_any() {
                    add_here(program, &mut records)?;
                }
                read.insert(inode);
            }
            Err(error) => debug!("a network namespace cannot be entered: {error}"),
        }
    }
    Ok((records, read))
}

/// Gives sockets without an owner to the process that has them open: of several to the one that is there longest.
pub fn own(sockets: &mut [TcpRecord], files: &[FileRecord]) {
    let mut owners: hashbrown::HashMap<u64, &FileRecord> = hashbrown::HashMap::with_capacity(files.len());
    for file in files {
        let owner = owners.entry(file.socket).or_insert(file);
        if file.owner.start_ns < owner.owner.start_ns {
            *owner = file;
        }
    }
    for socket in sockets.iter_mut().filter(|socket| socket.state.owner.tgid == 0) {
        if let Some(file) = owners.get(&socket.socket) {
            socket.state.owner = file.owner;
        }
    }
}

/// Whether the calling thread's network namespace has minisocks of connections that are over: the kernel counts them
/// (`sockstat_seq_show` in `net/ipv4/proc.c`).
pub(super) fn has_minisocks() -> bool {
    fs::read_to_string("/proc/thread-self/net/sockstat").map_or(true, |text| minisocks_in(&text) != Some(0))
}

/// The number behind `tw` in `TCP: inuse 5 orphan 0 tw 2 alloc 7 mem 1`.
fn minisocks_in(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_whitespace().skip_while(|word| *word != "tw").nth(1)?.parse().ok()
}

/// Does something that takes long on a thread of its own, and something else on this one until it is done.
///
/// # Errors
///
/// When the system gives no thread, or it panics.
pub fn beside<T: Send>(work: impl FnOnce() -> T + Send, mut meanwhile: impl FnMut()) -> io::Result<T> {
    let waiting = thread::current();
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("netconn-dump".into()).spawn_scoped(scope, move || {
            let done = work();
            waiting.unpark();
            done
        })?;
        while !worker.is_finished() {
            meanwhile();
            thread::park_timeout(MEANWHILE);
        }
        worker.join().map_err(|_| io::Error::other("a thread of the daemon panicked"))
    })
}

/// The inode of the process's own network namespace: that of its first thread.
pub(super) fn own_namespace() -> Option<u64> {
    fs::metadata(OWN_NAMESPACE).ok().map(|metadata| metadata.ino())
}

/// Handles of all network namespaces that a process is in or that have a name, but for the caller's.
fn other_namespaces() -> Vec<(u64, File)> {
    let mut seen: HashSet<u64> = own_namespace().into_iter().collect();
    let mut found = Vec::new();
    for path in namespace_paths() {
        // Looked at first, so that each is opened once only.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if !seen.contains(&metadata.ino())
            && let Ok(file) = File::open(&path)
            && let Ok(metadata) = file.metadata()
            && seen.insert(metadata.ino())
        {
            found.push((metadata.ino(), file));
        }
    }
    found
}

/// A handle of the network namespace with this inode, if it is the process's own, another process is in it, or it has
/// a name. Looks at every process if need be: 1 ms where there are 71.
pub(super) fn namespace(inode: u64) -> Option<File> {
    // Looked at again once opened: a process may have moved, or its id may be another's.
    iter::once(PathBuf::from(OWN_NAMESPACE))
        .chain(namespace_paths())
        .filter(|path| fs::metadata(path).is_ok_and(|metadata| metadata.ino() == inode))
        .filter_map(|path| File::open(path).ok())
        .find(|file| file.metadata().is_ok_and(|metadata| metadata.ino() == inode))
}

/// Where network namespaces are found, many of them more than once.
fn namespace_paths() -> impl Iterator<Item = PathBuf> {
    entries("/proc").map(|folder| folder.join("ns/net")).chain(entries("/run/netns"))
}

fn entries(folder: &str) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn read<T: AnyBitPattern>(file: &mut impl Read, records: &mut Vec<T>) -> io::Result<()> {
    let mut rest = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut again = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                again = 0;
                // Most of the time there are only whole ones.
                let is_copied = !rest.is_empty();
                if is_copied {
                    rest.extend_from_slice(&buffer[..length]);
                }
                let bytes = if is_copied { &rest } else { &buffer[..length] };
                let whole = bytes.chunks_exact(size_of::<T>());
                let cut = whole.remainder().to_vec();
                records.extend(whole.map(bytemuck::pod_read_unaligned::<T>));
                rest = cut;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && again < AGAIN_MAX => again += 1,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives bytes in odd portions, with interruptions.
    struct Portions(Vec<u8>, u32);

    impl Read for Portions {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1.is_multiple_of(2) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let length = self.0.len().min(3);
            buffer[..length].copy_from_slice(&self.0[..length]);
            self.0.drain(..length);
            Ok(length)
        }
    }

    #[test]
    fn records_may_come_in_pieces() {
        let bytes: Vec<u8> = [1_u32, 2, 3].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut records = vec![0_u32];
        read(&mut Portions(bytes, 0), &mut records).unwrap();
        assert_eq!(records, [0, 1, 2, 3]);
    }

    #[test]
    fn minisocks_are_counted_by_the_kernel() {
        let text = "sockets: used 84\nTCP: inuse 5 orphan 0 tw 12 alloc 7 mem 1\nUDP: inuse 1 mem 0\n";
        assert_eq!(minisocks_in(text), Some(12));
        assert_eq!(minisocks_in("TCP: inuse 5"), None);
        let own = fs::read_to_string("/proc/thread-self/net/sockstat").unwrap();
        assert!(minisocks_in(&own).is_some(), "{own}");
    }

    #[test]
    fn the_own_namespace_is_not_among_the_others() {
        let own = own_namespace().unwrap();
        assert!(other_namespaces().iter().all(|(inode, _)| *inode != own));
    }

    #[test]
    fn a_namespace_is_found_by_its_inode() {
        let own = own_namespace().unwrap();
        assert_eq!(namespace(own).unwrap().metadata().unwrap().ino(), own);
        assert!(namespace(0).is_none());
    }
}
