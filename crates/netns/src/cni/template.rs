//! The part of Go's `text/template` that configurations of a network are written in: fields, `range`, `if`.
//!
//! A template that is written for containerd's `conf_template` works as it is. What else Go's templates can
//! do is refused by name.

use std::collections::HashMap;

/// Deepest nesting of `range` and `if`.
const MAX_DEPTH: usize = 16;

/// What a template can show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(usize),
    List(Vec<String>),
}

impl Value {
    fn is_true(&self) -> bool {
        match self {
            Self::Text(text) => !text.is_empty(),
            Self::Number(number) => *number != 0,
            Self::List(list) => !list.is_empty(),
        }
    }
}

/// Fields by name, without the dot.
pub(super) type Fields = HashMap<&'static str, Value>;

#[derive(Debug, PartialEq, Eq)]
enum Node {
    Text(String),
    Show(String),
    Range { index: Option<String>, item: Option<String>, list: String, body: Vec<Node>, empty: Vec<Node> },
    If { condition: String, body: Vec<Node>, otherwise: Vec<Node> },
}

/// A piece of a template: plain text, or what stands in double braces.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Action(&'a str),
}

/// Fills `template` in.
///
/// # Errors
///
/// What is not understood, by its words.
pub(super) fn render(template: &str, fields: &Fields) -> Result<String, String> {
    let pieces = pieces(template)?;
    let mut rest = pieces.as_slice();
    let (nodes, end) = parse(&mut rest, 0)?;
    if let Some(end) = end {
        return Err(format!("{{{{{end}}}}} without a beginning"));
    }
    let mut out = String::new();
    let mut scope = Scope { fields, variables: Vec::new(), dot: None };
    scope.show_all(&nodes, &mut out)?;
    Ok(out)
}

fn pieces(template: &str) -> Result<Vec<Piece<'_>>, String> {
    let (mut all, mut rest) = (Vec::new(), template);
    while let Some((text, behind)) = rest.split_once("{{") {
        let (action, after) =
            behind.split_once("}}").ok_or_else(|| format!("{{{{{behind:.40} has no end"))?;
        // "{{- " takes the white space before the action away, " -}}" that behind it (text/template).
        let (text, action) = match action.strip_prefix("- ") {
            Some(action) => (text.trim_end(), action),
            None => (text, action),
        };
        let (action, after) = match action.strip_suffix(" -") {
            Some(action) => (action, after.trim_start()),
            None => (action, after),
        };
        all.push(Piece::Text(text));
        all.push(Piece::Action(action.trim()));
        rest = after;
    }
    all.push(Piece::Text(rest));
    Ok(all)
}

/// Nodes up to an `else` or `end` of whoever called, which is returned; at depth 0 up to the end.
fn parse<'a>(rest: &mut &[Piece<'a>], depth: usize) -> Result<(Vec<Node>, Option<&'a str>), String> {
    if depth > MAX_DEPTH {
        return Err(format!("more than {MAX_DEPTH} levels of range and if"));
    }
    let mut nodes = Vec::new();
    while let Some((piece, behind)) = rest.split_first() {
        *rest = behind;
        let action = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text((*text).to_owned()));
                continue;
            }
            Piece::Action(action) => *action,
        };
        let (word, words) = action.split_once(char::is_whitespace).unwrap_or((action, ""));
        match word {
            "end" | "else" => return Ok((nodes, Some(action))),
            "range" => {
                let (variables, list) = match words.split_once(":=") {
                    Some((variables, list)) => (variables.split(',').map(str::trim).collect(), list.trim()),
                    None => (Vec::new(), words.trim()),
                };
                let (index, item) = match variables[..] {
                    [] => (None, None),
                    [item] => (None, Some(variable(item)?)),
                    [index, item] => (Some(variable(index)?), Some(variable(item)?)),
                    _ => return Err(not_understood(action)),
                };
                let list = operand(list, action)?;
                let (body, empty) = branches(rest, depth)?;
                nodes.push(Node::Range { index, item, list, body, empty });
            }
            "if" => {
                let condition = operand(words.trim(), action)?;
                let (body, otherwise) = branches(rest, depth)?;
                nodes.push(Node::If { condition, body, otherwise });
            }
            _ if action.starts_with("/*") && action.ends_with("*/") => {}
            _ => nodes.push(Node::Show(operand(action, action)?)),
        }
    }
    match depth {
        0 => Ok((nodes, None)),
        _ => Err("a range or if has no {{end}}".into()),
    }
}

