//! User events: the latest few, in the order in which they were fired.

use std::collections::VecDeque;

/// One event as it was fired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: uuid::Uuid,
    pub(crate) name: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) node_filter: String,
    pub(crate) service_filter: String,
    pub(crate) tag_filter: String,
    /// Counts events; Consul's Lamport clock.
    pub(crate) time: u64,
}

impl Event {
    /// The index of a list that ends with this event: the halves of its id, mixed. It does not grow.
    pub(crate) fn index(&self) -> u64 {
        let (high, low) = self.id.as_u64_pair();
        high ^ low
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Events {
    kept: VecDeque<Event>,
    fired: u64,
}

impl Events {
    /// The number of events so far.
    pub(crate) fn fired(&self) -> u64 {
        self.fired
    }

    /// The latest events with this name, oldest first; an empty name selects all.
    pub(crate) fn list(&self, name: &str) -> impl Iterator<Item = &Event> {
        let name = name.to_owned();
        self.kept.iter().filter(move |event| name.is_empty() || event.name == name)
    }

    /// Stamps the event with its time. It is kept if it is for this node; the oldest goes when there are too many.
    pub(crate) fn fire(&mut self, event: Event, keep: bool) {
        self.fired += 1;
        if !keep {
            return;
        }
        if self.kept.len() >= EVENTS_MAX {
            self.kept.pop_front();
        }
        // Consul's clock is at 2 when the first event arrives: the agent's own join was before.
        self.kept.push_back(Event { time: self.fired + 1, ..event });
    }
}

/// Consul's agent keeps this number.
const EVENTS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_events_are_kept_and_counted() {
        let mut events = Events::default();
        for number in 0..300 {
            events.fire(
                Event {
                    id: uuid::Uuid::new_v4(),
                    name: if number % 2 == 0 { "even" } else { "odd" }.to_owned(),
                    payload: Vec::new(),
                    node_filter: String::new(),
                    service_filter: String::new(),
                    tag_filter: String::new(),
                    time: 0,
                },
                true,
            );
        }
        assert_eq!((events.fired(), events.list("").count(), events.list("odd").count()), (300, 256, 128));
        assert_eq!(events.list("").next().map(|event| event.time), Some(46));
    }
}
