//! The pages in Portuguese keep step with the English ones: the same commands, the same figures, and links that lead somewhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Pages that say the same in both languages.
const PAIRS: [(&str, &str); 2] = [("README.md", "docs/pt/README.md"), ("docs/course.md", "docs/pt/curso.md")];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page<P: AsRef<Path> + ?Sized>(name: &P) -> String {
    let path = root().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of a page, each with the language of the fence that it stands in; those outside have none.
fn lines(text: &str) -> Vec<(Option<&str>, &str)> {
    let mut fence = None;
    let mut lines = Vec::new();
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), fence) {
            (Some(language), None) => fence = Some(language.trim()),
            (Some(_), Some(_)) => fence = None,
            (None, _) => lines.push((fence, line)),
        }
    }
    assert!(fence.is_none(), "a fence is not closed");
    lines
}

/// A line without its comment, which is translated, and with single spaces.
fn bare(line: &str, comment: &str) -> String {
    let mut quote = None;
    let mut end = line.len();
    for (at, sign) in line.char_indices() {
        match quote {
            Some(open) if open == sign => quote = None,
            Some(_) => {}
            None if sign == '"' || (sign == '\'' && comment == "#") => quote = Some(sign),
            None if line[at..].starts_with(comment) && (at == 0 || line[..at].ends_with(char::is_whitespace)) => {
                end = at;
                break;
            }
            None => {}
        }
    }
    line[..end].split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What stands in the fences of a language, without comments and empty lines.
fn code(text: &str, language: &str, comment: &str) -> Vec<String> {
    let fenced = lines(text).into_iter().filter(|(fence, _)| *fence == Some(language));
    fenced.map(|(_, line)| bare(line, comment)).filter(|line| !line.is_empty()).collect()
}

/// How often each figure stands outside the fences. Points and commas count for nothing, since the languages exchange them;
/// a number that is part of a name, as in `DS-v2`, is no figure.
fn figures(text: &str) -> BTreeMap<String, usize> {
    let mut figures = BTreeMap::new();
    for (_, line) in lines(text).into_iter().filter(|(fence, _)| fence.is_none()) {
        for word in line.split(|sign: char| !(sign.is_alphanumeric() || sign == '.' || sign == ',')) {
            let digits: String = word.chars().filter(|sign| !matches!(sign, '.' | ',')).collect();
            if !digits.is_empty() && digits.chars().all(|sign| sign.is_ascii_digit()) {
                *figures.entry(digits).or_default() += 1;
            }
        }
    }
    figures
}

/// The targets of links, `[text](target)`, outside the fences.
fn links(text: &str) -> Vec<&str> {
    let outside = lines(text).into_iter().filter(|(fence, _)| fence.is_none());
    outside.flat_map(|(_, line)| line.split("](").skip(1).filter_map(|rest| rest.split(')').next())).collect()
}

/// Whether a page has a heading that a fragment names, as it is named on GitHub.
fn has_heading(text: &str, fragment: &str) -> bool {
    let headings = lines(text).into_iter().filter(|(fence, line)| fence.is_none() && line.starts_with('#'));
    headings.map(|(_, line)| line.trim_start_matches('#').trim().to_lowercase()).any(|heading| {
        let kept = heading.chars().filter(|sign| sign.is_alphanumeric() || matches!(sign, ' ' | '-' | '_'));
        kept.map(|sign| if sign == ' ' { '-' } else { sign }).eq(fragment.chars())
    })
}

#[test]
fn every_command_stands_in_both_languages() {
    for (english, portuguese) in PAIRS {
        for (language, comment) in [("sh", "#"), ("rust", "//")] {
            let (wanted, there) = (code(&page(english), language, comment), code(&page(portuguese), language, comment));
            assert!(language != "sh" || !wanted.is_empty(), "{english} has commands");
            let mut rest = there.iter();
            for line in &wanted {
                assert!(rest.any(|other| other == line), "{portuguese} lacks, or has in another order: {line}");
            }
        }
    }
}

#[test]
fn the_same_figures_stand_in_both_languages() {
    // The other pair's pages differ: the Portuguese one has the assignment's marks too.
    let (english, portuguese) = PAIRS[0];
    let (wanted, there) = (figures(&page(english)), figures(&page(portuguese)));
    assert!(!wanted.is_empty(), "{english} has figures");
    for figure in wanted.keys().chain(there.keys()) {
        let (in_english, in_portuguese) = (wanted.get(figure), there.get(figure));
        assert_eq!(in_english, in_portuguese, "how often {figure} stands in {english}, and in {portuguese}");
    }
}

#[test]
fn links_of_the_portuguese_pages_lead_somewhere() {
    let folder = Path::new("docs/pt");
    let mut followed = 0;
    for entry in fs::read_dir(root().join(folder)).expect("the folder is there") {
        let name = folder.join(entry.expect("an entry").file_name());
        let text = page(&name);
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (file, fragment) = link.split_once('#').map_or((link, None), |(file, fragment)| (file, Some(fragment)));
            let target = if file.is_empty() { name.clone() } else { folder.join(file) };
            assert!(root().join(&target).exists(), "{}: {link} leads nowhere", name.display());
            if let Some(fragment) = fragment {
                assert!(has_heading(&page(&target), fragment), "{}: {link} names no heading", name.display());
            }
            followed += 1;
        }
    }
    assert!(followed > PAIRS.len(), "there are links to follow");
}

#[test]
fn the_languages_name_each_other() {
    for (english, portuguese) in PAIRS {
        for (from, to) in [(english, portuguese), (portuguese, english)] {
            let folder = root().join(from).parent().expect("a folder").to_owned();
            let wanted = fs::canonicalize(root().join(to)).expect("the other page is there");
            let text = page(from);
            let top: Vec<_> = text.lines().take(5).collect();
            let named = links(&top.join("\n"))
                .into_iter()
                .any(|link| fs::canonicalize(folder.join(link)).is_ok_and(|target| target == wanted));
            assert!(named, "{from} does not name {to} in its first lines");
        }
    }
}
