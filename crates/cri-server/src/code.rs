//! The one place where a failure becomes a gRPC status.

use crate::metrics::ERROR_TARGET;
use gantry_image_store as image_store;
use gantry_pod_sandbox::{Error, Kind};
use gantry_streaming::PrepareError;
use tonic::{Code, Status};

/// The status for a failed operation on a pod or container; logged here, once.
pub(crate) fn status(rpc: &'static str, error: &Error) -> Status {
    let code = code(error.kind());
    log(rpc, code, error);
    Status::new(code, error.to_string())
}

/// The status for a failed operation on an image; logged here, once.
pub(crate) fn image_status(rpc: &'static str, error: image_store::Error) -> Status {
    status(rpc, &Error::from(error))
}

/// The status for a streaming request that gets no URL; logged here, once.
pub(crate) fn prepare_status(rpc: &'static str, error: &PrepareError) -> Status {
    let kind = match error {
        PrepareError::Invalid(_) => Kind::InvalidArgument,
        PrepareError::TooMany(_) => Kind::ResourceExhausted,
        PrepareError::Internal(_) => Kind::Internal,
    };
    status(rpc, &Error::new(kind, error.to_string()))
}

fn code(kind: Kind) -> Code {
    match kind {
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::ResourceExhausted => Code::ResourceExhausted,
        Kind::Unavailable => Code::Unavailable,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::Internal => Code::Internal,
    }
}

/// The name of a code, as the specification of gRPC writes it.
pub(crate) const fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Logs a failed operation; metrics count it by the same event.
fn log(rpc: &'static str, code: Code, error: &Error) {
    let name = name(code);
    match code {
        // Asking for what is not there is how the kubelet learns that it is gone.
        Code::NotFound => tracing::debug!(target: ERROR_TARGET, rpc, code = name, %error, "request refused"),
        Code::InvalidArgument | Code::AlreadyExists | Code::FailedPrecondition => {
            tracing::info!(target: ERROR_TARGET, rpc, code = name, %error, "request refused");
        }
        _ => tracing::error!(target: ERROR_TARGET, rpc, code = name, %error, "request failed"),
    }
}
