//! The trait of a route's policies, and the code that is derived from the list of them in [`super`].
//!
//! A policy is written in several layers: `defaults`, the policies that a route uses, the route, the tag that declared it. All
//! layers have the same form ([`Written`](super::Written)) and are laid over each other; the result is checked where the
//! file is read, and compiled where a route table is made. So each policy has two types, as written and as compiled, and
//! one way between them.

use std::{
    any::{Any, TypeId},
    collections::{BTreeSet, HashMap},
    fmt::{self, Debug},
    hash::Hash,
    sync::Arc,
};

use http::HeaderName;
use serde::ser::SerializeMap;

use super::{Written, rate_limit::Limits};
use crate::{
    interner::Interner,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, Span},
        fields::{Fields, Known},
        hidden::Hidden,
        units::Invalid,
    },
};

/// A policy of a route: how it is read, merged, checked, compiled and shown. `request::forward` calls the policy's verb.
pub(crate) trait RoutePolicy {
    /// The policy as one layer has it. Every field is optional: a field that is not written is inherited.
    type Written: Debug + Clone + Default + PartialEq;
    /// The policy as a compiled route has it.
    type Compiled;
    /// The policy's fields in a route, at least one.
    const KEYS: &'static [&'static str];
    /// The maps in these fields.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test looks for each of their fields in the example"))]
    const MAPS: &'static [&'static Known] = &[];
    /// The policy concerns one route, so neither `defaults` nor `policies` can have it.
    const IS_OF_ONE_ROUTE: bool = false;
    /// The policy in `defaults` also applies to the gateway's replies to requests without a route.
    const IS_FOR_NO_ROUTE: bool = false;

    /// A tag may declare the policy only where the operator trusts services fully.
    const NEEDS_TRUST: bool = false;

    /// Reads the policy of one layer, and reports errors to `sink`.
    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Self::Written;

    /// Lays `top` over `under`: scalars replace, maps merge by key, lists replace.
    fn overlay(under: &mut Self::Written, top: &Self::Written);

    /// Reads an option of a tag that declares a route. `None`: the policy has no such option.
    fn read_option(
        _written: &mut Self::Written,
        _option: &str,
        _value: &str,
    ) -> Option<Result<(), BadOption>> {
        None
    }

    /// Writes the policy of a tag as the tag's options.
    fn write_options(_written: &Self::Written, _to: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    /// Lays the policy of a tag over that of the file.
    fn declare(under: &mut Self::Written, tag: &Self::Written) {
        Self::overlay(under, tag);
    }

    /// Reports contradictions, now that all layers are merged.
    fn check(_written: &Self::Written, _with: &mut Check<'_>) {}

    /// Adds the header fields and claims that the policy needs.
    fn ask(_written: &Self::Written, _asked: &mut Asked) {}

    /// Compiles the policy of one route from its merged layers.
    fn compile(written: &Self::Written, with: &mut Compile<'_, '_>) -> Self::Compiled;

    /// Adds the policy to the view of its route.
    fn show(_compiled: &Self::Compiled, _view: &mut View<'_>) {}
}

/// The surroundings of a policy that [`RoutePolicy::check`] needs.
pub(crate) struct Check<'a> {
    /// All policies of the route.
    pub(crate) route: &'a Written,
    /// The place of the route.
    pub(crate) place: Span,
    /// Names of all providers.
    pub(crate) providers: &'a [&'a str],
    /// The error message for a route that neither names a provider nor is declared open.
    pub(crate) silent: &'static str,
    pub(crate) sink: &'a mut Diagnostics,
}

/// An option of a tag with a value that is not valid.
#[derive(Debug)]
pub(crate) struct BadOption {
    /// The option, or the part of it that is wrong.
    pub(crate) what: String,
    pub(crate) why: Invalid,
}

impl BadOption {
    /// The error for an option whose whole value is not valid.
    pub(crate) fn of(option: &str, why: Invalid) -> Self {
        Self { what: format!("`{option}`"), why }
    }
}

/// The parts of a request that policies need.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Header fields that policies read or write.
    pub(crate) fields: Vec<HeaderName>,
    /// Claims of the identity.
    pub(crate) claims: BTreeSet<Box<str>>,
}

/// The surroundings of a policy that [`RoutePolicy::compile`] needs.
pub(crate) struct Compile<'a, 'p> {
    /// Name of the route. `service` is the name of its service.
    pub(crate) route: &'a str,
    pub(crate) service: &'a str,
    /// All policies of the route.
    pub(crate) written: &'a Written,
    /// Names of all providers, by their indexes.
    pub(crate) providers: &'a [&'a str],
    pub(crate) limits: &'a mut Limits<'p>,
    /// Stores equal values of all routes once.
    pub(crate) shared: &'a mut Shared,
    pub(crate) problems: &'a mut Vec<Diagnostic>,
}

