//! Offsets of the members that the programs read, and helpers that they may use, on this kernel: the values of the object's
//! read-only globals, all from BTF.

use std::io;

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

/// Members without which a record is worthless.
const INDISPENSABLE: &[&str] = &[
    "SOCK_FAMILY",
    "SOCK_LOCAL_PORT",
    "SOCK_REMOTE_PORT",
    "SOCK_LOCAL_V4",
    // Not those of IPv6: a kernel may be built without it.
    "SOCK_REMOTE_V4",
    "SOCK_PROTOCOL",
    "INET_SOURCE_PORT",
];

/// The kernel is built so differently that records would be worthless.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("this kernel's structures have no {0}: please report it with the kernel's version")]
pub struct NoMember(pub &'static str);

/// The values that the programs are loaded with on a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Offset in bytes of each of [`MEMBERS`], in their order, or [`MISSING`].
    pub offsets: Vec<(&'static str, u32)>,
    /// Each of `netconn_common::feature`: 1 if the kernel allows it, or 0; or a number.
    pub features: Vec<(&'static str, u32)>,
}

impl Layout {
    /// Returns the layout of the kernel that `btf` describes.
    ///
    /// # Errors
    ///
    /// When an indispensable member is missing.
    pub fn of(btf: &Btf<'_>, lockdown: Lockdown) -> Result<Self, NoMember> {
        Ok(Self { offsets: offsets(btf)?, features: features(btf, lockdown) })
    }

    /// Returns the names of the members that this kernel does not have.
    pub fn missing(&self) -> impl Iterator<Item = &'static str> {
        self.offsets.iter().filter(|(_, offset)| *offset == MISSING).map(|(name, _)| *name)
    }

    /// Checks that the programs can find the sockets of open files.
    ///
    /// # Errors
    ///
    /// When they cannot; the message says why.
    pub fn check_files(&self) -> io::Result<()> {
        if self.has(feature::SOCK_FROM_FILE) || self.has(feature::PROBE_READ) {
            return Ok(());
        }
        Err(io::Error::other(
            "this kernel has no helper that finds the socket of an open file, and lockdown forbids reading its memory",
        ))
    }

    /// Whether this kernel allows a feature.
    pub fn has(&self, feature: &str) -> bool {
        self.features.contains(&(feature, 1))
    }
}

/// Returns the offset of each member on this kernel, or [`MISSING`].
fn offsets(btf: &Btf<'_>) -> Result<Vec<(&'static str, u32)>, NoMember> {
    MEMBERS
        .iter()
        .map(|member| {
            let found = member.places.iter().find_map(|(structure, path)| btf.offset(structure, path));
            if found.is_none() && INDISPENSABLE.contains(&member.name) {
                return Err(NoMember(member.name));
            }
            // Any other member costs only what is read there.
            Ok((member.name, found.unwrap_or(MISSING)))
        })
        .collect()
}

/// Returns the value of each feature on this kernel.
fn features(btf: &Btf<'_>, lockdown: Lockdown) -> Vec<(&'static str, u32)> {
    // Not from BTF: the helpers exist everywhere, and only lockdown forbids them.
    let readable = lockdown != Lockdown::Confidentiality;
    let helpers = HELPERS.iter().map(|helper| (helper.feature, u32::from(btf.has_function(helper.function))));
    // Without the function the number does not matter: its hook has no target.
    let parameters = btf.parameters("inet_csk_accept").unwrap_or(0);
    helpers.chain([(feature::PROBE_READ, u32::from(readable)), (feature::ACCEPT_PARAMETERS, parameters)]).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, ops::Range, path::PathBuf};

    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    /// What is known of a kernel of the matrix; offsets are what `bpftool btf dump` says.
    struct Kernel {
        series: &'static str,
        offsets: &'static [(&'static str, u32)],
        /// Helpers that are closed to tracing programs.
        closed: &'static [&'static str],
        missing: &'static [&'static str],
    }

    const KERNELS: &[Kernel] = &[
        Kernel {
            series: "5.10",
            offsets: &[("INET_SOURCE_PORT", 784), ("SOCK_LOCK_OWNED", 140), ("NET_INODE", 144)],
            closed: &[feature::SOCKET_STORAGE, feature::SOCKET_COOKIE, feature::CURRENT_TASK, feature::SOCK_FROM_FILE],
            missing: &["TCP_IS_MPTCP", "SUBFLOW_CONNECTION", "MPTCP_FIRST"], // built without MPTCP
        },
        Kernel {
            series: "6.1",
            offsets: &[("INET_SOURCE_PORT", 804), ("SOCK_LOCK_OWNED", 156), ("NET_INODE", 144)],
            closed: &[],
            missing: &[],
        },
        Kernel {
            series: "6.12",
            offsets: &[("INET_SOURCE_PORT", 806), ("SOCK_LOCK_OWNED", 324), ("NET_INODE", 136)],
            closed: &[],
            missing: &[],
        },
        Kernel {
            series: "6.18",
            offsets: &[("INET_SOURCE_PORT", 814), ("SOCK_LOCK_OWNED", 324), ("NET_INODE", 176)],
            closed: &[],
            missing: &[],
        },
        Kernel {
            series: "7",
            offsets: &[
                ("INET_SOURCE_PORT", 830),
                ("SOCK_LOCK_OWNED", 320),
                ("NET_INODE", 280),
                // In unions without a name there.
                ("FILE_DENTRY", 72),
                ("DENTRY_NAME", 40),
            ],
            closed: &[],
            missing: &[],
        },
    ];

    fn fixture(series: &str) -> Vec<u8> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/btf/{series}.btf"));
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}: run `cargo xtask btf`", path.display()))
    }

    fn layout(data: &[u8]) -> Result<Layout, NoMember> {
        Layout::of(&Btf::parse(data).unwrap(), Lockdown::None)
    }

    fn offset(layout: &Layout, name: &str) -> u32 {
        let found = layout.offsets.iter().find(|(member, _)| *member == name);
        found.unwrap_or_else(|| panic!("no member {name}")).1
    }

    /// Where a file has its types and its strings: `struct btf_header` of `include/uapi/linux/btf.h`.
    fn parts(data: &[u8]) -> (Range<usize>, Range<usize>) {
        let word = |at: usize| u32::from_ne_bytes(data[at..at + 4].try_into().unwrap()) as usize;
        let part = |offset: usize, length: usize| word(4) + offset..word(4) + offset + length;
        (part(word(8), word(12)), part(word(16), word(20)))
    }

    /// Where the only string of its kind begins.
    fn string(data: &[u8], text: &str) -> usize {
        let text = format!("\0{text}\0").into_bytes();
        let found: Vec<_> = parts(data).1.filter(|at| data[*at..].starts_with(&text)).collect();
        assert_eq!(found.len(), 1, "{}", String::from_utf8_lossy(&text));
        found[0] + 1
    }

    /// Where the only member of this name and offset in bytes begins: the place of its name, its type, its offset.
    fn member(data: &[u8], name: &str, offset: u32) -> usize {
        let (types, strings) = parts(data);
        let name = u32::try_from(string(data, name) - strings.start).unwrap().to_ne_bytes();
        let offset = (offset * 8).to_ne_bytes();
        let is_one = |at: &usize| data[*at..].starts_with(&name) && data[*at + 8..].starts_with(&offset);
        let found: Vec<_> = types.step_by(4).filter(is_one).collect();
        assert_eq!(found.len(), 1, "members at that place");
        found[0]
    }

    /// The kernel with a member that lies elsewhere.
    fn moved(mut data: Vec<u8>, name: &str, from: u32, to: u32) -> Vec<u8> {
        let place = member(&data, name, from) + 8;
        data[place..place + 4].copy_from_slice(&(to * 8).to_ne_bytes());
        data
    }

    /// The kernel with nothing of that name.
    fn without(mut data: Vec<u8>, name: &str) -> Vec<u8> {
        let place = string(&data, name);
        data[place] = b'?';
        data
    }

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

    #[test]
    fn each_kernel_has_its_layout() {
        for Kernel { series, offsets, closed, missing } in KERNELS {
            let layout = layout(&fixture(series)).unwrap_or_else(|error| panic!("{series}: {error}"));
            let names = layout.offsets.iter().map(|(name, _)| *name);
            assert!(names.eq(MEMBERS.iter().map(|member| member.name)), "{series}");
            for (name, expected) in *offsets {
                assert_eq!(offset(&layout, name), *expected, "{series}: {name}");
            }
            let found: Vec<_> = layout.missing().collect();
            assert_eq!(found, *missing, "{series}: run `cargo xtask btf` if the table has grown");
            for helper in HELPERS {
                assert_eq!(layout.has(helper.feature), !closed.contains(&helper.feature), "{series}: {}", helper.name);
            }
            assert!(layout.has(feature::PROBE_READ), "{series}");
        }
    }

    /// The first members of `struct sock_common` in `include/net/sock.h`, the same on all these kernels.
    #[test]
    fn addresses_and_ports_begin_a_socket() {
        for kernel in KERNELS {
            let layout = layout(&fixture(kernel.series)).unwrap();
            let found = ["SOCK_REMOTE_V4", "SOCK_LOCAL_V4", "SOCK_REMOTE_PORT", "SOCK_LOCAL_PORT", "SOCK_FAMILY"]
                .map(|name| offset(&layout, name));
            assert_eq!(found, [0, 4, 12, 14, 16], "{}", kernel.series);
        }
    }

    #[test]
    fn lockdown_closes_the_reading_of_memory_only() {
        let data = fixture("6.12");
        let btf = Btf::parse(&data).unwrap();
        let open = Layout::of(&btf, Lockdown::Integrity).unwrap();
        let closed = Layout::of(&btf, Lockdown::Confidentiality).unwrap();
        assert!(open.has(feature::PROBE_READ));
        assert!(!closed.has(feature::PROBE_READ));
        assert!(closed.has(feature::SOCKET_STORAGE));
        assert_eq!(open.offsets, closed.offsets);
    }

    #[test]
    fn a_member_that_moved_is_found() {
        for kernel in KERNELS {
            let data = fixture(kernel.series);
            let mut expected = layout(&data).unwrap();
            let place = expected.offsets.iter_mut().find(|(name, _)| *name == "INET_SOURCE_PORT").unwrap();
            let data = moved(data, "inet_sport", place.1, 900);
            place.1 = 900;
            assert_eq!(layout(&data).unwrap(), expected, "{}", kernel.series);
        }
    }

    #[test]
    fn a_structure_that_moved_takes_its_members_along() {
        let layout = layout(&moved(fixture("6.12"), "__sk_common", 0, 64)).unwrap();
        assert_eq!(offset(&layout, "SOCK_FAMILY"), 64 + 16);
        assert_eq!(offset(&layout, "SOCK_LOCAL_PORT"), 64 + 14, "through structures without a name");
    }

    #[test]
    fn a_member_that_is_gone_is_missing_and_all_else_works() {
        for kernel in KERNELS {
            let data = fixture(kernel.series);
            let mut expected = layout(&data).unwrap();
            expected.offsets.iter_mut().find(|(name, _)| *name == "TCP_RETRANSMITS").unwrap().1 = MISSING;
            let found = layout(&without(data, "total_retrans")).unwrap();
            assert_eq!(found, expected, "{}", kernel.series);
            assert!(found.missing().any(|name| name == "TCP_RETRANSMITS"), "{}", kernel.series);
        }
    }

    #[test]
    fn the_second_place_of_a_member_counts_if_the_first_is_gone() {
        let mut data = fixture("5.10");
        let expected = layout(&data).unwrap();
        // `start_boottime` was called so before 5.5. The first string, which nothing refers to, makes room for it.
        let at = member(&data, "start_boottime", offset(&expected, "TASK_START"));
        data[at..at + 4].copy_from_slice(&1_u32.to_ne_bytes());
        let first = parts(&data).1.start + 1;
        data[first..first + 16].copy_from_slice(b"real_start_time\0");
        assert_eq!(layout(&data).unwrap(), expected);
    }

    #[test]
    fn without_an_indispensable_member_there_is_an_error() {
        for kernel in KERNELS {
            for name in INDISPENSABLE {
                let member = MEMBERS.iter().find(|member| member.name == *name).unwrap();
                let last = member.places[0].1.rsplit('.').next().unwrap();
                let found = layout(&without(fixture(kernel.series), last));
                assert_eq!(found, Err(NoMember(name)), "{}", kernel.series);
            }
        }
        assert_eq!(
            NoMember("INET_SOURCE_PORT").to_string(),
            "this kernel's structures have no INET_SOURCE_PORT: please report it with the kernel's version"
        );
    }

    #[test]
    fn a_helper_is_open_if_its_function_exists() {
        let layout = layout(&without(fixture("6.18"), "bpf_sk_storage_get_tracing")).unwrap();
        assert!(!layout.has(feature::SOCKET_STORAGE));
        assert!(layout.has(feature::SOCKET_COOKIE));
    }

    /// Visits all offsets of a file with `PROPTEST_CASES` set, and every 16th, from another start in each run, without.
    fn offsets_of(data: &[u8]) -> impl Iterator<Item = usize> + use<> {
        let step = if std::env::var_os("PROPTEST_CASES").is_some() { 1 } else { 16 };
        (std::process::id() as usize % step..data.len()).step_by(step)
    }

    #[test]
    fn a_file_that_is_cut_off_is_refused() {
        for kernel in KERNELS {
            let data = fixture(kernel.series);
            for length in offsets_of(&data) {
                assert!(Btf::parse(&data[..length]).is_err(), "{} cut to {length} bytes", kernel.series);
            }
        }
    }

    /// Reads a layout, which must not panic.
    fn try_layout(data: &[u8]) {
        if let Ok(btf) = Btf::parse(data) {
            let _ = Layout::of(&btf, Lockdown::None);
        }
    }

    #[test]
    fn survives_flipped_bytes() {
        for kernel in KERNELS {
            let mut data = fixture(kernel.series);
            for at in offsets_of(&data) {
                data[at] = !data[at];
                try_layout(&data);
                data[at] = !data[at];
            }
        }
    }

    /// Cases of the property below, each of which reads a whole file, unless `PROPTEST_CASES` says otherwise.
    fn cases() -> ProptestConfig {
        let default = ProptestConfig::default();
        let is_chosen = std::env::var_os("PROPTEST_CASES").is_some();
        if is_chosen { default } else { ProptestConfig { cases: default.cases / 10, ..default } }
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn survives_any_damage(kernel in 0..KERNELS.len(), damage in vec((any::<Index>(), any::<u8>()), 1..16)) {
            let mut data = fixture(KERNELS[kernel].series);
            for (at, value) in damage {
                let at = at.index(data.len());
                data[at] = value;
            }
            try_layout(&data);
        }
    }
}
