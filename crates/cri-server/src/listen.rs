//! The sockets: bound early, so that a client finds them when the daemon says it is ready.

use gantry_pod_sandbox::{Error, Kind, Result};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use tokio::net::UnixListener;

/// Binds a socket that only root may use, replacing one that a dead daemon left there.
///
/// # Errors
///
/// [`Kind::FailedPrecondition`] when somebody answers on it.
pub(crate) async fn bind(path: &Path) -> Result<UnixListener> {
    let fail = |call: &str, e: &std::io::Error| {
        Error::new(Kind::Internal, format!("{call} {}: {e}", path.display()))
    };
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        let message = format!("somebody answers on {} already; stop that daemon first", path.display());
        return Err(Error::new(Kind::FailedPrecondition, message));
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail("unlink", &e)),
        _ => {}
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|e| fail("create the directory of", &e))?;
    }
    let listener = UnixListener::bind(path).map_err(|e| fail("bind", &e))?;
    let owner_only = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, owner_only).map_err(|e| fail("chmod", &e))?;
    Ok(listener)
}
