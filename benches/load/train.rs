//! `load train`: sends load to a Millgate, one kind of request after the other, so that a build that counts its branches
//! writes a profile of real work. `deploy/build-dist` calls it.
//!
//! Nothing is measured here. Each kind has a separate Millgate, which is stopped as an operator stops it, because the
//! profile is written when the process ends. This one thread makes all requests.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpStream,
    task::{JoinSet, LocalSet},
};
use tokio_rustls::TlsConnector;

use crate::{
    Options, certificate,
    client::{Client, Target},
    cores::Cores,
    scenario::Scenario,
    stage::{Ready, Stage},
};

/// What `load train` is given.
#[derive(Debug, Args)]
pub(crate) struct Train {
    /// The program to train
    #[arg(long)]
    millgate: std::path::PathBuf,
    /// Seconds of load for each kind of request
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
}

/// The scenarios whose configuration and sizes are used, and how their requests are made. Code that is not trained is
/// treated as code that hardly ever runs, so there is one scenario for each kind of request that a gateway commonly serves.
const KINDS: [(&str, Kind); 8] = [
    ("plain", Kind::Kept),
    ("everything", Kind::Kept),
    ("connect", Kind::Once),
    ("tls-keepalive", Kind::Kept),
    ("tls-handshake", Kind::Once),
    ("h2", Kind::Http2),
    ("upload-64k", Kind::Kept),
    ("large-1m", Kind::Kept),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// HTTP/1.1 on connections that both sides keep.
    Kept,
    /// HTTP/1.1 on a connection for each request.
    Once,
    /// HTTP/2 over TLS, with several concurrent requests on each connection.
    Http2,
}

impl Train {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let allowed = std::fs::read_to_string("/proc/self/status")?;
        let (first, last) = ends(&allowed).context("the system does not say which cores there are")?;
        for (name, kind) in KINDS {
            let scenario = Scenario::read(name)?;
            let options = Options::of_one(&self.millgate, first, last);
            let cores = Cores::share_out(1, last + 1, first, last);
            let stage = Stage::set(&scenario, &options, &cores)?;
            let ready = stage.subjects.iter().find(|ready| ready.name == "millgate");
            let ready = ready.context("Millgate is not a subject")?;
            let requests = self.train(&stage, ready, kind).with_context(|| format!("scenario {name}"))?;
            println!("{name}: {requests} requests");
        }
        Ok(())
    }

    /// Returns the number of requests that were answered, all of them with 200.
    fn train(&self, stage: &Stage<'_>, ready: &Ready, kind: Kind) -> anyhow::Result<u64> {
        let proxy = ready.start()?;
        let certificate = stage.scenario.tls.then(|| stage.dir().join(certificate::CERTIFICATE));
        let target = Target::new(proxy.port, &ready.probe.path, certificate);
        let requests: Vec<Vec<u8>> = stage
            .requests(ready)
            .iter()
            .map(|(path, token)| request(path, *token, stage.scenario.upload_bytes))
            .collect();
        let mut next = requests.iter().cycle();
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answered = LocalSet::new().block_on(&runtime, async {
            let mut users = JoinSet::new();
            for _ in 0..stage.scenario.connections {
                let client = target.client()?;
                // Each client has its share of the users' tokens, and sends them in turn.
                let own: Vec<Vec<u8>> = next.by_ref().take(REQUESTS_PER_CLIENT).cloned().collect();
                match kind {
                    Kind::Kept => users.spawn_local(async move { kept(&client, &own, end).await }),
                    Kind::Once => users.spawn_local(async move { once(&client, end).await }),
                    Kind::Http2 => {
                        let target = target.clone();
                        let streams = stage.scenario.streams;
                        users.spawn_local(async move { http2(&target, streams, end).await })
                    }
                };
            }
            let mut answered = 0;
            while let Some(user) = users.join_next().await {
                answered += user??;
            }
            anyhow::Ok(answered)
        })?;
        let status = proxy.stop(EXIT_TIMEOUT)?;
        ensure!(status.success(), "Millgate ended with {status} and may not have written its profile");
        Ok(answered)
    }
}

