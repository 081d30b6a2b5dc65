//! What `--help` says, against `tests/help/<subcommand>.txt` (`config-show.txt` for `config show`): scripts depend on names and defaults of flags.
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
    for name in &names {
        let text = help(&[name, "--help"]);
        for below in subcommands(&text) {
            texts.push((format!("{name}-{below}"), help(&[name, &below, "--help"])));
        }
        texts.push((name.clone(), text));
    }
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
    for args in [
        &["no-such-command"][..],
        &["pull"],
        &["run", "--rm", "image"],
        &["ps", "-o", "xml"],
        &["ps", "--realm", "mars"],
        &["serve", "--log-format", "xml"],
        &["serve", "--root", "/a", "--root", "/b"],
        &["completions", "cmd"],
    ] {
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

#[test]
fn completions_know_the_commands_and_the_options_of_the_daemon() {
    for (shell, name) in [("bash", "_gantry()"), ("zsh", "#compdef gantry"), ("fish", "complete -c gantry")] {
        let output = gantry(&["completions", shell]);
        assert!(output.status.success(), "{output:?}");
        let script = String::from_utf8(output.stdout).unwrap();
        for word in [name, "inspect", "realm", "cni-conf-dir"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
    // The shell itself takes the script.
    let script = gantry(&["completions", "bash"]).stdout;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let checked = Command::new("bash").arg("-n").arg(file.path()).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn the_configuration_is_printed_shown_and_checked_without_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let name = file.to_str().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();

    let default = gantry(&["config", "default"]);
    std::fs::write(&file, &default.stdout).unwrap();
    let checked = gantry(&["config", "check", name]);
    assert!(checked.status.success(), "{checked:?}");
    assert_eq!(text(checked.stdout), format!("{name}: ok\n"));

    std::fs::write(&file, "rot = '/x'\nlog_level = 'debug'\ncri_network = 3\n").unwrap();
    let checked = gantry(&["config", "check", name]);
    assert_eq!(checked.status.code(), Some(1));
    let told = text(checked.stderr);
    assert_eq!(told.lines().count(), 2, "{told}");
    assert!(told.contains(&format!("{name}:1: unknown key \"rot\"; did you mean \"root\"?")), "{told}");
    assert!(told.contains(&format!("{name}:3: cri_network: ")), "{told}");
    // The daemon itself says the same and does not start.
    let served = gantry(&["serve", "--config", name]);
    assert_eq!(served.status.code(), Some(1));
    let told = text(served.stderr);
    assert!(told.starts_with("gantry: configuration: ") && told.contains("did you mean"), "{told}");

    std::fs::write(&file, "log_level = 'debug'\n").unwrap();
    let shown = gantry(&["config", "show", "--config", name, "--root", "/r", "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let option = |key: &str| {
        let found = shown["options"].as_array().unwrap().iter().find(|o| o["key"] == key).unwrap();
        (found["value"].as_str().unwrap().to_owned(), found["from"].as_str().unwrap().to_owned())
    };
    assert_eq!(option("log_level"), ("debug".into(), format!("{name}:1")));
    assert_eq!(option("root"), ("/r".into(), "--root".into()));
    assert_eq!(option("run_dir"), ("/run/gantry".into(), "default".into()));
    let table = text(gantry(&["config", "show", "--config", name]).stdout);
    assert!(table.starts_with("OPTION") && table.contains(&format!("{name}:1")), "{table}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure_to_talk_about() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gantry"))
        .args(["completions", "zsh"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn versions_are_a_document_too() {
    let output = gantry(&["version", "-o", "yaml", "--socket", "unix:///nowhere/local.sock"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(text.contains("daemon: null") && text.contains(&format!("gantry: \"{version}\"")), "{text}");
}
