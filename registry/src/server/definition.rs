//! Registrations: from a JSON body to the store's definitions, with Consul's defaults and Consul's refusals.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use crate::server::answer::Refusal;
use crate::server::decode::{Fields, Known, positive};
use crate::server::{Compat, ServerLimits, check_kind};
use crate::store::{AddressDefinition, CheckDefinition, CheckKind, ServiceDefinition};
use crate::types::CheckStatus;

/// Reads the body of `agent/service/register`.
pub(crate) fn service(
    body: &[u8],
    compat: Compat,
    limits: &ServerLimits,
) -> Result<(ServiceDefinition, Vec<CheckDefinition>), Refusal> {
    let known = match compat {
        Compat::Current => [SERVICE_FIELDS, SERVICE_FIELDS_LATER].concat(),
        Compat::V1_8 => SERVICE_FIELDS.to_vec(),
    };
    let mut fields = Fields::from_body(body, &known)?;
    let mut definition = read_service(&mut fields, "Name")?;
    let weights = fields.take("Weights");
    let mut checks = Vec::new();
    if let Some(check) = fields.take("Check") {
        checks.push(nested_check(check, "Check", compat)?);
    }
    for check in fields.list("Checks")? {
        checks.push(nested_check(check, "Checks", compat)?);
    }
    let checks: Vec<CheckDefinition> = checks.into_iter().flatten().collect();

    if definition.name.is_empty() {
        return Err(Refusal::bad_request("Missing service name"));
    }
    if is_wildcard(&definition.address) {
        return Err(Refusal::bad_request("Invalid service address"));
    }
    validate_meta(&definition.meta)?;
    if let Some(weights) = weights {
        let (passing, warning) = read_weights(weights, "Weights")?;
        are_weights(passing, warning)
            .map_err(|text| Refusal::bad_request(format!("Invalid Weights: {text}")))?;
        (definition.weight_passing, definition.weight_warning) = (passing, warning);
    }
    if checks.len() > limits.checks_per_service {
        return Err(Refusal::bad_request(format!(
            "the embedded registry takes at most {} checks per service",
            limits.checks_per_service
        )));
    }
    if definition.id.is_empty() {
        definition.id.clone_from(&definition.name);
    }
    add_tagged_addresses(&mut definition);
    let checks = name_checks(checks, &definition);
    Ok((definition, checks))
}

/// Reads the body of `agent/check/register`.
pub(crate) fn check(body: &[u8], compat: Compat) -> Result<CheckDefinition, Refusal> {
    let own: &Known = match compat {
        Compat::Current => &[("ID", ""), ("CheckID", "")],
        Compat::V1_8 => &[("ID", "")],
    };
    let known = [check_fields(compat).as_slice(), own, &[("ServiceID", "service_id")]].concat();
    let mut fields = Fields::from_body(body, &known)?;
    let mut id = fields.string("ID")?;
    let service_id = fields.string("ServiceID")?;
    let name = fields.string("Name")?;
    if id.is_empty() {
        id = fields.string("CheckID")?;
    }
    let status = fields.string("Status")?;
    if name.is_empty() {
        return Err(Refusal::bad_request("Missing check name"));
    }
    if !status.is_empty() && CheckStatus::parse(&status).is_none() {
        return Err(Refusal::bad_request("Bad check status"));
    }
    let kind = check_kind::read(&mut fields)?;
    let id = if id.is_empty() { name.clone() } else { id };
    read_check(fields, id, name, service_id, CheckStatus::parse(&status), kind)
}

