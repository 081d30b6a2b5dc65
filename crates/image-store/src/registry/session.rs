//! One registry endpoint during one pull: manifests, blobs, permission.

use super::auth::{Authorization, authorize, error_text, read_limited};
use super::transport::{Scheme, Transports, USER_AGENT, chain, check_roots, is_loopback};
use crate::content::document::{ACCEPT, Blob};
use crate::content::pipe::{Chunk, Sender};
use crate::digest::Digest;
use crate::names::reference::Which;
use crate::names::registries::Endpoint;
use crate::{Credentials, Error, Limits, Result};
use futures::StreamExt;
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol, LayerDescriptor, SizedStream};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::token_cache::{RegistryToken, RegistryTokenType};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT as ACCEPT_HEADER, CONTENT_TYPE, RANGE};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// So many bytes received count as progress that makes up for an earlier failure.
const PROGRESS: u64 = 1 << 20;

/// A manifest or index as a registry gave it.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    /// Digest of the bytes.
    pub(crate) digest: Digest,
    pub(crate) content_type: Option<String>,
}

/// A conversation with one endpoint. Its credentials are never shared with another pull.
pub(crate) struct Session {
    endpoint: Endpoint,
    scheme: Scheme,
    http: reqwest::Client,
    credentials: Option<Credentials>,
    authorization: Mutex<Option<Authorization>>,
    /// Made when the first blob is wanted, and anew after a failure: permission may have run out.
    blobs: Mutex<Option<oci_client::Client>>,
    limits: Limits,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Why one attempt failed.
#[derive(Debug)]
enum Failure {
    /// No connection: another scheme may work.
    Connect(String),
    /// It may work next time.
    Passing(String),
    /// It will not.
    Final(Error),
}

impl Session {
    /// Connects to an endpoint by asking it for a manifest or index.
    pub(crate) async fn open(
        transports: &Transports,
        limits: &Limits,
        endpoint: &Endpoint,
        credentials: Option<&Credentials>,
        which: &Which,
    ) -> Result<(Self, Fetched)> {
        let credentials = credentials.filter(|c| belongs(c, endpoint));
        let schemes = Scheme::candidates(&endpoint.host, endpoint.insecure);
        let mut reasons = Vec::new();
        for scheme in schemes {
            let session = Self {
                endpoint: endpoint.clone(),
                scheme: *scheme,
                http: transports.get(*scheme, &endpoint.host, limits)?,
                credentials: credentials.cloned(),
                authorization: Mutex::new(Authorization::brought(credentials)?),
                blobs: Mutex::new(None),
                limits: limits.clone(),
            };
            match session.manifest(which).await {
                Ok(fetched) => return Ok((session, fetched)),
                Err(Failure::Connect(reason)) => reasons.push(format!("{}: {reason}", scheme.as_str())),
                Err(Failure::Passing(reason)) => {
                    reasons.push(format!("{}: {reason}", scheme.as_str()));
                    break;
                }
                // A server that wants TLS answers plain text with an error: say why TLS did not work.
                Err(Failure::Final(Error::Unavailable { reason, .. })) if !reasons.is_empty() => {
                    reasons.push(format!("{}: {reason}", scheme.as_str()));
                    break;
                }
                Err(Failure::Final(error)) => return Err(error),
            }
        }
        let object = format!("{}/{}", endpoint.host, endpoint.repository);
        Err(Error::Unavailable { object, reason: reasons.join("; ") })
    }

    /// Gets the manifest with this digest.
    pub(crate) async fn manifest_by_digest(&self, digest: &Digest) -> Result<Fetched> {
        self.manifest(&Which::Digest(digest.clone())).await.map_err(|f| self.give_up(f))
    }

    async fn manifest(&self, which: &Which) -> Result<Fetched, Failure> {
        let reference = match which {
            Which::Tag(tag) => tag.as_str(),
            Which::Digest(digest) => digest.as_str(),
        };
        let url = self.url("manifests", reference);
        let what = format!("manifest {reference}");
        let mut pauses = Pauses::new(&self.limits);
        loop {
            let failure = match self.manifest_once(&url, &what, which).await {
                Err(Failure::Passing(reason)) => reason,
                result => return result,
            };
            pauses.next(failure).await.map_err(Failure::Passing)?;
        }
    }

