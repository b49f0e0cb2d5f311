//! A reader of the kernel's own type information (BTF, `Documentation/bpf/btf.rst`), as far as it is needed: where a
//! member lies in a structure, and whether a function exists.
//!
//! aya reads BTF too, but keeps members to itself; the other crate that gives them is LGPL.

use std::collections::HashMap;

use thiserror::Error;

const MAGIC: u16 = 0xeb9f;
const HEADER_LENGTH: usize = 24;
const TYPE_LENGTH: usize = 12;

/// Kinds of types, `include/uapi/linux/btf.h`.
#[expect(missing_docs, reason = "the kernel's names, explained in Documentation/bpf/btf.rst")]
pub mod kind {
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

/// Typedefs and qualifiers behind one another that are followed before the file is taken for broken.
const CHAIN_MAX: usize = 32;
/// Anonymous structures and unions inside one another that are searched.
const NESTING_MAX: usize = 16;

/// Why a file cannot be read as BTF.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    /// The file ends before what its header promises.
    #[error("the type information is cut off")]
    Truncated,
    /// Not BTF, or of another byte order.
    #[error("the file holds no BTF of this machine's byte order")]
    Magic,
    /// A kind of type whose length this reader does not know, so that it cannot find the types behind it.
    #[error("unknown kind of type {0}")]
    Kind(u32),
}

/// Type information of a kernel.
#[derive(Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Offset of each type in `types`; type ids count from 1.
    offsets: Vec<u32>,
    /// Structures by name; a name may stand for several.
    structures: HashMap<&'a [u8], Vec<u32>>,
}

/// A type, without what follows it.
#[derive(Clone, Copy, Debug)]
pub struct BtfType {
    name: u32,
    /// Kind, number of entries and a flag, as the file has them.
    pub info: u32,
    /// Size in bytes of an integer, structure or union; of most others the id of another type.
    pub size_or_type: u32,
    /// Offset of its entries in `types`.
    rest: usize,
}

/// A member of a structure or union, or a parameter of a prototype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// `None` if it has none: members inside such a member are found as if they were outside.
    pub name: Option<&'a [u8]>,
    /// Id of its type.
    pub type_id: u32,
    /// Offset of a member in bits.
    pub offset: u32,
    /// Width of a bit field in bits, otherwise 0.
    pub width: u32,
}

impl BtfType {
    /// One of [`kind`].
    pub fn kind(&self) -> u32 {
        (self.info >> 24) & 0x1f
    }

    /// Returns the id of the type that a typedef or qualifier stands for.
    pub fn alias_of(&self) -> Option<u32> {
        matches!(self.kind(), kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG)
            .then_some(self.size_or_type)
    }

    /// Whether it is a structure or union.
    pub fn has_members(&self) -> bool {
        matches!(self.kind(), kind::STRUCT | kind::UNION)
    }

