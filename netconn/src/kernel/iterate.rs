//! Reading BPF iterators.

use std::{
    collections::{BTreeSet, HashSet},
    fs::{self, File},
    io::{self, Read},
    mem,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::fs::MetadataExt as _,
    },
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use aya::programs::Iter;
use bytemuck::AnyBitPattern;
use netconn_common::{FileRecord, Owner};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use tracing::debug;

use crate::{
    kernel::{fault::Fault, load::undisturbed},
    privileged::{
        NetFile,
        namespaces::{self, FoundNamespaces, Way},
    },
};

/// Most bytes that one read returns (`bpf_seq_read` in `kernel/bpf/bpf_iter.c`: `PAGE_SIZE << 3`).
const READ_BYTES: usize = 32 << 10;
/// Bytes that a read returns with [`Fault::ShortReads`]: less than most records, and no multiple or divisor
/// of one.
const SHORT_READ: usize = 61;
/// Pause between two calls of `meanwhile` in [`beside`].
const MEANWHILE: Duration = Duration::from_millis(1);
/// Most times in a row that the kernel may ask to be read again: it does so after a million objects without a record.
const AGAIN_MAX: u32 = 1000;
/// The process's own network namespace, whatever namespace the calling thread has entered.
pub(super) const OWN_NAMESPACE: &str = "/proc/self/ns/net";
/// Where `ip netns` keeps network namespaces with names.
const NAMES: &str = "/run/netns";

/// Which network namespaces were read, and what is known of those that were not.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Inodes of the namespaces that were read.
    pub read: HashSet<u64>,
    /// The others.
    pub unreached: Unreached,
}

/// Network namespaces that cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unreached {
    /// Inodes of those that cannot be entered.
    pub refused: BTreeSet<u64>,
    /// Number of processes of which the kernel does not tell in which namespace they are.
    pub hidden: usize,
}

impl Unreached {
    /// Returns what is missing, in sentences; none if nothing is.
    pub fn sentences(&self) -> Vec<String> {
        let Self { refused, hidden } = self;
        let lost = "sockets there that are older than netconn, or whose records were lost, are missing";
        let mut sentences = Vec::new();
        if !refused.is_empty() {
            let (count, these) = (refused.len(), if refused.len() == 1 { "namespace" } else { "namespaces" });
            sentences.push(format!("{count} network {these} cannot be entered (it takes CAP_SYS_ADMIN): {lost}"));
        }
        if *hidden != 0 {
            sentences.push(format!(
                "the kernel does not tell the network namespaces of {hidden} processes (it takes CAP_SYS_PTRACE); if they are in \
                 others, {lost}"
            ));
        }
        sentences
    }
}

/// Network namespaces beside the own one.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// Inode and handle of each.
    pub(super) found: Vec<(u64, File)>,
    /// See [`Unreached::hidden`].
    pub(super) hidden: usize,
}

/// Collects the records of an iterator.
pub(super) trait Collect: Default + Send {
    /// Takes the record at the beginning of `bytes` and returns its length; `None` if it is incomplete.
    fn take(&mut self, bytes: &[u8]) -> Option<usize>;

    /// Adds what another thread has collected.
    fn add(&mut self, other: Self);
}

impl<T: AnyBitPattern + Send> Collect for Vec<T> {
    fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        self.push(bytemuck::pod_read_unaligned(bytes.get(..size_of::<T>())?));
        Some(size_of::<T>())
    }

    fn add(&mut self, mut other: Self) {
        // Copies the shorter one only.
        if self.len() < other.len() {
            mem::swap(self, &mut other);
        }
        self.append(&mut other);
    }
}

/// Reads all records of an iterator, in the network namespace of the caller where that matters.
pub(super) fn here<C: Collect>(program: &mut Iter, faults: &[Fault]) -> io::Result<C> {
    let mut found = C::default();
    run(&Mutex::new(program), faults, &mut found)?;
    Ok(found)
}

