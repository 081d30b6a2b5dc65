//! The command line: what each subcommand takes.

use crate::client::Realm;
use crate::flags::OptionFlags;
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
    /// How answers are printed [default: table; for inspect json].
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// A shell that completions are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// One JSON document, with the names of the CRI.
    Json,
    /// The same as YAML.
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon.
    Serve(Box<ServeArgs>),
    /// Print a configuration of the daemon, or check one.
    #[command(subcommand)]
    Config(Box<ConfigCommand>),
    /// List pod sandboxes.
    Pods {
        #[command(flatten)]
        realm: InRealm,
    },
    /// List containers.
    Ps {
        /// Also those that do not run.
        #[arg(short, long)]
        all: bool,
        #[command(flatten)]
        realm: InRealm,
    },
    /// List images.
    Images {
        #[command(flatten)]
        realm: InRealm,
    },
    /// Pull an image.
    Pull {
        /// Name, e.g. registry.example/app:1.0
        image: String,
    },
    /// Remove images.
    Rmi {
        #[command(flatten)]
        realm: InRealm,
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
        #[command(flatten)]
        realm: InRealm,
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
    /// Run a command in a container.
    Exec(Box<ExecArgs>),
    /// Join the input and output of a container; Ctrl-P Ctrl-Q leaves it running.
    Attach {
        #[command(flatten)]
        realm: InRealm,
        #[command(flatten)]
        trust: TrustArgs,
        /// Only look on.
        #[arg(long)]
        no_stdin: bool,
        /// Container id, unique prefix or name.
        container: String,
    },
    /// Make ports of a pod reachable on this machine, until interrupted.
    PortForward {
        #[command(flatten)]
        realm: InRealm,
        #[command(flatten)]
        trust: TrustArgs,
        /// Address of this machine to listen on.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
        address: String,
        /// Pod id, unique prefix or name.
        pod: String,
        /// [LOCAL:]REMOTE; a port is chosen where LOCAL is empty.
        #[arg(required = true)]
        ports: Vec<String>,
    },
    /// Copy files between this machine and a container, which must have tar.
    ///
    /// One of the two is CONTAINER:PATH, the other a path of this machine, or - for a tar archive on standard
    /// input or output. A directory is copied with all that is in it, into a directory that is there, or under a
    /// new name. Owners are not kept; a link that would lead out of the destination is left out.
    Cp {
        #[command(flatten)]
        realm: InRealm,
        #[command(flatten)]
        trust: TrustArgs,
        /// What to copy.
        from: String,
        /// Where to.
        to: String,
    },
    /// Stop containers or pods.
    Stop {
        #[command(flatten)]
        realm: InRealm,
        /// Seconds before a container is killed.
        #[arg(short, long, default_value_t = 10)]
        timeout: i64,
        /// Ids, unique prefixes or names.
        #[arg(required = true)]
        objects: Vec<String>,
    },
    /// Remove containers or pods.
    Rm {
        #[command(flatten)]
        realm: InRealm,
        /// Also if they run.
        #[arg(short, long)]
        force: bool,
        /// Ids, unique prefixes or names.
        #[arg(required = true)]
        objects: Vec<String>,
    },
    /// Print everything known of a pod, container or image.
    Inspect {
        #[command(flatten)]
        realm: InRealm,
        /// Id, unique prefix or name.
        object: String,
    },
    /// Understand Compose files; needs no daemon.
    Compose(Box<crate::commands::compose::ComposeArgs>),
    /// Check what this node needs, and say what to do about what is missing.
    Doctor,
    /// Print what the daemon is and whether it is ready.
    Info,
    /// Print the versions of this program and of the daemon.
    Version,
    /// Print a completion script for a shell.
    Completions {
        /// bash: source it in ~/.bashrc; zsh: a file named _gantry in $fpath;
        /// fish: a file in ~/.config/fish/completions.
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Configuration file (TOML) [default: /etc/gantry/config.toml, if it is there].
    ///
    /// Files in the directory of its name plus .d win over it, and flags over all.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) flags: OptionFlags,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print a complete configuration file, with every option at its default.
    Default,
    /// Print the options that gantry serve would use, and where each value comes from.
    Show(ServeArgs),
    /// Look for mistakes in the configuration, and print all of them.
    Check {
        /// Configuration file [default: /etc/gantry/config.toml, if it is there].
        file: Option<PathBuf>,
        #[command(flatten)]
        flags: OptionFlags,
    },
}

/// Whose objects a command is about.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct InRealm {
    /// Only objects of this realm; local ones are made by gantry, cri ones by the kubelet.
    #[arg(long, value_enum, value_name = "REALM")]
    pub(crate) realm: Option<Realm>,
}

/// Whom to trust where the daemon serves exec, attach and port-forward with TLS.
#[derive(Debug, Clone, Args)]
pub(crate) struct TrustArgs {
    /// Certificate (PEM) that signs the daemon's own, if it serves streams with TLS.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    pub(crate) realm: InRealm,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    /// Send standard input.
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal; Ctrl-P Ctrl-Q leaves it.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Kill the command after this many seconds; its output is printed at the end.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, conflicts_with_all = ["interactive", "tty"])]
    pub(crate) timeout: i64,
    /// Container id, unique prefix or name.
    pub(crate) container: String,
    /// Command and arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
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
    /// Keep standard input open, for gantry attach.
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal, for gantry attach.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Print the log until the end, and exit with the container's status.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Remove container and pod after the end or an interrupt; needs --wait.
    #[arg(long, requires = "wait")]
    pub(crate) rm: bool,
    /// Image.
    pub(crate) image: String,
    /// Command and arguments; the image's own if left out.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}
