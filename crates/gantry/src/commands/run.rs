//! `gantry run`: a pod with one container, through the CRI.

use super::{logs, pull, stop};
use crate::cli::RunArgs;
use crate::client::{Client, Realm};
use crate::{find, output, parse};
use anyhow::{Context as _, Result, bail};
use gantry_cri_api::local::v1::WaitRequest;
use gantry_cri_api::v1::{self, NamespaceMode};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};

/// Length of a CPU period in microseconds.
const CPU_PERIOD: i64 = 100_000;

/// Seconds that a container has to end when `run --rm` is interrupted.
const GRACE: i64 = 10;

pub(super) async fn run(client: &mut Client, args: RunArgs) -> Result<ExitCode> {
    let config = container_config(&args)?;
    let pod_config = pod_config(&args)?;
    let pod = existing_pod(client, &args).await?;
    ensure_image(client, &args).await?;
    let mut made = match pod {
        Some(pod) => Made { pod, own_pod: false, container: None },
        None => make_pod(client, &args, pod_config.clone()).await?,
    };
    let container = match start(client, &mut made, config, pod_config).await {
        Ok(container) => container,
        Err(error) => {
            // The first error is the one to be told last.
            if let Err(left) = remove(client, &made).await {
                eprintln!("gantry: left behind: {}", output::one_line(&left));
            }
            return Err(error);
        }
    };
    if !args.wait {
        output::line(&format!("pod {}\ncontainer {container}", made.pod))?;
        return Ok(ExitCode::SUCCESS);
    }
    let ended = attend(client, &made, &container, args.rm).await;
    if args.rm {
        remove(client, &made).await?;
    }
    ended
}

/// What a run made, as far as it came.
#[derive(Debug)]
struct Made {
    pod: String,
    own_pod: bool,
    container: Option<String>,
}

/// The pod that was asked for. The kubelet's are its own.
async fn existing_pod(client: &mut Client, args: &RunArgs) -> Result<Option<String>> {
    let Some(wanted) = &args.pod else { return Ok(None) };
    let found = find::pod(client, wanted, None).await?;
    if found.realm != Realm::Local {
        bail!("pod {wanted:?} belongs to the kubelet (realm cri); containers are made in local pods only");
    }
    Ok(Some(found.id))
}

async fn make_pod(client: &mut Client, args: &RunArgs, config: v1::PodSandboxConfig) -> Result<Made> {
    let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: args.runtime.clone() };
    let made = client.of(Realm::Local).runtime.run_pod_sandbox(request).await.context("make the pod")?;
    Ok(Made { pod: made.into_inner().pod_sandbox_id, own_pod: true, container: None })
}

/// Prints the log until the container has ended, and passes its status on; an interrupt ends it sooner.
async fn attend(client: &mut Client, made: &Made, container: &str, rm: bool) -> Result<ExitCode> {
    // Caught before anything else waits.
    let mut interrupts = signal(SignalKind::interrupt()).context("catch SIGINT")?;
    let mut terminations = signal(SignalKind::terminate()).context("catch SIGTERM")?;
    let mut other = client.clone();
    let interrupted = async {
        tokio::select! {
            _ = interrupts.recv() => 130,
            _ = terminations.recv() => 143,
        }
    };
    let code = tokio::select! {
        ended = print_until_end(client, container) => {
            return Ok(ExitCode::from(super::exec::status(ended?)));
        }
        code = interrupted => code,
    };
    if !rm {
        eprintln!("gantry: container {} runs on", output::short(container));
        return Ok(ExitCode::from(code));
    }
    let stopping = async {
        match made.own_pod {
            true => stop::pod(&mut other, Realm::Local, made.pod.clone(), GRACE).await,
            false => stop::container(&mut other, Realm::Local, container.to_owned(), GRACE).await,
        }
    };
    // Who interrupts again does not want to wait; the removal that follows kills what is left.
    tokio::select! {
        stopped = stopping => stopped.context("stop the container")?,
        _ = interrupts.recv() => {}
    }
    Ok(ExitCode::from(code))
}

/// The exit code of a container, once its log is printed.
async fn print_until_end(client: &mut Client, container: &str) -> Result<i32> {
    let printed = logs::print(client, Realm::Local, container, logs::How::TO_THE_END).await;
    match printed {
        Err(error) if !output::is_worth_telling(&error) => Err(error),
        printed => {
            let code = wait(client, container).await?;
            printed.context("print the log").map(|()| code)
        }
    }
}

async fn ensure_image(client: &mut Client, args: &RunArgs) -> Result<()> {
    let spec = v1::ImageSpec { image: args.image.clone(), ..Default::default() };
    let request = v1::ImageStatusRequest { image: Some(spec), verbose: false };
    let present = client.of(Realm::Local).images.image_status(request).await?.into_inner().image.is_some();
    match (args.pull.as_str(), present) {
        ("always", _) | ("missing", false) => pull::pull(client, &args.image).await.map(|_| ()),
        (_, true) => Ok(()),
        (_, false) => Err(find::nothing(&args.image)).context("--pull never"),
    }
}

async fn start(
    client: &mut Client,
    made: &mut Made,
    config: v1::ContainerConfig,
    pod_config: v1::PodSandboxConfig,
) -> Result<String> {
    let runtime = &mut client.of(Realm::Local).runtime;
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: made.pod.clone(),
        config: Some(config),
        sandbox_config: Some(pod_config),
    };
    let created = runtime.create_container(request).await.context("create the container")?;
    let container_id = created.into_inner().container_id;
    made.container = Some(container_id.clone());
    let request = v1::StartContainerRequest { container_id: container_id.clone() };
    runtime.start_container(request).await.context("start the container")?;
    Ok(container_id)
}

/// Waits for the end of a container; its exit code.
async fn wait(client: &mut Client, id: &str) -> Result<i32> {
    let request = WaitRequest { container_id: id.to_owned(), realm: Realm::Local.name().to_owned() };
    Ok(client.local.wait(request).await.context("wait for the container")?.into_inner().exit_code)
}

/// Takes away what was made: the pod, or the container in somebody else's pod.
async fn remove(client: &mut Client, made: &Made) -> Result<()> {
    let runtime = &mut client.of(Realm::Local).runtime;
    if made.own_pod {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: made.pod.clone() };
        runtime.remove_pod_sandbox(request).await.context("remove the pod")?;
    } else if let Some(container_id) = made.container.clone() {
        let request = v1::RemoveContainerRequest { container_id };
        runtime.remove_container(request).await.context("remove the container")?;
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
        stdin: args.interactive,
        tty: args.tty,
        mounts: mounts?,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources),
            security_context: Some(security),
        }),
        ..Default::default()
    })
}
