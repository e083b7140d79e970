//! The results of a run: a table for people, and a file with every turn.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::PathBuf, time::SystemTime};

use crate::{
    Options,
    columns::{self, Per, Row},
    machine::Machine,
    run::{Findings, Results},
    scenario::{Measures, Scenario},
    stage::{Builds, MILLGATE},
    statistics::Spread,
};

/// One table.
struct Section {
    /// Empty if there is only one table.
    title: String,
    columns: &'static [&'static str],
    /// The builds of Millgate come first.
    rows: Vec<Row>,
}

impl Section {
    fn new(
        title: String,
        columns: &'static [&'static str],
        rows: impl Iterator<Item = Option<Row>>,
        builds: &Builds,
    ) -> Self {
        let mut rows: Vec<_> = rows.flatten().collect();
        rows.sort_by_key(|row| !builds.subjects.contains_key(&row.name));
        Self { title, columns, rows }
    }

    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// A build's figure divided by a subject's, in pairs of turns of one round. Below 1, the build costs less.
    fn ratio(&self, scenario: &Scenario, builds: &Builds, build: &str, row: &Row) -> Option<Spread> {
        let millgate = self.row(build).filter(|_| builds.comparable(build, &row.name))?;
        let above = match &scenario.above {
            None => &[][..],
            // The rest of Millgate's figure cannot be compared with other subjects.
            Some(_) if !scenario.at_most.contains_key(builds.scenario_name(&row.name)) => return None,
            Some(name) => &self.row(&Builds::subject(build, name))?.figures,
        };
        let above = above.iter().copied().chain(std::iter::repeat(0.0));
        let ours = millgate.figures.iter().zip(above).map(|(figure, above)| figure - above);
        Spread::of(ours.zip(&row.figures).map(|(ours, its)| ours / its))
    }

    fn rate_ratio(&self, build: &str, row: &Row) -> Option<Spread> {
        let millgate = &self.row(build)?.rates;
        Spread::of(millgate.iter().zip(&row.rates).map(|(ours, its)| ours / its))
    }

    /// A build beside a subject, in one line of the table of all scenarios.
    fn summary(&self, scenario: &Scenario, builds: &Builds, build: &str, row: &Row) -> Option<String> {
        let most = scenario.at_most.get(builds.scenario_name(&row.name));
        if most.is_none() && row.name != "nginx" {
            return None;
        }
        let ratio = self.ratio(scenario, builds, build, row)?;
        let target = most.map_or("–".to_owned(), |most| verdict(&[(build, Some(ratio))], "≤", *most));
        let unit = per(scenario).unit();
        let split = |row: &Row| {
            row.split.map_or("–".to_owned(), |(user, system)| format!("{user:.1} + {system:.1} {unit}"))
        };
        let (ours, its) = (split(self.row(build)?), split(row));
        Some(format!("{} | {target} | {ours} | {its}", spread(Some(ratio))))
    }

    /// The target against a subject, and which builds reach it.
    fn target(&self, scenario: &Scenario, builds: &Builds, row: &Row) -> Option<String> {
        let most = scenario.at_most.get(builds.scenario_name(&row.name))?;
        let compared = builds.names.iter().filter(|build| builds.comparable(build, &row.name));
        let measured = compared.map(|build| (build.as_str(), self.ratio(scenario, builds, build, row)));
        Some(verdict(&measured.collect::<Vec<_>>(), "≤", *most))
    }
}

fn per(scenario: &Scenario) -> Per {
    match scenario.measures {
        Measures::CpuPerGib => Per::Gib { upload_bytes: scenario.upload_bytes },
        _ => Per::Request,
    }
}

fn sections(scenario: &Scenario, results: &Results) -> Vec<Section> {
    let (per, builds) = (per(scenario), &results.builds);
    let one = |columns, rows: Vec<Option<Row>>| {
        vec![Section::new(String::new(), columns, rows.into_iter(), builds)]
    };
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
                Section::new(title, per.columns(), rows, builds)
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
    let builds = &results.builds;
    let mut text = format!("\n## {}\n\n{}\n", scenario.name, scenario.does.trim());
    let versions = versions(results);
    if !versions.is_empty() {
        let _ = write!(text, "\nVersions: {}\n", versions.join("; "));
    }
    for section in sections(scenario, results) {
        if !section.title.is_empty() {
            let _ = write!(text, "\n{}:\n", section.title);
        }
        let ratios: Vec<_> = builds.names.iter().map(|build| over_it(scenario, builds, build)).collect();
        let width = section.columns.len() + ratios.len() + 2;
        let (columns, ratios) = (section.columns.join(" | "), ratios.join(" | "));
        let _ = writeln!(text, "\n| proxy | {columns} | {ratios} | target |");
        let _ = writeln!(text, "|{}", "---|".repeat(width));
        for row in &section.rows {
            let ratios = builds.names.iter().map(|build| section.ratio(scenario, builds, build, row));
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} |",
                row.name,
                row.cells.join(" | "),
                ratios.map(spread).collect::<Vec<_>>().join(" | "),
                section.target(scenario, builds, row).unwrap_or_else(|| "–".to_owned()),
            );
        }
        let notes = notes(scenario, results, &section);
        if !notes.is_empty() {
            let _ = write!(text, "\n- {}\n", notes.join("\n- "));
        }
    }
    text
}

