//! The reader against examples of the specification, against every cut of a header, and against a crate.

use proptest::prelude::*;
use proxy_header::{ParseConfig, ProxyHeader};

use super::*;

/// A header of version 2.
fn v2(version_and_command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[version_and_command, family], &length, block].concat()
}

const INET: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 0x01, 0xbb];

fn taken(bytes: &[u8], source: Option<&str>) -> FirstBytes {
    FirstBytes::Header { bytes: bytes.len(), source: source.map(|text| text.parse().unwrap()) }
}

#[test]
fn both_versions_are_read_up_to_the_first_byte_behind_them() {
    let unix = [b"/run/client.sock".as_slice(), &[0; 200]].concat();
    let v6 = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7], [0; 16]].concat();
    let v6 = [&v6[..], &[0, 80, 1, 0xbb]].concat();
    let mapped = "PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n";
    for (header, source) in [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n".to_vec(), Some("192.0.2.7:40000")),
        (
            b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n".to_vec(),
            Some("255.255.255.255:65535"),
        ),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 0 0\r\n".to_vec(), Some("192.0.2.7:0")),
        (b"PROXY TCP6 2001:db8::7 ::1 40000 443\r\n".to_vec(), Some("[2001:db8::7]:40000")),
        (mapped.as_bytes().to_vec(), Some("[::ffff:192.0.2.7]:1")),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (b"PROXY UNKNOWN ffff::ffff ffff::ffff 65535 65535\r\n".to_vec(), None),
        (v2(0x21, 0x11, &INET), Some("192.0.2.7:40000")),
        (v2(0x21, 0x21, &v6), Some("[2001:db8::7]:80")),
        (v2(0x21, 0x31, &unix), None),
        (v2(0x21, 0x00, &[]), None),
        (v2(0x21, 0x00, b"anything"), None),
        // The family of LOCAL is to be ignored, with everything else.
        (v2(0x20, 0x00, &[]), None),
        (v2(0x20, 0x11, &[]), None),
        (v2(0x20, 0xff, &INET), None),
        // A field of a cloud, and padding.
        (v2(0x21, 0x11, &[&INET[..], &[0xea, 0, 2, 1, 2], &[4, 0, 0]].concat()), Some("192.0.2.7:40000")),
    ] {
        let shown = header.escape_ascii().to_string();
        for behind in ["", "GET / HTTP/1.1\r\n\r\n", "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n"] {
            let all = [&header, behind.as_bytes()].concat();
            assert_eq!(read(&all), taken(&header, source), "{shown}");
        }
        for cut in 0..header.len() {
            assert_eq!(read(&header[..cut]), FirstBytes::Incomplete, "{cut} bytes of {shown}");
        }
    }
}

