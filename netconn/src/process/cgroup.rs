//! cgroups: their names, and the systemd units and containers in these. The kernel's records have the cgroup of v2; where v1 is
//! mounted too, units and containers may be in its hierarchies only, which `/proc/PID/cgroup` shows.

use std::{fs, mem, os::unix::fs::MetadataExt as _, path::Path, rc::Rc, time::Instant};

use hashbrown::HashMap;

use crate::{kernel::preflight::cgroup_root, patience::Patience, process::Key};

/// Digits of the ids that Docker, containerd, CRI-O and Podman make.
const ID_DIGITS: usize = 64;
/// Digits of the task in ids of ECS on Fargate; a hyphen and at most so many decimal digits follow.
const ECS_TASK_DIGITS: usize = 32;
const ECS_NUMBER_DIGITS: usize = 10;
/// Characters of the ids that BuildKit makes (`identity/randomid.go` there: 25 digits of base 36).
const BUILDKIT_DIGITS: usize = 25;
/// How long the cgroups of v1 of a process are taken for granted: it may be moved.
pub const V1_AGE_NS: u64 = 10_000_000_000;
/// Most processes whose cgroups of v1 are remembered: these, and as many that were wanted before.
const V1_PROCESSES_MAX: usize = 8192;

/// A cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// Path below the root of the hierarchy, `/` for the root.
    pub path: String,
    /// The systemd unit in its path.
    pub unit: Option<String>,
    /// The container in its path: the id, or the name that LXC and systemd-nspawn give it.
    pub container: Option<String>,
}

impl Cgroup {
    /// Reads a path below the root of the hierarchy.
    pub fn new(path: String) -> Self {
        // From the end: the innermost unit and container are those that a process is in (`user@0.service` contains
        // `a.service`).
        let components = || path.rsplit('/').filter(|component| !component.is_empty());
        let unit = components().find(|name| name.ends_with(".service") || name.ends_with(".scope")).map(str::to_owned);
        let container = container(&path);
        Self { path, unit, container }
    }
}

/// Returns the innermost container in the path of a cgroup.
pub fn container(path: &str) -> Option<String> {
    let components: Vec<&str> = path.split('/').filter(|component| !component.is_empty()).collect();
    let mut inner = None;
    for (at, name) in components.iter().copied().enumerate().rev() {
        let outer = at.checked_sub(1).and_then(|outer| components.get(outer)).copied();
        if let Some(found) = container_of(name, outer, inner) {
            return Some(found);
        }
        inner = Some(name);
    }
    None
}

/// Returns the container that a component of a path names; `outer` and `inner` are its neighbours.
fn container_of(name: &str, outer: Option<&str>, inner: Option<&str>) -> Option<String> {
    // Programs beside the container: they watch it, or made it. What contains them, if anything, is in a component before.
    // Podman and CRI-O name the scope of conmon after the container; a pod of theirs has an id of its own.
    let is_beside =
        ["libpod-conmon-", "crio-conmon-", "libpod_pod_", "lxc.monitor"].iter().any(|prefix| name.starts_with(prefix));
    // A slice contains scopes, never processes of a container alone; that of a pod has its id.
    if is_beside || name.ends_with(".slice") || inner == Some("supervisor") {
        return None;
    }
    if let Some(id) = long_id(name) {
        return Some(id.to_owned());
    }
    if is_ecs_id(name) {
        return Some(name.to_owned());
    }
    // `/docker/buildkit/ID`, or with systemd `buildkit-ID.scope`.
    let of_buildkit = if outer == Some("buildkit") { Some(name) } else { scope(name, "buildkit-") };
    if let Some(id) = of_buildkit
        && id.len() == BUILDKIT_DIGITS
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    {
        return Some(id.to_owned());
    }
    // LXC 4 and later, LXC 3, and Proxmox, which is one of them.
    if let Some(lxc) = name.strip_prefix("lxc.payload.").or_else(|| name.strip_prefix("lxc.payload-")) {
        return Some(lxc.to_owned());
    }
    if matches!(outer, Some("lxc" | "lxc.payload")) {
        return Some(name.to_owned());
    }
    // systemd-nspawn, and libvirt's containers; its virtual machines are no containers.
    let machine = scope(name, "machine-").map(unescaped).filter(|machine| !machine.starts_with("qemu-"));
    machine.or_else(|| Some(unescaped(name.strip_prefix("systemd-nspawn@")?.strip_suffix(".service")?)))
}

