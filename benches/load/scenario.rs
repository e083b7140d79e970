//! A scenario: the work that all proxies do, and each proxy's configuration for it. Scenarios are in
//! `benches/load/scenarios`, configurations in `benches/load/configs`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::{backend::Speaks, proxy::Program, stage::MILLGATE};

/// The scenario as written in its file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    #[serde(skip)]
    pub(crate) name: String,
    /// A description of the work, for people.
    pub(crate) does: String,
    #[serde(default)]
    pub(crate) measures: Measures,
    #[serde(default)]
    pub(crate) generator: Generator,
    #[serde(default)]
    pub(crate) backend: Speaks,
    /// Each request is a unary call of gRPC in cleartext. Only `h2load` makes them.
    #[serde(default)]
    pub(crate) grpc: bool,
    pub(crate) endpoints: usize,
    pub(crate) response_bytes: usize,
    pub(crate) connections: usize,
    /// The number of concurrent requests on one connection. Only `h2load` makes more than one.
    #[serde(default = "one")]
    pub(crate) streams: usize,
    /// Each request has its own connection.
    #[serde(default)]
    pub(crate) new_connections: bool,
    /// Clients use TLS 1.3. The certificate is ECDSA P-256 and made anew for each run.
    #[serde(default)]
    pub(crate) tls: bool,
    /// Each request is a POST with a body of so many bytes. 0: GET.
    #[serde(default)]
    pub(crate) upload_bytes: usize,
    /// May contain `{route}`: then the requests go to all routes of the subject in turn.
    pub(crate) path: String,
    /// The number of RS256 tokens, each of another user, which are sent in turn. 0: none.
    #[serde(default)]
    pub(crate) tokens: usize,
    /// The subjects by name. A subject with the name of a program needs no `program`.
    pub(crate) subjects: BTreeMap<String, Subject>,
    /// Programs that cannot do this work, and the reasons.
    #[serde(default)]
    pub(crate) left_out: BTreeMap<String, String>,
    /// Only the difference between Millgate's figure and that of this subject is compared.
    #[serde(default)]
    pub(crate) above: Option<String>,
    /// Targets: Millgate's figure is at most this multiple of the subject's.
    #[serde(default)]
    pub(crate) at_most: BTreeMap<String, f64>,
    /// Target: Millgate's figure is at most this, in its own unit.
    #[serde(default)]
    pub(crate) at_most_itself: Option<f64>,
    /// Targets where every worker has its own core: Millgate's requests/s are at least this multiple of the subject's.
    #[serde(default)]
    pub(crate) at_least_rate: BTreeMap<String, f64>,
    /// Target: Millgate's user time for a request, in microseconds.
    #[serde(default)]
    pub(crate) user_us_at_most: Option<f64>,
    /// Target: `millgate check` of Millgate's configuration takes at most so many seconds of CPU time.
    #[serde(default)]
    pub(crate) check_seconds_at_most: Option<f64>,
}

/// The figure that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Measures {
    /// Closed loop; microseconds of CPU for a request.
    #[default]
    CpuPerRequest,
    /// Closed loop; milliseconds of CPU for a GiB of bodies.
    CpuPerGib,
    /// Open loop at a quarter and at half of what nginx can do; microseconds of CPU for a request.
    OpenLoop,
    /// KiB of memory for a client that made one request and stays connected.
    IdleMemory,
    /// KiB of memory for a client that does not read its response.
    StalledMemory,
    /// Milliseconds from exec to the first 200.
    Start,
}

/// The program that makes the requests of a closed loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Generator {
    #[default]
    Wrk,
    /// HTTP/2.
    H2load,
    /// This program's own clients: TLS, a connection for each request, no resumption. wrk resumes where the server allows
    /// it.
    Handshakes,
    /// This program's own clients: WebSocket, messages of 64 bytes that come back, one at a time on each connection.
    Messages,
}

/// One proxy in this scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subject {
    /// Default: the program with the subject's name.
    pub(crate) program: Option<Program>,
    /// The file in `benches/load/configs`; the relay has none.
    pub(crate) config: Option<PathBuf>,
    #[serde(default = "one")]
    pub(crate) routes: usize,
    /// The subject uses only so many of the scenario's endpoints. Default: all.
    pub(crate) endpoints: Option<usize>,
    /// Each worker has a core.
    #[serde(default = "one")]
    pub(crate) workers: usize,
    #[serde(default)]
    pub(crate) tokens: TokenUse,
}

/// The use of the scenario's tokens at one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TokenUse {
    /// A request without one is refused.
    #[default]
    Checked,
    /// Tokens are sent, but not checked.
    Ignored,
    /// No token is sent.
    None,
}

fn one() -> usize {
    1
}

impl Scenario {
    pub(crate) fn read(name: &str) -> anyhow::Result<Self> {
        let path = folder("scenarios").join(format!("{name}.yaml"));
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Self::parse(name, &text).with_context(|| path.display().to_string())
    }

    fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let mut scenario: Self = serde_saphyr::from_str(text)?;
        name.clone_into(&mut scenario.name);
        for (name, subject) in &mut scenario.subjects {
            if subject.program.is_none() {
                subject.program =
                    Some(Program::named(name).with_context(|| format!("{name}: which program?"))?);
            }
        }
        if !scenario.subjects.contains_key(MILLGATE) {
            bail!("Millgate is not a subject");
        }
        for (name, subject) in &scenario.subjects {
            let begins = name.starts_with(MILLGATE);
            ensure!(
                begins == (subject.program == Some(Program::Millgate)),
                "{name}: only Millgate's subjects are called so"
            );
        }
        let targets = scenario.at_most.keys().chain(scenario.at_least_rate.keys()).chain(&scenario.above);
        for name in targets {
            ensure!(
                scenario.subjects.contains_key(name),
                "{name} is no subject, so nothing can be said about it"
            );
        }
        let wrk = scenario.generator == Generator::Wrk;
        ensure!(
            !(wrk && scenario.tls && scenario.new_connections),
            "wrk resumes TLS; use `generator: handshakes`"
        );
        Ok(scenario)
    }

    /// The path and the token of each different request to a subject.
    pub(crate) fn requests<'a>(
        &self,
        subject: &Subject,
        tokens: &'a [String],
    ) -> Vec<(String, Option<&'a str>)> {
        let tokens = if subject.tokens == TokenUse::None { &[] } else { tokens };
        let routes = if self.path.contains("{route}") { subject.routes } else { 1 };
        (0..routes.max(tokens.len()))
            .map(|i| {
                let path = self.path.replace("{route}", &(i % routes + 1).to_string());
                let token = tokens.get(i.checked_rem(tokens.len()).unwrap_or(0)).map(String::as_str);
                (path, token)
            })
            .collect()
    }

    /// The largest number of workers of a subject.
    pub(crate) fn workers(&self) -> usize {
        self.subjects.values().map(|subject| subject.workers).max().unwrap_or(1)
    }
}

/// A folder of this program's sources.
pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("load").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::Places;

    #[test]
    fn every_scenario_can_be_read_and_its_configurations_filled_in() {
        let dir = Path::new("/d");
        let places =
            Places { port: 1, admin_port: 2, dir, keys: dir, endpoint_ports: &[3, 4], routes: 2, workers: 1 };
        let mut read = 0;
        for entry in fs::read_dir(folder("scenarios")).unwrap() {
            let path = entry.unwrap().path();
            let scenario = Scenario::read(path.file_stem().unwrap().to_str().unwrap()).unwrap();
            for config in scenario.subjects.values().filter_map(|subject| subject.config.as_ref()) {
                let template = fs::read_to_string(folder("configs").join(config)).unwrap();
                places.fill(&template).unwrap();
            }
            for name in scenario.left_out.keys() {
                let known = Program::named(name).is_some() || scenario.subjects.contains_key(name);
                assert!(known, "{}: {name}", path.display());
            }
            read += 1;
        }
        assert!(read > 0);
    }

    const SMALL: &str = "
does: something
endpoints: 1
response_bytes: 120
connections: 1
path: /r{route}
subjects: {millgate: {}, nginx: {}}
";

    #[test]
    fn what_is_measured_is_one_of_a_closed_list() {
        let scenario = |measures: &str| Scenario::parse("x", &format!("{SMALL}measures: {measures}\n"));
        assert_eq!(Scenario::parse("x", SMALL).unwrap().measures, Measures::CpuPerRequest);
        assert_eq!(scenario("idle-memory").unwrap().measures, Measures::IdleMemory);
        assert!(scenario("happiness").is_err());
    }

    #[test]
    fn a_target_against_nobody_is_an_error() {
        for target in ["at_most: {squid: 1.0}", "at_least_rate: {squid: 1.0}", "above: squid"] {
            let error = Scenario::parse("x", &format!("{SMALL}{target}\n")).unwrap_err();
            assert!(error.to_string().contains("squid is no subject"), "{error}");
        }
    }

    #[test]
    fn wrk_makes_no_handshakes_because_it_would_resume() {
        let text = format!("{SMALL}tls: true\nnew_connections: true\n");
        assert!(Scenario::parse("x", &text).unwrap_err().to_string().contains("handshakes"));
    }

    #[test]
    fn tokens_and_routes_are_asked_in_turn() {
        let mut scenario = Scenario::parse("x", SMALL).unwrap();
        scenario.path = "/r{route}".to_owned();
        let mut subject = scenario.subjects.remove("millgate").unwrap();
        subject.routes = 2;
        let paths = scenario.requests(&subject, &[]).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        assert_eq!(paths, ["/r1", "/r2"]);
        let tokens = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let requests = scenario.requests(&subject, &tokens);
        assert_eq!(requests[2], ("/r1".to_owned(), Some("c")));
        subject.tokens = TokenUse::None;
        assert_eq!(scenario.requests(&subject, &tokens)[1], ("/r2".to_owned(), None));
    }
}
