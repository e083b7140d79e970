//! Help for values as other gateways write them: our value, or that Millgate has none.

/// The value to write instead of a refused one of the field `name`. `None`: the reader's own help is the best.
pub(super) fn cure(name: &str, text: &str) -> Option<String> {
    let field = name.rsplit('.').next().unwrap_or(name);
    if field == "access_log" && text.contains('/') {
        return Some(format!("write `access_log: {{file: {text}}}`"));
    }
    let text = text.to_ascii_lowercase().replace('-', "_");
    let is_it = |row: &&(&str, &str, &str)| {
        (row.0 == name || row.0 == field) && row.1.split(' ').any(|word| word == text)
    };
    VALUES.iter().find(is_it).map(|(.., cure)| (*cure).to_owned())
}

/// The field, the values of other products in lower case with `_`, and the cure.
const VALUES: [(&str, &str, &str); 27] = [
    ("balance", "least_conn leastconn least_request least_connections leastrequest", "write `least`"),
    (
        "balance",
        "wrr weighted weighted_round_robin swrr rr roundrobin",
        "write `round_robin`: it uses the weights that Consul has",
    ),
    ("balance", "random_choose power_of_two two_choices", "write `p2c`"),
    ("balance", "ewma p2c_ewma peakewma least_time latency", "write `peak_ewma`"),
    (
        "balance",
        "ip_hash source hash consistent_hashing consistent_hash ring_hash maglev uri uri_hash url_param cookie sticky hrw client_ip_hash",
        "write `round_robin`, or leave `balance` away: a client is not tied to one instance in this version",
    ),
    (
        "balance",
        "first pick_first static_rr passthrough original_dst cluster_provided",
        "write `round_robin`, or leave `balance` away",
    ),
    ("protocol", "http2 http/2", "write `h2c` for HTTP/2 in cleartext, or `h2` for HTTP/2 over TLS"),
    ("protocol", "tls ssl", "write `https`"),
    ("protocol", "http3 h3 quic", "write `http` or `h2`: services get HTTP/1.1 or HTTP/2"),
    ("protocol", "ws wss", "write `http` or `https`: WebSocket passes on every route by default"),
    (
        "protocol",
        "tcp udp fastcgi uwsgi",
        "write `http` or `https`: the gateway speaks nothing else with services",
    ),
    ("retry.on", "connect_failure conn_failure error connection_error connect_error", "write `connect`"),
    ("retry.on", "refused_stream", "write `refused`"),
    (
        "retry.on",
        "empty_response junk_response invalid_header reset_before_request connection_reset",
        "write `reset`",
    ),
    ("retry.on", "response_timeout http_408 per_try_timeout", "write `timeout`"),
    (
        "retry.on",
        "5xx gateway_error 500_599 all_retryable_errors",
        "write `on: [connect, refused, reset, timeout, 502, 503, 504]`: each status by itself",
    ),
    ("retry.on", "http_502", "write `502`"),
    ("retry.on", "http_503", "write `503`"),
    ("retry.on", "http_504", "write `504`"),
    ("from", "authorization header:authorization authorization_header", "write `bearer`"),
    ("from", "cookie", "write `cookie:session`, with the cookie's name"),
    ("from", "query uri_param param", "write `query:access_token`, with the parameter's name"),
    ("from", "header", "write `header:X-Token`, with the header's name"),
    (
        "access_log",
        "on true yes stdout stderr enabled /dev/stdout main",
        "write `json` or `combined`: the lines go to standard output",
    ),
    ("access_log.format", "common clf apache main ncsa", "write `combined`"),
    ("access_log.format", "logfmt text plain default console", "write `json` or `combined`"),
    ("body_limit", "0 0b unlimited none _1 infinity", "write `off` for no limit"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_one_cure() {
        for (at, (field, words, _)) in VALUES.iter().enumerate() {
            for word in words.split(' ') {
                let others = VALUES[at + 1..].iter().filter(|other| other.0 == *field);
                assert!(
                    others.clone().all(|other| other.1.split(' ').all(|other| other != word)),
                    "{field}: {word}"
                );
            }
        }
    }
}
