//! Routes that services declare with tags in the registry, as a part of the table: [`merge`](merge::merge) adds them behind the routes of
//! the file, which always win. What cannot be taken is reported with its reason; nothing is ignored silently. Everything in this room
//! is pure; [`declaration`](crate::declaration) reads the tags.

pub mod merge;
