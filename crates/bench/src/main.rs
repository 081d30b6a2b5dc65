#![forbid(unsafe_code)]
//! `gantry-bench`: measures CRI servers side by side, over their sockets and by `/proc`.
//!
//! It speaks plain CRI v1 and sends every side the same configurations as the kubelet would. Sides take turns
//! pod by pod, and each pod is checked to be what was asked for. docs/benchmarks.md tells how to run it.

mod batch;
mod cgroups;
mod check;
mod client;
mod cycle;
mod kubelet;
mod order;
mod processes;
mod report;
mod samples;
mod side;
mod state;
mod stats;

use anyhow::{Context as _, Result, bail, ensure};
use cgroups::Hierarchies;
use clap::Parser;
use report::Column;
use samples::{Metric, Samples};
use side::SideSpec;
use state::{Shared, Side};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};

/// Measures CRI servers side by side.
#[derive(Debug, Parser)]
#[command(name = "gantry-bench", version)]
struct Args {
    /// A daemon: name=NAME,socket=PATH[,handler=HANDLER][,start=COMMAND]; the first is what others are
    /// compared with. COMMAND starts the daemon and becomes it; without one restarts are not measured.
    #[arg(long = "side", required = true, value_name = "SPEC")]
    sides: Vec<SideSpec>,
    /// Image of the containers; it needs sh, sleep, cat, true and httpd.
    #[arg(long)]
    image: String,
    /// Directory for the pods' volumes and logs; made, and removed at the end.
    #[arg(long)]
    dir: PathBuf,
    /// Control group that pods are below; made, and removed at the end.
    #[arg(long, default_value = "/gantry-bench")]
    cgroup_parent: String,
    /// Pods of each side, one after another.
    #[arg(long, default_value_t = 40)]
    rounds: usize,
    /// Rounds before these that do not count.
    #[arg(long, default_value_t = 3)]
    warm_up: usize,
    /// ExecSync and ContainerStats calls in each round.
    #[arg(long, default_value_t = 3)]
    calls: usize,
    /// Pods at once of a batch; 0 leaves the batches out.
    #[arg(long, default_value_t = 50)]
    pods: usize,
    /// Calls at a time in a batch.
    #[arg(long, default_value_t = 10)]
    at_once: usize,
    /// Batches of each side.
    #[arg(long, default_value_t = 3)]
    batches: usize,
    /// List calls of each kind with a batch running.
    #[arg(long, default_value_t = 30)]
    lists: usize,
    /// Restarts with a batch running.
    #[arg(long, default_value_t = 2)]
    restarts: usize,
    /// First host port; pods take them in turn.
    #[arg(long, default_value_t = 31000)]
    first_port: u16,
    /// Number of host ports.
    #[arg(long, default_value_t = 1000)]
    ports: u16,
    /// Where the result goes as JSON, with raw samples.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("gantry-bench: start the event loop: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gantry-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, cleans up however that went, and reports.
async fn run(args: Args) -> Result<()> {
    ensure!(
        args.cgroup_parent.starts_with('/') && args.cgroup_parent != "/",
        "--cgroup-parent must be below /"
    );
    ensure!(args.at_once > 0 && args.ports > 0, "--at-once and --ports must be at least 1");
    ensure!(args.first_port.checked_add(args.ports).is_some(), "the host ports end above 65535");
    ensure!(usize::from(args.ports) > args.pods, "--ports must be more than --pods");
    std::fs::create_dir_all(&args.dir).with_context(|| format!("make {}", args.dir.display()))?;
    let shared = Arc::new(Shared {
        image: args.image.clone(),
        dir: args.dir.clone(),
        cgroup_parent: args.cgroup_parent.trim_end_matches('/').to_owned(),
        first_port: args.first_port,
        ports: args.ports,
        made: AtomicU16::new(0),
    });
    let mut sides = Vec::new();
    for spec in &args.sides {
        ensure!(!sides.iter().any(|s: &Side| s.spec.name == spec.name), "two sides are named {}", spec.name);
        sides.push(Side::connect(spec.clone(), shared.clone()).await?);
    }
    let progress = Progress { begin: Instant::now() };
    let mut terminated = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let measured = tokio::select! {
        measured = measure(&mut sides, &args, &progress) => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        _ = terminated.recv() => Err(anyhow::anyhow!("terminated")),
    };
    let mut left = Vec::new();
    for side in &mut sides {
        if let Err(error) = side.clean().await {
            left.push(format!("{error:#}"));
        }
    }
    let removed = Hierarchies::of_host().and_then(|all| all.remove(&shared.cgroup_parent));
    left.extend(removed.err().map(|error| format!("{error:#}")));
    if let Err(error) = std::fs::remove_dir_all(&args.dir) {
        left.push(format!("remove {}: {error}", args.dir.display()));
    }
    match (measured, left.is_empty()) {
        (Ok(columns), true) => publish(&columns, &args),
        (Ok(_), false) => bail!("cleaning up: {}", left.join("; ")),
        (Err(error), true) => Err(error),
        (Err(error), false) => Err(error.context(format!("and cleaning up failed: {}", left.join("; ")))),
    }
}

async fn measure(sides: &mut [Side], args: &Args, progress: &Progress) -> Result<Vec<Column>> {
    let mut all = vec![Samples::default(); sides.len()];
    let mut versions = Vec::new();
    for (side, samples) in sides.iter().zip(&mut all) {
        samples.add(Metric::DaemonFresh, batch::mib(processes::pss_kib(side.daemon().await?)?));
        versions.push(side.version().await?);
    }
    for side in &*sides {
        progress.say(&format!("{}: pulling {}", side.spec.name, args.image));
        side.pull().await?;
    }
    for round in 0..args.warm_up + args.rounds {
        if round % 5 == 0 {
            progress.say(&format!("round {} of {}", round + 1, args.warm_up + args.rounds));
        }
        for index in order::of_round(round, sides.len()) {
            let mut samples = Samples::default();
            one_pod(&sides[index], round == 0, args.calls, &mut samples).await?;
            if round >= args.warm_up {
                all[index].absorb(samples);
            }
        }
    }
    let plan =
        batch::Plan { pods: args.pods, at_once: args.at_once, calls: args.lists, restarts: args.restarts };
    for round in 0..if args.pods == 0 { 0 } else { args.batches } {
        for index in order::of_round(round, sides.len()) {
            let name = sides[index].spec.name.clone();
            let say = |what: &str| {
                progress.say(&format!("batch {} of {}, {name}: {what}", round + 1, args.batches));
            };
            batch::run(&mut sides[index], plan, &mut all[index], say).await?;
        }
    }
    let columns = sides.iter().zip(versions).zip(all).map(|((side, version), samples)| Column {
        name: side.spec.name.clone(),
        version,
        handler: side.spec.handler.clone(),
        samples,
    });
    Ok(columns.collect())
}

async fn one_pod(side: &Side, first: bool, calls: usize, samples: &mut Samples) -> Result<()> {
    let running = cycle::start(side, side.prepare()?, samples).await?;
    cycle::verify(side, &running).await?;
    cycle::exec(side, &running, calls, samples).await?;
    cycle::stats(side, &running, calls, samples).await?;
    if first {
        cycle::verify_deeply(side, &running).await?;
    }
    cycle::end(side, &running, samples).await
}

fn publish(columns: &[Column], args: &Args) -> Result<()> {
    println!("{}", report::table(columns, args.pods));
    for column in columns {
        println!("{}: {}, handler {:?}", column.name, column.version, column.handler);
    }
    if let Some(path) = &args.json {
        let settings = serde_json::json!({
            "rounds": args.rounds, "warm_up": args.warm_up, "calls": args.calls, "pods": args.pods,
            "at_once": args.at_once, "batches": args.batches, "lists": args.lists, "restarts": args.restarts,
        });
        let text = serde_json::to_string_pretty(&report::json(columns, &settings)).context("write JSON")?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Tells on standard error what is being done, with the seconds since the beginning.
struct Progress {
    begin: Instant,
}

impl Progress {
    fn say(&self, what: &str) {
        eprintln!("{:6.1} s  {what}", self.begin.elapsed().as_secs_f64());
    }
}