/// A check within a service; `None` for a `Check` without a set field, which Consul accepts.
fn nested_check(
    value: Value,
    outer: &'static str,
    compat: Compat,
) -> Result<Option<CheckDefinition>, Refusal> {
    let known = [check_fields(compat).as_slice(), &[("CheckID", "")]].concat();
    let mut fields = Fields::from_value(value, &known, Some(outer))?;
    if outer == "Check" && fields.are_zero(CHECK_DURATIONS) {
        return Ok(None);
    }
    let id = fields.string("CheckID")?;
    let name = fields.string("Name")?;
    let status = fields.string("Status")?;
    if !status.is_empty() && CheckStatus::parse(&status).is_none() {
        return Err(Refusal::bad_request("Status for checks must 'passing', 'warning', 'critical'"));
    }
    let kind = check_kind::read(&mut fields)?;
    read_check(fields, id, name, String::new(), CheckStatus::parse(&status), kind).map(Some)
}

fn read_check(
    mut fields: Fields,
    id: String,
    name: String,
    service_id: String,
    initial_status: Option<CheckStatus>,
    kind: CheckKind,
) -> Result<CheckDefinition, Refusal> {
    Ok(CheckDefinition {
        deregister_after: positive(fields.duration("DeregisterCriticalServiceAfter")?),
        notes: fields.string("Notes")?,
        service_id,
        initial_status,
        ..CheckDefinition::new(id, name, kind)
    })
}

/// Consul's ids and names of checks that were registered without.
fn name_checks(checks: Vec<CheckDefinition>, service: &ServiceDefinition) -> Vec<CheckDefinition> {
    let many = checks.len() > 1;
    let named = checks.into_iter().zip(1..).map(|(mut check, number)| {
        if check.id.is_empty() {
            let number = if many { format!(":{number}") } else { String::new() };
            check.id = format!("service:{}{number}", service.id);
        }
        if check.name.is_empty() {
            check.name = format!("Service '{}' check", service.name);
        }
        check.service_id.clone_from(&service.id);
        check
    });
    named.collect()
}

/// An address that is an IP address is listed under its family as well, unless the registration did it.
fn add_tagged_addresses(service: &mut ServiceDefinition) {
    let names = match service.address.parse() {
        Ok(IpAddr::V4(_)) => ["lan_ipv4", "wan_ipv4"],
        Ok(IpAddr::V6(_)) => ["lan_ipv6", "wan_ipv6"],
        Err(_) => return,
    };
    for name in names {
        let own = AddressDefinition { address: service.address.clone(), port: service.port };
        service.tagged_addresses.entry(name.to_owned()).or_insert(own);
    }
}

/// Whether the address stands for all addresses of a machine; it cannot be connected to.
pub(crate) fn is_wildcard(address: &str) -> bool {
    matches!(address, "0.0.0.0" | "::" | "[::]")
}

/// The fields that every registration of a service has, with weights of 1. `name` is the field with the service's name.
pub(crate) fn read_service(fields: &mut Fields, name: &str) -> Result<ServiceDefinition, Refusal> {
    Ok(ServiceDefinition {
        kind: fields.string("Kind")?,
        id: fields.string("ID")?,
        name: fields.string(name)?,
        tags: fields.strings("Tags")?,
        address: fields.string("Address")?,
        tagged_addresses: fields.tagged_addresses("TaggedAddresses")?,
        meta: fields.string_map("Meta")?,
        port: fields.integer("Port")?,
        weight_passing: 1,
        weight_warning: 1,
        enable_tag_override: fields.boolean("EnableTagOverride")?,
    })
}

/// Passing and warning, as they are given: see [`are_weights`]. `outer`: how Go calls the field.
pub(crate) fn read_weights(value: Value, outer: &'static str) -> Result<(i64, i64), Refusal> {
    let mut fields = Fields::from_value(value, &[("Passing", ""), ("Warning", "")], Some(outer))?;
    Ok((fields.integer("Passing")?, fields.integer("Warning")?))
}

/// The error is Consul's text.
pub(crate) fn are_weights(passing: i64, warning: i64) -> Result<(), &'static str> {
    if passing < 1 {
        return Err("Passing must be greater than 0");
    }
    if warning < 0 {
        return Err("Warning must be greater or equal than 0");
    }
    if passing > WEIGHT_MAX || warning > WEIGHT_MAX {
        return Err("DNS Weight must be between 0 and 65535");
    }
    Ok(())
}