    async fn manifest_once(&self, url: &str, what: &str, which: &Which) -> Result<Fetched, Failure> {
        let response = self.get(url, what, None).await?;
        let header =
            |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (content_type, claimed) = (header(CONTENT_TYPE.as_str()), header("docker-content-digest"));
        let bytes = read_limited(response, self.limits.manifest_bytes).await.map_err(|reason| {
            if reason.starts_with("it sends more") {
                Failure::Final(Error::corrupt(self.name(what), reason))
            } else {
                Failure::Passing(reason)
            }
        })?;
        let digest = Digest::of(&bytes);
        let asked = match which {
            Which::Digest(asked) => Some(asked.to_string()),
            Which::Tag(_) => claimed.filter(|c| c.starts_with("sha256:")),
        };
        if let Some(asked) = asked.filter(|a| a != digest.as_str()) {
            let reason = format!("the content has digest {digest} instead of {asked}");
            return Err(Failure::Final(Error::corrupt(self.name(what), reason)));
        }
        let content_type = content_type.map(|t| t.split(';').next().unwrap_or_default().trim().to_owned());
        Ok(Fetched { bytes, digest, content_type })
    }

    /// Sends a blob's bytes through a pipe, from where it broke off if it has to try again. Digests are
    /// for the reader to check. `false` when the reader has gone.
    pub(crate) async fn blob(&self, blob: &Blob, pipe: &Sender, mut seen: impl FnMut(u64)) -> Result<bool> {
        let what = format!("blob {}", blob.digest);
        let mut pauses = Pauses::new(&self.limits);
        let (mut offset, mut since) = (0, 0);
        while offset < blob.size {
            let attempt = self.blob_once(blob, &what, &mut offset, pipe, &mut seen).await;
            match attempt {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Connect(reason) | Failure::Passing(reason)) => {
                    if offset - since >= PROGRESS {
                        pauses = Pauses::new(&self.limits);
                    }
                    since = offset;
                    *self.blobs.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    pauses.next(reason).await.map_err(|r| self.unavailable(format!("{what}: {r}")))?;
                }
            }
        }
        Ok(pipe.send(Chunk::End).await.is_ok())
    }

    async fn blob_once(
        &self,
        blob: &Blob,
        what: &str,
        offset: &mut u64,
        pipe: &Sender,
        seen: &mut impl FnMut(u64),
    ) -> Result<bool, Failure> {
        let client = self.client().await.map_err(Failure::Final)?;
        let (mut stream, start) = self.open_blob(&client, blob, what, *offset).await?;
        // What the server says it will send must be what is missing.
        if let Some(length) = stream.content_length
            && start + length != blob.size
        {
            let reason =
                format!("the registry has {} bytes, the manifest says {}", start + length, blob.size);
            return Err(Failure::Final(Error::corrupt(self.name(what), reason)));
        }
        let mut skip = *offset - start;
        loop {
            let next = tokio::time::timeout(self.limits.stall, stream.next()).await;
            let mut bytes = match next {
                Err(_) => return Err(Failure::Passing(format!("nothing came for {:?}", self.limits.stall))),
                Ok(Some(Ok(bytes))) => bytes,
                Ok(Some(Err(e))) => return Err(Failure::Passing(chain(&e))),
                Ok(None) => {
                    let reason = format!("it ends after {offset} of {} bytes", blob.size);
                    return Err(Failure::Final(Error::corrupt(self.name(what), reason)));
                }
            };
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
            skip -= known as u64;
            let bytes = bytes.split_off(known);
            if bytes.is_empty() {
                continue;
            }
            *offset += bytes.len() as u64;
            if *offset > blob.size {
                let reason = format!("it is longer than the {} bytes that the manifest says", blob.size);
                return Err(Failure::Final(Error::corrupt(self.name(what), reason)));
            }
            seen(bytes.len() as u64);
            if pipe.send(Chunk::Data(bytes)).await.is_err() {
                return Ok(false);
            }
            if *offset == blob.size {
                return Ok(true);
            }
        }
    }

