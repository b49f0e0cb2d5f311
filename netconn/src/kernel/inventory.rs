//! Reads all sockets and their processes once, with two or three of the iterators and nothing attached: for a command that
//! runs without a daemon and must be quick.

use std::{io, thread};

use aya::{
    Btf as AyaBtf, EbpfLoader,
    maps::{Array, MapData},
    programs::{Iter, ProgramError},
};
use netconn_common::{FileRecord, TcpRecord, UdpSocketRecord, feature, map, setting, tcp_state};

use crate::{
    kernel::{
        btf::Btf,
        hooks::Program,
        iterate::{self, Reach, Unreached},
        layout::Layout,
        load::{CaptureOptions, LoadError, NO_LOG, load_by, take_map, undisturbed},
        packet_socket::{self, PacketSockets},
        preflight::{self, Lockdown},
    },
    os::NoSignals,
};

/// The smallest size of a ring: iterators write nothing to it.
const RING_BYTES: u32 = 4096;

/// Parts of an [`Inventory`] that are wanted beside TCP sockets.
#[derive(Clone, Copy, Debug)]
pub struct InventoryParts {
    /// Minisocks of half-open connections and of those that are over.
    pub minisocks: bool,
    /// UDP sockets.
    pub datagrams: bool,
    /// All open files.
    pub files: bool,
}

/// The sockets of a host.
#[derive(Debug, Default)]
pub struct Inventory {
    /// All TCP sockets, each with the process that has it open.
    pub sockets: Vec<TcpRecord>,
    /// Minisocks of connections that are over, if wanted.
    pub minisocks: Vec<TcpRecord>,
    /// All UDP sockets that have a port, if wanted, each with the process that has it open.
    pub datagrams: Vec<UdpSocketRecord>,
    /// Whether sockets are numbered by their cookies.
    pub has_cookies: bool,
    /// All open files that are sockets, if wanted.
    pub files: Vec<FileRecord>,
    /// What could not be read.
    pub unreached: Unreached,
}

/// Reads the sockets of the network namespaces whose inode is wanted.
///
/// # Errors
///
/// When this process lacks the permission, or the kernel a feature; the message says what to do.
pub fn read(is_wanted: impl Fn(u64) -> bool + Sync, wanted: InventoryParts) -> Result<Inventory, LoadError> {
    preflight::check_kernel(&preflight::kernel_release())?;
    preflight::check_capabilities()?;
    let quiet = NoSignals::new();
    let (loader, types, layout) = prepare()?;
    // Nothing is pinned: what a daemon keeps with sockets must stay untouched.
    let options = CaptureOptions::one_shot(RING_BYTES);
    let mut ebpf = load_by(loader, &options, &layout, NO_LOG)?;
    let mut settings: Array<MapData, u32> = take_map(&mut ebpf, map::SETTINGS)?;
    let (mut tcp, mut udp, mut files) = (None, None, None);
    // One pass over all, because `program_mut` lends one program at a time and up to three are used together.
    for (name, program) in ebpf.programs_mut() {
        if name == Program::DumpTcp.name() {
            tcp = Some(iterator(program, Program::DumpTcp, &types)?);
        } else if name == Program::DumpFiles.name() {
            files = Some(iterator(program, Program::DumpFiles, &types)?);
        } else if name == Program::DumpUdp.name() && wanted.datagrams {
            // Loaded only if wanted: the verifier takes its time.
            udp = Some(iterator(program, Program::DumpUdp, &types)?);
        }
    }
    let (Some(tcp), Some(files)) = (tcp, files) else {
        return Err(LoadError::Object("it has no iterators".into()));
    };
    // Ctrl-C ends a long reading.
    drop(quiet);
    // Half-open connections are read with the sockets: the kernel counts none of them, so nothing says which namespace need not
    // be read again.
    let half_open = if wanted.minisocks { setting::SCAN_HALF_OPEN } else { 0 };
    settings.set(0, setting::KEEP_NOTHING | half_open, 0).map_err(failed)?;
    let mut read_files = || iterate::here::<Vec<FileRecord>>(files, &[]);
    let read_sockets = || iterate::namespaces(tcp, &[], &is_wanted, iterate::has_sockets);
    let read_datagrams = || match udp {
        Some(udp) => iterate::namespaces(udp, &[], &is_wanted, iterate::has_datagrams).map(|(found, _)| found),
        None => Ok(Vec::new()),
    };
    // Cookies match files and sockets whichever is read first, so all are read at the same time.
    let (sockets, (datagrams, files)) = if layout.has(feature::SOCKET_COOKIE) {
        beside(read_sockets, || beside(read_datagrams, || Some(read_files())))
    } else {
        // Files are matched by the numbers that the first reading assigns to sockets.
        beside(read_sockets, || beside(read_datagrams, || None))
    };
    let (mut sockets, Reach { unreached, .. }): (Vec<TcpRecord>, Reach) = sockets.map_err(failed)?;
    let half_open: Vec<TcpRecord> = sockets.extract_if(.., |socket| is_half_open(socket)).collect();
    let mut datagrams: Vec<UdpSocketRecord> = datagrams.map_err(failed)?;
    let files = files.unwrap_or_else(read_files).map_err(failed)?;
    let mut own = || {
        let tcp = sockets.iter_mut().map(|socket| (socket.socket, &mut socket.state.owner));
        let udp = datagrams.iter_mut().map(|socket| (socket.file, &mut socket.state.owner));
        iterate::assign_owners(tcp.chain(udp), &files);
    };
    let mut minisocks = Vec::new();
    if wanted.minisocks {
        // `KEEP_NOTHING` may go: nothing is ever kept with minisocks.
        settings.set(0, setting::SCAN_TIME_WAIT, 0).map_err(failed)?;
        let read_minisocks = || iterate::namespaces(tcp, &[], &is_wanted, iterate::has_minisocks);
        // Owners are assigned while the kernel walks its table.
        let (found, ()) = beside(read_minisocks, own);
        minisocks = found.map_err(failed)?.0;
    } else {
        own();
    }
    minisocks.extend(half_open);
    let files = if wanted.files { files } else { Vec::new() };
    Ok(Inventory { sockets, minisocks, datagrams, files, has_cookies: layout.has(feature::SOCKET_COOKIE), unreached })
}

