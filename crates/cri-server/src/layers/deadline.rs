//! Deadlines: a client says in `grpc-timeout` how long it waits, and is told when that time is over.
//!
//! The operation goes on: an engine's flight or a task of [`super::admit`] carries it, and the same call
//! again joins it. A call that still waits for a place is given up, since nothing has begun.

use http::{HeaderMap, Request, Response};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::Status;
use tower::Service;

/// gRPC over HTTP/2: at most eight digits and a unit.
const HEADER: &str = "grpc-timeout";

/// Answers `DEADLINE_EXCEEDED` when a client's time is over.
#[derive(Debug, Clone)]
pub(crate) struct Deadline<S> {
    inner: S,
}

impl<S> Deadline<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response<tonic::body::Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let limit = timeout(request.headers());
        // The clock starts here and not at the first poll: tonic has a timer of its own around this one,
        // which would answer CANCELLED if it were earlier.
        let over = limit.map(tokio::time::sleep);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let (Some(over), Some(limit)) = (over, limit) else { return answer.await };
            tokio::select! {
                biased;
                answer = answer => answer,
                () = over => {
                    let message = format!(
                        "the client's time of {} ms is over; what has begun goes on, the same call joins it",
                        limit.as_millis()
                    );
                    Ok(Status::deadline_exceeded(message).into_http())
                }
            }
        })
    }
}

/// The time that a client gives; `None` without a header or with one that is not understood.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn times_are_digits_and_a_unit() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_str(text).unwrap());
            timeout(&headers)
        };
        for (text, millis) in [("2H", 7_200_000), ("3M", 180_000), ("4S", 4000), ("99999999m", 99_999_999)] {
            assert_eq!(of(text), Some(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(of("5u"), Some(Duration::from_micros(5)));
        assert_eq!(of("6n"), Some(Duration::from_nanos(6)));
        for bad in ["", "S", "5", "5x", "-5S", "123456789S", "5 S", "5.5S"] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }
}
