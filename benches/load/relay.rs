//! The floor: a relay on the same runtime that copies bytes and examines none of them.
//!
//! It has one upstream connection for each client connection, to the endpoints in turn. Its cost is that of
//! the kernel and of the event loop; what a proxy costs beyond it is the proxy's own.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr},
};

use clap::Args;
use tokio::{
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

#[derive(Debug, Args)]
pub(crate) struct Relay {
    #[arg(long)]
    port: u16,
    #[arg(required = true)]
    endpoints: Vec<SocketAddr>,
}

impl Relay {
    pub(crate) fn serve(&self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await?;
            println!("{}", listener.local_addr()?);
            std::io::stdout().flush()?;
            for &endpoint in self.endpoints.iter().cycle() {
                let (client, _) = listener.accept().await?;
                tokio::task::spawn_local(copy(client, endpoint));
            }
            Ok(())
        })
    }
}

async fn copy(mut client: TcpStream, endpoint: SocketAddr) -> std::io::Result<()> {
    let mut upstream = TcpStream::connect(endpoint).await?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut upstream).await?;
    Ok(())
}
