//! Trims a kernel's BTF to the types that netconn reads, so that tests can use it. `cargo xtask btf` runs this for each
//! kernel of the matrix.
//!
//! netconn reads the structures and members on the paths of `MEMBERS` and the functions of `HELPERS` and `HOOKS`,
//! tables in `netconn::kernel`. Names, sizes and offsets stay those of the kernel. Types on no path lose their members,
//! or are replaced by `void *` or `int`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    env, fs, iter,
};

use anyhow::{Context as _, Result, bail};
use netconn::kernel::{
    btf::{Btf, BtfType, Entry, kind},
    hooks::{Attach, HELPERS, HOOKS},
    layout::{Layout, MEMBERS},
    preflight::Lockdown,
};

/// Ids of the types that replace types which are not kept.
const INT: u32 = 1;
const POINTER: u32 = 2;
/// The first id of the kept types.
const FIRST: u32 = 3;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [release, from, to] = arguments.as_slice() else { bail!("usage: trim_btf RELEASE FROM TO") };
    let data = fs::read(from).with_context(|| format!("cannot read {from}"))?;
    let btf = Btf::parse(&data).with_context(|| from.clone())?;
    let trimmed = trim(&btf, release)?;
    let missing = compare(&btf, &Btf::parse(&trimmed)?)?;
    fs::write(to, &trimmed).with_context(|| format!("cannot write {to}"))?;
    let missing = if missing.is_empty() { "no member".to_owned() } else { missing.join(", ") };
    println!("{to}: {release}, {} bytes; missing in this kernel: {missing}", trimmed.len());
    Ok(())
}

/// Checks that netconn reads the same from the trimmed file as from the whole one. Returns the members that the kernel
/// does not have.
fn compare(whole: &Btf<'_>, trimmed: &Btf<'_>) -> Result<Vec<&'static str>> {
    let layout = Layout::of(whole, Lockdown::None)?;
    if Layout::of(trimmed, Lockdown::None)? != layout {
        bail!("the trimmed types differ from the kernel's");
    }
    for name in functions() {
        if parameters(whole, &name) != parameters(trimmed, &name) {
            bail!("{name} lost its parameters");
        }
    }
    Ok(layout.missing().collect())
}

/// Returns the parameter names of each function of this name.
fn parameters<'a>(btf: &Btf<'a>, name: &str) -> Vec<Vec<Option<&'a [u8]>>> {
    let prototypes = btf.functions(name).filter_map(|function| btf.get(function.size_or_type));
    prototypes.map(|prototype| btf.entries(&prototype).map(|entry| entry.name).collect()).collect()
}

/// Returns the names of the functions that netconn looks up, or that aya looks up for it.
fn functions() -> BTreeSet<String> {
    let hooks = HOOKS.iter().filter_map(|hook| match hook.attach {
        Attach::Tracepoint => None,
        // `DEFINE_BPF_ITER_FUNC` in include/linux/bpf.h adds this prefix to an iterator's name.
        Attach::Iterator => Some(format!("bpf_iter_{}", hook.target)),
        // The other targets are functions, or are not found in BTF.
        _ => Some(hook.target.to_owned()),
    });
    HELPERS.iter().map(|helper| helper.function.to_owned()).chain(hooks).collect()
}

/// The ids of the kept types in order, each with the indexes of its kept members.
type KeptTypes = BTreeMap<u32, BTreeSet<usize>>;

/// Returns the bytes of a BTF file with only the types that netconn reads.
fn trim(btf: &Btf<'_>, release: &str) -> Result<Vec<u8>> {
    let mut kept = KeptTypes::new();
    for (structure, path) in MEMBERS.iter().flat_map(|member| member.places) {
        let path: Vec<&[u8]> = path.split('.').map(str::as_bytes).collect();
        for id in btf.structures(structure) {
            keep(btf, *id, &path, &mut kept);
        }
    }
    let ids: HashMap<u32, u32> = kept.keys().copied().zip(FIRST..).collect();
    let mut file = BtfWriter { btf, ids, types: Vec::new(), strings: vec![0], names: HashMap::new() };
    // The release is the first string, so that `strings FILE` shows the file's kernel.
    file.add_name(release.as_bytes())?;
    let int = file.add_name(b"int")?;
    file.push_words(&[int, kind::INT << 24, 4, 32]);
    file.push_words(&[0, kind::PTR << 24, 0]);
    for (id, indexes) in &kept {
        file.add_kept(&btf.get(*id).context("a kept type is missing")?, indexes)?;
    }
    let mut next = FIRST + u32::try_from(kept.len())?;
    for name in functions() {
        for function in btf.functions(&name) {
            file.add_function(&function, next)?;
            next += 2;
        }
    }
    file.finish()
}

