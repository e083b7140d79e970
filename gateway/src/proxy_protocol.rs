//! The PROXY protocol, with which a load balancer says in front of a connection whose connection it is (HAProxy's
//! `proxy-protocol.txt`, versions 1 and 2).
//!
//! The reader is strict: a header has one reading, or it is refused. Version 1 is at most [`TEXT_BYTES_MAX`] bytes with single
//! spaces, addresses of the stated family, and ports without a sign or leading zeros. Version 2 is at most
//! [`HEADER_BYTES_MAX`] bytes; its address block and its fields (TLVs) must fit into the stated length, and a CRC-32C among them
//! must be right. It takes what the specification says a receiver must take: LOCAL whatever its family is, which load
//! balancers send with their health checks, UNKNOWN and unspecified families. Then the connection's own address counts.
//! Addresses of Unix sockets are skipped in the same way; datagrams are refused, since no connection consists of them.
//!
//! Crates for this accept more (a sign or zeros in front of ports, another byte for the first space, text after UNKNOWN), or less
//! (LOCAL without addresses), and do not check the CRC. A test compares the reader with one of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crc::Crc;

/// Whether connections of a listener begin with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProxyProtocol {
    /// Never.
    #[default]
    Off,
    /// A trusted proxy may send one.
    Optional,
    /// Only trusted proxies connect, and each connection has one.
    Required,
}

impl ProxyProtocol {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

/// The version of the header that a service gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeaderVersion {
    /// Version 1.
    Text,
    /// Version 2.
    Binary,
}

/// A client's connection, as a header describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    source: SocketAddr,
    destination: SocketAddr,
}

impl Hop {
    /// The connection of a client to an address of the gateway. Both get the family of IPv6 if they differ, since a header has only one.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        let [from, to] = [source, destination].map(|address| address.ip().to_canonical());
        let [from, to] = match (from, to) {
            (IpAddr::V4(v4), IpAddr::V6(_)) => [v4.to_ipv6_mapped().into(), to],
            (IpAddr::V6(_), IpAddr::V4(v4)) => [from, v4.to_ipv6_mapped().into()],
            _ => [from, to],
        };
        Self {
            source: SocketAddr::new(from, source.port()),
            destination: SocketAddr::new(to, destination.port()),
        }
    }
}

/// The header for a connection to a service. `None`: a connection of the gateway's own.
pub(crate) fn header(version: HeaderVersion, hop: Option<Hop>) -> Vec<u8> {
    match version {
        HeaderVersion::Text => {
            let Some(Hop { source, destination }) = hop else { return b"PROXY UNKNOWN\r\n".to_vec() };
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let ((from, to), ports) = ((source.ip(), destination.ip()), (source.port(), destination.port()));
            format!("PROXY {family} {from} {to} {} {}\r\n", ports.0, ports.1).into_bytes()
        }
        HeaderVersion::Binary => {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            let block = hop.map(|Hop { source, destination }| {
                let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
                (source.is_ipv4(), [octets(source.ip()), octets(destination.ip()), ports].concat())
            });
            let (kind, block): ([u8; 4], _) = match block {
                None => ([0x20, 0x00, 0, 0], Vec::new()),
                Some((true, block)) => ([0x21, 0x11, 0, 12], block),
                Some((false, block)) => ([0x21, 0x21, 0, 36], block),
            };
            [SIGNATURE, &kind, &block].concat()
        }
    }
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirstBytes {
    /// The bytes are the beginning of a header, or may become it.
    Incomplete,
    /// The bytes are no header.
    Absent,
    /// The header ends after so many bytes. `None`: the connection's own address counts.
    Header { bytes: usize, source: Option<SocketAddr> },
    /// The bytes begin as a header, and are not a valid one: the part that is wrong.
    Invalid(&'static str),
}

/// Reads the first bytes of a connection.
pub(crate) fn read(bytes: &[u8]) -> FirstBytes {
    if SIGNATURE.starts_with(bytes) || TEXT_PREFIX.starts_with(bytes) {
        return FirstBytes::Incomplete;
    }
    if bytes.starts_with(SIGNATURE) {
        return binary(bytes).unwrap_or_else(FirstBytes::Invalid);
    }
    match bytes.strip_prefix(TEXT_PREFIX) {
        Some(rest) => text(rest).unwrap_or_else(FirstBytes::Invalid),
        None => FirstBytes::Absent,
    }
}

/// Version 1, after `PROXY `.
fn text(rest: &[u8]) -> Result<FirstBytes, &'static str> {
    let longest = TEXT_BYTES_MAX - TEXT_PREFIX.len();
    let end = rest.iter().take(longest).position(|byte| !(b' '..=b'~').contains(byte));
    let Some(end) = end else {
        return if rest.len() < longest { Ok(FirstBytes::Incomplete) } else { Err("length") };
    };
    let (line, ending) = rest.split_at(end);
    match ending {
        [b'\r'] if end + 1 < longest => return Ok(FirstBytes::Incomplete),
        [b'\r', b'\n', ..] if end + 1 < longest => {}
        _ => return Err("end of line"),
    }
    let line = str::from_utf8(line).map_err(|_| "text")?;
    let bytes = TEXT_PREFIX.len() + end + 2;
    let mut parts = line.split(' ');
    let family = parts.next().unwrap_or_default();
    if family == "UNKNOWN" {
        // The rest of the line is to be ignored.
        return Ok(FirstBytes::Header { bytes, source: None });
    }
    let parts: Vec<&str> = parts.collect();
    let [source, destination, source_port, destination_port] = *parts else { return Err("fields") };
    let address = |text: &str| -> Result<IpAddr, &'static str> {
        let address = match family {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6),
            _ => return Err("family"),
        };
        address.map_err(|_| "address")
    };
    let source = SocketAddr::new(address(source)?, port(source_port)?);
    let _ = (address(destination)?, port(destination_port)?);
    Ok(FirstBytes::Header { bytes, source: Some(source) })
}

