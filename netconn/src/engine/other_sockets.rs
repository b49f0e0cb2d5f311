//! Sockets that are no connections (raw, Unix, SCTP, MPTCP, vsock), for clients that ask.

use netconn_model::{filter::Filter, socket_kind::SocketKinds};
use tracing::warn;

use crate::{
    encode::holders::Holders,
    engine::{frozen::Others, run::Engine},
    kernel::{iterate, other_socket::files_of},
    process::open,
};

impl Engine {
    /// Reads the sockets of these kinds and finds who has them open. If the iterator cannot tell, `/proc` is searched.
    pub(super) fn other_sockets(
        &mut self,
        kinds: SocketKinds,
        filter: &Filter,
        lists_holders: bool,
        info: bool,
    ) -> Others {
        let is_wanted = |inode| filter.wants_namespace(inode);
        let mut found = self.scan(|capture, meanwhile| capture.other_sockets(kinds, is_wanted, meanwhile));
        if found.sockets.is_empty() {
            // A look at each open file of the machine would find nothing.
            return Others { found, holders: lists_holders.then(Holders::default), info };
        }
        let files = self.scan(|capture, meanwhile| capture.all_files(meanwhile));
        let files = files.or_else(|error| {
            warn!("reading open files from /proc, because the iterator does not: {error}");
            self.scan(|capture, meanwhile| {
                let rings = capture.rings();
                iterate::beside(open::files, || meanwhile(rings))
            })
        });
        let files = files.unwrap_or_else(|error| {
            found.unlisted.push(format!("who has these sockets open cannot be read: {error}"));
            Vec::new()
        });
        let files = files_of(&mut found, files, self.capture.has_cookies());
        Others { found, holders: lists_holders.then(|| Holders::new(files)), info }
    }
}