/// Reads the sockets of every network namespace that the caller may enter; returns them with the namespaces.
/// To be called on a thread that nobody needs in its old namespace afterwards.
pub(super) fn all_namespaces<C: Collect>(program: &mut Iter, faults: &[Fault]) -> io::Result<(C, Reach)> {
    namespaces(program, faults, |_| true, has_sockets)
}

/// As [`all_namespaces`], in the network namespaces whose inode is `wanted` and for which `is_any`, called inside, finds
/// sockets: the kernel takes more than 20 ms to search a hash table of 262,144 buckets in vain.
///
/// Two threads share several namespaces: that makes the dump of 100,000 sockets a tenth faster.
pub(super) fn namespaces<C: Collect>(
    program: &mut Iter,
    faults: &[Fault],
    wanted: impl Fn(u64) -> bool + Sync,
    is_any: impl Fn() -> bool + Sync,
) -> io::Result<(C, Reach)> {
    let own = own_namespace();
    let Others { found: others, hidden } = other_namespaces();
    let others: Vec<_> = others.into_iter().filter(|(inode, _)| wanted(*inode)).collect();
    let refused = Mutex::new(BTreeSet::new());
    // Before the second thread is started, which inherits the CPUs of this one.
    let split = if others.is_empty() { None } else { Split::of_this_thread() };
    let program = Mutex::new(program);
    let read_here = || {
        let mut found = C::default();
        if is_any() {
            run(&program, faults, &mut found)?;
        }
        Ok(found)
    };
    // The own namespace before the others: there is no need to come back to it.
    let read_own = || if own.is_none_or(&wanted) { read_here() } else { Ok(C::default()) };
    let read_other = |(inode, namespace): &(u64, File)| match namespaces::enter(namespace) {
        // Also without a reading: that there are no sockets is known as well.
        Ok(()) => read_here().map(Some),
        Err(error) => {
            // The result names this namespace, which tells the caller that its sockets were not read.
            debug!("a network namespace cannot be entered: {error}");
            refused.lock().unwrap_or_else(PoisonError::into_inner).insert(*inode);
            Ok(None)
        }
    };
    // Without a CPU of its own the second thread leaves all namespaces to the first.
    let second = split.as_ref().map(|Split { last, .. }| || use_cpus(last));
    let (found, read) = share(others, second, read_own, read_other)?;
    let read = read.into_iter().map(|(inode, _)| inode).chain(own).collect();
    let refused = refused.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((found, Reach { read, unreached: Unreached { refused, hidden } }))
}

/// Reads items on this thread, after `read_own`, and on a second one if there is to be one and its `prepare` says that it may.
/// Returns everything that was found, and the items that were read: `read` gives `None` for those that cannot be.
///
/// What fails on one thread is tried once more on this one when all else is read: a thread or memory may be short for a moment, and
/// what the other has read is not to be lost for that.
fn share<T: Send, C: Collect>(
    items: Vec<T>,
    prepare: Option<impl FnOnce() -> bool + Send>,
    read_own: impl FnOnce() -> io::Result<C>,
    read: impl Fn(&T) -> io::Result<Option<C>> + Sync,
) -> io::Result<(C, Vec<T>)> {
    let items = Mutex::new(items);
    let lock = || items.lock().unwrap_or_else(PoisonError::into_inner);
    let read_some = |found: &mut C, done: &mut Vec<T>| -> io::Result<()> {
        loop {
            // A statement of its own, so that the other thread gets the next while this one is read.
            let Some(item) = lock().pop() else { return Ok(()) };
            match read(&item) {
                Ok(Some(more)) => {
                    found.add(more);
                    done.push(item);
                }
                Ok(None) => {}
                Err(error) => {
                    lock().push(item);
                    return Err(error);
                }
            }
        }
    };
    thread::scope(|scope| {
        let second = prepare.map(|prepare| {
            thread::Builder::new().name("netconn-dump".into()).spawn_scoped(scope, || {
                let (mut found, mut done) = (C::default(), Vec::new());
                if prepare()
                    && let Err(error) = read_some(&mut found, &mut done)
                {
                    debug!("a second thread cannot read sockets: {error}");
                }
                (found, done)
            })
        });
        let mut found = read_own()?;
        let mut done = Vec::new();
        if let Err(error) = read_some(&mut found, &mut done) {
            debug!("sockets cannot be read: {error}; trying again");
        }
        match second {
            Some(Ok(second)) => {
                let (more, also) = second.join().map_err(|_| io::Error::other("a thread of the daemon panicked"))?;
                found.add(more);
                done.extend(also);
            }
            Some(Err(error)) => debug!("there is no second thread to read sockets: {error}"),
            None => {}
        }
        read_some(&mut found, &mut done)?;
        Ok((found, done))
    })
}

