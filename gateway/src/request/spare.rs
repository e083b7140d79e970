//! A spare of a request: a copy of its head, in case the upstream has closed the connection on which the request was
//! sent.
//!
//! Nearly every spare is dropped unused, so it is made cheaply: names and values are copied into one buffer, and only a
//! retry makes a header map from them. A clone of the map would take two allocations and touch the reference count of
//! every value, for each request.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use crate::body::RequestBody;

/// A copy of a request's head.
#[derive(Debug)]
pub(super) struct Spare {
    method: Method,
    uri: Uri,
    /// Each field as [`Lengths`], name, value.
    fields: Vec<u8>,
}

impl Spare {
    /// Copies the head; the body is not copied.
    pub(super) fn of(request: &Request<RequestBody>) -> Self {
        let mut fields = Vec::with_capacity(TYPICAL_BYTES);
        for (name, value) in request.headers() {
            let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
            fields.extend_from_slice(&pack(name.len(), value.len()));
            fields.extend_from_slice(name);
            fields.extend_from_slice(value);
        }
        Self { method: request.method().clone(), uri: request.uri().clone(), fields }
    }

    /// The request again, with this body. `None` if the copy cannot be read, which would be a bug in this file.
    pub(super) fn into_request(self, body: RequestBody) -> Option<Request<RequestBody>> {
        let mut headers = HeaderMap::new();
        let mut rest = &*self.fields;
        while !rest.is_empty() {
            let (lengths, after) = rest.split_first_chunk()?;
            let (name_bytes, value_bytes) = unpack(*lengths)?;
            let (name, after) = after.split_at_checked(name_bytes)?;
            let (value, after) = after.split_at_checked(value_bytes)?;
            headers
                .try_append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?)
                .ok()?;
            rest = after;
        }
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = headers;
        Some(request)
    }
}

/// Lengths of a name and of its value, in bytes: 16 bits for the name, as HTTP libraries allow no longer ones, and 48
/// bits for the value.
type Lengths = [u8; 8];

fn pack(name: usize, value: usize) -> Lengths {
    (((value as u64) << NAME_BITS) | name as u64).to_le_bytes()
}

fn unpack(lengths: Lengths) -> Option<(usize, usize)> {
    let packed = u64::from_le_bytes(lengths);
    let name = usize::try_from(packed & ((1 << NAME_BITS) - 1)).ok()?;
    Some((name, usize::try_from(packed >> NAME_BITS).ok()?))
}

/// A name has at most 65,535 bytes (`http::header::HeaderName`).
const NAME_BITS: u32 = 16;

/// Size in bytes of the head of a browser's request with the gateway's own fields. A longer head grows the buffer.
const TYPICAL_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_spare_is_the_request_that_it_was_made_of(
            fields in proptest::collection::vec(("[a-z][a-z-]{0,20}", "[ -~\u{80}-\u{ff}]{0,40}"), 0..20),
        ) {
            let mut request = Request::new(RequestBody::default());
            *request.method_mut() = Method::DELETE;
            *request.uri_mut() = Uri::from_static("/items/7?x=1");
            for (name, value) in &fields {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                request.headers_mut().append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            let again = Spare::of(&request).into_request(RequestBody::default()).unwrap();
            prop_assert_eq!(again.headers(), request.headers());
            prop_assert_eq!(again.method(), request.method());
            prop_assert_eq!(again.uri(), request.uri());
            prop_assert!(again.body().is_empty());
        }
    }
}
