//! Setting a damaged sandbox aside: what it runs is ended before anything of it is given to others.
//!
//! Its record may say nothing, so its processes are found by what cannot be damaged: who listens on the
//! monitor's socket, and the cgroups that bear the ids of its containers.

use crate::container::CGROUP_PREFIX;
use crate::engine::Inner;
use crate::error::io_error;
use crate::flight::blocking;
use crate::undo::KILL_LIMIT;
use crate::{Error, Result, id};
use gantry_sys::mount;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Inner {
    /// Ends what runs in the sandbox of `dir`, detaches what is mounted below it, and moves the directory
    /// to the quarantine; its new place.
    ///
    /// # Errors
    ///
    /// When something survives: then the directory stays, and nothing of the sandbox may be given away.
    pub(crate) async fn set_aside(self: &Arc<Self>, dir: &Path) -> Result<PathBuf> {
        if let Some(monitor) = crate::undo::listener(dir) {
            crate::undo::kill(&monitor).await?;
        }
        let (inner, dir) = (self.clone(), dir.to_owned());
        blocking(move || {
            for name in container_ids(&dir)? {
                for path in inner.hierarchies.find(&format!("{CGROUP_PREFIX}{name}"))? {
                    let cgroup = inner.cgroup(&path)?;
                    cgroup.kill(KILL_LIMIT)?;
                    cgroup.remove()?;
                    if let Some((parent, _)) = path.rsplit_once('/')
                        && Path::new(parent).file_name() == dir.file_name()
                    {
                        inner.hierarchies.remove_if_empty(parent)?;
                    }
                }
            }
            let mut below = mount::points_below(&dir)?;
            below.sort();
            below.iter().rev().try_for_each(|point| mount::detach(point))?;
            let place = inner.run_dir.join("quarantine").join(dir.file_name().unwrap_or_default());
            std::fs::rename(&dir, &place).map_err(io_error("set aside", &dir))?;
            Ok::<_, Error>(place)
        })
        .await
    }
}

/// Names of the subdirectories of a sandbox that are containers.
pub(crate) fn container_ids(dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).map_err(io_error("list", dir))?;
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    Ok(names.filter(|name| id::is_id(name)).collect())
}
