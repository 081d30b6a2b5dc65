//! Layers of settings, each over the one before: defaults, the file, its drop-ins, flags.

use super::{Config, OPTIONS, OptionSpec, OptionValue, Shape};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Read when no file is named; it need not be there.
pub const DEFAULT_FILE: &str = "/etc/gantry/config.toml";

/// Longest file in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Most drop-ins of one file.
const MAX_DROP_INS: usize = 1000;

/// Most problems that are told of one file.
const MAX_PROBLEMS: usize = 100;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The option's default.
    Default,
    /// A line of a file.
    File {
        /// The file.
        path: PathBuf,
        /// Line, from 1; 0 for the file as a whole.
        line: usize,
    },
    /// A flag of the command line, without its dashes.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Flag(flag) => write!(f, "--{flag}"),
        }
    }
}

/// Something in a configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands.
    pub origin: Origin,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

/// A configuration that cannot be used, with everything that is wrong in it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("configuration: {}", self.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Key in the file; those of named values with a dot, `runtimes.runc`.
    pub key: String,
    /// The value.
    pub value: toml::Value,
    /// Where it was set.
    pub origin: Origin,
}

/// Settings by key, as far as they have been laid over each other.
#[derive(Debug)]
pub struct Layers {
    settings: BTreeMap<String, Setting>,
    problems: Vec<Problem>,
    files: Vec<PathBuf>,
}

impl Layers {
    /// The lowest layer.
    pub fn defaults() -> Self {
        let mut layers = Self { settings: BTreeMap::new(), problems: Vec::new(), files: Vec::new() };
        for option in OPTIONS {
            match parse_value(option.default) {
                Ok(value) => layers.set(option, value, &Origin::Default),
                Err(message) => layers.problem(Origin::Default, format!("{}: {message}", option.key)),
            }
        }
        layers
    }

