//! The command line of an OCI runtime, as runc has it.

use std::path::PathBuf;

/// Runs containers as the OCI runtime specification says.
#[derive(Debug, clap::Parser)]
#[command(name = "gantry-runtime", version, disable_help_subcommand = true, args_override_self = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: liboci_cli::GlobalOpts,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Create a container; its program waits for start
    Create(liboci_cli::Create),
    /// Start the program of a created container
    Start(liboci_cli::Start),
    /// Create and start a container
    Run(liboci_cli::Run),
    /// Run another program in a container
    Exec(liboci_cli::Exec),
    /// Print a container's state as JSON
    State(liboci_cli::State),
    /// Send a signal to a container
    Kill(Kill),
    /// Delete what is left of a container
    Delete(liboci_cli::Delete),
    /// Change a container's limits
    Update(liboci_cli::Update),
    /// Freeze a container's processes
    Pause(liboci_cli::Pause),
    /// Thaw a container's processes
    Resume(liboci_cli::Resume),
    /// Print what this runtime can do as JSON
    Features(liboci_cli::Features),
    /// List containers
    List(liboci_cli::List),
    /// List a container's processes
    Ps(liboci_cli::Ps),
}

/// As `liboci_cli::Kill`, whose signal has no default.
#[derive(Debug, clap::Args)]
pub(crate) struct Kill {
    /// Container identifier
    pub(crate) container_id: String,
    /// Name or number of the signal
    #[arg(default_value = "SIGTERM")]
    pub(crate) signal: String,
    /// Send it to all processes of the container
    #[arg(short, long)]
    pub(crate) all: bool,
}

/// State directory without `--root`.
pub(crate) fn default_root() -> PathBuf {
    PathBuf::from("/run/gantry-runtime")
}
