//! Broken, odd and hostile files: whatever stands in a file, loading ends with a model or a fault.
//!
//! Inputs are mutations of the realistic and wrong files and of the table rows: of their text, and of their tree.
//! What loads has to come out the same when its own output is loaded, and converting and planning have to end.
//! `GANTRY_FUZZ_RUNS` (default 3000) or `GANTRY_FUZZ_SECONDS` says how long, `GANTRY_FUZZ_SEED` where to begin;
//! a failure names the seed that repeats it.

use crate::common::texts;
use fastrand::Rng;
use gantry_compose::files::MemoryFiles;
use gantry_compose::kubernetes::{Options, Publish, convert};
use gantry_compose::plan::{Observed, plan};
use gantry_compose::{ComposeFile, Project, Request, print};
use serde_json::Value;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Largest input; the loader takes 4 MiB, but most is found in small ones.
const MAX_INPUT: usize = 64 << 10;

/// What files that break things are made of.
const TOKENS: [&str; 64] = [
    "&a ",
    "*a",
    "<<: *a",
    "<<: [*a, *a]",
    "!reset ",
    "!override ",
    "!!str ",
    "!!int ",
    "!x ",
    "${A}",
    "${A:-",
    "${A:?no}",
    "${A:+b}",
    "}",
    "$",
    "$$",
    "$(A)",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "\"",
    "'",
    "|\n",
    ">-\n",
    "#",
    "? ",
    "---\n",
    "...\n",
    "\t",
    "\r\n",
    "\0",
    "\u{feff}",
    "ä",
    "\u{1f600}",
    "null",
    "~",
    "true",
    "0",
    "-1",
    "1e999",
    "9223372036854775808",
    "0x7f",
    "0o17",
    "07",
    ".nan",
    "x-a",
    "services",
    "web",
    "extends",
    "include",
    "depends_on",
    "service:web",
    "a.yaml",
    "./",
    "127.0.0.1:1-65535:1-65535/udp",
    "1-65535",
    "10000000000g",
    "every_1d",
    "=",
    "host-gateway",
];

fn corpus() -> Vec<String> {
    let mut found: Vec<String> = texts("files").into_values().chain(texts("wrong").into_values()).collect();
    for table in [
        include_str!("../tables/forms.txt"),
        include_str!("../tables/merge.txt"),
        include_str!("../tables/files.txt"),
        include_str!("../tables/faults.txt"),
    ] {
        for line in table.lines().filter(|l| !l.starts_with("##")) {
            let Some((front, _)) = line.rsplit_once(" => ") else { continue };
            let front = front.rsplit_once(" @ ").map_or(front, |(f, _)| f);
            for part in front.split(" ++ ") {
                let part = part.replace("\\n", "\n");
                found.push(match part.strip_prefix("web: ") {
                    Some(body) => format!("services: {{web: {body}}}\n"),
                    None => part.split_once(".yaml=").map_or(part.clone(), |(_, text)| text.to_owned()),
                });
            }
        }
    }
    assert!(found.len() > 500, "{}", found.len());
    found
}

/// A place in a text that is between two characters.
fn place(rng: &mut Rng, text: &str) -> usize {
    let mut at = rng.usize(..=text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn mutate_text(rng: &mut Rng, text: &mut String, corpus: &[String]) {
    let (a, b) = (place(rng, text), place(rng, text));
    let (from, to) = (a.min(b), a.max(b));
    match rng.u8(..9) {
        0 => text.insert_str(a, TOKENS[rng.usize(..TOKENS.len())]),
        1 => drop(text.pop()),
        2 if to - from < 512 => text.replace_range(from..to, ""),
        3 => {
            let chunk: String = text[from..to].chars().take(200).collect();
            text.insert_str(from, &chunk.repeat(rng.usize(1..6)));
        }
        4 => {
            let other = &corpus[rng.usize(..corpus.len())];
            let (c, d) = (place(rng, other), place(rng, other));
            text.insert_str(a, &other[c.min(d)..c.max(d)]);
        }
        5 => text.truncate(a),
        6 => {
            // A line of its own depth.
            let line = text[..a].rfind('\n').map_or(0, |at| at + 1);
            text.insert_str(line, &" ".repeat(rng.usize(..9)));
        }
        7 => {
            let nested = ["[", "{a: ", "- ", "&a [*a, "][rng.usize(..4)];
            text.insert_str(a, &nested.repeat(rng.usize(1..200)));
        }
        _ => {
            let lines: Vec<&str> = text.lines().collect();
            if lines.len() > 1 {
                let (i, j) = (rng.usize(..lines.len()), rng.usize(..lines.len()));
                let mut lines = lines.clone();
                lines.swap(i, j);
                *text = lines.join("\n") + "\n";
            }
        }
    }
    if text.len() > MAX_INPUT {
        let mut end = MAX_INPUT;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
}

/// All values of a tree, as pointers to them.
fn pointers(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                pointers(inner, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), out);
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, inner)| pointers(inner, &format!("{at}/{i}"), out));
        }
        _ => {}
    }
}

fn pick<'v>(rng: &mut Rng, value: &'v Value) -> &'v Value {
    let mut all = Vec::new();
    pointers(value, "", &mut all);
    value.pointer(&all[rng.usize(..all.len())]).unwrap()
}

