//! What the three services share on the wire: problem documents, paging, entity tags, merge patch, request
//! ids, and the router that carries them.

mod etag;
mod extract;
mod identity;
mod merge_patch;
mod paging;
mod problem;
mod request_context;
mod router;

pub use self::{
    etag::{IfMatch, etag},
    extract::{Id, JsonBody, MergePatch, QueryParams},
    identity::{Caller, Role},
    merge_patch::apply_merge_patch,
    paging::{ColumnKind, Page, PageParams, PageQuery, SortKey},
    problem::{FieldErrors, Problem, ProblemBody},
    request_context::RequestContext,
    router::{Readiness, assemble},
};

/// A handler's outcome: a response, or the problem document that explains why not.
pub type Result<T, E = Problem> = std::result::Result<T, E>;
