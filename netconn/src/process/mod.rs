//! The program behind each process id: executable, arguments and parent, kept from the start of a process until nothing
//! refers to it any more.

mod ancestry;
mod key;
mod text;
pub mod redact;
pub mod cgroup;
pub mod lookup;
pub mod scan;
pub mod open;
pub mod title;

use std::{cell::Cell, collections::VecDeque, iter, mem, rc::Rc, sync::Arc};

use hashbrown::{HashMap, HashSet};
use netconn_common::{ExecRecord, ExitRecord, ForkRecord, ImageFile, Owner, TaskRecord, exec};

pub(crate) use self::ancestry::Ancestry;
pub use self::{key::Key, text::comm};
use self::{
    redact::{CommandLine, Redacted, Redactor},
    text::{DELETED, executable, shortened},
};
use crate::shrink::{shrink_if_sparse, shrink_queue_if_sparse};

/// Clock ticks are 10 ms on every architecture that has BPF (`USER_HZ`, `include/uapi/asm-generic/param.h`); the start
/// of a process in `/proc/PID/stat` is given in them.
pub const TICK_NS: u64 = 10_000_000;
/// Time after the end of a process by which the kernel has closed its sockets: it does so after the record of the end.
const AFTERMATH_NS: u64 = 500_000_000;
/// Time for which an ended process is kept although nothing refers to it: records of its last sockets can still come.
const KEPT_AFTER_EXIT_NS: u64 = 5_000_000_000;

/// Most generations that are looked at to find the ancestors of a process.
const LINE_MAX: usize = 64;

/// Bytes of a process besides its texts: both structures, five allocations of 16 bytes each, and an entry of the map, of which
/// half is empty.
const PROCESS_BYTES: usize =
    size_of::<Process>() + size_of::<Identity>() + 5 * 16 + 2 * size_of::<(Key, Rc<Process>)>();

/// A process without its parent, so that no chain of ancestors is kept in memory.
#[derive(Debug)]
pub struct Identity {
    /// Process id and start.
    pub key: Key,
    /// Whether the start is exact: `/proc` alone tells the clock tick only.
    pub is_exact: bool,
    /// Name, up to 15 bytes.
    pub name: Rc<str>,
    /// Executable.
    pub path: Option<Rc<str>>,
    /// The executable's file.
    pub image: ImageFile,
    /// Arguments, joined by spaces, without secrets.
    pub command_line: Option<CommandLine>,
    /// Its parents, in a text.
    pub(crate) ancestry: Ancestry,
    /// How many of what has ended refer to it, through its process or that of a child.
    pub(crate) remembered: Remembered,
}

/// Kinds of what has ended, each with memory of its own for processes.
#[derive(Clone, Copy, Debug)]
pub enum Past {
    /// Connections, and attempts that failed.
    Connections,
    /// Flows of datagrams.
    Flows,
}

/// Numbers of references, by [`Past`].
#[derive(Debug, Default)]
pub(crate) struct Remembered([Cell<u32>; 2]);

/// A process from one `exec` (or its start) to the next.
#[derive(Debug)]
pub struct Process {
    /// The process itself.
    pub identity: Rc<Identity>,
    /// Its parent at that time.
    pub parent: Option<Rc<Identity>>,
    /// Number of references from connections that have ended.
    past: Cell<usize>,
    /// Connections refer to the program that the process ran before: they may be open still.
    has_inherited: Cell<bool>,
}

impl Process {
    pub(crate) fn new(identity: impl Into<Rc<Identity>>, parent: Option<Rc<Identity>>) -> Rc<Self> {
        let (past, has_inherited) = (Cell::new(0), Cell::new(false));
        let identity = identity.into();
        if let Some(parent) = &parent {
            identity.ancestry.set_above(parent.ancestry.below(&parent.name, parent.key.tgid));
        }
        Rc::new(Self { identity, parent, past, has_inherited })
    }

    /// Returns whether a connection that has not ended may refer to the process, or to what it ran before. `kept` is the entry of
    /// the table of processes, which is the only other place that keeps references.
    fn has_connections(kept: &Rc<Self>) -> bool {
        kept.has_inherited.get() || Rc::strong_count(kept) > 1 + kept.past.get()
    }

