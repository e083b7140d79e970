//! Forwarded addresses: the nearest untrusted hop cannot choose the client's address.

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::headers::{claimed, client_ip, is_trusted};

/// Checks that entries left of the client's address do not change it, and that an untrusted peer is the client itself. Each
/// line of the data is one line of `X-Forwarded-For`.
///
/// # Panics
/// The property is violated.
pub fn forwarded(data: &[u8]) {
    let trusted: [IpNet; 2] = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().expect("a network"));
    let lines: Vec<HeaderValue> =
        data.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let headers = of_lines(&lines);
    let stranger = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    assert_eq!(client_ip(stranger, &headers, &trusted), stranger, "an untrusted peer speaks for itself only");

    let peer = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    let client = client_ip(peer, &headers, &trusted);
    assert_eq!(client, oracle(peer, &lines, &trusted));
    let all: Vec<Option<IpAddr>> = claimed(&headers, &trusted).collect();
    if !is_trusted(client, &trusted) {
        assert!(all.contains(&Some(client)), "an untrusted client is one of the addresses that are checked");
        let forged = [vec![HeaderValue::from_static("10.9.9.9, unknown, 203.0.113.9")], lines].concat();
        assert_eq!(
            client_ip(peer, &of_lines(&forged), &trusted),
            client,
            "what stands left of it is a claim"
        );
    }
}

fn of_lines(lines: &[HeaderValue]) -> HeaderMap {
    let name = HeaderName::from_static("x-forwarded-for");
    lines.iter().map(|line| (name.clone(), line.clone())).collect()
}

/// The expected client, from all hops in one list, the farthest first, with the peer at its end.
fn oracle(peer: IpAddr, lines: &[HeaderValue], trusted: &[IpNet]) -> IpAddr {
    let whole = lines.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b","[..]);
    let mut hops: Vec<Option<IpAddr>> = match lines {
        [] => Vec::new(),
        _ => whole.split(|byte| *byte == b',').map(read).collect(),
    };
    hops.push(Some(peer));
    // From the right: the first hop that is untrusted, or that is followed by one that cannot be read.
    let mut client = peer;
    for hop in hops.into_iter().rev() {
        let Some(address) = hop else { return client };
        client = address;
        if !trusted.iter().any(|network| network.contains(&address)) {
            return client;
        }
    }
    client
}

fn read(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim_matches([' ', '\t', '\r', '\u{c}']);
    let address = match text.strip_prefix('[') {
        Some(rest) => {
            let (inside, port) = rest.split_once(']')?;
            match port.strip_prefix(':') {
                None if port.is_empty() => inside.parse().ok()?,
                None => return None,
                // The library accepts scopes of link-local addresses.
                Some(_) => {
                    return text.parse::<std::net::SocketAddrV6>().ok().map(|at| at.ip().to_canonical());
                }
            }
        }
        None if text.matches(':').count() == 1 => {
            let (address, port) = text.split_once(':')?;
            port.parse::<u16>().ok().filter(|_| port.bytes().all(|byte| byte.is_ascii_digit()))?;
            IpAddr::V4(address.parse().ok()?)
        }
        None => text.parse().ok()?,
    };
    Some(address.to_canonical())
}
