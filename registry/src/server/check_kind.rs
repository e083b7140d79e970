//! The kind of a check, read from its registration by Consul's rules about fields that belong together.

use std::time::Duration;

use crate::server::answer::Refusal;
use crate::server::decode::{Fields, positive};
use crate::store::{Alias, CheckKind, ProbeDefinition, Target};

/// Reads the fields of a check that define what it does. If they name several targets, HTTP wins over TCP over gRPC,
/// as with Consul.
pub(crate) fn read(fields: &mut Fields) -> Result<CheckKind, Refusal> {
    let (interval, ttl) = (fields.duration("Interval")?, fields.duration("TTL")?);
    let timeout = positive(fields.duration("Timeout")?).unwrap_or(TIMEOUT);
    let output_bytes_max = fields.integer("OutputMaxSize")?;
    let script = ["Args", "ScriptArgs"].iter().any(|name| fields.is_set(name));
    let probed = ["HTTP", "TCP", "GRPC"].iter().any(|name| fields.is_set(name));
    let alias = ["AliasService", "AliasNode"].iter().any(|name| fields.is_set(name));
    let invalid = |text: &str| Err(Refusal::bad_request(format!("Invalid check: {text}")));
    for name in ["UDP", "H2PING", "OSService"] {
        if fields.is_set(name) && !probed && !script {
            return invalid(&format!(
                "the embedded registry makes TTL, HTTP, TCP, gRPC and alias checks, not {name}; use a Consul agent \
                 for it"
            ));
        }
    }
    if interval > 0 && ttl > 0 {
        return invalid("Interval and TTL cannot both be specified");
    }
    if (script || probed) && interval <= 0 {
        return invalid("Interval must be > 0 for Script, HTTP, or TCP checks");
    }
    if (script || probed) && alias {
        return invalid("Interval cannot be set for Alias checks");
    }
    if alias && ttl > 0 {
        return invalid("TTL must be not be set for Alias checks");
    }
    if !script && !probed && !alias && ttl <= 0 {
        return invalid("TTL must be > 0 for TTL checks");
    }
    if output_bytes_max < 0 {
        return invalid("MaxOutputMaxSize must be positive");
    }
    if script {
        return Err(Refusal::internal(
            "Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' \
             to true",
        ));
    }
    if alias {
        let (node, service_id) = (fields.string("AliasNode")?, fields.string("AliasService")?);
        return Ok(CheckKind::Alias(Alias { node, service_id }));
    }
    let Some(target) = read_target(fields)? else {
        return Ok(CheckKind::Ttl(positive(ttl).unwrap_or_default()));
    };
    // Negative counts are accepted and mean 0.
    let count = |value: i64| u32::try_from(value.max(0)).unwrap_or(u32::MAX);
    let wanted = usize::try_from(output_bytes_max).unwrap_or(0);
    Ok(CheckKind::Probe(ProbeDefinition {
        target,
        interval: positive(interval).unwrap_or_default().max(INTERVAL_MIN),
        timeout,
        tls_skip_verify: fields.boolean("TLSSkipVerify")?,
        success_before_passing: count(fields.integer("SuccessBeforePassing")?),
        failures_before_critical: count(fields.integer("FailuresBeforeCritical")?),
        output_bytes_max: if wanted == 0 { OUTPUT_BYTES_MAX } else { wanted.min(OUTPUT_BYTES_MAX) },
    }))
}

fn read_target(fields: &mut Fields) -> Result<Option<Target>, Refusal> {
    if fields.is_set("HTTP") {
        let method = fields.string("Method")?;
        return Ok(Some(Target::Http {
            url: fields.string("HTTP")?,
            method: if method.is_empty() { "GET".to_owned() } else { method },
            headers: fields.headers("Header")?,
            body: fields.string("Body")?,
        }));
    }
    if fields.is_set("TCP") {
        return Ok(Some(Target::Tcp { address: fields.string("TCP")? }));
    }
    if fields.is_set("GRPC") {
        let (target, tls) = (fields.string("GRPC")?, fields.boolean("GRPCUseTLS")?);
        return Ok(Some(Target::Grpc { target, tls }));
    }
    Ok(None)
}

/// Consul clamps shorter intervals.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Consul's default of `output_max_size`, which is also the largest value that a check may set.
const OUTPUT_BYTES_MAX: usize = 4096;
