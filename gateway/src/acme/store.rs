//! Where account, certificates, failures and pending challenges are kept: named values in a folder or in Consul, and one lock.
//!
//! Both kinds have the same names, so a folder can be copied into Consul and back. Values are whole: a reader finds the old one or the
//! new one. Whoever holds the lock orders; everyone reads.

pub(super) mod consul;
pub(super) mod folder;

use std::collections::BTreeMap;

use bytes::Bytes;

use self::{
    consul::{ConsulLock, ConsulStore},
    folder::{Folder, FolderLock},
};

/// Values by their names.
pub(super) type Items = BTreeMap<String, Bytes>;

/// A storage. Errors are one sentence.
pub(super) enum Store {
    Folder(Folder),
    Consul(ConsulStore),
}

/// The lock of a storage, until it is dropped.
pub(super) enum Lock {
    Folder(#[expect(dead_code, reason = "released by its drop")] FolderLock),
    Consul(ConsulLock),
}

impl Store {
    /// All values now.
    pub(super) async fn read(&mut self) -> Result<Items, String> {
        match self {
            Self::Folder(folder) => folder.read().await,
            Self::Consul(consul) => consul.read().await,
        }
    }

    /// Waits until something may have changed since the last read, and reads.
    pub(super) async fn changed(&mut self) -> Result<Items, String> {
        match self {
            Self::Folder(folder) => folder.changed().await,
            Self::Consul(consul) => consul.changed().await,
        }
    }

    /// Writes a value.
    pub(super) async fn put(&self, name: &str, value: Vec<u8>) -> Result<(), String> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(format!("`{name}` has more than {VALUE_BYTES_MAX} bytes"));
        }
        match self {
            Self::Folder(folder) => folder.put(name, value).await,
            Self::Consul(consul) => consul.put(name, value).await,
        }
    }

    /// Removes a value, which may be missing.
    pub(super) async fn remove(&self, name: &str) -> Result<(), String> {
        match self {
            Self::Folder(folder) => folder.remove(name).await,
            Self::Consul(consul) => consul.remove(name).await,
        }
    }

    /// Takes the lock, if nobody has it.
    pub(super) async fn lock(&self) -> Result<Option<Lock>, String> {
        match self {
            Self::Folder(folder) => Ok(folder.lock().await?.map(Lock::Folder)),
            Self::Consul(consul) => Ok(consul.lock().await?.map(Lock::Consul)),
        }
    }
}

impl Lock {
    /// Returns when the lock is lost.
    pub(super) async fn lost(&self) {
        match self {
            Self::Folder(_) => std::future::pending().await,
            Self::Consul(lock) => lock.lost().await,
        }
    }
}

/// A chain of ten certificates has 30 KiB. Consul accepts values up to 512 KiB.
pub(super) const VALUE_BYTES_MAX: usize = 256 * 1024;
/// The end of a certificate's name.
pub(super) const CERTIFICATE: &str = ".pem";
/// The name of the lock.
const LOCK: &str = "lock";
