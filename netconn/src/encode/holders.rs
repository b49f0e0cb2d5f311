//! All processes that have each socket open, for rows that list them.

use std::borrow::Cow;

use netconn_common::FileRecord;
use netconn_model::holder::{Holder, HolderList};

use crate::process::comm;

/// Most descriptors that a row lists: any process may duplicate one a million times.
const LISTED_MAX: usize = 256;

/// An open descriptor of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct OpenFile {
    /// As [`FileRecord::socket`].
    socket: u64,
    pid: u32,
    descriptor: u32,
    inode: u64,
    comm: [u8; 16],
}

/// The open descriptors of all sockets.
#[derive(Debug, Default)]
pub struct Holders {
    /// In their order, so that those of a socket stand together.
    files: Vec<OpenFile>,
}

impl Holders {
    /// Takes the open files of a scan.
    pub fn new(files: impl IntoIterator<Item = FileRecord>) -> Self {
        let of = |file: FileRecord| OpenFile {
            socket: file.socket,
            pid: file.owner.tgid,
            descriptor: file.descriptor,
            inode: file.inode,
            comm: file.owner.comm,
        };
        let mut files: Vec<OpenFile> = files.into_iter().map(of).collect();
        files.sort_unstable();
        files.shrink_to_fit();
        Self { files }
    }

    /// Returns how many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.files.capacity() * size_of::<OpenFile>()
    }

    /// Returns inode and open descriptors of a socket, with the number of all of them; `None` if no process has it open.
    pub(super) fn of(&self, socket: u64) -> Option<(Option<u64>, HolderList<'_>, u32)> {
        // Sockets without a number cannot be told apart.
        if socket == 0 {
            return None;
        }
        let start = self.files.partition_point(|file| file.socket < socket);
        let files = self.files.get(start..)?;
        let files = files.get(..files.partition_point(|file| file.socket == socket))?;
        let inode = files.first()?.inode;
        let holder = |file: &OpenFile| Holder {
            pid: file.pid,
            process_name: Cow::Owned(comm(&file.comm).into_owned()),
            fd: file.descriptor,
        };
        let listed = HolderList(files.iter().take(LISTED_MAX).map(holder).collect());
        Some(((inode != 0).then_some(inode), listed, u32::try_from(files.len()).unwrap_or(u32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    #[test]
    fn the_descriptors_of_a_socket_are_found_and_bounded() {
        let file = |socket, tgid, descriptor| {
            let mut file = FileRecord { socket, descriptor, inode: socket * 10, ..FileRecord::zeroed() };
            (file.owner.tgid, file.owner.comm[0]) = (tgid, b'a');
            file
        };
        let many = (0..1000).map(|descriptor| file(7, 5, descriptor));
        let holders = Holders::new([file(6, 2, 3), file(5, 1, 3), file(6, 2, 1)].into_iter().chain(many));
        let (inode, listed, count) = holders.of(6).unwrap();
        assert_eq!((inode, listed.in_words().as_str(), count), (Some(60), "a(2) fd 1,3", 2));
        let (_, listed, count) = holders.of(7).unwrap();
        assert_eq!((listed.0.len(), count), (LISTED_MAX, 1000));
        assert!(holders.of(8).is_none() && holders.of(0).is_none());
    }
}
