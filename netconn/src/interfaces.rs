//! Names of network interfaces, which the kernel's records have by index: an index means another interface in each namespace.

use std::{collections::HashMap, io, rc::Rc, thread};

use crate::{
    kernel::{iterate, links},
    privileged::namespaces,
};

/// How long the names of a namespace are taken for granted, nanoseconds.
const KNOWN_NS: u64 = 60_000_000_000;
/// Shortest time between two looks into a namespace that lacks a name, nanoseconds: the interface may be new, or gone for ever.
const MISSING_NS: u64 = 1_000_000_000;
/// Most looks into namespaces within a second: each searches `/proc`.
const LOOKS_MAX: u32 = 10;
const SECOND_NS: u64 = 1_000_000_000;
/// Most namespaces whose names are remembered.
const NAMESPACES_MAX: usize = 1024;

/// What is known of the interfaces of network namespaces. Whoever uses it has [`read`] called, by a thread that may wait.
#[derive(Debug, Default)]
pub struct Interfaces {
    /// By inode of the namespace.
    known: HashMap<u32, Known>,
    /// Looks into namespaces in the second that began then, nanoseconds since boot.
    looks: (u64, u32),
}

/// The interfaces of a namespace.
#[derive(Debug, Default)]
struct Known {
    names: HashMap<u32, Rc<str>>,
    /// When they were last asked for, nanoseconds since boot.
    asked_ns: u64,
}

impl Interfaces {
    /// Returns the name of an interface, by the inode of its namespace and its index there; the index itself if no name is known.
    /// 0 stands for no interface.
    pub fn name(&self, namespace: u32, index: u32) -> Option<Rc<str>> {
        if index == 0 {
            return None;
        }
        let name = self.known.get(&namespace).and_then(|known| known.names.get(&index));
        Some(name.map_or_else(|| index.to_string().into(), Rc::clone))
    }

    /// Returns whether the names of a namespace should be read now, for the name of an interface. `now_ns` is in nanoseconds since
    /// boot.
    pub fn is_due(&self, namespace: u32, index: u32, now_ns: u64) -> bool {
        index != 0
            && self.known.get(&namespace).is_none_or(|known| {
                let pause = if known.names.contains_key(&index) { KNOWN_NS } else { MISSING_NS };
                now_ns.saturating_sub(known.asked_ns) >= pause
            })
    }

    /// Returns whether there may be one more look in this second.
    pub fn may_look(&self, now_ns: u64) -> bool {
        let (began_ns, count) = self.looks;
        count < LOOKS_MAX || now_ns.saturating_sub(began_ns) >= SECOND_NS
    }

    /// Notes that the names of a namespace are read.
    pub fn asked(&mut self, namespace: u32, now_ns: u64) {
        let (began_ns, count) = &mut self.looks;
        if now_ns.saturating_sub(*began_ns) >= SECOND_NS {
            (*began_ns, *count) = (now_ns, 0);
        }
        *count += 1;
        if self.known.len() >= NAMESPACES_MAX && !self.known.contains_key(&namespace) {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.asked_ns).map(|(inode, _)| *inode);
            oldest.and_then(|inode| self.known.remove(&inode));
        }
        self.known.entry(namespace).or_default().asked_ns = now_ns;
    }

    /// Takes over the names of a namespace. What could not be read stays as it was.
    pub fn take(&mut self, namespace: u32, found: io::Result<Vec<(u32, String)>>) {
        if let Ok(names) = found
            && let Some(known) = self.known.get_mut(&namespace)
        {
            known.names = names.into_iter().map(|(index, name)| (index, name.into())).collect();
        }
    }
}

/// Reads index and name of each interface of a namespace. Looks at all processes if need be, and at the namespace by a thread.
///
/// # Errors
///
/// When no process is in the namespace and it has no name, or when it cannot be entered.
pub fn read(namespace: u32) -> io::Result<Vec<(u32, String)>> {
    if iterate::own_namespace() == Some(u64::from(namespace)) {
        return links::names();
    }
    let handle = iterate::namespace(u64::from(namespace)).ok_or(io::ErrorKind::NotFound)?;
    // On a thread of its own, which stays there.
    thread::scope(|scope| {
        let visitor = thread::Builder::new().name("netconn-links".into()).spawn_scoped(scope, || {
            namespaces::enter(&handle)?;
            links::names()
        })?;
        visitor.join().map_err(|_| io::Error::other("a thread panicked"))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_has_a_name_or_its_index() {
        let own = u32::try_from(iterate::own_namespace().unwrap()).unwrap();
        let mut interfaces = Interfaces::default();
        assert!(!interfaces.is_due(own, 0, 1) && interfaces.is_due(own, 1, 1));
        assert_eq!(interfaces.name(own, 0), None);
        assert_eq!(interfaces.name(own, 1).as_deref(), Some("1"), "not read yet");
        interfaces.asked(own, 1);
        interfaces.take(own, read(own));
        // The loopback is the first of each namespace (`LOOPBACK_IFINDEX` in include/net/flow.h).
        assert_eq!(interfaces.name(own, 1).as_deref(), Some("lo"));
        assert!(!interfaces.is_due(own, 1, KNOWN_NS) && interfaces.is_due(own, 1, KNOWN_NS + 1));
        interfaces.take(own, Err(io::ErrorKind::NotFound.into()));
        assert_eq!(interfaces.name(own, 1).as_deref(), Some("lo"), "what cannot be read stays");
        assert!(read(1).is_err(), "no such namespace");
    }

    #[test]
    fn a_name_that_is_missing_is_not_looked_for_each_time() {
        let mut interfaces = Interfaces::default();
        // An interface that has gone, and a namespace that has.
        for (namespace, found) in [(5, Ok(vec![(1, "lo".to_owned())])), (6, Err(io::ErrorKind::NotFound.into()))] {
            interfaces.asked(namespace, 7);
            interfaces.take(namespace, found);
            assert!(!interfaces.is_due(namespace, 99, 6 + MISSING_NS));
            assert!(interfaces.is_due(namespace, 99, 7 + MISSING_NS));
        }
        let mut looks = 0;
        for namespace in 0..100 {
            if interfaces.may_look(2 * SECOND_NS) {
                interfaces.asked(100 + namespace, 2 * SECOND_NS);
                looks += 1;
            }
        }
        assert_eq!(looks, LOOKS_MAX);
        assert!(interfaces.may_look(3 * SECOND_NS));
    }

    #[test]
    fn the_namespace_that_was_asked_for_first_is_forgotten_first() {
        let mut interfaces = Interfaces::default();
        for namespace in 0..=1024 {
            interfaces.asked(namespace, u64::from(namespace));
            interfaces.take(namespace, Ok(vec![(1, "lo".to_owned())]));
        }
        assert_eq!(interfaces.known.len(), NAMESPACES_MAX);
        assert_eq!(interfaces.name(0, 1).as_deref(), Some("1"));
        assert_eq!(interfaces.name(1, 1).as_deref(), Some("lo"));
    }
}