/// Returns the part of a name that is exactly 64 hex digits, as Docker, containerd, CRI-O and Podman put it into the
/// names of their cgroups.
fn long_id(name: &str) -> Option<&str> {
    // Split at every other character, because the id has a prefix and a suffix (`cri-containerd-ID.scope`). Longer runs
    // are no ids.
    name.split(|character: char| !character.is_ascii_hexdigit()).find(|run| run.len() == ID_DIGITS)
}

fn is_ecs_id(name: &str) -> bool {
    name.split_once('-').is_some_and(|(task, number)| {
        task.len() == ECS_TASK_DIGITS
            && task.bytes().all(|byte| byte.is_ascii_hexdigit())
            && (1..=ECS_NUMBER_DIGITS).contains(&number.len())
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Returns what stands between a prefix and `.scope`.
fn scope<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    name.strip_prefix(prefix)?.strip_suffix(".scope")
}

/// Returns a part of a unit's name without systemd's escapes: `\x2d` for a hyphen, `-` for a slash (systemd.unit(5)). The slash stays a
/// hyphen: names of machines have none.
fn unescaped(text: &str) -> String {
    let mut plain = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x") {
        plain.extend_from_slice(before.as_bytes());
        match after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                plain.extend_from_slice(b"\\x");
                rest = after;
            }
        }
    }
    plain.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&plain).into_owned()
}

/// All cgroups of v2 by the inode of their directory.
#[derive(Debug, Default)]
pub struct Cgroups {
    by_id: HashMap<u64, Rc<Cgroup>, foldhash::fast::RandomState>,
}

impl Cgroups {
    /// Replaces all known cgroups by those that a scan found.
    pub fn replace(&mut self, found: Vec<(u64, String)>) {
        self.by_id = found.into_iter().map(|(id, path)| (id, Rc::new(Cgroup::new(path)))).collect();
    }

    /// Adds a new cgroup.
    pub fn add(&mut self, id: u64, path: &[u8]) {
        self.by_id.insert(id, Rc::new(Cgroup::new(String::from_utf8_lossy(path).into_owned())));
    }

    /// Returns the cgroup whose directory has this inode.
    pub fn get(&self, id: u64) -> Option<&Rc<Cgroup>> {
        self.by_id.get(&id)
    }

    /// Returns the number of known cgroups; removed ones are counted until the next scan.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Returns whether no cgroup is known.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

/// Walks the hierarchy of v2 and returns inode and path of every cgroup.
pub fn scan() -> Vec<(u64, String)> {
    let mut found = Vec::new();
    // Without cgroups v2 there are no names to find; events go without them.
    if let Some(root) = cgroup_root() {
        walk(&root.path, &root.path, &mut found);
    }
    found
}

fn walk(root: &Path, directory: &Path, found: &mut Vec<(u64, String)>) {
    // Removed since the parent folder was read.
    let Ok(metadata) = fs::metadata(directory) else { return };
    let below = directory.strip_prefix(root).unwrap_or(directory);
    // The inode is the id that the kernel writes into records (`cgroup_id` in `include/linux/cgroup.h`).
    found.push((metadata.ino(), format!("/{}", below.to_string_lossy())));
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(root, &entry.path(), found);
        }
    }
}

/// Returns whether hierarchies of v1 are mounted, beside v2 or without it.
pub fn has_v1() -> bool {
    fs::read_to_string("/proc/self/cgroup").is_ok_and(|text| in_v1(&text).next().is_some())
}

/// Returns controllers and path of each hierarchy of v1 in the text of `/proc/PID/cgroup`; see cgroups(7).
fn in_v1(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let (number, rest) = line.split_once(':')?;
        // v2 has the number 0.
        (number != "0").then(|| rest.split_once(':'))?
    })
}

/// Returns what the hierarchies of v1 say beside the cgroup of v2; `None` if they say nothing more.
fn with_v1(text: &str, known: Option<&Cgroup>) -> Option<Cgroup> {
    let mut found = known.cloned().unwrap_or_default();
    // systemd's own hierarchy first: it has the units. Container managers without it use those of the controllers.
    let is_of_systemd = |controllers: &str| controllers == "name=systemd";
    let hierarchies = || {
        let of_systemd = in_v1(text).filter(move |(controllers, _)| is_of_systemd(controllers));
        of_systemd.chain(in_v1(text).filter(move |(controllers, _)| !is_of_systemd(controllers)))
    };
    for (controllers, path) in hierarchies() {
        let Cgroup { path, unit, container } = Cgroup::new(path.to_owned());
        let is_more = (found.container.is_none() && container.is_some())
            || (found.unit.is_none() && unit.is_some() && is_of_systemd(controllers));
        if is_more {
            // The path that has what was found, if that of v2 is the root or not known.
            if found.path.len() <= 1 {
                found.path = path;
            }
            found.container = found.container.or(container);
            found.unit = found.unit.or(unit);
        }
    }
    (known != Some(&found) && found != Cgroup::default()).then_some(found)
}

