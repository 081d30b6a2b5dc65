//! `gantry logs`: the container's log file, as the container wrote it.

use crate::client::Client;
use crate::find;
use anyhow::{Context as _, Result, bail};
use gantry_cri_api::v1;
use rustix::fs::inotify;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What to print.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) follow: bool,
    pub(super) tail: Option<usize>,
    pub(super) timestamps: bool,
}

pub(super) async fn run(client: &mut Client, wanted: &str, how: How) -> Result<ExitCode> {
    let id = find::container(client, wanted).await?;
    let path = log_path(client, &id).await?;
    let mut reader = Reader::open(&path)?;
    print_existing(&mut reader, how)?;
    if !how.follow {
        return Ok(ExitCode::SUCCESS);
    }
    let watch = Watch::new(&path)?;
    loop {
        // Asked before the read: what was written before the container ended is then printed.
        let ended = !is_running(client, &id).await?;
        reader.forward(how.timestamps)?;
        if reader.was_replaced(&path) {
            // The old file may have got lines after the read above; from now on it gets no more.
            reader.forward(how.timestamps)?;
            reader = Reader::open(&path)?;
            continue;
        }
        if ended {
            return Ok(ExitCode::SUCCESS);
        }
        watch.wait()?;
    }
}

/// Prints the log of a container that has ended.
pub(super) async fn print_all(client: &mut Client, id: &str) -> Result<()> {
    let path = log_path(client, id).await?;
    print_existing(&mut Reader::open(&path)?, How { follow: false, tail: None, timestamps: false })
}

async fn log_path(client: &mut Client, id: &str) -> Result<PathBuf> {
    let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    let status = client.runtime.container_status(request).await?.into_inner().status.unwrap_or_default();
    match status.log_path.as_str() {
        "" => bail!("container {id} was made without a log"),
        path => Ok(path.into()),
    }
}

async fn is_running(client: &mut Client, id: &str) -> Result<bool> {
    let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    match client.runtime.container_status(request).await {
        Ok(answer) => {
            let state = answer.into_inner().status.unwrap_or_default().state;
            Ok(state != i32::from(v1::ContainerState::ContainerExited))
        }
        Err(status) if status.code() == tonic::Code::NotFound => Ok(false),
        Err(status) => Err(status.into()),
    }
}

fn print_existing(reader: &mut Reader, how: How) -> Result<()> {
    let Some(count) = how.tail else { return reader.forward(how.timestamps) };
    let mut last = VecDeque::with_capacity(count.min(4096));
    while let Some(line) = reader.next()? {
        last.push_back(line);
        if last.len() > count {
            last.pop_front();
        }
    }
    last.iter().try_for_each(|line| print(line, how.timestamps))
}

/// Whole lines of a log file.
struct Reader {
    lines: BufReader<File>,
    inode: u64,
    rest: Vec<u8>,
}

impl Reader {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("log {}", path.display()))?;
        let inode = file.metadata()?.ino();
        Ok(Self { lines: BufReader::new(file), inode, rest: Vec::new() })
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        self.lines.read_until(b'\n', &mut self.rest)?;
        Ok(self.rest.ends_with(b"\n").then(|| std::mem::take(&mut self.rest)))
    }

    fn forward(&mut self, timestamps: bool) -> Result<()> {
        while let Some(line) = self.next()? {
            print(&line, timestamps)?;
        }
        std::io::stdout().flush()?;
        Ok(())
    }

    fn was_replaced(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|meta| meta.ino() != self.inode)
    }
}

/// Prints one line of the CRI format to the stream that it came from.
fn print(line: &[u8], timestamps: bool) -> Result<()> {
    let Some((time, stream, whole, content)) = parse(line) else {
        std::io::stdout().write_all(line)?;
        return Ok(());
    };
    let mut out = Vec::with_capacity(line.len());
    if timestamps {
        out.extend_from_slice(time);
        out.push(b' ');
    }
    out.extend_from_slice(content);
    if whole {
        out.push(b'\n');
    }
    match stream {
        b"stderr" => std::io::stderr().write_all(&out)?,
        _ => std::io::stdout().write_all(&out)?,
    }
    Ok(())
}

/// Time, stream, whether the line is whole, and its content.
type Line<'a> = (&'a [u8], &'a [u8], bool, &'a [u8]);

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.strip_suffix(b"\n")?.splitn(4, |b| *b == b' ');
    let (time, stream, tag, content) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some((time, stream, tag == b"F", content))
}

/// Wakes when the log, or its directory, changes.
struct Watch {
    inotify: std::os::fd::OwnedFd,
}

impl Watch {
    fn new(path: &Path) -> Result<Self> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC).context("inotify")?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        let changes = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&inotify, dir, changes).with_context(|| format!("watch {}", dir.display()))?;
        Ok(Self { inotify })
    }

    /// Waits for a change, at most a second: the end of a container changes no file of its log.
    fn wait(&self) -> Result<()> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&self.inotify, PollFlags::IN)], Some(&second))? > 0 {
            let mut space = [MaybeUninit::uninit(); 4096];
            inotify::Reader::new(&self.inotify, &mut space).next()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_cri_format() {
        let line = b"2026-01-01T00:00:00.000000001Z stderr P a b \n";
        let (time, stream, whole, content) = parse(line).unwrap();
        assert_eq!(time.len(), 30);
        assert_eq!((stream, whole, content), (&b"stderr"[..], false, &b"a b "[..]));
        assert_eq!(parse(b"t stdout F \n").unwrap().3, b"");
        assert!(parse(b"no log line\n").is_none() && parse(b"t stdout F half").is_none());
    }
}
