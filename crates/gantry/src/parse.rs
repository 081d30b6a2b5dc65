//! Ports, volumes, sizes and variables as people write them.

use anyhow::{Context as _, Result, bail};
use gantry_cri_api::v1;

/// `[ADDRESS:]HOST:CONTAINER[/tcp|udp]`.
pub(crate) fn port(text: &str) -> Result<v1::PortMapping> {
    let wrong = || format!("--publish {text:?}: write [ADDRESS:]HOST:CONTAINER[/tcp|udp]");
    let (ports, protocol) = match text.rsplit_once('/') {
        Some((ports, "tcp")) => (ports, v1::Protocol::Tcp),
        Some((ports, "udp")) => (ports, v1::Protocol::Udp),
        Some(_) => bail!(wrong()),
        None => (text, v1::Protocol::Tcp),
    };
    let (rest, container) = ports.rsplit_once(':').with_context(wrong)?;
    let (address, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    let number = |text: &str| match text.parse::<u16>() {
        Ok(n) if n > 0 => Ok(i32::from(n)),
        _ => bail!(wrong()),
    };
    Ok(v1::PortMapping {
        protocol: protocol.into(),
        container_port: number(container)?,
        host_port: number(host)?,
        host_ip: address.to_owned(),
    })
}

/// `[LOCAL:]REMOTE`; a local port of 0, or an empty one, is any that is free.
pub(crate) fn forward(text: &str) -> Result<(u16, u16)> {
    let wrong = || format!("port {text:?}: write [LOCAL:]REMOTE");
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u16>().ok().with_context(wrong);
    let local = if local.is_empty() { 0 } else { number(local)? };
    match number(remote)? {
        0 => bail!(wrong()),
        remote => Ok((local, remote)),
    }
}

/// `SOURCE:TARGET[:ro]`.
pub(crate) fn volume(text: &str) -> Result<v1::Mount> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, readonly) = match parts.as_slice() {
        [source, target] | [source, target, "rw"] => (source, target, false),
        [source, target, "ro"] => (source, target, true),
        _ => bail!("--volume {text:?}: write SOURCE:TARGET[:ro]"),
    };
    if !target.starts_with('/') || source.is_empty() {
        bail!("--volume {text:?}: the target must be an absolute path");
    }
    let source = std::path::absolute(source).with_context(|| format!("--volume {text:?}"))?;
    Ok(v1::Mount {
        container_path: (*target).to_owned(),
        host_path: source.display().to_string(),
        readonly,
        ..Default::default()
    })
}

/// `NAME=VALUE`, or `NAME` for this process's own value.
pub(crate) fn variable(text: &str) -> Result<v1::KeyValue> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => {
            let value = std::env::var(text).with_context(|| format!("--env {text}"))?;
            (text.to_owned(), value)
        }
    };
    if key.is_empty() {
        bail!("--env {text:?}: write NAME=VALUE");
    }
    Ok(v1::KeyValue { key, value: value.into_bytes() })
}

/// `64m`, `1g`, `1048576`: bytes, by powers of 1024.
pub(crate) fn bytes(text: &str) -> Result<i64> {
    let wrong = || format!("size {text:?}: write a number with k, m or g, e.g. 64m");
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches("ib").trim_end_matches('b');
    let (number, shift) = match digits.strip_suffix(['k', 'm', 'g']) {
        Some(number) => (
            number,
            match digits.as_bytes().last() {
                Some(b'k') => 10,
                Some(b'm') => 20,
                _ => 30,
            },
        ),
        None => (digits, 0),
    };
    let number: i64 = number.parse().with_context(wrong)?;
    match number.checked_mul(1 << shift) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => bail!(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_ports() {
        for (text, ports) in [("80", (80, 80)), ("8080:80", (8080, 80)), (":80", (0, 80)), ("0:80", (0, 80))]
        {
            assert_eq!(forward(text).unwrap(), ports, "{text}");
        }
        for wrong in ["", "x", "80:", "80:0", "0", "70000", "1:2:3"] {
            assert!(forward(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports() {
        let p = port("127.0.0.1:8080:80/udp").unwrap();
        assert_eq!(
            (p.host_ip.as_str(), p.host_port, p.container_port, p.protocol),
            ("127.0.0.1", 8080, 80, 1)
        );
        let p = port("8080:80").unwrap();
        assert_eq!((p.host_ip.as_str(), p.host_port, p.protocol), ("", 8080, 0));
        for bad in ["80", "0:80", "80:70000", "80:80/sctp", "a:b", ""] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn volumes() {
        let v = volume("/a:/b:ro").unwrap();
        assert_eq!((v.host_path.as_str(), v.container_path.as_str(), v.readonly), ("/a", "/b", true));
        assert!(volume("rel:/b").unwrap().host_path.ends_with("/rel"));
        for bad in ["/a", "/a:b", ":/b", "/a:/b:x"] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        for (text, value) in
            [("64m", 64 << 20), ("1g", 1 << 30), ("1GiB", 1 << 30), ("512kb", 512 << 10), ("7", 7)]
        {
            assert_eq!(bytes(text).unwrap(), value, "{text}");
        }
        for bad in ["", "m", "-1", "0", "1t", "99999999999g"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn variables() {
        let pair = variable("A=b=c").unwrap();
        assert_eq!((pair.key.as_str(), pair.value.as_slice()), ("A", &b"b=c"[..]));
        assert!(variable("=x").is_err() && variable("GANTRY_NO_SUCH_VARIABLE").is_err());
    }
}
