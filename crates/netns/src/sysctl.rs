//! Kernel settings of networks, with their values before.

use crate::{Error, Result};

/// Sets `net.ipv4.…` to `value`; the value before, if it was another.
pub(crate) fn set(name: &str, value: &str) -> Result<Option<String>> {
    let path = format!("/proc/sys/net/ipv4/{name}");
    let failed = |call: &str, e: std::io::Error| Error::failed(format!("{call} {path}"), e);
    let before = std::fs::read_to_string(&path).map_err(|e| failed("read", e))?.trim().to_owned();
    if before == value {
        return Ok(None);
    }
    std::fs::write(&path, value).map_err(|e| failed("write", e))?;
    Ok(Some(before))
}

/// Whether packets are forwarded at all.
pub(crate) fn is_forwarding() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|v| v.trim() == "1")
}
