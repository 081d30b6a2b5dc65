//! Which system calls a container may make.

use super::{SpecError, SpecInput, process};
use gantry_cri_api::v1;
use gantry_cri_api::v1::security_profile::ProfileType;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Gantry's own default profile, as data.
const DEFAULT: &str = include_str!("seccomp-default.json");

/// Flags of clone(2) that make namespaces; without CAP_SYS_ADMIN none of them may be set.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;

/// `AF_VSOCK`: reaches the hypervisor past every network policy.
const AF_VSOCK: u64 = 40;

/// `ENOSYS`: libraries then fall back to an older call.
const ENOSYS: u32 = 38;

#[derive(Debug, Deserialize)]
struct Profile {
    /// Always allowed.
    allow: Vec<String>,
    /// Always allowed on machines of an architecture, as Rust names it.
    allow_on: BTreeMap<String, Vec<String>>,
    /// Allowed to a container that has the capability.
    allow_with: BTreeMap<String, Vec<String>>,
    /// Values of the first argument with which personality(2) is allowed.
    personalities: Vec<u64>,
}

/// `linux.seccomp`; `None` for a container without a filter.
pub(super) fn seccomp(
    input: &SpecInput<'_>,
    security: &v1::LinuxContainerSecurityContext,
) -> Result<Option<Value>, SpecError> {
    if security.privileged {
        return Ok(None);
    }
    match wanted(security)? {
        ProfileType::Unconfined => Ok(None),
        ProfileType::RuntimeDefault => {
            let (has, _) = process::capabilities(security, &input.host.bounding)?;
            default_profile(&has, input.host.x32).map(Some)
        }
        ProfileType::Localhost => {
            let text = input.localhost_seccomp.ok_or_else(|| {
                SpecError::new("seccomp", "the profile of the request was not read from this node")
            })?;
            let profile: Value = serde_json::from_str(text)
                .map_err(|e| SpecError::new("seccomp", format!("the profile is not an OCI profile: {e}")))?;
            match profile.get("defaultAction") {
                Some(Value::String(_)) => Ok(Some(profile)),
                _ => Err(SpecError::new("seccomp", "the profile has no defaultAction")),
            }
        }
    }
}

/// Path of the profile that the request names on this node, if it names one.
#[allow(deprecated)]
pub(crate) fn localhost_profile(security: &v1::LinuxContainerSecurityContext) -> Option<&str> {
    match &security.seccomp {
        Some(profile) => {
            let localhost = profile.profile_type == i32::from(ProfileType::Localhost);
            let path = profile.localhost_ref.as_str();
            localhost.then_some(path.strip_prefix("localhost/").unwrap_or(path))
        }
        None => security.seccomp_profile_path.strip_prefix("localhost/"),
    }
}

/// An absent profile means unconfined, as the kubelet means it; a request made by hand says so, too.
#[allow(deprecated)]
fn wanted(security: &v1::LinuxContainerSecurityContext) -> Result<ProfileType, SpecError> {
    if let Some(profile) = &security.seccomp {
        return ProfileType::try_from(profile.profile_type)
            .map_err(|_| SpecError::new("seccomp", "the profile type is unknown"));
    }
    match security.seccomp_profile_path.as_str() {
        "" | "unconfined" => Ok(ProfileType::Unconfined),
        "runtime/default" | "docker/default" => Ok(ProfileType::RuntimeDefault),
        path if path.starts_with("localhost/") => Ok(ProfileType::Localhost),
        other => Err(SpecError::new("seccomp_profile_path", format!("{other:.128?} is not a profile"))),
    }
}

/// The profile for a container with the capabilities `has`: what needs one is allowed with it.
///
/// x32 is left out where the kernel does not have it: each architecture costs every start and exec about
/// 5 ms of compiling, and what it would allow, that kernel refuses anyway. (Whoever tries an x32 call all the
/// same gets `ENOSYS` from the embedded runtime; runc 1.1 kills it.)
fn default_profile(has: &[String], x32: bool) -> Result<Value, SpecError> {
    let data: Profile = serde_json::from_str(DEFAULT)
        .map_err(|e| SpecError::new("seccomp", format!("the built-in profile is damaged: {e}")))?;
    let has: BTreeSet<&str> = has.iter().map(String::as_str).collect();
    let mut names: BTreeSet<&String> = data.allow.iter().collect();
    names.extend(data.allow_on.get(std::env::consts::ARCH).into_iter().flatten());
    for (capability, more) in &data.allow_with {
        if has.contains(capability.as_str()) {
            names.extend(more);
        }
    }
    let admin = has.contains("CAP_SYS_ADMIN");
    let mut rules = vec![json!({"names": names, "action": "SCMP_ACT_ALLOW"})];
    for value in &data.personalities {
        let argument = json!({"index": 0, "value": value, "op": "SCMP_CMP_EQ"});
        rules.push(json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [argument]}));
    }
    let not_vsock = json!({"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_NE"});
    rules.push(json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [not_vsock]}));
    if !admin {
        let flags = json!({"index": 0, "value": CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"});
        rules.push(json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [flags]}));
        // Its flags are behind a pointer that a filter cannot follow.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
    }
    Ok(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": architectures(x32),
        "syscalls": rules,
    }))
}

