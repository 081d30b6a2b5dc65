#![forbid(unsafe_code)]
//! The stages of long operations: every name once, and how the time that one took is told.
//!
//! A stage tells its begin and its end as `tracing` events with the target [`TARGET`], within whatever
//! span is current. Who wants the times listens to them: the daemon's metrics do, a test may, and what
//! is timed needs to know neither. A log at level `debug` shows every stage, one at `info` those that
//! took longer than [`LONG`].

use std::time::{Duration, Instant};

/// Target of the events of this crate.
pub const TARGET: &str = "gantry::stage";

/// Message of the event at the begin of a stage; its fields are `operation` and `stage`.
pub const BEGUN: &str = "stage begun";

/// Message of the event at the end of a stage; the fields of [`BEGUN`], and `duration_us`.
pub const ENDED: &str = "stage ended";

/// A stage that takes longer shows in the log at level `info`.
pub const LONG: Duration = Duration::from_secs(1);

macro_rules! stages {
    ($($(#[$doc:meta])* $name:ident = $operation:literal $stage:literal,)+) => {
        /// A named part of an operation. Operations have the names of the calls that ask for them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Stage {
            $($(#[$doc])* $name,)+
        }

        impl Stage {
            /// All stages.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The operation that it is part of.
            pub const fn operation(self) -> &'static str {
                match self { $(Self::$name => $operation,)+ }
            }

            /// Its name, unique within the operation.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $stage,)+ }
            }
        }
    };
}

stages! {
    /// Opening the image store.
    StartImages = "Start" "images",
    /// Opening the network and what it has attached.
    StartNetwork = "Start" "network",
    /// Testing the handlers, reading the records, dialling the monitors.
    StartPods = "Start" "pods",
    /// Directories and record of a sandbox.
    SandboxRecord = "RunPodSandbox" "record",
    /// Forking the monitor; the monitor makes the pause child in its namespaces.
    SandboxMonitor = "RunPodSandbox" "monitor",
    /// Have systemd start the pod's scope, where it manages control groups.
    SandboxScope = "RunPodSandbox" "scope",
    /// Attaching the sandbox to its network.
    SandboxNetwork = "RunPodSandbox" "network",
    /// /dev/shm, hosts, hostname, resolv.conf.
    SandboxFiles = "RunPodSandbox" "files",
    /// Undoing a sandbox that could not be made.
    SandboxUndo = "RunPodSandbox" "undo",
    /// Waiting for the sandbox and looking at the mount sources.
    ContainerSources = "CreateContainer" "sources",
    /// Finding the image and leasing it: the writable snapshot.
    ContainerImage = "CreateContainer" "image",
    /// Mounting the snapshot.
    ContainerSnapshot = "CreateContainer" "snapshot",
    /// Users looked up in the image, the OCI configuration made.
    ContainerSpec = "CreateContainer" "spec",
    /// Writing the bundle and the record.
    ContainerBundle = "CreateContainer" "bundle",
    /// Undoing a container that could not be made.
    ContainerUndo = "CreateContainer" "undo",
    /// Waiting for another operation on the container or its sandbox.
    StartWait = "StartContainer" "wait",
    /// The OCI runtime.
    StartRuntime = "StartContainer" "runtime",
    /// The stop signal was sent; the container has its grace period.
    StopGrace = "StopContainer" "grace",
    /// SIGKILL, until the end is on record.
    StopKill = "StopContainer" "kill",
    /// Killing a container before it is removed.
    RemoveKill = "RemoveContainer" "kill",
    /// Unmounting, giving up cgroup and snapshot, deleting the directory.
    RemoveUndo = "RemoveContainer" "undo",
    /// Killing the containers of a sandbox.
    StopPodContainers = "StopPodSandbox" "containers",
    /// Waiting for what still uses the sandbox.
    StopPodWait = "StopPodSandbox" "wait",
    /// Ending the monitor, detaching the network, unmounting.
    StopPodUndo = "StopPodSandbox" "undo",
    /// Removing the containers of a sandbox.
    RemovePodContainers = "RemovePodSandbox" "containers",
    /// What a stopped sandbox still had.
    RemovePodUndo = "RemovePodSandbox" "undo",
    /// The OCI runtime puts the command into the container.
    ExecRuntime = "ExecSync" "runtime",
    /// The command runs.
    ExecCommand = "ExecSync" "command",
    /// Waiting until fewer pulls run.
    PullQueue = "PullImage" "queue",
    /// Asking registries for the manifest.
    PullResolve = "PullImage" "resolve",
    /// From what the registry answered to the manifest for this machine.
    PullManifest = "PullImage" "manifest",
    /// Fetching the image's configuration.
    PullConfig = "PullImage" "config",
    /// Transferring one layer.
    PullFetch = "PullImage" "fetch",
    /// Placing one layer's files, while it is being transferred and after.
    PullUnpack = "PullImage" "unpack",
    /// Making a complete image durable and giving it its names.
    PullPublish = "PullImage" "publish",
    /// Receiving an archive.
    ImportSpool = "ImportImage" "spool",
    /// Finding out what an archive holds.
    ImportIndex = "ImportImage" "index",
    /// As [`Stage::PullConfig`].
    ImportConfig = "ImportImage" "config",
    /// Reading one layer from an archive.
    ImportFetch = "ImportImage" "fetch",
    /// As [`Stage::PullUnpack`].
    ImportUnpack = "ImportImage" "unpack",
    /// As [`Stage::PullPublish`].
    ImportPublish = "ImportImage" "publish",
    /// Taking an image's names away and finding what nobody needs any more.
    RemoveImage = "RemoveImage" "remove",
    /// The monitor opens the log anew.
    ReopenLog = "ReopenContainerLog" "monitor",
    /// The OCI runtime has CRIU write the processes and their memory.
    CheckpointDump = "CheckpointContainer" "dump",
    /// Putting what CRIU wrote, the files and the configuration into the archive.
    CheckpointArchive = "CheckpointContainer" "archive",
}

impl Stage {
    /// The stage with these names.
    pub fn find(operation: &str, name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|s| s.operation() == operation && s.name() == name)
    }

    /// Whether it lasts as long as a user's own program wants, so that its length says nothing of the node.
    pub const fn is_the_users_time(self) -> bool {
        matches!(self, Self::StopGrace | Self::ExecCommand)
    }

    /// Begins the stage; it ends when the value is dropped, also by an error or a cancelled future.
    #[must_use = "the stage ends when this is dropped"]
    pub fn begin(self) -> Running {
        tracing::trace!(target: TARGET, operation = self.operation(), stage = self.name(), "stage begun");
        Running { stage: self, started: Instant::now() }
    }

    /// Runs `work` as this stage.
    pub async fn run<F: Future>(self, work: F) -> F::Output {
        let _running = self.begin();
        work.await
    }
}

