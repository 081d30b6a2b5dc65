//! The process: command line, environment, identity, capabilities.

use super::{SpecError, SpecInput, apparmor, resources};
use crate::policy::Ulimit;
use gantry_cri_api::v1;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Kind of terminal of a process that has one and is not told which.
const DEFAULT_TERM: &str = "TERM=xterm";

/// Search path of containers whose image and request name none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container may do that asks for nothing (the set that Kubernetes users know).
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

pub(super) fn process(
    input: &SpecInput<'_>,
    linux: &v1::LinuxContainerConfig,
    security: &v1::LinuxContainerSecurityContext,
) -> Result<Value, SpecError> {
    let config = input.container;
    let cwd = [&config.working_dir, &input.image.working_dir].into_iter().find(|d| !d.is_empty());
    let cwd = cwd.map_or("/", String::as_str);
    if !cwd.starts_with('/') {
        return Err(SpecError::new("working_dir", format!("{cwd:.256?} must be an absolute path")));
    }
    let (capabilities, ambient) = capabilities(security, &input.host.bounding)?;
    let oom = linux.resources.as_ref().map_or(0, |r| r.oom_score_adj);
    let mut process = json!({
        "terminal": config.tty,
        "user": {
            "uid": input.user.uid,
            "gid": input.user.gid,
            "additionalGids": input.user.additional_gids,
        },
        "args": args(config, input)?,
        "env": env(input)?,
        "cwd": cwd,
        "capabilities": {
            "bounding": capabilities,
            // Effective and permitted of a process that is not root come from its ambient set only.
            "effective": capabilities,
            "permitted": capabilities,
            "inheritable": ambient,
            "ambient": ambient,
        },
        "noNewPrivileges": security.no_new_privs,
        "oomScoreAdj": resources::oom_score(oom, input.host)?,
    });
    if let Some(umask) = umask(input.pod, config)? {
        process["user"]["umask"] = json!(umask);
    }
    if !input.policy.ulimits.is_empty() {
        process["rlimits"] = input.policy.ulimits.iter().map(Ulimit::oci).collect();
    }
    if let Some(profile) = apparmor::profile(security, input)? {
        process["apparmorProfile"] = json!(profile);
    }
    if let Some(labels) = input.selinux {
        process["selinuxLabel"] = json!(labels.process);
    }
    Ok(process)
}

/// Annotations of a pod or container that name its umask, in octal digits; the later ones are the names that
/// other CRI servers gave it first.
const UMASK: [&str; 3] = ["gantry.io/umask", "umask.crio.io", "io.kubernetes.cri-o.umask"];

/// The umask that the container or its pod asks for.
fn umask(pod: &v1::PodSandboxConfig, container: &v1::ContainerConfig) -> Result<Option<u32>, SpecError> {
    let named = |all: &'_ BTreeMap<String, String>| {
        UMASK.iter().find_map(|name| all.get(*name).map(|text| (*name, text.clone())))
    };
    let Some((name, text)) = named(&container.annotations).or_else(|| named(&pod.annotations)) else {
        return Ok(None);
    };
    let value = u32::from_str_radix(&text, 8).ok().filter(|v| *v <= 0o777);
    let bad =
        || SpecError::new(format!("annotation {name}"), format!("{text:.16?} is no umask such as 0022"));
    value.map(Some).ok_or_else(bad)
}

/// A further process of a container: its own, with another command line.
pub fn exec_process(container: &Value, command: &[String], terminal: bool) -> Value {
    let mut process = container.clone();
    process["args"] = json!(command);
    process["terminal"] = json!(terminal);
    let knows = |env: &[Value]| env.iter().any(|v| v.as_str().is_some_and(|v| v.starts_with("TERM=")));
    if let Some(env) = process["env"].as_array_mut().filter(|env| terminal && !knows(env)) {
        env.push(json!(DEFAULT_TERM));
    }
    process
}

/// Command and arguments as Kubernetes defines them: a command replaces the image's entrypoint and its
/// arguments; arguments alone replace the image's arguments.
fn args(config: &v1::ContainerConfig, input: &SpecInput<'_>) -> Result<Vec<String>, SpecError> {
    let args = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => [config.command.clone(), config.args.clone()].concat(),
        (true, false) => [input.image.entrypoint.clone(), config.args.clone()].concat(),
        (true, true) => [input.image.entrypoint.clone(), input.image.cmd.clone()].concat(),
    };
    if args.first().is_none_or(String::is_empty) {
        let reason = "neither the request nor the image says what to run";
        return Err(SpecError::new("command", reason));
    }
    if args.iter().any(|a| a.contains('\0')) {
        return Err(SpecError::new("command", "an argument contains a NUL character"));
    }
    Ok(args)
}

