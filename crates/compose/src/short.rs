//! Short forms of ports, mounts and devices, and the long forms they stand for.

use crate::node::{Node, Span, Value};
use std::net::IpAddr;

/// Most ports that one entry may stand for.
const MAX_RANGE: u32 = 4096;

/// The long forms of a port such as `127.0.0.1:8080-8081:80-81/tcp`.
///
/// # Errors
/// A message: what is no port, no address or no protocol, and ranges of different length.
pub fn ports(text: &str, span: &Span) -> Result<Vec<Node>, String> {
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("{text:?} is no port: the protocol is tcp, udp or sctp"));
    }
    let (front, target) = rest.rsplit_once(':').map_or((None, rest), |(f, t)| (Some(f), t));
    let (address, published) = match front {
        None => ("", ""),
        Some(front) => match front.strip_prefix('[').and_then(|f| f.split_once(']')) {
            Some((address, rest)) => (address, rest.strip_prefix(':').unwrap_or(rest)),
            None => front.rsplit_once(':').unwrap_or(("", front)),
        },
    };
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(format!("{text:?} is no port: {address:?} is no IP address"));
    }
    let (first, last) = range(target).ok_or_else(|| format!("{text:?} is no port or range of ports"))?;
    let outside = match published {
        "" => None,
        published => Some(
            range(published).ok_or_else(|| format!("{text:?} is no port: {published:?} is no host port"))?,
        ),
    };
    if last - first >= MAX_RANGE {
        return Err(format!("{text:?} stands for more than {MAX_RANGE} ports"));
    }
    let count = last - first + 1;
    let mut found = Vec::new();
    for (i, port) in (first..=last).enumerate() {
        let i = i as u32;
        let published = match outside {
            None => None,
            Some((low, high)) if high - low + 1 == count => Some((low + i).to_string()),
            // One container port takes any free one of a range.
            Some((low, high)) if count == 1 => Some(format!("{low}-{high}")),
            Some(_) => return Err(format!("{text:?} has ranges of different length")),
        };
        let mut node = Node::map(span);
        node.set("mode", Node::string("ingress", span));
        if !address.is_empty() {
            node.set("host_ip", Node::string(address, span));
        }
        node.set("target", Node::new(Value::Int(port.into()), span));
        if let Some(published) = published {
            node.set("published", Node::string(published, span));
        }
        node.set("protocol", Node::string(protocol.clone(), span));
        found.push(node);
    }
    Ok(found)
}

/// First and last port of `80` or `80-90`.
pub(crate) fn range(text: &str) -> Option<(u32, u32)> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| digits).map(u32::from)
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    (first <= last && last > 0).then_some((first, last))
}

/// The long form of a mount such as `./data:/data:ro`, `data:/data` or `/data`.
///
/// # Errors
/// A message: an empty part, too many parts, an unknown option, a target that is no absolute path.
pub fn mount(text: &str, span: &Span) -> Result<Node, String> {
    let parts = split_mount(text);
    if parts.iter().any(|p| p.is_empty()) {
        return Err(format!("{text:?} is no mount: a part between colons is empty"));
    }
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return Err(format!("{text:?} is no mount: it has too many colons")),
    };
    if !target.starts_with('/') && !windows_drive(target) {
        return Err(format!(
            "{text:?} is no mount: the path in the container, {target:?}, has to be absolute"
        ));
    }
    let is_bind = source.is_some_and(|s| s.starts_with(['.', '/', '~', '\\']) || windows_drive(s));
    let mut node = Node::map(span);
    node.set("type", Node::string(if is_bind { "bind" } else { "volume" }, span));
    if let Some(source) = source {
        node.set("source", Node::string(source, span));
    }
    node.set("target", Node::string(crate::files::clean(target), span));
    let mut bind = Node::map(span);
    let mut volume = Node::map(span);
    if is_bind {
        bind.set("create_host_path", Node::new(Value::Bool(true), span));
    }
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" | "readonly" => node.set("read_only", Node::new(Value::Bool(true), span)),
            "rw" => {}
            "nocopy" => volume.set("nocopy", Node::new(Value::Bool(true), span)),
            "copy" => {}
            "rprivate" | "private" | "rshared" | "shared" | "rslave" | "slave" => {
                bind.set("propagation", Node::string(option, span));
            }
            "z" | "Z" => bind.set("selinux", Node::string(option, span)),
            // Only meant something on Docker Desktop, and is still found in many files.
            "cached" | "delegated" | "consistent" | "default" => {
                node.set("consistency", Node::string(option, span));
            }
            // Podman's: change the owner of the source. Kept apart from what is understood.
            other => return Err(format!("{text:?} is no mount: {other:?} is no option of a mount")),
        }
    }
    node.set(if is_bind { "bind" } else { "volume" }, if is_bind { bind.clone() } else { volume });
    if !is_bind && bind.as_map().is_some_and(|b| !b.is_empty()) {
        node.set("bind", bind);
    }
    Ok(node)
}

/// Whether a text begins like a Windows path; a small letter before a slash is a volume's name.
fn windows_drive(text: &str) -> bool {
    match text.as_bytes() {
        [letter, b':', b'\\', ..] => letter.is_ascii_alphabetic(),
        [letter, b':', b'/', ..] => letter.is_ascii_uppercase(),
        _ => false,
    }
}

/// Splits at colons, but not after the letter of a Windows drive and not inside of `${...}`.
fn split_mount(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut open) = (Vec::new(), 0, 0usize);
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'{' if at > 0 && bytes[at - 1] == b'$' => open += 1,
            b'}' => open = open.saturating_sub(1),
            b':' if open == 0 && !(at == start + 1 && windows_drive(&text[start..])) => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// The long form of a device such as `/dev/sda:/dev/xvda:rwm` or `vendor.com/class=name`.
///
/// # Errors
/// A message: too many parts or an empty one.
pub fn device(text: &str, span: &Span) -> Result<Node, String> {
    let parts: Vec<&str> = text.split(':').collect();
    if parts.iter().any(|p| p.is_empty()) {
        return Err(format!("{text:?} is no device: a part between colons is empty"));
    }
    let rights = |p: &str| !p.is_empty() && p.chars().all(|c| matches!(c, 'r' | 'w' | 'm'));
    let (source, target, permissions) = match parts.as_slice() {
        [source] => (*source, *source, "rwm"),
        [source, permissions] if rights(permissions) => (*source, *source, *permissions),
        [source, target] => (*source, *target, "rwm"),
        [source, target, permissions] => (*source, *target, *permissions),
        _ => return Err(format!("{text:?} is no device: it has too many colons")),
    };
    let mut node = Node::map(span);
    node.set("source", Node::string(source, span));
    node.set("target", Node::string(target, span));
    node.set("permissions", Node::string(permissions, span));
    Ok(node)
}
