use super::*;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

/// A layer under construction, with a bystander outside that hostile entries aim at.
struct Scene {
    dir: PathBuf,
}

impl Scene {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("gantry-place-{name}-{}", std::process::id()));
        tree::remove(&dir).unwrap();
        std::fs::create_dir_all(dir.join("upper")).unwrap();
        std::fs::write(dir.join("outside"), b"untouched").unwrap();
        Self { dir }
    }

    fn upper(&self) -> PathBuf {
        self.dir.join("upper")
    }

    fn lower(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn placer(&self) -> Placer {
        Placer::new(&self.upper()).unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        assert_eq!(std::fs::read(self.dir.join("outside")).unwrap(), b"untouched");
        tree::remove(&self.dir).unwrap();
    }
}

fn attributes(mode: u32) -> Attributes {
    Attributes { mode, mtime: Time { seconds: 1_000_000_000, nanos: 123_456_789 }, ..Attributes::default() }
}

fn dir(placer: &mut Placer, path: &str) -> Result<(), PlaceError> {
    placer.place(path.as_bytes(), Kind::Directory, &attributes(0o755))
}

fn file(placer: &mut Placer, path: &str, content: &str) -> Result<(), PlaceError> {
    placer.place(path.as_bytes(), Kind::File(&mut content.as_bytes()), &attributes(0o644))
}

fn symlink(placer: &mut Placer, path: &str, target: &str) -> Result<(), PlaceError> {
    placer.place(path.as_bytes(), Kind::Symlink(target.as_bytes()), &attributes(0o777))
}

fn hard_link(placer: &mut Placer, path: &str, target: &str) -> Result<(), PlaceError> {
    placer.place(path.as_bytes(), Kind::HardLink(target.as_bytes()), &attributes(0o644))
}

fn is_refused(result: Result<(), PlaceError>) -> bool {
    matches!(result, Err(PlaceError::Refused { .. }))
}

fn whiteout_at(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
}

fn opaque_at(path: &Path) -> bool {
    let mut value = [0; 4];
    matches!(rustix::fs::lgetxattr(path, OPAQUE_XATTR, &mut value), Ok(1)) && value[0] == b'y'
}

