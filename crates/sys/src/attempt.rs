//! System calls that no ordinary container may make, tried with arguments that change nothing: for tests of
//! confinement, which see by the answer who refused.

use nix::libc;
use rustix::io::Errno;

/// A call that is tried.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// Its name.
    pub name: &'static str,
    number: libc::c_long,
    arguments: [libc::c_long; 6],
}

impl Attempt {
    /// Makes the call; the kernel's answer to it, `None` for success.
    pub fn make(&self) -> Option<Errno> {
        let [a, b, c, d, e, f] = self.arguments;
        // SAFETY: each entry of `all` passes null pointers, descriptors that are not open and flags that do not
        // exist: the kernel refuses each before it reads or writes memory. What may succeed (a socket) does
        // nothing to this process.
        let answer = unsafe { libc::syscall(self.number, a, b, c, d, e, f) };
        (answer == -1).then(|| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}

/// Every call that can be tried.
pub fn all() -> Vec<Attempt> {
    let call =
        |name, number, [a, b, c]: [libc::c_long; 3]| Attempt { name, number, arguments: [a, b, c, 0, 0, 0] };
    // `AF_VSOCK`, `SOCK_STREAM`.
    const VSOCK: libc::c_long = 40;
    vec![
        call("acct", libc::SYS_acct, [1, 0, 0]),
        call("add_key", libc::SYS_add_key, [0, 0, 0]),
        call("bpf", libc::SYS_bpf, [-1, 0, 0]),
        call("clock_settime", libc::SYS_clock_settime, [-1, 0, 0]),
        call("clone3", libc::SYS_clone3, [0, 0, 0]),
        call("delete_module", libc::SYS_delete_module, [0, 0, 0]),
        call("fanotify_init", libc::SYS_fanotify_init, [-1, 0, 0]),
        call("finit_module", libc::SYS_finit_module, [-1, 0, 0]),
        call("fsopen", libc::SYS_fsopen, [0, -1, 0]),
        call("get_mempolicy", libc::SYS_get_mempolicy, [0, 1, 0]),
        call("init_module", libc::SYS_init_module, [0, 0, 0]),
        call("io_uring_setup", libc::SYS_io_uring_setup, [0, 0, 0]),
        call("kcmp", libc::SYS_kcmp, [0, 0, -1]),
        call("kexec_load", libc::SYS_kexec_load, [0, 99, 0]),
        call("keyctl", libc::SYS_keyctl, [-1, 0, 0]),
        call("mbind", libc::SYS_mbind, [1, 0, -1]),
        call("mount", libc::SYS_mount, [0, 0, 0]),
        call("mount_setattr", libc::SYS_mount_setattr, [-1, 0, -1]),
        call("move_mount", libc::SYS_move_mount, [-1, 0, -1]),
        call("move_pages", libc::SYS_move_pages, [-1, 0, 0]),
        call("open_by_handle_at", libc::SYS_open_by_handle_at, [-1, 0, 0]),
        call("perf_event_open", libc::SYS_perf_event_open, [0, 0, 0]),
        call("pivot_root", libc::SYS_pivot_root, [0, 0, 0]),
        // Its last argument is reserved.
        Attempt {
            name: "process_vm_readv",
            number: libc::SYS_process_vm_readv,
            arguments: [-1, 0, 0, 0, 0, 1],
        },
        call("quotactl", libc::SYS_quotactl, [-1, 0, 0]),
        call("reboot", libc::SYS_reboot, [0, 0, 0]),
        call("request_key", libc::SYS_request_key, [0, 0, 0]),
        call("setns", libc::SYS_setns, [-1, 0, 0]),
        call("settimeofday", libc::SYS_settimeofday, [1, 1, 0]),
        call("socket(AF_VSOCK)", libc::SYS_socket, [VSOCK, 1, 0]),
        call("swapon", libc::SYS_swapon, [0, 0, 0]),
        call("syslog", libc::SYS_syslog, [-1, 0, 0]),
        call("umount2", libc::SYS_umount2, [0, -1, 0]),
        call("unshare", libc::SYS_unshare, [1, 0, 0]),
        call("userfaultfd", libc::SYS_userfaultfd, [-1, 0, 0]),
        #[cfg(target_arch = "x86_64")]
        call("ioperm", libc::SYS_ioperm, [-1, -1, 1]),
        #[cfg(target_arch = "x86_64")]
        call("iopl", libc::SYS_iopl, [9, 0, 0]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_refused_or_harmless_here() {
        for attempt in all() {
            let answer = attempt.make();
            assert!(answer.is_some() || attempt.name == "socket(AF_VSOCK)", "{} succeeded", attempt.name);
        }
    }
}
