//! The life of one pod by CRI calls, each of them timed.

use crate::check;
use crate::kubelet::{CONTAINER_PORT, Pod};
use crate::samples::{Metric, Samples};
use crate::state::Side;
use anyhow::{Context as _, Result, bail, ensure};
use gantry_cri_api::v1;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

/// Grace period of StopContainer in seconds. The container ends at once; who waits for this has a fault.
const GRACE: i64 = 30;

/// Ids of a pod that runs.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) pod: Pod,
    pub(crate) sandbox: String,
    pub(crate) container: String,
}

/// How long a started container may take until its program runs.
const RUN_LIMIT: Duration = Duration::from_secs(20);

/// Starts a pod with its container; times each call, their sum, and the time until the program runs.
///
/// Runtimes may answer StartContainer before the program is executed.
pub(crate) async fn start(side: &Side, pod: Pod, samples: &mut Samples) -> Result<Running> {
    let mut runtime = side.client.runtime.clone();
    let readiness = pod.watch()?;
    let begin = Instant::now();
    let request = v1::RunPodSandboxRequest {
        config: Some(pod.sandbox.clone()),
        runtime_handler: side.spec.handler.clone(),
    };
    let (sandbox, one) = samples
        .time(Metric::RunPodSandbox, runtime.run_pod_sandbox(request))
        .await
        .with_context(|| format!("{}: RunPodSandbox", side.spec.name))?;
    let sandbox = sandbox.into_inner().pod_sandbox_id;
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(pod.container.clone()),
        sandbox_config: Some(pod.sandbox.clone()),
    };
    let (container, two) = samples
        .time(Metric::CreateContainer, runtime.create_container(request))
        .await
        .with_context(|| format!("{}: CreateContainer", side.spec.name))?;
    let container = container.into_inner().container_id;
    let request = v1::StartContainerRequest { container_id: container.clone() };
    let (_, three) = samples
        .time(Metric::StartContainer, runtime.start_container(request))
        .await
        .with_context(|| format!("{}: StartContainer", side.spec.name))?;
    samples.add(Metric::PodStart, one + two + three);
    let name = &side.spec.name;
    let ready = tokio::task::spawn_blocking(move || readiness.wait(RUN_LIMIT));
    ready.await.context("wait for the container")?.with_context(|| name.clone())?;
    samples.add(Metric::PodRunning, begin.elapsed().as_secs_f64() * 1e3);
    Ok(Running { pod, sandbox, container })
}

/// Stops and removes a pod; times each call and their sum.
pub(crate) async fn end(side: &Side, running: &Running, samples: &mut Samples) -> Result<()> {
    let mut runtime = side.client.runtime.clone();
    let name = &side.spec.name;
    let Running { sandbox, container, .. } = running;
    let request = v1::StopContainerRequest { container_id: container.clone(), timeout: GRACE };
    let (_, one) = samples
        .time(Metric::StopContainer, runtime.stop_container(request))
        .await
        .with_context(|| format!("{name}: StopContainer"))?;
    // One that was killed would tell of a signal that did not come through.
    let request = v1::ContainerStatusRequest { container_id: container.clone(), verbose: false };
    let status =
        runtime.container_status(request).await.with_context(|| format!("{name}: ContainerStatus"))?;
    let status = status.into_inner().status.unwrap_or_default();
    ensure!(
        status.state() == v1::ContainerState::ContainerExited && status.exit_code == 0,
        "{name}: after StopContainer the container is {:?}, exit code {}",
        status.state(),
        status.exit_code
    );
    let request = v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    let (_, two) = samples
        .time(Metric::StopPodSandbox, runtime.stop_pod_sandbox(request))
        .await
        .with_context(|| format!("{name}: StopPodSandbox"))?;
    let request = v1::RemoveContainerRequest { container_id: container.clone() };
    let (_, three) = samples
        .time(Metric::RemoveContainer, runtime.remove_container(request))
        .await
        .with_context(|| format!("{name}: RemoveContainer"))?;
    let request = v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    let (_, four) = samples
        .time(Metric::RemovePodSandbox, runtime.remove_pod_sandbox(request))
        .await
        .with_context(|| format!("{name}: RemovePodSandbox"))?;
    samples.add(Metric::StopAndRemove, one + two + three + four);
    side.forget(&running.pod)
}

