//! registries.conf, version 2 (containers-registries.conf(5)): which endpoints serve a reference.
//!
//! Read: `unqualified-search-registries`; per `[[registry]]` `prefix`, `location`, `insecure`, `blocked`,
//! `mirror-by-digest-only`; per `[[registry.mirror]]` `location`, `insecure`, `pull-from-mirror`.
//! Other keys are ignored. Drop-ins of `<file>.d/*.conf` follow in the order of their names: a registry
//! with the prefix of an earlier one replaces it, a search list replaces the earlier list.

use super::reference::{Reference, Which};
use crate::{Error, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where the file is unless the configuration says otherwise.
pub(crate) const DEFAULT_PATH: &str = "/etc/containers/registries.conf";
/// Files larger than this are not read.
const MAX_FILE: u64 = 4 << 20;
/// Host that serves `docker.io`.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// The merged configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Registries {
    /// Registries for names without a domain, in order.
    pub(crate) search: Vec<String>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirrors: Vec<Mirror>,
}

/// One place to ask for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Host and port to connect to.
    pub(crate) host: String,
    /// Name of the repository there.
    pub(crate) repository: String,
    /// Whether plain HTTP and unverified certificates will do.
    pub(crate) insecure: bool,
    /// Whether the caller's credentials belong here.
    pub(crate) trusted: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    unqualified_search_registries: Option<Vec<String>>,
    #[serde(default)]
    registry: Vec<Table>,
    registries: Option<toml::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Table {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Mirror>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: PullFrom,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PullFrom {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

impl Registries {
    /// Reads `path` and its drop-ins; what is not there counts as empty.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] for a file that cannot be understood: guessing could reach a blocked registry.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let mut all = Self::default();
        all.merge_file(path)?;
        let mut directory = path.as_os_str().to_owned();
        directory.push(".d");
        for file in drop_ins(Path::new(&directory))? {
            all.merge_file(&file)?;
        }
        Ok(all)
    }

    fn merge_file(&mut self, path: &Path) -> Result<()> {
        let object = || path.display().to_string();
        let size = match std::fs::metadata(path) {
            Ok(m) => m.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io("stat", object(), e)),
        };
        if size > MAX_FILE {
            return Err(Error::corrupt(object(), "the file is larger than 4 MiB"));
        }
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", object(), e))?;
        self.merge(&text).map_err(|reason| Error::corrupt(object(), reason))
    }

    fn merge(&mut self, text: &str) -> Result<(), String> {
        let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
        if file.registries.is_some() {
            return Err("[registries] is version 1 of the format; write [[registry]] tables".into());
        }
        if let Some(search) = file.unqualified_search_registries {
            self.search = search;
        }
        for table in file.registry {
            let entry = Entry::checked(table)?;
            match self.entries.iter_mut().find(|e| e.prefix == entry.prefix) {
                Some(earlier) => *earlier = entry,
                None => self.entries.push(entry),
            }
        }
        Ok(())
    }

    /// Where to ask for an image: mirrors in order, then the location.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`] for a blocked registry, [`Error::InvalidReference`] when a rewritten name
    /// is none.
    pub(crate) fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>> {
        let name = reference.repository();
        let best = self
            .entries
            .iter()
            .filter_map(|e| matched(&e.prefix, &name, reference).map(|n| (e, n)))
            .max_by_key(|(e, _)| e.prefix.len());
        let Some((entry, matched)) = best else {
            return Ok(vec![endpoint(reference, &name, false, true)?]);
        };
        if entry.blocked {
            return Err(Error::Unauthorized {
                object: reference.to_string(),
                reason: format!("registries.conf blocks {}", entry.prefix),
            });
        }
        let rest = &name[matched..];
        let by_digest = matches!(reference.which(), Which::Digest(_));
        let mut all = Vec::new();
        for mirror in &entry.mirrors {
            let serves = match mirror.pull_from_mirror {
                PullFrom::All => by_digest || !entry.mirror_by_digest_only,
                PullFrom::DigestOnly => by_digest,
                PullFrom::TagOnly => !by_digest,
            };
            if serves {
                let name = format!("{}{rest}", mirror.location);
                let mut found = endpoint(reference, &name, mirror.insecure, false)?;
                found.trusted = found.host == reference.domain();
                all.push(found);
            }
        }
        let location = if entry.location.is_empty() { name } else { format!("{}{rest}", entry.location) };
        all.push(endpoint(reference, &location, entry.insecure, true)?);
        Ok(all)
    }
}

