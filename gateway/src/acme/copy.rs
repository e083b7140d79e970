//! A copy of the certificates of a storage in Consul, in the gateway's state folder: a start finds them while Consul is away.

use std::{collections::HashMap, path::Path, sync::Arc};

use bytes::Bytes;

use super::store::{CERTIFICATE, Items, folder::Folder};

/// The folder of the copy.
pub(super) struct LocalCopy(Folder);

impl LocalCopy {
    pub(super) fn new(path: &Path) -> Self {
        Self(Folder::new(path))
    }

    /// The certificates of the last run.
    pub(super) async fn recall(&mut self) -> Option<Items> {
        let read = self.0.read().await;
        read.map_err(|error| tracing::warn!("kept certificates cannot be read: {error}")).ok()
    }

    /// Writes the certificates that are new, by their ids.
    pub(super) async fn keep(&mut self, values: HashMap<Arc<str>, Bytes>) {
        let written = async {
            let known = self.0.read().await?;
            for (id, value) in values {
                let name = format!("{id}{CERTIFICATE}");
                if known.get(&name) != Some(&value) {
                    self.0.put(&name, value.to_vec()).await?;
                }
            }
            Ok::<_, String>(())
        };
        if let Err(error) = written.await {
            tracing::warn!("certificates cannot be kept for a start without Consul: {error}");
        }
    }
}
