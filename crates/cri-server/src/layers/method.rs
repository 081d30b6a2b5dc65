//! Every call of both sockets, and what class of work it is.

/// What a call asks of the daemon; each class has places of its own, so that none starves another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// Answers from memory.
    Read,
    /// Makes, starts or changes pods and containers.
    Create,
    /// Stops and removes: must work on a node that is too busy to create.
    Stop,
    /// Pulls, imports and removes images.
    Image,
    /// Runs or reaches into a container.
    Exec,
    /// Lasts as long as its client wants: events, and lists that are made as they are taken.
    Watch,
}

impl Class {
    /// All classes.
    pub(crate) const ALL: [Self; 6] =
        [Self::Read, Self::Create, Self::Stop, Self::Image, Self::Exec, Self::Watch];

    /// Its name in metrics and messages.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Create => "create",
            Self::Stop => "stop",
            Self::Image => "image",
            Self::Exec => "exec",
            Self::Watch => "watch",
        }
    }
}

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Method {
    /// `RuntimeService`, `ImageService` or `Local`.
    pub(crate) service: &'static str,
    /// Its name in the protocol.
    pub(crate) name: &'static str,
    pub(crate) class: Class,
}

const fn runtime(name: &'static str, class: Class) -> Method {
    Method { service: "RuntimeService", name, class }
}

const fn image(name: &'static str, class: Class) -> Method {
    Method { service: "ImageService", name, class }
}

const fn local(name: &'static str, class: Class) -> Method {
    Method { service: "Local", name, class }
}

/// What is asked for and does not exist; one value, whatever a client makes up.
const UNKNOWN: Method = Method { service: "unknown", name: "unknown", class: Class::Read };

const METHODS: [Method; 45] = [
    runtime("Version", Class::Read),
    runtime("RunPodSandbox", Class::Create),
    runtime("StopPodSandbox", Class::Stop),
    runtime("RemovePodSandbox", Class::Stop),
    runtime("PodSandboxStatus", Class::Read),
    runtime("ListPodSandbox", Class::Read),
    runtime("StreamPodSandboxes", Class::Watch),
    runtime("CreateContainer", Class::Create),
    runtime("StartContainer", Class::Create),
    runtime("StopContainer", Class::Stop),
    runtime("RemoveContainer", Class::Stop),
    runtime("ListContainers", Class::Read),
    runtime("StreamContainers", Class::Watch),
    runtime("ContainerStatus", Class::Read),
    runtime("UpdateContainerResources", Class::Create),
    runtime("ReopenContainerLog", Class::Exec),
    runtime("ExecSync", Class::Exec),
    runtime("Exec", Class::Exec),
    runtime("Attach", Class::Exec),
    runtime("PortForward", Class::Exec),
    runtime("ContainerStats", Class::Read),
    runtime("ListContainerStats", Class::Read),
    runtime("StreamContainerStats", Class::Watch),
    runtime("PodSandboxStats", Class::Read),
    runtime("ListPodSandboxStats", Class::Read),
    runtime("StreamPodSandboxStats", Class::Watch),
    runtime("UpdateRuntimeConfig", Class::Create),
    runtime("Status", Class::Read),
    runtime("CheckpointContainer", Class::Create),
    runtime("GetContainerEvents", Class::Watch),
    runtime("ListMetricDescriptors", Class::Read),
    runtime("ListPodSandboxMetrics", Class::Read),
    runtime("StreamPodSandboxMetrics", Class::Watch),
    runtime("RuntimeConfig", Class::Read),
    runtime("UpdatePodSandboxResources", Class::Create),
    image("ListImages", Class::Read),
    image("StreamImages", Class::Watch),
    image("ImageStatus", Class::Read),
    image("PullImage", Class::Image),
    image("RemoveImage", Class::Image),
    image("ImageFsInfo", Class::Read),
    local("ImportImage", Class::Image),
    local("PullImage", Class::Image),
    local("Wait", Class::Watch),
    local("Doctor", Class::Read),
];

impl Method {
    /// The call that an HTTP path such as `/runtime.v1.RuntimeService/Version` asks for.
    pub(crate) fn of(path: &str) -> &'static Self {
        let found = path.strip_prefix('/').and_then(|p| p.split_once('/')).and_then(|(package, name)| {
            let service = package.rsplit('.').next()?;
            METHODS.iter().find(|m| m.name == name && m.service == service)
        });
        found.unwrap_or(&UNKNOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_the_protocol_has_a_class() {
        let protocols = [
            include_str!("../../../../proto/runtime/v1/api.proto"),
            include_str!("../../../../proto/gantry/local/v1/local.proto"),
        ];
        let mut declared = Vec::new();
        for line in protocols.iter().flat_map(|p| p.lines()) {
            let mut words = line.split([' ', '(']).filter(|w| !w.is_empty());
            match words.next() {
                Some("service") => declared.push((words.next().unwrap(), Vec::new())),
                Some("rpc") => declared.last_mut().unwrap().1.push(words.next().unwrap()),
                _ => {}
            }
        }
        let declared: Vec<_> =
            declared.iter().flat_map(|(s, names)| names.iter().map(move |n| (*s, *n))).collect();
        let known: Vec<_> = METHODS.iter().map(|m| (m.service, m.name)).collect();
        assert_eq!(known, declared, "calls in layers/method.rs and in proto/, in the order of proto/");
    }

    #[test]
    fn what_is_not_known_has_one_name() {
        assert_eq!(Method::of("/runtime.v1.RuntimeService/RunPodSandbox").class, Class::Create);
        assert_eq!(Method::of("/gantry.local.v1.Local/PullImage").service, "Local");
        for path in ["", "/", "/x", "/runtime.v1.RuntimeService/Made", "/a/b/c", "RuntimeService/Version"] {
            assert_eq!(Method::of(path).name, "unknown", "{path}");
        }
    }
}
