//! What may stand where: the Compose Specification's JSON schema, applied to nodes.
//!
//! `schema/compose-spec.json` is the schema of compose-go v2.16.2 without its descriptions; only the
//! keywords that it uses are understood.

use crate::error::{Error, Result, nearest};
use crate::node::{Node, Path, Tag, Value};
use serde_json::Value as Json;
use std::sync::OnceLock;

const TEXT: &str = include_str!("../schema/compose-spec.json");

/// The schema, read once.
fn schema() -> Option<&'static Json> {
    static SCHEMA: OnceLock<Option<Json>> = OnceLock::new();
    SCHEMA.get_or_init(|| serde_json::from_str(TEXT).ok()).as_ref()
}

/// Checks a file before it is merged with others: names that only the whole has to have may be missing.
///
/// # Errors
/// An unknown name with the nearest known one, a value of the wrong kind, one that is not allowed.
pub fn check_part(node: &Node) -> Result<()> {
    check_with(node, false)
}

/// Checks a whole model.
///
/// # Errors
/// As [`check_part`], and names that have to be there and are not.
pub fn check(node: &Node) -> Result<()> {
    check_with(node, true)
}

fn check_with(node: &Node, whole: bool) -> Result<()> {
    let Some(root) = schema() else {
        return Err(Error::nowhere("the built-in schema cannot be read; this is a fault of the program"));
    };
    Checker { root, whole }.check(root, node, &Path::default())
}

struct Checker<'a> {
    root: &'a Json,
    whole: bool,
}

impl<'a> Checker<'a> {
    /// A schema and all that it takes in by reference.
    fn flatten(&self, schema: &'a Json, out: &mut Vec<&'a Json>) {
        out.push(schema);
        if let Some(name) = schema["$ref"].as_str() {
            let target = &self.root["$defs"][name.trim_start_matches("#/$defs/")];
            self.flatten(target, out);
        }
        for part in schema["allOf"].as_array().into_iter().flatten() {
            self.flatten(part, out);
        }
    }

