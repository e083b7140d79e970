//! Certificates from an authority that speaks ACME (RFC 8555): they are ordered, kept, renewed, and handed to the listeners.
//!
//! This is control plane: one task for each authority of the settings, beside the control loop, and nothing here is on the way of a
//! request. A task reads the storage, hands what is there to the loop, and sleeps until something changes or a certificate is due.
//! What is due is ordered under the storage's lock and after another look at the storage, so that of many gateways one orders, and the
//! others find its certificate. The answers to the authority's challenges stand in the storage, too: whichever gateway the authority
//! reaches can give them.
//!
//! A certificate is due after two thirds of its life, a little earlier by a part that its own bytes decide ([`schedule`]). A failure is
//! written into the storage with the time of the next attempt, which counts for every gateway and after a restart. A certificate that is
//! there stays in use whatever fails.
//!
//! Limits: 128 certificates of 100 names for a listener, answers of 256 KiB, ten minutes for an order, one order at a time in a
//! storage. Numbers and states are in the [`AcmeReport`].

mod certificate;
mod client;
mod copy;
mod failure;
mod order;
mod pending;
mod renewals;
mod schedule;
mod store;

use std::{path::PathBuf, sync::Arc};

use millgate_registry::Client;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use self::renewals::Renewals;
use crate::{
    certificate::{
        acme::{AcmeAuthority, Wanted},
        issued::AcmePart,
    },
    tls::acme_report::AcmeReport,
};

/// What a task has to tell the control loop.
pub(crate) struct News {
    pub(crate) authority: AcmeAuthority,
    pub(crate) part: AcmePart,
    /// Answered when workers see it.
    pub(crate) published: oneshot::Sender<()>,
}

/// The task of one authority. It ends with this value; an order under way is given up, and its lock is released.
pub(crate) struct Task {
    pub(crate) authority: AcmeAuthority,
    pub(crate) wanted: Vec<Wanted>,
    handle: JoinHandle<()>,
}

impl Task {
    /// Starts the task on the current runtime. `consul` is the registry's client, for a storage in Consul, and `copy` the
    /// folder in which certificates from there are kept for a start without it.
    ///
    /// # Errors
    /// A file cannot be used, or there is no registry.
    pub(crate) fn start(
        authority: AcmeAuthority,
        wanted: Vec<Wanted>,
        (consul, copy): (Option<&Client>, Option<PathBuf>),
        (news, report): (mpsc::Sender<News>, Arc<AcmeReport>),
    ) -> Result<Self, String> {
        let renewals = Renewals::new(authority.clone(), wanted.clone(), (consul, copy), (news, report))?;
        Ok(Self { authority, wanted, handle: tokio::spawn(renewals.run()) })
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}
