//! eBPF programs that decide on device access in a cgroup2 (bpf(2), `BPF_PROG_TYPE_CGROUP_DEVICE`).

use crate::{Error, Result};
use nix::libc;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` reads here.
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The part of `union bpf_attr` that `BPF_PROG_ATTACH` reads here.
#[repr(C)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// Loads a device program of 64-bit eBPF instructions; the descriptor keeps it until it is attached.
///
/// # Errors
///
/// `EINVAL` or `EACCES` when the kernel's verifier refuses it, `EPERM` without `CAP_BPF`.
pub fn load_device_program(instructions: &[u64]) -> Result<OwnedFd> {
    const LICENSE: &std::ffi::CStr = c"Apache-2.0";
    let attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: `attr` is laid out as the kernel's union for this command, and what it points at lives
    // until the call returns; the kernel copies it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &attr, size_of::<LoadAttr>()) };
    if fd < 0 {
        let args = format!("BPF_PROG_LOAD, device, {} instructions", instructions.len());
        return Err(Error::from_io("bpf", args, &std::io::Error::last_os_error()));
    }
    // SAFETY: the kernel just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches a device program to the directory `cgroup` of a cgroup2 mount, beside those already
/// there: all of them have to allow an access. It stays until the cgroup is removed.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let attr = AttachAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
        replace_bpf_fd: 0,
    };
    // SAFETY: `attr` is laid out as the kernel's union for this command and is only read.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &attr, size_of::<AttachAttr>()) };
    if result == 0 {
        Ok(())
    } else {
        Err(Error::from_io("bpf", "BPF_PROG_ATTACH, BPF_CGROUP_DEVICE", &std::io::Error::last_os_error()))
    }
}
