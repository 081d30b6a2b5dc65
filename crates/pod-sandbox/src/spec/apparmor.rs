//! Which AppArmor profile a container's processes get.

use super::{SpecError, SpecInput};
use gantry_cri_api::v1;
use gantry_cri_api::v1::security_profile::ProfileType;

/// Gantry's own default profile, as data; `@NAME@` stands for its name.
const DEFAULT: &str = include_str!("apparmor-default.profile");

/// Name of [`default_text`] in the kernel.
pub(crate) const DEFAULT_NAME: &str = "gantry-default";

/// Start of the names of profiles on the node, where a request spells them as Kubernetes once did.
const LOCALHOST: &str = "localhost/";

/// What a request says about AppArmor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Nothing: the default, where there is one.
    Unsaid,
    /// The default, by name.
    Default,
    /// None.
    Unconfined,
    /// One of the node's.
    Localhost(String),
}

/// The default profile, as `apparmor_parser` reads it.
pub(crate) fn default_text() -> String {
    DEFAULT.replace("@NAME@", DEFAULT_NAME)
}

/// What `security` asks for, in the field of today or in the deprecated one.
///
/// # Errors
///
/// A type or a spelling that there is not, and a profile of the node without a name.
#[allow(deprecated)]
pub(crate) fn wanted(security: &v1::LinuxContainerSecurityContext) -> Result<Wanted, SpecError> {
    let bad = |reason: String| SpecError::new("apparmor", reason);
    let named = |name: &str| match name.strip_prefix(LOCALHOST).unwrap_or(name) {
        "" => Err(bad("the profile of the node that is asked for has no name".into())),
        name => Ok(Wanted::Localhost(name.to_owned())),
    };
    if let Some(profile) = &security.apparmor {
        return match ProfileType::try_from(profile.profile_type) {
            Ok(ProfileType::RuntimeDefault) => Ok(Wanted::Default),
            Ok(ProfileType::Unconfined) => Ok(Wanted::Unconfined),
            Ok(ProfileType::Localhost) => named(&profile.localhost_ref),
            Err(_) => Err(bad("the profile type is unknown".into())),
        };
    }
    match security.apparmor_profile.as_str() {
        "" => Ok(Wanted::Unsaid),
        "runtime/default" => Ok(Wanted::Default),
        "unconfined" => Ok(Wanted::Unconfined),
        text if text.starts_with(LOCALHOST) => named(text),
        other => Err(SpecError::new("apparmor_profile", format!("{other:.128?} is not a profile"))),
    }
}

/// `process.apparmorProfile`; `None` for a process that is not confined.
///
/// A privileged container gets a profile only where it names one of the node's.
///
/// # Errors
///
/// A profile that is asked for where the kernel has no AppArmor, or where the default is not loaded.
pub(super) fn profile(
    security: &v1::LinuxContainerSecurityContext,
    input: &SpecInput<'_>,
) -> Result<Option<String>, SpecError> {
    let absent = |what: String| {
        let reason = format!("{what} is asked for, but this kernel has no AppArmor");
        Err(SpecError::new("apparmor", reason))
    };
    match wanted(security)? {
        Wanted::Unconfined => Ok(None),
        Wanted::Unsaid | Wanted::Default if security.privileged => Ok(None),
        Wanted::Unsaid => Ok(input.apparmor_default.map(str::to_owned)),
        Wanted::Localhost(name) if input.host.apparmor => Ok(Some(name)),
        Wanted::Localhost(name) => absent(format!("profile {name:.64?}")),
        Wanted::Default if !input.host.apparmor => absent("the default profile".into()),
        Wanted::Default => match input.apparmor_default {
            Some(name) => Ok(Some(name.to_owned())),
            None => Err(SpecError::new("apparmor", "the default profile is asked for, but it is not loaded")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_by_every_spelling() {
        let typed = |kind: i32, name: &str| v1::LinuxContainerSecurityContext {
            apparmor: Some(v1::SecurityProfile { profile_type: kind, localhost_ref: name.into() }),
            ..Default::default()
        };
        #[allow(deprecated)]
        let old = |text: &str| v1::LinuxContainerSecurityContext {
            apparmor_profile: text.into(),
            ..Default::default()
        };
        let node = |name: &str| Wanted::Localhost(name.into());
        for (security, expected) in [
            (Default::default(), Wanted::Unsaid),
            (typed(0, ""), Wanted::Default),
            (typed(1, ""), Wanted::Unconfined),
            (typed(2, "p"), node("p")),
            (typed(2, "localhost/p"), node("p")),
            (old("runtime/default"), Wanted::Default),
            (old("unconfined"), Wanted::Unconfined),
            (old("localhost/p"), node("p")),
        ] {
            assert_eq!(wanted(&security).unwrap(), expected);
        }
        for bad in [typed(7, ""), typed(2, ""), typed(2, "localhost/"), old("nonsense"), old("localhost/")] {
            assert!(wanted(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_default_has_its_name_wherever_it_needs_it() {
        let text = default_text();
        assert!(text.contains("profile gantry-default flags="), "{text}");
        assert!(!text.lines().any(|l| !l.starts_with('#') && l.contains('@')), "{text}");
    }
}
