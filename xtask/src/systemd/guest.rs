//! A Debian with systemd as its first process: made by debootstrap, booted by systemd-nspawn over a layer of its own, so
//! that each run starts with the same files.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use xtask::{check, command, root};

use crate::vm::kernels;

/// The suite of Debian, the variant of debootstrap and the packages beside it. The system is made again when this changes.
const SUITE: &str = "bookworm";
const VARIANT: &str = "minbase";
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,curl,procps";
/// Folder of the guest in the workspace.
const FOLDER: &str = "target/systemd";
/// Mounts what the guest needs, in a mount namespace that ends with it, and becomes systemd-nspawn. The guest has a BPF file
/// system of its own, so that pins end with the machine as they do elsewhere. The filter of systemd-nspawn denies `bpf`,
/// `perf_event_open` and the calls of key rings to guests unless they are named.
const BOOT: &str = r#"
mount -t overlay overlay -o lowerdir=base,upperdir=upper,workdir=work root
mount -t bpf -o mode=0755 bpf bpf
exec systemd-nspawn --quiet --directory=root --boot --register=no --keep-unit \
    --private-network --capability=all --machine=netconn-guest --console=pipe "--bind=$PWD/bpf:/sys/fs/bpf" \
    "--bind-ro=$PWD/packages:/packages" "--system-call-filter=bpf perf_event_open @keyring"
"#;
/// Two servers, which systemd starts for each connection: one keeps it, one answers a request of HTTP. They are files of the
/// guest, because a transient unit cannot be a template.
const UNITS: [(&str, &str); 4] = [
    ("lasting.socket", "[Socket]\nListenStream=127.0.0.1:7777\nAccept=yes\n"),
    ("lasting@.service", "[Service]\nStandardInput=socket\nExecStart=sleep infinity\n"),
    ("web.socket", "[Socket]\nListenStream=127.0.0.1:8080\nAccept=yes\n"),
    (
        "web@.service",
        "[Service]\nStandardInput=socket\nStandardOutput=socket\nExecStart=printf 'HTTP/1.0 200 OK\\r\\n\\r\\nhello'\n",
    ),
];
/// The search path in the guest.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Time limit for everything that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// A guest, which is running. It is stopped when this is dropped.
pub(super) struct Guest {
    folder: PathBuf,
    nspawn: Child,
    /// The guest's first process, as the host numbers it.
    leader: String,
}

