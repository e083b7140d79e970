//! Rate limits over a reload: a limit that stays the same keeps its counts.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{KeyBudget, RateLimit, RateLimitError, RateLimitKey, RateLimitSpec};

/// Makes the limits of a route table, and takes over those of the previous table that stay the same.
pub(crate) struct Limits<'a> {
    /// The limits of the previous table, by route name.
    routes: HashMap<&'a str, &'a [Arc<RateLimit>]>,
    /// The limits `per service` of the previous table, by service name.
    services: HashMap<&'a str, Vec<&'a Arc<RateLimit>>>,
    budget: &'a Arc<KeyBudget>,
    /// The limits `per service` made so far. All routes of a service with the same limit share one bucket.
    shared: HashMap<OfService, Arc<RateLimit>>,
}

/// The key of a service's bucket: service, name of the limit, requests, period, burst.
type OfService = (String, String, u32, Duration, u32);

impl<'a> Limits<'a> {
    /// `previous` contains each route of the previous table with its service and its limits.
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

    /// The limit with these settings for a route of a service.
    ///
    /// # Errors
    /// A limit with these settings cannot be counted.
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
        // A bucket `per service` belongs to the service: a route that moves to another service does not take it
        // along.
        let carried = match settings.key {
            RateLimitKey::Service => {
                self.services.get(service).and_then(|old| old.iter().copied().find(|l| l.matches(settings)))
            }
            // The position in the list does not matter.
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
