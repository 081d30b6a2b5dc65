//! System call filters: loading a compiled BPF program for the calling thread (seccomp(2)).

use crate::{Error, Result};
use nix::libc;
use rustix::io::Errno;

/// Bytes of one instruction of a classic BPF program (`struct sock_filter`).
pub const INSTRUCTION_BYTES: usize = 8;

/// Most instructions that the kernel takes in one program (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Loads `program`, classic BPF as libseccomp exports it, for the calling thread and what it starts.
///
/// `flags` are the `SECCOMP_FILTER_FLAG_*` bits of seccomp(2), without those that return a descriptor.
/// The thread must hold `CAP_SYS_ADMIN` in its user namespace or have no_new_privs set. A filter
/// cannot be taken away again.
///
/// # Errors
///
/// `EINVAL` for a program that is no sequence of instructions or too long, `EACCES` without the right.
pub fn load_filter(program: &[u8], flags: u32) -> Result<()> {
    let args = || format!("SECCOMP_SET_MODE_FILTER, flags {flags:#x}, {} bytes", program.len());
    let error = |errno| Error::new("seccomp", args(), errno);
    let count = program.len() / INSTRUCTION_BYTES;
    if !program.len().is_multiple_of(INSTRUCTION_BYTES) || count == 0 || count > MAX_INSTRUCTIONS {
        return Err(error(Errno::INVAL));
    }
    let mut instructions: Vec<libc::sock_filter> = program
        .chunks_exact(INSTRUCTION_BYTES)
        .map(|b| libc::sock_filter {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        })
        .collect();
    let filter = libc::sock_fprog { len: count as u16, filter: instructions.as_mut_ptr() };
    // SAFETY: `filter` points at `count` instructions that live until the call returns; the kernel
    // copies and verifies them.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, libc::c_ulong::from(flags), &filter)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(Error::from_io("seccomp", args(), &std::io::Error::last_os_error()))
    }
}

/// Whether the kernel answers x32 calls (`CONFIG_X86_X32_ABI`, and not switched off at boot).
///
/// Must not be called below a filter that may kill for it.
pub fn has_x32_calls() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        const X32_BIT: libc::c_long = 0x4000_0000;
        // SAFETY: getpid(2) takes no arguments and changes nothing; without x32 the kernel answers ENOSYS.
        let answer = unsafe { libc::syscall(X32_BIT | libc::SYS_getpid) };
        answer != -1
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_for_x32_harms_nothing() {
        assert_eq!(has_x32_calls(), has_x32_calls());
    }

    #[test]
    fn what_is_no_program_is_refused() {
        for bytes in [&[][..], &[0; 7], &[0; (MAX_INSTRUCTIONS + 1) * INSTRUCTION_BYTES]] {
            assert_eq!(load_filter(bytes, 0).unwrap_err().errno(), Errno::INVAL, "{} bytes", bytes.len());
        }
    }
}
