//! `state`, `list`, `ps` and `features`: what is printed about containers and about this runtime.

use crate::error::{Error, Result};
use crate::record::{Entry, Record, Status};
use libcontainer::container::Container;
use serde_json::{Value, json};
use std::path::Path;

/// Version of the runtime specification that configurations are read by.
const SPEC_VERSION: &str = "1.2.1";

/// `state`: one JSON object with the fields of the OCI state and those that runc adds.
pub(crate) fn state(root: &Path, id: &str) -> Result<String> {
    let entry = Entry::open(root, id)?;
    let record = entry.load()?;
    pretty(&describe(&entry, record.as_ref()))
}

fn describe(entry: &Entry, record: Option<&Record>) -> Value {
    let status = entry.status(record);
    let pid = record.and_then(|r| r.init).filter(|_| status != Status::Stopped).map_or(0, |i| i.pid);
    let library = Container::load(entry.library_dir()).ok();
    let annotations = library.and_then(|c| c.state.annotations).filter(|a| !a.is_empty());
    let mut state = json!({
        "ociVersion": SPEC_VERSION,
        "id": entry.id(),
        "pid": pid,
        "status": status.name(),
        "bundle": record.map(|r| &r.bundle),
        "rootfs": record.map(|r| &r.rootfs),
        "created": record.map(|r| &r.created),
        "owner": "root",
    });
    if let Some(annotations) = annotations {
        state["annotations"] = json!(annotations);
    }
    state
}

/// `list`, as a table or as JSON.
pub(crate) fn list(root: &Path, args: &liboci_cli::List) -> Result<String> {
    let mut all = Vec::new();
    for entry in Entry::all(root)? {
        if args.quiet {
            all.push(json!(entry.id()));
            continue;
        }
        // A damaged record shows as a container being created; delete --force takes it away.
        let record = entry.load().unwrap_or_default();
        all.push(describe(&entry, record.as_ref()));
    }
    if args.quiet {
        return Ok(all.iter().filter_map(Value::as_str).map(|id| format!("{id}\n")).collect());
    }
    match args.format.as_str() {
        "json" => pretty(&Value::Array(all)),
        "table" => {
            let mut table = format!("{:<40} {:>8} {:<9} {:<20} BUNDLE\n", "ID", "PID", "STATUS", "CREATED");
            for c in &all {
                let text = |key: &str| c[key].as_str().unwrap_or("-").to_owned();
                table += &format!(
                    "{:<40} {:>8} {:<9} {:<20} {}\n",
                    text("id"),
                    c["pid"],
                    text("status"),
                    text("created"),
                    text("bundle")
                );
            }
            Ok(table)
        }
        other => Err(Error::Usage(format!("list: --format {other:?}; say table or json"))),
    }
}

/// `ps`: pids of a container's processes, as this program sees them.
pub(crate) fn ps(root: &Path, args: &liboci_cli::Ps) -> Result<String> {
    let entry = Entry::open(root, &args.container_id)?;
    let cgroup = entry.load_created()?.cgroup()?;
    let pids = cgroup.map(|c| c.pids()).transpose()?.unwrap_or_default();
    match args.format.as_str() {
        "json" => pretty(&json!(pids)),
        "table" => {
            let name = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let rows = pids.iter().map(|pid| format!("{pid:>8} {}\n", name(*pid).trim()));
            Ok(std::iter::once("     PID COMMAND\n".to_owned()).chain(rows).collect())
        }
        other => Err(Error::Usage(format!("ps: --format {other:?}; say table or json"))),
    }
}

/// `features`: what configurations may ask, as the runtime specification's features document.
pub(crate) fn features() -> Result<String> {
    let capabilities: Vec<String> = {
        let mut all: Vec<_> = caps::all().into_iter().collect();
        all.sort_unstable_by_key(caps::Capability::index);
        all.iter().map(ToString::to_string).collect()
    };
    pretty(&json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": [
            "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "mand", "noatime", "nodev",
            "nodiratime", "noexec", "nomand", "norelatime", "nostrictatime", "nosuid", "private", "ratime",
            "rbind", "rdev", "rdiratime", "relatime", "remount", "rexec", "rnoatime", "rnodev", "rnodiratime",
            "rnoexec", "rnorelatime", "rnostrictatime", "rnosuid", "ro", "rprivate", "rrelatime", "rro", "rrw",
            "rshared", "rslave", "rstrictatime", "rsuid", "runbindable", "rw", "shared", "slave", "strictatime",
            "suid", "sync", "unbindable",
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "uts"],
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": false},
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
                ],
                "archs": [
                    "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64",
                    "SCMP_ARCH_MIPS64N32", "SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL64N32",
                    "SCMP_ARCH_PPC", "SCMP_ARCH_PPC64", "SCMP_ARCH_PPC64LE", "SCMP_ARCH_RISCV64",
                    "SCMP_ARCH_S390", "SCMP_ARCH_S390X", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64",
                ],
                "knownFlags": [
                    "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC",
                ],
                "supportedFlags": [
                    "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC",
                ],
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": true},
            "mountExtensions": {"idmap": {"enabled": false}},
        },
        "annotations": {"org.opencontainers.runc.checkpoint.enabled": "false"},
    }))
}

fn pretty(value: &Value) -> Result<String> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|source| Error::Json { path: "standard output".into(), source })?;
    Ok(text + "\n")
}
