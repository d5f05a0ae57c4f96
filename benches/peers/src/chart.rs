//! One bar chart a scenario, as SVG that reads well on light and dark pages.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::Result;
use crate::table::Figures;

const WIDTH: f64 = 760.0;
const NAMES: f64 = 150.0;
const NUMBERS: f64 = 130.0;
const BAR: f64 = 18.0;
const STEP: f64 = 26.0;
const TOP: f64 = 40.0;

/// Writes `DIR/SCENARIO.svg` for each.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn write(dir: &Path, tables: &[Figures]) -> Result<()> {
    fs::create_dir_all(dir)?;
    for table in tables {
        fs::write(dir.join(format!("{}.svg", table.scenario)), svg(table)?)?;
    }
    Ok(())
}

fn svg(table: &Figures) -> Result<String> {
    let mut rows: Vec<_> = table.systems.iter().collect();
    rows.sort_by(|a, b| b.per_second.total_cmp(&a.per_second));
    let most = rows.first().map_or(1.0, |row| row.per_second);
    let height = TOP + STEP * rows.len() as f64 + 10.0;
    let mut out = String::new();
    writeln!(out, r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">"#)?;
    writeln!(out, "<title>{}, a second</title>", table.what)?;
    writeln!(
        out,
        "<style>text{{font:13px system-ui,sans-serif;fill:#1b1f24}}rect{{fill:#8a9099}}.ours{{fill:#1f6feb}}\
         @media(prefers-color-scheme:dark){{text{{fill:#e6edf3}}}}</style>"
    )?;
    writeln!(out, r#"<text x="0" y="18" font-weight="600">{}, a second</text>"#, table.what)?;
    for (at, row) in rows.iter().enumerate() {
        let y = TOP + STEP * at as f64;
        let width = (WIDTH - NAMES - NUMBERS) * row.per_second / most;
        let class = if row.system.starts_with("dsv2") { " class=\"ours\"" } else { "" };
        let text_y = y + BAR - 4.0;
        writeln!(out, r#"<text x="{:.0}" y="{text_y}" text-anchor="end">{}</text>"#, NAMES - 10.0, row.system)?;
        writeln!(out, r#"<rect{class} x="{NAMES}" y="{y}" width="{:.1}" height="{BAR}" rx="2"/>"#, width.max(1.0))?;
        let x = NAMES + width.max(1.0) + 8.0;
        writeln!(out, r#"<text x="{x:.1}" y="{text_y}">{}</text>"#, thousands(row.per_second))?;
    }
    writeln!(out, "</svg>")?;
    Ok(out)
}

/// `1234567.8` as `1,234,568`.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}
