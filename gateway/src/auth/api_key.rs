//! API keys: a file of hashes, each with a name and the rights of its holder.
//!
//! A key is random text that one client has. The file contains its SHA-256 hash, so that a copy of the file does not admit
//! anyone. A fast hash without salt is right for keys of 32 random bytes, which cannot be guessed, and wrong for
//! passwords: only `millgate key new` should make keys. The first eight bytes of the hash find the entry, and all bytes are
//! then compared in constant time; the time of the search may reveal bytes of a hash, which does not help to find a key. An
//! entry becomes an identity in the same way as the claims of a token: `sub` is its name, `scope` and `roles` are its lists,
//! and `claims` may have more. The file is read again when it changes, and workers then forget the identities that they
//! remember, so a removed key stops working at once.
//!
//! Units: seconds since 1970. Limits: [`KEYS_MAX`] keys, names of [`NAME_BYTES_MAX`] bytes, claims of [`CLAIM_BYTES_MAX`] bytes.

mod new_entry;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::Arc,
    time::UNIX_EPOCH,
};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, SHA256_OUTPUT_LEN, digest},
};
use http::HeaderName;
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};
use serde_json::{Value, json};

pub(crate) use self::new_entry::{NewEntry, new_key};
use super::{
    Check, CredentialKind, CredentialWords, Fit, Identity, KeyList, Keys,
    claims::{ClaimFault, Payload, Projection},
    rejection::{AuthRejection, Told},
    settings::{CredentialSource, FileFormat, FileReader, KeySource, ProviderSettings},
};
use crate::{
    printable::printable,
    syntax::{
        diagnostics::Diagnostics,
        fields::{Fields, some_text},
        redacted::without_keys,
        tree::At,
    },
};

/// The compiled form of a provider of API keys, without its keys.
#[derive(Debug, Clone)]
pub struct ApiKey {
    provider: Arc<str>,
    projection: Projection,
}

/// `api_keys_file` as written. `None`: an error is reported.
#[derive(Debug)]
pub(crate) struct Written(Option<At<String>>);

/// A provider of API keys has no settings in addition to those of all providers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeySettings;

/// The keys of one file.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiKeys {
    entries: Box<[Entry]>,
    /// The index of each entry by the first bytes of its hash.
    places: HashMap<u64, usize>,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    name: Box<str>,
    hash: [u8; SHA256_OUTPUT_LEN],
    /// A JSON object, which is read like the claims of a token.
    claims: Box<[u8]>,
    valid_until: u64,
}

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    keys: Vec<WrittenKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKey {
    name: String,
    sha256: String,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    claims: BTreeMap<String, Texts>,
    /// RFC 3339, or a date, which means midnight UTC. An empty value is an error, because it is probably an empty variable
    /// of a template.
    #[serde(default, deserialize_with = "given")]
    expires: Option<String>,
}

impl CredentialKind for ApiKey {
    type Written = Written;
    type Settings = ApiKeySettings;
    type Keys = ApiKeys;

    const WORDS: &'static CredentialWords = &CredentialWords {
        scheme: "ApiKey",
        has_claims: false,
        credential: "API key",
        wanted: "an API key",
        plural: "API keys",
    };
    const KEY_FIELDS: &'static [&'static str] = &[FILE.field];
    const FIELDS: &'static [&'static str] = &[];

    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Written {
        Written(fields.value(FILE.field, sink, some_text))
    }

    fn resolve(
        Written(file): &Written,
        _: &At<String>,
        files: &mut FileReader<'_>,
        sink: &mut Diagnostics,
    ) -> (ApiKeySettings, KeySource) {
        let read = file.as_ref().and_then(|file| files(file, FILE.what, sink));
        (ApiKeySettings, KeySource::File(read.map(|(path, _)| path).unwrap_or_default(), &FILE))
    }

    fn default_sources() -> Vec<CredentialSource> {
        vec![CredentialSource::Header(HeaderName::from_static("x-api-key"))]
    }

    fn compile(settings: &ProviderSettings, _: &ApiKeySettings, kept: Vec<Box<str>>) -> Result<Self, String> {
        Ok(Self {
            provider: Arc::from(settings.name.as_str()),
            projection: Projection::new(settings, kept, &[]),
        })
    }

    fn fit(&self, _: Option<&str>) -> Fit {
        Fit::Any
    }

    fn check(&self, keys: Option<&ApiKeys>, key: &str, with: Check<'_>) -> Result<Identity, AuthRejection> {
        let refused = |reason, claim, told| AuthRejection { reason, claim, told, is_doubtful: false };
        let entry = keys.ok_or_else(AuthRejection::unavailable)?.find(key);
        let entry = entry.ok_or_else(|| refused("unknown_key", None, Told::Invalid))?;
        if with.now >= entry.valid_until {
            return Err(refused("expired", None, Told::Expired));
        }
        self.identity(entry).map_err(|fault| match fault {
            ClaimFault::Malformed => refused("malformed", None, Told::Invalid),
            ClaimFault::NotForwardable(claim) => refused("not_forwardable", Some(claim), Told::Invalid),
        })
    }
}

