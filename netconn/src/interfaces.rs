//! Names of network interfaces, which the kernel's records have by index: an index means another interface in each namespace.

use std::{collections::HashMap, io, os::fd::AsFd as _, rc::Rc, thread};

use nix::{
    net::if_::if_nameindex,
    sched::{CloneFlags, setns},
};

use crate::kernel::iterate;

/// How long the names of a namespace are taken for granted, nanoseconds.
const KNOWN_NS: u64 = 60_000_000_000;
/// Most looks into namespaces within a second: whoever makes many namespaces must not hold up the engine, which searches `/proc`
/// for each.
const LOOKS_MAX: u32 = 10;
const SECOND_NS: u64 = 1_000_000_000;
/// Most namespaces whose names are remembered.
const NAMESPACES_MAX: usize = 1024;

/// Names of the interfaces of network namespaces.
#[derive(Debug, Default)]
pub struct Interfaces {
    /// By inode of the namespace.
    known: HashMap<u32, Known>,
    /// Looks into namespaces in the second that began then, nanoseconds since boot.
    looks: (u64, u32),
}

/// The interfaces of a namespace.
#[derive(Debug)]
struct Known {
    names: HashMap<u32, Rc<str>>,
    /// When they were read, nanoseconds since boot.
    read_ns: u64,
}

impl Interfaces {
    /// Returns the name of an interface, by the inode of its namespace and its index there; the index itself if the name cannot be
    /// found now. 0 stands for no interface. `now_ns` is in nanoseconds since boot.
    pub fn name(&mut self, namespace: u32, index: u32, now_ns: u64) -> Option<Rc<str>> {
        if index == 0 {
            return None;
        }
        let name = |all: &Self| all.known.get(&namespace).and_then(|known| known.names.get(&index)).cloned();
        let is_fresh = self.known.get(&namespace).is_some_and(|known| now_ns.saturating_sub(known.read_ns) < KNOWN_NS);
        if !(is_fresh && name(self).is_some()) && self.may_look(now_ns) {
            // What cannot be read stays as it was.
            if let Ok(names) = read(namespace) {
                if self.known.len() >= NAMESPACES_MAX {
                    self.known.clear();
                }
                self.known.insert(namespace, Known { names, read_ns: now_ns });
            }
        }
        Some(name(self).unwrap_or_else(|| index.to_string().into()))
    }

    /// Returns whether there may be one more look in this second, and counts it.
    fn may_look(&mut self, now_ns: u64) -> bool {
        let (began_ns, count) = &mut self.looks;
        if now_ns.saturating_sub(*began_ns) >= SECOND_NS {
            (*began_ns, *count) = (now_ns, 0);
        }
        *count += 1;
        *count <= LOOKS_MAX
    }
}

/// Reads the names of a namespace's interfaces by index.
fn read(namespace: u32) -> io::Result<HashMap<u32, Rc<str>>> {
    if iterate::own_namespace() == Some(u64::from(namespace)) {
        return Ok(names()?.into_iter().map(|(index, name)| (index, name.into())).collect());
    }
    let handle = iterate::namespace(u64::from(namespace)).ok_or(io::ErrorKind::NotFound)?;
    // On a thread of its own, which stays there.
    let found = thread::scope(|scope| {
        let visitor = thread::Builder::new().name("netconn-links".into()).spawn_scoped(scope, || {
            setns(handle.as_fd(), CloneFlags::CLONE_NEWNET)?;
            names()
        })?;
        visitor.join().map_err(|_| io::Error::other("a thread panicked"))?
    })?;
    Ok(found.into_iter().map(|(index, name)| (index, name.into())).collect())
}

/// Reads the names of the interfaces of the calling thread's namespace.
fn names() -> io::Result<Vec<(u32, String)>> {
    let interfaces = if_nameindex()?;
    Ok(interfaces.iter().map(|link| (link.index(), link.name().to_string_lossy().into_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_has_a_name_or_its_index() {
        let own = u32::try_from(iterate::own_namespace().unwrap()).unwrap();
        let mut interfaces = Interfaces::default();
        // The loopback is the first of each namespace (`LOOPBACK_IFINDEX` in include/net/flow.h).
        assert_eq!(interfaces.name(own, 1, 1).as_deref(), Some("lo"));
        assert_eq!(interfaces.name(own, 0, 1), None);
        assert_eq!(interfaces.name(own, 999_999, 2).as_deref(), Some("999999"));
        assert_eq!(interfaces.name(1, 1, 3).as_deref(), Some("1"), "no such namespace");
        assert_eq!(interfaces.known.len(), 1);
        let looks = |interfaces: &mut Interfaces, now_ns| (0..100).filter(|_| interfaces.may_look(now_ns)).count();
        assert!(looks(&mut interfaces, 4) < 10);
        assert_eq!(looks(&mut interfaces, 4 + SECOND_NS), 10);
    }
}
