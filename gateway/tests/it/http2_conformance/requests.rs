//! Requests (RFC 9113 §8), and how their fields are compressed (RFC 7541).

use super::{
    COMPRESSION_ERROR, Case,
    Must::{Connection, Stream},
};
use crate::support::frames::{
    END_HEADERS, END_STREAM, Field, HEADERS, PROTOCOL_ERROR, block, data, frame, headers, request,
};

/// The cases of a client with this scheme.
pub(super) fn cases(scheme: &'static str) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |section, what, parts: &[Vec<u8>], must| {
        cases.push(Case { section, what, bytes: parts.concat(), must });
    };
    let post = |stream| headers(stream, 0, &request(scheme, "POST", "/"));
    let with =
        |fields: &[Field<'_>]| headers(1, END_STREAM, &[&request(scheme, "GET", "/")[..], fields].concat());
    let only = |fields: &[Field<'_>]| headers(1, END_STREAM, fields);
    let whole = block(&request(scheme, "GET", "/"));

    // Requests.
    case(
        "8.1",
        "trailers that do not end the stream",
        &[post(1), headers(1, 0, &[(b"x-a", b"1")])],
        Stream(&[PROTOCOL_ERROR]),
    );
    case("8.2.1", "a name in upper case", &[with(&[(b"X-A", b"1")])], Stream(&[PROTOCOL_ERROR]));
    case("8.2.1", "a line end in a value", &[with(&[(b"x-a", b"1\r\nb: 2")])], Stream(&[PROTOCOL_ERROR]));
    case(
        "8.2.2",
        "a field of the connection",
        &[with(&[(b"connection", b"keep-alive")])],
        Stream(&[PROTOCOL_ERROR]),
    );
    case(
        "8.2.2",
        "te other than trailers",
        &[with(&[(b"te", b"trailers, deflate")])],
        Stream(&[PROTOCOL_ERROR]),
    );
    case(
        "8.3",
        "a pseudo-field that nobody defined",
        &[with(&[(b":test", b"1")])],
        Stream(&[PROTOCOL_ERROR]),
    );
    case("8.3", "a pseudo-field of a response", &[with(&[(b":status", b"200")])], Stream(&[PROTOCOL_ERROR]));
    case(
        "8.3",
        "a pseudo-field behind a field",
        &[only(&[
            (b":method", b"GET"),
            (b":scheme", scheme.as_bytes()),
            (b":authority", b"gw"),
            (b"x-a", b"1"),
            (b":path", b"/"),
        ])],
        Stream(&[PROTOCOL_ERROR]),
    );
    case(
        "8.3.1",
        "an empty path",
        &[only(&[
            (b":method", b"GET"),
            (b":scheme", scheme.as_bytes()),
            (b":authority", b"gw"),
            (b":path", b""),
        ])],
        Stream(&[PROTOCOL_ERROR]),
    );
    for (left_out, what) in [(0, "no method"), (1, "no scheme"), (3, "no path")] {
        let mut fields = request(scheme, "GET", "/");
        fields.remove(left_out);
        case("8.3.1", what, &[only(&fields)], Stream(&[PROTOCOL_ERROR]));
    }
    for (twice, what) in [(0, "two methods"), (1, "two schemes"), (3, "two paths")] {
        let mut fields = request(scheme, "GET", "/");
        fields.insert(twice, fields[twice]);
        case("8.3.1", what, &[only(&fields)], Stream(&[PROTOCOL_ERROR]));
    }
    let length = [&request(scheme, "POST", "/")[..], &[(b"content-length", b"1")]].concat();
    case(
        "8.1.1",
        "more content than its length says",
        &[headers(1, 0, &length), data(1, END_STREAM, b"xx")],
        Stream(&[PROTOCOL_ERROR]),
    );
    case(
        "8.1.1",
        "the same in two frames",
        &[headers(1, 0, &length), data(1, 0, b"x"), data(1, END_STREAM, b"x")],
        Stream(&[PROTOCOL_ERROR]),
    );
    case(
        "8.1.1",
        "less content than its length says",
        &[headers(1, 0, &length), data(1, END_STREAM, b"")],
        Stream(&[PROTOCOL_ERROR]),
    );

    // Compression of fields.
    let name = [0x00, 0x85, 0xf2, 0xb2, 0x4a, 0x84, 0xff];
    let hpack = |bytes: &[u8]| frame(HEADERS, END_STREAM | END_HEADERS, 1, &[&whole[..], bytes].concat());
    case(
        "RFC 7541 2.3.3",
        "an index that no table has",
        &[hpack(&[0xff, 0x7f])],
        Connection(&[COMPRESSION_ERROR]),
    );
    case("RFC 7541 4.2", "a table size behind fields", &[hpack(&[0x21])], Connection(&[COMPRESSION_ERROR]));
    case(
        "RFC 7541 5.2",
        "padding of Huffman codes of more than 7 bits",
        &[hpack(&[&name[..], &[0x84, 0x49, 0x50, 0x9f, 0xff]].concat())],
        Connection(&[COMPRESSION_ERROR]),
    );
    case(
        "RFC 7541 5.2",
        "padding of zeros",
        &[hpack(&[&name[..], &[0x83, 0x49, 0x50, 0x90]].concat())],
        Connection(&[COMPRESSION_ERROR]),
    );
    case(
        "RFC 7541 5.2",
        "the symbol that ends a string",
        &[hpack(&[&name[..], &[0x84, 0xff, 0xff, 0xff, 0xff]].concat())],
        Connection(&[COMPRESSION_ERROR]),
    );
    case("RFC 7541 6.1", "the index zero", &[hpack(&[0x80])], Connection(&[COMPRESSION_ERROR]));
    case(
        "RFC 7541 6.3",
        "a table beyond the announced size",
        &[frame(HEADERS, END_STREAM | END_HEADERS, 1, &[&[0x3f, 0xff, 0xff, 0x7f][..], &whole].concat())],
        Connection(&[COMPRESSION_ERROR]),
    );
    cases
}
