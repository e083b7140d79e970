//! Listeners and the connection to the registry: from the file, otherwise from the environment, otherwise the
//! default.

use std::path::PathBuf;

use millgate_registry::{ClientConfig, TlsOptions};

use super::{acme, defaults::Defaults, files::Files, https::resolve_https, listeners::Listeners, no_effect};
use crate::{
    config::{
        raw::{
            consul::Consul,
            http2::Budget,
            listen::{Admin, Listen, http_url},
        },
        settings::{ConsulSettings, Http2Settings, ListenSettings, Secret},
    },
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, Span, code},
        environment::Environment,
        tree::At,
    },
};

pub(super) fn resolve(
    raw: &Listen,
    listeners: Listeners,
    defaults: &Defaults,
    files: &mut Files,
    sink: &mut Diagnostics,
) -> ListenSettings {
    no_effect::report_wide_trust(&raw.trusted_proxies, sink);
    let defaults = &defaults.listen;
    for acme in raw.https.iter().filter_map(|https| https.acme.as_ref()) {
        acme::report_unanswerable(acme, !listeners.http.is_empty(), sink);
    }
    let https = raw.https.iter().zip(listeners.https);
    ListenSettings {
        http: listeners.http,
        redirects: listeners.redirects,
        https: https.filter_map(|(https, tls)| resolve_https(https, tls, files, sink)).collect(),
        admin: match &raw.admin {
            Some(Admin::Off) => None,
            Some(Admin::Address(at)) => Some(at.value),
            None => Some(defaults.admin),
        },
        admin_hosts: raw.admin_hosts.clone(),
        trusted_proxies: raw.trusted_proxies.iter().map(|at| at.value).collect(),
        untrusted_headers: untrusted(raw.untrusted_headers.as_ref(), &defaults.untrusted_headers, sink),
        header_timeout: raw.header_timeout.unwrap_or(defaults.header_timeout),
        idle_timeout: raw.idle_timeout.unwrap_or(defaults.idle_timeout),
        max_headers: raw.max_headers.unwrap_or(defaults.max_headers),
        max_header_bytes: raw
            .max_header_bytes
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(defaults.max_header_bytes),
        max_connections: raw.max_connections,
        max_streams: raw.max_streams.unwrap_or(defaults.max_streams),
        max_requests_per_connection: raw.max_requests_per_connection,
        http2: Http2Settings {
            frames_per_second: budget(raw.http2.frames_per_second, defaults.http2.frames_per_second),
            resets: budget(raw.http2.resets, defaults.http2.resets),
        },
    }
}

fn budget(raw: Option<Budget>, default: Option<u32>) -> Option<u32> {
    match raw {
        None => default,
        Some(Budget::Off) => None,
        Some(Budget::Frames(frames)) => Some(frames),
    }
}

/// The untrusted headers. `default` in the list stands for the default names.
fn untrusted(written: Option<&At<Vec<String>>>, defaults: &[&str], sink: &mut Diagnostics) -> Vec<String> {
    let all = || defaults.iter().map(|&name| name.to_owned());
    let Some(At { value: names, span }) = written else { return all().collect() };
    let others = names.iter().filter(|name| *name != "default").cloned();
    if others.clone().count() < names.len() {
        return others.chain(all()).collect();
    }
    // A list with names of the default was chosen from it on purpose.
    let is_known = |name: &String| defaults.iter().any(|known| known.eq_ignore_ascii_case(name));
    if let Some(first) = names.first().filter(|_| !names.iter().any(is_known)) {
        let message = "`listen.headers.untrusted` has no name of the default, and takes its place";
        let label = format!("{} headers that only a proxy may write pass from every client", defaults.len());
        let help = format!("write `[default, {first}]` to add to the default; `[]` removes nothing");
        sink.push_once(Diagnostic::warning(code::DEFAULT_REPLACED, *span, message).label(label).help(help));
    }
    others.collect()
}

/// Consul's own variables (`CONSUL_HTTP_ADDR`, `…_SSL`, `…_TOKEN`, `…_TOKEN_FILE`) fill the fields that the file
/// leaves out.
pub(super) fn resolve_consul(
    raw: &Consul,
    defaults: &Defaults,
    files: &mut Files,
    env: Environment<'_>,
    sink: &mut Diagnostics,
) -> ConsulSettings {
    let Connection { address, further_addresses, tls, token, token_file } = match env.connection() {
        Some(connection) => Connection::of(connection),
        None => resolve_connection(raw, defaults, files, env, sink),
    };
    ConsulSettings {
        address,
        further_addresses,
        tls,
        token,
        token_file,
        datacenter: raw.datacenter.clone(),
        consistency: raw.consistency.unwrap_or_default(),
        max_stale: raw.max_stale.unwrap_or(defaults.consul_max_stale),
        wait: raw.wait.unwrap_or(defaults.consul_wait),
        max_watches: raw.max_watches.unwrap_or(defaults.consul_max_watches),
        flap_damping: raw.flap_damping.unwrap_or(true),
        doubt: raw.doubt.unwrap_or(defaults.consul_doubt),
        unready_after: raw.unready_after,
    }
}

/// Consul's addresses, and the gateway's credentials for it.
struct Connection {
    address: String,
    further_addresses: Vec<String>,
    tls: TlsOptions,
    token: Option<Secret>,
    token_file: Option<PathBuf>,
}

