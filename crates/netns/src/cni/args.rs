//! What plugins are told about a pod: CNI_ARGS and the capability arguments. Pure.

use crate::model::{AttachRequest, PortMapping};
use crate::{Error, ErrorKind, Result};
use serde_json::{Map, Value, json};

/// Annotation with the limit of what a pod receives, in bits per second.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";

/// Annotation with the limit of what a pod sends, in bits per second.
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// Limits that make sense, as Kubernetes has them: 1 kbit/s to 1 Pbit/s.
const BANDWIDTH: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;

/// Bucket of a limited pod in bits: as large as the plugin takes, so that only the rate limits.
const BURST: u64 = u32::MAX as u64;

/// Pairs for CNI_ARGS, as Kubernetes' plugins know them.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] for a value that would be read as several.
pub(crate) fn cni_args(request: &AttachRequest) -> Result<Vec<[String; 2]>> {
    let pod = &request.pod;
    let pairs = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &pod.namespace),
        ("K8S_POD_NAME", &pod.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &request.pod_id),
        ("K8S_POD_UID", &pod.uid),
    ];
    for (key, value) in pairs {
        if value.contains([';', '=', '\0']) {
            let message = format!("{key} {value:.80?} has a ';' or '=', which CNI_ARGS cannot carry");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
    }
    Ok(pairs.map(|(k, v)| [k.to_owned(), v.to_owned()]).into())
}

/// CNI_ARGS as the environment has it.
pub(crate) fn join(pairs: &[[String; 2]]) -> String {
    pairs.iter().map(|[k, v]| format!("{k}={v}")).collect::<Vec<_>>().join(";")
}

/// Everything that a plugin may get in `runtimeConfig`, by capability.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] naming the annotation that is no bandwidth.
pub(crate) fn capabilities(request: &AttachRequest) -> Result<Map<String, Value>> {
    let mut all = Map::new();
    if !request.ports.is_empty() {
        all.insert("portMappings".into(), request.ports.iter().map(port).collect());
    }
    let limit = |key: &str| match request.pod.annotations.get(key) {
        None => Ok(None),
        Some(text) => bandwidth(text)
            .map(Some)
            .map_err(|why| Error::new(ErrorKind::Invalid, format!("annotation {key} {text:.40?} {why}"))),
    };
    let mut limits = Map::new();
    for (rate, burst, value) in
        [("ingressRate", "ingressBurst", limit(INGRESS)?), ("egressRate", "egressBurst", limit(EGRESS)?)]
    {
        if let Some(value) = value {
            limits.insert(rate.into(), value.into());
            limits.insert(burst.into(), BURST.into());
        }
    }
    if !limits.is_empty() {
        all.insert("bandwidth".into(), limits.into());
    }
    if let Some(dns) = &request.pod.dns {
        let dns = json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options});
        all.insert("dns".into(), dns);
    }
    if !request.pod.cgroup_parent.is_empty() {
        all.insert("cgroupPath".into(), request.pod.cgroup_parent.clone().into());
    }
    if !request.pod.annotations.is_empty() {
        all.insert("io.kubernetes.cri.pod-annotations".into(), json!(request.pod.annotations));
    }
    Ok(all)
}

fn port(port: &PortMapping) -> Value {
    let mut value = json!({
        "hostPort": port.host_port,
        "containerPort": port.container_port,
        "protocol": port.protocol.to_string(),
    });
    if let (Some(ip), Some(object)) = (port.host_ip, value.as_object_mut()) {
        object.insert("hostIP".into(), ip.to_string().into());
    }
    value
}

