//! What critest reported, and what `pending.tsv` expects of it.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How a spec ended, or is expected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// As it should.
    Passed,
    /// Failed, panicked, timed out, or was interrupted.
    Failed,
    /// critest decided not to run it.
    Skipped,
}

impl Outcome {
    /// As in `pending.tsv`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// One spec of a report.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// All its texts, joined with spaces.
    pub(crate) name: String,
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// What it said about that; may be empty.
    pub(crate) message: String,
}

/// Reads ginkgo's JSON report. What ran before and after the suite counts only when it failed.
pub(crate) fn read(path: &Path) -> Result<Vec<Spec>, String> {
    let text =
        std::fs::read(path).map_err(|e| format!("critest left no report at {}: {e}", path.display()))?;
    parse(&text)
}

fn parse(text: &[u8]) -> Result<Vec<Spec>, String> {
    let suites: Value = serde_json::from_slice(text).map_err(|e| format!("critest's report: {e}"))?;
    let mut specs = Vec::new();
    for suite in suites.as_array().into_iter().flatten() {
        for report in suite["SpecReports"].as_array().into_iter().flatten() {
            let spec = spec(report);
            if report["LeafNodeType"] == "It" || spec.outcome == Outcome::Failed {
                specs.push(spec);
            }
        }
        for reason in suite["SpecialSuiteFailureReasons"].as_array().into_iter().flatten() {
            let reason = reason.as_str().unwrap_or("unknown");
            // It comes with every failed spec.
            if reason != "Detected Programmatic Focus" && specs.iter().all(|s| s.outcome != Outcome::Failed) {
                return Err(format!("critest's suite failed: {reason}"));
            }
        }
    }
    if specs.is_empty() { Err("critest's report has no spec".into()) } else { Ok(specs) }
}

fn spec(report: &Value) -> Spec {
    let texts = report["ContainerHierarchyTexts"].as_array().into_iter().flatten();
    let leaf = std::iter::once(&report["LeafNodeText"]);
    let mut words: Vec<&str> = texts.chain(leaf).filter_map(Value::as_str).collect();
    let kind = report["LeafNodeType"].as_str().unwrap_or_default();
    if words.iter().all(|w| w.is_empty()) {
        words.push(kind);
    }
    let outcome = match report["State"].as_str().unwrap_or_default() {
        "passed" => Outcome::Passed,
        "skipped" | "pending" => Outcome::Skipped,
        _ => Outcome::Failed,
    };
    Spec {
        name: words.join(" ").trim().to_owned(),
        outcome,
        message: report["Failure"]["Message"].as_str().unwrap_or_default().to_owned(),
    }
}

/// What the lines of `pending.tsv` say about one combination: specs that do not pass, and how they end.
pub(crate) type Expected = BTreeMap<String, Outcome>;

/// Reads `pending.tsv`: outcome, combinations (`*` or names with commas), spec, reason; by tabs.
///
/// `known` are the names that may stand among the combinations.
pub(crate) fn expected(text: &str, combination: &str, known: &[&str]) -> Result<Expected, String> {
    let mut expected = Expected::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fault = |what: &str| format!("pending.tsv, line {}: {what}", number + 1);
        let fields: Vec<&str> = line.split('\t').collect();
        let [outcome, combinations, spec, reason] = fields[..] else {
            return Err(fault("not four fields: outcome, combinations, spec, reason"));
        };
        let outcome = match outcome {
            "failed" => Outcome::Failed,
            "skipped" => Outcome::Skipped,
            other => return Err(fault(&format!("{other} is neither failed nor skipped"))),
        };
        if reason.trim().is_empty() {
            return Err(fault("no reason"));
        }
        let names: BTreeSet<&str> = combinations.split(',').collect();
        if let Some(stranger) = names.iter().find(|n| **n != "*" && !known.contains(n)) {
            return Err(fault(&format!("there is no combination {stranger}")));
        }
        let applies = names.contains("*") || names.contains(combination);
        if applies && expected.insert(spec.to_owned(), outcome).is_some() {
            return Err(fault("the spec is listed twice"));
        }
    }
    Ok(expected)
}

