//! What the three services share on the wire: problem documents, paging, entity tags, merge patch, request
//! ids, and the router that carries them.

mod document;
mod etag;
mod extract;
mod freshness;
mod idempotency;
mod identity;
mod integer;
mod merge_patch;
mod paging;
mod problem;
mod query;
mod request_context;
mod router;

pub use self::{
    etag::{IfMatch, etag},
    extract::{Id, IdPair, JsonBody, MergePatch, QueryParams},
    idempotency::IdempotencyKey,
    identity::{Caller, Role},
    integer::integer,
    merge_patch::apply_merge_patch,
    paging::{ColumnKind, Page, PageParams, PageQuery, SortKey, describe_sort},
    problem::{FieldErrors, Problem, ProblemBody},
    request_context::RequestContext,
    router::{Readiness, assemble},
};

/// A handler's outcome: a response, or the problem document that explains why not.
pub type Result<T, E = Problem> = std::result::Result<T, E>;