impl ApiKey {
    fn identity(&self, entry: &Entry) -> Result<Identity, ClaimFault> {
        let payload = Payload::new(entry.claims.to_vec());
        let mut claims = payload.claims()?;
        self.projection.complete(&payload, &mut claims)?;
        self.projection.identity(&self.provider, Some(entry.name.clone()), claims, entry.valid_until)
    }
}

impl ApiKeys {
    /// Reads a file of keys.
    ///
    /// # Errors
    /// What is wrong with the file, without its name.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        // A key may be where a name should be.
        Self::parsed(bytes).map_err(without_keys)
    }

    fn parsed(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "the file is not UTF-8".to_owned())?;
        if text.trim().is_empty() {
            return Err(
                "the file is empty; write `keys: []`, or make a key with `millgate key new`".to_owned()
            );
        }
        let options = serde_saphyr::options! { budget: serde_saphyr::budget! { max_nodes: NODES_MAX } };
        let document: Document =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| without_content(&error))?;
        if document.keys.len() > KEYS_MAX {
            return Err(format!("the file has {} keys; at most {KEYS_MAX} fit", document.keys.len()));
        }
        let (mut entries, mut places) = (Vec::new(), HashMap::new());
        let mut names = HashSet::new();
        for written in document.keys {
            let name = printable(&written.name).into_owned();
            let entry = Entry::of(written).map_err(|reason| format!("the key `{name}`: {reason}"))?;
            if !names.insert(entry.name.clone()) {
                return Err(format!("two keys have the name `{name}`"));
            }
            if let Some(known) = places.insert(place(&entry.hash), entries.len()) {
                let other = entries.get(known).map_or("", |entry: &Entry| &entry.name);
                return Err(format!("the keys `{other}` and `{name}` have one hash"));
            }
            entries.push(entry);
        }
        Ok(Self { entries: entries.into(), places })
    }

    fn find(&self, key: &str) -> Option<&Entry> {
        let hash = hash_of(key);
        let entry = self.entries.get(*self.places.get(&place(&hash))?)?;
        verify_slices_are_equal(&entry.hash, &hash).is_ok().then_some(entry)
    }
}

/// A text, or a list of texts. A number or `true` is refused, because YAML reads `007` as 7, and rounds two long account
/// numbers to one.
struct Texts(Value);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrList;
        impl<'de> Visitor<'de> for TextOrList {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a claim in quotes (`tenant: \"007\"`), or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(Value::String(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(Texts(value)) = list.next_element()? {
                    texts.push(value);
                }
                Ok(Texts(Value::Array(texts)))
            }
        }
        deserializer.deserialize_any(TextOrList)
    }
}

fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

/// The parser's error, without any content of the file: the wrong file may be a secret, and a key may be where its hash
/// should be.
fn without_content(error: &serde_saphyr::Error) -> String {
    let at =
        error.location().map_or(String::new(), |at| format!("line {}, column {}: ", at.line(), at.column()));
    let text = error.without_snippet().to_string();
    // The gateway's own words and names of fields pass; words as long as a secret do not.
    let is_ours = ["unknown field", "missing field", "duplicate", "a claim in quotes"]
        .iter()
        .any(|words| text.contains(words));
    // A key may have these marks in it (RFC 6750 §2.1).
    let is_of_key = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    let is_short = text.split(|c| !is_of_key(c)).all(|word| word.len() <= WORD_BYTES_MAX);
    let what = text.lines().next().filter(|_| is_ours && is_short);
    format!(
        "{at}{}",
        what.unwrap_or(
            "this is not what stands in a file of API keys: `keys:` and a list of `name` and `sha256`"
        )
    )
}

