//! The command line: what each subcommand takes.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Kubernetes container runtime, and pods on one machine without Kubernetes.
#[derive(Debug, Parser)]
#[command(
    name = "gantry",
    version,
    after_help = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 no such object; \
exec and run --wait pass the command's own status on."
)]
pub(crate) struct Cli {
    /// Socket of the daemon (unix:///path).
    #[arg(long, global = true, value_name = "ADDRESS", default_value = "unix:///run/gantry/local.sock")]
    pub(crate) socket: String,
    /// How lists are printed.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How lists are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// One JSON document.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon.
    Serve(Box<ServeArgs>),
    /// List pod sandboxes.
    Pods,
    /// List containers.
    Ps {
        /// Also those that do not run.
        #[arg(short, long)]
        all: bool,
    },
    /// List images.
    Images,
    /// Pull an image.
    Pull {
        /// Name, e.g. registry.example/app:1.0
        image: String,
    },
    /// Remove images.
    Rmi {
        /// Names or ids.
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Import images from an archive (OCI image layout or docker-archive).
    Import {
        /// Tar file, directory of an OCI image layout, or - for standard input.
        file: PathBuf,
        /// Name to give when the archive holds one image.
        #[arg(long)]
        name: Option<String>,
    },
    /// Run a container in a new pod, or in an existing one.
    Run(Box<RunArgs>),
    /// Print a container's log.
    Logs {
        /// Container id, unique prefix or name.
        container: String,
        /// Go on printing until the container ends.
        #[arg(short, long)]
        follow: bool,
        /// Only the last lines.
        #[arg(long, value_name = "N")]
        tail: Option<usize>,
        /// Print the time in front of each line.
        #[arg(short, long)]
        timestamps: bool,
    },
    /// Run a command in a container and print what it wrote.
    Exec {
        /// Kill the command after this many seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        timeout: i64,
        /// Container id, unique prefix or name.
        container: String,
        /// Command and arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Stop containers or pods.
    Stop {
        /// Seconds before a container is killed.
        #[arg(short, long, default_value_t = 10)]
        timeout: i64,
        /// Ids, unique prefixes or names.
        #[arg(required = true)]
        objects: Vec<String>,
    },
    /// Remove containers or pods.
    Rm {
        /// Also if they run.
        #[arg(short, long)]
        force: bool,
        /// Ids, unique prefixes or names.
        #[arg(required = true)]
        objects: Vec<String>,
    },
    /// Print everything known of a pod, container or image as JSON.
    Inspect {
        /// Id, unique prefix or name.
        object: String,
    },
    /// Understand Compose files; needs no daemon.
    Compose(Box<crate::commands::compose::ComposeArgs>),
    /// Check what this node needs, and say what to do about what is missing.
    Doctor,
    /// Print the versions of this program and of the daemon.
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Configuration file (TOML); flags win over it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// State that outlives a boot [default: /var/lib/gantry].
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// State that dies with a boot [default: /run/gantry].
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Socket for the kubelet and crictl [default: unix://<run-dir>/gantry.sock].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// Socket for the gantry command line [default: unix://<run-dir>/local.sock].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) local_listen: Option<String>,
    /// Address of the streaming server [default: 127.0.0.1:0].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) stream_address: Option<String>,
    /// Network of the kubelet's pods [default: cni].
    #[arg(long, value_parser = ["cni", "builtin"])]
    pub(crate) cri_network: Option<String>,
    /// CNI configurations [default: /etc/cni/net.d].
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_conf_dir: Option<PathBuf>,
    /// CNI plugins [default: /opt/cni/bin].
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_bin_dir: Option<PathBuf>,
    /// Who manages control groups [default: cgroupfs].
    #[arg(long, value_parser = ["cgroupfs", "systemd"])]
    pub(crate) cgroup_driver: Option<String>,
    /// Runtime handler; may be given more than once.
    #[arg(long, value_name = "NAME=PATH")]
    pub(crate) runtime: Vec<String>,
    /// Handler of pods that name none [default: auto].
    #[arg(long, value_name = "NAME")]
    pub(crate) default_runtime: Option<String>,
    /// Written once the sockets answer.
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// error, warn, info, debug, trace or a filter [default: info].
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// How log lines look [default: text].
    #[arg(long, value_parser = ["text", "json"])]
    pub(crate) log_format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Name of the container, and of its pod if that is new.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Existing pod to run in (id, prefix or name).
    #[arg(long)]
    pub(crate) pod: Option<String>,
    /// Publish a port: [ADDRESS:]HOST:CONTAINER[/tcp|udp].
    #[arg(short, long, value_name = "PORTS")]
    pub(crate) publish: Vec<String>,
    /// Set a variable.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Bind a path: SOURCE:TARGET[:ro].
    #[arg(short, long, value_name = "PATHS")]
    pub(crate) volume: Vec<String>,
    /// Network of a new pod.
    #[arg(long, value_parser = ["pod", "host"], default_value = "pod")]
    pub(crate) network: String,
    /// PID namespace: one for the pod, one for the container, or the host's.
    #[arg(long, value_parser = ["pod", "container", "host"], default_value = "container")]
    pub(crate) pid: String,
    /// Memory limit, e.g. 64m or 1g.
    #[arg(short, long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// CPU limit, e.g. 0.5.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<f64>,
    /// User: a number or a name of the image.
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Working directory.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// All capabilities and devices, nothing hidden.
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Host name of a new pod.
    #[arg(long)]
    pub(crate) hostname: Option<String>,
    /// Runtime handler of a new pod.
    #[arg(long, value_name = "HANDLER", default_value = "")]
    pub(crate) runtime: String,
    /// When to pull the image.
    #[arg(long, value_parser = ["missing", "always", "never"], default_value = "missing")]
    pub(crate) pull: String,
    /// Wait for the end, print the log, and exit with the container's status.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Remove container and pod after the end; needs --wait.
    #[arg(long, requires = "wait")]
    pub(crate) rm: bool,
    /// Image.
    pub(crate) image: String,
    /// Command and arguments; the image's own if left out.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}
