//! Pulls an image into a store of its own: `pull ROOT REFERENCE [REGISTRIES_CONF]`.
//!
//! Prints the image's id, how long the pull took and how much memory it needed at most; `VmHWM` of
//! `/proc/self/status` is what the kernel counted.

use gantry_image_store::{ImageStore, ProgressSender, Realm, StoreConfig};
use std::time::Instant;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(root), Some(reference)) = (arguments.next(), arguments.next()) else {
        return Err("usage: pull ROOT REFERENCE [REGISTRIES_CONF]".into());
    };
    let mut config = StoreConfig::new(root);
    config.registries_conf = arguments.next().map(Into::into);
    let (store, damaged) = ImageStore::open(config)?;
    for record in damaged {
        eprintln!("damaged: {} ({})", record.path.display(), record.reason);
    }
    let start = Instant::now();
    let id = store.pull(Realm::Cri, &reference, None, ProgressSender::none()).await?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or_default();
    println!("{id} {:.3} s {}", start.elapsed().as_secs_f64(), peak.replace('\t', " "));
    Ok(())
}