/// The first and the last core that this process may use. In a container these are seldom 0 and 1.
fn ends(process_status: &str) -> Option<(u32, u32)> {
    let list = process_status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cores = list.trim().split(['-', ',']).map(str::parse);
    let first = cores.next()?.ok()?;
    Some((first, cores.next_back().unwrap_or(Ok(first)).ok()?))
}

/// 64 clients use all of 1,000 tokens.
const REQUESTS_PER_CLIENT: usize = 16;
/// A build that counts needs some time to drain and to write its counts.
const EXIT_TIMEOUT: Duration = Duration::from_mins(1);

fn request(path: &str, token: Option<&str>, upload_bytes: usize) -> Vec<u8> {
    let token = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    let (method, length) = match upload_bytes {
        0 => ("GET", String::new()),
        bytes => ("POST", format!("Content-Length: {bytes}\r\n")),
    };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{token}{length}\r\n");
    [head.into_bytes(), vec![b'x'; upload_bytes]].concat()
}

async fn kept(client: &Client, requests: &[Vec<u8>], end: Instant) -> anyhow::Result<u64> {
    let mut connection = client.connect().await?;
    let mut answered = 0;
    for request in requests.iter().cycle() {
        if Instant::now() >= end {
            break;
        }
        let answer = connection.exchange(request).await?;
        ensure!(answer.status == 200, "an answer with status {}", answer.status);
        answered += 1;
    }
    Ok(answered)
}

async fn once(client: &Client, end: Instant) -> anyhow::Result<u64> {
    let mut answered = 0;
    while Instant::now() < end {
        let answer = client.ask_once().await?;
        ensure!(answer.status == 200, "an answer with status {}", answer.status);
        answered += 1;
    }
    Ok(answered)
}

async fn http2(target: &Target, streams: usize, end: Instant) -> anyhow::Result<u64> {
    let stream = TcpStream::connect(target.address()).await?;
    stream.set_nodelay(true)?;
    let mut tls = target.tls()?.context("HTTP/2 needs TLS here")?;
    Arc::make_mut(&mut tls).alpn_protocols = vec![b"h2".to_vec()];
    let stream =
        TlsConnector::from(tls).connect(certificate::name(), stream).await.context("TLS handshake")?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::task::spawn_local(connection);
    let uri = target.uri();
    let mut asking = JoinSet::new();
    for _ in 0..streams {
        let (mut sender, uri) = (sender.clone(), uri.clone());
        asking.spawn_local(async move {
            let mut answered = 0;
            while Instant::now() < end {
                sender.ready().await?;
                let request = Request::get(uri.as_str()).body(Empty::<Bytes>::new())?;
                let response = sender.send_request(request).await?;
                ensure!(response.status() == 200, "an answer with status {}", response.status());
                response.into_body().collect().await?;
                answered += 1;
            }
            anyhow::Ok(answered)
        });
    }
    let mut answered = 0;
    while let Some(stream) = asking.join_next().await {
        answered += stream??;
    }
    // Without its last sender, the connection sends its goodbye and ends.
    drop(sender);
    connection.await??;
    Ok(answered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Generator;

    #[test]
    fn a_core_that_the_process_may_not_use_is_not_chosen() {
        let ends = |list: &str| ends(&format!("Name:\tload\nCpus_allowed_list:\t{list}\n"));
        assert_eq!(ends("0-1"), Some((0, 1)));
        assert_eq!(ends("3"), Some((3, 3)));
        assert_eq!(ends("2,4-7,9"), Some((2, 9)));
        assert_eq!(ends(""), None);
    }

    #[test]
    fn every_kind_is_made_as_its_scenario_says() {
        for (name, kind) in KINDS {
            let scenario = Scenario::read(name).unwrap();
            let own_connections = scenario.new_connections || scenario.generator == Generator::Handshakes;
            assert_eq!(kind == Kind::Once, own_connections, "{name}");
            assert_eq!(kind == Kind::Http2, scenario.generator == Generator::H2load, "{name}");
            assert!(scenario.subjects.contains_key("millgate"), "{name}");
        }
    }
}
