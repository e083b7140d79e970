//! The task of one authority: it follows the storage, tells the control loop what there is, and orders what is due.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use millgate_registry::{Client, HttpClient, HttpOptions, TlsOptions};
use tokio::sync::{mpsc, oneshot};

use super::{
    News, certificate,
    client::AuthorityClient,
    copy::LocalCopy,
    failure::{FailureKind, OrderFailure},
    order,
    pending::{Challenge, Pending},
    schedule::{self, PastFailures},
    store::{CERTIFICATE, Items, Store, consul::ConsulStore, folder::Folder},
};
use crate::{
    certificate::{
        acme::{AcmeAuthority, Storage, Wanted},
        issued::{AcmePart, Issued},
    },
    clock,
    tls::acme_report::AcmeReport,
};

/// The task's state.
pub(super) struct Renewals {
    authority: AcmeAuthority,
    wanted: Vec<Wanted>,
    store: Store,
    /// The copy of a storage in Consul, for a start while that is away.
    copy: Option<LocalCopy>,
    /// The storage in messages.
    place: String,
    http: HttpClient,
    news: mpsc::Sender<News>,
    report: Arc<AcmeReport>,
    /// What was read last: the values, and the certificates by their ids with the values from which they were read.
    items: Items,
    issued: HashMap<Arc<str>, (Bytes, Arc<Issued>)>,
    /// Values that could not be used, so that each is logged once.
    refused: HashMap<Arc<str>, Bytes>,
    /// What the control loop was told: certificates by their values, and pending challenges.
    told: Option<(Vec<Bytes>, Vec<Pending>)>,
    /// Nothing is ordered before: another gateway has the lock.
    not_before: Duration,
}

impl Renewals {
    pub(super) fn new(
        authority: AcmeAuthority,
        wanted: Vec<Wanted>,
        (consul, copy): (Option<&Client>, Option<PathBuf>),
        (news, report): (mpsc::Sender<News>, Arc<AcmeReport>),
    ) -> Result<Self, String> {
        let (store, place) = match &authority.storage {
            Storage::Folder(path) => (Store::Folder(Folder::new(path)), path.display().to_string()),
            Storage::Consul(prefix) => {
                let client = consul.ok_or("there is no client of Consul")?.clone();
                (Store::Consul(ConsulStore::new(client, prefix)), format!("consul:{prefix}"))
            }
        };
        let copy = copy.filter(|_| matches!(store, Store::Consul(_))).map(|path| LocalCopy::new(&path));
        let tls = TlsOptions { ca_file: authority.ca_file.clone(), ..TlsOptions::default() };
        let http = HttpClient::new(&HttpOptions { tls }).map_err(|error| error.to_string())?;
        for one in &wanted {
            report.update(&one.id, |known| {
                known.names.clone_from(&one.names);
                known.directory.clone_from(&authority.directory);
            });
        }
        Ok(Self {
            authority,
            wanted,
            store,
            copy,
            place,
            http,
            news,
            report,
            items: Items::new(),
            issued: HashMap::new(),
            refused: HashMap::new(),
            told: None,
            not_before: Duration::ZERO,
        })
    }

    /// Runs until the task is dropped, or the control loop ends.
    pub(super) async fn run(mut self) {
        let first = self.store.read().await;
        if first.is_err()
            && let Some(copy) = &mut self.copy
            && let Some(items) = copy.recall().await
        {
            self.items = items;
            self.tell().await;
        }
        self.take(first).await;
        loop {
            let now = clock::unix_now();
            let (due, wanted) = self.next(now);
            // Wall time may be set while this sleeps.
            let sleep = due.saturating_sub(now).min(LOOK_AGAIN);
            tokio::select! {
                changed = self.store.changed() => self.take(changed).await,
                () = tokio::time::sleep(sleep) => match wanted {
                    Some(wanted) if due <= clock::unix_now() => self.attempt(&wanted).await,
                    _ => _ = self.tell().await,
                }
            }
            if self.news.is_closed() {
                return;
            }
        }
    }

