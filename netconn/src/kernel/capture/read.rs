//! The iterators of a capture: reads sockets, minisocks, counters, open files and processes.

use std::{collections::HashSet, io};

use aya::programs::Iter;
use netconn_common::{
    CountersRecord, FileRecord, Header, TaskRecord, TcpRecord, UdpSocketRecord, kind, setting, tcp_state,
};
use netconn_model::socket_kind::SocketKinds;
use tracing::warn;

use super::Capture;
use crate::kernel::{
    diag,
    fault::Fault,
    hooks::Program,
    iterate::{self, Collect, Reach},
    other_socket::OtherSockets,
    packet_socket::{self, PacketSockets},
    rings::Rings,
    socket_info::{InfoParts, SocketInfos},
};

/// Parts of [`Live`] that are wanted.
#[derive(Clone, Copy, Debug)]
pub struct LiveParts {
    /// Minisocks of half-open connections and of those that are over.
    pub minisocks: bool,
    /// Byte counters of the others.
    pub counters: bool,
    /// UDP sockets.
    pub datagrams: bool,
}

/// State that only the kernel has, beside the daemon's table.
#[derive(Debug, Default)]
pub struct Live {
    /// Minisocks of half-open connections and of those that are over.
    pub minisocks: Vec<TcpRecord>,
    /// Byte counters of connections.
    pub counters: Vec<CountersRecord>,
    /// Network namespaces, of which these were read.
    pub namespaces: Reach,
    /// UDP sockets.
    pub datagrams: Vec<UdpSocketRecord>,
    /// Inodes of the network namespaces whose UDP sockets were read.
    pub datagram_namespaces: HashSet<u64>,
}

impl Collect for Live {
    fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        // One run of `iter/tcp` can write both; only the kind tells them apart.
        let head: Header = bytemuck::pod_read_unaligned(bytes.get(..size_of::<Header>())?);
        if head.kind == kind::COUNTERS { self.counters.take(bytes) } else { self.minisocks.take(bytes) }
    }

    fn add(&mut self, other: Self) {
        // The other members are not collected by `iter/tcp`: `live` fills them in.
        self.minisocks.add(other.minisocks);
        self.counters.add(other.counters);
    }
}

impl Capture {
    /// Reads all TCP sockets of all network namespaces that a process or a name refers to; returns them with these
    /// namespaces. Like the other readings below this takes a while, so `meanwhile` is called all along, to drain the rings.
    ///
    /// # Errors
    ///
    /// When the iterator is not attached or cannot be read.
    pub fn sockets(&mut self, meanwhile: impl FnMut(&mut Rings)) -> io::Result<(Vec<TcpRecord>, Reach)> {
        let first = if self.is_first_dump { setting::FIRST_DUMP } else { 0 };
        let found = self.read(Program::DumpTcp, first, iterate::all_namespaces, meanwhile)?;
        // Only after a success: until then sockets may still keep what an earlier daemon knew.
        self.is_first_dump = false;
        Ok(found)
    }

    /// Reads all UDP sockets of all network namespaces that a process or a name refers to; returns them with the inodes of
    /// these namespaces.
    ///
    /// # Errors
    ///
    /// When the iterator is not attached or cannot be read.
    pub fn datagrams(
        &mut self,
        mut meanwhile: impl FnMut(&mut Rings),
    ) -> io::Result<(Vec<UdpSocketRecord>, HashSet<u64>)> {
        if !self.has(Program::DumpUdp) {
            return Ok(Default::default());
        }
        let first = if self.is_first_udp_dump { setting::FIRST_DUMP } else { 0 };
        let cookies = self.cookies;
        let has_any = move || {
            let has_any = iterate::has_datagrams();
            if has_any && !cookies {
                // Here, because this runs in the namespace that is read next, and `sock_diag` knows no other.
                diag::number_datagrams();
            }
            has_any
        };
        let read = |program: &mut Iter, faults: &[Fault]| iterate::namespaces(program, faults, |_| true, has_any);
        let (mut sockets, Reach { read: namespaces, .. }): (Vec<UdpSocketRecord>, _) =
            self.read(Program::DumpUdp, first, read, &mut meanwhile)?;
        self.is_first_udp_dump = false;
        if !self.exact {
            // Iterators cannot read what is kept with sockets.
            self.files(meanwhile)?;
            // By the socket's address in the kernel, which both records have where there are no cookies.
            iterate::assign_owners(
                sockets.iter_mut().map(|socket| (socket.file, &mut socket.state.owner)),
                &self.files,
            );
        }
        Ok((sockets, namespaces))
    }

