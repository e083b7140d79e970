//! Session tickets (RFC 8446 §4.6.1, RFC 5077): what a client brings back to resume a session.
//!
//! Without a file, rustls makes random keys, replaces them every six hours, and accepts those before them for six hours more. With
//! `ticket_keys_file`, gateways share keys, so a client may resume with any of them, and after a restart. The first key of the file
//! encrypts, all decrypt; whoever replaces the file rotates them.
//!
//! A key of the file is never used itself: HKDF-SHA256 derives from it, and from everything against which clients are verified. A
//! resumed session is not verified again, so a ticket from before a change of authorities or revocations, or of a gateway with
//! others, must not be accepted. Tickets are sealed with AES-256-GCM-SIV (RFC 8452), whose random nonces may repeat without harm; the time
//! in them ends them after [`LIFETIME`], also if the file is never replaced.
//!
//! Limits: [`KEYS_MAX`] keys of [`KEY_BYTES_MIN`] bytes at least.

use std::{path::Path, sync::Arc, time::Duration};

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{Context, SHA256},
    hkdf::{HKDF_SHA256, KeyType, Salt},
    rand,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{crypto::aws_lc_rs::Ticketer, server::ProducesTickets};

use super::error::TlsError;
use crate::{bounded_file, clock};

/// The tickets of one listener.
#[derive(Debug, Clone)]
pub(super) struct Tickets {
    pub(super) producer: Arc<dyn ProducesTickets>,
    /// The hash of what decides which tickets are accepted: the file, if there is one, and the verification of clients.
    pub(super) context: [u8; 32],
}

impl Tickets {
    /// Reads the keys. `clients` is the hash of what clients are verified against. If nothing has changed, `known` is returned, so that
    /// tickets from before are accepted.
    pub(super) fn read(
        file: Option<&Path>,
        clients: [u8; 32],
        known: Option<&Self>,
    ) -> Result<Self, TlsError> {
        let unusable =
            |reason: String| TlsError::Tickets { path: file.unwrap_or(Path::new("")).to_owned(), reason };
        let keys = file.map(bounded_file::read).transpose().map_err(|error| unusable(error.to_string()))?;
        let mut hash = Context::new(&SHA256);
        hash.update(&clients);
        hash.update(&[u8::from(keys.is_some())]);
        hash.update(keys.as_deref().unwrap_or_default());
        let context = hash.finish().as_ref().try_into().unwrap_or_default();
        if let Some(known) = known.filter(|known| known.context == context) {
            return Ok(known.clone());
        }
        let producer = match keys {
            None => Ticketer::new().map_err(TlsError::Setup)?,
            Some(keys) => Arc::new(SharedTickets::read(&keys, clients).map_err(unusable)?),
        };
        Ok(Self { producer, context })
    }
}

/// Tickets with the keys of a file.
#[derive(Debug)]
struct SharedTickets(Box<[TicketKey]>);

#[derive(Debug)]
struct TicketKey {
    /// The beginning of each ticket that is sealed with this key.
    name: [u8; NAME_BYTES],
    key: LessSafeKey,
}

impl SharedTickets {
    /// Reads one key for each line. An error does not contain the content.
    fn read(content: &[u8], clients: [u8; 32]) -> Result<Self, String> {
        let text = std::str::from_utf8(content).map_err(|_| "the file is not text".to_owned())?;
        let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
        let lines: Vec<_> = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
        if lines.is_empty() || lines.len() > KEYS_MAX {
            return Err(format!("it has {} keys, and needs 1 to {KEYS_MAX}", lines.len()));
        }
        let keys = lines.into_iter().map(|(at, line)| {
            let secret = STANDARD.decode(line).ok().filter(|secret| secret.len() >= KEY_BYTES_MIN);
            let secret =
                secret.ok_or_else(|| format!("line {at} is not {KEY_BYTES_MIN} bytes or more in base64"))?;
            TicketKey::derive(&secret, clients).ok_or_else(|| format!("line {at} cannot be used"))
        });
        Ok(Self(keys.collect::<Result<_, _>>()?))
    }

    fn encrypt_at(&self, plain: &[u8], now: Duration) -> Option<Vec<u8>> {
        let TicketKey { name, key } = self.0.first()?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = [&now.as_secs().to_be_bytes(), plain].concat();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name), &mut sealed)
            .ok()?;
        Some([&name[..], &nonce, &sealed].concat())
    }

    fn decrypt_at(&self, ticket: &[u8], now: Duration) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let TicketKey { key, .. } = self.0.iter().find(|known| known.name == *name)?;
        let mut opened = sealed.to_vec();
        let opened =
            key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(name), &mut opened).ok()?;
        let (made, plain) = opened.split_first_chunk()?;
        let age =
            now.as_secs().checked_sub(u64::from_be_bytes(*made).saturating_sub(CLOCKS_APART.as_secs()))?;
        (age < (LIFETIME + CLOCKS_APART).as_secs()).then(|| plain.to_vec())
    }
}

