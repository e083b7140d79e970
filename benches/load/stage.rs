//! The surroundings of a measurement: keys, certificate, backend, and every subject, ready to be started.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::ValueEnum as _;

use crate::{
    Options, certificate,
    cores::Cores,
    generator::{Own, Tool},
    h2load::H2load,
    places::Places,
    program::{Build, Executable, Invocation, Program, on_path, pinned},
    proxy::{Probe, Proxy, Running, Start, free_port},
    scenario::{Generator, Scenario, Subject, TokenUse, folder},
    tokens,
    wrk::Wrk,
};

pub(crate) struct Stage<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) subjects: Vec<Ready>,
    pub(crate) versions: BTreeMap<String, String>,
    /// Millgate's subjects, and what each of them is.
    pub(crate) builds: Builds,
    /// Subjects that do not run, and the reasons.
    pub(crate) left_out: BTreeMap<String, String>,
    pub(crate) rounds: u32,
    /// The length of one turn.
    pub(crate) turn: Duration,
    pub(crate) load_cores: String,
    tokens: Vec<String>,
    /// Dropped before its folder.
    backend: Running,
    dir: tempfile::TempDir,
}

/// The builds of Millgate in the order in which they were given.
#[derive(Debug, Default)]
pub(crate) struct Builds {
    pub(crate) names: Vec<String>,
    /// For each of Millgate's subjects in this run: its build, and the scenario's name for it.
    pub(crate) subjects: BTreeMap<String, (String, String)>,
}

impl Builds {
    /// The name that the scenario has for a subject.
    pub(crate) fn scenario_name<'a>(&'a self, subject: &'a str) -> &'a str {
        self.subjects.get(subject).map_or(subject, |(_, name)| name)
    }

    /// The name of a subject beside this build, by the scenario's name for it: Millgate's subjects are the build's own.
    pub(crate) fn subject(build: &str, scenario_name: &str) -> String {
        let variant = scenario_name.strip_prefix(MILLGATE);
        variant.map_or_else(|| scenario_name.to_owned(), |variant| format!("{build}{variant}"))
    }

    /// Whether it means something to divide a build's figure by a subject's. Another build's variants are that build's affair.
    pub(crate) fn comparable(&self, build: &str, subject: &str) -> bool {
        subject != build
            && self.subjects.get(subject).is_none_or(|(of, name)| of == build || name == MILLGATE)
    }
}

/// A subject that can be started.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) name: String,
    pub(crate) subject: Subject,
    pub(crate) program: Program,
    pub(crate) executable: Executable,
    pub(crate) cores: String,
    pub(crate) endpoint_ports: Vec<u16>,
    pub(crate) probe: Probe,
    /// The folder of this subject, and that of keys.
    dir: PathBuf,
    keys: PathBuf,
}

