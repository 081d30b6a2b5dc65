//! What an OCI runtime says that it can do (runtime-spec, `features.md`).

use serde::{Deserialize, Serialize};
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Longest document that is read.
const MAX_DOCUMENT: u64 = 1 << 20;

/// What pods may ask of a handler beyond what every one can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Volumes that are read-only with all that is mounted below them.
    pub recursive_read_only: bool,
    /// Pods in user namespaces of their own.
    pub user_namespaces: bool,
    /// Writing the state of a running container to files.
    #[serde(default)]
    pub checkpoint: bool,
    /// SELinux labels of processes and files.
    #[serde(default)]
    pub selinux: bool,
}

/// Annotations by which OCI runtimes say that they can checkpoint; none has a name of the specification.
const CHECKPOINT: [&str; 2] =
    ["org.opencontainers.runc.checkpoint.enabled", "run.oci.crun.checkpoint.enabled"];

/// Asks `program`. A runtime that does not know the question is taken to have none of the features: a pod
/// that asks for one is refused, and not run with less.
pub(super) fn ask(program: &Path) -> Features {
    let child = Command::new(program)
        .arg("features")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return Features::default() };
    let reader = child.stdout.take().map(|stdout| {
        std::thread::spawn(move || {
            let mut text = String::new();
            // What is cut off or no text is no document either.
            let _partial = stdout.take(MAX_DOCUMENT).read_to_string(&mut text);
            text
        })
    });
    let ended = super::self_test::finish(child);
    let text = reader.and_then(|r| r.join().ok()).unwrap_or_default();
    match ended {
        Ok((Some(0), _)) => parse(&text, kernel_maps_layers()),
        _ => Features::default(),
    }
}

/// Idmapped layers of overlays came with Linux 5.19.
fn kernel_maps_layers() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 19)
}

fn parse(document: &str, kernel_maps_layers: bool) -> Features {
    let Ok(document) = serde_json::from_str::<serde_json::Value>(document) else {
        return Features::default();
    };
    let lists = |list: &serde_json::Value, what: &str| {
        list.as_array().is_some_and(|all| all.iter().any(|item| item == what))
    };
    Features {
        recursive_read_only: lists(&document["mountOptions"], "rro"),
        user_namespaces: kernel_maps_layers && lists(&document["linux"]["namespaces"], "user"),
        selinux: document["linux"]["selinux"]["enabled"] == true,
        checkpoint: CHECKPOINT.iter().any(|name| document["annotations"][*name] == "true"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_counts() {
        let all = r#"{"mountOptions": ["ro", "rro"], "linux": {"namespaces": ["pid", "user"], "selinux": {"enabled": true}},
            "annotations": {"org.opencontainers.runc.checkpoint.enabled": "true"}}"#;
        let every =
            Features { recursive_read_only: true, user_namespaces: true, checkpoint: true, selinux: true };
        assert_eq!(parse(all, true), every);
        assert!(!parse(all, false).user_namespaces);
        let less = r#"{"mountOptions": ["ro"], "linux": {"namespaces": ["pid"]}}"#;
        for text in [less, "{}", "", "[]"] {
            assert_eq!(parse(text, true), Features::default(), "{text}");
        }
    }

    #[test]
    fn a_program_that_does_not_know_the_question_has_none() {
        assert_eq!(ask(Path::new("/bin/false")), Features::default());
        assert_eq!(ask(Path::new("/nonexistent")), Features::default());
    }
}
