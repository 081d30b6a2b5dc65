//! Health checks as probes.

use super::{Converter, seconds};
use crate::node::Node;
use serde_json::{Value as Json, json};

impl<'a> Converter<'a> {
    /// The readiness probe that a health check is, and the startup probe that its start period is.
    pub(super) fn probes(&mut self, name: &str, service: &'a Node, container: &mut Json) {
        let Some(check) = service.get(&["healthcheck"]) else { return };
        let words = check.get(&["test"]).map(Node::items).unwrap_or_default();
        let mut words = words.iter().map(|w| w.as_str().unwrap_or_default());
        let first = words.next();
        if self.flag(check, &["disable"]) || first == Some("NONE") {
            // Probes of the image are none of the cluster's.
            self.done(check);
            return;
        }
        let command: Vec<String> = match first {
            Some("CMD") => words.map(str::to_owned).collect(),
            Some("CMD-SHELL") => {
                vec!["/bin/sh".into(), "-c".into(), words.collect::<Vec<_>>().join(" ")]
            }
            _ => {
                let message =
                    format!("services.{name}.healthcheck is lost: the test of the image is not known");
                self.lose(check, message);
                return;
            }
        };
        self.done_at(check, &["test"]);
        let period = self.time(name, check, "interval").unwrap_or(30);
        let timeout = self.time(name, check, "timeout").unwrap_or(30);
        // As in Docker, none is the default of three.
        let retries = self.int(check, &["retries"]).filter(|r| *r > 0).unwrap_or(3).min(i64::from(i32::MAX));
        let probe = json!({
            "exec": {"command": command},
            "periodSeconds": period,
            "timeoutSeconds": timeout,
            "failureThreshold": retries,
        });
        let often = self.time(name, check, "start_interval");
        if let Some(start) = self.time(name, check, "start_period") {
            let often = often.unwrap_or(5);
            let mut startup = probe.clone();
            startup["periodSeconds"] = json!(often);
            startup["failureThreshold"] =
                json!((start / often).saturating_add(retries).min(i64::from(i32::MAX)));
            container["startupProbe"] = startup;
        } else if let Some(node) = check.get(&["start_interval"]) {
            self.lose(
                node,
                format!("services.{name}.healthcheck.start_interval says nothing without start_period"),
            );
        }
        container["readinessProbe"] = probe;
    }

    /// A time in whole seconds, at least one; what is rounded is reported.
    fn time(&mut self, name: &str, check: &'a Node, key: &str) -> Option<i64> {
        let node = check.get(&[key])?;
        let text = self.text(check, &[key])?;
        let nanoseconds = crate::finish::nanoseconds(text);
        if nanoseconds == 0 {
            return None;
        }
        let whole = seconds(text).clamp(1, i64::from(i32::MAX));
        if nanoseconds != whole.saturating_mul(1_000_000_000) {
            self.lose(node, format!("services.{name}.healthcheck.{key}: {text} is rounded to {whole}s"));
        }
        Some(whole)
    }
}
