//! `gantry compose config`.

use super::{ProjectArgs, load, tell};
use anyhow::Result;
use clap::{Args, ValueEnum};
use gantry_compose::{Project, print};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Notation of the model.
    #[arg(long, value_enum, default_value_t = Notation::Yaml)]
    format: Notation,
    /// Print nothing, only check.
    #[arg(short, long)]
    quiet: bool,
    /// Leave variables as they are.
    #[arg(long)]
    no_interpolate: bool,
    #[command(flatten)]
    what: What,
}

/// What is printed instead of the model.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct What {
    /// Names of the services.
    #[arg(long)]
    services: bool,
    /// Images that services run.
    #[arg(long)]
    images: bool,
    /// Names of the volumes.
    #[arg(long)]
    volumes: bool,
    /// Names of the networks.
    #[arg(long)]
    networks: bool,
    /// Profiles that services belong to.
    #[arg(long)]
    profiles: bool,
    /// Variables that the files use.
    #[arg(long)]
    variables: bool,
    /// Variables that stand for values.
    #[arg(long)]
    environment: bool,
    /// Digest of what each service's containers are made of: of all (*) or of those named, with commas.
    #[arg(long, value_name = "SERVICES")]
    hash: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Notation {
    /// As Compose files are written.
    Yaml,
    /// One JSON document.
    Json,
}

pub(super) fn run(project: &ProjectArgs, args: &ConfigArgs) -> Result<ExitCode> {
    let Some(project) = load(project, !args.no_interpolate)? else { return Ok(ExitCode::FAILURE) };
    tell(&project, true);
    if args.quiet {
        return Ok(ExitCode::SUCCESS);
    }
    let json = args.format == Notation::Json;
    match list(&project, &args.what)? {
        Some(Value::Array(names)) if !json => {
            for name in names {
                println!("{}", name.as_str().unwrap_or_default());
            }
        }
        Some(value) => println!("{value:#}"),
        None if args.what.variables && !json => variables(&project)?,
        None if args.what.variables => println!("{:#}", variables_json(&project)),
        // Without interpolation dollar signs still mean what they meant.
        None if json => println!("{:#}", print::json(&project.model, !args.no_interpolate)),
        None => print!("{}", print::yaml(&project.model, !args.no_interpolate)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The list that was asked for.
fn list(project: &Project, what: &What) -> Result<Option<Value>> {
    let names = |section| Some(project.section(section).keys().map(|n| json!(n)).collect());
    Ok(if what.services {
        names("services")
    } else if what.volumes {
        names("volumes")
    } else if what.networks {
        names("networks")
    } else if what.images {
        let image = |(name, service): (&&str, &&gantry_compose::node::Node)| match service.text(&["image"]) {
            Some(image) => image.to_owned(),
            None => format!("{}-{name}", project.name),
        };
        let images: BTreeSet<String> = project.services().iter().map(image).collect();
        Some(json!(images))
    } else if what.profiles {
        let on = project.services();
        let services = on.values().copied().chain(project.disabled.values());
        let lists = services.filter_map(|s| s.get(&["profiles"])).flat_map(|p| p.items());
        Some(json!(lists.filter_map(|p| p.as_str()).collect::<BTreeSet<_>>()))
    } else if what.environment {
        Some(json!(project.environment.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>()))
    } else if let Some(wanted) = &what.hash {
        let services = project.services();
        let chosen: Vec<&str> = match wanted.as_str() {
            "*" => services.keys().copied().collect(),
            names => names.split(',').collect(),
        };
        let mut lines = Vec::new();
        for name in chosen {
            let service =
                services.get(name).ok_or_else(|| anyhow::anyhow!("there is no service {name:?}"))?;
            lines.push(format!("{name} {}", print::service_hash(service)));
        }
        Some(json!(lines))
    } else {
        None
    })
}

fn variables(project: &Project) -> Result<()> {
    let row = |(name, variable): (&String, &gantry_compose::interpolate::Variable)| {
        vec![
            name.clone(),
            variable.required.to_string(),
            variable.default.clone().unwrap_or_default(),
            variable.alternative.clone().unwrap_or_default(),
        ]
    };
    let rows = project.variables.iter().map(row).collect();
    let header = ["NAME", "REQUIRED", "DEFAULT", "ALTERNATE"];
    crate::output::list(crate::cli::Format::Table, &header, rows, || Ok(Value::Null))
}

fn variables_json(project: &Project) -> Value {
    let variable = |(name, v): (&String, &gantry_compose::interpolate::Variable)| json!({"name": name, "required": v.required, "default": v.default, "alternate": v.alternative});
    project.variables.iter().map(variable).collect()
}