/// Each spec that did not end as expected, as a line of text; also those that are listed and do not exist,
/// unless only a part of the suite was run.
pub(crate) fn surprises(specs: &[Spec], expected: &Expected, whole: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for spec in specs {
        let wanted = expected.get(&spec.name).copied().unwrap_or(Outcome::Passed);
        if spec.outcome != wanted {
            let (is, was) = (spec.outcome.name(), wanted.name());
            lines.push(format!(
                "{is}, expected {was}: {}\n    {}",
                spec.name,
                spec.message.replace('\n', "\n    ")
            ));
        }
    }
    let names: BTreeSet<&str> = specs.iter().map(|s| s.name.as_str()).collect();
    let gone = expected.keys().filter(|name| whole && !names.contains(name.as_str()));
    lines.extend(gone.map(|name| format!("listed, but critest has no such spec: {name}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"[{"SpecReports": [
        {"ContainerHierarchyTexts": null, "LeafNodeType": "BeforeSuite", "LeafNodeText": "", "State": "passed"},
        {"ContainerHierarchyTexts": ["[k8s.io] Pod", "stops"], "LeafNodeType": "It", "LeafNodeText": "a pod",
         "State": "passed"},
        {"ContainerHierarchyTexts": ["[k8s.io] Pod"], "LeafNodeType": "It", "LeafNodeText": "runs",
         "State": "timedout", "Failure": {"Message": "too long"}},
        {"ContainerHierarchyTexts": ["[k8s.io] AppArmor"], "LeafNodeType": "It", "LeafNodeText": "denies",
         "State": "skipped"},
        {"ContainerHierarchyTexts": null, "LeafNodeType": "AfterSuite", "LeafNodeText": "", "State": "failed"}
    ]}]"#;
    const KNOWN: [&str; 2] = ["one", "two"];

    fn outcomes(specs: &[Spec]) -> Vec<(&str, Outcome)> {
        specs.iter().map(|s| (s.name.as_str(), s.outcome)).collect()
    }

    #[test]
    fn a_report_is_read() {
        let specs = parse(REPORT.as_bytes()).unwrap();
        let read = [
            ("[k8s.io] Pod stops a pod", Outcome::Passed),
            ("[k8s.io] Pod runs", Outcome::Failed),
            ("[k8s.io] AppArmor denies", Outcome::Skipped),
            ("AfterSuite", Outcome::Failed),
        ];
        assert_eq!(outcomes(&specs), read);
        assert!(parse(b"[]").unwrap_err().contains("no spec"));
        assert!(parse(b"[{\"SpecReports\"").unwrap_err().contains("critest's report"));
        let broken = br#"[{"SpecialSuiteFailureReasons": ["Suite did not run"], "SpecReports": []}]"#;
        assert!(parse(broken).unwrap_err().contains("Suite did not run"));
    }

    #[test]
    fn the_list_itself_can_be_read() {
        let known: Vec<&str> = crate::combination::COMBINATIONS.iter().map(|c| c.name).collect();
        for name in &known {
            assert!(!expected(include_str!("pending.tsv"), name, &known).unwrap().is_empty());
        }
    }

    #[test]
    fn what_is_not_as_listed_is_told() {
        let specs = parse(REPORT.as_bytes()).unwrap();
        let list = "# comment\nfailed\tone,two\t[k8s.io] Pod runs\tissue\nskipped\t*\t[k8s.io] AppArmor denies\twhy\n\
            failed\ttwo\tAfterSuite\twhy\nfailed\t*\tgone\twhy\n";
        let two = expected(list, "two", &KNOWN).unwrap();
        assert_eq!(surprises(&specs, &two, true), ["listed, but critest has no such spec: gone"]);
        assert!(surprises(&specs, &two, false).is_empty());
        let one = expected(list, "one", &KNOWN).unwrap();
        assert_eq!(surprises(&specs, &one, false).len(), 1);
        // A listed failure that passes, and an unlisted one.
        let other = expected("failed\t*\t[k8s.io] Pod stops a pod\twhy\n", "one", &KNOWN).unwrap();
        let lines = surprises(&specs, &other, false);
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[0].starts_with("passed, expected failed: [k8s.io] Pod stops a pod"));
        assert!(lines[1].contains("too long"));
    }

    #[test]
    fn a_list_that_cannot_be_meant_is_refused() {
        for (list, why) in [
            ("failed\t*\tspec\n", "not four fields"),
            ("broken\t*\tspec\twhy\n", "neither"),
            ("failed\t*\tspec\t \n", "no reason"),
            ("failed\tthree\tspec\twhy\n", "no combination three"),
            ("failed\t*\tspec\twhy\nskipped\tone\tspec\twhy\n", "twice"),
        ] {
            assert!(expected(list, "one", &KNOWN).unwrap_err().contains(why), "{list}");
        }
    }
}
