//! What can be wrong with a Compose file, and where.

use crate::node::Span;
use std::fmt::Write as _;

/// A fault in a Compose file or in something that it refers to.
///
/// `Display` gives one line, `file:line:column: message`; [`Error::render`] adds the source line.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}{message}", place(.at.as_ref()))]
pub struct Error {
    message: String,
    at: Option<Span>,
    notes: Vec<(String, Option<Span>)>,
}

/// Outcome of everything in this crate that can find a fault.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A fault at a place in a file.
    pub fn at(span: &Span, message: impl Into<String>) -> Self {
        Self { message: message.into(), at: Some(span.clone()), notes: Vec::new() }
    }

    /// A fault that belongs to no place in a file.
    pub fn nowhere(message: impl Into<String>) -> Self {
        Self { message: message.into(), at: None, notes: Vec::new() }
    }

    /// Adds what else there is to know, with the place it is about if there is one.
    #[must_use]
    pub fn note(mut self, text: impl Into<String>, span: Option<&Span>) -> Self {
        self.notes.push((text.into(), span.cloned()));
        self
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Where it is wrong.
    pub fn span(&self) -> Option<&Span> {
        self.at.as_ref()
    }

    /// The message and the source line it is about, over several lines.
    pub fn render(&self) -> String {
        let mut text = format!("{self}\n");
        if let Some(span) = &self.at {
            show_line(&mut text, span);
        }
        for (note, span) in &self.notes {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{}{note}", place(span.as_ref()));
            if let Some(span) = span {
                show_line(&mut text, span);
            }
        }
        text
    }
}

fn place(span: Option<&Span>) -> String {
    span.map(|span| format!("{span}: ")).unwrap_or_default()
}

/// Longest part of a source line that is shown, in characters.
const SHOWN: usize = 160;

fn show_line(text: &mut String, span: &Span) {
    let Some(line) = span.source_line() else { return };
    let shown: String =
        line.chars().take(SHOWN).map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect();
    let number = span.line().to_string();
    let margin = " ".repeat(number.len());
    // Tabs are kept, so that the mark stands below what it means.
    let before: String =
        shown.chars().take(span.column() - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let _ = writeln!(text, " {margin} |\n {number} | {shown}\n {margin} | {before}^");
}

/// The name among `known` that was probably meant.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = ((name.chars().count() + 1) / 3).clamp(1, 3);
    // A name that was typed differently, then one with a letter wrong.
    let plain = |s: &str| s.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    let wanted = plain(name);
    known
        .into_iter()
        .map(|k| (distance(&wanted, &plain(k)), k))
        .filter(|(d, _)| *d <= limit)
        .min_by_key(|(d, k)| (*d, *k))
        .map(|(_, k)| k)
}

/// Edits between two short words, where swapping neighbours is one edit.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Source;

    #[test]
    fn the_nearest_name_is_found() {
        for (name, found) in [
            ("imge", Some("image")),
            ("enviroment", Some("environment")),
            ("dependsOn", Some("depends_on")),
            ("prots", Some("ports")),
            ("zzz", None),
        ] {
            assert_eq!(nearest(name, ["image", "environment", "depends_on", "ports"]), found, "{name}");
        }
    }

    #[test]
    fn the_line_is_shown_with_a_mark() {
        let source = Source::new("a.yaml", "x:\n\ty: 1\n");
        let error = Error::at(&Span::new(&source, 2, 2), "no").note("ask", None);
        assert_eq!(error.to_string(), "a.yaml:2:2: no");
        assert_eq!(error.render(), "a.yaml:2:2: no\n   |\n 2 | \ty: 1\n   | \t^\nask\n");
    }
}
