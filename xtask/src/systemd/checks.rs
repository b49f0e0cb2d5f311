//! What is asked of the packages, in the order in which it is asked: each check begins with the system that the one before
//! has left.

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    guest::{Answer, Guest},
    leftovers::Snapshot,
};

/// What the checks keep for those after them.
pub(super) struct Bench {
    pub(super) guest: Guest,
    /// What there was before anything of netconn.
    pub(super) before: Snapshot,
}

/// A check: what is true if it passes.
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) run: fn(&mut Bench) -> Result<()>,
    /// Others need what it does, so it runs whatever names are asked for.
    pub(super) is_needed: bool,
}

/// All checks.
pub(super) const CHECKS: [Check; 12] = [
    Check { name: "a daemon of root runs, as in 0.1.0", run: old_daemon_runs, is_needed: true },
    Check { name: "apt install starts the service", run: install, is_needed: true },
    Check {
        name: "the service takes over state, ids and owners of the daemon of root",
        run: take_over,
        is_needed: false,
    },
    Check { name: "no process of it keeps more than it needs", run: privileges, is_needed: false },
    Check { name: "the first event of a curl is in the history", run: first_event, is_needed: false },
    Check { name: "members of the group list connections, others are told how to", run: members, is_needed: false },
    Check { name: "reload takes a right file and leaves a wrong one", run: reload, is_needed: false },
    Check { name: "a killed daemon comes back and keeps ids and owners", run: killed, is_needed: false },
    Check { name: "a stuck engine is restarted", run: stuck, is_needed: false },
    Check { name: "stop and upgrade keep ids and owners", run: stop_and_upgrade, is_needed: false },
    Check { name: "after a reboot it runs, with its id and history", run: reboot, is_needed: false },
    Check { name: "purge leaves nothing", run: purge, is_needed: false },
];

/// Path of the package in the guest, for the shell.
const PACKAGE: &str = "/packages/netconn_*.deb";
/// A connection that lasts. Its owner is bash, and bash is sleep by the time that anybody looks: only what is kept with the
/// socket tells who connected.
const CONNECTION: &str = "systemctl start lasting.socket &&
systemd-run --quiet --collect --unit=lasting-client bash -c 'exec 3<>/dev/tcp/127.0.0.1/7777; exec sleep infinity'";
/// Prints the row of that connection, as soon as it is there.
const ROW: &str = "netconn list --format json --remote-port 7777 | grep '\"state\":\"ESTABLISHED\"'";
const ID: &str = "cat /var/lib/netconn/sensor-id";
/// Succeeds when the daemon answers.
const ANSWERS: &str = "netconn list --socket /run/netconn/netconn.sock --format json >/dev/null";

/// Starts the program of the package as 0.1.0 was started: by hand, as root, without a user of its own.
fn old_daemon_runs(Bench { guest, .. }: &mut Bench) -> Result<()> {
    guest.ok(&format!(
        "mkdir /opt/old && dpkg-deb --extract {PACKAGE} /opt/old && groupadd --system netconn &&
        systemd-run --quiet --collect --unit=old-netconn /opt/old/usr/bin/netconn run"
    ))?;
    guest.until("/opt/old/usr/bin/netconn list --socket /run/netconn/netconn.sock >/dev/null")?;
    guest.ok(CONNECTION)?;
    let row = guest.until(&format!("PATH=/opt/old/usr/bin:$PATH; {ROW}"))?;
    ensure!(
        connector(&row, "process_name")? == "\"bash\"" && connector(&row, "attribution")? == "\"connect\"",
        "{row}"
    );
    let owner = guest.ok("stat --format %U /var/lib/netconn /var/lib/netconn/events /sys/fs/bpf/netconn")?;
    ensure!(owner == "root\nroot\nroot\n", "{owner}");
    guest.ok(&format!(
        "{ID} >/root/old-id; echo '{row}' >/root/old-row; head -n 1 /var/lib/netconn/events/events-*.ndjson >/root/old-event
        systemctl stop old-netconn; rm -r /opt/old",
        row = row.trim_end()
    ))?;
    Ok(())
}

fn install(Bench { guest, .. }: &mut Bench) -> Result<()> {
    guest.ok(&format!("apt-get install --quiet --yes {PACKAGE}"))?;
    guest.ok("systemctl is-active netconn.service && systemctl is-enabled netconn.service")?;
    // `Type=notify`: whoever has waited for the unit need not wait for the socket.
    guest.ok(ANSWERS)?;
    let state = guest.run("systemctl is-system-running --wait; systemctl --failed --no-legend")?;
    ensure!(state.stdout == "running\n", "{}", state.stdout);
    guest.ok("getent passwd netconn && getent group netconn && usermod --append --groups netconn alice")?;
    Ok(())
}

