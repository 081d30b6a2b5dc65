#![forbid(unsafe_code)]
//! Runs critest, whole and unmodified, against Gantry, and holds the outcome to `pending.tsv`.
//!
//! `conformance [--all | NAME...] [-- WORDS OF CRITEST...]`; without names, those that CI runs. Reports, logs and
//! the daemon's log of each combination stay in `target/critest/<name>`.

mod combination;
mod images;
mod report;

use combination::{COMBINATIONS, Combination, Ran};
use gantry_e2e::{LeakSnapshot, Registry};
use report::Outcome;
use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (names, extra) = match words.iter().position(|w| w == "--") {
        Some(at) => (words[..at].to_vec(), words[at + 1..].to_vec()),
        None => (words, Vec::new()),
    };
    let chosen = match chosen(&names) {
        Ok(chosen) => chosen,
        Err(unknown) => {
            let all: Vec<&str> = COMBINATIONS.iter().map(|c| c.name).collect();
            eprintln!("conformance: there is no combination {unknown}; there are {}", all.join(", "));
            return ExitCode::from(2);
        }
    };
    println!("{}", versions());
    let before = LeakSnapshot::take();
    let dir = gantry_testkit::fs::disk_dir();
    // Containers that are not root's open what is mounted from below it.
    open(dir.path());
    let blobs = dir.path().join("images");
    gantry_testkit::net::in_private_network(|| images::push(&Registry::start(&blobs)));
    let mut good = true;
    for combination in &chosen {
        let own = dir.path().join(combination.name);
        std::fs::create_dir(&own).expect("make a directory");
        open(&own);
        let ran = combination.run(&own, &blobs, &extra);
        good &= tell(combination, &own, &ran, extra.is_empty());
    }
    let path = dir.path().to_owned();
    if let Err(error) = dir.close() {
        println!("conformance: delete {}: {error}; is something mounted there?", path.display());
        good = false;
    }
    let difference = before.difference(&LeakSnapshot::take());
    if !difference.is_empty() {
        println!("conformance: left behind (+) or missing (-) on the host:\n{difference}");
        good = false;
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn chosen(names: &[String]) -> Result<Vec<Combination>, String> {
    if names.is_empty() {
        return Ok(COMBINATIONS.into_iter().filter(|c| c.in_ci).collect());
    }
    if names == ["--all"] {
        return Ok(COMBINATIONS.to_vec());
    }
    let find = |name: &String| COMBINATIONS.into_iter().find(|c| c.name == name).ok_or_else(|| name.clone());
    names.iter().map(find).collect()
}

fn open(dir: &Path) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir, mode).expect("let everybody pass through a directory");
}

/// critest's own words about its version, and the digest of the program.
fn versions() -> String {
    let critest = combination::tools().join("critest");
    let said = gantry_e2e::run(Command::new(&critest).arg("-version")).ok();
    let version =
        said.lines().find(|l| l.contains("critest version")).unwrap_or("critest of unknown version");
    let program = std::fs::read(&critest).expect("read critest");
    format!("{version}, {}", gantry_testkit::layer::sha256(&program))
}

/// Prints how a combination went and keeps its files; whether it went as expected.
fn tell(combination: &Combination, own: &Path, ran: &Ran, whole: bool) -> bool {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/critest").join(combination.name);
    std::fs::create_dir_all(&kept).expect("make a directory for the report");
    for file in [&ran.report, &ran.output, &own.join("daemon.log")] {
        let name = file.file_name().expect("a file has a name");
        // critest may have died before it wrote its report; that is told below.
        let _missing = std::fs::copy(file, kept.join(name));
    }
    let name = combination.name;
    let (specs, surprises) = match expectations(combination, &ran.report) {
        Ok((specs, expected)) => {
            let surprises = report::surprises(&specs, &expected, whole);
            (specs, surprises)
        }
        Err(error) => (Vec::new(), vec![error]),
    };
    let count = |outcome| specs.iter().filter(|s| s.outcome == outcome).count();
    let [passed, failed, skipped] = [Outcome::Passed, Outcome::Failed, Outcome::Skipped].map(count);
    println!("\nconformance {name}: {} specs in {} s", specs.len(), ran.took.as_secs());
    for outcome in [Outcome::Failed, Outcome::Skipped] {
        for spec in specs.iter().filter(|s| s.outcome == outcome) {
            println!("  {}: {}", outcome.name(), spec.name);
        }
    }
    for surprise in &surprises {
        println!("  NOT AS LISTED: {surprise}");
    }
    // `.ci/run` adds up "passed;" and "failed;": what passed, and what is not as pending.tsv says.
    println!("conformance {name}: {passed} specs passed, {failed} failed, {skipped} skipped");
    println!("conformance {name}: {passed} passed; {} failed; against pending.tsv", surprises.len());
    surprises.is_empty()
}

fn expectations(
    combination: &Combination,
    file: &Path,
) -> Result<(Vec<report::Spec>, report::Expected), String> {
    let known: Vec<&str> = COMBINATIONS.iter().map(|c| c.name).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("critest/pending.tsv");
    let list = std::fs::read_to_string(&path).map_err(|e| format!("read {}: {e}", path.display()))?;
    let expected = report::expected(&list, combination.name, &known)?;
    Ok((report::read(file)?, expected))
}
