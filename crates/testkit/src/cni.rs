//! A fake CNI plugin: records every call, and fails, hangs, dies or lies when it is told to.
//!
//! It is a shell script, so that a test needs no program to be built for it.

use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Answers VERSION; records the call; then does what was asked for this command, or what is usual.
const SCRIPT: &str = r#"#!/bin/sh
here=@HERE@ name=@NAME@
stdin=$(cat)
printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$name" "$CNI_COMMAND" "$CNI_CONTAINERID" "$CNI_NETNS" "$CNI_IFNAME" \
    "$CNI_ARGS" "$CNI_PATH" "$stdin" >> "$here/calls"
if [ -e "$here/$name.$CNI_COMMAND" ]; then
    . "$here/$name.$CNI_COMMAND"
    exit 0
fi
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.1.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]}' ;;
ADD) echo '@RESULT@' ;;
esac
"#;

/// What a plugin does when it is called.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Prints this and succeeds.
    Print(String),
    /// Fails with an error object of the CNI.
    Fail(u32, String),
    /// Prints this on standard error and fails without an error object.
    Die(String),
    /// Prints without end.
    Flood,
    /// Says that it hangs ([`FakeCni::hung`]), then waits for [`FakeCni::release`] with a child.
    Hang,
    /// Is killed by SIGKILL.
    Killed,
    /// Runs these lines of shell.
    Shell(String),
}

/// One call as the plugin saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Name of the plugin.
    pub plugin: String,
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_ARGS`.
    pub args: String,
    /// `CNI_PATH`.
    pub path: String,
    /// Standard input.
    pub stdin: Value,
}

/// Fake plugins in a directory of their own; clones are the same plugins.
#[derive(Debug, Clone)]
pub struct FakeCni {
    dir: PathBuf,
}

impl FakeCni {
    /// Installs plugins of these names below `dir`; [`FakeCni::bin`] is then their directory.
    ///
    /// Without further orders ADD gives the pod the address 10.99.0.2 and everything else succeeds.
    pub fn install(dir: &Path, names: &[&str]) -> Self {
        let fake = Self { dir: dir.to_owned() };
        std::fs::create_dir_all(fake.bin()).expect("make the directory of fake plugins");
        for name in ["hung", "gate"] {
            let path = dir.join(name);
            rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).expect("make a fifo");
        }
        names.iter().for_each(|name| fake.add(name));
        fake
    }

    /// Installs one more plugin.
    pub fn add(&self, name: &str) {
        let result = json!({
            "interfaces": [{"name": "eth0", "mac": "0a:58:0a:63:00:02", "sandbox": "/run/netns/x"}],
            "ips": [{"address": "10.99.0.2/24", "interface": 0, "gateway": "10.99.0.1"}],
        });
        let script = SCRIPT
            .replace("@HERE@", &format!("'{}'", self.dir.display()))
            .replace("@NAME@", name)
            .replace("@RESULT@", &result.to_string());
        let (path, temporary) = (self.bin().join(name), self.dir.join(format!("{name}.new")));
        std::fs::write(&temporary, script).expect("write a fake plugin");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&temporary, executable).expect("make a fake plugin executable");
        // Renamed into place: whoever looks finds it whole.
        std::fs::rename(temporary, path).expect("install a fake plugin");
    }

    /// Takes a plugin away.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.bin().join(name)).expect("remove a fake plugin");
    }

    /// Directory of the plugins.
    pub fn bin(&self) -> PathBuf {
        self.dir.join("bin")
    }

    /// File that every call adds a line to.
    pub fn log(&self) -> PathBuf {
        self.dir.join("calls")
    }

    /// From now on `plugin` answers `command` like this; `None` for as usual.
    pub fn behave(&self, plugin: &str, command: &str, behaviour: Option<Behaviour>) {
        let path = self.dir.join(format!("{plugin}.{command}"));
        let script = match behaviour {
            None => {
                std::fs::remove_file(path).expect("forget a behaviour");
                return;
            }
            Some(Behaviour::Print(text)) => format!("printf '%s' '{text}'"),
            Some(Behaviour::Fail(code, message)) => {
                let error = json!({"cniVersion": "1.0.0", "code": code, "msg": message});
                format!("echo '{error}'; exit 1")
            }
            Some(Behaviour::Die(text)) => format!("echo '{text}' >&2; exit 3"),
            Some(Behaviour::Flood) => "exec cat /dev/zero".into(),
            Some(Behaviour::Hang) => {
                // The child holds the streams open and has to go, too.
                "echo $$ > \"$here/hung\"; cat \"$here/gate\" & wait".into()
            }
            Some(Behaviour::Killed) => "kill -9 $$".into(),
            Some(Behaviour::Shell(script)) => script,
        };
        std::fs::write(path, script).expect("write a behaviour");
    }

    /// Waits until a plugin hangs; its process id. Blocking.
    pub fn hung(&self) -> u32 {
        let text = std::fs::read_to_string(self.dir.join("hung")).expect("wait for a hanging plugin");
        text.trim().parse().expect("a process id")
    }

    /// Lets a plugin that hangs go on. Blocking until it hears.
    pub fn release(&self) {
        drop(File::options().write(true).open(self.dir.join("gate")).expect("open the gate"));
    }

    /// All calls so far, but for those of VERSION.
    pub fn calls(&self) -> Vec<Call> {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let parse = |line: &str| {
            let mut fields = line.splitn(8, '\t').map(str::to_owned);
            let mut next = || fields.next().expect("a call has eight fields");
            Call {
                plugin: next(),
                command: next(),
                container_id: next(),
                netns: next(),
                interface: next(),
                args: next(),
                path: next(),
                stdin: serde_json::from_str(&next()).expect("a plugin reads JSON"),
            }
        };
        text.lines().map(parse).filter(|c| c.command != "VERSION").collect()
    }

    /// The calls so far as `COMMAND plugin`, and forgets them.
    pub fn take(&self) -> Vec<String> {
        let calls = self.calls().into_iter().map(|c| format!("{} {}", c.command, c.plugin)).collect();
        // Nobody may have called yet.
        let _none = std::fs::remove_file(self.log());
        calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn it_records_and_behaves() {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeCni::install(dir.path(), &["a"]);
        let call = || {
            let mut command = Command::new(fake.bin().join("a"));
            command.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", "p1").stdin(input());
            command.output().unwrap()
        };
        let result: Value = serde_json::from_slice(&call().stdout).unwrap();
        assert_eq!(result["ips"][0]["address"], "10.99.0.2/24");
        fake.behave("a", "ADD", Some(Behaviour::Fail(7, "no".into())));
        let output = call();
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(!output.status.success() && error["code"] == 7);
        assert_eq!(fake.calls()[0].container_id, "p1");
        assert_eq!(fake.take(), ["ADD a", "ADD a"]);
        assert!(fake.calls().is_empty());
    }

    fn input() -> File {
        let (read, mut write) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut write, b"{}").unwrap();
        File::from(std::os::fd::OwnedFd::from(read))
    }
}
