//! The state of a registry on disk: the instances that were believed last, in a folder per registry.

mod identity;
mod last_known_good;
mod saver;

pub use identity::RegistryIdentity;
pub use last_known_good::LastKnownGood;
pub use saver::Saver;
