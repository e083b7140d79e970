//! The orders service on its own.

use clap::Parser;
use sample_services::{
    cli::{self, ServiceArgs},
    service::Service,
};

/// The orders service: JSON over HTTP, data in SQLite, registered in Consul
#[derive(Debug, Parser)]
#[command(name = "orders-service", version)]
struct Arguments {
    #[command(flatten)]
    service: ServiceArgs,
    /// URL of the products service, instead of its instances in the registry
    #[arg(long, env = "PRODUCTS_URL", value_name = "URL")]
    products_url: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Arguments::parse();
    cli::run(Service::Orders { products_url: args.products_url }, args.service).await
}
