//! AppArmor in the kernel: which profiles it has, and loading Gantry's default one.

use crate::error::Kind;
use crate::flight::blocking;
use crate::spec::{AppArmorWanted, DEFAULT_APPARMOR};
use crate::{Error, Result, spec};
use gantry_cri_api::v1;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tokio::sync::OnceCell;

/// Loaded profiles, one a line: `name (mode)`.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// Program that compiles profiles and gives them to the kernel; nothing else can compile them.
const PARSER: &str = "apparmor_parser";

/// AppArmor as this daemon uses it.
#[derive(Debug)]
pub(crate) struct AppArmor {
    enabled: bool,
    search: Vec<PathBuf>,
    /// Loaded once for each daemon: a newer Gantry may have another text under the same name.
    loaded: OnceCell<()>,
}

impl AppArmor {
    /// `enabled` says whether the kernel has it; `search` are directories of programs.
    pub(crate) fn new(enabled: bool, search: Vec<PathBuf>) -> Self {
        Self { enabled, search, loaded: OnceCell::new() }
    }

    /// The name of the default profile if a container with `security` needs it, once it is loaded.
    ///
    /// # Errors
    ///
    /// [`Kind::FailedPrecondition`] when the request names the default and it cannot be loaded, or names a
    /// profile that the kernel does not have. A container that asks for nothing goes on without, with one
    /// warning.
    pub(crate) async fn default_for(
        &self,
        security: &v1::LinuxContainerSecurityContext,
    ) -> Result<Option<&'static str>> {
        let wanted = spec::apparmor_wanted(security)?;
        if !self.enabled {
            return Ok(None);
        }
        match wanted {
            AppArmorWanted::Unconfined => Ok(None),
            AppArmorWanted::Localhost(name) => check_loaded(Path::new(PROFILES), &name).map(|()| None),
            AppArmorWanted::Default | AppArmorWanted::Unsaid if security.privileged => Ok(None),
            AppArmorWanted::Default => self.load().await.map(|()| Some(DEFAULT_APPARMOR)),
            AppArmorWanted::Unsaid => match self.load().await {
                Ok(()) => Ok(Some(DEFAULT_APPARMOR)),
                Err(error) => {
                    warn_unconfined(&error);
                    Ok(None)
                }
            },
        }
    }

    async fn load(&self) -> Result<()> {
        let load = || async {
            let search = self.search.clone();
            blocking(move || load_default(&search)).await
        };
        self.loaded.get_or_try_init(load).await.copied()
    }
}

/// Says once for this daemon that containers which ask for no profile get none.
fn warn_unconfined(error: &Error) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        tracing::warn!(%error, "containers that name no AppArmor profile are not confined by one");
    });
}

