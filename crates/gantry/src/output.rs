//! What is printed, and with which exit status.

use crate::cli::Format;
use crate::find::NotFound;
use comfy_table::{Table, presets};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An error and its causes in one line, each said once.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let words = match cause.downcast_ref::<tonic::Status>() {
            Some(status) => status.message().to_owned(),
            None => cause.to_string(),
        };
        if words.is_empty() || text.contains(&words) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&words);
    }
    text.replace('\n', " ")
}

/// 3 for what is not there, 1 for every other failure.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    let missing = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<NotFound>()
            || cause.downcast_ref::<tonic::Status>().is_some_and(|s| s.code() == tonic::Code::NotFound)
    };
    if error.chain().any(missing) { 3 } else { 1 }
}

/// Prints rows as aligned columns, or what `json` makes of them.
pub(crate) fn list(
    format: Format,
    header: &[&str],
    rows: Vec<Vec<String>>,
    json: impl FnOnce() -> serde_json::Value,
) {
    match format {
        Format::Json => println!("{:#}", json()),
        Format::Table => {
            let mut table = Table::new();
            table.load_style(presets::NOTHING);
            table.set_header(header.iter().copied());
            table.add_rows(rows);
            for column in table.column_iter_mut() {
                column.set_padding((0, 2));
            }
            println!("{}", table.trim_fmt());
        }
    }
}

/// The first characters of an id, as many as are unique in practice.
pub(crate) fn short(id: &str) -> String {
    id.strip_prefix("sha256:").unwrap_or(id).chars().take(13).collect()
}

/// How long ago a time in nanoseconds since the epoch was.
pub(crate) fn age(nanoseconds: i64) -> String {
    let then = UNIX_EPOCH + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0));
    let seconds = SystemTime::now().duration_since(then).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..86_400 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn errors_fit_one_line_and_say_each_thing_once() {
        let status = tonic::Status::not_found("no container x");
        let error = Err::<(), _>(status).context("stop x").unwrap_err();
        assert_eq!(one_line(&error), "stop x: no container x");
        assert_eq!(exit_code(&error), 3);
        assert_eq!(exit_code(&anyhow::anyhow!("no")), 1);
    }

    #[test]
    fn sizes_and_ids_are_short() {
        for (bytes, text) in [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (4_200_000, "4.2 MB")] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789abc");
    }
}
