use super::*;
use rstest::rstest;

/// A main file with drop-ins.
fn files(main: &str, drop_ins: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, main).unwrap();
    std::fs::create_dir(dir.path().join("config.toml.d")).unwrap();
    for (name, text) in drop_ins {
        std::fs::write(dir.path().join("config.toml.d").join(name), text).unwrap();
    }
    (dir, path)
}

fn read(path: &Path) -> Layers {
    let mut layers = Layers::defaults();
    layers.add_files(Some(path));
    layers
}

fn problems(text: &str) -> Vec<String> {
    let (dir, path) = files(text, &[]);
    let prefix = format!("{}/", dir.path().display());
    let error = read(&path).finish().unwrap_err();
    error.problems.iter().map(|p| p.to_string().replace(&prefix, "")).collect()
}

fn flag(key: &str, texts: &[&str]) -> (&'static OptionSpec, Vec<String>) {
    (OptionSpec::find(key).unwrap(), texts.iter().map(|t| (*t).to_owned()).collect())
}

#[test]
fn the_printed_default_file_parses_to_the_defaults() {
    let (_dir, path) = files(&default_file(), &[]);
    assert_eq!(read(&path).finish().unwrap(), Layers::defaults().finish().unwrap());
    for option in OPTIONS {
        let line = match option.shape {
            Shape::Named => format!("\n[{}]\n", option.key),
            _ => format!("\n{} = {}\n", option.key, option.default),
        };
        assert!(default_file().contains(&line), "{line}");
        assert!(option.help().ends_with('.'), "{}: help is made of sentences", option.key);
    }
    assert!(default_file().lines().all(|l| l.chars().count() <= 110));
}

#[test]
fn the_documentation_has_the_table_of_the_options() {
    const MARKS: [&str; 2] = ["<!-- options: made from the code -->\n", "<!-- end of options -->"];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(MARKS[0]).expect("where the table begins");
    let (_, after) = rest.split_once(MARKS[1]).expect("where the table ends");
    let wanted = format!("{before}{}{}{}{after}", MARKS[0], markdown_table(), MARKS[1]);
    if std::env::var_os("GANTRY_BLESS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let now = std::fs::read_to_string(&path).unwrap();
    assert_eq!(now, wanted, "GANTRY_BLESS=1 cargo test -p gantry-cri-server writes the table");
}

#[test]
fn flags_win_over_drop_ins_and_those_over_the_file_and_that_over_defaults() {
    let (_dir, path) = files(
        "root = '/file'\nlog_level = 'debug'\ncni_bin_dir = ['/a', '/b']\n[runtimes]\nx = '/x'\nrunc = '/file/runc'\n",
        &[
            ("20-second.toml", "root = '/second'"),
            ("10-first.toml", "root = '/first'\nlog_format = 'json'\n\n[runtimes]\nx = '/drop-in/x'"),
            ("ignored.txt", "no toml"),
            (".hidden.toml", "no toml"),
        ],
    );
    let mut layers = read(&path);
    layers.add_flags(&[flag("run_dir", &["/flag"]), flag("runtimes", &["runc=/flag/runc", "y=/y"])]);
    let config = layers.finish().unwrap();
    assert_eq!(config.root, Path::new("/second"));
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.listen_path(), Path::new("/flag/gantry.sock"));
    assert_eq!(config.cni_bin_dir, [Path::new("/a"), Path::new("/b")]);
    let names: Vec<_> = config.runtimes.iter().map(|(n, p)| (n.as_str(), p.to_str().unwrap())).collect();
    assert_eq!(names, [("runc", "/flag/runc"), ("x", "/drop-in/x"), ("y", "/y")]);

    let origin = |key: &str| {
        let text = layers.settings().into_iter().find(|s| s.key == key).unwrap().origin.to_string();
        text.rsplit('/').next().unwrap().to_owned()
    };
    assert_eq!(origin("root"), "20-second.toml:1");
    assert_eq!(origin("log_level"), "config.toml:2");
    assert_eq!(origin("runtimes.x"), "10-first.toml:5");
    assert_eq!(origin("runtimes.runc"), "--runtime");
    assert_eq!(origin("run_dir"), "--run-dir");
    assert_eq!(origin("listen"), "default");
    assert_eq!(layers.files().len(), 3);
}