#[test]
fn what_has_no_single_reading_is_refused() {
    let cases: [(&[u8], &str); 25] = [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 040 443\r\n", "port"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 +40 443\r\n", "port"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 40 65536\r\n", "port"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 40 \r\n", "port"),
        (b"PROXY TCP4 192.0.2.007 198.51.100.1 40 443\r\n", "address"),
        (b"PROXY TCP4 192.0.2 198.51.100.1 40 443\r\n", "address"),
        (b"PROXY TCP4 2001:db8::7 ::1 40 443\r\n", "address"),
        (b"PROXY TCP4 192.0.2.7 ::1 40 443\r\n", "address"),
        (b"PROXY TCP6 192.0.2.7 198.51.100.1 40 443\r\n", "address"),
        (b"PROXY TCP6 fe80::1%eth0 ::1 40 443\r\n", "address"),
        (b"PROXY TCP4  192.0.2.7 198.51.100.1 40 443\r\n", "fields"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 40 443 \r\n", "fields"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 40\r\n", "fields"),
        (b"PROXY UDP4 192.0.2.7 198.51.100.1 40 443\r\n", "family"),
        (b"PROXY tcp4 192.0.2.7 198.51.100.1 40 443\r\n", "family"),
        (b"PROXY UNKNOWNS\r\n", "fields"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 40 443\n", "end of line"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 40 443\rG", "end of line"),
        (b"PROXY TCP4\t192.0.2.7 198.51.100.1 40 443\r\n", "end of line"),
        (b"PROXY UNKNOWN \xff\r\n", "end of line"),
        (b"\r\n\r\n\0\r\nQUIT\n\x11\x11\x00\x0c", "version"),
        (b"\r\n\r\n\0\r\nQUIT\n\x31\x11\x00\x0c", "version"),
        (b"\r\n\r\n\0\r\nQUIT\n\x22\x11\x00\x0c", "command"),
        // One byte more than the limit, of which nothing has to come first.
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x0f\xf1", "length"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\x00\xff\xff", "length"),
    ];
    for (bytes, wrong) in cases {
        assert_eq!(read(bytes), FirstBytes::Invalid(wrong), "{}", bytes.escape_ascii());
    }
    let field = |field: &[u8]| v2(0x21, 0x11, &[&INET[..], field].concat());
    for (bytes, wrong) in [
        (v2(0x21, 0x11, &INET[..11]), "length"),
        (v2(0x21, 0x21, &INET), "length"),
        (v2(0x21, 0x31, &INET), "length"),
        (v2(0x21, 0x12, &INET), "datagram"),
        (v2(0x21, 0x41, &INET), "family"),
        (v2(0x21, 0x13, &INET), "family"),
        (field(&[4, 0]), "field"),
        (field(&[4, 0, 2, 0]), "field"),
        (field(&[4, 0xff, 0xff]), "field"),
        (field(&[3, 0, 4, 1, 2, 3, 4]), "checksum"),
        (field(&[3, 0, 3, 1, 2, 3]), "checksum"),
    ] {
        assert_eq!(read(&bytes), FirstBytes::Invalid(wrong), "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_line_of_107_bytes_is_read_and_a_longer_one_is_refused_without_its_end() {
    let line = |bytes: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(bytes - 16)).into_bytes();
    assert_eq!(read(&line(TEXT_BYTES_MAX)), taken(&line(TEXT_BYTES_MAX), None));
    assert!(matches!(read(&line(TEXT_BYTES_MAX + 1)), FirstBytes::Invalid(_)));
    assert_eq!(read(&line(TEXT_BYTES_MAX)[..106]), FirstBytes::Incomplete);
    assert_eq!(read(format!("PROXY {}", "x".repeat(101)).as_bytes()), FirstBytes::Invalid("length"));
}

