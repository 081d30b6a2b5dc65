//! The layers around a service that does as it is told.

use super::admit::{Admit, Limit, Places};
use super::deadline::Deadline;
use super::method::Class;
use super::observe::Observe;
use super::*;
use crate::metrics::{Listener, Metrics, want_all_events};
use futures::FutureExt as _;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;

/// A handler that counts its calls and holds those of creation until the gate opens.
#[derive(Clone)]
struct Fake {
    begun: watch::Sender<usize>,
    ended: watch::Sender<usize>,
    gate: watch::Sender<bool>,
}

impl Fake {
    fn new() -> Self {
        Self { begun: watch::Sender::new(0), ended: watch::Sender::new(0), gate: watch::Sender::new(false) }
    }

    async fn until_begun(&self, count: usize) {
        self.begun.subscribe().wait_for(|n| *n >= count).await.unwrap();
    }

    async fn until_ended(&self, count: usize) {
        self.ended.subscribe().wait_for(|n| *n >= count).await.unwrap();
    }
}

impl Service<Request<()>> for Fake {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let fake = self.clone();
        Box::pin(async move {
            fake.begun.send_modify(|n| *n += 1);
            let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
            let answer = match method.as_str() {
                "RunPodSandbox" | "Wait" => {
                    let _stage = gantry_stage::Stage::SandboxNetwork.begin();
                    fake.gate.subscribe().wait_for(|open| *open).await.unwrap();
                    ok()
                }
                "StopPodSandbox" => panic!("on purpose"),
                "PodSandboxStatus" => Status::not_found("no pod").into_http(),
                _ => ok(),
            };
            fake.ended.send_modify(|n| *n += 1);
            Ok(answer)
        })
    }
}

/// An answer of gRPC: a message, then the code in the trailers.
fn ok() -> Response<Body> {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let body = http_body_util::Full::new(bytes::Bytes::from_static(b"x")).map_err(|e| match e {});
    Response::new(Body::new(body.with_trailers(std::future::ready(Some(Ok(trailers))))))
}

type Stack = Observe<Deadline<Admit<Fake>>>;

fn stack(fake: &Fake, limits: fn(Class) -> Limit) -> (Stack, Metrics) {
    want_all_events();
    let metrics = Metrics::new().unwrap();
    let places = Places::new(&metrics, "cri", limits);
    // Short: the tests do not look before something has begun.
    let slow = Duration::from_millis(1);
    (Layers { metrics: metrics.clone(), places, slow }.layer(fake.clone()), metrics)
}

fn request(method: &str) -> Request<()> {
    Request::builder().uri(format!("http://x/runtime.v1.RuntimeService/{method}")).body(()).unwrap()
}

fn timed(method: &str, timeout: &str) -> Request<()> {
    let mut request = request(method);
    request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
    request
}

/// Sends a request and reads the answer to its end: code and message.
async fn send(stack: &Stack, request: Request<()>) -> (Code, String) {
    let call = stack.clone().call(request);
    read(call.await.unwrap()).await
}

async fn read(response: Response<Body>) -> (Code, String) {
    if let Some(status) = Status::from_header_map(response.headers()) {
        return (status.code(), status.message().to_owned());
    }
    let trailers = response.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
    (Status::from_header_map(&trailers).map_or(Code::Unknown, |s| s.code()), String::new())
}

fn shown(metrics: &Metrics) -> String {
    String::from_utf8(metrics.render(None).unwrap()).unwrap()
}

fn few(_: Class) -> Limit {
    Limit { running: 1, waiting: 1 }
}

#[test]
fn one_connection_can_fill_every_class() {
    let calls = |class| admit::limits(class).running + admit::limits(class).waiting;
    assert!(Class::ALL.into_iter().map(calls).sum::<usize>() < MAX_STREAMS as usize);
}