/// The two branches of a `range` or `if`.
fn branches(rest: &mut &[Piece<'_>], depth: usize) -> Result<(Vec<Node>, Vec<Node>), String> {
    let (body, end) = parse(rest, depth + 1)?;
    match end {
        Some("end") => Ok((body, Vec::new())),
        Some("else") => match parse(rest, depth + 1)? {
            (otherwise, Some("end")) => Ok((body, otherwise)),
            (_, end) => Err(not_understood(end.unwrap_or("else"))),
        },
        end => Err(not_understood(end.unwrap_or("end"))),
    }
}

fn variable(word: &str) -> Result<String, String> {
    match word.strip_prefix('$') {
        Some(name) if is_name(name) => Ok(word.to_owned()),
        _ => Err(not_understood(word)),
    }
}

fn operand(word: &str, action: &str) -> Result<String, String> {
    let name = word.strip_prefix('.').or_else(|| word.strip_prefix('$'));
    match name {
        Some(name) if is_name(name) || word == "." => Ok(word.to_owned()),
        _ => Err(not_understood(action)),
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn not_understood(action: &str) -> String {
    format!("{{{{{action:.40}}}}} is not understood: only fields, variables, range and if are")
}

struct Scope<'a> {
    fields: &'a Fields,
    variables: Vec<(String, Value)>,
    dot: Option<Value>,
}

impl Scope<'_> {
    fn show_all(&mut self, nodes: &[Node], out: &mut String) -> Result<(), String> {
        nodes.iter().try_for_each(|node| self.show(node, out))
    }

    fn show(&mut self, node: &Node, out: &mut String) -> Result<(), String> {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Show(what) => match self.value(what)? {
                Value::Text(text) => out.push_str(&text),
                Value::Number(number) => out.push_str(&number.to_string()),
                Value::List(_) => return Err(format!("{{{{{what}}}}} is a list; use range")),
            },
            Node::If { condition, body, otherwise } => {
                let chosen = if self.value(condition)?.is_true() { body } else { otherwise };
                self.show_all(chosen, out)?;
            }
            Node::Range { index, item, list, body, empty } => {
                let Value::List(items) = self.value(list)? else {
                    return Err(format!("{{{{range {list}}}}}: it is not a list"));
                };
                if items.is_empty() {
                    return self.show_all(empty, out);
                }
                let (depth, outer) = (self.variables.len(), self.dot.take());
                for (number, text) in items.into_iter().enumerate() {
                    let value = Value::Text(text);
                    self.dot = Some(value.clone());
                    self.variables.extend(index.clone().map(|name| (name, Value::Number(number))));
                    self.variables.extend(item.clone().map(|name| (name, value)));
                    self.show_all(body, out)?;
                    self.variables.truncate(depth);
                }
                self.dot = outer;
            }
        }
        Ok(())
    }

    fn value(&self, word: &str) -> Result<Value, String> {
        let found = match word {
            "." => self.dot.clone(),
            _ if word.starts_with('$') => {
                self.variables.iter().rev().find(|(name, _)| name == word).map(|(_, value)| value.clone())
            }
            _ => self.fields.get(word.trim_start_matches('.')).cloned(),
        };
        found.ok_or_else(|| {
            let mut known: Vec<&str> = self.fields.keys().copied().collect();
            known.sort_unstable();
            format!("there is no {word} here; the fields are .{}", known.join(", ."))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        let list = |items: &[&str]| Value::List(items.iter().map(|i| (*i).to_owned()).collect());
        Fields::from([
            ("PodCIDR", Value::Text("10.1.0.0/24".into())),
            ("PodCIDRRanges", list(&["10.1.0.0/24", "fd00::/64"])),
            ("Routes", list(&[])),
        ])
    }

    #[test]
    fn what_network_configurations_use_is_filled_in() {
        let table = [
            ("plain { text }", "plain { text }"),
            ("<{{.PodCIDR}}> <{{ .PodCIDR }}>", "<10.1.0.0/24> <10.1.0.0/24>"),
            (
                r#"[{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}]"#,
                r#"[[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]"#,
            ),
            ("{{range .PodCIDRRanges}}{{.}};{{end}}", "10.1.0.0/24;fd00::/64;"),
            ("{{range .Routes}}{{.}}{{else}}none{{end}}", "none"),
            ("{{if .Routes}}a{{else}}b{{end}}{{if .PodCIDR}}c{{end}}", "bc"),
            ("a \n {{- /* not shown */ -}} \n b", "ab"),
        ];
        for (template, expected) in table {
            assert_eq!(render(template, &fields()).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (template, word) in [
            ("{{.PodCIDR", "no end"),
            ("{{end}}", "without a beginning"),
            ("{{if .PodCIDR}}x", "no {{end}}"),
            ("{{printf \"%s\" .PodCIDR}}", "printf"),
            ("{{.Other}}", ".PodCIDR, .PodCIDRRanges, .Routes"),
            ("{{$x}}", "$x"),
            ("{{.PodCIDRRanges}}", "use range"),
            ("{{range .PodCIDR}}{{end}}", "not a list"),
            ("{{if .PodCIDR}}{{else}}{{else}}{{end}}", "else"),
            ("{{range $a, $b, $c := .Routes}}{{end}}", "range"),
            ("{{.}}", "no . here"),
        ] {
            let error = render(template, &fields()).unwrap_err();
            assert!(error.contains(word), "{template}: {error}");
        }
        let deep = "{{if .PodCIDR}}".repeat(40);
        assert!(render(&deep, &fields()).unwrap_err().contains("levels"));
    }
}
