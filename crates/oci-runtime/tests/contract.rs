//! One table of configurations, run by the embedded runtime and by runc: both do the same, and it is
//! what the configuration says. Needs root, runc and busybox-static.

mod support;

use serde_json::{Value, json};
use support::{Bundle, Outcome, Runtime, caps};

/// What runc 1.1.5 makes of a case.
enum Runc {
    /// The same.
    Same,
    /// Something else, for the reason given; it is run all the same, and must differ.
    Differs(&'static str),
}
use Runc::{Differs, Same};

/// A configuration, and what its program prints.
struct Case {
    name: &'static str,
    script: &'static str,
    change: fn(&mut Value),
    prepare: fn(&Bundle),
    prints: &'static str,
    code: i32,
    runc: Runc,
}

const CASE: Case =
    Case { name: "", script: "", change: |_| {}, prepare: |_| {}, prints: "", code: 0, runc: Same };

const CAPS: &str = "grep Cap /proc/self/status | tr -d '\\t'; id -u";
/// ip_unprivileged_port_start is per network namespace, so a private one leaves the host's alone.
const PORT_START: &str = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start";

fn seccomp(spec: &mut Value) {
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
            {"names": ["unshare"], "action": "SCMP_ACT_ERRNO", "args": [
                {"index": 0, "value": 0x0400_0000, "valueTwo": 0x0400_0000, "op": "SCMP_CMP_MASKED_EQ"}]},
        ],
    });
}

const SECCOMP: &str = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | tr -d '\\t'; mkdir /tmp/x 2>&1; \
                       unshare -u true 2>&1; unshare -i true 2>&1; touch /tmp/y && echo fine";

