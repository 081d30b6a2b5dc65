//! Manifests, indexes and configurations, in OCI and Docker clothes.

use crate::digest::Digest;
use crate::{Error, ImageConfig, Result};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde_json::Value;

/// Media types of manifests and indexes, in the order in which a registry is asked for them.
pub(crate) const ACCEPT: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFESTS: [&str; 2] = [ACCEPT[0], ACCEPT[2]];
const INDEXES: [&str; 2] = [ACCEPT[1], ACCEPT[3]];
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// Layer media types; how a blob is compressed is read from the blob, since this is often wrong.
const LAYERS: [&str; 9] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// A blob that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob {
    /// Its name.
    pub(crate) digest: Digest,
    /// Its length in bytes.
    pub(crate) size: u64,
}

/// A manifest, reduced to what the store needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The configuration.
    pub(crate) config: Blob,
    /// The layers, lowest first.
    pub(crate) layers: Vec<Blob>,
}

/// What a reference led to.
#[derive(Debug, Clone)]
pub(crate) enum Document {
    /// One image.
    Manifest(Manifest),
    /// A choice of images.
    Index(Vec<Choice>),
}

/// One entry of an index.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    /// Digest of the manifest (or nested index).
    pub(crate) digest: Digest,
    /// `os/architecture[/variant]`, empty when the index does not say.
    pub(crate) platform: String,
    /// Names in the annotations of an image layout.
    pub(crate) names: Vec<String>,
}

/// A configuration, reduced to what the store needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// What containers start with.
    pub(crate) config: ImageConfig,
    /// RFC 3339.
    pub(crate) created: Option<String>,
    /// Digests of the uncompressed layers, lowest first.
    pub(crate) diff_ids: Vec<Digest>,
}

/// Reads a manifest or index. `content_type` decides when the document itself has no media type.
pub(crate) fn parse(name: &str, bytes: &[u8], content_type: Option<&str>) -> Result<Document> {
    let bad = |reason: String| Error::corrupt(format!("manifest {name}"), reason);
    let value: Value = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
    let has = |key: &str| value.get(key).is_some_and(|v| !v.is_null());
    if value.get("schemaVersion").and_then(Value::as_u64) != Some(2) {
        return Err(Error::unsupported(
            format!("manifest {name}"),
            "schema version 1 is obsolete; push the image again with a current tool",
        ));
    }
    let own = value.get("mediaType").and_then(Value::as_str);
    let known = |t: &&str| ACCEPT.contains(t);
    let index = match own.or(content_type.filter(known)) {
        Some(t) if INDEXES.contains(&t) => true,
        Some(t) if MANIFESTS.contains(&t) => false,
        Some(t) => return Err(Error::unsupported(format!("manifest {name}"), format!("media type {t}"))),
        None => has("manifests"),
    };
    // One document that two readers take for different things would get past checks of the first.
    if (index && (has("layers") || has("config"))) || (!index && has("manifests")) {
        return Err(bad("it is a manifest and an index at once".into()));
    }
    if index {
        let index: ImageIndex = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
        let choices = index.manifests().iter().map(choice).collect::<Result<_>>()?;
        return Ok(Document::Index(choices));
    }
    let manifest: ImageManifest = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
    let config_type = manifest.config().media_type().to_string();
    if !CONFIGS.contains(&config_type.as_str()) {
        return Err(Error::unsupported(
            format!("manifest {name}"),
            format!("it is no container image (configuration of type {config_type})"),
        ));
    }
    let layers = manifest.layers().iter().map(layer).collect::<Result<_>>()?;
    Ok(Document::Manifest(Manifest { config: blob(manifest.config())?, layers }))
}

fn blob(descriptor: &Descriptor) -> Result<Blob> {
    Ok(Blob { digest: Digest::parse(descriptor.digest().as_ref())?, size: descriptor.size() })
}