fn take_over(Bench { guest, .. }: &mut Bench) -> Result<()> {
    let same = guest.run(&format!("{ID} | cmp - /root/old-id"))?;
    ensure!(same.code == Some(0), "the sensor has another id: {}{}", same.stdout, same.stderr);
    let foreign =
        guest.ok("find /var/lib/netconn /run/netconn /sys/fs/bpf/netconn ! -user netconn -printf '%u %p\n'")?;
    ensure!(foreign.is_empty(), "not taken over:\n{foreign}");
    let (old, new) = (guest.ok("cat /root/old-row")?, guest.until(ROW)?);
    same_connection(&old, &new)?;
    // Whether its segment has been converted since or not.
    guest.ok("grep --quiet --fixed-strings --file /root/old-event /var/lib/netconn/events/*.ndjson || ls /var/lib/netconn/events/*.parquet")?;
    Ok(())
}

/// Looks at every process of the service. One child may enter namespaces and read what belongs to others.
fn privileges(Bench { guest, .. }: &mut Bench) -> Result<()> {
    let lines =
        guest.ok("for pid in $(cat /sys/fs/cgroup/*/system.slice/netconn.service/cgroup.procs | sort --unique); do
            echo $pid $(awk '/^(Uid|CapEff|CapPrm|NoNewPrivs|Seccomp):/ { print $2 }' /proc/$pid/status)
        done")?;
    let me = guest.ok("id --user netconn")?;
    let mut privileged = 0;
    for line in lines.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, uid, permitted, effective, no_new, seccomp] = fields[..] else { bail!("no status: {line}") };
        ensure!(uid == me.trim(), "a process of another user: {line}");
        ensure!(no_new == "1" && seccomp == "2", "a process without no_new_privs or a filter: {line}");
        // CAP_SYS_PTRACE (19) and CAP_SYS_ADMIN (21), `include/uapi/linux/capability.h`.
        let capabilities = u64::from_str_radix(permitted, 16)? | u64::from_str_radix(effective, 16)?;
        ensure!(capabilities & !(1 << 19 | 1 << 21) == 0, "a process with more capabilities: {line}");
        privileged += usize::from(capabilities != 0);
    }
    ensure!(privileged <= 1 && lines.lines().count() >= 1, "one process may have privileges:\n{lines}");
    Ok(())
}