fn mutate_tree(rng: &mut Rng, tree: &mut Value, trees: &[Value]) {
    let mut all = Vec::new();
    pointers(tree, "", &mut all);
    let donor = &trees[rng.usize(..trees.len())];
    let other = pick(rng, donor).clone();
    let at = &all[rng.usize(..all.len())];
    // What another file has under the same name is more likely to be taken.
    let name = at.rsplit('/').next().unwrap_or_default();
    let like = donor.pointer("/services/web").or(Some(donor)).and_then(|d| d.get(name)).cloned();
    let Some(slot) = tree.pointer_mut(at) else { return };
    let token = TOKENS[rng.usize(..TOKENS.len())];
    match rng.u8(..12) {
        0 => *slot = other,
        7.. => {
            let Value::Object(map) = slot else { return };
            let source = donor.pointer("/services/web").and_then(Value::as_object);
            if let (Some(source), Some(like)) = (source, like) {
                map.extend(source.clone());
                *slot = like;
            } else if let Some(source) = source
                && map.contains_key("image")
            {
                map.extend(source.clone());
            }
        }
        1 => *slot = Value::Null,
        2 => *slot = Value::from(token),
        3 => *slot = Value::from([0, -1, 1, 65536, i64::MAX, i64::MIN][rng.usize(..6)]),
        4 => *slot = Value::Array(vec![slot.take()]),
        5 => {
            if let Value::Object(map) = slot
                && let Some(key) = map.keys().nth(rng.usize(..map.len().max(1))).cloned()
            {
                let value = map.remove(&key).unwrap_or_default();
                map.insert(if rng.bool() { token.to_owned() } else { "web".to_owned() }, value);
            }
        }
        _ => {
            if let (Value::Object(map), Value::Object(more)) = (slot, other) {
                map.extend(more);
            }
        }
    }
}

struct Fuzzer {
    corpus: Vec<String>,
    /// Canonical models of those that load.
    trees: Vec<Value>,
    loaded: u64,
}

impl Fuzzer {
    fn new() -> Self {
        let corpus = corpus();
        let trees = corpus.iter().filter_map(|text| project(vec![text.clone()], text).ok());
        let trees = trees.map(|p| print::json(&p.model, true)).collect();
        Self { corpus, trees, loaded: 0 }
    }

    fn input(&self, rng: &mut Rng) -> String {
        let mut tree = rng.bool().then(|| self.trees[rng.usize(..self.trees.len())].clone());
        if let Some(tree) = &mut tree {
            (0..rng.usize(1..4)).for_each(|_| mutate_tree(rng, tree, &self.trees));
        }
        let (mut text, most) = match tree {
            // A broken text hardly ever shows what a changed tree means.
            Some(tree) => (tree.to_string(), usize::from(rng.u8(..8) == 0)),
            None => (self.corpus[rng.usize(..self.corpus.len())].clone(), rng.usize(..4)),
        };
        for _ in 0..most {
            mutate_text(rng, &mut text, &self.corpus);
        }
        text
    }

    fn run(&mut self, seed: u64) {
        let mut rng = Rng::with_seed(seed);
        let inputs: Vec<String> =
            (0..rng.usize(1..7).saturating_sub(3).max(1)).map(|_| self.input(&mut rng)).collect();
        let other = self.input(&mut rng);
        let outcome = catch_unwind(AssertUnwindSafe(|| check(inputs.clone(), &other)));
        match outcome {
            Ok(loaded) => self.loaded += u64::from(loaded),
            Err(_) => panic!(
                "GANTRY_FUZZ_SEED={seed} GANTRY_FUZZ_RUNS=1 repeats this\n{}",
                inputs.join("\n=====\n")
            ),
        }
    }
}

fn project(inputs: Vec<String>, other: &str) -> Result<Project, gantry_compose::Error> {
    let environment =
        BTreeMap::from([("A".to_owned(), "a b".to_owned()), ("HOME".to_owned(), "/h".to_owned())]);
    let mut request = Request::new("/p", environment);
    request.profiles.push("*".into());
    for (i, text) in inputs.into_iter().enumerate() {
        request.files.push(ComposeFile { path: format!("c{i}.yaml"), text: Some(text) });
    }
    let files = MemoryFiles::new(
        ["a.yaml", "base.yaml", "common.yaml", ".env", "env"].map(|n| (format!("/p/{n}"), other)),
    );
    Project::load(&request, &files)
}

/// Returns whether it loaded.
fn check(inputs: Vec<String>, other: &str) -> bool {
    let project_of = match project(inputs, other) {
        Ok(project) => project,
        Err(error) => {
            assert!(!error.render().is_empty());
            return false;
        }
    };
    let once = print::yaml(&project_of.model, true);
    let again = project(vec![once.clone()], "").unwrap_or_else(|e| panic!("{}\n{once}", e.render()));
    assert_eq!(print::yaml(&again.model, true), once);
    let options = Options { publish: Publish::HostPort, volume_size: None };
    let files = MemoryFiles::default();
    let first = convert(&project_of, &files, &options);
    assert_eq!(first.yaml(), convert(&project_of, &files, &options).yaml());
    let _ = plan(&project_of, &Observed::default());
    true
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Most memory that the process ever had, in KiB, as the kernel says.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap().trim().to_owned()
}

#[test]
fn mutated_files_end_with_a_model_or_a_fault() {
    let mut fuzzer = Fuzzer::new();
    assert!(fuzzer.trees.len() > 300, "{}", fuzzer.trees.len());
    let first = number("GANTRY_FUZZ_SEED").unwrap_or_default();
    let (mut runs, begin) = (0, Instant::now());
    if let Some(seconds) = number("GANTRY_FUZZ_SECONDS") {
        while begin.elapsed() < Duration::from_secs(seconds) {
            fuzzer.run(first.wrapping_add(runs));
            runs += 1;
        }
    } else {
        while runs < number("GANTRY_FUZZ_RUNS").unwrap_or(3000) {
            fuzzer.run(first.wrapping_add(runs));
            runs += 1;
        }
    }
    println!("{runs} runs, {} of them loaded, most memory {}", fuzzer.loaded, peak());
}
