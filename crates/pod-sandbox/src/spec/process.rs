//! The process: command line, environment, identity, capabilities.

use super::{SpecError, SpecInput};
use gantry_cri_api::v1;
use serde_json::{Value, json};
use std::collections::BTreeSet;

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
    let no_new_privs = security.no_new_privs && !security.privileged;
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
        "noNewPrivileges": no_new_privs,
        "oomScoreAdj": oom.clamp(-1000, 1000),
    });
    if let Some(profile) = apparmor(security, input)? {
        process["apparmorProfile"] = json!(profile);
    }
    Ok(process)
}

/// A further process of a container: its own, with another command line.
pub fn exec_process(container: &Value, command: &[String], terminal: bool) -> Value {
    let mut process = container.clone();
    process["args"] = json!(command);
    process["terminal"] = json!(terminal);
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
        all.push("TERM=xterm".into());
    }
    let mut set = |variable: String| {
        let name = variable.split_inclusive('=').next().unwrap_or_default().to_owned();
        match all.iter_mut().find(|v| v.starts_with(&name)) {
            Some(earlier) => *earlier = variable,
            None => all.push(variable),
        }
    };
    for variable in input.image.env.iter().filter(|v| v.contains('=')) {
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
fn capabilities(
    security: &v1::LinuxContainerSecurityContext,
    bounding: &[String],
) -> Result<(Vec<String>, Vec<String>), SpecError> {
    let host: BTreeSet<&str> = bounding.iter().map(String::as_str).collect();
    if security.privileged {
        return Ok((bounding.to_vec(), Vec::new()));
    }
    let asked = security.capabilities.clone().unwrap_or_default();
    let mut set: BTreeSet<String> = DEFAULT_CAPABILITIES.iter().map(|c| (*c).to_owned()).collect();
    let all = |list: &[String]| list.iter().any(|c| c.eq_ignore_ascii_case("all"));
    if all(&asked.add_capabilities) {
        set = bounding.iter().cloned().collect();
    }
    if all(&asked.drop_capabilities) {
        set.clear();
    }
    for name in asked.drop_capabilities.iter().filter(|c| !c.eq_ignore_ascii_case("all")) {
        set.remove(&known(name, "drop_capabilities")?);
    }
    let mut ambient = BTreeSet::new();
    for name in asked.add_capabilities.iter().filter(|c| !c.eq_ignore_ascii_case("all")) {
        set.insert(known(name, "add_capabilities")?);
    }
    for name in &asked.add_ambient_capabilities {
        let name = known(name, "add_ambient_capabilities")?;
        set.insert(name.clone());
        ambient.insert(name);
    }
    let cut = |set: BTreeSet<String>| set.into_iter().filter(|c| host.contains(c.as_str())).collect();
    Ok((cut(set), cut(ambient)))
}

fn known(name: &str, field: &str) -> Result<String, SpecError> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    match CAPABILITIES.contains(&full.as_str()) {
        true => Ok(full),
        false => Err(SpecError::new(field, format!("{name:.64?} is not a capability (capabilities(7))"))),
    }
}

/// Old clients still send the deprecated field.
#[allow(deprecated)]
fn apparmor(
    security: &v1::LinuxContainerSecurityContext,
    input: &SpecInput<'_>,
) -> Result<Option<String>, SpecError> {
    let asked = match (&security.apparmor, security.apparmor_profile.as_str()) {
        (Some(profile), _) => {
            let localhost = i32::from(v1::security_profile::ProfileType::Localhost);
            (profile.profile_type == localhost).then(|| profile.localhost_ref.clone())
        }
        (None, text) => text.strip_prefix("localhost/").map(str::to_owned),
    };
    match asked {
        Some(name) if !input.host.apparmor => {
            let reason = format!("profile {name:.64?} is asked for, but this kernel has no AppArmor");
            Err(SpecError::new("apparmor", reason))
        }
        asked => Ok(asked.filter(|_| !security.privileged)),
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
        assert!(capabilities(&context(&["FLY"], &[], &[]), &bounding()).is_err());
        let privileged =
            v1::LinuxContainerSecurityContext { privileged: true, ..context(&[], &["ALL"], &[]) };
        assert_eq!(get(&privileged).0.len(), bounding().len());
    }
}
