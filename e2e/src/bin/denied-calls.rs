#![forbid(unsafe_code)]
//! Runs in a container: tries system calls that a default profile refuses and prints `name answer` for each;
//! the answer is the number of the error, 0 for success. Calls that it is given names of, else all.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut out = std::io::stdout().lock();
    for attempt in gantry_sys::attempt::all() {
        if wanted.is_empty() || wanted.iter().any(|w| w == attempt.name) {
            let answer = attempt.make().map_or(0, |e| e.raw_os_error());
            writeln!(out, "{} {answer}", attempt.name)?;
        }
    }
    Ok(())
}
