//! Starting the OCI runtime: by `posix_spawn`, which does not copy this process and is safe beside a
//! second thread, with nothing of the monitor's own state in the child.

use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// All that the runtime sees of an environment.
const ENVIRONMENT: [&CStr; 1] = [c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];

/// Where a runtime without a path is looked for; the monitor itself has no environment.
const PROGRAMS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Standard streams of what the runtime starts.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Streams {
    /// Standard input, output and error, in this order and nothing else.
    pub(crate) fn from_fds(fds: Vec<OwnedFd>) -> Option<Self> {
        let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(fds).ok()?;
        Some(Self { stdin, stdout, stderr })
    }
}

/// Runs `program options… args…` in a process group of its own; returns its pid.
///
/// Signals are at their defaults and not blocked in the child: what starts here becomes a container's
/// init, which would else never see a SIGTERM.
pub(crate) fn spawn(
    program: &str,
    options: &[String],
    args: &[&str],
    streams: &Streams,
) -> Result<i32, String> {
    let failed = |e: Errno| format!("run {program}: {}", e.desc());
    let words = [program].into_iter().chain(options.iter().map(String::as_str)).chain(args.iter().copied());
    let argv: Result<Vec<CString>, _> = words.map(CString::new).collect();
    let argv = argv.map_err(|_| format!("run {program}: an argument holds a zero byte"))?;

    let mut attributes = PosixSpawnAttr::init().map_err(failed)?;
    let flags = PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
        | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
        | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK;
    attributes.set_flags(flags).map_err(failed)?;
    attributes.set_pgroup(Pid::from_raw(0)).map_err(failed)?;
    attributes.set_sigdefault(&SigSet::all()).map_err(failed)?;
    attributes.set_sigmask(&SigSet::empty()).map_err(failed)?;

    // Everything else that is open here closes itself at exec.
    let mut actions = PosixSpawnFileActions::init().map_err(failed)?;
    for (fd, number) in [(&streams.stdin, 0), (&streams.stdout, 1), (&streams.stderr, 2)] {
        actions.add_dup2(fd.as_raw_fd(), number).map_err(failed)?;
    }
    let found = match program.contains('/') {
        true => PathBuf::from(program),
        false => {
            let mut places = PROGRAMS.iter().map(|dir| Path::new(dir).join(program));
            places.find(|path| path.is_file()).ok_or_else(|| failed(Errno::ENOENT))?
        }
    };
    let pid = posix_spawn(&found, &actions, &attributes, &argv, &ENVIRONMENT);
    let pid = pid.map_err(failed)?.as_raw();
    reset_oom_score(pid);
    Ok(pid)
}

/// A daemon that the OOM killer spares hands its score down to its monitors; containers whose bundle
/// says nothing must not have it. Raising is always allowed. The runtime has hardly begun at this time,
/// and what the bundle says it sets later.
fn reset_oom_score(pid: i32) {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    if own.trim().parse::<i32>().is_ok_and(|score| score < 0) {
        // It is gone already, or the host forbids it: neither hinders the start.
        let _gone = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn run(program: &str, options: &[&str]) -> Result<String, String> {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        let streams = Streams { stdin: null(), stdout: writer.into(), stderr: null() };
        let pid = spawn(program, &options, &[], &streams)?;
        drop(streams);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        rustix::process::waitpid(rustix::process::Pid::from_raw(pid), rustix::process::WaitOptions::empty())
            .unwrap();
        Ok(text)
    }

    #[test]
    fn the_child_has_no_signal_blocked_or_ignored_and_a_group_of_its_own() {
        SigSet::all().thread_block().unwrap();
        let status = run("sh", &["-c", "cat /proc/self/status; ps -o pid=,pgid= -p $$; env"]).unwrap();
        assert!(status.contains("SigBlk:\t0000000000000000"), "{status}");
        // 32 and 33 are the C library's own.
        let ignored = status.lines().find_map(|l| l.strip_prefix("SigIgn:\t")).unwrap();
        assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & !(3 << 31), 0, "{status}");
        let (leader, group) = status.lines().rev().find_map(|l| l.trim().split_once(' ')).unwrap();
        assert_eq!(leader, group.trim(), "{status}");
        assert!(!status.contains("CARGO"), "{status}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run("/nonexistent/runc", &[]).unwrap_err();
        assert_eq!(error, "run /nonexistent/runc: No such file or directory");
        assert!(run("true", &["a\0b"]).unwrap_err().contains("zero byte"));
    }

    #[test]
    fn streams_are_three() {
        assert!(Streams::from_fds(vec![null(), null()]).is_none());
        assert!(Streams::from_fds(vec![null(), null(), null()]).is_some());
        assert!(Streams::from_fds(vec![null(), null(), null(), null()]).is_none());
    }
}