impl KeyList for ApiKeys {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn names(&self) -> Vec<Option<&str>> {
        self.entries.iter().map(|entry| Some(&*entry.name)).collect()
    }
}

impl Entry {
    fn of(written: WrittenKey) -> Result<Self, String> {
        let WrittenKey { name, sha256, scopes, roles, claims, expires } = written;
        let is_shown_unchanged = name.trim() == name && !name.chars().any(char::is_control);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !is_shown_unchanged {
            return Err(format!(
                "a name has 1 to {NAME_BYTES_MAX} bytes, no white space at its ends, and no control character"
            ));
        }
        let hash = from_hex(&sha256)
            .ok_or("`sha256` must be 64 hexadecimal digits; make a key with `millgate key new`")?;
        if let Some(claim) = claims.keys().find(|claim| OWN_FIELDS.iter().any(|(own, _)| own == claim)) {
            let field = OWN_FIELDS.iter().find(|(own, _)| own == claim).map_or("", |(_, field)| field);
            let claim = printable(claim);
            return Err(format!("the claim `{claim}` is what the field `{field}` sets"));
        }
        let is_no_part = |c: char| c.is_whitespace() || c.is_control();
        // A message quotes no value, because a key may have been pasted into any field.
        if let Some(at) = scopes.iter().position(|scope| scope.is_empty() || scope.contains(is_no_part)) {
            return Err(format!(
                "item {} of `scopes` is not a scope: it is empty, or has white space or a control character",
                at + 1
            ));
        }
        let lists = [("scopes", &scopes), ("roles", &roles)];
        if let Some((field, _)) = lists.iter().find(|(_, texts)| is_too_long(&json!(texts))) {
            return Err(format!("`{field}` has more than {CLAIM_BYTES_MAX} bytes"));
        }
        for (claim, Texts(value)) in &claims {
            check_claim(value).map_err(|reason| format!("the claim `{}` {reason}", printable(claim)))?;
        }
        let valid_until = match &expires {
            None => u64::MAX,
            Some(text) => seconds(text)
                .ok_or("`expires` is not a time; write `2027-01-31` or `2027-01-31T12:00:00Z`")?,
        };
        let mut all = json!({"sub": name, "roles": roles});
        if let Value::Object(members) = &mut all {
            // An identity header without a value would differ from that of a token without scopes, which is omitted.
            if !scopes.is_empty() {
                members.insert("scope".to_owned(), scopes.join(" ").into());
            }
            members.extend(claims.into_iter().map(|(name, Texts(value))| (name, value)));
        }
        Ok(Self { name: name.into(), hash, claims: all.to_string().into_bytes().into(), valid_until })
    }
}

/// A provider may forward each claim: a header field that cannot carry the value unchanged would refuse each request of the key.
/// Control characters in a list are percent-encoded when it is forwarded.
fn check_claim(value: &Value) -> Result<(), String> {
    match value {
        Value::String(text) if text.contains(char::is_control) => {
            return Err("has a control character, which no header field can carry".to_owned());
        }
        Value::String(text) if text.trim() != text => {
            return Err("has white space at an end, which is lost in a header field".to_owned());
        }
        Value::Array(list) if list.iter().any(Value::is_array) => {
            return Err("has a list inside its list, which no header field can carry".to_owned());
        }
        _ => {}
    }
    if is_too_long(value) { Err(format!("has more than {CLAIM_BYTES_MAX} bytes")) } else { Ok(()) }
}

fn is_too_long(value: &Value) -> bool {
    value.to_string().len() > CLAIM_BYTES_MAX
}

fn hash_of(key: &str) -> [u8; SHA256_OUTPUT_LEN] {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
    hash
}

