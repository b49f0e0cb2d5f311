//! Decodes the bytes of the ring buffers into records.

use netconn_common::{
    CgroupRecord, ExecRecord, ExitRecord, FlowRecord, ForkRecord, Header, OwnerRecord, RefusedRecord, ReleasedRecord,
    TcpRecord, UdpSocketRecord, UnsentRecord, kind,
};

/// A record, with the bytes that follow its fixed part.
#[derive(Debug)]
pub enum Record<'a> {
    /// A TCP socket changed its state.
    Tcp(&'a TcpRecord),
    /// A socket has another owner.
    Owner(&'a OwnerRecord),
    /// An attempt failed before anything was sent.
    Unsent(&'a UnsentRecord),
    /// A flow of datagrams has begun.
    Flow(&'a FlowRecord),
    /// A UDP socket was bound or connected.
    UdpSocket(&'a UdpSocketRecord),
    /// The peer of a UDP socket refuses its datagrams.
    Refused(&'a RefusedRecord),
    /// A datagram socket was closed.
    Released(&'a ReleasedRecord),
    /// A process runs a new program: the record, its path and its arguments.
    Exec(&'a ExecRecord, &'a [u8], &'a [u8]),
    /// A process was born.
    Fork(&'a ForkRecord),
    /// A process has ended.
    Exit(&'a ExitRecord),
    /// A cgroup was created: the record and its path, without NUL.
    Cgroup(&'a CgroupRecord, &'a [u8]),
}

/// Decodes one record; `None` if its kind is unknown, or it is too short or not aligned to 8 bytes.
pub fn decode(data: &[u8]) -> Option<Record<'_>> {
    let header: &Header = fixed(data)?.0;
    match header.kind {
        kind::TCP => Some(Record::Tcp(fixed(data)?.0)),
        kind::OWNER => Some(Record::Owner(fixed(data)?.0)),
        kind::UNSENT => Some(Record::Unsent(fixed(data)?.0)),
        kind::FLOW => Some(Record::Flow(fixed(data)?.0)),
        kind::UDP_SOCKET => Some(Record::UdpSocket(fixed(data)?.0)),
        kind::REFUSED => Some(Record::Refused(fixed(data)?.0)),
        kind::RELEASED => Some(Record::Released(fixed(data)?.0)),
        kind::EXEC => {
            let (record, rest): (&ExecRecord, _) = fixed(data)?;
            // Lengths are the kernel side's word: each is checked against the bytes that are left.
            let (path, rest) = split(rest, record.path_length)?;
            let (arguments, _) = split(rest, record.arguments_length)?;
            Some(Record::Exec(record, path, arguments))
        }
        kind::FORK => Some(Record::Fork(fixed(data)?.0)),
        kind::EXIT => Some(Record::Exit(fixed(data)?.0)),
        kind::CGROUP => {
            let (record, rest): (&CgroupRecord, _) = fixed(data)?;
            let (path, _) = split(rest, record.path_length)?;
            Some(Record::Cgroup(record, path.strip_suffix(b"\0").unwrap_or(path)))
        }
        // `COUNTERS` comes only from an iterator, and `UNCOUNTED` is no record.
        _ => None,
    }
}

fn fixed<T: bytemuck::AnyBitPattern>(data: &[u8]) -> Option<(&T, &[u8])> {
    // A cast that checks the alignment, not a copy: a TCP record alone has 192 bytes.
    let (head, rest) = data.split_at_checked(size_of::<T>())?;
    Some((bytemuck::try_from_bytes(head).ok()?, rest))
}

fn split(data: &[u8], length: u32) -> Option<(&[u8], &[u8])> {
    data.split_at_checked(usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use proptest::prelude::*;

    use super::*;

    /// Bytes aligned to 8, as the ring buffer gives them.
    fn aligned(bytes: &[u8], check: impl FnOnce(&[u8])) {
        let mut words = vec![0_u64; bytes.len().div_ceil(8)];
        let space: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        space[..bytes.len()].copy_from_slice(bytes);
        check(&space[..bytes.len()]);
    }

    #[test]
    fn exec_carries_path_and_arguments() {
        let mut record = ExecRecord::zeroed();
        record.header.kind = kind::EXEC;
        record.path_length = 9;
        record.arguments_length = 7;
        let bytes = [bytemuck::bytes_of(&record), b"curl\0bin\0", b"curl\0-s"].concat();
        aligned(&bytes, |bytes| match decode(bytes) {
            Some(Record::Exec(_, path, arguments)) => {
                assert_eq!(path, b"curl\0bin\0");
                assert_eq!(arguments, b"curl\0-s");
            }
            other => panic!("{other:?}"),
        });
        aligned(&bytes[..bytes.len() - 1], |bytes| assert!(decode(bytes).is_none(), "cut arguments"));
    }

    proptest! {
        #[test]
        fn survives_anything(bytes: Vec<u8>, kind in 0_u32..kind::COUNT + 1) {
            let mut bytes = bytes;
            if bytes.len() >= 16 {
                bytes[8..12].copy_from_slice(&kind.to_ne_bytes());
            }
            aligned(&bytes, |bytes| { let _ = decode(bytes); });
        }
    }
}
