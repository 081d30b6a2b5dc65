//! `gantry run`: a pod with one container, through the CRI.

use super::{logs, pull};
use crate::cli::RunArgs;
use crate::client::Client;
use crate::{find, parse};
use anyhow::{Context as _, Result, bail};
use gantry_cri_api::local::v1::WaitRequest;
use gantry_cri_api::v1::{self, NamespaceMode};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// Length of a CPU period in microseconds.
const CPU_PERIOD: i64 = 100_000;

pub(super) async fn run(client: &mut Client, args: RunArgs) -> Result<ExitCode> {
    let config = container_config(&args)?;
    let pod_config = pod_config(&args)?;
    ensure_image(client, &args).await?;
    let (pod, own_pod) = match &args.pod {
        Some(wanted) => (find::pod(client, wanted).await?, false),
        None => {
            let request = v1::RunPodSandboxRequest {
                config: Some(pod_config.clone()),
                runtime_handler: args.runtime.clone(),
            };
            let made = client.runtime.run_pod_sandbox(request).await.context("make the pod")?;
            (made.into_inner().pod_sandbox_id, true)
        }
    };
    match start(client, &pod, config, pod_config).await {
        Ok(container) => {
            if !args.wait {
                println!("pod {pod}\ncontainer {container}");
                return Ok(ExitCode::SUCCESS);
            }
            let code = wait(client, &container).await?;
            logs::print_all(client, &container).await?;
            if args.rm {
                remove(client, &pod, own_pod, &container).await?;
            }
            Ok(ExitCode::from(super::exec::status(code)))
        }
        Err(error) => {
            if own_pod {
                // The first error is the one to tell; a pod that cannot be removed shows in the list.
                let request = v1::RemovePodSandboxRequest { pod_sandbox_id: pod };
                let _shown_in_list = client.runtime.remove_pod_sandbox(request).await;
            }
            Err(error)
        }
    }
}

async fn ensure_image(client: &mut Client, args: &RunArgs) -> Result<()> {
    let spec = v1::ImageSpec { image: args.image.clone(), ..Default::default() };
    let request = v1::ImageStatusRequest { image: Some(spec), verbose: false };
    let present = client.images.image_status(request).await?.into_inner().image.is_some();
    match (args.pull.as_str(), present) {
        ("always", _) | ("missing", false) => pull::pull(client, &args.image).await.map(|_| ()),
        (_, true) => Ok(()),
        (_, false) => Err(find::nothing(&args.image)).context("--pull never"),
    }
}

async fn start(
    client: &mut Client,
    pod: &str,
    config: v1::ContainerConfig,
    pod_config: v1::PodSandboxConfig,
) -> Result<String> {
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(config),
        sandbox_config: Some(pod_config),
    };
    let created = client.runtime.create_container(request).await.context("create the container")?;
    let container_id = created.into_inner().container_id;
    let request = v1::StartContainerRequest { container_id: container_id.clone() };
    client.runtime.start_container(request).await.context("start the container")?;
    Ok(container_id)
}

/// Waits for the end of a container; its exit code.
async fn wait(client: &mut Client, id: &str) -> Result<i32> {
    let request = WaitRequest { container_id: id.to_owned() };
    Ok(client.local.wait(request).await.context("wait for the container")?.into_inner().exit_code)
}

async fn remove(client: &mut Client, pod: &str, own_pod: bool, container: &str) -> Result<()> {
    if own_pod {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: pod.to_owned() };
        client.runtime.remove_pod_sandbox(request).await.context("remove the pod")?;
    } else {
        let request = v1::RemoveContainerRequest { container_id: container.to_owned() };
        client.runtime.remove_container(request).await.context("remove the container")?;
    }
    Ok(())
}

fn name(args: &RunArgs) -> String {
    if let Some(name) = &args.name {
        return name.clone();
    }
    let base = args.image.rsplit('/').next().unwrap_or("container");
    let base = base.split([':', '@']).next().unwrap_or("container");
    format!("{base}-{}", &unique()[10..])
}

/// Different at every call on this machine; no secret.
fn unique() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:016x}", now.as_nanos() as u64 ^ u64::from(std::process::id()) << 40)
}

fn namespace_options(args: &RunArgs) -> v1::NamespaceOption {
    let pid = match args.pid.as_str() {
        "pod" => NamespaceMode::Pod,
        "host" => NamespaceMode::Node,
        _ => NamespaceMode::Container,
    };
    let network = if args.network == "host" { NamespaceMode::Node } else { NamespaceMode::Pod };
    v1::NamespaceOption { network: network.into(), pid: pid.into(), ..Default::default() }
}

fn pod_config(args: &RunArgs) -> Result<v1::PodSandboxConfig> {
    let name = name(args);
    let ports: Result<Vec<_>> = args.publish.iter().map(|p| parse::port(p)).collect();
    let ports = ports?;
    if args.pod.is_some() && !ports.is_empty() {
        bail!("--publish belongs to the pod; it cannot be given with --pod");
    }
    let security = v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespace_options(args)),
        privileged: args.privileged,
        ..Default::default()
    };
    Ok(v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            uid: unique(),
            namespace: "local".into(),
            name: name.clone(),
            attempt: 0,
        }),
        hostname: match (&args.hostname, args.network.as_str()) {
            (_, "host") => String::new(),
            (Some(given), _) => given.clone(),
            (None, _) => name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(63).collect(),
        },
        port_mappings: ports,
        linux: Some(v1::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() }),
        ..Default::default()
    })
}

fn container_config(args: &RunArgs) -> Result<v1::ContainerConfig> {
    let mut resources = v1::LinuxContainerResources::default();
    if let Some(size) = &args.memory {
        resources.memory_limit_in_bytes = parse::bytes(size)?;
    }
    if let Some(cpus) = args.cpus {
        if !(0.001..=100_000.0).contains(&cpus) {
            bail!("--cpus {cpus}: write a number of CPUs, e.g. 0.5");
        }
        resources.cpu_period = CPU_PERIOD;
        resources.cpu_quota = (cpus * CPU_PERIOD as f64) as i64;
    }
    let default_seccomp = v1::SecurityProfile {
        profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
        localhost_ref: String::new(),
    };
    let mut security = v1::LinuxContainerSecurityContext {
        privileged: args.privileged,
        namespace_options: Some(namespace_options(args)),
        seccomp: (!args.privileged).then_some(default_seccomp),
        ..Default::default()
    };
    match args.user.as_deref().map(|u| (u, u.parse::<i64>())) {
        Some((_, Ok(value))) => security.run_as_user = Some(v1::Int64Value { value }),
        Some((name, Err(_))) => security.run_as_username = name.to_owned(),
        None => {}
    }
    let envs: Result<Vec<_>> = args.env.iter().map(|e| parse::variable(e)).collect();
    let mounts: Result<Vec<_>> = args.volume.iter().map(|v| parse::volume(v)).collect();
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name(args), attempt: 0 }),
        image: Some(v1::ImageSpec { image: args.image.clone(), ..Default::default() }),
        args: args.command.clone(),
        working_dir: args.workdir.clone().unwrap_or_default(),
        envs: envs?,
        mounts: mounts?,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources),
            security_context: Some(security),
        }),
        ..Default::default()
    })
}
