//! Getting permission from a registry: Basic, or a bearer token from its token service
//! (distribution, "Token Authentication Specification" and "Oauth2 Token Authentication").

use super::transport::{Scheme, chain};
use crate::names::registries::Endpoint;
use crate::{Credentials, Error, Result};
use base64::Engine;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use serde::Deserialize;
use std::fmt;

/// Bytes of a token service's answer.
const MAX_ANSWER: u64 = 256 << 10;
/// Bytes of an error text that are worth reading.
const MAX_ERROR: u64 = 64 << 10;
/// Name of this client at token services.
const CLIENT_ID: &str = "gantry";

/// What is sent with each request to one registry.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Authorization {
    Basic(String, String),
    Bearer(String),
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic(..) => "Basic(<redacted>)",
            Self::Bearer(_) => "Bearer(<redacted>)",
        })
    }
}

impl Authorization {
    /// Puts it on a request.
    pub(super) fn apply(this: Option<&Self>, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match this {
            None => request,
            Some(Self::Basic(user, password)) => request.basic_auth(user, Some(password)),
            Some(Self::Bearer(token)) => request.bearer_auth(token),
        }
    }

    /// What can be sent without being asked: a token that the caller brought.
    pub(super) fn brought(credentials: Option<&Credentials>) -> Result<Option<Self>> {
        match credentials.and_then(|c| c.registry_token.as_deref()).filter(|t| !t.is_empty()) {
            Some(token) => checked_bearer("registry_token", token.to_owned()).map(Some),
            None => Ok(None),
        }
    }
}

/// One challenge of a `WWW-Authenticate` header (RFC 9110, section 11.6.1).
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    /// Lower case.
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// Answers the challenge of a registry that said 401.
pub(super) async fn authorize(
    http: &reqwest::Client,
    scheme: Scheme,
    endpoint: &Endpoint,
    credentials: Option<&Credentials>,
    headers: &HeaderMap,
) -> Result<Authorization> {
    let Endpoint { host, repository, .. } = endpoint;
    let object = || format!("{host}/{repository}");
    let denied = |reason: String| Error::Unauthorized { object: object(), reason };
    let challenges: Vec<Challenge> =
        headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()).flat_map(parse).collect();
    let login = credentials.map(login).transpose()?.flatten();
    let Some(bearer) = challenges.iter().find(|c| c.scheme == "bearer" && c.get("realm").is_some()) else {
        if !challenges.iter().any(|c| c.scheme == "basic") {
            return Err(denied("the registry asks for a way to log in that is not known".into()));
        }
        let (user, password) = login.ok_or_else(|| denied("the registry wants credentials".into()))?;
        return Ok(Authorization::Basic(user, password));
    };
    let realm = bearer.get("realm").unwrap_or_default();
    if scheme == Scheme::Https && !realm.starts_with("https://") {
        return Err(denied(format!("its token service {realm:?} is not reached by https")));
    }
    let scope = format!("repository:{repository}:pull");
    let service = bearer.get("service").unwrap_or_default();
    let refresh = credentials.and_then(|c| c.identity_token.as_deref()).filter(|t| !t.is_empty());
    let mut url = reqwest::Url::parse(realm)
        .map_err(|e| denied(format!("the address of its token service {realm:?} is broken: {e}")))?;
    let request = match refresh {
        Some(token) => {
            let fields = [
                ("grant_type", "refresh_token"),
                ("service", service),
                ("scope", &scope),
                ("client_id", CLIENT_ID),
                ("refresh_token", token),
            ];
            http.post(url)
                .header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form(&fields))
        }
        None => {
            url.query_pairs_mut().append_pair("service", service).append_pair("scope", &scope);
            let request = http.get(url);
            match &login {
                Some((user, password)) => request.basic_auth(user, Some(password)),
                None => request,
            }
        }
    };
    let unreachable = |e: reqwest::Error| Error::Unavailable {
        object: object(),
        reason: format!("token service {realm}: {}", chain(&e.without_url())),
    };
    let response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    if !status.is_success() {
        let text = error_text(response).await;
        let reason = format!("token service {realm} answers {status}: {text}");
        return Err(if status.is_client_error() && status != reqwest::StatusCode::TOO_MANY_REQUESTS {
            denied(reason)
        } else {
            Error::Unavailable { object: object(), reason }
        });
    }
    let body = read_limited(response, MAX_ANSWER).await.map_err(|reason| Error::Unavailable {
        object: object(),
        reason: format!("token service {realm}: {reason}"),
    })?;
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|e| denied(format!("token service {realm} gave no token: {e}")))?;
    let token = answer.token.or(answer.access_token).filter(|t| !t.is_empty());
    let token = token.ok_or_else(|| denied(format!("token service {realm} gave no token")))?;
    checked_bearer(realm, token)
}

