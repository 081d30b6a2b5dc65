//! The server with TLS: certificates that are read again when their files change.
//!
//! `tls/a` and `tls/b` are self-signed for 127.0.0.1 and of use for nothing else.

mod support;

use gantry_streaming::TlsFiles;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::Served;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

/// Puts a copy in the place of `to`, as those do who renew certificates.
fn replace(from: &str, to: &Path) {
    let new = to.with_extension("new");
    std::fs::copy(fixture(from), &new).unwrap();
    std::fs::rename(&new, to).unwrap();
}

/// Sends a request to a server that is to have the certificate `trusted`; the first line of the answer.
async fn ask(server: &Served, trusted: &str) -> std::io::Result<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(fixture(trusted)).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(server.address()).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let url = server.exec(false, "true");
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n",
        support::path(&url)
    );
    stream.write_all(head.as_bytes()).await?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(line).unwrap())
}

#[tokio::test]
async fn certificates_are_read_again_and_unusable_ones_are_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("crt"), dir.path().join("key"));
    replace("a.crt", &certificate);
    replace("a.key", &key);
    let files = TlsFiles { certificate: certificate.clone(), key: key.clone() };
    let server = Served::start(|c| c.tls = Some(files)).await;
    let is_upgraded = |line: std::io::Result<String>| line.unwrap().starts_with("HTTP/1.1 101 ");
    assert!(is_upgraded(ask(&server, "a.crt").await));
    ask(&server, "b.crt").await.unwrap_err();

    // One of the two is there already: they do not fit, and the old ones stay.
    replace("b.crt", &certificate);
    assert!(is_upgraded(ask(&server, "a.crt").await));
    replace("b.key", &key);
    assert!(is_upgraded(ask(&server, "b.crt").await));
    ask(&server, "a.crt").await.unwrap_err();
    std::fs::write(&key, "no key").unwrap();
    assert!(is_upgraded(ask(&server, "b.crt").await));
    std::fs::remove_file(&certificate).unwrap();
    assert!(is_upgraded(ask(&server, "b.crt").await));
}

#[tokio::test]
async fn who_speaks_no_tls_or_says_nothing_is_ended() {
    let files = TlsFiles { certificate: fixture("a.crt"), key: fixture("a.key") };
    let server = Served::start(|c| {
        c.tls = Some(files);
        c.header_read = std::time::Duration::from_millis(100);
    })
    .await;
    for words in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"", &[0x16, 3, 1, 0xff, 0xff]] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(words).await.unwrap();
        let mut rest = Vec::new();
        // An alert, or nothing: in no case the answer of HTTP.
        let _reset = stream.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let wrong = TlsFiles { certificate: fixture("a.crt"), key: fixture("b.key") };
    let missing = TlsFiles { certificate: "/nonexistent/crt".into(), key: fixture("a.key") };
    for (files, word) in [(wrong, "a.crt"), (missing, "/nonexistent/crt")] {
        let mut config = gantry_streaming::Config::new(([127, 0, 0, 1], 0).into());
        config.tls = Some(files);
        let bound = gantry_streaming::Streaming::bind(config, Arc::new(support::Fake::default())).await;
        let error = bound.map(drop).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}
