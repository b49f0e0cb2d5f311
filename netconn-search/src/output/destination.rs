//! The destination of an answer: standard output, or a file that appears only when it is complete.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, IsTerminal as _, Write},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use netconn_model::{lines, term};
use tempfile::TempPath;

/// Size of the write buffer, bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// A buffered writer for the bytes of an answer.
pub struct OutputDestination(BufWriter<Box<dyn Write + Send>>);

impl OutputDestination {
    /// Writes to standard output; colours are removed unless it is a terminal that shows them.
    pub fn stdout_for_people() -> Self {
        Self::to(Box::new(anstream::stdout()))
    }

    /// Writes to standard output, byte for byte; if it is a terminal, control characters are replaced.
    pub fn stdout() -> Self {
        if io::stdout().is_terminal() {
            Self::to(Box::new(SanitizedLines { out: io::stdout(), rest: Vec::new() }))
        } else {
            Self::to(Box::new(io::stdout()))
        }
    }

    /// Writes to any other writer, byte for byte.
    pub fn to(out: Box<dyn Write + Send>) -> Self {
        Self(BufWriter::with_capacity(BUFFER_BYTES, out))
    }

    /// Writes to a file for people, without colours. The file gets its name with [`PendingFile::commit`]; until then,
    /// an existing file of this name is left alone. A device or a pipe is written to directly.
    ///
    /// # Errors
    ///
    /// The file cannot be created or opened.
    pub fn file_for_people(path: &Path) -> io::Result<(Self, PendingFile)> {
        let (out, file) = create(path)?;
        Ok((Self::to(Box::new(anstream::StripStream::new(out))), file))
    }

    /// Writes to a file, byte for byte; otherwise as [`Self::file_for_people`].
    ///
    /// # Errors
    ///
    /// The file cannot be created or opened.
    pub fn file(path: &Path) -> io::Result<(Self, PendingFile)> {
        let (out, file) = create(path)?;
        // `--output /dev/tty` names a terminal too.
        let out: Box<dyn Write + Send> =
            if out.is_terminal() { Box::new(SanitizedLines { out, rest: Vec::new() }) } else { Box::new(out) };
        Ok((Self::to(out), file))
    }
}

/// Whether a person looks at what is written: on standard output, or to the device at `path`.
pub fn is_terminal(path: Option<&Path>) -> bool {
    match path {
        None => io::stdout().is_terminal(),
        // Only a device is opened: opening a pipe would wait for its reader.
        Some(path) => {
            fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_char_device())
                && File::options().write(true).open(path).is_ok_and(|device| device.is_terminal())
        }
    }
}

/// Opens what is written to for a path: a temporary file beside it, which is renamed later, or the device or pipe at
/// the path.
fn create(path: &Path) -> io::Result<(File, PendingFile)> {
    let (path, mode) = match fs::metadata(path) {
        // A device or a pipe cannot be replaced. Opening a folder for writing fails with a clear error.
        Ok(metadata) if !metadata.is_file() => {
            return Ok((File::options().write(true).open(path)?, PendingFile(None)));
        }
        // A symbolic link stays, and its target is replaced.
        Ok(metadata) => (fs::canonicalize(path)?, metadata.permissions().mode() & 0o777),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_link(path) {
            // A link to a file that does not exist yet.
            // A cycle of links does not get here: `metadata` reports it as another error (ELOOP).
            Ok(target) => return create(&folder_of(path).join(target)),
            // The mode of any new file; the umask narrows it.
            Err(_) => (path.to_owned(), 0o666),
        },
        Err(error) => return Err(error),
    };
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name"));
    };
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    // The name is random and the file must be new: in a shared folder such as /tmp, another user could otherwise place
    // a link there and have another file overwritten.
    let (out, temporary) = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".tmp")
        .make_in(folder_of(&path), |path| File::options().write(true).create_new(true).mode(mode).open(path))?
        .into_parts();
    Ok((out, PendingFile(Some((temporary, path)))))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Write for OutputDestination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Passes on whole lines with control and invisible characters replaced, for a terminal. JSON escapes only some of
