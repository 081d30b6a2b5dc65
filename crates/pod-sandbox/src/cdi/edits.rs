//! Changes that a device makes to a container's configuration.

use crate::error::Kind;
use crate::spec::{SpecAdjuster, SpecError, SpecInput};
use crate::{Error, Result};
use rustix::fs::{FileType, major, minor};
use serde::Deserialize;
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// `containerEdits` as it is written. What is not known is refused: it would be missing in the container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Mount>,
    hooks: Vec<Hook>,
    intel_rdt: Option<Value>,
    additional_gids: Vec<u32>,
    net_devices: Vec<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Node {
    /// In the container; on the host too unless `host_path` says otherwise.
    path: String,
    host_path: Option<String>,
    r#type: Option<String>,
    major: Option<i64>,
    minor: Option<i64>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mount {
    host_path: String,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
    r#type: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Hook {
    hook_name: String,
    path: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<i64>,
}

/// Times at which a hook can be run (OCI runtime-spec, "POSIX-platform Hooks"). Poststop hooks are run by the
/// `delete` of the OCI runtime, which Gantry does not call.
const HOOKS: [&str; 5] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"];

/// Edits with everything looked up on the host.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Injection {
    env: Vec<String>,
    nodes: Vec<Value>,
    rules: Vec<Value>,
    mounts: Vec<Value>,
    hooks: Vec<(String, Value)>,
    intel_rdt: Option<Value>,
    gids: Vec<u32>,
}

fn bad(reason: impl std::fmt::Display) -> Error {
    Error::new(Kind::FailedPrecondition, format!("device specification: {reason}"))
}

impl Edits {
    pub(super) fn extend(&mut self, other: Self) {
        self.env.extend(other.env);
        self.device_nodes.extend(other.device_nodes);
        self.mounts.extend(other.mounts);
        self.hooks.extend(other.hooks);
        self.intel_rdt = other.intel_rdt.or(self.intel_rdt.take());
        self.additional_gids.extend(other.additional_gids);
        self.net_devices.extend(other.net_devices);
    }

    /// Checks everything, and looks up numbers of devices that are given by path only.
    pub(super) fn resolve(self) -> Result<Injection> {
        if !self.net_devices.is_empty() {
            return Err(bad("netDevices need OCI 1.3, which no handler here has"));
        }
        if let Some(one) = self.env.iter().find(|v| v.split_once('=').is_none_or(|(name, _)| name.is_empty()))
        {
            return Err(bad(format!("{one:.64?} is not NAME=value")));
        }
        let (mut nodes, mut rules) = (Vec::new(), Vec::new());
        for node in self.device_nodes {
            let (node, rule) = node.resolve()?;
            nodes.push(node);
            rules.extend(rule);
        }
        Ok(Injection {
            env: self.env,
            nodes,
            rules,
            mounts: self.mounts.into_iter().map(Mount::resolve).collect::<Result<_>>()?,
            hooks: self.hooks.into_iter().map(Hook::resolve).collect::<Result<_>>()?,
            intel_rdt: self.intel_rdt,
            gids: self.additional_gids.into_iter().filter(|gid| *gid != 0).collect(),
        })
    }
}

/// Whether a path is absolute and has no part that climbs.
fn plain(path: &str) -> bool {
    crate::pod::is_plain_absolute(path)
}

impl Node {
    fn resolve(self) -> Result<(Value, Option<Value>)> {
        let on_host = self.host_path.as_deref().unwrap_or(&self.path);
        if !plain(&self.path) || !plain(on_host) {
            return Err(bad(format!("path of device node {:.128?} is not absolute", self.path)));
        }
        let access = self.permissions.as_deref().unwrap_or("rwm");
        if access.is_empty() || access.chars().any(|c| !"rwm".contains(c)) {
            return Err(bad(format!("permissions {access:.16?} of {} are not of r, w and m", self.path)));
        }
        // What the file leaves out is as on the host.
        let meta = match (self.r#type.as_deref(), self.major, self.minor) {
            (Some("p"), ..) | (Some(_), Some(1..), Some(_)) => None,
            _ => Some(std::fs::metadata(on_host).map_err(|e| bad(format!("{on_host}: {e}")))?),
        };
        let found = meta.as_ref().and_then(|m| match FileType::from_raw_mode(m.mode()) {
            FileType::CharacterDevice => Some("c"),
            FileType::BlockDevice => Some("b"),
            _ => None,
        });
        let kind = match (self.r#type.as_deref(), found) {
            (Some(kind @ ("b" | "c" | "u" | "p")), _) => kind,
            (Some(""), Some(found)) | (None, Some(found)) => found,
            (Some("") | None, None) => return Err(bad(format!("{on_host} is no device"))),
            (Some(other), _) => return Err(bad(format!("{other:.16?} is no type of device node"))),
        };
        let mut node = json!({"path": self.path, "type": kind});
        if let Some(mode) = self.file_mode.or(meta.as_ref().map(|m| m.mode() & 0o777)) {
            node["fileMode"] = json!(mode);
        }
        if let Some(uid) = self.uid {
            node["uid"] = json!(uid);
        }
        if let Some(gid) = self.gid {
            node["gid"] = json!(gid);
        }
        if kind == "p" {
            return Ok((node, None));
        }
        let of_host = meta.as_ref().map(|m| (i64::from(major(m.rdev())), i64::from(minor(m.rdev()))));
        let (major, minor) = match (self.major, self.minor, of_host) {
            (Some(major @ 1..), Some(minor), _) => (major, minor),
            (_, _, Some(numbers)) => numbers,
            _ => return Err(bad(format!("{} has no device number", self.path))),
        };
        node["major"] = json!(major);
        node["minor"] = json!(minor);
        let of_rule = if kind == "b" { "b" } else { "c" };
        let rule = json!({"allow": true, "type": of_rule, "major": major, "minor": minor, "access": access});
        Ok((node, Some(rule)))
    }
}

