//! What the host looks like, to see whether something was left behind.

use crate::process::{Running, processes};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// Programs that Gantry and its tests start; a process of these names is never the host's own.
const OURS: [&str; 8] =
    ["gantry", "runc", "crun", "crictl", "docker-registry", "skopeo", "busybox", "conmon"];

/// Directories that are listed: where state of a boot is, where tests make theirs, where images are.
const LISTED: [(&str, usize); 5] =
    [("/run", 3), ("/var/lib/gantry", 2), ("/var/log/pods", 2), ("/var/tmp", 1), ("/tmp", 1)];

/// Processes, mounts, network namespaces, cgroups, nftables rules, links and files, as sorted lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeakSnapshot {
    kinds: BTreeMap<&'static str, BTreeSet<String>>,
}

impl LeakSnapshot {
    /// Looks at the host now.
    pub fn take() -> Self {
        let all = processes();
        let mut kinds = BTreeMap::new();
        kinds.insert("process", strangers(&all));
        kinds.insert("network namespace", network_namespaces(&all));
        kinds.insert("mount", mounts());
        kinds.insert("cgroup", cgroups());
        kinds.insert("nftables", lines("nft", &["list", "ruleset"]));
        kinds.insert("link", links());
        kinds.insert("file", files());
        Self { kinds }
    }

    /// Lines that `later` has and this one has not (`+`), and the other way round (`-`); empty when
    /// nothing was left behind and nothing is missing.
    pub fn difference(&self, later: &Self) -> String {
        let mut text = String::new();
        for (kind, before) in &self.kinds {
            let after = &later.kinds[kind];
            for line in before.difference(after) {
                let _infallible = writeln!(text, "- {kind}: {line}");
            }
            for line in after.difference(before) {
                let _infallible = writeln!(text, "+ {kind}: {line}");
            }
        }
        text
    }
}

impl std::fmt::Display for LeakSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (kind, lines) in &self.kinds {
            for line in lines {
                writeln!(f, "{kind}: {line}")?;
            }
        }
        Ok(())
    }
}

/// Processes that are Gantry's or a test's, or live in namespaces that are not the host's.
fn strangers(all: &[Running]) -> BTreeSet<String> {
    let me = std::process::id();
    let mine = all.iter().find(|p| p.pid == me).cloned().unwrap_or_default();
    let mut family = BTreeSet::from([me]);
    let mut next = mine.parent;
    while let Some(ancestor) = all.iter().find(|p| p.pid == next) {
        family.insert(ancestor.pid);
        next = ancestor.parent;
    }
    let is_strange = |p: &&Running| {
        let ours = OURS.iter().any(|name| p.name.starts_with(name));
        let test_program = p.name.starts_with("gantry_");
        // A child between fork and exec shows its parent's name for a moment; zombies have no namespaces.
        let elsewhere = ["mnt", "pid", "net"].iter().any(|kind| {
            p.namespaces.get(kind).is_some_and(|ns| mine.namespaces.get(kind).is_some_and(|m| m != ns))
        });
        // An orphan that has ended waits for the init process of the machine, which takes its time.
        let buried = p.state == 'Z' && p.parent == 1;
        !family.contains(&p.pid) && !buried && ((ours && !test_program) || elsewhere)
    };
    all.iter().filter(is_strange).map(|p| format!("{} {} {} {}", p.pid, p.state, p.name, p.command)).collect()
}

fn network_namespaces(all: &[Running]) -> BTreeSet<String> {
    all.iter().filter_map(|p| p.namespaces.get("net").cloned()).collect()
}

fn mounts() -> BTreeSet<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    let mut found = BTreeSet::new();
    for line in text.lines() {
        // id parent major:minor root mountpoint options ... - type source options (proc(5)): ids are
        // given again, so they say nothing.
        let fields: Vec<&str> = line.split(' ').collect();
        let kind = fields.iter().position(|f| *f == "-").and_then(|i| fields.get(i + 1));
        let mount = format!("{} {} {}", fields[4], fields[3], kind.copied().unwrap_or_default());
        // The same may be mounted several times on one place.
        let stacked = (1..).map(|n| format!("{mount} #{n}")).find(|m| !found.contains(m));
        found.extend(stacked);
    }
    found
}

/// All cgroups but those below the top one that this process was started in: whoever started it keeps
/// its own there, and they come and go with its processes. Gantry never makes any below it.
fn cgroups() -> BTreeSet<String> {
    let own = std::fs::read_to_string("/proc/self/cgroup").expect("read /proc/self/cgroup");
    let top = |line: &str| line.splitn(3, ':').nth(2)?.split('/').nth(1).map(str::to_owned);
    let starters: BTreeSet<String> = own.lines().filter_map(top).filter(|name| !name.is_empty()).collect();
    let root = Path::new("/sys/fs/cgroup");
    let theirs = |path: &Path| {
        let mut parts = path.strip_prefix(root).into_iter().flatten().map(|p| p.to_string_lossy());
        // The hierarchy's own folder comes first where there are several.
        parts.by_ref().take(2).any(|part| starters.contains(part.as_ref()))
    };
    let mut found = BTreeSet::new();
    let mut open = vec![Path::new("/sys/fs/cgroup").to_owned()];
    while let Some(dir) = open.pop() {
        // A cgroup may go while we look.
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                let path = entry.path();
                if theirs(&path) {
                    continue;
                }
                found.insert(path.display().to_string());
                open.push(path);
            }
        }
    }
    found
}

fn links() -> BTreeSet<String> {
    let entries = std::fs::read_dir("/sys/class/net").expect("list links");
    entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

fn files() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (top, depth) in LISTED {
        list(Path::new(top), depth, &mut found);
    }
    found
}

fn list(dir: &Path, depth: usize, found: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let shared = dir == Path::new("/tmp") || dir == Path::new("/var/tmp");
        if shared && !entry.file_name().to_string_lossy().starts_with("gantry") {
            continue;
        }
        found.insert(path.display().to_string());
        if depth > 1 && entry.file_type().is_ok_and(|t| t.is_dir()) {
            list(&path, depth - 1, found);
        }
    }
}

fn lines(program: &str, args: &[&str]) -> BTreeSet<String> {
    let output = crate::run(Command::new(program).args(args)).ok();
    output.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_appeared_and_what_went_is_shown() {
        let snapshot = |lines: &[&str]| LeakSnapshot {
            kinds: BTreeMap::from([("mount", lines.iter().map(|l| (*l).to_owned()).collect())]),
        };
        let (before, after) = (snapshot(&["/a", "/b"]), snapshot(&["/b", "/c"]));
        assert_eq!(before.difference(&after), "- mount: /a\n+ mount: /c\n");
        assert_eq!(before.difference(&before), "");
    }

    #[test]
    fn a_process_elsewhere_and_a_file_are_seen() {
        let before = LeakSnapshot::take();
        let mut child = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Once it echoes, it is where it should be.
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"x").unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let dir = tempfile::Builder::new().prefix("gantry-leak-").tempdir_in("/var/tmp").unwrap();
        let difference = before.difference(&LeakSnapshot::take());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(difference.contains("+ network namespace: net:["), "{difference}");
        assert!(difference.contains("cat"), "{difference}");
        assert!(difference.contains(&format!("+ file: {}", dir.path().display())), "{difference}");
    }
}
