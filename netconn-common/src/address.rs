//! IP addresses as records hold them.

/// An IPv6 address in network byte order, or an IPv4 address in the first four bytes and zeros behind it. The family
/// beside it tells which.
pub type Address = [u8; 16];

/// No address, in both families.
pub const UNSPECIFIED: Address = [0; 16];

/// Makes an IPv4 address of a word in network byte order, as the kernel holds it.
#[inline(always)]
pub fn of_v4(word: u32) -> Address {
    of_words([word, 0, 0, 0])
}

/// Makes an address of four words in network byte order, as the kernel gives IPv6 addresses to programs on cgroups.
#[inline(always)]
pub fn of_words(words: [u32; 4]) -> Address {
    bytemuck::cast(words)
}

/// Makes an address of two halves in network byte order: one load of a program reads eight bytes at most.
#[inline(always)]
pub fn of_halves(halves: [u64; 2]) -> Address {
    bytemuck::cast(halves)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_the_order_of_bytes() {
        let v4 = of_v4(u32::from_ne_bytes([127, 0, 0, 1]));
        assert_eq!(v4, [127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let bytes = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(of_words(bytemuck::cast(bytes)), bytes);
        assert_eq!(of_halves(bytemuck::cast(bytes)), bytes);
    }
}