    /// Returns whether both are the same program with the same arguments, as far as that is known: what one of them lacks tells
    /// nothing.
    pub fn is_same_program(&self, other: &Self) -> bool {
        let Identity { path, image, command_line, .. } = &*self.identity;
        let file = |image: &ImageFile| (image.inode != ImageFile::UNKNOWN.inode).then_some((image.inode, image.device));
        let is_same = |one: Option<&str>, another: Option<&str>, part: fn(&str) -> &str| {
            one.zip(another).is_none_or(|(one, another)| part(one) == part(another))
        };
        // A path changes while the program runs, when its file is renamed or removed.
        let is_same_file = match file(image).zip(file(&other.identity.image)) {
            Some((one, another)) => one == another,
            None => is_same(path.as_deref(), other.identity.path.as_deref(), scan::bare),
        };
        is_same_file && is_same(command_line.as_deref(), other.identity.command_line.as_deref(), |line| line)
    }

    /// Notes that one more of what has ended refers to it, and returns how many bytes that keeps in memory which no other of its
    /// kind did.
    pub fn remember(&self, kind: Past) -> usize {
        self.past.set(self.past.get().saturating_add(1));
        self.identities().filter(|identity| identity.remember(kind)).map(|identity| identity.bytes()).sum()
    }

    /// Notes that one does not refer to it any more, and returns how many bytes no other of its kind keeps.
    pub fn forget(&self, kind: Past) -> usize {
        self.past.set(self.past.get().saturating_sub(1));
        self.identities().filter(|identity| identity.forget(kind)).map(|identity| identity.bytes()).sum()
    }

    fn identities(&self) -> impl Iterator<Item = &Rc<Identity>> {
        iter::once(&self.identity).chain(&self.parent)
    }

    /// Returns a process that has nothing but a command line.
    #[cfg(test)]
    pub(crate) fn with_command_line(tgid: u32, line: &str) -> Rc<Self> {
        let key = Key { tgid, start_ns: 0 };
        let remembered = Remembered::default();
        let command_line = Some(line.into());
        Self::new(
            Identity {
                key,
                is_exact: true,
                name: "x".into(),
                path: None,
                image: ImageFile::UNKNOWN,
                command_line,
                ancestry: Ancestry::default(),
                remembered,
            },
            None,
        )
    }
}

impl Remembered {
    fn of(&self, kind: Past) -> &Cell<u32> {
        let [connections, flows] = &self.0;
        match kind {
            Past::Connections => connections,
            Past::Flows => flows,
        }
    }
}

impl Identity {
    /// Returns its parents, the nearest first: `bash(812) < sshd(800) < systemd(1)`.
    pub fn ancestors(&self) -> Option<&str> {
        self.ancestry.above()
    }

    fn remember(&self, kind: Past) -> bool {
        let count = self.remembered.of(kind);
        count.replace(count.get().saturating_add(1)) == 0
    }

    fn forget(&self, kind: Past) -> bool {
        let count = self.remembered.of(kind);
        count.replace(count.get().saturating_sub(1)) == 1
    }

    /// Returns about how many bytes it takes. Texts that it shares with processes that were forked count for each of them,
    /// because any may be the last to keep them.
    fn bytes(&self) -> usize {
        let texts = [self.path.as_deref(), self.command_line.as_deref(), self.ancestors()];
        PROCESS_BYTES + self.name.len() + texts.into_iter().flatten().map(str::len).sum::<usize>()
    }
}

/// All processes that live or that something still refers to.
#[derive(Debug)]
pub struct Processes {
    by_key: HashMap<Key, Rc<Process>, foldhash::fast::RandomState>,
    /// Ended processes and when they ended, oldest first.
    ended: VecDeque<(Key, u64)>,
    /// Processes that ended lately, and when: other processes can have their sockets.
    lately: VecDeque<(Key, u64)>,
    /// Those of them that connections may refer to, since [`Processes::take_ended`] was called.
    left_sockets: HashSet<Key>,
    /// Most bytes of a command line.
    command_line_bytes: usize,
    /// Takes secrets out of command lines before these are kept.
    redactor: Arc<Redactor>,
}

impl Default for Processes {
    fn default() -> Self {
        Self::with_command_lines(exec::ARGUMENTS_MAX)
    }
}

impl Processes {
    /// Returns a table without processes, which keeps `bytes_max` bytes of each command line at most.
    pub fn with_command_lines(bytes_max: usize) -> Self {
        Self {
            by_key: HashMap::default(),
            ended: VecDeque::new(),
            lately: VecDeque::new(),
            left_sockets: HashSet::new(),
            command_line_bytes: bytes_max,
            redactor: Arc::default(),
        }
    }

    /// Returns a command line as long as it is kept.
    fn kept(&self, line: Option<Redacted>) -> Option<CommandLine> {
        line.map(|line| Redacted { text: shortened(line.text, self.command_line_bytes), ..line }.into())
    }

    /// Returns a table without processes that keeps command lines as this redactor leaves them.
    pub fn with_redactor(redactor: Redactor) -> Self {
        Self { redactor: Arc::new(redactor), ..Self::default() }
    }

