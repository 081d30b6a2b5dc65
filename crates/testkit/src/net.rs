//! Network namespaces of tests.

/// Runs `test` on a thread of its own in a new network namespace with only a loopback link; what it
/// starts is in there, too, and links and firewall rules vanish with the last of it.
pub fn in_private_network<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("unshare(CLONE_NEWNET): these tests run as root");
            gantry_sys::fork::loopback_up().expect("bring the loopback link up");
            test()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
