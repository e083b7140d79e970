//! The users service on its own.

use clap::Parser;
use sample_services::{
    cli::{self, ServiceArgs, TokenArgs},
    service::Service,
};

/// The users service: JSON over HTTP, data in SQLite, registered in Consul
#[derive(Debug, Parser)]
#[command(name = "users-service", version)]
struct Arguments {
    #[command(flatten)]
    service: ServiceArgs,
    #[command(flatten)]
    token: TokenArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Arguments::parse();
    cli::run(Service::Users { signer: args.token.signer()? }, args.service).await
}