    /// Has command lines redacted in another way from now on, also those that are kept: when they are told.
    pub fn set_redactor(&mut self, redactor: Redactor) {
        self.redactor = Arc::new(redactor.after(&self.redactor));
    }

    /// Returns what takes secrets out of command lines.
    pub fn redactor(&self) -> &Arc<Redactor> {
        &self.redactor
    }

    /// Returns the number of known processes.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Returns whether no process is known.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Returns the process that owns a socket.
    pub fn of(&self, owner: &Owner) -> Option<Rc<Process>> {
        self.get(Key::of(owner)).cloned()
    }

    /// Returns whether the process that owns a socket is known.
    pub fn knows(&self, owner: &Owner) -> bool {
        self.get(Key::of(owner)).is_some()
    }

    /// As [`Self::of`], for an owner from `/proc`: its start is that of its clock tick. Looks at all processes.
    pub fn of_tick(&self, owner: &Owner) -> Option<Rc<Process>> {
        let tick = Key::of(owner);
        let same = self.by_key.iter().filter(|(key, _)| key.by_tick() == tick);
        same.max_by_key(|(key, _)| key.start_ns).map(|(_, process)| Rc::clone(process))
    }

    /// Applies a scan of all of `/proc` that was made while no record was handled: processes that it lacks have ended.
    /// `tasks` are the kernel's own records of all processes, read after the scan; none if they cannot be read.
    pub fn replace(&mut self, mut found: Vec<scan::Scanned>, tasks: &[TaskRecord], now_ns: u64) {
        self.make_exact(&mut found, tasks);
        let living: HashSet<Key> = found.iter().map(|process| process.key).collect();
        // Those are in the queue already, with the time at which they really ended.
        let dying: HashSet<Key> = self.ended.iter().map(|(key, _)| *key).collect();
        let gone = self.by_key.keys().filter(|key| !living.contains(*key) && !dying.contains(*key));
        // Not removed at once: records of their last sockets may wait in the rings.
        self.ended.extend(gone.map(|key| (*key, now_ns)));
        self.add_scanned(found);
    }

    /// Replaces the clock ticks of `/proc` by exact starts, as far as these are known.
    fn make_exact(&self, found: &mut [scan::Scanned], tasks: &[TaskRecord]) {
        // Records of births and programs told them, too. Of two processes within a tick, the later one lives.
        let mut known: HashMap<Key, Key> = HashMap::new();
        for key in self.by_key.values().filter(|known| known.identity.is_exact).map(|known| known.identity.key) {
            let latest = known.entry(key.by_tick()).or_insert(key);
            latest.start_ns = latest.start_ns.max(key.start_ns);
        }
        let tasks: HashMap<Key, &TaskRecord> =
            tasks.iter().map(|task| (Key::new(task.tgid, task.start_ns).by_tick(), task)).collect();
        for process in found {
            if let Some(task) = tasks.get(&process.key) {
                process.key.start_ns = task.start_ns;
                process.is_exact = true;
                process.image = task.image;
                process.parent = task.parent_tgid;
                process.parent_start_ns = Some(task.parent_start_ns);
            } else if let Some(key) = known.get(&process.key) {
                process.key = *key;
                process.is_exact = true;
            }
        }
    }

    /// Applies what a scan of `/proc` found: new processes, and those that ran another program unnoticed.
    pub fn add_scanned(&mut self, found: Vec<scan::Scanned>) {
        let parents: HashMap<u32, Key> = found.iter().map(|process| (process.key.tgid, process.key)).collect();
        let mut added = Vec::new();
        for process in found {
            let known = self.by_key.get(&process.key);
            // Keeps what the record of the `exec` brought: a process can overwrite its name and arguments in `/proc`.
            if known.is_some_and(|known| process.is_same_program(&known.identity)) {
                continue;
            }
            let identity = Identity {
                key: process.key,
                is_exact: process.is_exact,
                name: process.name.into(),
                path: process.path.map(Into::into),
                image: process.image,
                command_line: self.kept(process.arguments.and_then(|found| found.redacted(&self.redactor))),
                ancestry: Ancestry::default(),
                remembered: Remembered::default(),
            };
            // A parent that has ended since is still the one that started it; `/proc` names who has adopted it.
            let parent = known.and_then(|known| known.parent.clone());
            let has_connections = known.is_some_and(Process::has_connections);
            let process_now = Process::new(identity, parent);
            process_now.has_inherited.set(has_connections);
            self.by_key.insert(process.key, process_now);
            // `/proc` gives the id alone: whoever has that id in the same scan.
            let by_id = || parents.get(&process.parent).copied();
            let parent = process.parent_start_ns.map(|start_ns| Key::new(process.parent, start_ns)).or_else(by_id);
            added.push((process.key, parent));
        }
        // Parents may come after their children.
        let keys: Vec<Key> = added.iter().map(|(key, _)| *key).collect();
        for (key, parent) in added {
            // Of the parent only the clock tick may be known.
            let parent = parent.and_then(|key| self.get(key)).map(|found| Rc::clone(&found.identity));
            // `get_mut` succeeds: the process was inserted above, and nothing refers to it yet.
            if let Some(process) = self.by_key.get_mut(&key).and_then(Rc::get_mut)
                && process.parent.is_none()
            {
                process.parent = parent;
            }
        }
        keys.into_iter().for_each(|key| self.set_ancestors(key));
    }

