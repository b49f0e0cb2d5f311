//! The child: takes requests one by one until the daemon has ended.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd, OwnedFd, RawFd},
};

use bytemuck::Zeroable as _;
use netconn_model::config::SystemCallFilter;
use nix::sys::socket::MsgFlags;

use super::{
    account::Account,
    filter,
    open::perform,
    request::{Answer, Head, Request, receive, send},
    rights,
};

/// Runs the child; it never returns.
pub(super) fn run(
    socket: &OwnedFd,
    parent: u32,
    capabilities: u64,
    (account, filter): (Option<&Account>, SystemCallFilter),
) -> ! {
    let prepared = prepare(socket, parent, capabilities, account).and_then(|is_wanted| {
        if !is_wanted {
            return Ok(());
        }
        // Kernels without filters run it without; the daemon says so.
        let _ = filter::restrict(filter::Who::Child, filter);
        serve(socket)
    });
    let code = match prepared {
        Ok(()) => 0,
        Err(error) => {
            // Before the daemon has a log; later the daemon itself tells that the child has ended.
            eprintln!("netconn: the privileged child ends: {error}");
            1
        }
    };
    // SAFETY: ends the process at once: what the daemon does at its end is not the child's.
    unsafe { libc::_exit(code) }
}

/// Gives up everything but the socket, standard error and the capabilities. Returns `false` if the daemon has ended meanwhile, which has
/// told why.
fn prepare(socket: &OwnedFd, parent: u32, capabilities: u64, account: Option<&Account>) -> io::Result<bool> {
    // May fail: only a name.
    let _ = nix::sys::prctl::set_name(c"netconn-priv");
    close_others(socket.as_raw_fd());
    if let Some(account) = account {
        account.r#become(capabilities)?;
    }
    rights::empty_bounding_set();
    rights::limit_to(capabilities)?;
    rights::no_new_privileges()?;
    // Nobody with the same user may look into it.
    nix::sys::prctl::set_dumpable(false)?;
    // After the change of the user, which clears it (`commit_creds`, kernel/cred.c). All signals that can be blocked are: Ctrl-C in a
    // terminal is for the daemon, which still needs the child while it ends.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    Ok(nix::unistd::getppid().as_raw().cast_unsigned() == parent)
}

/// Closes all descriptors but standard error and the socket.
fn close_others(socket: RawFd) {
    let numbers: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for number in numbers.into_iter().filter(|number| *number != libc::STDERR_FILENO && *number != socket) {
        // SAFETY: this process has one thread, and nothing of it uses them from here on. That of the folder is closed already.
        unsafe { libc::close(number) };
    }
}

/// Answers requests until there are no more.
fn serve(socket: &OwnedFd) -> io::Result<()> {
    loop {
        let mut request = Request::zeroed();
        let bytes: &mut [u8] = bytemuck::bytes_of_mut(&mut request);
        let (length, descriptors) = receive(socket.as_fd(), [bytes, &mut []], MsgFlags::empty())?;
        match length {
            0 => return Ok(()),
            length if length == size_of::<Request>() => {}
            _ => return Err(io::Error::other("a request has another length")),
        }
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let mut head = Head { sequence: request.sequence, ..Head::zeroed() };
        let answer = match perform(&request, &numbers) {
            Ok(answer) => answer,
            // It would open everything in the wrong namespace from here on.
            Err(error) if error.raw_os_error().is_none() && error.kind() == io::ErrorKind::Other => return Err(error),
            Err(error) => {
                head.errno = error.raw_os_error().unwrap_or(libc::EIO);
                Answer::default()
            }
        };
        (head.next, head.hidden) = (answer.next, answer.hidden);
        let numbers: Vec<RawFd> = answer.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        match send(socket.as_fd(), [bytemuck::bytes_of(&head), &answer.data], &numbers) {
            // The daemon has ended.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            sent => sent?,
        }
    }
}