fn load_default(search: &[PathBuf]) -> Result<()> {
    let failed = |why: String| {
        let message = format!("load the AppArmor profile {DEFAULT_APPARMOR}: {why}");
        Error::new(Kind::FailedPrecondition, message)
    };
    let program =
        search.iter().map(|dir| dir.join(PARSER)).find(|p| p.is_file()).ok_or_else(|| {
            failed(format!("{PARSER} is not installed; install AppArmor's userspace tools"))
        })?;
    let mut child = Command::new(&program)
        .args(["--replace", "--skip-cache", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(format!("start {}: {e}", program.display())))?;
    let written = match child.stdin.take() {
        // Shorter than a pipe: it is taken at once, whatever the parser does. It sees the end of it, too.
        Some(mut stdin) => stdin.write_all(spec::apparmor_default().as_bytes()),
        None => Ok(()),
    };
    let (code, words) =
        crate::handler::finish(child).map_err(|why| failed(format!("{}: {why}", program.display())))?;
    match (code, written) {
        (Some(0), Ok(())) => {
            tracing::info!(profile = DEFAULT_APPARMOR, "AppArmor profile loaded");
            Ok(())
        }
        (Some(0), Err(e)) => Err(failed(format!("write to {}: {e}", program.display()))),
        (code, _) => {
            let code = code.map_or("a signal".to_owned(), |c| format!("status {c}"));
            Err(failed(format!("{} ended with {code}: {}", program.display(), words.trim())))
        }
    }
}

/// Longest list of profiles that is read.
const MAX_PROFILES: u64 = 4 << 20;

/// Refuses a profile that the kernel does not have; says nothing where the list cannot be read.
fn check_loaded(list: &Path, name: &str) -> Result<()> {
    let mut text = String::new();
    let read = std::fs::File::open(list).and_then(|f| f.take(MAX_PROFILES).read_to_string(&mut text));
    if let Err(error) = read {
        tracing::debug!(%error, "list of AppArmor profiles not read");
        return Ok(());
    }
    let names = text.lines().filter_map(|line| line.rsplit_once(" (").map(|(name, _)| name));
    if names.into_iter().any(|loaded| loaded == name) {
        return Ok(());
    }
    let message = format!("apparmor: the kernel has no profile {name:.128?}; load it with {PARSER} first");
    Err(Error::new(Kind::FailedPrecondition, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn asks(profile_type: i32) -> v1::LinuxContainerSecurityContext {
        let profile = v1::SecurityProfile { profile_type, localhost_ref: String::new() };
        v1::LinuxContainerSecurityContext { apparmor: Some(profile), ..Default::default() }
    }

    /// A parser that keeps what it is given, and how often.
    fn parser(dir: &Path, status: u32) {
        let path = dir.join(PARSER);
        let script = format!(
            "#!/bin/sh\necho called >>{0}/calls\ncat >{0}/profile\necho bad line 3 >&2\nexit {status}\n",
            dir.display()
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[tokio::test]
    async fn the_default_is_loaded_once_and_only_for_who_needs_it() {
        let dir = tempfile::tempdir().unwrap();
        parser(dir.path(), 0);
        let apparmor = AppArmor::new(true, vec!["/nonexistent".into(), dir.path().to_owned()]);
        assert_eq!(apparmor.default_for(&asks(1)).await.unwrap(), None);
        let privileged = v1::LinuxContainerSecurityContext { privileged: true, ..asks(0) };
        assert_eq!(apparmor.default_for(&privileged).await.unwrap(), None);
        assert!(!dir.path().join("calls").exists());
        for security in [asks(0), Default::default(), asks(0)] {
            assert_eq!(apparmor.default_for(&security).await.unwrap(), Some(DEFAULT_APPARMOR));
        }
        assert_eq!(std::fs::read_to_string(dir.path().join("calls")).unwrap(), "called\n");
        let text = std::fs::read_to_string(dir.path().join("profile")).unwrap();
        assert_eq!(text, spec::apparmor_default());
    }

    #[tokio::test]
    async fn without_a_parser_only_who_asks_is_refused() {
        let apparmor = AppArmor::new(true, vec!["/nonexistent".into()]);
        assert_eq!(apparmor.default_for(&Default::default()).await.unwrap(), None);
        let error = apparmor.default_for(&asks(0)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(error.to_string().contains("apparmor_parser is not installed"), "{error}");
        let off = AppArmor::new(false, vec![]);
        assert_eq!(off.default_for(&asks(0)).await.unwrap(), None, "refused where the bundle is made");
    }

    #[tokio::test]
    async fn a_parser_that_fails_is_quoted_and_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        parser(dir.path(), 7);
        let apparmor = AppArmor::new(true, vec![dir.path().to_owned()]);
        let error = apparmor.default_for(&asks(0)).await.unwrap_err().to_string();
        assert!(error.contains("status 7: bad line 3"), "{error}");
        parser(dir.path(), 0);
        assert_eq!(apparmor.default_for(&asks(0)).await.unwrap(), Some(DEFAULT_APPARMOR));
    }

    #[test]
    fn profiles_of_the_node_are_looked_up() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("profiles");
        std::fs::write(&list, "mine (enforce)\nother one (complain)\n").unwrap();
        check_loaded(&list, "mine").unwrap();
        check_loaded(&list, "other one").unwrap();
        assert!(check_loaded(&list, "min").unwrap_err().to_string().contains("\"min\""));
        check_loaded(Path::new("/nonexistent"), "any").unwrap();
    }
}