    /// Starts to read a blob at `offset`; also says where the answer starts.
    async fn open_blob(
        &self,
        client: &oci_client::Client,
        blob: &Blob,
        what: &str,
        offset: u64,
    ) -> Result<(SizedStream, u64), Failure> {
        // After an error status, oci-client would read the error's text into memory, whatever its
        // length. An address that cannot be parsed makes it drop the answer unread instead.
        let nowhere = Some(vec![String::new()]);
        let layer = LayerDescriptor { digest: blob.digest.as_str(), urls: &nowhere };
        let reference = self.reference(&blob.digest);
        let call = client.pull_blob_stream_partial(&reference, &layer, offset, None);
        let Ok(answer) = tokio::time::timeout(self.limits.stall, call).await else {
            return Err(Failure::Passing(format!("no answer for {:?}", self.limits.stall)));
        };
        match answer {
            Ok(BlobResponse::Full(stream)) => Ok((stream, 0)),
            Ok(BlobResponse::Partial(stream)) => Ok((stream, offset)),
            Err(OciDistributionError::UrlParseError(_)) => {
                // Ask once more to learn the status; permission is renewed on the way.
                let url = self.url("blobs", blob.digest.as_str());
                self.get(&url, what, Some(offset)).await?;
                Err(Failure::Passing("it failed once".into()))
            }
            Err(OciDistributionError::RequestError(e)) => Err(Failure::Passing(chain(&e.without_url()))),
            Err(other) => Err(Failure::Passing(chain(&other))),
        }
    }

    /// Reads a small blob as a whole and verifies it.
    pub(crate) async fn small_blob(&self, blob: &Blob, limit: u64, what: &str) -> Result<Vec<u8>> {
        let object = || format!("{what} {}", blob.digest);
        if blob.size > limit {
            return Err(Error::corrupt(object(), format!("{} bytes are more than {limit}", blob.size)));
        }
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let collect = async {
            let mut bytes = Vec::new();
            while let Some(Chunk::Data(chunk)) = receiver.recv().await {
                bytes.extend_from_slice(&chunk);
            }
            bytes
        };
        let (sent, bytes) = futures::join!(
            async {
                let sent = self.blob(blob, &sender, |_| {}).await;
                drop(sender);
                sent
            },
            collect
        );
        sent?;
        let digest = Digest::of(&bytes);
        if digest != blob.digest {
            return Err(Error::corrupt(object(), format!("the content has digest {digest}")));
        }
        Ok(bytes)
    }

    /// One GET that answered with success. Gets permission if the registry wants it.
    async fn get(&self, url: &str, what: &str, from: Option<u64>) -> Result<reqwest::Response, Failure> {
        let mut asked_for_permission = false;
        loop {
            let authorization = self.authorization();
            let mut request = Authorization::apply(authorization.as_ref(), self.http.get(url));
            request = match from {
                Some(offset) => request.header(RANGE, format!("bytes={offset}-")),
                None => request.header(ACCEPT_HEADER, ACCEPT.join(", ")),
            };
            let response = match request.send().await {
                Ok(response) => response,
                Err(e) if e.is_connect() => return Err(Failure::Connect(chain(&e.without_url()))),
                Err(e) => return Err(Failure::Passing(chain(&e.without_url()))),
            };
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if status == StatusCode::UNAUTHORIZED && !asked_for_permission {
                asked_for_permission = true;
                let answer = authorize(
                    &self.http,
                    self.scheme,
                    &self.endpoint,
                    self.credentials.as_ref(),
                    response.headers(),
                );
                let granted = answer.await.map_err(Failure::Final)?;
                *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(granted);
                continue;
            }
            let text = error_text(response).await;
            return Err(self.refused(status, what, &text));
        }
    }

