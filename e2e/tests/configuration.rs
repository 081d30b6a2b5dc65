//! The configuration of a real daemon: file, drop-ins, flags, mistakes.

use gantry_e2e::{Stage, dist, run};
use std::process::Command;

#[test]
fn a_daemon_takes_its_drop_ins_and_refuses_mistakes() {
    let stage = Stage::new();
    let dir = stage.dir().join("d");
    let drop_ins = dir.join("config.toml.d");
    std::fs::create_dir_all(&drop_ins).unwrap();
    std::fs::write(drop_ins.join("10-json.toml"), "log_format = \"json\"\nlog_level = \"off\"\n").unwrap();
    // The builder writes config.toml itself, and gives --log-level as a flag, which wins.
    let mut daemon = stage.daemon("d").start();
    let log = daemon.log();
    for line in log.lines() {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(parsed.is_ok(), "a line of the log is no JSON: {line}");
    }
    assert!(log.contains("ready"), "{log}");
    assert!(daemon.terminate().success());

    // With a mistake it names the place and makes nothing.
    let config = dir.join("config.toml").display().to_string();
    let mistake = drop_ins.join("20-mistake.toml");
    std::fs::write(&mistake, "\ncgroup_drivers = \"cgroupfs\"\n").unwrap();
    let root = dir.join("never-made").display().to_string();
    let gantry = |args: &[&str]| run(Command::new(dist().join("gantry")).args(args));
    let told = gantry(&["serve", "--config", &config, "--root", &root, "--run-dir", &root]).fails();
    let place =
        format!("{}:2: unknown key \"cgroup_drivers\"; did you mean \"cgroup_driver\"?", mistake.display());
    assert!(told.contains(&place), "{told}");
    assert!(!dir.join("never-made").exists());
    let checked = gantry(&["config", "check", &config]).fails();
    assert_eq!(checked.trim_end(), place);

    // What is shown is what the daemon got.
    std::fs::remove_file(&mistake).unwrap();
    let shown = gantry(&["config", "show", "--config", &config, "--log-level", "debug"]).ok();
    let row = |option: &str| shown.lines().find(|l| l.starts_with(option)).unwrap().to_owned();
    assert!(row("log_format").contains("json") && row("log_format").ends_with("10-json.toml:1"), "{shown}");
    assert!(row("log_level").ends_with("--log-level"), "{shown}");
    assert!(row("root").ends_with("default"), "{shown}");
    let checked = gantry(&["config", "check", &config]).ok();
    assert_eq!(checked.lines().count(), 2, "{checked}");

    daemon.restart();
    daemon.end();
    stage.end();
}
