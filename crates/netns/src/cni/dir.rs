//! Which configuration of the directory is in effect, and which programs its plugins are.

use super::conf::Network;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest configuration that is read.
const MAX_CONF: u64 = 1 << 20;

/// Most files of the directory that are looked at.
const MAX_FILES: usize = 1000;

/// Bad files that a reason names; the log names them all.
const NAMED: usize = 4;

/// What the directories say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loaded {
    /// The network in effect, and the file that it is from.
    pub(crate) network: Option<(Arc<Network>, PathBuf)>,
    /// Files that cannot be used, or the directory, and why.
    pub(crate) bad: Vec<(PathBuf, String)>,
    /// Why pods cannot have a network now.
    pub(crate) problem: Option<String>,
}

/// Reads the configurations in lexical order; the first valid one wins.
pub(crate) fn load(conf_dir: &Path, bin_dirs: &[PathBuf]) -> Loaded {
    let files = match list(conf_dir) {
        Ok(files) => files,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let problem = format!("no network plugin is configured: {} does not exist", conf_dir.display());
            return Loaded { problem: Some(problem), ..Loaded::default() };
        }
        Err(error) => {
            // Not the same as none: somebody may have configured one.
            let bad = vec![(conf_dir.to_owned(), format!("list the directory: {error}"))];
            return Loaded { problem: Some(nothing(conf_dir, &bad)), bad, network: None };
        }
    };
    let mut bad = Vec::new();
    let mut network = None;
    for file in files {
        match read(&file).and_then(|bytes| Network::parse(&bytes)) {
            Ok(found) => {
                network = Some((Arc::new(found), file));
                break;
            }
            Err(why) => bad.push((file, why)),
        }
    }
    let problem = match &network {
        None => Some(nothing(conf_dir, &bad)),
        Some((network, file)) => {
            let missing = locate(network, bin_dirs).err();
            missing.map(|why| format!("network {} ({}): {why}", network.name, file.display()))
        }
    };
    Loaded { network, bad, problem }
}

/// The program of each plugin of a network, in the order of the chain.
///
/// # Errors
///
/// Which plugin is missing, and where it was looked for.
pub(crate) fn locate(network: &Network, bin_dirs: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let program = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    let find = |kind: &String| {
        let found = bin_dirs.iter().map(|dir| dir.join(kind)).find(program);
        found.ok_or_else(|| {
            let dirs: Vec<String> = bin_dirs.iter().map(|d| d.display().to_string()).collect();
            format!("plugin {kind} is not installed in {}", dirs.join(" or "))
        })
    };
    network.plugins.iter().map(|p| find(&p.kind)).collect()
}

fn nothing(conf_dir: &Path, bad: &[(PathBuf, String)]) -> String {
    if bad.is_empty() {
        return format!(
            "no network plugin is configured: {} has no *.conflist, *.conf or *.json",
            conf_dir.display()
        );
    }
    let mut text = "no network plugin is configured:".to_owned();
    for (i, (file, why)) in bad.iter().take(NAMED).enumerate() {
        let separator = if i == 0 { "" } else { ";" };
        let _infallible = write!(text, "{separator} {} cannot be used: {why}", file.display());
    }
    if bad.len() > NAMED {
        let _infallible = write!(text, "; and {} more", bad.len() - NAMED);
    }
    text
}

fn list(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir)?;
    let is_conf = |path: &PathBuf| {
        let extension = path.extension().and_then(|e| e.to_str());
        // Files that begin with a dot are what editors and installers write beside.
        let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        !hidden && matches!(extension, Some("conf" | "conflist" | "json"))
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(is_conf).collect();
    files.sort();
    files.truncate(MAX_FILES);
    Ok(files)
}

/// Reads a regular file; a pipe or device of that name must not hold the daemon up.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(nonblocking).open(path).map_err(|e| e.to_string())?;
    if !file.metadata().map_err(|e| e.to_string())?.is_file() {
        return Err("not a regular file".into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_CONF + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MAX_CONF {
        return Err(format!("larger than {MAX_CONF} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(name: &str, plugin: &str) -> String {
        format!(r#"{{"cniVersion": "1.0.0", "name": "{name}", "type": "{plugin}"}}"#)
    }

    #[test]
    fn the_first_valid_file_wins_and_bad_ones_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let load = || load(dir.path(), &["/bin".into()]);
        let problem = || load().problem.unwrap();
        assert!(problem().contains("has no *.conflist"), "{}", problem());
        std::fs::write(dir.path().join("05-broken.conf"), "{").unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("06-pipe.json"), 0o600.into()).unwrap();
        std::fs::write(dir.path().join("README"), "x").unwrap();
        std::fs::write(dir.path().join(".10-a.conflist"), conf("hidden", "sh")).unwrap();
        let text = problem();
        assert!(text.contains("05-broken.conf cannot be used: not JSON"), "{text}");
        assert!(text.contains("06-pipe.json cannot be used: not a regular file"), "{text}");
        std::fs::write(dir.path().join("20-b.json"), conf("b", "sh")).unwrap();
        std::fs::write(dir.path().join("10-a.conf"), conf("a", "sh")).unwrap();
        let loaded = load();
        assert_eq!(loaded.network.unwrap().0.name, "a");
        assert_eq!((loaded.bad.len(), loaded.problem), (2, None));
        std::fs::write(dir.path().join("10-a.conf"), vec![b' '; (MAX_CONF + 1) as usize]).unwrap();
        assert_eq!(load().network.unwrap().0.name, "b", "too large");
        assert!(load_missing().contains("does not exist"));
    }

    #[test]
    fn a_directory_that_cannot_be_listed_is_not_taken_for_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let loaded = load(file.path(), &[]);
        assert_eq!(loaded.bad.len(), 1);
        assert!(loaded.problem.unwrap().contains("cannot be used: list the directory"));
    }

    fn load_missing() -> String {
        load(Path::new("/nonexistent/net.d"), &[]).problem.unwrap()
    }

    #[test]
    fn a_missing_plugin_is_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.conf"), conf("a", "no-such-plugin")).unwrap();
        std::fs::write(dir.path().join("b.conf"), conf("b", "sh")).unwrap();
        let loaded = load(dir.path(), &["/bin".into(), dir.path().to_owned()]);
        assert_eq!(loaded.network.unwrap().0.name, "a", "another network is not taken for it");
        let problem = loaded.problem.unwrap();
        assert!(problem.contains("no-such-plugin is not installed in /bin or "), "{problem}");
    }
}
