//! What is printed, and with which exit status.

use crate::cli::Format;
use crate::find::NotFound;
use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use serde_json::Value;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Whoever read standard output has gone, as `head` does: nothing more to say, and nothing wrong.
#[derive(Debug)]
struct NoReader;

impl std::fmt::Display for NoReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nobody reads standard output")
    }
}

impl std::error::Error for NoReader {}

/// Writes bytes to standard output.
pub(crate) fn write(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(NoReader.into()),
        result => result.context("write to standard output"),
    }
}

/// Why standard output or standard error cannot be written to.
pub(crate) fn cannot_write(error: std::io::Error) -> anyhow::Error {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => NoReader.into(),
        _ => anyhow::Error::from(error).context("write output"),
    }
}

/// Writes a line to standard output.
pub(crate) fn line(text: &str) -> Result<()> {
    write(format!("{text}\n").as_bytes())
}

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

/// Whether there is anything to say about an error.
pub(crate) fn is_worth_telling(error: &anyhow::Error) -> bool {
    !error.is::<NoReader>()
}

/// 3 for what is not there, 141 (as a shell shows SIGPIPE) when nobody reads on, 1 for every other failure.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    let missing = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<NotFound>()
            || cause.downcast_ref::<tonic::Status>().is_some_and(|s| s.code() == tonic::Code::NotFound)
    };
    match error {
        error if !is_worth_telling(error) => 141,
        error if error.chain().any(missing) => 3,
        _ => 1,
    }
}

/// Prints rows as aligned columns, or what `document` makes of them.
pub(crate) fn list(
    format: Format,
    header: &[&str],
    rows: Vec<Vec<String>>,
    document: impl FnOnce() -> Result<Value>,
) -> Result<()> {
    if format != Format::Table {
        return print(format, &document()?);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().copied());
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    line(&table.trim_fmt())
}

/// Prints a document; as a table it has one row for each value.
pub(crate) fn print(format: Format, document: &Value) -> Result<()> {
    match format {
        Format::Json => line(&format!("{document:#}")),
        Format::Yaml => {
            let text = serde_saphyr::to_string(document).context("write YAML")?;
            write(format!("{}\n", text.trim_end()).as_bytes())
        }
        Format::Table => {
            let mut rows = Vec::new();
            flatten("", document, &mut rows);
            list(format, &["FIELD", "VALUE"], rows, || Ok(Value::Null))
        }
    }
}

/// Path and text of each value; what is empty is left out.
fn flatten(path: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| flatten(&below(name), value, rows)),
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                flatten(&format!("{path}[{index}]"), value, rows);
            }
        }
        Value::Null => {}
        Value::String(text) if text.is_empty() => {}
        Value::String(text) => rows.push(vec![path.to_owned(), text.clone()]),
        Value::Bool(_) | Value::Number(_) => rows.push(vec![path.to_owned(), value.to_string()]),
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

    #[test]
    fn errors_fit_one_line_and_say_each_thing_once() {
        let status = tonic::Status::not_found("no container x");
        let error = Err::<(), _>(status).context("stop x").unwrap_err();
        assert_eq!(one_line(&error), "stop x: no container x");
        assert_eq!(exit_code(&error), 3);
        assert_eq!(exit_code(&anyhow::anyhow!("no")), 1);
        let gone = anyhow::Error::from(NoReader);
        assert!(!is_worth_telling(&gone) && exit_code(&gone) == 141);
    }

    #[test]
    fn sizes_and_ids_are_short() {
        for (bytes, text) in [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (4_200_000, "4.2 MB")] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789abc");
    }

    #[test]
    fn a_document_as_a_table_has_a_row_for_each_value() {
        let document = serde_json::json!({"a": {"b": [1, {"c": "x"}], "empty": "", "no": null}, "d": true});
        let mut rows = Vec::new();
        flatten("", &document, &mut rows);
        assert_eq!(rows, [["a.b[0]", "1"], ["a.b[1].c", "x"], ["d", "true"]]);
    }
}