/// Values that routes have in common, by their type.
#[derive(Debug, Default)]
pub(crate) struct Shared(HashMap<TypeId, Box<dyn Any>>);

impl Shared {
    /// The first value that was equal to this one.
    pub(crate) fn share<T: Eq + Hash + ?Sized + 'static>(&mut self, value: Arc<T>) -> Arc<T> {
        let of_type = self.0.entry(TypeId::of::<T>()).or_insert_with(|| Box::new(Interner::<T>::default()));
        match of_type.downcast_mut::<Interner<T>>() {
            Some(interner) => interner.share(value),
            // Not reached: the entry was made for this type two lines above.
            None => value,
        }
    }
}

/// The policies of one route as `/api/v1/routes` and `millgate routes` show them, in the order of the list.
#[derive(Debug, Clone, Default)]
pub struct Shown(Vec<(&'static str, ShownValue)>);

#[derive(Debug, Clone, serde::Serialize)]
#[serde(untagged)]
enum ShownValue {
    Text(String),
    List(Vec<String>),
    Number(u64),
    Flag(bool),
}

impl Shown {
    /// The entry with this name, if it is a text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            ShownValue::Text(text) => Some(text),
            ShownValue::List(_) | ShownValue::Number(_) | ShownValue::Flag(_) => None,
        }
    }

    /// The entry with this name, if it is a list; otherwise an empty list.
    pub(crate) fn list(&self, name: &str) -> &[String] {
        match self.get(name) {
            Some(ShownValue::List(list)) => list,
            Some(ShownValue::Text(_) | ShownValue::Number(_) | ShownValue::Flag(_)) | None => &[],
        }
    }

    /// The entry with this name, if it is a number; otherwise 0.
    pub(crate) fn number(&self, name: &str) -> u64 {
        match self.get(name) {
            Some(ShownValue::Number(number)) => *number,
            Some(ShownValue::Text(_) | ShownValue::List(_) | ShownValue::Flag(_)) | None => 0,
        }
    }

    fn get(&self, name: &str) -> Option<&ShownValue> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

impl serde::Serialize for Shown {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The view of a route, to which each policy adds its entries.
pub(crate) struct View<'a> {
    pub(crate) shown: &'a mut Shown,
    /// The environment variables in the policy as written, whose values are not shown.
    pub(crate) hidden: &'a Hidden,
    /// Names of all providers, by their indexes.
    pub(crate) providers: &'a [&'a str],
}

impl View<'_> {
    /// Adds a text, with variables in place of their values.
    pub(crate) fn text(&mut self, name: &'static str, text: &str) {
        self.shown.0.push((name, ShownValue::Text(self.hidden.shown(text))));
    }

    /// Adds a number.
    pub(crate) fn number(&mut self, name: &'static str, number: u64) {
        self.shown.0.push((name, ShownValue::Number(number)));
    }

    pub(crate) fn flag(&mut self, name: &'static str, flag: bool) {
        self.shown.0.push((name, ShownValue::Flag(flag)));
    }

    /// Adds items to a list. Several policies may add to it, and an empty list is shown, too.
    pub(crate) fn items(&mut self, name: &'static str, items: impl IntoIterator<Item = String>) {
        let items = items.into_iter().map(|item| self.hidden.shown(&item));
        let known = self.shown.0.iter_mut().find(|(known, _)| *known == name);
        if let Some((_, ShownValue::List(list))) = known {
            list.extend(items);
        } else {
            let list = ShownValue::List(items.collect());
            self.shown.0.push((name, list));
        }
    }
}

/// Replaces `under` by `top`, if `top` is written.
pub(crate) fn replace<T: Clone>(under: &mut Option<T>, top: Option<&T>) {
    if let Some(top) = top {
        *under = Some(top.clone());
    }
}

