//! The settings that the daemon changes while programs are attached.

use netconn_common::setting;

use crate::programs::{
    kernel::{HAS_SOCKET_COOKIE, has},
    maps::SETTINGS,
};

/// Returns whether any of these bits of `netconn_common::setting` is set.
#[inline(always)]
pub fn any(bits: u32) -> bool {
    SETTINGS.get(0).is_some_and(|set| set & bits != 0)
}

/// Returns whether all of these bits of `netconn_common::setting` are set.
#[inline(always)]
pub fn all(bits: u32) -> bool {
    SETTINGS.get(0).is_some_and(|set| set & bits == bits)
}

/// Returns whether the iterators keep nothing with sockets.
#[inline(always)]
pub fn keeps_nothing() -> bool {
    has(&HAS_SOCKET_COOKIE) && any(setting::KEEP_NOTHING)
}
