//! Files that would grow without end: each ends with a fault that says which bound it met.

use gantry_compose::files::MemoryFiles;
use gantry_compose::{ComposeFile, Project, Request};
use std::collections::BTreeMap;

fn load(text: &str, files: MemoryFiles) -> Result<Project, gantry_compose::Error> {
    let mut request = Request::new("/p", BTreeMap::from([("BIG".to_owned(), "x".repeat(1 << 20))]));
    request.files.push(ComposeFile { path: "c.yaml".into(), text: Some(text.to_owned()) });
    Project::load(&request, &files)
}

fn refused(text: &str, files: MemoryFiles, message: &str) {
    let error = load(text, files).err().unwrap_or_else(|| panic!("it loads; wanted {message}"));
    assert!(error.to_string().contains(message), "wanted {message}, got {error}");
    // What is shown of a long line is short.
    assert!(error.render().len() < 4096, "{} bytes", error.render().len());
}

const WEB: &str = "services: {web: {image: i}}\n";

#[test]
fn alias_bombs() {
    let mut laughs = "x-0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\n".to_owned();
    for level in 1..10 {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        laughs += &format!("x-{level}: &a{level} [{below}]\n");
    }
    refused(
        &(laughs + WEB),
        MemoryFiles::default(),
        "more than 100000 values, counting each use of an alias",
    );

    let text = format!("x-a: &a {}\nx-b: [{}]\n{WEB}", "t".repeat(1 << 20), vec!["*a"; 40].join(", "));
    refused(&text, MemoryFiles::default(), "16 MiB of text, counting each use of an alias");

    let mut merged = "x-0: &a0 {k: {a: 1, b: 2, c: 3, d: 4, e: 5, f: 6, g: 7, h: 8, i: 9}}\n".to_owned();
    for level in 1..20 {
        let below = level - 1;
        merged += &format!(
            "x-{level}: &a{level} {{<<: *a{below}, k: {{x: *a{below}, y: *a{below}, z: *a{below}}}}}\n"
        );
    }
    refused(&(merged + WEB), MemoryFiles::default(), "more than 100000 values");
}

#[test]
fn deep_nesting() {
    for (open, close) in [("[", "]"), ("{a: ", "}")] {
        let deep = |levels: usize| format!("x-a: {}1{}\n{WEB}", open.repeat(levels), close.repeat(levels));
        assert!(load(&deep(50), MemoryFiles::default()).is_ok());
        refused(&deep(70), MemoryFiles::default(), "nested more than 64 levels deep");
        refused(&deep(100_000), MemoryFiles::default(), "nested more than 64 levels deep");
        refused(
            &format!("x-a: {}", open.repeat(500_000)),
            MemoryFiles::default(),
            "nested more than 64 levels deep",
        );
    }
    let mut block = String::new();
    for level in 0..200 {
        block += &format!("{}a:\n", " ".repeat(level));
    }
    refused(&block, MemoryFiles::default(), "nested more than 64 levels deep");
    // Each alias alone is shallow.
    let mut chain = "x-0: &a0 {k: 1}\n".to_owned();
    for level in 1..80 {
        chain += &format!("x-{level}: &a{level} {{k: *a{}}}\n", level - 1);
    }
    refused(&(chain + WEB), MemoryFiles::default(), "nested more than 64 levels deep");
}

#[test]
fn large_files() {
    refused(&format!("# {}\n{WEB}", "x".repeat(4 << 20)), MemoryFiles::default(), "larger than 4 MiB");
    let many = vec!["1"; 120_000].join(",");
    refused(&format!("x-a: [{many}]\n{WEB}"), MemoryFiles::default(), "more than 100000 values");
}

#[test]
fn variables_that_grow() {
    let nested = format!("{}x{}", "${A:-".repeat(40), "}".repeat(40));
    refused(
        &format!("services: {{web: {{image: '{nested}'}}}}"),
        MemoryFiles::default(),
        "nested more than 16",
    );
    let long = "$BIG".repeat(100);
    refused(&format!("services: {{web: {{image: '{long}'}}}}"), MemoryFiles::default(), "MiB");
}

#[test]
fn ports_that_grow() {
    let ports = (0..4).map(|i| format!("'10.0.0.{i}:1-4096:1-4096'")).collect::<Vec<_>>().join(", ");
    refused(
        &format!("services: {{web: {{image: i, ports: [{ports}]}}}}"),
        MemoryFiles::default(),
        "8192 ports",
    );
    refused(
        "services: {web: {image: i, ports: ['1-65535']}}",
        MemoryFiles::default(),
        "more than 4096 ports",
    );
}

#[test]
fn files_that_name_each_other() {
    // Each file includes the next one twice: without a bound 2^30 files are read.
    let chain = |last: usize| {
        MemoryFiles::new((0..last).map(|i| {
            let next = format!("include: [{{path: f{0}.yaml}}, {{path: ./f{0}.yaml}}]\n{WEB}", i + 1);
            (format!("/p/f{i}.yaml"), if i + 1 == last { WEB.to_owned() } else { next })
        }))
    };
    let error = load("include: [f0.yaml]", chain(30)).unwrap_err().to_string();
    assert!(error.contains("more than 256 files are read"), "{error}");
    let error = load("include: [f0.yaml]", chain(60)).unwrap_err().to_string();
    assert!(error.contains("files include each other") || error.contains("256 files"), "{error}");

    let services: String = (1..40).map(|i| format!("  s{i}: {{extends: s{}}}\n", i - 1)).collect();
    let text = format!("services:\n  s0: {{image: i}}\n{services}");
    refused(&text, MemoryFiles::default(), "more than 32 services extend each other");

    // Every service takes a large one in whole.
    let variables: String = (0..5000).map(|i| format!("V{i}: x, ")).collect();
    let services: String = (0..200).map(|i| format!("  s{i}: {{extends: base}}\n")).collect();
    let text = format!("services:\n  base: {{image: i, environment: {{{variables}}}}}\n{services}");
    refused(&text, MemoryFiles::default(), "more than 500000 values, with all that is extended");
}
