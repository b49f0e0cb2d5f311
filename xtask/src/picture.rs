//! Draws the README's picture, an SVG of a real session of `netconn watch` and `netconn list`.
//!
//! Two network namespaces form a small network: a web server that also calls an API, and everything else. The picture
//! shows only the server's namespace, so that other programs of this machine are not in it.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anstyle::{Color, RgbColor};
use anstyle_svg::{Term, WIN10_CONSOLE};
use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use xtask::{
    cargo, check, is_root,
    packages::{self, NeededProgram},
    root,
};

/// The path of the picture.
const PICTURE: &str = "docs/session.svg";
/// Programs that run in the scene.
const PROGRAMS: [NeededProgram; 4] =
    [("ip", "iproute2"), ("nginx", "nginx"), ("curl", "curl"), ("dnsmasq", "dnsmasq-base")];
/// The namespaces: the server, which the picture shows, and its network.
const SERVER: &str = "netconn-picture-server";
const NETWORK: &str = "netconn-picture-network";
/// Arguments of `ip` that set up the network. The addresses are reserved for documentation (RFC 5737).
const COMMANDS: [&str; 9] = [
    "-n netconn-picture-server link add eth0 type veth peer name eth0 netns netconn-picture-network",
    "-n netconn-picture-server link set lo up",
    "-n netconn-picture-server link set eth0 up",
    "-n netconn-picture-server address add 192.0.2.10/24 dev eth0",
    "-n netconn-picture-server route add 203.0.113.0/24 dev eth0",
    "-n netconn-picture-network link set lo up",
    "-n netconn-picture-network link set eth0 up",
    "-n netconn-picture-network address add 203.0.113.50/24 dev eth0",
    "-n netconn-picture-network route add 192.0.2.0/24 dev eth0",
];
/// Configuration of nginx in both namespaces. The rate limit keeps a download open until the list is made.
const NGINX: &str = "user www-data; worker_processes 1; pid FOLDER/ADDRESS.pid; error_log /dev/null; events {}
http { access_log off; limit_rate 50k; server { listen ADDRESS:80; root FOLDER/www; } }";
/// Time limit for the daemon to start.
const READY: Duration = Duration::from_secs(20);
/// Pause between two steps of the scene, so that their times differ.
const PAUSE: Duration = Duration::from_millis(300);
/// Size of the downloaded file.
const BACKUP_BYTES: usize = 4 << 20;
/// Colours of the terminal: text and background.
const COLORS: [RgbColor; 2] = [RgbColor(0xd6, 0xda, 0xe0), RgbColor(0x14, 0x18, 0x1f)];

/// Runs the scene and writes the picture.
pub(crate) fn run() -> Result<()> {
    if !is_root() {
        bail!("netconn loads eBPF programs and the scene needs network namespaces: run as root");
    }
    if let Some(reason) = packages::obstacle(&PROGRAMS) {
        bail!("{reason}");
    }
    check(&mut cargo(&["build", "--package", "netconn"]))?;
    // Cargo writes it beside this program.
    let netconn = std::env::current_exe()?.with_file_name("netconn");
    let session = PictureScene::begin(&netconn)?.play()?;
    let [text, background] = COLORS.map(Color::Rgb);
    let terminal = Term::new().palette(WIN10_CONSOLE).fg_color(text).bg_color(background);
    let picture = scalable(&terminal.render_svg(&session)).context("the picture has no size")?;
    fs::write(root().join(PICTURE), picture + "\n").with_context(|| format!("cannot write {PICTURE}"))?;
    println!("wrote {PICTURE}");
    Ok(())
}

/// Adds a `viewBox`, without which browsers may cut a picture instead of making it smaller.
fn scalable(svg: &str) -> Option<String> {
    let size = |name: &str| Some(svg.split_once(&format!("{name}=\""))?.1.split_once("px\"")?.0);
    let (width, height) = (size("width")?, size("height")?);
    Some(svg.replacen("<svg ", &format!("<svg viewBox=\"0 0 {width} {height}\" "), 1))
}

/// The namespaces and the processes in them; dropping this value removes both.
struct PictureScene {
    folder: TempDir,
    netconn: PathBuf,
    /// Inode of the server's namespace.
    namespace: String,
    running: Vec<Child>,
}

