//! Registry, services and gateway in one process. `ready` on a line of its own means that every part answers.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use millgate::cli::logging;
use sample_services::{
    cli::{listen_addr, stop_signal},
    demo::{Demo, DemoOptions, RegistryChoice},
};
use tokio::sync::oneshot;

/// Registry, users, products (twice), orders and the gateway, in one process
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
struct Arguments {
    /// The gateway's cleartext listener
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR", value_parser = listen_addr)]
    http: SocketAddr,

    /// The gateway's TLS listener
    #[arg(long, default_value = "127.0.0.1:8443", value_name = "ADDR", value_parser = listen_addr)]
    https: SocketAddr,

    /// The gateway's admin listener
    #[arg(long, default_value = "127.0.0.1:9900", value_name = "ADDR", value_parser = listen_addr)]
    admin: SocketAddr,

    /// Address of the embedded registry, or the URL of a running Consul
    #[arg(long, default_value = "127.0.0.1:8500", value_name = "ADDR|URL")]
    registry: RegistryChoice,

    /// Folder for databases, keys, certificates and routes.yaml [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { http, https, admin, registry, data } = Arguments::parse();
    // As the gateway does: no colours in a file, and no part waits for standard error.
    let _said = logging::start("warn");
    let (ask, asked) = oneshot::channel();
    // As the gateway does: the first signal stops it in order, also while it starts, and a second one at once.
    let stopped = async {
        stop_signal().await?;
        // Without a receiver the demo is at its end already.
        let _ = ask.send(());
        stop_signal().await
    };
    let ended = tokio::select! {
        // Signals are listened for before anything is started.
        biased;
        signals = stopped => match signals {
            Ok(()) => return ExitCode::FAILURE,
            Err(error) => Err(error).context("signals cannot be handled"),
        },
        ended = run(DemoOptions { http, https, admin, registry, data }, asked) => ended,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => logging::fail(format_args!("demo: {error:#}")),
    }
}

async fn run(options: DemoOptions, mut stop: oneshot::Receiver<()>) -> anyhow::Result<()> {
    let asked = async {
        let _ = (&mut stop).await;
    };
    let Some(demo) = Demo::start_until(options, asked).await? else { return Ok(()) };
    print(&demo);
    let _ = stop.await;
    println!("stopping: finishing what is in flight, then deregistering");
    demo.shutdown().await;
    Ok(())
}

fn print(demo: &Demo) {
    let Demo { http, https, admin, registry_url, customer_token, staff_token, product_id, .. } = demo;
    let (ca, routes) = (demo.ca_file.display(), demo.routes_file.display());
    let order = format!(r#"{{"items": [{{"product_id": "{product_id}", "quantity": 1}}]}}"#);
    println!("gateway   http://{http}   https://localhost:{} (--cacert {ca})", https.port());
    println!("admin     http://{admin}/metrics");
    println!("registry  {registry_url}");
    println!("routes    {routes}");
    for note in &demo.notes {
        println!("          {note}");
    }
    println!();
    println!("customer  {customer_token}");
    println!("staff     {staff_token}");
    println!();
    println!("# the three most expensive products");
    println!("curl -H 'Authorization: Bearer {customer_token}' 'http://{http}/products?sort=-price&limit=3'");
    println!();
    println!("# an order, over TLS");
    println!(
        "curl --cacert {ca} -H 'Authorization: Bearer {customer_token}' -H 'Content-Type: application/json' \
         -d '{order}' https://localhost:{}/orders",
        https.port()
    );
    println!();
    println!("# without a token: 401 and a problem document");
    println!("curl -i http://{http}/orders");
    println!();
    println!("# load: a thousand requests, at most 50 at once, and how many had which status");
    println!(
        "curl -sZ -o /dev/null -w '%{{http_code}}\\n' -H 'Authorization: Bearer {customer_token}' \
         'http://{http}/products/{product_id}#[1-1000]' | sort | uniq -c"
    );
    println!();
    println!("ready");
}
