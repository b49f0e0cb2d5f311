//! Holds sockets in child processes until standard input ends.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use nix::sys::{prctl::set_pdeathsig, signal::Signal};
use serde_json::json;

use crate::traffic;

/// Holds `sockets` in `processes` until standard input ends.
pub(crate) fn hold(sockets: usize, processes: usize) -> io::Result<()> {
    let mut children = Vec::new();
    for number in 0..processes {
        // The first processes hold the remainder. Each process holds both ends of its connections.
        let connections = sockets / 2;
        let share = connections / processes + usize::from(number < connections % processes);
        children.push(spawn(share * 2)?);
    }
    for child in &mut children {
        let mut line = String::new();
        // A child writes this one line only, so nothing is lost with the reader's buffer.
        BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?).read_line(&mut line)?;
        if line.is_empty() {
            return Err(io::Error::other("a process cannot hold its sockets"));
        }
    }
    println!("{}", json!({"sockets": sockets, "processes": processes}));
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    // A child ends with its standard input.
    for child in &mut children {
        drop(child.stdin.take());
    }
    children.iter_mut().try_for_each(|child| child.wait().map(drop))
}

fn spawn(sockets: usize) -> io::Result<Child> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("holder").arg(sockets.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
    // SAFETY: the function only makes a system call, which is allowed between fork and exec.
    unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
    command.spawn()
}

/// Holds sockets in this process: both ends of connections, without their listener.
pub(crate) fn holder(sockets: usize) -> io::Result<()> {
    let mut held = Vec::with_capacity(sockets);
    let (listener, port) = traffic::listen()?;
    let destinations = traffic::destinations(port);
    for number in 0..sockets / 2 {
        held.push(traffic::connect(&destinations[number % destinations.len()])?);
        held.push(listener.accept()?.0);
    }
    // Only connections are held, so that their number is the one that was asked for.
    drop(listener);
    println!("ready");
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    // A client is dropped before its server and closes with RST, so that nothing is left in TIME_WAIT.
    drop(held);
    Ok(())
}
