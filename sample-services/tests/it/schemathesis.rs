//! Each service against its own OpenAPI document, by a generator of requests that knows nothing else
//! (schemathesis). `MILLGATE_SCHEMATHESIS` is the folder that `.ci/schemathesis` prints.

use std::{
    ffi::OsString,
    net::SocketAddr,
    process::{Command, Stdio},
};

use sample_services::service::{RunningService, Service};

use crate::support::{Products, options, product, signer};

/// `None`: it is nowhere, and the test is skipped.
fn installed() -> Option<OsString> {
    let found = std::env::var_os("MILLGATE_SCHEMATHESIS").filter(|path| !path.is_empty());
    if found.is_none() {
        assert!(
            std::env::var_os("MILLGATE_REQUIRE_SERVERS").is_none_or(|value| value != "1"),
            "no MILLGATE_SCHEMATHESIS, and MILLGATE_REQUIRE_SERVERS=1 \
             (MILLGATE_SCHEMATHESIS=\"$(.ci/schemathesis)\" installs it)"
        );
        println!("skipped: no schemathesis in MILLGATE_SCHEMATHESIS");
    }
    found
}

/// As staff, so that most of what is sent gets past the question who may do it.
async fn find_nothing(folder: OsString, service: SocketAddr) {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemathesis.toml");
    let mut command = Command::new("python3");
    command
        .args(["-m", "schemathesis.cli", "--config-file", config, "run"])
        .arg(format!("http://{service}/openapi.json"))
        .args(["--header", "X-User-Id: staff-1", "--header", "X-User-Role: staff"])
        .env("PYTHONPATH", folder)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    // It keeps what it found in its working folder.
    let work = tempfile::tempdir().unwrap();
    command.current_dir(work.path());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn schemathesis_finds_nothing_in_users() {
    let Some(folder) = installed() else { return };
    let users = RunningService::start(options(Service::Users { signer: Some(signer()) })).await.unwrap();
    find_nothing(folder, users.addr()).await;
}

#[tokio::test]
async fn schemathesis_finds_nothing_in_products() {
    let Some(folder) = installed() else { return };
    let products = RunningService::start(options(Service::Products)).await.unwrap();
    find_nothing(folder, products.addr()).await;
}

#[tokio::test]
async fn schemathesis_finds_nothing_in_orders() {
    let Some(folder) = installed() else { return };
    let products = Products::start().await;
    products.add(product("Sencha", 1250, 1_000_000)).await;
    let orders = Service::Orders { products_url: Some(products.url()) };
    let orders = RunningService::start(options(orders)).await.unwrap();
    find_nothing(folder, orders.addr()).await;
}
