//! The last steps inside a container: what libcontainer leaves out or does too early.
//!
//! libcontainer calls [`Payload::validate`] in the container's first process (and in every process
//! that `exec` starts) when the namespaces are joined, the root is pivoted and the ids are set, and
//! [`Payload::exec`] when the container is started. It got a configuration without capabilities and
//! seccomp, see [`crate::adapt`], so the process still holds all capabilities here, which the
//! corrections to mounts need. The order is: mounts, working directory, capabilities, then looking for
//! the program as the user who will run it; seccomp comes last.
//!
//! A filter without no_new_privs can only be loaded with `CAP_SYS_ADMIN`. Until `start`, such a
//! process keeps it in its permitted set alone, so that nothing acts with it by accident; loading
//! raises it, and execve takes it away because the bounding set does not have it (capabilities(7)).
//!
//! Nothing here may look up users or hosts by libc: name services would load libraries of the
//! container's file system into a process that still holds privileges.

use crate::seccomp::Filter;
use caps::{CapSet, Capability, CapsHashSet};
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError as Validation,
};
use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};
use std::collections::HashMap;
use std::ffi::CString;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Where programs are looked for when the environment has no `PATH`.
const FALLBACK_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Most bytes of a container's `/etc/passwd` that are searched for a home directory.
const PASSWD_LIMIT: u64 = 1024 * 1024;

/// Exit status of a container whose program cannot be executed, as shells use it.
const CANNOT_EXECUTE: i32 = 126;
/// Exit status of a container whose program is gone when it is started.
const NOT_FOUND: i32 = 127;

/// The five capability sets of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// What execve can ever give.
    pub(crate) bounding: CapsHashSet,
    /// In force.
    pub(crate) effective: CapsHashSet,
    /// May be put in force.
    pub(crate) permitted: CapsHashSet,
    /// Kept over execve of files that ask for them.
    pub(crate) inheritable: CapsHashSet,
    /// Kept over execve of any file.
    pub(crate) ambient: CapsHashSet,
}

/// A correction to what libcontainer has mounted, made inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountFix {
    /// Set how mounts below this one propagate; libcontainer takes no notice of the option.
    Propagation(PathBuf, MountPropagationFlags),
    /// Make the mount at a path read-only, which could not be while mounts were placed on it.
    Remount(PathBuf),
    /// Make a path read-only and nothing else; libcontainer would also forbid to execute from it.
    ReadOnly(PathBuf),
}

/// The program of a container, and how it is confined.
#[derive(Debug, Clone)]
pub(crate) struct Payload {
    /// The container's first process, and not one that `exec` starts.
    pub(crate) is_init: bool,
    /// Program and arguments; at least one.
    pub(crate) args: Vec<String>,
    /// Environment, `NAME=value`; the last of equal names counts.
    pub(crate) env: Vec<String>,
    /// Working directory in the container.
    pub(crate) cwd: PathBuf,
    /// User id, for the home directory.
    pub(crate) uid: u32,
    /// What the process may do.
    pub(crate) capabilities: Capabilities,
    /// no_new_privs is set, which libcontainer does early.
    pub(crate) no_new_privileges: bool,
    /// System call filter.
    pub(crate) seccomp: Option<Filter>,
    /// Corrections to mounts; only for init.
    pub(crate) mounts: Vec<MountFix>,
}

impl Executor for Payload {
    fn validate(&self, _: &Spec) -> Result<(), Validation> {
        self.confine().map_err(Validation::ArgValidationError)
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment goes to execve as a whole; ours is left alone.
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let (why, code) = self.run();
        if self.is_init {
            // Nobody waits for a reason any more: `start` has returned. Tell the container's log.
            let _closed = writeln!(std::io::stderr(), "{why}");
            std::process::exit(code);
        }
        Err(ExecutorError::Other(why))
    }
}

impl Payload {
    fn confine(&self) -> Result<(), String> {
        for fix in &self.mounts {
            fix.apply()?;
        }
        self.enter_cwd()?;
        if self.no_new_privileges && !rustix::thread::no_new_privs().is_ok_and(|set| set) {
            return Err("no_new_privs could not be set".into());
        }
        self.drop_capabilities().map_err(|e| format!("set capabilities: {e}"))?;
        self.program().map(drop)
    }