/// Restricts this thread to all CPUs but one, which the second dump thread uses. The programs build records in per-CPU scratch
/// space; two dump threads on one preemptible CPU would overwrite each other's.
struct Split {
    all: CpuSet,
    last: CpuSet,
}

impl Split {
    /// Splits the CPUs of this thread; `None` if there is only one, or none can be chosen.
    fn of_this_thread() -> Option<Self> {
        let all = sched_getaffinity(THIS_THREAD).ok()?;
        let usable = |cpu: &usize| all.is_set(*cpu).unwrap_or(false);
        let cpu = (0..CpuSet::count()).rfind(usable)?;
        let (mut most, mut last) = (all, CpuSet::new());
        most.unset(cpu).ok()?;
        last.set(cpu).ok()?;
        // With one CPU `most` is empty.
        (most != CpuSet::new() && use_cpus(&most)).then_some(Self { all, last })
    }
}

impl Drop for Split {
    fn drop(&mut self) {
        // If that fails, the thread has one CPU less; it ends with this reading.
        use_cpus(&self.all);
    }
}

/// Restricts the calling thread to these CPUs; returns whether that worked.
fn use_cpus(cpus: &CpuSet) -> bool {
    sched_setaffinity(THIS_THREAD, cpus).is_ok()
}

/// Stands for the calling thread in `sched_setaffinity(2)`.
const THIS_THREAD: Pid = Pid::from_raw(0);

/// Attaches an iterator anew and reads it.
fn run(program: &Mutex<&mut Iter>, faults: &[Fault], found: &mut impl Collect) -> io::Result<()> {
    let file = {
        // Locked only while it is attached: the two threads read their files at the same time.
        let program = program.lock().unwrap_or_else(PoisonError::into_inner);
        let program = program.fd().map_err(io::Error::other)?;
        undisturbed(|| namespaces::iterator(link(program.as_fd())?.as_fd()))?
    };
    if faults.is_empty() { read(file, found) } else { read(Faulty { inner: file, faults, reads: 0 }, found) }
}

/// Returns for each number that `number` gives the file of the oldest process: as a rule the one that opened it, and that handed it to
/// the others.
pub fn oldest(files: &[FileRecord], number: impl Fn(&FileRecord) -> u64) -> hashbrown::HashMap<u64, &FileRecord> {
    let mut found = hashbrown::HashMap::with_capacity(files.len());
    for file in files {
        let known = found.entry(number(file)).or_insert(file);
        if file.owner.start_ns < known.owner.start_ns {
            *known = file;
        }
    }
    found
}

/// Makes a link of an iterator's program. aya has no way to its descriptor.
fn link(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// `BPF_LINK_CREATE` of `enum bpf_cmd` and `BPF_TRACE_ITER` of `enum bpf_attach_type`, `include/uapi/linux/bpf.h`.
    const BPF_LINK_CREATE: libc::c_int = 28;
    const BPF_TRACE_ITER: u32 = 28;
    // `struct { __u32 prog_fd; __u32 target_fd; __u32 attach_type; __u32 flags; … } link_create` of `union bpf_attr`.
    let attributes = [program.as_raw_fd().cast_unsigned(), 0, BPF_TRACE_ITER, 0, 0, 0, 0, 0];
    // SAFETY: the kernel reads as many bytes as are told, which outlive the call.
    let made =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const attributes, size_of_val(&attributes)) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    let number = RawFd::try_from(made).map_err(io::Error::other)?;
    // SAFETY: the kernel has made it just now, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Assigns each socket without an owner to the process that has it open; to the oldest process if there are several. Each
