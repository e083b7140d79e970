//! A scenario: the work that all proxies do, and each proxy's configuration for it. Files: `benches/load/scenarios`,
//! configurations beside them in `benches/load/configs`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::proxy::Program;

/// As written in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    #[serde(skip)]
    pub(crate) name: String,
    /// For people: what the work is.
    pub(crate) does: String,
    pub(crate) endpoints: usize,
    pub(crate) response_bytes: usize,
    pub(crate) connections: usize,
    /// Each request comes on a connection of its own.
    #[serde(default)]
    pub(crate) new_connections: bool,
    /// May hold `{route}`: then the requests go to all routes of the subject in turn.
    pub(crate) path: String,
    /// RS256 tokens of as many users, sent in turn; 0 = none.
    #[serde(default)]
    pub(crate) tokens: usize,
    /// By name; a name that is a program's needs no `program`.
    pub(crate) subjects: BTreeMap<String, Subject>,
    /// Programs that cannot do this work, and why.
    #[serde(default)]
    pub(crate) left_out: BTreeMap<String, String>,
    /// Targets: Millgate's CPU per request is at most this multiple of the subject's.
    #[serde(default)]
    pub(crate) at_most: BTreeMap<String, f64>,
}

/// One proxy in this scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subject {
    /// Default: the subject's own name.
    pub(crate) program: Option<Program>,
    /// In `benches/load/configs`; the relay has none.
    pub(crate) config: Option<PathBuf>,
    #[serde(default = "one")]
    pub(crate) routes: usize,
    /// False: this one gets no tokens though the scenario has some, for the price of all that belongs to them.
    #[serde(default = "yes")]
    pub(crate) authenticates: bool,
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

impl Scenario {
    pub(crate) fn read(name: &str) -> anyhow::Result<Self> {
        let path = folder("scenarios").join(format!("{name}.yaml"));
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut scenario: Self = serde_saphyr::from_str(&text).with_context(|| path.display().to_string())?;
        name.clone_into(&mut scenario.name);
        for (name, subject) in &mut scenario.subjects {
            if subject.program.is_none() {
                subject.program =
                    Some(Program::named(name).with_context(|| format!("{name}: which program?"))?);
            }
        }
        if !scenario.subjects.contains_key("millgate") {
            bail!("{}: Millgate is not a subject", path.display());
        }
        Ok(scenario)
    }

    /// (path, token) of each different request to a subject.
    pub(crate) fn requests<'a>(
        &self,
        subject: &Subject,
        tokens: &'a [String],
    ) -> Vec<(String, Option<&'a str>)> {
        let tokens = if subject.authenticates { tokens } else { &[] };
        let routes = if self.path.contains("{route}") { subject.routes } else { 1 };
        (0..routes.max(tokens.len()))
            .map(|i| {
                let path = self.path.replace("{route}", &(i % routes + 1).to_string());
                let token = tokens.get(i.checked_rem(tokens.len()).unwrap_or(0)).map(String::as_str);
                (path, token)
            })
            .collect()
    }
}

/// What a configuration's placeholders stand for.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    pub(crate) port: u16,
    pub(crate) admin_port: u16,
    /// Of this proxy's own folder: logs and temporary files.
    pub(crate) dir: &'a Path,
    /// Where the keys of the tokens lie.
    pub(crate) keys: &'a Path,
    pub(crate) endpoint_ports: &'a [u16],
    pub(crate) routes: usize,
}

impl Places<'_> {
    /// Fills in a configuration. A line with `@ENDPOINT…@` or `@ROUTE@` is repeated for each of them.
    pub(crate) fn fill(&self, template: &str) -> anyhow::Result<String> {
        let mut text = String::new();
        for line in template.lines() {
            let line = line
                .replace("@PORT@", &self.port.to_string())
                .replace("@ADMIN_PORT@", &self.admin_port.to_string())
                .replace("@DIR@", &self.dir.display().to_string())
                .replace("@KEYS@", &self.keys.display().to_string());
            if line.contains("@ENDPOINT") {
                for (i, port) in self.endpoint_ports.iter().enumerate() {
                    let line = line.replace("@ENDPOINT_PORT@", &port.to_string());
                    text += &line.replace("@ENDPOINT@", &(i + 1).to_string());
                    text.push('\n');
                }
            } else if line.contains("@ROUTE@") {
                for route in 1..=self.routes {
                    text += &line.replace("@ROUTE@", &route.to_string());
                    text.push('\n');
                }
            } else {
                text += &line;
                text.push('\n');
            }
        }
        match text.lines().find(|line| line.matches('@').nth(1).is_some()) {
            Some(line) => bail!("a placeholder is not known: {line}"),
            None => Ok(text),
        }
    }
}

/// A folder of this program's sources.
pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("load").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(dir: &Path) -> Places<'_> {
        Places { port: 1, admin_port: 2, dir, keys: dir, endpoint_ports: &[3, 4], routes: 2 }
    }

    #[test]
    fn every_scenario_can_be_read_and_its_configurations_filled_in() {
        let mut read = 0;
        for entry in fs::read_dir(folder("scenarios")).unwrap() {
            let path = entry.unwrap().path();
            let scenario = Scenario::read(path.file_stem().unwrap().to_str().unwrap()).unwrap();
            for config in scenario.subjects.values().filter_map(|subject| subject.config.as_ref()) {
                let template = fs::read_to_string(folder("configs").join(config)).unwrap();
                places(Path::new("/d")).fill(&template).unwrap();
            }
            for name in scenario.left_out.keys().chain(scenario.at_most.keys()) {
                let known = Program::named(name).is_some() || scenario.subjects.contains_key(name);
                assert!(known, "{}: {name}", path.display());
            }
            read += 1;
        }
        assert!(read > 0);
    }

    #[test]
    fn a_line_is_repeated_for_each_endpoint_and_each_route() {
        let filled = places(Path::new("/d"))
            .fill("listen @PORT@ @ADMIN_PORT@ @DIR@\nserver s@ENDPOINT@ :@ENDPOINT_PORT@;\n/r@ROUTE@")
            .unwrap();
        assert_eq!(filled, "listen 1 2 /d\nserver s1 :3;\nserver s2 :4;\n/r1\n/r2\n");
    }

    #[test]
    fn an_unknown_placeholder_is_an_error() {
        assert!(places(Path::new("/d")).fill("listen @PROT@").is_err());
    }

    #[test]
    fn tokens_and_routes_are_asked_in_turn() {
        let mut scenario = Scenario::read("routes-10000").unwrap();
        scenario.path = "/r{route}".to_owned();
        let subject = Subject { program: None, config: None, routes: 2, authenticates: true };
        let paths = scenario.requests(&subject, &[]).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        assert_eq!(paths, ["/r1", "/r2"]);
        let tokens = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let requests = scenario.requests(&subject, &tokens);
        assert_eq!(requests[2], ("/r1".to_owned(), Some("c")));
    }
}
