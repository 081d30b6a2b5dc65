//! HTTP clients: one for verified TLS, one for registries that are marked insecure.

use crate::{Error, Limits, Result};
use reqwest::redirect::{Attempt, Policy};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Redirects that one request follows.
const MAX_REDIRECTS: usize = 10;
pub(crate) const USER_AGENT: &str = concat!("gantry/", env!("CARGO_PKG_VERSION"));

/// How a registry is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    /// TLS with a verified certificate.
    Https,
    /// TLS with any certificate.
    HttpsUnverified,
    /// No TLS.
    Http,
}

impl Scheme {
    /// What to try for a host, in order.
    pub(crate) fn candidates(host: &str, insecure: bool) -> &'static [Self] {
        if insecure {
            &[Self::HttpsUnverified, Self::Http]
        } else if is_loopback(host) {
            &[Self::Https, Self::Http]
        } else {
            &[Self::Https]
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Https | Self::HttpsUnverified => "https",
            Self::Http => "http",
        }
    }
}

/// Whether a `host[:port]` is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|a| a.is_loopback())
}

/// Clients that were needed so far; they hold connections, not credentials.
#[derive(Debug, Default)]
pub(crate) struct Transports {
    known: Mutex<Vec<((Scheme, bool), reqwest::Client)>>,
}

impl Transports {
    /// The client for a host.
    pub(crate) fn get(&self, scheme: Scheme, host: &str, limits: &Limits) -> Result<reqwest::Client> {
        install_crypto();
        // A proxy has no business between this machine and itself.
        let key = (scheme, is_loopback(host));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = known.iter().find(|(k, _)| *k == key) {
            return Ok(client.clone());
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(limits.stall)
            .read_timeout(limits.stall)
            .redirect(Policy::custom(follow));
        // Without TLS there is nothing to verify, and no root certificates need to be loaded.
        if scheme != Scheme::Https {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        if key.1 {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|e| Error::Unavailable {
            object: format!("registry {host}"),
            reason: format!("cannot set up {}: {}", scheme.as_str(), chain(&e)),
        })?;
        known.push((key, client.clone()));
        Ok(client)
    }
}

/// Chooses the one TLS implementation of the process; a choice made before stays.
fn install_crypto() {
    let provider: Arc<rustls::crypto::CryptoProvider> = match rustls::crypto::CryptoProvider::get_default() {
        Some(_) => return,
        None => Arc::new(rustls::crypto::ring::default_provider()),
    };
    // Another thread may have been faster; then its choice holds.
    let _ = Arc::unwrap_or_clone(provider).install_default();
}

/// Whether this host has root certificates. oci-client makes a client with defaults beside the one that is asked
/// for, also where no certificate is verified, and panics when that fails: ask before.
///
/// # Errors
///
/// The reason, and what to do, in words.
pub(crate) fn check_roots() -> std::result::Result<(), String> {
    static FOUND: OnceLock<()> = OnceLock::new();
    if FOUND.get().is_none() {
        install_crypto();
        reqwest::Client::builder()
            .build()
            .map_err(|e| format!("cannot set up TLS: {}; install ca-certificates", chain(&e)))?;
        // Somebody else may have found them at the same time.
        let _found = FOUND.set(());
    }
    Ok(())
}

/// Follows redirects, but never from TLS to plain text.
fn follow(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let was_tls = attempt.previous().last().is_some_and(|u| u.scheme() == "https");
    if was_tls && attempt.url().scheme() != "https" {
        return attempt.error("redirected from https to http");
    }
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error("too many redirects");
    }
    attempt.follow()
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_and_insecure_registries_only() {
        use Scheme::{Http, Https, HttpsUnverified};
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"] {
            assert_eq!(Scheme::candidates(host, false), [Https, Http], "{host}");
        }
        for host in ["localhost.example", "128.0.0.1", "[::2]:5000", "127.0.0.1.example:5000", "example.com"]
        {
            assert_eq!(Scheme::candidates(host, false), [Https], "{host}");
            assert_eq!(Scheme::candidates(host, true), [HttpsUnverified, Http], "{host}");
        }
    }
}
