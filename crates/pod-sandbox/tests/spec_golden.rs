//! From CRI configurations to OCI ones: golden files (`tests/golden/spec/*.json`), and properties
//! that hold for all of them. `GOLDEN=write` writes the files anew; read the difference.

use gantry_cri_api::v1;
use gantry_pod_sandbox::spec::{
    HostDevice, HostFacts, ImageDefaults, Labels, Namespaces, Ns, PodFiles, SpecAdjuster, SpecError,
    SpecInput, container_spec, exec_process,
};
use gantry_pod_sandbox::{ContainerPolicy, User};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Everything that a spec is made of, owned, so that a case can change any of it.
struct Case {
    pod: v1::PodSandboxConfig,
    container: v1::ContainerConfig,
    image: ImageDefaults,
    files: PodFiles,
    namespaces: Namespaces,
    user: User,
    home: String,
    host: HostFacts,
    localhost_seccomp: Option<String>,
    apparmor_default: Option<&'static str>,
    selinux: Option<Labels>,
    policy: ContainerPolicy,
    devices: Vec<HostDevice>,
    with_host_devices: bool,
}

const HOST_CAPABILITIES: [&str; 20] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RESOURCE",
    "CAP_SYSLOG",
];

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn device(path: &str, kind: char, major: u32, minor: u32) -> HostDevice {
    HostDevice { path: path.into(), kind, major, minor, mode: 0o660, uid: 0, gid: 6 }
}

/// A container that asks for nothing, in a pod with a network of its own, on a v1 host.
fn plain() -> Case {
    let join = |kind: &str| Ns::Join(format!("/proc/77/ns/{kind}").into());
    Case {
        pod: v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: "web".into(),
                uid: "f00-1".into(),
                namespace: "shop".into(),
                attempt: 0,
            }),
            ..Default::default()
        },
        container: v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "nginx".into(), attempt: 0 }),
            ..Default::default()
        },
        image: ImageDefaults {
            env: strings(&["PATH=/usr/sbin:/usr/bin", "NGINX_VERSION=1.14", "not a variable"]),
            entrypoint: strings(&["/entry"]),
            cmd: strings(&["nginx", "-g", "daemon off;"]),
            working_dir: "/srv".into(),
        },
        files: PodFiles {
            hosts: "/run/gantry/pods/p1/hosts".into(),
            hostname: "/run/gantry/pods/p1/hostname".into(),
            resolv_conf: "/run/gantry/pods/p1/resolv.conf".into(),
            shm: "/run/gantry/pods/p1/shm".into(),
        },
        namespaces: Namespaces {
            net: join("net"),
            ipc: join("ipc"),
            uts: join("uts"),
            pid: Ns::New,
            user: None,
        },
        user: User { uid: 0, gid: 0, additional_gids: Vec::new() },
        home: "/root".into(),
        host: HostFacts {
            bounding: strings(&HOST_CAPABILITIES),
            cgroup_v2: false,
            swap_accounting: true,
            apparmor: false,
            selinux: false,
            hugetlb: false,
            x32: true,
        },
        localhost_seccomp: None,
        apparmor_default: None,
        selinux: None,
        policy: ContainerPolicy::default(),
        devices: vec![
            device("/dev/fuse", 'c', 10, 229),
            device("/dev/snd/controlC0", 'c', 116, 0),
            device("/dev/snd/timer", 'c', 116, 33),
            device("/dev/vda", 'b', 254, 0),
        ],
        with_host_devices: true,
    }
}

impl Case {
    fn spec(&self, adjusters: &[&dyn SpecAdjuster]) -> Result<Value, SpecError> {
        container_spec(
            &SpecInput {
                pod: &self.pod,
                container: &self.container,
                pod_id: "p1",
                hostname: "web",
                image: &self.image,
                rootfs: Path::new("/run/gantry/pods/p1/c1/rootfs"),
                files: &self.files,
                namespaces: &self.namespaces,
                cgroup: "/kubepods/podf00-1/crio-c1",
                user: &self.user,
                home: &self.home,
                host: &self.host,
                localhost_seccomp: self.localhost_seccomp.as_deref(),
                apparmor_default: self.apparmor_default,
                selinux: self.selinux.as_ref(),
                policy: &self.policy,
                devices: &self.devices,
                with_host_devices: self.with_host_devices,
            },
            adjusters,
        )
    }

