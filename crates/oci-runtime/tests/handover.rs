//! A detached `exec` outlives its runtime: whoever is the subreaper gets its exit status. Alone in
//! its program, since being a subreaper is a property of the whole process. Needs root, runc and
//! busybox-static.

mod support;

use std::process::Command;
use support::{Bundle, Runtime, ends, read_fifo};

#[test]
fn a_detached_exec_is_handed_over_and_keeps_its_output() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let options = rustix::process::WaitOptions::empty();
    for runtime in Runtime::both() {
        let name = runtime.name;
        let bundle = Bundle::new("echo ready > /data/ready; exec sleep 1000000");
        assert!(Command::new("mkfifo").arg(bundle.rootfs().join("data/ready")).status().unwrap().success());
        runtime.launch(&bundle.args("run", &["--detach"]), &bundle.dir().join("out"));
        assert_eq!(read_fifo(&bundle.rootfs().join("data/ready")), "ready\n", "{name}");
        assert!(Command::new("mkfifo").arg(bundle.rootfs().join("data/go")).status().unwrap().success());
        let (pid_file, out) = (bundle.dir().join("exec.pid"), bundle.dir().join("exec.out"));
        let script = "read go < /data/go; echo later; exit 33";
        let args =
            ["exec", "--detach", "--pid-file", pid_file.to_str().unwrap(), &bundle.id, "sh", "-c", script];
        let outcome = runtime.launch(&args, &out);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), ""), "{name}: {outcome:?}");
        let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().parse().unwrap();
        let process = gantry_sys::pidfd::Process::open(pid).unwrap();
        std::fs::write(bundle.rootfs().join("data/go"), "go\n").unwrap();
        assert!(ends(&process), "{name}");
        // Its exit status comes to the subreaper, which we are here and the monitor is in a pod.
        let waited = rustix::process::waitpid(rustix::process::Pid::from_raw(pid), options);
        let (_, status) = waited.unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(33), "{name}");
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "later\n", "{name}");
        let init = runtime.init(&bundle.id).pid();
        runtime.run(&["delete", "--force", &bundle.id]).ok();
        rustix::process::waitpid(rustix::process::Pid::from_raw(init), options).unwrap();
    }
}
