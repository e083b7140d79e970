//! `millgate registry`: the embedded registry alone, for development.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use millgate_registry::{Compat, EmbeddedRegistry, MasterToken, RegistryOptions};

use super::{LOG_LEVEL, fail, logging, say, until_terminated};

/// The help text: how to use the registry once it runs.
const USE: &str = "\
Services and gateways use it when CONSUL_HTTP_ADDR is the address that it prints; without that
variable they look at 127.0.0.1:8500. SIGTERM or SIGINT ends it, exit 0; what was registered is
forgotten, unless --data names a directory: then every change is on disk before it is acknowledged.";

#[derive(Debug, Args)]
#[command(after_help = USE)]
pub struct Registry {
    /// Address to listen on; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:8500", value_name = "IP:PORT", value_parser = address)]
    listen: SocketAddr,
    /// Directory that keeps what is registered and stored; made if absent, used by one process at a time
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// File with a token that clients have to send; without it they read nothing and change nothing
    ///
    /// The token may stand in the variable MILLGATE_REGISTRY_TOKEN instead.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Name in `Host` that the registry answers to, beside its address and localhost; may be given several times
    ///
    /// On another address than loopback it answers to any name, unless names are given.
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// Which Consul to behave like, where versions differ
    #[arg(long, value_enum, default_value_t = Version::Current, value_name = "VERSION")]
    compat: Version,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Version {
    Current,
    #[value(name = "1.8")]
    V1_8,
}

impl Registry {
    pub fn execute(&self) -> ExitCode {
        let _said = logging::start(LOG_LEVEL);
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let code = runtime.block_on(self.serve());
                runtime.shutdown_background();
                code
            }
            Err(error) => fail(error),
        }
    }

    async fn serve(&self) -> ExitCode {
        let compat = match self.compat {
            Version::Current => Compat::Current,
            Version::V1_8 => Compat::V1_8,
        };
        let token = match self.token() {
            Ok(token) => token,
            Err(error) => return fail(error),
        };
        let acls = if token.is_some() { "a token is needed" } else { "no ACLs" };
        let open = token.is_none();
        let data = self.data.clone();
        let hosts = self.hosts.clone();
        let options =
            RegistryOptions { listen: self.listen, compat, data, token, hosts, ..RegistryOptions::default() };
        let registry = match EmbeddedRegistry::start(options).await {
            Ok(registry) => registry,
            Err(error) => return fail(error),
        };
        let kept = match &self.data {
            Some(directory) => format!("data in {}", directory.display()),
            None => "in memory".to_owned(),
        };
        say(format_args!(
            "registry  {} (embedded: for development; {kept}, no replication, {acls})",
            registry.url()
        ));
        if open && !self.listen.ip().is_loopback() {
            tracing::warn!(
                "everybody who reaches this address can register and remove services; --token-file names a token"
            );
        }
        if let Err(error) = until_terminated().await {
            return fail(error);
        }
        // As for `run`, a second signal ends the process at once.
        tokio::select! {
            () = registry.shutdown() => ExitCode::SUCCESS,
            _ = until_terminated() => ExitCode::FAILURE,
        }
    }

    /// The token: from the file, otherwise from the environment, where an empty value is not a token.
    fn token(&self) -> Result<Option<MasterToken>, String> {
        if let Some(file) = &self.token_file {
            let text = std::fs::read_to_string(file)
                .map_err(|error| format!("cannot read the token {}: {error}", file.display()))?;
            let token = MasterToken::new(&text);
            return token.map(Some).map_err(|error| format!("{}: {error}", file.display()));
        }
        let text = std::env::var(TOKEN_VARIABLE).unwrap_or_default();
        if text.is_empty() {
            return Ok(None);
        }
        MasterToken::new(&text).map(Some).map_err(|error| format!("{TOKEN_VARIABLE}: {error}"))
    }
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "expected an IP address and a port, as in 127.0.0.1:8500 or [::1]:8500")
}

/// A token is never an argument: every user of the machine sees arguments.
const TOKEN_VARIABLE: &str = "MILLGATE_REGISTRY_TOKEN";