fn layer(descriptor: &Descriptor) -> Result<Blob> {
    let media_type = descriptor.media_type().to_string();
    // Docker's foreign layers have an extra part in their name.
    let plain = media_type.replace(".rootfs.foreign.diff.", ".rootfs.diff.");
    if !LAYERS.contains(&plain.as_str()) {
        let object = format!("layer {}", descriptor.digest());
        return Err(Error::unsupported(object, format!("media type {media_type}")));
    }
    blob(descriptor)
}

fn choice(descriptor: &Descriptor) -> Result<Choice> {
    let platform = descriptor.platform().as_ref().map_or_else(String::new, |p| {
        let variant = p.variant().as_ref().map_or_else(String::new, |v| format!("/{v}"));
        format!("{}/{}{variant}", p.os(), p.architecture())
    });
    let annotation = |key: &str| descriptor.annotations().as_ref().and_then(|a| a.get(key)).cloned();
    // containerd and docker write the full name; the standard annotation may hold a tag only.
    let names = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
    Ok(Choice {
        digest: Digest::parse(descriptor.digest().as_ref())?,
        platform,
        names: names.into_iter().filter_map(annotation).collect(),
    })
}

/// Architecture of this machine, as Go and so every image names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// Picks the entry of an index for this machine.
pub(crate) fn choose<'a>(name: &str, choices: &'a [Choice]) -> Result<&'a Choice> {
    let exact = format!("linux/{}", architecture());
    // The plain architecture first, then the lowest variant that every machine of it can run.
    let variants = [String::new(), "/v1".into(), "/v8".into()];
    for variant in variants {
        if let Some(found) = choices.iter().find(|c| c.platform == format!("{exact}{variant}")) {
            return Ok(found);
        }
    }
    if let [only] = choices
        && only.platform.is_empty()
    {
        return Ok(only);
    }
    let mut has: Vec<&str> = choices.iter().map(|c| c.platform.as_str()).collect();
    has.sort_unstable();
    has.dedup();
    has.truncate(16);
    Err(Error::unsupported(format!("image {name}"), format!("it has no {exact}, only {}", has.join(", "))))
}

/// Reads a configuration.
pub(crate) fn parse_config(digest: &Digest, bytes: &[u8]) -> Result<Config> {
    let object = || format!("image configuration {digest}");
    let parsed: ImageConfiguration =
        serde_json::from_slice(bytes).map_err(|e| Error::corrupt(object(), e.to_string()))?;
    let os = parsed.os().to_string();
    if !matches!(os.as_str(), "" | "linux") {
        return Err(Error::unsupported(object(), format!("it is for {os}")));
    }
    let diff_ids = parsed.rootfs().diff_ids().iter().map(|d| Digest::parse(d)).collect::<Result<_>>();
    let diff_ids = diff_ids.map_err(|e| Error::corrupt(object(), e.to_string()))?;
    let mut config = ImageConfig::default();
    if let Some(c) = parsed.config() {
        config.user = c.user().clone().unwrap_or_default();
        config.env = c.env().clone().unwrap_or_default();
        config.entrypoint = c.entrypoint().clone().unwrap_or_default();
        config.cmd = c.cmd().clone().unwrap_or_default();
        config.working_dir = c.working_dir().clone().unwrap_or_default();
        config.stop_signal = c.stop_signal().clone().filter(|s| !s.is_empty());
        config.labels = c.labels().clone().unwrap_or_default().into_iter().collect();
        config.volumes = c.volumes().clone().unwrap_or_default();
        config.exposed_ports = c.exposed_ports().clone().unwrap_or_default();
        config.volumes.sort();
        config.exposed_ports.sort();
    }
    Ok(Config { config, created: parsed.created().clone(), diff_ids })
}

