//! Writes models down: YAML and JSON, sorted, the same bytes for the same model.

use crate::node::{Node, Value};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// Order of the sections at the top; what is not here comes after them.
const TOP: [&str; 9] =
    ["name", "include", "services", "jobs", "networks", "volumes", "secrets", "configs", "models"];

/// The model as JSON; with `escape`, dollar signs in values are doubled, so that they stay themselves when
/// the text is read as a Compose file.
pub fn json(node: &Node, escape: bool) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(flag) => Json::Bool(*flag),
        Value::Int(number) => Json::from(*number),
        Value::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => Json::from(*number as i64),
        Value::Float(number) => Json::from(*number),
        Value::String(text) => Json::String(escaped(text, escape)),
        Value::Seq(items) => Json::Array(items.iter().map(|i| json(i, escape)).collect()),
        Value::Map(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|a, b| a.0.name.cmp(&b.0.name));
            Json::Object(entries.into_iter().map(|(k, v)| (k.name.clone(), json(v, escape))).collect())
        }
    }
}

fn escaped(text: &str, escape: bool) -> String {
    if escape { text.replace('$', "$$") } else { text.to_owned() }
}

/// The model as YAML, sorted by name, sections in their usual order; `escape` as in [`json`].
pub fn yaml(node: &Node, escape: bool) -> String {
    let mut out = String::new();
    write(&mut out, node, 0, escape);
    out
}

/// Any JSON value as YAML, names in the order they have.
pub fn yaml_of_json(value: &Json) -> String {
    let mut out = String::new();
    write_json(&mut out, value, 0);
    out
}

fn write_json(out: &mut String, value: &Json, indent: usize) {
    match value {
        Json::Object(map) if !map.is_empty() => {
            for (i, (key, value)) in map.iter().enumerate() {
                if i > 0 || indent == 0 {
                    pad(out, indent);
                }
                out.push_str(&scalar(key, 0));
                out.push(':');
                json_child(out, value, indent);
            }
        }
        Json::Array(items) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                if i > 0 || indent == 0 {
                    pad(out, indent);
                }
                out.push('-');
                json_child_of_list(out, item, indent);
            }
        }
        other => {
            out.push_str(&json_scalar(other, indent));
            out.push('\n');
        }
    }
}

fn json_scalar(value: &Json, indent: usize) -> String {
    match value {
        Json::String(text) => scalar(text, indent),
        Json::Object(_) => "{}".into(),
        Json::Array(_) => "[]".into(),
        other => other.to_string(),
    }
}

fn json_child(out: &mut String, value: &Json, indent: usize) {
    match value {
        Json::Object(map) if !map.is_empty() => {
            out.push('\n');
            pad(out, indent + 2);
            write_json(out, value, indent + 2);
        }
        Json::Array(items) if !items.is_empty() => {
            out.push('\n');
            pad(out, indent + 2);
            write_json(out, value, indent + 2);
        }
        other => {
            let _ = writeln!(out, " {}", json_scalar(other, indent + 2));
        }
    }
}

fn json_child_of_list(out: &mut String, value: &Json, indent: usize) {
    out.push(' ');
    write_json(out, value, indent + 2);
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn write(out: &mut String, node: &Node, indent: usize, escape: bool) {
    let mut value = json(node, escape);
    if indent == 0
        && let Json::Object(map) = &mut value
    {
        let rank = |name: &str| TOP.iter().position(|t| *t == name).unwrap_or(TOP.len());
        let mut entries: Vec<_> = std::mem::take(map).into_iter().collect();
        entries.sort_by(|a, b| (rank(&a.0), &a.0).cmp(&(rank(&b.0), &b.0)));
        for (key, value) in entries {
            out.push_str(&scalar(&key, 0));
            out.push(':');
            json_child(out, &value, 0);
        }
        return;
    }
    write_json(out, &value, indent);
}

/// A text as YAML: plain where it can be, a block where it has lines, quoted otherwise.
fn scalar(text: &str, indent: usize) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let printable = |c: char| {
        c == '\n'
            || (!c.is_control() && c != '\u{feff}' && c != '\u{2028}' && c != '\u{2029}' && c != '\u{85}')
    };
    let body = text.trim_end_matches('\n');
    let blocky = indent > 0
        && body.contains('\n')
        && text.chars().all(printable)
        && !text.starts_with([' ', '\n'])
        && body.lines().all(|l| l.trim_end() == l);
    if blocky {
        let mark = match text.len() - body.len() {
            0 => "|-",
            1 => "|",
            _ => "|+",
        };
        let mut out = mark.to_owned();
        for line in body.split('\n') {
            out.push('\n');
            if !line.is_empty() {
                pad(&mut out, indent);
                out.push_str(line);
            }
        }
        // The newline after the block is the first of those it ends with.
        out.extend(std::iter::repeat_n('\n', (text.len() - body.len()).saturating_sub(1)));
        return out;
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if !printable(c) => {
                let _ = match u32::from(c) {
                    code @ 0..=0xff => write!(out, "\\x{code:02x}"),
                    code @ 0..=0xffff => write!(out, "\\u{code:04x}"),
                    code => write!(out, "\\U{code:08x}"),
                };
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Whether a text can be written without quotes and read by any YAML parser as the same text.
fn is_plain(text: &str) -> bool {
    let words = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let Some(first) = text.chars().next() else { return false };
    let starts_well = first.is_ascii_alphabetic() || matches!(first, '/' | '_' | '$');
    let safe = |c: char| c.is_ascii_alphanumeric() || "/_$.-+:=@,;()^%~ ".contains(c);
    starts_well
        && text.chars().all(safe)
        && !text.contains(": ")
        && !text.ends_with([':', ' '])
        && !words.contains(&text.to_lowercase().as_str())
}

/// Digest of what a service's containers are made of: everything but how many there are and what they wait
/// for, in hexadecimal.
pub fn service_hash(service: &Node) -> String {
    let mut value = json(service, false);
    if let Json::Object(map) = &mut value {
        for name in ["build", "pull_policy", "scale", "depends_on", "profiles", "develop"] {
            map.remove(name);
        }
        map.retain(|key, _| !key.starts_with("x-"));
        if let Some(Json::Object(deploy)) = map.get_mut("deploy") {
            deploy.remove("replicas");
        }
    }
    let digest = Sha256::digest(value.to_string().as_bytes());
    digest.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}
