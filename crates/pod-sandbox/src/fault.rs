//! Points at which a test may have the daemon killed; only in builds with debug assertions.
//!
//! `GANTRY_FAULT=push:3:after` kills the daemon (SIGKILL, as the OOM killer would) right after the third
//! promise of the undo journals is on disk, `undo:2:before` right before the second one is forgotten.

use rustix::process::{Signal, getpid, kill_process};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Something that is counted.
#[derive(Debug)]
pub(crate) struct Counter {
    name: &'static str,
    count: AtomicUsize,
}

/// Promises of undo journals.
pub(crate) static PUSH: Counter = Counter { name: "push", count: AtomicUsize::new(0) };

/// Promises that were kept.
pub(crate) static UNDO: Counter = Counter { name: "undo", count: AtomicUsize::new(0) };

/// One thing that is about to be done.
#[derive(Debug)]
pub(crate) struct Step {
    name: &'static str,
    number: usize,
}

impl Counter {
    /// The next one is about to be done.
    pub(crate) fn before(&self) -> Step {
        let step = Step { name: self.name, number: self.count.fetch_add(1, Ordering::SeqCst) + 1 };
        step.reached("before");
        step
    }
}

impl Step {
    /// It is done.
    pub(crate) fn after(self) {
        self.reached("after");
    }

    fn reached(&self, when: &str) {
        static ASKED: OnceLock<Option<String>> = OnceLock::new();
        let asked = ASKED.get_or_init(|| std::env::var("GANTRY_FAULT").ok());
        if asked.as_ref().is_some_and(|a| *a == format!("{}:{}:{when}", self.name, self.number)) {
            // It cannot fail, and if it did the test would see a daemon that lives.
            let _dead = kill_process(getpid(), Signal::KILL);
        }
    }
}
