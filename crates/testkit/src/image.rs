//! Images built in memory: manifests, configurations, indexes, and the archives that carry them.

use crate::layer::{Compression, Layer, LayerBuilder, sha256};
use serde_json::{Value, json};
use std::path::Path;

/// Which family of media types a manifest uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// OCI image-spec.
    Oci,
    /// Docker image manifest version 2, schema 2.
    Docker,
}

/// A document with its media type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The exact bytes.
    pub bytes: Vec<u8>,
    /// Its media type.
    pub media_type: String,
}

impl Document {
    /// Digest of the bytes.
    pub fn digest(&self) -> String {
        sha256(&self.bytes)
    }
}

/// A finished image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The manifest.
    pub manifest: Document,
    /// The configuration; its digest is the image's id.
    pub config: Document,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
}

impl Image {
    /// `sha256:` and the digest of the configuration.
    pub fn id(&self) -> String {
        self.config.digest()
    }
}

type Tweak = Box<dyn FnOnce(&mut Value)>;

/// Builds an [`Image`].
pub struct ImageBuilder {
    layers: Vec<Layer>,
    config: Value,
    family: Family,
    architecture: String,
    tweak_config: Option<Tweak>,
    tweak_manifest: Option<Tweak>,
}

impl std::fmt::Debug for ImageBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageBuilder").field("layers", &self.layers.len()).finish_non_exhaustive()
    }
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageBuilder {
    /// An image of this machine's architecture without layers.
    pub fn new() -> Self {
        Self {
            layers: Vec::new(),
            config: json!({}),
            family: Family::Oci,
            architecture: architecture().to_owned(),
            tweak_config: None,
            tweak_manifest: None,
        }
    }

    /// Adds a layer on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// The `config` object of the configuration: `{"Env": [...], "Cmd": [...]}`.
    #[must_use]
    pub fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// Media types of the manifest.
    #[must_use]
    pub fn family(mut self, family: Family) -> Self {
        self.family = family;
        self
    }

    /// Architecture in the configuration, as Go names it.
    #[must_use]
    pub fn architecture(mut self, architecture: &str) -> Self {
        architecture.clone_into(&mut self.architecture);
        self
    }

    /// Changes the configuration before its digest is taken.
    #[must_use]
    pub fn tweak_config(mut self, tweak: impl FnOnce(&mut Value) + 'static) -> Self {
        self.tweak_config = Some(Box::new(tweak));
        self
    }

    /// Changes the manifest before its digest is taken.
    #[must_use]
    pub fn tweak_manifest(mut self, tweak: impl FnOnce(&mut Value) + 'static) -> Self {
        self.tweak_manifest = Some(Box::new(tweak));
        self
    }

    /// The finished image.
    pub fn build(self) -> Image {
        let mut config = json!({
            "created": "2026-01-02T03:04:05Z",
            "architecture": self.architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": {
                "type": "layers",
                "diff_ids": self.layers.iter().map(|l| l.diff_id.as_str()).collect::<Vec<_>>(),
            },
        });
        if let Some(tweak) = self.tweak_config {
            tweak(&mut config);
        }
        let oci = self.family == Family::Oci;
        let config_type = if oci {
            "application/vnd.oci.image.config.v1+json"
        } else {
            "application/vnd.docker.container.image.v1+json"
        };
        let config = Document { bytes: text(&config), media_type: config_type.to_owned() };
        let manifest_type = if oci {
            "application/vnd.oci.image.manifest.v1+json"
        } else {
            "application/vnd.docker.distribution.manifest.v2+json"
        };
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|l| {
                let media_type = layer_type(self.family, l.compression);
                json!({"mediaType": media_type, "digest": l.digest, "size": l.blob.len()})
            })
            .collect();
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": {"mediaType": config_type, "digest": config.digest(), "size": config.bytes.len()},
            "layers": layers,
        });
        if let Some(tweak) = self.tweak_manifest {
            tweak(&mut manifest);
        }
        let manifest = Document { bytes: text(&manifest), media_type: manifest_type.to_owned() };
        Image { manifest, config, layers: self.layers }
    }
}

/// An image of one gzip layer that holds `/<name>` with `content`.
pub fn tiny(name: &str, content: &str) -> Image {
    let layer = LayerBuilder::new().dir("./", 0o755).file(name, 0o644, content).build(Compression::Gzip);
    ImageBuilder::new().layer(layer).build()
}

