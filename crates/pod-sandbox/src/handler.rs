//! Runtime handlers: the OCI runtimes that pods can ask for by name, and which of them work here.

use crate::error::Kind;
use crate::{Error, Result, SandboxerKind};
use gantry_cgroup::Hierarchies;
use gantry_sys::memfd;
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

mod features;
mod self_test;

pub use features::Features;
pub(crate) use self_test::finish;

/// Name of the handler whose runtime comes with Gantry.
pub const EMBEDDED: &str = "embedded";

/// Value of the default handler's option that means: the first that passes its self-test.
pub const AUTO: &str = "auto";

/// Order in which [`AUTO`] tries handlers.
const PREFERENCE: [&str; 3] = [EMBEDDED, "crun", "runc"];

/// Which OCI runtimes there are.
#[derive(Debug, Clone)]
pub struct HandlerConfig {
    /// `gantry-runtime`, if it is installed.
    pub embedded: Option<PathBuf>,
    /// Further handlers by name, from the configuration; an entry replaces one found by itself.
    pub named: BTreeMap<String, PathBuf>,
    /// Name of the default handler, or [`AUTO`].
    pub default: String,
    /// Directories searched for `runc`, `crun` and `runsc`.
    pub search: Vec<PathBuf>,
}

/// One OCI runtime by name.
#[derive(Debug)]
pub struct Handler {
    name: String,
    path: PathBuf,
    /// The embedded runtime, sealed once instead of copying itself at every call.
    sealed: Option<OwnedFd>,
    sandboxer: SandboxerKind,
    /// Further global options without which it does not work on this host.
    options: Vec<String>,
    /// `None` when it works, else why it does not.
    broken: Option<String>,
    features: Features,
    /// The configuration names it; otherwise it was found on the node.
    configured: bool,
}

impl Handler {
    fn new(name: &str, path: &Path) -> Result<Self> {
        let sealed = (name == EMBEDDED).then(|| memfd::seal_program(path)).transpose()?;
        Ok(Self {
            name: name.into(),
            path: path.into(),
            sealed,
            sandboxer: SandboxerKind::default(),
            options: Vec::new(),
            broken: None,
            features: Features::default(),
            configured: false,
        })
    }

    /// Its name, as pods ask for it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The program.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How it makes sandboxes, as its self-test found.
    pub fn sandboxer(&self) -> SandboxerKind {
        self.sandboxer
    }

    /// Why it does not work on this host, as its self-test found; `None` when it does.
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// What pods may ask of it beyond what every handler can do.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Whether the configuration names it (then a broken one is a fault of the node).
    pub fn is_configured(&self) -> bool {
        self.configured
    }

    /// Program and global options: state under `root`, errors as JSON lines in `log`.
    pub(crate) fn command(&self, root: &Path, log: &Path) -> Vec<String> {
        let program = match &self.sealed {
            // Run by the pod's monitor, which reaches the sealed program through this daemon.
            Some(fd) => format!("/proc/{}/fd/{}", std::process::id(), fd.as_fd().as_raw_fd()),
            None => self.path.display().to_string(),
        };
        let mut command = vec![program, "--root".into(), root.display().to_string()];
        command.extend(["--log".into(), log.display().to_string()]);
        command.extend(["--log-format".into(), "json".into()]);
        command.extend(self.options.iter().cloned());
        command
    }
}

/// All handlers of this node.
#[derive(Debug)]
pub struct Handlers {
    all: BTreeMap<String, Handler>,
    default: String,
}

impl Handlers {
    /// Finds the runtimes, tests those that [`AUTO`] may choose, and settles the default.
    ///
    /// `hierarchies` are where a runtime that fails may leave a cgroup; `monitor` is the static program that the self-test runs as a container; `scratch` is a
    /// directory for its bundles, on the run tmpfs. Verdicts are kept there until the next boot.
    ///
    /// # Errors
    ///
    /// [`Kind::FailedPrecondition`] when the default is unknown or no runtime works.
    pub fn open(
        config: &HandlerConfig,
        hierarchies: &Hierarchies,
        monitor: &Path,
        scratch: &Path,
    ) -> Result<Self> {
        let mut paths: BTreeMap<String, PathBuf> = BTreeMap::new();
        for name in ["runc", "crun", "runsc"] {
            let found = config.search.iter().map(|d| d.join(name)).find(|p| p.is_file());
            paths.extend(found.map(|p| (name.to_owned(), p)));
        }
        paths.extend(config.embedded.iter().map(|p| (EMBEDDED.to_owned(), p.clone())));
        paths.extend(config.named.clone());
        let mut all = BTreeMap::new();
        for (name, path) in &paths {
            check_name(name)?;
            let mut handler = Handler::new(name, path)?;
            handler.configured = config.named.contains_key(name) || config.default == *name;
            all.insert(name.clone(), handler);
        }
        let verdicts = self_test::run(&all, hierarchies, monitor, scratch);
        for (name, verdict) in verdicts {
            let Some(handler) = all.get_mut(&name) else { continue };
            match verdict {
                Ok(found) => {
                    (handler.sandboxer, handler.options) = (found.sandboxer, found.options);
                    handler.features = found.features;
                }
                Err(why) => {
                    tracing::info!(handler = name, reason = why, "handler does not work on this host");
                    handler.broken = Some(why);
                }
            }
        }
        let default = choose(&config.default, &all)?;
        Ok(Self { all, default })
    }