/// Returns whether a record of `iter/tcp` is the minisock of a half-open connection.
fn is_half_open(record: &TcpRecord) -> bool {
    record.socket == 0 && record.new_state == tcp_state::SYN_RECV
}

/// Reads the packet sockets of all network namespaces.
///
/// # Errors
///
/// As [`read`].
pub fn packet_sockets() -> Result<PacketSockets, LoadError> {
    with_files(setting::SCAN_PACKET_SOCKETS, |layout, files| {
        packet_socket::all(|| {
            layout.check_files()?;
            iterate::here(files, &[])
        })
    })
}

/// Reads all open files that are sockets of whatever family.
///
/// # Errors
///
/// As [`read`].
pub fn all_files() -> Result<Vec<FileRecord>, LoadError> {
    with_files(setting::SCAN_ALL_SOCKETS, |layout, files| {
        layout.check_files().map_err(failed)?;
        iterate::here(files, &[]).map_err(failed)
    })?
}

/// Loads the iterator of open files alone, tells it by a bit of the settings what to write, and hands it to the function.
fn with_files<T>(bit: u32, read: impl FnOnce(&Layout, &mut Iter) -> T) -> Result<T, LoadError> {
    preflight::check_kernel(&preflight::kernel_release())?;
    preflight::check_capabilities()?;
    let quiet = NoSignals::new();
    let (loader, types, layout) = prepare()?;
    let mut ebpf = load_by(loader, &CaptureOptions::one_shot(RING_BYTES), &layout, NO_LOG)?;
    let mut settings: Array<MapData, u32> = take_map(&mut ebpf, map::SETTINGS)?;
    let files =
        ebpf.program_mut(Program::DumpFiles.name()).ok_or_else(|| LoadError::Object("it has no iterator".into()))?;
    let files = iterator(files, Program::DumpFiles, &types)?;
    drop(quiet);
    settings.set(0, setting::KEEP_NOTHING | bit, 0).map_err(failed)?;
    Ok(read(&layout, files))
}

/// Prepares the loading of the object. The kernel's types are read three times, because aya reads them anew for each purpose
/// (20 ms) and keeps its members private; that happens on three threads at the same time.
fn prepare() -> Result<(EbpfLoader<'static>, AyaBtf, Layout), LoadError> {
    thread::scope(|scope| {
        let types = scope.spawn(AyaBtf::from_sys_fs);
        let layout = scope.spawn(|| -> Result<Layout, LoadError> {
            let data = preflight::read_btf()?;
            Ok(Layout::of(&Btf::parse(&data)?, Lockdown::of_this_kernel())?)
        });
        let loader = EbpfLoader::new();
        let panicked = |_| LoadError::Object("a thread panicked".into());
        let types = types.join().map_err(panicked)?.map_err(failed)?;
        Ok((loader, types, layout.join().map_err(panicked)??))
    })
}

/// Loads an iterator.
fn iterator<'a>(
    program: &'a mut aya::programs::Program,
    id: Program,
    types: &AyaBtf,
) -> Result<&'a mut Iter, LoadError> {
    let load = |program: &'a mut aya::programs::Program| {
        let program: &mut Iter = program.try_into()?;
        undisturbed(|| program.load(id.hook().target, types))?;
        Ok(program)
    };
    load(program).map_err(|error: ProgramError| match error {
        ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(libc::EPERM) => {
            LoadError::Refused(io_error)
        }
        error => failed(error),
    })
}

fn failed(error: impl std::error::Error) -> LoadError {
    LoadError::Object(error.to_string())
}

/// Does `there` on a thread of its own, which may enter namespaces, and `here` on this one.
fn beside<T: Send, U>(there: impl FnOnce() -> io::Result<T> + Send, here: impl FnOnce() -> U) -> (io::Result<T>, U) {
    thread::scope(|scope| {
        let worker = scope.spawn(there);
        let done = here();
        (worker.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked"))), done)
    })
}
