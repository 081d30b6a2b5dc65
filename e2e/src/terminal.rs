//! A terminal with a program on it, typed to and looked at from the other side.

use crate::watch::{LIMIT, wait_readable};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};

/// A program whose controlling terminal is ours. Killed when dropped.
#[derive(Debug)]
pub struct Terminal {
    ours: OwnedFd,
    /// Kept open, so that the terminal outlives the program and its settings can be looked at.
    theirs: OwnedFd,
    child: Child,
    /// What it showed and nobody has looked for yet.
    seen: String,
}

impl Terminal {
    /// Runs `command` on a terminal of this size, in a session of its own.
    pub fn run(command: &Command, columns: u16, rows: u16) -> Self {
        let pair = nix::pty::openpty(None, None).expect("make a terminal");
        let (ours, theirs) = (pair.master, pair.slave);
        set_size(&ours, columns, rows);
        let mut wrapped = Command::new("setsid");
        wrapped.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        let end = || theirs.try_clone().expect("duplicate a terminal");
        let child = wrapped.stdin(end()).stdout(end()).stderr(end()).spawn();
        let child = child.unwrap_or_else(|e| panic!("run {wrapped:?}: {e}"));
        Self { ours, theirs, child, seen: String::new() }
    }

    /// Types.
    pub fn keys(&self, keys: &str) {
        let mut rest = keys.as_bytes();
        while !rest.is_empty() {
            let written = rustix::io::write(&self.ours, rest).expect("type");
            rest = &rest[written..];
        }
    }

    /// Another size; the program is signalled.
    pub fn resize(&self, columns: u16, rows: u16) {
        set_size(&self.ours, columns, rows);
    }

    /// Whether keys go to the program as they are typed.
    pub fn is_raw(&self) -> bool {
        let settings = tcgetattr(&self.theirs).expect("look at the terminal");
        !settings.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Reads until `text` is shown; what was shown before it. What follows stays for the next call.
    #[track_caller]
    pub fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(
                wait_readable(&[&self.ours], LIMIT),
                "{text:?} is not shown within {LIMIT:?}; shown is {:?}",
                self.seen
            );
            self.read(text);
        }
    }

    #[track_caller]
    fn read(&mut self, what: &str) {
        let mut buffer = [0; 4096];
        let n =
            rustix::io::read(&self.ours, &mut buffer).unwrap_or_else(|e| panic!("wait for {what:?}: {e}"));
        self.seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }

    /// Process id of the program.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end; its status, and what else it showed.
    #[track_caller]
    pub fn end(mut self) -> (ExitStatus, String) {
        let pidfd = crate::process::pidfd(self.child.id()).expect("the program is not waited for yet");
        loop {
            assert!(
                wait_readable(&[&self.ours, &pidfd], LIMIT),
                "the program does not end; shown is {:?}",
                self.seen
            );
            let mut ready = [
                rustix::event::PollFd::new(&self.ours, rustix::event::PollFlags::IN),
                rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN),
            ];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            rustix::event::poll(&mut ready, Some(&now)).expect("poll");
            let (shown, ended) = (!ready[0].revents().is_empty(), !ready[1].revents().is_empty());
            if shown {
                self.read("the end");
            } else if ended {
                let status = self.child.wait().expect("wait for the program");
                return (status, std::mem::take(&mut self.seen));
            }
        }
    }

    /// Whether the terminal is as terminals are at first; to be asked of one whose program has ended.
    pub fn settings_after(self) -> (ExitStatus, bool) {
        let theirs = self.theirs.try_clone().expect("duplicate a terminal");
        let (status, _) = self.end();
        let settings = tcgetattr(&theirs).expect("look at the terminal");
        let usual = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        (status, settings.local_modes.contains(usual))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

fn set_size(terminal: &OwnedFd, columns: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("set the size of a terminal");
}
