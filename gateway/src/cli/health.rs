//! `millgate health`: exit code 0 if a running gateway is ready, for images without a shell.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use http::{StatusCode, Uri};
use millgate_registry::{HttpClient, HttpOptions};

use super::{fail, print};

const ADMIN: &str = "http://127.0.0.1:9900";
const DEADLINE: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 ready, 1 not ready or not reachable within 2s, 2 wrong usage.")]
pub struct Health {
    /// Admin listener of the gateway: `listen.admin` of its configuration
    #[arg(long, env = "MILLGATE_ADMIN", default_value = ADMIN, value_name = "URL", value_parser = base_url)]
    admin: String,
}

impl Health {
    pub fn execute(&self) -> ExitCode {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return fail(error),
        };
        match runtime.block_on(self.ask()) {
            Ok(()) => print("ready", ExitCode::SUCCESS),
            Err(reason) => fail(reason),
        }
    }

    async fn ask(&self) -> Result<(), String> {
        let http = HttpClient::new(&HttpOptions::default()).map_err(|error| error.to_string())?;
        let url = format!("{}/readyz?verbose", self.admin);
        let answer = http.get(&url, DEADLINE, ANSWER_BYTES_MAX).await.map_err(|error| {
            format!("{url}: {error}; is the gateway running, and is this its admin listener (--admin)?")
        })?;
        match answer.status {
            status if status.is_success() => Ok(()),
            StatusCode::SERVICE_UNAVAILABLE => Err(format!(
                "not ready: {}",
                String::from_utf8_lossy(&answer.body).trim().replace('\n', "; ")
            )),
            status => Err(format!(
                "{url} answered {}; this is not the admin listener of a gateway: name it with --admin",
                status.as_u16()
            )),
        }
    }
}

/// Scheme, host and port, without a slash at the end. An address without a scheme is valid, as in `listen.admin`.
fn base_url(text: &str) -> Result<String, String> {
    let text = match text {
        // An empty variable counts as unset.
        "" => ADMIN.to_owned(),
        _ if text.contains("://") => text.trim_end_matches('/').to_owned(),
        _ => format!("http://{}", text.trim_end_matches('/')),
    };
    let is_base = text.parse::<Uri>().is_ok_and(|uri| {
        // `Uri` accepts an invalid port, and then reports that there is none.
        let is_address = uri.authority().is_some_and(|authority| {
            !authority.host().is_empty()
                && (authority.as_str() == authority.host() || authority.port_u16().is_some())
        });
        matches!(uri.scheme_str(), Some("http" | "https"))
            && is_address
            && uri.path() == "/"
            && uri.query().is_none()
    });
    if is_base { Ok(text) } else { Err(format!("expected an address as in {ADMIN}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_no_scheme_and_nothing_after_the_port() {
        for (text, url) in [
            ("", Some(ADMIN)),
            ("http://127.0.0.1:9900/", Some(ADMIN)),
            ("127.0.0.1:9900", Some(ADMIN)),
            ("[::1]:9900", Some("http://[::1]:9900")),
            ("https://gateway.test", Some("https://gateway.test")),
            ("http://", None),
            ("ftp://gateway.test", None),
            ("http://gateway.test/readyz", None),
            ("gate way", None),
            ("127.0.0.1:99000", None),
        ] {
            assert_eq!(base_url(text).ok().as_deref(), url, "{text}");
        }
    }
}
