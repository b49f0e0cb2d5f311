//! Bills of materials in CycloneDX 1.5.

use anyhow::Result;
use serde_json::{Value, json};

use crate::dist::{Release, contents::Package, parts::Part, toolchain::Architecture};

/// Returns the bill of a program and its parts, as JSON.
pub(super) fn bill(package: Package, architecture: Architecture, release: &Release, parts: &[Part]) -> Result<String> {
    let name = package.name();
    let components: Vec<Value> = parts.iter().map(component).collect();
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": release.date("+%FT%TZ")?,
            "component": {
                "type": "application",
                "bom-ref": name,
                "name": name,
                "version": release.version,
                "licenses": [{ "expression": "MIT OR Apache-2.0" }],
                "properties": [{ "name": "target", "value": architecture.target() }],
            },
        },
        "components": components,
        "dependencies": [{ "ref": name, "dependsOn": parts.iter().map(reference).collect::<Vec<_>>() }],
    });
    Ok(format!("{bill:#}\n"))
}

fn reference(part: &Part) -> String {
    format!("{}@{}", part.name, part.version)
}

fn component(part: &Part) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": reference(part),
        "name": part.name,
        "version": part.version,
        "licenses": [{ "expression": part.license }],
    });
    if part.is_crate {
        component["purl"] = format!("pkg:cargo/{}@{}", part.name, part.version.replace('+', "%2B")).into();
    }
    if let Some(checksum) = &part.checksum {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn parts_are_named_with_their_license_and_checksum() {
        let part = Part {
            name: "zstd-sys".into(),
            version: "2.1.3+zstd.1.5.7".into(),
            license: "MIT OR Apache-2.0".into(),
            checksum: Some("ab".into()),
            is_crate: true,
            texts: BTreeSet::new(),
        };
        let release = Release { version: "1.2.3".into(), epoch: 1_796_064_882, maintainer: String::new() };
        let bill: Value =
            serde_json::from_str(&bill(Package::Search, Architecture::X86, &release, &[part]).unwrap()).unwrap();
        assert_eq!(bill["components"][0]["purl"], "pkg:cargo/zstd-sys@2.1.3%2Bzstd.1.5.7");
        assert_eq!(bill["components"][0]["hashes"][0]["content"], "ab");
        assert_eq!(bill["metadata"]["timestamp"], "2026-11-30T18:54:42Z");
        assert_eq!(bill["dependencies"][0]["dependsOn"][0], bill["components"][0]["bom-ref"]);
    }
}