/// A stage that has begun and not ended.
#[derive(Debug)]
pub struct Running {
    stage: Stage,
    started: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let (operation, stage) = (self.stage.operation(), self.stage.name());
        let duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if took >= LONG {
            tracing::info!(target: TARGET, operation, stage, duration_us, "stage ended");
        } else {
            tracing::debug!(target: TARGET, operation, stage, duration_us, "stage ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn names_are_unique_and_plain() {
        let names: BTreeSet<_> = Stage::ALL.iter().map(|s| (s.operation(), s.name())).collect();
        assert_eq!(names.len(), Stage::ALL.len());
        assert!(Stage::ALL.iter().all(|s| Stage::find(s.operation(), s.name()) == Some(*s)));
        assert_eq!(Stage::find("RunPodSandbox", "nonesuch"), None);
        for (operation, stage) in names {
            assert!(operation.chars().all(|c| c.is_ascii_alphanumeric()), "{operation}");
            assert!(stage.chars().all(|c| c.is_ascii_lowercase()), "{stage}");
        }
    }

    #[derive(Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Lines {
        fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            struct Words(String);
            impl tracing::field::Visit for Words {
                fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                    if field.name() != "duration_us" {
                        self.0.push_str(&format!("{value:?} "));
                    }
                }
            }
            assert_eq!(event.metadata().target(), TARGET);
            let mut words = Words(String::new());
            event.record(&mut words);
            self.0.lock().unwrap().push(words.0);
        }
    }

    #[test]
    fn begin_and_end_are_told_also_of_a_stage_that_is_broken_off() {
        let lines = Lines::default();
        let told = lines.0.clone();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            let mut work = Box::pin(Stage::StartRuntime.run(std::future::pending::<()>()));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(work.as_mut().poll(&mut context).is_pending());
            assert_eq!(told.lock().unwrap().len(), 1);
            drop(work);
        });
        let told = told.lock().unwrap();
        assert!(told[0].contains(BEGUN) && told[1].contains(ENDED), "{told:?}");
        assert!(told[1].contains("\"StartContainer\" \"runtime\""), "{told:?}");
    }
}
