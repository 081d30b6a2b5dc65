//! What was measured: raw samples by measurement.

use crate::stats::Summary;
use serde::Serialize;
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Instant;

/// A measurement; in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    RunPodSandbox,
    CreateContainer,
    StartContainer,
    PodStart,
    PodRunning,
    ExecSync,
    StopContainer,
    StopPodSandbox,
    RemoveContainer,
    RemovePodSandbox,
    StopAndRemove,
    ContainerStats,
    ListPodSandbox,
    ListContainers,
    ListContainerStats,
    BatchUp,
    BatchDown,
    Restart,
    DaemonFresh,
    DaemonIdle,
    DaemonLoaded,
    HelpersPerPod,
}

impl Metric {
    /// Name in the table.
    pub(crate) fn title(self, pods: usize) -> String {
        match self {
            Self::RunPodSandbox => "RunPodSandbox".into(),
            Self::CreateContainer => "CreateContainer".into(),
            Self::StartContainer => "StartContainer".into(),
            Self::PodStart => "pod start, total".into(),
            Self::PodRunning => "until the program runs".into(),
            Self::ExecSync => "ExecSync of `true`".into(),
            Self::StopContainer => "StopContainer".into(),
            Self::StopPodSandbox => "StopPodSandbox".into(),
            Self::RemoveContainer => "RemoveContainer".into(),
            Self::RemovePodSandbox => "RemovePodSandbox".into(),
            Self::StopAndRemove => "stop + remove, total".into(),
            Self::ContainerStats => "ContainerStats".into(),
            Self::ListPodSandbox => format!("ListPodSandbox, {pods} pods"),
            Self::ListContainers => format!("ListContainers, {pods} pods"),
            Self::ListContainerStats => format!("ListContainerStats, {pods} pods"),
            Self::BatchUp => format!("{pods} pods up"),
            Self::BatchDown => format!("{pods} pods down"),
            Self::Restart => format!("restart with {pods} pods"),
            Self::DaemonFresh => "daemon as started, PSS".into(),
            Self::DaemonIdle => "daemon without pods, PSS".into(),
            Self::DaemonLoaded => format!("daemon with {pods} pods, PSS"),
            Self::HelpersPerPod => "helpers per pod, PSS".into(),
        }
    }

    /// Unit of its samples.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::DaemonFresh | Self::DaemonIdle | Self::DaemonLoaded | Self::HelpersPerPod => "MiB",
            _ => "ms",
        }
    }
}

/// All samples of one side.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Samples {
    raw: BTreeMap<Metric, Vec<f64>>,
    /// What could not be measured, and why.
    skipped: BTreeMap<Metric, String>,
}

impl Samples {
    /// Adds a sample in the metric's unit.
    pub(crate) fn add(&mut self, metric: Metric, value: f64) {
        self.raw.entry(metric).or_default().push(value);
    }

    /// Awaits `call` and adds how long it took, if it succeeded; gives both.
    pub(crate) async fn time<T, E>(
        &mut self,
        metric: Metric,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<(T, f64), E> {
        let begin = Instant::now();
        let value = call.await?;
        let took = begin.elapsed().as_secs_f64() * 1e3;
        self.add(metric, took);
        Ok((value, took))
    }

    /// Notes why `metric` has no samples.
    pub(crate) fn skip(&mut self, metric: Metric, reason: &str) {
        self.skipped.insert(metric, reason.to_owned());
    }

    /// Why `metric` was skipped, if it was.
    pub(crate) fn skipped(&self, metric: Metric) -> Option<&str> {
        self.skipped.get(&metric).map(String::as_str)
    }

    /// Raw samples, oldest first.
    pub(crate) fn raw(&self, metric: Metric) -> &[f64] {
        self.raw.get(&metric).map_or(&[], Vec::as_slice)
    }

    /// Percentiles.
    pub(crate) fn summary(&self, metric: Metric) -> Option<Summary> {
        Summary::of(self.raw(metric))
    }

    /// Metrics with samples or with a reason to have none.
    pub(crate) fn metrics(&self) -> impl Iterator<Item = Metric> {
        self.raw.keys().chain(self.skipped.keys()).copied()
    }

    /// Adds all of `other`.
    pub(crate) fn absorb(&mut self, other: Self) {
        for (metric, mut values) in other.raw {
            self.raw.entry(metric).or_default().append(&mut values);
        }
        self.skipped.extend(other.skipped);
    }
}
