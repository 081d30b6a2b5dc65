//! Limits and requests.

use super::{Converter, items};
use crate::node::Node;
use serde_json::{Value as Json, json};

impl<'a> Converter<'a> {
    /// Processors, memory and GPUs of a container.
    pub(super) fn resources(&mut self, name: &str, service: &'a Node) -> Json {
        let mut found = json!({});
        for (kind, field, memory, cpus) in
            [("limits", "limits", "mem_limit", "cpus"), ("reservations", "requests", "mem_reservation", "")]
        {
            for (resource, long, short) in [("memory", "memory", memory), ("cpu", "cpus", cpus)] {
                let nodes = [service.get(&["deploy", "resources", kind, long]), service.get(&[short])];
                for node in nodes.into_iter().flatten() {
                    self.done(node);
                    let text = node.scalar().unwrap_or_default();
                    match text.parse::<f64>() {
                        Ok(number) if number > 0.0 && number < 1e15 => {
                            if found[field].get(resource).is_none() {
                                found[field][resource] = json!(text);
                            }
                        }
                        // No limit.
                        Ok(number) if number <= 0.0 => {}
                        _ => self.lose(
                            node,
                            format!("services.{name}: {text:?} is lost: it is no amount of {resource}"),
                        ),
                    }
                }
            }
        }
        for resource in ["memory", "cpu"] {
            let number = |field: &str| found[field][resource].as_str().and_then(|v| v.parse::<f64>().ok());
            if let (Some(limit), Some(request)) = (number("limits"), number("requests"))
                && request > limit
            {
                self.tell(
                    &service.span,
                    format!("services.{name}: more {resource} is reserved than it may use"),
                );
                found["requests"][resource] = found["limits"][resource].clone();
            }
        }
        let reserved = service.get(&["deploy", "resources", "reservations", "devices"]);
        let devices = reserved.map(Node::items).unwrap_or_default().iter().chain(items(service, "gpus"));
        let mut gpus = 0;
        for device in devices {
            gpus += self.gpus(device);
        }
        if gpus > 0 {
            found["limits"]["nvidia.com/gpu"] = json!(gpus.to_string());
        }
        found.as_object_mut().into_iter().for_each(|f| f.retain(|_, v| !v.is_null()));
        found
    }

    /// GPUs of a device request, if it names their maker and number; other requests stay for the report.
    fn gpus(&mut self, device: &'a Node) -> i64 {
        let plain = device.text(&["driver"]) == Some("nvidia")
            && items(device, "capabilities").iter().all(|c| c.as_str() == Some("gpu"));
        let count = device.get(&["count"]).and_then(Node::as_int).filter(|c| plain && (1..=1024).contains(c));
        if count.is_some() {
            for key in ["driver", "capabilities", "count"] {
                self.done_at(device, &[key]);
            }
        }
        count.unwrap_or_default()
    }
}
