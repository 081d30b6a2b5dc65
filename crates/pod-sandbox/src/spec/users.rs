//! Who a container runs as: names are looked up in the image's own passwd and group files.

use super::SpecError;
use crate::record::User;
use gantry_cri_api::v1;

/// The numeric user of a container, and the home directory that its image gives it.
///
/// The request's user (`run_as_user`, else `run_as_username`) wins over the image's (`user`,
/// `user:group`). Groups of the image that list the user are added unless the request's policy is
/// `Strict`; the primary group is always among the supplementary ones. `passwd` and `group` are the texts of the image's files.
pub fn resolve_user(
    security: &v1::LinuxContainerSecurityContext,
    image_user: &str,
    passwd: &str,
    group: &str,
) -> Result<(User, String), SpecError> {
    let (image_user, image_group) = match image_user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (image_user, None),
    };
    let (wanted, from_image) = match (&security.run_as_user, security.run_as_username.as_str()) {
        (Some(uid), _) => (uid.value.to_string(), false),
        (None, "") if !image_user.is_empty() => (image_user.to_owned(), true),
        (None, "") => ("0".to_owned(), image_group.is_some()),
        (None, name) => (name.to_owned(), false),
    };
    if security.run_as_group.is_some()
        && security.run_as_user.is_none()
        && security.run_as_username.is_empty()
    {
        // As the CRI demands: whose group it would be depends on the image.
        return Err(SpecError::new("run_as_group", "it needs run_as_user or run_as_username beside it"));
    }
    let entry = find_user(passwd, &wanted);
    let uid = match (&entry, number(&wanted, "run_as_user")) {
        (Some(entry), _) => entry.uid,
        (None, Ok(Some(uid))) => uid,
        (None, Ok(None)) => {
            let reason = format!("the image's /etc/passwd has no user {wanted:.64?}; use a number");
            return Err(SpecError::new("user", reason));
        }
        (None, Err(e)) => return Err(e),
    };
    let gid = match (&security.run_as_group, image_group.filter(|g| from_image && !g.is_empty())) {
        (Some(gid), _) => id(gid.value, "run_as_group")?,
        (None, Some(name)) => find_group(group, name)?,
        (None, None) => entry.as_ref().map_or(0, |e| e.gid),
    };
    // The primary group is among them: else a process that changes its primary group (a setgid program)
    // would leave it, and with it what a file denies to that group.
    let mut additional = vec![gid];
    for gid in &security.supplemental_groups {
        additional.push(id(*gid, "supplemental_groups")?);
    }
    let strict = security.supplemental_groups_policy == i32::from(v1::SupplementalGroupsPolicy::Strict);
    if let (Some(entry), false) = (&entry, strict) {
        additional.extend(memberships(group, entry.name));
    }
    additional.sort_unstable();
    additional.dedup();
    let home = entry.map_or("/", |e| e.home).to_owned();
    Ok((User { uid, gid, additional_gids: additional }, home))
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// The first entry with that name, or with that number: a number is never taken for a name, since the
/// kubelet has checked it (`runAsNonRoot`), and an image could call root "1000".
fn find_user<'a>(passwd: &'a str, wanted: &str) -> Option<Entry<'a>> {
    let mut entries = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok().filter(|uid| *uid != u32::MAX)?;
        let gid = fields.next()?.parse().ok().filter(|gid| *gid != u32::MAX)?;
        let home = fields.nth(1).filter(|h| h.starts_with('/')).unwrap_or("/");
        Some(Entry { name, uid, gid, home })
    });
    match wanted.parse::<u32>() {
        Ok(uid) => entries.find(|entry| entry.uid == uid),
        Err(_) => entries.find(|entry| entry.name == wanted),
    }
}

fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok().filter(|gid| *gid != u32::MAX)?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn find_group(group: &str, wanted: &str) -> Result<u32, SpecError> {
    if let Some(gid) = number(wanted, "group")? {
        return Ok(gid);
    }
    let found = groups(group).find(|(name, _, _)| *name == wanted).map(|(_, gid, _)| gid);
    found.ok_or_else(|| {
        SpecError::new("group", format!("the image's /etc/group has no group {wanted:.64?}; use a number"))
    })
}

