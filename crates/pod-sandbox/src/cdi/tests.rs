use super::*;
use serde_json::{Value, json};

const GPU: &str = r#"{
  "cdiVersion": "0.6.0", "kind": "vendor.com/gpu", "annotations": {"any": "thing"},
  "containerEdits": {"env": ["GPU=all"]},
  "devices": [
    {"name": "0", "containerEdits": {
      "env": ["GPU_0=yes"],
      "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null", "permissions": "rw"}],
      "mounts": [{"hostPath": "/usr/lib/gpu", "containerPath": "/usr/lib/gpu", "options": ["ro"]}],
      "hooks": [{"hookName": "createContainer", "path": "/bin/hook", "args": ["hook", "x"]}],
      "additionalGids": [44, 0]}},
    {"name": "1", "containerEdits": {
      "deviceNodes": [{"path": "/dev/gpu1", "type": "c", "major": 195, "minor": 1, "uid": 7}]}}
  ]}"#;

const NIC: &str = "cdiVersion: 0.5.0\nkind: other.org/nic\ndevices:\n- name: fast:0\n  containerEdits:\n    env: [NIC=fast]\n";

fn asks(names: &[&str]) -> v1::ContainerConfig {
    let device = |name: &&str| v1::CdiDevice { name: (*name).into() };
    v1::ContainerConfig { cdi_devices: names.iter().map(device).collect(), ..Default::default() }
}

fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

/// What the injection makes of a small configuration.
fn applied(dirs: &[PathBuf], config: &v1::ContainerConfig) -> Value {
    let injection = injection(dirs, config).unwrap().unwrap();
    let mut spec = json!({
        "process": {"env": ["PATH=/bin", "GPU=none"], "user": {"uid": 0, "additionalGids": [44]}},
        "mounts": [{"destination": "/proc"}, {"destination": "/usr/lib/gpu/deep"}],
        "linux": {"devices": [], "resources": {"devices": [{"allow": false, "access": "rwm"}]}},
    });
    injection.change(&mut spec);
    spec
}

#[test]
fn nothing_asked_reads_nothing() {
    assert_eq!(injection(&["/nonexistent".into()], &v1::ContainerConfig::default()).unwrap(), None);
}

#[test]
fn edits_of_the_file_and_of_each_device_are_made() {
    let dir = dir(&[("gpu.json", GPU), ("nic.yaml", NIC), ("notes.txt", "{")]);
    let mut config = asks(&["vendor.com/gpu=0", "vendor.com/gpu=1"]);
    config.annotations.insert("cdi.k8s.io/nic".into(), "other.org/nic=fast:0, vendor.com/gpu=0".into());
    let spec = applied(&["/nonexistent".into(), dir.path().to_owned()], &config);
    assert_eq!(spec["process"]["env"], json!(["PATH=/bin", "GPU=all", "GPU_0=yes", "NIC=fast"]));
    assert_eq!(spec["process"]["user"]["additionalGids"], json!([44]));
    let devices = spec["linux"]["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 2);
    assert_eq!(
        (&devices[0]["path"], &devices[0]["major"], &devices[0]["minor"]),
        (&json!("/dev/gpu0"), &json!(1), &json!(3))
    );
    assert_eq!(devices[1], json!({"path": "/dev/gpu1", "type": "c", "major": 195, "minor": 1, "uid": 7}));
    assert_eq!(
        spec["linux"]["resources"]["devices"],
        json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"},
            {"allow": true, "type": "c", "major": 195, "minor": 1, "access": "rwm"},
        ])
    );
    let mounts: Vec<&str> =
        spec["mounts"].as_array().unwrap().iter().flat_map(|m| m["destination"].as_str()).collect();
    assert_eq!(mounts, ["/proc", "/usr/lib/gpu", "/usr/lib/gpu/deep"], "parents first");
    assert_eq!(spec["mounts"][1]["options"], json!(["ro", "rbind"]));
    assert_eq!(spec["hooks"]["createContainer"][0]["args"], json!(["hook", "x"]));
}

#[test]
fn of_two_directories_the_later_counts_and_in_one_they_conflict() {
    let with = |value: &str| NIC.replace("NIC=fast", &format!("NIC={value}"));
    let (low, high) = (dir(&[("a.yaml", &with("low"))]), dir(&[("z.yaml", &with("high"))]));
    let config = asks(&["other.org/nic=fast:0"]);
    let dirs = [low.path().to_owned(), high.path().to_owned()];
    assert_eq!(applied(&dirs, &config)["process"]["env"][2], "NIC=high");
    std::fs::write(high.path().join("b.yml"), with("too")).unwrap();
    let error = injection(&dirs, &config).unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    let text = error.to_string();
    assert!(text.contains("b.yml") && text.contains("z.yaml") && !text.contains("a.yaml"), "{text}");
}

#[test]
fn what_cannot_be_given_is_named() {
    let broken = dir(&[("broken.json", "{"), ("gpu.json", GPU)]);
    let missing = injection(&[broken.path().to_owned()], &asks(&["vendor.com/gpu=9"])).unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
    assert!(
        missing.to_string().contains("gpu=9") && missing.to_string().contains("broken.json"),
        "{missing}"
    );
    // A damaged file does not keep devices of others.
    assert!(injection(&[broken.path().to_owned()], &asks(&["vendor.com/gpu=1"])).is_ok());
    for bad in
        ["", "gpu", "gpu=0", "vendor.com/gpu=", "vendor.com/=0", "/gpu=0", "vendor.com/gpu=a b", "1x/y=0"]
    {
        let error = injection(&[], &asks(&[bad])).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{bad}");
    }
    for (change, word) in [
        (("\"hookName\": \"createContainer\"", "\"hookName\": \"poststop\""), "poststop"),
        (("\"/dev/null\"", "\"/dev/nonexistent\""), "/dev/nonexistent"),
        (("\"/dev/null\"", "\"/etc/passwd\""), "is no device"),
        (("\"rw\"", "\"rx\""), "permissions"),
        (("\"GPU_0=yes\"", "\"GPU_0\""), "NAME=value"),
        (("/usr/lib/gpu\", \"containerPath", "usr/lib/gpu\", \"containerPath"), "not absolute"),
        (("\"additionalGids\"", "\"surprise\""), "surprise"),
        (("\"0.6.0\"", "\"2.0.0\""), "cdiVersion"),
        (("\"name\": \"1\"", "\"name\": \"0\""), "twice"),
    ] {
        let dir = dir(&[("gpu.json", &GPU.replace(change.0, change.1))]);
        let error = injection(&[dir.path().to_owned()], &asks(&["vendor.com/gpu=0"])).unwrap_err();
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
}

#[test]
fn a_pipe_among_the_files_does_not_hold_the_container() {
    let dir = dir(&[("gpu.json", GPU)]);
    let pipe = dir.path().join("pipe.json");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    assert!(injection(&[dir.path().to_owned()], &asks(&["vendor.com/gpu=1"])).is_ok());
}
