//! What a container may do.

use super::{Converter, items};
use crate::node::Node;
use serde_json::{Value as Json, json};

impl<'a> Converter<'a> {
    /// The security context; it satisfies the restricted profile where the file says that no more is needed.
    pub(super) fn security(&mut self, name: &str, service: &'a Node) -> Json {
        let mut security = json!({});
        let plain = self.user(name, service, &mut security);
        self.security_options(name, service, &mut security);
        if self.flag(service, &["read_only"]) {
            security["readOnlyRootFilesystem"] = json!(true);
        }
        if self.flag(service, &["privileged"]) {
            // All capabilities, as in Docker; the cluster refuses the two together.
            security["privileged"] = json!(true);
            if security["allowPrivilegeEscalation"] == false {
                let message = format!("services.{name}: privileged takes no-new-privileges away");
                self.tell(&service.span, message);
                security.as_object_mut().and_then(|s| s.remove("allowPrivilegeEscalation"));
            }
            return security;
        }
        let (add, mut drop) = (self.capabilities(service, "cap_add"), self.capabilities(service, "cap_drop"));
        if plain && add.iter().all(|c| c == "NET_BIND_SERVICE") {
            security["runAsNonRoot"] = json!(true);
            security["allowPrivilegeEscalation"] = json!(false);
            drop = vec!["ALL".to_owned()];
        }
        for (field, names) in [("add", add), ("drop", drop)] {
            if !names.is_empty() {
                security["capabilities"][field] = json!(names);
            }
        }
        security
    }

    fn capabilities(&mut self, service: &'a Node, key: &str) -> Vec<String> {
        let plain = |name: &str| name.to_uppercase().trim_start_matches("CAP_").to_owned();
        self.texts(service, key).into_iter().map(plain).collect()
    }

    /// Returns whether it is known not to be root.
    fn user(&mut self, name: &str, service: &'a Node, security: &mut Json) -> bool {
        let Some(user) = service.get(&["user"]) else { return false };
        self.done(user);
        let text = user.scalar().unwrap_or_default();
        let (who, group) = text.split_once(':').map_or((text.as_str(), None), |(w, g)| (w, Some(g)));
        let id = |text: &str| text.parse::<i64>().ok().filter(|id| (0..=i64::from(i32::MAX)).contains(id));
        if let Some(group) = group {
            match id(group) {
                Some(number) if id(who).is_some() => security["runAsGroup"] = json!(number),
                Some(_) => {}
                None => self.lose(user, format!("services.{name}.user: group {group:?} has to be a number")),
            }
        }
        match id(who) {
            Some(number) => {
                security["runAsUser"] = json!(number);
                number != 0
            }
            None => {
                self.lose(user, format!("services.{name}.user: {text:?} has to be a number"));
                false
            }
        }
    }

    fn security_options(&mut self, name: &str, service: &'a Node, security: &mut Json) {
        for option in items(service, "security_opt") {
            self.done(option);
            let text = option.as_str().unwrap_or_default();
            let (key, value) = text.split_once(['=', ':']).unwrap_or((text, "true"));
            match (key, value) {
                ("no-new-privileges", "true") => security["allowPrivilegeEscalation"] = json!(false),
                ("no-new-privileges", "false") => {}
                ("seccomp", "unconfined") => security["seccompProfile"] = json!({"type": "Unconfined"}),
                ("apparmor", "unconfined") => security["appArmorProfile"] = json!({"type": "Unconfined"}),
                ("apparmor", profile) if !profile.is_empty() && profile.len() <= 4095 => {
                    security["appArmorProfile"] = json!({"type": "Localhost", "localhostProfile": profile});
                    self.lose(
                        option,
                        format!("services.{name}.security_opt: {profile} has to be on the nodes"),
                    );
                }
                ("label", label) => match label.split_once(':') {
                    Some((part @ ("user" | "role" | "type" | "level"), value)) => {
                        security["seLinuxOptions"][part] = json!(value);
                    }
                    _ => self.lose(option, format!("services.{name}.security_opt: {text:?} is lost")),
                },
                ("systempaths", "unconfined") => {
                    let message = format!(
                        "services.{name}.security_opt: {text:?} is lost: procMount asks for a user namespace"
                    );
                    self.lose(option, message);
                }
                _ => self.lose(option, format!("services.{name}.security_opt: {text:?} is lost")),
            }
        }
    }
}
