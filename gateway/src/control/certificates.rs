//! The certificates that the gateway presents, and the warning before one of them expires: in the log, as an event and as a
//! metric, at the start, at each reload, once a day, and in the second in which one expires.
//!
//! An expired certificate does not break a file or a reload. Without this warning, clients would notice it first.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::exposition::{Families, count};
use crate::{
    certificate::{issued::AcmeState, served::ServedNames},
    clock,
    config::settings::Settings,
    tls::validity::{Standing, Validity},
};

/// A warning is repeated after this time, as long as its reason lasts.
const REPEATED: Duration = Duration::from_hours(24);

/// Behind the name of a listener, the place of its list of revoked certificates of clients, which ends as certificates do: then no client is accepted.
const REVOCATIONS: &str = ".crl_file";

/// The same for its OCSP responses.
const STAPLES: &str = ".ocsp_file";

/// In front of the id of a certificate that an authority has issued, in the place of its file.
const ISSUED: &str = "acme:";

const CONSUL: &str = "discovery.consul";

/// Written by the control loop, read by `/metrics`.
#[derive(Default)]
pub struct Certificates(Mutex<Vec<Certificate>>);

struct Certificate {
    /// Where the gateway presents it: the name of a listener, `services.NAME` or `discovery.consul`.
    listener: String,
    file: PathBuf,
    validity: Validity,
    /// The last report about it, and its time.
    reported: Option<(Standing, Duration)>,
}

/// Something about a certificate that an operator must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The kind of the event.
    pub kind: &'static str,
    pub text: String,
}

impl Certificates {
    /// Reads the certificates of a configuration that was accepted.
    pub fn read(&self, settings: &Settings) {
        self.read_except(settings, &HashSet::new());
    }

    /// Reads the certificates again, except for the files in `unusable`: for those, the certificate from before is still in use.
    pub(super) fn read_except(&self, settings: &Settings, unusable: &HashSet<PathBuf>) {
        let mut known = self.lock();
        let mut seen = HashSet::new();
        let named = files(settings).into_iter().filter(|named| seen.insert(named.clone()));
        let mut before = std::mem::take(&mut *known);
        known.extend(before.extract_if(.., |certificate| certificate.is_issued()));
        known.extend(named.filter_map(|(listener, file)| {
            if unusable.contains(&file) {
                let at = before.iter().position(|old| old.listener == listener && old.file == file)?;
                return Some(before.swap_remove(at));
            }
            let validity = read(settings, &listener, &file)?;
            Some(Certificate { listener, file, validity, reported: None })
        }));
    }

    /// Takes the certificates that authorities have issued.
    pub(super) fn learn(&self, settings: &Settings, acme: &AcmeState) {
        let mut known = self.lock();
        let before: Vec<_> = known.extract_if(.., |certificate| certificate.is_issued()).collect();
        for https in &settings.listen.https {
            let wanted = https.tls.acme.iter().flat_map(|acme| &acme.certificates);
            for issued in wanted.filter_map(|wanted| acme.issued.get(&wanted.id)) {
                let (listener, file) =
                    (https.name.to_string(), PathBuf::from(format!("{ISSUED}{}", issued.id)));
                let validity = Validity {
                    not_before: issued.not_before,
                    not_after: issued.not_after,
                    name: issued.names.shown().next(),
                };
                let same = |old: &&Certificate| old.listener == listener && old.validity == validity;
                let reported = before.iter().find(same).and_then(|old| old.reported);
                known.push(Certificate { listener, file, validity, reported });
            }
        }
    }

    /// The remarks that are due at `now`, wall time since the Unix epoch.
    pub fn look(&self, now: Duration) -> Vec<Remark> {
        self.lock().iter_mut().filter_map(|certificate| certificate.look(now)).collect()
    }

