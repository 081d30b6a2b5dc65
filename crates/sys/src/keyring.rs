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

#[cfg(test)]
mod tests {
    #[test]
    fn a_new_session_has_a_keyring_of_its_own() {
        // Credentials belong to a thread: this one's do not touch the other tests.
        let test = std::thread::spawn(|| {
            let sessions = || std::fs::read_to_string("/proc/keys").map(|k| k.matches(" _ses").count());
            let Ok(before) = sessions() else {
                // A kernel without keyrings says so.
                assert_eq!(super::new_session().unwrap_err().errno(), rustix::io::Errno::NOSYS);
                return;
            };
            super::new_session().unwrap();
            assert_eq!(sessions().unwrap(), before + 1);
        });
        test.join().unwrap();
    }
}
