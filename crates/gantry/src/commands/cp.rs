//! `gantry cp`: files between this machine and a container, by `tar` in the container.

mod archive;
mod extract;

use super::exec;
use crate::client::{Client, Realm};
use crate::find;
use crate::stream::{self, End, Joined, Trust};
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use gantry_cri_api::v1;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::sync::mpsc;

/// Pieces of an archive that wait for the other side.
const QUEUE: usize = 4;

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// A path of this machine.
    Here(PathBuf),
    /// A tar archive on standard input or output.
    Stream,
    /// A path in a container.
    Inside { container: String, path: String },
}

impl Place {
    fn parse(text: &str) -> Result<Self> {
        if text == "-" {
            return Ok(Self::Stream);
        }
        match text.split_once(':') {
            Some((container, path)) if !container.is_empty() && !container.contains(['/', '.']) => {
                if path.is_empty() {
                    bail!("{text:?}: write CONTAINER:PATH");
                }
                Ok(Self::Inside { container: container.to_owned(), path: path.to_owned() })
            }
            _ if text.is_empty() => bail!("an empty path"),
            _ => Ok(Self::Here(text.into())),
        }
    }
}

pub(super) async fn run(
    client: &mut Client,
    from: &str,
    to: &str,
    realm: Option<Realm>,
    trust: Trust,
) -> Result<ExitCode> {
    let (container, path, other, out) = match (Place::parse(from)?, Place::parse(to)?) {
        (Place::Inside { .. }, Place::Inside { .. }) => {
            bail!("between two containers: copy to - and from - with a pipe between")
        }
        (Place::Inside { container, path }, other) => (container, path, other, true),
        (other, Place::Inside { container, path }) => (container, path, other, false),
        _ => bail!("one of {from:?} and {to:?} must be CONTAINER:PATH"),
    };
    let found = find::container(client, &container, realm).await?;
    let side = Side { client, realm: found.realm, id: found.id, trust };
    match (out, other) {
        (true, Place::Here(to)) => side.copy_out(&path, &to).await,
        (true, _) => side.archive_out(&path).await,
        (false, Place::Here(from)) => side.copy_in(&from, &path).await,
        (false, _) => side.archive_in(&path).await,
    }
}

/// The container.
struct Side<'a> {
    client: &'a mut Client,
    realm: Realm,
    id: String,
    trust: Trust,
}

