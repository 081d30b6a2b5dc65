//! `gantry logs`: the container's log file, as the container wrote it.

mod file;

use crate::client::{Client, Realm};
use crate::find;
use anyhow::{Context as _, Result, bail};
use file::LogFile;
use gantry_cri_api::local::v1::WaitRequest;
use gantry_cri_api::v1;
use gantry_sys::watched::Watched;
use rustix::fs::inotify;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::io::Interest;

/// What to print.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) follow: bool,
    pub(super) tail: Option<usize>,
    pub(super) timestamps: bool,
}

impl How {
    /// All of it, until the end.
    pub(super) const TO_THE_END: Self = Self { follow: true, tail: None, timestamps: false };
}

pub(super) async fn run(
    client: &mut Client,
    wanted: &str,
    realm: Option<Realm>,
    how: How,
) -> Result<ExitCode> {
    let found = find::container(client, wanted, realm).await?;
    print(client, found.realm, &found.id, how).await?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the log of a container; when following, until the container does not run any more.
pub(super) async fn print(client: &mut Client, realm: Realm, id: &str, how: How) -> Result<()> {
    let path = log_path(client, realm, id).await?;
    // Watched before the first look: nothing that is written in between is missed.
    let watch = how.follow.then(|| Watch::new(&path)).transpose()?;
    let mut log = LogFile::open(&path)?;
    if let Some(count) = how.tail {
        log.skip_to_tail(count)?;
    }
    log.forward(how.timestamps)?;
    match watch {
        Some(watch) => follow(client, realm, id, &path, log, &watch, how).await,
        None => Ok(()),
    }
}

async fn follow(
    client: &mut Client,
    realm: Realm,
    id: &str,
    path: &Path,
    mut log: LogFile,
    watch: &Watch,
    how: How,
) -> Result<()> {
    // The end of a container changes no file of its log; the daemon tells.
    let request = WaitRequest { container_id: id.to_owned(), realm: realm.name().to_owned() };
    let mut ended = std::pin::pin!(client.local.wait(request));
    let mut over = false;
    loop {
        // After the end too: what was written before it is then printed.
        log.forward(how.timestamps)?;
        if log.was_replaced(path) {
            // The old file may have got lines after the read above; from now on it gets no more.
            log.forward(how.timestamps)?;
            log = LogFile::open(path)?;
            continue;
        }
        if over {
            return Ok(());
        }
        tokio::select! {
            answer = &mut ended => match answer {
                Ok(_) => over = true,
                Err(status) if status.code() == tonic::Code::NotFound => over = true,
                Err(status) => return Err(status).context("wait for the end of the container"),
            },
            changed = watch.changed() => changed?,
        }
    }
}

async fn log_path(client: &mut Client, realm: Realm, id: &str) -> Result<PathBuf> {
    let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    let answer = client.of(realm).runtime.container_status(request).await?.into_inner();
    match answer.status.unwrap_or_default().log_path.as_str() {
        "" => bail!("container {id} was made without a log"),
        path => Ok(path.into()),
    }
}

/// Wakes when the log, or its directory, changes.
struct Watch(Watched);

impl Watch {
    fn new(path: &Path) -> Result<Self> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let inotify = inotify::init(flags).context("inotify")?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        let changes = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&inotify, dir, changes).with_context(|| format!("watch {}", dir.display()))?;
        Ok(Self(Watched::new(inotify, Interest::READABLE)?))
    }

    /// Waits for a change, and forgets all changes until then.
    async fn changed(&self) -> Result<()> {
        let read = |fd: BorrowedFd<'_>| {
            // What changed is looked at anyway: only that something did counts.
            let mut space = [0_u8; 4096];
            rustix::io::read(fd, &mut space)
                .map(drop)
                .map_err(|e| gantry_sys::Error::new("read", "inotify", e))
        };
        Ok(self.0.io(Interest::READABLE, read).await?)
    }
}
