//! Reads files that `examples/record_ring.rs` has recorded.

/// Returns the records of a file, each aligned to 8 bytes as in the ring.
pub fn records(data: &[u8]) -> Vec<Vec<u64>> {
    let (mut rest, mut found) = (data, Vec::new());
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (record, behind) = behind.split_at(u32::from_ne_bytes(*length) as usize);
        let mut words = vec![0_u64; record.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..record.len()].copy_from_slice(record);
        found.push(words);
        rest = behind;
    }
    assert!(rest.is_empty(), "the last record is incomplete");
    found
}