fn first_event(Bench { guest, .. }: &mut Bench) -> Result<()> {
    guest.ok("systemctl start web.socket &&
        curl --silent --max-time 20 http://127.0.0.1:8080/ | grep --quiet hello")?;
    let event = guest.until(
        "grep --no-filename '\"event.type\":\"IP Connect\"' /var/lib/netconn/events/*.ndjson |
            grep '\"dst.port.number\":8080,' | grep '\"src.process.name\":\"curl\"'",
    )?;
    ensure!(event.contains("\"event.network.connectionStatus\":\"SUCCESS\""), "{event}");
    Ok(())
}

fn members(Bench { guest, .. }: &mut Bench) -> Result<()> {
    let rows = guest.ok("runuser --user alice -- netconn list --listening --port 7777")?;
    ensure!(rows.contains("127.0.0.1:7777"), "{rows}");
    let Answer { code, stdout, stderr } = guest.run("runuser --user bob -- netconn list")?;
    ensure!(code == Some(77) && stdout.is_empty(), "a stranger was answered {code:?}: {stdout}{stderr}");
    ensure!(stderr.contains("usermod -aG netconn bob"), "no advice: {stderr}");
    let denied = guest.run("runuser --user bob -- cat /var/lib/netconn/sensor-id")?;
    ensure!(denied.code != Some(0), "a stranger reads the state");
    Ok(())
}

fn reload(Bench { guest, .. }: &mut Bench) -> Result<()> {
    const MAIN: &str = "systemctl show --property MainPID --value netconn";
    const FILE: &str = "/etc/netconn/conf.d/test.toml";
    const LOG: &str = "journalctl --unit netconn --no-pager";
    let pid = guest.ok(MAIN)?;
    guest.ok(&format!("printf 'history_days = 11\nring_bytes = 8388608\n' >{FILE} && systemctl reload netconn"))?;
    guest.until(&format!("{LOG} | grep 'changed: history_days$'"))?;
    guest.until(&format!("{LOG} | grep 'from the next start on: ring_bytes$'"))?;
    let wrong = guest.run(&format!("echo 'history_days = 0' >{FILE} && systemctl reload netconn"))?;
    ensure!(wrong.code != Some(0), "a wrong file is taken");
    let told = guest.until(&format!("{LOG} | grep 'history_days = 0'"))?;
    ensure!(told.contains(FILE), "the file is not named: {told}");
    guest.ok(&format!("rm {FILE} && systemctl reload netconn && systemctl is-active netconn && {ANSWERS}"))?;
    ensure!(guest.ok(MAIN)? == pid, "it was restarted");
    Ok(())
}

fn killed(Bench { guest, .. }: &mut Bench) -> Result<()> {
    let (id, row) = (guest.ok(ID)?, guest.until(ROW)?);
    // More often than systemd's default limit of starts allows.
    for _ in 0..6 {
        let old =
            guest.until("pid=$(systemctl show --property MainPID --value netconn); [ $pid != 0 ] && echo $pid")?;
        guest.ok(&format!("kill -KILL {old}"))?;
        guest.until(&format!(
            "pid=$(systemctl show --property MainPID --value netconn); [ $pid != 0 ] && [ $pid != {} ] && {ANSWERS}",
            old.trim()
        ))?;
    }
    ensure!(guest.ok(ID)? == id, "the sensor has another id");
    same_connection(&row, &guest.until(ROW)?)
}

fn stuck(Bench { guest, .. }: &mut Bench) -> Result<()> {
    let row = guest.until(ROW)?;
    guest.ok("mkdir --parents /run/systemd/system/netconn.service.d
        printf '[Service]\nExecStart=\nExecStart=/usr/bin/netconn run --fault stuck\nWatchdogSec=3\n' \
            >/run/systemd/system/netconn.service.d/stuck.conf
        systemctl daemon-reload")?;
    // The fault waits for a signal.
    let hangs = guest
        .ok("systemctl restart netconn && systemctl kill --kill-who=main --signal=USR1 netconn")
        .and_then(|_| guest.until("journalctl --unit netconn --no-pager | grep 'Watchdog timeout'"));
    // In any case: other checks need the service.
    guest.ok("rm -r /run/systemd/system/netconn.service.d; systemctl daemon-reload; systemctl restart netconn")?;
    hangs?;
    same_connection(&row, &guest.until(ROW)?)
}

fn stop_and_upgrade(Bench { guest, .. }: &mut Bench) -> Result<()> {
    let (id, row) = (guest.ok(ID)?, guest.until(ROW)?);
    guest.ok("systemctl stop netconn.socket netconn.service && [ $(ls /sys/fs/bpf/netconn | wc -l) -ge 4 ]")?;
    guest.ok("systemctl start netconn.service")?;
    same_connection(&row, &guest.until(ROW)?)?;
    let old = guest.ok("systemctl show --property MainPID --value netconn")?;
    // dpkg does the same for a newer version.
    guest.ok(&format!("apt-get install --quiet --yes --reinstall {PACKAGE}"))?;
    guest.ok(&format!("systemctl is-active netconn && {ANSWERS}"))?;
    ensure!(guest.ok("systemctl show --property MainPID --value netconn")? != old, "the old program still runs");
    ensure!(guest.ok(ID)? == id, "the sensor has another id");
    same_connection(&row, &guest.until(ROW)?)
}

fn reboot(Bench { guest, .. }: &mut Bench) -> Result<()> {
    let id = guest.ok(ID)?;
    guest.reboot()?;
    guest.until(&format!("systemctl is-active netconn.service && {ANSWERS}"))?;
    ensure!(guest.ok(ID)? == id, "the sensor has another id");
    let starts = guest.ok("cat /var/lib/netconn/events/*.ndjson | grep --count '\"event.type\":\"Sensor Start\"'")?;
    ensure!(starts.trim().parse::<u32>()? >= 2, "the history before is gone");
    Ok(())
}

fn purge(Bench { guest, before }: &mut Bench) -> Result<()> {
    guest.ok("apt-get purge --quiet --yes netconn && rm --force /root/old-*")?;
    for kind in ["passwd", "group"] {
        let found = guest.run(&format!("getent {kind} netconn"))?;
        ensure!(found.stdout.is_empty(), "left in {kind}: {}", found.stdout);
    }
    let state = guest.run("systemctl is-system-running; systemctl --failed --no-legend")?;
    ensure!(state.stdout == "running\n", "{}", state.stdout);
    before.compare(guest)
}

/// Checks that two rows are of one connection, and name the process that connected.
fn same_connection(old: &str, new: &str) -> Result<()> {
    // Without the id of the boot: systemd-nspawn mounts one of the guest's own over the kernel's, which `ProtectKernelTunables=` hides
    // from the service.
    let identity = |row: &str| -> Result<String> {
        let id = text(row, "connection_id")?;
        Ok(id.split_once('-').with_context(|| format!("no id: {row}"))?.1.to_owned())
    };
    ensure!(identity(old)? == identity(new)?, "another connection:\n{old}{new}");
    for key in ["process_name", "pid", "attribution"] {
        let (old, new) = (connector(old, key)?, connector(new, key)?);
        ensure!(old == new, "who connected had the {key} {old} and has {new}");
    }
    // To the second: each daemon measures the difference of the kernel's clocks again.
    let second = |row: &str| -> Result<String> { Ok(text(row, "started_at")?.chars().take(19).collect()) };
    ensure!(second(old)? == second(new)?, "another start:\n{old}{new}");
    Ok(())
}

/// Returns what a row says of the process that connected: apart, if another program has the connection now.
fn connector<'a>(row: &'a str, key: &str) -> Result<&'a str> {
    value(row, &format!("originator_{key}")).or_else(|_| value(row, key))
}

fn text<'a>(line: &'a str, key: &str) -> Result<&'a str> {
    value(line, key).map(|value| value.trim_matches('"'))
}

/// Returns the value of a key of a JSON object of plain values, as it stands there.
fn value<'a>(line: &'a str, key: &str) -> Result<&'a str> {
    let rest = line.split_once(&format!("\"{key}\":")).with_context(|| format!("no {key} in: {line}"))?.1;
    Ok(rest.split([',', '}']).next().unwrap_or_default())
}
