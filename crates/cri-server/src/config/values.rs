//! Types that an option can have: from TOML, from a flag.

use crate::metrics::MetricsAddress;
use gantry_pod_sandbox::Ulimit;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Stands for the run directory in addresses of sockets.
const RUN_DIR: &str = "{run_dir}";

/// How many values an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One.
    One,
    /// A list; a later layer replaces all of it.
    List,
    /// Values by name; a later layer replaces those that it names.
    Named,
}

/// A type of an option.
pub trait OptionValue: Sized {
    /// What stands for the value in the help.
    const PLACEHOLDER: &'static str;
    /// Every value that may be given; empty when that cannot be listed.
    const CHOICES: &'static [&'static str] = &[];
    /// How many values it takes.
    const SHAPE: Shape = Shape::One;

    /// The value; the error says what is wanted, without naming the option.
    fn from_toml(value: &toml::Value) -> Result<Self, String>;

    /// What the text of a flag is in TOML.
    fn from_flag(text: &str) -> Result<toml::Value, String> {
        Ok(text.into())
    }
}

/// The text of a string, or what is wanted instead of the value.
fn text<'a>(value: &'a toml::Value, wanted: &str) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("{} where {wanted} is wanted", kind(value)))
}

/// What a TOML value is, with its article.
fn kind(value: &toml::Value) -> String {
    let kind = value.type_str();
    let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {kind}")
}

impl OptionValue for String {
    const PLACEHOLDER: &'static str = "NAME";

    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        match text(value, "a string")? {
            "" => Err("is empty".into()),
            text => Ok(text.to_owned()),
        }
    }
}

impl OptionValue for bool {
    const PLACEHOLDER: &'static str = "true|false";
    const CHOICES: &'static [&'static str] = &["true", "false"];

    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| format!("{} where true or false is wanted", kind(value)))
    }

    fn from_flag(text: &str) -> Result<toml::Value, String> {
        text.parse::<bool>().map(Into::into).map_err(|_| format!("{text:?}: write true or false"))
    }
}

impl OptionValue for PathBuf {
    const PLACEHOLDER: &'static str = "PATH";

    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        let text = text(value, "a path in quotes")?;
        match text.starts_with('/') {
            true => Ok(text.into()),
            false => Err(format!("{text:?} is not an absolute path")),
        }
    }

    /// A relative path starts where the program was started.
    fn from_flag(text: &str) -> Result<toml::Value, String> {
        let path = std::path::absolute(text).map_err(|e| format!("{text:?}: {e}"))?;
        path.to_str().map(Into::into).ok_or_else(|| format!("{path:?} is not UTF-8"))
    }
}

impl<T: OptionValue> OptionValue for Option<T> {
    const PLACEHOLDER: &'static str = T::PLACEHOLDER;
    const CHOICES: &'static [&'static str] = T::CHOICES;
    const SHAPE: Shape = T::SHAPE;

    /// The empty string means none.
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        match value.as_str() {
            Some("") => Ok(None),
            _ => T::from_toml(value).map(Some),
        }
    }

    fn from_flag(text: &str) -> Result<toml::Value, String> {
        if text.is_empty() { Ok("".into()) } else { T::from_flag(text) }
    }
}

impl<T: OptionValue> OptionValue for Vec<T> {
    const PLACEHOLDER: &'static str = T::PLACEHOLDER;
    const CHOICES: &'static [&'static str] = T::CHOICES;
    const SHAPE: Shape = Shape::List;

    /// One value stands for a list of one.
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::Array(values) => values.iter().map(T::from_toml).collect(),
            one => T::from_toml(one).map(|v| vec![v]),
        }
    }

    fn from_flag(text: &str) -> Result<toml::Value, String> {
        T::from_flag(text)
    }
}

impl<T: OptionValue> OptionValue for BTreeMap<String, T> {
    const PLACEHOLDER: &'static str = "NAME=PATH";
    const SHAPE: Shape = Shape::Named;

    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        let table = value.as_table().ok_or_else(|| format!("{} where a table is wanted", kind(value)))?;
        if table.contains_key("") {
            return Err("an empty name".into());
        }
        table.iter().map(|(name, value)| Ok((name.clone(), T::from_toml(value)?))).collect()
    }

    fn from_flag(text: &str) -> Result<toml::Value, String> {
        let (name, value) =
            text.split_once('=').ok_or_else(|| format!("{text:?}: write {}", Self::PLACEHOLDER))?;
        Ok(toml::Value::Table([(name.to_owned(), T::from_flag(value)?)].into_iter().collect()))
    }
}

