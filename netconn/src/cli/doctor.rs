//! `netconn doctor`: what works, what does not and why.

use std::io::Write as _;

use anyhow::Result;
use clap::Args;
use netconn_model::{
    client::{Client, ClientError},
    exit::Exit,
    health::Health,
    term::{sanitize, style},
};

use crate::{
    cli::{SocketOption, block_on},
    doctor::{self, Check, Mark},
    kernel::preflight,
};

/// What marks and exit codes mean, for the help.
pub(super) const MARKS: &str = "\
`ok` is as it should be, `--` works with less, `no` does not work; the last line sums up. The exit code is 0 without a `no`, and
69 otherwise: also when no daemon runs, because then nothing is recorded, or when you may not ask it. Root and the daemon's group may
ask a daemon; without one, root has the hooks attached for a moment.";

/// Options of `netconn doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorOptions {
    #[command(flatten)]
    socket: SocketOption,
}

/// Prints all checks.
pub(super) fn run(options: &DoctorOptions) -> Result<Exit> {
    let mut checks = Vec::new();
    // Printed at once: attaching programs takes a while, and what was found before is worth reading if it fails.
    let mut section = |title: &str, found: Vec<Check>| -> Result<()> {
        print(title, &found)?;
        checks.extend(found);
        Ok(())
    };
    section("This machine", doctor::machine())?;
    let client = options.socket.client();
    match block_on(async { Ok(daemon(&client).await) })? {
        Ok((health, proof)) => {
            let mut found = doctor::daemon(&health);
            found.extend(doctor::service(&health, client.socket()));
            section("The daemon", found)?;
            section("Its hooks", doctor::hooks(&health.hooks))?;
            section("Proof", vec![proof])?;
        }
        // Without a daemon the hooks are attached for a moment, which needs privileges: `permission` says what is missing.
        Err(error @ ClientError::Offline { .. }) => {
            let offline = Check { mark: Mark::Bad, subject: "daemon".into(), finding: error.to_string() };
            let mut found = vec![offline, doctor::permission()];
            found.extend(doctor::without_daemon(client.socket()));
            section("The daemon", found)?;
            if preflight::check_capabilities().is_ok() {
                section("Hooks, attached for this check", doctor::prove_alone()?)?;
            }
        }
        // The sentence says what to do.
        Err(error @ ClientError::PermissionDenied { .. }) => {
            let refused = Check { mark: Mark::Bad, subject: "daemon".into(), finding: error.to_string() };
            let found = std::iter::once(refused).chain(doctor::without_daemon(client.socket())).collect();
            section("The daemon", found)?;
        }
        // A daemon that does not answer is an error of its own, not a reason to attach all programs once more.
        Err(error) => return Err(error.into()),
    }
    let summary = doctor::summary(&checks);
    print("Summary", std::slice::from_ref(&summary))?;
    Ok(if summary.mark == Mark::Bad { Exit::Unavailable } else { Exit::Success })
}

async fn daemon(client: &Client) -> Result<(Health, Check), ClientError> {
    let health = client.health().await?;
    Ok((health, doctor::prove(client).await?))
}

fn print(title: &str, checks: &[Check]) -> Result<()> {
    let mut out = anstream::stdout().lock();
    let heading = style::HEADING;
    writeln!(out, "{heading}{title}{heading:#}")?;
    let width = checks.iter().map(|check| check.subject.len()).max().unwrap_or(0);
    for check in checks {
        let (style, mark) = match check.mark {
            Mark::Good => (style::GOOD, "ok"),
            Mark::Fair => (style::CAUTION, "--"),
            Mark::Bad => (style::BAD, "no"),
        };
        writeln!(out, "  {style}{mark}{style:#}  {:<width$}  {}", check.subject, sanitize(&check.finding))?;
    }
    Ok(())
}
