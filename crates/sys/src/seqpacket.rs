//! Message sockets (`AF_UNIX`, `SOCK_SEQPACKET`) that carry file descriptors.

use crate::{Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Most file descriptors that one message carries.
pub const MAX_FDS: usize = 8;

/// Connected pair of sockets, close-on-exec, blocking.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| Error::new("socketpair", "AF_UNIX, SOCK_SEQPACKET", e))
}

/// Listens on `dir/name`, replacing a socket that a dead process left there.
///
/// The directory is opened first and named through its descriptor, so that the length of `dir` does
/// not count against the 108 bytes of a socket path (unix(7)).
pub fn listen(dir: &Path, name: &str) -> Result<OwnedFd> {
    let args = || format!("{}/{name}", dir.display());
    let (_dir, address) = address_in(dir, name)?;
    let socket = new_socket()?;
    match std::fs::remove_file(dir.join(name)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::from_io("unlink", args(), &e));
        }
        _ => {}
    }
    rustix::net::bind(&socket, &address).map_err(|e| Error::new("bind", args(), e))?;
    rustix::net::listen(&socket, 16).map_err(|e| Error::new("listen", args(), e))?;
    Ok(socket)
}

/// Connects to `dir/name`; `ECONNREFUSED` or `ENOENT` when nobody listens there.
pub fn connect(dir: &Path, name: &str) -> Result<OwnedFd> {
    let (_dir, address) = address_in(dir, name)?;
    let socket = new_socket()?;
    rustix::net::connect(&socket, &address)
        .map_err(|e| Error::new("connect", format!("{}/{name}", dir.display()), e))?;
    Ok(socket)
}

/// Accepts one connection, close-on-exec.
pub fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd> {
    rustix::net::accept_with(listener, SocketFlags::CLOEXEC).map_err(|e| Error::new("accept", "", e))
}

/// Sends one message with up to [`MAX_FDS`] descriptors; never raises `SIGPIPE`.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    send_with(socket, bytes, fds, SendFlags::NOSIGNAL)
}

/// As [`send`], but fails with `EAGAIN` instead of waiting for a reader that does not read.
pub fn try_send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    send_with(socket, bytes, fds, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

fn send_with(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>], flags: SendFlags) -> Result<()> {
    let args = || format!("{} bytes, {} fds", bytes.len(), fds.len());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Error::new("sendmsg", args(), Errno::TOOBIG));
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)
        .map_err(|e| Error::new("sendmsg", args(), e))?;
    // A message socket takes a message whole or not at all (unix(7)).
    if sent == bytes.len() { Ok(()) } else { Err(Error::new("sendmsg", args(), Errno::IO)) }
}

/// Receives one message into `buffer`; `None` at the end of the connection.
///
/// A message longer than `buffer` is refused with `EMSGSIZE`. Descriptors are close-on-exec. On a
/// non-blocking socket `EAGAIN` says that nothing has come yet.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .map_err(|e| Error::new("recvmsg", "", e))?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.flags.contains(rustix::net::ReturnFlags::TRUNC) {
        return Err(Error::new("recvmsg", format!("buffer of {}", buffer.len()), Errno::MSGSIZE));
    }
    Ok((got.bytes > 0).then_some((got.bytes, fds)))
}

/// Makes a socket non-blocking.
pub fn set_nonblocking(socket: BorrowedFd<'_>) -> Result<()> {
    rustix::io::ioctl_fionbio(socket, true).map_err(|e| Error::new("FIONBIO", "", e))
}

/// Process id of the peer at the time it connected, as this process sees it (`SO_PEERCRED`).
pub fn peer_pid(socket: BorrowedFd<'_>) -> Result<i32> {
    let cred = rustix::net::sockopt::socket_peercred(socket).map_err(|e| Error::new("SO_PEERCRED", "", e))?;
    Ok(cred.pid.as_raw_nonzero().get())
}

fn new_socket() -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| Error::new("socket", "AF_UNIX, SOCK_SEQPACKET", e))
}

fn address_in(dir: &Path, name: &str) -> Result<(OwnedFd, SocketAddrUnix)> {
    let args = || format!("{}/{name}", dir.display());
    let fd = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::new("open", dir.display().to_string(), e))?;
    let short = format!("/proc/self/fd/{}/{name}", fd.as_fd().as_raw_fd());
    let address = SocketAddrUnix::new(short).map_err(|e| Error::new("socket address", args(), e))?;
    Ok((fd, address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn messages_keep_their_bounds_and_carry_descriptors() {
        let (a, b) = pair().unwrap();
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        send(a.as_fd(), b"one", &[writer.as_fd()]).unwrap();
        send(a.as_fd(), b"two", &[]).unwrap();
        writer.write_all(b"x").unwrap();
        drop(writer);
        let mut buffer = [0; 64];
        let (n, fds) = receive(b.as_fd(), &mut buffer).unwrap().unwrap();
        assert_eq!((&buffer[..n], fds.len()), (&b"one"[..], 1));
        let (n, none) = receive(b.as_fd(), &mut buffer).unwrap().unwrap();
        assert_eq!((&buffer[..n], none.len()), (&b"two"[..], 0));
        drop(fds);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        drop(a);
        assert!(receive(b.as_fd(), &mut buffer).unwrap().is_none());
    }

    #[test]
    fn a_message_longer_than_the_buffer_is_refused() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), &[7; 100], &[]).unwrap();
        assert_eq!(receive(b.as_fd(), &mut [0; 10]).unwrap_err().errno(), Errno::MSGSIZE);
    }

    #[test]
    fn a_directory_of_any_length_holds_a_socket() {
        let root = std::env::temp_dir().join(format!("gantry-seqpacket-{}", std::process::id()));
        let dir = root.join("d".repeat(200));
        std::fs::create_dir_all(&dir).unwrap();
        let listener = listen(&dir, "s.sock").unwrap();
        drop(listener);
        let listener = listen(&dir, "s.sock").unwrap();
        let client = connect(&dir, "s.sock").unwrap();
        let server = accept(listener.as_fd()).unwrap();
        assert_eq!(peer_pid(server.as_fd()).unwrap(), std::process::id() as i32);
        send(client.as_fd(), b"hello", &[]).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(receive(server.as_fd(), &mut buffer).unwrap().unwrap().0, 5);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
