//! The results of a run: a table for people, and a file with every turn.

use std::{fmt::Write as _, fs, path::PathBuf, time::SystemTime};

use crate::{
    Options,
    columns::{self, Per, Row},
    machine::Machine,
    run::{Findings, Results},
    scenario::{Measures, Scenario},
    statistics::Spread,
};

/// One table.
struct Section {
    /// Empty if there is only one table.
    title: String,
    columns: &'static [&'static str],
    /// Millgate comes first.
    rows: Vec<Row>,
}

impl Section {
    fn new(title: String, columns: &'static [&'static str], rows: impl Iterator<Item = Option<Row>>) -> Self {
        let mut rows: Vec<_> = rows.flatten().collect();
        rows.sort_by_key(|row| !row.name.starts_with("millgate"));
        Self { title, columns, rows }
    }

    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Millgate's figure divided by a subject's, in pairs of turns of one round. Below 1, Millgate costs
    /// less.
    fn ratio(&self, scenario: &Scenario, row: &Row) -> Option<Spread> {
        let millgate = self.row("millgate")?;
        let above = match &scenario.above {
            None => &[][..],
            // The rest of Millgate's figure cannot be compared with other subjects.
            Some(_) if !scenario.at_most.contains_key(&row.name) => return None,
            Some(name) => &self.row(name)?.figures,
        };
        let above = above.iter().copied().chain(std::iter::repeat(0.0));
        let ours = millgate.figures.iter().zip(above).map(|(figure, above)| figure - above);
        Spread::of(ours.zip(&row.figures).map(|(ours, its)| ours / its)).filter(|_| row.name != millgate.name)
    }

    fn rate_ratio(&self, row: &Row) -> Option<Spread> {
        let millgate = &self.row("millgate")?.rates;
        Spread::of(millgate.iter().zip(&row.rates).map(|(ours, its)| ours / its))
    }
}

fn sections(scenario: &Scenario, results: &Results) -> Vec<Section> {
    let per = match scenario.measures {
        Measures::CpuPerGib => Per::Gib { upload_bytes: scenario.upload_bytes },
        _ => Per::Request,
    };
    let one = |columns, rows: Vec<Option<Row>>| vec![Section::new(String::new(), columns, rows.into_iter())];
    match &results.findings {
        Findings::Turns(turns) => {
            one(per.columns(), turns.iter().map(|(name, turns)| columns::turns(name, turns, per)).collect())
        }
        Findings::Rates(rates) => rates
            .iter()
            .map(|rate| {
                let percent = rate.share * 100.0;
                let title =
                    format!("{percent:.0} % of {}'s peak, {:.0} requests/s", rate.of, rate.requests_per_s);
                let rows = rate.turns.iter().map(|(name, turns)| columns::turns(name, turns, per));
                Section::new(title, per.columns(), rows)
            })
            .collect(),
        Findings::Held(held) => {
            one(columns::HELD, held.iter().map(|(name, held)| columns::held(name, held)).collect())
        }
        Findings::Starts(starts) => {
            one(columns::STARTS, starts.iter().map(|(name, starts)| columns::starts(name, starts)).collect())
        }
    }
}

/// Markdown tables.
pub(crate) fn table(scenario: &Scenario, results: &Results) -> String {
    let mut text = format!("\n## {}\n\n{}\n", scenario.name, scenario.does.trim());
    for section in sections(scenario, results) {
        if !section.title.is_empty() {
            let _ = write!(text, "\n{}:\n", section.title);
        }
        let ratio = match &scenario.above {
            Some(above) => format!("(Millgate − {above}) ÷ it"),
            None => "Millgate ÷ it".to_owned(),
        };
        let width = section.columns.len() + 3;
        let _ = writeln!(text, "\n| proxy | {} | {ratio} (min..max) | target |", section.columns.join(" | "));
        let _ = writeln!(text, "|{}", "---|".repeat(width));
        for row in &section.rows {
            let ratio = section.ratio(scenario, row);
            let target = scenario.at_most.get(&row.name).map(|most| verdict(ratio, "≤", *most));
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} |",
                row.name,
                row.cells.join(" | "),
                ratio.map_or("–".to_owned(), |r| format!(
                    "**{:.2}** ({:.2}..{:.2})",
                    r.median, r.min, r.max
                )),
                target.unwrap_or_else(|| "–".to_owned()),
            );
        }
        let notes = notes(scenario, results, &section);
        if !notes.is_empty() {
            let _ = write!(text, "\n- {}\n", notes.join("\n- "));
        }
    }
    text
}

/// Results that do not fit into a table: targets of another form, and doubts.
fn notes(scenario: &Scenario, results: &Results, section: &Section) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(most) = scenario.at_most_itself {
        let figure = section.row("millgate").and_then(|row| Spread::of(row.figures.iter().copied()));
        notes.push(format!("millgate itself: {}", verdict(figure, "≤", most)));
    }
    for (name, least) in &scenario.at_least_rate {
        let ratio = section.row(name).and_then(|row| section.rate_ratio(row));
        let rates = ratio.map_or(String::new(), |ratio| format!(" ({:.2})", ratio.median));
        notes.push(if results.cores_were_free {
            format!("requests/s of millgate over {name}{rates}: {}", verdict(ratio, "≥", *least))
        } else {
            format!(
                "requests/s of millgate over {name}{rates}: ≥ {least:.2} cannot be judged, cores were shared"
            )
        });
    }
    if let (Some(seconds), Some(most)) = (results.check_seconds, scenario.check_seconds_at_most) {
        let met = if seconds <= most { "met" } else { "missed" };
        notes.push(format!("`millgate check` took {seconds:.2} s of CPU: ≤ {most:.2} {met}"));
    }
    for row in &section.rows {
        notes.extend(row.notes.iter().map(|note| format!("{} {note}", row.name)));
    }
    notes
}

fn verdict(measured: Option<Spread>, relation: &str, bound: f64) -> String {
    let met = match measured {
        None => "not measured",
        Some(Spread { median, .. }) if relation == "≥" && median >= bound => "met",
        Some(Spread { median, .. }) if relation == "≤" && median <= bound => "met",
        Some(_) => "missed",
    };
    format!("{relation} {bound:.2} {met}")
}

/// Writes the whole run, with raw numbers, to `DATE-COMMIT-SCENARIO.json`.
pub(crate) fn write(
    scenario: &Scenario,
    results: &Results,
    machine: &Machine,
    options: &Options,
) -> anyhow::Result<PathBuf> {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let date = now.split('T').next().unwrap_or(&now);
    let mut summary = serde_json::Map::new();
    for section in sections(scenario, results) {
        for row in &section.rows {
            let mut of_row = row.summary.clone();
            let ratio = serde_json::to_value(section.ratio(scenario, row))?;
            if let Some(of_row) = of_row.as_object_mut() {
                of_row.insert("millgate_over_this".to_owned(), ratio);
            }
            let at = if section.title.is_empty() { String::new() } else { format!(", {}", section.title) };
            summary.insert(format!("{}{at}", row.name), of_row);
        }
    }
    let document = serde_json::json!({
        "date": now,
        "machine": machine,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "scenario": scenario,
        "versions": results.versions,
        "left_out": results.left_out,
        "check_seconds": results.check_seconds,
        "summary": summary,
        "turns": results.findings,
    });
    fs::create_dir_all(&options.results)?;
    let path = options.results.join(format!("{date}-{}-{}.json", machine.commit, scenario.name));
    fs::write(&path, serde_json::to_string_pretty(&document)? + "\n")?;
    Ok(path)
}

#[cfg(test)]
mod tests;
