//! The client's address behind trusted proxies.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

use crate::message::names::X_FORWARDED_FOR;

/// Whether the peer is trusted to describe earlier hops.
pub fn is_trusted(peer: IpAddr, trusted_proxies: &[IpNet]) -> bool {
    let peer = peer.to_canonical();
    trusted_proxies.iter().any(|net| net.contains(&peer))
}

/// The address of the client: the nearest one that is not a trusted proxy's.
///
/// `X-Forwarded-For` is walked from the right, since each proxy appends the address that it saw. Everything left of the first
/// untrusted address is only that client's claim. A value that is not an address ends the walk at the proxy that wrote it. If
/// all addresses are trusted, the leftmost one made the request.
pub fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> IpAddr {
    let mut nearest = peer.to_canonical();
    let lines = headers.get_all(&X_FORWARDED_FOR).iter();
    let mut hops = lines.rev().flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b','));
    while is_trusted(nearest, trusted_proxies) {
        let Some(hop) = hops.next().and_then(parse_hop) else {
            break;
        };
        nearest = hop;
    }
    nearest
}

/// Every address in `X-Forwarded-For`, whether a proxy or the client wrote it, except those of trusted proxies. `None` stands
/// for a value that is not an address.
pub fn claimed(headers: &HeaderMap, trusted_proxies: &[IpNet]) -> impl Iterator<Item = Option<IpAddr>> {
    let lines = headers.get_all(&X_FORWARDED_FOR).iter();
    let hops = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).map(parse_hop);
    hops.filter(|hop| hop.is_none_or(|hop| !is_trusted(hop, trusted_proxies)))
}

/// Parses an address, which some proxies write with brackets or a port.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim_ascii();
    if let Ok(address) = hop.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Ok(with_port) = hop.parse::<std::net::SocketAddr>() {
        return Some(with_port.ip().to_canonical());
    }
    let bracketed = hop.strip_prefix('[')?.strip_suffix(']')?;
    bracketed.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}
