//! Reading BPF iterators.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read},
    iter, mem,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use aya::programs::Iter;
use bytemuck::AnyBitPattern;
use netconn_common::{FileRecord, Owner};
use nix::{
    sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, setns},
    unistd::Pid,
};
use tracing::debug;

use crate::kernel::fault::Fault;

/// What the kernel gives at once at most (`bpf_seq_read` in `kernel/bpf/bpf_iter.c`: `PAGE_SIZE << 3`).
const READ_BYTES: usize = 32 << 10;
/// What [`Fault::ShortReads`] gives at once: less than a record, and no divisor of one.
const SHORT_READ: usize = 61;
/// How often the rest goes on while something is read.
const MEANWHILE: Duration = Duration::from_millis(1);
/// Times in a row that the kernel may say that it found nothing in a million objects.
const AGAIN_MAX: u32 = 1000;
/// The process's own network namespace, whatever namespace the calling thread has entered.
const OWN_NAMESPACE: &str = "/proc/self/ns/net";

/// What is made of the bytes of an iterator.
pub(super) trait Collect: Default + Send {
    /// Takes the record at the beginning of `bytes` and gives its length; `None` if it is not whole.
    fn take(&mut self, bytes: &[u8]) -> Option<usize>;

    /// Takes what was found elsewhere.
    fn add(&mut self, other: Self);
}

impl<T: AnyBitPattern + Send> Collect for Vec<T> {
    fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        self.push(bytemuck::pod_read_unaligned(bytes.get(..size_of::<T>())?));
        Some(size_of::<T>())
    }

    fn add(&mut self, mut other: Self) {
        if self.len() < other.len() {
            mem::swap(self, &mut other);
        }
        self.append(&mut other);
    }
}

/// All records of an iterator, in the network namespace of the caller where that matters.
pub(super) fn here<C: Collect>(program: &mut Iter, faults: &[Fault]) -> io::Result<C> {
    let mut found = C::default();
    run(&Mutex::new(program), faults, &mut found)?;
    Ok(found)
}

/// All records of sockets in every network namespace, and the inodes of those that were read: not those that the
/// caller may not enter. To be called on a thread that nobody needs in its old namespace afterwards.
pub(super) fn all_namespaces<C: Collect>(program: &mut Iter, faults: &[Fault]) -> io::Result<(C, HashSet<u64>)> {
    namespaces(program, faults, |_| true, has_sockets)
}

/// The same in the network namespaces of which the inode is wanted, and where there is anything, as `is_any` says when
/// it is called inside: to look through a hash table of 262,144 buckets for nothing takes the kernel more than 20 ms.
///
/// Where there are several, two threads share them: there whoever waits has the answer of 100,000 sockets a tenth sooner.
pub(super) fn namespaces<C: Collect>(
    program: &mut Iter,
    faults: &[Fault],
    wanted: impl Fn(u64) -> bool + Sync,
    is_any: impl Fn() -> bool + Sync,
) -> io::Result<(C, HashSet<u64>)> {
    let own = own_namespace();
    let others: Vec<_> = other_namespaces().into_iter().filter(|(inode, _)| wanted(*inode)).collect();
    let split = if others.is_empty() { None } else { Split::of_this_thread() };
    let (program, others) = (Mutex::new(program), Mutex::new(others));
    let next = || others.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let read_others = |found: &mut C| -> io::Result<HashSet<u64>> {
        let mut read = HashSet::new();
        while let Some((inode, namespace)) = next() {
            match setns(&namespace, CloneFlags::CLONE_NEWNET) {
                Ok(()) => {
                    if is_any() {
                        run(&program, faults, found)?;
                    }
                    read.insert(inode);
                }
                Err(error) => debug!("a network namespace cannot be entered: {error}"),
            }
        }
        Ok(read)
    };
    thread::scope(|scope| {
        let second = split.as_ref().map(|Split { last, .. }| {
            thread::Builder::new().name("netconn-dump".into()).spawn_scoped(scope, || {
                let mut found = C::default();
                // If it may run anywhere it leaves all to the first.
                let read = if use_processors(last) { read_others(&mut found)? } else { HashSet::new() };
                Ok::<_, io::Error>((found, read))
            })
        });
        let mut found = C::default();
        if own.is_none_or(&wanted) && is_any() {
            run(&program, faults, &mut found)?;
        }
        let mut read = read_others(&mut found)?;
        read.extend(own);
        if let Some(second) = second {
            let (more, also) = second?.join().map_err(|_| io::Error::other("a thread of the daemon panicked"))??;
            found.add(more);
            read.extend(also);
        }
        Ok((found, read))
    })
}

/// A thread's processors in two parts, of which it uses the first while this lives: what programs write to before they hand it
/// over is one for each processor, and where kernels preempt, two threads on the same one would write to the same.
struct Split {
    all: CpuSet,
    last: CpuSet,
}

impl Split {
    /// `None` if there is but one processor, or none can be chosen.
    fn of_this_thread() -> Option<Self> {
        let all = sched_getaffinity(THIS_THREAD).ok()?;
        let usable = |cpu: &usize| all.is_set(*cpu).unwrap_or(false);
        let cpu = (0..CpuSet::count()).rfind(usable)?;
        let (mut most, mut last) = (all, CpuSet::new());
        most.unset(cpu).ok()?;
        last.set(cpu).ok()?;
        (most != CpuSet::new() && use_processors(&most)).then_some(Self { all, last })
    }
}

impl Drop for Split {
    fn drop(&mut self) {
        use_processors(&self.all);
    }
}

