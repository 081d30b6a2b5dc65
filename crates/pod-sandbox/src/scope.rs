//! Cgroups of pods and monitors where systemd owns the tree: one delegated scope per pod, named to systemd
//! over D-Bus once when the pod is made and once when it is stopped; what is below is ours.
//!
//! The scope of a pod lives in the slice that the kubelet names, and as long as a process is in it: from
//! its start the pause child, which is moved to a leaf so that the scope can have controllers below it.
//! Monitors share a scope of their own, which ends with the last of them.

use crate::engine::Inner;
use crate::error::Kind;
use crate::flight::{blocking, lock};
use crate::pod::Pod;
use crate::record::PodRecord;
use crate::spec::{HostFacts, resources};
use crate::undo::KILL_LIMIT;
use crate::{Error, Realm, Result};
use gantry_cgroup::{Hierarchies, Layout, Limits};
use gantry_cri_api::v1;
use gantry_systemd::{Scope, Slice, Systemd};
use std::sync::{Arc, Mutex};

/// Slice of all monitors.
const MONITORS_SLICE: &str = "gantry-monitors.slice";

/// Slice above those that Gantry names itself.
const TOP_SLICE: &str = "gantry.slice";

/// Cgroup of the pause child below the scope of its pod.
const PAUSE_LEAF: &str = "pause";

/// Who manages control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    /// Gantry, by the cgroup file system.
    Cgroupfs,
    /// systemd, asked over D-Bus for one scope per pod.
    Systemd,
}

/// systemd as this daemon uses it.
#[derive(Debug)]
pub(crate) struct Scopes {
    driver: CgroupDriver,
    /// Also with the other driver: pods of an earlier daemon may have scopes.
    systemd: Systemd,
    /// Path of the scope that the next monitor goes to.
    monitors: Mutex<Option<String>>,
}

/// Where a pod's cgroups are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Cgroup under which its containers live.
    pub(crate) cgroup: String,
    /// Name of its scope, where it has one.
    pub(crate) scope: Option<String>,
}

impl Scopes {
    /// # Errors
    ///
    /// [`Kind::FailedPrecondition`] on a host with v1 controllers: there systemd cannot delegate.
    pub(crate) fn new(driver: CgroupDriver, hierarchies: &Hierarchies) -> Result<Self> {
        if driver == CgroupDriver::Systemd && hierarchies.layout() != Layout::V2 {
            let message = "cgroup driver systemd needs cgroup v2, this host has v1 controllers; use cgroupfs \
                           (here and for the kubelet), or boot with systemd.unified_cgroup_hierarchy=1";
            return Err(Error::new(Kind::FailedPrecondition, message));
        }
        Ok(Self { driver, systemd: Systemd::new(), monitors: Mutex::default() })
    }

    fn uses_systemd(&self) -> bool {
        self.driver == CgroupDriver::Systemd
    }

