//! Messages of the CRI as documents, with the names and spellings of Protobuf's own JSON: what a script that
//! reads crictl's output expects.

use crate::client::Realm;
use anyhow::{Context as _, Result};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Shows messages; made once for a command.
#[derive(Debug)]
pub(crate) struct Documents(DescriptorPool);

impl Documents {
    /// Reads the descriptions of all messages.
    pub(crate) fn new() -> Result<Self> {
        let pool = DescriptorPool::decode(gantry_cri_api::DESCRIPTORS).context("descriptions of messages")?;
        Ok(Self(pool))
    }

    /// A message of `runtime.v1`; every field is there, also those at their default.
    pub(crate) fn message(&self, name: &str, message: &impl Message) -> Result<Value> {
        let what = || format!("show a {name}");
        let description = self.0.get_message_by_name(&format!("runtime.v1.{name}")).with_context(what)?;
        let bytes = message.encode_to_vec();
        let dynamic = DynamicMessage::decode(description, bytes.as_slice()).with_context(what)?;
        let options = SerializeOptions::new().skip_default_fields(false);
        dynamic.serialize_with_options(serde_json::value::Serializer, &options).with_context(what)
    }

    /// As [`Documents::message`], with the realm as a further field.
    pub(crate) fn item(&self, name: &str, message: &impl Message, realm: Realm) -> Result<Value> {
        let mut value = self.message(name, message)?;
        if let Value::Object(fields) = &mut value {
            fields.insert("realm".into(), realm.name().into());
        }
        Ok(value)
    }
}

/// The daemon's details are JSON documents in strings.
pub(crate) fn details(info: &BTreeMap<String, String>) -> Value {
    let parse = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    match info.get("info") {
        Some(text) if info.len() == 1 => parse(text),
        _ => Value::Object(info.iter().map(|(k, v)| (k.clone(), parse(v))).collect::<Map<_, _>>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_cri_api::v1;

    #[test]
    fn names_and_spellings_are_those_of_the_cri() {
        let pod = v1::PodSandbox {
            id: "abc".into(),
            metadata: Some(v1::PodSandboxMetadata { name: "web".into(), ..Default::default() }),
            state: v1::PodSandboxState::SandboxNotready.into(),
            created_at: 1_700_000_000_000_000_000,
            labels: [("io.kubernetes.pod_name".to_owned(), "web".to_owned())].into(),
            ..Default::default()
        };
        let shown = Documents::new().unwrap().item("PodSandbox", &pod, Realm::Cri).unwrap();
        assert_eq!(
            shown,
            serde_json::json!({
                "id": "abc",
                "metadata": {"name": "web", "uid": "", "namespace": "", "attempt": 0},
                "state": "SANDBOX_NOTREADY",
                "createdAt": "1700000000000000000",
                "labels": {"io.kubernetes.pod_name": "web"},
                "annotations": {},
                "runtimeHandler": "",
                "realm": "cri",
            })
        );
    }

    #[test]
    fn details_are_unpacked() {
        let one = BTreeMap::from([("info".to_owned(), "{\"pid\": 7}".to_owned())]);
        assert_eq!(details(&one)["pid"], 7);
        let two = BTreeMap::from([("a".to_owned(), "{}".to_owned()), ("b".to_owned(), "text".to_owned())]);
        assert_eq!(details(&two), serde_json::json!({"a": {}, "b": "text"}));
    }
}