/// Lets the calling thread run there only; whether that works.
fn use_processors(processors: &CpuSet) -> bool {
    sched_setaffinity(THIS_THREAD, processors).is_ok()
}

/// As `sched_setaffinity(2)` has it.
const THIS_THREAD: Pid = Pid::from_raw(0);

fn run(program: &Mutex<&mut Iter>, faults: &[Fault], found: &mut impl Collect) -> io::Result<()> {
    let file = {
        let mut program = program.lock().unwrap_or_else(PoisonError::into_inner);
        let link = program.attach().map_err(io::Error::other)?;
        let link = program.take_link(link).map_err(io::Error::other)?;
        link.into_file().map_err(io::Error::other)?
    };
    if faults.is_empty() { read(file, found) } else { read(Faulty { inner: file, faults, reads: 0 }, found) }
}

/// Assigns each socket without an owner to the process that has it open; to the oldest process if there are several. Each
/// socket comes with its [`FileRecord::socket`].
pub fn assign_owners<'a>(sockets: impl IntoIterator<Item = (u64, &'a mut Owner)>, files: &[FileRecord]) {
    let mut owners: hashbrown::HashMap<u64, &FileRecord> = hashbrown::HashMap::with_capacity(files.len());
    for file in files {
        let owner = owners.entry(file.socket).or_insert(file);
        if file.owner.start_ns < owner.owner.start_ns {
            *owner = file;
        }
    }
    for (socket, owner) in sockets.into_iter().filter(|(_, owner)| owner.tgid == 0) {
        if let Some(file) = owners.get(&socket) {
            *owner = file.owner;
        }
    }
}

/// Whether the calling thread's network namespace has TCP sockets or minisocks: the kernel counts them
/// (`sockstat_seq_show` in `net/ipv4/proc.c`).
pub(super) fn has_sockets() -> bool {
    // Twice: each processor has a count of its own, and one that is read before a socket begins there makes up for another
    // that is read after a socket of elsewhere has ended there.
    (0..2).any(|_| is_any("sockstat", "TCP:", &["inuse", "tw"]) || is_any("sockstat6", "TCP6:", &["inuse"]))
}

/// The same of UDP sockets.
pub(super) fn has_datagrams() -> bool {
    (0..2).any(|_| is_any("sockstat", "UDP:", &["inuse"]) || is_any("sockstat6", "UDP6:", &["inuse"]))
}

/// The same of minisocks of connections that are over alone.
pub(super) fn has_minisocks() -> bool {
    is_any("sockstat", "TCP:", &["tw"])
}

/// Whether one of these numbers is not 0, in a line of a file about the calling thread's network namespace. What cannot be
/// read may be anything, but a protocol that is not there has no file.
fn is_any(file: &str, line: &str, names: &[&str]) -> bool {
    match fs::read_to_string(Path::new("/proc/thread-self/net").join(file)) {
        Ok(text) => names.iter().any(|name| number_in(&text, line, name) != Some(0)),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// The number behind `tw` in `TCP: inuse 5 orphan 0 tw 2 alloc 7 mem 1`.
fn number_in(sockstat: &str, line: &str, name: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|text| text.strip_prefix(line))?;
    line.split_whitespace().skip_while(|word| *word != name).nth(1)?.parse().ok()
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
pub(super) fn other_namespaces() -> Vec<(u64, File)> {
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

fn read(mut file: impl Read, found: &mut impl Collect) -> io::Result<()> {
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
                let bytes = if is_copied { &rest[..] } else { &buffer[..length] };
                let mut taken = 0;
                while let Some(length) = found.take(&bytes[taken..]) {
                    taken += length;
                }
                rest = bytes[taken..].to_vec();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && again < AGAIN_MAX => again += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Reads with the faults that are asked for.
struct Faulty<'a, R> {
    inner: R,
    faults: &'a [Fault],
    reads: u32,
}

impl<R: Read> Read for Faulty<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        if self.faults.contains(&Fault::ReadAgain) && !self.reads.is_multiple_of(2) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.faults.contains(&Fault::BrokenReads) {
            return Err(io::Error::other("broken off on request"));
        }
        let limit = if self.faults.contains(&Fault::ShortReads) { SHORT_READ } else { buffer.len() };
        self.inner.read(&mut buffer[..limit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_may_come_in_pieces() {
        let bytes: Vec<u8> = (0..100_u64).flat_map(u64::to_ne_bytes).collect();
        let mut found = Vec::<u64>::new();
        let faults = [Fault::ShortReads, Fault::ReadAgain];
        read(Faulty { inner: &bytes[..], faults: &faults, reads: 0 }, &mut found).unwrap();
        assert_eq!(found, (0..100).collect::<Vec<_>>());
        let broken = Faulty { inner: &bytes[..], faults: &[Fault::BrokenReads], reads: 0 };
        assert!(read(broken, &mut found).is_err());
    }

    #[test]
    fn minisocks_are_counted_by_the_kernel() {
        let text = "sockets: used 84\nTCP: inuse 5 orphan 0 tw 12 alloc 7 mem 1\nUDP: inuse 1 mem 0\n";
        assert_eq!(number_in(text, "TCP:", "tw"), Some(12));
        assert_eq!(number_in("TCP: inuse 5", "TCP:", "tw"), None);
        let own = fs::read_to_string("/proc/thread-self/net/sockstat").unwrap();
        assert!(number_in(&own, "TCP:", "tw").is_some() && number_in(&own, "TCP:", "inuse").is_some(), "{own}");
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
