//! Many pods at once: how long they take, what they cost, and how soon a restarted daemon knows them again.

use crate::cycle::{self, Running};
use crate::processes::{Processes, pss_kib, terminate};
use crate::samples::{Metric, Samples};
use crate::state::Side;
use anyhow::{Context as _, Result, bail, ensure};
use gantry_cri_api::v1;
use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::Code;

/// A daemon that takes longer to end, or to come back, has a fault.
const RESTART_LIMIT: Duration = Duration::from_secs(60);
/// Between two questions to a daemon that is starting.
const ASK_AGAIN: Duration = Duration::from_millis(1);

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Pods.
    pub(crate) pods: usize,
    /// Of them at the same time.
    pub(crate) at_once: usize,
    /// List calls of each kind.
    pub(crate) calls: usize,
    /// Restarts, where the side has a command for it.
    pub(crate) restarts: usize,
}

/// Brings `plan.pods` pods up, measures with them, and takes them down.
pub(crate) async fn run(
    side: &mut Side,
    plan: Plan,
    samples: &mut Samples,
    say: impl Fn(&str),
) -> Result<()> {
    let daemon = side.daemon().await?;
    samples.add(Metric::DaemonIdle, mib(pss_kib(daemon)?));
    let before = Processes::now()?;

    say(&format!("{} pods up, {} at a time", plan.pods, plan.at_once));
    let mut pods = Vec::with_capacity(plan.pods);
    for _ in 0..plan.pods {
        pods.push(side.prepare()?);
    }
    let begin = Instant::now();
    let at = side.clone();
    let running = each(pods, plan.at_once, move |pod| {
        let side = at.clone();
        async move { cycle::start(&side, pod, &mut Samples::default()).await }
    })
    .await?;
    samples.add(Metric::BatchUp, begin.elapsed().as_secs_f64() * 1e3);

    say("checking them, memory, lists");
    for pod in &running {
        cycle::verify(side, pod).await?;
    }
    lists(side, plan, samples).await?;
    memory(side, daemon, &before, &running, samples).await?;

    if let Some(command) = side.spec.start.clone() {
        for number in 1..=plan.restarts {
            say(&format!("restart {number} of {} with {} pods", plan.restarts, plan.pods));
            restart(side, &command, plan.pods, samples).await?;
        }
    } else {
        samples.skip(Metric::Restart, "no start= command");
    }

    say(&format!("{} pods down", plan.pods));
    let begin = Instant::now();
    let at = side.clone();
    each(running, plan.at_once, move |pod| {
        let side = at.clone();
        async move { cycle::end(&side, &pod, &mut Samples::default()).await }
    })
    .await?;
    samples.add(Metric::BatchDown, begin.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// Does `work` on each item, `at_once` of them at the same time. The first failure ends it.
async fn each<T, R, F, W>(items: Vec<T>, at_once: usize, work: W) -> Result<Vec<R>>
where
    T: Send + 'static,
    R: Send + 'static,
    F: Future<Output = Result<R>> + Send + 'static,
    W: Fn(T) -> F,
{
    let mut items = items.into_iter();
    let mut tasks: JoinSet<Result<R>> = items.by_ref().take(at_once).map(&work).collect();
    let mut done = Vec::new();
    while let Some(result) = tasks.join_next().await {
        done.push(result.context("a task of the batch")??);
        if let Some(item) = items.next() {
            tasks.spawn(work(item));
        }
    }
    Ok(done)
}

async fn lists(side: &Side, plan: Plan, samples: &mut Samples) -> Result<()> {
    let name = &side.spec.name;
    let mut runtime = side.client.runtime.clone();
    for _ in 0..plan.calls {
        let pods = runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default());
        let (pods, _) = samples
            .time(Metric::ListPodSandbox, pods)
            .await
            .with_context(|| format!("{name}: ListPodSandbox"))?;
        ensure!(
            pods.get_ref().items.len() == plan.pods,
            "{name}: {} pods are listed",
            pods.get_ref().items.len()
        );
        let all = runtime.list_containers(v1::ListContainersRequest::default());
        let (all, _) = samples
            .time(Metric::ListContainers, all)
            .await
            .with_context(|| format!("{name}: ListContainers"))?;
        ensure!(
            all.get_ref().containers.len() == plan.pods,
            "{name}: {} containers are listed",
            all.get_ref().containers.len()
        );
    }
    for _ in 0..plan.calls {
        let call = runtime.list_container_stats(v1::ListContainerStatsRequest::default());
        match samples.time(Metric::ListContainerStats, call).await {
            Ok((stats, _)) => {
                let count = stats.get_ref().stats.len();
                ensure!(count == plan.pods, "{name}: statistics of {count} containers");
            }
            Err(status) if status.code() == Code::Unimplemented => {
                samples.skip(Metric::ListContainerStats, "not implemented");
                break;
            }
            Err(status) => bail!("{name}: ListContainerStats: {status}"),
        }
    }
    Ok(())
}

async fn memory(
    side: &Side,
    daemon: i32,
    before: &Processes,
    running: &[Running],
    samples: &mut Samples,
) -> Result<()> {
    let (mut pauses, mut containers) = (BTreeSet::new(), BTreeSet::new());
    for pod in running {
        pauses.extend(side.sandbox_pid(&pod.sandbox).await?);
        containers.insert(side.container_pid(&pod.container).await?);
    }
    samples.add(Metric::DaemonLoaded, mib(pss_kib(daemon)?));
    let helpers = Processes::now()?.helpers(before, daemon, &pauses, &containers);
    let mut sum = 0;
    for pid in &helpers {
        sum += pss_kib(*pid)?;
    }
    samples.add(Metric::HelpersPerPod, mib(sum) / running.len() as f64);
    Ok(())
}

/// Ends the daemon, starts it, and times from its start until both lists are complete.
async fn restart(
    side: &mut Side,
    command: &std::path::Path,
    pods: usize,
    samples: &mut Samples,
) -> Result<()> {
    let name = side.spec.name.clone();
    let daemon = side.daemon().await?;
    terminate(daemon, RESTART_LIMIT).await.with_context(|| format!("{name}: end the daemon"))?;
    let begin = Instant::now();
    // The daemon outlives this program: what ends it is whoever started it first.
    let mut child = tokio::process::Command::new(command)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("{name}: run {}", command.display()))?;
    let complete = async {
        // Neither the time between bind and listen nor the daemon's knowledge is something the kernel tells.
        let mut again = tokio::time::interval(ASK_AGAIN);
        loop {
            again.tick().await;
            if side.reconnect().await.is_ok() && is_complete(side, pods).await {
                return;
            }
        }
    };
    tokio::select! {
        done = tokio::time::timeout(RESTART_LIMIT, complete) => {
            done.with_context(|| format!("{name}: the lists are not complete {} s after a restart", RESTART_LIMIT.as_secs()))?;
        }
        ended = child.wait() => bail!("{name}: {} ended: {:?}", command.display(), ended),
    }
    samples.add(Metric::Restart, begin.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

async fn is_complete(side: &Side, pods: usize) -> bool {
    let mut runtime = side.client.runtime.clone();
    let Ok(sandboxes) = runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await else {
        return false;
    };
    let ready = i32::from(v1::PodSandboxState::SandboxReady);
    if sandboxes.get_ref().items.iter().filter(|pod| pod.state == ready).count() != pods {
        return false;
    }
    let Ok(containers) = runtime.list_containers(v1::ListContainersRequest::default()).await else {
        return false;
    };
    let running = i32::from(v1::ContainerState::ContainerRunning);
    containers.get_ref().containers.iter().filter(|c| c.state == running).count() == pods
}

pub(crate) fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn a_batch_has_its_width() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let done = each((0..20).collect(), 4, |item: usize| {
            let (now, most) = (now.clone(), most.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(item)
            }
        })
        .await
        .unwrap();
        assert_eq!(done.len(), 20);
        assert_eq!(most.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn the_first_failure_ends_a_batch() {
        let begun = Arc::new(AtomicUsize::new(0));
        let result = each((0..20).collect(), 1, |item: usize| {
            let begun = begun.clone();
            async move {
                begun.fetch_add(1, Ordering::SeqCst);
                ensure!(item < 2, "item {item}");
                Ok(())
            }
        })
        .await;
        assert!(result.is_err());
        assert_eq!(begun.load(Ordering::SeqCst), 3);
    }
}
