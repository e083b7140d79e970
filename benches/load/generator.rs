//! The generators of requests, and their results.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    client::{Answer, Target},
    h2load::H2load,
    program::pinned,
    wrk::Wrk,
};

/// One turn, as the generator saw it.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    /// The bytes of answers, with their heads, including answers that were not complete at the end.
    pub(crate) bytes: u64,
    pub(crate) duration_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// Connections that were refused, cut, or silent for two seconds.
    pub(crate) socket_errors: u64,
    /// Answers with a status of 400 or above.
    pub(crate) status_errors: u64,
}

impl Load {
    pub(crate) fn requests_per_s(&self) -> f64 {
        self.requests as f64 / (self.duration_us / 1e6)
    }

    /// An error if the result is not that of a working proxy.
    pub(crate) fn checked(self) -> anyhow::Result<Self> {
        ensure!(self.requests > 0 || self.bytes > 0, "no request was answered");
        ensure!(self.status_errors == 0, "{} of {} answers were errors", self.status_errors, self.requests);
        Ok(self)
    }

    /// An error if the answers are shorter than those of the backend. Then a proxy did less work than the others.
    pub(crate) fn whole(self, response_bytes: usize) -> anyhow::Result<Self> {
        let Self { requests, bytes, .. } = self;
        let least = requests * response_bytes as u64;
        ensure!(bytes >= least, "{bytes} bytes in {requests} answers, which have {response_bytes} each");
        Ok(self)
    }
}

/// The answers that a generator of this program received. A turn has at most some hundred thousand, so all latencies
/// are kept and quantiles are exact.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    latencies_us: Vec<f64>,
    bytes: usize,
    errors: u64,
    /// Answers without a measured latency.
    counted: usize,
}

impl Seen {
    pub(crate) fn record(&mut self, latency: Duration, answer: Answer) {
        self.latencies_us.push(latency.as_secs_f64() * 1e6);
        self.bytes += answer.bytes;
        self.errors += u64::from(answer.status >= 400);
    }

    pub(crate) fn count(&mut self, answers: usize) {
        self.counted += answers;
    }

    /// For latencies that were read elsewhere.
    pub(crate) fn from_latencies(latencies_us: Vec<f64>) -> Self {
        Self { latencies_us, ..Self::default() }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.latencies_us.extend(other.latencies_us);
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.counted += other.counted;
    }

    pub(crate) fn len(&self) -> usize {
        self.latencies_us.len() + self.counted
    }

    pub(crate) fn load(mut self, duration: Duration) -> Load {
        self.latencies_us.sort_by(f64::total_cmp);
        let quantile = |per_mille: usize| {
            // The smallest latency that so many are not above.
            let rank = (self.latencies_us.len() * per_mille).div_ceil(1000);
            self.latencies_us.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Load {
            requests: self.len() as u64,
            bytes: self.bytes as u64,
            duration_us: duration.as_secs_f64() * 1e6,
            p50_us: quantile(500),
            p99_us: quantile(990),
            p999_us: quantile(999),
            socket_errors: 0,
            status_errors: self.errors,
        }
    }
}

/// A generator of a closed loop, prepared for one subject.
#[derive(Debug)]
pub(crate) enum Tool {
    Wrk(Wrk),
    H2load(H2load),
    Handshakes(Own),
    Messages(Own),
}

impl Tool {
    pub(crate) fn run(&self, port: u16, duration: Duration) -> anyhow::Result<Load> {
        match self {
            Self::Wrk(wrk) => wrk.run(port, duration),
            Self::H2load(h2load) => h2load.run(port, duration),
            Self::Handshakes(own) => own.run("handshakes", port, duration, &[]),
            Self::Messages(own) => own.run("messages", port, duration, &[]),
        }?
        .checked()
    }
}

/// The clients of this program, as a separate process.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) path: String,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) connections: usize,
    pub(crate) cores: String,
}

impl Own {
    pub(crate) fn command(&self, part: &str, proxy_port: u16) -> anyhow::Result<std::process::Command> {
        let mut command = pinned(&self.cores, &std::env::current_exe()?);
        command
            .arg(part)
            .args(Target::args(proxy_port, &self.path, self.certificate.as_ref()))
            .args(["--connections", &self.connections.to_string()]);
        Ok(command)
    }

    pub(crate) fn run(
        &self,
        part: &str,
        proxy_port: u16,
        duration: Duration,
        more: &[&str],
    ) -> anyhow::Result<Load> {
        let seconds = duration.as_secs().to_string();
        said_by(self.command(part, proxy_port)?.args(["--seconds", &seconds]).args(more), Path::new(part))
    }
}

/// Runs a part of this program and reads the JSON that it prints.
pub(crate) fn said_by<T: serde::de::DeserializeOwned>(
    command: &mut std::process::Command,
    name: &Path,
) -> anyhow::Result<T> {
    let output = command.output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed: {complaint}", name.display());
    serde_json::from_slice(&output.stdout).with_context(|| format!("{} printed no result", name.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_latencies_that_were_seen() {
        let load =
            Seen::from_latencies((1..=1000).rev().map(f64::from).collect()).load(Duration::from_secs(1));
        assert_eq!((load.p50_us, load.p99_us, load.p999_us), (500.0, 990.0, 999.0));
        assert_eq!((load.requests, load.requests_per_s()), (1000, 1000.0));
        let of_one = Seen::from_latencies(vec![7.0]).load(Duration::from_secs(1));
        assert_eq!((of_one.requests, of_one.p999_us), (1, 7.0));
    }

    #[test]
    fn a_turn_without_answers_or_with_errors_is_no_result() {
        assert!(Load::default().checked().is_err());
        let mut seen = Seen::default();
        seen.record(Duration::ZERO, Answer { status: 503, bytes: 1 });
        assert!(seen.load(Duration::from_secs(1)).checked().is_err());
    }

    #[test]
    fn answers_without_the_backends_content_are_no_result() {
        let load = Load { requests: 10, bytes: 1200, ..Load::default() };
        assert!(load.whole(120).is_ok());
        assert!(load.whole(121).is_err());
    }
}
