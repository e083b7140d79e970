//! The registration of a service: its name, address, tags, weights and checks.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// A service to be registered with an agent, with its checks. See [`Lease`](crate::Lease).
///
/// ```
/// use std::time::Duration;
/// use millgate_registry::ServiceRegistration;
///
/// let registration = ServiceRegistration::http("orders", "orders-1", "127.0.0.1", 7003)
///     .tags(["v1"])
///     .ttl(Duration::from_secs(10));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceRegistration {
    /// The name under which the service is found.
    pub name: String,
    /// The id of this instance, which is unique on its agent.
    pub id: String,
    /// An IP address or a host name; empty means the agent's own.
    pub address: String,
    /// The port on which the instance listens.
    pub port: u16,
    /// The tags of this instance.
    pub tags: Vec<String>,
    /// Metadata. Keys consist of letters, digits, `-` and `_`; Consul refuses others.
    pub meta: BTreeMap<String, String>,
    /// The shares of requests while the checks pass and while one warns; `None` means Consul's default, 1 and 1.
    pub weights: Option<(u32, u32)>,
    /// The TTL of the heartbeat check, which turns critical without a heartbeat for this long; `None`: there is no such check.
    pub ttl: Option<Duration>,
    /// The checks that Consul makes, at most one of each kind, with their target and interval.
    pub probes: BTreeMap<Probe, (String, Duration)>,
    /// Consul removes the service when a check was critical for this long (at least one minute).
    pub deregister_after: Option<Duration>,
}

/// The kind of a check that Consul makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// The target is a URL: 2xx is passing, 429 is warning, any other status is critical.
    Http,
    /// The target is `host:port`; the check passes while a connection can be made.
    Tcp,
    /// The target is `host:port` or `host:port/service`, in cleartext; gRPC's health service answers.
    Grpc,
}

impl Probe {
    /// The field of the API, the suffix of the check's id, and the name for people.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Http => ("HTTP", "http", "HTTP"),
            Self::Tcp => ("TCP", "tcp", "TCP"),
            Self::Grpc => ("GRPC", "grpc", "gRPC"),
        }
    }
}

impl ServiceRegistration {
    /// A service that speaks HTTP at `address:port`, without tags and checks.
    pub fn http(
        name: impl Into<String>,
        id: impl Into<String>,
        address: impl Into<String>,
        port: u16,
    ) -> Self {
        Self {
            name: name.into(),
            id: id.into(),
            address: address.into(),
            port,
            tags: Vec::new(),
            meta: BTreeMap::new(),
            weights: None,
            ttl: None,
            probes: BTreeMap::new(),
            deregister_after: None,
        }
    }

    /// Sets the tags.
    #[must_use]
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags = tags.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the metadata.
    #[must_use]
    pub fn meta<K: Into<String>, V: Into<String>>(mut self, meta: impl IntoIterator<Item = (K, V)>) -> Self {
        self.meta = meta.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        self
    }

    /// Sets the shares of requests while the checks pass and while one warns; 0 for warning takes the instance out.
    #[must_use]
    pub fn weights(mut self, passing: u32, warning: u32) -> Self {
        self.weights = Some((passing, warning));
        self
    }

    /// Adds a heartbeat check with this TTL.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Lets Consul request this URL at this interval; see [`ServiceRegistration::probe`].
    #[must_use]
    pub fn http_check(self, url: impl Into<String>, interval: Duration) -> Self {
        self.probe(Probe::Http, url, interval)
    }

    /// Lets Consul check `target` at this interval; a second check of the same kind replaces the first.
    #[must_use]
    pub fn probe(mut self, probe: Probe, target: impl Into<String>, interval: Duration) -> Self {
        self.probes.insert(probe, (target.into(), interval));
        self
    }

    /// Lets Consul remove the service when a check was critical for this long (at least one minute).
    #[must_use]
    pub fn deregister_after(mut self, critical_for: Duration) -> Self {
        self.deregister_after = Some(critical_for);
        self
    }

    /// The id of the heartbeat check.
    pub fn ttl_check_id(&self) -> String {
        format!("service:{}:ttl", self.id)
    }

    /// The body of `PUT /v1/agent/service/register`, in names that Consul since 1.0 understands.
    pub(crate) fn to_json(&self) -> Value {
        let mut checks = Vec::new();
        if let Some(ttl) = self.ttl {
            checks.push(self.check(self.ttl_check_id(), "heartbeat", [("TTL", json!(go_duration(ttl)))]));
        }
        for (probe, (target, interval)) in &self.probes {
            let (field, id, name) = probe.names();
            let fields = [(field, json!(target)), ("Interval", json!(go_duration(*interval)))];
            checks.push(self.check(format!("service:{}:{id}", self.id), name, fields));
        }
        let mut body = json!({
            "Name": self.name,
            "ID": self.id,
            "Address": self.address,
            "Port": self.port,
            "Tags": self.tags,
            "Meta": self.meta,
            "Checks": checks,
        });
        if let (Some((passing, warning)), Some(body)) = (self.weights, body.as_object_mut()) {
            body.insert("Weights".to_owned(), json!({"Passing": passing, "Warning": warning}));
        }
        body
    }

    fn check<const N: usize>(&self, id: String, what: &str, fields: [(&str, Value); N]) -> Value {
        let mut check = Map::new();
        check.insert("CheckID".to_owned(), Value::String(id));
        check.insert("Name".to_owned(), Value::String(format!("{} {what}", self.name)));
        for (field, value) in fields {
            check.insert(field.to_owned(), value);
        }
        if let Some(after) = self.deregister_after {
            check.insert("DeregisterCriticalServiceAfter".to_owned(), json!(go_duration(after)));
        }
        Value::Object(check)
    }
}

/// Writes a duration as Go does, which is what Consul reads; whole milliseconds are exact enough for every field.
pub(crate) fn go_duration(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_carries_its_checks_under_stable_ids() {
        let registration = ServiceRegistration::http("web", "web-1", "10.0.0.1", 80)
            .weights(10, 1)
            .ttl(Duration::from_secs(3))
            .probe(Probe::Grpc, "10.0.0.1:81/web", Duration::from_secs(7))
            .probe(Probe::Tcp, "10.0.0.1:80", Duration::from_secs(6))
            .http_check("http://10.0.0.1/health", Duration::from_secs(5));
        let body = registration.to_json();
        assert_eq!(body["Checks"][0]["CheckID"], "service:web-1:ttl");
        assert_eq!(body["Checks"][0]["TTL"], "3000ms");
        assert_eq!(body["Checks"][1]["Interval"], "5000ms");
        assert_eq!(
            (&body["Checks"][2]["TCP"], &body["Checks"][2]["CheckID"]),
            (&json!("10.0.0.1:80"), &json!("service:web-1:tcp"))
        );
        assert_eq!(body["Checks"][3]["GRPC"], "10.0.0.1:81/web");
        assert_eq!(body["Weights"]["Passing"], 10);
    }
}
