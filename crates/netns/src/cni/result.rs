//! What plugins print: results and errors (CNI specification, section 5). Pure.

use super::conf::Version;
use super::exec::Failure;
use crate::ErrorKind;
use serde_json::Value;
use std::net::IpAddr;

/// Most addresses that a pod may get.
const MAX_IPS: usize = 32;

/// Longest text of a plugin that is repeated.
const MAX_WORDS: usize = 600;

/// Error code of a plugin that wants to be called again later.
const TRY_AGAIN: u64 = 11;

/// What a result says about the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Addresses of the pod, in the order of the result.
    pub(crate) ips: Vec<IpAddr>,
    /// Hardware address of the pod's link.
    pub(crate) mac: Option<String>,
}

/// Understands what ADD printed; the version in it is that of the configuration.
pub(crate) fn parse(printed: &[u8], version: Version) -> Result<Value, String> {
    let mut value: Value =
        serde_json::from_slice(printed).map_err(|e| format!("printed no JSON: {e}: {}", words(printed)))?;
    let Value::Object(result) = &mut value else {
        return Err(format!("printed no JSON object: {}", words(printed)));
    };
    // The next plugin refuses a result of another version than its configuration's; the formats of the
    // versions that Gantry speaks differ in fields that nobody has to have.
    result.insert("cniVersion".into(), version.as_str().into());
    Ok(value)
}

/// Reads addresses from the result of a chain.
///
/// # Errors
///
/// What is wrong with it, if it is not as the specification says.
pub(crate) fn summary(result: &Value, interface: &str) -> Result<Summary, String> {
    let list = |key: &str| match result.get(key) {
        None | Some(Value::Null) => Ok(&[][..]),
        Some(Value::Array(list)) => Ok(list.as_slice()),
        Some(_) => Err(format!("the result's {key} is not a list")),
    };
    let interfaces = list("interfaces")?;
    let text =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_ours = |link: &Value| !text(link, "sandbox").is_empty() && text(link, "name") == interface;
    let mut ips = Vec::new();
    for entry in list("ips")? {
        let address = text(entry, "address");
        let parsed = address.split_once('/').and_then(|(ip, length)| {
            let (ip, length): (IpAddr, u8) = (ip.parse().ok()?, length.parse().ok()?);
            (length <= if ip.is_ipv4() { 32 } else { 128 }).then_some(ip)
        });
        let ip = parsed
            .ok_or_else(|| format!("the result's address {address:.80?} is not one such as 10.1.2.3/24"))?;
        // An address that names no link is the pod's; else it has to be on a link in the pod.
        let on = match entry.get("interface").and_then(Value::as_u64) {
            None => None,
            Some(n) => {
                let link = usize::try_from(n).ok().and_then(|n| interfaces.get(n));
                Some(link.ok_or_else(|| {
                    format!("the result's address {ip} is on link {n}, which it does not list")
                })?)
            }
        };
        if on.is_none_or(|link| !text(link, "sandbox").is_empty()) {
            ips.push(ip);
        }
    }
    if ips.len() > MAX_IPS {
        return Err(format!("the result has {} addresses; {MAX_IPS} are the most", ips.len()));
    }
    let mac = interfaces.iter().find(|l| is_ours(l)).map(|l| text(l, "mac")).filter(|m| is_mac(m));
    Ok(Summary { ips, mac })
}

fn is_mac(text: &str) -> bool {
    text.len() <= 59 && text.split(':').all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Versions that a plugin answers VERSION with.
pub(crate) fn supported(printed: &[u8]) -> Vec<String> {
    let value: Value = serde_json::from_slice(printed).unwrap_or_default();
    let list = value.get("supportedVersions").and_then(Value::as_array).cloned().unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(|v| words(v.as_bytes())).take(MAX_IPS).collect()
}

/// Why a call failed, in words, and what kind of failure that is.
pub(crate) fn explain(failure: &Failure) -> (ErrorKind, String) {
    match failure {
        Failure::NotStarted(why) => (ErrorKind::Failed, format!("could not be started: {why}")),
        Failure::TimedOut(limit) => {
            let message = format!("did not end within {} s and was killed", limit.as_secs_f64());
            (ErrorKind::TimedOut, message)
        }
        Failure::TooMuch => (ErrorKind::Failed, "printed more than 1 MiB and was killed".into()),
        Failure::Signal(signal) => (ErrorKind::Failed, format!("was killed by signal {signal}")),
        Failure::Lost(why) => (ErrorKind::Failed, format!("could not be followed: {why}")),
        Failure::Exit { code, stdout, stderr } => exit(*code, stdout, stderr),
    }
}

fn exit(code: i32, stdout: &[u8], stderr: &[u8]) -> (ErrorKind, String) {
    let value: Option<Value> = serde_json::from_slice(stdout).ok();
    let number = value.as_ref().and_then(|v| v.get("code")).and_then(Value::as_u64);
    let text = |key: &str| {
        let text = value.as_ref().and_then(|v| v.get(key)).and_then(Value::as_str).unwrap_or_default();
        words(text.as_bytes())
    };
    if let (Some(number), said) = (number, text("msg")) {
        let kind = if number == TRY_AGAIN { ErrorKind::TryAgain } else { ErrorKind::Failed };
        let details = text("details");
        let details = if details.is_empty() { details } else { format!(": {details}") };
        let said = if said.is_empty() { "said nothing more".to_owned() } else { said };
        return (kind, format!("{said}{details} (code {number}{})", meaning(number)));
    }
    let said = if stderr.iter().any(|b| !b.is_ascii_whitespace()) { stderr } else { stdout };
    let said = words(said);
    let said = if said.is_empty() { "it printed nothing".to_owned() } else { said };
    (ErrorKind::Failed, format!("ended with exit code {code}: {said}"))
}

/// What the specification says of an error code.
fn meaning(code: u64) -> &'static str {
    match code {
        1 => ", incompatible CNI version",
        2 => ", unsupported field in the configuration",
        3 => ", container unknown",
        4 => ", invalid environment variables",
        5 => ", I/O failure",
        6 => ", failed to decode content",
        7 => ", invalid network configuration",
        11 => ", try again later",
        50 => ", the plugin is not available",
        51 => ", the plugin is not available, and running containers may be cut off",
        _ => "",
    }
}

