//! Attachments: the log thread copies a container's output, the other side gets its input.

use crate::event_loop::EventLoop;
use crate::log::{LogThread, Stream};
use gantry_monitor_api::{AttachRequest, ErrorKind};
use gantry_sys::seqpacket;
use std::os::fd::{AsFd as _, OwnedFd};

impl EventLoop {
    pub(crate) fn attach(
        &mut self,
        request: &AttachRequest,
        fds: Vec<OwnedFd>,
    ) -> Result<(), (ErrorKind, String)> {
        let id = &request.container_id;
        let container = match self.containers.get(id) {
            Some(known) if known.exit.is_none() => known,
            Some(_) => return Err((ErrorKind::NotFound, format!("container {id} has ended"))),
            None => return Err((ErrorKind::NotFound, format!("no container {id} in this pod"))),
        };
        let wanted = [(request.stdout, Stream::Stdout), (request.stderr, Stream::Stderr)];
        let streams: Vec<Stream> = wanted.iter().filter(|(wanted, _)| *wanted).map(|(_, s)| *s).collect();
        let mut fds = fds.into_iter();
        let Some(hand_over) = fds.next().filter(|_| fds.len() == streams.len()) else {
            let message = "an attachment carries a socket and a pipe for each stream";
            return Err((ErrorKind::Invalid, message.into()));
        };
        let input = container.terminal.as_ref().or(container.stdin.as_ref());
        let input: Vec<_> = input.iter().map(|fd| fd.as_fd()).collect();
        // The first message on a fresh socket never waits.
        seqpacket::try_send(hand_over.as_fd(), b"stdin", &input)
            .map_err(|e| (ErrorKind::System, format!("hand over standard input of {id}: {e}")))?;
        let taps: Vec<(OwnedFd, Stream)> = fds.zip(streams).collect();
        if taps.is_empty() {
            return Ok(());
        }
        let logs = self.logs().map_err(|e| (ErrorKind::System, e))?;
        if !LogThread::keeps_up(logs) {
            let message = "the log thread hangs: has the file system of the logs stalled?";
            return Err((ErrorKind::System, message.into()));
        }
        logs.tap(id, taps);
        Ok(())
    }
}
