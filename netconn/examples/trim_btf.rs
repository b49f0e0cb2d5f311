//! Trims a kernel's type information to what netconn asks for, so that it can be a file of the tests: `cargo xtask btf`
//! runs this for each kernel of the matrix.
//!
//! What is asked for stands in the tables of `netconn::kernel`: the structures and members on the paths of `MEMBERS`,
//! the functions of `HELPERS` and `HOOKS`. Names, sizes and offsets are the kernel's. Types that no path goes through
//! lose what is in them, or become `void *` or `int`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    env, fs, iter,
};

use anyhow::{Context as _, Result, bail};
use netconn::kernel::{
    btf::{Btf, Entry, Type, kind},
    hooks::{Attach, HELPERS, HOOKS},
    layout::{Layout, MEMBERS},
    preflight::Lockdown,
};

/// Ids of the types that stand for all that is not kept.
const INT: u32 = 1;
const POINTER: u32 = 2;
/// The first id of those that are kept.
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
    println!("{to}: {release}, {} bytes; it lacks {missing}", trimmed.len());
    Ok(())
}

/// Checks that the trimmed file says the same as the whole one, and gives the members that the kernel does not have.
fn compare(whole: &Btf<'_>, trimmed: &Btf<'_>) -> Result<Vec<&'static str>> {
    let layout = Layout::of(whole, Lockdown::None)?;
    if Layout::of(trimmed, Lockdown::None)? != layout {
        bail!("the trimmed types say something else than the kernel's");
    }
    for name in functions() {
        if parameters(whole, &name) != parameters(trimmed, &name) {
            bail!("{name} lost its parameters");
        }
    }
    Ok(layout.missing().collect())
}

/// Names of the parameters of each function of this name.
fn parameters<'a>(btf: &Btf<'a>, name: &str) -> Vec<Vec<Option<&'a [u8]>>> {
    let prototypes = btf.functions(name).filter_map(|function| btf.get(function.size_or_type));
    prototypes.map(|prototype| btf.entries(&prototype).map(|entry| entry.name).collect()).collect()
}

/// Names of the functions that are looked for, by netconn or by aya in its name.
fn functions() -> BTreeSet<String> {
    let hooks = HOOKS.iter().filter_map(|hook| match hook.attach {
        Attach::Tracepoint => None,
        // What `DEFINE_BPF_ITER_FUNC` in include/linux/bpf.h makes of an iterator's name.
        Attach::Iterator => Some(format!("bpf_iter_{}", hook.target)),
        // On a function; what is no function's name is not found.
        _ => Some(hook.target.to_owned()),
    });
    HELPERS.iter().map(|helper| helper.function.to_owned()).chain(hooks).collect()
}

/// Types that are kept, in the order of their ids, each with the places of the members that are kept.
type Kept = BTreeMap<u32, BTreeSet<usize>>;

/// The bytes of a BTF file with what is kept.
fn trim(btf: &Btf<'_>, release: &str) -> Result<Vec<u8>> {
    let mut kept = Kept::new();
    for (structure, path) in MEMBERS.iter().flat_map(|member| member.places) {
        let path: Vec<&[u8]> = path.split('.').map(str::as_bytes).collect();
        for id in btf.structures(structure) {
            keep(btf, *id, &path, &mut kept);
        }
    }
    let ids: HashMap<u32, u32> = kept.keys().copied().zip(FIRST..).collect();
    let mut file = File { btf, ids, types: Vec::new(), strings: vec![0], names: HashMap::new() };
    // `strings` shows of which kernel the file is.
    file.name(release.as_bytes())?;
    let int = file.name(b"int")?;
    file.words(&[int, kind::INT << 24, 4, 32]);
    file.words(&[0, kind::PTR << 24, 0]);
    for (id, places) in &kept {
        file.kept(&btf.get(*id).context("a type is lost")?, places)?;
    }
    let mut next = FIRST + u32::try_from(kept.len())?;
    for name in functions() {
        for function in btf.functions(&name) {
            file.function(&function, next)?;
            next += 2;
        }
    }
    file.finish()
}

