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

use crate::{
    Options, certificate,
    cores::Cores,
    generator::{Own, Tool},
    h2load::H2load,
    places::Places,
    program::{Invocation, Program, on_path, pinned},
    proxy::{Probe, Proxy, Running, Start, free_port},
    scenario::{Generator, Scenario, Subject, TokenUse, folder},
    tokens,
    wrk::Wrk,
};

pub(crate) struct Stage<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) subjects: Vec<Ready>,
    pub(crate) versions: BTreeMap<String, String>,
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

/// A subject that can be started.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) name: String,
    pub(crate) subject: Subject,
    pub(crate) program: Program,
    pub(crate) path: PathBuf,
    pub(crate) cores: String,
    pub(crate) endpoint_ports: Vec<u16>,
    pub(crate) probe: Probe,
    /// The folder of this subject, and that of keys.
    dir: PathBuf,
    keys: PathBuf,
}

impl<'a> Stage<'a> {
    pub(crate) fn set(scenario: &'a Scenario, options: &Options, cores: &Cores) -> anyhow::Result<Self> {
        ensure!(
            options.millgate.is_file(),
            "{}: not found; build it or give --millgate",
            options.millgate.display()
        );
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
        let (subjects, left_out) = chosen(scenario, &options.peers, options.baseline.is_some());
        let mut stage = Self {
            scenario,
            subjects: Vec::new(),
            versions: BTreeMap::new(),
            left_out,
            rounds: options.rounds,
            turn: Duration::from_secs(options.seconds.into()),
            load_cores: cores.load(),
            tokens,
            backend,
            dir,
        };
        for (name, subject) in subjects {
            stage.add(name, subject, &ports, options, cores)?;
        }
        for (name, why) in &stage.left_out {
            println!("{name}: {why}, left out");
        }
        Ok(stage)
    }

    fn add(
        &mut self,
        name: String,
        subject: Subject,
        ports: &[u16],
        options: &Options,
        cores: &Cores,
    ) -> anyhow::Result<()> {
        let program = subject.program.context("a subject without program")?;
        let build = options.baseline.as_ref().filter(|_| name == "baseline").unwrap_or(&options.millgate);
        let Some(path) = program.find(build) else {
            self.left_out.insert(name, "not found".to_owned());
            return Ok(());
        };
        self.versions.insert(name.clone(), program.version(&path));
        let dir = self.dir().join(&name);
        fs::create_dir(&dir)?;
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
            path,
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
                Tool::H2load(H2load::prepare(&program, scenario, &ready.dir, cores))
            }
            Generator::Handshakes => Tool::Handshakes(self.own(ready)),
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
            path: &self.path,
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

/// Starts the backend, and returns the ports of its endpoints.
fn backend(scenario: &Scenario, cores: &Cores) -> anyhow::Result<(Running, Vec<u16>)> {
    let mut child = pinned(&cores.load(), &std::env::current_exe()?)
        .args(["backend", "--endpoints", &scenario.endpoints.to_string()])
        .args(["--bytes", &scenario.response_bytes.to_string()])
        .args(["--threads", &scenario.workers().to_string()])
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

/// The subjects to run, and the selected ones that this scenario leaves out. Millgate's variants and subjects that
/// are not peers always run; other programs run if they are selected, or if none is.
fn chosen(
    scenario: &Scenario,
    peers: &[String],
    baseline: bool,
) -> (Vec<(String, Subject)>, BTreeMap<String, String>) {
    let asked = |name: &str, subject: &Subject| {
        let program = subject.program;
        peers.is_empty() || peers.iter().any(|peer| peer == name || Program::named(peer) == program)
    };
    let always = [Some(Program::Millgate), Some(Program::Verification)];
    let mut subjects: Vec<_> = scenario
        .subjects
        .iter()
        .filter(|(name, subject)| always.contains(&subject.program) || asked(name, subject))
        .map(|(name, subject)| (name.clone(), subject.clone()))
        .collect();
    if let Some(millgate) = scenario.subjects.get("millgate") {
        let again = peers.iter().any(|peer| peer == "millgate").then_some("millgate-again");
        let baseline = baseline.then_some("baseline");
        subjects.extend(again.into_iter().chain(baseline).map(|name| (name.to_owned(), millgate.clone())));
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
        let peers: Vec<String> = peers.iter().map(|&peer| peer.to_owned()).collect();
        let (subjects, left_out) = chosen(&Scenario::read(scenario).unwrap(), &peers, false);
        (subjects.into_iter().map(|(name, _)| name).collect(), left_out.into_keys().collect())
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
        let (subjects, left_out) = names("everything", &["nginx", "haproxy", "squid"]);
        assert_eq!(subjects, ["haproxy", "millgate", "millgate-plain"]);
        assert_eq!(left_out, ["nginx", "squid"]);
    }
}