/// A manifest for layers that came without one (docker-archive): always the same for the same image.
pub(crate) fn synthesize(config: &Blob, layers: &[Blob]) -> Vec<u8> {
    let descriptor = |media_type: MediaType, blob: &Blob| {
        serde_json::json!({
            "mediaType": media_type.to_string(),
            "digest": blob.digest.as_str(),
            "size": blob.size,
        })
    };
    let layers: Vec<Value> = layers.iter().map(|l| descriptor(MediaType::ImageLayer, l)).collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::ImageManifest.to_string(),
        "config": descriptor(MediaType::ImageConfig, config),
        "layers": layers,
    });
    manifest.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use gantry_testkit::image::{Family, ImageBuilder, index, tiny};

    #[test]
    fn both_families_are_read() {
        for family in [Family::Oci, Family::Docker] {
            let image = ImageBuilder::new().layer(tiny("f", "x").layers[0].clone()).family(family).build();
            let Document::Manifest(m) = parse("x", &image.manifest.bytes, None).unwrap() else {
                panic!("a manifest")
            };
            assert_eq!(m.config.digest.as_str(), image.id());
            assert_eq!(m.layers[0].digest.as_str(), image.layers[0].digest);
            let other = tiny("f", "y");
            let index = index(family, &[("sparc", &other), (architecture(), &image)]);
            let Document::Index(choices) = parse("x", &index.bytes, None).unwrap() else {
                panic!("an index")
            };
            assert_eq!(choose("x", &choices).unwrap().digest.as_str(), image.manifest.digest());
            let error = choose("x", &choices[..1]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("only linux/sparc"), "{error}");
        }
    }

    #[test]
    fn documents_that_lie_are_refused() {
        let good = tiny("f", "x").manifest.bytes;
        let with = |change: fn(&mut Value)| {
            let mut value: Value = serde_json::from_slice(&good).unwrap();
            change(&mut value);
            serde_json::to_vec(&value).unwrap()
        };
        let cases: [(Vec<u8>, ErrorKind); 9] = [
            (b"{".to_vec(), ErrorKind::Corrupt),
            (b"[]".to_vec(), ErrorKind::Unsupported),
            (with(|v| v["schemaVersion"] = 1.into()), ErrorKind::Unsupported),
            (with(|v| v["manifests"] = Value::Array(Vec::new())), ErrorKind::Corrupt),
            (with(|v| v["mediaType"] = "text/plain".into()), ErrorKind::Unsupported),
            (
                with(|v| v["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into()),
                ErrorKind::Unsupported,
            ),
            (
                with(|v| {
                    v["layers"][0]["mediaType"] =
                        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted".into();
                }),
                ErrorKind::Unsupported,
            ),
            (with(|v| v["layers"][0]["size"] = (-1).into()), ErrorKind::Corrupt),
            (with(|v| v["layers"][0]["digest"] = "sha256:../../etc".into()), ErrorKind::Corrupt),
        ];
        for (bytes, kind) in cases {
            let error = parse("x", &bytes, None).unwrap_err();
            assert_eq!(error.kind(), kind, "{}: {error}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn configurations_of_go_programs_are_read() {
        let digest = Digest::of(b"");
        let text = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},
            "config":{"User":"1:2","Env":null,"Entrypoint":null,"Cmd":["sh"],"WorkingDir":"","Labels":null,
            "Volumes":{"/b":{},"/a":{}},"ExposedPorts":{"80/tcp":{}},"StopSignal":"","Healthcheck":{"Test":["x"]},
            "OnBuild":null},"history":null,"container_config":{},"docker_version":"1"}"#;
        let c = parse_config(&digest, text).unwrap();
        assert_eq!((c.config.user.as_str(), c.config.cmd.len(), c.config.env.len()), ("1:2", 1, 0));
        assert_eq!(c.config.volumes, ["/a", "/b"]);
        assert_eq!(
            (c.config.exposed_ports.as_slice(), c.config.stop_signal),
            (&["80/tcp".to_owned()][..], None)
        );
        let windows = br#"{"architecture":"amd64","os":"windows","rootfs":{"type":"layers","diff_ids":[]}}"#;
        assert_eq!(parse_config(&digest, windows).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(parse_config(&digest, b"{}").unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn synthesized_manifests_are_manifests() {
        let config = Blob { digest: Digest::of(b"c"), size: 1 };
        let layers = vec![Blob { digest: Digest::of(b"l"), size: 2 }];
        let bytes = synthesize(&config, &layers);
        let Document::Manifest(m) = parse("x", &bytes, None).unwrap() else { panic!("a manifest") };
        assert_eq!(m, Manifest { config, layers });
    }
}
