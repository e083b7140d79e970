//! HTTP/2: h2load, a closed loop with several streams on each connection. It prints no quantiles; they come from its
//! log of requests.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};

use crate::{
    generator::{Load, Seen},
    program::pinned,
    scenario::Scenario,
};

/// h2load, prepared for one subject.
#[derive(Debug)]
pub(crate) struct H2load {
    program: PathBuf,
    log: PathBuf,
    connections: usize,
    streams: usize,
    path: String,
    /// The message of each call of gRPC, in a file. `None`: requests over TLS.
    message: Option<PathBuf>,
    cores: String,
}

impl H2load {
    pub(crate) fn prepare(
        program: &Path,
        scenario: &Scenario,
        dir: &Path,
        cores: &str,
    ) -> anyhow::Result<Self> {
        let message = scenario.grpc.then(|| dir.join("message"));
        if let Some(file) = &message {
            fs::write(file, [&[0, 0, 0, 0, 16][..], b"a name of a user"].concat())?;
        }
        Ok(Self {
            message,
            program: program.to_owned(),
            log: dir.join("h2load.log"),
            connections: scenario.connections,
            streams: scenario.streams,
            path: scenario.path.clone(),
            cores: cores.to_owned(),
        })
    }

    pub(crate) fn run(&self, port: u16, duration: Duration) -> anyhow::Result<Load> {
        // h2load appends to its log.
        let _ = fs::remove_file(&self.log);
        let mut command = pinned(&self.cores, &self.program);
        let mut scheme = "https";
        if let Some(message) = &self.message {
            scheme = "http";
            command.arg(format!("--data={}", message.display()));
            command.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
        }
        let output = command
            .args(["--threads=1", "--npn-list=h2"])
            .arg(format!("--clients={}", self.connections))
            .arg(format!("--max-concurrent-streams={}", self.streams))
            .arg(format!("--duration={}", duration.as_secs()))
            .arg(format!("--log-file={}", self.log.display()))
            .arg(format!("{scheme}://127.0.0.1:{port}{}", self.path))
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "h2load failed: {said}{}", String::from_utf8_lossy(&output.stderr));
        ensure!(said.contains("Application protocol: h2"), "no HTTP/2 was spoken: {said}");
        let summary =
            Summary::read(&said).with_context(|| format!("h2load's output is not as expected: {said}"))?;
        let latencies = latencies_us(&fs::read_to_string(&self.log)?);
        Ok(Load {
            requests: summary.succeeded,
            bytes: summary.bytes,
            socket_errors: summary.errored,
            status_errors: summary.failed - summary.errored,
            ..Seen::from_latencies(latencies).load(duration)
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Summary {
    succeeded: u64,
    /// Errors of all kinds. Of these, `errored` have no answer.
    failed: u64,
    errored: u64,
    bytes: u64,
}

impl Summary {
    fn read(said: &str) -> Option<Self> {
        let after = |mark: &str| said.lines().find_map(|line| line.strip_prefix(mark));
        // requests: 9 total, 9 started, 9 done, 9 succeeded, 0 failed, 0 errored, 0 timeout
        let requests = after("requests: ")?;
        let count = |name: &str| {
            let words = requests.split(", ").find_map(|part| part.strip_suffix(name))?;
            words.trim().parse().ok()
        };
        // traffic: 1.23MB (1234567) total, …
        let bytes = after("traffic: ")?.split_once('(')?.1.split_once(')')?.0.parse().ok()?;
        Some(Self {
            succeeded: count("succeeded")?,
            failed: count("failed")?,
            errored: count("errored")?,
            bytes,
        })
    }
}

/// The log has one line for each request: when it began, status, microseconds.
fn latencies_us(log: &str) -> Vec<f64> {
    log.lines().filter_map(|line| line.rsplit('\t').next()?.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_read_from_what_h2load_prints() {
        let said = "\
finished in 3.00s, 16384.00 req/s, 2.50MB/s
requests: 49152 total, 49408 started, 49152 done, 49150 succeeded, 2 failed, 1 errored, 0 timeout
status codes: 49150 2xx, 0 3xx, 0 4xx, 1 5xx
traffic: 7.50MB (7864320) total, 0.94MB (983040) headers (space savings 90.00%), 5.63MB (5898240) data
";
        assert_eq!(
            Summary::read(said),
            Some(Summary { succeeded: 49150, failed: 2, errored: 1, bytes: 7_864_320 })
        );
        assert_eq!(Summary::read("requests: many"), None);
        assert_eq!(latencies_us("1700000000\t200\t512\n1700000001\t200\t7\n"), [512.0, 7.0]);
    }
}