    /// Sets the ancestors of a process whose parent became known after it.
    fn set_ancestors(&self, key: Key) {
        // Up to one whose parents are known, or that has none; then down, because the text of each is made of that of its parent.
        let mut line: Vec<&Rc<Process>> = Vec::new();
        let mut next = self.by_key.get(&key);
        while let Some(process) = next.filter(|process| line.len() < LINE_MAX && process.identity.ancestors().is_none())
        {
            line.push(process);
            next = process.parent.as_ref().and_then(|parent| self.by_key.get(&parent.key));
        }
        for process in line.into_iter().rev() {
            if let Some(parent) = &process.parent {
                process.identity.ancestry.set_above(parent.ancestry.below(&parent.name, parent.key.tgid));
            }
        }
    }

    /// Applies the start of a process: it is the same program as its origin until it runs another one.
    pub fn fork(&mut self, record: &ForkRecord) {
        let key = Key::new(record.tgid, record.start_ns);
        let origin = self.get(Key::new(record.origin_tgid, record.origin_start_ns));
        // Its record was lost: the next `exec`, or a scan, makes the process known.
        let Some(origin) = origin else { return };
        let identity = Identity {
            key,
            is_exact: true,
            // Shared texts: a server of a thousand processes has its command line in memory once.
            name: Rc::clone(&origin.identity.name),
            path: origin.identity.path.clone(),
            image: origin.identity.image,
            command_line: origin.identity.command_line.clone(),
            ancestry: Ancestry::default(),
            remembered: Remembered::default(),
        };
        // Not the origin: with `CLONE_PARENT` the parent is the parent of the process that called `clone`.
        let parent = self.identity(record.parent_tgid, record.parent_start_ns);
        self.insert(Process::new(identity, parent));
    }

    /// Applies an `exec`. Sockets that the process opened before keep the old program.
    pub fn exec(&mut self, record: &ExecRecord, path: &[u8], arguments: &[u8]) {
        let key = Key::new(record.tgid, record.start_ns);
        let identity = Identity {
            key,
            is_exact: true,
            name: comm(&record.comm).as_ref().into(),
            path: executable(record.flags, path).map(Into::into),
            image: record.image,
            command_line: self.kept(self.redactor.command_line(arguments, record.flags & exec::ARGUMENTS_CUT != 0)),
            ancestry: Ancestry::default(),
            remembered: Remembered::default(),
        };
        let parent = self.identity(record.parent_tgid, record.parent_start_ns);
        self.insert(Process::new(identity, parent));
        // The kernel could not read them (lockdown=confidentiality): if the process still runs, `/proc` can.
        if path.is_empty()
            && let Some(found) = scan::one(key)
        {
            self.add_scanned(vec![scan::Scanned { image: record.image, ..found }]);
        }
    }

    /// Applies the end of a process. Records of its sockets can follow.
    pub fn exit(&mut self, record: &ExitRecord) {
        // Two queues with times of their own: `ended` frees memory, `lately` finds sockets that other processes have by
        // now.
        let key = Key::new(record.tgid, record.start_ns);
        let key = self.get(key).map_or(key, |process| process.identity.key);
        self.ended.push_back((key, record.header.time_ns));
        // As its owner records have it, also if only its clock tick is known here.
        self.lately.push_back((Key::new(record.tgid, record.start_ns), record.header.time_ns));
    }

    /// Returns, each once, the processes that ended at least [`AFTERMATH_NS`] ago and that connections which have not ended may
    /// refer to. A process without such connections costs a look-up and no look at any table of connections.
    pub fn take_ended(&mut self, now_ns: u64) -> HashSet<Key> {
        self.look_at_ended(now_ns);
        mem::take(&mut self.left_sockets)
    }

