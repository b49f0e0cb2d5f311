//! Packages of Fedora, RHEL and SUSE, by rpmbuild.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};
use xtask::{check, command, root};

use crate::dist::{
    Release,
    contents::{Layout, Package, Staged, read},
    toolchain::Architecture,
};

/// The places of these distributions.
pub(super) const LAYOUT: Layout = Layout { zsh: "usr/share/zsh/site-functions", licenses: "usr/share/licenses" };
/// Scripts that rpm runs, in `packaging/rpm`, of the package `netconn`.
const SCRIPTS: [&str; 3] = ["post", "preun", "postun"];
/// What makes the same bytes of the same files on every machine, and leaves files as they are.
const MACROS: [(&str, &str); 9] = [
    ("_buildhost", "localhost"),
    ("use_source_date_epoch_as_buildtime", "1"),
    ("clamp_mtime_to_source_date_epoch", "1"),
    ("source_date_epoch_from_changelog", "0"),
    ("_build_id_links", "none"),
    ("debug_package", "%{nil}"),
    ("__os_install_post", "%{nil}"),
    // xz: rpm of RHEL 7 reads it, too.
    ("_binary_payload", "w6.xzdio"),
    ("_unitdir", "/usr/lib/systemd/system"),
];

/// Makes a package of staged files and returns its path.
pub(super) fn build(staged: &Staged, architecture: Architecture, release: &Release, output: &Path) -> Result<PathBuf> {
    let name = staged.package.name();
    let top = output.join("stage").join(architecture.name()).join("rpmbuild").join(name);
    if top.exists() {
        fs::remove_dir_all(&top)?;
    }
    fs::create_dir_all(&top)?;
    let spec = top.join(format!("{name}.spec"));
    fs::write(&spec, spec_text(staged, release)?)?;
    let mut rpmbuild = command("rpmbuild", &["-bb", "--quiet", "--target", architecture.name()]);
    rpmbuild
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string())
        .arg("--define")
        .arg(format!("_topdir {}", top.display()));
    for (name, value) in MACROS {
        rpmbuild.arg("--define").arg(format!("{name} {value}"));
    }
    check(rpmbuild.arg(&spec).stdout(Stdio::null()))?;
    let file = format!("{name}-{}-1.{}.rpm", release.version, architecture.name());
    let built = top.join("RPMS").join(architecture.name()).join(&file);
    let to = output.join(file);
    fs::rename(&built, &to).with_context(|| format!("rpmbuild has not made {}", built.display()))?;
    fs::remove_dir_all(&top)?;
    Ok(to)
}

/// Returns what rpmbuild is told of a package.
fn spec_text(staged: &Staged, release: &Release) -> Result<String> {
    let package = staged.package;
    let relations = match package {
        // sysusers makes the user.
        Package::Netconn => "Requires: systemd\nRecommends: netconn-search\nSuggests: logrotate\n",
        Package::Search => "Recommends: netconn\n",
    };
    // The programs need no library; rpm is not to guess.
    let mut spec = format!(
        "Name: {}\nVersion: {}\nRelease: 1\nSummary: {}\nLicense: MIT OR Apache-2.0\nGroup: Productivity/Networking/Diagnostic\n\
         Vendor: The netconn authors\nPackager: {}\nURL: https://netconn.example\nAutoReqProv: no\n{relations}\n%description\n{}\n\n",
        package.name(),
        release.version,
        package.summary(),
        release.maintainer,
        package.description().join("\n"),
    );
    let Some(from) = staged.root.to_str().filter(|path| !path.contains('\'')) else {
        bail!("{}: rpmbuild cannot take files from there", staged.root.display());
    };
    writeln!(spec, "%install\nmkdir -p %{{buildroot}}\ncp -a '{from}/.' %{{buildroot}}/\n")?;
    writeln!(spec, "%files\n%defattr(-,root,root,-)")?;
    for folder in staged.own_folders()? {
        writeln!(spec, "%dir /{folder}")?;
    }
    for file in staged.files()? {
        let kind = match file.split('/').collect::<Vec<_>>()[..] {
            ["etc", ..] => "%config(noreplace) ",
            ["usr", "share", "doc", ..] => "%doc ",
            ["usr", "share", "licenses", ..] => "%license ",
            _ => "",
        };
        writeln!(spec, "{kind}/{file}")?;
    }
    if package == Package::Netconn {
        for script in SCRIPTS {
            let text = String::from_utf8(read(&root().join("packaging/rpm").join(script))?)?;
            // A percent sign begins a macro.
            writeln!(spec, "\n%{script}\n{}", text.replace('%', "%%"))?;
        }
    }
    let date = release.date("+%a %b %d %Y")?;
    writeln!(
        spec,
        "\n%changelog\n* {date} {} - {}-1\n- Version {}; its changes are in CHANGELOG.md.gz.",
        release.maintainer, release.version, release.version
    )?;
    Ok(spec)
}
