//! `gantry compose`: what Compose files mean; one file per subcommand below.

mod config;
mod convert;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use gantry_compose::files::Files;
use gantry_compose::report::Weight;
use gantry_compose::{ComposeFile, Project, Request};
use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Largest Compose file that is read from standard input, in bytes.
const MAX_INPUT: u64 = 4 << 20;

#[derive(Debug, Args)]
pub(crate) struct ComposeArgs {
    #[command(flatten)]
    project: ProjectArgs,
    #[command(subcommand)]
    command: ComposeCommand,
}

/// Which files make the project.
#[derive(Debug, Args)]
pub(crate) struct ProjectArgs {
    /// Compose file, or - for standard input; may be given more than once [default: compose.yaml].
    #[arg(short, long, value_name = "FILE")]
    file: Vec<String>,
    /// Name of the project.
    #[arg(short, long, value_name = "NAME")]
    project_name: Option<String>,
    /// Turn on a profile; may be given more than once, * means all.
    #[arg(long, value_name = "NAME")]
    profile: Vec<String>,
    /// File with variables; may be given more than once [default: .env].
    #[arg(long, value_name = "FILE")]
    env_file: Vec<String>,
    /// Folder that relative paths start from [default: that of the first file].
    #[arg(long, value_name = "DIR")]
    project_directory: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum ComposeCommand {
    /// Print what the files mean, in one form.
    Config(config::ConfigArgs),
    /// Print Kubernetes manifests that do the same, and what they cannot do.
    Convert(convert::ConvertArgs),
}

/// Carries out a subcommand; a fault in a file is shown with its line.
pub(crate) fn run(args: ComposeArgs) -> Result<ExitCode> {
    match args.command {
        ComposeCommand::Config(config) => config::run(&args.project, &config),
        ComposeCommand::Convert(convert) => convert::run(&args.project, &convert),
    }
}

/// The files of this machine.
struct Disk;

impl Files for Disk {
    fn read(&self, path: &str, limit: usize) -> std::io::Result<Vec<u8>> {
        let file = std::fs::File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(std::io::ErrorKind::IsADirectory.into());
        }
        let mut content = Vec::new();
        // One byte more tells that there is more.
        file.take(limit as u64 + 1).read_to_end(&mut content)?;
        if content.len() > limit {
            return Err(std::io::Error::other(format!("larger than {limit} bytes")));
        }
        Ok(content)
    }
}

/// Loads the project; a fault is printed, and then there is none.
fn load(args: &ProjectArgs, interpolate: bool) -> Result<Option<Project>> {
    let current = std::env::current_dir().context("find the current directory")?;
    let current = current.to_str().context("the path of the current directory is no UTF-8 text")?;
    // Variables that are no UTF-8 cannot be used in a YAML file.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut request = Request::new(current, environment);
    for file in &args.file {
        let text = if file == "-" { Some(input()?) } else { None };
        let path = if file == "-" { "(standard input)".to_owned() } else { file.clone() };
        request.files.push(ComposeFile { path, text });
    }
    request.project_name.clone_from(&args.project_name);
    request.profiles.clone_from(&args.profile);
    request.env_files.clone_from(&args.env_file);
    request.interpolate = interpolate;
    if let Some(directory) = &args.project_directory {
        let directory = directory.to_str().context("the path of the project directory is no UTF-8 text")?;
        request.project_directory = Some(directory.to_owned());
    }
    match Project::load(&request, &Disk) {
        Ok(project) => Ok(Some(project)),
        Err(error) => {
            eprint!("gantry: {}", error.render());
            Ok(None)
        }
    }
}

fn input() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().take(MAX_INPUT).read_to_string(&mut text).context("read standard input")?;
    Ok(text)
}

/// Says on standard error what a project leaves to chance, and with `here` what this machine will not do.
fn tell(project: &Project, here: bool) {
    for finding in project.findings.iter().filter(|f| here || f.weight == Weight::Noted) {
        eprintln!("gantry: {finding}");
    }
}