    /// Keeps those that ended at least [`AFTERMATH_NS`] ago and have left connections. Before they are forgotten: of an unknown one it
    /// is not known that it has none.
    fn look_at_ended(&mut self, now_ns: u64) {
        let is_over = |(_, ended_ns): &&(_, u64)| now_ns.saturating_sub(*ended_ns) >= AFTERMATH_NS;
        let count = self.lately.iter().take_while(is_over).count();
        let over: Vec<Key> = self.lately.drain(..count).map(|(key, _)| key).collect();
        // One of which no record has come may have connections: they have no reference to it.
        let left = over.into_iter().filter(|key| self.get(*key).is_none_or(Process::has_connections));
        let left: Vec<Key> = left.collect();
        self.left_sockets.extend(left);
    }

    /// Forgets ended processes that nothing refers to.
    pub fn sweep(&mut self, now_ns: u64) {
        self.look_at_ended(now_ns);
        self.forget_ended(now_ns);
        shrink_if_sparse(&mut self.by_key);
        shrink_queue_if_sparse(&mut self.ended);
        shrink_queue_if_sparse(&mut self.lately);
    }

    fn forget_ended(&mut self, now_ns: u64) {
        // One look at each: those that are put back at the end are not looked at again.
        for _ in 0..self.ended.len() {
            let Some(&(key, ended_ns)) = self.ended.front() else { return };
            if now_ns.saturating_sub(ended_ns) < KEPT_AFTER_EXIT_NS {
                return;
            }
            self.ended.pop_front();
            match self.by_key.get(&key) {
                // Connections still refer to it. The new time puts the next look off by `KEPT_AFTER_EXIT_NS`.
                Some(process) if Rc::strong_count(process) > 1 => self.ended.push_back((key, now_ns)),
                Some(_) => drop(self.by_key.remove(&key)),
                // Noted twice: by a scan and by its record.
                None => {}
            }
        }
    }

    fn identity(&self, tgid: u32, start_ns: u64) -> Option<Rc<Identity>> {
        self.get(Key::new(tgid, start_ns)).map(|process| Rc::clone(&process.identity))
    }

    /// Returns a process by its exact start, also one of which only the clock tick is known.
    pub fn get(&self, key: Key) -> Option<&Rc<Process>> {
        let by_tick = || self.by_key.get(&key.by_tick()).filter(|process| !process.identity.is_exact);
        self.by_key.get(&key).or_else(by_tick)
    }