/// A Kubernetes quantity (`10M`, `1Gi`, `1e6`) in whole bits per second.
fn bandwidth(text: &str) -> Result<u64, String> {
    const SUFFIXES: [(&str, u64); 11] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("", 1),
    ];
    let bad = || "is no quantity such as 10M".to_owned();
    let (number, factor) =
        SUFFIXES.iter().find_map(|(s, f)| text.strip_suffix(s).map(|n| (n, *f))).ok_or_else(bad)?;
    let plain = |b: u8| b.is_ascii_digit() || b == b'.' || (factor == 1 && matches!(b, b'e' | b'E' | b'+'));
    if number.is_empty() || number.len() > 20 || !number.bytes().all(plain) {
        return Err(bad());
    }
    let value = number.parse::<f64>().map_err(|_| bad())? * factor as f64;
    let (low, high) = (*BANDWIDTH.start(), *BANDWIDTH.end());
    if !(low as f64..=high as f64).contains(&value) {
        return Err("is not between 1k and 1P".into());
    }
    Ok(value.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Dns, PodDetails, Protocol};

    fn request(pod: PodDetails, ports: Vec<PortMapping>) -> AttachRequest {
        let netns = std::fs::File::open("/proc/self/ns/net").unwrap().into();
        let (netns_path, interface) = ("/run/netns/x".into(), "eth0".into());
        AttachRequest { pod_id: "p1".into(), netns, netns_path, interface, ports, pod }
    }

    #[test]
    fn quantities_are_read() {
        for (text, value) in [
            ("1000", 1000),
            ("10M", 10_000_000),
            ("1.5k", 1500),
            ("1Mi", 1 << 20),
            ("1e6", 1_000_000),
            ("1P", 10_u64.pow(15)),
        ] {
            assert_eq!(bandwidth(text), Ok(value), "{text}");
        }
        for bad in ["", "M", "x", "-5M", "1e6M", "999", "2P", "1e300", "10 M", "NaN", "inf", "1m"] {
            assert!(bandwidth(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pod_is_described() {
        let annotations =
            [(INGRESS.to_owned(), "1M".to_owned()), (EGRESS.to_owned(), "2M".to_owned())].into();
        let dns = Dns { servers: vec!["10.0.0.10".into()], searches: vec!["s".into()], options: vec![] };
        let pod = PodDetails {
            namespace: "default".into(),
            name: "web".into(),
            uid: "u1".into(),
            annotations,
            cgroup_parent: "/kubepods".into(),
            dns: Some(dns),
        };
        let host_ip = Some("127.0.0.1".parse().unwrap());
        let ports = vec![
            PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port: 8080, host_ip },
            PortMapping { protocol: Protocol::Sctp, container_port: 5, host_port: 6, host_ip: None },
        ];
        let request = request(pod, ports);
        assert_eq!(
            join(&cni_args(&request).unwrap()),
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=p1;K8S_POD_UID=u1"
        );
        let expected = json!({
            "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"},
                {"hostPort": 6, "containerPort": 5, "protocol": "sctp"}],
            "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 4_294_967_295_u32,
                          "egressRate": 2_000_000, "egressBurst": 4_294_967_295_u32},
            "dns": {"servers": ["10.0.0.10"], "searches": ["s"], "options": []},
            "cgroupPath": "/kubepods",
            "io.kubernetes.cri.pod-annotations": {INGRESS: "1M", EGRESS: "2M"},
        });
        assert_eq!(Value::Object(capabilities(&request).unwrap()), expected);
    }

    #[test]
    fn what_plugins_could_misread_is_refused() {
        let pod = PodDetails { name: "a;K8S_POD_NAMESPACE=kube-system".into(), ..PodDetails::default() };
        let error = cni_args(&request(pod, vec![])).unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("K8S_POD_NAME"), "{error}");
        let annotations = [(EGRESS.to_owned(), "fast".to_owned())].into();
        let pod = PodDetails { annotations, ..PodDetails::default() };
        let error = capabilities(&request(pod, vec![])).unwrap_err().to_string();
        assert!(error.contains("egress-bandwidth \"fast\" is no quantity"), "{error}");
        assert!(capabilities(&request(PodDetails::default(), vec![])).unwrap().is_empty());
    }
}