fn table() -> Vec<Case> {
    vec![
        Case {
            name: "exit status",
            script: "echo out; echo err >&2; exit 7",
            prints: "out\n",
            code: 7,
            ..CASE
        },
        Case {
            name: "environment, home from passwd, working directory",
            script: "env | grep -v -E '^(PWD|SHLVL|_)=' | sort; pwd; stat -c %a /a/b",
            change: |s| {
                s["process"]["env"] = json!(["PATH=/bin", "B=2=3", "A=1", "E="]);
                s["process"]["cwd"] = json!("/a/b");
            },
            prints: "A=1\nB=2=3\nE=\nHOME=/root\nPATH=/bin\n/a/b\n755\n",
            ..CASE
        },
        Case {
            name: "user with groups",
            script: "id -u; id -g; id -G; echo $HOME",
            change: |s| s["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6]}),
            prints: "1000\n1001\n1001 5 6\n/home/u\n",
            ..CASE
        },
        Case {
            name: "user without groups has none of ours",
            script: "id -G; echo $HOME",
            change: |s| s["process"]["user"] = json!({"uid": 77, "gid": 78}),
            prints: "78\n/\n",
            ..CASE
        },
        Case {
            name: "capabilities of root",
            script: CAPS,
            change: |s| s["process"]["capabilities"] = caps(&["CAP_CHOWN", "CAP_NET_RAW"]),
            prints: "CapInh:0000000000000000\nCapPrm:0000000000002001\nCapEff:0000000000002001\n\
                     CapBnd:0000000000002001\nCapAmb:0000000000000000\n0\n",
            ..CASE
        },
        Case {
            name: "no capabilities asked for are none",
            script: CAPS,
            change: |s| s["process"]["capabilities"] = Value::Null,
            prints: "CapInh:0000000000000000\nCapPrm:0000000000000000\nCapEff:0000000000000000\n\
                     CapBnd:0000000000000000\nCapAmb:0000000000000000\n0\n",
            ..CASE
        },
        Case {
            name: "a user keeps ambient capabilities only",
            script: CAPS,
            change: |s| {
                s["process"]["user"] = json!({"uid": 1000, "gid": 1000});
                let mut sets = caps(&["CAP_CHOWN", "CAP_NET_BIND_SERVICE"]);
                sets["inheritable"] = json!(["CAP_NET_BIND_SERVICE"]);
                sets["ambient"] = json!(["CAP_NET_BIND_SERVICE"]);
                s["process"]["capabilities"] = sets;
            },
            prints: "CapInh:0000000000000400\nCapPrm:0000000000000400\nCapEff:0000000000000400\n\
                     CapBnd:0000000000000401\nCapAmb:0000000000000400\n1000\n",
            ..CASE
        },
        Case {
            name: "capabilities that the host does not allow are left out",
            script: CAPS,
            change: |s| s["process"]["capabilities"] = caps(&["CAP_CHOWN", "CAP_SYS_RESOURCE"]),
            prints: "CapInh:0000000000000000\nCapPrm:0000000000000001\nCapEff:0000000000000001\n\
                     CapBnd:0000000000000001\nCapAmb:0000000000000000\n0\n",
            runc: Differs("refuses capabilities outside of its bounding set"),
            ..CASE
        },
        Case {
            name: "seccomp without no_new_privs",
            script: SECCOMP,
            change: seccomp,
            prints: "NoNewPrivs:0\nSeccomp:2\nmkdir: can't create directory '/tmp/x': No space left on device\n\
                     unshare: unshare(0x4000000): Operation not permitted\n\
                     unshare: unshare(0x8000000): Operation not permitted\nfine\n",
            ..CASE
        },
        Case {
            name: "seccomp with no_new_privs false, as a user",
            script: "grep -E '^(Seccomp|CapPrm|CapBnd):' /proc/self/status | tr -d '\\t'; mkdir /tmp/x 2>&1; \
                     cat /proc/self/status >/dev/null && echo fine",
            change: |s| {
                seccomp(s);
                s["process"]["noNewPrivileges"] = json!(false);
                s["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            },
            prints: "CapPrm:0000000000000000\nCapBnd:0000000008000021\nSeccomp:2\n\
                     mkdir: can't create directory '/tmp/x': No space left on device\nfine\n",
            ..CASE
        },
        Case {
            name: "seccomp with no_new_privs",
            script: "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | tr -d '\\t'; mkdir /tmp/x 2>&1; \
                     sh -c 'echo forked'",
            change: |s| {
                seccomp(s);
                s["process"]["noNewPrivileges"] = json!(true);
            },
            prints: "NoNewPrivs:1\nSeccomp:2\nmkdir: can't create directory '/tmp/x': No space left on device\n\
                     forked\n",
            ..CASE
        },
        Case {
            name: "seccomp allow-list that filters clone flags lets processes be made",
            script: "sh -c 'echo forked'; unshare -u true 2>&1",
            change: |s| {
                // Everything is allowed but for namespaces: the filter that container engines use.
                s["linux"]["seccomp"] = json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [
                        {"names": ["unshare"], "action": "SCMP_ACT_ERRNO"},
                        {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "args": [
                            {"index": 0, "value": 0x7e02_0000u64, "valueTwo": 0x1000_0000u64,
                             "op": "SCMP_CMP_MASKED_EQ"}]},
                    ],
                });
            },
            prints: "forked\nunshare: unshare(0x4000000): Operation not permitted\n",
            code: 1,
            ..CASE
        },
        Case {
            name: "nothing is blocked, and a broken pipe kills",
            // The last five digits: signals 1 to 20. glibc's posix_spawn ignores two of its own (32, 33).
            script: "grep -E '^Sig(Blk|Ign):' /proc/self/status | tr -d '\\t' | cut -c19-23",
            prints: "00000\n00000\n",
            ..CASE
        },
        Case {
            name: "no descriptors but the three",
            script: "ls /proc/self/fd | wc -l",
            // ls has the directory open.
            prints: "4\n",
            ..CASE
        },
        Case {
            name: "limits of the process",
            script: "ulimit -n; ulimit -Hn; ulimit -c; umask; cat /proc/self/oom_score_adj",
            change: |s| {
                s["process"]["rlimits"] = json!([
                    {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
                s["process"]["user"]["umask"] = json!(0o77);
                s["process"]["oomScoreAdj"] = json!(321);
            },
            prints: "100\n200\n0\n0077\n321\n",
            ..CASE
        },
        Case { name: "umask unless asked", script: "umask", prints: "0022\n", ..CASE },
        Case {
            name: "a lower oom_score_adj that the host forbids",
            script: "cat /proc/self/oom_score_adj",
            change: |s| s["process"]["oomScoreAdj"] = json!(-500),
            prints: "0\n",
            runc: Differs("fails where oom_score_adj may not be lowered"),
            ..CASE
        },
        Case {
            name: "a higher hard limit than the host allows",
            script: "ulimit -Hn > /dev/null && echo started",
            change: |s| {
                s["process"]["rlimits"] =
                    json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 1_000_000_000u64}]);
            },
            prints: "started\n",
            runc: Differs("fails where hard limits may not be raised"),
            ..CASE
        },
        Case {
            name: "read-only root file system",
            script: "touch /x 2>&1; touch /data/x && echo volume",
            change: |s| {
                s["root"]["readonly"] = json!(true);
                let mount = json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs"});
                s["mounts"].as_array_mut().unwrap().push(mount);
            },
            prints: "touch: /x: Read-only file system\nvolume\n",
            ..CASE
        },
        Case {
            name: "masked and read-only paths",
            script: "cat /etc/passwd; ls /data; touch /tmp/x 2>&1; /tmp/program; touch /data/x 2>&1",
            change: |s| {
                s["linux"]["maskedPaths"] = json!(["/etc/passwd", "/data", "/not/there"]);
                s["linux"]["readonlyPaths"] = json!(["/tmp", "/not/there"]);
            },
            prepare: |b| {
                std::fs::write(b.rootfs().join("data/secret"), "secret").unwrap();
                let program = b.rootfs().join("tmp/program");
                std::fs::write(&program, "#!/bin/sh\necho runs from a read-only path\n").unwrap();
                std::fs::set_permissions(program, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                    .unwrap();
            },
            prints: "touch: /tmp/x: Read-only file system\nruns from a read-only path\n\
                     touch: /data/x: Read-only file system\n",
            code: 1,
            ..CASE
        },
        Case {
            name: "devices",
            script: "head -c1 /dev/zero | wc -c; echo x > /dev/null; stat -c '%a %u %g %t:%T %F' /dev/f; \
                     head -c0 /dev/f && echo allowed; \
                     mknod /tmp/mem c 1 1 && cat /tmp/mem 2>&1; ls -l /dev/fd /dev/stdin /dev/ptmx | wc -l; \
                     touch /dev/new && echo writable",
            change: |s| {
                s["linux"]["devices"] = json!([
                    {"path": "/dev/f", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 3, "gid": 4}]);
                s["process"]["capabilities"] = caps(&["CAP_MKNOD", "CAP_DAC_OVERRIDE"]);
                let rules = s["linux"]["resources"]["devices"].as_array_mut().unwrap();
                rules.push(json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"}));
            },
            prints: "1\n640 3 4 a:e5 character special file\nallowed\ncat: can't open '/tmp/mem': Operation not permitted\n\
                     3\nwritable\n",
            ..CASE
        },
        Case {
            name: "mounts",
            script: "cat /f/file; cat /data/file; touch /data/x 2>&1; touch /rw/made && ls /rw; \
                     stat -c %a /t; touch /t/x && echo tmpfs; cat /rel/file; ls /outside; cat /bin/../new/deep/file",
            change: |s| {
                let source = |s: &Value| s["annotations"]["source"].as_str().unwrap().to_owned();
                let dir = source(s);
                for mount in [
                    json!({"destination": "/f/file", "type": "bind", "source": format!("{dir}/file"), "options": ["bind"]}),
                    json!({"destination": "/data", "type": "bind", "source": dir, "options": ["rbind", "ro"]}),
                    json!({"destination": "/rw", "type": "bind", "source": dir, "options": ["rbind", "rw"]}),
                    json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1770", "size=64k", "nosuid"]}),
                    json!({"destination": "/rel", "type": "bind", "source": "source", "options": ["bind"]}),
                    // A symbolic link in the image that would lead out of it.
                    json!({"destination": "/link/here", "type": "tmpfs", "source": "tmpfs"}),
                    json!({"destination": "/new/deep", "type": "bind", "source": dir, "options": ["bind", "ro"]}),
                ] {
                    s["mounts"].as_array_mut().unwrap().push(mount);
                }
            },
            prepare: |b| {
                std::fs::create_dir(b.dir().join("source")).unwrap();
                std::fs::write(b.dir().join("source/file"), "content\n").unwrap();
                std::os::unix::fs::symlink("../../../../outside", b.rootfs().join("link")).unwrap();
                std::fs::create_dir(b.rootfs().join("outside")).unwrap();
            },
            prints: "content\ncontent\ntouch: /data/x: Read-only file system\nfile\nmade\n1770\ntmpfs\ncontent\nhere\n\
                     content\n",
            ..CASE
        },
        Case {
            name: "recursively read-only bind mounts",
            script: "touch /data/x 2>&1; grep -c ' /data' /proc/self/mountinfo",
            change: |s| {
                let dir = s["annotations"]["source"].as_str().unwrap().to_owned();
                let mount = json!({"destination": "/data", "type": "bind", "source": dir, "options": ["rbind", "rro"]});
                s["mounts"].as_array_mut().unwrap().push(mount);
            },
            prepare: |b| std::fs::create_dir(b.dir().join("source")).unwrap(),
            prints: "touch: /data/x: Read-only file system\n1\n",
            ..CASE
        },
        Case {
            name: "a read-only cgroup mount shows the container's own limits",
            script: "cat /sys/fs/cgroup/memory/memory.limit_in_bytes; cat /sys/fs/cgroup/pids/pids.max; \
                     echo 1 2>/dev/null >/sys/fs/cgroup/memory/cgroup.procs || echo refused; \
                     touch /sys/fs/cgroup/x 2>/dev/null || echo refused",
            change: |s| {
                s["linux"]["resources"]["memory"] = json!({"limit": 33_554_432});
                s["linux"]["resources"]["pids"] = json!({"limit": 17});
                for mount in [
                    json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "ro"]}),
                    json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                           "options": ["nosuid", "noexec", "nodev", "ro"]}),
                ] {
                    s["mounts"].as_array_mut().unwrap().push(mount);
                }
            },
            prints: "33554432\n17\nrefused\nrefused\n",
            ..CASE
        },
        Case {
            name: "hostname and namespaces of its own",
            script: "hostname; echo $$; cat /proc/net/dev | wc -l",
            change: |s| s["hostname"] = json!("box"),
            // Two lines of headings and lo.
            prints: "box\n1\n3\n",
            ..CASE
        },
        Case {
            name: "sysctl of its own network namespace",
            script: PORT_START,
            change: |s| s["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "77"}),
            prints: "77\n",
            ..CASE
        },
        Case {
            name: "no user database is asked about the container",
            script: "echo $HOME",
            change: |s| s["process"]["user"] = json!({"uid": 1000, "gid": 1000}),
            // Whoever opens this to configure name services waits for ever.
            prepare: |b| {
                let fifo = b.rootfs().join("etc/nsswitch.conf");
                assert!(std::process::Command::new("mkfifo").arg(fifo).status().unwrap().success());
            },
            prints: "/home/u\n",
            ..CASE
        },
    ]
}

