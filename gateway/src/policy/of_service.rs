//! The trait of a service's policies, and the code that is derived from the list of them in [`super`].
//!
//! A service is written once, in `services`, so nothing is laid over it, and its clusters are compiled from the values as
//! read.

use std::fmt::Debug;

use crate::syntax::{diagnostics::Diagnostics, fields::Known, tree::Node};

/// A policy of a service: how it is read, and its default.
pub(crate) trait ServicePolicy {
    /// The policy's settings in a service.
    type Settings: Debug + Clone + PartialEq;
    /// The policy's field in a service.
    const KEY: &'static str;
    /// The maps in this field.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test looks for each of their fields in the example"))]
    const MAPS: &'static [&'static Known] = &[];

    /// The settings of a service without the field. docs/DEFAULTS.md has the reasons.
    fn by_default() -> Self::Settings;

    /// Reads the value of the field. `None`: the value cannot be read, which is reported to `sink`.
    fn read(node: &Node, sink: &mut Diagnostics) -> Option<Self::Settings>;
}

/// Derives from the list the code that concerns every policy of a service.
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
            /// Reads the policies of one entry of `services`; a field that is not written has its default.
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

        /// The fields of a service that belong to policies.
        pub(crate) const OF_SERVICE: &[&str] = &[$(<$policy as ServicePolicy>::KEY),*];

        /// Every map in these fields.
        #[cfg(test)]
        pub(crate) fn maps_of_service() -> impl Iterator<Item = &'static crate::syntax::fields::Known> {
            [$(<$policy as ServicePolicy>::MAPS),*].into_iter().flatten().copied()
        }
    };
}
pub(super) use service_policies;
