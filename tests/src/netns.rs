//! Network namespaces for the tests, which isolate them from each other and from the rest of the machine.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    process::{Command, Output},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::UNIX_EPOCH,
};

use nix::sched::{CloneFlags, setns};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A network namespace with its loopback up. Its name is removed when it is dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
    /// The inode, as in `event.network.namespace`.
    pub inode: u64,
    /// When it was made, in epoch milliseconds: earlier events with its inode are of another namespace.
    pub(crate) made_at: u128,
}

impl Netns {
    /// Makes a namespace and holds it open until this program ends, so that its inode is not used again and identifies
    /// its events.
    pub fn new() -> Self {
        static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
        let namespace = Self::passing();
        HELD.lock().unwrap().push(File::open(format!("/run/netns/{}", namespace.name)).unwrap());
        namespace
    }

    /// Makes a namespace that ends when dropped. The next namespace may get the same inode.
    pub fn passing() -> Self {
        let name = format!("netconn-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Before the namespace is made, so that none of its events is earlier.
        let made_at = UNIX_EPOCH.elapsed().unwrap().as_millis();
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        let inode = fs::metadata(format!("/run/netns/{name}")).unwrap().ino();
        Self { name, inode, made_at }
    }

    /// Returns its name in `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a function inside, in a new thread of the test's process.
    pub fn run<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter();
                    function()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread inside for the rest of its life.
    pub fn enter(&self) {
        setns(File::open(format!("/run/netns/{}", self.name)).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// Returns [`active_opens`] of the namespace.
    pub fn active_opens(&self) -> u64 {
        self.run(active_opens)
    }

    /// Returns a command that runs a program inside.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]).args(arguments);
        command
    }

    /// Runs a program inside, which must succeed, and returns its standard output.
    pub fn exec(&self, program: &str, arguments: &[&str]) -> String {
        succeed(self.command(program, arguments).output().unwrap(), program, arguments)
    }

    /// Runs `ip` with these arguments inside; it must succeed.
    pub fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.name], arguments].concat());
    }
}

/// Returns the number of attempts in the caller's network namespace by the kernel's counter (`nstat TcpActiveOpens`): those whose SYN
/// was sent.
pub fn active_opens() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
    let column = lines.next().unwrap().position(|name| name == "ActiveOpens").unwrap();
    lines.next().unwrap().nth(column).unwrap().parse().unwrap()
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // An error must not hide the panic of a failed test.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// Two namespaces joined by a veth pair, whose devices are both named `cable`.
#[derive(Debug)]
pub struct Pair {
    /// The namespace with 10.0.0.1 and fd00::1.
    pub here: Netns,
    /// The namespace with 10.0.0.2 and fd00::2.
    pub there: Netns,
}

impl Pair {
    /// Makes the two namespaces, joins them and sets their addresses.
    pub fn new() -> Self {
        let (here, there) = (Netns::new(), Netns::new());
        here.ip(&["link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", &there.name]);
        for (namespace, number) in [(&here, 1), (&there, 2)] {
            namespace.ip(&["address", "add", &format!("10.0.0.{number}/24"), "dev", "cable"]);
            namespace.ip(&["address", "add", &format!("fd00::{number}/64"), "dev", "cable", "nodad"]);
            namespace.ip(&["link", "set", "cable", "up"]);
        }
        Self { here, there }
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

fn ip(arguments: &[&str]) {
    succeed(Command::new("ip").args(arguments).output().unwrap(), "ip", arguments);
}

fn succeed(output: Output, program: &str, arguments: &[&str]) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}
