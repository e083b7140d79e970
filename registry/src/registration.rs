//! What a service tells Consul about itself.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// A service to be registered with the local agent, with its checks.
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
    pub name: String,
    /// Unique on the agent.
    pub id: String,
    /// An IP address or a host name; empty means the agent's own.
    pub address: String,
    pub port: u16,
    pub tags: Vec<String>,
    /// Keys of letters, digits, `-` and `_` only: Consul refuses others.
    pub meta: BTreeMap<String, String>,
    /// Shares of requests while passing and while warning.
    pub weights: Option<(u32, u32)>,
    /// The instance must be heard from this often, or its check turns critical.
    pub ttl: Option<Duration>,
    /// Consul asks this URL at this interval; 2xx is passing, 429 warning, anything else critical.
    pub http_check: Option<(String, Duration)>,
    /// Consul removes the service when a check was critical for this long; at least one minute.
    pub deregister_after: Option<Duration>,
}

impl ServiceRegistration {
    /// A service that speaks HTTP at `address:port`.
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
            http_check: None,
            deregister_after: None,
        }
    }

    #[must_use]
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags = tags.into_iter().map(Into::into).collect();
        self
    }

    #[must_use]
    pub fn meta<K: Into<String>, V: Into<String>>(mut self, meta: impl IntoIterator<Item = (K, V)>) -> Self {
        self.meta = meta.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        self
    }

    /// Shares of requests while passing and while warning; 0 while warning takes the instance out.
    #[must_use]
    pub fn weights(mut self, passing: u32, warning: u32) -> Self {
        self.weights = Some((passing, warning));
        self
    }

    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    #[must_use]
    pub fn http_check(mut self, url: impl Into<String>, interval: Duration) -> Self {
        self.http_check = Some((url.into(), interval));
        self
    }

    #[must_use]
    pub fn deregister_after(mut self, critical_for: Duration) -> Self {
        self.deregister_after = Some(critical_for);
        self
    }

    /// The id of the TTL check: where heartbeats go.
    pub fn ttl_check_id(&self) -> String {
        format!("service:{}:ttl", self.id)
    }

    /// The body of `PUT /v1/agent/service/register`, in names that Consul since 1.0 understands.
    pub(crate) fn to_json(&self) -> Value {
        let mut checks = Vec::new();
        if let Some(ttl) = self.ttl {
            checks.push(self.check(self.ttl_check_id(), "heartbeat", [("TTL", json!(go_duration(ttl)))]));
        }
        if let Some((url, interval)) = &self.http_check {
            let fields = [("HTTP", json!(url)), ("Interval", json!(go_duration(*interval)))];
            checks.push(self.check(format!("service:{}:http", self.id), "HTTP", fields));
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

/// Consul reads durations as Go writes them; whole milliseconds are exact enough for every field we send.
pub(crate) fn go_duration(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_carries_both_checks_under_stable_ids() {
        let registration = ServiceRegistration::http("web", "web-1", "10.0.0.1", 80)
            .weights(10, 1)
            .ttl(Duration::from_secs(3))
            .http_check("http://10.0.0.1/health", Duration::from_secs(5));
        let body = registration.to_json();
        assert_eq!(body["Checks"][0]["CheckID"], "service:web-1:ttl");
        assert_eq!(body["Checks"][0]["TTL"], "3000ms");
        assert_eq!(body["Checks"][1]["Interval"], "5000ms");
        assert_eq!(body["Weights"]["Passing"], 10);
    }
}
