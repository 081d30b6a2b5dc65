//! A side: one CRI socket, and a handler of it.

use anyhow::{Context as _, Result, bail};
use std::path::PathBuf;
use std::str::FromStr;

/// What `--side` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SideSpec {
    /// Heading of its column.
    pub(crate) name: String,
    /// The daemon's CRI socket.
    pub(crate) socket: PathBuf,
    /// Runtime handler; empty for the daemon's default.
    pub(crate) handler: String,
    /// Command that starts the daemon and stays its process; without one, restarts are not measured.
    pub(crate) start: Option<PathBuf>,
}

impl FromStr for SideSpec {
    type Err = anyhow::Error;

    /// Reads `name=N,socket=PATH[,handler=H][,start=COMMAND]`.
    fn from_str(text: &str) -> Result<Self> {
        let (mut name, mut socket, mut handler, mut start) = (None, None, String::new(), None);
        for part in text.split(',') {
            let (key, value) = part.split_once('=').with_context(|| format!("{part:?} is not key=value"))?;
            if value.is_empty() {
                bail!("{key}= has no value");
            }
            match key {
                "name" => name = Some(value.to_owned()),
                "socket" => socket = Some(PathBuf::from(value.strip_prefix("unix://").unwrap_or(value))),
                "handler" => value.clone_into(&mut handler),
                "start" => start = Some(PathBuf::from(value)),
                _ => bail!("{key:?} is not one of name, socket, handler, start"),
            }
        }
        let name = name.context("name= is missing")?;
        let socket = socket.context("socket= is missing")?;
        if !socket.is_absolute() {
            bail!("socket {} is not an absolute path", socket.display());
        }
        Ok(Self { name, socket, handler, start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_read() {
        let all: SideSpec = "name=a,socket=unix:///run/a.sock,handler=runc,start=/x/start".parse().unwrap();
        assert_eq!(all.name, "a");
        assert_eq!(all.socket, PathBuf::from("/run/a.sock"));
        assert_eq!(all.handler, "runc");
        assert_eq!(all.start, Some(PathBuf::from("/x/start")));
        let least: SideSpec = "socket=/run/b.sock,name=b".parse().unwrap();
        assert_eq!((least.handler.as_str(), least.start), ("", None));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, named) in [
            ("name=a", "socket="),
            ("socket=/a", "name="),
            ("name=a,socket=a.sock", "absolute"),
            ("name=,socket=/a", "name="),
            ("name=a,socket=/a,colour=red", "colour"),
            ("a", "key=value"),
        ] {
            let error = text.parse::<SideSpec>().unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