/// Keeps what lies on a path that begins at a type; whether the path leads anywhere.
fn keep(btf: &Btf<'_>, id: u32, path: &[&[u8]], kept: &mut Kept) -> bool {
    let Some((target, found)) = btf.resolve(id).and_then(|target| Some((target, btf.get(target)?))) else {
        return false;
    };
    let Some((name, rest)) = path.split_first() else {
        if found.has_members() || found.kind() == kind::INT {
            kept.entry(target).or_default();
        }
        return true;
    };
    let place = btf.entries(&found).position(|entry| match entry.name {
        None => keep(btf, entry.type_id, path, kept),
        Some(found) => found == *name && keep(btf, entry.type_id, rest, kept),
    });
    let Some(place) = place else { return false };
    for alias in iter::successors(Some(id), |id| btf.get(*id)?.alias_of()) {
        kept.entry(alias).or_default();
    }
    kept.entry(target).or_default().insert(place);
    true
}

/// A BTF file in the making.
struct File<'a> {
    btf: &'a Btf<'a>,
    /// New ids of the types that are kept.
    ids: HashMap<u32, u32>,
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Where each name begins in `strings`.
    names: HashMap<Vec<u8>, u32>,
}

impl File<'_> {
    /// Adds a type of which these members are kept.
    fn kept(&mut self, of: &Type, places: &BTreeSet<usize>) -> Result<()> {
        let name = self.name(self.btf.name(of))?;
        if let Some(target) = of.alias_of() {
            self.words(&[name, of.info, self.id(target)]);
        } else if of.has_members() {
            self.words(&[name, with_count(of, places.len())?, of.size_or_type]);
            let entries: Vec<Entry<'_>> = self.btf.entries(of).collect();
            for entry in places.iter().filter_map(|place| entries.get(*place)) {
                let name = self.name(entry.name.unwrap_or_default())?;
                self.words(&[name, self.id(entry.type_id), entry.width << 24 | entry.offset]);
            }
        } else {
            // An integer; its sign is not kept.
            self.words(&[name, kind::INT << 24, of.size_or_type, of.size_or_type * 8]);
        }
        Ok(())
    }

    /// Adds the prototype of a function with the id `next`, and the function behind it.
    fn function(&mut self, of: &Type, next: u32) -> Result<()> {
        let prototype = self.btf.get(of.size_or_type).context("a function has no prototype")?;
        let entries: Vec<Entry<'_>> = self.btf.entries(&prototype).collect();
        self.words(&[0, with_count(&prototype, entries.len())?, self.id(prototype.size_or_type)]);
        for entry in entries {
            let name = self.name(entry.name.unwrap_or_default())?;
            self.words(&[name, self.id(entry.type_id)]);
        }
        let name = self.name(self.btf.name(of))?;
        self.words(&[name, of.info, next]);
        Ok(())
    }

    /// The new id of a type, or of what stands for it.
    fn id(&self, old: u32) -> u32 {
        let target = self.btf.resolve(old);
        let kept = self.ids.get(&old).or_else(|| self.ids.get(&target?));
        let stands_for = || match target.and_then(|target| self.btf.get(target)) {
            Some(found) if found.kind() == kind::PTR => POINTER,
            Some(_) => INT,
            None => 0,
        };
        kept.copied().unwrap_or_else(stands_for)
    }

    /// Where a name begins in the strings.
    fn name(&mut self, name: &[u8]) -> Result<u32> {
        if name.is_empty() {
            return Ok(0);
        }
        if let Some(place) = self.names.get(name) {
            return Ok(*place);
        }
        let place = u32::try_from(self.strings.len())?;
        self.names.insert(name.to_vec(), place);
        self.strings.extend_from_slice(name);
        self.strings.push(0);
        Ok(place)
    }

    fn words(&mut self, words: &[u32]) {
        self.types.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    }

    /// Header, types and strings: `struct btf_header` of include/uapi/linux/btf.h.
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

/// The second word of a type, with another number of entries.
fn with_count(of: &Type, count: usize) -> Result<u32> {
    Ok(of.info & !0xffff | u32::from(u16::try_from(count)?))
}
