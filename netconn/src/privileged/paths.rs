//! Where the daemon may write, and whose programs it may start: Landlock.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use netconn_model::{config::Config, health::Enforcement};
use nix::unistd::geteuid;
use tracing::debug;

/// Newest version of Landlock whose rules are used: the first with signals.
const VERSION: ABI = ABI::V6;
/// Folders with programs and their libraries, which the daemon cannot write to.
const PROGRAMS: [&str; 8] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt"];
/// `LogsDirectory=` of packaging/systemd/netconn.service: a reload may add an output there, although none was at the start.
const LOGS: &str = "/var/log/netconn";
/// Where the converter is told to be ended first when memory is short. As root it would be the kernel's settings, too.
const PROCESSES: &str = "/proc";

/// Restricts the calling thread, and those that it starts. Reading stays as it is: the user decides that.
pub(super) fn restrict(config: &Config) -> Enforcement {
    let parent = |path: &Path| {
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
    };
    let mut writable: Vec<PathBuf> =
        vec![config.state_dir.clone(), parent(&config.socket), "/dev/null".into(), LOGS.into()];
    for path in config.events.iter().filter(|path| path.as_os_str() != "-") {
        // The folder for a rotation; the path itself if it is a device or pipe.
        writable.push(path.clone());
        if path.metadata().is_ok_and(|metadata| metadata.is_file()) {
            writable.push(parent(path));
        }
    }
    if !geteuid().is_root() {
        writable.push(PROCESSES.into());
    }
    let mut programs: Vec<PathBuf> = PROGRAMS.map(PathBuf::from).into();
    programs.extend(std::env::current_exe().ok().map(|path| parent(&path)));
    restrict_to(&writable, &programs).unwrap_or_else(|error| {
        debug!("Landlock cannot be used: {error}");
        Enforcement::None
    })
}

fn restrict_to(writable: &[PathBuf], programs: &[PathBuf]) -> Result<Enforcement, RulesetError> {
    let writes = AccessFs::from_write(VERSION);
    // The first version forbids to move files between folders, whatever the rules are: the history does.
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(AccessFs::Refer)?;
    let rules = rules.set_compatibility(CompatLevel::BestEffort).handle_access(writes | AccessFs::Execute)?;
    let rules = rules.scope(Scope::Signal)?.create()?;
    let rules = allow(rules, writable, writes)?;
    let rules = allow(rules, programs, AccessFs::Execute.into())?;
    Ok(match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Enforcement::Full,
        RulesetStatus::PartiallyEnforced => Enforcement::Partial,
        RulesetStatus::NotEnforced => Enforcement::None,
    })
}

/// Allows something below these paths.
fn allow(
    mut rules: RulesetCreated,
    paths: &[PathBuf],
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    for path in paths {
        // What is not there needs no rule.
        let Ok(opened) = PathFd::new(path) else { continue };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(VERSION) };
        rules = rules.add_rule(PathBeneath::new(opened, access))?;
    }
    Ok(rules)
}
