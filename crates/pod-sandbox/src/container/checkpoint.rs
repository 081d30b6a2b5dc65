//! CheckpointContainer: the state of a running container as one archive.
//!
//! The OCI runtime has CRIU write the processes and their memory; the container runs on. The archive is a tar
//! with the names that other CRI servers and tools for such archives use: `checkpoint/` (what CRIU wrote),
//! `dump.log`, `config.dump` and `spec.dump` (who it was), `rootfs-diff.tar` (what it changed of its image).

mod archive;

use super::Container;
use crate::engine::{Engine, Inner, remove_tree};
use crate::error::{Kind, io_error};
use crate::flight::{blocking, detached};
use crate::journal::Undo;
use crate::record::ContainerState;
use crate::sandboxer::call;
use crate::{Error, Realm, Result};
use gantry_stage::Stage;
use std::io::Read as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long a checkpoint may take whose request says nothing.
const DEFAULT_LIMIT: Duration = Duration::from_secs(300);

/// Longest that a request may ask for.
const MAX_LIMIT: Duration = Duration::from_secs(3600);

/// Most of CRIU's log that is looked at for its reason.
const MAX_LOG: u64 = 1 << 20;

impl Engine {
    /// Writes the state of a running container to the file `location`, within `seconds` (0: five minutes).
    ///
    /// # Errors
    ///
    /// [`Kind::FailedPrecondition`] for a container that does not run, a handler that cannot checkpoint, and a
    /// host where CRIU is missing or does not work, with CRIU's own words; the container then runs on.
    pub async fn checkpoint_container(
        &self,
        realm: Realm,
        id: &str,
        location: &str,
        seconds: i64,
    ) -> Result<()> {
        let container = self.inner.container(realm, id)?;
        let limit = match u64::try_from(seconds) {
            Ok(0) => DEFAULT_LIMIT,
            Ok(seconds) => Duration::from_secs(seconds).min(MAX_LIMIT),
            Err(_) => return Err(Error::new(Kind::InvalidArgument, "the timeout is negative")),
        };
        if !crate::pod::is_plain_absolute(location) || location.ends_with('/') {
            let message = format!("location {location:.256?} is not an absolute path of a file without '..'");
            return Err(Error::new(Kind::InvalidArgument, message));
        }
        let (inner, location) = (self.inner.clone(), PathBuf::from(location));
        detached(async move {
            let result = inner.checkpoint(&container, &location, limit).await;
            result.map_err(|e| e.context(format!("checkpoint of container {}", container.id)))
        })
        .await
    }
}

impl Inner {
    async fn checkpoint(
        self: &Arc<Self>,
        container: &Arc<Container>,
        location: &Path,
        limit: Duration,
    ) -> Result<()> {
        let not_possible = |why: String| Error::new(Kind::FailedPrecondition, why);
        let _operation = container.operation.lock().await;
        let pod = &container.pod;
        let handler = self.handlers.get(&pod.record().handler)?;
        if pod.is_sandboxed() || !handler.features().checkpoint {
            let message = format!(
                "runtime handler {:?} cannot checkpoint; use one of an OCI runtime with CRIU (runc, crun)",
                handler.name()
            );
            return Err(not_possible(message));
        }
        let state = container.record().state;
        if state != ContainerState::Running {
            let message = format!("it is {state:?}; only a running container can be checkpointed");
            return Err(not_possible(message.to_lowercase()));
        }
        if !call::has_program("criu") {
            return Err(not_possible("CRIU is not installed on this node; install criu".into()));
        }
        let dir = self.root.join("checkpoints").join(&container.id);
        container.promise(Undo::RemoveDir(dir.clone()))?;
        let written = self.dump_and_pack(container, handler, &dir, location, limit).await;
        let removed = blocking({
            let dir = dir.clone();
            move || remove_tree(&dir)
        });
        match removed.await {
            Ok(()) => container.undone(&Undo::RemoveDir(dir)),
            Err(error) => tracing::warn!(container = %container.id, %error, "remains of a checkpoint"),
        }
        if written.is_ok() {
            tracing::info!(container = %container.id, location = %location.display(), "container checkpointed");
        }
        written
    }

    async fn dump_and_pack(
        &self,
        container: &Arc<Container>,
        handler: &crate::handler::Handler,
        dir: &Path,
        location: &Path,
        limit: Duration,
    ) -> Result<()> {
        let made = {
            let dir = dir.to_owned();
            move || {
                // Of an attempt that a killed daemon left.
                remove_tree(&dir)?;
                let mut builder = std::fs::DirBuilder::new();
                builder.recursive(true).mode(0o700).create(&dir).map_err(io_error("create", &dir))
            }
        };
        blocking(made).await?;
        let (images, work) = (dir.join(archive::IMAGES), dir.join("work"));
        let (images_path, work_path) = (images.display().to_string(), work.display().to_string());
        let args = [
            "checkpoint",
            "--leave-running",
            "--file-locks",
            "--image-path",
            &images_path,
            "--work-path",
            &work_path,
            &container.id,
        ];
        let command = handler.command(&container.pod.runtime_root(), &container.runtime_log());
        let dumped = Stage::CheckpointDump.run(call::run_within(&command, &args, limit)).await;
        if let Err(error) = dumped {
            self.thaw(container).await;
            if error.kind() == Kind::DeadlineExceeded {
                return Err(error);
            }
            let why = match last_error(&work.join(archive::LOG)) {
                Some(words) => format!("CRIU cannot checkpoint it: {words}"),
                None => error.to_string(),
            };
            return Err(Error::new(Kind::FailedPrecondition, why));
        }
        let record = container.record().clone();
        let upper = self.images.snapshot(&container.id).map(|s| s.upper);
        let source = archive::Source {
            handler: handler.name().to_owned(),
            spec: container.dir.join("config.json"),
            dir: dir.to_owned(),
            upper,
            record,
        };
        let location = location.to_owned();
        Stage::CheckpointArchive.run(blocking(move || archive::write(&source, &location))).await
    }

    /// Lets a container run on that CRIU has frozen and then failed on.
    async fn thaw(&self, container: &Container) {
        let path = container.record().cgroup.clone();
        let thawed = match self.cgroup(&path) {
            Ok(cgroup) => blocking(move || Ok(cgroup.thaw()?)).await,
            Err(e) => Err(e),
        };
        if let Err(error) = thawed {
            tracing::warn!(container = %container.id, %error, "not thawed after a failed checkpoint");
        }
    }
}

/// The last error in CRIU's log, without its time.
fn last_error(log: &Path) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(log).ok()?.take(MAX_LOG).read_to_string(&mut text).ok()?;
    let errors = text.lines().filter(|l| l.contains("Error ("));
    // The first says what went wrong, those after it what could not be done for it.
    let first = errors.into_iter().next()?;
    Some(first.split_once("Error ").map_or(first, |(_, words)| words).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn criu_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("dump.log");
        std::fs::write(
            &log,
            "(00.1) Found\n(00.2) Error (criu/vdso.c:613): vdso: failed\n(00.3) Error (x): later\n",
        )
        .unwrap();
        assert_eq!(last_error(&log).unwrap(), "(criu/vdso.c:613): vdso: failed");
        assert_eq!(last_error(Path::new("/nonexistent")), None);
    }
}
