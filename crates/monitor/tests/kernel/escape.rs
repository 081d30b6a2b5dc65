//! The pause child is PID 1 in front of the containers of a shared PID namespace: root there reaches
//! nothing of the host through it.

use crate::pod::{Pod, SHARED_PIDS};
use serde_json::json;

/// Tries every door of `/proc/1`; prints what it found as `name: result`. Files are opened for writing and
/// not written, so that a door that is open harms nobody.
const ATTACK: &str = r#"
for path in "$CANARY" /etc/passwd /etc /proc /bin; do
  [ -e "/proc/1/root$path" ] && echo "root: $path"
  [ -e "/proc/1/cwd$path" ] && echo "cwd: $path"
done
[ -n "$(ls -A /proc/1/root/ 2>/dev/null)" ] && echo "root: $(ls -A /proc/1/root/)"
[ -n "$(ls -A /proc/1/cwd/ 2>/dev/null)" ] && echo "cwd: $(ls -A /proc/1/cwd/)"
touch /proc/1/root/new 2>/dev/null && echo "root: writable"
touch /proc/1/cwd/new 2>/dev/null && echo "cwd: writable"
for up in .. ../.. ../../../../..; do
  [ -e "/proc/1/cwd/$up$CANARY" ] && echo "cwd: $up"
  [ -e "/proc/1/root/$up$CANARY" ] && echo "root: $up"
done
[ -n "$(ls -A /proc/1/fd 2>/dev/null)" ] && echo "fd: $(ls -A /proc/1/fd)"
(: >>/proc/1/exe) 2>/dev/null && echo "exe: writable"
for map in $MAPS; do
  (: >>"$map") 2>/dev/null && echo "map_files: $map"
done
(: >>/proc/1/mem) 2>/dev/null && [ -z "$TRACER" ] && echo "mem: writable"
grep -q "$SECRET" /proc/1/environ 2>/dev/null && echo "environ: secret"
tr '\0' ' ' </proc/1/cmdline 2>/dev/null | grep -q "$SECRET" && echo "cmdline: secret"
cat /proc/1/mountinfo 2>/dev/null | grep -v ' / / ' | head -3
cat /proc/1/mem >/dev/null 2>&1 && echo "mem: readable"
for name in root cwd exe fd/0 fd/1 fd/2 fd/3; do
  grep -q "$CANARY_TEXT" "/proc/1/$name" 2>/dev/null && echo "$name: canary"
done
nsenter -t 1 -m /bin/sh -c "cat $CANARY" 2>/dev/null && echo "setns: canary"
kill -9 1 2>/dev/null; kill -15 1 2>/dev/null; kill -19 1 2>/dev/null
[ -d /proc/1 ] || echo "pause: dead"
echo done
"#;

fn attack(capabilities: &[&str], name: &str) {
    let canary = std::env::temp_dir().join(format!("gantry-canary-{name}-{}", std::process::id()));
    let text = "the host's own words";
    std::fs::write(&canary, text).unwrap();
    let admin = capabilities.contains(&"CAP_SYS_ADMIN");
    let pod = Pod::with(SHARED_PIDS, |_| {});
    let pause = pod.pause();
    let mut request = pod.bundle("c", ATTACK, |config| {
        let path = format!("/proc/{pause}/ns/pid");
        config["linux"]["namespaces"][1] = json!({"type": "pid", "path": path});
        config["process"]["noNewPrivileges"] = json!(false);
        for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
            config["process"]["capabilities"][set] = json!(capabilities);
        }
        config["process"]["env"] = json!([
            "PATH=/bin",
            format!("CANARY={}", canary.display()),
            format!("CANARY_TEXT={text}"),
            "SECRET=HOME=",
            // To follow these takes CAP_SYS_ADMIN over the host, which needs no pause child to reach it; and
            // the program as it is shipped is static: it maps nothing but its sealed self.
            if admin { "MAPS=" } else { "MAPS=/proc/1/map_files/*" },
            // Who may trace may write the pause child's memory; it holds no file and no right.
            if capabilities.contains(&"CAP_SYS_PTRACE") { "TRACER=yes" } else { "TRACER=" },
        ]);
    });
    request.timeout_ms = 60_000;
    pod.start_with(request);
    let record = pod.ear.exited("c");
    let log = pod.log("c");
    assert_eq!(record.exit_code, 0, "{log:?}");
    assert_eq!(log, ["stdout F done"], "with {capabilities:?}");
    assert_eq!(pod.dial().1.pause, pod.hello.pause, "the pause child lives");
    std::fs::remove_file(canary).unwrap();
}

#[test]
fn root_with_default_capabilities_reaches_no_host_file() {
    let capabilities = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
    ];
    attack(&capabilities, "default");
}

#[test]
fn root_with_sys_ptrace_reaches_no_host_file() {
    attack(
        &["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_KILL", "CAP_SYS_CHROOT"],
        "ptrace",
    );
}

#[test]
fn root_with_sys_ptrace_and_sys_admin_reaches_no_host_file() {
    attack(
        &[
            "CAP_SYS_PTRACE",
            "CAP_SYS_ADMIN",
            "CAP_DAC_OVERRIDE",
            "CAP_DAC_READ_SEARCH",
            "CAP_KILL",
            "CAP_SYS_CHROOT",
        ],
        "admin",
    );
}
