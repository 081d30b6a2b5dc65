//! The C library's heap, for a program of which a host runs hundreds: what is freed goes back.

use nix::libc;

/// Makes the heap small rather than fast: one arena for all threads, free memory at its end and large
/// blocks returned to the kernel at once. Call it first thing in `main`.
///
/// Does nothing where the C library has no such settings (mallopt(3) is glibc's).
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    {
        let settings = [
            (libc::M_ARENA_MAX, 1),
            (libc::M_TRIM_THRESHOLD, 8 << 10),
            (libc::M_TOP_PAD, 0),
            (libc::M_MMAP_THRESHOLD, 32 << 10),
        ];
        for (name, value) in settings {
            // SAFETY: mallopt takes two integers and changes settings of the allocator only; an unknown
            // one is refused by its result, which leaves the default.
            unsafe { libc::mallopt(name, value) };
        }
    }
}
