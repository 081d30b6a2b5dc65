//! Names of slices, and where they lie in the tree of control groups (systemd.slice(5)).

use crate::{Error, Result};

/// Longest name of a unit (systemd.unit(5)).
const MAX_NAME: usize = 255;

const SUFFIX: &str = ".slice";

/// A slice by its name; `-` in the name stands for a step down the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    name: String,
}

impl Slice {
    /// The slice that a cgroup parent names: `a-b.slice`, or a path that ends with it
    /// (`/a.slice/a-b.slice`), as the kubelet of some versions sends it.
    ///
    /// # Errors
    ///
    /// [`Error::Slice`] for what is no slice, or a path on which another slice lies.
    pub fn parse(parent: &str) -> Result<Self> {
        let bad = || Error::Slice(parent.to_owned());
        let path = parent.trim_matches('/');
        let name = path.rsplit('/').next().unwrap_or_default();
        let stem = name.strip_suffix(SUFFIX).ok_or_else(bad)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '\\' | '@' | '-');
        let root = stem == "-";
        let steps = stem.split('-').all(|step| !step.is_empty());
        if name.len() > MAX_NAME || !(root || steps) || !stem.chars().all(plain) {
            return Err(bad());
        }
        let slice = Self { name: name.to_owned() };
        if path.contains('/') && format!("/{path}") != slice.path() {
            return Err(bad());
        }
        Ok(slice)
    }

    /// Name of the unit.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path below the root of the tree; empty for the root slice.
    pub fn path(&self) -> String {
        let stem = self.name.strip_suffix(SUFFIX).unwrap_or_default();
        if stem == "-" {
            return String::new();
        }
        let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
        ends.map(|end| format!("/{}{SUFFIX}", &stem[..end])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dash_is_a_step_down() {
        for (name, path) in [
            ("a.slice", "/a.slice"),
            ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
            (
                "kubepods-burstable-pod1f_2.slice",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1f_2.slice",
            ),
            ("-.slice", ""),
            ("/a.slice/a-b.slice", "/a.slice/a-b.slice"),
            ("/a.slice/", "/a.slice"),
        ] {
            assert_eq!(Slice::parse(name).unwrap().path(), path, "{name}");
        }
        assert_eq!(Slice::parse("/a.slice/a-b.slice").unwrap().name(), "a-b.slice");
    }

    #[test]
    fn what_is_no_slice_is_refused() {
        let long = format!("{}.slice", "x".repeat(250));
        for bad in [
            "",
            "/",
            ".slice",
            "a",
            "a.scope",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            "--.slice",
            "/b.slice/a-c.slice",
            "../a.slice",
            "/kubepods/a.slice",
            "a b.slice",
            "a\n.slice",
            "ä.slice",
            &long,
        ] {
            let error = Slice::parse(bad).unwrap_err().to_string();
            assert!(error.contains("is no slice"), "{bad:?}: {error}");
        }
    }
}