impl Mount {
    fn resolve(self) -> Result<Value> {
        if !plain(&self.host_path) || !plain(&self.container_path) {
            return Err(bad(format!("mount of {:.128?} has a path that is not absolute", self.host_path)));
        }
        let mut options = self.options;
        let kind = self.r#type.unwrap_or_else(|| "bind".into());
        let bound = options.iter().any(|o| o == "bind" || o == "rbind");
        if !bound && matches!(kind.as_str(), "bind" | "none" | "") {
            options.push("rbind".into());
        }
        Ok(json!({
            "destination": self.container_path, "type": kind, "source": self.host_path, "options": options,
        }))
    }
}

impl Hook {
    fn resolve(self) -> Result<(String, Value)> {
        if !HOOKS.contains(&self.hook_name.as_str()) {
            let reason = format!("{:.64?} is not one of the hooks {}", self.hook_name, HOOKS.join(", "));
            return Err(bad(reason));
        }
        if !plain(&self.path) {
            return Err(bad(format!("path of hook {:.128?} is not absolute", self.path)));
        }
        let mut hook = json!({"path": self.path, "args": self.args, "env": self.env});
        if let Some(seconds) = self.timeout {
            hook["timeout"] = json!(seconds);
        }
        Ok((self.hook_name, hook))
    }
}

impl SpecAdjuster for Injection {
    fn adjust(&self, _input: &SpecInput<'_>, spec: &mut Value) -> Result<(), SpecError> {
        self.change(spec);
        Ok(())
    }
}

impl Injection {
    pub(super) fn change(&self, spec: &mut Value) {
        change(&mut spec["process"]["env"], |env| {
            for variable in &self.env {
                let name = variable.split_inclusive('=').next().unwrap_or_default();
                env.retain(|v| !v.as_str().is_some_and(|v| v.starts_with(name)));
                env.push(json!(variable));
            }
        });
        change(&mut spec["process"]["user"]["additionalGids"], |gids| {
            let new: Vec<Value> = self.gids.iter().map(|gid| json!(gid)).collect();
            gids.extend(new.into_iter().filter(|gid| !gids.contains(gid)).collect::<Vec<_>>());
        });
        change(&mut spec["linux"]["devices"], |devices| {
            for node in &self.nodes {
                devices.retain(|d| d["path"] != node["path"]);
                devices.push(node.clone());
            }
        });
        change(&mut spec["linux"]["resources"]["devices"], |rules| rules.extend(self.rules.iter().cloned()));
        change(&mut spec["mounts"], |mounts| {
            mounts.retain(|m| self.mounts.iter().all(|own| own["destination"] != m["destination"]));
            mounts.extend(self.mounts.iter().cloned());
            // Parents before what lies in them.
            let depth =
                |m: &Value| Path::new(m["destination"].as_str().unwrap_or_default()).components().count();
            mounts.sort_by_key(depth);
        });
        for (name, hook) in &self.hooks {
            change(&mut spec["hooks"][name], |hooks| hooks.push(hook.clone()));
        }
        if let Some(rdt) = &self.intel_rdt {
            spec["linux"]["intelRdt"] = rdt.clone();
        }
    }
}

/// Changes the list at `value`, an empty one where there is none yet.
fn change(value: &mut Value, change: impl FnOnce(&mut Vec<Value>)) {
    let mut all = match value.take() {
        Value::Array(all) => all,
        _ => Vec::new(),
    };
    change(&mut all);
    *value = Value::Array(all);
}
