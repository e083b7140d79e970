//! The load generator wrk, a closed loop. Its script is made here and prints the numbers as JSON.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};

use crate::{
    generator::Load,
    program::pinned,
    scenario::{Scenario, Subject},
};

/// wrk, prepared for one subject.
#[derive(Debug)]
pub(crate) struct Wrk {
    program: PathBuf,
    script: PathBuf,
    connections: usize,
    threads: usize,
    tls: bool,
    cores: String,
}

impl Wrk {
    pub(crate) fn prepare(
        program: &Path,
        scenario: &Scenario,
        subject: &Subject,
        tokens: &[String],
        dir: &Path,
        cores: &str,
    ) -> anyhow::Result<Self> {
        let list = dir.join("requests.txt");
        let requests = scenario.requests(subject, tokens);
        let mut lines = String::new();
        for (path, token) in &requests {
            writeln!(lines, "{path} {}", token.unwrap_or(""))?;
        }
        fs::write(&list, lines)?;
        let script = dir.join("wrk.lua");
        fs::write(&script, lua(scenario, requests.len(), &list))?;
        Ok(Self {
            program: program.to_owned(),
            script,
            connections: scenario.connections,
            threads: scenario.workers(),
            tls: scenario.tls,
            cores: cores.to_owned(),
        })
    }

    pub(crate) fn run(&self, port: u16, duration: Duration) -> anyhow::Result<Load> {
        let scheme = if self.tls { "https" } else { "http" };
        let output = pinned(&self.cores, &self.program)
            .arg(format!("--threads={}", self.threads))
            .arg(format!("--connections={}", self.connections))
            .arg(format!("--duration={}s", duration.as_secs()))
            .arg("--script")
            .arg(&self.script)
            .arg(format!("{scheme}://127.0.0.1:{port}/"))
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "wrk failed: {said}{}", String::from_utf8_lossy(&output.stderr));
        let json = said.lines().find_map(|line| line.strip_prefix(MARK)).context("wrk printed no result")?;
        Ok(serde_json::from_str(json)?)
    }
}

const MARK: &str = "result: ";

/// A list of one becomes wrk's own request, and then no Lua runs for a request.
fn lua(scenario: &Scenario, requests: usize, list: &Path) -> String {
    let close = if scenario.new_connections { r#"wrk.headers["Connection"] = "close""# } else { "" };
    let upload = match scenario.upload_bytes {
        0 => String::new(),
        bytes => format!(r#"wrk.method, wrk.body = "POST", string.rep("x", {bytes})"#),
    };
    let request = if requests > 1 { IN_TURN } else { "" };
    let list = list.display();
    format!(
        r#"{close}
{upload}
local requests, turn = {{}}, 0
function init()
  for line in io.lines("{list}") do
    local path, token = line:match("(%S+)%s*(%S*)")
    wrk.path = path
    if token ~= "" then wrk.headers["Authorization"] = "Bearer " .. token end
    requests[#requests + 1] = wrk.format()
  end
end
{request}
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{MARK}{{"requests":%d,"bytes":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"p999_us":%d,"socket_errors":%d,"status_errors":%d}}\n',
    summary.requests, summary.bytes, summary.duration,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    errors.connect + errors.read + errors.write + errors.timeout, errors.status))
end
"#
    )
}

const IN_TURN: &str = "function request()
  turn = turn % #requests + 1
  return requests[turn]
end";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_needs_no_lua_and_several_take_turns() {
        let list = Path::new("/list");
        let mut scenario = Scenario::read("plain").unwrap();
        assert!(!lua(&scenario, 1, list).contains("function request("));
        assert!(lua(&scenario, 2, list).contains("function request("));
        assert!(!lua(&scenario, 1, list).contains("wrk.method"));
        scenario.new_connections = true;
        scenario.upload_bytes = 9;
        let lua = lua(&scenario, 1, list);
        assert!(lua.contains(r#"["Connection"] = "close""#), "{lua}");
        assert!(lua.contains(r#"wrk.method, wrk.body = "POST", string.rep("x", 9)"#), "{lua}");
    }
}