    /// The handler that a pod asked for; an empty name is the default.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] with the list of known names; [`Kind::FailedPrecondition`] for one that
    /// does not work here.
    pub fn get(&self, name: &str) -> Result<&Handler> {
        let name = if name.is_empty() { &self.default } else { name };
        let Some(handler) = self.all.get(name) else {
            let known: Vec<&str> = self.all.keys().map(String::as_str).collect();
            let message = format!("unknown runtime handler {name:?}; known handlers: {}", known.join(", "));
            return Err(Error::new(Kind::NotFound, message));
        };
        match &handler.broken {
            None => Ok(handler),
            Some(why) => Err(Error::new(
                Kind::FailedPrecondition,
                format!("runtime handler {name:?} ({}) does not work here: {why}", handler.path.display()),
            )),
        }
    }

    /// Name of the default handler.
    pub fn default_name(&self) -> &str {
        &self.default
    }

    /// Every handler, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Handler> {
        self.all.values()
    }
}

fn choose(wanted: &str, all: &BTreeMap<String, Handler>) -> Result<String> {
    if wanted != AUTO {
        if all.contains_key(wanted) {
            return Ok(wanted.to_owned());
        }
        let known: Vec<&str> = all.keys().map(String::as_str).collect();
        let message = format!("default runtime {wanted:?} is unknown; known: {}", known.join(", "));
        return Err(Error::new(Kind::FailedPrecondition, message));
    }
    // A kernel of its own can do less than pods expect that name no handler.
    let works = |name: &str| {
        all.get(name).is_some_and(|h| h.broken.is_none() && h.sandboxer == SandboxerKind::Namespaces)
    };
    let rest = all.keys().map(String::as_str).filter(|n| !PREFERENCE.contains(n));
    if let Some(name) = PREFERENCE.into_iter().chain(rest).find(|n| works(n)) {
        return Ok(name.to_owned());
    }
    let tried: Vec<String> = all
        .values()
        .map(|h| {
            format!("{}: {}", h.name, h.broken.as_deref().unwrap_or("works, but only for pods that name it"))
        })
        .collect();
    let message = match tried.as_slice() {
        [] => "no OCI runtime found; install gantry-runtime beside gantry, or runc, or crun".to_owned(),
        tried => format!("no OCI runtime works on this host ({})", tried.join("; ")),
    };
    Err(Error::new(Kind::FailedPrecondition, message))
}

fn check_name(name: &str) -> Result<()> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if name.is_empty() || name.len() > 63 || name == AUTO || !name.bytes().all(good) {
        let message = format!("runtime name {name:?}: use up to 63 of a-z, 0-9, '-' and '.', not \"auto\"");
        return Err(Error::new(Kind::InvalidArgument, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handlers(list: &[(&str, Option<&str>)]) -> BTreeMap<String, Handler> {
        let make = |(name, broken): &(&str, Option<&str>)| {
            let handler = Handler {
                name: (*name).into(),
                path: PathBuf::from("/bin").join(name),
                sealed: None,
                sandboxer: match *name {
                    "runsc" => SandboxerKind::OciSandbox,
                    _ => SandboxerKind::Namespaces,
                },
                options: Vec::new(),
                broken: broken.map(String::from),
                features: Features::default(),
                configured: false,
            };
            ((*name).to_owned(), handler)
        };
        list.iter().map(make).collect()
    }

    #[test]
    fn auto_takes_the_first_that_works() {
        let all = handlers(&[("runc", None), ("crun", Some("hybrid")), (EMBEDDED, Some("no"))]);
        assert_eq!(choose(AUTO, &all).unwrap(), "runc");
        let all = handlers(&[("runc", None), (EMBEDDED, None)]);
        assert_eq!(choose(AUTO, &all).unwrap(), EMBEDDED);
        let all = handlers(&[("mine", None), ("runc", Some("x"))]);
        assert_eq!(choose(AUTO, &all).unwrap(), "mine");
        let error = choose(AUTO, &handlers(&[("crun", Some("hybrid cgroups"))])).unwrap_err().to_string();
        assert!(error.contains("crun: hybrid cgroups"), "{error}");
        let sandboxed = handlers(&[("runsc", None), ("runc", None)]);
        assert_eq!(choose(AUTO, &sandboxed).unwrap(), "runc");
        assert!(choose(AUTO, &handlers(&[("runsc", None)])).is_err(), "only by name");
        assert_eq!(choose("runsc", &sandboxed).unwrap(), "runsc");
        assert!(choose("kata", &all).unwrap_err().to_string().contains("known: mine, runc"));
    }

    #[test]
    fn an_unknown_handler_is_refused_with_the_known_ones() {
        let all = handlers(&[("runc", None), ("crun", Some("hybrid cgroups"))]);
        let handlers = Handlers { all, default: "runc".into() };
        assert_eq!(handlers.get("").unwrap().name(), "runc");
        let error = handlers.get("kata").unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.to_string().ends_with("known handlers: crun, runc"), "{error}");
        assert_eq!(handlers.get("crun").unwrap_err().kind(), Kind::FailedPrecondition);
    }

    #[test]
    fn names_are_checked() {
        for bad in ["", "auto", "A", "a/b", "a b", &"x".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        check_name("gvisor-2.0").unwrap();
    }
}
