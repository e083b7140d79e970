//! What the tasks have done and will do, for metrics and the admin listener.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Written by the tasks, read by `/metrics` and `/api/v1/certificates`.
#[derive(Debug, Default)]
pub struct AcmeReport(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    certificates: BTreeMap<Arc<str>, CertificateReport>,
    /// Orders by their results.
    orders: BTreeMap<&'static str, u64>,
    /// Storages that cannot be read now, and why.
    storages: BTreeMap<String, String>,
}

/// What is known of one certificate.
#[derive(Debug, Clone, Default)]
pub struct CertificateReport {
    pub names: Vec<Box<str>>,
    pub directory: String,
    /// The end of the certificate in use; `None`: it is awaited. Times are wall time since 1970.
    pub not_after: Option<Duration>,
    /// When it is ordered next.
    pub next: Option<Duration>,
    /// Failures since the last success.
    pub failures: u32,
    pub last_error: Option<String>,
    /// This gateway is ordering it now.
    pub is_ordering: bool,
}

impl AcmeReport {
    /// The certificates by their ids.
    pub fn certificates(&self) -> BTreeMap<Arc<str>, CertificateReport> {
        self.lock().certificates.clone()
    }

    /// Orders of this gateway by their results.
    pub fn orders(&self) -> BTreeMap<&'static str, u64> {
        self.lock().orders.clone()
    }

    /// Storages that cannot be read now, and why.
    pub fn storages(&self) -> BTreeMap<String, String> {
        self.lock().storages.clone()
    }

    /// Forgets certificates that the settings no longer name.
    pub fn keep(&self, is_named: impl Fn(&str) -> bool) {
        self.lock().certificates.retain(|id, _| is_named(id));
    }

    pub fn update(&self, id: &Arc<str>, change: impl FnOnce(&mut CertificateReport)) {
        change(self.lock().certificates.entry(Arc::clone(id)).or_default());
    }

    pub fn count(&self, result: &'static str) {
        *self.lock().orders.entry(result).or_default() += 1;
    }

    /// The state of a storage. Returns whether that is news.
    pub fn storage(&self, name: &str, error: Option<&str>) -> bool {
        let mut known = self.lock();
        match error {
            None => known.storages.remove(name).is_some(),
            Some(error) => known.storages.insert(name.to_owned(), error.to_owned()).as_deref() != Some(error),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Each value is replaced in one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
