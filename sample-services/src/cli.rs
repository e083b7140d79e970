//! Arguments, logging and signals of the three binaries.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Args;
use millgate_registry::ClientConfig;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{
    database::DatabaseLocation,
    log_format::LogFormat,
    service::{RunningService, Service, ServiceOptions},
    users::{TokenKey, TokenSigner},
};

/// Arguments of every service.
#[derive(Debug, Args)]
pub struct ServiceArgs {
    /// Address to listen on; port 0 takes any free one
    #[arg(long, env = "SERVICE_LISTEN", default_value = "127.0.0.1:0", value_name = "ADDR",
          value_parser = listen_addr)]
    listen: SocketAddr,

    /// Host that others reach this instance at [default: the address it listens on]
    #[arg(long, env = "SERVICE_ADVERTISE", value_name = "HOST")]
    advertise: Option<String>,

    /// SQLite file, or `:memory:` [default: `./data/NAME.db`]
    #[arg(long, env = "SERVICE_DATABASE", value_name = "FILE")]
    database: Option<DatabaseLocation>,

    #[command(flatten)]
    registry: RegistryArgs,
}

/// Arguments about the registry.
#[derive(Debug, Args)]
pub struct RegistryArgs {
    /// Consul's HTTP address, or `off` to run unregistered
    #[arg(long, env = "CONSUL_HTTP_ADDR", default_value = "http://127.0.0.1:8500", value_name = "URL")]
    registry: String,

    /// ACL token for the registry
    #[arg(long, env = "CONSUL_HTTP_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    registry_token: Option<String>,
}

/// Arguments of the users service alone.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// File with the HS256 key that signs tokens; without it, every login fails
    #[arg(long = "token-key-file", env = "TOKEN_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// `iss` of the tokens
    #[arg(
        long = "token-issuer",
        env = "TOKEN_ISSUER",
        default_value = "https://issuer.example",
        value_name = "URL"
    )]
    issuer: String,

    /// `aud` of the tokens
    #[arg(long = "token-audience", env = "TOKEN_AUDIENCE", default_value = "api", value_name = "NAME")]
    audience: String,

    /// Lifetime of a token
    #[arg(long = "token-ttl", env = "TOKEN_TTL", default_value = "1h", value_name = "TIME",
          value_parser = humantime::parse_duration)]
    ttl: Duration,
}

impl TokenArgs {
    /// The signer of tokens; `None` without a key file.
    pub fn signer(self) -> anyhow::Result<Option<TokenSigner>> {
        let Some(path) = self.key_file else { return Ok(None) };
        let secret = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let key = TokenKey::from_secret(&secret).with_context(|| format!("{} is no key", path.display()))?;
        Ok(Some(TokenSigner { key, issuer: self.issuer, audience: self.audience, ttl: self.ttl }))
    }
}

/// Reads the address of a listener, as clap's `value_parser`.
///
/// # Errors
/// The text is not `ADDR:PORT`; the message has an example with the intended port.
pub fn listen_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let port = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).unwrap_or(8080);
        format!(
            "must be ADDR:PORT with an IP address, such as 127.0.0.1:{port}; an IPv6 address stands in [ ]"
        )
    })
}

/// Runs `service` until SIGTERM or SIGINT.
pub async fn run(service: Service, args: ServiceArgs) -> anyhow::Result<()> {
    let name = service.name();
    log_to_stdout(name);
    let registry = match args.registry.registry {
        off if off == "off" => None,
        url => Some(ClientConfig { token: args.registry.registry_token, ..ClientConfig::new(url) }),
    };
    let options = ServiceOptions {
        service,
        listen: args.listen,
        advertise: args.advertise,
        database: args.database.unwrap_or_else(|| DatabaseLocation::File(format!("data/{name}.db").into())),
        registry,
    };
    let running = RunningService::start(options).await?;
    stop_signal().await?;
    running.shutdown().await;
    Ok(())
}

/// Returns at the first SIGTERM or SIGINT.
pub async fn stop_signal() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Writes JSON lines to standard output; `RUST_LOG` sets the level.
fn log_to_stdout(service: &'static str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().event_format(LogFormat::new(service)).with_env_filter(filter).init();
}

#[cfg(test)]
mod tests {
    use super::listen_addr;

    #[test]
    fn an_address_that_is_none_is_answered_with_one_that_has_the_port_that_is_meant() {
        assert_eq!(listen_addr("127.0.0.1:0"), Ok(([127, 0, 0, 1], 0).into()));
        for (text, example) in [
            ("48080", "127.0.0.1:48080"),
            (":9000", "127.0.0.1:9000"),
            ("localhost:9000", "127.0.0.1:9000"),
            ("127.0.0.1", "127.0.0.1:8080"),
            ("::1:70000", "127.0.0.1:8080"),
            ("", "127.0.0.1:8080"),
        ] {
            let error = listen_addr(text).unwrap_err();
            assert!(error.contains(example), "{text}: {error}");
        }
    }
}