    fn linux(&mut self) -> &mut v1::LinuxContainerConfig {
        self.container.linux.get_or_insert_default()
    }

    fn security(&mut self) -> &mut v1::LinuxContainerSecurityContext {
        self.linux().security_context.get_or_insert_default()
    }

    fn resources(&mut self) -> &mut v1::LinuxContainerResources {
        self.linux().resources.get_or_insert_default()
    }
}

fn profile(kind: v1::security_profile::ProfileType, reference: &str) -> Option<v1::SecurityProfile> {
    Some(v1::SecurityProfile { profile_type: kind.into(), localhost_ref: reference.into() })
}

fn mount(host: &str, container: &str) -> v1::Mount {
    v1::Mount { host_path: host.into(), container_path: container.into(), ..Default::default() }
}

type Change = fn(&mut Case);

const CASES: [(&str, Change); 12] = [
    ("plain", |_| {}),
    ("kubelet", |c| {
        c.container.args = strings(&["serve", "--port=80"]);
        c.container.envs = vec![
            v1::KeyValue { key: "NGINX_VERSION".into(), value: "2=3".into() },
            v1::KeyValue { key: "POD_IP".into(), value: "10.88.0.7".into() },
        ];
        c.container.annotations = BTreeMap::from([
            ("io.kubernetes.container.hash".into(), "abc".into()),
            ("container.apparmor.security.beta.kubernetes.io/nginx".into(), "unconfined".into()),
            ("run.oci.handler".into(), "wasm".into()),
            ("org.systemd.property.CollectMode".into(), "inactive".into()),
        ]);
        c.container.mounts = vec![
            v1::Mount { readonly: true, ..mount("/var/lib/kubelet/pods/f00-1/etc-hosts", "/etc/hosts") },
            mount("/var/lib/kubelet/pods/f00-1/containers/nginx/0", "/dev/termination-log"),
        ];
        c.user = User { uid: 33, gid: 34, additional_gids: vec![34, 2000] };
        c.home = "/var/www".into();
        let security = c.security();
        security.no_new_privs = true;
        security.readonly_rootfs = true;
        security.masked_paths = strings(&["/proc/kcore", "/sys/firmware"]);
        security.readonly_paths = strings(&["/proc/sys"]);
        security.seccomp = profile(v1::security_profile::ProfileType::RuntimeDefault, "");
        security.capabilities = Some(v1::Capability {
            add_capabilities: strings(&["NET_BIND_SERVICE"]),
            drop_capabilities: strings(&["ALL"]),
            ..Default::default()
        });
        let resources = c.resources();
        resources.cpu_shares = 256;
        resources.cpu_quota = 50_000;
        resources.cpu_period = 100_000;
        resources.memory_limit_in_bytes = 134_217_728;
        resources.oom_score_adj = 985;
        resources.cpuset_cpus = "0-1".into();
        let pages = |size: &str| v1::HugepageLimit { page_size: size.into(), limit: 0 };
        resources.hugepage_limits = vec![pages("2MB"), pages("1GB")];
    }),
    ("privileged", |c| {
        c.namespaces = Namespaces { net: Ns::Host, ipc: Ns::Host, uts: Ns::Host, pid: Ns::Host, user: None };
        c.security().privileged = true;
        c.security().seccomp = profile(v1::security_profile::ProfileType::RuntimeDefault, "");
        c.container.devices = vec![v1::Device {
            host_path: "/dev/vda".into(),
            container_path: "/dev/disk".into(),
            permissions: "rwm".into(),
        }];
    }),
    ("volumes", |c| {
        c.container.mounts = vec![
            mount("/data/deep", "/a/b/c/"),
            v1::Mount { readonly: true, ..mount("/data", "/a//b") },
            v1::Mount { readonly: true, recursive_read_only: true, ..mount("/secret", "/a/./b/secret") },
            v1::Mount {
                propagation: v1::MountPropagation::PropagationHostToContainer.into(),
                ..mount("/var/lib/kubelet", "/host")
            },
            v1::Mount {
                propagation: v1::MountPropagation::PropagationBidirectional.into(),
                ..mount("/mnt", "/mnt")
            },
            mount("/run/shm", "/dev/shm"),
            mount("/etc/resolv.conf", "/etc/resolv.conf/"),
        ];
    }),
    ("devices", |c| {
        let asked = |host: &str, container: &str, permissions: &str| v1::Device {
            host_path: host.into(),
            container_path: container.into(),
            permissions: permissions.into(),
        };
        c.container.devices =
            vec![asked("/dev/fuse", "/dev/fuse", "rwm"), asked("/dev/snd/", "/dev/sound", "r")];
    }),
    ("terminal", |c| {
        c.container.tty = true;
        c.container.command = strings(&["/bin/sh"]);
        c.container.working_dir = "/tmp".into();
        c.namespaces.uts = Ns::New;
        c.namespaces.pid = Ns::Join("/proc/77/ns/pid".into());
    }),
    ("cgroup2", |c| {
        c.host.cgroup_v2 = true;
        c.host.hugetlb = true;
        let resources = c.resources();
        resources.unified = BTreeMap::from([("memory.high".into(), "100000000".into())]);
        resources.memory_limit_in_bytes = 134_217_728;
        resources.memory_swap_limit_in_bytes = 268_435_456;
        resources.hugepage_limits = vec![
            v1::HugepageLimit { page_size: "2MB".into(), limit: 4_194_304 },
            v1::HugepageLimit { page_size: "1GB".into(), limit: 0 },
        ];
    }),
    ("ambient", |c| {
        c.user = User { uid: 1000, gid: 1000, additional_gids: Vec::new() };
        c.home = "/".into();
        c.security().capabilities = Some(v1::Capability {
            add_ambient_capabilities: strings(&["NET_BIND_SERVICE", "CAP_SYS_TIME"]),
            add_capabilities: strings(&["cap_net_admin"]),
            drop_capabilities: strings(&["MKNOD", "net_raw"]),
        });
        // The host lowers nothing without CAP_SYS_RESOURCE.
        c.host.bounding.retain(|cap| cap != "CAP_SYS_RESOURCE");
        c.resources().oom_score_adj = -997;
    }),
    ("profiles", |c| {
        c.host.apparmor = true;
        c.security().apparmor = profile(v1::security_profile::ProfileType::Localhost, "my-profile");
        c.security().seccomp = profile(v1::security_profile::ProfileType::Localhost, "/profiles/p.json");
        c.localhost_seccomp = Some(r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}"#.into());
    }),
    ("default_apparmor", |c| {
        c.host.apparmor = true;
        c.apparmor_default = Some("gantry-default");
        c.policy.ulimits = vec!["nofile=1024:4096".parse().unwrap(), "core=unlimited".parse().unwrap()];
        c.pod.annotations.insert("umask.crio.io".into(), "0077".into());
        // Where the image was mounted; writing and running are refused whatever the request says.
        c.container.mounts = vec![v1::Mount {
            image: Some(v1::ImageSpec { image: "models".into(), ..Default::default() }),
            image_sub_path: "data".into(),
            readonly: false,
            ..mount("/run/gantry/pods/p1/c1/images/0/data", "/models")
        }];
    }),
    ("privileged_without_host_devices", |c| {
        c.with_host_devices = false;
        c.security().privileged = true;
        c.host.apparmor = true;
        c.apparmor_default = Some("gantry-default");
        c.container.devices = vec![v1::Device {
            host_path: "/dev/fuse".into(),
            container_path: "/dev/fuse".into(),
            permissions: "rw".into(),
        }];
    }),
    ("selinux", |c| {
        c.selinux = Some(Labels {
            process: "system_u:system_r:container_t:s0:c1,c2".into(),
            files: "system_u:object_r:container_file_t:s0:c1,c2".into(),
        });
    }),
];

