//! Which protocol is spoken: choices from the headers of a request.

use crate::websocket::Coding;
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{Response, StatusCode};

/// Names SPDY clients' protocol versions and our choice.
pub(crate) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// Names what we would accept, where a client offers nothing of it.
pub(crate) const ACCEPTED_VERSIONS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");

/// Version of the stream protocol of exec and attach over SPDY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// Resets the error stream and closes stdin at once, as the first kubelets did.
    V1,
    /// Streams live until they are closed.
    V2,
    /// Terminals can be resized.
    V3,
    /// The end is told as JSON.
    V4,
}

/// Exec and attach over SPDY, newest first.
pub(crate) const VERSIONS: [(&str, Version); 4] = [
    ("v4.channel.k8s.io", Version::V4),
    ("v3.channel.k8s.io", Version::V3),
    ("v2.channel.k8s.io", Version::V2),
    ("channel.k8s.io", Version::V1),
];

/// Port-forward over SPDY.
pub(crate) const PORT_FORWARD: [(&str, ()); 1] = [("portforward.k8s.io", ())];

/// How channels over WebSocket look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Channel {
    pub(crate) coding: Coding,
    /// The end is told as JSON.
    pub(crate) json_status: bool,
}

const fn channel(base64: bool, v5: bool, json_status: bool) -> Channel {
    Channel { coding: Coding { base64, v5, tells_ends: false }, json_status }
}

/// Exec and attach over WebSocket; a client that names none speaks the first version.
pub(crate) const SOCKET_VERSIONS: [(&str, Channel); 6] = [
    ("", channel(false, false, false)),
    ("channel.k8s.io", channel(false, false, false)),
    ("base64.channel.k8s.io", channel(true, false, false)),
    ("v4.channel.k8s.io", channel(false, false, true)),
    ("v4.base64.channel.k8s.io", channel(true, false, true)),
    ("v5.channel.k8s.io", channel(false, true, true)),
];

/// What carries port-forward over WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortSocket {
    /// Two channels for each port of the request.
    Channels(Coding),
    /// SPDY in binary messages.
    Tunnel,
}

const fn ports(base64: bool, v5: bool) -> PortSocket {
    PortSocket::Channels(Coding { base64, v5, tells_ends: v5 })
}

/// Port-forward over WebSocket.
pub(crate) const PORT_SOCKETS: [(&str, PortSocket); 6] = [
    ("", ports(false, false)),
    ("portforward.k8s.io", ports(false, false)),
    ("v4.channel.k8s.io", ports(false, false)),
    ("v4.base64.channel.k8s.io", ports(true, false)),
    ("v5.channel.k8s.io", ports(false, true)),
    ("SPDY/3.1+portforward.k8s.io", PortSocket::Tunnel),
];

/// A request that cannot be upgraded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
    pub(crate) accepted: Vec<&'static str>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), accepted: Vec::new() }
    }

    pub(crate) fn response(self) -> Response<String> {
        let mut response = Response::new(self.text + "\n");
        *response.status_mut() = self.status;
        // One request each: a connection is upgraded or over. (Turning keep-alive off in the server would
        // put "close" into the answers to upgrades, too, which Go's clients then do not take for one.)
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        for name in self.accepted {
            response.headers_mut().append(ACCEPTED_VERSIONS, HeaderValue::from_static(name));
        }
        response
    }
}

/// Whether the request asks to become a WebSocket.
pub(crate) fn is_websocket(headers: &HeaderMap) -> bool {
    has_token(headers, CONNECTION, "upgrade") && has_token(headers, UPGRADE, "websocket")
}