impl Connection {
    fn of(config: &ClientConfig) -> Self {
        Self {
            address: with_scheme(&config.address),
            further_addresses: config.further_addresses.clone(),
            tls: config.tls.clone(),
            token: config.token.clone().map(Secret::new),
            token_file: config.token_file.clone(),
        }
    }
}

/// Refuses the fields of a connection in a configuration from a key in Consul: another address would get the
/// gateway's token.
pub(super) fn refuse_connection(raw: &Consul, sink: &mut Diagnostics) {
    let spans = |of: &Option<At<String>>| of.as_ref().map(|at| at.span);
    let fields = [
        ("address", raw.addresses.first().map(|at| at.span)),
        ("token", raw.token.as_ref().map(|at| at.span)),
        ("token_file", spans(&raw.token_file)),
        ("ca_file", spans(&raw.ca_file)),
        ("cert_file", spans(&raw.cert_file)),
        ("key_file", spans(&raw.key_file)),
        ("server_name", spans(&raw.server_name)),
    ];
    for (field, span) in fields.into_iter().filter_map(|(field, span)| Some((field, span?))) {
        let message = format!("a configuration that Consul holds cannot set `discovery.consul.{field}`");
        sink.push(
            Diagnostic::error(code::NOT_FROM_CONSUL, span, message)
                .label("whoever may write the key could send the gateway's token elsewhere")
                .help("remove it: services are looked up through the connection that this text came through, which \
                       CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN and the like name for each gateway"),
        );
    }
}

fn resolve_connection(
    raw: &Consul,
    defaults: &Defaults,
    files: &mut Files,
    env: Environment<'_>,
    sink: &mut Diagnostics,
) -> Connection {
    let env = |name: &str| env.get(name);
    let mut token = raw.token.as_ref().map(|token| Secret::new(token.value.text.clone()));
    let mut token_file = raw.token_file.clone();
    let mut token_from = "Consul token";
    if token.is_none() && token_file.is_none() {
        token = env("CONSUL_HTTP_TOKEN").map(Secret::new);
        if token.is_none() {
            // As in Consul's own tools, the name is relative to the working directory, not to our file.
            token_file = env("CONSUL_HTTP_TOKEN_FILE").map(|value| {
                let path = std::path::absolute(&value).map_or(value, |path| path.display().to_string());
                At { value: path, span: Span::default() }
            });
            token_from = "Consul token that the environment variable `CONSUL_HTTP_TOKEN_FILE` names";
        }
    }
    if let Some(token) = raw.token.as_ref().filter(|token| token.value.in_file) {
        sink.push(
            Diagnostic::warning(code::SECRET_IN_FILE, token.span, "the Consul token stands in the file")
                .label("whoever reads this file can use it")
                .help("write `token_file: path`, or `token: \"${CONSUL_HTTP_TOKEN}\"`"),
        );
    }
    let mut addresses = raw.addresses.iter().map(|address| address.value.clone());
    let tls = TlsOptions {
        ca_file: tls_file(raw.ca_file.as_ref(), "CONSUL_CACERT", files, &env, sink),
        cert_file: tls_file(raw.cert_file.as_ref(), "CONSUL_CLIENT_CERT", files, &env, sink),
        key_file: tls_file(raw.key_file.as_ref(), "CONSUL_CLIENT_KEY", files, &env, sink),
        server_name: match &raw.server_name {
            Some(name) => Some(name.value.clone()),
            None => env("CONSUL_TLS_SERVER_NAME"),
        },
    };
    Connection {
        address: addresses.next().unwrap_or_else(|| address_of_environment(&env, defaults, sink)),
        further_addresses: addresses.collect(),
        tls,
        token,
        token_file: token_file.and_then(|name| files.readable(&name, token_from, sink)).map(|file| file.path),
    }
}

/// The file that the configuration names, otherwise the one that Consul's variable names, relative to the working
/// directory.
fn tls_file(
    ours: Option<&At<String>>,
    variable: &str,
    files: &mut Files,
    env: &dyn Fn(&str) -> Option<String>,
    sink: &mut Diagnostics,
) -> Option<PathBuf> {
    if let Some(name) = ours.filter(|_| variable == "CONSUL_CLIENT_CERT") {
        return files.certificate(name, "certificate for Consul", sink).map(|file| file.path);
    }
    if let Some(name) = ours {
        return files.readable(name, "file for TLS with Consul", sink).map(|file| file.path);
    }
    let path = env(variable)?;
    let path = std::path::absolute(&path).map_or(path, |path| path.display().to_string());
    let what = format!("file for TLS with Consul that the environment variable `{variable}` names");
    files.readable(&At { value: path, span: Span::default() }, &what, sink).map(|file| file.path)
}

/// The address with a scheme, since Consul's own tools accept an address without one.
fn with_scheme(address: &str) -> String {
    if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
}

fn address_of_environment(
    env: &dyn Fn(&str) -> Option<String>,
    defaults: &Defaults,
    sink: &mut Diagnostics,
) -> String {
    // The variables are read in one place: a token that a command sends through TLS must not be sent in cleartext
    // here.
    let address = ClientConfig::from_lookup(env).address;
    http_url(&with_scheme(&address)).unwrap_or_else(|invalid| {
        let message = format!("the environment variable `CONSUL_HTTP_ADDR` must be {}", invalid.expected);
        sink.push(Diagnostic::error(invalid.code, Span::default(), message));
        defaults.consul_address.to_owned()
    })
}
