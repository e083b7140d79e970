//! One order, from the account to the certificate (RFC 8555 §7.4), by instant-acme. The private key of the certificate is made here, and
//! is new for each order.

use std::time::Duration;

use base64::{
    Engine as _,
    engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, ExternalAccountKey, Identifier,
    NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use serde::{Deserialize, Serialize};

use super::{
    client::AuthorityClient,
    failure::{FailureKind, OrderFailure},
    pending::Challenge,
};
use crate::{
    bounded_file,
    certificate::acme::{AcmeAuthority, ChallengeKind, Wanted},
};

/// An account as the storage keeps it.
#[derive(Serialize, Deserialize)]
struct Stored {
    email: Option<String>,
    credentials: AccountCredentials,
}

/// Opens the stored account, or makes one. The second value is what the storage has to keep, if that is new.
pub(super) async fn account(
    authority: &AcmeAuthority,
    stored: Option<&Bytes>,
    client: &AuthorityClient,
) -> Result<(Account, Option<Vec<u8>>), OrderFailure> {
    let builder = Account::builder_with_http(Box::new(client.clone()));
    let contact = authority.email.as_ref().map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let stored = stored.and_then(|bytes| serde_json::from_slice::<Stored>(bytes).ok());
    let Some(stored) = stored else {
        let external = external_account(authority)?;
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let made = builder.create(&new, authority.directory.clone(), external.as_ref()).await?;
        return Ok((made.0, Some(write(authority, made.1)?)));
    };
    let is_same = stored.email == authority.email;
    let text = serde_json::to_vec(&stored.credentials).map_err(|error| unusable(&error))?;
    let account = builder.from_credentials(stored.credentials).await?;
    if is_same {
        return Ok((account, None));
    }
    account.update_contacts(&contact).await?;
    let credentials = serde_json::from_slice(&text).map_err(|error| unusable(&error))?;
    Ok((account, Some(write(authority, credentials)?)))
}

fn write(authority: &AcmeAuthority, credentials: AccountCredentials) -> Result<Vec<u8>, OrderFailure> {
    let stored = Stored { email: authority.email.clone(), credentials };
    serde_json::to_vec(&stored).map_err(|error| unusable(&error))
}

fn external_account(authority: &AcmeAuthority) -> Result<Option<ExternalAccountKey>, OrderFailure> {
    let Some(external) = &authority.external_account else { return Ok(None) };
    let file = external.hmac_key_file.display();
    let text = bounded_file::read(&external.hmac_key_file)
        .map_err(|error| OrderFailure::storage(&format!("cannot read {file}: {error}")))?;
    let text = text.trim_ascii();
    let key = URL_SAFE_NO_PAD.decode(text).or_else(|_| URL_SAFE.decode(text));
    let key = key.map_err(|_| OrderFailure::storage(&format!("{file} is not URL-safe Base64")))?;
    Ok(Some(ExternalAccountKey::new(external.key_id.clone(), &key)))
}

/// Orders a certificate, and returns its key and its chain. `present` is called when challenges are to be answered, and returns when
/// every gateway answers them.
pub(super) async fn order(
    account: &Account,
    wanted: &Wanted,
    kind: ChallengeKind,
    present: impl AsyncFnOnce(Vec<Challenge>) -> Result<(), OrderFailure>,
) -> Result<Vec<u8>, OrderFailure> {
    let identifiers: Vec<_> = wanted.names.iter().map(|name| Identifier::Dns(name.to_string())).collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
    let challenges = challenges(&mut order, wanted, kind).await?;
    if !challenges.is_empty() {
        present(challenges).await?;
        if let Err(failure) = begin_validation(&mut order, kind).await {
            let reason = invalid(&mut order).await;
            return Err(reason.map_or(failure, |reason| OrderFailure::new(FailureKind::Refused, &reason)));
        }
    }
    let status = order.poll_ready(&POLL).await;
    if !matches!(status, Ok(OrderStatus::Ready)) {
        // The order itself seldom says which host failed, and why.
        if let Some(reason) = invalid(&mut order).await {
            return Err(OrderFailure::new(FailureKind::Refused, &reason));
        }
        let status = status?;
        return Err(OrderFailure::new(FailureKind::Refused, &format!("the order became {status:?}")));
    }
    let key = KeyPair::generate().map_err(|error| unusable(&error))?;
    let names: Vec<_> = wanted.names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).map_err(|error| unusable(&error))?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(|error| unusable(&error))?;
    order.finalize_csr(request.der()).await?;
    let chain = order.poll_certificate(&POLL).await?;
    Ok([key.serialize_pem().as_bytes(), chain.as_bytes()].concat())
}

