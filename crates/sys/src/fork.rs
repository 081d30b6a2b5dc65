//! A child without exec, in namespaces of its own; only from a process that has one thread.

use crate::{Error, Result};
use nix::libc;
use rustix::io::Errno;

/// Namespaces that a forked child gets anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NewNamespaces {
    /// Users; owns the other new ones. The child has no identity in it until its maps are written.
    pub user: bool,
    /// Network.
    pub net: bool,
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
    /// Process ids; the child is PID 1.
    pub pid: bool,
    /// Mounts.
    pub mount: bool,
}

/// Forks a child into new namespaces and runs `child` in it, which must not return
/// (the child aborts if it does). Returns its pid.
///
/// # Errors
///
/// `EBUSY` when the calling process has more than one thread: a lock that another thread holds would
/// stay locked in the child for ever (fork(2)).
pub fn fork_into(namespaces: NewNamespaces, child: impl FnOnce()) -> Result<i32> {
    let threads =
        std::fs::read_dir("/proc/self/task").map_err(|e| Error::from_io("read", "/proc/self/task", &e))?;
    let count = threads.count();
    if count != 1 {
        return Err(Error::new("clone", format!("with {count} threads"), Errno::BUSY));
    }
    let flag = |on: bool, flag: i32| if on { flag } else { 0 };
    let flags = libc::SIGCHLD
        | flag(namespaces.user, libc::CLONE_NEWUSER)
        | flag(namespaces.net, libc::CLONE_NEWNET)
        | flag(namespaces.ipc, libc::CLONE_NEWIPC)
        | flag(namespaces.uts, libc::CLONE_NEWUTS)
        | flag(namespaces.pid, libc::CLONE_NEWPID)
        | flag(namespaces.mount, libc::CLONE_NEWNS);
    // SAFETY: without CLONE_VM and with a null stack this is fork(2) (clone(2)): the child goes on with a
    // copy of this address space. The process has one thread, so no lock is held by anybody else.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0, 0, 0, 0) };
    match pid {
        // The child does not come back; if it ever did, it must not go on as a second parent.
        0 => {
            child();
            std::process::abort()
        }
        -1 => {
            let error = std::io::Error::last_os_error();
            Err(Error::from_io("clone", format!("{namespaces:?}"), &error))
        }
        pid => i32::try_from(pid).map_err(|_| Error::new("clone", "", Errno::OVERFLOW)),
    }
}

/// Closes every descriptor from `first` on. For a forked child that never execs, where close-on-exec
/// does nothing; no value of this process may use one of them afterwards.
pub fn close_from(first: u32) -> Result<()> {
    // SAFETY: closing descriptors is memory-safe; the caller gives up every owner of them.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if done == 0 {
        return Ok(());
    }
    Err(Error::from_io("close_range", first.to_string(), &std::io::Error::last_os_error()))
}

/// Brings the loopback link of the calling thread's network namespace up (netdevice(7)).
pub fn loopback_up() -> Result<()> {
    use std::os::fd::AsRawFd as _;
    let socket =
        std::net::UdpSocket::bind("0.0.0.0:0").map_err(|e| Error::from_io("socket", "AF_INET", &e))?;
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives across the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) };
    if done == 0 {
        return Ok(());
    }
    Err(Error::from_io("SIOCSIFFLAGS", "lo", &std::io::Error::last_os_error()))
}
