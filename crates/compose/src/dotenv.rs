//! The files that set variables: `.env` and those that `env_file` names.

use crate::error::{Error, Result};
use crate::interpolate::Interpolator;
use crate::node::{Source, Span};
use indexmap::IndexMap;
use std::sync::Arc;

/// Most variables of one file.
const MAX_VARIABLES: usize = 10_000;

/// The variables of a file in the order they were set, each once.
///
/// A value may use variables that `lookup` knows and those set before it; `lookup` wins. A name without a
/// value takes `lookup`'s, or is left out.
///
/// # Errors
/// A name with a character that names cannot have, a quote that does not end, a faulty variable in a value.
pub fn parse(
    source: &Arc<Source>,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<IndexMap<String, String>> {
    let text = source.text().strip_prefix('\u{feff}').unwrap_or(source.text());
    let text = text.replace("\r\n", "\n");
    let mut parser = Parser { source, text: &text, at: 0, lookup, found: IndexMap::new() };
    parser.run()?;
    Ok(parser.found)
}

/// The variables of a file whose lines mean themselves: no quotes, no variables, comments only on their own.
///
/// # Errors
/// A line without a name, and a name with white space in it.
pub fn parse_raw(
    source: &Arc<Source>,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<IndexMap<String, String>> {
    let mut found = IndexMap::new();
    let text = source.text().strip_prefix('\u{feff}').unwrap_or(source.text());
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let span = Span::new(source, number + 1, 1);
        let (name, value) = line.split_once('=').map_or((line, None), |(n, v)| (n, Some(v)));
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Error::at(&span, format!("{name:?} cannot name a variable")));
        }
        if let Some(value) = value.map(str::to_owned).or_else(|| lookup(name)) {
            set(&mut found, name, value).map_err(|m| Error::at(&span, m))?;
        }
    }
    Ok(found)
}

fn set(found: &mut IndexMap<String, String>, name: &str, value: String) -> std::result::Result<(), String> {
    if found.len() == MAX_VARIABLES && !found.contains_key(name) {
        return Err(format!("the file sets more than {MAX_VARIABLES} variables"));
    }
    found.insert(name.to_owned(), value);
    Ok(())
}

struct Parser<'a> {
    source: &'a Arc<Source>,
    text: &'a str,
    at: usize,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    found: IndexMap<String, String>,
}

impl Parser<'_> {
    fn run(&mut self) -> Result<()> {
        loop {
            self.skip(char::is_whitespace);
            let rest = self.rest();
            if rest.is_empty() {
                return Ok(());
            }
            if rest.starts_with('#') {
                self.skip(|c| c != '\n');
                continue;
            }
            self.statement()?;
        }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip(&mut self, what: impl Fn(char) -> bool) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start_matches(what).len();
    }

    /// A fault at an offset of the text.
    fn fault(&self, at: usize, message: impl Into<String>) -> Error {
        let before = &self.text[..at];
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let span = Span::new(self.source, before.matches('\n').count() + 1, column);
        Error::at(&span, message)
    }

    fn statement(&mut self) -> Result<()> {
        let start = self.at;
        if self.rest().strip_prefix("export").is_some_and(|r| r.starts_with([' ', '\t'])) {
            self.at += "export".len();
            self.skip(blank);
        }
        let line = self.rest().split('\n').next().unwrap_or_default();
        let end = line.find(['=', ':']);
        let name = line[..end.unwrap_or(line.len())].trim_end().to_owned();
        let allowed = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '[' | ']');
        if let Some(bad) = name.chars().find(|c| !allowed(*c)) {
            let what = if bad == ' ' { "a space".to_owned() } else { format!("{bad:?}") };
            return Err(self.fault(start, format!("the name of a variable cannot have {what}: {name:?}")));
        }
        if name.is_empty() {
            return Err(self.fault(start, "the variable has no name"));
        }
        let Some(end) = end else {
            self.at += line.len();
            return match (self.lookup)(&name) {
                Some(value) => {
                    set(&mut self.found, &name, value).map_err(|message| self.fault(start, message))
                }
                None => Ok(()),
            };
        };
        self.at += end + 1;
        self.skip(blank);
        let value = self.value()?;
        set(&mut self.found, &name, value).map_err(|message| self.fault(start, message))
    }

    fn value(&mut self) -> Result<String> {
        let start = self.at;
        let quote = match self.rest().as_bytes().first() {
            Some(quote @ (b'"' | b'\'')) => char::from(*quote),
            _ => {
                let line = self.rest().split('\n').next().unwrap_or_default().to_owned();
                self.at += line.len();
                let value = line.split(" #").next().unwrap_or_default().trim_end();
                return self.expand(value, start);
            }
        };
        let mut value = String::new();
        let mut escaped = false;
        let mut end = None;
        for (at, c) in self.rest().char_indices().skip(1) {
            match c {
                c if c == quote && !escaped => {
                    end = Some(at + 1);
                    break;
                }
                '\\' if !escaped => {
                    escaped = true;
                    continue;
                }
                c => {
                    if escaped && c != quote {
                        value.push('\\');
                    }
                    value.push(c);
                }
            }
            escaped = false;
        }
        let Some(end) = end else {
            return Err(self.fault(start, "the quoted value does not end"));
        };
        self.at += end;
        if quote == '"' { self.expand(&unescape(&value), start) } else { Ok(value) }
    }

    fn expand(&self, value: &str, start: usize) -> Result<String> {
        if !value.contains('$') {
            return Ok(value.to_owned());
        }
        let own = |name: &str| (self.lookup)(name).or_else(|| self.found.get(name).cloned());
        Interpolator::new(&own).substitute(value).map_err(|message| self.fault(start, message))
    }
}

fn blank(c: char) -> bool {
    c.is_whitespace() && c != '\n'
}

/// Replaces what a backslash means between double quotes; `\$` becomes `$$`, which means a dollar sign.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('a') => out.push('\u{7}'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('v') => out.push('\u{b}'),
            Some('$') => out.push_str("$$"),
            Some(c @ ('"' | '\\')) => out.push(c),
            Some('0') => {
                let mut digits = String::new();
                while digits.len() < 3 {
                    match chars.next_if(char::is_ascii_digit) {
                        Some(digit) => digits.push(digit),
                        None => break,
                    }
                }
                match u8::from_str_radix(&digits, 8) {
                    Ok(code) if digits.len() == 3 => out.push(char::from(code)),
                    _ => {
                        out.push_str("\\0");
                        out.push_str(&digits);
                    }
                }
            }
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
            None => out.push('\\'),
        }
    }
    out
}