/// The challenges of the hosts that the authority does not know yet.
async fn challenges(
    order: &mut Order,
    wanted: &Wanted,
    kind: ChallengeKind,
) -> Result<Vec<Challenge>, OrderFailure> {
    let mut found = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let host = authorization.identifier().to_string();
        if !wanted.names.iter().any(|name| **name == *host) {
            return Err(OrderFailure::new(
                FailureKind::Unusable,
                &format!("the order has another host: {host}"),
            ));
        }
        match authorization.status {
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Valid => continue,
            ref other => {
                return Err(OrderFailure::new(
                    FailureKind::Refused,
                    &format!("the authorization of {host} is {other:?}"),
                ));
            }
        }
        let Some(challenge) = authorization.challenge(wire(kind)) else {
            let text = format!("the authority does not offer {} for {host}", name(kind));
            return Err(OrderFailure::new(FailureKind::Refused, &text));
        };
        let token = challenge.token.clone();
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if token.len() < TOKEN_BYTES_MIN || token.len() > TOKEN_BYTES_MAX || !token.bytes().all(is_token) {
            return Err(OrderFailure::new(
                FailureKind::Unusable,
                "the authority's token is not one of RFC 8555 §8.3",
            ));
        }
        let key_authorization = challenge.key_authorization().as_str().to_owned();
        found.push(Challenge { host, token, key_authorization });
    }
    Ok(found)
}

async fn begin_validation(order: &mut Order, kind: ChallengeKind) -> Result<(), OrderFailure> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Pending
            && let Some(mut challenge) = authorization.challenge(wire(kind))
        {
            challenge.set_ready().await?;
        }
    }
    Ok(())
}

/// The authority's explanation of hosts that it could not verify.
async fn invalid(order: &mut Order) -> Option<String> {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let Ok(mut authorization) = authorization else { continue };
        if authorization.refresh().await.is_err() || authorization.status != AuthorizationStatus::Invalid {
            continue;
        }
        let detail = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        let detail = detail.map_or_else(|| "no reason given".to_owned(), ToString::to_string);
        reasons.push(format!("{} could not be verified: {detail}", authorization.identifier()));
    }
    Some(reasons.join("; ")).filter(|text| !text.is_empty())
}

fn wire(kind: ChallengeKind) -> ChallengeType {
    match kind {
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
        ChallengeKind::Http01 => ChallengeType::Http01,
    }
}

fn name(kind: ChallengeKind) -> &'static str {
    match kind {
        ChallengeKind::TlsAlpn01 => "tls-alpn-01",
        ChallengeKind::Http01 => "http-01",
    }
}

fn unusable(error: &dyn std::fmt::Display) -> OrderFailure {
    OrderFailure::new(FailureKind::Unusable, &error.to_string())
}

/// An authority verifies within seconds; `Retry-After` is followed.
const POLL: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(300)).backoff(1.5).timeout(Duration::from_mins(3));
/// RFC 8555 §8.3: at least 128 bits, in Base64.
const TOKEN_BYTES_MIN: usize = 22;
const TOKEN_BYTES_MAX: usize = 256;
