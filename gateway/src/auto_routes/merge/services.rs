//! The services of declared routes.

use std::collections::{HashMap, HashSet};

use super::Accepted;
use crate::{
    config::settings::{AutoRoutesSettings, Selector, ServiceSettings, Settings, SubsetSettings},
    upstream::settings::HttpVersion,
};

/// The services of the file, followed by those that only declared routes name.
pub(super) struct Services<'a> {
    auto: &'a AutoRoutesSettings,
    file: &'a Settings,
    added: Vec<ServiceSettings>,
    /// Indexes by the name in the registry and the name of the subset.
    indexes: HashMap<(String, Option<String>), usize>,
}

impl<'a> Services<'a> {
    pub(super) fn new(auto: &'a AutoRoutesSettings, file: &'a Settings) -> Self {
        Self { auto, file, added: Vec::new(), indexes: HashMap::new() }
    }

    /// The index of a whole service.
    pub(super) fn whole(&mut self, service: &str) -> usize {
        self.index_of(service, None)
    }

    /// The index for a route: of the whole service, or of a subset with the shares and protocols of the
    /// route's tags.
    pub(super) fn index(&mut self, candidate: &Accepted) -> usize {
        let is_weighted = candidate.by_tag.iter().any(|known| known.share > 0);
        let has_tls = candidate.by_tag.iter().any(|known| known.tls.is_some());
        let has_calls = candidate.by_tag.iter().any(|known| known.version == Some(HttpVersion::Grpc));
        let word = match (is_weighted, has_tls, has_calls) {
            (true, _, _) => "weighted",
            (false, true, _) => "https",
            (false, false, true) => "grpc",
            (false, false, false) => "h2c",
        };
        let subset = (!candidate.by_tag.is_empty()).then(|| SubsetSettings {
            name: format!("{word} {}", candidate.declaration.condition()),
            selector: Selector::default(),
            by_tag: candidate.by_tag.clone(),
        });
        self.index_of(&candidate.service, subset)
    }

    fn index_of(&mut self, service: &str, subset: Option<SubsetSettings>) -> usize {
        let key = (service.to_owned(), subset.as_ref().map(|subset| subset.name.clone()));
        if let Some(index) = self.indexes.get(&key) {
            return *index;
        }
        let settings = ServiceSettings { subset, ..self.auto.service_of(service) };
        let is_same =
            |known: &ServiceSettings| known.name == settings.name && known.subset == settings.subset;
        let of_file = self.file.services.iter().position(is_same);
        let index = of_file.unwrap_or_else(|| {
            self.added.push(settings);
            self.file.services.len() + self.added.len() - 1
        });
        self.indexes.insert(key, index);
        index
    }

    /// Adds the services in `used` to the settings, and returns their new indexes by the old ones.
    pub(super) fn add_to(self, settings: &mut Settings, used: &HashSet<usize>) -> HashMap<usize, usize> {
        let first = settings.services.len();
        let mut moved = HashMap::new();
        for (at, service) in self.added.into_iter().enumerate() {
            if used.contains(&(first + at)) {
                moved.insert(first + at, settings.services.len());
                settings.services.push(service);
            }
        }
        moved
    }
}
