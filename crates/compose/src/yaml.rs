//! Reads YAML into nodes: anchors, merge keys and Compose's tags; bounded in size and depth.

use crate::error::{Error, Result};
use crate::node::{Key, Map, Node, Source, Span, Tag, Value};
use granit_parser::{Event, Marker, Parser, ScalarStyle};
use std::collections::HashMap;
use std::sync::Arc;

/// Longest text that is read, in bytes.
pub const MAX_BYTES: usize = 4 << 20;
/// Most nodes of one file, each use of an alias counted in full.
pub const MAX_NODES: usize = 100_000;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 64;
/// Most text of one file in bytes, each use of an alias counted in full.
const MAX_TEXT: usize = 4 * MAX_BYTES;

/// The documents of a text, in order; an empty text has none.
///
/// # Errors
/// What is no YAML, a key that appears twice, a key that is no scalar, an alias to nothing, an unknown tag,
/// and what exceeds [`MAX_BYTES`], [`MAX_NODES`] or [`MAX_DEPTH`].
pub fn parse(source: &Arc<Source>) -> Result<Vec<Node>> {
    let start = Span::new(source, 1, 1);
    if source.text().len() > MAX_BYTES {
        return Err(Error::at(&start, format!("the file is larger than {} MiB", MAX_BYTES >> 20)));
    }
    let mut reader = Reader { source, open: Vec::new(), anchors: HashMap::new(), spent: Size::default() };
    let mut documents = Vec::new();
    for next in Parser::new_from_str(source.text()) {
        let (event, span) = next.map_err(|e| {
            let info = e.info().to_lowercase();
            // The parser has a bound of its own for what is nested in brackets.
            let message = if info.contains("recursion limit") {
                too_deep()
            } else {
                format!("this is no valid YAML: {info}")
            };
            Error::at(&reader.span(e.marker()), message)
        })?;
        let span = reader.span(&span.start);
        if let Some(document) = reader.event(event, &span)? {
            documents.push(document);
        }
    }
    Ok(documents)
}

/// What a node costs when it is used again.
#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    text: usize,
    depth: usize,
}

enum Content {
    Seq(Vec<Node>),
    Map { map: Map, key: Option<(Key, bool)>, merged: Vec<(Span, Node)> },
}

/// A list or mapping whose end has not come yet.
struct Open {
    content: Content,
    span: Span,
    tag: Option<Tag>,
    anchor: usize,
    /// What was spent before it began.
    before: Size,
    /// Deepest nesting seen inside.
    depth: usize,
}

struct Reader<'a> {
    source: &'a Arc<Source>,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, Size)>,
    spent: Size,
}

impl Reader<'_> {
    fn span(&self, marker: &Marker) -> Span {
        Span::new(self.source, marker.line(), marker.col() + 1)
    }

    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<Option<Node>> {
        match event {
            Event::DocumentStart(..) => {
                self.anchors.clear();
                Ok(None)
            }
            Event::Scalar(text, style, anchor, tag) => {
                let name = tag.as_ref().map(|t| t.to_string());
                let (tag, kind) = tags(name.as_deref(), span)?;
                self.spend(Size { nodes: 1, text: text.len(), depth: 0 }, span)?;
                let plain = matches!(style, ScalarStyle::Plain);
                let value = match kind {
                    Some("str") => Value::String(text.into_owned()),
                    Some(kind) => forced(kind, &text, span)?,
                    // The value of !reset means nothing.
                    None if plain => resolve(&text),
                    None => Value::String(text.into_owned()),
                };
                let merge = plain && value == Value::String("<<".into());
                let node = Node { value, span: span.clone(), tag };
                if anchor != 0 {
                    let text = node.as_str().map_or(0, str::len);
                    self.anchors.insert(anchor, (node.clone(), Size { nodes: 1, text, depth: 0 }));
                }
                self.add(node, merge)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.start(Content::Seq(Vec::new()), anchor, tag.map(|t| t.to_string()), span)
            }
            Event::MappingStart(_, anchor, tag) => {
                let content = Content::Map { map: Map::new(), key: None, merged: Vec::new() };
                self.start(content, anchor, tag.map(|t| t.to_string()), span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor) else {
                    return Err(Error::at(span, "the alias is used inside of what it stands for"));
                };
                let (node, size) = (node.clone(), *size);
                self.spend(size, span)?;
                self.add(node, false)
            }
            _ => Ok(None),
        }
    }

    fn spend(&mut self, size: Size, span: &Span) -> Result<()> {
        self.spent.nodes += size.nodes;
        self.spent.text += size.text;
        let depth = self.open.len() + size.depth;
        let what = if self.spent.nodes > MAX_NODES {
            format!("the file has more than {MAX_NODES} values, counting each use of an alias")
        } else if self.spent.text > MAX_TEXT {
            format!("the file has more than {} MiB of text, counting each use of an alias", MAX_TEXT >> 20)
        } else if depth > MAX_DEPTH {
            too_deep()
        } else {
            if let Some(open) = self.open.last_mut() {
                open.depth = open.depth.max(size.depth + 1);
            }
            return Ok(());
        };
        Err(Error::at(span, what))
    }

    fn start(
        &mut self,
        content: Content,
        anchor: usize,
        tag: Option<String>,
        span: &Span,
    ) -> Result<Option<Node>> {
        let before = self.spent;
        self.spend(Size { nodes: 1, text: 0, depth: 1 }, span)?;
        let (tag, kind) = tags(tag.as_deref(), span)?;
        if let Some(kind) = kind {
            let fits = match content {
                Content::Seq(_) => kind == "seq",
                Content::Map { .. } => kind == "map",
            };
            if !fits {
                return Err(Error::at(span, format!("the tag !!{kind} does not fit what it stands before")));
            }
        }
        self.open.push(Open { content, span: span.clone(), tag, anchor, before, depth: 1 });
        Ok(None)
    }

    fn end(&mut self) -> Result<Option<Node>> {
        let Some(open) = self.open.pop() else { return Ok(None) };
        let value = match open.content {
            Content::Seq(items) => Value::Seq(items),
            Content::Map { mut map, merged, .. } => {
                for (span, node) in merged {
                    merge(&mut map, node, &span)?;
                }
                Value::Map(map)
            }
        };
        let node = Node { value, span: open.span, tag: open.tag };
        if open.anchor != 0 {
            let size = Size {
                nodes: self.spent.nodes - open.before.nodes,
                text: self.spent.text - open.before.text,
                depth: open.depth,
            };
            self.anchors.insert(open.anchor, (node.clone(), size));
        }
        if let Some(outer) = self.open.last_mut() {
            outer.depth = outer.depth.max(open.depth + 1);
        }
        self.add(node, false)
    }

    /// Puts a whole node where it belongs; at the top it is a document.
    fn add(&mut self, node: Node, is_merge_key: bool) -> Result<Option<Node>> {
        let Some(open) = self.open.last_mut() else { return Ok(Some(node)) };
        match &mut open.content {
            Content::Seq(items) => items.push(node),
            Content::Map { map, key, merged } => match key.take() {
                None => {
                    let Some(name) = node.scalar() else {
                        return Err(Error::at(&node.span, format!("a key cannot be {}", node.kind())));
                    };
                    *key = Some((Key { name, span: node.span }, is_merge_key));
                }
                Some((name, true)) => {
                    if !merged.is_empty() {
                        return Err(Error::at(&name.span, "the key << appears twice; give it a list"));
                    }
                    merged.push((name.span, node));
                }
                Some((name, false)) => {
                    if let Some((first, _)) = map.get_key_value(name.name.as_str()) {
                        return Err(Error::at(&name.span, format!("the key {:?} appears twice", name.name))
                            .note("it was first written here", Some(&first.span)));
                    }
                    map.insert(name, node);
                }
            },
        }
        Ok(None)
    }
}