/// A token goes into a header: it must not be able to make another header of it.
fn checked_bearer(origin: &str, token: String) -> Result<Authorization> {
    if token.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(Authorization::Bearer(token));
    }
    Err(Error::Unauthorized {
        object: format!("token of {origin}"),
        reason: "it holds characters that a token cannot have".into(),
    })
}

/// User and password, however they are given.
fn login(credentials: &Credentials) -> Result<Option<(String, String)>> {
    if let Some(user) = credentials.username.clone().filter(|u| !u.is_empty()) {
        return Ok(Some((user, credentials.password.clone().unwrap_or_default())));
    }
    let Some(encoded) = credentials.auth.as_deref().filter(|a| !a.is_empty()) else { return Ok(None) };
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(encoded.trim())
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let parts = decoded.as_deref().and_then(|text| text.split_once(':'));
    let Some((user, password)) = parts else {
        return Err(Error::Unauthorized {
            object: "credentials".into(),
            reason: "\"auth\" is not base64 of user:password".into(),
        });
    };
    // Some programs pad the password with NULs.
    Ok(Some((user.to_owned(), password.trim_end_matches('\0').to_owned())))
}

/// Splits a header into challenges.
fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let end = rest.find([' ', ',', '=']).unwrap_or(rest.len());
        let word = &rest[..end];
        let after = rest[end..].trim_start();
        if let Some(text) = after.strip_prefix('=') {
            let (value, remaining) = value(text.trim_start());
            if let Some(challenge) = challenges.last_mut() {
                challenge.parameters.push((word.to_ascii_lowercase(), value));
            }
            rest = remaining;
        } else {
            challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
            rest = after;
        }
        rest = rest.trim_start_matches([' ', ',']);
    }
    challenges
}

/// A token or quoted string at the start of `text`, and what follows.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut out = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (out, &quoted[at + 1..]),
            '\\' => out.extend(characters.next().map(|(_, escaped)| escaped)),
            other => out.push(other),
        }
    }
    (out, "")
}

/// `application/x-www-form-urlencoded`.
fn form(fields: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (key, value) in fields {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(key);
        out.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    out
}

/// Reads a body that must not be longer than `limit`.
pub(super) async fn read_limited(mut response: reqwest::Response, limit: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| chain(&e.without_url()))? {
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(format!("it sends more than {limit} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// What a registry says about an error, for people: its own message if it has the usual form.
pub(super) async fn error_text(response: reqwest::Response) -> String {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(body) = read_limited(response, MAX_ERROR).await else { return "(no readable text)".into() };
    let text = match serde_json::from_slice::<Envelope>(&body) {
        Ok(envelope) => {
            let items = envelope.errors.iter().map(|i| format!("{} {}", i.code, i.message));
            items.collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::from_utf8_lossy(&body).into_owned(),
    };
    let printable: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
    printable.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_split() {
        let text =
            r#"Bearer realm="https://auth.example/token",service="reg\"istry",scope="a,b", Basic realm=x"#;
        let all = parse(text);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].scheme, "bearer");
        assert_eq!(all[0].get("realm"), Some("https://auth.example/token"));
        assert_eq!(all[0].get("service"), Some("reg\"istry"));
        assert_eq!(all[0].get("scope"), Some("a,b"));
        assert_eq!((all[1].scheme.as_str(), all[1].get("realm")), ("basic", Some("x")));
        for odd in ["", ",,,", "=", "Bearer realm=\"open", "a=b", "Negotiate", "Bearer =,= ="] {
            parse(odd);
        }
        assert_eq!(parse("NTLM, Basic").len(), 2);
    }

    #[test]
    fn logins_come_in_several_forms() {
        let plain = Credentials {
            username: Some("u".into()),
            password: Some("p:w".into()),
            auth: Some("ignored".into()),
            ..Credentials::default()
        };
        assert_eq!(login(&plain).unwrap(), Some(("u".into(), "p:w".into())));
        let encoded = |text: &[u8]| Credentials {
            auth: Some(base64::engine::general_purpose::STANDARD.encode(text)),
            ..Credentials::default()
        };
        assert_eq!(login(&encoded(b"u:p:w\0\0")).unwrap(), Some(("u".into(), "p:w".into())));
        assert!(login(&encoded(b"no colon")).is_err());
        let broken = Credentials { auth: Some("%%%".into()), ..Credentials::default() };
        assert!(!login(&broken).unwrap_err().to_string().contains("%%%"));
        assert_eq!(login(&Credentials::default()).unwrap(), None);
    }

    #[test]
    fn secrets_are_not_printed() {
        let basic = Authorization::Basic("user".into(), "secret".into());
        assert!(!format!("{basic:?}{:?}", Authorization::Bearer("secret".into())).contains("secret"));
        assert!(checked_bearer("x", "a\r\nX-Evil: 1".into()).is_err());
        assert_eq!(form(&[("a", "b c&d"), ("e", "~")]), "a=b%20c%26d&e=~");
    }
}
