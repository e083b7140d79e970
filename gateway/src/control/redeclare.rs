//! Puts declared routes into the table, and takes them out of it.

use std::sync::Arc;

use super::{
    Background, Controller,
    catalog::{CatalogFollow, Events},
    declared::look_at,
};
use crate::{clock, compile, config::settings::Settings, snapshot::RouteTable};

impl Controller {
    /// Makes a new table after a change of services or tags, if that changes the table.
    pub(super) fn redeclare(&mut self, background: &mut Background) {
        let previous = self.publisher.load();
        let world = &self.world;
        if let Some(auto) = &self.file.auto_routes {
            self.declared.relearn_metadata(auto, world);
            self.declared.relearn_standings(auto, world);
        }
        let (settings, changes) =
            self.declared.merge(&self.file, |service| world.knows(service), clock::now());
        self.tell(&changes);
        let is_same = changes.iter().all(|change| change.kind == "route_refused")
            && same_names(&settings.routes, &self.settings.routes, |route| &route.name)
            && same_names(&settings.services, &self.settings.services, |service| &service.name);
        if is_same {
            self.report_refused(background);
            return;
        }
        match compile::table(&settings, Some(&previous.table), &self.budget) {
            Ok(table) => {
                let old = std::mem::replace(&mut self.settings, settings);
                self.world.keep_for(&old, &self.settings);
                self.follow(background);
                self.publish_table(Arc::new(table));
            }
            // A merged table compiles. If it did not, the running one would be better than none.
            Err(problems) => {
                let why = problems.first().map_or("", |problem| problem.message.as_str());
                tracing::error!(why, "declared routes cannot be compiled; the table stays as it is");
            }
        }
        self.report_refused(background);
    }

    /// At a reload: adds the declared routes to the file's settings and table.
    pub(super) fn with_declared(&mut self, file: Settings, table: RouteTable) -> (Settings, RouteTable) {
        if let Some(auto) = &file.auto_routes {
            self.declared.relearn_standings(auto, &self.world);
        }
        // The reload waits for new services itself.
        let (settings, changes) = self.declared.merge(&file, |_| true, clock::now());
        self.file = file;
        self.tell(&changes);
        self.record_declared();
        if self.declared.accepted() == 0 && settings.services.len() == self.file.services.len() {
            return (settings, table);
        }
        let previous = self.publisher.load();
        match compile::table(&settings, Some(&previous.table), &self.budget) {
            Ok(table) => (settings, table),
            Err(problems) => {
                let why = problems.first().map_or("", |problem| problem.message.as_str());
                tracing::error!(why, "declared routes cannot be compiled; only the file's routes are used");
                (self.file.clone(), table)
            }
        }
    }

    /// Once a second: removes routes of services that are gone for long enough, and takes changes that instances caused.
    pub(super) fn look_at_declared(&mut self, background: &mut Background) {
        let Some(auto) = &self.file.auto_routes else { return };
        let now = clock::now();
        let has_expired = self.declared.expire(auto, &self.world, now);
        // Metadata that arrived during a reload, after its table was made, is taken here.
        let is_due = self.declared.warming().is_due(&self.world, now) || self.declared.has_news();
        if has_expired || is_due {
            self.redeclare(background);
        } else {
            self.record_declared();
        }
    }

    /// Follows the list of services, if services may declare routes.
    pub(super) fn follow_catalog(&self, background: &mut Background) {
        let wanted = self.file.auto_routes.as_ref().map(|auto| &auto.forms);
        let (Some(forms), Some(client)) = (wanted, background.discovery.client()) else {
            background.catalog = None;
            return;
        };
        if background.catalog.as_ref().is_none_or(|running| !running.serves(forms)) {
            let datacenter = self.file.consul.as_ref().and_then(|consul| consul.datacenter.clone());
            let events = Events { sender: self.events.clone(), registry: background.discovery.registry() };
            background.catalog =
                Some(CatalogFollow::start(client.clone(), datacenter, forms.clone(), events));
        }
    }

    /// Queries the instances of services that no watch follows, so that the report can name them.
    fn report_refused(&mut self, background: &Background) {
        if let (Some(auto), Some(client)) = (&self.file.auto_routes, background.discovery.client()) {
            let services = self.declared.unseen(auto, &self.world);
            if !services.is_empty() {
                tokio::spawn(look_at(client.clone(), services, self.events.clone()));
            }
        }
        self.record_declared();
    }

    fn record_declared(&self) {
        let report = self.file.auto_routes.as_ref().map(|auto| self.declared.report(auto, &self.world));
        self.status.record_declared(report);
    }

    fn tell(&self, changes: &[super::declared::Change]) {
        let (told, silent) = changes.split_at(changes.len().min(TOLD_MAX));
        if !silent.is_empty() {
            tracing::warn!(
                more = silent.len(),
                "more declared routes changed than are told; see /api/v1/routes"
            );
        }
        for change in told {
            match change.kind {
                "service_unknown" => tracing::warn!("{}", change.text),
                "route_refused" => tracing::warn!("declared route refused: {}", change.text),
                kind => tracing::info!("{}: {}", kind.replace('_', " "), change.text),
            }
            self.status.note(change.kind, change.text.clone());
        }
    }
}

fn same_names<T>(new: &[T], old: &[T], name: impl Fn(&T) -> &String) -> bool {
    new.len() == old.len() && new.iter().zip(old).all(|(new, old)| name(new) == name(old))
}

/// Changes that are logged at once: one service that declares thousands of routes must flood neither the log nor the events.
const TOLD_MAX: usize = 50;
