//! The source of a configuration: a file, or a key in Consul's KV store.

use std::{
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
};

use millgate_registry::{Client, ClientConfig, ClientError};

use super::load::{self, Loaded};
use crate::syntax::{
    diagnostics::{Diagnostic, Report, Source, Span, code},
    environment::Environment,
};

/// The source of a configuration: a file, or a key that many gateways can share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigSource {
    File(PathBuf),
    Key(Box<ConfigKey>),
}

/// The key `consul://path/to/key`, in the Consul that the environment names (`CONSUL_HTTP_ADDR` and similar
/// variables).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigKey {
    pub key: String,
    pub consul: ClientConfig,
}

impl ConfigSource {
    /// Reads the argument of `-c`: `consul://…` is a key, any other text a file.
    ///
    /// # Errors
    /// `consul://` without a key.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        let Some(key) = text.to_str().and_then(|text| text.strip_prefix(SCHEME)) else {
            return Ok(Self::File(PathBuf::from(text)));
        };
        // A third slash is a habit of URLs without a host; Consul's keys do not begin with one.
        let key = key.strip_prefix('/').unwrap_or(key);
        if key.is_empty() || key.ends_with('/') {
            return Err(format!(
                "`{SCHEME}{key}` names no key; write for example consul://millgate/routes.yaml"
            ));
        }
        Ok(Self::Key(Box::new(ConfigKey { key: key.to_owned(), consul: ClientConfig::from_env() })))
    }

    /// Loads a configuration from a text of this source. Relative names of files start at the folder of the file, or
    /// at the working directory for a key. A text from a key cannot change the connection through which it came, nor
    /// use its token.
    pub fn parse_text(&self, text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Report> {
        let env = match self {
            Self::File(_) => Environment::of_file(env),
            Self::Key(key) => Environment::of_key(env, &key.consul),
        };
        load::parse_in(&self.to_string(), text, self.base_dir(), env)
    }

    /// Loads a configuration from the bytes of a key, as [`ConfigSource::parse_text`] does.
    pub fn parse_bytes(&self, bytes: &[u8], env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Report> {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.parse_text(text, env),
            Err(_) => Err(self.unreadable("it is not UTF-8 text", "put the text of a `routes.yaml` there")),
        }
    }

    /// The report for a configuration that could not be read at all.
    pub fn unreadable(&self, reason: &str, help: &str) -> Report {
        let message = format!("cannot read the configuration: {reason}");
        let finding = Diagnostic::error(code::UNREADABLE, Span::default(), message).help(help);
        Report::new(Source::new(self.to_string(), ""), vec![finding])
    }

    fn base_dir(&self) -> &Path {
        match self {
            Self::File(path) => path.parent().unwrap_or(Path::new("")),
            Self::Key(_) => Path::new(""),
        }
    }
}

/// The source's name in messages and reports.
impl fmt::Display for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Key(key) => write!(f, "{SCHEME}{}", key.key),
        }
    }
}

impl ConfigKey {
    /// A client for the Consul that has the key.
    ///
    /// # Errors
    /// The environment names an address, token file or CA file that cannot be used.
    pub fn client(&self) -> Result<Client, ClientError> {
        Client::new(self.consul.clone())
    }

    /// Help for a key that does not exist.
    pub fn advice(&self) -> String {
        format!("put it there with `consul kv put {} @routes.yaml`", self.key)
    }
}

