//! Compiles `proto/` at build time, without protoc.

use prost::Message as _;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", proto.display());
    let cri = protox::compile(["runtime/v1/api.proto"], [&proto])?;
    let with_secrets = ["AuthConfig", "PullImageRequest"];
    let mut config = tonic_prost_build::configure()
        .btree_map(".")
        .skip_debug([".runtime.v1.AuthConfig", ".runtime.v1.KeyValue"]);
    for file in &cri.file {
        for message in file.message_type.iter().filter(|m| !with_secrets.contains(&m.name())) {
            let path = format!(".runtime.v1.{}", message.name());
            config = config.message_attribute(
                &path,
                "#[derive(serde::Serialize, serde::Deserialize)] #[serde(default)]",
            );
        }
    }
    let mut described = cri.clone();
    // Comments are half of it and of no use to a program.
    described.file.iter_mut().for_each(|f| f.source_code_info = None);
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("cri.binpb"), described.encode_to_vec())?;
    config.compile_fds(cri)?;
    let local = protox::compile(["gantry/local/v1/local.proto"], [&proto])?;
    tonic_prost_build::configure().compile_fds(local)?;
    Ok(())
}
