//! CNI configurations (CNI specification, section 1). Pure.

use serde_json::{Map, Value, json};
use std::fmt;

/// Most plugins in one chain.
const MAX_PLUGINS: usize = 32;

/// Longest name of a network or plugin; both become parts of file names.
const MAX_NAME: usize = 100;

/// Versions of the CNI specification that Gantry speaks, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// As in configurations and results.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.as_str() == text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One plugin of a chain.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plugin {
    /// Name of the program (`type`).
    pub(crate) kind: String,
    conf: Map<String, Value>,
}

impl Plugin {
    fn parse(conf: Value) -> Result<Self, String> {
        let Value::Object(conf) = conf else { return Err("is not an object".into()) };
        let kind = conf.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        if kind.is_empty() {
            return Err("has no type".into());
        }
        // A name with a slash or two dots would leave the plugins' directories.
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if kind.len() > MAX_NAME || kind.starts_with('.') || !kind.bytes().all(good) {
            return Err(format!("has type {kind:.120?}, which is no name of a program"));
        }
        Ok(Self { kind, conf })
    }

    /// Whether the plugin asks for this key of `runtimeConfig`.
    pub(crate) fn has_capability(&self, name: &str) -> bool {
        self.conf.get("capabilities").and_then(|c| c.get(name)).and_then(Value::as_bool) == Some(true)
    }

    /// What the plugin reads on its standard input.
    pub(crate) fn stdin(&self, network: &Network, call: &Injected<'_>) -> Vec<u8> {
        let mut conf = self.conf.clone();
        conf.insert("name".into(), network.name.clone().into());
        conf.insert("cniVersion".into(), network.version.as_str().into());
        let wanted = |(name, _): &(&String, &Value)| self.has_capability(name);
        let runtime: Map<String, Value> =
            call.capabilities.iter().filter(wanted).map(|(k, v)| (k.clone(), v.clone())).collect();
        if !runtime.is_empty() {
            conf.insert("runtimeConfig".into(), runtime.into());
        }
        if let Some(result) = call.previous {
            conf.insert("prevResult".into(), result.clone());
        }
        for (key, value) in call.extra {
            conf.insert((*key).into(), value.clone());
        }
        Value::Object(conf).to_string().into_bytes()
    }
}

/// What is put into a plugin's configuration for one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Injected<'a> {
    /// Everything that could be in `runtimeConfig`; a plugin gets what it declares.
    pub(crate) capabilities: &'a Map<String, Value>,
    /// Result of the plugin before, or of the whole ADD.
    pub(crate) previous: Option<&'a Value>,
    /// Further keys, of GC.
    pub(crate) extra: &'a [(&'static str, Value)],
}

/// A network: a chain of plugins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Network {
    pub(crate) name: String,
    pub(crate) version: Version,
    pub(crate) disable_check: bool,
    pub(crate) disable_gc: bool,
    pub(crate) plugins: Vec<Plugin>,
    /// The configuration as a list, for the cache: what is undone later is undone by this.
    pub(crate) bytes: Vec<u8>,
}

impl Network {
    /// Understands a configuration: a list (`plugins`) or that of a single plugin.
    ///
    /// # Errors
    ///
    /// Why it cannot be used, in words that follow the file's name.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err("the file is empty".into());
        }
        let value: Value = serde_json::from_slice(bytes).map_err(|e| format!("not JSON: {e}"))?;
        let Value::Object(conf) = value else { return Err("not a JSON object".into()) };
        let name = conf.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        check_name(&name)?;
        let version = version(&conf)?;
        let (plugins, bytes) = match conf.get("plugins") {
            Some(Value::Array(plugins)) => (plugins.clone(), bytes.to_vec()),
            Some(_) => return Err("\"plugins\" is not a list".into()),
            None => {
                let single = Value::Object(conf.clone());
                let list = json!({"cniVersion": version.as_str(), "name": name, "plugins": [single]});
                (vec![Value::Object(conf.clone())], list.to_string().into_bytes())
            }
        };
        if plugins.is_empty() || plugins.len() > MAX_PLUGINS {
            return Err(format!("has {} plugins; use 1 to {MAX_PLUGINS}", plugins.len()));
        }
        let parse = |(i, conf)| Plugin::parse(conf).map_err(|why| format!("plugin {} {why}", i + 1));
        let plugins = plugins.into_iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
        let flag = |key: &str| {
            matches!(conf.get(key), Some(Value::Bool(true)))
            // Some older writers put it in quotes.
            || conf.get(key).and_then(Value::as_str) == Some("true")
        };
        let (disable_check, disable_gc) = (flag("disableCheck"), flag("disableGC"));
        Ok(Self { name, version, disable_check, disable_gc, plugins, bytes })
    }
}

