//! What a policy of a service is, and what is derived from the list of them in [`super`].
//!
//! A service is written once, in `services`, so nothing is laid over it: what is read is what its clusters are compiled from.

use std::fmt::Debug;

use crate::syntax::{diagnostics::Diagnostics, fields::Known, tree::Node};

/// A policy of a service: how it is read, and what it is where nothing is written.
pub(crate) trait ServicePolicy {
    /// As a service has it. Services whose values are equal are treated alike.
    type Settings: Debug + Clone + PartialEq;
    /// Its field in a service.
    const KEY: &'static str;
    /// The maps that stand in this field.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test looks for each of their fields in the example"))]
    const MAPS: &'static [&'static Known] = &[];

    /// docs/DEFAULTS.md argues it.
    fn by_default() -> Self::Settings;

    /// What the field holds. `None`: it cannot be read, which is reported.
    fn read(node: &Node, sink: &mut Diagnostics) -> Option<Self::Settings>;
}

/// Derives from the list what is done with every policy of a service.
macro_rules! service_policies {
    ($($name:ident: $policy:ty,)*) => {
        /// The policies of one service.
        #[derive(Debug, Clone, PartialEq)]
        pub struct ServicePolicies {
            $(pub(crate) $name: <$policy as ServicePolicy>::Settings,)*
        }

        impl Default for ServicePolicies {
            fn default() -> Self {
                Self { $($name: <$policy as ServicePolicy>::by_default(),)* }
            }
        }

        impl ServicePolicies {
            pub(crate) fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Self {
                let mut read = Self::default();
                $(if let Some(node) = fields.get(<$policy as ServicePolicy>::KEY)
                    && let Some(value) = <$policy as ServicePolicy>::read(node, sink)
                {
                    read.$name = value;
                })*
                read
            }
        }

        /// The fields of a service that are policies.
        pub(crate) const OF_SERVICE: &[&str] = &[$(<$policy as ServicePolicy>::KEY),*];

        /// Every map in these fields.
        #[cfg(test)]
        pub(crate) fn maps_of_service() -> impl Iterator<Item = &'static crate::syntax::fields::Known> {
            [$(<$policy as ServicePolicy>::MAPS),*].into_iter().flatten().copied()
        }
    };
}
pub(super) use service_policies;
