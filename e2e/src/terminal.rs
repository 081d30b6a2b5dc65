//! A terminal with a program on it, typed to and looked at from the other side.

use crate::watch::{LIMIT, wait_readable};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};

/// Runs its arguments, tells their exit code, and stays: the kernel resets a terminal when the leader of its
/// session ends, and nobody could see any more how the program left it.
const LEADER: &str = r#""$@"; printf '\001%d\001' $?; exec sleep 100000"#;

/// A program whose controlling terminal is ours. Killed when dropped.
#[derive(Debug)]
pub struct Terminal {
    ours: OwnedFd,
    theirs: OwnedFd,
    /// The leader of the session; the program is its child.
    leader: Child,
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
        wrapped
            .args(["--ctty", "sh", "-c", LEADER, "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        let end = || theirs.try_clone().expect("duplicate a terminal");
        let leader = wrapped.stdin(end()).stdout(end()).stderr(end()).spawn();
        let leader = leader.unwrap_or_else(|e| panic!("run {wrapped:?}: {e}"));
        Self { ours, theirs, leader, seen: String::new() }
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

    /// Process id of the program, which has shown something already.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let leader = self.leader.id();
        let path = format!("/proc/{leader}/task/{leader}/children");
        let children = std::fs::read_to_string(path).expect("read the leader's children");
        children.trim().parse().expect("the leader has one child")
    }

    /// Waits for its end; its exit code, and what else it showed.
    #[track_caller]
    pub fn end(&mut self) -> (i32, String) {
        let rest = self.until("\u{1}").trim_end_matches('\u{1}').to_owned();
        let code = self.until("\u{1}");
        (code.trim_end_matches('\u{1}').parse().expect("an exit code"), rest)
    }

    /// Waits for its end; its exit code, and whether the terminal is as terminals are at first.
    #[track_caller]
    pub fn settings_after(mut self) -> (i32, bool) {
        let (code, _) = self.end();
        let settings = tcgetattr(&self.theirs).expect("look at the terminal");
        let usual = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        (code, settings.local_modes.contains(usual))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The leader's end hangs up, which ends the program.
        let _gone = self.leader.kill();
        let _status = self.leader.wait();
    }
}

fn set_size(terminal: &OwnedFd, columns: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("set the size of a terminal");
}
