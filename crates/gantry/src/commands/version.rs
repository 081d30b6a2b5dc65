//! `gantry version`.

use crate::client::Client;
use anyhow::Result;
use gantry_cri_api::v1;
use std::process::ExitCode;

pub(super) async fn run(socket: &str) -> Result<ExitCode> {
    println!("gantry {}", env!("CARGO_PKG_VERSION"));
    // Without a daemon there is one version to tell.
    if let Ok(mut client) = Client::connect(socket).await {
        let daemon = client.runtime.version(v1::VersionRequest::default()).await?.into_inner();
        println!(
            "daemon {} {} (CRI {})",
            daemon.runtime_name, daemon.runtime_version, daemon.runtime_api_version
        );
    }
    Ok(ExitCode::SUCCESS)
}
