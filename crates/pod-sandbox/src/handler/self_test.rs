//! Does an OCI runtime work on this host? Run a real container and see.
//!
//! The container is the static monitor program itself (`self-test` prints a word and exits 42), in
//! namespaces of its own with a pids limit, so that a runtime that cannot handle the host's cgroups
//! or namespaces is found out at start and not by the first pod.

use super::{Features, Handler, features};
use crate::SandboxerKind;
use crate::record::{read_json, write_json};
use gantry_cgroup::{Cgroup, Hierarchies};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Exit status by which the test container says that it ran.
const RAN: i32 = 42;

/// A runtime that takes longer is taken for broken.
const LIMIT: Duration = Duration::from_secs(20);

/// Most bytes of a runtime's own words that are kept.
const WORDS: u64 = 2048;

/// How a runtime works here, or why it does not.
type Verdict = Result<Found, String>;

/// What the test found out about a runtime that works.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) sandboxer: SandboxerKind,
    /// Global options that it needs.
    pub(super) options: Vec<String>,
    pub(super) features: Features,
}

/// Options with which gVisor is tried, in this order: as it comes, and with the platform that needs
/// nothing of the host.
const SANDBOX_OPTIONS: [&[&str]; 2] = [&[], &["--platform=ptrace"]];

/// A verdict, and the program it was found on.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Known {
    program: (u64, u64, u64, i64),
    verdict: Verdict,
}

/// Tests all handlers at once; a verdict found earlier on the same program in this boot is kept.
pub(super) fn run(
    all: &BTreeMap<String, Handler>,
    hierarchies: &Hierarchies,
    monitor: &Path,
    scratch: &Path,
) -> BTreeMap<String, Verdict> {
    let cache = scratch.join("handlers.json");
    let known: BTreeMap<String, Known> = read_json(&cache).unwrap_or_default();
    let now: BTreeMap<String, Known> = std::thread::scope(|scope| {
        let tests: Vec<_> = all
            .values()
            .map(|handler| {
                let earlier = known.get(&handler.name);
                scope.spawn(move || {
                    let program = fingerprint(&handler.path)?;
                    if earlier.is_some_and(|k| k.program == program) {
                        return Ok((program, earlier.map_or(Ok(Found::default()), |k| k.verdict.clone())));
                    }
                    Ok((program, test(handler, hierarchies, monitor, scratch)))
                })
            })
            .collect();
        all.keys()
            .cloned()
            .zip(tests)
            .map(|(name, thread)| {
                let outcome = thread.join().unwrap_or_else(|_| Err("self-test panicked".into()));
                let (program, verdict) = outcome.unwrap_or_else(|why: String| ((0, 0, 0, 0), Err(why)));
                (name, Known { program, verdict })
            })
            .collect()
    });
    if now != known
        && let Err(error) = write_json(&cache, &now)
    {
        tracing::warn!(%error, "verdicts on handlers are not kept; they will be tested again");
    }
    now.into_iter().map(|(name, known)| (name, known.verdict)).collect()
}

fn fingerprint(path: &Path) -> Result<(u64, u64, u64, i64), String> {
    let meta = std::fs::metadata(path).map_err(|e| format!("stat {}: {e}", path.display()))?;
    Ok((meta.dev(), meta.ino(), meta.size(), meta.mtime()))
}

fn test(handler: &Handler, hierarchies: &Hierarchies, monitor: &Path, scratch: &Path) -> Verdict {
    let sandboxer = sandboxer(handler, scratch)?;
    let tries: &[&[&str]] = match sandboxer {
        SandboxerKind::Namespaces => &[&[]],
        SandboxerKind::OciSandbox => &SANDBOX_OPTIONS,
    };
    let mut verdict = Err("it was not tried".to_owned());
    for options in tries {
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        let outcome = test_with(handler, sandboxer, &options, monitor, scratch);
        remove_cgroup(handler, hierarchies);
        verdict = outcome.map(|()| Found { sandboxer, options, features: features::ask(&handler.path) });
        if verdict.is_ok() {
            break;
        }
    }
    verdict
}

/// Id of the container, and name of its cgroup.
fn test_id(handler: &Handler) -> String {
    format!("gantry-self-test-{}-{}", handler.name, std::process::id())
}

/// A runtime that failed may have left its cgroup, with processes in it.
fn remove_cgroup(handler: &Handler, hierarchies: &Hierarchies) {
    let remove = || {
        let cgroup = Cgroup::new(hierarchies, &format!("/{}", test_id(handler)))?;
        cgroup.kill(LIMIT)?;
        cgroup.remove()
    };
    if let Err(error) = remove() {
        tracing::warn!(handler = handler.name, %error, "cgroup left over from a handler's self-test");
    }
}

