//! Objects by what people call them: id, unique prefix, or name; in the local realm first, then in the
//! kubelet's.

use crate::client::{Client, Realm};
use anyhow::{Result, bail};
use gantry_cri_api::v1;

/// Nothing goes by that name.
#[derive(Debug)]
pub(crate) struct NotFound(String);

impl std::fmt::Display for NotFound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no {}", self.0)
    }
}

impl std::error::Error for NotFound {}

/// A container or a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Container,
    Pod,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Pod => "pod",
        }
    }
}

/// An object and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) realm: Realm,
    pub(crate) kind: Kind,
    pub(crate) id: String,
}

/// The container that `wanted` names.
pub(crate) async fn container(client: &mut Client, wanted: &str, realm: Option<Realm>) -> Result<Found> {
    match search(client, &[Kind::Container], wanted, realm).await? {
        Some(found) => Ok(found),
        None => Err(NotFound(format!("container {wanted:?}")).into()),
    }
}

/// The pod that `wanted` names.
pub(crate) async fn pod(client: &mut Client, wanted: &str, realm: Option<Realm>) -> Result<Found> {
    match search(client, &[Kind::Pod], wanted, realm).await? {
        Some(found) => Ok(found),
        None => Err(NotFound(format!("pod {wanted:?}")).into()),
    }
}

/// The container, else the pod, that `wanted` names.
pub(crate) async fn object(client: &mut Client, wanted: &str, realm: Option<Realm>) -> Result<Option<Found>> {
    search(client, &[Kind::Container, Kind::Pod], wanted, realm).await
}

/// The pod, else the container, that `wanted` names and that may be ended: `gantry run` gives both one name,
/// and who stops or removes it means all of it.
///
/// # Errors
///
/// What the kubelet made is refused unless the user names its realm.
pub(crate) async fn to_end(client: &mut Client, wanted: &str, realm: Option<Realm>) -> Result<Found> {
    match search(client, &[Kind::Pod, Kind::Container], wanted, realm).await? {
        Some(found) => {
            may_end(found.kind.name(), wanted, found.realm, realm)?;
            Ok(found)
        }
        None => Err(NotFound(format!("container or pod {wanted:?}")).into()),
    }
}

/// Refuses to end what the kubelet made unless its realm was asked for.
pub(crate) fn may_end(what: &str, wanted: &str, realm: Realm, asked: Option<Realm>) -> Result<()> {
    if realm == Realm::Cri && asked != Some(Realm::Cri) {
        bail!(
            "{what} {wanted:?} belongs to the kubelet (realm cri), which would make it again; \
             delete it with kubectl, or insist with --realm cri"
        );
    }
    Ok(())
}

/// An error that says that nothing goes by this name.
pub(crate) fn nothing(wanted: &str) -> anyhow::Error {
    NotFound(format!("pod, container or image {wanted:?}")).into()
}

/// The first that is found, by realm and then by kind.
async fn search(
    client: &mut Client,
    kinds: &[Kind],
    wanted: &str,
    realm: Option<Realm>,
) -> Result<Option<Found>> {
    for realm in Realm::asked(realm) {
        for kind in kinds {
            let all = match kind {
                Kind::Container => containers(client, realm).await?,
                Kind::Pod => pods(client, realm).await?,
            };
            if let Some(id) = pick(kind.name(), wanted, &all)? {
                return Ok(Some(Found { realm, kind: *kind, id }));
            }
        }
    }
    Ok(None)
}

async fn containers(client: &mut Client, realm: Realm) -> Result<Vec<(String, String)>> {
    let request = v1::ListContainersRequest::default();
    let list = client.of(realm).runtime.list_containers(request).await?.into_inner();
    let named = |c: v1::Container| (c.id, c.metadata.unwrap_or_default().name);
    Ok(list.containers.into_iter().map(named).collect())
}

async fn pods(client: &mut Client, realm: Realm) -> Result<Vec<(String, String)>> {
    let request = v1::ListPodSandboxRequest::default();
    let list = client.of(realm).runtime.list_pod_sandbox(request).await?.into_inner();
    let named = |p: v1::PodSandbox| (p.id, p.metadata.unwrap_or_default().name);
    Ok(list.items.into_iter().map(named).collect())
}

/// An exact id, else an exact name, else a unique prefix of an id.
fn pick(what: &str, wanted: &str, all: &[(String, String)]) -> Result<Option<String>> {
    if wanted.is_empty() {
        bail!("an empty name; give an id, a unique prefix of one, or a name");
    }
    if let Some((id, _)) = all.iter().find(|(id, _)| id == wanted) {
        return Ok(Some(id.clone()));
    }
    let by_name = |pair: &(String, String)| pair.1 == wanted;
    let by_prefix = |pair: &(String, String)| pair.0.starts_with(wanted);
    let found = |test: &dyn Fn(&(String, String)) -> bool| -> Vec<String> {
        all.iter().filter(|p| test(p)).map(|(id, _)| id.clone()).collect()
    };
    for found in [found(&by_name), found(&by_prefix)] {
        match found.as_slice() {
            [] => {}
            [id] => return Ok(Some(id.clone())),
            [first, second, ..] => {
                bail!("{wanted:?} is ambiguous: {what}s {first} and {second} go by it; give more of the id");
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_win_over_names_and_names_over_prefixes() {
        let pair = |id: &str, name: &str| (id.to_owned(), name.to_owned());
        let all =
            [pair("abc", "web"), pair("abd", "a"), pair("web", "db"), pair("x1", "same"), pair("x2", "same")];
        let found = |wanted: &str| pick("pod", wanted, &all).unwrap();
        assert_eq!(found("web").as_deref(), Some("web"));
        assert_eq!(found("a").as_deref(), Some("abd"));
        assert_eq!(found("abc").as_deref(), Some("abc"));
        assert_eq!(found("zzz"), None);
        assert!(pick("pod", "same", &all).is_err());
        assert!(pick("pod", "ab", &all).unwrap_err().to_string().contains("ambiguous"));
        assert!(pick("pod", "", &all[..1]).unwrap_err().to_string().contains("empty"));
    }

    #[test]
    fn what_the_kubelet_made_is_ended_only_by_name_of_its_realm() {
        let refused = may_end("pod", "web", Realm::Cri, None).unwrap_err().to_string();
        assert!(refused.contains("kubelet") && refused.contains("--realm cri"), "{refused}");
        assert!(may_end("pod", "web", Realm::Cri, Some(Realm::Cri)).is_ok());
        assert!(may_end("pod", "web", Realm::Local, None).is_ok());
    }
}