    fn flat(&self, schema: &'a Json) -> Vec<&'a Json> {
        let mut parts = Vec::new();
        self.flatten(schema, &mut parts);
        parts
    }

    fn check(&self, schema: &'a Json, node: &Node, path: &Path) -> Result<()> {
        // A part that says nothing about something leaves it to the other files.
        if node.tag == Some(Tag::Reset) || (node.is_null() && !self.whole && path.parts().len() > 1) {
            return Ok(());
        }
        let parts = self.flat(schema);
        for part in &parts {
            if let Some(types) = types(part)
                && !types.iter().any(|t| is_type(node, t))
            {
                return Err(wrong_kind(node, path, &types));
            }
            for name in ["oneOf", "anyOf"] {
                if let Some(choices) = part[name].as_array() {
                    self.choose(choices, node, path)?;
                }
            }
            self.scalar(part, node, path)?;
        }
        match &node.value {
            Value::Map(_) => self.mapping(&parts, node, path),
            Value::Seq(items) => {
                for part in &parts {
                    let unique = part["uniqueItems"] == true;
                    let below = path.join("[]");
                    for (i, item) in items.iter().enumerate() {
                        let place = path.join(&format!("[{i}]"));
                        if part["items"].is_object() {
                            self.check(&part["items"], item, &place)?;
                        }
                        if unique && items.len() < 1000 && items[..i].contains(item) {
                            return Err(Error::at(&item.span, format!("{below}: the item appears twice")));
                        }
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// One of several: the fault of that which fits the kind of value says most.
    fn choose(&self, choices: &'a [Json], node: &Node, path: &Path) -> Result<()> {
        let mut fault: Option<Error> = None;
        let mut kinds = Vec::new();
        for choice in choices {
            let parts = self.flat(choice);
            let own: Vec<&str> = parts.iter().filter_map(|p| types(p)).flatten().collect();
            let fits = own.is_empty() || own.iter().any(|t| is_type(node, t));
            match self.check(choice, node, path) {
                Ok(()) => return Ok(()),
                Err(error) if fits => fault = Some(error),
                Err(_) => {}
            }
            kinds.extend(own);
        }
        kinds.dedup();
        Err(fault.unwrap_or_else(|| wrong_kind(node, path, &kinds)))
    }

    fn scalar(&self, part: &'a Json, node: &Node, path: &Path) -> Result<()> {
        if let Some(allowed) = part["enum"].as_array() {
            let text = node.scalar().unwrap_or_default();
            let names: Vec<&str> = allowed.iter().filter_map(Json::as_str).collect();
            if !names.contains(&text.as_str()) {
                let message = format!("{path}: {text:?} is not allowed; it is one of {}", names.join(", "));
                return Err(Error::at(&node.span, message));
            }
        }
        if let (Some(pattern), Some(text)) = (part["pattern"].as_str(), node.as_str())
            && !matches_pattern(pattern, text)
        {
            return Err(Error::at(&node.span, format!("{path}: {text:?} is not allowed here")));
        }
        let number = match node.value {
            Value::Int(number) => number as f64,
            Value::Float(number) => number,
            _ => return Ok(()),
        };
        let low = part["minimum"].as_f64().is_some_and(|m| number < m);
        let high = part["maximum"].as_f64().is_some_and(|m| number > m);
        if low || high {
            let bound = if low { &part["minimum"] } else { &part["maximum"] };
            let side = if low { "least" } else { "most" };
            let shown = node.scalar().unwrap_or_default();
            return Err(Error::at(&node.span, format!("{path}: {shown} is not allowed; at {side} {bound}")));
        }
        Ok(())
    }

    fn mapping(&self, parts: &[&'a Json], node: &Node, path: &Path) -> Result<()> {
        let closed =
            parts.iter().any(|p| p["additionalProperties"] == false || p["unevaluatedProperties"] == false);
        for (key, value) in node.entries() {
            let place = path.join(&key.name);
            let mut known = false;
            for part in parts {
                if let Some(schema) = part["properties"].get(&key.name) {
                    known = true;
                    self.check(schema, value, &place)?;
                }
                for (pattern, schema) in part["patternProperties"].as_object().into_iter().flatten() {
                    if matches_pattern(pattern, &key.name) {
                        known = true;
                        self.check(schema, value, &place)?;
                    }
                }
            }
            if !known {
                for part in parts {
                    if part["additionalProperties"].is_object() {
                        self.check(&part["additionalProperties"], value, &place)?;
                    }
                }
            }
            if !known && closed {
                let names = parts.iter().filter_map(|p| p["properties"].as_object()).flat_map(|p| p.keys());
                return Err(unknown(key.name.as_str(), &key.span, path, names.map(String::as_str)));
            }
        }
        // A part may leave to another file what only the items of a list have to have of their own.
        let in_list = path.parts().iter().any(|p| p.starts_with('['));
        if self.whole || in_list {
            for name in parts.iter().filter_map(|p| p["required"].as_array()).flatten() {
                let name = name.as_str().unwrap_or_default();
                if node.get(&[name]).is_none() {
                    return Err(Error::at(&node.span, format!("{path}: {name} is missing")));
                }
            }
        }
        Ok(())
    }
}

fn unknown<'a>(
    name: &str,
    span: &crate::node::Span,
    path: &Path,
    known: impl Iterator<Item = &'a str>,
) -> Error {
    let place = if path.parts().is_empty() { String::new() } else { format!("{path}: ") };
    let mut names: Vec<&str> = known.collect();
    names.sort_unstable();
    let help = match nearest(name, names.iter().copied()) {
        Some(near) => format!("; did you mean {near:?}?"),
        None if names.is_empty() => format!("; names here are made of letters, digits, {:?}", "._-"),
        None => String::new(),
    };
    Error::at(span, format!("{place}unknown key {name:?}{help}"))
}

fn wrong_kind(node: &Node, path: &Path, types: &[&str]) -> Error {
    let mut names: Vec<&str> = types
        .iter()
        .map(|t| match *t {
            "object" => "a mapping",
            "array" => "a list",
            "string" => "a text",
            "integer" => "a whole number",
            "number" => "a number",
            "boolean" => "a boolean",
            _ => "nothing",
        })
        .collect();
    names.dedup();
    let wanted = match names.as_slice() {
        [] => "something else".to_owned(),
        [one] => (*one).to_owned(),
        [many @ .., last] => format!("{} or {last}", many.join(", ")),
    };
    let place = if path.parts().is_empty() { "the file".to_owned() } else { path.to_string() };
    let quote = match (&node.value, types.contains(&"string")) {
        (Value::Int(_) | Value::Float(_) | Value::Bool(_), true) => "; put it in quotes",
        _ => "",
    };
    Error::at(&node.span, format!("{place} is {}, where {wanted} has to be{quote}", node.kind()))
}

fn types(schema: &Json) -> Option<Vec<&str>> {
    match &schema["type"] {
        Json::String(one) => Some(vec![one]),
        Json::Array(many) => Some(many.iter().filter_map(Json::as_str).collect()),
        _ => None,
    }
}

fn is_type(node: &Node, name: &str) -> bool {
    match (&node.value, name) {
        (Value::Float(number), "integer") => number.fract() == 0.0,
        (Value::Null, "null")
        | (Value::Bool(_), "boolean")
        | (Value::Int(_), "integer" | "number")
        | (Value::Float(_), "number")
        | (Value::String(_), "string")
        | (Value::Seq(_), "array")
        | (Value::Map(_), "object") => true,
        _ => false,
    }
}

/// The patterns of the schema; a test holds that there are no others.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    match pattern {
        "^x-" => text.starts_with("x-"),
        "^.+$" | ".+" => !text.is_empty() && !text.contains('\n'),
        "^[a-zA-Z0-9._-]+$" => {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        }
        "^[a-z]+$" => !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase()),
        "[a-zA-Z0-9][a-zA-Z0-9_.-]+" => text.as_bytes().windows(2).any(|pair| {
            pair[0].is_ascii_alphanumeric() && (pair[1].is_ascii_alphanumeric() || b"_.-".contains(&pair[1]))
        }),
        PULL_POLICY => {
            let every = text.strip_prefix("every_").is_some_and(|rest| {
                rest.ends_with(['w', 'd', 'h', 'm', 's'])
                    && rest
                        .split_inclusive(['w', 'd', 'h', 'm', 's'])
                        .all(|p| p.len() > 1 && p[..p.len() - 1].bytes().all(|b| b.is_ascii_digit()))
            });
            every
                || ["always", "never", "build", "if_not_present", "missing", "refresh", "daily", "weekly"]
                    .contains(&text)
        }
        _ => false,
    }
}

const PULL_POLICY: &str =
    "^(always|never|build|if_not_present|missing|refresh|daily|weekly|every_([0-9]+[wdhms])+)$";

#[cfg(test)]
mod tests {
    use super::*;

    const KEYWORDS: [&str; 18] = [
        "type",
        "$ref",
        "patternProperties",
        "additionalProperties",
        "properties",
        "items",
        "oneOf",
        "anyOf",
        "allOf",
        "uniqueItems",
        "required",
        "enum",
        "minimum",
        "maximum",
        "unevaluatedProperties",
        "pattern",
        "$defs",
        "const",
    ];

    fn walk(schema: &Json, patterns: &mut Vec<String>, keywords: &mut Vec<String>) {
        for (key, value) in schema.as_object().into_iter().flatten() {
            keywords.push(key.clone());
            match key.as_str() {
                "pattern" => patterns.push(value.as_str().unwrap().to_owned()),
                "properties" | "patternProperties" | "$defs" => {
                    for (name, inner) in value.as_object().unwrap() {
                        if key == "patternProperties" {
                            patterns.push(name.clone());
                        }
                        walk(inner, patterns, keywords);
                    }
                }
                "oneOf" | "anyOf" | "allOf" => {
                    value.as_array().unwrap().iter().for_each(|v| walk(v, patterns, keywords));
                }
                "items" | "additionalProperties" => walk(value, patterns, keywords),
                _ => {}
            }
        }
    }

    #[test]
    fn everything_the_schema_says_is_understood() {
        let (mut patterns, mut keywords) = (Vec::new(), Vec::new());
        walk(schema().unwrap(), &mut patterns, &mut keywords);
        assert!(patterns.len() > 50);
        for pattern in patterns {
            let fits = ["x-a", "ab", "always"].iter().any(|text| matches_pattern(&pattern, text));
            assert!(fits, "{pattern}");
        }
        for keyword in keywords {
            assert!(KEYWORDS.contains(&keyword.as_str()), "{keyword}");
        }
    }
}