impl<'a> Stage<'a> {
    pub(crate) fn set(scenario: &'a Scenario, options: &Options, cores: &Cores) -> anyhow::Result<Self> {
        for Build { name, path } in &options.builds {
            ensure!(path.is_file(), "{}: not found; build it or give another with --bin", path.display());
            let named = options.builds.iter().filter(|build| build.name == *name);
            ensure!(named.count() == 1, "two builds have the name {name}");
        }
        let mut dir = tempfile::Builder::new().prefix("millgate-load-").tempdir()?;
        // Workers that give up root must be able to read their folders.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        if options.keep {
            dir.disable_cleanup(true);
            println!("configurations and logs: {}", dir.path().display());
        }
        let tokens =
            if scenario.tokens > 0 { tokens::make(scenario.tokens, dir.path())? } else { Vec::new() };
        if scenario.tls {
            certificate::make(dir.path())?;
        }
        let (backend, ports) = backend(scenario, cores)?;
        let (subjects, left_out) = chosen(scenario, options);
        let mut stage = Self {
            scenario,
            subjects: Vec::new(),
            versions: BTreeMap::new(),
            builds: Builds {
                names: options.builds.iter().map(|build| build.name.clone()).collect(),
                ..Builds::default()
            },
            left_out,
            rounds: options.rounds,
            turn: Duration::from_secs(options.seconds.into()),
            load_cores: cores.load(),
            tokens,
            backend,
            dir,
        };
        for chosen in subjects {
            stage.add(chosen, &ports, options, cores)?;
        }
        for (name, why) in &stage.left_out {
            println!("{name}: {why}, left out");
        }
        Ok(stage)
    }

    fn add(
        &mut self,
        Chosen { name, subject, of, build }: Chosen<'_>,
        ports: &[u16],
        options: &Options,
        cores: &Cores,
    ) -> anyhow::Result<()> {
        let program = subject.program.context("a subject without program")?;
        let Some(executable) = program.find(build, options)? else {
            self.left_out.insert(name, "not found".to_owned());
            return Ok(());
        };
        self.versions.insert(name.clone(), program.version(&executable));
        if program == Program::Millgate {
            self.builds.subjects.insert(name.clone(), (build.name.clone(), of));
        }
        let dir = self.dir().join(&name);
        fs::create_dir(&dir).with_context(|| format!("{name}: two subjects of this name?"))?;
        let requests = self.scenario.requests(&subject, &self.tokens);
        let (request, token) = requests.first().context("a scenario without requests")?;
        let certificate = self.dir().join(certificate::CERTIFICATE);
        let probe = Probe {
            path: request.clone(),
            token: token.map(str::to_owned),
            token_is_checked: token.is_some() && subject.tokens == TokenUse::Checked,
            tls: self.scenario.tls.then(|| certificate::client(&certificate)).transpose()?,
        };
        let endpoints = subject.endpoints.unwrap_or(ports.len());
        self.subjects.push(Ready {
            name,
            program,
            executable,
            cores: cores.proxy(subject.workers),
            endpoint_ports: ports.iter().take(endpoints).copied().collect(),
            probe,
            dir,
            keys: self.dir().to_owned(),
            subject,
        });
        Ok(())
    }

    /// Whether the backend has ended. Errors after that are not a proxy's.
    pub(crate) fn backend_ended(&mut self) -> bool {
        !matches!(self.backend.0.try_wait(), Ok(None))
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The generator of a closed loop.
    pub(crate) fn tool(&self, ready: &Ready) -> anyhow::Result<Tool> {
        let find = |name: &str, package: &str| {
            on_path(name).with_context(|| format!("{name}: not found; Debian has it in package `{package}`"))
        };
        let Self { scenario, tokens, load_cores: cores, .. } = self;
        Ok(match scenario.generator {
            Generator::Wrk => {
                let program = find("wrk", "wrk")?;
                Tool::Wrk(Wrk::prepare(&program, scenario, &ready.subject, tokens, &ready.dir, cores)?)
            }
            Generator::H2load => {
                let program = find("h2load", "nghttp2-client")?;
                Tool::H2load(H2load::prepare(&program, scenario, &ready.dir, cores)?)
            }
            Generator::Handshakes => Tool::Handshakes(self.own(ready)),
            Generator::Messages => Tool::Messages(self.own(ready)),
        })
    }

    /// The path and the token of each different request to a subject.
    pub(crate) fn requests(&self, ready: &Ready) -> Vec<(String, Option<&str>)> {
        self.scenario.requests(&ready.subject, &self.tokens)
    }

    /// The clients of this program.
    pub(crate) fn own(&self, ready: &Ready) -> Own {
        Own {
            path: ready.probe.path.clone(),
            certificate: self.scenario.tls.then(|| self.dir().join(certificate::CERTIFICATE)),
            connections: self.scenario.connections,
            cores: self.load_cores.clone(),
        }
    }
}

impl Ready {
    /// Gives it ports, and writes its configuration with them.
    pub(crate) fn prepare(&self) -> anyhow::Result<Start<'_>> {
        let places = Places {
            port: free_port()?,
            admin_port: free_port()?,
            dir: &self.dir,
            keys: &self.keys,
            endpoint_ports: &self.endpoint_ports,
            routes: self.subject.routes,
            workers: self.subject.workers,
        };
        let mut config = self.dir.clone();
        if let Some(name) = &self.subject.config {
            let template = fs::read_to_string(folder("configs").join(name))?;
            config.push(name.file_name().context("a configuration is a file")?);
            fs::write(&config, places.fill(&template)?)?;
        }
        Ok(Start {
            program: self.program,
            executable: &self.executable,
            config,
            dir: &self.dir,
            cores: &self.cores,
            workers: self.subject.workers,
            port: places.port,
            endpoint_ports: &self.endpoint_ports,
        })
    }

    pub(crate) fn start(&self) -> anyhow::Result<Proxy> {
        Proxy::start(&self.prepare()?, &self.probe)
    }

    /// The invocation of a subject that is not a proxy.
    pub(crate) fn invocation<'a>(&'a self, config: &'a Path, port: u16) -> Invocation<'a> {
        Invocation { config, dir: &self.dir, port, workers: self.subject.workers, endpoint_ports: &[] }
    }
}

/// The subject that all others are compared with. Millgate's other subjects have names that begin with it.
pub(crate) const MILLGATE: &str = "millgate";

