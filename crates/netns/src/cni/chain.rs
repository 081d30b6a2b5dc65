//! Calling the plugins of a network, one after another (CNI specification, section 3).

use super::conf::{Injected, Network, Plugin, Version};
use super::exec::{self, Exec, Failure};
use super::result;
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A network whose programs were found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain<'a> {
    pub(crate) network: &'a Network,
    /// Program of each plugin, in the order of the network.
    pub(crate) programs: &'a [PathBuf],
    /// Directories of plugins, for those that call others.
    pub(crate) bin_dirs: &'a [PathBuf],
    /// How long one plugin may take.
    pub(crate) limit: Duration,
}

/// The pod that a chain is called for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) container_id: &'a str,
    /// Path of its namespace; empty when that is gone.
    pub(crate) netns: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) args: &'a str,
    pub(crate) capabilities: &'a Map<String, Value>,
    /// Name of the plugins' standard input.
    pub(crate) mark: &'a str,
}

/// A chain that did not come to its end.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) error: Error,
    /// A plugin ran, so that something may have been made.
    pub(crate) begun: bool,
}

impl Chain<'_> {
    /// ADD: each plugin gets the result of the one before; the last one's is the network's.
    pub(crate) async fn add(&self, target: &Target<'_>) -> Result<Value, Broken> {
        let mut previous: Option<Value> = None;
        for (i, plugin) in self.network.plugins.iter().enumerate() {
            let called = self.call("ADD", i, target, previous.as_ref()).await;
            let begun = i > 0 || !matches!(called, Err(Failure::NotStarted(_)));
            let printed =
                called.map_err(|failure| Broken { error: self.failed("ADD", plugin, &failure), begun })?;
            let parsed = result::parse(&printed, self.network.version).map_err(|why| {
                let error = Error::failed(self.name("ADD", plugin), why);
                Broken { error, begun: true }
            })?;
            previous = Some(parsed);
        }
        Ok(previous.unwrap_or_else(|| json!({})))
    }

    /// DEL, from the last plugin to the first; stops at the first that fails, since those before it may
    /// hold what it needs.
    pub(crate) async fn del(&self, target: &Target<'_>, previous: Option<&Value>) -> Result<()> {
        // Older plugins do not expect a result here.
        let previous = previous.filter(|_| self.network.version >= Version::V0_4_0);
        for (i, plugin) in self.network.plugins.iter().enumerate().rev() {
            let called = self.call("DEL", i, target, previous).await;
            called.map_err(|failure| self.failed("DEL", plugin, &failure))?;
        }
        Ok(())
    }

    /// CHECK of every plugin, if the network's version has it and it is not switched off.
    pub(crate) async fn check(&self, target: &Target<'_>, previous: &Value) -> Result<()> {
        if self.network.version < Version::V0_4_0 || self.network.disable_check {
            return Ok(());
        }
        for (i, plugin) in self.network.plugins.iter().enumerate() {
            let called = self.call("CHECK", i, target, Some(previous)).await;
            called.map_err(|failure| self.failed("CHECK", plugin, &failure))?;
        }
        Ok(())
    }

    /// STATUS of every plugin, if the network's version has it.
    pub(crate) async fn status(&self) -> Result<()> {
        if self.network.version >= Version::V1_1_0 {
            self.for_all("STATUS", &[]).await?;
        }
        Ok(())
    }

    /// GC: every plugin forgets what it holds for others than `valid` (pod and link).
    pub(crate) async fn gc(&self, valid: &[(String, String)]) -> Result<()> {
        if self.network.version < Version::V1_1_0 || self.network.disable_gc {
            return Ok(());
        }
        let list: Value = valid.iter().map(|(id, link)| json!({"containerID": id, "ifname": link})).collect();
        // The second key is that of the drafts, which plugins of the time read.
        self.for_all("GC", &[("cni.dev/valid-attachments", list.clone()), ("cni.dev/attachments", list)])
            .await
    }

    /// Versions that each plugin supports, by its name.
    pub(crate) async fn versions(&self) -> Result<Vec<(String, Vec<String>)>> {
        let mut all = Vec::new();
        for (plugin, program) in self.network.plugins.iter().zip(self.programs) {
            let stdin = json!({"cniVersion": self.network.version.as_str()}).to_string().into_bytes();
            let printed = exec::run(self.exec("VERSION", program, stdin, "gantry-cni", vec![])).await;
            let printed = printed.map_err(|failure| self.failed("VERSION", plugin, &failure))?;
            all.push((plugin.kind.clone(), result::supported(&printed)));
        }
        Ok(all)
    }

    async fn for_all(&self, command: &str, extra: &[(&'static str, Value)]) -> Result<()> {
        for (plugin, program) in self.network.plugins.iter().zip(self.programs) {
            let none = Map::new();
            let stdin = plugin.stdin(self.network, &Injected { capabilities: &none, previous: None, extra });
            let called = exec::run(self.exec(command, program, stdin, "gantry-cni", vec![])).await;
            called.map_err(|failure| self.failed(command, plugin, &failure))?;
        }
        Ok(())
    }

    async fn call(
        &self,
        command: &str,
        index: usize,
        target: &Target<'_>,
        previous: Option<&Value>,
    ) -> Result<Vec<u8>, Failure> {
        let (plugin, program) = (&self.network.plugins[index], &self.programs[index]);
        let injected = Injected { capabilities: target.capabilities, previous, extra: &[] };
        let stdin = plugin.stdin(self.network, &injected);
        let env = vec![
            ("CNI_CONTAINERID", target.container_id.to_owned()),
            ("CNI_NETNS", target.netns.to_owned()),
            ("CNI_IFNAME", target.interface.to_owned()),
            ("CNI_ARGS", target.args.to_owned()),
        ];
        exec::run(self.exec(command, program, stdin, target.mark, env)).await
    }

    fn exec(
        &self,
        command: &str,
        program: &Path,
        stdin: Vec<u8>,
        mark: &str,
        mut env: Vec<(&'static str, String)>,
    ) -> Exec {
        let dirs: Vec<String> = self.bin_dirs.iter().map(|d| d.display().to_string()).collect();
        env.push(("CNI_COMMAND", command.to_owned()));
        env.push(("CNI_PATH", dirs.join(":")));
        Exec { program: program.to_owned(), env, stdin, mark: mark.to_owned(), limit: self.limit }
    }

    fn name(&self, command: &str, plugin: &Plugin) -> String {
        format!("network {}: {command} of plugin {}", self.network.name, plugin.kind)
    }

    fn failed(&self, command: &str, plugin: &Plugin, failure: &Failure) -> Error {
        let (kind, why) = result::explain(failure);
        Error::new(kind, format!("{}: {why}", self.name(command, plugin)))
    }
}