fn validate_meta(meta: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let invalid = |text: String| Err(Refusal::bad_request(format!("Invalid Service Meta: {text}")));
    if meta.len() > META_PAIRS_MAX {
        return invalid(format!("Node metadata cannot contain more than {META_PAIRS_MAX} key/value pairs"));
    }
    for (key, value) in meta {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let wrong = if key.is_empty() {
            "Key cannot be blank".to_owned()
        } else if !key.chars().all(legal) {
            "Key contains invalid characters".to_owned()
        } else if key.len() > META_KEY_BYTES_MAX {
            format!("Key is too long (limit: {META_KEY_BYTES_MAX} characters)")
        } else if key.starts_with("consul-") {
            "Key prefix 'consul-' is reserved for internal use".to_owned()
        } else if value.len() > META_VALUE_BYTES_MAX {
            format!("Value is too long (limit: {META_VALUE_BYTES_MAX} characters)")
        } else {
            continue;
        };
        return invalid(format!("Couldn't load metadata pair ('{key}', '{value}'): {wrong}"));
    }
    Ok(())
}

fn check_fields(compat: Compat) -> Vec<(&'static str, &'static str)> {
    match compat {
        Compat::Current => [CHECK_FIELDS, CHECK_FIELDS_LATER].concat(),
        Compat::V1_8 => CHECK_FIELDS.to_vec(),
    }
}

const SERVICE_FIELDS: &Known = &[
    ("Kind", ""),
    ("ID", ""),
    ("Name", ""),
    ("Tags", ""),
    ("Address", ""),
    ("TaggedAddresses", "tagged_addresses"),
    ("Meta", ""),
    ("Port", ""),
    ("Check", ""),
    ("Checks", ""),
    ("Weights", ""),
    ("Token", ""),
    ("EnableTagOverride", "enable_tag_override"),
    ("Proxy", ""),
    ("Connect", ""),
];
/// Fields that came after 1.8; read and ignored.
const SERVICE_FIELDS_LATER: &Known =
    &[("SocketPath", ""), ("Ports", ""), ("Locality", ""), ("Namespace", ""), ("Partition", "")];

const CHECK_FIELDS: &Known = &[
    ("Name", ""),
    ("Status", ""),
    ("Notes", ""),
    ("Args", ""),
    ("ScriptArgs", "script_args"),
    ("HTTP", ""),
    ("Header", ""),
    ("Method", ""),
    ("Body", ""),
    ("TCP", ""),
    ("Interval", ""),
    ("AliasNode", ""),
    ("AliasService", ""),
    ("DockerContainerID", "docker_container_id"),
    ("Shell", ""),
    ("GRPC", ""),
    ("GRPCUseTLS", ""),
    ("TLSSkipVerify", "tls_skip_verify"),
    ("Timeout", ""),
    ("TTL", ""),
    ("SuccessBeforePassing", ""),
    ("FailuresBeforeCritical", ""),
    ("ProxyHTTP", ""),
    ("ProxyGRPC", ""),
    ("DeregisterCriticalServiceAfter", "deregister_critical_service_after"),
    ("OutputMaxSize", ""),
];
const CHECK_DURATIONS: &[&str] = &["Interval", "Timeout", "TTL", "DeregisterCriticalServiceAfter"];
const CHECK_FIELDS_LATER: &Known = &[
    ("DisableRedirects", ""),
    ("TCPUseTLS", ""),
    ("UDP", ""),
    ("OSService", ""),
    ("H2PING", ""),
    ("H2PingUseTLS", ""),
    ("TLSServerName", ""),
    ("FailuresBeforeWarning", ""),
    ("Namespace", ""),
    ("Partition", ""),
];

