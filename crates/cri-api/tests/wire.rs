//! The wire contract: `proto/` says exactly what the checked-in table of CRI v1 (cri-api 0.36) says.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use std::collections::BTreeSet;

const TABLE: &str = include_str!("cri-v1-wire.tsv");

fn descriptors() -> FileDescriptorSet {
    let proto = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    protox::compile(["runtime/v1/api.proto"], [proto]).unwrap()
}

/// Lines of the table that the descriptors make.
fn lines(set: &FileDescriptorSet) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for file in &set.file {
        all.insert(format!("package\t{}", file.package()));
        for service in &file.service {
            for method in &service.method {
                let stream = |on: bool| if on { "stream " } else { "" };
                all.insert(format!(
                    "rpc\t{}\t{}\t{}{}\t{}{}",
                    service.name(),
                    method.name(),
                    stream(method.client_streaming()),
                    short(method.input_type()),
                    stream(method.server_streaming()),
                    short(method.output_type()),
                ));
            }
        }
        for message in &file.message_type {
            message_lines(message, &mut all);
        }
        for r#enum in &file.enum_type {
            enum_lines("", r#enum, &mut all);
        }
    }
    all
}

fn message_lines(message: &DescriptorProto, all: &mut BTreeSet<String>) {
    if message.field.is_empty() {
        all.insert(format!("message\t{}", message.name()));
    }
    for field in &message.field {
        let deprecated = field.options.as_ref().is_some_and(|o| o.deprecated());
        all.insert(format!(
            "field\t{}\t{}\t{}\t{}{}",
            message.name(),
            field.name(),
            field.number(),
            field_type(message, field),
            if deprecated { "\tdeprecated" } else { "" },
        ));
    }
    for r#enum in &message.enum_type {
        enum_lines(&format!("{}.", message.name()), r#enum, all);
    }
}

fn enum_lines(prefix: &str, r#enum: &EnumDescriptorProto, all: &mut BTreeSet<String>) {
    for value in &r#enum.value {
        all.insert(format!("enum\t{prefix}{}\t{}\t{}", r#enum.name(), value.name(), value.number()));
    }
}

fn field_type(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let map = message.nested_type.iter().find(|n| {
        n.options.as_ref().is_some_and(|o| o.map_entry())
            && field.type_name().ends_with(&format!(".{}", n.name()))
    });
    if let Some(entry) = map {
        return format!("map<{},{}>", scalar(&entry.field[0]), scalar(&entry.field[1]));
    }
    match field.label() {
        Label::Repeated => format!("repeated {}", scalar(field)),
        _ => scalar(field),
    }
}

fn scalar(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => short(field.type_name()).to_owned(),
        Type::Double => "double".into(),
        Type::Int64 => "int64".into(),
        Type::Uint64 => "uint64".into(),
        Type::Int32 => "int32".into(),
        Type::Uint32 => "uint32".into(),
        Type::Bool => "bool".into(),
        Type::String => "string".into(),
        Type::Bytes => "bytes".into(),
        other => format!("{other:?}"),
    }
}

fn short(name: &str) -> &str {
    let name = name.trim_start_matches('.');
    name.strip_prefix("runtime.v1.").unwrap_or(name)
}

/// What one side says and the other does not; types of nested enums are named without their message.
fn differences(table: &str, set: &FileDescriptorSet) -> Vec<String> {
    let plain = |line: &str| line.replace("SecurityProfile.ProfileType", "ProfileType");
    let wanted: BTreeSet<String> = table.lines().filter(|l| !l.is_empty()).map(plain).collect();
    let found: BTreeSet<String> = lines(set).iter().map(|l| plain(l)).collect();
    let missing = wanted.difference(&found).map(|l| format!("missing: {l}"));
    missing.chain(found.difference(&wanted).map(|l| format!("too much: {l}"))).collect()
}

#[test]
fn proto_says_what_the_table_says() {
    let set = descriptors();
    assert_eq!(differences(TABLE, &set), [""; 0]);
    assert_eq!(TABLE.lines().filter(|l| l.starts_with("rpc\t")).count(), 41);
}

#[test]
fn every_kind_of_difference_is_noticed() {
    let set = descriptors();
    for (from, to) in [
        ("package\truntime.v1", "package\truntime.v2"),
        ("stream StreamImagesResponse", "StreamImagesResponse"),
        ("field\tPodIP\tip\t1\tstring", "field\tPodIP\tip\t2\tstring"),
        ("repeated PodIP", "PodIP"),
        ("map<string,string>", "map<string,bytes>"),
        ("enum\tProtocol\tUDP\t1", "enum\tProtocol\tUDP\t3"),
        ("string\tdeprecated", "string"),
        ("message\tStopPodSandboxResponse\n", ""),
        ("field\tKeyValue\tvalue\t2\tbytes\n", ""),
    ] {
        let mutated = TABLE.replacen(from, to, 1);
        assert_ne!(mutated, TABLE, "{from} is not in the table");
        assert!(!differences(&mutated, &set).is_empty(), "{from} -> {to} went unnoticed");
    }
}

#[test]
fn credentials_are_never_shown() {
    use gantry_cri_api::v1::{AuthConfig, ContainerConfig, KeyValue, PullImageRequest};
    let secret = "s3cr3t-value".to_owned();
    let auth = AuthConfig {
        username: "user".into(),
        password: secret.clone(),
        auth: secret.clone(),
        server_address: "registry.example".into(),
        identity_token: secret.clone(),
        registry_token: secret.clone(),
    };
    let request = PullImageRequest { auth: Some(auth.clone()), ..Default::default() };
    let variable = KeyValue { key: "PASSWORD".into(), value: secret.clone().into_bytes() };
    let config = ContainerConfig { envs: vec![variable.clone()], ..Default::default() };
    let bytes = format!("{:?}", secret.as_bytes());
    for shown in
        [format!("{auth:?}"), format!("{request:#?}"), format!("{variable:?}"), format!("{config:?}")]
    {
        assert!(!shown.contains(&secret) && !shown.contains(bytes.trim_matches(['[', ']'])), "{shown}");
    }
    assert!(format!("{auth:?}").contains("registry.example"));
}
