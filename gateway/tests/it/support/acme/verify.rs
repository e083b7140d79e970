//! The authority verifies hosts: it connects to a gateway, as RFC 8555 §8.3 and RFC 8737 §3 say, and believes nothing else.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::Full;
use x509_parser::{
    certificate::X509Certificate,
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer as _,
};

use super::{State, jws::Account};
use crate::support::{authority::blind_client, client::send, tls::connect};

/// Verifies the host of one challenge, and records the result.
pub(super) async fn verify(state: &Arc<Mutex<State>>, (at, which): (usize, usize), account: &Account) {
    let (host, token, target) = {
        let mut state = state.lock().unwrap();
        let (host, token) = (state.all[at].hosts[which / 2].clone(), state.all[at].tokens[which / 2].clone());
        let next = usize::try_from(state.next).unwrap();
        state.next += 1;
        let all = if which.is_multiple_of(2) { &state.http } else { &state.https };
        let target = all[next % all.len()];
        state.asked.push(target);
        (host, token, target)
    };
    let expected = account.key_authorization(&token);
    let result = if which.is_multiple_of(2) {
        by_request(target, &host, &token, &expected).await
    } else {
        by_handshake(target, &host, &expected).await
    };
    let mut state = state.lock().unwrap();
    state.failures.extend(result.as_ref().err().cloned());
    state.all[at].valid[which / 2] = Some(result);
}

async fn by_request(target: SocketAddr, host: &str, token: &str, expected: &str) -> Result<(), String> {
    let path = format!("/.well-known/acme-challenge/{token}");
    let request = Request::get(path).header("host", host).body(Full::default()).unwrap();
    let response = send(target, request).await;
    let body = String::from_utf8_lossy(response.body()).into_owned();
    if response.status() == 200 && body.trim_end() == expected {
        Ok(())
    } else {
        Err(format!("{}: {body}", response.status()))
    }
}

async fn by_handshake(target: SocketAddr, host: &str, expected: &str) -> Result<(), String> {
    let stream =
        connect(&blind_client(&[b"acme-tls/1"]), target, host).await.map_err(|error| error.to_string())?;
    let session = stream.get_ref().1;
    if session.alpn_protocol() != Some(b"acme-tls/1") {
        return Err("another protocol".to_owned());
    }
    let chain = session.peer_certificates().unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain[0]).map_err(|error| error.to_string())?;
    let names = leaf.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
    if !matches!(names.map(|names| &names[..]), Some([GeneralName::DNSName(name)]) if *name == host) {
        return Err("other names".to_owned());
    }
    let identifier = leaf.extensions().iter().find(|one| one.oid.to_id_string() == "1.3.6.1.5.5.7.1.31");
    let identifier = identifier.filter(|one| one.critical).ok_or("no critical acmeIdentifier")?;
    // An octet string of 32 bytes.
    let digest = digest(&SHA256, expected.as_bytes());
    if identifier.value != [&[4, 32], digest.as_ref()].concat() {
        return Err("another digest".to_owned());
    }
    Ok(())
}

/// The DNS names that a request asks for.
pub(super) fn names_of(request: &X509CertificationRequest<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(alternatives) = extension else { continue };
        names.extend(alternatives.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        }));
    }
    names
}

/// A body without an end.
pub(super) struct Endless;

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'-'; 4096])))))
    }
}