#[rstest]
#[case("\nroots = '/a'", "config.toml:2: unknown key \"roots\"; did you mean \"root\"?")]
#[case("run-dir = '/a'", "config.toml:1: unknown key \"run-dir\"; did you mean \"run_dir\"?")]
#[case(
    "zzzzzzzzzz = 1",
    "config.toml:1: unknown key \"zzzzzzzzzz\"; `gantry config default` prints every key"
)]
#[case("# x\nroot = 7", "config.toml:2: root: an integer where a path in quotes is wanted")]
#[case("root = 'here'", "config.toml:1: root: \"here\" is not an absolute path")]
#[case("log_format = 'xml'", "config.toml:1: log_format: \"xml\" where one of text, json is wanted")]
#[case(
    "[runtimes]\nrunc = '/r'\nx = 1",
    "config.toml:3: runtimes.x: an integer where a path in quotes is wanted"
)]
#[case("runtimes = 'x'", "config.toml:1: runtimes: a string where a table is wanted")]
#[case("cni_bin_dir = ['/a', 1]", "config.toml:1: cni_bin_dir: an integer where a path in quotes is wanted")]
#[case(
    "listen = '/x.sock'",
    "config.toml:1: listen: \"/x.sock\" is not a socket address; write unix:///path/to/socket"
)]
#[case(
    "log_level = 'loud'",
    "config.toml:1: log_level: \"loud\" is no level: write error, warn, info, debug, trace, or a filter"
)]
#[case(
    "local_listen = 'unix://{run_dir}/gantry.sock'",
    "config.toml:1: local_listen: is the same socket as listen; the two serve different realms"
)]
fn what_cannot_be_used_is_named_with_its_line(#[case] text: &str, #[case] problem: &str) {
    assert_eq!(problems(text), [problem]);
}

#[test]
fn every_problem_is_told_at_once() {
    let all = problems("root = 1\nrun_dir = 2\nnothing_like_it_at_all = 3\nstream_address = 'x'\n");
    assert_eq!(all.len(), 4, "{all:?}");
    let syntax = problems("root = \nrun_dir = '/x'\nlisten = [\n");
    assert!(syntax[0].starts_with("config.toml:1: "), "{syntax:?}");
    let twice = problems("root = '/a'\nroot = '/b'\n");
    assert!(twice[0].starts_with("config.toml:2: ") && twice[0].contains("duplicate"), "{twice:?}");
}

#[test]
fn a_named_file_must_be_there_and_have_a_sane_size() {
    let missing = read(Path::new("/nowhere/config.toml")).finish().unwrap_err();
    assert!(missing.to_string().contains("/nowhere/config.toml: cannot be read"), "{missing}");
    let (_dir, path) = files(&"#".repeat(2 << 20), &[]);
    assert!(read(&path).finish().unwrap_err().to_string().contains("longer than"));
    let (_dir, path) = files("", &[]);
    std::fs::write(&path, b"root = '\xff'").unwrap();
    assert!(read(&path).finish().unwrap_err().to_string().contains("UTF-8"));
}

#[rstest]
#[case("cri_network", "host")]
#[case("stream_address", "nowhere")]
#[case("runtimes", "runc")]
#[case("runtimes", "=/x")]
#[case("listen", "tcp://x")]
fn wrong_flags_are_named(#[case] key: &str, #[case] text: &str) {
    let mut layers = Layers::defaults();
    layers.add_flags(&[flag(key, &[text])]);
    let error = layers.finish().unwrap_err().to_string();
    assert!(error.contains(&format!("--{}: ", OptionSpec::find(key).unwrap().flag)), "{error}");
}

#[test]
fn flags_may_be_relative_and_lists_are_replaced() {
    let mut layers = Layers::defaults();
    layers.add_flags(&[flag("root", &["here"]), flag("cni_bin_dir", &["/x", "/y"]), flag("pid_file", &[""])]);
    let config = layers.finish().unwrap();
    assert!(config.root.is_absolute() && config.root.ends_with("here"));
    assert_eq!(config.cni_bin_dir, [Path::new("/x"), Path::new("/y")]);
    assert_eq!(config.pid_file, None);
}

#[test]
fn numbers_and_truth_values() {
    type Small = Number<1, 10>;
    assert_eq!(Small::from_toml(&Small::from_flag("7").unwrap()).unwrap().get(), 7);
    assert!(Small::from_toml(&11.into()).unwrap_err().contains("from 1 to 10"));
    assert!(Small::from_toml(&"7".into()).is_err() && Small::from_flag("x").is_err());
    assert!(bool::from_toml(&bool::from_flag("true").unwrap()).unwrap());
    assert!(bool::from_toml(&"true".into()).is_err() && bool::from_flag("1").is_err());
}

#[test]
fn a_host_without_systemd_refuses_its_driver() {
    let (_dir, path) = files("cgroup_driver = 'systemd'", &[]);
    let result = read(&path).finish();
    match Path::new("/run/systemd/system").is_dir() {
        true => assert_eq!(result.unwrap().cgroup_driver, CgroupDriver::Systemd),
        false => assert!(result.unwrap_err().to_string().contains("config.toml:1: cgroup_driver: this host")),
    }
}