#[test]
fn configurations_become_what_the_golden_files_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/spec");
    let write = std::env::var_os("GOLDEN").is_some_and(|how| how == "write");
    let mut wrong = Vec::new();
    for (name, change) in CASES {
        let mut case = plain();
        change(&mut case);
        let spec = case.spec(&[]).unwrap();
        // What the OCI types of another project do not read would be lost on a runtime.
        let typed: oci_spec::runtime::Spec = serde_json::from_value(spec.clone()).unwrap();
        assert_eq!(typed.version(), "1.0.2");
        let text = serde_json::to_string_pretty(&spec).unwrap() + "\n";
        let file = dir.join(format!("{name}.json"));
        if write {
            std::fs::write(&file, text).unwrap();
        } else if std::fs::read_to_string(&file).unwrap_or_default() != text {
            wrong.push(format!("{}: is now\n{text}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_cannot_be_carried_out_is_refused_by_name() {
    let cases: [(&str, Change); 28] = [
        ("command: neither", |c| c.image = ImageDefaults::default()),
        ("command: an argument contains a NUL", |c| c.container.args = vec!["a\0b".into()]),
        ("working_dir: \"srv\" must be an absolute path", |c| c.container.working_dir = "srv".into()),
        ("envs[A=B]", |c| c.container.envs = vec![v1::KeyValue { key: "A=B".into(), value: "1".into() }]),
        ("envs[A]: the value is not UTF-8", |c| {
            c.container.envs = vec![v1::KeyValue { key: "A".into(), value: vec![0xff] }];
        }),
        ("image config.Env", |c| c.image.env.push("A=\0".into())),
        ("add_capabilities: \"FLY\"", |c| {
            c.security().capabilities =
                Some(v1::Capability { add_capabilities: strings(&["FLY"]), ..Default::default() });
        }),
        ("apparmor: profile \"p\"", |c| {
            c.security().apparmor = profile(v1::security_profile::ProfileType::Localhost, "p");
        }),
        ("apparmor: the default profile is asked for, but this kernel", |c| {
            c.security().apparmor = profile(v1::security_profile::ProfileType::RuntimeDefault, "");
        }),
        ("apparmor: the default profile is asked for, but it is not loaded", |c| {
            c.host.apparmor = true;
            c.security().apparmor = profile(v1::security_profile::ProfileType::RuntimeDefault, "");
        }),
        ("annotation umask.crio.io: \"0999\"", |c| {
            c.container.annotations.insert("umask.crio.io".into(), "0999".into());
        }),
        ("its image is not mounted", |c| {
            c.container.mounts =
                vec![v1::Mount { image: Some(v1::ImageSpec::default()), ..mount("", "/models") }];
        }),
        ("seccomp: the profile of the request was not read", |c| {
            c.security().seccomp = profile(v1::security_profile::ProfileType::Localhost, "/p.json");
        }),
        ("seccomp: the profile is not an OCI profile", |c| {
            c.security().seccomp = profile(v1::security_profile::ProfileType::Localhost, "/p.json");
            c.localhost_seccomp = Some("{".into());
        }),
        ("must be absolute and below /", |c| c.container.mounts = vec![mount("/a", "b")]),
        ("must be absolute and below /", |c| c.container.mounts = vec![mount("/a", "/./")]),
        ("must not contain '..'", |c| c.container.mounts = vec![mount("/a", "/b/../etc")]),
        ("path on the host must be absolute", |c| c.container.mounts = vec![mount("a", "/b")]),
        ("recursive read-only needs readonly", |c| {
            c.container.mounts = vec![v1::Mount { recursive_read_only: true, ..mount("/a", "/b") }];
        }),
        ("recursive read-only needs private propagation", |c| {
            let propagation = v1::MountPropagation::PropagationHostToContainer.into();
            let both =
                v1::Mount { readonly: true, recursive_read_only: true, propagation, ..mount("/a", "/b") };
            c.container.mounts = vec![both];
        }),
        ("idmapped mounts", |c| {
            let map = vec![v1::IdMapping { host_id: 1, container_id: 0, length: 1 }];
            c.container.mounts =
                vec![v1::Mount { uid_mappings: map.clone(), gid_mappings: map, ..mount("/a", "/b") }];
        }),
        ("the host has no such device", |c| {
            c.container.devices = vec![v1::Device {
                host_path: "/dev/none".into(),
                container_path: "/dev/none".into(),
                permissions: "r".into(),
            }];
        }),
        ("must be below /dev", |c| {
            c.container.devices = vec![v1::Device {
                host_path: "/dev/fuse".into(),
                container_path: "/etc/fuse".into(),
                permissions: "r".into(),
            }];
        }),
        ("permissions \"x\" must be", |c| {
            c.container.devices = vec![v1::Device {
                host_path: "/dev/fuse".into(),
                container_path: "/dev/fuse".into(),
                permissions: "x".into(),
            }];
        }),
        ("resources.memory_limit_in_bytes: 1000 is too small", |c| {
            c.resources().memory_limit_in_bytes = 1000;
        }),
        ("resources.memory_swap_limit_in_bytes", |c| {
            c.resources().memory_limit_in_bytes = 1 << 20;
            c.resources().memory_swap_limit_in_bytes = 1 << 19;
        }),
        ("resources.unified: this host has cgroup v1", |c| {
            c.resources().unified = BTreeMap::from([("memory.high".into(), "1".into())]);
        }),
        ("hugepage_limits[2MB]: this host has no hugetlb", |c| {
            c.resources().hugepage_limits = vec![v1::HugepageLimit { page_size: "2MB".into(), limit: 1 }];
        }),
    ];
    for (want, change) in cases {
        let mut case = plain();
        change(&mut case);
        let error = case.spec(&[]).expect_err(want).to_string();
        assert!(error.contains(want), "{error:?}, want {want:?}");
        assert!(!error.contains('\n') && !error.ends_with('.'), "{error:?}");
    }
}

/// Sets of a process as the document has them.
fn set(spec: &Value, name: &str) -> BTreeSet<String> {
    let list = spec["process"]["capabilities"][name].as_array().unwrap();
    list.iter().map(|c| c.as_str().unwrap().to_owned()).collect()
}

#[test]
fn capabilities_never_go_beyond_what_was_asked_and_what_the_host_has() {
    const NAMES: [&str; 5] = ["ALL", "CAP_SYS_ADMIN", "chown", "NET_RAW", "SYS_BOOT"];
    let full = |name: &str| {
        let upper = name.to_uppercase();
        if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
    };
    let host: BTreeSet<String> = HOST_CAPABILITIES.map(str::to_owned).into();
    let defaults = set(&plain().spec(&[]).unwrap(), "bounding");
    assert_eq!(defaults.len(), 14);
    let subsets =
        || (0..1u32 << NAMES.len()).map(|bits| (0..NAMES.len()).filter(move |i| bits >> i & 1 == 1));
    let pick =
        |subset: &mut dyn Iterator<Item = usize>| subset.map(|i| NAMES[i].to_owned()).collect::<Vec<_>>();
    for (mut add, mut drop) in subsets().flat_map(|add| subsets().map(move |drop| (add.clone(), drop))) {
        let (add, drop) = (pick(&mut add), pick(&mut drop));
        for ambient in [vec![], strings(&["NET_ADMIN"]), strings(&["NET_RAW"])] {
            let mut case = plain();
            case.security().capabilities = Some(v1::Capability {
                add_capabilities: add.clone(),
                drop_capabilities: drop.clone(),
                add_ambient_capabilities: ambient.clone(),
            });
            let spec = case.spec(&[]).unwrap();
            let what = format!("add {add:?} drop {drop:?} ambient {ambient:?}");
            let bounding = set(&spec, "bounding");
            assert_eq!(bounding, set(&spec, "effective"), "{what}");
            assert_eq!(bounding, set(&spec, "permitted"), "{what}");
            assert_eq!(set(&spec, "inheritable"), set(&spec, "ambient"), "{what}");
            assert!(set(&spec, "ambient").is_subset(&bounding), "{what}");
            assert!(bounding.is_subset(&host), "{what}");
            let named: BTreeSet<String> = add.iter().chain(&ambient).map(|n| full(n)).collect();
            let added = |c: &String| named.contains(c) || named.contains("CAP_ALL");
            assert!(bounding.iter().all(|c| added(c) || defaults.contains(c)), "{what}: {bounding:?}");
            let dropped: BTreeSet<String> = drop.iter().map(|n| full(n)).collect();
            assert!(bounding.is_disjoint(&dropped), "{what}: {bounding:?}");
            if dropped.contains("CAP_ALL") {
                assert!(bounding.iter().all(|c| named.contains(c)), "{what}: {bounding:?}");
            }
        }
    }
}

#[test]
fn only_a_privileged_container_goes_without_masks_and_filter() {
    for privileged in [false, true] {
        let mut case = plain();
        case.security().privileged = privileged;
        case.security().seccomp = profile(v1::security_profile::ProfileType::RuntimeDefault, "");
        let spec = case.spec(&[]).unwrap();
        let linux = &spec["linux"];
        assert_eq!(linux["seccomp"].is_null(), privileged);
        assert_eq!(linux["maskedPaths"].is_null(), privileged);
        assert_eq!(linux["readonlyPaths"].is_null(), privileged);
        assert_eq!(linux["resources"]["devices"][0]["allow"], privileged);
        let options = |destination: &str| {
            let mounts = spec["mounts"].as_array().unwrap();
            let found = mounts.iter().find(|m| m["destination"] == destination).unwrap();
            found["options"].as_array().unwrap().contains(&json!("ro"))
        };
        assert_eq!(options("/sys"), !privileged);
        assert_eq!(options("/sys/fs/cgroup"), !privileged);
    }
    // The host's network opens nothing else.
    let mut case = plain();
    case.namespaces.net = Ns::Host;
    let spec = case.spec(&[]).unwrap();
    let sys = spec["mounts"].as_array().unwrap().iter().find(|m| m["destination"] == "/sys").unwrap();
    assert_eq!((&sys["type"], &sys["source"]), (&json!("sysfs"), &json!("sysfs")));
}

#[test]
fn parents_are_mounted_before_what_lies_in_them() {
    for (_, change) in CASES {
        let mut case = plain();
        change(&mut case);
        let spec = case.spec(&[]).unwrap();
        let places: Vec<&str> =
            spec["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect();
        for (position, place) in places.iter().enumerate() {
            let inside = |earlier: &&&str| earlier.starts_with(&format!("{place}/"));
            assert_eq!(places[..position].iter().find(inside), None, "{place} hides it: {places:?}");
            assert!(!places[..position].contains(place), "{place} is mounted twice: {places:?}");
        }
    }
}

#[test]
fn an_exec_is_the_containers_process_with_another_command() {
    let spec = plain().spec(&[]).unwrap();
    let process = exec_process(&spec["process"], &strings(&["ls", "-l"]), false);
    assert_eq!(process["args"], json!(["ls", "-l"]));
    for same in ["user", "cwd", "env", "capabilities", "noNewPrivileges"] {
        assert_eq!(process[same], spec["process"][same], "{same}");
    }
    let terminal = exec_process(&spec["process"], &strings(&["sh"]), true);
    assert_eq!(terminal["terminal"], true);
    assert!(terminal["env"].as_array().unwrap().contains(&json!("TERM=xterm")));
    let again = exec_process(&terminal, &strings(&["sh"]), true);
    assert_eq!(again["env"], terminal["env"], "TERM is there once");
}

struct Inject;

impl SpecAdjuster for Inject {
    fn adjust(&self, input: &SpecInput<'_>, spec: &mut Value) -> Result<(), SpecError> {
        if input.container.tty {
            return Err(SpecError { field: "CDI_devices".into(), reason: "no such device".into() });
        }
        spec["process"]["env"].as_array_mut().unwrap().push(json!("INJECTED=1"));
        Ok(())
    }
}

#[test]
fn adjusters_change_the_finished_document_or_refuse_it() {
    let mut case = plain();
    let spec = case.spec(&[&Inject]).unwrap();
    assert!(spec["process"]["env"].as_array().unwrap().contains(&json!("INJECTED=1")));
    case.container.tty = true;
    assert_eq!(case.spec(&[&Inject]).unwrap_err().field, "CDI_devices");
}
