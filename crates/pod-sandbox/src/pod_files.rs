//! The files that every container of a pod sees as its own: hosts, hostname, resolv.conf.

use gantry_cri_api::v1;
use std::fmt::Write as _;

/// Most bytes of the host's own files that are copied into a pod.
pub(crate) const MAX_HOST_FILE: u64 = 1 << 20;

/// Text of `/etc/hosts` for a pod with a network of its own.
pub(crate) fn hosts(hostname: &str, ip: Option<&str>) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    if let (Some(ip), false) = (ip, hostname.is_empty()) {
        let _infallible = writeln!(text, "{ip}\t{hostname}");
    }
    text
}

/// Text of `/etc/resolv.conf` as the request wants it (resolv.conf(5)).
pub(crate) fn resolv_conf(dns: &v1::DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        let _infallible = writeln!(text, "search {}", dns.searches.join(" "));
    }
    for server in &dns.servers {
        let _infallible = writeln!(text, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _infallible = writeln!(text, "options {}", dns.options.join(" "));
    }
    text
}

/// Whether a DNS field could smuggle further lines into the file.
pub(crate) fn is_clean(field: &str) -> bool {
    !field.is_empty() && !field.contains(['\n', '\r', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_say_what_was_asked() {
        let dns = v1::DnsConfig {
            servers: vec!["10.0.0.10".into(), "1.1.1.1".into()],
            searches: vec!["a.svc".into(), "svc".into()],
            options: vec!["ndots:5".into()],
        };
        let expected = "search a.svc svc\nnameserver 10.0.0.10\nnameserver 1.1.1.1\noptions ndots:5\n";
        assert_eq!(resolv_conf(&dns), expected);
        assert!(hosts("web", Some("10.88.0.2")).ends_with("10.88.0.2\tweb\n"));
        assert!(!hosts("web", None).contains("web"));
        assert!(!is_clean("1.1.1.1\nnameserver 6.6.6.6") && is_clean("1.1.1.1"));
    }
}