/// Starts the backend, and returns the ports of its endpoints.
fn backend(scenario: &Scenario, cores: &Cores) -> anyhow::Result<(Running, Vec<u16>)> {
    let mut child = pinned(&cores.load(), &std::env::current_exe()?)
        .args(["backend", "--endpoints", &scenario.endpoints.to_string()])
        .args(["--bytes", &scenario.response_bytes.to_string()])
        .args(["--threads", &scenario.workers().to_string()])
        .args(["--speaks", scenario.backend.to_possible_value().context("no value")?.get_name()])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().context("the backend has no output")?;
    let running = Running(child);
    let ports = BufReader::new(output)
        .lines()
        .take(scenario.endpoints)
        .map(|line| Ok(line?.parse::<std::net::SocketAddr>()?.port()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(ports.len() == scenario.endpoints, "the backend ended");
    Ok((running, ports))
}

/// A subject that takes part.
struct Chosen<'a> {
    name: String,
    subject: Subject,
    /// The scenario's name for it.
    of: String,
    /// Of Millgate's subjects: the build that it runs.
    build: &'a Build,
}

/// The subjects to run, and the selected ones that this scenario leaves out. Millgate's variants, in every build, and subjects
/// that are not peers always run; other programs run if they are selected, or if none is.
fn chosen<'a>(scenario: &Scenario, options: &'a Options) -> (Vec<Chosen<'a>>, BTreeMap<String, String>) {
    let Options { peers, builds, .. } = options;
    let asked = |name: &str, subject: &Subject| {
        let program = subject.program;
        peers.is_empty() || peers.iter().any(|peer| peer == name || Program::named(peer) == program)
    };
    let mut subjects = Vec::new();
    for (of, subject) in &scenario.subjects {
        let mut add = |name: String, build: &'a Build| {
            subjects.push(Chosen { name, subject: subject.clone(), of: of.clone(), build });
        };
        match (subject.program, of.strip_prefix(MILLGATE)) {
            (Some(Program::Millgate), Some(variant)) => {
                for build in builds {
                    add(format!("{}{variant}", build.name), build);
                }
            }
            // There is at least one build; other programs do not look at it.
            (program, _) if program == Some(Program::Verification) || asked(of, subject) => {
                builds.iter().take(1).for_each(|build| add(of.clone(), build));
            }
            _ => {}
        }
    }
    if let (Some(millgate), Some(build)) = (scenario.subjects.get(MILLGATE), builds.first())
        && peers.iter().any(|peer| peer == MILLGATE)
    {
        let (name, of) = (format!("{}-again", build.name), format!("{MILLGATE}-again"));
        subjects.push(Chosen { name, subject: millgate.clone(), of, build });
    }
    let known = |peer: &str| {
        scenario
            .subjects
            .iter()
            .any(|(name, subject)| name == peer || subject.program == Program::named(peer))
    };
    let mut left_out: BTreeMap<String, String> = peers
        .iter()
        .filter(|peer| !known(peer))
        .map(|peer| (peer.clone(), "not in this scenario".to_owned()))
        .collect();
    let reasons = scenario.left_out.iter();
    left_out.extend(
        reasons
            .filter(|(name, _)| peers.is_empty() || peers.contains(name))
            .map(|(name, why)| (name.clone(), why.clone())),
    );
    (subjects, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(scenario: &str, peers: &[&str]) -> (Vec<String>, Vec<String>) {
        names_of(&[MILLGATE], scenario, peers)
    }

    fn names_of(builds: &[&str], scenario: &str, peers: &[&str]) -> (Vec<String>, Vec<String>) {
        let mut options = Options::of_one(Path::new("/m"), 0, 1);
        options.peers = peers.iter().map(|&peer| peer.to_owned()).collect();
        options.builds = builds.iter().map(|name| format!("{name}=/m").parse().unwrap()).collect();
        let (subjects, left_out) = chosen(&Scenario::read(scenario).unwrap(), &options);
        (subjects.into_iter().map(|chosen| chosen.name).collect(), left_out.into_keys().collect())
    }

    #[test]
    fn millgate_runs_always_and_its_second_instance_when_asked() {
        assert_eq!(names("plain", &["nginx"]), (vec!["millgate".into(), "nginx".into()], vec![]));
        assert_eq!(names("plain", &["millgate"]).0, ["millgate", "millgate-again"]);
    }

    #[test]
    fn a_program_that_is_asked_for_comes_with_all_its_variants() {
        assert_eq!(names("large-1m", &["nginx"]).0, ["millgate", "nginx", "nginx-buffers"]);
        assert_eq!(names("large-1m", &["nginx-buffers"]).0, ["millgate", "nginx-buffers"]);
    }

    #[test]
    fn what_cannot_do_the_work_is_left_out_and_said() {
        let (subjects, left_out) = names("everything", &["relay", "haproxy", "squid"]);
        assert_eq!(subjects, ["haproxy", "millgate", "millgate-plain"]);
        assert_eq!(left_out, ["relay", "squid"]);
    }

    #[test]
    fn each_build_runs_with_all_variants_of_millgate() {
        let builds = names_of(&["old", "new"], "everything", &["haproxy", "millgate"]).0;
        assert_eq!(builds, ["haproxy", "old", "new", "old-plain", "new-plain", "old-again"]);
    }
}
