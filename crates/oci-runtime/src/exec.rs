//! `exec`: another process in a running container.
//!
//! libcontainer looks for the container's state below the root path that it is given and leaves a
//! socket there with every call, so each call gets a directory of its own with a copy of the state,
//! taken away at the end.

use crate::adapt::{Host, adapt_process};
use crate::create::{container_error, new_keyring};
use crate::error::{Error, Result, file};
use crate::record::{Entry, Status, read_bounded, write_atomically};
use crate::seccomp::Filter;
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::{Capability, Process, Spec};
use libcontainer::syscall::syscall::SyscallType;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Keeps for `exec` what the adapted configuration no longer has: the original one, and the filter
/// as it was compiled.
pub(crate) fn keep(entry: &Entry, original: &[u8], filter: Option<&Filter>) -> Result<()> {
    write_atomically(&entry.dir().join("original.json"), original)?;
    match filter {
        Some(filter) => write_atomically(&entry.dir().join("seccomp.bpf"), &filter.to_bytes()),
        None => Ok(()),
    }
}

fn kept(entry: &Entry) -> Result<(Spec, Option<Filter>)> {
    let path = entry.dir().join("original.json");
    let spec: Spec =
        serde_json::from_slice(&read_bounded(&path)?).map_err(|source| Error::Json { path, source })?;
    let path = entry.dir().join("seccomp.bpf");
    let asked = spec.linux().as_ref().is_some_and(|l| l.seccomp().is_some());
    // A filter that is gone is an error: without it the process would run with less confinement.
    let filter = if asked { Some(Filter::from_bytes(&read_bounded(&path)?)?) } else { None };
    Ok((spec, filter))
}

/// Starts the process that `args` describe; returns its pid. It is a child of this program.
pub(crate) fn exec(root: &Path, args: &liboci_cli::Exec) -> Result<i32> {
    let entry = Entry::open(root, &args.container_id)?;
    let record = entry.load_created()?;
    match entry.status(Some(&record)) {
        Status::Running => {}
        Status::Paused if args.ignore_paused => {}
        status => {
            let what = "only a running one can execute another process";
            return Err(Error::State { id: args.container_id.clone(), state: status.name(), what });
        }
    }
    let (spec, filter) = kept(&entry)?;
    let own = spec.process().as_ref().ok_or_else(|| Error::Invalid("process is missing".into()))?;
    let (process, payload) = adapt_process(asked(args, own)?, filter, false, &Host::detect()?)?;
    new_keyring()?;
    let scratch = Scratch::new(&entry)?;
    let file_of_process = scratch.dir.join("process.json");
    let json = serde_json::to_vec(&process)
        .map_err(|source| Error::Json { path: file_of_process.clone(), source })?;
    std::fs::write(&file_of_process, json).map_err(file("write", &file_of_process))?;
    let failed =
        |e: libcontainer::error::LibcontainerError| container_error("exec in", &args.container_id, &e);
    let pid = ContainerBuilder::new(args.container_id.clone(), SyscallType::default())
        .with_root_path(&scratch.dir)
        .map_err(failed)?
        .with_console_socket(args.console_socket.as_ref())
        .with_preserved_fds(args.preserve_fds)
        .with_executor(payload)
        .as_tenant()
        .with_detach(args.detach)
        .with_process(Some(&file_of_process))
        .with_ignore_paused(args.ignore_paused)
        .with_sub_cgroup(args.cgroup.clone())
        .build()
        .map_err(failed)?
        .as_raw();
    if let Some(path) = &args.pid_file {
        write_atomically(path, pid.to_string().as_bytes())?;
    }
    Ok(pid)
}

/// The process that the command line or `--process` asks for; what it leaves open is the container's.
fn asked(args: &liboci_cli::Exec, own: &Process) -> Result<Process> {
    let mut process = match &args.process {
        Some(path) => {
            let bytes = read_bounded(path)?;
            let mut process: Process = serde_json::from_slice(&bytes)
                .map_err(|source| Error::Json { path: path.clone(), source })?;
            // Left out, libcontainer would keep all capabilities and no profile.
            if process.capabilities().is_none() {
                process.set_capabilities(own.capabilities().clone());
            }
            if process.apparmor_profile().as_deref().is_none_or(str::is_empty) {
                process.set_apparmor_profile(own.apparmor_profile().clone());
            }
            return Ok(process);
        }
        None => own.clone(),
    };
    if args.command.is_empty() {
        return Err(Error::Usage("exec: name a program, or give --process FILE".into()));
    }
    process.set_args(Some(args.command.clone()));
    process.set_terminal(Some(args.tty));
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(args.env.iter().map(|(name, value)| format!("{name}={value}")));
    process.set_env(Some(env));
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    if let Some((uid, gid)) = args.user {
        let user = process.user_mut();
        user.set_uid(uid);
        user.set_gid(gid.unwrap_or(0));
    }
    if !args.additional_gids.is_empty() {
        process.user_mut().set_additional_gids(Some(args.additional_gids.clone()));
    }
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if args.apparmor.is_some() {
        process.set_apparmor_profile(args.apparmor.clone());
    }
    if args.process_label.is_some() {
        process.set_selinux_label(args.process_label.clone());
    }
    add_capabilities(&mut process, &args.cap)?;
    Ok(process)
}

fn add_capabilities(process: &mut Process, names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let mut sets = process.capabilities().clone().unwrap_or_else(|| {
        let mut none = libcontainer::oci_spec::runtime::LinuxCapabilities::default();
        none.set_bounding(None)
            .set_effective(None)
            .set_permitted(None)
            .set_inheritable(None)
            .set_ambient(None);
        none
    });
    for name in names {
        let unknown = |_| Error::Usage(format!("--cap {name}: no such capability"));
        let capability: Capability =
            serde_json::from_value(serde_json::Value::String(name.clone())).map_err(unknown)?;
        let with = |set: &Option<std::collections::HashSet<Capability>>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        let (bounding, effective) = (with(sets.bounding()), with(sets.effective()));
        let permitted = with(sets.permitted());
        sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    }
    process.set_capabilities(Some(sets));
    Ok(())
}

/// The directory of one call: what libcontainer needs to find the container.
struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    fn new(entry: &Entry) -> Result<Self> {
        let mut container =
            Container::load(entry.library_dir()).map_err(|e| container_error("exec in", entry.id(), &e))?;
        let dir = entry.dir().join(format!("exec-{}", std::process::id()));
        // A call that was killed may have left one, and its pid has come round again.
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(file("remove", &dir)(e)),
            _ => {}
        }
        let state = dir.join(entry.id());
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&state).map_err(file("create", &state))?;
        let scratch = Self { dir };
        // Whose configuration says which namespaces to join.
        container.state.bundle = entry.dir().to_owned();
        container.root = state;
        container.save().map_err(|e| container_error("exec in", entry.id(), &e))?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.dir) {
            crate::report::warning(&format!("remove {}: {e}", self.dir.display()));
        }
    }
}
