//! `gantry doctor`.

use crate::cli::Format;
use crate::client::Client;
use crate::output::list;
use anyhow::{Context as _, Result};
use gantry_cri_api::local::v1::DoctorRequest;
use std::process::ExitCode;

pub(super) async fn run(client: &mut Client, format: Format) -> Result<ExitCode> {
    let answer = client.local.doctor(DoctorRequest {}).await.context("ask the daemon")?;
    let checks = answer.into_inner().checks;
    let healthy = checks.iter().all(|c| c.ok);
    let rows = checks.iter().map(|c| {
        let verdict = if c.ok { "ok" } else { "PROBLEM" };
        vec![verdict.to_owned(), c.name.clone(), c.message.clone(), c.remedy.clone()]
    });
    list(format, &["", "CHECK", "FOUND", "WHAT TO DO"], rows.collect(), || {
        let checks = checks.iter().map(
            |c| serde_json::json!({"name": c.name, "ok": c.ok, "message": c.message, "remedy": c.remedy}),
        );
        serde_json::json!({"healthy": healthy, "checks": checks.collect::<Vec<_>>()})
    });
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
