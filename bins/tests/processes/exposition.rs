//! The text format of Prometheus, read strictly: whatever is not as the format has it ends the test.

use std::collections::{BTreeMap, BTreeSet};

/// All that one part tells.
pub(crate) struct Exposition(BTreeMap<String, Family>);

/// A metric with all of its series.
#[derive(Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) help: String,
    pub(crate) samples: Vec<Sample>,
}

/// A series and its value.
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// Reads a whole text.
pub(crate) fn parse(text: &str) -> Exposition {
    assert!(text.ends_with('\n'), "the last line ends");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap_or_else(|| panic!("no meaning: {line}"));
            let family = Family { help: help.to_owned(), ..Family::default() };
            assert!(families.insert(name.to_owned(), family).is_none(), "{name} comes twice");
            current = name.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap_or_else(|| panic!("no type: {line}"));
            assert_eq!(name, current, "the type comes after the meaning");
            families.entry(current.clone()).or_default().kind = kind.to_owned();
        } else {
            let sample = sample(line);
            let family = families.get_mut(&current).unwrap_or_else(|| panic!("of no metric: {line}"));
            let suffix = sample.name.strip_prefix(&current).unwrap_or_else(|| panic!("of another metric: {line}"));
            let fits = match family.kind.as_str() {
                "counter" | "gauge" => suffix.is_empty(),
                "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
                other => panic!("{line} has the type {other}"),
            };
            assert!(fits, "{line}");
            family.samples.push(sample);
        }
    }
    families.values().for_each(check);
    Exposition(families)
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let value = match value {
        "NaN" => f64::NAN,
        number => number.parse().unwrap_or_else(|error| panic!("{line}: {error}")),
    };
    let (name, mut rest) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}').unwrap_or_else(|| panic!("open: {line}"))),
        None => (series, ""),
    };
    assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{line}");
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (label, quoted) = rest.split_once("=\"").unwrap_or_else(|| panic!("a label without a value: {line}"));
        let (value, after) = quoted.split_once('"').unwrap_or_else(|| panic!("an open value: {line}"));
        assert!(!value.is_empty() && !value.contains('\\'), "{line}");
        assert!(labels.insert(label.to_owned(), value.to_owned()).is_none(), "a label twice: {line}");
        rest = after.strip_prefix(',').unwrap_or(after);
        assert!(rest.is_empty() == after.is_empty(), "{line}");
    }
    Sample { name: name.to_owned(), labels, value }
}

/// A series comes once, a metric has some, and the buckets of a histogram add up.
fn check(family: &Family) {
    assert!(!family.samples.is_empty() && !family.help.is_empty() && !family.kind.is_empty(), "{}", family.help);
    let series: BTreeSet<_> = family.samples.iter().map(|sample| (&sample.name, &sample.labels)).collect();
    assert_eq!(series.len(), family.samples.len(), "a series comes twice: {}", family.help);
    if family.kind == "counter" {
        assert!(family.samples.iter().all(|sample| sample.value >= 0.0), "{}", family.help);
    }
    if family.kind == "histogram" {
        let mut below = 0.0;
        for sample in &family.samples {
            match sample.labels.get("le") {
                Some(_) => {
                    assert!(sample.value >= below, "buckets are cumulative: {}", family.help);
                    below = sample.value;
                }
                None if sample.name.ends_with("_count") => {
                    assert!((sample.value - below).abs() < 0.5, "the last bucket holds all: {}", family.help);
                    below = 0.0;
                }
                None => {}
            }
        }
    }
}

impl Exposition {
    /// The names of the metrics.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The names of the series, as expressions have them.
    pub(crate) fn series_names(&self) -> BTreeSet<String> {
        self.samples().map(|sample| sample.name.clone()).collect()
    }

    pub(crate) fn family(&self, name: &str) -> Option<&Family> {
        self.0.get(name)
    }

    /// Whether any series has that label with that value.
    pub(crate) fn has(&self, label: &str, value: &str) -> bool {
        self.samples().any(|sample| sample.labels.get(label).is_some_and(|has| has == value))
    }

    /// The sum of the series of that name with these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&Sample| {
            labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|has| has == value))
        };
        self.samples().filter(|sample| sample.name == name).filter(fits).map(|sample| sample.value).sum()
    }

    fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.0.values().flat_map(|family| &family.samples)
    }
}
