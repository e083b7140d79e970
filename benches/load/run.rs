//! One scenario: everything is started once, then each proxy gets its turn, round by round.
//!
//! A round begins with another proxy each time, so that none always runs after the same one. Proxies that are not
//! in turn sit idle. What a proxy costs is read just before and just after its turn.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::{
    Options, cost,
    proxy::{Probe, Program, Proxy, Running, Start, free_port, on_path, pinned},
    scenario::{Places, Scenario, Subject, folder},
    tokens,
    wrk::{Load, Wrk},
};

/// Connections, pools and caches fill before anything is counted.
const WARM_UP: Duration = Duration::from_secs(1);

/// What one turn of one proxy gave.
#[derive(Debug, Serialize)]
pub(crate) struct Turn {
    pub(crate) round: u32,
    #[serde(flatten)]
    pub(crate) load: Load,
    /// Microseconds of CPU of all processes of the proxy.
    pub(crate) user_us: f64,
    pub(crate) system_us: f64,
    /// Microseconds that it was ready to run and something else had the core.
    pub(crate) waited_us: f64,
    /// Proportional set size just after the turn.
    pub(crate) memory_kib: u64,
}

impl Turn {
    pub(crate) fn cpu_us_per_request(&self) -> f64 {
        (self.user_us + self.system_us) / self.load.requests as f64
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Results {
    /// By subject.
    pub(crate) turns: BTreeMap<String, Vec<Turn>>,
    pub(crate) versions: BTreeMap<String, String>,
    /// Subjects that did not run, and why.
    pub(crate) left_out: BTreeMap<String, String>,
}

/// A subject that serves.
struct Contender {
    name: String,
    proxy: Proxy,
    wrk: Wrk,
}

pub(crate) fn run(scenario: &Scenario, options: &Options) -> anyhow::Result<Results> {
    let wrk = on_path("wrk").context("wrk: not found; Debian has it as package `wrk`")?;
    ensure!(
        options.millgate.is_file(),
        "{}: not found; build it or give --millgate",
        options.millgate.display()
    );
    let mut dir = tempfile::Builder::new().prefix("millgate-load-").tempdir()?;
    // Workers that give up root must reach their folders.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    if options.keep {
        dir.disable_cleanup(true);
        println!("configurations and logs: {}", dir.path().display());
    }
    let tokens = if scenario.tokens > 0 { tokens::make(scenario.tokens, dir.path())? } else { Vec::new() };
    let (_backend, endpoint_ports) = backend(scenario, options)?;

    let (subjects, mut left_out) = chosen(scenario, &options.peers, options.baseline.is_some());
    let mut versions = BTreeMap::new();
    let mut contenders = Vec::new();
    for (name, subject) in subjects {
        let program = subject.program.context("a subject without program")?;
        let build = options.baseline.as_ref().filter(|_| name == "baseline").unwrap_or(&options.millgate);
        let Some(path) = program.find(build) else {
            left_out.insert(name, "not found".to_owned());
            continue;
        };
        versions.insert(name.clone(), program.version(&path));
        let own = dir.path().join(&name);
        fs::create_dir(&own)?;
        let places = Places {
            port: free_port()?,
            admin_port: free_port()?,
            dir: &own,
            keys: dir.path(),
            endpoint_ports: &endpoint_ports,
            routes: subject.routes,
        };
        let wrk = Wrk::prepare(&wrk, scenario, &subject, &tokens, &own, options.load_core)?;
        let proxy = start(scenario, &subject, program, &path, &places, &tokens, options.proxy_core)
            .with_context(|| name.clone())?;
        contenders.push(Contender { name, proxy, wrk });
    }
    for (name, why) in &left_out {
        println!("{name}: {why}, left out");
    }
    Ok(Results { turns: take_turns(&contenders, options)?, versions, left_out })
}

fn take_turns(contenders: &[Contender], options: &Options) -> anyhow::Result<BTreeMap<String, Vec<Turn>>> {
    for Contender { name, proxy, wrk } in contenders {
        wrk.run(proxy.port, WARM_UP).with_context(|| format!("{name}, warming up"))?;
    }
    let mut turns: BTreeMap<String, Vec<Turn>> = BTreeMap::new();
    for round in 0..options.rounds {
        let first = round as usize % contenders.len();
        for Contender { name, proxy, wrk } in contenders.iter().cycle().skip(first).take(contenders.len()) {
            let before = cost::Cpu::of(proxy.pid())?;
            let load = wrk
                .run(proxy.port, Duration::from_secs(options.seconds.into()))
                .with_context(|| format!("{name}, round {round}"))?;
            let spent = cost::Cpu::of(proxy.pid())? - before;
            let (user_us, system_us) = spent.split_us();
            let memory_kib = cost::memory_kib(proxy.pid())?;
            let turn = Turn { round, load, user_us, system_us, waited_us: spent.waited_us(), memory_kib };
            turns.entry(name.clone()).or_default().push(turn);
        }
    }
    Ok(turns)
}

fn start(
    scenario: &Scenario,
    subject: &Subject,
    program: Program,
    path: &Path,
    places: &Places<'_>,
    tokens: &[String],
    core: u32,
) -> anyhow::Result<Proxy> {
    let config = match &subject.config {
        Some(name) => {
            let template = fs::read_to_string(folder("configs").join(name))?;
            let config = places.dir.join(name.file_name().context("a configuration is a file")?);
            fs::write(&config, places.fill(&template)?)?;
            config
        }
        None => places.dir.to_owned(),
    };
    let start = Start {
        program,
        path,
        config: &config,
        dir: places.dir,
        core,
        port: places.port,
        endpoint_ports: places.endpoint_ports,
    };
    let requests = scenario.requests(subject, tokens);
    let (path, token) = requests.first().context("a scenario without requests")?;
    Proxy::start(&start, &Probe { path, token: *token })
}

/// Starts the backend; returns the ports of its endpoints.
fn backend(scenario: &Scenario, options: &Options) -> anyhow::Result<(Running, Vec<u16>)> {
    let mut child = pinned(options.load_core, &std::env::current_exe()?)
        .args(["backend", "--endpoints", &scenario.endpoints.to_string()])
        .args(["--bytes", &scenario.response_bytes.to_string()])
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

/// Subjects to run, and asked-for ones that this scenario leaves out. Millgate's own variants always run;
/// programs beside it where they are asked for, or nothing is.
fn chosen(
    scenario: &Scenario,
    peers: &[String],
    baseline: bool,
) -> (Vec<(String, Subject)>, BTreeMap<String, String>) {
    let asked = |name: &str| peers.is_empty() || peers.iter().any(|peer| peer == name);
    let mut subjects: Vec<_> = scenario
        .subjects
        .iter()
        .filter(|(name, subject)| subject.program == Some(Program::Millgate) || asked(name))
        .map(|(name, subject)| (name.clone(), subject.clone()))
        .collect();
    if let Some(millgate) = scenario.subjects.get("millgate") {
        let again = peers.iter().any(|peer| peer == "millgate").then_some("millgate-again");
        let baseline = baseline.then_some("baseline");
        subjects.extend(again.into_iter().chain(baseline).map(|name| (name.to_owned(), millgate.clone())));
    }
    let unknown = peers.iter().filter(|peer| !scenario.subjects.contains_key(*peer));
    let mut left_out: BTreeMap<String, String> =
        unknown.map(|peer| (peer.clone(), "not in this scenario".to_owned())).collect();
    left_out.extend(
        scenario.left_out.iter().filter(|(name, _)| asked(name)).map(|(n, w)| (n.clone(), w.clone())),
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
    fn what_cannot_do_the_work_is_left_out_and_said() {
        let (subjects, left_out) = names("everything", &["nginx", "haproxy", "squid"]);
        assert_eq!(subjects, ["haproxy", "millgate", "millgate-plain"]);
        assert_eq!(left_out, ["nginx", "squid"]);
    }
}
