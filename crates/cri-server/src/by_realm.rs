//! The CRI services of both realms on one socket: a header says which one a call is about.
//!
//! The kubelet's socket has one realm and no header. On the local socket the command line reads both realms
//! and, when its user insists, ends what the kubelet made. It never makes anything in the kubelet's realm: the
//! kubelet would take it away again.

use gantry_cri_api::REALM_HEADER;
use gantry_pod_sandbox::Realm;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::server::NamedService;
use tower::Service;

/// Calls that make something, by the last part of their path.
const CREATES: [&str; 4] = ["RunPodSandbox", "CreateContainer", "StartContainer", "PullImage"];

/// One service of each realm.
#[derive(Debug, Clone)]
pub(crate) struct ByRealm<S> {
    pub(crate) cri: S,
    pub(crate) local: S,
}

impl<S: NamedService> NamedService for ByRealm<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<Request<B>> for ByRealm<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        match self.cri.poll_ready(context) {
            Poll::Ready(Ok(())) => self.local.poll_ready(context),
            other => other,
        }
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match realm(request.headers(), request.uri().path()) {
            Ok(Realm::Cri) => Box::pin(self.cri.call(request)),
            Ok(Realm::Local) => Box::pin(self.local.call(request)),
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}

/// The realm that a call is about.
fn realm(headers: &HeaderMap, path: &str) -> Result<Realm, Status> {
    let method = path.rsplit('/').next().unwrap_or_default();
    let name = headers.get(REALM_HEADER).map_or(Ok(""), |v| v.to_str()).unwrap_or("?");
    match named(name)? {
        Realm::Cri if CREATES.contains(&method) => Err(Status::failed_precondition(format!(
            "{method}: in the realm cri only the kubelet makes things, by its own socket"
        ))),
        realm => Ok(realm),
    }
}

/// The realm of that name; empty means the local one.
pub(crate) fn named(name: &str) -> Result<Realm, Status> {
    match name {
        "" => Ok(Realm::Local),
        name => Realm::ALL.into_iter().find(|r| r.as_str() == name).ok_or_else(|| {
            Status::invalid_argument(format!("realm {name:?} is not known; there are cri and local"))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_names_the_realm_and_nothing_is_made_in_the_kubelets() {
        let asked = |value: Option<&str>, method: &str| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(REALM_HEADER, value.parse().unwrap());
            }
            realm(&headers, &format!("/runtime.v1.RuntimeService/{method}")).map_err(|s| s.code())
        };
        assert_eq!(asked(None, "RunPodSandbox"), Ok(Realm::Local));
        assert_eq!(asked(Some("local"), "RunPodSandbox"), Ok(Realm::Local));
        assert_eq!(asked(Some("cri"), "ListContainers"), Ok(Realm::Cri));
        assert_eq!(asked(Some("cri"), "RemovePodSandbox"), Ok(Realm::Cri));
        assert_eq!(asked(Some("mars"), "ListContainers"), Err(tonic::Code::InvalidArgument));
        for method in CREATES {
            assert_eq!(asked(Some("cri"), method), Err(tonic::Code::FailedPrecondition), "{method}");
        }
    }
}
