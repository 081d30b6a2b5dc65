#![forbid(unsafe_code)]
//! Prints what the host looks like, one line for each thing that could be left behind; the leak gate
//! of `.ci/run` compares two of them.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    write!(std::io::stdout(), "{}", gantry_e2e::LeakSnapshot::take())
}