/// The image's variables, then the request's; of two with one name the later counts.
fn env(input: &SpecInput<'_>) -> Result<Vec<String>, SpecError> {
    let mut all: Vec<String> = vec![DEFAULT_PATH.into(), format!("HOSTNAME={}", input.hostname)];
    if !input.home.is_empty() {
        all.push(format!("HOME={}", input.home));
    }
    if input.container.tty {
        all.push(DEFAULT_TERM.into());
    }
    let mut set = |variable: String| {
        let name = variable.split_inclusive('=').next().unwrap_or_default().to_owned();
        match all.iter_mut().find(|v| v.starts_with(&name)) {
            Some(earlier) => *earlier = variable,
            None => all.push(variable),
        }
    };
    for variable in input.image.env.iter().filter(|v| v.contains('=')) {
        if variable.contains('\0') {
            return Err(SpecError::new("image config.Env", "a variable contains a NUL character"));
        }
        set(variable.clone());
    }
    for pair in &input.container.envs {
        // The key never names a secret; the value is not repeated in the error.
        let bad = |reason: &str| SpecError::new(format!("envs[{:.64}]", pair.key), reason);
        if pair.key.is_empty() || pair.key.contains(['=', '\0']) {
            return Err(bad("the name is empty or contains '=' or NUL"));
        }
        let value = std::str::from_utf8(&pair.value)
            .map_err(|_| bad("the value is not UTF-8, which the OCI configuration cannot express"))?;
        if value.contains('\0') {
            return Err(bad("the value contains a NUL character"));
        }
        set(format!("{}={value}", pair.key));
    }
    Ok(all)
}

/// Capabilities and ambient capabilities, cut to what this host can give.
///
/// `ALL` stands for what the host has. What is dropped by name stays dropped, whatever is added.
pub(super) fn capabilities(
    security: &v1::LinuxContainerSecurityContext,
    bounding: &[String],
) -> Result<(Vec<String>, Vec<String>), SpecError> {
    if security.privileged {
        return Ok((bounding.to_vec(), Vec::new()));
    }
    let asked = security.capabilities.clone().unwrap_or_default();
    let everything = || bounding.iter().cloned().collect::<BTreeSet<String>>();
    let named = |list: &[String], field: &str| {
        let names = list.iter().filter(|name| !is_all(name)).map(|name| known(name, field));
        names.collect::<Result<BTreeSet<String>, SpecError>>()
    };
    let added = named(&asked.add_capabilities, "add_capabilities")?;
    let dropped = named(&asked.drop_capabilities, "drop_capabilities")?;
    let mut ambient = named(&asked.add_ambient_capabilities, "add_ambient_capabilities")?;
    let mut set: BTreeSet<String> = DEFAULT_CAPABILITIES.iter().map(|c| (*c).to_owned()).collect();
    if asked.add_capabilities.iter().any(|c| is_all(c)) {
        set = everything();
    }
    if asked.drop_capabilities.iter().any(|c| is_all(c)) {
        set.clear();
    }
    set.extend(added);
    if asked.add_ambient_capabilities.iter().any(|c| is_all(c)) {
        ambient.extend(everything());
    }
    set.extend(ambient.iter().cloned());
    let host = everything();
    let cut = |set: &BTreeSet<String>| -> Vec<String> {
        set.iter().filter(|c| host.contains(*c) && !dropped.contains(*c)).cloned().collect()
    };
    Ok((cut(&set), cut(&ambient)))
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("all") || name.eq_ignore_ascii_case("cap_all")
}

fn known(name: &str, field: &str) -> Result<String, SpecError> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    match CAPABILITIES.contains(&full.as_str()) {
        true => Ok(full),
        false => Err(SpecError::new(field, format!("{name:.64?} is not a capability (capabilities(7))"))),
    }
}

/// Every capability of Linux 6.x, by number (capabilities(7)).
pub(crate) const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn bounding() -> Vec<String> {
        CAPABILITIES.iter().filter(|c| **c != "CAP_SYS_RESOURCE").map(|c| (*c).to_owned()).collect()
    }

    fn context(add: &[&str], drop: &[&str], ambient: &[&str]) -> v1::LinuxContainerSecurityContext {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        v1::LinuxContainerSecurityContext {
            capabilities: Some(v1::Capability {
                add_capabilities: list(add),
                drop_capabilities: list(drop),
                add_ambient_capabilities: list(ambient),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn capabilities_are_added_dropped_and_cut() {
        let get = |c: &v1::LinuxContainerSecurityContext| capabilities(c, &bounding()).unwrap();
        assert_eq!(get(&context(&[], &[], &[])).0.len(), DEFAULT_CAPABILITIES.len());
        assert_eq!(get(&context(&[], &["ALL"], &[])).0, [""; 0]);
        assert_eq!(get(&context(&["net_admin"], &["all"], &[])).0, ["CAP_NET_ADMIN"]);
        assert_eq!(get(&context(&["ALL"], &[], &[])).0.len(), bounding().len());
        assert_eq!(get(&context(&["SYS_RESOURCE"], &["ALL"], &[])).0, [""; 0], "the host has none");
        let (all, ambient) = get(&context(&[], &["ALL"], &["CAP_NET_RAW"]));
        assert_eq!((all, ambient), (vec!["CAP_NET_RAW".to_owned()], vec!["CAP_NET_RAW".to_owned()]));
        assert_eq!(get(&context(&["ALL"], &["CHOWN"], &[])).0.len(), bounding().len() - 1);
        assert_eq!(get(&context(&["NET_ADMIN"], &["ALL", "NET_ADMIN"], &["NET_ADMIN"])), (vec![], vec![]));
        assert!(capabilities(&context(&["FLY"], &[], &[]), &bounding()).is_err());
        let privileged =
            v1::LinuxContainerSecurityContext { privileged: true, ..context(&[], &["ALL"], &[]) };
        assert_eq!(get(&privileged).0.len(), bounding().len());
    }
}