/// The version to speak: the newest that both sides know.
fn version(conf: &Map<String, Value>) -> Result<Version, String> {
    let one = conf.get("cniVersion").and_then(Value::as_str);
    let several = conf.get("cniVersions").and_then(Value::as_array).into_iter().flatten();
    let offered: Vec<&str> = several.filter_map(Value::as_str).chain(one).collect();
    if offered.is_empty() {
        return Err("has no cniVersion; use 0.3.0 to 1.1.0".into());
    }
    offered.iter().filter_map(|v| Version::parse(v)).max().ok_or_else(|| {
        format!("has cniVersion {:.60}; this daemon speaks 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0", offered[0])
    })
}

/// Names of networks, as the specification allows them.
fn check_name(name: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() {
        return Err("has no name".into());
    }
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !first || name.len() > MAX_NAME || !name.bytes().all(good) {
        return Err(format!(
            "has name {name:.120?}; use up to {MAX_NAME} letters, digits, '-', '_' and '.', a letter or digit first"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_and_a_single_plugin_are_understood() {
        let list = json!({
            "cniVersion": "0.4.0", "cniVersions": ["0.3.1", "1.0.0", "9.0.0"], "name": "n", "disableCheck": true,
            "plugins": [{"type": "bridge"}, {"type": "portmap", "capabilities": {"portMappings": true}}],
        });
        let network = Network::parse(list.to_string().as_bytes()).unwrap();
        assert_eq!((network.name.as_str(), network.version), ("n", Version::V1_0_0));
        assert!(network.disable_check && !network.disable_gc);
        assert_eq!(
            network.plugins.iter().map(|p| p.kind.as_str()).collect::<Vec<_>>(),
            ["bridge", "portmap"]
        );
        assert!(network.plugins[1].has_capability("portMappings"));

        let single = br#"{"cniVersion": "0.3.1", "name": "s", "type": "ptp", "mtu": 1400}"#;
        let network = Network::parse(single).unwrap();
        assert_eq!(network.plugins.len(), 1);
        let again = Network::parse(&network.bytes).unwrap();
        assert_eq!(again.plugins, network.plugins, "what is cached is the same network");
    }

    #[test]
    fn bad_configurations_are_named() {
        for (text, words) in [
            ("", "empty"),
            ("{", "not JSON"),
            ("[]", "not a JSON object"),
            (r#"{"cniVersion": "1.0.0", "plugins": [{"type": "a"}]}"#, "no name"),
            (r#"{"cniVersion": "1.0.0", "name": "../x", "type": "a"}"#, "has name"),
            (r#"{"name": "n", "type": "a"}"#, "no cniVersion"),
            (r#"{"cniVersion": "0.2.0", "name": "n", "type": "a"}"#, "cniVersion 0.2.0"),
            (r#"{"cniVersion": "2.0.0", "name": "n", "type": "a"}"#, "cniVersion 2.0.0"),
            (r#"{"cniVersion": "1.0.0", "name": "n", "plugins": []}"#, "0 plugins"),
            (r#"{"cniVersion": "1.0.0", "name": "n", "plugins": {}}"#, "not a list"),
            (
                r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "a"}, {}]}"#,
                "plugin 2 has no type",
            ),
            (r#"{"cniVersion": "1.0.0", "name": "n", "plugins": ["a"]}"#, "plugin 1 is not an object"),
            (r#"{"cniVersion": "1.0.0", "name": "n", "type": "../../bin/sh"}"#, "no name of a program"),
            (r#"{"cniVersion": "1.0.0", "name": "n"}"#, "plugin 1 has no type"),
        ] {
            let error = Network::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        let many = json!({"cniVersion": "1.0.0", "name": "n", "plugins": vec![json!({"type": "a"}); 33]});
        assert!(Network::parse(many.to_string().as_bytes()).unwrap_err().contains("33 plugins"));
    }

    #[test]
    fn a_plugin_reads_what_it_declares() {
        let text = r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [
            {"type": "a", "name": "other", "capabilities": {"bandwidth": true, "dns": false}}]}"#;
        let network = Network::parse(text.as_bytes()).unwrap();
        let capabilities =
            [("bandwidth".to_owned(), json!({"x": 1})), ("dns".to_owned(), json!({}))].into_iter().collect();
        let previous = json!({"ips": []});
        let call = Injected { capabilities: &capabilities, previous: Some(&previous), extra: &[] };
        let read: Value = serde_json::from_slice(&network.plugins[0].stdin(&network, &call)).unwrap();
        let expected = json!({
            "type": "a", "name": "n", "cniVersion": "1.0.0", "capabilities": {"bandwidth": true, "dns": false},
            "runtimeConfig": {"bandwidth": {"x": 1}}, "prevResult": {"ips": []},
        });
        assert_eq!(read, expected);
    }
}