    /// Reads all open files that are TCP or datagram sockets.
    ///
    /// # Errors
    ///
    /// When the iterator is not attached or cannot be read.
    pub fn files(&mut self, meanwhile: impl FnMut(&mut Rings)) -> io::Result<Vec<FileRecord>> {
        let files: Vec<FileRecord> = self.read(Program::DumpFiles, 0, iterate::here, meanwhile)?;
        if !self.exact {
            // TCP sockets are found in the table instead.
            let datagrams = files.iter().filter(|file| file.tcp_state == tcp_state::CLOSE);
            self.files = datagrams.copied().collect();
        }
        Ok(files)
    }

    /// Reads the open files that are TCP sockets in SYN_SENT.
    ///
    /// # Errors
    ///
    /// When the iterator is not attached or cannot be read.
    pub fn attempts(&mut self, meanwhile: impl FnMut(&mut Rings)) -> io::Result<Vec<FileRecord>> {
        self.read(Program::DumpFiles, setting::SCAN_ATTEMPTS, iterate::here, meanwhile)
    }

    /// Reads all packet sockets and the processes that have them open. The result names what cannot be listed.
    pub fn packet_sockets(&mut self, meanwhile: impl FnMut(&mut Rings)) -> PacketSockets {
        // No reason to give up: what `/proc/net/packet` lists is found without the iterator.
        let obstacle = self.obstacle(Program::DumpFiles).or_else(|| self.files_obstacle.clone());
        // Always `Ok`: what could not be read is said in the list itself.
        let look = |program: &mut Iter, faults: &[Fault]| {
            Ok(packet_socket::all(|| match obstacle {
                None => iterate::here(program, faults),
                Some(reason) => Err(io::Error::other(reason)),
            }))
        };
        self.read(Program::DumpFiles, setting::SCAN_PACKET_SOCKETS, look, meanwhile)
            .unwrap_or_else(|error| PacketSockets::none(&error))
    }

    /// Reads sockets that are no connections, of the network namespaces whose inode is wanted. The result names what cannot be listed; their
    /// processes are found by [`all_files`](Self::all_files).
    pub fn other_sockets(
        &mut self,
        kinds: SocketKinds,
        is_wanted: impl Fn(u64) -> bool + Send,
        mut meanwhile: impl FnMut(&mut Rings),
    ) -> OtherSockets {
        let Self { rings, .. } = self;
        iterate::beside(move || OtherSockets::read(kinds, true, is_wanted), || meanwhile(rings))
            .unwrap_or_else(|error| OtherSockets::none(&error))
    }

    /// Reads all open files that are sockets of whatever family.
    ///
    /// # Errors
    ///
    /// When the iterator is not attached, cannot be read, or cannot read files on this kernel.
    pub fn all_files(&mut self, meanwhile: impl FnMut(&mut Rings)) -> io::Result<Vec<FileRecord>> {
        if let Some(reason) = self.obstacle(Program::DumpFiles).or_else(|| self.files_obstacle.clone()) {
            return Err(io::Error::other(reason));
        }
        self.read(Program::DumpFiles, setting::SCAN_ALL_SOCKETS, iterate::here, meanwhile)
    }

