//! What `--help` says, against `tests/help/<subcommand>.txt`: scripts depend on names and defaults of flags.
//!
//! After a wanted change: `GANTRY_BLESS=1 cargo test -p gantry --test help`, then read the difference.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

fn gantry(args: &[&str]) -> Output {
    // The width of the text follows COLUMNS.
    Command::new(env!("CARGO_BIN_EXE_gantry")).args(args).env("COLUMNS", "100").output().unwrap()
}

fn help(args: &[&str]) -> String {
    let output = gantry(args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Names in the list of subcommands, without clap's own `help`.
fn subcommands(text: &str) -> BTreeSet<String> {
    let list = text.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    let names = list.filter_map(|l| l.split_whitespace().next()).map(str::to_owned);
    names.filter(|name| name != "help").collect()
}

#[test]
fn help_is_what_it_was() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help");
    let top = help(&["--help"]);
    let names = subcommands(&top);
    let mut texts = vec![("gantry".to_owned(), top)];
    texts.extend(names.iter().map(|name| (name.clone(), help(&[name, "--help"]))));
    let compose = subcommands(&help(&["compose", "--help"]));
    texts.extend(compose.iter().map(|name| (format!("compose-{name}"), help(&["compose", name, "--help"]))));
    let mut changed = Vec::new();
    for (name, text) in &texts {
        let file = golden.join(format!("{name}.txt"));
        if std::env::var_os("GANTRY_BLESS").is_some() {
            std::fs::write(&file, text).unwrap();
        } else if std::fs::read_to_string(&file).ok().as_ref() != Some(text) {
            changed.push(format!("{}:\n{text}", file.display()));
        }
    }
    assert!(changed.is_empty(), "{}", changed.join("\n"));
    let files: BTreeSet<String> =
        golden.read_dir().unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    let expected: BTreeSet<String> = texts.iter().map(|(name, _)| format!("{name}.txt")).collect();
    assert_eq!(files, expected, "a subcommand came or went");
}

#[test]
fn wrong_usage_ends_with_2() {
    for args in [&["no-such-command"][..], &["pull"], &["run", "--rm", "image"], &["ps", "-o", "xml"]] {
        assert_eq!(gantry(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn without_a_daemon_the_socket_and_the_remedy_are_named() {
    let socket = "unix:///nowhere/local.sock";
    for command in [&["ps"][..], &["pods"], &["images"], &["inspect", "x"], &["pull", "x"]] {
        let output = gantry(&[command, &["--socket", socket]].concat());
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.starts_with("gantry: ") && text.contains(socket) && text.contains("gantry serve"),
            "{text}"
        );
    }
}

#[test]
fn doctor_tells_of_the_host_without_a_daemon() {
    let output = gantry(&["doctor", "-o", "json", "--socket", "unix:///nowhere/local.sock"]);
    assert_eq!(output.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> =
        told["checks"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["user", "overlay", "cgroup", "daemon"]);
    assert_eq!(told["healthy"], false);
}