/// Joins lists into one.
pub(crate) const fn joined<const LENGTH: usize>(lists: &[&[&'static str]]) -> [&'static str; LENGTH] {
    let mut all = [""; LENGTH];
    let (mut list, mut at) = (0, 0);
    while list < lists.len() {
        let mut one = 0;
        while one < lists[list].len() {
            all[at] = lists[list][one];
            at += 1;
            one += 1;
        }
        list += 1;
    }
    all
}

/// Length of [`joined`].
pub(crate) const fn length(lists: &[&[&'static str]]) -> usize {
    let (mut list, mut length) = (0, 0);
    while list < lists.len() {
        length += lists[list].len();
        list += 1;
    }
    length
}

/// Derives from the list the code that concerns every policy: the fields that a route may have, and the reading, merging,
/// checking, compiling and showing of the policies.
macro_rules! route_policies {
    ($($name:ident: $policy:ty,)*) => {
        /// The policies of one layer, as written.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct Written {
            $(pub(crate) $name: <$policy as RoutePolicy>::Written,)*
            /// The environment variables in the layer.
            pub(crate) hidden: Variables,
        }

        /// The policies of one route.
        pub struct Policies {
            $(pub(crate) $name: <$policy as RoutePolicy>::Compiled,)*
        }

        /// The environment variables in the fields of each policy.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub(crate) struct Variables {
            $($name: Hidden,)*
        }

        impl Written {
            /// Reads the policies of a route, of `defaults`, or of one of `policies`.
            pub(crate) fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Self {
                let mut written = Self::default();
                $(if <$policy as RoutePolicy>::KEYS.iter().any(|key| fields.may_have(key)) {
                    written.$name = <$policy as RoutePolicy>::read(fields, sink);
                    for key in <$policy as RoutePolicy>::KEYS {
                        written.hidden.$name.extend(&fields.hidden(key));
                    }
                })*
                written
            }

            /// Lays `top` over this layer: fields of `top` win, and fields that it leaves out stay.
            pub(crate) fn overlay(&mut self, top: &Self) {
                $(<$policy as RoutePolicy>::overlay(&mut self.$name, &top.$name);
                self.hidden.$name.extend(&top.hidden.$name);)*
            }

            /// Reads an option of a tag. `None`: no policy has such an option.
            pub(crate) fn read_option(&mut self, option: &str, value: &str) -> Option<Result<(), BadOption>> {
                None$(.or_else(|| <$policy as RoutePolicy>::read_option(&mut self.$name, option, value)))*
            }

            /// Writes the options of a tag that declares these policies.
            pub(crate) fn write_options(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(<$policy as RoutePolicy>::write_options(&self.$name, to)?;)*
                Ok(())
            }

            /// The field of the first policy in this layer that a tag may declare only with full trust.
            pub(crate) fn needs_trust(&self) -> Option<&'static str> {
                $(if <$policy as RoutePolicy>::NEEDS_TRUST && self.$name != Default::default() {
                    return <$policy as RoutePolicy>::KEYS.first().copied();
                })*
                None
            }

            /// Lays the policies of a tag over this layer, as far as a tag may declare them.
            pub(crate) fn declare(&mut self, tag: &Self) {
                $(<$policy as RoutePolicy>::declare(&mut self.$name, &tag.$name);)*
            }

            /// Reports contradictions. All layers must be merged.
            pub(crate) fn check(&self, with: &mut Check<'_>) {
                $(<$policy as RoutePolicy>::check(&self.$name, with);)*
            }

            /// Adds the header fields and claims that the policies need.
            pub(crate) fn ask(&self, asked: &mut Asked) {
                $(<$policy as RoutePolicy>::ask(&self.$name, asked);)*
            }

            /// Compiles all policies of one route.
            pub(crate) fn compile(&self, with: &mut Compile<'_, '_>) -> Policies {
                Policies { $($name: <$policy as RoutePolicy>::compile(&self.$name, with),)* }
            }

            /// Compiles the policies of `defaults` that apply to the gateway's replies to requests without a route.
            pub(crate) fn compile_for_no_route(&self, with: &mut Compile<'_, '_>) -> Policies {
                let mut written = Self::default();
                $(if <$policy as RoutePolicy>::IS_FOR_NO_ROUTE {
                    written.$name.clone_from(&self.$name);
                })*
                written.compile(with)
            }
        }

        impl Policies {
            /// The policies as the admin API shows them. `written` is the layer that they were compiled from.
            pub(crate) fn show(&self, written: &Written, providers: &[&str]) -> Shown {
                let mut shown = Shown::default();
                $(let mut view = View { shown: &mut shown, hidden: &written.hidden.$name, providers };
                <$policy as RoutePolicy>::show(&self.$name, &mut view);)*
                shown
            }
        }

        /// The fields of a route that belong to policies.
        pub(crate) const OF_ROUTE: &[&str] = &joined::<{ length(ALL) }>(ALL);
        /// The policies' fields that `defaults` and `policies` can have.
        pub(crate) const OF_ALL: &[&str] = &joined::<{ length(COMMON) }>(COMMON);
        const ALL: &[&[&str]] = &[$(<$policy as RoutePolicy>::KEYS),*];
        const COMMON: &[&[&str]] =
            &[$(if <$policy as RoutePolicy>::IS_OF_ONE_ROUTE { &[] } else { <$policy as RoutePolicy>::KEYS }),*];

        /// Every map in the fields of policies.
        #[cfg(test)]
        pub(crate) fn maps() -> impl Iterator<Item = &'static crate::syntax::fields::Known> {
            [$(<$policy as RoutePolicy>::MAPS),*].into_iter().flatten().copied()
        }
    };
}
pub(super) use route_policies;
