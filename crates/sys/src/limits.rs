//! How many files this process may have open, and what its children get of that.

use crate::{Error, Result};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use std::sync::OnceLock;

/// The limit that this process was started with, once it has raised its own.
static ORIGINAL: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit of open files to the hard one. Gives both as they are now; `None` is no limit.
///
/// Children inherit the raised limit: [`give_back_open_files`] gives them the original one, since a high
/// one breaks programs that use select(2) or close every descriptor that they could have.
///
/// # Errors
///
/// Those of setrlimit(2); the limit stays as it was then.
pub fn raise_open_files() -> Result<(Option<u64>, Option<u64>)> {
    let original = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: original.maximum, maximum: original.maximum };
    if original.current != original.maximum {
        setrlimit(Resource::Nofile, raised)
            .map_err(|e| Error::new("setrlimit", format!("RLIMIT_NOFILE, {raised:?}"), e))?;
    }
    ORIGINAL.get_or_init(|| original);
    Ok((raised.current, raised.maximum))
}

/// Gives a child the limit of open files that this process was started with. Does nothing when this
/// process never raised its own.
///
/// # Errors
///
/// Those of prlimit(2); `ESRCH` when the child has ended.
pub fn give_back_open_files(pid: u32) -> Result<()> {
    let Some(original) = ORIGINAL.get() else { return Ok(()) };
    let invalid = || Error::new("prlimit", format!("{pid}"), rustix::io::Errno::INVAL);
    let target = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(invalid)?;
    prlimit(Some(target), Resource::Nofile, *original)
        .map(|_| ())
        .map_err(|e| Error::new("prlimit", format!("{pid}, RLIMIT_NOFILE, {original:?}"), e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::process::{Command, Stdio};

    #[test]
    fn the_soft_limit_rises_and_a_child_gets_the_original_back() {
        let original = getrlimit(Resource::Nofile);
        // So that there is something to raise, whatever this test was started with.
        let low = Rlimit { current: Some(256), maximum: original.maximum };
        setrlimit(Resource::Nofile, low).unwrap();
        give_back_open_files(0).unwrap();
        let (soft, hard) = raise_open_files().unwrap();
        assert_eq!((soft, hard), (original.maximum, original.maximum));
        assert_eq!(getrlimit(Resource::Nofile).current, original.maximum);
        raise_open_files().unwrap();

        let mut child = Command::new("sh")
            .args(["-c", "read go; ulimit -S -n; ulimit -H -n"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        give_back_open_files(child.id()).unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(child.wait().unwrap().success());
        let hard = original.maximum.map_or("unlimited".to_owned(), |n| n.to_string());
        assert_eq!(said, format!("256\n{hard}\n"));
        assert!(give_back_open_files(0).unwrap_err().to_string().contains("prlimit"));
        setrlimit(Resource::Nofile, original).unwrap();
    }
}