/// The cgroups of v1 of processes, from `/proc`.
#[derive(Debug, Default)]
pub struct V1Cgroups {
    /// With the cgroup of v2 that they were merged with, and when they are asked for again, nanoseconds since boot.
    by_process: OfProcesses,
    /// Those that were wanted before these.
    earlier: OfProcesses,
    /// For reading `/proc`: strangers decide how many processes there are.
    patience: Patience,
}

type OfProcesses = HashMap<Key, (u64, Option<Rc<Cgroup>>, u64), foldhash::fast::RandomState>;

impl V1Cgroups {
    /// Returns the cgroup of a process with what v1 says, if it says more; `id` and `known` are its cgroup of v2. A process that has
    /// ended has none. Reads `/proc` once for each process and ten seconds, as far as a [`Patience`] allows.
    pub fn of(&mut self, process: Key, (id, known): (u64, Option<&Rc<Cgroup>>), now_ns: u64) -> Option<Rc<Cgroup>> {
        if let Some((of_v2, found, until_ns)) = self.by_process.get(&process)
            && *of_v2 == id
            && now_ns < *until_ns
        {
            return found.clone();
        }
        let earlier = self.earlier.remove(&process);
        let before = self.by_process.get(&process).or(earlier.as_ref()).and_then(|(_, found, _)| found.clone());
        let began = Instant::now();
        if self.patience.left(began).is_zero() {
            // It keeps its place, and is read for a later event.
            earlier.and_then(|earlier| self.by_process.insert(process, earlier));
            return before;
        }
        let text = read(process);
        self.patience.spend(Instant::now(), began.elapsed());
        let found = match text {
            Some(text) => with_v1(&text, known.map(|known| &**known)).map(Rc::new),
            // It has ended: what was known of it holds.
            None => before,
        };
        if self.by_process.len() >= V1_PROCESSES_MAX {
            self.earlier = mem::take(&mut self.by_process);
        }
        self.by_process.insert(process, (id, found.clone(), now_ns.saturating_add(V1_AGE_NS)));
        found
    }
}

