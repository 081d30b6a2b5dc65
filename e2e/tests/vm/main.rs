#![forbid(unsafe_code)]
//! What needs cgroup v2, AppArmor or crun: `make test-vm` runs these tests in a virtual machine.
//!
//! Every test runs once for each handler, and all share one daemon: software emulation is slow. The systemd
//! cgroup driver is not among what is tested: there is no systemd in the machine.

mod bed;

use bed::Bed;
use libtest_mimic::{Arguments, Failed, Trial};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

mod apparmor;
mod checkpoint;
mod confinement;
mod devices;
mod lifecycle;
mod limits;
mod processes;
mod usage;

/// A test: the bed and the handler to run with.
type Test = fn(&Bed, &str);

/// The handlers that every test runs with.
const HANDLERS: [&str; 2] = ["embedded", "crun"];

/// The named functions with their names.
macro_rules! tests {
    ($($module:ident::$name:ident),* $(,)?) => {
        [$((concat!(stringify!($module), "::", stringify!($name)), $module::$name as Test)),*]
    };
}

const TESTS: &[(&str, Test)] = &tests![
    apparmor::a_profile_of_the_node_is_enforced,
    apparmor::an_unknown_profile_is_refused,
    apparmor::the_default_profile_is_loaded_and_enforced,
    checkpoint::a_running_container_is_written_to_an_archive,
    confinement::the_default_profile_denies_what_no_container_needs,
    devices::asked_for_and_not,
    lifecycle::a_pod_and_its_container,
    lifecycle::the_built_in_network,
    limits::are_set,
    limits::by_the_names_of_v2,
    limits::cgroups_are_where_the_kubelet_wants_them,
    limits::a_container_over_its_memory_is_killed_and_the_reason_is_kept,
    processes::a_time_limit_ends_everything_that_was_started,
    processes::a_stop_ends_what_left_the_session,
    processes::a_fork_bomb_is_held_and_ended,
    usage::limits_are_changed_together_or_not_at_all,
    usage::use_is_told,
];

fn main() -> ExitCode {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    if arguments.list {
        let names = TESTS.iter().flat_map(|(name, _)| HANDLERS.map(|handler| title(name, handler)));
        return libtest_mimic::run(&arguments, names.map(|n| Trial::test(n, || Ok(()))).collect())
            .exit_code();
    }
    if std::env::var_os("GANTRY_VM").is_none() {
        eprintln!("these tests run in a virtual machine: make test-vm");
        return ExitCode::FAILURE;
    }
    let bed = Arc::new(Bed::make());
    let trial = |name: &str, test: Test, handler: &'static str| {
        let bed = Arc::clone(&bed);
        Trial::test(title(name, handler), move || run(&bed, test, handler))
    };
    let trials = TESTS.iter().flat_map(|(name, test)| HANDLERS.map(|handler| trial(name, *test, handler)));
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    // Ends the daemon, and compares the machine with what it was.
    Arc::into_inner(bed).expect("every test has ended").end();
    conclusion.exit_code()
}

fn title(name: &str, handler: &str) -> String {
    format!("{name}::with_{handler}")
}

/// Runs one test; what it leaves when it fails is taken away for the next.
fn run(bed: &Bed, test: Test, handler: &str) -> Result<(), Failed> {
    let start = bed.daemon.log().len();
    let outcome = catch_unwind(AssertUnwindSafe(|| test(bed, handler)));
    let cleaned = catch_unwind(AssertUnwindSafe(|| bed.clean()));
    match (outcome, cleaned) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(_), _) => {
            eprintln!("--- the daemon's log\n{}---", bed.log_from(start));
            Err("it panicked, see above".into())
        }
        (Ok(()), Err(_)) => Err("its pods could not be removed".into()),
    }
}