const SCHEME: &str = "consul://";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConfigSource, String> {
        ConfigSource::parse(OsStr::new(text))
    }

    #[test]
    fn what_begins_with_consul_is_a_key_and_everything_else_a_file() {
        assert_eq!(parse("routes.yaml"), Ok(ConfigSource::File("routes.yaml".into())));
        assert_eq!(parse("consul:/a"), Ok(ConfigSource::File("consul:/a".into())));
        for text in ["consul://edge/routes.yaml", "consul:///edge/routes.yaml"] {
            assert_eq!(parse(text).unwrap().to_string(), "consul://edge/routes.yaml");
        }
    }

    #[test]
    fn a_key_must_be_named() {
        for text in ["consul://", "consul:///", "consul://edge/"] {
            assert!(parse(text).unwrap_err().contains("consul://millgate/routes.yaml"), "{text}");
        }
    }

    #[test]
    fn a_report_names_the_key_with_line_and_column() {
        let source = parse("consul://edge").unwrap();
        let report = source.parse_text("version: 1\nroutes:\n  - {pth: /a}\n", &|_| None).unwrap_err();
        assert!(report.to_string().contains("consul://edge:3:6"), "{report}");
        let report = source.parse_bytes(b"\xff", &|_| None).unwrap_err();
        assert!(report.to_string().contains("not UTF-8"), "{report}");
    }

    const ROUTE: &str = "routes: [{path: /a, service: a}]\n";

    fn key_at(consul: ClientConfig) -> ConfigSource {
        ConfigSource::Key(Box::new(ConfigKey { key: "edge".to_owned(), consul }))
    }

    #[test]
    fn a_key_cannot_say_where_its_own_consul_is_or_who_asks() {
        let key = key_at(ClientConfig::new("http://consul:8500"));
        for field in [
            "address: http://evil.test:8500",
            "token: x",
            "token_file: Cargo.toml",
            "ca_file: Cargo.toml",
            "server_name: evil.test",
        ] {
            let text = format!("version: 1\ndiscovery: {{consul: {{{field}}}}}\n{ROUTE}");
            let report = key.parse_text(&text, &|_| None).unwrap_err();
            let name = field.split(':').next().unwrap();
            let finding =
                report.diagnostics.iter().find(|finding| finding.code == code::NOT_FROM_CONSUL).unwrap();
            assert!(finding.message.ends_with(&format!("cannot set `discovery.consul.{name}`")), "{report}");
            // A file may have the field.
            assert!(parse("routes.yaml").unwrap().parse_text(&text, &|_| None).is_ok(), "{field}");
        }
        let hosts = "version: 1\ndiscovery: {consul: {address: http://evil.test:8500}}\nroutes: [{path: /a, service: a}]\n\
                     services: {a: {hosts: \"127.0.0.1:1\"}}\n";
        assert!(key.parse_text(hosts, &|_| None).is_err(), "also if no service is looked up yet");
    }

    #[test]
    fn a_key_cannot_ask_for_the_token_that_reads_it() {
        let env = |name: &str| {
            ["CONSUL_HTTP_TOKEN", "CONSUL_HTTP_AUTH"].contains(&name).then(|| "hunter2".to_owned())
        };
        let key = key_at(ClientConfig::new("http://consul:8500"));
        for variable in [
            "${CONSUL_HTTP_TOKEN}",
            "${CONSUL_HTTP_TOKEN:-x}",
            "${CONSUL_HTTP_TOKEN:?y}",
            "${CONSUL_HTTP_AUTH}",
        ] {
            let text = format!(
                "version: 1\nroutes: [{{path: /a, service: a, headers: {{request: {{set: {{x: \"a {variable}\"}}}}}}}}]\n"
            );
            let report = key.parse_text(&text, &env).unwrap_err();
            assert_eq!(report.diagnostics[0].code, code::NOT_FROM_CONSUL, "{report}");
            assert_eq!(report.diagnostics[0].span.column, 65, "{report}");
            assert!(parse("routes.yaml").unwrap().parse_text(&text, &env).is_ok(), "{variable}");
        }
        let text = "version: 1\nroutes: [{path: /a, service: \"a${REGION}\"}]\n";
        assert!(
            key.parse_text(text, &|_| Some("1".to_owned())).is_ok(),
            "what differs from gateway to gateway"
        );
    }

    #[test]
    fn services_are_looked_up_through_the_connection_of_the_key() {
        let consul = ClientConfig { token: Some("t".to_owned()), ..ClientConfig::new("consul:8500") };
        let env = |name: &str| (name == "CONSUL_HTTP_ADDR").then(|| "http://other:8500".to_owned());
        let loaded = key_at(consul).parse_text(&format!("version: 1\n{ROUTE}"), &env).unwrap();
        let used = loaded.settings.consul.unwrap();
        assert_eq!((used.address.as_str(), used.token.unwrap().expose()), ("http://consul:8500", "t"));
    }
}