impl PictureScene {
    /// Creates the network and starts the daemon.
    fn begin(netconn: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut scene = Self { folder, netconn: netconn.to_owned(), namespace: String::new(), running: Vec::new() };
        for namespace in [SERVER, NETWORK] {
            check(Command::new("ip").args(["netns", "add", namespace]))?;
        }
        for line in COMMANDS {
            check(Command::new("ip").args(line.split(' ')))?;
        }
        scene.namespace = fs::metadata(Path::new("/run/netns").join(SERVER))?.ino().to_string();
        let path = |name: &str| scene.folder.path().join(name);
        fs::create_dir(path("www"))?;
        fs::write(path("www/index.html"), "Welcome.\n")?;
        fs::write(path("www/backup.tar"), vec![0; BACKUP_BYTES])?;
        fs::write(path("resolv.conf"), "nameserver 203.0.113.50\n")?;
        for address in ["192.0.2.10", "203.0.113.50"] {
            let text = NGINX.replace("ADDRESS", address).replace("FOLDER", &scene.folder.path().to_string_lossy());
            fs::write(path(&format!("{address}.conf")), text)?;
        }
        // nginx's worker runs as another user and must read the folder.
        fs::set_permissions(scene.folder.path(), fs::Permissions::from_mode(0o755))?;
        let mut daemon = scene.command(&["run", "--no-history"]);
        daemon.arg("--state-dir").arg(path("state")).stderr(Stdio::null());
        scene.running.push(daemon.spawn().context("cannot run netconn")?);
        let since = Instant::now();
        // The first list that succeeds shows that the daemon listens.
        while !scene.command(&["list", "-H"]).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
            if since.elapsed() > READY {
                bail!("the daemon did not listen within {} s", READY.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(scene)
    }

    /// Runs the steps of the scene and returns the output of netconn.
    fn play(mut self) -> Result<String> {
        let watched = self.folder.path().join("watched");
        // `watch` starts first: it shows only what happens after it has connected.
        let mut watch = self.command(&["watch", "--namespace", &self.namespace]);
        self.running.push(watch.stdout(fs::File::create(&watched)?).spawn()?);
        thread::sleep(PAUSE);
        self.start(
            NETWORK,
            "exec dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file= \
            --bind-interfaces --listen-address=203.0.113.50 --address=/example.org/203.0.113.50 --filter-AAAA",
        )?;
        let nginx = "mount --bind FOLDER/ADDRESS.conf /etc/nginx/nginx.conf && exec nginx -g 'daemon off;'";
        let resolver = "exec dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file= \
             --bind-interfaces --listen-address=203.0.113.50 --address=/example.org/203.0.113.50 --filter-AAAA";
        let curl = "mount --bind FOLDER/resolv.conf /etc/resolv.conf && exec curl -s";
        self.start(NETWORK, resolver)?;
        self.start(NETWORK, &nginx.replace("ADDRESS", "203.0.113.50"))?;
        thread::sleep(2 * PAUSE);
        self.start(SERVER, &nginx.replace("ADDRESS", "192.0.2.10"))?;
        thread::sleep(2 * PAUSE);
        for (namespace, url) in [
            (NETWORK, "http://192.0.2.10/"),
            (SERVER, "http://api.example.org/"),
            (SERVER, "https://203.0.113.50/"),
            (SERVER, "http://198.51.100.7/"),
        ] {
            // The last two fail: nothing listens on the first port, and there is no route to the second address.
            self.start(namespace, &format!("{curl} {url}"))?.wait()?;
            thread::sleep(PAUSE);
        }
        // Not waited for: the limited rate keeps it open while the list is made.
        self.start(SERVER, &format!("{curl} http://203.0.113.50/backup.tar"))?;
        thread::sleep(3 * PAUSE);
        let list = self.command(&["list", "-tu", "--closed", "1m", "--namespace", &self.namespace]).output()?;
        let (watched, listed) = (fs::read_to_string(watched)?, String::from_utf8(list.stdout)?);
        Ok(format!("$ netconn watch\n{watched}\n$ netconn list -tu --closed 1m\n{listed}"))
    }

    /// Makes a command of netconn, client or daemon, with the scene's socket and with colours.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.netconn);
        command.args(arguments).env("NETCONN_SOCKET", self.folder.path().join("socket")).env("CLICOLOR_FORCE", "1");
        command
    }

    /// Starts a shell command in a namespace.
    fn start(&mut self, namespace: &str, line: &str) -> Result<&mut Child> {
        let line = line.replace("FOLDER", &self.folder.path().to_string_lossy());
        let mut ip = Command::new("ip");
        ip.args(["netns", "exec", namespace, "sh", "-c", &line]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        ip.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.running.push(ip.spawn().context("cannot run ip")?);
        self.running.last_mut().context("no process was started")
    }
}

impl Drop for PictureScene {
    fn drop(&mut self) {
        // The latest first: clients end before the servers that they use.
        for child in self.running.iter_mut().rev() {
            // An error means that the process has exited already. On SIGTERM, nginx stops its worker too.
            if let Ok(id) = i32::try_from(child.id()) {
                let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
            }
            let _ = child.wait();
        }
        for namespace in [SERVER, NETWORK] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}