impl OptionValue for SocketAddr {
    const PLACEHOLDER: &'static str = "ADDRESS:PORT";

    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        let text = text(value, "an address such as \"127.0.0.1:0\"")?;
        text.parse().map_err(|_| format!("{text:?} is not an address and a port such as 127.0.0.1:0"))
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Number<MIN, MAX> {
    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> OptionValue for Number<MIN, MAX> {
    const PLACEHOLDER: &'static str = "NUMBER";

    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        let wanted = || format!("a whole number from {MIN} to {MAX}");
        let number =
            value.as_integer().ok_or_else(|| format!("{} where {} is wanted", kind(value), wanted()))?;
        match u32::try_from(number) {
            Ok(n) if (MIN..=MAX).contains(&n) => Ok(Self(n)),
            _ => Err(format!("{number} where {} is wanted", wanted())),
        }
    }

    fn from_flag(text: &str) -> Result<toml::Value, String> {
        text.parse::<i64>().map(Into::into).map_err(|_| format!("{text:?} is not a whole number"))
    }
}

/// Address of a Unix socket, `unix:///path`; `{run_dir}` in it stands for the run directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketAddress(String);

impl SocketAddress {
    /// The path of the socket.
    pub fn path(&self, run_dir: &Path) -> PathBuf {
        match self.0.strip_prefix(RUN_DIR) {
            // A path that is not UTF-8 must survive.
            Some(rest) => run_dir.join(rest.trim_start_matches('/')),
            None => PathBuf::from(&self.0),
        }
    }
}

impl OptionValue for SocketAddress {
    const PLACEHOLDER: &'static str = "ADDRESS";

    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        let text = text(value, "an address such as \"unix:///run/x.sock\"")?;
        match text.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') || path.starts_with(&format!("{RUN_DIR}/")) => {
                Ok(Self(path.to_owned()))
            }
            _ => Err(format!("{text:?} is not a socket address; write unix:///path/to/socket")),
        }
    }
}

impl OptionValue for MetricsAddress {
    const PLACEHOLDER: &'static str = "ADDRESS";

    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        text(value, "an address such as \"127.0.0.1:9550\"")?.parse()
    }
}

impl OptionValue for Ulimit {
    const PLACEHOLDER: &'static str = "NAME=SOFT:HARD";

    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        text(value, "a limit such as \"nofile=1024:4096\"")?.parse()
    }
}

/// What is logged: a level, or a filter of `tracing-subscriber`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter. A level alone is meant for Gantry; the HTTP libraries below it say each frame.
    pub fn directives(&self) -> String {
        match self.0.as_str() {
            level @ ("debug" | "trace") => {
                format!("{level},h2=info,hyper=info,hyper_util=info,tower=info,rustls=info")
            }
            other => other.to_owned(),
        }
    }
}

impl OptionValue for LogFilter {
    const PLACEHOLDER: &'static str = "LEVEL";

    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        let text = text(value, "a level or a filter")?;
        match tracing_subscriber::EnvFilter::try_new(text) {
            // A single word that is no level would be taken for the name of a module, and mute all others.
            Ok(_) if text.contains('=') || text.parse::<tracing::Level>().is_ok() || text == "off" => {
                Ok(Self(text.to_owned()))
            }
            Ok(_) => Err(format!("{text:?} is no level: write error, warn, info, debug, trace, or a filter")),
            Err(e) => Err(format!("{text:?}: {e}")),
        }
    }
}

/// An option with a few named values.
macro_rules! choices {
    ($(#[doc = $doc:literal])+ $name:ident { $( $(#[doc = $vdoc:literal])+ $variant:ident = $text:literal, )+ }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( $(#[doc = $vdoc])+ $variant, )+ }

        impl OptionValue for $name {
            const PLACEHOLDER: &'static str = "NAME";
            const CHOICES: &'static [&'static str] = &[$($text),+];

            fn from_toml(value: &toml::Value) -> Result<Self, String> {
                match value.as_str() {
                    $( Some($text) => Ok(Self::$variant), )+
                    _ => Err(format!("{value} where one of {} is wanted", Self::CHOICES.join(", "))),
                }
            }
        }
    };
}
pub(super) use choices;
