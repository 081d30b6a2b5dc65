//! Overlay mounts of a hundred layers, in a mount namespace of the test's own.

use gantry_sys::overlay::{Method, Overlay, is_mounted, mount, mount_by};
use gantry_sys::{mount as mounts, tree};
use rustix::mount::MountPropagationFlags;
use std::path::{Path, PathBuf};

const LAYERS: usize = 100;

/// Runs `test` on a thread whose mounts nobody else sees and which vanish with it.
fn in_private_mounts(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mounts::set_propagation(Path::new("/"), private).unwrap();
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Layers 0 (lowest) to 99; each has a file of its own and overwrites `common`.
fn scene(name: &str) -> (PathBuf, Overlay) {
    let root = std::env::temp_dir().join(format!("gantry-overlay-{name}-{}", std::process::id()));
    tree::remove(&root).unwrap();
    let layers = root.join("layers");
    for i in 0..LAYERS {
        let fs = layers.join(format!("{i}/fs"));
        std::fs::create_dir_all(&fs).unwrap();
        std::fs::write(fs.join("common"), i.to_string()).unwrap();
        std::fs::write(fs.join(format!("file{i}")), b"x").unwrap();
    }
    // Characters that mount options must escape.
    let own = root.join("container,with:odd\\name");
    for dir in ["upper", "work", "target"] {
        std::fs::create_dir_all(own.join(dir)).unwrap();
    }
    let lower = (0..LAYERS).rev().map(|i| format!("{i}/fs")).collect();
    let overlay = Overlay { layers, lower, upper: own.join("upper"), work: own.join("work"), context: None };
    (own.join("target"), overlay)
}

fn check(target: &Path, overlay: &Overlay) {
    assert!(is_mounted(target).unwrap());
    assert_eq!(std::fs::read_to_string(target.join("common")).unwrap(), (LAYERS - 1).to_string());
    for i in 0..LAYERS {
        assert!(target.join(format!("file{i}")).exists());
    }
    std::fs::write(target.join("written"), b"x").unwrap();
    assert!(overlay.upper.join("written").exists());
    mounts::detach(target).unwrap();
    assert!(!is_mounted(target).unwrap());
}

#[test]
fn a_hundred_layers_by_either_method() {
    in_private_mounts(|| {
        let before = std::env::current_dir().unwrap();
        for (name, method) in [("new", Method::Fsconfig), ("classic", Method::Relative)] {
            let (target, overlay) = scene(name);
            mount_by(method, &overlay, &target).unwrap();
            check(&target, &overlay);
            mount(&overlay, &target).unwrap();
            check(&target, &overlay);
            tree::remove(overlay.layers.parent().unwrap()).unwrap();
        }
        assert_eq!(std::env::current_dir().unwrap(), before, "the caller's directory stays");
    });
}

#[test]
fn paths_longer_than_a_parameter_are_mounted_too() {
    in_private_mounts(|| {
        let (_, mut overlay) = scene("long");
        let deep = overlay.layers.parent().unwrap().join("d".repeat(200)).join("e".repeat(200));
        std::fs::create_dir_all(deep.parent().unwrap()).unwrap();
        let root = deep.parent().unwrap();
        for (from, to) in [("layers", "layers"), ("container,with:odd\\name", "c")] {
            std::fs::rename(overlay.layers.parent().unwrap().join(from), root.join(to)).unwrap();
        }
        let top = overlay.layers.parent().unwrap().to_owned();
        overlay.layers = root.join("layers");
        (overlay.upper, overlay.work) = (root.join("c/upper"), root.join("c/work"));
        mount_by(Method::Fsconfig, &overlay, &root.join("c/target")).unwrap();
        check(&root.join("c/target"), &overlay);
        tree::remove(&top).unwrap();
    });
}

#[test]
fn what_is_no_overlay_is_not_mounted() {
    assert!(!is_mounted(Path::new("/proc")).unwrap());
    assert!(!is_mounted(Path::new("/nonexistent/gantry")).unwrap());
    assert!(!is_mounted(&std::env::temp_dir()).unwrap());
}