#[test]
fn what_begins_otherwise_is_no_header() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PRI * HTTP/2.0\r\n",
        b"PROPFIND / HTTP/1.1\r\n",
        b"PROXY\tTCP4",
        b"proxy TCP4 ",
        b"\r\nGET / HTTP/1.1",
        b"\r\n\r\nGET / HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01",
        b"\r\n\r\n\0\r\nQUIT\r\n",
    ] {
        assert_eq!(read(bytes), FirstBytes::Absent, "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_checksum_that_is_right_is_taken_and_each_changed_bit_is_found() {
    assert_eq!(crc32c(b"123456789", 100), 0xe306_9283, "the check value of CRC-32C");
    let mut header =
        v2(0x21, 0x11, &[&INET[..], &[5, 0, 1, 9], &[3, 0, 4, 0, 0, 0, 0], &[4, 0, 1, 0]].concat());
    let at = header.len() - 8;
    let sum = crc32c(&header, at).to_be_bytes();
    header[at..at + 4].copy_from_slice(&sum);
    assert_eq!(read(&header), taken(&header, Some("192.0.2.7:40000")));
    // The signature, the lengths and the kinds of fields are found otherwise, if at all.
    for place in (16..28).chain([31]).chain(at..at + 4).chain([header.len() - 1]) {
        for bit in 0..8 {
            let mut changed = header.clone();
            changed[place] ^= 1 << bit;
            assert_eq!(read(&changed), FirstBytes::Invalid("checksum"), "bit {bit} of byte {place}");
        }
    }
}

#[test]
fn what_is_written_is_read_back_by_the_reader_and_by_the_crate() {
    let hop =
        |source: &str, destination: &str| Hop::new(source.parse().unwrap(), destination.parse().unwrap());
    for (hop, source) in [
        (Some(hop("192.0.2.7:40000", "198.51.100.1:443")), Some("192.0.2.7:40000")),
        (Some(hop("[2001:db8::7]:1", "[::1]:443")), Some("[2001:db8::7]:1")),
        // Of two families, and as a socket of both families has them.
        (Some(hop("192.0.2.7:1", "[2001:db8::1]:443")), Some("[::ffff:192.0.2.7]:1")),
        (Some(hop("[2001:db8::7]:1", "198.51.100.1:443")), Some("[2001:db8::7]:1")),
        (Some(hop("[::ffff:192.0.2.7]:1", "[::ffff:198.51.100.1]:443")), Some("192.0.2.7:1")),
        (None, None),
    ] {
        for version in [HeaderVersion::Text, HeaderVersion::Binary] {
            let bytes = header(version, hop);
            assert_eq!(read(&bytes), taken(&bytes, source));
            let (crates, length) = ProxyHeader::parse(&bytes, ParseConfig::default()).unwrap();
            let address = crates.proxied_address();
            assert_eq!(
                (address.map(|one| one.source), length),
                (source.map(|one| one.parse().unwrap()), bytes.len())
            );
            assert_eq!(address.map(|one| one.destination), hop.map(|hop| hop.destination));
        }
    }
}

/// Headers, and what is nearly one.
fn near_headers() -> impl Strategy<Value = Vec<u8>> {
    let text = "PROXY (TCP4|TCP6|UNKNOWN|TCP5) ?(1[0-9]{0,2}\\.0\\.2\\.[0-9]{1,3}|[0-9a-f:]{2,12}) (10\\.0\\.0\\.1|::1) \
                (0|[+]?[0-9]{1,5}) (0|[0-9]{1,5})\r?\n?";
    let text = proptest::string::string_regex(text).unwrap().prop_map(String::into_bytes);
    let kinds =
        (prop_oneof![Just(0x20), Just(0x21), any::<u8>()], prop_oneof![Just(0x11), Just(0x21), any::<u8>()]);
    let block = proptest::collection::vec(any::<u8>(), 0..300);
    let binary = (kinds, block).prop_map(|((command, family), block)| v2(command, family, &block));
    let spoiled = (any::<prop::sample::Index>(), any::<u8>(), 0..4_u8);
    let behind = proptest::collection::vec(any::<u8>(), 0..20);
    (prop_oneof![text, binary], spoiled, behind).prop_map(|(mut bytes, (at, byte, spoil), behind)| {
        if spoil == 0 && !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        [bytes, behind].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn what_is_taken_the_crate_reads_in_the_same_way(bytes in near_headers()) {
        let FirstBytes::Header { bytes: length, source } = read(&bytes) else { return Ok(()) };
        // The crate does not take LOCAL with another family than those of PROXY, nor unspecified parts of a family.
        let is_lenient = bytes.starts_with(SIGNATURE)
            && (bytes[12] == 0x20 || [0x01, 0x02, 0x10, 0x20, 0x30].contains(&bytes[13]));
        if !is_lenient {
            let (header, taken) = ProxyHeader::parse(&bytes, ParseConfig::default()).unwrap();
            prop_assert_eq!((header.proxied_address().map(|address| address.source), taken), (source, length));
        }
    }

    #[test]
    fn no_bytes_panic_and_more_bytes_change_no_verdict(bytes in near_headers(), cut in any::<prop::sample::Index>()) {
        let cut = cut.index(bytes.len() + 1);
        let (first, all) = (read(&bytes[..cut]), read(&bytes));
        prop_assert!(first == FirstBytes::Incomplete || first == all, "{first:?} became {all:?}");
    }
}