    fn count(&self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// Whether the offsets of members also hold the widths of bit fields.
    fn has_bit_fields(&self) -> bool {
        self.info >> 31 != 0
    }
}

impl<'a> Btf<'a> {
    /// Indexes the types in the bytes of `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    ///
    /// When the bytes are no BTF, are cut off or hold a kind of type that is newer than this reader.
    pub fn parse(data: &'a [u8]) -> Result<Self, BtfError> {
        let magic = data.get(..2).ok_or(BtfError::Truncated)?;
        // Compared as bytes of this machine: in a file of the other byte order they are swapped.
        if magic != MAGIC.to_ne_bytes() {
            return Err(BtfError::Magic);
        }
        if data.len() < HEADER_LENGTH {
            return Err(BtfError::Truncated);
        }
        let word = |at| u32_at(data, at).map(|value| value as usize).ok_or(BtfError::Truncated);
        // `struct btf_header`: its own length, then where types and strings are, counted from the end of the header.
        let (header, type_offset, type_length) = (word(4)?, word(8)?, word(12)?);
        let (string_offset, string_length) = (word(16)?, word(20)?);
        let part = |offset: usize, length: usize| {
            let start = header.checked_add(offset).ok_or(BtfError::Truncated)?;
            data.get(start..start.checked_add(length).ok_or(BtfError::Truncated)?).ok_or(BtfError::Truncated)
        };
        let mut btf = Self {
            types: part(type_offset, type_length)?,
            strings: part(string_offset, string_length)?,
            // A guess: what follows a type takes about as much as its 12 bytes.
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
            // Counted after the push, because id 0 is void.
            let id = u32::try_from(self.offsets.len()).map_err(|_| BtfError::Truncated)?;
            // Anonymous structures are reached through the member that holds them.
            if found.has_members() && found.name != 0 {
                self.structures.entry(self.text(found.name)).or_default().push(id);
            }
            // A type does not say how long it is. So an unknown kind hides all types behind it.
            let follows = match found.kind() {
                kind::INT | kind::VAR | kind::DECL_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => found.count() * 12,
                kind::ENUM | kind::FUNC_PROTO => found.count() * 8,
                // FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT
                kind::PTR | 7..=12 | 16 | kind::TYPE_TAG => 0,
                other => return Err(BtfError::Kind(other)),
            };
            // Each round advances by at least 12 bytes, so the loop ends.
            at = found.rest + follows;
        }
        if at == self.types.len() { Ok(()) } else { Err(BtfError::Truncated) }
    }

    /// Returns the offset of a member in bytes: `path` names nested members, `a.b.c`; members without a name are searched as
    /// well. `None` if there is no such structure or member, or if it is a bit field that starts inside a byte.
    pub fn offset(&self, structure: &str, path: &str) -> Option<u32> {
        // Files of the kernel may have different structures of one name: the first that has the whole path counts.
        self.structures(structure).iter().find_map(|id| {
            let mut bits = 0_u32;
            let mut id = *id;
            for name in path.split('.') {
                let (offset, member) = self.member(id, name.as_bytes(), NESTING_MAX)?;
                bits = bits.checked_add(offset)?;
                id = member;
            }
            bits.is_multiple_of(8).then_some(bits / 8)
        })
    }

    /// Returns whether the kernel has a function of this name.
    pub fn has_function(&self, name: &str) -> bool {
        self.functions(name).next().is_some()
    }

    /// Returns the number of parameters of a function; `None` if the kernel has none of this name.
    pub fn parameters(&self, name: &str) -> Option<u32> {
        let prototype = self.get(self.functions(name).next()?.size_or_type)?;
        (prototype.kind() == kind::FUNC_PROTO).then(|| u32::try_from(prototype.count()).ok())?
    }

    /// Returns the ids of the structures and unions of this name.
    pub fn structures(&self, name: &str) -> &[u32] {
        self.structures.get(name.as_bytes()).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the functions of this name; each stands for its prototype.
    pub fn functions(&self, name: &str) -> impl Iterator<Item = BtfType> {
        // A walk over all types, without an index of names: only a few functions are looked up, at the start.
        self.offsets
            .iter()
            .filter_map(|at| self.type_at(*at as usize))
            .filter(move |found| found.kind() == kind::FUNC && self.name(found) == name.as_bytes())
    }

    /// Returns the type with this id; `None` also for 0, which is void.
    pub fn get(&self, id: u32) -> Option<BtfType> {
        let at = self.offsets.get(usize::try_from(id).ok()?.checked_sub(1)?)?;
        self.type_at(*at as usize)
    }

    /// Returns the id of the type behind typedefs and qualifiers.
    pub fn resolve(&self, mut id: u32) -> Option<u32> {
        for _ in 0..CHAIN_MAX {
            match self.get(id)?.alias_of() {
                Some(next) => id = next,
                None => return Some(id),
            }
        }
        None
    }

    /// Returns the name of a type, empty if it has none.
    pub fn name(&self, of: &BtfType) -> &'a [u8] {
        self.text(of.name)
    }