/// The head of the column with a build's ratios.
fn over_it(scenario: &Scenario, builds: &Builds, build: &str) -> String {
    let name = if builds.names.len() == 1 && build == MILLGATE { "Millgate" } else { build };
    match &scenario.above {
        Some(above) => format!("({name} − {}) ÷ it (min..max)", Builds::subject(build, above)),
        None => format!("{name} ÷ it (min..max)"),
    }
}

fn spread(ratio: Option<Spread>) -> String {
    ratio.map_or("–".to_owned(), |r| format!("**{:.2}** ({:.2}..{:.2})", r.median, r.min, r.max))
}

/// The version of each build and of each program that took part.
fn versions(results: &Results) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let versions = results.versions.iter();
    versions
        .filter(|(name, version)| seen.insert(version.as_str()) || results.builds.names.contains(name))
        .map(|(name, version)| format!("{name}: {version}"))
        .collect()
}

/// One table of several scenarios: each build's ratio to `nginx`, and to the subjects that it has a target against.
pub(crate) fn summary(all: &[(Scenario, Results)]) -> String {
    let columns = "scenario | build | other | build ÷ other (min..max) | target | user + system of the build | and of the other";
    let mut text = format!("\n## All scenarios\n\n| {columns} |\n|{}\n", "---|".repeat(7));
    for (scenario, results) in all {
        for section in sections(scenario, results) {
            for (build, row) in
                results.builds.names.iter().flat_map(|build| section.rows.iter().map(move |row| (build, row)))
            {
                if let Some(cells) = section.summary(scenario, &results.builds, build, row) {
                    let _ = writeln!(text, "| {} | {build} | {} | {cells} |", scenario.name, row.name);
                }
            }
        }
    }
    text
}

/// Results that do not fit into a table: targets of another form, and doubts.
fn notes(scenario: &Scenario, results: &Results, section: &Section) -> Vec<String> {
    let mut notes = Vec::new();
    let rows: Vec<_> = results.builds.names.iter().filter_map(|build| section.row(build)).collect();
    for row in rows {
        let build = &row.name;
        if let Some(most) = scenario.at_most_itself {
            let figure = Spread::of(row.figures.iter().copied());
            notes.push(format!("{build} itself: {}", verdict(&[(build, figure)], "≤", most)));
        }
        if let (Some(most), Some((user, _))) = (scenario.user_us_at_most, row.split) {
            let verdict = verdict(&[(build, Spread::of([user].into_iter()))], "≤", most);
            notes.push(format!("user time of {build}: {user:.1} µs/request: {verdict}"));
        }
        for (name, least) in &scenario.at_least_rate {
            let name = Builds::subject(build, name);
            let ratio = section.row(&name).and_then(|row| section.rate_ratio(build, row));
            let rates = ratio.map_or(String::new(), |ratio| format!(" ({:.2})", ratio.median));
            notes.push(if results.cores_were_free {
                let verdict = verdict(&[(build, ratio)], "≥", *least);
                format!("requests/s of {build} over {name}{rates}: {verdict}")
            } else {
                format!("requests/s of {build} over {name}{rates}: ≥ {least:.2} cannot be judged, cores were shared")
            });
        }
        if let (Some(seconds), Some(most)) =
            (results.check_seconds.get(build), scenario.check_seconds_at_most)
        {
            let met = if *seconds <= most { "met" } else { "missed" };
            notes.push(format!("`millgate check` of {build} took {seconds:.2} s of CPU: ≤ {most:.2} {met}"));
        }
    }
    for row in &section.rows {
        notes.extend(row.notes.iter().map(|note| format!("{} {note}", row.name)));
    }
    notes
}

/// A target, and whether it is reached; of several builds, which of them reach it.
fn verdict(measured: &[(&str, Option<Spread>)], relation: &str, bound: f64) -> String {
    let met = |measured: Option<Spread>| match measured {
        None => "not measured",
        Some(Spread { median, .. }) if relation == "≥" && median >= bound => "met",
        Some(Spread { median, .. }) if relation == "≤" && median <= bound => "met",
        Some(_) => "missed",
    };
    match measured {
        [(_, measured)] => format!("{relation} {bound:.2} {}", met(*measured)),
        builds => {
            let builds: Vec<_> = builds.iter().map(|(name, it)| format!("{name} {}", met(*it))).collect();
            format!("{relation} {bound:.2}: {}", builds.join(", "))
        }
    }
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
            for build in &results.builds.names {
                let ratio = serde_json::to_value(section.ratio(scenario, &results.builds, build, row))?;
                if let Some(of_row) = of_row.as_object_mut() {
                    of_row.insert(format!("{build}_over_this"), ratio);
                }
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