    /// Finds owners for accepted connections that only have their listener's owner, and for sockets whose owner is one of the
    /// processes that have `ended`: starts by id, at most 1,024. Returns open files of their new owners.
    ///
    /// # Errors
    ///
    /// When the iterator is not attached or cannot be read.
    pub fn owners(
        &mut self,
        ended: &hashbrown::HashMap<u32, u64>,
        meanwhile: impl FnMut(&mut Rings),
    ) -> io::Result<Vec<FileRecord>> {
        let told = ended.iter().try_for_each(|(tgid, start_ns)| self.ended.insert(tgid, start_ns, 0));
        let found = match told {
            Ok(()) => self.read(Program::DumpFiles, setting::SCAN_OWNERS, iterate::here, meanwhile),
            Err(error) => Err(io::Error::other(error)),
        };
        for tgid in ended.keys() {
            // Removed after an error too, because the next scan needs room. An error here means that it is not there.
            let _ = self.ended.remove(tgid);
        }
        found
    }

    /// Reads all processes, while the rings wait; none if the iterator is not attached or cannot be read. That costs only
    /// what `/proc` does not tell.
    pub fn tasks(&mut self) -> Vec<TaskRecord> {
        if !self.has(Program::DumpTasks) {
            return Vec::new();
        }
        self.read(Program::DumpTasks, 0, iterate::here, |_| {}).unwrap_or_else(|error| {
            warn!("cannot read the exact starts of processes and their files: {error}");
            Vec::new()
        })
    }

    /// Reads what the table lacks, in all network namespaces: minisocks of half-open connections (SYN_RECV) and of those that are
    /// over (TIME_WAIT, and FIN_WAIT2 without a process), byte counters of connections, and UDP sockets.
    ///
    /// # Errors
    ///
    /// When the iterator is not attached or cannot be read.
    pub fn live(&mut self, wanted: LiveParts, mut meanwhile: impl FnMut(&mut Rings)) -> io::Result<Live> {
        // One walk serves both purposes: it takes most of the time.
        let bits = if wanted.minisocks { setting::SCAN_TIME_WAIT | setting::SCAN_HALF_OPEN } else { 0 }
            | if wanted.counters { setting::SCAN_COUNTERS } else { 0 };
        let mut live = Live::default();
        if bits != 0 {
            // Assigned from left to right, so `live` does not overwrite its namespaces.
            (live, live.namespaces) =
                self.read(Program::DumpTcp, bits, iterate::all_namespaces::<Live>, &mut meanwhile)?;
        }
        if wanted.datagrams {
            (live.datagrams, live.datagram_namespaces) = self.datagrams(meanwhile)?;
        }
        Ok(live)
    }

    /// Reads what the kernel measures of the sockets of all network namespaces whose inode is wanted.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn socket_infos(
        &mut self,
        parts: InfoParts,
        is_wanted: impl Fn(u64) -> bool + Send,
        mut meanwhile: impl FnMut(&mut Rings),
    ) -> io::Result<SocketInfos> {
        let Self { rings, cookies, .. } = self;
        let has_cookies = *cookies;
        iterate::beside(move || SocketInfos::read(has_cookies, parts, is_wanted), || meanwhile(rings))
    }

    /// Reads an iterator on a thread of its own, with these bits of the settings set for as long as that takes.
    fn read<T: Send>(
        &mut self,
        program: Program,
        bits: u32,
        read: impl FnOnce(&mut Iter, &[Fault]) -> io::Result<T> + Send,
        mut meanwhile: impl FnMut(&mut Rings),
    ) -> io::Result<T> {
        let Self { ebpf, rings, settings, faults, .. } = self;
        let ebpf = ebpf.as_mut().ok_or_else(|| io::Error::other("the programs are detached"))?;
        let program = ebpf.program_mut(program.name()).ok_or_else(|| io::Error::other("no such program"))?;
        let program: &mut Iter = program.try_into().map_err(io::Error::other)?;
        // A program of an iterator has no arguments; the map is the only way to tell it what to write.
        settings.set(0, self.bits | bits, 0).map_err(io::Error::other)?;
        let found = iterate::beside(|| read(program, faults), || meanwhile(rings));
        // Before an error is returned: a bit that stays would change what the next reading writes.
        settings.set(0, self.bits, 0).map_err(io::Error::other)?;
        found?
    }
}