/// Keeps the types and members on a path that begins at a type. Returns whether the path exists.
fn keep(btf: &Btf<'_>, id: u32, path: &[&[u8]], kept: &mut KeptTypes) -> bool {
    let Some((target, found)) = btf.resolve(id).and_then(|target| Some((target, btf.get(target)?))) else {
        return false;
    };
    let Some((name, rest)) = path.split_first() else {
        if found.has_members() || found.kind() == kind::INT {
            kept.entry(target).or_default();
        }
        return true;
    };
    let index = btf.entries(&found).position(|entry| match entry.name {
        None => keep(btf, entry.type_id, path, kept),
        Some(found) => found == *name && keep(btf, entry.type_id, rest, kept),
    });
    let Some(index) = index else { return false };
    for alias in iter::successors(Some(id), |id| btf.get(*id)?.alias_of()) {
        kept.entry(alias).or_default();
    }
    kept.entry(target).or_default().insert(index);
    true
}

/// Writes a BTF file.
struct BtfWriter<'a> {
    btf: &'a Btf<'a>,
    /// New ids of the kept types, by old id.
    ids: HashMap<u32, u32>,
    types: Vec<u8>,
    strings: Vec<u8>,
    /// The offset of each name in `strings`.
    names: HashMap<Vec<u8>, u32>,
}

impl BtfWriter<'_> {
    /// Adds a kept type with these members.
    fn add_kept(&mut self, of: &BtfType, indexes: &BTreeSet<usize>) -> Result<()> {
        let name = self.add_name(self.btf.name(of))?;
        if let Some(target) = of.alias_of() {
            self.push_words(&[name, of.info, self.new_id(target)]);
        } else if of.has_members() {
            self.push_words(&[name, with_count(of, indexes.len())?, of.size_or_type]);
            let entries: Vec<Entry<'_>> = self.btf.entries(of).collect();
            for entry in indexes.iter().filter_map(|index| entries.get(*index)) {
                let name = self.add_name(entry.name.unwrap_or_default())?;
                self.push_words(&[name, self.new_id(entry.type_id), entry.width << 24 | entry.offset]);
            }
        } else {
            // An integer; its encoding (such as signedness) is not kept.
            self.push_words(&[name, kind::INT << 24, of.size_or_type, of.size_or_type * 8]);
        }
        Ok(())
    }

    /// Adds the prototype of a function, with the id `next`, and after it the function.
    fn add_function(&mut self, of: &BtfType, next: u32) -> Result<()> {
        let prototype = self.btf.get(of.size_or_type).context("a function has no prototype")?;
        let entries: Vec<Entry<'_>> = self.btf.entries(&prototype).collect();
        self.push_words(&[0, with_count(&prototype, entries.len())?, self.new_id(prototype.size_or_type)]);
        for entry in entries {
            let name = self.add_name(entry.name.unwrap_or_default())?;
            self.push_words(&[name, self.new_id(entry.type_id)]);
        }
        let name = self.add_name(self.btf.name(of))?;
        self.push_words(&[name, of.info, next]);
        Ok(())
    }

    /// Returns the new id of a type, or the id of the type that replaces it.
    fn new_id(&self, old: u32) -> u32 {
        let target = self.btf.resolve(old);
        let kept = self.ids.get(&old).or_else(|| self.ids.get(&target?));
        let stands_for = || match target.and_then(|target| self.btf.get(target)) {
            Some(found) if found.kind() == kind::PTR => POINTER,
            Some(_) => INT,
            None => 0,
        };
        kept.copied().unwrap_or_else(stands_for)
    }

    /// Returns the offset of a name in `strings`, where it is added if it is new.
    fn add_name(&mut self, name: &[u8]) -> Result<u32> {
        if name.is_empty() {
            return Ok(0);
        }
        if let Some(offset) = self.names.get(name) {
            return Ok(*offset);
        }
        let offset = u32::try_from(self.strings.len())?;
        self.names.insert(name.to_vec(), offset);
        self.strings.extend_from_slice(name);
        self.strings.push(0);
        Ok(offset)
    }

    fn push_words(&mut self, words: &[u32]) {
        self.types.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    }

    /// Returns the file: the header (`struct btf_header` in include/uapi/linux/btf.h), the types and the strings.
    fn finish(self) -> Result<Vec<u8>> {
        let (types, strings) = (u32::try_from(self.types.len())?, u32::try_from(self.strings.len())?);
        let mut data = 0xeb9f_u16.to_ne_bytes().to_vec();
        // Version and flags.
        data.extend([1, 0]);
        data.extend([24, 0, types, types, strings].iter().flat_map(|word| word.to_ne_bytes()));
        data.extend(self.types);
        data.extend(self.strings);
        Ok(data)
    }
}

/// Returns the second word (`info`) of a type with another number of entries.
fn with_count(of: &BtfType, count: usize) -> Result<u32> {
    Ok(of.info & !0xffff | u32::from(u16::try_from(count)?))
}