fn too_deep() -> String {
    format!("the file is nested more than {MAX_DEPTH} levels deep")
}

/// Adds what a merge key names; what is there already wins, and so do earlier mappings of a list.
fn merge(map: &mut Map, node: Node, span: &Span) -> Result<()> {
    match node.value {
        Value::Null => Ok(()),
        Value::Map(other) => {
            for (key, value) in other {
                if !map.contains_key(key.name.as_str()) {
                    map.insert(key, value);
                }
            }
            Ok(())
        }
        Value::Seq(items) if items.iter().all(|i| i.as_map().is_some()) => {
            items.into_iter().try_for_each(|item| merge(map, item, span))
        }
        _ => Err(Error::at(span, format!("<< takes a mapping or a list of mappings, not {}", node.kind()))),
    }
}

/// What a tag asks of merging, and which kind of value it demands.
fn tags<'a>(tag: Option<&'a str>, span: &Span) -> Result<(Option<Tag>, Option<&'a str>)> {
    let Some(tag) = tag else { return Ok((None, None)) };
    let name = tag.strip_prefix("tag:yaml.org,2002:").or_else(|| tag.strip_prefix("!!"));
    match (name, tag) {
        (Some(name @ ("str" | "int" | "float" | "bool" | "null" | "seq" | "map")), _) => {
            Ok((None, Some(name)))
        }
        (_, "!reset") => Ok((Some(Tag::Reset), None)),
        (_, "!override") => Ok((Some(Tag::Override), None)),
        (_, "!") => Ok((None, Some("str"))),
        _ => Err(Error::at(span, format!("unknown tag {tag}; Compose knows !reset and !override"))),
    }
}

/// A value of the kind that its tag demands.
fn forced(kind: &str, text: &str, span: &Span) -> Result<Value> {
    let value = resolve(text);
    let value = match (kind, value) {
        ("float", Value::Int(n)) => Value::Float(n as f64),
        (_, value) => value,
    };
    let fits = matches!(
        (kind, &value),
        ("int", Value::Int(_))
            | ("float", Value::Float(_))
            | ("bool", Value::Bool(_))
            | ("null", Value::Null)
    );
    if fits { Ok(value) } else { Err(Error::at(span, format!("{text:?} does not fit the tag !!{kind}"))) }
}

/// What an unquoted scalar is, as Compose's own reader sees it: `yes` and `on` are texts, 0644 is octal.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Value::String(text.to_owned());
    }
    let (sign, digits) = match text.as_bytes()[0] {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let based = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find_map(|(prefix, base)| digits.strip_prefix(prefix).map(|d| (d, base)));
    let (digits, base) = match based {
        Some((digits, base)) => (digits, base),
        None if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        None => (digits, 10),
    };
    let plain = digits.replace('_', "");
    if plain.starts_with(|c: char| c.is_ascii_alphanumeric())
        && let Ok(number) = i64::from_str_radix(&plain, base)
    {
        return Value::Int(sign * number);
    }
    let numeric = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
    if text.chars().all(numeric)
        && text.contains(|c: char| c.is_ascii_digit())
        && let Ok(number) = text.parse()
    {
        return Value::Float(number);
    }
    Value::String(text.to_owned())
}
