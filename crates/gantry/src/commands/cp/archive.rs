//! A file or directory of this machine as a tar archive.

use bytes::Bytes;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;

/// Size of the pieces in which an archive is sent.
const PIECE: usize = 32 << 10;

/// Why there is no whole archive.
#[derive(Debug, thiserror::Error)]
pub(super) enum PackError {
    /// The other side takes no more; it has its own words for that.
    #[error("the container takes no more of the archive")]
    NotTaken,
    /// Something cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Sends `from` as `name` (empty: only what is in the directory). Returns how many entries were left out because
/// they are neither files nor directories nor symbolic links.
pub(super) fn pack(from: &Path, name: &Path, to: mpsc::Sender<Bytes>) -> Result<usize, PackError> {
    let mut tar = Builder::new(BufWriter::with_capacity(PIECE, Sending(to)));
    let mut skipped = 0;
    // Directories are read when their turn comes: what waits are the names of one directory for each level.
    let mut left = vec![(from.to_owned(), name.to_owned())];
    while let Some((path, name)) = left.pop() {
        let failed = |source| PackError::Read { path: path.clone(), source };
        let meta = std::fs::symlink_metadata(&path).map_err(failed)?;
        let kind = meta.file_type();
        if kind.is_dir() {
            if !name.as_os_str().is_empty() {
                tar.append_data(&mut header(&meta, EntryType::Directory), &name, io::empty())
                    .map_err(|e| sent(e, &path))?;
            }
            let entries = std::fs::read_dir(&path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            let mut names: Vec<_> = entries.map_err(failed)?.into_iter().map(|e| e.file_name()).collect();
            names.sort_unstable_by(|a, b| b.cmp(a));
            left.extend(names.into_iter().map(|n| (path.join(&n), name.join(&n))));
        } else if kind.is_symlink() {
            let target = std::fs::read_link(&path).map_err(failed)?;
            tar.append_link(&mut header(&meta, EntryType::Symlink), &name, target)
                .map_err(|e| sent(e, &path))?;
        } else if kind.is_file() {
            let no_follow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
            let file = OpenOptions::new().read(true).custom_flags(no_follow).open(&path).map_err(failed)?;
            let meta = file.metadata().map_err(failed)?;
            let content = Exactly { file, left: meta.len() };
            tar.append_data(&mut header(&meta, EntryType::Regular), &name, content)
                .map_err(|e| sent(e, &path))?;
        } else {
            eprintln!("gantry: {} is left out: it is no file, directory or link", path.display());
            skipped += 1;
        }
    }
    let mut rest = tar.into_inner().map_err(|e| sent(e, from))?;
    rest.flush().map_err(|e| sent(e, from))?;
    Ok(skipped)
}

fn sent(error: io::Error, path: &Path) -> PackError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => PackError::NotTaken,
        _ => PackError::Read { path: path.to_owned(), source: error },
    }
}

/// Owner and group are left to whoever unpacks.
fn header(meta: &Metadata, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(meta.mode() & 0o777);
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    header.set_size(if kind == EntryType::Regular { meta.len() } else { 0 });
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// A file's content in the length that its header has, whatever becomes of the file meanwhile.
#[derive(Debug)]
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.file.read(&mut buffer[..most])?;
        if n == 0 && most > 0 {
            let why = "it became shorter while it was read";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

/// Sends what is written; the other side's end is a broken pipe.
#[derive(Debug)]
struct Sending(mpsc::Sender<Bytes>);

impl Write for Sending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(bytes));
        sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
