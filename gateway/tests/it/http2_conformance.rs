//! What a client must not send, section by section (RFC 9113, RFC 7541), over cleartext and TLS: the connection or the stream ends with the
//! code that the section names, or with `PROTOCOL_ERROR`, which the library says of many. The cases are those that h2spec checks of a server.
//!
//! One is left out: a pseudo-field in trailers (RFC 9113 §8.1), which the library drops before anybody can refuse it.

mod frames;
mod requests;

use std::{collections::BTreeSet, fmt::Write as _};

use Must::{Answer, Connection, Stream};
use tokio::time::Instant;

use crate::support::{
    DEADLINE,
    backend::Backend,
    frames::{Cut, Frame, FrameClient, GOAWAY, HEADERS, Listeners, PROTOCOL_ERROR, RST_STREAM, ping},
};

const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;
const PUSH_PROMISE: u8 = 5;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;

/// What must come of a case.
enum Must {
    /// The connection ends, with one of these codes where it says one.
    Connection(&'static [u32]),
    /// The stream ends with one of these codes, or with 400; or the connection does, with one of them.
    Stream(&'static [u32]),
    /// All is well: stream 1, or if there is none, the next request is answered with 200.
    Answer,
}

struct Case {
    section: &'static str,
    what: &'static str,
    bytes: Vec<u8>,
    must: Must,
}

/// `None`: as it must be. Otherwise what came.
async fn fault(mut client: FrameClient, case: &Case) -> Option<String> {
    // The gateway may have ended the connection before it has all bytes; what it said of that is read in any case.
    let _closed = client.try_send(&case.bytes, Cut::Whole).await;
    let is_end = |frame: &Frame| frame.kind == GOAWAY && frame.error_code() != Some(0);
    match case.must {
        Answer => {
            let answered = first(&mut client, |frame| frame.kind == HEADERS || is_end(frame)).await;
            let is_right = matches!(&answered, Ok(Some(frame)) if frame.status() == Some(200));
            (!is_right).then(|| format!("{answered:?}"))
        }
        Connection(codes) => match first(&mut client, is_end).await {
            // A connection may close without a word (RFC 9113 §5.4.1).
            Ok(None) => None,
            Ok(Some(end))
                if end.error_code().is_some_and(|code| code == PROTOCOL_ERROR || codes.contains(&code)) =>
            {
                None
            }
            other => Some(format!("{other:?}")),
        },
        Stream(codes) => {
            let of_stream =
                |frame: &Frame| is_end(frame) || frame.kind == RST_STREAM || frame.status() == Some(400);
            match first(&mut client, of_stream).await {
                Ok(None) => None,
                Ok(Some(end))
                    if end
                        .error_code()
                        .is_none_or(|code| code == PROTOCOL_ERROR || codes.contains(&code)) =>
                {
                    None
                }
                other => Some(format!("{other:?}")),
            }
        }
    }
}

/// The first frame that is wanted; `None`: the connection ended before. An error: the gateway has nothing to say of it.
async fn first(
    client: &mut FrameClient,
    wanted: impl Fn(&Frame) -> bool,
) -> Result<Option<Frame>, Vec<Frame>> {
    // It answers a PING once it has read everything before. Its streams may end a little later.
    let _closed = client.try_send(&ping(), Cut::Whole).await;
    let give_up = Instant::now() + DEADLINE / 5;
    let mut others = Vec::new();
    loop {
        match tokio::time::timeout_at(give_up, client.next()).await {
            Ok(Some(frame)) if wanted(&frame) => return Ok(Some(frame)),
            Ok(Some(frame)) => others.push(frame),
            Ok(None) => return Ok(None),
            Err(_) => return Err(others),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_must_not_send_ends_as_its_section_says() {
    let service = Backend::named("ok").await;
    let config = format!(
        "access_log: {{format: off}}\nroutes: [{{path: /**, service: s}}]\nservices: {{s: {{hosts: [\"{}\"]}}}}\n",
        service.addr
    );
    let listeners = Listeners::start("", &config).await;
    let mut faults = String::new();
    let mut sections = BTreeSet::new();
    for over_tls in [false, true] {
        let scheme = if over_tls { "https" } else { "http" };
        for case in frames::cases(scheme).into_iter().chain(requests::cases(scheme)) {
            sections.insert(case.section);
            let client = listeners.open(over_tls).await;
            if let Some(came) = fault(client, &case).await {
                let _ = writeln!(faults, "§{} {} (TLS: {over_tls}): {came}", case.section, case.what);
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
    assert!(sections.len() > 20, "{sections:?}");
}
