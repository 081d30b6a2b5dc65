//! The program that tries system calls from inside a container.

use crate::{Crictl, dist};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a container that has [`calls_mounts`] finds the program.
const INSIDE: &str = "/denied-calls";

/// `EPERM`: what the default profile answers.
const EPERM: i32 = 1;

/// `ENOSYS`: what it answers to clone3, so that libraries go on with clone.
const ENOSYS: i32 = 38;

/// Mounts of a container in which [`denied_calls`] is to be called: the program, built at `program`, and the
/// libraries that it needs.
pub fn calls_mounts(program: &str) -> Value {
    // In the virtual machine it lies beside the programs under test.
    let beside = dist().join("denied-calls");
    let program = if beside.exists() { beside } else { PathBuf::from(program) };
    let mount =
        |host: &Path, inside: &str| json!({"host_path": host, "container_path": inside, "readonly": true});
    json!([
        mount(&program, INSIDE),
        mount(Path::new("/usr/lib"), "/lib"),
        mount(Path::new("/usr/lib64"), "/lib64"),
    ])
}

/// What the kernel answers in the container to each call.
#[track_caller]
pub fn denied_calls(crictl: &Crictl, id: &str) -> BTreeMap<String, i32> {
    let said = crictl.sh(id, INSIDE);
    let parse = |line: &str| {
        let (name, answer) = line.split_once(' ').expect("a name and an answer");
        (name.to_owned(), answer.parse().expect("a number"))
    };
    said.lines().map(parse).collect()
}

/// Compares what a container with the default profile is answered with what one without any is.
///
/// The default refuses every call. Without a profile most are refused by the kernel itself for what they are
/// given, and not for want of a right: that they ask for nothing, so it is the profile that refused.
#[track_caller]
pub fn assert_denied(confined: &BTreeMap<String, i32>, free: &BTreeMap<String, i32>) {
    assert!(confined.len() > 30, "{confined:?}");
    for (name, answer) in confined {
        let expected = if name == "clone3" { ENOSYS } else { EPERM };
        assert_eq!(*answer, expected, "{name} with the default profile");
    }
    let by_profile: Vec<&String> = free.iter().filter(|(_, a)| **a != EPERM).map(|(name, _)| name).collect();
    for name in [
        "add_key",
        "clone3",
        "io_uring_setup",
        "keyctl",
        "mount",
        "request_key",
        "setns",
        "umount2",
        "unshare",
        "userfaultfd",
    ] {
        assert!(by_profile.iter().any(|n| *n == name), "{name} without a profile: {:?}", free.get(name));
    }
}
