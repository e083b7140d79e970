//! What ACME has brought, from each authority, and all of it together.

use std::{collections::HashMap, sync::Arc};

use crate::certificate::{
    acme::AcmeAuthority,
    issued::{AcmePart, AcmeState},
    validation::Validation,
};

/// What is known of each authority's certificates and pending challenges.
#[derive(Debug, Default)]
pub struct AcmeWorld {
    parts: HashMap<AcmeAuthority, AcmePart>,
    whole: AcmeState,
}

impl AcmeWorld {
    /// All parts together.
    pub fn state(&self) -> &AcmeState {
        &self.whole
    }

    /// Whether this authority's task has told anything yet.
    pub fn knows(&self, authority: &AcmeAuthority) -> bool {
        self.parts.contains_key(authority)
    }

    pub fn learn(&mut self, authority: AcmeAuthority, part: AcmePart) {
        self.parts.insert(authority, part);
        self.unite();
    }

    /// Forgets authorities that the settings no longer name.
    pub fn keep(&mut self, is_named: impl Fn(&AcmeAuthority) -> bool) {
        let before = self.parts.len();
        self.parts.retain(|authority, _| is_named(authority));
        if self.parts.len() < before {
            self.unite();
        }
    }

    fn unite(&mut self) {
        let mut whole = AcmeState::default();
        let mut handshakes = HashMap::new();
        let mut answers = HashMap::new();
        for part in self.parts.values() {
            whole.issued.extend(part.issued.iter().map(|(id, issued)| (Arc::clone(id), Arc::clone(issued))));
            answers.extend(part.answers.iter().map(|(token, body)| (token.clone(), body.clone())));
            handshakes.extend(part.handshakes.iter().map(|(host, key)| (host.clone(), Arc::clone(key))));
        }
        whole.answers = Some(answers).filter(|answers| !answers.is_empty()).map(Arc::new);
        whole.validation = Validation::new(handshakes).map(Arc::new);
        self.whole = whole;
    }
}