fn memberships<'a>(group: &'a str, user: &'a str) -> impl Iterator<Item = u32> + 'a {
    let listed = move |members: &str| members.split(',').any(|m| m.trim() == user);
    groups(group).filter(move |(_, _, members)| listed(members)).map(|(_, gid, _)| gid)
}

/// `None` for what is not a number at all.
fn number(text: &str, field: &str) -> Result<Option<u32>, SpecError> {
    match text.parse::<i64>() {
        Ok(value) => id(value, field).map(Some),
        Err(_) => Ok(None),
    }
}

fn id(value: i64, field: &str) -> Result<u32, SpecError> {
    // (uid_t)-1 means "no change" to the kernel.
    u32::try_from(value)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| SpecError::new(field, format!("{value} is out of range (0 to 4294967294)")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:w:/var/www:/bin/false\nodd:x:7\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlog:x:50:web,other\nmine:x:60:web\n";

    fn context() -> v1::LinuxContainerSecurityContext {
        v1::LinuxContainerSecurityContext::default()
    }

    #[test]
    fn image_users_by_every_spelling() {
        for (text, uid, gid, more, home) in [
            ("", 0, 0, vec![0], "/root"),
            ("web", 33, 34, vec![34, 50, 60], "/var/www"),
            ("33", 33, 34, vec![34, 50, 60], "/var/www"),
            ("1000", 1000, 0, vec![0], "/"),
            ("1000:50", 1000, 50, vec![50], "/"),
            ("web:log", 33, 50, vec![50, 60], "/var/www"),
            (":log", 0, 50, vec![50], "/root"),
        ] {
            let (user, found) = resolve_user(&context(), text, PASSWD, GROUP).unwrap();
            let expected = User { uid, gid, additional_gids: more };
            assert_eq!((user, found.as_str()), (expected, home), "{text:?}");
        }
        for bad in ["nobody", "web:nogroup", "odd", "-1", "4294967295"] {
            assert!(resolve_user(&context(), bad, PASSWD, GROUP).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_number_is_never_a_name() {
        let passwd = "1000:x:0:0::/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n";
        let group = "1000:x:0:\n";
        let mut asked = context();
        for image in ["1000", "1000:1000"] {
            let (user, home) = resolve_user(&asked, image, passwd, group).unwrap();
            assert_eq!((user.uid, user.gid, home.as_str()), (1000, 1000, "/home/u"), "{image}");
        }
        asked.run_as_user = Some(v1::Int64Value { value: 1000 });
        assert_eq!(resolve_user(&asked, "", passwd, group).unwrap().0.uid, 1000);
    }

    #[test]
    fn a_group_alone_is_refused() {
        let mut asked = context();
        asked.run_as_group = Some(v1::Int64Value { value: 7 });
        assert_eq!(resolve_user(&asked, "web", PASSWD, GROUP).unwrap_err().field, "run_as_group");
        asked.run_as_username = "web".into();
        assert_eq!(resolve_user(&asked, "", PASSWD, GROUP).unwrap().0.gid, 7);
    }

    #[test]
    fn the_request_wins_and_strict_adds_nothing() {
        let value = |value| Some(v1::Int64Value { value });
        let mut asked = context();
        asked.run_as_user = value(33);
        asked.supplemental_groups = vec![5, 5];
        let (user, _) = resolve_user(&asked, "root:www", PASSWD, GROUP).unwrap();
        assert_eq!(user, User { uid: 33, gid: 34, additional_gids: vec![5, 34, 50, 60] });
        asked.supplemental_groups_policy = v1::SupplementalGroupsPolicy::Strict.into();
        asked.run_as_group = value(9);
        let (user, _) = resolve_user(&asked, "", PASSWD, GROUP).unwrap();
        assert_eq!(user, User { uid: 33, gid: 9, additional_gids: vec![5, 9] });
        asked.run_as_user = value(-5);
        assert!(resolve_user(&asked, "", PASSWD, GROUP).is_err());
    }
}