#[tokio::test]
async fn calls_are_counted_by_their_codes() {
    let (stack, metrics) = stack(&Fake::new(), admit::limits);
    assert_eq!(send(&stack, request("Version")).await.0, Code::Ok);
    assert_eq!(send(&stack, request("PodSandboxStatus")).await.0, Code::NotFound);
    send(&stack, request("MadeUp")).await;
    let text = shown(&metrics);
    for (code, method, service) in [
        ("OK", "Version", "RuntimeService"),
        ("NOT_FOUND", "PodSandboxStatus", "RuntimeService"),
        ("OK", "unknown", "unknown"),
    ] {
        let line =
            format!("gantry_rpc_total{{code=\"{code}\",method=\"{method}\",service=\"{service}\"}} 1\n");
        assert!(text.contains(&line), "{line}{text}");
        let line = format!("gantry_rpc_in_flight{{method=\"{method}\",service=\"{service}\"}} 0\n");
        assert!(text.contains(&line), "{line}{text}");
    }
    assert!(!text.contains("MadeUp"), "{text}");
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_and_its_operation_goes_on() {
    let fake = Fake::new();
    let (stack, metrics) = stack(&fake, admit::limits);
    let call = tokio::spawn(stack.clone().call(request("RunPodSandbox")));
    fake.until_begun(1).await;
    assert!(
        shown(&metrics)
            .contains("gantry_rpc_in_flight{method=\"RunPodSandbox\",service=\"RuntimeService\"} 1\n")
    );
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    let text = shown(&metrics);
    assert!(text.contains("code=\"CANCELLED\",method=\"RunPodSandbox\""), "{text}");
    fake.gate.send_replace(true);
    fake.until_ended(1).await;
}

#[tokio::test]
async fn a_deadline_answers_the_client_and_the_operation_goes_on() {
    let fake = Fake::new();
    let (stack, _) = stack(&fake, few);
    let mut call = stack.clone().call(timed("RunPodSandbox", "50m"));
    // Its clock runs, and is not looked at before the operation has begun.
    assert!((&mut call).now_or_never().is_none());
    fake.until_begun(1).await;
    let (code, message) = read(call.await.unwrap()).await;
    assert_eq!(code, Code::DeadlineExceeded);
    assert!(message.contains("50 ms"), "{message}");
    assert_eq!((*fake.begun.borrow(), *fake.ended.borrow()), (1, 0));

    // It keeps its place: the next one waits, and is given up without having begun.
    assert_eq!(send(&stack, timed("RunPodSandbox", "50m")).await.0, Code::DeadlineExceeded);
    assert_eq!(*fake.begun.borrow(), 1);
    fake.gate.send_replace(true);
    fake.until_ended(1).await;
    assert_eq!(send(&stack, request("RunPodSandbox")).await.0, Code::Ok);
    assert_eq!(*fake.begun.borrow(), 2);
}

#[tokio::test]
async fn a_deadline_is_answered_before_the_transport_says_cancelled() {
    // As tonic's own timer does: made after the call, polled after it.
    let fake = Fake::new();
    let (mut stack, _) = stack(&fake, few);
    let call = stack.call(timed("RunPodSandbox", "50m"));
    let transport = tokio::time::sleep(Duration::from_millis(50));
    let answer = tokio::select! {
        biased;
        answer = call => read(answer.unwrap()).await.0,
        () = transport => Code::Cancelled,
    };
    assert_eq!(answer, Code::DeadlineExceeded);
    fake.gate.send_replace(true);
}

#[tokio::test]
async fn a_full_class_refuses_and_starves_no_other() {
    let fake = Fake::new();
    let (stack, metrics) = stack(&fake, few);
    let first = tokio::spawn(stack.clone().call(request("RunPodSandbox")));
    fake.until_begun(1).await;
    let mut second = stack.clone().call(request("RunPodSandbox"));
    assert!((&mut second).now_or_never().is_none(), "the second waits");
    assert!(shown(&metrics).contains("gantry_rpc_queued{class=\"create\",socket=\"cri\"} 1\n"));

    let (code, message) = send(&stack, request("RunPodSandbox")).await;
    assert_eq!(code, Code::ResourceExhausted);
    assert!(message.contains("create") && message.contains("1 run and 1 wait"), "{message}");
    assert!(shown(&metrics).contains("gantry_rpc_shed_total{class=\"create\",socket=\"cri\"} 1\n"));
    assert_eq!(send(&stack, request("ListPodSandbox")).await.0, Code::Ok, "reads have places of their own");

    fake.gate.send_replace(true);
    assert_eq!(read(first.await.unwrap().unwrap()).await.0, Code::Ok);
    assert_eq!(read(second.await.unwrap()).await.0, Code::Ok, "who waited comes next");
    assert!(shown(&metrics).contains("gantry_rpc_queued{class=\"create\",socket=\"cri\"} 0\n"));
    assert_eq!(send(&stack, request("RunPodSandbox")).await.0, Code::Ok, "every place is free again");
}

#[tokio::test]
async fn what_lasts_as_long_as_its_client_ends_with_it() {
    let fake = Fake::new();
    let (stack, _) = stack(&fake, few);
    let wait = || Request::builder().uri("http://x/gantry.local.v1.Local/Wait").body(()).unwrap();
    for count in 1..4 {
        let call = tokio::spawn(stack.clone().call(wait()));
        fake.until_begun(count).await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    assert_eq!(*fake.ended.borrow(), 0, "none is left running");
}

#[tokio::test]
async fn an_unread_answer_keeps_its_place() {
    let fake = Fake::new();
    fake.gate.send_replace(true);
    let (stack, _) = stack(&fake, few);
    let unread = stack.clone().call(request("RunPodSandbox")).await.unwrap();
    let mut second = stack.clone().call(request("RunPodSandbox"));
    assert!((&mut second).now_or_never().is_none());
    drop(unread);
    assert_eq!(read(second.await.unwrap()).await.0, Code::Ok);
}

#[tokio::test]
async fn a_panic_is_an_answer_and_frees_its_place() {
    let (stack, metrics) = stack(&Fake::new(), few);
    let layer = metrics.listener().with_filter(Listener::filter());
    let subscriber = tracing_subscriber::registry().with(layer);
    let _here = tracing::subscriber::set_default(subscriber);
    for _ in 0..3 {
        let (code, message) = send(&stack, request("StopPodSandbox")).await;
        assert_eq!(code, Code::Internal);
        assert!(message.contains("StopPodSandbox") && !message.contains("on purpose"), "{message}");
    }
    assert_eq!(send(&stack, request("Version")).await.0, Code::Ok);
    let text = shown(&metrics);
    assert!(
        text.contains("gantry_errors_total{code=\"INTERNAL\",operation=\"StopPodSandbox\"} 3\n"),
        "{text}"
    );
}

#[tokio::test]
async fn a_storm_ends_with_every_place_free() {
    let fake = Fake::new();
    fake.gate.send_replace(true);
    let (stack, metrics) = stack(&fake, |_| Limit { running: 3, waiting: 5 });
    let answered = Arc::new(AtomicUsize::new(0));
    let calls = (0..200).map(|i| {
        let (stack, answered) = (stack.clone(), answered.clone());
        tokio::spawn(async move {
            let method = ["RunPodSandbox", "StopPodSandbox", "Version", "ExecSync"][i % 4];
            let (code, _) = send(&stack, request(method)).await;
            assert!(matches!(code, Code::Ok | Code::Internal | Code::ResourceExhausted), "{code:?}");
            answered.fetch_add(1, Ordering::Relaxed);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert_eq!(answered.load(Ordering::Relaxed), 200);
    assert!(
        shown(&metrics).lines().filter(|l| l.starts_with("gantry_rpc_in_flight{")).all(|l| l.ends_with(" 0"))
    );
    for method in ["RunPodSandbox", "ExecSync", "Version"] {
        assert_eq!(send(&stack, request(method)).await.0, Code::Ok);
    }
}

/// What a log would show.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn slow_calls_are_told_with_their_stage_and_trace() {
    let fake = Fake::new();
    let (stack, metrics) = stack(&fake, few);
    let log = Log::default();
    let writer = log.clone();
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
    let subscriber = tracing_subscriber::registry()
        .with(lines.with_filter(tracing_subscriber::filter::LevelFilter::DEBUG))
        .with(metrics.listener().with_filter(Listener::filter()));
    let _here = tracing::subscriber::set_default(subscriber);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut slow = timed("RunPodSandbox", "50m");
    slow.headers_mut().insert("traceparent", format!("00-{trace}-00f067aa0ba902b7-01").parse().unwrap());
    slow.headers_mut().insert("authorization", "Bearer very-secret".parse().unwrap());
    let mut call = stack.clone().call(slow);
    assert!((&mut call).now_or_never().is_none());
    fake.until_begun(1).await;
    assert_eq!(read(call.await.unwrap()).await.0, Code::DeadlineExceeded);
    fake.gate.send_replace(true);
    fake.until_ended(1).await;
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let line =
        |words: &str| log.lines().find(|l| l.contains(words)).unwrap_or_else(|| panic!("{words}\n{log}"));
    let warning = line("not answered yet");
    for word in [
        "WARN",
        "method=\"RunPodSandbox\"",
        trace,
        "operation=\"RunPodSandbox\"",
        "stage=\"network\"",
        "seconds=",
    ] {
        assert!(warning.contains(word), "{word}: {warning}");
    }
    let answered = line("it is answered now");
    assert!(answered.contains("WARN") && answered.contains("DEADLINE_EXCEEDED"), "{answered}");
    // What goes on after the answer still says whose it is.
    let ended = line("stage ended");
    assert!(ended.contains(trace), "{ended}");
    assert!(!log.contains("very-secret"), "{log}");
}
