#![forbid(unsafe_code)]
//! `gantry-monitor`: one per pod. Holds the pause child, starts containers through the OCI runtime,
//! is their parent, writes their output to the log and their end to disk. Survives the daemon.
//!
//! docs/monitor.md tells the whole story. The rooms: `pause` is the child that holds the namespaces,
//! `event_loop` waits and dispatches, `runtime_call` runs the OCI runtime, `container` keeps what runs,
//! `log/` is the second thread, the only one that touches files which can block.

mod connection;
mod container;
mod event_loop;
mod kill_tree;
mod log;
mod pause;
mod reaper;
mod requests;
mod runtime_call;
mod setup;

/// Exit status of `gantry-monitor self-test`, by which the daemon knows that a container ran.
const SELF_TEST: i32 = 42;

fn main() {
    match std::env::args().nth(1).as_deref() {
        None => {
            if let Err(error) = setup::run() {
                eprintln!("gantry-monitor: {error}");
                std::process::exit(1);
            }
        }
        Some("--version") => println!("gantry-monitor {}", env!("CARGO_PKG_VERSION")),
        Some("self-test") => {
            println!("ok");
            std::process::exit(SELF_TEST);
        }
        Some(other) => {
            eprintln!("gantry-monitor: unknown argument {other:?}; it is started by gantry, not by hand");
            std::process::exit(2);
        }
    }
}
