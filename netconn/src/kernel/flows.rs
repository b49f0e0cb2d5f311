//! The maps of flows: reads them as a whole, and takes single flows out.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::maps::{Map, MapData};
use bytemuck::Pod;
use netconn_common::{Flow, FlowKey};

/// `BPF_MAP_LOOKUP_ELEM` of `enum bpf_cmd`, `include/uapi/linux/bpf.h`.
const LOOKUP: libc::c_int = 1;
/// `BPF_MAP_UPDATE_ELEM` of `enum bpf_cmd`.
const UPDATE: libc::c_int = 2;
/// `BPF_MAP_DELETE_ELEM` of `enum bpf_cmd`.
const DELETE: libc::c_int = 3;
/// `BPF_MAP_LOOKUP_AND_DELETE_ELEM` of `enum bpf_cmd`; for hash maps from 5.14 on.
const LOOKUP_AND_DELETE: libc::c_int = 21;
/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd`; from 5.6 on.
const LOOKUP_BATCH: libc::c_int = 24;
/// `BPF_NOEXIST` in `include/uapi/linux/bpf.h`: create an entry, do not change one.
const NO_EXIST: u64 = 1;
/// Entries that the first system call reads: more than a bucket of the kernel's table usually has.
const ENTRIES_AT_ONCE: u32 = 4096;
/// Most entries that one system call reads.
const ENTRIES_MAX: u32 = 1 << 21;

/// The kernel's flows; empty by default.
#[derive(Default)]
pub struct FlowMaps {
    maps: Option<Maps>,
}

struct Maps {
    flows: MapData,
    folded: MapData,
}

/// The part of `union bpf_attr` for `BPF_MAP_LOOKUP_BATCH`.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The part of `union bpf_attr` for single entries.
#[repr(C)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl FlowMaps {
    /// Takes the maps; `None` if they are no hash maps.
    pub(super) fn new(flows: Map, folded: Map) -> Option<Self> {
        match (flows, folded) {
            (Map::HashMap(flows), Map::HashMap(folded)) => Some(Self { maps: Some(Maps { flows, folded }) }),
            _ => None,
        }
    }

    /// Reads all flows. A flow that begins or ends meanwhile may be among them or not.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to read them.
    pub fn all(&self) -> io::Result<Vec<(FlowKey, Flow)>> {
        let Some(Maps { flows, folded }) = &self.maps else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        read_all(flows, |key: &FlowKey, flow: &Flow| found.push((*key, *flow)))?;
        read_all(folded, |socket: &u64, flow: &Flow| {
            found.push((FlowKey { socket: *socket, ..FlowKey::default() }, *flow));
        })?;
        Ok(found)
    }

    /// Takes a flow with its counters out of the kernel's table; `None` if it is not there.
    pub fn take(&self, key: &FlowKey) -> Option<Flow> {
        let Maps { flows, folded } = self.maps.as_ref()?;
        if key.version == 0 { take(folded, &key.socket) } else { take(flows, key) }
    }

    /// Folds a socket: from now on one flow stands for all remote ends that the socket has no flow with yet.
    pub fn fold(&self, socket: u64) {
        let Some(Maps { folded, .. }) = &self.maps else { return };
        // The programs fill it in with the next datagram.
        let flow = Flow::default();
        let mut element = Element::of(folded, &socket, &flow);
        // A flow that is there keeps its counters.
        element.flags = NO_EXIST;
        // Without room the socket goes on as before, until there is no room for its flows either.
        let _ = bpf(UPDATE, &mut element);
    }
}

impl Element {
    /// Returns the attributes for one entry; the kernel reads the key, and reads or writes the value.
    fn of<K: Pod>(map: &MapData, key: &K, value: &Flow) -> Self {
        Self {
            map_fd: descriptor(map),
            pad: 0,
            key: (&raw const *key) as u64,
            value: (&raw const *value) as u64,
            flags: 0,
        }
    }
}

fn descriptor(map: &MapData) -> u32 {
    map.fd().as_fd().as_raw_fd().unsigned_abs()
}

/// Takes an entry out of a map. Before 5.14 in two steps: what is counted in between is lost.
fn take<K: Pod>(map: &MapData, key: &K) -> Option<Flow> {
    let mut flow = Flow::default();
    let mut element = Element { value: (&raw mut flow) as u64, ..Element::of(map, key, &flow) };
    match bpf(LOOKUP_AND_DELETE, &mut element) {
        Ok(()) => Some(flow),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(_) => {
            // The kernel does not know the command for hash tables.
            bpf(LOOKUP, &mut element).ok()?;
            // Attributes that a command does not use must be zero (`CHECK_ATTR` in kernel/bpf/syscall.c).
            element.value = 0;
            bpf(DELETE, &mut element).ok()?;
            Some(flow)
        }
    }
}

/// Reads all entries of a hash map, some thousand with each system call.
fn read_all<K: Pod, V: Pod>(map: &MapData, mut each: impl FnMut(&K, &V)) -> io::Result<()> {
    let mut room = ENTRIES_AT_ONCE;
    let (mut keys, mut values) = (Vec::<K>::new(), Vec::<V>::new());
    // In a hash table the kernel's position is the number of a bucket: four bytes, whatever the length of a key
    // (`__htab_map_lookup_and_delete_batch` in kernel/bpf/hashtab.c).
    let (mut place, mut next) = (0_u64, 0_u64);
    let mut is_first = true;
    loop {
        // Both are empty here: the kernel writes into their spare room.
        keys.reserve_exact(room as usize);
        values.reserve_exact(room as usize);
        let mut batch = Batch {
            // Null: from the first bucket on.
            in_batch: if is_first { 0 } else { (&raw const place) as u64 },
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room,
            map_fd: descriptor(map),
            ..Batch::default()
        };
        let is_last = match bpf(LOOKUP_BATCH, &mut batch) {
            Ok(()) => false,
            // The table ends. What was read up to there still counts.
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            // A bucket has more entries than there is room for here.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < ENTRIES_MAX => {
                // Nothing was read, and `place` stands: the same bucket is read again.
                room *= 2;
                continue;
            }
            Err(error) => return Err(error),
        };
        // Never more than there was room for: `set_len` relies on it.
        let count = batch.count.min(room) as usize;
        // SAFETY: the kernel has written `count` of each, and any bytes are valid values of both types.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        keys.iter().zip(&values).for_each(|(key, value)| each(key, value));
        keys.clear();
        values.clear();
        if is_last {
            return Ok(());
        }
        place = next;
        is_first = false;
    }
}

/// Makes the system call `bpf` with the beginning of its `union bpf_attr`; the kernel takes the rest for zeros.
fn bpf<A>(command: libc::c_int, attributes: &mut A) -> io::Result<()> {
    // SAFETY: the size is that of the attributes, and the caller owns the memory that they point to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<A>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