/// A static program of a few bytes: makes the system call `number` and exits with its errno.
#[cfg(target_arch = "x86_64")]
fn errno_of_call(bundle: &Bundle, name: &str, number: u32) {
    let mut code = vec![0xb8]; // mov eax, number
    code.extend(number.to_le_bytes());
    code.extend([0x31, 0xff, 0x31, 0xf6, 0x31, 0xd2]); // xor edi, edi; xor esi, esi; xor edx, edx
    code.extend([0x0f, 0x05, 0xf7, 0xd8, 0x89, 0xc7]); // syscall; neg eax; mov edi, eax
    code.extend([0xb8, 60, 0, 0, 0, 0x0f, 0x05]); // mov eax, 60 (exit); syscall
    let base = 0x40_0000u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]); // executable, x86-64
    elf.extend((base + 120).to_le_bytes());
    elf.extend(64u64.to_le_bytes());
    elf.extend([0; 12]); // no sections, no flags
    elf.extend([64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]); // load, readable and executable
    let size = 120 + code.len() as u64;
    for field in [0, base, base, size, size, 4096] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend(code);
    let path = bundle.rootfs().join("bin").join(name);
    std::fs::write(&path, elf).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

/// What a C library needs to know: EPERM for what the profile forbids, ENOSYS for what it cannot know.
#[test]
#[cfg(target_arch = "x86_64")]
fn calls_newer_than_the_profile_do_not_exist() {
    for runtime in Runtime::both() {
        for (number, errno) in [(165, 1), (9_999, 38), (39, 0)] {
            let mut bundle = Bundle::new("");
            errno_of_call(&bundle, "call", number);
            bundle.spec["process"]["args"] = json!(["call"]);
            bundle.spec["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ERRNO",
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                "syscalls": [{"action": "SCMP_ACT_ALLOW", "names": [
                    "execve", "exit", "exit_group", "read", "write", "close", "futex", "openat", "mmap", "brk",
                    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "capset", "capget", "prctl", "setuid",
                    "setgid", "setgroups", "getpid", "fstatfs", "newfstatat", "fcntl", "epoll_ctl", "epoll_pwait",
                    "nanosleep", "chdir", "getcwd", "getdents64", "stat", "fstat", "faccessat2", "faccessat",
                    "madvise", "tgkill", "sched_yield", "getppid", "mprotect", "munmap", "sigaltstack", "gettid"]}],
            });
            let outcome = bundle.run(&runtime);
            // getpid(39) succeeds: its negated result is a pid and no errno.
            if errno == 0 {
                assert_ne!(outcome.code, Some(1), "{}: {outcome:?}", runtime.name);
                continue;
            }
            assert_eq!(outcome.code, Some(errno), "{}: call {number}: {outcome:?}", runtime.name);
        }
    }
}

