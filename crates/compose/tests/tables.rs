//! Rows of `tests/tables/*.txt`: what is written, and what it means or which fault it is.
//!
//! A row is `part ++ part @ path => expected`. A part is `$NAME=value` (a variable), `name.yaml=text` (another
//! file), `web: {...}` (the body of service web in a file of its own) or the whole text of a file. Path leads
//! from the model, or from service web if it begins with a dot. Expected is JSON, or `!` and a part of the message.

use gantry_compose::files::MemoryFiles;
use gantry_compose::interpolate::Interpolator;
use gantry_compose::node::Source;
use gantry_compose::{ComposeFile, Project, Request, dotenv, print};
use serde_json::Value;
use std::collections::BTreeMap;

struct Row<'a> {
    line: usize,
    parts: Vec<&'a str>,
    path: &'a str,
    expected: &'a str,
}

fn rows(text: &str) -> Vec<Row<'_>> {
    let lines = text.lines().enumerate().filter(|(_, l)| !l.is_empty() && !l.starts_with("##"));
    lines
        .map(|(i, line)| {
            let (front, expected) =
                line.rsplit_once(" => ").unwrap_or_else(|| panic!("line {}: {line}", i + 1));
            let (parts, path) = front.rsplit_once(" @ ").unwrap_or((front, ""));
            Row { line: i + 1, parts: parts.split(" ++ ").collect(), path, expected }
        })
        .collect()
}

fn load(parts: &[&str]) -> Result<Project, gantry_compose::Error> {
    let mut request = Request::new("/p", BTreeMap::new());
    request.environment.insert("HOME".into(), "/home/u".into());
    let mut files = MemoryFiles::default();
    for part in parts {
        let part = part.replace("\\n", "\n");
        if let Some((name, value)) = part.strip_prefix('$').and_then(|p| p.split_once('=')) {
            request.environment.insert(name.to_owned(), value.to_owned());
        } else if let Some(profile) = part.strip_prefix("--profile ") {
            request.profiles.push(profile.to_owned());
        } else if let Some((name, text)) =
            part.split_once('=').filter(|(n, _)| !n.contains([' ', ':', '{']) && n.contains(['.', '/']))
        {
            files.0.insert(format!("/p/{name}"), text.as_bytes().to_vec());
        } else {
            let text = match part.strip_prefix("web: ") {
                Some(body) => format!("services: {{web: {body}}}"),
                None => part.clone(),
            };
            let path = format!("/p/c{}.yaml", request.files.len());
            files.0.insert(path.clone(), text.into_bytes());
            request.files.push(ComposeFile { path, text: None });
        }
    }
    Project::load(&request, &files)
}

fn pick(model: &Value, path: &str) -> Value {
    let (start, path) = match path.strip_prefix('.') {
        Some(rest) => (&model["services"]["web"], rest),
        None => (model, path),
    };
    let step = |value: Value, name: &str| match name.parse::<usize>() {
        Ok(index) if value.is_array() => value[index].clone(),
        _ => value[name].clone(),
    };
    path.split('/').filter(|p| !p.is_empty()).fold(start.clone(), step)
}

fn check(name: &str, text: &str, least: usize) {
    let mut wrong = Vec::new();
    let rows = rows(text);
    assert!(rows.len() >= least, "{name}: {} rows", rows.len());
    for row in rows {
        let got = match load(&row.parts) {
            Ok(project) => pick(&print::json(&project.model, false), row.path).to_string(),
            Err(error) => format!("!{error}"),
        };
        let fits = match row.expected.strip_prefix('!') {
            Some(message) => got.starts_with('!') && got.contains(message),
            None => {
                let expected: Value =
                    serde_json::from_str(row.expected).unwrap_or_else(|e| panic!("{name}:{}: {e}", row.line));
                serde_json::from_str::<Value>(&got).is_ok_and(|got| got == expected)
            }
        };
        if !fits {
            wrong.push(format!(
                "{name}:{}: {}\n  wanted {}\n  got    {got}",
                row.line,
                row.parts.join(" ++ "),
                row.expected
            ));
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn short_and_long_forms() {
    check("forms.txt", include_str!("tables/forms.txt"), 100);
}

#[test]
fn merging() {
    check("merge.txt", include_str!("tables/merge.txt"), 60);
}

#[test]
fn extending_and_including() {
    check("files.txt", include_str!("tables/files.txt"), 30);
}

#[test]
fn validation() {
    check("faults.txt", include_str!("tables/faults.txt"), 60);
}

#[test]
fn interpolation() {
    let mut wrong = Vec::new();
    let rows = rows(include_str!("tables/interpolation.txt"));
    assert!(rows.len() >= 100, "{}", rows.len());
    for row in rows {
        let (variables, template) = row.parts.split_at(row.parts.len() - 1);
        let environment: BTreeMap<&str, &str> =
            variables.iter().filter_map(|v| v.strip_prefix('$')?.split_once('=')).collect();
        let lookup = |name: &str| environment.get(name).map(|v| (*v).to_owned());
        let got = match Interpolator::new(&lookup).substitute(template[0]) {
            Ok(text) => format!("[{text}]"),
            Err(message) => format!("!{message}"),
        };
        let fits = match row.expected.strip_prefix('!') {
            Some(message) => got.starts_with('!') && got.contains(message),
            None => got == row.expected,
        };
        if !fits {
            wrong.push(format!(
                "{}: {}\n  wanted {}\n  got    {got}",
                row.line,
                row.parts.join(" ++ "),
                row.expected
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn env_files() {
    let mut wrong = Vec::new();
    let rows = rows(include_str!("tables/dotenv.txt"));
    assert!(rows.len() >= 60, "{}", rows.len());
    for row in rows {
        let text = row.parts[0].replace("␤", "\n").replace("␍", "\r").replace("␉", "\t");
        let (raw, text) = text.strip_prefix("raw:").map_or((false, text.as_str()), |t| (true, t));
        let lookup = |name: &str| (name == "HOST").then(|| "h".to_owned());
        let source = Source::new(".env", text);
        let found = if raw { dotenv::parse_raw(&source, &lookup) } else { dotenv::parse(&source, &lookup) };
        let got = match found {
            Ok(found) => serde_json::json!(found.into_iter().collect::<BTreeMap<_, _>>()).to_string(),
            Err(error) => format!("!{error}"),
        };
        let fits = match row.expected.strip_prefix('!') {
            Some(message) => got.starts_with('!') && got.contains(message),
            None => {
                serde_json::from_str::<Value>(&got).unwrap()
                    == serde_json::from_str::<Value>(row.expected).unwrap()
            }
        };
        if !fits {
            wrong.push(format!("{}: {}\n  wanted {}\n  got    {got}", row.line, row.parts[0], row.expected));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
