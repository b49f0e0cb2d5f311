//! Fills in the process of an event, its parent and its control group.

use std::borrow::Cow;

use netconn_common::{ImageFile, Owner, UNKNOWN_U32, UNKNOWN_U64};
use netconn_model::{event::Event, value::PlainText};

use crate::{
    clock::Clock,
    encode::{ids::process_id, known},
    process::{
        Identity, Process,
        cgroup::Cgroup,
        comm,
        redact::{CommandLine, Redactor},
    },
};

/// Fills in what is known of a process and its parent.
pub(super) fn fill_process<'a>(
    event: &mut Event<'a>,
    owner: &'a Owner,
    process: Option<&'a Process>,
    (boot, clock): (&str, &Clock),
    redactor: &Redactor,
) {
    event.pid = Some(owner.tgid);
    event.process_name = Some(comm(&owner.comm)).filter(|name| !name.is_empty());
    event.user_id = owner.user();
    // Without a start the id of the process could be that of another one with the same number.
    if owner.start_ns != 0 {
        event.process_id = Some(PlainText::new(process_id(boot, owner.tgid, owner.start_ns)));
        event.process_start_ms = Some(clock.epoch_ms(owner.start_ns));
    }
    let Some(process) = process else { return };
    event.executable = process.identity.path.as_deref().map(Cow::Borrowed);
    (event.image_device, event.image_inode, event.mount_namespace) = image_file(process.identity.image);
    (event.command_line, event.command_line_redacted) = told(process.identity.command_line.as_ref(), redactor);
    event.ancestors = process.identity.ancestors().map(Cow::Borrowed);
    if let Some(Identity { key, is_exact, name, path, image, command_line, .. }) = process.parent.as_deref() {
        event.parent_pid = Some(key.tgid);
        event.parent_name = Some(Cow::Borrowed(name));
        event.parent_executable = path.as_deref().map(Cow::Borrowed);
        (event.parent_image_device, event.parent_image_inode, event.parent_mount_namespace) = image_file(*image);
        (event.parent_command_line, event.parent_command_line_redacted) = told(command_line.as_ref(), redactor);
        // Within a clock tick, the id could be that of another process.
        event.parent_id = is_exact.then(|| PlainText::new(process_id(boot, key.tgid, key.start_ns)));
    }
}

/// Returns a command line as it may be told, and `true` if secrets were taken out of it.
pub(super) fn told<'a>(line: Option<&'a CommandLine>, redactor: &Redactor) -> (Option<Cow<'a, str>>, Option<bool>) {
    let Some((text, is_redacted)) = line.map(|line| redactor.current(line)) else { return (None, None) };
    (Some(text), is_redacted.then_some(true))
}

/// Returns device, inode and mount namespace of an executable, as far as they are known.
fn image_file(image: ImageFile) -> (Option<PlainText<'static>>, Option<u64>, Option<u32>) {
    // `MAJOR` and `MINOR` in include/linux/kdev_t.h. Not as stat(2) says it: overlayfs and btrfs have other numbers there.
    let device = known(image.device, UNKNOWN_U32);
    let device = device.map(|device| PlainText::new(format!("{}:{}", device >> 20, device & 0xf_ffff)));
    (device, known(image.inode, UNKNOWN_U64), known(image.mount_namespace, UNKNOWN_U32))
}

/// Fills in unit and container of a control group.
pub(super) fn fill_cgroup<'a>(event: &mut Event<'a>, cgroup: Option<&'a Cgroup>) {
    let Some(Cgroup { unit, path, container, .. }) = cgroup else { return };
    event.systemd_unit = unit.as_deref().map(Cow::Borrowed);
    event.cgroup_path = Some(Cow::Borrowed(path));
    event.container_id = container.as_deref().map(Cow::Borrowed);
}
