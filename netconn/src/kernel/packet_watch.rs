//! Notices that packet sockets are opened and closed. No hook tells that on every kernel: programs on cgroups see sockets of IP only,
//! no tracepoint is near `packet_create` (`net/packet/af_packet.c`), and that function may be in a module. So their lists are read
//! once a second: `/proc/net/packet` of each network namespace.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    kernel::{iterate, packet_socket},
    os,
    privileged::{
        NetFile,
        namespaces::{self, Way},
    },
};

/// Time between two looks. A socket that lives for less may be missed.
const PAUSE: Duration = Duration::from_secs(1);
/// Looks between two searches for network namespaces, for which all processes are looked at.
const SEARCH_EVERY: u32 = 10;

/// Inode of the network namespace, and of a packet socket in it.
type Places = HashSet<(u32, u64)>;

/// Watches the lists, by a thread that ends with it.
#[derive(Debug)]
pub struct PacketWatch {
    has_changed: Arc<AtomicBool>,
}

impl PacketWatch {
    /// Starts the thread; it calls `wake` when a list has changed.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn start(wake: impl Fn() + Send + 'static) -> io::Result<Self> {
        let has_changed = Arc::new(AtomicBool::new(false));
        let to_engine = Arc::downgrade(&has_changed);
        thread::Builder::new().name("netconn-packet".into()).spawn(move || {
            os::lower_thread_priority();
            let (mut namespaces, mut before) = (Namespaces::default(), None::<Places>);
            for look in 0_u32.. {
                let is_search = look.is_multiple_of(SEARCH_EVERY);
                let found = namespaces.places(is_search, before.as_ref());
                let Some(has_changed) = to_engine.upgrade() else { return };
                // The first look too: something may have changed since the start was told.
                // Without an answer it stays as it was.
                if found.is_some() && before != found {
                    before = found;
                    has_changed.store(true, Ordering::Relaxed);
                    wake();
                }
                // Not held while it sleeps: the thread ends within a second after the watch.
                drop(has_changed);
                thread::sleep(PAUSE);
            }
        })?;
        Ok(Self { has_changed })
    }

    /// Returns whether a list has changed since the last call.
    pub fn take_change(&self) -> bool {
        self.has_changed.swap(false, Ordering::Relaxed)
    }
}

/// The network namespaces beside the own one, each by a way to it. They are opened for each look only: an open handle would keep a
/// namespace in being.
#[derive(Default)]
struct Namespaces(Vec<(u64, Way)>);

impl Namespaces {
    /// Reads all lists; searches for namespaces before if that is wanted, or if one is not where it was. Returns `None` if the own
    /// namespace cannot be read.
    fn places(&mut self, is_search: bool, before: Option<&Places>) -> Option<Places> {
        if is_search {
            self.0 = iterate::namespace_places();
        }
        let (mut found, mut missing) = self.read()?;
        if !missing.is_empty() {
            self.0 = iterate::namespace_places();
            (found, missing) = self.read()?;
        }
        // One that has vanished since the search keeps its sockets until the next look, which knows whether it is gone.
        found.extend(before.into_iter().flat_map(|before| within(before, &missing)));
        Some(found)
    }

    /// Reads all lists; returns also the namespaces that are not where they were.
    fn read(&self) -> Option<(Places, HashSet<u64>)> {
        let mut found = Places::new();
        let own = File::open(iterate::OWN_NAMESPACE).ok()?;
        let inode = own.metadata().ok()?.ino();
        add(inode, &mut found);
        let mut missing = HashSet::new();
        for (inode, way) in &self.0 {
            match way.open(*inode) {
                // Without the privilege to enter it, nothing changes there as far as is known.
                Ok(file) if namespaces::enter(&file).is_ok() => add(*inode, &mut found),
                Ok(_) => {}
                Err(_) => _ = missing.insert(*inode),
            }
        }
        // Back, or the next look would take another namespace for the own one.
        if !self.0.is_empty() && namespaces::enter(&own).is_err() {
            return None;
        }
        Some((found, missing))
    }
}

/// Returns those of some namespaces.
fn within<'a>(places: &'a Places, namespaces: &'a HashSet<u64>) -> impl Iterator<Item = (u32, u64)> + 'a {
    places.iter().filter(|(namespace, _)| namespaces.contains(&u64::from(*namespace))).copied()
}

/// Adds the packet sockets of the calling thread's namespace. Without the file the kernel has none.
fn add(namespace: u64, found: &mut Places) {
    let (Ok(namespace), Ok(text)) = (u32::try_from(namespace), namespaces::text(NetFile::Packet)) else {
        return;
    };
    found.extend(packet_socket::places(&text, namespace));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_vanishes_hides_no_list() {
        let gone = Namespaces(vec![(7, Way::Process(5_000_000))]);
        let (found, missing) = gone.read().unwrap();
        assert_eq!(missing, [7].into());
        assert!(found.iter().all(|(namespace, _)| u64::from(*namespace) == iterate::own_namespace().unwrap()));
        // In both readings: the next look knows more.
        assert_eq!(within(&[(7, 1), (8, 2)].into(), &missing).collect::<Vec<_>>(), [(7, 1)]);
        // Missing in the first reading only: the search after it does not find the namespace any more.
        let mut namespaces = gone;
        let places = namespaces.places(false, Some(&[(7, 1)].into())).unwrap();
        assert!(!places.contains(&(7, 1)) && namespaces.0.iter().all(|(inode, _)| *inode != 7));
    }
}
