//! Records on the run tmpfs, one file per attachment and one for the bridge.

use crate::model::{BuiltinAttachment, Quarantined};
use crate::{Error, Result, Subnet};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The bridge of this daemon, and what was changed on the host for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BridgeRecord {
    pub(crate) name: String,
    pub(crate) subnet: Subnet,
    /// Sysctls that were changed, with their values before.
    pub(crate) sysctls: Vec<(String, String)>,
}

/// An attachment, written before anything of it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttachmentRecord {
    pub(crate) attachment: BuiltinAttachment,
    /// Everything of it is made.
    pub(crate) complete: bool,
}

/// The directory of the records.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
}

impl Records {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let attachments = dir.join("attachments");
        std::fs::create_dir_all(&attachments)
            .map_err(|e| Error::failed(format!("create {}", attachments.display()), e))?;
        Ok(Self { dir: dir.to_owned() })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn attachment_path(&self, pod_id: &str) -> PathBuf {
        self.dir.join("attachments").join(format!("{pod_id}.json"))
    }

    fn bridge_path(&self) -> PathBuf {
        self.dir.join("bridge.json")
    }

    /// All attachments by pod; a damaged record is moved aside.
    pub(crate) fn load(&self) -> Result<(BTreeMap<String, AttachmentRecord>, Vec<Quarantined>)> {
        let dir = self.dir.join("attachments");
        let entries =
            std::fs::read_dir(&dir).map_err(|e| Error::failed(format!("list {}", dir.display()), e))?;
        let (mut all, mut damaged) = (BTreeMap::new(), Vec::new());
        for path in entries.flatten().map(|e| e.path()) {
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match read::<AttachmentRecord>(&path) {
                Ok(Some(record)) => {
                    all.insert(record.attachment.pod_id.clone(), record);
                }
                Ok(None) => {}
                Err(reason) => {
                    let moved_to = path.with_extension("damaged");
                    std::fs::rename(&path, &moved_to)
                        .map_err(|e| Error::failed(format!("set {} aside", path.display()), e))?;
                    damaged.push(Quarantined { moved_to, reason });
                }
            }
        }
        Ok((all, damaged))
    }

    pub(crate) fn store(&self, record: &AttachmentRecord) -> Result<()> {
        write(&self.attachment_path(&record.attachment.pod_id), record)
    }

    pub(crate) fn remove(&self, pod_id: &str) -> Result<()> {
        remove(&self.attachment_path(pod_id))
    }

    /// The bridge; a damaged record counts as none, the bridge is then found by its alias.
    pub(crate) fn bridge(&self) -> Option<BridgeRecord> {
        match read(&self.bridge_path()) {
            Ok(record) => record,
            Err(reason) => {
                tracing::error!(reason, "record of the bridge is damaged; a new bridge will be made");
                None
            }
        }
    }

    pub(crate) fn store_bridge(&self, record: &BridgeRecord) -> Result<()> {
        write(&self.bridge_path(), record)
    }

    pub(crate) fn remove_bridge(&self) -> Result<()> {
        remove(&self.bridge_path())
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| e.to_string()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.to_string()),
    }
}

fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let temporary = path.with_extension("new");
    let bytes =
        serde_json::to_vec(value).map_err(|e| Error::failed(format!("record {}", path.display()), e))?;
    std::fs::write(&temporary, bytes)
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|e| Error::failed(format!("write {}", path.display()), e))
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::failed(format!("remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}
