//! A reader of the kernel's own type information (BTF, `Documentation/bpf/btf.rst`), as far as it is needed: where a
//! member lies in a structure, and whether a function exists.
//!
//! aya reads BTF too, but keeps members to itself; the other crate that gives them is LGPL.

use std::collections::HashMap;

use thiserror::Error;

const MAGIC: u16 = 0xeb9f;
const HEADER_LENGTH: usize = 24;
const TYPE_LENGTH: usize = 12;

mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

/// Typedefs and qualifiers behind one another that are followed before the file is taken for broken.
const CHAIN_MAX: usize = 32;
/// Anonymous structures and unions inside one another that are searched.
const NESTING_MAX: usize = 16;

/// Why a file is no BTF.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    /// The file ends before what its header promises.
    #[error("the type information is cut off")]
    Truncated,
    /// Not BTF, or of another byte order.
    #[error("the file holds no BTF of this machine's byte order")]
    Magic,
    /// A kind of type that this reader cannot measure, so that all behind it is out of reach.
    #[error("unknown kind of type {0}")]
    Kind(u32),
}

/// Type information of a kernel.
#[derive(Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type starts in `types`; type ids count from 1.
    offsets: Vec<u32>,
    /// Structures by name; a name may stand for several.
    structures: HashMap<&'a [u8], Vec<u32>>,
}

struct Type {
    name: u32,
    info: u32,
    /// Size, or the id of another type.
    size_or_type: u32,
    /// Where what follows begins in `types`.
    rest: usize,
}

impl Type {
    fn kind(&self) -> u32 {
        (self.info >> 24) & 0x1f
    }

    fn count(&self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// Whether the offsets of members also hold the sizes of bit fields.
    fn has_bit_fields(&self) -> bool {
        self.info >> 31 != 0
    }
}

impl<'a> Btf<'a> {
    /// Finds the types in the bytes of `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    ///
    /// When the bytes are no BTF, are cut off or hold a kind of type that is newer than this reader.
    pub fn parse(data: &'a [u8]) -> Result<Self, BtfError> {
        let magic = data.get(..2).ok_or(BtfError::Truncated)?;
        if magic != MAGIC.to_ne_bytes() {
            return Err(BtfError::Magic);
        }
        if data.len() < HEADER_LENGTH {
            return Err(BtfError::Truncated);
        }
        let word = |at| u32_at(data, at).map(|value| value as usize).ok_or(BtfError::Truncated);
        let (header, type_offset, type_length) = (word(4)?, word(8)?, word(12)?);
        let (string_offset, string_length) = (word(16)?, word(20)?);
        let part = |offset: usize, length: usize| {
            let start = header.checked_add(offset).ok_or(BtfError::Truncated)?;
            data.get(start..start.checked_add(length).ok_or(BtfError::Truncated)?).ok_or(BtfError::Truncated)
        };
        let mut btf = Self {
            types: part(type_offset, type_length)?,
            strings: part(string_offset, string_length)?,
            offsets: Vec::with_capacity(type_length / 24),
            structures: HashMap::new(),
        };
        btf.index()?;
        Ok(btf)
    }

    fn index(&mut self) -> Result<(), BtfError> {
        let mut at = 0;
        while at < self.types.len() {
            let found = self.type_at(at).ok_or(BtfError::Truncated)?;
            self.offsets.push(u32::try_from(at).map_err(|_| BtfError::Truncated)?);
            let id = u32::try_from(self.offsets.len()).map_err(|_| BtfError::Truncated)?;
            if matches!(found.kind(), kind::STRUCT | kind::UNION) && found.name != 0 {
                self.structures.entry(self.name(found.name)).or_default().push(id);
            }
            let follows = match found.kind() {
                kind::INT | kind::VAR | kind::DECL_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => found.count() * 12,
                kind::ENUM | kind::FUNC_PROTO => found.count() * 8,
                // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
                2 | 7..=12 | 16 | kind::TYPE_TAG => 0,
                other => return Err(BtfError::Kind(other)),
            };
            at = found.rest + follows;
        }
        if at == self.types.len() { Ok(()) } else { Err(BtfError::Truncated) }
    }

    /// Offset of a member in bytes: `path` names members inside one another, `a.b.c`; those without a name are looked
    /// through. `None` if there is no such structure or member, or if it is a bit field that starts inside a byte.
    pub fn offset(&self, structure: &str, path: &str) -> Option<u32> {
        self.structures.get(structure.as_bytes())?.iter().find_map(|id| {
            let mut bits = 0;
            let mut id = *id;
            for name in path.split('.') {
                let (offset, member) = self.member(id, name.as_bytes(), NESTING_MAX)?;
                bits += offset;
                id = member;
            }
            (bits % 8 == 0).then_some(bits / 8)
        })
    }

    /// Whether the kernel has a function of this name.
    pub fn has_function(&self, name: &str) -> bool {
        self.function(name).is_some()
    }

    /// Number of parameters of a function; `None` if the kernel has none of this name.
    pub fn parameters(&self, name: &str) -> Option<u32> {
        let function = self.function(name)?;
        let at = self.offsets.get(usize::try_from(function.size_or_type).ok()?.checked_sub(1)?)?;
        let prototype = self.type_at(*at as usize)?;
        (prototype.kind() == kind::FUNC_PROTO).then(|| u32::try_from(prototype.count()).ok())?
    }

    fn function(&self, name: &str) -> Option<Type> {
        self.offsets.iter().find_map(|at| {
            let found = self.type_at(*at as usize)?;
            (found.kind() == kind::FUNC && self.name(found.name) == name.as_bytes()).then_some(found)
        })
    }