    pub(super) fn families(&self, out: &mut Families) {
        let mut family = out.gauge(
            "millgate_certificate_expiry_timestamp_seconds",
            "When a certificate that the gateway shows expires, or the first one of its chain",
        );
        let certificates = self.lock();
        // Certificates with one name, such as one with RSA and one with ECDSA, share a series: the first end is the one to know of.
        let mut first_ends: BTreeMap<(&str, String), Duration> = BTreeMap::new();
        for certificate in &*certificates {
            let ends = certificate.validity.not_after;
            let first = first_ends.entry((&certificate.listener, certificate.name())).or_insert(ends);
            *first = ends.min(*first);
        }
        for ((listener, name), at) in first_ends {
            family.add(&[("listener", listener), ("name", &name)], at.as_secs_f64());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Certificate>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Certificate {
    fn look(&mut self, now: Duration) -> Option<Remark> {
        let standing = self.validity.standing(now);
        let is_reported =
            |(known, at): (Standing, Duration)| known == standing && now.saturating_sub(at) < REPEATED;
        if standing == Standing::Good || self.reported.is_some_and(is_reported) {
            return None;
        }
        // The registry's client reads a renewed file without a reload.
        let renewed = if self.listener == CONSUL { Validity::of_file(&self.file) } else { None };
        if let Some(renewed) = renewed.filter(|renewed| *renewed != self.validity) {
            self.validity = renewed;
            return self.look(now);
        }
        self.reported = Some((standing, now));
        let Validity { not_before, not_after, .. } = self.validity;
        let (kind, what) = match standing {
            Standing::Expired => ("certificate_expired", format!("expired at {}", at(not_after))),
            Standing::NotYetValid => {
                ("certificate_not_yet_valid", format!("is not valid before {}", at(not_before)))
            }
            Standing::ExpiresSoon | Standing::Good => {
                let left = Duration::from_mins(not_after.saturating_sub(now).as_secs() / 60);
                let left = humantime::format_duration(left);
                ("certificate_expires", format!("expires in {left}, at {}", at(not_after)))
            }
        };
        let text = format!("{}: {} ({}) {what}", self.listener, self.name(), self.file.display());
        Some(Remark { kind, text })
    }

    /// Whether it comes from an authority and has no file.
    fn is_issued(&self) -> bool {
        self.file.to_str().is_some_and(|file| file.starts_with(ISSUED))
    }

    /// The name in the leaf; without one, the name of the file.
    fn name(&self) -> String {
        let of_file = || self.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.validity.name.clone().unwrap_or_else(of_file)
    }
}

/// The OCSP responses of a listener, as metrics.
pub(super) fn staples<'a>(out: &mut Families, listeners: impl Iterator<Item = &'a ServedNames>) {
    let now = clock::unix_now();
    let numbers = listeners.map(|names| names.staples(now));
    let Some(sum) = numbers.reduce(|a, b| std::array::from_fn(|at| a[at] + b[at])) else { return };
    let mut family = out.gauge(
        "millgate_ocsp_responses",
        "OCSP responses of certificates: stapled, stale (out of time), or unusable (about another certificate, not good)",
    );
    for (state, number) in ["stapled", "stale", "unusable"].into_iter().zip(sum) {
        family.add(&[("state", state)], count(number as u64));
    }
}

fn read(settings: &Settings, listener: &str, file: &Path) -> Option<Validity> {
    let is_name = settings.listen.https.iter().any(|https| *https.name == *listener);
    if listener.ends_with(REVOCATIONS) && !is_name {
        return Validity::of_crl_file(file);
    }
    if listener.ends_with(STAPLES) && !is_name {
        let mut certificates = settings.listen.https.iter().flat_map(|https| &https.tls.certificates);
        let about = certificates.find(|certificate| certificate.ocsp_file.as_deref() == Some(file))?;
        return Validity::of_ocsp_file(file, &about.cert_file);
    }
    Validity::of_file(file)
}

/// Every place where the gateway presents a certificate, with the file of it.
fn files(settings: &Settings) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    let mut add = |listener: String, file: Option<&Path>| {
        files.extend(file.map(|file| (listener, file.to_owned())));
    };
    for https in &settings.listen.https {
        for certificate in &https.tls.certificates {
            add(https.name.to_string(), Some(&certificate.cert_file));
            add(format!("{}{STAPLES}", https.name), certificate.ocsp_file.as_deref());
        }
        let clients = https.tls.clients.as_ref();
        add(format!("{}{REVOCATIONS}", https.name), clients.and_then(|clients| clients.crl_file.as_deref()));
    }
    let of_declared = settings.auto_routes.iter().flat_map(|auto| &auto.services);
    for service in settings.services.iter().chain(of_declared) {
        let tls = service.tls.as_ref();
        add(format!("services.{}", service.name), tls.and_then(|tls| tls.files.cert_file.as_deref()));
    }
    let consul = settings.consul.as_ref();
    add(CONSUL.to_owned(), consul.and_then(|consul| consul.tls.cert_file.as_deref()));
    files
}

fn at(unix: Duration) -> impl std::fmt::Display {
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + unix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_comes_at_once_once_a_day_and_in_the_second_in_which_the_certificate_expires() {
        let day = Duration::from_hours(24);
        let second = Duration::from_secs(1);
        let validity = Validity { not_before: day, not_after: 100 * day, name: None };
        let mut certificate = Certificate {
            listener: "https".to_owned(),
            file: "certs/shop.pem".into(),
            validity,
            reported: None,
        };
        let mut kinds = Vec::new();
        let start = 98 * day + Duration::from_hours(18);
        let mut now = start;
        while now < start + 3 * day {
            kinds.extend(certificate.look(now).map(|remark| (now.saturating_sub(start), remark.kind)));
            now += second;
        }
        let (hours, expired) = (Duration::from_hours, 30 * Duration::from_hours(1) + second);
        assert_eq!(
            kinds,
            [
                (hours(0), "certificate_expires"),
                (hours(24), "certificate_expires"),
                (expired, "certificate_expired"),
                (expired + hours(24), "certificate_expired"),
            ]
        );
        certificate.reported = None;
        let text = certificate.look(start).map(|remark| remark.text);
        let expected = "https: shop.pem (certs/shop.pem) expires in 1day 6h, at 1970-04-11T00:00:00Z";
        assert_eq!(text.as_deref(), Some(expected));
        assert_eq!(
            certificate.look(Duration::ZERO).map(|remark| remark.kind),
            Some("certificate_not_yet_valid")
        );
        assert_eq!(certificate.look(50 * day), None);
    }
}