#[test]
fn attributes_are_set_as_given() {
    let scene = Scene::new("attributes");
    let mut p = scene.placer();
    let mut a = attributes(0o6751);
    (a.uid, a.gid) = (1000, 2000);
    a.xattrs = vec![
        (b"user.note".to_vec(), b"a\nb\0c".to_vec()),
        (b"trusted.overlay.redirect".to_vec(), b"/etc".to_vec()),
        (b"security.capability".to_vec(), {
            // VFS_CAP_REVISION_2 with CAP_NET_RAW permitted and effective (linux/capability.h).
            let mut v = vec![1, 0, 0, 2, 0, 0x20, 0, 0];
            v.resize(20, 0);
            v
        }),
    ];
    dir(&mut p, "bin").unwrap();
    p.place(b"bin/tool", Kind::File(&mut &b"content"[..]), &a).unwrap();
    p.place(b"bin/pipe", Kind::Fifo, &a).unwrap();
    p.place(b"bin/null", Kind::Char(1, 3), &a).unwrap();
    p.place(b"bin/disk", Kind::Block(7, 300), &a).unwrap();
    p.place(b"bin/link", Kind::Symlink(b"tool"), &a).unwrap();
    p.place(b".", Kind::Directory, &attributes(0o1777)).unwrap();
    p.finish().unwrap();
    let of = |name: &str| std::fs::symlink_metadata(scene.upper().join(name)).unwrap();
    for name in ["bin/tool", "bin/pipe", "bin/null", "bin/disk", "bin/link"] {
        let m = of(name);
        assert_eq!((m.uid(), m.gid(), m.mtime(), m.mtime_nsec()), (1000, 2000, 1_000_000_000, 123_456_789));
        if name != "bin/link" {
            assert_eq!(m.permissions().mode() & 0o7777, 0o6751, "{name}");
        }
    }
    assert_eq!(of("bin/null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(of("bin/disk").rdev(), rustix::fs::makedev(7, 300));
    // Entries were placed in it afterwards; the time is still the given one.
    assert_eq!((of("bin").mtime(), of("bin").mtime_nsec()), (1_000_000_000, 123_456_789));
    assert_eq!((of("").mode() & 0o7777, of("").mtime()), (0o1777, 1_000_000_000));
    assert!(p.root_placed());
    let tool = scene.upper().join("bin/tool");
    let xattr = |name: &str| {
        let mut value = vec![0; 64];
        rustix::fs::lgetxattr(&tool, name, value.as_mut_slice()).map(|n| value[..n].to_vec())
    };
    assert_eq!(xattr("user.note").unwrap(), b"a\nb\0c");
    assert_eq!(xattr("security.capability").unwrap().len(), 20);
    assert_eq!(xattr("trusted.overlay.redirect").unwrap_err(), Errno::NODATA);
    assert_eq!(p.inodes(), 6);
}

#[test]
fn hostile_paths_do_not_leave_the_root() {
    let scene = Scene::new("hostile");
    let outside = scene.dir.join("outside");
    let outside = outside.to_str().unwrap();
    let mut p = scene.placer();
    for path in ["../outside", "a/../../outside", "..", "a/..", "x/\0y"] {
        assert!(is_refused(file(&mut p, path, "evil")), "{path}");
    }
    assert!(is_refused(file(&mut p, &"n".repeat(256), "long name")));
    assert!(is_refused(file(&mut p, &"n/".repeat(3000), "long path")));
    assert!(is_refused(file(&mut p, "/", "the root as a file")));
    p.set_lower(Vec::new());
    assert!(is_refused(hard_link(&mut p, "h", "../outside")));
    assert!(is_refused(hard_link(&mut p, "h", outside)), "an absolute target is one of the image");
    assert!(is_refused(hard_link(&mut p, "h", "/")));

    // An absolute name is relative to the image.
    file(&mut p, outside, "inside").unwrap();
    assert_eq!(std::fs::read(scene.upper().join(&outside[1..])).unwrap(), b"inside");

    // Links out, then writes through them: they end inside, as they would in a container.
    symlink(&mut p, "up", "../../..").unwrap();
    symlink(&mut p, "abs", scene.dir.to_str().unwrap()).unwrap();
    file(&mut p, "up/outside", "evil").unwrap();
    assert_eq!(std::fs::read(scene.upper().join("outside")).unwrap(), b"evil");
    file(&mut p, "abs/outside", "evil").unwrap();
    symlink(&mut p, "loop", "loop").unwrap();
    assert!(is_refused(file(&mut p, "loop/x", "evil")));

    // A file over a link replaces the link.
    symlink(&mut p, "direct", outside).unwrap();
    file(&mut p, "direct", "mine").unwrap();
    assert!(std::fs::symlink_metadata(scene.upper().join("direct")).unwrap().is_file());

    // A hard link to a link links the link itself.
    symlink(&mut p, "target", outside).unwrap();
    hard_link(&mut p, "second", "target").unwrap();
    file(&mut p, "second", "mine").unwrap();
    assert!(std::fs::symlink_metadata(scene.upper().join("target")).unwrap().is_symlink());
    for bad in [".wh.", ".wh...", ".wh..", "d/.wh.."] {
        assert!(is_refused(file(&mut p, bad, "")), "{bad}");
    }
    let mut owner = attributes(0o644);
    owner.uid = u32::MAX;
    assert!(is_refused(p.place(b"nobody", Kind::Symlink(b"x"), &owner)));
}

#[test]
fn later_entries_replace_earlier_ones() {
    let scene = Scene::new("replace");
    let mut p = scene.placer();
    file(&mut p, "twice", "first").unwrap();
    file(&mut p, "twice", "second").unwrap();
    dir(&mut p, "dir").unwrap();
    file(&mut p, "dir/inside", "x").unwrap();
    dir(&mut p, "dir").unwrap();
    assert!(scene.upper().join("dir/inside").exists(), "a directory over a directory keeps its entries");
    file(&mut p, "dir", "now a file").unwrap();
    file(&mut p, "file", "x").unwrap();
    dir(&mut p, "file").unwrap();
    file(&mut p, "file/inside", "y").unwrap();
    hard_link(&mut p, "twice", "twice").unwrap();
    p.finish().unwrap();
    assert_eq!(std::fs::read(scene.upper().join("twice")).unwrap(), b"second");
    assert_eq!(std::fs::read(scene.upper().join("dir")).unwrap(), b"now a file");
    assert_eq!(std::fs::read(scene.upper().join("file/inside")).unwrap(), b"y");
    // The file hid what lower layers had there; so must the directory that replaced it.
    assert!(opaque_at(&scene.upper().join("file")));
    assert!(!p.used_lower());
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_of_their_own_layer() {
    let scene = Scene::new("whiteouts");
    let mut p = scene.placer();
    for (first, second) in [("a/.wh.x", "a/x"), ("b/x", "b/.wh.x")] {
        dir(&mut p, &first[..1]).unwrap();
        file(&mut p, first, "kept").unwrap();
        file(&mut p, second, "kept").unwrap();
    }
    dir(&mut p, "c").unwrap();
    file(&mut p, "c/.wh.gone", "").unwrap();
    file(&mut p, "c/.wh.again", "").unwrap();
    dir(&mut p, "c/again").unwrap();
    dir(&mut p, "c/before").unwrap();
    file(&mut p, "c/.wh.before", "").unwrap();
    file(&mut p, "c/.wh.parent", "").unwrap();
    file(&mut p, "c/parent/child", "x").unwrap();
    dir(&mut p, "o").unwrap();
    file(&mut p, "o/.wh..wh..opq", "").unwrap();
    file(&mut p, ".wh..wh.plnk", "").unwrap();
    p.place(b"device", Kind::Char(0, 0), &attributes(0)).unwrap();
    p.finish().unwrap();
    let at = |name: &str| scene.upper().join(name);
    assert!(at("a/x").is_file() && at("b/x").is_file());
    assert!(whiteout_at(&at("c/gone")) && whiteout_at(&at("device")));
    assert!(opaque_at(&at("c/again")) && opaque_at(&at("c/before")) && opaque_at(&at("o")));
    assert!(opaque_at(&at("c/parent")) && at("c/parent/child").is_file());
    assert!(!at(".wh..wh.plnk").exists());
    assert!(!p.root_opaque() && !p.used_lower());
    file(&mut p, ".wh..wh..opq", "").unwrap();
    assert!(p.root_opaque());
}

#[test]
fn what_a_layer_leaves_out_comes_from_below() {
    let scene = Scene::new("below");
    let bottom = scene.lower("bottom");
    let middle = scene.lower("middle");
    std::fs::create_dir_all(bottom.join("usr/lib/old")).unwrap();
    std::fs::set_permissions(bottom.join("usr"), PermissionsExt::from_mode(0o2750)).unwrap();
    std::os::unix::fs::chown(bottom.join("usr"), Some(7), Some(8)).unwrap();
    std::os::unix::fs::symlink("usr/lib", bottom.join("lib")).unwrap();
    std::fs::write(bottom.join("usr/lib/binary"), b"binary").unwrap();
    std::os::unix::fs::symlink("binary", bottom.join("usr/lib/alias")).unwrap();
    std::fs::write(bottom.join("plain"), b"plain").unwrap();
    std::fs::create_dir_all(bottom.join("hidden/deep")).unwrap();
    std::fs::write(bottom.join("hidden/file"), b"hidden").unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, middle.join("hidden"), FileType::CharacterDevice, Mode::empty(), 0)
        .unwrap();
    std::fs::create_dir(middle.join("usr")).unwrap();
    std::fs::set_permissions(middle.join("usr"), PermissionsExt::from_mode(0o711)).unwrap();
    std::os::unix::fs::chown(middle.join("usr"), Some(9), Some(9)).unwrap();

    let mut p = scene.placer();
    assert!(matches!(file(&mut p, "lib/new", "new"), Err(PlaceError::NeedsLower)));
    assert!(matches!(hard_link(&mut p, "h", "plain"), Err(PlaceError::NeedsLower)));
    p.set_lower([middle, bottom].iter().map(|d| Arc::new(File::open(d).unwrap().into())).collect());
    file(&mut p, "lib/new", "new").unwrap();
    hard_link(&mut p, "usr/lib/second", "lib/binary").unwrap();
    hard_link(&mut p, "usr/lib/second-alias", "usr/lib/alias").unwrap();
    hard_link(&mut p, "h", "plain").unwrap();
    file(&mut p, "nowhere/at/all", "x").unwrap();
    assert!(is_refused(file(&mut p, "plain-file-below/x", "").and(file(&mut p, "plain/x", ""))));
    assert!(is_refused(hard_link(&mut p, "h2", "hidden/file")), "a whiteout between hides it");
    assert!(is_refused(hard_link(&mut p, "h2", "usr/lib/old")), "a directory");
    assert!(is_refused(hard_link(&mut p, "h2", "absent")));
    p.finish().unwrap();

    let at = |name: &str| std::fs::symlink_metadata(scene.upper().join(name)).unwrap();
    assert_eq!((at("usr").mode() & 0o7777, at("usr").uid(), at("usr").gid()), (0o711, 9, 9));
    assert!(at("usr/lib/new").is_file());
    assert!(scene.upper().join("lib").symlink_metadata().is_err(), "the link stays where it is, below");
    assert_eq!(at("usr/lib/binary").ino(), at("usr/lib/second").ino());
    assert_eq!(at("usr/lib/alias").ino(), at("usr/lib/second-alias").ino());
    assert!(at("usr/lib/alias").is_symlink());
    assert_eq!(std::fs::read(scene.upper().join("usr/lib/second")).unwrap(), b"binary");
    assert_eq!(at("h").ino(), at("plain").ino());
    assert_eq!(at("nowhere/at").mode() & 0o7777, 0o755);
    assert!(at("hidden").is_dir(), "its parent was looked up as a container would see it");
}

#[test]
fn content_errors_are_told_from_disk_errors() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("cut off"))
        }
    }
    let scene = Scene::new("content");
    let mut p = scene.placer();
    let result = p.place(b"f", Kind::File(&mut Broken), &attributes(0o644));
    assert!(matches!(result, Err(PlaceError::Content(e)) if e.to_string() == "cut off"));
}
