//! The tasks that order certificates, as the settings ask for them, and what they bring.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Background, Controller};
use crate::{
    acme::{News, Task},
    certificate::acme::{AcmeAuthority, Storage, Wanted},
    config::settings::Settings,
};

/// The tasks, and their news.
pub(super) struct AcmeTasks {
    tasks: Vec<Task>,
    /// The registry whose client they have.
    registry: u64,
    sender: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
}

impl AcmeTasks {
    pub(super) fn new() -> Self {
        let (sender, news) = mpsc::channel(1);
        Self { tasks: Vec::new(), registry: 0, sender, news }
    }

    /// Waits for news. Nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            // Its own sender is in `self`.
            None => std::future::pending().await,
        }
    }

    /// Ends all tasks: another process orders from now on, or nobody.
    pub(super) fn stop(&mut self) {
        self.tasks.clear();
    }
}

impl Controller {
    /// Starts the tasks that the settings need and that do not run, and ends those that they no longer need.
    pub(super) fn follow_acme(&mut self, background: &mut Background) {
        let named = authorities(&self.settings);
        self.world.acme.keep(|authority| named.iter().any(|(known, _)| known == authority));
        self.status
            .acme
            .keep(|id| named.iter().flat_map(|(_, wanted)| wanted).any(|wanted| *wanted.id == *id));
        let registry = background.discovery.registry();
        let has_moved = std::mem::replace(&mut background.acme.registry, registry) != registry;
        background.acme.tasks.retain(|task| {
            let is_as_before = named
                .iter()
                .any(|(authority, wanted)| *authority == task.authority && *wanted == task.wanted);
            is_as_before && !(has_moved && matches!(task.authority.storage, Storage::Consul(_)))
        });
        for (authority, wanted) in named {
            if background.acme.tasks.iter().any(|task| task.authority == authority) {
                continue;
            }
            let shared = (background.acme.sender.clone(), Arc::clone(&self.status.acme));
            let copy = self.kept.folder().map(|folder| folder.join("acme"));
            match Task::start(authority, wanted, (background.discovery.client(), copy), shared) {
                Ok(task) => background.acme.tasks.push(task),
                Err(error) => {
                    tracing::error!("certificates cannot be ordered: {error}");
                    self.status.note("acme_unusable", error);
                }
            }
        }
        self.know_certificates(background);
    }

    /// Takes what a task has brought; workers see it when this returns.
    pub(super) fn learn_acme(&mut self, news: News, background: &Background) {
        let News { authority, part, published } = news;
        // News that were on their way when a reload made them needless are dropped.
        if !background.acme.tasks.iter().any(|task| task.authority == authority) {
            return;
        }
        self.world.acme.learn(authority, part);
        for tls in self.world.tls.values_mut() {
            *tls = tls.with_acme(self.world.acme.state());
        }
        self.status.certificates.learn(&self.settings, self.world.acme.state());
        self.look_at_certificates();
        self.publish();
        // After it: whoever waits for readiness finds the certificates.
        self.know_certificates(background);
        let _ = published.send(());
    }

    /// A start is ready when every storage was read once, or could not be: a certificate that is there is not missed, and one that is
    /// awaited keeps no other name out of service.
    fn know_certificates(&self, background: &Background) {
        if background.acme.tasks.iter().all(|task| self.world.acme.knows(&task.authority)) {
            self.status.set_certificates_known();
        }
    }
}

/// The authorities of all listeners, each once, with what is wanted of them.
fn authorities(settings: &Settings) -> Vec<(AcmeAuthority, Vec<Wanted>)> {
    let mut all: Vec<(AcmeAuthority, Vec<Wanted>)> = Vec::new();
    for acme in settings.listen.https.iter().filter_map(|https| https.tls.acme.as_ref()) {
        let at = all.iter().position(|(authority, _)| *authority == acme.authority);
        let at = at.unwrap_or_else(|| {
            all.push((acme.authority.clone(), Vec::new()));
            all.len() - 1
        });
        let Some((_, wanted)) = all.get_mut(at) else { continue };
        for one in &acme.certificates {
            if !wanted.iter().any(|known| known.id == one.id) {
                wanted.push(one.clone());
            }
        }
    }
    all
}