    /// Where the pod `id` of `realm` goes, given the cgroup parent that its maker names (or not).
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidArgument`] for a parent that is no slice, with the systemd driver.
    pub(crate) fn place(&self, realm: Realm, id: &str, parent: &str) -> Result<Place> {
        if self.uses_systemd() {
            let scope = format!("{}{id}.scope", crate::container::CGROUP_PREFIX);
            let cgroup = format!("{}/{scope}", slice(realm, parent)?.path());
            return Ok(Place { cgroup, scope: Some(scope) });
        }
        let cgroup = match parent {
            "" => format!("{}/{id}", crate::engine::realm_cgroup(realm)),
            parent => format!("/{}", parent.trim_matches('/')),
        };
        Ok(Place { cgroup, scope: None })
    }
}

impl Inner {
    /// Starts the scope of `pod` around its pause child. Does nothing for a pod that has none.
    pub(crate) async fn start_scope(&self, pod: &Pod, record: &PodRecord, pause: i32) -> Result<()> {
        let Some(name) = &record.scope else { return Ok(()) };
        let meta = record.config.metadata.clone().unwrap_or_default();
        let scope = Scope {
            name,
            description: &format!("Gantry pod {}/{} ({})", meta.namespace, meta.name, &pod.id[..12]),
            slice: &slice(record.realm, parent(&record.config))?,
            pid: pause.unsigned_abs(),
            limits: &limits(&record.config, &self.host)?,
        };
        self.scopes.systemd.start_scope(&scope).await?;
        check_member(pause, &record.cgroup_parent)?;
        let (hierarchies, leaf) =
            (self.hierarchies.clone(), format!("{}/{PAUSE_LEAF}", record.cgroup_parent));
        blocking(move || Ok(hierarchies.place(&leaf, pause.unsigned_abs())?)).await
    }

    /// Ends what runs in the scope of `pod`, and the scope. Succeeds when there is none.
    pub(crate) async fn stop_scope(&self, pod: &Arc<Pod>, name: &str) -> Result<()> {
        let cgroup = self.cgroup(&pod.record().cgroup_parent)?;
        let killed = cgroup.clone();
        blocking(move || Ok(killed.kill(KILL_LIMIT)?)).await?;
        self.scopes.systemd.stop(name).await?;
        // systemd removes what is below the scope; it does not know of what was made after that.
        blocking(move || Ok(cgroup.remove()?)).await
    }

    /// Takes the fresh monitor `pid` out of the daemon's cgroup to that of the monitors. Without systemd
    /// it was started there.
    pub(crate) async fn place_monitor(&self, pid: u32) -> Result<()> {
        if !self.scopes.uses_systemd() {
            return Ok(());
        }
        let known = lock(&self.scopes.monitors).clone();
        if known.is_some_and(|path| self.hierarchies.join(&path, pid).is_ok()) {
            return Ok(());
        }
        // There is none yet, or it ended with the last monitor in it. Two that find this at once make two.
        let name = format!("gantry-monitors-{}.scope", &crate::id::new_id()?[..12]);
        let slice = Slice::parse(MONITORS_SLICE)?;
        let scope = Scope {
            name: &name,
            description: "Gantry's monitors of pods",
            slice: &slice,
            pid,
            limits: &Limits::default(),
        };
        self.scopes.systemd.start_scope(&scope).await?;
        *lock(&self.scopes.monitors) = Some(format!("{}/{name}", slice.path()));
        Ok(())
    }

    /// Stops the slices that Gantry named, when nothing is in them any more.
    pub(crate) async fn stop_idle_slices(&self) -> Result<()> {
        if !self.scopes.uses_systemd() {
            return Ok(());
        }
        let realms = [Realm::Cri, Realm::Local].map(realm_slice);
        for name in realms.iter().map(String::as_str).chain([MONITORS_SLICE, TOP_SLICE]) {
            let cgroup = self.cgroup(&Slice::parse(name)?.path())?;
            // Another daemon's pods may be in it.
            if cgroup.pids()?.is_empty() {
                self.scopes.systemd.stop(name).await?;
            }
        }
        Ok(())
    }
}

fn realm_slice(realm: Realm) -> String {
    format!("gantry-{}.slice", realm.as_str())
}

fn slice(realm: Realm, parent: &str) -> Result<Slice> {
    Ok(match parent {
        "" => Slice::parse(&realm_slice(realm))?,
        parent => Slice::parse(parent)?,
    })
}

/// The cgroup parent that a pod's maker names; empty for none.
pub(crate) fn parent(config: &v1::PodSandboxConfig) -> &str {
    config.linux.as_ref().map_or("", |l| l.cgroup_parent.as_str())
}

/// Limits of a pod's scope. Whoever names a slice sets limits on that; the kubelet's sums here leave out
/// containers without a limit, and would limit those, too.
fn limits(config: &v1::PodSandboxConfig, host: &HostFacts) -> Result<Limits> {
    let linux = config.linux.clone().unwrap_or_default();
    if !linux.cgroup_parent.is_empty() {
        return Ok(Limits::default());
    }
    let (mut pod, more) = (linux.resources.unwrap_or_default(), linux.overhead.unwrap_or_default());
    // No limit stays no limit, whatever the overhead.
    let sum = |limit: i64, more: i64| if limit > 0 { limit.saturating_add(more.max(0)) } else { limit };
    pod.cpu_shares = sum(pod.cpu_shares, more.cpu_shares);
    pod.cpu_quota = sum(pod.cpu_quota, more.cpu_quota);
    pod.memory_swap_limit_in_bytes = sum(pod.memory_swap_limit_in_bytes, more.memory_limit_in_bytes);
    pod.memory_limit_in_bytes = sum(pod.memory_limit_in_bytes, more.memory_limit_in_bytes);
    Ok(resources::limits(&resources::oci(&pod, host)?))
}

/// systemd's word is not taken for it: the process is where the pod's cgroups will be made.
fn check_member(pid: i32, cgroup: &str) -> Result<()> {
    let file = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&file)
        .map_err(crate::error::io_error("read", std::path::Path::new(&file)))?;
    let found = text.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or_default();
    if found == cgroup {
        return Ok(());
    }
    let message =
        format!("systemd started the pod's scope, but its process is in {found:?}, not in {cgroup:?}");
    Err(Error::new(Kind::Internal, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(driver: CgroupDriver) -> Scopes {
        let v2 =
            Hierarchies::parse("30 27 0:9 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n").unwrap();
        Scopes::new(driver, &v2).unwrap()
    }

    #[test]
    fn pods_are_where_their_maker_wants_them() {
        let kubelet = "kubepods-burstable-pod1.slice";
        for (parent, cgroup) in [
            (kubelet, "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/crio-ab.scope"),
            ("/a.slice/a-b.slice", "/a.slice/a-b.slice/crio-ab.scope"),
            ("", "/gantry.slice/gantry-cri.slice/crio-ab.scope"),
        ] {
            let place = scopes(CgroupDriver::Systemd).place(Realm::Cri, "ab", parent).unwrap();
            assert_eq!((place.cgroup.as_str(), place.scope.as_deref()), (cgroup, Some("crio-ab.scope")));
        }
        let error = scopes(CgroupDriver::Systemd).place(Realm::Cri, "ab", "/kubepods/pod1").unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        for (parent, cgroup) in [("kubepods/pod1/", "/kubepods/pod1"), ("", "/gantry/local/ab")] {
            let place = scopes(CgroupDriver::Cgroupfs).place(Realm::Local, "ab", parent).unwrap();
            assert_eq!((place.cgroup.as_str(), place.scope), (cgroup, None));
        }
    }

    #[test]
    fn v1_hosts_are_refused() {
        let v1 =
            Hierarchies::parse("31 30 0:10 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n").unwrap();
        let error = Scopes::new(CgroupDriver::Systemd, &v1).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(Scopes::new(CgroupDriver::Cgroupfs, &v1).is_ok());
    }

    #[test]
    fn a_slice_that_is_named_has_the_limits() {
        let resources =
            |limit| v1::LinuxContainerResources { memory_limit_in_bytes: limit, ..Default::default() };
        let config = |parent: &str| v1::PodSandboxConfig {
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: parent.to_owned(),
                resources: Some(resources(64 << 20)),
                overhead: Some(resources(1 << 20)),
                ..Default::default()
            }),
            ..Default::default()
        };
        let host = HostFacts::default();
        assert_eq!(limits(&config(""), &host).unwrap().memory, Some(65 << 20));
        assert_eq!(limits(&config("a.slice"), &host).unwrap(), Limits::default());
    }
}