    /// Offset in bits and type of a member of the structure `id`.
    fn member(&self, id: u32, name: &[u8], nesting: usize) -> Option<(u32, u32)> {
        let structure = self.resolve(id)?;
        if !matches!(structure.kind(), kind::STRUCT | kind::UNION) {
            return None;
        }
        (0..structure.count()).find_map(|index| {
            let at = structure.rest + index * 12;
            let member_name = u32_at(self.types, at)?;
            let member_type = u32_at(self.types, at + 4)?;
            let mut offset = u32_at(self.types, at + 8)?;
            if structure.has_bit_fields() {
                offset &= 0x00ff_ffff;
            }
            if member_name != 0 {
                return (self.name(member_name) == name).then_some((offset, member_type));
            }
            let (inner, found) = self.member(member_type, name, nesting.checked_sub(1)?)?;
            Some((offset.checked_add(inner)?, found))
        })
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<Type> {
        for _ in 0..CHAIN_MAX {
            let at = self.offsets.get(usize::try_from(id).ok()?.checked_sub(1)?)?;
            let found = self.type_at(*at as usize)?;
            match found.kind() {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = found.size_or_type;
                }
                _ => return Some(found),
            }
        }
        None
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        Some(Type {
            name: u32_at(self.types, at)?,
            info: u32_at(self.types, at + 4)?,
            size_or_type: u32_at(self.types, at + 8)?,
            rest: at + TYPE_LENGTH,
        })
    }

    fn name(&self, offset: u32) -> &'a [u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Builds BTF by hand: `struct outer { int a; union { struct { int deep; }; int other; }; const alias_t named; int
    /// bits:3; }`, with `alias_t` a typedef of `struct inner { int x; int y; }`, and a function.
    fn sample() -> Vec<u8> {
        let mut strings = vec![0_u8];
        let mut name = |text: &str| {
            let at = u32::try_from(strings.len()).unwrap();
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        let (int, outer, inner, alias) = (name("int"), name("outer"), name("inner"), name("alias_t"));
        let (a, deep, other, named, bits) = (name("a"), name("deep"), name("other"), name("named"), name("bits"));
        let (x, y, function) = (name("x"), name("y"), name("do_it"));
        let info = |kind: u32, count: u32| kind << 24 | count;
        let words: Vec<u32> = [
            vec![int, info(kind::INT, 0), 4, 32],                     // 1
            vec![inner, info(kind::STRUCT, 2), 8, x, 1, 0, y, 1, 32], // 2
            vec![alias, info(kind::TYPEDEF, 0), 2],                   // 3
            vec![0, info(kind::CONST, 0), 3],                         // 4
            vec![0, info(kind::STRUCT, 1), 4, deep, 1, 0],            // 5
            vec![0, info(kind::UNION, 2), 4, 0, 5, 0, other, 1, 0],   // 6
            vec![outer, info(kind::STRUCT, 4) | 1 << 31, 20, a, 1, 0, 0, 6, 32, named, 4, 64, bits, 1, 3 << 24 | 131], // 7
            vec![function, info(kind::FUNC, 0), 9],            // 8
            vec![0, info(kind::FUNC_PROTO, 2), 0, 0, 1, 0, 1], // 9
        ]
        .concat();
        let types: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut data = MAGIC.to_ne_bytes().to_vec();
        data.extend_from_slice(&[1, 0]);
        let length = |part: &[u8]| u32::try_from(part.len()).unwrap();
        for word in [24, 0, length(&types), length(&types), length(&strings)] {
            data.extend_from_slice(&u32::to_ne_bytes(word));
        }
        data.extend_from_slice(&types);
        data.extend_from_slice(&strings);
        data
    }

    #[test]
    fn finds_members() {
        let data = sample();
        let btf = Btf::parse(&data).unwrap();
        assert_eq!(btf.offset("outer", "a"), Some(0));
        assert_eq!(btf.offset("outer", "deep"), Some(4), "through two anonymous members");
        assert_eq!(btf.offset("outer", "other"), Some(4));
        assert_eq!(btf.offset("outer", "named.y"), Some(12), "through a qualifier and a typedef");
        assert_eq!(btf.offset("outer", "bits"), None, "a bit field inside a byte cannot be loaded");
        assert_eq!(btf.offset("outer", "gone"), None);
        assert_eq!(btf.offset("outer", "a.b"), None, "an int has no members");
        assert_eq!(btf.offset("nowhere", "a"), None);
        assert!(btf.has_function("do_it"));
        assert!(!btf.has_function("do_not"));
        assert_eq!((btf.parameters("do_it"), btf.parameters("do_not")), (Some(2), None));
    }

    #[test]
    fn refuses_other_files() {
        assert_eq!(Btf::parse(b"").unwrap_err(), BtfError::Truncated);
        assert_eq!(Btf::parse(&[0xeb, 0x9f, 0, 0]).unwrap_err(), BtfError::Magic, "the other byte order");
        let mut data = sample();
        data[24 + 7] = 25;
        assert_eq!(Btf::parse(&data).unwrap_err(), BtfError::Kind(25));
        let data = sample();
        for length in 0..data.len() {
            assert!(Btf::parse(&data[..length]).is_err(), "cut to {length} bytes");
        }
    }

    proptest! {
        #[test]
        fn survives_any_damage(at in 0_usize..400, value: u8) {
            let mut data = sample();
            let length = data.len();
            data[at % length] = value;
            if let Ok(btf) = Btf::parse(&data) {
                let _ = btf.offset("outer", "deep");
                let _ = btf.offset("outer", "named.y");
                let _ = btf.has_function("do_it");
            }
        }
    }
}