impl Side<'_> {
    /// A path in the container to one here.
    async fn copy_out(mut self, path: &str, to: &Path) -> Result<ExitCode> {
        let (parent, name) = split(path);
        let (dir, rename) = match name {
            // The contents of a directory that has no name of its own.
            None => {
                std::fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
                (to.to_owned(), None)
            }
            Some(_) if to.is_dir() => (to.to_owned(), None),
            Some(_) => match (to.parent(), to.file_name()) {
                (Some(dir), Some(name)) => {
                    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
                    (dir.to_owned(), Some(name.to_owned()))
                }
                _ => bail!("{}: no such directory", to.display()),
            },
        };
        let place = extract::Extractor::open(&dir, name, rename)?;
        let (send, receive) = mpsc::channel(QUEUE);
        let extracting = tokio::task::spawn_blocking(move || place.extract(receive));
        let packed = self.tar(&["-cf", "-", "-C", parent, &member(name)], None, Some(send)).await;
        // What goes wrong here ends the other side, which then has nothing to tell.
        let skipped = extracting.await.context("unpack")??;
        packed?;
        if skipped > 0 {
            bail!("{skipped} entries were left out; everything else was copied");
        }
        Ok(ExitCode::SUCCESS)
    }

    /// A path in the container as an archive on standard output.
    async fn archive_out(mut self, path: &str) -> Result<ExitCode> {
        let (parent, name) = split(path);
        let stdout = stream::write_to(std::io::stdout().as_fd())?;
        let (send, mut receive) = mpsc::channel::<Bytes>(QUEUE);
        let member = member(name);
        let arguments = ["-cf", "-", "-C", parent, &member];
        let packing = self.tar(&arguments, None, Some(send));
        let writing = async {
            while let Some(bytes) = receive.recv().await {
                stdout.write(bytes).await?;
            }
            stdout.finish().await
        };
        tokio::try_join!(packing, writing)?;
        Ok(ExitCode::SUCCESS)
    }

    /// A path here to one in the container.
    async fn copy_in(mut self, from: &Path, path: &str) -> Result<ExitCode> {
        let meta = std::fs::symlink_metadata(from).with_context(|| from.display().to_string())?;
        let is_dir = path.ends_with('/') || self.is_directory(path).await;
        let (dir, name) = match (is_dir, split(path)) {
            (false, (parent, Some(name))) => (parent, PathBuf::from(name)),
            _ => match from.file_name() {
                Some(name) => (path, name.into()),
                // `.`, `..` or `/`: what is in it.
                None if meta.is_dir() => (path, PathBuf::new()),
                None => bail!("{} names no file", from.display()),
            },
        };
        let (send, receive) = mpsc::channel(QUEUE);
        let source = from.to_owned();
        let packing = tokio::task::spawn_blocking(move || archive::pack(&source, &name, send));
        let unpacked = self.tar(&["-xof", "-", "-C", dir], Some(receive), None).await;
        // The other side's words explain why it took no more; ours, why it got too little.
        match (packing.await.context("pack")?, unpacked) {
            (Err(archive::PackError::NotTaken), Err(error)) => Err(error),
            (Err(error), _) => Err(error.into()),
            (Ok(_), Err(error)) => Err(error),
            (Ok(0), Ok(())) => Ok(ExitCode::SUCCESS),
            (Ok(skipped), Ok(())) => bail!("{skipped} entries were left out; everything else was copied"),
        }
    }

    /// An archive on standard input to a directory in the container.
    async fn archive_in(mut self, path: &str) -> Result<ExitCode> {
        let mut stdin = stream::read_stdin()?;
        let (send, receive) = mpsc::channel(QUEUE);
        let reading = async {
            while let Some(bytes) = stdin.recv().await {
                let bytes = bytes.context("read standard input")?;
                if send.send(bytes).await.is_err() {
                    break;
                }
            }
            drop(send);
            Ok::<_, anyhow::Error>(())
        };
        let arguments = ["-xof", "-", "-C", path];
        let unpacking = self.tar(&arguments, Some(receive), None);
        tokio::pin!(reading, unpacking);
        tokio::select! {
            unpacked = &mut unpacking => unpacked?,
            read = &mut reading => {
                read?;
                unpacking.await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Whether `path` is a directory, as far as the container has `test`.
    async fn is_directory(&mut self, path: &str) -> bool {
        let request = v1::ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: ["test", "-d", path].map(str::to_owned).to_vec(),
            timeout: 20,
        };
        let answer = self.client.of(self.realm).runtime.exec_sync(request).await;
        answer.is_ok_and(|a| a.into_inner().exit_code == 0)
    }

    /// Runs tar in the container.
    async fn tar(
        &mut self,
        arguments: &[&str],
        input: Option<mpsc::Receiver<Bytes>>,
        output: Option<mpsc::Sender<Bytes>>,
    ) -> Result<()> {
        let command = ["tar"].iter().chain(arguments).map(|a| (*a).to_owned()).collect();
        let joined = Joined { stdin: input.is_some(), tty: false };
        let url = exec::url(self.client, self.realm, &self.id, command, joined).await?;
        let socket = stream::connect(&url, &self.trust).await?;
        let (end, said) = stream::pipe(socket, input, output).await?;
        match end {
            End::Code(0) => {
                if !said.is_empty() {
                    eprintln!("gantry: tar in the container: {said}");
                }
                Ok(())
            }
            End::Code(code) => bail!("tar in the container ended with status {code}: {said}"),
            End::Detached | End::Signal(_) => bail!("tar in the container did not end"),
        }
    }
}

/// The directory of a path in a container, and its name in there; no name for `/`, `.` and `..`.
fn split(path: &str) -> (&str, Option<&str>) {
    let trimmed = path.trim_end_matches('/');
    let (parent, name) = match trimmed.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((parent, name)) => (parent, name),
        None => (".", trimmed),
    };
    match name {
        "" => ("/", None),
        "." | ".." => (trimmed, None),
        name => (parent, Some(name)),
    }
}

/// The argument of tar that stands for `name`; it cannot be taken for an option.
fn member(name: Option<&str>) -> String {
    name.map_or_else(|| ".".to_owned(), |name| format!("./{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let inside =
            |container: &str, path: &str| Place::Inside { container: container.into(), path: path.into() };
        assert_eq!(Place::parse("web:/etc").unwrap(), inside("web", "/etc"));
        assert_eq!(Place::parse("web:a:b").unwrap(), inside("web", "a:b"));
        assert_eq!(Place::parse("-").unwrap(), Place::Stream);
        for here in ["./web:/etc", "/a:b", "file", ".:x", ":x"] {
            assert_eq!(Place::parse(here).unwrap(), Place::Here(here.into()), "{here}");
        }
        Place::parse("web:").unwrap_err();
        Place::parse("").unwrap_err();
    }

    #[test]
    fn paths_in_containers_are_split() {
        for (path, parent, name) in [
            ("/etc/passwd", "/etc", Some("passwd")),
            ("/etc/", "/", Some("etc")),
            ("etc", ".", Some("etc")),
            ("a/b", "a", Some("b")),
            ("/", "/", None),
            ("/etc/.", "/etc/.", None),
            (".", ".", None),
            ("-x", ".", Some("-x")),
        ] {
            assert_eq!(split(path), (parent, name), "{path}");
        }
        assert_eq!(member(Some("-x")), "./-x");
    }
}
