//! The header blocks of HTTP/2 responses: what no later response repeats stays out of the table that client and gateway share
//! (RFC 7541 §7.1.3).

use crate::support::{
    backend::Backend,
    frames::{END_STREAM, Field, HEADERS, Listeners, headers, request},
};

/// How a field is written (RFC 7541 §6), with the index of its name in the static table, or 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// It is in the table.
    Indexed,
    /// It goes into the table.
    Inserted(usize),
    /// It stays out of the table this time.
    Plain(usize),
    NeverIndexed(usize),
}

/// The fields of a header block. A name without an index is a literal.
fn fields(mut block: &[u8]) -> Vec<Written> {
    let mut fields = Vec::new();
    while let Some(&first) = block.first() {
        let (form, prefix): (fn(usize) -> Written, _) = match first {
            0x80.. => (|_| Written::Indexed, 7),
            0x40.. => (Written::Inserted, 6),
            0x20.. => {
                integer(&mut block, 5);
                continue;
            }
            0x10.. => (Written::NeverIndexed, 4),
            _ => (Written::Plain, 4),
        };
        let name = integer(&mut block, prefix);
        let field = form(name);
        let texts = if field == Written::Indexed { 0 } else { 1 + usize::from(name == 0) };
        for _ in 0..texts {
            let length = integer(&mut block, 7);
            block = &block[length..];
        }
        fields.push(field);
    }
    fields
}

/// An integer whose first byte has a prefix of so many bits (RFC 7541 §5.1).
fn integer(block: &mut &[u8], prefix: u32) -> usize {
    let (first, mut rest) = block.split_first().unwrap();
    let max = (1 << prefix) - 1;
    let mut value = usize::from(*first) & max;
    if value == max {
        let mut shift = 0;
        loop {
            let (byte, left) = rest.split_first().unwrap();
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            rest = left;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *block = rest;
    value
}

/// The index of `date` in the static table (RFC 7541, appendix A). It changes once a second.
const DATE: usize = 33;

#[tokio::test]
async fn an_id_and_a_limits_state_stay_out_of_the_table_and_other_fields_are_sent_once() {
    let service = Backend::named("one").await;
    let config = format!(
        "routes: [{{path: /**, service: s, rate_limit: 1000/h per ip}}]\n\
        services: {{s: {{hosts: [\"{}\"]}}}}\n",
        service.addr
    );
    // So that the client may send an id of its own, too.
    let listeners = Listeners::start(", trusted_proxies: [127.0.0.1]", &config).await;
    for over_tls in [false, true] {
        let mut client = listeners.open(over_tls).await;
        for stream in [1, 3, 5, 7] {
            let id = format!("id-{stream}");
            let own_id: &[Field<'_>] = if stream < 5 { &[] } else { &[(b"x-request-id", id.as_bytes())] };
            let sent = [&request(client.scheme, "GET", "/x")[..], own_id].concat();
            client.send(&headers(stream, END_STREAM, &sent)).await;
            let head = client.next_where(|frame| frame.kind == HEADERS && frame.stream == stream).await;
            assert_eq!(head.status(), Some(200));
            let fields = fields(&head.payload);
            let count = |wanted: fn(&Written) -> bool| fields.iter().filter(|field| wanted(field)).count();
            // `x-request-id` and `ratelimit`.
            assert_eq!(count(|field| *field == Written::NeverIndexed(0)), 2, "{stream}: {fields:?}");
            let inserted = count(|field| matches!(field, Written::Inserted(name) if *name != DATE));
            if stream == 1 {
                // At least `via` and `ratelimit-policy`.
                assert!(inserted >= 2, "{fields:?}");
            } else {
                assert_eq!(inserted, 0, "{stream}: {fields:?}");
            }
        }
    }
}