/// socket comes with its [`FileRecord::socket`].
pub fn assign_owners<'a>(sockets: impl IntoIterator<Item = (u64, &'a mut Owner)>, files: &[FileRecord]) {
    let owners = oldest(files, |file| file.socket);
    for (socket, owner) in sockets.into_iter().filter(|(_, owner)| owner.tgid == 0) {
        if let Some(file) = owners.get(&socket) {
            *owner = file.owner;
        }
    }
}

/// Returns whether the calling thread's network namespace has TCP sockets or minisocks: the kernel counts them
/// (`sockstat_seq_show` in `net/ipv4/proc.c`).
pub(super) fn has_sockets() -> bool {
    // Twice: the kernel sums per-CPU counters, so a socket that is opened on one CPU and closed on another during the sum
    // can make it zero.
    is_any(NetFile::Sockstat, "TCP:", &["inuse", "tw"], 2) || is_any(NetFile::Sockstat6, "TCP6:", &["inuse"], 2)
}

/// Returns whether the calling thread's network namespace has UDP sockets.
pub(super) fn has_datagrams() -> bool {
    is_any(NetFile::Sockstat, "UDP:", &["inuse"], 2) || is_any(NetFile::Sockstat6, "UDP6:", &["inuse"], 2)
}

/// Returns whether the calling thread's network namespace has minisocks of connections that are over.
pub(super) fn has_minisocks() -> bool {
    // Once: this is a single counter, not a sum over CPUs, and IPv6 shares it.
    is_any(NetFile::Sockstat, "TCP:", &["tw"], 1)
}

/// Returns whether one of these numbers is not 0 in one of several looks, in a line of a file about the calling thread's network namespace. A number
/// that cannot be read counts as not 0; without the file the kernel lacks the protocol.
fn is_any(file: NetFile, line: &str, names: &[&str], times: u32) -> bool {
    match namespaces::NamespaceText::open(file) {
        Ok(mut file) => (0..times).any(|_| match file.read() {
            Ok(text) => {
                let text = String::from_utf8_lossy(&text);
                names.iter().any(|name| number_in(&text, line, name) != Some(0))
            }
            Err(_) => true,
        }),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Returns the number behind `tw` in `TCP: inuse 5 orphan 0 tw 2 alloc 7 mem 1`.
fn number_in(sockstat: &str, line: &str, name: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|text| text.strip_prefix(line))?;
    line.split_whitespace().skip_while(|word| *word != name).nth(1)?.parse().ok()
}

/// Does `work` on a thread of its own, and calls `meanwhile` on this one until it is done.
///
/// # Errors
///
/// When the system gives no thread, or it panics.
pub fn beside<T: Send>(work: impl FnOnce() -> T + Send, mut meanwhile: impl FnMut()) -> io::Result<T> {
    let waiting = thread::current();
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("netconn-dump".into()).spawn_scoped(scope, move || {
            let done = work();
            // Without this, a reading would often end a millisecond late.
            waiting.unpark();
            done
        })?;
        // A panic does not unpark, but ends the thread: the next time-out notices it.
        while !worker.is_finished() {
            meanwhile();
            thread::park_timeout(MEANWHILE);
        }
        worker.join().map_err(|_| io::Error::other("a thread of the daemon panicked"))
    })
}

/// Returns the inode of the process's own network namespace: that of its first thread.
pub fn own_namespace() -> Option<u64> {
    fs::metadata(OWN_NAMESPACE).ok().map(|metadata| metadata.ino())
}

