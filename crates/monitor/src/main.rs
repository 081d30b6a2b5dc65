#![forbid(unsafe_code)]
//! `gantry-monitor`: one per pod. Holds the pause child, starts containers through the OCI runtime,
//! is their parent, writes their output to the log and their end to disk. Survives the daemon.
//!
//! docs/monitor.md tells the whole story. The rooms: `pause` is the child that holds the namespaces,
//! `event_loop` waits and dispatches, `runtime_call` runs the OCI runtime, `container` keeps what runs,
//! `log/` is the second thread, the only one that touches files which can block.

mod attach;
mod connection;
mod container;
mod event_loop;
mod kill_tree;
mod log;
mod pause;
mod reaper;
mod requests;
mod runtime_call;
mod sessions;
mod setup;
mod spawn;
mod waiter;

/// Writes a line of diagnostics to standard error. Unlike `eprintln!` it never panics: the daemon's file
/// may lie on a full disk, and a pod must not die of that.
pub(crate) fn note(what: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let _full_disk = writeln!(std::io::stderr(), "gantry-monitor: {what}");
}

/// Exit status of `gantry-monitor self-test`, by which the daemon knows that a container ran.
const SELF_TEST: i32 = 42;

fn main() {
    gantry_sys::heap::keep_small();
    match std::env::args().nth(1).as_deref() {
        None => {
            if let Err(error) = setup::run() {
                note(format_args!("{error}"));
                std::process::exit(1);
            }
        }
        Some("--version") => println!("gantry-monitor {}", env!("CARGO_PKG_VERSION")),
        Some("self-test") => {
            // Run as a container's init: where its output goes is the test's business, not this program's.
            let _closed = std::io::Write::write_all(&mut std::io::stdout(), b"ok\n");
            std::process::exit(SELF_TEST);
        }
        // The first process of a sandbox whose runtime has a kernel of its own.
        Some("pause") => pause::hold(),
        Some(other) => {
            note(format_args!("unknown argument {other:?}; it is started by gantry, not by hand"));
            std::process::exit(2);
        }
    }
}
