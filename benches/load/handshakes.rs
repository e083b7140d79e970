//! A closed loop of full TLS handshakes: each request has its own connection, and no session is resumed.

use std::time::{Duration, Instant};

use clap::Args;
use tokio::task::JoinSet;

use crate::{
    client::{Client, Target},
    generator::Seen,
};

#[derive(Debug, Args)]
pub(crate) struct Handshakes {
    #[command(flatten)]
    target: Target,
    /// Clients at a time
    #[arg(long)]
    connections: usize,
    #[arg(long)]
    seconds: u64,
}

impl Handshakes {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let client = std::rc::Rc::new(self.target.client()?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let began = Instant::now();
        let end = began + Duration::from_secs(self.seconds);
        let seen = tokio::task::LocalSet::new().block_on(&runtime, async {
            let mut users = JoinSet::new();
            for _ in 0..self.connections {
                let client = std::rc::Rc::clone(&client);
                users.spawn_local(async move { ask_until(&client, end).await });
            }
            let mut seen = Seen::default();
            while let Some(user) = users.join_next().await {
                seen.add(user??);
            }
            anyhow::Ok(seen)
        })?;
        println!("{}", serde_json::to_string(&seen.load(began.elapsed()))?);
        Ok(())
    }
}

async fn ask_until(client: &Client, end: Instant) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    loop {
        let began = Instant::now();
        if began >= end {
            return Ok(seen);
        }
        let answer = client.ask_once().await?;
        seen.record(began.elapsed(), answer);
    }
}