    fn enter_cwd(&self) -> Result<(), String> {
        let path = &self.cwd;
        let at = |what: &str, e: &std::io::Error| format!("{what} {}: {}", path.display(), reason(e));
        if self.is_init && !path.exists() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(path)
                .map_err(|e| at("create working directory", &e))?;
        }
        std::env::set_current_dir(path).map_err(|e| at("enter working directory", &e))?;
        // A path such as /proc/self/fd/7 could lead out of the container (CVE-2024-21626); the kernel
        // then reports no absolute path.
        match std::env::current_dir() {
            Ok(inside) if inside.is_absolute() => Ok(()),
            Ok(_) => Err(format!("working directory {} is outside of the container", path.display())),
            Err(e) => Err(at("verify working directory", &e)),
        }
    }

    fn drop_capabilities(&self) -> Result<(), caps::errors::CapsError> {
        let wanted = &self.capabilities;
        caps::clear(None, CapSet::Ambient)?;
        for extra in caps::read(None, CapSet::Bounding)?.difference(&wanted.bounding) {
            caps::drop(None, CapSet::Bounding, *extra)?;
        }
        // While everything is still permitted: a capability can only become inheritable then.
        caps::set(None, CapSet::Inheritable, &wanted.inheritable)?;
        caps::set(None, CapSet::Effective, &wanted.effective)?;
        let mut permitted = wanted.permitted.clone();
        if self.seccomp.is_some() && !self.no_new_privileges {
            permitted.insert(Capability::CAP_SYS_ADMIN);
        }
        caps::set(None, CapSet::Permitted, &permitted)?;
        for capability in &wanted.ambient {
            caps::raise(None, CapSet::Ambient, *capability)?;
        }
        Ok(())
    }

    /// Becomes the program; returns only why it could not, and the exit status for it.
    fn run(&self) -> (String, i32) {
        let program = match self.program() {
            Ok(program) => program,
            Err(why) => return (why, NOT_FOUND),
        };
        match self.execute(&program) {
            Ok(never) => match never {},
            Err(why) => (why, CANNOT_EXECUTE),
        }
    }

    fn execute(&self, program: &Path) -> Result<std::convert::Infallible, String> {
        let no_text = |_| "process: a NUL byte in the program, its arguments or its environment".to_owned();
        let program = CString::new(program.as_os_str().as_bytes()).map_err(no_text)?;
        let args = self.args.iter().map(|a| CString::new(a.as_str()));
        let args = args.collect::<Result<Vec<_>, _>>().map_err(no_text)?;
        let environment = self.environment().into_iter().map(|(n, v)| CString::new(format!("{n}={v}")));
        let environment = environment.collect::<Result<Vec<_>, _>>().map_err(no_text)?;
        gantry_sys::signal::restore_for_exec().map_err(|e| e.to_string())?;
        if let Some(filter) = &self.seccomp {
            if !self.no_new_privileges {
                // Where it cannot be raised, loading fails and says so.
                let _missing = caps::raise(None, CapSet::Effective, Capability::CAP_SYS_ADMIN);
            }
            filter.load().map_err(|e| e.to_string())?;
        }
        // Not execvp, which would hand a file of no known format to a shell.
        nix::unistd::execve(&program, &args, &environment)
            .map_err(|e| format!("exec: {:?}: {}", self.args[0], reason(&e.into())))
    }

    fn environment(&self) -> HashMap<&str, String> {
        let mut environment: HashMap<&str, String> =
            self.env.iter().filter_map(|e| e.split_once('=')).map(|(n, v)| (n, v.to_owned())).collect();
        if environment.get("HOME").is_none_or(String::is_empty) {
            environment.insert("HOME", home(self.uid));
        }
        environment
    }

    /// The file to execute, found as execvp would and checked as the user who will run it.
    fn program(&self) -> Result<PathBuf, String> {
        let name = self.args[0].as_str();
        if name.contains('/') {
            return match executable(Path::new(name)) {
                Ok(()) => Ok(name.into()),
                Err(e) => Err(format!("exec: {name:?}: {}", reason(&e))),
            };
        }
        let path = self.env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(FALLBACK_PATH);
        let mut forbidden = None;
        for dir in path.split(':').filter(|_| !name.is_empty()) {
            let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
            match executable(&candidate) {
                Ok(()) => return Ok(candidate),
                Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => forbidden = Some(e),
                Err(_) => {}
            }
        }
        Err(match forbidden {
            Some(e) => format!("exec: {name:?}: {}", reason(&e)),
            None => format!("exec: {name:?}: executable file not found in $PATH"),
        })
    }
}