/// This machine's architecture, as Go names it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An image index over `(architecture, image)`.
pub fn index(family: Family, images: &[(&str, &Image)]) -> Document {
    let manifests: Vec<Value> = images
        .iter()
        .map(|(architecture, image)| {
            json!({
                "mediaType": image.manifest.media_type,
                "digest": image.manifest.digest(),
                "size": image.manifest.bytes.len(),
                "platform": {"architecture": architecture, "os": "linux"},
            })
        })
        .collect();
    let media_type = match family {
        Family::Oci => "application/vnd.oci.image.index.v1+json",
        Family::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
    };
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
    Document { bytes: text(&index), media_type: media_type.to_owned() }
}

/// Files of an OCI image layout (OCI image-spec, image-layout.md) with the given images; an empty name
/// gives the image none.
fn layout(images: &[(&str, &Image)]) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
    let mut manifests = Vec::new();
    for (name, image) in images {
        let mut descriptor = json!({
            "mediaType": image.manifest.media_type,
            "digest": image.manifest.digest(),
            "size": image.manifest.bytes.len(),
        });
        if !name.is_empty() {
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        manifests.push(descriptor);
        let documents = [&image.manifest, &image.config].map(|d| (d.digest(), d.bytes.clone()));
        let layers = image.layers.iter().map(|l| (l.digest.clone(), l.blob.clone()));
        for (digest, bytes) in documents.into_iter().chain(layers) {
            let path = format!("blobs/{}", digest.replace(':', "/"));
            if !files.iter().any(|(p, _)| *p == path) {
                files.push((path, bytes));
            }
        }
    }
    files.push(("index.json".to_owned(), text(&json!({"schemaVersion": 2, "manifests": manifests}))));
    files
}

/// An OCI image layout as one tar archive.
pub fn oci_archive(images: &[(&str, &Image)]) -> Vec<u8> {
    let mut tar = LayerBuilder::new().dir("blobs/", 0o755).dir("blobs/sha256/", 0o755);
    for (path, bytes) in layout(images) {
        tar = tar.file(&path, 0o644, bytes);
    }
    tar.tar()
}

/// An OCI image layout in the directory `dir`.
pub fn oci_directory(dir: &Path, images: &[(&str, &Image)]) -> std::io::Result<()> {
    std::fs::create_dir_all(dir.join("blobs/sha256"))?;
    for (path, bytes) in layout(images) {
        std::fs::write(dir.join(path), bytes)?;
    }
    Ok(())
}

/// A docker-archive, as `docker save` wrote it before it wrote OCI layouts: plain layer tars in
/// directories of their own, a configuration, `manifest.json`. Layers must not be compressed.
pub fn docker_archive(image: &Image, tags: &[&str]) -> Vec<u8> {
    let mut tar = LayerBuilder::new();
    let mut names = Vec::new();
    for (i, layer) in image.layers.iter().enumerate() {
        assert_eq!(layer.compression, Compression::None, "docker-archives hold plain layers");
        let directory = format!("layer{i}");
        tar = tar.dir(&format!("{directory}/"), 0o755).file(&format!("{directory}/VERSION"), 0o644, "1.0");
        let name = format!("{directory}/layer.tar");
        // docker wrote a link to the first copy of a layer that occurs twice.
        match image.layers[..i].iter().position(|l| l == layer) {
            Some(first) => tar = tar.symlink(&name, &format!("../layer{first}/layer.tar")),
            None => tar = tar.file(&name, 0o644, &layer.blob),
        }
        names.push(name);
    }
    let config = format!("{}.json", &image.id()["sha256:".len()..]);
    tar = tar.file(&config, 0o644, &image.config.bytes);
    let manifest = json!([{"Config": config, "RepoTags": tags, "Layers": names}]);
    tar.file("manifest.json", 0o644, text(&manifest)).tar()
}

fn layer_type(family: Family, compression: Compression) -> &'static str {
    match (family, compression) {
        (Family::Oci, Compression::None) => "application/vnd.oci.image.layer.v1.tar",
        (Family::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
        (Family::Oci, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
        (Family::Docker, Compression::None) => "application/vnd.docker.image.rootfs.diff.tar",
        (Family::Docker, Compression::Gzip) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        (Family::Docker, Compression::Zstd) => "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
}

fn text(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a JSON value has a text form")
}
