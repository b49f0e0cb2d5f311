//! Reads any bytes as BTF and looks everything up: no input may panic, or make a look-up run for ever.

use netconn::kernel::btf::Btf;

/// Parses `data`, and if it is BTF asks for everything that it names.
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
        assert!(btf.structures(&name).iter().all(|id| btf.get(*id).is_some()), "a structure that is not there");
        assert_eq!(btf.functions(&name).next().is_some(), btf.has_function(&name));
        btf.parameters(&name);
        id += 1;
    }
    btf.offset("sock", "__sk_common.skc_num");
}
