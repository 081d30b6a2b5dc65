//! Rules for source files.

use std::path::Path;

/// Longest file in lines; about 600 is the aim.
const MAX_LINES: usize = 700;

/// What is wrong with the file at `path` (relative to the workspace) that holds `text`.
pub fn faults(path: &Path, text: &str) -> Vec<String> {
    let shown = path.display();
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        found.push(format!("{shown} has {lines} lines; split it by subject"));
    }
    if path.starts_with("crates/sys") {
        return found;
    }
    for word in [concat!("unsafe", " {"), concat!("unsafe", " fn"), concat!("unsafe", " impl")] {
        if text.contains(word) {
            found.push(format!("{shown} has `{word}`; unsafe code belongs into crates/sys"));
        }
    }
    let is_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
    if is_root && !text.contains("#![forbid(unsafe_code)]") {
        found.push(format!("{shown} does not forbid unsafe code"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found() {
        let lib = Path::new("crates/netns/src/lib.rs");
        assert_eq!(faults(lib, "#![forbid(unsafe_code)]\n"), [""; 0]);
        assert_eq!(faults(lib, "//! x\n").len(), 1);
        let file = Path::new("crates/netns/src/a.rs");
        assert_eq!(faults(file, concat!("let x = unsafe", " { y };")).len(), 1);
        assert_eq!(faults(Path::new("crates/sys/src/a.rs"), concat!("unsafe", " { y }")), [""; 0]);
        assert_eq!(faults(file, &"\n".repeat(701)).len(), 1);
    }

    #[test]
    fn the_workspace_keeps_the_rules() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let mut open = vec![root.join("crates"), root.join("e2e")];
        let (mut found, mut seen) = (Vec::new(), 0);
        while let Some(dir) = open.pop() {
            for path in std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()) {
                if path.is_dir() {
                    open.push(path);
                } else if path.extension().is_some_and(|e| e == "rs") {
                    seen += 1;
                    let text = std::fs::read_to_string(&path).unwrap();
                    found.extend(faults(path.strip_prefix(root).unwrap(), &text));
                }
            }
        }
        assert!(seen > 50, "{seen} files");
        assert_eq!(found, [""; 0]);
    }
}