/// them.
struct SanitizedLines<W: Write> {
    out: W,
    /// The beginning of a line whose end has not arrived yet.
    rest: Vec<u8>,
}

impl<W: Write> Write for SanitizedLines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(bytes);
        // Whole lines only: a character or an escape sequence may be split between two writes.
        let whole = lines::whole_length(&self.rest);
        let lines = String::from_utf8_lossy(&self.rest[..whole]).into_owned();
        self.rest.drain(..whole);
        for line in lines.split_terminator('\n') {
            writeln!(self.out, "{}", term::sanitize(line))?;
        }
        // All bytes are taken: those of an unfinished line wait in `rest`.
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // `rest` stays: every format ends its last line, so nothing is left at the end.
        self.out.flush()
    }
}

/// A temporary file and the path that it gets by [`PendingFile::commit`]; dropping it removes the file. Holds nothing
/// if a device or a pipe is written to directly.
#[derive(Debug)]
pub struct PendingFile(Option<(TempPath, PathBuf)>);

impl PendingFile {
    /// Renames the file to its path. The destination must have been flushed before.
    ///
    /// # Errors
    ///
    /// The file cannot be renamed.
    pub fn commit(self) -> io::Result<()> {
        match self.0 {
            Some((temporary, path)) => temporary.persist(path).map_err(|error| error.error),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_safe() {
        let mut out = SanitizedLines { out: Vec::new(), rest: Vec::new() };
        for byte in "a,\x1b[2J\nü,\u{202e}\n".bytes() {
            out.write_all(&[byte]).unwrap();
        }
        assert_eq!(String::from_utf8(out.out).unwrap(), "a,\u{fffd}[2J\nü,\u{fffd}\n");
    }

    #[test]
    fn a_file_appears_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answer.csv");
        fs::write(&path, "before").unwrap();
        let (mut out, file) = OutputDestination::file(&path).unwrap();
        out.write_all(b"\x1b[1mhalf\x1b[0m").unwrap();
        drop((out, file));
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        let (mut out, file) = OutputDestination::file_for_people(&path).unwrap();
        out.write_all(b"\x1b[1mwhole\x1b[0m").unwrap();
        out.flush().unwrap();
        file.commit().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_temporary_file_is_made_by_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("answer.csv"), folder.path().join("other"));
        fs::write(&other, "of somebody").unwrap();
        // A name that an attacker could guess.
        let guessed = folder.path().join(format!("answer.csv.{}.tmp", std::process::id()));
        std::os::unix::fs::symlink(&other, guessed).unwrap();
        write("whole", &path).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "of somebody");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
    }

    #[test]
    fn a_link_stays_and_leads_to_the_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("there"), "before").unwrap();
        fs::set_permissions(path("there"), fs::Permissions::from_mode(0o600)).unwrap();
        for (link, target) in [("one", "there"), ("two", "new")] {
            std::os::unix::fs::symlink(target, path(link)).unwrap();
            write("whole", &path(link)).unwrap();
            assert!(fs::symlink_metadata(path(link)).unwrap().is_symlink(), "{link}");
            assert_eq!(fs::read_to_string(path(target)).unwrap(), "whole", "{link}");
        }
        assert_eq!(fs::metadata(path("there")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    }

    #[test]
    fn a_pipe_is_written_to_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = File::options().read(true).write(true).open(&pipe).unwrap();
            move || {
                let mut read = [0; 5];
                io::Read::read_exact(&mut &pipe, &mut read).unwrap();
                read
            }
        });
        write("whole", &pipe).unwrap();
        assert!(std::os::unix::fs::FileTypeExt::is_fifo(&fs::metadata(&pipe).unwrap().file_type()));
        assert_eq!(&reader.join().unwrap(), b"whole");
        assert!(write("whole", folder.path()).is_err(), "a folder");
    }

    fn write(text: &str, path: &Path) -> io::Result<()> {
        let (mut out, file) = OutputDestination::file(path)?;
        out.write_all(text.as_bytes())?;
        out.flush()?;
        file.commit()
    }
}
