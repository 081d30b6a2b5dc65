//! Variables in values: `$NAME`, `${NAME}` and the forms with a default, an alternative or an error.

use crate::error::{Error, Result};
use crate::node::{Node, Path, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Most text in bytes that the variables of one load may produce.
const MAX_PRODUCED: usize = 64 << 20;
/// Deepest nesting of variables inside of each other's defaults.
const MAX_NESTING: usize = 16;

/// How a file uses a variable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variable {
    /// Some use fails without it.
    pub required: bool,
    /// What stands for it when it is missing.
    pub default: Option<String>,
    /// What stands for it when it is there.
    pub alternative: Option<String>,
}

/// What substitution needs to know and what it finds out.
pub struct Interpolator<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    /// The variables that were used.
    pub variables: BTreeMap<String, Variable>,
    /// Variables that were missing where no default was given.
    pub missing: BTreeSet<String>,
    produced: usize,
}

impl std::fmt::Debug for Interpolator<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interpolator").field("variables", &self.variables).finish_non_exhaustive()
    }
}

/// What follows the name in braces.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operator {
    Default,
    Required,
    Alternative,
}

impl<'a> Interpolator<'a> {
    /// Substitutes with what `lookup` knows.
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { lookup, variables: BTreeMap::new(), missing: BTreeSet::new(), produced: 0 }
    }

    /// The text with every variable replaced.
    ///
    /// # Errors
    /// A message without a place: a required variable is missing, or what stands in braces is no variable.
    pub fn substitute(&mut self, text: &str) -> std::result::Result<String, String> {
        self.nested(text, 0, true)
    }

    fn nested(&mut self, text: &str, depth: usize, used: bool) -> std::result::Result<String, String> {
        if depth > MAX_NESTING {
            return Err(format!("variables are nested more than {MAX_NESTING} levels deep"));
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            if let Some(tail) = after.strip_prefix('$') {
                out.push('$');
                rest = tail;
            } else if let Some(inside) = after.strip_prefix('{') {
                let end = closing_brace(inside).ok_or_else(|| invalid(text))?;
                let value = self.braced(&inside[..end], text, depth, used)?;
                out.push_str(&value);
                rest = &inside[end + 1..];
            } else {
                let length = name_length(after);
                if length == 0 {
                    // Before what is no name it means itself, as in `$(date)` and `$1`.
                    out.push('$');
                } else {
                    out.push_str(&self.plain(&after[..length], used));
                }
                rest = &after[length..];
            }
            self.produced += out.len().min(MAX_PRODUCED);
            if out.len() > MAX_PRODUCED || self.produced > 64 * MAX_PRODUCED {
                return Err(format!("its variables produce more than {} MiB", MAX_PRODUCED >> 20));
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn plain(&mut self, name: &str, used: bool) -> String {
        self.variables.entry(name.to_owned()).or_default();
        let value = (self.lookup)(name);
        if value.is_none() && used {
            self.missing.insert(name.to_owned());
        }
        value.unwrap_or_default()
    }

    fn braced(
        &mut self,
        inside: &str,
        whole: &str,
        depth: usize,
        used: bool,
    ) -> std::result::Result<String, String> {
        let length = name_length(inside);
        if length == 0 {
            return Err(invalid(whole));
        }
        let (name, rest) = inside.split_at(length);
        if rest.is_empty() {
            return Ok(self.plain(name, used));
        }
        let (also_empty, rest) = rest.strip_prefix(':').map_or((false, rest), |r| (true, r));
        let operator = match rest.as_bytes().first() {
            Some(b'-') => Operator::Default,
            Some(b'?') => Operator::Required,
            Some(b'+') => Operator::Alternative,
            _ => return Err(invalid(whole)),
        };
        let word = &rest[1..];
        let value = (self.lookup)(name).filter(|v| !(also_empty && v.is_empty()));
        let variable = self.variables.entry(name.to_owned()).or_default();
        match operator {
            Operator::Default => variable.default = Some(word.to_owned()),
            Operator::Required => variable.required = true,
            Operator::Alternative => variable.alternative = Some(word.to_owned()),
        }
        let takes_word = match operator {
            Operator::Default | Operator::Required => value.is_none(),
            Operator::Alternative => value.is_some(),
        };
        // Also a word that is not taken is read, for the variables in it; its faults do not count then.
        let read = self.nested(word, depth + 1, used && takes_word);
        match operator {
            Operator::Default => value.map_or(read, Ok),
            Operator::Alternative if takes_word => read,
            Operator::Alternative => Ok(String::new()),
            Operator::Required => match value {
                Some(value) => Ok(value),
                None => {
                    let why = read?;
                    let colon = if why.is_empty() { "" } else { ": " };
                    Err(format!("required variable {name} is missing a value{colon}{why}"))
                }
            },
        }
    }

    /// Replaces variables in all values below `node`, then reads texts as numbers or booleans where Compose
    /// wants those.
    ///
    /// # Errors
    /// What [`Interpolator::substitute`] refuses, and a text that is not of the kind its place wants.
    pub fn tree(&mut self, node: &mut Node, path: &Path, substitute: bool) -> Result<()> {
        if node.tag == Some(crate::node::Tag::Reset) {
            return Ok(());
        }
        match &mut node.value {
            Value::String(text) => {
                if substitute && text.contains('$') {
                    *text =
                        self.substitute(text).map_err(|m| Error::at(&node.span, format!("{path}: {m}")))?;
                }
                if let Some(cast) = cast_of(path)
                    && (substitute || !text.contains('$'))
                {
                    let value = cast.apply(text);
                    node.value = value.ok_or_else(|| {
                        Error::at(&node.span, format!("{path}: {text:?} is not {}", cast.name()))
                    })?;
                }
                Ok(())
            }
            Value::Seq(items) => {
                let item_path = path.join("[]");
                items.iter_mut().try_for_each(|item| self.tree(item, &item_path, substitute))
            }
            Value::Map(map) => map
                .iter_mut()
                .try_for_each(|(key, value)| self.tree(value, &path.join(&key.name), substitute)),
            _ => Ok(()),
        }
    }
}

fn invalid(text: &str) -> String {
    format!("invalid variable in {text:?}; a dollar sign that means itself is written $$")
}

/// Bytes of the name that a text begins with.
fn name_length(text: &str) -> usize {
    let mut bytes = text.bytes();
    match bytes.next() {
        Some(b) if b.is_ascii_alphabetic() || b == b'_' => {}
        _ => return 0,
    }
    1 + bytes.take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count()
}

/// Where the brace closes that was opened before the text; only `${` opens another.
fn closing_brace(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut open, mut at) = (1, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'}' => {
                open -= 1;
                if open == 0 {
                    return Some(at);
                }
            }
            b'$' if bytes.get(at + 1) == Some(&b'{') => {
                open += 1;
                at += 1;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// What a text has to become at some places.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cast {
    Bool,
    Int,
    Float,
    /// A number as YAML writes it: a leading zero makes it octal.
    Mask,
}

impl Cast {
    fn name(self) -> &'static str {
        match self {
            Self::Bool => "a boolean",
            Self::Int | Self::Mask => "a whole number",
            Self::Float => "a number",
        }
    }

    fn apply(self, text: &str) -> Option<Value> {
        match self {
            // Also what YAML 1.1 took for booleans.
            Self::Bool => match text.to_lowercase().as_str() {
                "true" | "t" | "1" | "y" | "yes" | "on" => Some(Value::Bool(true)),
                "false" | "f" | "0" | "n" | "no" | "off" => Some(Value::Bool(false)),
                _ => None,
            },
            Self::Int => text.parse().ok().map(Value::Int),
            Self::Float => text.parse().ok().filter(|n: &f64| n.is_finite()).map(Value::Float),
            Self::Mask => {
                let digits =
                    text.strip_prefix("0o").or_else(|| text.strip_prefix('0')).filter(|d| !d.is_empty());
                let number = match digits {
                    Some(digits) => u32::from_str_radix(digits, 8),
                    None => text.parse(),
                };
                number.ok().map(|n| Value::Int(n.into()))
            }
        }
    }
}

/// Places where a text is read as something else; `@` stands for everything that describes a container.
const CASTS: [(&str, Cast); 50] = [
    ("networks.*.external", Cast::Bool),
    ("networks.*.internal", Cast::Bool),
    ("networks.*.attachable", Cast::Bool),
    ("networks.*.enable_ipv4", Cast::Bool),
    ("networks.*.enable_ipv6", Cast::Bool),
    ("volumes.*.external", Cast::Bool),
    ("secrets.*.external", Cast::Bool),
    ("configs.*.external", Cast::Bool),
    ("@.cpu_count", Cast::Int),
    ("@.cpu_percent", Cast::Float),
    ("@.cpu_period", Cast::Int),
    ("@.cpu_quota", Cast::Int),
    ("@.cpu_rt_period", Cast::Int),
    ("@.cpu_rt_runtime", Cast::Int),
    ("@.cpus", Cast::Float),
    ("@.cpu_shares", Cast::Int),
    ("@.init", Cast::Bool),
    ("@.networks.*.use_service_name_alias", Cast::Bool),
    ("@.oom_kill_disable", Cast::Bool),
    ("@.oom_score_adj", Cast::Int),
    ("@.pids_limit", Cast::Int),
    ("@.privileged", Cast::Bool),
    ("@.read_only", Cast::Bool),
    ("@.umask", Cast::Mask),
    ("@.ulimits.*", Cast::Int),
    ("@.ulimits.*.hard", Cast::Int),
    ("@.ulimits.*.soft", Cast::Int),
    ("@.volumes.[].read_only", Cast::Bool),
    ("@.volumes.[].volume.nocopy", Cast::Bool),
    ("@.volumes.[].bind.create_host_path", Cast::Bool),
    ("@.env_file.[].required", Cast::Bool),
    ("services.*.depends_on.*.required", Cast::Bool),
    ("services.*.depends_on.*.restart", Cast::Bool),
    ("services.*.healthcheck.retries", Cast::Int),
    ("services.*.healthcheck.disable", Cast::Bool),
    ("services.*.ports.[].target", Cast::Int),
    ("services.*.stdin_open", Cast::Bool),
    ("services.*.tty", Cast::Bool),
    ("services.*.attach", Cast::Bool),
    ("services.*.use_api_socket", Cast::Bool),
    ("services.*.build.no_cache", Cast::Bool),
    ("services.*.build.privileged", Cast::Bool),
    ("services.*.build.pull", Cast::Bool),
    ("services.*.deploy.replicas", Cast::Int),
    ("services.*.deploy.update_config.parallelism", Cast::Int),
    ("services.*.deploy.update_config.max_failure_ratio", Cast::Float),
    ("services.*.deploy.rollback_config.parallelism", Cast::Int),
    ("services.*.deploy.rollback_config.max_failure_ratio", Cast::Float),
    ("services.*.deploy.restart_policy.max_attempts", Cast::Int),
    ("services.*.scale", Cast::Int),
];

fn cast_of(path: &Path) -> Option<Cast> {
    let found = CASTS.iter().find(|(pattern, _)| path.is_form(pattern));
    found.map(|(_, cast)| *cast)
}