/// What a script in the guest has printed, and its exit code.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Guest {
    /// Boots a guest with the files that debootstrap makes. The packages in `packages` are at /packages in it.
    pub(super) fn boot(packages: &Path) -> Result<Self> {
        let folder = root().join(FOLDER);
        make_base(&folder)?;
        for name in ["upper", "work", "root", "bpf", "packages"] {
            let path = folder.join(name);
            if path.exists() {
                fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
            fs::create_dir_all(&path)?;
        }
        for entry in fs::read_dir(packages).with_context(|| format!("cannot read {}", packages.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                fs::copy(&path, folder.join("packages").join(path.file_name().unwrap_or_default()))?;
            }
        }
        let units = folder.join("upper/etc/systemd/system");
        fs::create_dir_all(&units)?;
        for (name, text) in UNITS {
            fs::write(units.join(name), text)?;
        }
        let nspawn = start(&folder)?;
        let mut guest = Self { folder, nspawn, leader: String::new() };
        guest.wait_for_boot()?;
        Ok(guest)
    }

    /// Restarts the guest as a machine restarts: nothing is left but its files.
    pub(super) fn reboot(&mut self) -> Result<()> {
        // Asked for by the first process, not by a unit, which would be ended before it could say how it went.
        let asked = self.enter(&["systemctl", "reboot"]).output()?;
        if !asked.status.success() {
            bail!("the guest does not reboot: {}", String::from_utf8_lossy(&asked.stderr));
        }
        let since = Instant::now();
        while self.nspawn.try_wait()?.is_none() {
            if since.elapsed() > PATIENCE {
                bail!("the guest does not end");
            }
            thread::sleep(PAUSE);
        }
        self.nspawn = start(&self.folder)?;
        self.wait_for_boot()
    }

    /// Runs a script in a unit of its own and returns what it printed.
    pub(super) fn run(&self, script: &str) -> Result<Answer> {
        // Not by nsenter alone: such a process is in none of the guest's cgroups.
        let Output { status, stdout, stderr } = self
            .enter(&["systemd-run", "--quiet", "--wait", "--pipe", "--collect", "sh", "-c", script])
            .output()
            .context("cannot run nsenter")?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Answer { code: status.code(), stdout: text(stdout), stderr: text(stderr) })
    }

    /// Runs a script that must succeed and returns what it printed.
    pub(super) fn ok(&self, script: &str) -> Result<String> {
        let Answer { code, stdout, stderr } = self.run(script)?;
        if code != Some(0) {
            bail!("`{}` ended with {code:?}: {stdout}{stderr}", script.trim());
        }
        Ok(stdout)
    }

    /// Repeats a script until it succeeds and returns what it printed.
    pub(super) fn until(&self, script: &str) -> Result<String> {
        let since = Instant::now();
        loop {
            let result = self.ok(script);
            if result.is_ok() || since.elapsed() > PATIENCE {
                return result;
            }
            thread::sleep(PAUSE);
        }
    }

    /// Returns what the console and the journal of netconn's unit say, for a check that failed.
    pub(super) fn log(&self) -> String {
        let journal =
            self.run("systemctl status netconn.service netconn.socket; journalctl -u netconn -n 60 --no-pager");
        let journal = journal.map_or_else(|error| format!("{error:#}"), |answer| answer.stdout);
        format!("the guest's log:\n{journal}")
    }

    /// Makes a command that runs in the guest's namespaces.
    fn enter(&self, arguments: &[&str]) -> Command {
        let mut enter = Command::new("nsenter");
        enter.args(["--target", &self.leader, "--all", "--root", "--wd"]).args(arguments);
        enter.env_clear().env("PATH", PATH).stdin(Stdio::null());
        enter
    }

    fn wait_for_boot(&mut self) -> Result<()> {
        let pid = self.nspawn.id();
        let since = Instant::now();
        loop {
            if let Some(status) = self.nspawn.try_wait()? {
                let console = fs::read_to_string(self.folder.join("console")).unwrap_or_default();
                bail!("the guest has ended with {status}: {console}");
            }
            if let Some(leader) = leader(pid) {
                self.leader = leader;
                // Fails until systemd answers. `degraded` is told by the checks, which name the unit.
                let state = self.enter(&["systemctl", "is-system-running", "--wait"]).output()?;
                if matches!(state.stdout.trim_ascii(), b"running" | b"degraded") {
                    return Ok(());
                }
            }
            if since.elapsed() > PATIENCE {
                let console = fs::read_to_string(self.folder.join("console")).unwrap_or_default();
                bail!("the guest does not start: {console}");
            }
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Mounts end with the last process that has them.
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
    }
}

/// Returns the first process of the guest: the child of systemd-nspawn, which is the child of `unshare`. There is none until
/// that child has become systemd.
fn leader(unshare: u32) -> Option<String> {
    let child = |pid: &str| {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next().map(str::to_owned)
    };
    let leader = child(&child(&unshare.to_string())?)?;
    let name = fs::read_to_string(format!("/proc/{leader}/comm")).ok()?;
    (name.trim_end() == "systemd").then_some(leader)
}

/// Starts systemd-nspawn.
fn start(folder: &Path) -> Result<Child> {
    let console = File::create(folder.join("console"))?;
    // A guest outlives systemd-nspawn if that is killed. So it has a pid namespace around it: the kernel ends all of its
    // processes with the first one, that one with `unshare`, and `unshare` with this program, however it ends.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid", "--fork"])
        .args(["--kill-child", "--mount-proc", "sh", "-ec", BOOT])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(console.try_clone()?)
        .stderr(console)
        .spawn()
        .context("cannot run setpriv")
}

/// Makes the guest's system unless an earlier call did.
fn make_base(folder: &Path) -> Result<()> {
    let (base, list) = (folder.join("base"), folder.join("base.list"));
    let wanted = format!("{SUITE} {VARIANT} {PACKAGES}\n");
    if fs::read_to_string(&list).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    if base.exists() {
        fs::remove_dir_all(&base).with_context(|| format!("cannot remove {}", base.display()))?;
    }
    fs::create_dir_all(folder)?;
    let mirrors = kernels::mirrors();
    let mirror = mirrors.iter().find(|uri| !uri.contains("security")).context("apt's sources have no Debian mirror")?;
    println!("making a Debian {SUITE} in {}", base.display());
    let since = Instant::now();
    check(
        command("debootstrap", &["--variant", VARIANT, "--include", PACKAGES, SUITE])
            .args([base.as_os_str(), mirror.as_ref()])
            .stdout(File::create(folder.join("debootstrap.log"))?),
    )?;
    println!("it took {:.1} s", since.elapsed().as_secs_f64());
    // What nobody reads: a fifth of the whole.
    fs::remove_dir_all(base.join("var/cache/apt/archives"))?;
    fs::create_dir_all(base.join("var/cache/apt/archives/partial"))?;
    fs::write(list, wanted).context("cannot keep the list of packages")
}
