//! Tokens: who knows one may take the request behind it, once and for a short time.

use crate::endpoint::{AttachRequest, ExecRequest, PortForwardRequest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

/// Random bytes of a token.
const BYTES: usize = 16;

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Exec(ExecRequest),
    Attach(AttachRequest),
    PortForward(PortForwardRequest),
}

impl Request {
    /// First part of the path in the request's URL.
    pub(crate) fn path(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("{0} streaming requests wait for their client already; retry later")]
    Full(usize),
    #[error("getrandom: {0}; no token without random bytes")]
    Random(#[source] rustix::io::Errno),
}

/// Requests that wait for their client, oldest first.
#[derive(Debug)]
pub(crate) struct Tokens {
    life: Duration,
    most: usize,
    waiting: Mutex<VecDeque<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    token: [u8; BYTES],
    until: Instant,
    request: Request,
}

impl Tokens {
    pub(crate) fn new(life: Duration, most: usize) -> Self {
        Self { life, most, waiting: Mutex::default() }
    }

    /// Makes a token for `request`.
    pub(crate) fn put(&self, request: Request) -> Result<String, TokenError> {
        let mut token = [0; BYTES];
        // The kernel fills up to 256 bytes in one call.
        rustix::rand::getrandom(&mut token, rustix::rand::GetRandomFlags::empty())
            .map_err(TokenError::Random)?;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        waiting.retain(|w| w.until > now);
        if waiting.len() >= self.most {
            return Err(TokenError::Full(self.most));
        }
        waiting.push_back(Waiting { token, until: now + self.life, request });
        Ok(URL_SAFE_NO_PAD.encode(token))
    }

    /// Takes the request behind `token` if it is one for `path`. Every token is compared, completely.
    pub(crate) fn take(&self, path: &str, token: &str) -> Option<Request> {
        let token: [u8; BYTES] = URL_SAFE_NO_PAD.decode(token).ok()?.try_into().ok()?;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        waiting.retain(|w| w.until > now);
        let mut found = None;
        for (index, one) in waiting.iter().enumerate() {
            if bool::from(one.token.ct_eq(&token)) && one.request.path() == path {
                found = Some(index);
            }
        }
        waiting.remove(found?).map(|w| w.request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request::PortForward(PortForwardRequest { pod: "p".into(), ports: Vec::new() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_good_once_for_its_purpose_and_a_minute() {
        let tokens = Tokens::new(Duration::from_secs(60), 2);
        let token = tokens.put(request()).unwrap();
        assert_eq!(token.len(), 22);
        assert_eq!(tokens.take("exec", &token), None);
        assert_eq!(tokens.take("portforward", &token), Some(request()));
        assert_eq!(tokens.take("portforward", &token), None);
        for wrong in ["", "x", "AAAAAAAAAAAAAAAAAAAAAA", "../../etc", &token[..21]] {
            assert_eq!(tokens.take("portforward", wrong), None, "{wrong}");
        }
        let late = tokens.put(request()).unwrap();
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(tokens.take("portforward", &late), None);
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_are_refused_until_old_ones_are_over() {
        let tokens = Tokens::new(Duration::from_secs(60), 2);
        tokens.put(request()).unwrap();
        tokens.put(request()).unwrap();
        assert!(tokens.put(request()).unwrap_err().to_string().contains("retry"));
        tokio::time::advance(Duration::from_secs(61)).await;
        tokens.put(request()).unwrap();
    }
}