    /// Returns the members of a structure or union, or the parameters of a prototype, in their order; nothing for other types.
    pub fn entries(&self, of: &BtfType) -> impl Iterator<Item = Entry<'a>> {
        let (count, length) = match of.kind() {
            kind::STRUCT | kind::UNION => (of.count(), 12),
            kind::FUNC_PROTO => (of.count(), 8),
            _ => (0, 0),
        };
        let (rest, has_bit_fields) = (of.rest, of.has_bit_fields());
        (0..count).map_while(move |index| {
            let at = rest + index * length;
            let word = if length == 12 { u32_at(self.types, at + 8)? } else { 0 };
            // `BTF_MEMBER_BITFIELD_SIZE` in include/uapi/linux/btf.h: the upper 8 bits are the width.
            let (offset, width) = if has_bit_fields { (word & 0x00ff_ffff, word >> 24) } else { (word, 0) };
            let name = match u32_at(self.types, at)? {
                0 => None,
                name => Some(self.text(name)),
            };
            Some(Entry { name, type_id: u32_at(self.types, at + 4)?, offset, width })
        })
    }

    /// Returns the offset in bits and the type of a member of the structure `id`.
    fn member(&self, id: u32, name: &[u8], nesting: usize) -> Option<(u32, u32)> {
        let structure = self.get(self.resolve(id)?).filter(BtfType::has_members)?;
        self.entries(&structure).find_map(|entry| {
            if let Some(found) = entry.name {
                return (found == name).then_some((entry.offset, entry.type_id));
            }
            // The limit ends the recursion when a structure of a damaged file contains itself.
            let (inner, found) = self.member(entry.type_id, name, nesting.checked_sub(1)?)?;
            Some((entry.offset.checked_add(inner)?, found))
        })
    }

    fn type_at(&self, at: usize) -> Option<BtfType> {
        Some(BtfType {
            name: u32_at(self.types, at)?,
            info: u32_at(self.types, at + 4)?,
            size_or_type: u32_at(self.types, at + 8)?,
            rest: at + TYPE_LENGTH,
        })
    }

    /// Returns the string at this offset.
    fn text(&self, offset: u32) -> &'a [u8] {
        // An offset behind the strings reads as no name: a damaged file then lacks a member instead of failing.
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
    /// bits:3; }`, with `alias_t` a typedef of `struct inner { int x; int y; }`, and `int do_it(int x)`.
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
            vec![function, info(kind::FUNC, 0), 9],      // 8
            vec![0, info(kind::FUNC_PROTO, 1), 1, x, 1], // 9
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
    }

    #[test]
    fn types_can_be_walked() {
        let data = sample();
        let btf = Btf::parse(&data).unwrap();
        assert_eq!(btf.structures("outer"), [7]);
        let outer = btf.get(7).unwrap();
        let entries: Vec<_> = btf.entries(&outer).collect();
        let names: Vec<_> = entries.iter().map(|entry| entry.name).collect();
        assert_eq!(names, [Some(&b"a"[..]), None, Some(b"named"), Some(b"bits")]);
        assert_eq!(entries[3], Entry { name: Some(b"bits"), type_id: 1, offset: 131, width: 3 });
        assert_eq!(btf.resolve(entries[2].type_id), Some(2), "const, typedef, structure");
        let function = btf.functions("do_it").next().unwrap();
        let parameters: Vec<_> = btf.entries(&btf.get(function.size_or_type).unwrap()).collect();
        assert_eq!(parameters, [Entry { name: Some(b"x"), type_id: 1, offset: 0, width: 0 }]);
        assert_eq!((btf.parameters("do_it"), btf.parameters("do_not")), (Some(1), None));
        assert!(btf.get(0).is_none(), "void");
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