    /// Lays `file` and its drop-ins (`<file>.d/*.toml`, by name) over what is there. Without a name it is
    /// [`DEFAULT_FILE`], which need not be there. What is wrong is kept for [`Layers::finish`].
    pub fn add_files(&mut self, file: Option<&Path>) {
        let main = file.unwrap_or(Path::new(DEFAULT_FILE));
        match read(main) {
            Err(e) if file.is_none() && e.kind() == std::io::ErrorKind::NotFound => {}
            text => self.add_text(main, text),
        }
        let mut dir = main.as_os_str().to_owned();
        dir.push(".d");
        let dir = PathBuf::from(dir);
        match drop_ins(&dir) {
            Ok(paths) => {
                for path in paths {
                    let text = read(&path);
                    self.add_text(&path, text);
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => self.problem(Origin::File { path: dir, line: 0 }, format!("cannot be listed: {e}")),
        }
    }

    /// Lays flags over what is there, each with every text that was given for it.
    pub fn add_flags(&mut self, flags: &[(&'static OptionSpec, Vec<String>)]) {
        for (option, texts) in flags {
            let origin = Origin::Flag(option.flag);
            let values: Result<Vec<_>, _> = texts.iter().map(|t| (option.from_flag)(t)).collect();
            match (values, option.shape) {
                (Err(message), _) => self.problem(origin, message),
                (Ok(values), Shape::List) => self.check_and_set(option, values.into(), &origin),
                (Ok(values), Shape::One | Shape::Named) => {
                    for value in values {
                        self.check_and_set(option, value, &origin);
                    }
                }
            }
        }
    }

    /// The files that were read, in this order.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Every value, in the order of [`OPTIONS`].
    pub fn settings(&self) -> Vec<&Setting> {
        let of = |option: &OptionSpec| {
            let (key, prefix) = (option.key, format!("{}.", option.key));
            self.settings.values().filter(move |s| s.key == key || s.key.starts_with(&prefix))
        };
        OPTIONS.iter().flat_map(of).collect()
    }

    /// The configuration.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in the order of the layers.
    pub fn finish(&self) -> Result<Config, ConfigError> {
        if !self.problems.is_empty() {
            return Err(ConfigError { problems: self.problems.clone() });
        }
        let config = self.typed()?;
        let problem = |(key, reason): (&str, String)| {
            let origin = self.settings.get(key).map_or(Origin::Default, |s| s.origin.clone());
            Problem { origin, message: format!("{key}: {reason}") }
        };
        let problems: Vec<Problem> = config.contradictions().into_iter().map(problem).collect();
        if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
    }

    /// The value of one option as its type.
    pub(super) fn value<T: OptionValue>(&self, key: &str) -> Result<T, ConfigError> {
        let value = match T::SHAPE {
            Shape::Named => {
                let prefix = format!("{key}.");
                let named = self.settings.values().filter_map(|s| Some((s.key.strip_prefix(&prefix)?, s)));
                toml::Value::Table(named.map(|(name, s)| (name.to_owned(), s.value.clone())).collect())
            }
            Shape::One | Shape::List => match self.settings.get(key) {
                Some(setting) => setting.value.clone(),
                None => {
                    let problem = Problem { origin: Origin::Default, message: format!("{key} has no value") };
                    return Err(ConfigError { problems: vec![problem] });
                }
            },
        };
        T::from_toml(&value).map_err(|message| {
            let origin = self.settings.get(key).map_or(Origin::Default, |s| s.origin.clone());
            ConfigError { problems: vec![Problem { origin, message: format!("{key}: {message}") }] }
        })
    }

    fn add_text(&mut self, path: &Path, text: std::io::Result<String>) {
        let at = |line| Origin::File { path: path.to_owned(), line };
        let text = match text {
            Ok(text) => text,
            Err(e) => return self.problem(at(0), format!("cannot be read: {e}")),
        };
        self.files.push(path.to_owned());
        let line = |offset: usize| 1 + text.bytes().take(offset).filter(|b| *b == b'\n').count();
        let (table, errors) = DeTable::parse_recoverable(&text);
        if !errors.is_empty() {
            // What stands after a mistake may have been misunderstood: only the mistakes are told.
            let at_line =
                |e: &toml::de::Error| (e.span().map_or(0, |s| line(s.start)), e.message().to_owned());
            let mut mistakes: Vec<_> = errors.iter().map(at_line).collect();
            mistakes.sort();
            for (line, message) in mistakes.into_iter().take(MAX_PROBLEMS) {
                self.problem(at(line), message.replace('\n', ", "));
            }
            return;
        }
        let before = self.problems.len();
        let mut entries: Vec<_> = table.into_inner().into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            if self.problems.len() - before >= MAX_PROBLEMS {
                return;
            }
            let (start, key) = (key.span().start, key.into_inner());
            let Some(option) = OptionSpec::find(&key) else {
                self.problem(at(line(start)), unknown(&key));
                continue;
            };
            // Each named value has a line of its own.
            match (option.shape, value.into_inner()) {
                (Shape::Named, DeValue::Table(named)) => {
                    for (name, value) in named {
                        let origin = at(line(name.span().start));
                        match to_value(value.into_inner()) {
                            Ok(value) => {
                                let table = [(name.into_inner().into_owned(), value)].into_iter().collect();
                                self.check_and_set(option, toml::Value::Table(table), &origin);
                            }
                            Err(message) => self.problem(origin, format!("{key}: {message}")),
                        }
                    }
                }
                (_, value) => match to_value(value) {
                    Ok(value) => self.check_and_set(option, value, &at(line(start))),
                    Err(message) => self.problem(at(line(start)), format!("{key}: {message}")),
                },
            }
        }
    }

    fn check_and_set(&mut self, option: &'static OptionSpec, value: toml::Value, origin: &Origin) {
        match (option.check)(&value) {
            Ok(()) => self.set(option, value, origin),
            Err(message) => {
                let name = match (&value, option.shape) {
                    (toml::Value::Table(table), Shape::Named) if table.len() == 1 => {
                        format!("{}.{}", option.key, table.keys().next().map_or("", String::as_str))
                    }
                    _ => option.key.to_owned(),
                };
                self.problem(origin.clone(), format!("{name}: {message}"));
            }
        }
    }

    fn set(&mut self, option: &OptionSpec, value: toml::Value, origin: &Origin) {
        let mut insert = |key: String, value| {
            self.settings.insert(key.clone(), Setting { key, value, origin: origin.clone() });
        };
        match (option.shape, value) {
            (Shape::Named, toml::Value::Table(table)) => {
                for (name, value) in table {
                    insert(format!("{}.{name}", option.key), value);
                }
            }
            (Shape::List, one @ toml::Value::String(_)) => insert(option.key.to_owned(), vec![one].into()),
            (_, value) => insert(option.key.to_owned(), value),
        }
    }

    fn problem(&mut self, origin: Origin, message: String) {
        self.problems.push(Problem { origin, message });
    }
}

/// An unknown key, with the known one that is nearest to it.
fn unknown(key: &str) -> String {
    let written = key.replace('-', "_").to_lowercase();
    let near = |known: &&OptionSpec| strsim::damerau_levenshtein(&written, known.key);
    let nearest = OPTIONS.iter().min_by_key(near).map(|o| (o.key, near(&o)));
    match nearest {
        // With more than half of it changed it would be another word.
        Some((known, distance)) if distance * 2 <= known.len().max(written.len()) => {
            format!("unknown key {key:?}; did you mean {known:?}?")
        }
        _ => format!("unknown key {key:?}; `gantry config default` prints every key"),
    }
}

/// A value that stands alone, as defaults do.
fn parse_value(text: &str) -> Result<toml::Value, String> {
    let value = DeValue::parse(text).map_err(|e| e.message().to_owned())?;
    to_value(value.into_inner())
}

/// Without spans.
fn to_value(value: DeValue<'_>) -> Result<toml::Value, String> {
    Ok(match value {
        DeValue::String(text) => text.into_owned().into(),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_err(|e| format!("{}: {e}", number.as_str()))?
            .into(),
        DeValue::Float(number) => {
            number.as_str().parse::<f64>().map_err(|e| format!("{}: {e}", number.as_str()))?.into()
        }
        DeValue::Boolean(value) => value.into(),
        DeValue::Datetime(time) => time.into(),
        DeValue::Array(values) => {
            let each = values.into_iter().map(|v| to_value(v.into_inner()));
            toml::Value::Array(each.collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => {
            let each =
                table.into_iter().map(|(k, v)| Ok((k.into_inner().into_owned(), to_value(v.into_inner())?)));
            toml::Value::Table(each.collect::<Result<_, String>>()?)
        }
    })
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(std::io::Error::other(format!("is longer than {MAX_FILE} bytes")));
    }
    Ok(text)
}

/// The drop-ins of a directory, by name; hidden files are those that an editor has not finished.
fn drop_ins(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        if path.extension().is_some_and(|e| e == "toml") && !hidden {
            paths.push(path);
        }
        if paths.len() > MAX_DROP_INS {
            return Err(std::io::Error::other(format!("more than {MAX_DROP_INS} drop-ins")));
        }
    }
    paths.sort();
    Ok(paths)
}
