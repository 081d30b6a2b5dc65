#![forbid(unsafe_code)]
//! What needs cgroup v2, AppArmor or crun: `make test-vm` runs these tests in a virtual machine.
//!
//! The machine is booted twice: with a script as process 1, and with systemd, which then manages control groups
//! (`GANTRY_VM` is `plain` or `systemd`). Tests run once for each handler, and all share one daemon: software
//! emulation is slow.

mod bed;

use bed::Bed;
use libtest_mimic::{Arguments, Failed, Trial};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

mod apparmor;
mod confinement;
mod devices;
mod lifecycle;
mod limits;
mod processes;
mod service;
mod systemd;
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

/// What runs without systemd, with every handler.
const PLAIN: &[(&str, Test)] = &tests![
    apparmor::a_profile_of_the_node_is_enforced,
    apparmor::an_unknown_profile_is_refused,
    apparmor::the_default_profile_is_loaded_and_enforced,
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

/// What runs with systemd and its cgroup driver, with every handler.
const SYSTEMD: &[(&str, Test)] = &tests![
    lifecycle::a_pod_and_its_container,
    limits::are_set,
    limits::a_container_over_its_memory_is_killed_and_the_reason_is_kept,
    processes::a_time_limit_ends_everything_that_was_started,
    processes::a_stop_ends_what_left_the_session,
    systemd::a_pod_is_a_scope_in_the_slice_that_is_named,
    usage::limits_are_changed_together_or_not_at_all,
    usage::use_is_told,
];

/// What runs with systemd, and has nothing to do with handlers: with the first one only.
const SYSTEMD_ONCE: &[(&str, Test)] = &tests![
    service::systemd_starts_the_unit_of_users,
    systemd::limits_of_a_pod_are_properties,
    systemd::what_is_no_slice_is_refused,
    systemd::the_bus_may_be_restarted,
    systemd::a_daemon_that_is_killed_at_any_step_leaves_nothing,
];

/// All tests of a boot, each with its handler.
fn tests(systemd: bool) -> Vec<(&'static str, Test, &'static str)> {
    let each = if systemd { SYSTEMD } else { PLAIN };
    let once = if systemd { SYSTEMD_ONCE } else { &[] };
    let each = each.iter().flat_map(|(name, test)| HANDLERS.map(|handler| (*name, *test, handler)));
    each.chain(once.iter().map(|(name, test)| (*name, *test, HANDLERS[0]))).collect()
}

fn main() -> ExitCode {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let boot = std::env::var("GANTRY_VM").unwrap_or_default();
    let tests = tests(boot == "systemd");
    if arguments.list {
        let names = tests.iter().map(|(name, _, handler)| title(name, handler));
        return libtest_mimic::run(&arguments, names.map(|n| Trial::test(n, || Ok(()))).collect())
            .exit_code();
    }
    if boot.is_empty() {
        eprintln!("these tests run in a virtual machine: make test-vm");
        return ExitCode::FAILURE;
    }
    let bed = Arc::new(Bed::make(boot == "systemd"));
    let trial = |name: &str, test: Test, handler: &'static str| {
        let bed = Arc::clone(&bed);
        Trial::test(title(name, handler), move || run(&bed, test, handler))
    };
    let trials = tests.iter().map(|(name, test, handler)| trial(name, *test, handler));
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
