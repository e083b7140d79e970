//! Limits outlive the table in which they stand: one that stays as it is keeps its counts.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{KeyBudget, RateLimit, RateLimitError, RateLimitKey, RateLimitSpec};

/// Makes limits, or takes over those that stay as they are.
pub(crate) struct Limits<'a> {
    /// Of the previous table, by route name.
    routes: HashMap<&'a str, &'a [Arc<RateLimit>]>,
    /// Of the previous table: limits `per service` by service name.
    services: HashMap<&'a str, Vec<&'a Arc<RateLimit>>>,
    budget: &'a Arc<KeyBudget>,
    /// Limits `per service`: one bucket for all routes of the service that have the same limit, which is known by its
    /// name and its settings.
    shared: HashMap<OfService, Arc<RateLimit>>,
}

/// What one bucket of a service is known by: service, name of the limit, requests, period, burst.
type OfService = (String, String, u32, Duration, u32);

impl<'a> Limits<'a> {
    /// `previous`: each route with its service and its limits.
    pub(crate) fn new(
        previous: impl Iterator<Item = (&'a str, &'a str, &'a [Arc<RateLimit>])>,
        budget: &'a Arc<KeyBudget>,
    ) -> Self {
        let mut limits =
            Self { routes: HashMap::new(), services: HashMap::new(), budget, shared: HashMap::new() };
        for (route, service, of_route) in previous {
            limits.routes.insert(route, of_route);
            let per_service = of_route.iter().filter(|limit| *limit.key_source() == RateLimitKey::Service);
            limits.services.entry(service).or_default().extend(per_service);
        }
        limits
    }

    /// The limit of a route of a service.
    pub(in crate::policy) fn of(
        &mut self,
        route: &str,
        service: &str,
        settings: &RateLimitSpec,
    ) -> Result<Arc<RateLimit>, RateLimitError> {
        let RateLimitSpec { name, requests, period, burst, .. } = settings;
        let key = (service.to_owned(), name.clone(), *requests, *period, *burst);
        if settings.key == RateLimitKey::Service
            && let Some(limit) = self.shared.get(&key)
        {
            return Ok(Arc::clone(limit));
        }
        // A bucket belongs to what it is per: a route may move to another service, and leaves its bucket behind.
        let carried = match settings.key {
            RateLimitKey::Service => {
                self.services.get(service).and_then(|old| old.iter().copied().find(|l| l.matches(settings)))
            }
            // Wherever it stood in the list.
            _ => self.routes.get(route).and_then(|old| old.iter().find(|known| known.matches(settings))),
        };
        let limit = match carried {
            Some(known) => Arc::clone(known),
            None => Arc::new(RateLimit::compile(settings, self.budget)?),
        };
        if settings.key == RateLimitKey::Service {
            self.shared.insert(key, Arc::clone(&limit));
        }
        Ok(limit)
    }
}
