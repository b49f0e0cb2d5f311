//! Where this kernel has what the programs read, and which helpers it gives them: the values of the object's read-only
//! globals, all from BTF.

use netconn_common::{MISSING, feature};
use thiserror::Error;

use crate::kernel::{btf::Btf, hooks::HELPERS, preflight::Lockdown};

/// A member of a kernel structure that the programs read.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The read-only global that tells the programs its offset.
    pub name: &'static str,
    /// Structures and paths in them, for [`Btf::offset`]; the first that a kernel has counts.
    pub places: &'static [(&'static str, &'static str)],
}

macro_rules! table {
    ($($name:ident = [$($structure:literal $path:literal),+];)+) => {
        /// All members that the programs read.
        pub const MEMBERS: &[Member] =
            &[$(Member { name: stringify!($name), places: &[$(($structure, $path)),+] }),+];
    };
}
netconn_common::kernel_members!(table);

/// Members without which a record says nothing.
const INDISPENSABLE: &[&str] = &[
    "SOCK_FAMILY",
    "SOCK_LOCAL_PORT",
    "SOCK_REMOTE_PORT",
    "SOCK_LOCAL_V4",
    "SOCK_REMOTE_V4",
    "SOCK_PROTOCOL",
    "INET_SOURCE_PORT",
];

/// The kernel is built so differently that a record would say nothing.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("this kernel's structures have no {0}: please report it with the kernel's version")]
pub struct NoMember(pub &'static str);

/// What the programs must know of a kernel before they are loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Offset in bytes of each of [`MEMBERS`], in their order, or [`MISSING`].
    pub offsets: Vec<(&'static str, u32)>,
    /// Each of `netconn_common::feature`: 1 if the kernel allows it, or 0.
    pub features: Vec<(&'static str, u32)>,
}

impl Layout {
    /// The layout of the kernel that `btf` describes.
    ///
    /// # Errors
    ///
    /// When a member is missing without which nothing can be told.
    pub fn of(btf: &Btf<'_>, lockdown: Lockdown) -> Result<Self, NoMember> {
        Ok(Self { offsets: offsets(btf)?, features: features(btf, lockdown) })
    }

    /// Names of the members that this kernel does not have.
    pub fn missing(&self) -> impl Iterator<Item = &'static str> {
        self.offsets.iter().filter(|(_, offset)| *offset == MISSING).map(|(name, _)| *name)
    }

    /// Whether this kernel allows a feature.
    pub fn has(&self, feature: &str) -> bool {
        self.features.contains(&(feature, 1))
    }
}

/// Offset of each member on this kernel, or [`MISSING`].
fn offsets(btf: &Btf<'_>) -> Result<Vec<(&'static str, u32)>, NoMember> {
    MEMBERS
        .iter()
        .map(|member| {
            let found = member.places.iter().find_map(|(structure, path)| btf.offset(structure, path));
            if found.is_none() && INDISPENSABLE.contains(&member.name) {
                return Err(NoMember(member.name));
            }
            Ok((member.name, found.unwrap_or(MISSING)))
        })
        .collect()
}

/// What this kernel allows.
fn features(btf: &Btf<'_>, lockdown: Lockdown) -> Vec<(&'static str, u32)> {
    let readable = lockdown != Lockdown::Confidentiality;
    let helpers = HELPERS.iter().map(|helper| (helper.feature, u32::from(btf.has_function(helper.function))));
    helpers.chain([(feature::PROBE_READ, u32::from(readable))]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_named_once_and_the_indispensable_exist() {
        let mut names: Vec<_> = MEMBERS.iter().map(|member| member.name).collect();
        for name in INDISPENSABLE {
            assert!(names.contains(name), "{name}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), MEMBERS.len());
    }
}