/// The SPDY version that both know: the first of the client's list.
pub(crate) fn spdy<T: Copy>(
    headers: &HeaderMap,
    known: &[(&'static str, T)],
) -> Result<(&'static str, T), Refusal> {
    let offered: Vec<&str> = tokens(headers, PROTOCOL_VERSION).filter(|t| !t.is_empty()).collect();
    if offered.is_empty() {
        let text = "unable to upgrade: X-Stream-Protocol-Version is required";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    }
    let Some(chosen) = first(&offered, known) else {
        let accepted: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        let text = format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {accepted:?}"
        );
        return Err(Refusal { status: StatusCode::FORBIDDEN, text, accepted });
    };
    if !has_token(headers, CONNECTION, "upgrade") || !has_token(headers, UPGRADE, "spdy/3.1") {
        let text = "unable to upgrade: the request has no \"Connection: Upgrade\" with \"Upgrade: SPDY/3.1\"";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    }
    Ok(chosen)
}

/// The WebSocket subprotocol that both know; the empty name if the client names none.
pub(crate) fn socket<T: Copy>(
    headers: &HeaderMap,
    known: &[(&'static str, T)],
) -> Result<(&'static str, T), Refusal> {
    let mut offered: Vec<&str> = tokens(headers, SEC_WEBSOCKET_PROTOCOL).filter(|t| !t.is_empty()).collect();
    if offered.is_empty() {
        offered.push("");
    }
    first(&offered, known).ok_or_else(|| {
        let accepted: Vec<_> = known.iter().map(|(name, _)| *name).filter(|n| !n.is_empty()).collect();
        let text = format!("no common subprotocol: client supports {offered:?}, server accepts {accepted:?}");
        Refusal::new(StatusCode::FORBIDDEN, text)
    })
}

fn first<T: Copy>(offered: &[&str], known: &[(&'static str, T)]) -> Option<(&'static str, T)> {
    offered.iter().find_map(|name| known.iter().find(|(k, _)| k == name).copied())
}

fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|value| value.split(',').map(str::trim))
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|t| t.eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    const UP: (&str, &str) = ("connection", "keep-alive, Upgrade");
    const SPDY: (&str, &str) = ("upgrade", "SPDY/3.1");

    #[test]
    fn the_first_of_the_clients_that_is_known_is_taken() {
        for (offered, taken) in [
            (vec!["v4.channel.k8s.io"], Some("v4.channel.k8s.io")),
            (vec!["v9.channel.k8s.io, v2.channel.k8s.io", "v4.channel.k8s.io"], Some("v2.channel.k8s.io")),
            (vec!["channel.k8s.io,v4.channel.k8s.io"], Some("channel.k8s.io")),
            (vec!["v9.channel.k8s.io"], None),
        ] {
            let mut pairs = vec![UP, SPDY];
            pairs.extend(offered.iter().map(|o| ("x-stream-protocol-version", *o)));
            match (spdy(&headers(&pairs), &VERSIONS), taken) {
                (Ok((name, _)), Some(taken)) => assert_eq!(name, taken),
                (Err(refusal), None) => {
                    assert_eq!((refusal.status.as_u16(), refusal.accepted.len()), (403, 4));
                }
                other => panic!("{offered:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn handshakes_that_lack_something_are_refused() {
        let version = ("x-stream-protocol-version", "v4.channel.k8s.io");
        for pairs in [vec![UP, SPDY], vec![version], vec![UP, version], vec![SPDY, version]] {
            assert_eq!(spdy(&headers(&pairs), &VERSIONS).unwrap_err().status.as_u16(), 400, "{pairs:?}");
        }
    }

    #[test]
    fn websockets_without_a_protocol_speak_the_first() {
        let request = headers(&[UP, ("upgrade", "websocket")]);
        assert!(is_websocket(&request));
        assert_eq!(socket(&request, &SOCKET_VERSIONS).unwrap().0, "");
        let five = headers(&[("sec-websocket-protocol", "v5.channel.k8s.io")]);
        assert!(socket(&five, &SOCKET_VERSIONS).unwrap().1.coding.v5);
        let none = headers(&[("sec-websocket-protocol", "chat")]);
        assert_eq!(socket(&none, &SOCKET_VERSIONS).unwrap_err().status.as_u16(), 403);
    }
}
