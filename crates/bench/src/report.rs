//! The table and the JSON.

use crate::samples::{Metric, Samples};
use crate::stats::ratio;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// One side's result.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    /// Its name.
    pub(crate) name: String,
    /// Daemon and version as the daemon tells them.
    pub(crate) version: String,
    /// Runtime handler; empty for the default.
    pub(crate) handler: String,
    /// All that was measured.
    pub(crate) samples: Samples,
}

/// A table in Markdown: p50/p90/p99 of each side, and the ratio of its p50 to the first side's.
pub(crate) fn table(columns: &[Column], pods: usize) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let mut header = vec!["p50/p90/p99".to_owned()];
    for (index, column) in columns.iter().enumerate() {
        header.push(column.name.clone());
        if index > 0 {
            header.push(format!("/ {}", columns[0].name));
        }
    }
    let width = header.len();
    table.set_header(header);
    for metric in metrics(columns) {
        let mut row = vec![format!("{}, {}", metric.title(pods), metric.unit())];
        for (index, column) in columns.iter().enumerate() {
            row.push(cell(&column.samples, metric));
            if index > 0 {
                row.push(
                    compared(column, &columns[0], metric)
                        .map_or_else(|| "-".to_owned(), |r| format!("{r:.2}")),
                );
            }
        }
        table.add_row(row);
    }
    for index in 1..width {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// Everything, with raw samples.
pub(crate) fn json(columns: &[Column], settings: &Value) -> Value {
    let sides: Vec<Value> = columns
        .iter()
        .map(|column| {
            let mut metrics = serde_json::Map::new();
            for metric in column.samples.metrics().collect::<BTreeSet<_>>() {
                let key = json!(metric).as_str().unwrap_or_default().to_owned();
                metrics.insert(
                    key,
                    json!({
                        "unit": metric.unit(),
                        "summary": column.samples.summary(metric),
                        "ratio_of_p50": compared(column, &columns[0], metric),
                        "samples": column.samples.raw(metric),
                        "skipped": column.samples.skipped(metric),
                    }),
                );
            }
            json!({
                "name": column.name, "version": column.version, "handler": column.handler, "metrics": metrics,
            })
        })
        .collect();
    json!({"settings": settings, "base": columns.first().map(|c| &c.name), "sides": sides})
}

fn metrics(columns: &[Column]) -> BTreeSet<Metric> {
    columns.iter().flat_map(|column| column.samples.metrics()).collect()
}

fn compared(column: &Column, base: &Column, metric: Metric) -> Option<f64> {
    ratio(column.samples.summary(metric)?.p50, base.samples.summary(metric)?.p50)
}

fn cell(samples: &Samples, metric: Metric) -> String {
    let Some(summary) = samples.summary(metric) else {
        return samples.skipped(metric).unwrap_or("-").to_owned();
    };
    let mut text = number(summary.p50);
    if summary.count > 1 {
        let _ = write!(text, "/{}/{}", number(summary.p90), number(summary.p99));
    }
    text
}

/// Three digits that count.
fn number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, values: &[f64]) -> Column {
        let mut samples = Samples::default();
        for value in values {
            samples.add(Metric::PodStart, *value);
        }
        Column { name: name.into(), version: "x 1".into(), handler: String::new(), samples }
    }

    #[test]
    fn the_table_has_percentiles_and_ratios() {
        let mut columns = [column("a", &[100.0, 200.0, 150.0]), column("b", &[30.0, 45.25, 60.0])];
        columns[1].samples.skip(Metric::ContainerStats, "not implemented");
        let text = table(&columns, 50);
        let row = text.lines().find(|line| line.contains("pod start")).unwrap();
        assert!(
            row.contains("150/200/200") && row.contains("45.2/60.0/60.0") && row.contains(" 0.30 "),
            "{row}"
        );
        let row = text.lines().find(|line| line.contains("ContainerStats")).unwrap();
        assert!(row.contains("not implemented") && row.contains(" - "), "{row}");
    }

    #[test]
    fn json_has_raw_samples_and_reasons() {
        let mut columns = [column("a", &[100.0]), column("b", &[25.0, 26.0])];
        columns[1].samples.skip(Metric::Restart, "no command");
        let value = json(&columns, &json!({"rounds": 2}));
        assert_eq!(value["base"], "a");
        assert_eq!(value["settings"]["rounds"], 2);
        let metrics = &value["sides"][1]["metrics"];
        assert_eq!(metrics["pod_start"]["samples"], json!([25.0, 26.0]));
        assert_eq!(metrics["pod_start"]["ratio_of_p50"], 0.25);
        assert_eq!(metrics["restart"]["skipped"], "no command");
    }
}
