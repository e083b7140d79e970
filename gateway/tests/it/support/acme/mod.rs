//! An authority that speaks ACME (RFC 8555), as small as it can be and as strict as a real one: nonces are used once, signatures are
//! verified, hosts are verified by connections to the gateway, and what is certified is what was asked for, unless a test wants it
//! otherwise.

mod jws;
mod verify;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, PublicKeyData, SignatureAlgorithm};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer as _};

use self::jws::{Account, Call, Signer};
use super::authority::Authority;

/// A running authority.
pub(crate) struct AcmeServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    own: Arc<Authority>,
    issuing: Arc<Authority>,
}

/// What a test may change, and what it may count.
pub(crate) struct State {
    /// The gateways that are reached at port 80 and 443, one after the other.
    pub(crate) http: Vec<SocketAddr>,
    pub(crate) https: Vec<SocketAddr>,
    pub(crate) conduct: Conduct,
    /// How long a certificate is valid, and how much of that is over when it is issued.
    pub(crate) life: (Duration, Duration),
    /// An order is `processing` for so many looks.
    pub(crate) processing: u32,
    /// So many requests get `badNonce`.
    pub(crate) bad_nonces: u32,
    /// The key of the external account that every account needs.
    pub(crate) external: Option<(String, Vec<u8>)>,
    pub(crate) orders: usize,
    pub(crate) accounts: usize,
    pub(crate) issued: usize,
    pub(crate) requests: usize,
    /// Which of the gateways was asked.
    pub(crate) asked: Vec<SocketAddr>,
    pub(crate) failures: Vec<String>,
    nonces: HashSet<String>,
    known: HashMap<String, Account>,
    all: Vec<Order>,
    next: u64,
}

/// How the authority behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conduct {
    Honest,
    /// New orders are refused with 429, and this `Retry-After`.
    RateLimited(u64),
    /// Each request gets 503.
    Down,
    /// The certificate is for another name.
    OtherName,
    /// The certificate is for another key.
    OtherKey,
    Garbage,
    /// The certificate has no end.
    Endless,
}

struct Order {
    account: String,
    hosts: Vec<String>,
    tokens: Vec<String>,
    valid: Vec<Option<Result<(), String>>>,
    looks: u32,
    chain: Option<String>,
}

