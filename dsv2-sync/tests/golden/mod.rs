//! Scripts that a person can read, compared with what really happens.
//!
//! A script is a text file. Lines that start with `#` are prose; other lines that are not indented are commands; what a
//! command prints stands indented below it. `UPDATE_GOLDEN=1 cargo test` writes what really happened into the files, to
//! be read before it is kept.

use std::path::Path;

/// Runs the script `tests/golden/NAME` and compares. `obey` carries out a command and returns what it prints.
///
/// Panics with the first line that differs.
pub fn check(name: &str, mut obey: impl FnMut(&str) -> Vec<String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let expected = std::fs::read_to_string(&path).expect("the script is readable");
    let mut found = String::new();
    for line in expected.lines().filter(|line| !line.starts_with(' ')) {
        found.push_str(line);
        found.push('\n');
        if !line.is_empty() && !line.starts_with('#') {
            for printed in obey(line) {
                found.push_str(format!("    {printed}").trim_end());
                found.push('\n');
            }
        }
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).expect("the script is writable");
        return;
    }
    let mut lines = expected.lines().zip(found.lines()).enumerate();
    if let Some((index, (expected, found))) = lines.find(|(_, (expected, found))| expected != found) {
        panic!("{name}, line {}:\n  expected: {expected}\n  found:    {found}", index + 1);
    }
    assert_eq!(expected.lines().count(), found.lines().count(), "{name}: more or fewer lines");
}