fn architectures(x32: bool) -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" if x32 => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(add: &[&str], drop: &[&str], call: &str) -> bool {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let security = v1::LinuxContainerSecurityContext {
            capabilities: Some(v1::Capability {
                add_capabilities: list(add),
                drop_capabilities: list(drop),
                add_ambient_capabilities: vec![],
            }),
            ..Default::default()
        };
        let host: Vec<String> = process::CAPABILITIES.iter().map(|c| (*c).to_owned()).collect();
        let (has, _) = process::capabilities(&security, &host).unwrap();
        let profile = default_profile(&has, true).unwrap();
        profile["syscalls"].as_array().unwrap().iter().any(|rule| {
            rule["action"] == "SCMP_ACT_ALLOW"
                && rule.get("args").is_none()
                && rule["names"].as_array().unwrap().iter().any(|n| n == call)
        })
    }

    #[test]
    fn dangerous_calls_need_their_capability() {
        for (call, capability) in [
            ("mount", "SYS_ADMIN"),
            ("umount2", "SYS_ADMIN"),
            ("unshare", "SYS_ADMIN"),
            ("setns", "SYS_ADMIN"),
            ("bpf", "SYS_ADMIN"),
            ("clone3", "SYS_ADMIN"),
            ("perf_event_open", "PERFMON"),
            ("init_module", "SYS_MODULE"),
            ("reboot", "SYS_BOOT"),
            ("open_by_handle_at", "DAC_READ_SEARCH"),
            ("settimeofday", "SYS_TIME"),
        ] {
            assert!(!allowed(&[], &[], call), "{call}");
            assert!(allowed(&[capability], &[], call), "{call} with {capability}");
            assert!(allowed(&["ALL"], &[], call), "{call} with all");
        }
        for call in ["keyctl", "add_key", "request_key", "userfaultfd", "kexec_load", "swapon", "nfsservctl"]
        {
            assert!(!allowed(&["ALL"], &[], call), "{call} is never allowed");
        }
        for call in ["read", "openat", "execve", "futex", "epoll_wait", "rseq", "statx", "io_pgetevents"] {
            assert!(allowed(&[], &["ALL"], call), "{call}");
        }
        assert!(allowed(&[], &[], "chroot") && !allowed(&[], &["ALL"], "chroot"));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn x32_is_named_where_the_kernel_has_it() {
        for has in [true, false] {
            let profile = default_profile(&[], has).unwrap();
            let named: Vec<&str> =
                profile["architectures"].as_array().unwrap().iter().flat_map(Value::as_str).collect();
            assert!(named.contains(&"SCMP_ARCH_X86_64") && named.contains(&"SCMP_ARCH_X86"));
            assert_eq!(named.contains(&"SCMP_ARCH_X32"), has);
        }
    }

    #[test]
    fn profiles_by_every_spelling() {
        let typed = |t: ProfileType| v1::LinuxContainerSecurityContext {
            seccomp: Some(v1::SecurityProfile { profile_type: t.into(), localhost_ref: "/p.json".into() }),
            ..Default::default()
        };
        assert_eq!(wanted(&typed(ProfileType::Unconfined)).unwrap(), ProfileType::Unconfined);
        assert_eq!(localhost_profile(&typed(ProfileType::Localhost)), Some("/p.json"));
        assert_eq!(localhost_profile(&typed(ProfileType::RuntimeDefault)), None);
        assert_eq!(wanted(&Default::default()).unwrap(), ProfileType::Unconfined);
        #[allow(deprecated)]
        let old = |path: &str| v1::LinuxContainerSecurityContext {
            seccomp_profile_path: path.into(),
            ..Default::default()
        };
        assert_eq!(wanted(&old("runtime/default")).unwrap(), ProfileType::RuntimeDefault);
        assert_eq!(localhost_profile(&old("localhost/x.json")), Some("x.json"));
        assert!(wanted(&old("nonsense")).is_err());
    }
}
