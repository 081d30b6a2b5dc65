//! `gantry version`.

use crate::cli::Format;
use crate::client::{Client, Realm};
use crate::document::Documents;
use crate::output;
use anyhow::Result;
use gantry_cri_api::v1;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Version of this program.
const OWN: &str = env!("CARGO_PKG_VERSION");

pub(super) async fn run(socket: &str, format: Format) -> Result<ExitCode> {
    // Without a daemon there is one version to tell.
    let daemon = match Client::connect(socket).await {
        Ok(mut client) => {
            let answer = client.of(Realm::Local).runtime.version(v1::VersionRequest::default()).await?;
            Some(answer.into_inner())
        }
        Err(_no_daemon) => None,
    };
    if format != Format::Table {
        let daemon = match &daemon {
            Some(version) => Documents::new()?.message("VersionResponse", version)?,
            None => Value::Null,
        };
        output::print(format, &json!({"gantry": OWN, "daemon": daemon}))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!("gantry {OWN}"))?;
    if let Some(daemon) = daemon {
        let (name, version, api) = (daemon.runtime_name, daemon.runtime_version, daemon.runtime_api_version);
        output::line(&format!("daemon {name} {version} (CRI {api})"))?;
    }
    Ok(ExitCode::SUCCESS)
}