type Body = BoxBody<Bytes, std::convert::Infallible>;
type Answer = Result<Response<Body>, Problem>;
/// Status, type, and explanation.
pub(super) struct Problem(pub(super) u16, pub(super) &'static str, pub(super) String);

impl AcmeServer {
    pub(crate) async fn start() -> Self {
        let own = Arc::new(Authority::new());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = State {
            http: Vec::new(),
            https: Vec::new(),
            conduct: Conduct::Honest,
            life: (Duration::from_hours(90 * 24), Duration::from_mins(1)),
            processing: 1,
            bad_nonces: 0,
            external: None,
            orders: 0,
            accounts: 0,
            issued: 0,
            requests: 0,
            asked: Vec::new(),
            failures: Vec::new(),
            nonces: HashSet::new(),
            known: HashMap::new(),
            all: Vec::new(),
            next: 0,
        };
        let server = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::new(Mutex::new(state)),
            issuing: Arc::new(Authority::new()),
            own,
        };
        let tls = TlsAcceptor::from(Arc::new(server.own.server("localhost")));
        let (state, issuing, address) =
            (Arc::clone(&server.state), Arc::clone(&server.issuing), server.address);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, state, issuing) = (tls.clone(), Arc::clone(&state), Arc::clone(&issuing));
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let service = service_fn(move |request| {
                        let (state, issuing) = (Arc::clone(&state), Arc::clone(&issuing));
                        async move {
                            Ok::<_, std::convert::Infallible>(
                                answer(request, address, &state, &issuing).await,
                            )
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        server
    }

    pub(crate) fn directory(&self) -> String {
        format!("https://localhost:{}/directory", self.address.port())
    }

    /// Writes the authority of the directory's own certificate.
    pub(crate) fn write_ca(&self, dir: &Path) {
        std::fs::write(dir.join("ca.pem"), self.own.pem()).unwrap();
    }

    /// The authority whose certificates clients trust.
    pub(crate) fn issuing(&self) -> &Authority {
        &self.issuing
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    /// Accounts, orders, and certificates so far.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        (self.accounts, self.orders, self.issued)
    }

    fn nonce(&mut self) -> String {
        let nonce = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>());
        self.nonces.insert(nonce.clone());
        nonce
    }
}

async fn answer(
    request: Request<Incoming>,
    address: SocketAddr,
    state: &Arc<Mutex<State>>,
    issuing: &Authority,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let base = format!("https://localhost:{}", address.port());
    let path = parts.uri.path().to_owned();
    state.lock().unwrap().requests += 1;
    let answered = match (parts.method, path.as_str()) {
        _ if state.lock().unwrap().conduct == Conduct::Down => {
            Err(Problem(503, "serverInternal", "maintenance".to_owned()))
        }
        (Method::GET, "/directory") => Ok(json_reply(
            200,
            &json!({
                "newNonce": format!("{base}/nonce"), "newAccount": format!("{base}/account"),
                "newOrder": format!("{base}/order"),
                "meta": {"termsOfService": format!("{base}/terms")},
            }),
        )),
        (Method::HEAD, "/nonce") => Ok(Response::new(full(""))),
        (Method::POST, path) => post(&base, path, &body, state, issuing).await,
        _ => Err(Problem(404, "malformed", "no such resource".to_owned())),
    };
    let mut response = answered.unwrap_or_else(|Problem(status, word, detail)| {
        let word = format!("urn:ietf:params:acme:error:{word}");
        let mut reply = json_reply(status, &json!({"type": word, "detail": detail, "status": status}));
        if let Conduct::RateLimited(after) = state.lock().unwrap().conduct {
            reply.headers_mut().insert("retry-after", after.into());
        }
        reply
    });
    let nonce = state.lock().unwrap().nonce();
    response.headers_mut().insert("replay-nonce", nonce.parse().unwrap());
    response
}

async fn post(base: &str, path: &str, body: &[u8], state: &Arc<Mutex<State>>, issuing: &Authority) -> Answer {
    let call = {
        let mut state = state.lock().unwrap();
        let call = Call::read(body, &format!("{base}{path}"), &state.known)?;
        if state.bad_nonces > 0 || !state.nonces.remove(&call.nonce) {
            state.bad_nonces = state.bad_nonces.saturating_sub(1);
            return Err(Problem(400, "badNonce", "this nonce is used or unknown".to_owned()));
        }
        call
    };
    let mut parts = path.trim_start_matches('/').split('/');
    let (what, number, which) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let at: Option<usize> = number.and_then(|number| number.parse().ok());
    let host = which.and_then(|which| which.parse::<usize>().ok());
    match (what, at) {
        ("account", None) => new_account(base, &call, &mut state.lock().unwrap()),
        ("order", None) => new_order(base, &call, &mut state.lock().unwrap()),
        (_, Some(at)) if at < state.lock().unwrap().all.len() => {
            if state.lock().unwrap().all[at].account != call.account()?.id {
                return Err(Problem(403, "unauthorized", "this is another account's".to_owned()));
            }
            match (what, host) {
                ("order", _) => Ok(shown(base, at, &mut state.lock().unwrap())),
                ("authorization", Some(host)) => Ok(authorization(base, at, host, &state.lock().unwrap())),
                ("challenge", Some(kind_and_host)) => {
                    verify::verify(state, (at, kind_and_host), call.account()?).await;
                    let order = &state.lock().unwrap().all[at];
                    Ok(json_reply(200, &challenge(base, at, kind_and_host, order)))
                }
                ("finalize", _) => finalize(base, at, &call, &mut state.lock().unwrap(), issuing),
                ("certificate", _) => {
                    let state = state.lock().unwrap();
                    let chain = state.all[at].chain.clone().unwrap_or_default();
                    Ok(match state.conduct {
                        Conduct::Endless => Response::new(verify::Endless.boxed()),
                        Conduct::Garbage => Response::new(full("no certificate at all")),
                        _ => Response::new(full(chain)),
                    })
                }
                _ => Err(Problem(404, "malformed", "no such resource".to_owned())),
            }
        }
        _ => Err(Problem(404, "malformed", "no such resource".to_owned())),
    }
}

fn new_account(base: &str, call: &Call, state: &mut State) -> Answer {
    let Signer::New(key) = &call.signer else {
        return Err(Problem(400, "malformed", "a new account is signed with its key".to_owned()));
    };
    if call.payload["termsOfServiceAgreed"] != true {
        return Err(Problem(403, "userActionRequired", "agree to the terms".to_owned()));
    }
    if let Some((id, hmac)) = &state.external {
        jws::external(&call.payload["externalAccountBinding"], id, hmac, key, &format!("{base}/account"))?;
    }
    state.accounts += 1;
    let id = format!("{base}/accounts/{}", state.accounts);
    state.known.insert(id.clone(), Account { id: id.clone(), key: key.clone() });
    let mut reply = json_reply(201, &json!({"status": "valid"}));
    reply.headers_mut().insert("location", id.parse().unwrap());
    Ok(reply)
}

fn new_order(base: &str, call: &Call, state: &mut State) -> Answer {
    let account = call.account()?.id.clone();
    state.orders += 1;
    if let Conduct::RateLimited(_) = state.conduct {
        return Err(Problem(429, "rateLimited", "too many certificates already issued".to_owned()));
    }
    let hosts: Vec<String> = call.payload["identifiers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|identifier| identifier["value"].as_str().unwrap().to_owned())
        .collect();
    let tokens = hosts.iter().map(|_| URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>())).collect();
    let valid = hosts.iter().map(|_| None).collect();
    let looks = state.processing;
    state.all.push(Order { account, hosts, tokens, valid, looks, chain: None });
    let at = state.all.len() - 1;
    let mut reply = shown(base, at, state);
    *reply.status_mut() = StatusCode::CREATED;
    reply.headers_mut().insert("location", format!("{base}/order/{at}").parse().unwrap());
    Ok(reply)
}

/// The order as it stands now.
fn shown(base: &str, at: usize, state: &mut State) -> Response<Body> {
    let order = &mut state.all[at];
    let is_invalid = order.valid.iter().any(|valid| matches!(valid, Some(Err(_))));
    let is_ready = order.valid.iter().all(|valid| matches!(valid, Some(Ok(()))));
    let status = match &order.chain {
        Some(_) if order.looks > 0 => {
            order.looks -= 1;
            "processing"
        }
        Some(_) => "valid",
        None if is_invalid => "invalid",
        None if is_ready => "ready",
        None => "pending",
    };
    let hosts = order.hosts.iter().map(|host| json!({"type": "dns", "value": host}));
    let authorizations = (0..order.hosts.len()).map(|host| format!("{base}/authorization/{at}/{host}"));
    let mut shown = json!({
        "status": status,
        "identifiers": hosts.collect::<Vec<_>>(),
        "authorizations": authorizations.collect::<Vec<_>>(),
        "finalize": format!("{base}/finalize/{at}"),
    });
    if status == "valid" {
        shown["certificate"] = json!(format!("{base}/certificate/{at}"));
    }
    let mut reply = json_reply(200, &shown);
    if status == "processing" {
        reply.headers_mut().insert("retry-after", 1.into());
    }
    reply
}

fn authorization(base: &str, at: usize, host: usize, state: &State) -> Response<Body> {
    let order = &state.all[at];
    let status = match &order.valid[host] {
        None => "pending",
        Some(Ok(())) => "valid",
        Some(Err(_)) => "invalid",
    };
    let challenges = [2 * host, 2 * host + 1].map(|which| challenge(base, at, which, order));
    json_reply(
        200,
        &json!({"status": status, "identifier": {"type": "dns", "value": order.hosts[host]}, "challenges": challenges}),
    )
}

/// The number of a challenge is that of its host, doubled, and one more for a handshake.
fn challenge(base: &str, at: usize, which: usize, order: &Order) -> Value {
    let kind = if which.is_multiple_of(2) { "http-01" } else { "tls-alpn-01" };
    let mut shown = json!({
        "type": kind, "url": format!("{base}/challenge/{at}/{which}"), "token": order.tokens[which / 2], "status": "pending",
    });
    if let Some(Err(reason)) = &order.valid[which / 2] {
        shown["status"] = json!("invalid");
        shown["error"] =
            json!({"type": "urn:ietf:params:acme:error:unauthorized", "detail": reason, "status": 403});
    }
    shown
}

/// The key of a request for a certificate.
struct Requested(Vec<u8>);

impl PublicKeyData for Requested {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

fn finalize(base: &str, at: usize, call: &Call, state: &mut State, issuing: &Authority) -> Answer {
    let bad = |reason: &str| Problem(400, "badCSR", reason.to_owned());
    let order = &state.all[at];
    if !order.valid.iter().all(|valid| matches!(valid, Some(Ok(())))) {
        return Err(Problem(403, "orderNotReady", "not all hosts are verified".to_owned()));
    }
    let der = URL_SAFE_NO_PAD
        .decode(call.payload["csr"].as_str().unwrap_or_default())
        .map_err(|_| bad("no base64"))?;
    let (_, request) = X509CertificationRequest::from_der(&der).map_err(|_| bad("no request"))?;
    let info = &request.certification_request_info;
    let key = info.subject_pki.subject_public_key.data.to_vec();
    let signed =
        aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1, &key);
    signed.verify(info.raw, &request.signature_value.data).map_err(|_| bad("the signature is wrong"))?;
    let mut names = verify::names_of(&request);
    let mut hosts = order.hosts.clone();
    names.sort();
    hosts.sort();
    if names != hosts {
        return Err(bad("the names are not those of the order"));
    }
    if state.conduct == Conduct::OtherName {
        names = vec!["attacker.example".to_owned()];
    }
    let mut params = CertificateParams::new(names).unwrap();
    let (life, past) = state.life;
    let begin = (SystemTime::now() - past).duration_since(SystemTime::UNIX_EPOCH).unwrap();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + begin;
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + (begin + life);
    let other = KeyPair::generate().unwrap();
    let certificate = if state.conduct == Conduct::OtherKey {
        issuing.issue(&params, &other)
    } else {
        issuing.issue(&params, &Requested(key))
    };
    state.issued += 1;
    state.all[at].chain = Some(certificate);
    Ok(shown(base, at, state))
}

fn json_reply(status: u16, value: &Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}