/// A port as the specification writes it: digits without a sign, and without zeros in front.
fn port(text: &str) -> Result<u16, &'static str> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain).ok_or("port")
}

/// Version 2, which begins with [`SIGNATURE`].
fn binary(bytes: &[u8]) -> Result<FirstBytes, &'static str> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
        return Ok(FirstBytes::Incomplete);
    };
    let [.., version_and_command, family, high, low] = *head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        other if other >> 4 == 2 => return Err("command"),
        _ => return Err("version"),
    };
    // The limit is checked before the bytes come, so nothing waits for more than it.
    if HEAD_BYTES + length > HEADER_BYTES_MAX {
        return Err("length");
    }
    let Some(block) = rest.get(..length) else { return Ok(FirstBytes::Incomplete) };
    let bytes_of_header = HEAD_BYTES + length;
    let own = Ok(FirstBytes::Header { bytes: bytes_of_header, source: None });
    if is_local {
        return own;
    }
    let address_bytes = match family {
        // Nothing is known of the block.
        0x00..=0x02 => return own,
        0x10 | 0x11 => 12,
        0x20 | 0x21 => 36,
        0x30 | 0x31 => 216,
        0x12 | 0x22 | 0x32 => return Err("datagram"),
        _ => return Err("family"),
    };
    let (addresses, fields) = block.split_at_checked(address_bytes).ok_or("length")?;
    check_fields(bytes.get(..bytes_of_header).unwrap_or_default(), fields)?;
    let source = match (family, addresses) {
        (0x11, [a, b, c, d, _, _, _, _, high, low, ..]) => {
            Some(SocketAddr::new([*a, *b, *c, *d].into(), u16::from_be_bytes([*high, *low])))
        }
        (0x21, _) => addresses.split_first_chunk::<16>().and_then(|(source, rest)| {
            let port = rest.get(16..18)?.try_into().ok()?;
            Some(SocketAddr::new((*source).into(), u16::from_be_bytes(port)))
        }),
        _ => None,
    };
    Ok(FirstBytes::Header { bytes: bytes_of_header, source })
}

/// Checks that the fields after the addresses end where the header ends, and the CRC if there is one. Everything else in them is
/// skipped.
fn check_fields(header: &[u8], mut fields: &[u8]) -> Result<(), &'static str> {
    while let Some((&[kind, high, low], rest)) = fields.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, others) = rest.split_at_checked(length).ok_or("field")?;
        if kind == CRC32C {
            let stated: [u8; 4] = value.try_into().map_err(|_| "checksum")?;
            let before = header.len() - rest.len();
            if crc32c(header, before) != u32::from_be_bytes(stated) {
                return Err("checksum");
            }
        }
        fields = others;
    }
    if fields.is_empty() { Ok(()) } else { Err("field") }
}

/// The CRC of the header, with zeros in the place of the four bytes at `at`, where the value itself stands.
fn crc32c(header: &[u8], at: usize) -> u32 {
    let mut digest = CRC_32C.digest();
    digest.update(header.get(..at).unwrap_or(header));
    if let Some(after) = header.get(at + 4..) {
        digest.update(&[0; 4]);
        digest.update(after);
    }
    digest.finalize()
}

static CRC_32C: Crc<u32> = Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// The longest header of version 1 that the specification has, with its line end.
pub(crate) const TEXT_BYTES_MAX: usize = 107;
/// The longest header of version 2 that is read. Two addresses take 232 bytes at most; fields of 3 KiB beside them have room for
/// certificates' names and the ids of clouds. A longer one is most likely not a header.
pub(crate) const HEADER_BYTES_MAX: usize = 4096;

const TEXT_PREFIX: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, and the length of the rest.
const HEAD_BYTES: usize = 16;
const CRC32C: u8 = 3;

#[cfg(test)]
mod tests;
