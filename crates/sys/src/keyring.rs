//! Kernel keyrings (keyrings(7)).

use crate::{Error, Result};
use nix::libc;

/// Gives the calling process a new, empty session keyring, so that it and what it starts do not
/// share keys with whoever started it.
///
/// # Errors
///
/// `ENOSYS` on kernels without keyrings, `EDQUOT` when the user has too many keys.
pub fn new_session() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is passed.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<u8>()) };
    if result >= 0 {
        Ok(())
    } else {
        Err(Error::from_io("keyctl", "KEYCTL_JOIN_SESSION_KEYRING", &std::io::Error::last_os_error()))
    }
}