fn observe(case: &Case, runtime: &Runtime) -> Outcome {
    let mut bundle = Bundle::new(case.script);
    (case.prepare)(&bundle);
    bundle.spec["annotations"] = json!({"source": bundle.dir().join("source")});
    (case.change)(&mut bundle.spec);
    let outcome = bundle.run(runtime);
    assert!(!bundle.has_cgroup(), "{}: {} left a cgroup", case.name, runtime.name);
    assert!(!runtime.state_dir().join(&bundle.id).exists(), "{}: {} left its state", case.name, runtime.name);
    outcome
}

#[test]
fn both_runtimes_do_what_the_configuration_says() {
    let [embedded, runc] = Runtime::both();
    let mut wrong = Vec::new();
    for case in table() {
        let want = (Some(case.code), case.prints);
        let ours = observe(&case, &embedded);
        if (ours.code, ours.stdout.as_str()) != want {
            wrong.push(format!("{}: embedded: {ours:#?}, want {want:?}", case.name));
        }
        let theirs = observe(&case, &runc);
        let same = (theirs.code, theirs.stdout.as_str()) == want;
        match case.runc {
            Same if !same => wrong.push(format!("{}: runc: {theirs:#?}, want {want:?}", case.name)),
            Differs(why) if same => wrong.push(format!("{}: runc does the same now ({why})", case.name)),
            Same | Differs(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
