//! Texts of processes in the kernel's records: names and paths.

use netconn_common::exec;
use netconn_model::json::CUT;

/// What `readlink` of `/proc/PID/exe` appends to the path of a file that was removed (`d_path` in `fs/d_path.c`).
pub(super) const DELETED: &str = " (deleted)";

/// Returns a kernel name (`comm`) as text.
pub fn comm(bytes: &[u8; 16]) -> std::borrow::Cow<'_, str> {
    // A process chooses these bytes itself (`prctl(PR_SET_NAME)`): they need not be UTF-8.
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default())
}

/// Returns a command line with `bytes_max` bytes of it at most, and the mark that it was cut if it is longer.
pub(super) fn shortened(mut text: String, bytes_max: usize) -> String {
    // One that was cut by whoever told it has its mark already.
    let length = text.strip_suffix(CUT).map_or(text.len(), str::len);
    if length > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push_str(CUT);
    }
    text
}

/// Returns the path of an executable from the kernel's components; `None` if there are none.
pub(super) fn executable(flags: u32, path: &[u8]) -> Option<String> {
    let path = path.strip_suffix(b"\0").unwrap_or(path);
    if path.is_empty() {
        return None;
    }
    let mut text = String::with_capacity(path.len() + 1);
    if flags & exec::PATH_CUT != 0 {
        text.push('…');
    }
    // The program walks from the file to the root, so the components come in reverse.
    for component in path.split(|byte| *byte == 0).rev() {
        text.push('/');
        text.push_str(&String::from_utf8_lossy(component));
    }
    if flags & exec::DELETED != 0 {
        text.push_str(DELETED);
    }
    Some(text)
}