/// Text of a plugin on one line, without control characters, cut to a bearable length.
pub(crate) fn words(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(4 * MAX_WORDS)]);
    let printable: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words: Vec<&str> = printable.split_whitespace().collect();
    words.join(" ").chars().take(MAX_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn results_are_understood() {
        let result = json!({
            "cniVersion": "0.4.0",
            "interfaces": [{"name": "br0", "mac": "aa:bb:cc:dd:ee:ff"},
                           {"name": "eth0", "mac": "0a:58:0a:01:02:03", "sandbox": "/run/netns/x"}],
            "ips": [{"version": "4", "address": "10.1.2.3/24", "interface": 1, "gateway": "10.1.2.1"},
                    {"address": "fd00::2/64", "interface": 1},
                    {"address": "192.0.2.1/24", "interface": 0}, {"address": "10.9.9.9/32"}],
        });
        let got = summary(&result, "eth0").unwrap();
        let ips: Vec<String> = got.ips.iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.1.2.3", "fd00::2", "10.9.9.9"]);
        assert_eq!(got.mac.unwrap(), "0a:58:0a:01:02:03");
        assert_eq!(summary(&json!({}), "eth0").unwrap(), Summary::default());
        let parsed = parse(b"{\"cniVersion\": \"9.9.9\", \"ips\": []}", Version::V0_3_1).unwrap();
        assert_eq!(parsed["cniVersion"], "0.3.1");
    }

    #[test]
    fn results_that_lie_are_refused() {
        for (result, word) in [
            (json!({"ips": {}}), "not a list"),
            (json!({"ips": [{}]}), "address"),
            (json!({"ips": [{"address": "10.0.0.1"}]}), "address"),
            (json!({"ips": [{"address": "10.0.0.1/33"}]}), "address"),
            (json!({"ips": [{"address": "10.0.0.1/24; reboot"}]}), "address"),
            (json!({"ips": [{"address": "10.0.0.1/24", "interface": 7}]}), "link 7"),
            (json!({"ips": vec![json!({"address": "10.0.0.1/24"}); 40]}), "40 addresses"),
            (json!({"interfaces": 3}), "not a list"),
        ] {
            let error = summary(&result, "eth0").unwrap_err();
            assert!(error.contains(word), "{result}: {error}");
        }
        let odd_mac = json!({"interfaces": [{"name": "eth0", "mac": "x\ny", "sandbox": "s"}]});
        assert_eq!(summary(&odd_mac, "eth0").unwrap().mac, None);
        assert!(parse(b"", Version::V1_0_0).unwrap_err().contains("no JSON"));
        assert!(parse(b"[1]", Version::V1_0_0).unwrap_err().contains("no JSON object: [1]"));
    }

    #[test]
    fn failures_are_put_into_words() {
        let exit = |stdout: &str, stderr: &str| {
            let (stdout, stderr) = (stdout.as_bytes().to_vec(), stderr.as_bytes().to_vec());
            explain(&Failure::Exit { code: 1, stdout, stderr })
        };
        for (stdout, stderr, kind, expected) in [
            (
                r#"{"code": 7, "msg": "bad range", "details": "10.0.0.0/33"}"#,
                "noise",
                ErrorKind::Failed,
                "bad range: 10.0.0.0/33 (code 7, invalid network configuration)",
            ),
            (r#"{"code": 11, "msg": "busy"}"#, "", ErrorKind::TryAgain, "busy (code 11, try again later)"),
            (r#"{"code": 100, "msg": "no\u001b[2J\nway"}"#, "", ErrorKind::Failed, "no [2J way (code 100)"),
            (r#"{"code": 999}"#, "", ErrorKind::Failed, "said nothing more (code 999)"),
            ("garbage", "", ErrorKind::Failed, "ended with exit code 1: garbage"),
            ("garbage", "panic: x\n\tat y", ErrorKind::Failed, "ended with exit code 1: panic: x at y"),
            ("", "", ErrorKind::Failed, "ended with exit code 1: it printed nothing"),
        ] {
            assert_eq!(exit(stdout, stderr), (kind, expected.to_owned()));
        }
        assert!(exit(&"x".repeat(100_000), "").1.len() < 1000, "bounded");
        let (kind, text) = explain(&Failure::TimedOut(Duration::from_secs(60)));
        assert_eq!((kind, text.as_str()), (ErrorKind::TimedOut, "did not end within 60 s and was killed"));
        assert_eq!(explain(&Failure::Signal(9)).1, "was killed by signal 9");
        let printed = br#"{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}"#;
        assert_eq!(supported(printed), ["0.4.0", "1.0.0"]);
        assert!(supported(b"junk").is_empty());
    }
}
