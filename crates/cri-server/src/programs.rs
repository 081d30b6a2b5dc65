//! Where the two helper programs are.

use gantry_pod_sandbox::{Error, Kind, Result};
use std::path::{Path, PathBuf};

/// Where distributions install helper programs.
const LIBEXEC: &str = "/usr/libexec/gantry";

/// Where `make install` puts them, seen from the directory of the `gantry` program.
const BESIDE_BIN: &str = "../libexec/gantry";

/// The helper programs.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) monitor: PathBuf,
    pub(crate) runtime: Option<PathBuf>,
}

impl Programs {
    /// Looks in `helper_dir`, or beside this program and in the places of an installation.
    pub(crate) fn find(helper_dir: Option<&Path>) -> Result<Self> {
        let dirs: Vec<PathBuf> = match helper_dir {
            Some(dir) => vec![dir.to_owned()],
            None => {
                let beside = std::env::current_exe().ok().and_then(|p| p.parent().map(Path::to_owned));
                let installed = beside.as_ref().map(|dir| dir.join(BESIDE_BIN));
                beside.into_iter().chain(installed).chain([LIBEXEC.into()]).collect()
            }
        };
        let find = |name: &str| dirs.iter().map(|d| d.join(name)).find(|p| p.is_file());
        let monitor = find("gantry-monitor").ok_or_else(|| {
            let tried: Vec<String> = dirs.iter().map(|d| d.display().to_string()).collect();
            let message = format!("gantry-monitor is not in {}; install it there", tried.join(" or "));
            Error::new(Kind::FailedPrecondition, message)
        })?;
        Ok(Self { monitor, runtime: find("gantry-runtime") })
    }
}
