//! The tree that a Compose file is: values that know where they were written.

use indexmap::IndexMap;
use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A text that nodes come from, with the name that people know it by.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    name: String,
    text: String,
}

impl Source {
    /// Keeps `text`, called `name` in messages.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), text: text.into() })
    }

    /// Name of the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// A place in a text; lines and columns count from 1, columns in characters.
#[derive(Clone, PartialEq, Eq)]
pub struct Span {
    source: Arc<Source>,
    line: usize,
    column: usize,
}

impl Span {
    /// A place in `source`.
    pub fn new(source: &Arc<Source>, line: usize, column: usize) -> Self {
        Self { source: source.clone(), line: line.max(1), column: column.max(1) }
    }

    /// File the place is in.
    pub fn file(&self) -> &str {
        &self.source.name
    }

    /// Line, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// Column in characters, from 1.
    pub fn column(&self) -> usize {
        self.column
    }

    /// Text of the line.
    pub fn source_line(&self) -> Option<&str> {
        self.source.text.lines().nth(self.line - 1)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.source.name, self.line, self.column)
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a file asks to be done with the value that earlier files gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// `!reset`: take it away.
    Reset,
    /// `!override`: take this one instead of merging.
    Override,
}

/// A name in a mapping; two keys are equal when their names are.
#[derive(Debug, Clone)]
pub struct Key {
    /// The name.
    pub name: String,
    /// Where it was written.
    pub span: Span,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As str hashes, because of Borrow<str>.
        self.name.as_str().hash(state);
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.name
    }
}

/// A mapping in the order it was written.
pub type Map = IndexMap<Key, Node>;

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    String(String),
    /// A list.
    Seq(Vec<Node>),
    /// A mapping.
    Map(Map),
}

/// A value, where it was written, and how it meets earlier files.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it holds.
    pub value: Value,
    /// Where it was written.
    pub span: Span,
    /// `!reset` or `!override`.
    pub tag: Option<Tag>,
}

impl PartialEq for Node {
    /// Equal values, wherever they were written.
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Node {
    /// A node without a tag.
    pub fn new(value: Value, span: &Span) -> Self {
        Self { value, span: span.clone(), tag: None }
    }

    /// A text.
    pub fn string(text: impl Into<String>, span: &Span) -> Self {
        Self::new(Value::String(text.into()), span)
    }

    /// An empty mapping.
    pub fn map(span: &Span) -> Self {
        Self::new(Value::Map(Map::new()), span)
    }

    /// What a person would call the kind of value.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::String(_) => "a text",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self.value {
            Value::Int(number) => Some(number),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self.value {
            Value::Bool(flag) => Some(flag),
            _ => None,
        }
    }

    /// The mapping, if it is one.
    pub fn as_map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The mapping to change, if it is one.
    pub fn as_map_mut(&mut self) -> Option<&mut Map> {
        match &mut self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The items of a list; none for everything else.
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::Seq(items) => items,
            _ => &[],
        }
    }

    /// Names and values of a mapping; none for everything else.
    pub fn entries(&self) -> impl Iterator<Item = (&Key, &Node)> {
        self.as_map().into_iter().flatten()
    }

    /// The value below a chain of names.
    pub fn get(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, name| node.as_map()?.get(*name))
    }

    /// The text below a chain of names.
    pub fn text(&self, path: &[&str]) -> Option<&str> {
        self.get(path)?.as_str()
    }

    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    /// Sets a name of a mapping; the key is said to stand where the value does.
    pub fn set(&mut self, name: &str, node: Node) {
        if let Some(map) = self.as_map_mut() {
            match map.get_mut(name) {
                Some(old) => *old = node,
                None => {
                    map.insert(Key { name: name.to_owned(), span: node.span.clone() }, node);
                }
            }
        }
    }

    /// Takes a name out of a mapping, keeping the order of the others.
    pub fn take(&mut self, name: &str) -> Option<Node> {
        self.as_map_mut()?.shift_remove(name)
    }

    /// What a scalar looks like as text; none for lists and mappings, empty for null.
    pub fn scalar(&self) -> Option<String> {
        match &self.value {
            Value::Null => Some(String::new()),
            Value::Bool(flag) => Some(flag.to_string()),
            Value::Int(number) => Some(number.to_string()),
            Value::Float(number) => Some(float(*number)),
            Value::String(text) => Some(text.clone()),
            Value::Seq(_) | Value::Map(_) => None,
        }
    }
}

/// A number as short as it can be, with an exponent from a million on.
pub(crate) fn float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e6).contains(&size) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    number.to_string()
}

/// Where a value stands in the tree: names and list positions from the top.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path(Vec<String>);

impl Path {
    /// The path one step further down.
    pub fn join(&self, name: &str) -> Self {
        let mut parts = self.0.clone();
        parts.push(name.to_owned());
        Self(parts)
    }

    /// The names from the top.
    pub fn parts(&self) -> &[String] {
        &self.0
    }

    /// Whether the path fits a pattern like `services.*.ports`, where a star is any one name.
    pub fn is(&self, pattern: &str) -> bool {
        fits(&self.0, pattern)
    }

    /// The same, where a pattern like `@.ports` is meant below what describes a container: a service, or one
    /// of its hooks that bring a container of their own.
    pub fn is_form(&self, pattern: &str) -> bool {
        let Some(rest) = pattern.strip_prefix("@.") else { return self.is(pattern) };
        match self.0.as_slice() {
            [section, _, below @ ..] if section == "services" => {
                fits(below, rest)
                    || matches!(below, [hooks, item, inner @ ..]
                        if hooks == "pre_start" && item == "[]" && fits(inner, rest))
            }
            _ => false,
        }
    }
}

fn fits(parts: &[String], pattern: &str) -> bool {
    let mut rest = parts.iter();
    let fits = pattern.split('.').all(|p| rest.next().is_some_and(|name| p == "*" || p == name));
    fits && rest.next().is_none()
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in self.0.iter().enumerate() {
            let dot = if i == 0 || part.starts_with('[') { "" } else { "." };
            write!(f, "{dot}{part}")?;
        }
        Ok(())
    }
}
