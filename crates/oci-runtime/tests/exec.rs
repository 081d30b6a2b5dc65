//! `exec` under the embedded runtime and under runc: same confinement as init, same errors. Needs
//! root, runc and busybox-static.

mod support;

use serde_json::{Value, json};
use std::process::Command;
use support::{Bundle, Outcome, Runtime, caps, read_fifo};

fn running(runtime: &Runtime, change: impl FnOnce(&mut Value)) -> Bundle {
    let mut bundle = Bundle::new("echo ready > /data/ready; exec sleep 1000000");
    assert!(Command::new("mkfifo").arg(bundle.rootfs().join("data/ready")).status().unwrap().success());
    change(&mut bundle.spec);
    let outcome = runtime.launch(&bundle.args("run", &["--detach"]), &bundle.dir().join("out"));
    assert_eq!(outcome.code, Some(0), "{}: {outcome:?}", runtime.name);
    assert_eq!(read_fifo(&bundle.rootfs().join("data/ready")), "ready\n");
    bundle
}

fn exec(runtime: &Runtime, bundle: &Bundle, process: &Value) -> Outcome {
    let file = bundle.dir().join("process.json");
    std::fs::write(&file, process.to_string()).unwrap();
    runtime.run(&["exec", "--process", file.to_str().unwrap(), &bundle.id])
}

fn process(script: &str) -> Value {
    json!({"terminal": false, "user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"],
           "args": ["sh", "-c", script]})
}

#[test]
fn a_process_file_says_what_runs() {
    for runtime in Runtime::both() {
        let name = runtime.name;
        let bundle = running(&runtime, |_| {});
        let mut asked = process("id -u; id -g; id -G; pwd; echo $A $HOME; echo err >&2; exit 9");
        asked["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5]});
        asked["cwd"] = json!("/tmp");
        asked["env"] = json!(["PATH=/bin", "A=1"]);
        let want = Outcome {
            code: Some(9),
            stdout: "1000\n1001\n1001 5\n/tmp\n1 /home/u\n".into(),
            stderr: "err\n".into(),
        };
        assert_eq!(exec(&runtime, &bundle, &asked), want, "{name}");
        // The command line asks for the rest of the container's own process.
        let args = [
            "exec",
            "--env",
            "A=2",
            "--cwd",
            "/data",
            "--user",
            "7:8",
            &bundle.id,
            "sh",
            "-c",
            "id -u; id -g; pwd; echo $A",
        ];
        assert_eq!(runtime.run(&args).ok(), "7\n8\n/data\n2\n", "{name}");
        let same = "for n in pid net ipc uts mnt; do readlink /proc/1/ns/$n; readlink /proc/self/ns/$n; done";
        let lines = runtime.run(&["exec", "--cap", "CAP_SYS_PTRACE", &bundle.id, "sh", "-c", same]).ok();
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 10, "{name}: {lines:?}");
        assert!(lines.chunks(2).all(|pair| pair[0] == pair[1]), "{name}: {lines:?}");
        runtime.run(&["delete", "--force", &bundle.id]).ok();
    }
}

#[test]
fn an_exec_is_confined_as_the_container_is() {
    let script = "grep -E '^(CapBnd|CapEff|CapPrm|Seccomp|NoNewPrivs):' /proc/self/status | tr -d '\\t'; \
                  mkdir /tmp/x 2>&1; cat /proc/self/cgroup | grep -c gantry-test";
    for runtime in Runtime::both() {
        let name = runtime.name;
        for no_new_privileges in [None, Some(false), Some(true)] {
            let bundle = running(&runtime, |s| {
                s["process"]["capabilities"] = caps(&["CAP_CHOWN"]);
                s["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]});
            });
            let mut asked = process(script);
            if let Some(set) = no_new_privileges {
                asked["noNewPrivileges"] = json!(set);
            }
            // A process file without capabilities means the container's, and not all.
            let outcome = exec(&runtime, &bundle, &asked);
            let bit = u8::from(no_new_privileges == Some(true));
            let want = format!(
                "CapPrm:0000000000000001\nCapEff:0000000000000001\nCapBnd:0000000000000001\nNoNewPrivs:{bit}\n\
                 Seccomp:2\nmkdir: can't create directory '/tmp/x': No space left on device\n"
            );
            assert_eq!(outcome.code, Some(0), "{name}: {outcome:?}");
            assert!(outcome.stdout.starts_with(&want), "{name}: {outcome:?}, want {want}");
            // In every controller that the container has.
            let count: u32 = outcome.stdout[want.len()..].trim().parse().unwrap();
            assert!(count >= 8, "{name}: {outcome:?}");
            runtime.run(&["delete", "--force", &bundle.id]).ok();
        }
    }
}

#[test]
fn a_program_that_cannot_run_is_reported_before_detaching() {
    let not_a_program = |bundle: &Bundle| {
        use std::os::unix::fs::PermissionsExt;
        let path = bundle.rootfs().join("tmp/data");
        std::fs::write(&path, "\x7fELF, but not really").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(bundle.rootfs().join("tmp/plain"), "").unwrap();
    };
    for runtime in Runtime::both() {
        let name = runtime.name;
        let bundle = running(&runtime, |_| {});
        not_a_program(&bundle);
        runtime.take_log();
        for (program, want) in [
            ("nope", "exec: \"nope\": executable file not found in $PATH"),
            ("/nope", "no such file or directory"),
            ("/tmp/plain", "permission denied"),
            ("/etc", if name == "runc" { "permission denied" } else { "is a directory" }),
            ("/tmp/data", "exec format error"),
        ] {
            let pid_file = bundle.dir().join("exec.pid");
            let args = ["exec", "--detach", "--pid-file", pid_file.to_str().unwrap(), &bundle.id, program];
            let outcome =
                runtime.launch(&args, &bundle.dir().join(format!("out{}", program.replace('/', "_"))));
            if name == "runc" && program == "/tmp/data" {
                // runc has detached by then; nobody hears of it.
                assert_eq!(outcome.code, Some(0), "{name}: {program}: {outcome:?}");
                continue;
            }
            assert_eq!(outcome.code, Some(255), "{name}: {program}: {outcome:?}");
            assert!(outcome.stderr.contains(want), "{name}: {program}: {outcome:?}");
            assert_eq!(outcome.stderr.lines().count(), 1, "{name}: one line: {outcome:?}");
            let log = runtime.take_log();
            let last = log.iter().rfind(|l| l["level"] == "error").unwrap();
            assert!(last["msg"].as_str().unwrap().contains(want), "{name}: {program}: {log:?}");
            assert!(last["time"].is_string(), "{name}: {log:?}");
        }
        runtime.run(&["delete", "--force", &bundle.id]).ok();
        assert!(!bundle.has_cgroup(), "{name}");
    }
}