    /// Adds a process whose start is exact, in the place of what `/proc` told of it.
    fn insert(&mut self, process: Rc<Process>) {
        let key = process.identity.key;
        process.has_inherited.set(self.get(key).is_some_and(Process::has_connections));
        if let Some(inexact) = self.get(key).map(|known| known.identity.key).filter(|known| *known != key) {
            self.by_key.remove(&inexact);
        }
        self.by_key.insert(key, process);
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use netconn_common::UNKNOWN_U32;

    use super::*;

    fn exec_of(processes: &mut Processes, tgid: u32, parent: u32, name: &str, path: &[u8]) {
        let mut record = ExecRecord::zeroed();
        record.tgid = tgid;
        record.start_ns = u64::from(tgid) * TICK_NS;
        record.parent_tgid = parent;
        record.parent_start_ns = u64::from(parent) * TICK_NS;
        record.comm[..name.len()].copy_from_slice(name.as_bytes());
        processes.exec(&record, path, b"a\0b c\0");
    }

    fn owner(tgid: u32) -> Owner {
        Owner { tgid, start_ns: u64::from(tgid) * TICK_NS, ..Owner::default() }
    }

    #[test]
    fn a_child_is_what_its_origin_is_until_it_runs_a_program() {
        let mut processes = Processes::default();
        exec_of(&mut processes, 10, 1, "bash", b"bash\0bin\0usr\0");
        let mut fork = ForkRecord::zeroed();
        fork.tgid = 11;
        fork.start_ns = 11 * TICK_NS;
        (fork.origin_tgid, fork.origin_start_ns) = (10, 10 * TICK_NS);
        (fork.parent_tgid, fork.parent_start_ns) = (10, 10 * TICK_NS);
        processes.fork(&fork);
        let child = processes.of(&owner(11)).unwrap();
        assert_eq!(child.identity.path.as_deref(), Some("/usr/bin/bash"));
        assert_eq!(child.identity.command_line.as_deref(), Some("a b c"));
        assert_eq!(child.parent.as_ref().unwrap().key.tgid, 10);
        exec_of(&mut processes, 11, 10, "curl", b"curl\0bin\0usr\0");
        assert_eq!(&*child.identity.name, "bash", "sockets opened before exec keep what it was");
        assert_eq!(&*processes.of(&owner(11)).unwrap().identity.name, "curl");
        assert_eq!(&*processes.of(&owner(11)).unwrap().parent.as_ref().unwrap().name, "bash");
        exec_of(&mut processes, 12, 11, "sh", b"sh\0");
        let sh = processes.of(&owner(12)).unwrap();
        assert_eq!(sh.identity.ancestors(), Some("curl(11) < bash(10)"));
    }

    #[test]
    fn a_scan_adds_what_was_missed() {
        let scanned = |tgid: u32, parent, path: &str| scan::Scanned {
            key: Key::of_ticks(tgid, tgid.into()),
            is_exact: false,
            parent,
            parent_start_ns: None,
            image: ImageFile::UNKNOWN,
            name: "x".into(),
            path: Some(path.into()),
            arguments: None,
        };
        let mut processes = Processes::default();
        exec_of(&mut processes, 10, 1, "bash", b"bash\0bin\0");
        processes.add_scanned(vec![
            scanned(12, 11, "/bin/later"),
            scanned(11, 10, "/bin/late"),
            scanned(10, 1, "/bin/bash"),
        ]);
        assert_eq!(
            processes.of(&owner(12)).unwrap().identity.ancestors(),
            Some("x(11) < bash(10)"),
            "before its parent"
        );
        assert_eq!(&*processes.of(&owner(10)).unwrap().identity.name, "bash", "known from the kernel, and right");
        let child = processes.of(&owner(11)).unwrap();
        assert_eq!(child.parent.as_ref().unwrap().path.as_deref(), Some("/bin/bash"));
        processes.add_scanned(vec![scanned(10, 1, "/bin/other")]);
        assert_eq!(processes.of(&owner(10)).unwrap().identity.path.as_deref(), Some("/bin/other"), "a lost exec");
    }

    #[test]
    fn another_file_with_the_same_path_is_another_program() {
        let mut processes = Processes::default();
        let image = |inode, mount_namespace| ImageFile { inode, device: 1, mount_namespace };
        let mut exec = ExecRecord::zeroed();
        (exec.tgid, exec.start_ns, exec.image) = (10, 10 * TICK_NS, image(5, 7));
        processes.exec(&exec, b"x\0bin\0", b"right\0");
        let mut scan = |image, path: Option<&str>| {
            let found = scan::Scanned {
                key: Key::of_ticks(10, 10),
                is_exact: true,
                parent: 1,
                parent_start_ns: None,
                image,
                name: "x".into(),
                path: path.map(str::to_owned),
                arguments: Some(scan::Arguments { bytes: b"chosen".to_vec(), is_cut: false }),
            };
            processes.add_scanned(vec![found]);
            processes.of(&owner(10)).unwrap().identity.command_line.as_deref() == Some("right")
        };
        let path = Some("/bin/x");
        assert!(scan(ImageFile::UNKNOWN, path), "only /proc was read");
        assert!(scan(image(5, UNKNOWN_U32), path), "its mount is gone");
        assert!(scan(image(5, 7), Some("/bin/x (deleted)")), "its package was upgraded");
        assert!(scan(ImageFile::UNKNOWN, Some("/bin/x (deleted)")), "the same, when only /proc was read");
        assert!(scan(image(5, 8), Some("/merged/bin/x")), "seen from another mount namespace");
        assert!(scan(image(5, 7), None) && scan(ImageFile::UNKNOWN, None), "its first thread has ended");
        assert!(!scan(image(6, 7), path), "an exec was lost");
    }

    #[test]
    fn what_is_not_known_of_a_program_makes_it_no_other() {
        let program = |path: Option<&str>, line: Option<&str>, inode| {
            let identity = Identity {
                key: Key::of_ticks(10, 10),
                is_exact: true,
                name: "x".into(),
                path: path.map(Into::into),
                image: ImageFile { inode, ..ImageFile::UNKNOWN },
                command_line: line.map(Into::into),
                ancestry: Ancestry::default(),
                remembered: Remembered::default(),
            };
            Process::new(identity, None)
        };
        let unknown = ImageFile::UNKNOWN.inode;
        let known = program(Some("/bin/x"), Some("x 1"), 5);
        for (path, line, inode, is_same) in [
            (Some("/bin/x (deleted)"), Some("x 1"), unknown, true),
            (None, Some("x 1"), unknown, true),
            (Some("/bin/x"), None, unknown, true),
            (Some("/bin/y"), None, 5, true),
            (None, None, 6, false),
            (Some("/bin/y"), Some("x 1"), unknown, false),
            (Some("/bin/x"), Some("x 2"), unknown, false),
        ] {
            let other = program(path, line, inode);
            assert_eq!(known.is_same_program(&other), is_same, "{other:?}");
            assert_eq!(other.is_same_program(&known), is_same, "{other:?}");
        }
    }

    #[test]
    fn the_ended_go_when_nothing_refers_to_them() {
        let mut processes = Processes::default();
        exec_of(&mut processes, 10, 1, "a", b"a\0");
        let held = processes.of(&owner(10)).unwrap();
        let mut exit = ExitRecord::zeroed();
        (exit.tgid, exit.start_ns) = (10, 10 * TICK_NS);
        processes.exit(&exit);
        processes.sweep(KEPT_AFTER_EXIT_NS - 1);
        processes.sweep(KEPT_AFTER_EXIT_NS);
        assert_eq!(processes.len(), 1, "a connection refers to it");
        drop(held);
        processes.sweep(KEPT_AFTER_EXIT_NS * 2);
        assert_eq!(processes.len(), 0);
    }

    #[test]
    fn only_processes_with_connections_are_reported_when_they_have_ended() {
        let mut processes = Processes::default();
        let exit = |processes: &mut Processes, tgid: u32| {
            let mut exit = ExitRecord::zeroed();
            (exit.tgid, exit.start_ns) = (tgid, u64::from(tgid) * TICK_NS);
            processes.exit(&exit);
        };
        let key = |tgid: u32| Key::of_ticks(tgid, tgid.into());
        (10..=13).for_each(|tgid| exec_of(&mut processes, tgid, 1, "a", b"a\0"));
        // One has no connection, one an open one, one a connection that has ended and is remembered, and one an open connection of
        // what it ran before.
        let open = processes.of(&owner(11)).unwrap();
        let past = processes.of(&owner(12)).unwrap();
        past.remember(Past::Connections);
        let before = processes.of(&owner(13)).unwrap();
        exec_of(&mut processes, 13, 1, "b", b"b\0");
        (10..=14).for_each(|tgid| exit(&mut processes, tgid));
        assert!(processes.take_ended(AFTERMATH_NS - 1).is_empty(), "the kernel has not closed their sockets yet");
        // The last is not known at all.
        let expected: HashSet<Key> = [11, 13, 14].map(key).into_iter().collect();
        assert_eq!(processes.take_ended(AFTERMATH_NS), expected);
        assert!(processes.take_ended(AFTERMATH_NS).is_empty(), "once");
        // No scan is allowed for a while, and the process is forgotten meanwhile.
        exec_of(&mut processes, 15, 1, "a", b"a\0");
        exit(&mut processes, 15);
        processes.sweep(AFTERMATH_NS);
        processes.sweep(KEPT_AFTER_EXIT_NS);
        assert!(processes.get(key(15)).is_none() && processes.lately.is_empty());
        assert!(processes.take_ended(2 * KEPT_AFTER_EXIT_NS).is_empty(), "it had no connection");
        past.forget(Past::Connections);
        drop((open, before));
    }

    #[test]
    fn ids_used_again_are_other_processes() {
        let mut processes = Processes::default();
        exec_of(&mut processes, 10, 1, "a", b"a\0");
        let mut later = owner(10);
        later.start_ns += 1;
        assert!(processes.of(&later).is_none(), "within a clock tick");
        let mut fork = ForkRecord::zeroed();
        (fork.tgid, fork.start_ns, fork.origin_tgid, fork.origin_start_ns) = (10, later.start_ns, 10, 10 * TICK_NS);
        processes.fork(&fork);
        assert_eq!((processes.of(&owner(10)).unwrap().identity.key, processes.len()), (Key::of_ticks(10, 10), 2));
        assert_eq!(processes.of(&later).unwrap().identity.key.start_ns, later.start_ns);
    }

    #[test]
    fn the_clock_ticks_of_a_scan_become_exact() {
        let scanned = |tgid: u32, parent| scan::Scanned {
            key: Key::of_ticks(tgid, tgid.into()),
            is_exact: false,
            parent,
            parent_start_ns: None,
            image: ImageFile::UNKNOWN,
            name: "x".into(),
            path: Some("/bin/x".into()),
            arguments: None,
        };
        let exact = |tgid: u32| u64::from(tgid) * TICK_NS + 7;
        let exact_owner = |tgid| Owner { start_ns: exact(tgid), ..owner(tgid) };
        let mut processes = Processes::default();
        // The kernel's records cannot be read: the process is found, but its start is that of its tick.
        processes.replace(vec![scanned(11, 10), scanned(10, 1)], &[], 0);
        let child = processes.of(&exact_owner(11)).unwrap();
        assert!(!child.identity.is_exact && !child.parent.as_ref().unwrap().is_exact);
        drop(child);
        assert!(processes.of_tick(&owner(11)).is_some(), "an owner from /proc");
        let task = |tgid, parent_tgid| TaskRecord {
            start_ns: exact(tgid),
            parent_start_ns: exact(parent_tgid),
            tgid,
            parent_tgid,
            image: ImageFile { inode: 5, device: 6, mount_namespace: 7 },
        };
        processes.replace(vec![scanned(11, 10), scanned(10, 1)], &[task(10, 1), task(11, 10)], 0);
        let child = processes.of(&exact_owner(11)).unwrap();
        assert_eq!((child.identity.key.start_ns, child.identity.image.inode), (exact(11), 5));
        assert!(
            child.identity.is_exact && child.parent.as_ref().is_some_and(|parent| parent.key.start_ns == exact(10))
        );
        assert!(processes.of_tick(&owner(11)).is_some_and(|found| found.identity.is_exact));
        drop(child);
        // Once more without the kernel's records: what was known stays.
        processes.replace(vec![scanned(11, 10), scanned(10, 1)], &[], 0);
        assert!(processes.of(&exact_owner(11)).unwrap().identity.is_exact);
        processes.sweep(KEPT_AFTER_EXIT_NS);
        assert_eq!(processes.len(), 2, "the inexact ones are gone");
        // Both a program's start and the end are matched with what only `/proc` has told.
        processes.replace(vec![scanned(12, 10)], &[], KEPT_AFTER_EXIT_NS);
        let mut exec = ExecRecord::zeroed();
        (exec.tgid, exec.start_ns) = (12, exact(12));
        processes.exec(&exec, b"y\0", b"y\0");
        assert_eq!(processes.of(&exact_owner(12)).unwrap().identity.path.as_deref(), Some("/y"));
        assert!(!processes.by_key.contains_key(&Key::of_ticks(12, 12)));
    }

    #[test]
    fn command_lines_are_as_long_as_they_are_kept() {
        let mut processes = Processes::with_command_lines(20);
        let mut exec = ExecRecord::zeroed();
        let mut told = |tgid, flags, arguments: &str| {
            (exec.tgid, exec.start_ns, exec.flags) = (tgid, u64::from(tgid) * TICK_NS, flags);
            processes.exec(&exec, b"x\0", arguments.as_bytes());
            processes.of(&owner(tgid)).unwrap().identity.command_line.as_deref().unwrap().to_owned()
        };
        assert_eq!(told(1, 0, "x\0aaaaaaaaaaaaaaaaaa\0"), "x aaaaaaaaaaaaaaaaaa", "20 bytes");
        assert_eq!(told(2, 0, "x\0aaaaaaaaaaaaaaaaaab\0"), "x aaaaaaaaaaaaaaaaaa…");
        assert_eq!(told(3, 0, "x\0aaaaaaaaaaaaaaaaaé\0"), "x aaaaaaaaaaaaaaaaa…", "no half character");
        assert_eq!(told(4, exec::ARGUMENTS_CUT, "x\0aaaaaaaaaaaaaaaaaa"), "x aaaaaaaaaaaaaaaaaa…", "one mark");
        assert_eq!(told(5, exec::ARGUMENTS_CUT, "x\0aaaaaaaaaaaaaaaaaab"), "x aaaaaaaaaaaaaaaaaa…", "one mark");
        processes.add_scanned(vec![scan::Scanned {
            key: Key::of_ticks(6, 6),
            is_exact: false,
            parent: 0,
            parent_start_ns: None,
            image: ImageFile::UNKNOWN,
            name: "x".into(),
            path: None,
            arguments: Some(scan::Arguments { bytes: "x".repeat(21).into_bytes(), is_cut: false }),
        }]);
        let scanned = processes.of(&owner(6)).unwrap();
        assert_eq!(scanned.identity.command_line.as_deref(), Some(&*format!("{}…", "x".repeat(20))));
    }

    #[test]
    fn paths_are_as_proc_gives_them() {
        assert_eq!(executable(0, b"curl\0bin\0usr\0").unwrap(), "/usr/bin/curl");
        assert_eq!(executable(exec::DELETED, b"memfd:x\0").unwrap(), "/memfd:x (deleted)");
        assert_eq!(executable(exec::PATH_CUT, b"z\0y\0").unwrap(), "…/y/z");
        assert_eq!(executable(0, b""), None);
        assert_eq!(comm(b"kworker/0:1\xff\0\0\0\0"), "kworker/0:1\u{fffd}");
    }
}
