//! The products service on its own.

use clap::Parser;
use sample_services::{
    cli::{self, ServiceArgs},
    service::Service,
};

/// The products service: JSON over HTTP, data in SQLite, registered in Consul
#[derive(Debug, Parser)]
#[command(name = "products-service", version)]
struct Arguments {
    #[command(flatten)]
    service: ServiceArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Arguments::parse();
    cli::run(Service::Products, args.service).await
}
