//! Reads any bytes as BTF and looks up every name in it. No input may cause a panic or an endless loop.

use netconn::kernel::btf::Btf;

/// Parses `data`. If it is BTF, looks up every type, member and function that it names.
pub fn run(data: &[u8]) {
    let Ok(btf) = Btf::parse(data) else { return };
    let mut id = 1;
    while let Some(found) = btf.get(id) {
        let name = String::from_utf8_lossy(btf.name(&found)).into_owned();
        btf.resolve(id);
        for entry in btf.entries(&found) {
            let member = String::from_utf8_lossy(entry.name.unwrap_or_default());
            btf.offset(&name, &member);
            btf.resolve(entry.type_id);
        }
        assert!(btf.structures(&name).iter().all(|id| btf.get(*id).is_some()), "a structure has an unknown id");
        assert_eq!(btf.functions(&name).next().is_some(), btf.has_function(&name));
        btf.parameters(&name);
        id += 1;
    }
    btf.offset("sock", "__sk_common.skc_num");
}