/// Tells gVisor from the others by what the program says of its version.
///
/// The state directory is named, since crun makes its usual one even for this.
fn sandboxer(handler: &Handler, scratch: &Path) -> Result<SandboxerKind, String> {
    if handler.sealed.is_some() {
        return Ok(SandboxerKind::Namespaces);
    }
    let root = scratch.join(format!("version-{}", handler.name));
    let child = Command::new(&handler.path)
        .arg("--root")
        .arg(&root)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("run {}: {e}", handler.path.display()))?;
    let answer = finish(child);
    // Most runtimes have not made it.
    let _none = std::fs::remove_dir(&root);
    let (_, words) = answer?;
    Ok(match words.starts_with("runsc ") {
        true => SandboxerKind::OciSandbox,
        false => SandboxerKind::Namespaces,
    })
}

fn test_with(
    handler: &Handler,
    sandboxer: SandboxerKind,
    options: &[String],
    monitor: &Path,
    scratch: &Path,
) -> Result<(), String> {
    let id = test_id(handler);
    let bundle = scratch.join(&id);
    let pids = match sandboxer {
        SandboxerKind::Namespaces => 16,
        // Its kernel has a thread for much.
        SandboxerKind::OciSandbox => 4096,
    };
    let verdict =
        prepare(&bundle, &id, monitor, pids).and_then(|()| run_container(handler, options, &bundle, &id));
    // gVisor pins a network namespace beside its state.
    if let Err(e) = gantry_sys::mount::detach(&bundle.join("state/null-netns")) {
        tracing::warn!(error = %e, "left over from a handler's self-test");
    }
    // The bundle lies on our own tmpfs; nothing of it is needed again.
    if let Err(e) = std::fs::remove_dir_all(&bundle) {
        tracing::warn!(path = %bundle.display(), error = %e, "left over from a handler's self-test");
    }
    verdict
}

fn prepare(bundle: &Path, id: &str, monitor: &Path, pids: u32) -> Result<(), String> {
    let rootfs = bundle.join("rootfs");
    let make = || -> std::io::Result<()> {
        for dir in ["proc", "dev", "sys"] {
            std::fs::create_dir_all(rootfs.join(dir))?;
        }
        std::fs::copy(monitor, rootfs.join("init"))?;
        let spec = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["/init", "self-test"],
                "cwd": "/", "env": ["PATH=/"], "noNewPrivileges": true,
                "capabilities": {"bounding": [], "effective": [], "permitted": []},
            },
            "root": {"path": "rootfs", "readonly": true},
            "hostname": "self-test",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                // The bundle lies on a file system without device nodes.
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "mode=755", "size=64k"]},
            ],
            "linux": {
                "cgroupsPath": format!("/{id}"),
                "resources": {"pids": {"limit": pids}},
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                               {"type": "network"}],
            },
        });
        std::fs::write(bundle.join("config.json"), spec.to_string())
    };
    make().map_err(|e| format!("prepare self-test in {}: {e}", bundle.display()))
}

fn run_container(handler: &Handler, options: &[String], bundle: &Path, id: &str) -> Result<(), String> {
    let mut command = handler.command(&bundle.join("state"), &bundle.join("log"));
    command.extend_from_slice(options);
    let child = Command::new(&command[0])
        .args(&command[1..])
        .args(["run", "--bundle"])
        .arg(bundle)
        .arg(id)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("run {}: {e}", handler.path.display()))?;
    let (code, words) = finish(child)?;
    if code == Some(RAN) {
        return Ok(());
    }
    // A runtime that failed half-way may have left the container's state and cgroup behind.
    let cleanup = Command::new(&command[0])
        .args(&command[1..])
        .args(["delete", "--force", id])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())
        .and_then(finish);
    if let Err(why) = cleanup {
        tracing::warn!(handler = handler.name, reason = why, "delete after a failed self-test");
    }
    let status = code.map_or("killed by a signal".to_owned(), |c| format!("exit status {c}"));
    Err(format!("its self-test container ended with {status} instead of {RAN}: {}", words.trim()))
}

/// Waits at most [`LIMIT`] for a child; its exit code and the start of what it said on the one stream
/// that is a pipe.
pub(crate) fn finish(mut child: Child) -> Result<(Option<i32>, String), String> {
    let stream: Option<Box<dyn Read + Send>> = match (child.stdout.take(), child.stderr.take()) {
        (Some(stdout), _) => Some(Box::new(stdout)),
        (None, Some(stderr)) => Some(Box::new(stderr)),
        (None, None) => None,
    };
    let reader = std::thread::spawn(move || {
        let mut words = String::new();
        if let Some(stream) = stream {
            // What is not text is left out; the exit status tells the rest.
            let _partial = stream.take(WORDS).read_to_string(&mut words);
        }
        words
    });
    let process = gantry_sys::pidfd::Process::open(child.id() as i32).map_err(|e| e.to_string())?;
    let limit = rustix::event::Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
    let mut fds = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
    let ended = rustix::event::poll(&mut fds, Some(&limit)).map_err(|e| e.to_string())?;
    if ended == 0 {
        child.kill().map_err(|e| e.to_string())?;
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    if ended == 0 {
        return Err(format!("it did not finish within {} s", LIMIT.as_secs()));
    }
    Ok((status.code(), reader.join().unwrap_or_default()))
}
