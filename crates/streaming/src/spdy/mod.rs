//! SPDY/3.1, as far as `kubectl exec`, `attach` and `port-forward` need it.
//!
//! [`frame`] and [`headers`] are the pure codec; `session` is a connection with its streams.

mod dictionary;
pub mod frame;
pub mod headers;
mod session;

pub(crate) use session::{Connection, Limits, Receiver, Sender, Stream};
