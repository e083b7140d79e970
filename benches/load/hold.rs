//! Clients that stay: idle after one request, or in the middle of an answer that they do not read.

use std::{io::Write, rc::Rc};

use anyhow::{Context, ensure};
use clap::Args;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::client::{Client, Connection, Target};

#[derive(Debug, Args)]
pub(crate) struct Hold {
    #[command(flatten)]
    target: Target,
    #[arg(long)]
    connections: usize,
    /// Do not read the answer
    #[arg(long)]
    stall: bool,
}

/// The largest number of clients that connect at the same time, which is less than any proxy's backlog.
const CONNECTING_MAX: usize = 64;

impl Hold {
    /// Prints one line when all clients have reached their state, and then waits until it is ended.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let client = Rc::new(self.target.client()?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let connecting = Rc::new(Semaphore::new(CONNECTING_MAX));
            let mut clients = JoinSet::new();
            for _ in 0..self.connections {
                let (client, connecting, stall) = (Rc::clone(&client), Rc::clone(&connecting), self.stall);
                clients.spawn_local(async move {
                    let _turn = connecting.acquire().await?;
                    settle(&client, stall).await
                });
            }
            let mut held = Vec::with_capacity(self.connections);
            while let Some(connection) = clients.join_next().await {
                held.push(connection?.with_context(|| format!("client {}", held.len() + 1))?);
            }
            println!("{}", held.len());
            std::io::stdout().flush()?;
            std::future::pending().await
        })
    }
}

async fn settle(client: &Client, stall: bool) -> anyhow::Result<Connection> {
    let mut connection = client.connect().await?;
    if stall {
        client.ask_and_stall(&mut connection).await?;
    } else {
        let answer = client.ask(&mut connection).await?;
        ensure!(answer.status == 200, "answered with {}", answer.status);
    }
    Ok(connection)
}
