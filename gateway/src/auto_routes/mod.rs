//! Routes that services declare with tags in the registry. [`merge`](merge::merge) adds them to the table behind the routes of
//! the file, which always win. Every refused declaration is reported with its reason. This room is pure;
//! [`declaration`](crate::declaration) reads the tags.

pub mod merge;