/// Returns handles of all network namespaces that a process is in or that have a name, except this process's own.
pub(super) fn other_namespaces() -> Others {
    let mut seen: HashSet<u64> = own_namespace().into_iter().collect();
    let FoundNamespaces { namespaces, hidden } = namespaces::find(NAMES.as_ref(), true);
    let handles = namespaces.into_iter().filter_map(|(inode, _, handle)| Some((inode, handle?)));
    Others { found: handles.filter(|(inode, _)| seen.insert(*inode)).collect(), hidden }
}

/// Returns the inode of each network namespace as [`other_namespaces`] does, and how it can be opened.
pub(super) fn namespace_places() -> Vec<(u64, Way)> {
    let mut seen: HashSet<u64> = own_namespace().into_iter().collect();
    let found = namespaces::find(NAMES.as_ref(), false).namespaces;
    found.into_iter().filter(|(inode, ..)| seen.insert(*inode)).map(|(inode, way, _)| (inode, way)).collect()
}

/// Returns a handle of the network namespace with this inode, if it is the process's own, another process is in it, or it has
/// a name. Looks at every process if need be: 1 ms with 71 processes.
pub fn namespace(inode: u64) -> Option<File> {
    if own_namespace() == Some(inode) {
        return File::open(OWN_NAMESPACE).ok();
    }
    let found = namespaces::find(NAMES.as_ref(), false).namespaces;
    // Checked again once opened: a process may have moved, or its id may have been reused.
    found.iter().filter(|(found, ..)| *found == inode).find_map(|(_, way, _)| way.open(inode).ok())
}

fn read(mut file: impl Read, found: &mut impl Collect) -> io::Result<()> {
    let mut rest = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut again = 0;
    loop {
        match file.read(&mut buffer) {
            // Nothing is left in `rest`: the kernel hands out whole records only, in as many reads as needed.
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
                // The beginning of a record, or nothing; then this allocates nothing.
                rest = bytes[taken..].to_vec();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && again < AGAIN_MAX => again += 1,
            Err(error) => return Err(error),
        }
    }
}

/// A reader with faults.
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
    fn what_one_thread_cannot_read_costs_nothing_that_the_other_has_read() {
        let all = |failures: &[u8], has_second: bool| {
            let failures = Mutex::new(failures.to_vec());
            let read = |item: &u8| {
                let mut failures = failures.lock().unwrap();
                match failures.iter().position(|failing| failing == item) {
                    Some(index) => {
                        failures.remove(index);
                        Err(io::Error::from(io::ErrorKind::OutOfMemory))
                    }
                    // A namespace that cannot be entered.
                    None => Ok((*item != 7).then(|| vec![*item])),
                }
            };
            let (mut found, mut read) = share((1..=9).collect(), has_second.then_some(|| true), || Ok(vec![0]), read)?;
            found.sort_unstable();
            read.sort_unstable();
            Ok::<_, io::Error>((found, read))
        };
        let everything = (vec![0, 1, 2, 3, 4, 5, 6, 8, 9], vec![1, 2, 3, 4, 5, 6, 8, 9]);
        for has_second in [false, true] {
            for failures in [&[][..], &[5], &[9]] {
                assert_eq!(all(failures, has_second).unwrap(), everything);
            }
            assert!(all(&[5; 9], has_second).is_err(), "it fails each time");
        }
        let refused = |_: &u8| Ok(Some(vec![1]));
        let own = || Err(io::Error::from(io::ErrorKind::OutOfMemory));
        assert!(share::<u8, Vec<u8>>(vec![1], None::<fn() -> bool>, own, refused).is_err());
    }

    #[test]
    fn the_own_namespace_is_not_among_the_others() {
        let own = own_namespace().unwrap();
        assert!(other_namespaces().found.iter().all(|(inode, _)| *inode != own));
    }

    #[test]
    fn a_namespace_is_found_by_its_inode() {
        let own = own_namespace().unwrap();
        assert_eq!(namespace(own).unwrap().metadata().unwrap().ino(), own);
        assert!(namespace(0).is_none());
    }
}
