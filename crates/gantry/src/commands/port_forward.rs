//! `gantry port-forward`: ports of this machine that lead to the loopback of a pod.

use crate::client::{Client, Realm};
use crate::stream::{self, CloseChannel, Trust, message};
use crate::{find, output, parse};
use anyhow::{Context as _, Result, bail};
use gantry_cri_api::v1;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

/// Most connections at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 200;

/// Size of a read.
const READ: usize = 32 << 10;

/// Channel of a port's data; a connection to the daemon carries one port.
const DATA: u8 = 0;
/// Channel on which a port's failure is told.
const ERROR: u8 = 1;

/// Most bytes of a failure that are printed.
const MAX_REASON: usize = 4096;

pub(super) async fn run(
    client: &mut Client,
    wanted: &str,
    realm: Option<Realm>,
    address: &str,
    ports: &[String],
    trust: Trust,
) -> Result<ExitCode> {
    let pairs: Result<Vec<_>> = ports.iter().map(|p| parse::forward(p)).collect();
    let pairs = pairs?;
    let found = find::pod(client, wanted, realm).await?;
    let to = Arc::new(To { client: client.clone(), realm: found.realm, pod: found.id, trust });
    // Asked for once before anything is listened on: a pod that is not ready is told at once.
    to.url(pairs[0].1).await?;
    let mut listeners = JoinSet::new();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    for (local, remote) in pairs {
        let listener = TcpListener::bind((address, local)).await;
        let listener = listener.with_context(|| format!("listen on {address} port {local}"))?;
        let at = listener.local_addr().context("look at the port that is listened on")?;
        output::line(&format!("forwarding from {at} to {remote}"))?;
        listeners.spawn(accept(listener, to.clone(), remote, room.clone()));
    }
    match listeners.join_next().await {
        Some(Ok(Err(error))) => Err(error),
        Some(Err(error)) => Err(error).context("accept connections"),
        Some(Ok(Ok(()))) | None => Ok(ExitCode::SUCCESS),
    }
}

/// Where connections lead to.
#[derive(Debug)]
struct To {
    client: Client,
    realm: Realm,
    pod: String,
    trust: Trust,
}

impl To {
    async fn url(&self, port: u16) -> Result<String> {
        let request = v1::PortForwardRequest { pod_sandbox_id: self.pod.clone(), port: vec![port.into()] };
        let mut client = self.client.clone();
        let answer = client.of(self.realm).runtime.port_forward(request).await.context("port-forward")?;
        Ok(answer.into_inner().url)
    }
}

/// Accepts for ever; each connection gets one of its own to the daemon.
async fn accept(listener: TcpListener, to: Arc<To>, port: u16, room: Arc<Semaphore>) -> Result<()> {
    let mut running = JoinSet::new();
    loop {
        let permit = room.clone().acquire_owned().await.context("count connections")?;
        let connection = tokio::select! {
            accepted = listener.accept() => accepted.context("accept a connection")?.0,
            // Ended ones are taken away as they end.
            Some(_) = running.join_next() => continue,
        };
        let to = to.clone();
        running.spawn(async move {
            if let Err(error) = forward(&to, connection, port).await {
                eprintln!("gantry: port {port}: {}", output::one_line(&error));
            }
            drop(permit);
        });
    }
}

async fn forward(to: &To, connection: TcpStream, port: u16) -> Result<()> {
    let (sink, mut stream) = stream::connect(&to.url(port).await?, &to.trust).await?;
    connection.set_nodelay(true).context("TCP_NODELAY")?;
    let (read, mut write) = connection.into_split();
    let (send, queue) = mpsc::channel(2);
    // Both end with the connection to the daemon, or by being dropped with this future.
    let mut sides = JoinSet::new();
    sides.spawn(stream::send_all(sink, queue));
    sides.spawn(upload(read, send.clone()));
    let mut reason = Vec::new();
    // Each channel begins with its port, in two bytes.
    let mut skip = [2_usize; 2];
    while let Some(incoming) = stream::receive(&mut stream).await? {
        if incoming.closes() == Some(DATA) {
            // The pod has said all, and may still listen.
            finish(&mut write).await;
            continue;
        }
        let Some(left) = skip.get_mut(usize::from(incoming.channel)) else { continue };
        let skipped = (*left).min(incoming.bytes.len());
        *left -= skipped;
        let bytes = incoming.bytes.slice(skipped..);
        match incoming.channel {
            // Who asked does not want it any more; the pod's side is told by the end of the connection.
            DATA if write.write_all(&bytes).await.is_err() => return Ok(()),
            ERROR if reason.len() < MAX_REASON => reason.extend_from_slice(&bytes),
            _ => {}
        }
    }
    if !reason.is_empty() {
        bail!("{}", String::from_utf8_lossy(&reason));
    }
    Ok(())
}

/// Passes on what the local side sends, and its end.
async fn upload(mut read: OwnedReadHalf, send: mpsc::Sender<bytes::Bytes>) {
    let mut buffer = vec![0; READ];
    loop {
        match read.read(&mut buffer).await {
            Ok(n) if n > 0 => {
                if send.send(message(DATA, &buffer[..n])).await.is_err() {
                    return;
                }
            }
            // A reset ends it as the end of file does.
            Ok(_) | Err(_) => break,
        }
    }
    // Who reads the connection sees, and tells, its end.
    let _gone = send.send(CloseChannel(DATA).into()).await;
}

async fn finish(write: &mut OwnedWriteHalf) {
    // It may be gone already.
    let _gone = write.shutdown().await;
}
