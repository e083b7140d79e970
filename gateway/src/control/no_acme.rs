//! A build without the feature `acme`: no task ever runs, since the configuration cannot ask for one.

use super::{Background, Controller};

/// Nothing can be said by nobody.
pub(super) enum NoNews {}

pub(super) struct NoTasks;

impl NoTasks {
    pub(super) fn new() -> Self {
        Self
    }

    pub(super) async fn next(&mut self) -> NoNews {
        std::future::pending().await
    }

    pub(super) fn stop(&mut self) {}
}

impl Controller {
    pub(super) fn follow_acme(&mut self, _: &mut Background) {
        self.status.set_certificates_known();
    }

    pub(super) fn learn_acme(&mut self, news: NoNews, _: &Background) {
        match news {}
    }
}
