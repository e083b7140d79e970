//! Frames, the states of streams, and frames of each kind (RFC 9113 §4 to §6).

use super::{
    COMPRESSION_ERROR, Case, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR,
    Must::{Answer, Connection, Stream},
    PADDED, PUSH_PROMISE, STREAM_CLOSED, WITH_PRIORITY,
};
use crate::support::frames::{
    ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY,
    PROTOCOL_ERROR, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, data, frame, headers, request, reset,
    settings, window_update,
};

/// The cases of a client with this scheme.
pub(super) fn cases(scheme: &'static str) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |section, what, parts: &[Vec<u8>], must| {
        cases.push(Case { section, what, bytes: parts.concat(), must });
    };
    let get = |stream| headers(stream, END_STREAM, &request(scheme, "GET", "/"));
    let post = |stream| headers(stream, 0, &request(scheme, "POST", "/"));
    let whole = block(&request(scheme, "GET", "/"));
    let word = |value: u32| value.to_be_bytes();

    // Frames.
    case("4.1", "a frame of an unknown type", &[frame(0x16, 0, 0, &[0; 8]), get(1)], Answer);
    case("4.1", "flags that nobody defined", &[frame(PING, 0x16, 0, &[0; 8]), get(1)], Answer);
    case("4.1", "the reserved bit of a stream's number", &[frame(PING, 0, 1 << 31, &[0; 8]), get(1)], Answer);
    case(
        "4.2",
        "DATA of more than the limit",
        &[post(1), data(1, 0, &vec![0; 16_385])],
        Stream(&[FRAME_SIZE_ERROR]),
    );
    case(
        "4.2",
        "HEADERS of more than the limit",
        &[frame(HEADERS, END_STREAM | END_HEADERS, 1, &vec![0; 16_385])],
        Connection(&[FRAME_SIZE_ERROR]),
    );
    case(
        "4.3",
        "a block that cannot be decoded",
        &[frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0x40, 1, b'a', 0xff])],
        Connection(&[COMPRESSION_ERROR]),
    );
    case(
        "4.3",
        "PRIORITY within a block",
        &[frame(HEADERS, END_STREAM, 1, &whole), frame(PRIORITY, 0, 1, &[0; 5])],
        Connection(&[PROTOCOL_ERROR]),
    );
    case(
        "4.3",
        "HEADERS of another stream within a block",
        &[frame(HEADERS, END_STREAM, 1, &whole), get(3)],
        Connection(&[PROTOCOL_ERROR]),
    );

    // States of streams.
    case(
        "5.1",
        "DATA on an idle stream",
        &[data(1, END_STREAM, b"x")],
        Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
    );
    case("5.1", "RST_STREAM on an idle stream", &[reset(1, CANCEL)], Connection(&[PROTOCOL_ERROR]));
    case("5.1", "WINDOW_UPDATE on an idle stream", &[window_update(1, 100)], Connection(&[PROTOCOL_ERROR]));
    case(
        "5.1",
        "CONTINUATION on an idle stream",
        &[frame(CONTINUATION, END_HEADERS, 1, &whole)],
        Connection(&[PROTOCOL_ERROR]),
    );
    case(
        "5.1",
        "DATA behind the end of a request",
        &[get(1), data(1, END_STREAM, b"x")],
        Stream(&[STREAM_CLOSED]),
    );
    case("5.1", "HEADERS behind the end of a request", &[get(1), get(1)], Stream(&[STREAM_CLOSED]));
    case(
        "5.1",
        "DATA behind a reset of one's own",
        &[post(1), reset(1, CANCEL), data(1, END_STREAM, b"x")],
        Stream(&[STREAM_CLOSED]),
    );
    case(
        "5.1",
        "HEADERS behind a reset of one's own",
        &[post(1), reset(1, CANCEL), get(1)],
        Stream(&[STREAM_CLOSED, PROTOCOL_ERROR]),
    );
    case("5.1.1", "an even number", &[get(2)], Connection(&[PROTOCOL_ERROR]));
    case(
        "5.1.1",
        "a number below the last one",
        &[get(5), get(3)],
        Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
    );
    case(
        "5.1.1",
        "the number zero",
        &[frame(HEADERS, END_STREAM | END_HEADERS, 0, &whole)],
        Connection(&[PROTOCOL_ERROR]),
    );
    case(
        "5.3.1",
        "a stream that depends on itself",
        &[frame(
            HEADERS,
            END_STREAM | END_HEADERS | WITH_PRIORITY,
            1,
            &[&word(1)[..], &[16], &whole].concat(),
        )],
        Stream(&[PROTOCOL_ERROR]),
    );

    // Frames of each kind.
    case("6.1", "DATA of the connection", &[post(1), data(0, 0, b"x")], Connection(&[PROTOCOL_ERROR]));
    case(
        "6.1",
        "DATA with more padding than bytes",
        &[post(1), frame(DATA, PADDED | END_STREAM, 1, &[6, 0, 0, 0])],
        Connection(&[PROTOCOL_ERROR]),
    );
    case(
        "6.2",
        "HEADERS with more padding than bytes",
        &[frame(HEADERS, PADDED | END_STREAM | END_HEADERS, 1, &[&[200][..], &whole].concat())],
        Connection(&[PROTOCOL_ERROR]),
    );
    case(
        "6.3",
        "PRIORITY of the connection",
        &[frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 16])],
        Connection(&[PROTOCOL_ERROR]),
    );
    case(
        "6.3",
        "PRIORITY of another length",
        &[get(1), frame(PRIORITY, 0, 3, &[0; 4])],
        Stream(&[FRAME_SIZE_ERROR]),
    );
    case("6.4", "RST_STREAM of the connection", &[reset(0, CANCEL)], Connection(&[PROTOCOL_ERROR]));
    case(
        "6.4",
        "RST_STREAM of another length",
        &[post(1), frame(RST_STREAM, 0, 1, &[0; 3])],
        Connection(&[FRAME_SIZE_ERROR]),
    );
    case(
        "6.5",
        "an acknowledgement with content",
        &[frame(SETTINGS, ACK, 0, &[0; 6])],
        Connection(&[FRAME_SIZE_ERROR]),
    );
    case("6.5", "SETTINGS of a stream", &[frame(SETTINGS, 0, 1, &[])], Connection(&[PROTOCOL_ERROR]));
    case(
        "6.5",
        "SETTINGS of another length",
        &[frame(SETTINGS, 0, 0, &[0; 3])],
        Connection(&[FRAME_SIZE_ERROR]),
    );
    case("6.5.2", "ENABLE_PUSH of 2", &[settings(&[(2, 2)])], Connection(&[PROTOCOL_ERROR]));
    case(
        "6.5.2",
        "a window beyond the largest",
        &[settings(&[(4, 1 << 31)])],
        Connection(&[FLOW_CONTROL_ERROR]),
    );
    case(
        "6.5.2",
        "a frame size below the smallest",
        &[settings(&[(5, 16_383)])],
        Connection(&[PROTOCOL_ERROR]),
    );
    case(
        "6.5.2",
        "a frame size beyond the largest",
        &[settings(&[(5, 1 << 24)])],
        Connection(&[PROTOCOL_ERROR]),
    );
    case("6.5.2", "a setting that nobody defined", &[settings(&[(0xff, 1)]), get(1)], Answer);
    case(
        "6.6",
        "PUSH_PROMISE of a client",
        &[post(1), frame(PUSH_PROMISE, END_HEADERS, 1, &[&word(2)[..], &whole].concat())],
        Connection(&[PROTOCOL_ERROR]),
    );
    case("6.7", "PING of a stream", &[frame(PING, 0, 1, &[0; 8])], Connection(&[PROTOCOL_ERROR]));
    case("6.7", "PING of another length", &[frame(PING, 0, 0, &[0; 6])], Connection(&[FRAME_SIZE_ERROR]));
    case("6.7", "an answer to no PING", &[frame(PING, ACK, 0, &[0; 8]), get(1)], Answer);
    case("6.8", "GOAWAY of a stream", &[frame(GOAWAY, 0, 1, &[0; 8])], Connection(&[PROTOCOL_ERROR]));
    case("6.9", "WINDOW_UPDATE of nothing", &[window_update(0, 0)], Connection(&[PROTOCOL_ERROR]));
    case(
        "6.9",
        "WINDOW_UPDATE of nothing on a stream",
        &[post(1), window_update(1, 0)],
        Stream(&[PROTOCOL_ERROR]),
    );
    case(
        "6.9",
        "WINDOW_UPDATE of another length",
        &[frame(WINDOW_UPDATE, 0, 0, &[0; 3])],
        Connection(&[FRAME_SIZE_ERROR]),
    );
    case(
        "6.9.1",
        "a window of the connection beyond the largest",
        &[window_update(0, i32::MAX as u32), window_update(0, i32::MAX as u32)],
        Connection(&[FLOW_CONTROL_ERROR]),
    );
    case(
        "6.9.1",
        "a window of a stream beyond the largest",
        &[post(1), window_update(1, i32::MAX as u32), window_update(1, i32::MAX as u32)],
        Stream(&[FLOW_CONTROL_ERROR]),
    );
    case(
        "6.9.1",
        "more DATA than the window has",
        &[post(1), data(1, 0, &[0; 16_384]).repeat(4096)],
        Stream(&[FLOW_CONTROL_ERROR]),
    );
    case(
        "6.10",
        "a block in several frames",
        &[
            frame(HEADERS, END_STREAM, 1, &whole[..9]),
            frame(CONTINUATION, 0, 1, &whole[9..12]),
            frame(CONTINUATION, END_HEADERS, 1, &whole[12..]),
        ],
        Answer,
    );
    case(
        "6.10",
        "CONTINUATION behind the end of a block",
        &[post(1), frame(CONTINUATION, END_HEADERS, 1, &whole)],
        Connection(&[PROTOCOL_ERROR]),
    );
    case(
        "6.10",
        "CONTINUATION of the connection",
        &[frame(HEADERS, END_STREAM, 1, &whole), frame(CONTINUATION, END_HEADERS, 0, b"")],
        Connection(&[PROTOCOL_ERROR]),
    );
    case(
        "6.10",
        "DATA within a block",
        &[frame(HEADERS, 0, 1, &whole), data(1, END_STREAM, b"x")],
        Connection(&[PROTOCOL_ERROR]),
    );
    cases
}