    fn refused(&self, status: StatusCode, what: &str, text: &str) -> Failure {
        let reason = format!("{}: {status} {text}", self.endpoint.host);
        let object = self.name(what);
        match status {
            StatusCode::NOT_FOUND => Failure::Final(Error::not_found(object, reason)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Failure::Final(Error::Unauthorized { object, reason })
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                Failure::Final(Error::corrupt(object, "it is shorter than the manifest says".to_owned()))
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Failure::Passing(reason),
            status if status.is_server_error() => Failure::Passing(reason),
            _ => Failure::Final(Error::Unavailable { object, reason }),
        }
    }

    fn authorization(&self) -> Option<Authorization> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An oci-client that carries this session's permission and nobody else's.
    async fn client(&self) -> Result<oci_client::Client> {
        if let Some(client) = &*self.blobs.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(client.clone());
        }
        check_roots().map_err(|reason| self.unavailable(reason))?;
        let plain = self.scheme == Scheme::Http;
        let proxied = !is_loopback(&self.endpoint.host);
        // A proxy for nobody switches off the proxies of the environment; the star stands for names only.
        let no_proxy = (!proxied).then(|| "*,0.0.0.0/0,::/0".to_owned());
        let proxy = (!proxied).then(|| "http://127.0.0.1".to_owned());
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            accept_invalid_certificates: self.scheme != Scheme::Https,
            platform_resolver: None,
            read_timeout: Some(self.limits.stall),
            connect_timeout: Some(self.limits.stall),
            user_agent: USER_AGENT,
            https_proxy: proxy.clone(),
            http_proxy: proxy,
            no_proxy,
            ..ClientConfig::default()
        };
        let client = oci_client::Client::try_from(config).map_err(|e| self.unavailable(chain(&e)))?;
        let any = self.reference(&Digest::of(b""));
        let operation = oci_client::RegistryOperation::Pull;
        match self.authorization() {
            None => {}
            Some(Authorization::Basic(user, password)) => {
                let auth = RegistryAuth::Basic(user.clone(), password.clone());
                client.store_auth_if_needed(&self.endpoint.host, &auth).await;
                client.tokens.insert(&any, operation, RegistryTokenType::Basic(user, password)).await;
            }
            Some(Authorization::Bearer(token)) => {
                let auth = RegistryAuth::Bearer(token.clone());
                client.store_auth_if_needed(&self.endpoint.host, &auth).await;
                let token = RegistryTokenType::Bearer(RegistryToken::Token { token });
                client.tokens.insert(&any, operation, token).await;
            }
        }
        *self.blobs.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    fn reference(&self, digest: &Digest) -> oci_client::Reference {
        let (host, repository) = (self.endpoint.host.clone(), self.endpoint.repository.clone());
        oci_client::Reference::with_digest(host, repository, digest.to_string())
    }

    fn url(&self, kind: &str, reference: &str) -> String {
        let Endpoint { host, repository, .. } = &self.endpoint;
        format!("{}://{host}/v2/{repository}/{kind}/{reference}", self.scheme.as_str())
    }

    fn name(&self, what: &str) -> String {
        format!("{what} of {}/{}", self.endpoint.host, self.endpoint.repository)
    }

    fn unavailable(&self, reason: String) -> Error {
        let object = format!("{}/{}", self.endpoint.host, self.endpoint.repository);
        Error::Unavailable { object, reason }
    }

    fn give_up(&self, failure: Failure) -> Error {
        match failure {
            Failure::Connect(reason) | Failure::Passing(reason) => self.unavailable(reason),
            Failure::Final(error) => error,
        }
    }
}

/// Whether credentials are meant for an endpoint.
fn belongs(credentials: &Credentials, endpoint: &Endpoint) -> bool {
    let Some(address) = credentials.server_address.as_deref().filter(|a| !a.is_empty()) else {
        return endpoint.trusted;
    };
    // Docker's configuration has whole addresses here, with a scheme and a path.
    let host = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    let hub = ["docker.io", "index.docker.io", "registry-1.docker.io"];
    host == endpoint.host || (hub.contains(&host) && hub.contains(&endpoint.host.as_str()))
}

/// How long to wait before trying again, and how often.
struct Pauses {
    left: u32,
    pause: Duration,
}

impl Pauses {
    fn new(limits: &Limits) -> Self {
        Self { left: limits.retries, pause: limits.retry_pause }
    }

    /// Waits; gives the reason back when there was the last attempt.
    async fn next(&mut self, reason: String) -> Result<(), String> {
        if self.left == 0 {
            return Err(reason);
        }
        self.left -= 1;
        tracing::debug!(reason, pause = ?self.pause, "asking the registry again");
        tokio::time::sleep(self.pause).await;
        self.pause = self.pause.saturating_mul(2);
        Ok(())
    }
}
