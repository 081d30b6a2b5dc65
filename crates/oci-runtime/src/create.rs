//! `create`, `start` and `run`.

use crate::adapt::{Host, Plan};
use crate::error::{Error, Result, file};
use crate::record::{Entry, Init, Record, Status, read_bounded, write_atomically};
use crate::{devices, exec, report};
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long processes of a container that could not be made may take to die.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// What `create` and `run` are told.
#[derive(Debug)]
pub(crate) struct Create {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) console_socket: Option<PathBuf>,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) no_pivot: bool,
    pub(crate) no_new_keyring: bool,
    pub(crate) preserve_fds: i32,
    /// The container outlives this program; false only for `run` in the foreground.
    pub(crate) detach: bool,
}

/// Makes a container whose first process waits for [`start`]; its pid is in the record and in `--pid-file`.
pub(crate) fn create(root: &Path, systemd: bool, what: &Create) -> Result<Record> {
    let bundle = what.bundle.canonicalize().map_err(file("resolve bundle", &what.bundle))?;
    let path = bundle.join("config.json");
    let original = read_bounded(&path)?;
    let spec: Spec = serde_json::from_slice(&original).map_err(|source| Error::Json { path, source })?;
    let host = Host::detect()?;
    let plan = Plan::new(spec, &what.id, &bundle, systemd, &host)?;
    if Entry::open(root, &what.id).is_ok() {
        return Err(Error::Exists(what.id.clone()));
    }
    let record = Record::new(&what.id, &bundle, &plan.rootfs, plan.cgroup.clone(), systemd);
    if let Some(cgroup) = record.cgroup()? {
        let others = cgroup.pids()?.len();
        if others > 0 {
            // Deleting the container would kill them.
            let path = cgroup.path();
            return Err(Error::Invalid(format!(
                "cgroup {path} holds {others} processes; give the container its own"
            )));
        }
    }
    let entry = Entry::reserve(root, &what.id)?;
    make(&entry, record, plan, &host, &original, what).inspect_err(|_| {
        if let Err(left) = clean(&entry) {
            report::warning(&format!("left over from the failed container {:?}: {left}", what.id));
        }
    })
}

fn make(
    entry: &Entry,
    mut record: Record,
    plan: Plan,
    host: &Host,
    original: &[u8],
    what: &Create,
) -> Result<Record> {
    entry.save(&record)?;
    let config =
        serde_json::to_vec(&plan.spec).map_err(|source| Error::Json { path: entry.config(), source })?;
    write_atomically(&entry.config(), &config)?;
    exec::keep(entry, original, plan.payload.seccomp.as_ref())?;
    if !what.no_new_keyring {
        new_keyring()?;
    }
    let failed = |e: libcontainer::error::LibcontainerError| container_error("create", entry.id(), &e);
    let mut container = ContainerBuilder::new(what.id.clone(), SyscallType::default())
        .with_root_path(entry.dir())
        .map_err(failed)?
        .with_console_socket(what.console_socket.as_ref())
        .with_preserved_fds(what.preserve_fds)
        .with_executor(plan.payload)
        .validate_id()
        .map_err(failed)?
        .as_init(entry.dir())
        .with_systemd(record.systemd)
        .with_detach(what.detach)
        .with_no_pivot(what.no_pivot)
        .build()
        .map_err(failed)?;
    let no_pid = || Error::Invalid("libcontainer reported no process".into());
    let pid = container.pid().ok_or_else(no_pid)?.as_raw();
    record.init = Some(Init { pid, start_time: gantry_sys::pidfd::start_time(pid)? });
    if record.cgroup.is_none() {
        record.cgroup = Some(cgroup2_of(pid)?);
    }
    // From here on the record leads to everything that was made.
    entry.save(&record)?;
    if let (Some(rules), Some(path)) = (plan.devices, &record.cgroup) {
        let mount = host.hierarchies().mounts().next().unwrap_or(Path::new("/sys/fs/cgroup"));
        devices::enforce(&mount.join(path.trim_start_matches('/')), &rules)?;
    }
    // Hooks that run from now on get the caller's bundle.
    container.state.bundle.clone_from(&record.bundle);
    container.save().map_err(failed)?;
    if let Some(path) = &what.pid_file {
        write_atomically(path, pid.to_string().as_bytes())?;
    }
    Ok(record)
}

/// Gives this process, and with it the container, a session keyring of its own, so that it does not
/// share our caller's keys. Made here it counts against root's quota and not the container's user's.
pub(crate) fn new_keyring() -> Result<()> {
    match gantry_sys::keyring::new_session() {
        // A kernel without keyrings has nothing to share.
        Err(e) if e.errno() == rustix::io::Errno::NOSYS => Ok(()),
        other => Ok(other?),
    }
}

/// The cgroup that systemd has put a process into.
fn cgroup2_of(pid: i32) -> Result<String> {
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let text = std::fs::read_to_string(&path).map_err(file("read", &path))?;
    let own = text.lines().find_map(|l| l.strip_prefix("0::")).map(str::to_owned);
    own.ok_or_else(|| Error::Invalid(format!("{} names no cgroup2", path.display())))
}

/// Takes away what a failed `create` has made: processes, cgroup, directory.
fn clean(entry: &Entry) -> Result<()> {
    if let Some(record) = entry.load()? {
        if let Some(init) = record.living_init() {
            // Gone already is what we want.
            let _gone = init.signal(9);
        }
        if let Some(cgroup) = record.cgroup()? {
            cgroup.kill(KILL_LIMIT)?;
            cgroup.remove()?;
        }
    }
    entry.remove()
}

/// Lets the program of a created container run.
pub(crate) fn start(root: &Path, id: &str) -> Result<()> {
    let entry = Entry::open(root, id)?;
    let _locked = entry.lock()?;
    let record = entry.load_created()?;
    match entry.status(Some(&record)) {
        Status::Created => {}
        status => {
            let what = "only a created one can be started";
            return Err(Error::State { id: id.into(), state: status.name(), what });
        }
    }
    let failed = |e: libcontainer::error::LibcontainerError| container_error("start", id, &e);
    Container::load(entry.library_dir()).map_err(failed)?.start().map_err(failed)
}

/// Completes what libcontainer says with the first error that the container's processes logged.
pub(crate) fn container_error(
    doing: &'static str,
    id: &str,
    error: &libcontainer::error::LibcontainerError,
) -> Error {
    // These only say which process talked to which.
    const WRAPPERS: [&str; 5] = [
        "failed to create container: ",
        "exec process failed with error ",
        "intermediate process error ",
        "error in executing process : ",
        "cgroup error: ",
    ];
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    let mut why = text.replace('\0', "");
    while let Some(rest) = WRAPPERS.iter().find_map(|w| why.strip_prefix(w)) {
        why = rest.to_owned();
    }
    // A reason that names a program, a path or a controller is complete.
    let complete = |why: &str| why.contains('/') || why.starts_with("exec: ") || why.starts_with("cgroup ");
    if let Some(hint) = report::hint().filter(|hint| !complete(&why) && !hint.contains(&why)) {
        why = format!("{why}: {hint}");
    }
    Error::Container { doing, id: id.into(), why }
}
