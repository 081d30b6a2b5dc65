//! Console sockets: where an OCI runtime sends the controlling side of a terminal that it made.

use crate::{Error, Result, seqpacket};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// A socket that waits for one terminal; removed with the value.
#[derive(Debug)]
pub struct ConsoleSocket {
    socket: OwnedFd,
    /// Keeps the path alive that is handed out.
    dir: OwnedFd,
    name: String,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Listens on `dir/name`, replacing what a dead process left there.
    pub fn bind(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(name);
        let args = || path.display().to_string();
        let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::new("open", dir.display().to_string(), e))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|e| Error::new("socket", "AF_UNIX, SOCK_STREAM", e))?;
        // Not there is what is wanted; anything else the bind will tell.
        let _none = std::fs::remove_file(&path);
        let short = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
        let address = SocketAddrUnix::new(short).map_err(|e| Error::new("socket address", args(), e))?;
        rustix::net::bind(&socket, &address).map_err(|e| Error::new("bind", args(), e))?;
        rustix::net::listen(&socket, 1).map_err(|e| Error::new("listen", args(), e))?;
        let name = name.to_owned();
        Ok(Self { socket, dir, name, path })
    }

    /// A name for the socket that fits into a socket address however deep the directory is; good while this
    /// value and process live.
    pub fn short_path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}/{}", std::process::id(), self.dir.as_raw_fd(), self.name).into()
    }

    /// The terminal, which a runtime that has ended successfully has sent; does not wait. `EAGAIN` when it
    /// has not.
    pub fn receive(&self) -> Result<OwnedFd> {
        let connection = seqpacket::accept(self.socket.as_fd())?;
        seqpacket::set_nonblocking(connection.as_fd())?;
        // Beside the descriptor travels the terminal's name.
        let mut name = [0; 4096];
        let received = seqpacket::receive(connection.as_fd(), &mut name)?;
        let sent = received.and_then(|(_, fds)| <[OwnedFd; 1]>::try_from(fds).ok());
        let [terminal] = sent.ok_or_else(|| Error::new("recvmsg", "no terminal", Errno::NODATA))?;
        if !rustix::termios::isatty(&terminal) {
            return Err(Error::new("isatty", "what the OCI runtime sent", Errno::NOTTY));
        }
        Ok(terminal)
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // Left over it goes with its directory.
        let _gone = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_comes_through_and_nothing_else_does() {
        let root = std::env::temp_dir().join(format!("gantry-console-{}", std::process::id()));
        let deep = root.join("d".repeat(150));
        std::fs::create_dir_all(&deep).unwrap();
        let console = ConsoleSocket::bind(&deep, "c.sock").unwrap();
        assert_eq!(console.receive().unwrap_err().errno(), Errno::AGAIN);
        let send = |fd: std::os::fd::BorrowedFd<'_>| {
            let stream = std::os::unix::net::UnixStream::connect(console.short_path()).unwrap();
            seqpacket::send(stream.as_fd(), b"/dev/pts/0", &[fd]).unwrap();
        };
        let terminal = nix::pty::openpty(None, None).unwrap();
        send(terminal.master.as_fd());
        assert!(rustix::termios::isatty(console.receive().unwrap()));
        send(std::fs::File::open("/dev/null").unwrap().as_fd());
        assert_eq!(console.receive().unwrap_err().errno(), Errno::NOTTY);
        drop(console);
        assert!(!deep.join("c.sock").exists());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