impl Entry {
    fn checked(table: Table) -> Result<Self, String> {
        let wildcard = table.prefix.starts_with("*.");
        if table.prefix.is_empty() && table.location.is_empty() {
            return Err("a [[registry]] needs a prefix or a location".into());
        }
        if table.location.is_empty() && !wildcard {
            return Err(format!("registry {:?} needs a location", table.prefix));
        }
        let prefix = if table.prefix.is_empty() { table.location.clone() } else { table.prefix };
        for text in [&prefix, &table.location].into_iter().chain(table.mirror.iter().map(|m| &m.location)) {
            if text.contains("://") || text.ends_with('/') {
                return Err(format!("{text:?} must be host[:port][/path], without a scheme or a last slash"));
            }
        }
        Ok(Self {
            prefix,
            location: table.location,
            insecure: table.insecure,
            blocked: table.blocked,
            mirror_by_digest_only: table.mirror_by_digest_only,
            mirrors: table.mirror,
        })
    }
}

/// How many bytes of `name` the prefix covers, if it matches.
fn matched(prefix: &str, name: &str, reference: &Reference) -> Option<usize> {
    let ends = |at: usize| at == name.len() || name[at..].starts_with('/');
    if let Some(suffix) = prefix.strip_prefix('*') {
        let at = name.find(suffix)?;
        let within_host = at > 0 && !name[..at].contains('/');
        return (within_host && ends(at + suffix.len())).then_some(at + suffix.len());
    }
    if name.starts_with(prefix) {
        return ends(prefix.len()).then_some(prefix.len());
    }
    // A prefix may go down to one tag or digest.
    (reference.to_string() == prefix).then_some(name.len())
}

fn endpoint(reference: &Reference, name: &str, insecure: bool, trusted: bool) -> Result<Endpoint> {
    let rewritten = Reference::parse(name).map_err(|_| {
        Error::invalid(
            reference.to_string(),
            format!("registries.conf makes {name:?} of it, which is no name"),
        )
    })?;
    let host = match rewritten.domain() {
        "docker.io" => DOCKER_HUB,
        other => other,
    };
    let repository = rewritten.repository()[rewritten.domain().len() + 1..].to_owned();
    Ok(Endpoint { host: host.to_owned(), repository, insecure, trusted })
}

fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io("read", directory.display().to_string(), e);
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(failed(e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|e| e == "conf") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn registries(text: &str) -> Registries {
        let mut all = Registries::default();
        all.merge(text).unwrap();
        all
    }

    /// `host/repository`, with `!` for insecure and `*` where credentials go.
    fn tried(registries: &Registries, reference: &str) -> Vec<String> {
        let reference = Reference::parse(reference).unwrap();
        let mark = |e: &Endpoint| {
            let insecure = if e.insecure { "!" } else { "" };
            let trusted = if e.trusted { "*" } else { "" };
            format!("{}/{}{insecure}{trusted}", e.host, e.repository)
        };
        registries.endpoints(&reference).unwrap().iter().map(mark).collect()
    }

    const TEXT: &str = r#"
        unqualified-search-registries = ["one.example"]
        short-name-mode = "permissive"
        [[registry]]
        prefix = "docker.io"
        location = "127.0.0.1:5000/hub"
        insecure = true
        [[registry.mirror]]
        location = "mirror.example/hub"
        [[registry.mirror]]
        location = "digests.example"
        insecure = true
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "tags.example"
        pull-from-mirror = "tag-only"
        [[registry]]
        prefix = "docker.io/library/special"
        location = "docker.io/other/special"
        [[registry]]
        prefix = "*.wild.example"
        insecure = true
        [[registry]]
        prefix = "*.wild.example/team"
        location = "team.example/t"
        [[registry]]
        location = "bad.example"
        blocked = true
        [[registry]]
        location = "self.example"
        [[registry.mirror]]
        location = "self.example/cache"
    "#;

    #[test]
    fn endpoints_follow_the_longest_prefix() {
        let r = registries(TEXT);
        let digest = format!("busybox@sha256:{}", "a".repeat(64));
        let cases: [(&str, &[&str]); 8] = [
            (
                "busybox",
                &[
                    "mirror.example/hub/library/busybox",
                    "tags.example/library/busybox",
                    "127.0.0.1:5000/hub/library/busybox!*",
                ],
            ),
            (
                &digest,
                &[
                    "mirror.example/hub/library/busybox",
                    "digests.example/library/busybox!",
                    "127.0.0.1:5000/hub/library/busybox!*",
                ],
            ),
            ("special:1", &["registry-1.docker.io/other/special*"]),
            (
                "specialist",
                &[
                    "mirror.example/hub/library/specialist",
                    "tags.example/library/specialist",
                    "127.0.0.1:5000/hub/library/specialist!*",
                ],
            ),
            ("a.b.wild.example/x", &["a.b.wild.example/x!*"]),
            ("a.wild.example/team/x", &["team.example/t/x*"]),
            ("wild.example/x", &["wild.example/x*"]),
            ("self.example/x", &["self.example/cache/x*", "self.example/x*"]),
        ];
        for (reference, expected) in cases {
            assert_eq!(tried(&r, reference), expected, "{reference}");
        }
        assert_eq!(r.search, ["one.example"]);
        let blocked = r.endpoints(&Reference::parse("bad.example/x").unwrap()).unwrap_err();
        assert_eq!(blocked.kind(), ErrorKind::Unauthorized);
        assert_eq!(tried(&Registries::default(), "busybox"), ["registry-1.docker.io/library/busybox*"]);
    }

    #[test]
    fn files_that_cannot_be_understood_are_errors() {
        for text in [
            "[[registry]]\ninsecure = true",
            "[[registry]]\nprefix = \"x.example\"",
            "[registries.search]\nregistries = []",
            "[[registry]]\nlocation = \"https://x.example\"",
            "[[registry]]\nlocation = \"x.example/\"",
            "[[registry]]\nlocation = 1",
            "not toml",
        ] {
            assert!(Registries::default().merge(text).is_err(), "{text}");
        }
    }

    #[test]
    fn drop_ins_override_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registries.conf");
        assert_eq!(Registries::load(&path).unwrap(), Registries::default());
        std::fs::write(&path, "unqualified-search-registries = [\"a.example\"]\n[[registry]]\nlocation = \"x.example\"\nblocked = true").unwrap();
        let drop_ins = dir.path().join("registries.conf.d");
        std::fs::create_dir(&drop_ins).unwrap();
        std::fs::write(
            drop_ins.join("20-b.conf"),
            "[[registry]]\nprefix = \"x.example\"\nlocation = \"z.example\"",
        )
        .unwrap();
        std::fs::write(
            drop_ins.join("10-a.conf"),
            "[[registry]]\nprefix = \"x.example\"\nlocation = \"y.example\"",
        )
        .unwrap();
        std::fs::write(drop_ins.join("ignored.txt"), "not toml").unwrap();
        let all = Registries::load(&path).unwrap();
        assert_eq!(tried(&all, "x.example/a"), ["z.example/a*"]);
        assert_eq!(all.search, ["a.example"]);
        std::fs::write(drop_ins.join("30.conf"), "broken").unwrap();
        let error = Registries::load(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("30.conf"), "{error}");
    }
}
