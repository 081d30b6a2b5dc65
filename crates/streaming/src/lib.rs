#![forbid(unsafe_code)]
//! The streaming server: exec, attach and port-forward over SPDY/3.1 and WebSocket.
//!
//! A CRI server answers Exec, Attach and PortForward with a URL; the client (kubectl through API server and
//! kubelet, or crictl) connects to it and upgrades the connection. [`Streaming`] makes the URLs, [`Server`]
//! answers on them, and an [`Endpoint`] has the containers; nothing here knows pods.

mod activity;
mod channels;
mod collect;
mod endpoint;
#[cfg(test)]
mod fuzz;
mod http_service;
mod negotiate;
mod portforward;
mod process_fd;
mod queue;
mod remotecommand;
mod server;
pub mod spdy;
mod tls;
mod tokens;
mod websocket;

pub use endpoint::{
    AttachRequest, Duplex, Endpoint, ExecRequest, Exit, PortForwardRequest, Reader, Resize, Session, Writer,
};
pub use process_fd::ProcessFd;
pub use server::{BindError, Config, PrepareError, Server, Streaming};
pub use tls::{TlsError, TlsFiles};