    /// Takes what the storage answered.
    async fn take(&mut self, answer: Result<Items, String>) {
        match answer {
            Ok(items) => {
                if self.report.storage(&self.place, None) {
                    tracing::info!(storage = self.place, "the storage of ACME can be read again");
                }
                self.items = items;
                if self.tell().await
                    && let Some(copy) = &mut self.copy
                {
                    let values = self.issued.iter().map(|(id, (value, _))| (Arc::clone(id), value.clone()));
                    copy.keep(values.collect()).await;
                }
            }
            Err(error) => {
                if self.report.storage(&self.place, Some(&error)) {
                    tracing::warn!(storage = self.place, "{error}; certificates that are known stay in use");
                }
                tokio::time::sleep(STORAGE_PAUSE.mul_f64(1.0 + rand::random::<f64>())).await;
            }
        }
    }

    /// Reads the values, and tells the control loop if there is news. Returns whether there was.
    async fn tell(&mut self) -> bool {
        for wanted in &self.wanted {
            let Some(bytes) = self.items.get(&item(wanted, CERTIFICATE)) else { continue };
            let is_known = self.issued.get(&wanted.id).is_some_and(|(known, _)| known == bytes)
                || self.refused.get(&wanted.id) == Some(bytes);
            if is_known {
                continue;
            }
            match certificate::read(wanted, bytes) {
                Ok(issued) => {
                    self.refused.remove(&wanted.id);
                    self.issued.insert(Arc::clone(&wanted.id), (bytes.clone(), Arc::new(issued)));
                }
                Err(reason) => {
                    tracing::error!(storage = self.place, id = %wanted.id, "a stored certificate is not used: {reason}");
                    self.refused.insert(Arc::clone(&wanted.id), bytes.clone());
                }
            }
        }
        self.record();
        let now = clock::unix_now();
        let pending: Vec<Pending> = self.pending().filter(|pending| pending.until > now.as_secs()).collect();
        let values =
            self.wanted.iter().filter_map(|wanted| Some(self.issued.get(&wanted.id)?.0.clone())).collect();
        let told = Some((values, pending));
        if self.told == told {
            return false;
        }
        let mut part = AcmePart::default();
        let issued = self.issued.iter().map(|(id, (_, issued))| (Arc::clone(id), Arc::clone(issued)));
        part.issued = issued.collect();
        for pending in told.iter().flat_map(|(_, pending)| pending) {
            pending.answer(now, &mut part);
        }
        let (published, is_published) = oneshot::channel();
        let news = News { authority: self.authority.clone(), part, published };
        if self.news.send(news).await.is_ok() && is_published.await.is_ok() {
            self.told = told;
        }
        true
    }

    /// The challenges in the storage, of any gateway.
    fn pending(&self) -> impl Iterator<Item = Pending> {
        let values = self.items.iter().filter(|(name, _)| name.ends_with(CHALLENGES));
        values.filter_map(|(_, value)| serde_json::from_slice(value).ok())
    }

    fn attempts(&self, wanted: &Wanted) -> Option<PastFailures> {
        serde_json::from_slice(self.items.get(&item(wanted, ATTEMPTS))?).ok()
    }

    /// When a certificate is ordered next.
    fn due(&self, wanted: &Wanted) -> Duration {
        // A stored value that was removed asks for a new one.
        let is_stored = self.items.contains_key(&item(wanted, CERTIFICATE));
        let known = self.issued.get(&wanted.id).filter(|_| is_stored);
        let renewal = known.map_or(Duration::ZERO, |(_, issued)| schedule::renewal(issued));
        let next = self.attempts(wanted).map_or(0, |attempts| attempts.next);
        renewal.max(Duration::from_secs(next))
    }

