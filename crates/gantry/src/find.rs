//! Objects by what people call them: id, unique prefix, or name.

use crate::client::Client;
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Object {
    Container(String),
    Pod(String),
}

/// The container that `wanted` names.
pub(crate) async fn container(client: &mut Client, wanted: &str) -> Result<String> {
    match pick("container", wanted, &containers(client).await?)? {
        Some(id) => Ok(id),
        None => Err(NotFound(format!("container {wanted:?}")).into()),
    }
}

/// The pod that `wanted` names.
pub(crate) async fn pod(client: &mut Client, wanted: &str) -> Result<String> {
    match pick("pod", wanted, &pods(client).await?)? {
        Some(id) => Ok(id),
        None => Err(NotFound(format!("pod {wanted:?}")).into()),
    }
}

/// The container, else the pod, that `wanted` names.
pub(crate) async fn object(client: &mut Client, wanted: &str) -> Result<Option<Object>> {
    if let Some(id) = pick("container", wanted, &containers(client).await?)? {
        return Ok(Some(Object::Container(id)));
    }
    Ok(pick("pod", wanted, &pods(client).await?)?.map(Object::Pod))
}

/// The pod, else the container, that `wanted` names: `gantry run` gives both one name, and who stops or
/// removes it means all of it.
pub(crate) async fn to_end(client: &mut Client, wanted: &str) -> Result<Object> {
    if let Some(id) = pick("pod", wanted, &pods(client).await?)? {
        return Ok(Object::Pod(id));
    }
    match pick("container", wanted, &containers(client).await?)? {
        Some(id) => Ok(Object::Container(id)),
        None => Err(NotFound(format!("container or pod {wanted:?}")).into()),
    }
}

/// An error that says that nothing goes by this name.
pub(crate) fn nothing(wanted: &str) -> anyhow::Error {
    NotFound(format!("pod, container or image {wanted:?}")).into()
}

async fn containers(client: &mut Client) -> Result<Vec<(String, String)>> {
    let list = client.runtime.list_containers(v1::ListContainersRequest::default()).await?.into_inner();
    let named = |c: v1::Container| (c.id, c.metadata.unwrap_or_default().name);
    Ok(list.containers.into_iter().map(named).collect())
}

async fn pods(client: &mut Client) -> Result<Vec<(String, String)>> {
    let list = client.runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?.into_inner();
    let named = |p: v1::PodSandbox| (p.id, p.metadata.unwrap_or_default().name);
    Ok(list.items.into_iter().map(named).collect())
}

/// An exact id, else an exact name, else a unique prefix of an id.
fn pick(what: &str, wanted: &str, all: &[(String, String)]) -> Result<Option<String>> {
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
    }
}