impl ProducesTickets for SharedTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(LIFETIME.as_secs()).unwrap_or(0)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_at(plain, clock::unix_now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_at(ticket, clock::unix_now())
    }
}

impl TicketKey {
    fn derive(secret: &[u8], clients: [u8; 32]) -> Option<Self> {
        let derived = Salt::new(HKDF_SHA256, b"millgate session tickets 1").extract(secret);
        let mut bytes = [0; NAME_BYTES + 32];
        // The parts have fixed lengths, so their concatenation has one reading.
        derived.expand(&[&clients], Length(bytes.len())).ok()?.fill(&mut bytes).ok()?;
        let (name, key) = bytes.split_first_chunk::<NAME_BYTES>()?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, key).ok()?);
        Some(Self { name: *name, key })
    }
}

/// A number of bytes to derive.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

const NAME_BYTES: usize = 16;
/// As many bytes as AES-256 has.
const KEY_BYTES_MIN: usize = 32;
/// The keys of some days, one for each hour or two.
const KEYS_MAX: usize = 64;
/// rustls accepts its own tickets for as long.
const LIFETIME: Duration = Duration::from_hours(12);
/// The clocks of two gateways may differ by this.
const CLOCKS_APART: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(2_000_000_000);

    fn line(byte: u8) -> String {
        STANDARD.encode([byte; 32])
    }

    fn tickets(lines: &[u8], clients: u8) -> SharedTickets {
        let text: Vec<String> = lines.iter().map(|byte| line(*byte)).collect();
        SharedTickets::read(text.join("\n").as_bytes(), [clients; 32]).unwrap()
    }

    #[test]
    fn the_first_key_encrypts_and_all_decrypt() {
        let (old, both, new) = (tickets(&[1], 0), tickets(&[2, 1], 0), tickets(&[2], 0));
        let (before, after) =
            (old.encrypt_at(b"state", NOW).unwrap(), both.encrypt_at(b"state", NOW).unwrap());
        assert_eq!(both.decrypt_at(&before, NOW).as_deref(), Some(&b"state"[..]));
        assert_eq!(new.decrypt_at(&after, NOW).as_deref(), Some(&b"state"[..]));
        assert_eq!((new.decrypt_at(&before, NOW), old.decrypt_at(&after, NOW)), (None, None));
        assert_ne!(old.encrypt_at(b"state", NOW), Some(before), "each ticket has its own nonce");
    }

    /// A resumed session is not verified again.
    #[test]
    fn a_ticket_of_a_listener_that_verifies_clients_in_another_way_is_not_accepted() {
        let ticket = tickets(&[1], 7).encrypt_at(b"state", NOW).unwrap();
        assert!(tickets(&[1], 7).decrypt_at(&ticket, NOW).is_some());
        assert_eq!(tickets(&[1], 8).decrypt_at(&ticket, NOW), None);
    }

    #[test]
    fn a_ticket_ends_after_twelve_hours_and_clocks_may_differ_a_little() {
        let own = tickets(&[1], 0);
        let ticket = own.encrypt_at(b"state", NOW).unwrap();
        let second = Duration::from_secs(1);
        for (at, is_good) in [
            (NOW + LIFETIME.saturating_sub(second), true),
            (NOW + LIFETIME, false),
            (NOW.saturating_sub(CLOCKS_APART), true),
            (NOW.saturating_sub(CLOCKS_APART + second), false),
        ] {
            assert_eq!(own.decrypt_at(&ticket, at).is_some(), is_good, "{at:?}");
        }
    }

    #[test]
    fn no_changed_or_shortened_ticket_is_accepted() {
        let own = tickets(&[1], 0);
        let ticket = own.encrypt_at(b"state", NOW).unwrap();
        for end in 0..ticket.len() {
            assert_eq!(own.decrypt_at(&ticket[..end], NOW), None);
        }
        for at in 0..ticket.len() {
            let mut wrong = ticket.clone();
            wrong[at] ^= 1;
            assert_eq!(own.decrypt_at(&wrong, NOW), None);
        }
    }

    #[test]
    fn a_file_has_keys_in_base64_and_errors_do_not_show_them() {
        let comments = format!("# made by hand\n\n{}\n  {}\n", line(1), line(2));
        assert_eq!(SharedTickets::read(comments.as_bytes(), [0; 32]).unwrap().0.len(), 2);
        let short = STANDARD.encode([1; 31]);
        for wrong in ["", "# nothing\n", "secret-word", &short, &[line(1).as_str(); KEYS_MAX + 1].join("\n")]
        {
            let error = SharedTickets::read(wrong.as_bytes(), [0; 32]).unwrap_err();
            assert!(!error.contains("secret-word") && !error.contains(&short), "{error}");
        }
    }
}