impl MountFix {
    fn apply(&self) -> Result<(), String> {
        let at = |what: &str, path: &Path, e: rustix::io::Errno| {
            format!("{what} {}: {}", path.display(), reason(&e.into()))
        };
        match self {
            Self::Propagation(path, flags) => {
                rustix::mount::mount_change(path, *flags).map_err(|e| at("set mount propagation of", path, e))
            }
            Self::Remount(path) => remount_readonly(path).map_err(|e| at("remount read-only", path, e)),
            Self::ReadOnly(path) => match rustix::mount::mount_bind_recursive(path, path) {
                // Lists of paths name what other kernels and architectures have.
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(()),
                Err(e) => Err(at("bind read-only path", path, e)),
                Ok(()) => remount_readonly(path).map_err(|e| at("remount read-only", path, e)),
            },
        }
    }
}

/// Adds `ro` to the mount at `path` and keeps its other options: the kernel would drop them.
fn remount_readonly(path: &Path) -> rustix::io::Result<()> {
    let now = rustix::fs::statvfs(path)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY;
    for (have, keep) in [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if now.contains(have) {
            flags |= keep;
        }
    }
    rustix::mount::mount_remount(path, flags, c"")
}

fn executable(path: &Path) -> std::io::Result<()> {
    if std::fs::metadata(path)?.is_dir() {
        return Err(std::io::Error::from(std::io::ErrorKind::IsADirectory));
    }
    Ok(rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?)
}

/// Home directory of a user by the container's own `/etc/passwd`, read as plain text; `/` without one.
fn home(uid: u32) -> String {
    let mut text = String::new();
    let passwd = std::fs::File::open("/etc/passwd").map(|f| f.take(PASSWD_LIMIT));
    // Cut off or not UTF-8: what was read is searched.
    let _partial = passwd.and_then(|mut p| p.read_to_string(&mut text));
    let entry = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.nth(2)? == uid.to_string()).then(|| fields.nth(2))?
    });
    entry.filter(|home| !home.is_empty()).unwrap_or("/").to_owned()
}

/// What the kernel answered, in words alone.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = words.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(args: &[&str], env: &[&str]) -> Payload {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Payload {
            is_init: true,
            args: own(args),
            env: own(env),
            cwd: "/".into(),
            uid: 0,
            capabilities: Capabilities::default(),
            no_new_privileges: false,
            seccomp: None,
            mounts: Vec::new(),
        }
    }

    #[test]
    fn programs_are_found_as_execvp_would() {
        let dir = tempfile::tempdir().unwrap();
        let path = format!("PATH=/nowhere:{}", dir.path().display());
        std::fs::write(dir.path().join("plain"), "").unwrap();
        for (args, env, want) in [
            (["sh"], [path.as_str(), "PATH=/bin"], Ok(PathBuf::from("/bin/sh"))),
            (["/bin/sh"], ["A=b", "C=d"], Ok(PathBuf::from("/bin/sh"))),
            (["nope"], [path.as_str(), "A=b"], Err("exec: \"nope\": executable file not found in $PATH")),
            (["/nope"], ["A=b", "C=d"], Err("exec: \"/nope\": no such file or directory")),
            (["/etc"], ["A=b", "C=d"], Err("exec: \"/etc\": is a directory")),
            (["plain"], ["A=b", path.as_str()], Err("exec: \"plain\": permission denied")),
            ([""], ["A=b", path.as_str()], Err("exec: \"\": executable file not found in $PATH")),
        ] {
            assert_eq!(payload(&args, &env).program(), want.map_err(str::to_owned), "{args:?} {env:?}");
        }
    }

    #[test]
    fn the_last_of_equal_names_counts_and_home_is_filled_in() {
        let env = ["A=1", "A=2", "B=x=y", "C="];
        let payload = payload(&["sh"], &env);
        let environment = payload.environment();
        assert_eq!(environment["A"], "2");
        assert_eq!(environment["B"], "x=y");
        assert_eq!(environment["C"], "");
        assert_eq!(environment["HOME"], "/root");
        assert_eq!(home(4_000_000_000), "/");
    }
}