/// Reads `/proc/PID/cgroup` of a process that still lives.
fn read(process: Key) -> Option<String> {
    let of_proc = procfs::process::Process::new(i32::try_from(process.tgid).ok()?).ok()?;
    // The id may belong to a later process by now.
    let start = of_proc.stat().ok()?.starttime;
    if Key::of_ticks(process.tgid, start) != process.by_tick() {
        return None;
    }
    fs::read_to_string(format!("/proc/{}/cgroup", process.tgid)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_from_paths() {
        for (path, unit) in [
            ("/", None),
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/user.slice/user-0.slice/user@0.service/app.slice/a.service", Some("a.service")),
            ("/user.slice/user-0.slice/session-3.scope", Some("session-3.scope")),
            ("/machine.slice/machine-web.scope/payload/system.slice/a.service", Some("a.service")),
        ] {
            assert_eq!(Cgroup::new(path.into()).unit.as_deref(), unit, "{path}");
        }
    }

    /// Paths as the programs make them. `ID` stands for 64 hex digits, `OUTER` for others.
    const CONTAINERS: &[(&str, Option<&str>)] = &[
        // Docker: cgroupfs and systemd drivers, rootless, in v1 and v2.
        ("/docker/ID", Some("ID")),
        ("/system.slice/docker-ID.scope", Some("ID")),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope", Some("ID")),
        ("/docker/ID/init.scope", Some("ID")),
        ("/docker/ID0", None),
        // Without a parent (neuvector's share/system/cgroup_test.go), and GitHub's runners.
        ("/ID", Some("ID")),
        ("/actions_job/ID", Some("ID")),
        // Docker in Docker: the innermost.
        ("/docker/OUTER/docker/ID", Some("ID")),
        // Kubernetes with containerd (elastic/beats#32961), CRI-O, dockershim; cgroupfs.
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2d5133c0_65f3_40b2.slice/cri-containerd-ID.scope",
            Some("ID"),
        ),
        ("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod9c4c.slice/crio-ID.scope", Some("ID")),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod9c4c.slice/crio-ID.scope/container",
            Some("ID"),
        ),
        ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod69349abe.slice/docker-ID.scope", Some("ID")),
        ("/kubepods/besteffort/podac04f3f2-1f2c-11e9-b015-1ebee232acfa/ID", Some("ID")),
        ("/system.slice/containerd.service/kubepods-burstable-pod4cf6.slice:cri-containerd:ID", Some("ID")),
        // conmon is beside the container (aquasecurity/tracee#5086, #5190; openshift/microshift#697).
        ("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podb13213a6.slice/crio-conmon-ID.scope", None),
        ("/system.slice/crio-conmon-ID.scope", None),
        ("/machine.slice/libpod-conmon-ID.scope", None),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-ID.scope", None),
        ("/machine.slice/machine-libpod_pod_OUTER.slice/libpod-conmon-ID.scope", None),
        ("/docker/OUTER/machine.slice/libpod-conmon-ID.scope", Some("OUTER")),
        // Podman: systemd, with crun's inner cgroup, in a pod, cgroupfs, and split as quadlets are.
        ("/machine.slice/libpod-ID.scope", Some("ID")),
        ("/machine.slice/libpod-ID.scope/container", Some("ID")),
        ("/machine.slice/machine-libpod_pod_OUTER.slice/libpod-ID.scope/container", Some("ID")),
        ("/libpod_parent/libpod_pod_OUTER/libpod-ID", Some("ID")),
        ("/libpod_parent/libpod_pod_OUTER/conmon", None),
        ("/system.slice/nginx.service/libpod-payload-ID", Some("ID")),
        ("/system.slice/nginx.service/runtime", None),
        // ECS: on EC2, and on Fargate, whose numbers have one to ten digits (elastic/apm#888, google/cadvisor#3923).
        ("/ecs/48cb34f5-cd39-4d59-9bb9-89f3c1611afd/ID", Some("ID")),
        (
            "/ecs/c23e5f76c09d438aa1824ca4058bdcab/c23e5f76c09d438aa1824ca4058bdcab-1234678",
            Some("c23e5f76c09d438aa1824ca4058bdcab-1234678"),
        ),
        ("/ecs/c23e5f76c09d438aa1824ca4058bdcab/c23e5f76c09d438aa1824ca4058bdcab-12345678901", None),
        ("/ecs/c23e5f76c09d438aa1824ca4058bdcab", None),
        // BuildKit in Docker, and with systemd.
        ("/docker/buildkit/5cf82fwiumld3vcs5d5l5pzyv", Some("5cf82fwiumld3vcs5d5l5pzyv")),
        ("/system.slice/buildkit-5cf82fwiumld3vcs5d5l5pzyv.scope", Some("5cf82fwiumld3vcs5d5l5pzyv")),
        ("/docker/OUTER/buildkit/5cf82fwiumld3vcs5d5l5pzyv", Some("5cf82fwiumld3vcs5d5l5pzyv")),
        ("/system.slice/buildkit.service", None),
        // LXC, LXD and Proxmox (lxc/lxc#3722, draios/sysdig#801); the monitor is beside the container.
        ("/lxc.payload.busybox", Some("busybox")),
        ("/lxc.payload.project_c1/system.slice/snapd.service", Some("project_c1")),
        ("/lxc.payload-101/ns", Some("101")),
        ("/lxc/x1/system.slice/snapd.service", Some("x1")),
        ("/lxc/100/ns", Some("100")),
        ("/lxc.payload.c1/docker/ID", Some("ID")),
        ("/lxc.monitor.busybox", None),
        // systemd-nspawn (systemd/systemd#18104); its own process is beside the container. libvirt's machines.
        ("/machine.slice/machine-web.scope/payload", Some("web")),
        ("/machine.slice/machine-web.scope/payload/system.slice/a.service", Some("web")),
        ("/machine.slice/machine-my\\x2dbox.scope", Some("my-box")),
        ("/machine.slice/machine-web.scope/supervisor", None),
        ("/machine.slice/systemd-nspawn@web.service/payload/init.scope", Some("web")),
        ("/machine.slice/systemd-nspawn@web.service/supervisor", None),
        ("/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/emulator", None),
        ("/machine.slice/machine-lxc\\x2d4242\\x2dbox.scope", Some("lxc-4242-box")),
        // No containers.
        ("/", None),
        ("/system.slice/docker.service", None),
        ("/system.slice/containerd.service", None),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-4242.scope", None),
        ("/process_api/d534063c2feed9ec88d5c123b923ecb4", None),
    ];

    #[test]
    fn containers_are_read_from_paths() {
        let (id, outer) = ("0123456789abcdef".repeat(4), "fedcba9876543210".repeat(4));
        let full = |text: &str| text.replace("ID", &id).replace("OUTER", &outer);
        for (path, expected) in CONTAINERS {
            assert_eq!(container(&full(path)), expected.map(full), "{path}");
        }
    }

    #[test]
    fn escapes_of_systemd_are_undone() {
        assert_eq!(unescaped("a\\x2db\\x2d"), "a-b-");
        assert_eq!(unescaped("a\\x2"), "a\\x2");
        assert_eq!(unescaped("\\xc3\\xa9\\xzz"), "é\\xzz");
    }

    #[test]
    fn hierarchies_of_v1_add_what_v2_does_not_have() {
        let id = "0123456789abcdef".repeat(4);
        let v2 = |path: &str| Cgroup::new(path.to_owned());
        let both = |text: &str, known: Option<&Cgroup>| {
            let found = with_v1(&text.replace("ID", &id), known)?;
            Some((
                found.path.replace(&id, "ID"),
                found.unit,
                found.container.map(|id| id.replace("0123456789abcdef", "")),
            ))
        };
        // v1 alone, as on RHEL 8: the unit is systemd's, the container that of any controller.
        let text = "12:pids:/system.slice/docker.service\n11:memory:/docker/ID\n1:name=systemd:/docker/ID\n0::/\n";
        assert_eq!(both(text, None), Some(("/docker/ID".into(), None, Some(String::new()))));
        // Both: what v2 says stays.
        let text = "5:memory:/docker/ID\n1:name=systemd:/system.slice/a.service\n0::/system.slice/b.service\n";
        let known = v2("/system.slice/b.service");
        assert_eq!(
            both(text, Some(&known)),
            Some(("/system.slice/b.service".into(), Some("b.service".into()), Some(String::new())))
        );
        let text =
            "4:memory:/process_api/d534063c2feed9ec88d5c123b923ecb4\n1:name=systemd:/system.slice/a.service\n0::/\n";
        assert_eq!(
            both(text, Some(&v2("/"))),
            Some(("/system.slice/a.service".into(), Some("a.service".into()), None))
        );
        // Nothing more.
        assert_eq!(both("4:memory:/x\n1:name=systemd:/\n0::/\n", Some(&v2("/"))), None);
        assert_eq!(both("0::/system.slice/a.service\n", None), None);
    }

    #[test]
    fn a_process_is_read_once_and_not_after_its_end() {
        let own = procfs::process::Process::myself().unwrap().stat().unwrap();
        let key = Key::of_ticks(std::process::id(), own.starttime);
        assert_eq!(read(key).unwrap(), fs::read_to_string("/proc/self/cgroup").unwrap());
        // A later process with its number.
        assert_eq!(read(Key::of_ticks(key.tgid, own.starttime - 1)), None);
        let mut cgroups = V1Cgroups::default();
        let known = Rc::new(Cgroup::new("/".into()));
        let first = cgroups.of(key, (1, Some(&known)), 0);
        assert_eq!(cgroups.by_process.len(), 1);
        assert_eq!(cgroups.of(key, (1, Some(&known)), 1), first);
    }

    #[test]
    fn what_is_known_of_v1_is_bounded_and_what_is_wanted_stays() {
        let mut cgroups = V1Cgroups::default();
        let container = Some(Rc::new(Cgroup::new(format!("/docker/{}", "a".repeat(64)))));
        // No process has such an id: it has ended.
        let ended = Key::new(5_000_000, 1);
        cgroups.by_process.insert(ended, (1, container.clone(), 10));
        for tgid in 0..100_000 {
            cgroups.of(Key::new(6_000_000 + tgid, 1), (1, None), 20);
            assert!(cgroups.by_process.len() + cgroups.earlier.len() <= 2 * V1_PROCESSES_MAX);
            // Whether it is read again or not.
            if tgid % 1000 == 0 {
                assert_eq!(cgroups.of(ended, (1, None), 20 + u64::from(tgid) * V1_AGE_NS), container);
            }
        }
    }

    #[test]
    fn cgroups_of_v1_are_not_read_without_end() {
        let mut cgroups = V1Cgroups::default();
        let now = Instant::now();
        cgroups.patience.spend(now, std::time::Duration::from_secs(3600));
        let own = Key::new(std::process::id(), 1);
        assert_eq!(cgroups.of(own, (1, None), 20), None);
        assert!(cgroups.by_process.is_empty(), "it is asked for again");
    }
}