/// Consul's limits of metadata and weights.
const META_PAIRS_MAX: usize = 64;
const META_KEY_BYTES_MAX: usize = 128;
const META_VALUE_BYTES_MAX: usize = 512;
const WEIGHT_MAX: i64 = 65_535;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<(ServiceDefinition, Vec<CheckDefinition>), String> {
        service(body.as_bytes(), Compat::Current, &ServerLimits::default()).map_err(|refusal| refusal.text)
    }

    #[test]
    fn ids_and_names_are_filled_in_as_consul_does() {
        let (service, checks) =
            read(r#"{"Name":"web","Address":"10.0.0.1","Port":80,"Check":{"TTL":"3s"}}"#).unwrap();
        assert_eq!(service.id, "web");
        assert_eq!(service.tagged_addresses.keys().collect::<Vec<_>>(), ["lan_ipv4", "wan_ipv4"]);
        assert_eq!((checks[0].id.as_str(), checks[0].name.as_str()), ("service:web", "Service 'web' check"));
        let (_, checks) = read(r#"{"Name":"web","ID":"w1","Checks":[{"TTL":"3s"},{"TTL":"4s"}]}"#).unwrap();
        assert_eq!((checks[0].id.as_str(), checks[1].id.as_str()), ("service:w1:1", "service:w1:2"));
    }

    #[test]
    fn a_check_that_says_nothing_is_none_when_it_stands_alone_and_an_error_in_a_list() {
        for check in ["{}", r#"{"TTL":"0s"}"#, r#"{"TTL":true}"#] {
            let (_, checks) = read(&format!(r#"{{"Name":"web","Check":{check}}}"#)).unwrap();
            assert!(checks.is_empty(), "{check}");
            let error = read(&format!(r#"{{"Name":"web","Checks":[{check}]}}"#)).unwrap_err();
            assert_eq!(error, "Invalid check: TTL must be > 0 for TTL checks", "{check}");
        }
    }

    #[test]
    fn bad_registrations_get_consuls_texts() {
        for (body, text) in [
            ("{}", "Missing service name"),
            (r#"{"Name":"w","Address":"0.0.0.0"}"#, "Invalid service address"),
            (
                r#"{"Name":"w","Meta":{"bad key!":"1"}}"#,
                "Invalid Service Meta: Couldn't load metadata pair ('bad key!', '1'): Key contains invalid characters",
            ),
            (r#"{"Name":"w","Weights":{"Warning":5}}"#, "Invalid Weights: Passing must be greater than 0"),
            (
                r#"{"Name":"w","Weights":{"Passing":65536}}"#,
                "Invalid Weights: DNS Weight must be between 0 and 65535",
            ),
            (
                r#"{"Name":"w","Check":{"HTTP":"http://x/"}}"#,
                "Invalid check: Interval must be > 0 for Script, HTTP, or TCP checks",
            ),
            (
                r#"{"Name":"w","Check":{"TTL":"1s","Interval":"1s"}}"#,
                "Invalid check: Interval and TTL cannot both be specified",
            ),
            (
                r#"{"Name":"w","Check":{"TTL":"1s","Status":"great"}}"#,
                "Status for checks must 'passing', 'warning', 'critical'",
            ),
        ] {
            assert_eq!(read(body).unwrap_err(), text, "{body}");
        }
        let script = read(r#"{"Name":"w","Check":{"Args":["true"],"Interval":"1s"}}"#).unwrap_err();
        assert!(script.starts_with("Scripts are disabled on this agent"), "{script}");
        let udp = read(r#"{"Name":"w","Check":{"UDP":"x:1","Interval":"1s"}}"#).unwrap_err();
        assert!(udp.contains("not UDP"), "{udp}");
    }

    #[test]
    fn fields_of_later_releases_are_unknown_to_1_8() {
        let body = br#"{"Name":"web","Locality":null}"#;
        assert!(service(body, Compat::Current, &ServerLimits::default()).is_ok());
        let refusal = service(body, Compat::V1_8, &ServerLimits::default()).unwrap_err();
        assert_eq!(refusal.text, "Request decode failed: json: unknown field \"Locality\"");
    }
}