    /// The certificate that is ordered next, and when; or the time at which a challenge ends.
    fn next(&self, now: Duration) -> (Duration, Option<Wanted>) {
        let first = self.wanted.iter().map(|wanted| (self.due(wanted).max(self.not_before), wanted));
        let (due, wanted) = match first.min_by_key(|(due, _)| *due) {
            Some((due, wanted)) => (due, Some(wanted.clone())),
            None => (now + LOOK_AGAIN, None),
        };
        let ends =
            self.pending().map(|pending| Duration::from_secs(pending.until)).filter(|until| *until > now);
        match ends.min() {
            Some(end) if end < due => (end, None),
            _ => (due, wanted),
        }
    }

    /// Orders a certificate, if nobody else does, and if it is still due when this gateway has the lock.
    async fn attempt(&mut self, wanted: &Wanted) {
        let lock = match self.store.lock().await {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                self.not_before = clock::unix_now() + LOCK_PAUSE.mul_f64(1.0 + rand::random::<f64>());
                return;
            }
            Err(error) => return self.take(Err(error)).await,
        };
        let read = self.store.read().await;
        self.take(read).await;
        if self.due(wanted) > clock::unix_now() {
            return;
        }
        tracing::info!(
            names = wanted.names.join(" "),
            directory = self.authority.directory,
            "ordering a certificate"
        );
        self.report.update(&wanted.id, |known| known.is_ordering = true);
        let client = AuthorityClient::new(self.http.clone());
        let result = tokio::select! {
            result = tokio::time::timeout(ORDER_MAX, self.order(wanted, &client)) => result
                .unwrap_or_else(|_| Err(OrderFailure::new(FailureKind::Unreachable, "the order took too long"))),
            () = lock.lost() => Err(OrderFailure::storage("the lock of the storage was lost")),
        };
        self.report.update(&wanted.id, |known| known.is_ordering = false);
        let kept = match result {
            Ok(pem) => self.keep(wanted, pem).await,
            Err(failure) => self.record_failure(wanted, failure, &client).await,
        };
        let removed = self.store.remove(&item(wanted, CHALLENGES)).await;
        drop(lock);
        let read = match kept.and(removed) {
            Ok(()) => self.store.read().await,
            Err(error) => Err(error),
        };
        self.take(read).await;
    }

    async fn order(&mut self, wanted: &Wanted, client: &AuthorityClient) -> Result<Vec<u8>, OrderFailure> {
        let name = self.account_item();
        let (account, stored) = order::account(&self.authority, self.items.get(&name), client).await?;
        if let Some(stored) = stored {
            self.store.put(&name, stored).await.map_err(|error| OrderFailure::storage(&error))?;
        }
        let kind = self.authority.challenge;
        let pem =
            order::order(&account, wanted, kind, async |challenges| self.present(wanted, challenges).await)
                .await?;
        let issued = certificate::read(wanted, &pem)
            .map_err(|reason| OrderFailure::new(FailureKind::Unusable, &reason))?;
        let now = clock::unix_now();
        if issued.not_after <= now || issued.not_before > now + SKEW {
            return Err(OrderFailure::new(
                FailureKind::Unusable,
                "the certificate is not valid now; is the clock of this machine right?",
            ));
        }
        Ok(pem)
    }

    /// Writes challenges into the storage, and returns when this gateway answers them and others have had the time to.
    async fn present(&mut self, wanted: &Wanted, challenges: Vec<Challenge>) -> Result<(), OrderFailure> {
        let until = (clock::unix_now() + ORDER_MAX).as_secs();
        let pending = Pending { until, kind: Some(self.authority.challenge.into()), challenges };
        let value =
            serde_json::to_vec(&pending).map_err(|error| OrderFailure::storage(&error.to_string()))?;
        let name = item(wanted, CHALLENGES);
        self.store.put(&name, value.clone()).await.map_err(|error| OrderFailure::storage(&error))?;
        self.items.insert(name, value.into());
        self.tell().await;
        tokio::time::sleep(SETTLE).await;
        Ok(())
    }

    async fn keep(&mut self, wanted: &Wanted, pem: Vec<u8>) -> Result<(), String> {
        self.report.count(ISSUED);
        tracing::info!(names = wanted.names.join(" "), "a certificate was issued");
        // In use even where the storage fails now; the next attempt writes another one.
        self.items.insert(item(wanted, CERTIFICATE), pem.clone().into());
        self.store.put(&item(wanted, CERTIFICATE), pem).await?;
        self.store.remove(&item(wanted, ATTEMPTS)).await
    }

    async fn record_failure(
        &mut self,
        wanted: &Wanted,
        failure: OrderFailure,
        client: &AuthorityClient,
    ) -> Result<(), String> {
        let now = clock::unix_now();
        let failures = self.attempts(wanted).map_or(0, |known| known.failures).saturating_add(1);
        let said = failure.retry_after.into_iter().chain(client.retry_after()).max();
        let pause = schedule::pause(failures, failure.kind, said, rand::random());
        self.report.count(failure.kind.as_str());
        let until = self.issued.get(&wanted.id).map(|(_, issued)| issued.not_after);
        let standing = match until {
            Some(end) if end > now => format!("the one in use ends in {}", shown(end.saturating_sub(now))),
            Some(_) => "the one in use has expired".to_owned(),
            None => "there is none: handshakes for these names fail".to_owned(),
        };
        tracing::error!(
            names = wanted.names.join(" "),
            kind = failure.kind.as_str(),
            failures,
            "no certificate from {}: {}; {standing}; next attempt in {}",
            self.authority.directory,
            failure.text,
            shown(pause)
        );
        let attempts = PastFailures {
            failures,
            at: now.as_secs(),
            next: (now + pause).as_secs(),
            kind: failure.kind,
            error: failure.text,
        };
        let value = serde_json::to_vec(&attempts).map_err(|error| error.to_string())?;
        // Counts even where the storage fails now.
        self.items.insert(item(wanted, ATTEMPTS), value.clone().into());
        self.not_before = self.not_before.max(now + MIN_PAUSE);
        if failure.lost_account {
            self.store.remove(&self.account_item()).await?;
        }
        self.store.put(&item(wanted, ATTEMPTS), value).await
    }

    fn account_item(&self) -> String {
        let external = self.authority.external_account.as_ref().map_or("", |external| &external.key_id);
        let digest = digest(&SHA256, format!("{}\n{external}", self.authority.directory).as_bytes());
        let hash = digest.as_ref().iter().take(8).fold(0_u64, |hash, byte| hash << 8 | u64::from(*byte));
        format!("account-{hash:016x}.json")
    }

    /// Writes what is known into the report.
    fn record(&self) {
        for wanted in &self.wanted {
            let attempts = self.attempts(wanted);
            let issued = self.issued.get(&wanted.id).map(|(_, issued)| issued.not_after);
            let next = self.due(wanted);
            self.report.update(&wanted.id, |known| {
                known.not_after = issued;
                known.next = Some(next);
                known.failures = attempts.as_ref().map_or(0, |attempts| attempts.failures);
                known.last_error = attempts.map(|attempts| attempts.error);
            });
        }
    }
}

fn item(wanted: &Wanted, kind: &str) -> String {
    format!("{}{kind}", wanted.id)
}

fn shown(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(time.as_secs()))
}

/// The ends of names in the storage.
const ATTEMPTS: &str = ".attempts.json";
const CHALLENGES: &str = ".challenges.json";
/// The result of an order in the metric.
const ISSUED: &str = "issued";
/// The longest order, and the time for which its challenges are answered.
const ORDER_MAX: Duration = Duration::from_mins(10);
/// Until others see a challenge: Consul tells them within milliseconds, a folder is looked at every half second.
const SETTLE: Duration = Duration::from_secs(1);
/// Another gateway orders: it needs some seconds.
const LOCK_PAUSE: Duration = Duration::from_secs(2);
const STORAGE_PAUSE: Duration = Duration::from_secs(2);
const MIN_PAUSE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_hours(1);
/// Clocks of machines differ.
const SKEW: Duration = Duration::from_mins(5);
