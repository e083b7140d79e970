//! Requests to a service that is not in the registry: the effect of changes on services that do not change.
//!
//! The service and its client are a separate process ([`crate::cores`]), because the machine has few cores, and their wait
//! for one is not the gateway's.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::{backend, gateway::Asking};

/// The other process.
pub(crate) struct Fixed {
    pub(crate) port: u16,
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Fixed {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        let mut command = Command::new(program);
        let mut child = command.arg(NAME).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let questions = child.stdin.take().context("its input")?;
        let answers = BufReader::new(child.stdout.take().context("its output")?);
        let mut fixed = Self { port: 0, child, questions, answers };
        fixed.port = fixed.line()?.trim().parse()?;
        Ok(fixed)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends one request every millisecond for this long, and returns how long each took. Blocks.
    pub(crate) fn ask(&mut self, gateway: SocketAddr, time: Duration) -> anyhow::Result<Vec<Duration>> {
        writeln!(self.questions, "{gateway} {}", time.as_millis())?;
        let line = self.line()?;
        line.split_whitespace().map(|micros| Ok(Duration::from_micros(micros.parse()?))).collect()
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the process that asks the fixed service ended");
        }
        Ok(line)
    }
}

impl Drop for Fixed {
    fn drop(&mut self) {
        // This fails only if the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The work of the other process: it answers on a port that it prints, and sends requests as each line of its input demands.
pub(crate) async fn serve() -> anyhow::Result<()> {
    println!("{}", backend::start().await?);
    while let Some(line) = tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().next()).await? {
        let line = line?;
        let (gateway, millis) = line.split_once(' ').context("ADDRESS MILLISECONDS")?;
        let mut asking = Asking::connect(gateway.parse()?).await?;
        let (end, mut times) = (Instant::now() + Duration::from_millis(millis.parse()?), Vec::new());
        while Instant::now() < end {
            let began = Instant::now();
            let (status, _) = asking.get("/fixed").await?;
            if status != 200 {
                bail!("the fixed service answered {status}");
            }
            times.push(began.elapsed().as_micros().to_string());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        println!("{}", times.join(" "));
    }
    Ok(())
}

pub(crate) const NAME: &str = "fixed";