/// ExecSync of `true`, `times` over.
pub(crate) async fn exec(side: &Side, running: &Running, times: usize, samples: &mut Samples) -> Result<()> {
    for _ in 0..times {
        let call = exec_sync(side, running, &["true"]);
        let (answer, _) = samples.time(Metric::ExecSync, call).await?;
        ensure!(answer.exit_code == 0, "{}: `true` ended with {}", side.spec.name, answer.exit_code);
    }
    Ok(())
}

/// ContainerStats, `times` over; skipped by name where it is not there.
pub(crate) async fn stats(side: &Side, running: &Running, times: usize, samples: &mut Samples) -> Result<()> {
    let mut runtime = side.client.runtime.clone();
    for _ in 0..times {
        let request = v1::ContainerStatsRequest { container_id: running.container.clone() };
        match samples.time(Metric::ContainerStats, runtime.container_stats(request)).await {
            Ok((answer, _)) => {
                let memory = answer.into_inner().stats.and_then(|stats| stats.memory);
                let used = memory.and_then(|memory| memory.working_set_bytes).map_or(0, |bytes| bytes.value);
                ensure!(used > 0, "{}: ContainerStats tells of no memory", side.spec.name);
            }
            Err(status) if status.code() == Code::Unimplemented => {
                samples.skip(Metric::ContainerStats, "not implemented");
                return Ok(());
            }
            Err(status) => bail!("{}: ContainerStats: {status}", side.spec.name),
        }
    }
    Ok(())
}

/// Checks that the pod is what was asked for.
pub(crate) async fn verify(side: &Side, running: &Running) -> Result<()> {
    let pid = side.container_pid(&running.container).await?;
    let pause = side.sandbox_pid(&running.sandbox).await?;
    check::container(pid, pause, &running.pod, &side.hierarchies)
        .with_context(|| format!("{}: the container is not what was asked for", side.spec.name))
}

/// Checks that the host port leads into the pod, and that ExecSync is confined as the container is.
pub(crate) async fn verify_deeply(side: &Side, running: &Running) -> Result<()> {
    let name = &side.spec.name;
    let status = exec_sync(side, running, &["cat", "/proc/self/status"]).await?;
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    ensure!(
        text.lines().any(|l| l.split_whitespace().eq(["Seccomp:", "2"])),
        "{name}: exec runs without seccomp"
    );

    let port = CONTAINER_PORT.to_string();
    let served = exec_sync(side, running, &["httpd", "-p", &port, "-h", "/etc"]).await?;
    ensure!(served.exit_code == 0, "{name}: httpd ended with {}", served.exit_code);
    let page = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", running.pod.host_port)).await?;
        stream.write_all(b"GET /hosts HTTP/1.0\r\n\r\n").await?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await?;
        Ok::<_, std::io::Error>(page)
    };
    let page = tokio::time::timeout(Duration::from_secs(10), page)
        .await
        .with_context(|| format!("{name}: nothing comes back from host port {}", running.pod.host_port))?
        .with_context(|| format!("{name}: host port {}", running.pod.host_port))?;
    ensure!(page.contains("written for a benchmark"), "{name}: the host port leads elsewhere: {page}");
    Ok(())
}

async fn exec_sync(side: &Side, running: &Running, command: &[&str]) -> Result<v1::ExecSyncResponse> {
    let request = v1::ExecSyncRequest {
        container_id: running.container.clone(),
        cmd: command.iter().map(|part| (*part).to_owned()).collect(),
        timeout: 30,
    };
    let answer = side.client.runtime.clone().exec_sync(request).await;
    Ok(answer.with_context(|| format!("{}: ExecSync of {}", side.spec.name, command.join(" ")))?.into_inner())
}
