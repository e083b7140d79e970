//! A request's body that is base64, as gRPC-Web has it in its text form: browsers of old could not send bytes.

use std::task::{Context, Poll, ready};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;

use super::{BodyError, ClientBody};

/// The body, decoded as it comes. Each piece that the client encoded may have its own padding.
#[derive(Debug)]
pub struct Base64Text {
    text: Box<ClientBody>,
    /// Characters of a group that is not complete: at most three.
    rest: Vec<u8>,
}

impl Base64Text {
    pub(super) fn new(text: ClientBody) -> Self {
        Self { text: Box::new(text), rest: Vec::new() }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.text.is_end_stream()
    }

    /// See [`ClientBody::poll_data`].
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            let Some(came) = ready!(self.text.poll_data(cx)) else {
                // A group that is never complete.
                let is_whole = self.rest.is_empty();
                return Poll::Ready(if is_whole { None } else { Some(Err(BodyError::Broken)) });
            };
            self.rest.extend_from_slice(&came?);
            let whole = self.rest.len() / GROUP * GROUP;
            let Some(decoded) = decode(self.rest.get(..whole).unwrap_or_default()) else {
                return Poll::Ready(Some(Err(BodyError::Broken)));
            };
            self.rest.drain(..whole);
            if !decoded.is_empty() || self.is_end_stream() {
                return Poll::Ready(Some(Ok(decoded.into())));
            }
        }
    }
}

/// Whole groups, of which some may end with padding. `None`: it is not base64.
fn decode(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len() / GROUP * 3);
    while !text.is_empty() {
        let padded = text.chunks(GROUP).position(|group| group.ends_with(b"="));
        let end = padded.map_or(text.len(), |group| (group + 1) * GROUP);
        let (piece, rest) = text.split_at_checked(end)?;
        BASE64.decode_vec(piece, &mut decoded).ok()?;
        text = rest;
    }
    Some(decoded)
}

/// Characters that encode three bytes.
const GROUP: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_with_padding_of_their_own_are_decoded_one_after_the_other() {
        for (text, expected) in [
            ("", Some("")),
            ("aGVsbG8h", Some("hello!")),
            ("aGVsbG8=", Some("hello")),
            ("aA==aQ==", Some("hi")),
            ("aGVsbG8=IQ==YWJj", Some("hello!abc")),
            ("a===", None),
            ("aG!s", None),
            ("=GVs", None),
        ] {
            assert_eq!(decode(text.as_bytes()), expected.map(|text| text.as_bytes().to_vec()), "{text}");
        }
    }
}