/// The number by which the entry of a hash is found.
fn place(hash: &[u8; SHA256_OUTPUT_LEN]) -> u64 {
    hash.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

fn from_hex(text: &str) -> Option<[u8; SHA256_OUTPUT_LEN]> {
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    let digits = text.as_bytes();
    if digits.len() != 2 * SHA256_OUTPUT_LEN || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

fn seconds(text: &str) -> Option<u64> {
    let midnight = format!("{text}T00:00:00Z");
    let time = humantime::parse_rfc3339(text).or_else(|_| humantime::parse_rfc3339(&midnight)).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

static FILE: FileFormat = FileFormat {
    field: "api_keys_file",
    what: "file of API keys",
    parse: |bytes| ApiKeys::read(bytes).map(Keys::ApiKey),
};
/// Claims that are set by fields of their own.
const OWN_FIELDS: [(&str, &str); 5] =
    [("sub", "name"), ("scope", "scopes"), ("scp", "scopes"), ("role", "roles"), ("roles", "roles")];
/// A file of about 2 MiB, which takes a second to read. With more clients, a system that issues tokens is the better tool.
const KEYS_MAX: usize = 10_000;
/// Enough for a file of 4 MiB. The library's default is less.
const NODES_MAX: usize = 4_000_000;
/// The names of fields are shorter than this, and secrets are longer.
const WORD_BYTES_MAX: usize = 24;
/// Names appear in header fields, logs and lists.
const NAME_BYTES_MAX: usize = 128;
/// Of one claim, as JSON. Services commonly take header fields of 8 KiB in all.
const CLAIM_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::{
        super::{jwt::LastHeader, provider::Provider, settings::ProviderSettings},
        new_entry::to_hex,
        *,
    };

    use crate::syntax::redacted::KEY_PREFIX;

    const NOW: u64 = 1_800_000_000;

    fn file(entries: &[(&str, NewEntry)]) -> String {
        let entries: String = entries.iter().map(|(key, entry)| entry.to_yaml(key)).collect();
        format!("keys:\n{entries}")
    }

    fn entry(name: &str) -> NewEntry {
        NewEntry { name: name.to_owned(), ..NewEntry::default() }
    }

    fn settings(forward: &[(&str, &'static str)]) -> ProviderSettings {
        let forward =
            forward.iter().map(|(claim, name)| ((*claim).to_owned(), HeaderName::from_static(name)));
        ProviderSettings {
            name: "partners".into(),
            kind: super::super::KindSettings::ApiKey(ApiKeySettings),
            forward: forward.collect(),
            ..super::super::jwt::tests::provider()
        }
    }

    fn check(provider: &Provider, keys: &str, key: &str, now: u64) -> Result<Identity, AuthRejection> {
        let keys = Keys::ApiKey(ApiKeys::read(keys.as_bytes()).unwrap());
        let last_header = &mut LastHeader::default();
        provider.authenticator.check(Some(&keys), key, Check { now, has_newer_keys: false, last_header })
    }

    #[test]
    fn a_key_is_the_identity_that_its_entry_says() {
        let acme = NewEntry {
            name: "acme".into(),
            scopes: vec!["orders:read".into(), "orders:write".into()],
            roles: vec!["partner".into()],
            claims: vec![("tenant".into(), "blue".into())],
            expires: Some(NOW + 60),
        };
        let keys = file(&[("key-1", acme), ("key-2", entry("other"))]);
        let settings = settings(&[("sub", "x-client"), ("tenant", "x-tenant")]);
        let provider = Provider::compile(&settings, vec!["tenant".into()]).unwrap();
        let identity = check(&provider, &keys, "key-1", NOW).unwrap();
        assert_eq!((&*identity.provider, identity.subject.as_deref()), ("partners", Some("acme")));
        assert_eq!(identity.scopes, ["orders:read".into(), "orders:write".into()].into());
        assert_eq!(identity.roles, ["partner".into()].into());
        assert_eq!(identity.claims["tenant"], "blue");
        assert_eq!(identity.valid_until, NOW + 60);
        let forward: Vec<_> =
            identity.forward.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(forward, [("x-client", &b"acme"[..]), ("x-tenant", b"blue")]);
        assert_eq!(check(&provider, &keys, "key-2", NOW).unwrap().subject.as_deref(), Some("other"));
    }

    #[test]
    fn a_key_without_scopes_forwards_no_scope() {
        let scoped = NewEntry { scopes: vec!["a".into(), "b".into()], ..entry("other") };
        let keys = file(&[("key-1", entry("acme")), ("key-2", scoped)]);
        let provider = Provider::compile(&settings(&[("scope", "x-scopes")]), vec![]).unwrap();
        let forward = |key| check(&provider, &keys, key, NOW).unwrap().forward.len();
        assert_eq!((forward("key-1"), forward("key-2")), (0, 1));
    }

    #[test]
    fn only_a_key_of_the_file_is_valid_and_only_until_it_expires() {
        let keys = file(&[("key-1", NewEntry { expires: Some(NOW), ..entry("acme") })]);
        let provider = Provider::compile(&settings(&[]), vec![]).unwrap();
        assert!(check(&provider, &keys, "key-1", NOW - 1).is_ok());
        let told = |key: &str, now| {
            check(&provider, &keys, key, now).map_err(|rejection| (rejection.reason, rejection.told))
        };
        assert_eq!(told("key-1", NOW), Err(("expired", Told::Expired)));
        for key in ["key-2", "KEY-1", "", "acme", &to_hex(&hash_of("key-1"))] {
            assert_eq!(told(key, 0), Err(("unknown_key", Told::Invalid)), "{key}");
        }
    }

    #[test]
    fn all_bytes_of_a_hash_are_compared() {
        let mut keys = ApiKeys::read(file(&[("key-1", entry("acme"))]).as_bytes()).unwrap();
        assert!(keys.find("key-1").is_some());
        keys.entries[0].hash[31] ^= 1;
        assert!(keys.find("key-1").is_none());
    }

    #[test]
    fn a_file_that_is_wrong_says_what_to_do() {
        let hash = to_hex(&hash_of("a"));
        let other = to_hex(&hash_of("b"));
        for (text, words) in [
            (String::new(), "keys"),
            ("[]".to_owned(), ""),
            (format!("keys: [{{name: a, sha256: {hash}, scope: x}}]"), "scope"),
            ("keys: [{name: a, sha256: abc}]".to_owned(), "64 hexadecimal digits"),
            (format!("keys: [{{name: '', sha256: {hash}}}]"), "1 to 128 bytes"),
            (
                format!("keys: [{{name: a, sha256: {hash}}}, {{name: b, sha256: {hash}}}]"),
                "`a` and `b` have one hash",
            ),
            (
                format!("keys: [{{name: a, sha256: {hash}}}, {{name: a, sha256: {other}}}]"),
                "two keys have the name `a`",
            ),
            (format!("keys: [{{name: a, sha256: {hash}, expires: soon}}]"), "`expires` is not a time"),
            (format!("keys: [{{name: a, sha256: {hash}, claims: {{sub: root}}}}]"), "the field `name`"),
            (format!("keys: [{{name: a, sha256: {hash}, scopes: ['a b']}}]"), "not a scope"),
            (format!("keys: [{{name: ' a', sha256: {hash}}}]"), "no white space at its ends"),
            (format!("keys: [{{name: a, sha256: {hash}, claims: {{tenant: 007}}}}]"), "a claim in quotes"),
            (format!("keys: [{{name: a, sha256: {hash}, claims: {{tenant: no}}}}]"), "a claim in quotes"),
            (
                format!("keys: [{{name: a, sha256: {hash}, claims: {{tenant: [90071992547409931234]}}}}]"),
                "a claim in quotes",
            ),
            (format!("keys: [{{name: a, sha256: {hash}, expires: }}]"), "line 1"),
            (
                format!("keys: [{{name: a, sha256: {hash}, claims: {{tenant: \"x\\ny\"}}}}]"),
                "the key `a`: the claim `tenant` has a control character",
            ),
            (
                format!("keys: [{{name: a, sha256: {hash}, claims: {{tenant: ' x'}}}}]"),
                "the claim `tenant` has white space at an end",
            ),
            (
                format!("keys: [{{name: a, sha256: {hash}, claims: {{tenant: [[x]]}}}}]"),
                "the claim `tenant` has a list inside its list",
            ),
            (
                format!("keys: [{{name: a, sha256: {hash}, claims: {{tenant: {}}}}}]", "x".repeat(4095)),
                "the claim `tenant` has more than 4096 bytes",
            ),
            (
                format!("keys: [{{name: a, sha256: {hash}, roles: [{}]}}]", "x".repeat(4095)),
                "`roles` has more than 4096 bytes",
            ),
            (format!("keys: [{{name: a, sha256: {hash}, scopes: [\"a\\x01\"]}}]"), "not a scope"),
        ] {
            let reason = ApiKeys::read(text.as_bytes()).unwrap_err();
            assert!(reason.contains(words), "{text} gave {reason}");
        }
        for fits in ["x".repeat(4094), "[\"x\\ny\"]".to_owned(), "''".to_owned()] {
            let text = format!("keys: [{{name: a, sha256: {hash}, claims: {{tenant: {fits}}}}}]");
            assert!(ApiKeys::read(text.as_bytes()).is_ok(), "{text}");
        }
        assert_eq!(ApiKeys::read(b"keys: []").unwrap().len(), 0, "the last key may be taken away");
        let secrets = [new_key().unwrap(), "mgk_SDtQzU_lhpLnltdFRwzC-YlnswXljVoEB7FuLt4j8RI".to_owned()];
        for text in secrets.iter().flat_map(|secret| {
            [
                secret.clone(),
                format!("keys:\n  - name: x\n    key: {secret}"),
                format!("keys:\n  - {secret}: x"),
                format!("keys:\n  - [{secret}]"),
                format!("{secret}:\n  - ["),
                format!("keys: [{{name: a, sha256: {}, expires: {secret}}}]", "0".repeat(64)),
                format!("keys: [{{name: {secret}, sha256: b}}]"),
                format!("keys: [{{name: a, sha256: {}, scopes: ['{secret} x']}}]", "0".repeat(64)),
                format!("keys: [{{name: a, sha256: {}, claims: {{{secret}: ' x'}}}}]", "0".repeat(64)),
            ]
        }) {
            let reason = ApiKeys::read(text.as_bytes()).unwrap_err();
            assert!(secrets.iter().all(|secret| !reason.contains(&secret[4..])), "{reason}");
        }
    }

    #[test]
    fn a_name_cannot_add_a_line_to_a_log() {
        let reason = ApiKeys::read(b"keys: [{name: \"a\\e[31m\\nERROR forged\", sha256: b}]").unwrap_err();
        assert!(reason.contains("ERROR forged") && !reason.contains(char::is_control), "{reason}");
    }

    #[test]
    fn a_new_key_is_added_to_a_file_or_the_file_stays() {
        let (first, second) = (new_key().unwrap(), new_key().unwrap());
        assert!(first.starts_with(KEY_PREFIX) && first != second);
        let odd =
            NewEntry { claims: vec![("note".into(), "a: \"b\" #c".into())], ..entry("say \"hi\": {x}") };
        for empty in ["", "\n", "keys: []\n", "# My keys.\nkeys: [] # none\n", "# Nothing yet.\n"] {
            let text = entry("acme").added_to(empty, &first).unwrap();
            let text = odd.added_to(text.trim_end(), &second).unwrap();
            let keys = ApiKeys::read(text.as_bytes()).unwrap();
            assert_eq!((keys.len(), keys.find(&first).map(|entry| &*entry.name)), (2, Some("acme")));
            let reason = entry("acme").added_to(&text, &new_key().unwrap()).unwrap_err();
            assert!(reason.contains("two keys have the name `acme`"), "{reason}");
        }
        let plain = format!("keys:\n- name: a\n  sha256: {}\n", to_hex(&hash_of("a")));
        assert_eq!(ApiKeys::read(odd.added_to(&plain, &first).unwrap().as_bytes()).unwrap().len(), 2);
        let flow = format!("keys: [{{name: a, sha256: {}}}]\n", to_hex(&hash_of("a")));
        assert!(entry("acme").added_to(&flow, &first).is_err());
    }
}
