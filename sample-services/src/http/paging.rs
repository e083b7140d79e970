//! Lists in pages, by keyset: a cursor holds the sort values of the last row, and the next page begins after
//! it. Unlike an offset, a page costs the same wherever it is, and rows that come or go between two
//! requests neither hide nor repeat others. For clients that show page numbers, `page` begins at one; from there,
//! too, the link to the next page is a cursor.
//!
//! Every order ends with `id`, so it is total. Only columns of a [`SortKey`] table reach the SQL text; values
//! are always bound.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, QueryBuilder, Row, Sqlite, SqlitePool, sqlite::SqliteRow};
use utoipa::{
    IntoParams, ToSchema,
    openapi::{ObjectBuilder, OpenApi, RefOr, schema::Type},
};

use super::{Problem, Result};

/// A column that clients may sort by, and the name they know it under.
#[derive(Debug)]
pub struct SortKey {
    pub name: &'static str,
    pub column: &'static str,
    pub kind: ColumnKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    Text,
    Integer,
}

/// The part of a list's query string that is the same for every list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageParams {
    /// Sort keys, most important first. `-price` and `price_desc` mean descending.
    pub sort: Option<String>,
    /// Items per page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    pub limit: Option<u32>,
    /// The beginning of the page: `next` of the page before, with the same `sort`.
    #[param(pattern = "^[A-Za-z0-9_-]+$")]
    pub cursor: Option<String>,
    /// The number of the page, instead of `cursor`. Later pages are reached by cursor only.
    #[param(minimum = 1, maximum = 100)]
    pub page: Option<u32>,
}

/// One page of a list, and how to get the next one.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// The `cursor` of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T: Serialize> Page<T> {
    /// The page with its `Link: <…>; rel="next"` (RFC 8288).
    pub fn into_response(self, request: &Uri) -> Response {
        let link = self.next.as_ref().map(|cursor| next_link(request, cursor));
        let mut response = Json(self).into_response();
        if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
            response.headers_mut().insert(header::LINK, link);
        }
        response
    }
}

/// A checked [`PageParams`]: how to order, where to begin, how many.
#[derive(Debug)]
pub struct PageQuery {
    order: Vec<Term>,
    after: Option<Vec<SortValue>>,
    /// Rows to leave out after `after`.
    skip: u32,
    limit: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Term {
    column: &'static str,
    kind: ColumnKind,
    descending: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum SortValue {
    Integer(i64),
    Text(String),
}

#[derive(Serialize, Deserialize)]
struct Cursor {
    /// The order that the values belong to; a cursor is not valid with another one.
    order: String,
    after: Vec<SortValue>,
}

impl PageQuery {
    /// `default_sort` is used when the client names no order; it is written as in the query string.
    pub fn parse(params: &PageParams, keys: &'static [SortKey], default_sort: &str) -> Result<Self> {
        let limit = params.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(invalid(format!("limit must be 1 to {LIMIT_MAX}, got {limit}")));
        }
        let page = params.page.unwrap_or(1);
        if !(1..=PAGE_MAX).contains(&page) {
            return Err(invalid(format!("page must be 1 to {PAGE_MAX}, got {page}; go on with the cursor")));
        }
        let order = parse_sort(params.sort.as_deref().unwrap_or(default_sort), keys)?;
        let after = params.cursor.as_deref().map(|cursor| decode_cursor(cursor, &order)).transpose()?;
        if after.is_some() && params.page.is_some() {
            return Err(invalid("cursor and page both define the beginning of the page; send one of them"));
        }
        Ok(Self { order, after, skip: (page - 1) * limit, limit })
    }

    /// Completes `query`, which must end inside a `WHERE` with at least one condition, and reads one page.
    pub async fn fetch<T>(&self, mut query: QueryBuilder<Sqlite>, pool: &SqlitePool) -> Result<Page<T>>
    where
        T: for<'row> FromRow<'row, SqliteRow>,
    {
        self.push_after(&mut query);
        self.push_order(&mut query);
        let mut rows = query.build().fetch_all(pool).await?;
        // One row more than the limit shows whether there is a next page.
        let more = rows.len() > self.limit as usize;
        rows.truncate(self.limit as usize);
        let next = match rows.last() {
            Some(last) if more => Some(self.encode_cursor(last)?),
            _ => None,
        };
        let items = rows.iter().map(T::from_row).collect::<Result<_, _>>()?;
        Ok(Page { items, next })
    }

    /// `AND (a > ? OR (a = ? AND b < ?) OR …)`: SQL's row values cannot mix directions.
    fn push_after(&self, query: &mut QueryBuilder<Sqlite>) {
        let Some(after) = &self.after else { return };
        query.push(" AND (");
        for last in 0..self.order.len() {
            query.push(if last == 0 { "(" } else { " OR (" });
            for (position, (term, value)) in self.order.iter().zip(after).take(last + 1).enumerate() {
                if position > 0 {
                    query.push(" AND ");
                }
                let comparison = match (position == last, term.descending) {
                    (false, _) => " = ",
                    (true, false) => " > ",
                    (true, true) => " < ",
                };
                query.push(term.column).push(comparison);
                match value {
                    SortValue::Integer(number) => query.push_bind(*number),
                    SortValue::Text(text) => query.push_bind(text.clone()),
                };
            }
            query.push(")");
        }
        query.push(")");
    }

    fn push_order(&self, query: &mut QueryBuilder<Sqlite>) {
        query.push(" ORDER BY ");
        for (position, term) in self.order.iter().enumerate() {
            query.push(if position == 0 { "" } else { ", " }).push(term.column);
            query.push(if term.descending { " DESC" } else { " ASC" });
        }
        query.push(" LIMIT ").push_bind(i64::from(self.limit) + 1);
        query.push(" OFFSET ").push_bind(i64::from(self.skip));
    }

    fn encode_cursor(&self, row: &SqliteRow) -> Result<String> {
        let after = self.order.iter().map(|term| {
            Ok(match term.kind {
                ColumnKind::Integer => SortValue::Integer(row.try_get(term.column)?),
                ColumnKind::Text => SortValue::Text(row.try_get(term.column)?),
            })
        });
        let cursor =
            Cursor { order: describe(&self.order), after: after.collect::<Result<_, sqlx::Error>>()? };
        let json = serde_json::to_vec(&cursor).map_err(|error| Problem::internal(&error))?;
        Ok(URL_SAFE_NO_PAD.encode(json))
    }
}

fn parse_sort(sort: &str, keys: &'static [SortKey]) -> Result<Vec<Term>> {
    let mut order: Vec<Term> = Vec::new();
    for item in sort.split(',').map(str::trim) {
        let Some((key, descending)) = parse_term(item, keys) else {
            let known = keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ");
            return Err(invalid(format!(
                "cannot sort by `{item}`; the sort keys are {known}, descending as `-key` or `key_desc`"
            )));
        };
        // Rows that are equal in a key stay equal in it, so a second mention has no effect.
        if order.iter().all(|term| term.column != key.column) {
            order.push(Term { column: key.column, kind: key.kind, descending });
        }
    }
    order.push(Term { column: "id", kind: ColumnKind::Text, descending: false });
    Ok(order)
}

/// `price`, `-price`, `price_asc` or `price_desc`.
fn parse_term<'a>(item: &str, keys: &'a [SortKey]) -> Option<(&'a SortKey, bool)> {
    let find = |name: &str| keys.iter().find(|key| key.name == name);
    let suffixed = |suffix| item.strip_suffix(suffix).and_then(find);
    None.or_else(|| find(item).map(|key| (key, false)))
        .or_else(|| item.strip_prefix('-').and_then(find).map(|key| (key, true)))
        .or_else(|| suffixed("_asc").map(|key| (key, false)))
        .or_else(|| suffixed("_desc").map(|key| (key, true)))
}

/// Writes into the document which values `sort` of the list at `path` can have.
pub fn describe_sort(document: &mut OpenApi, path: &str, keys: &[SortKey]) {
    let list = document.paths.paths.get_mut(path).and_then(|item| item.get.as_mut());
    for parameter in list.and_then(|list| list.parameters.as_mut()).into_iter().flatten() {
        if let RefOr::T(parameter) = parameter
            && parameter.name == "sort"
        {
            let schema = ObjectBuilder::new().schema_type(Type::String).pattern(Some(sort_pattern(keys)));
            parameter.schema = Some(schema.into());
        }
    }
}

fn sort_pattern(keys: &[SortKey]) -> String {
    let names = keys.iter().map(|key| key.name).collect::<Vec<_>>().join("|");
    let term = format!("(-?({names})|({names})_(asc|desc))");
    format!("^{term}(,{term})*$")
}

/// A cursor is the name of a page. One of another list, or of another order, names none: 404.
fn decode_cursor(text: &str, order: &[Term]) -> Result<Vec<SortValue>> {
    let spelled = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if text.is_empty() || !text.bytes().all(spelled) {
        return Err(invalid("cursor is not `next` of any page"));
    }
    let bad = || {
        let detail = "cursor is not one that this list gave out for this sort order";
        Problem::new(StatusCode::NOT_FOUND, "unknown_cursor", detail)
    };
    let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
    let cursor: Cursor = serde_json::from_slice(&json).map_err(|_| bad())?;
    let fits = cursor.order == describe(order)
        && cursor.after.len() == order.len()
        && cursor.after.iter().zip(order).all(|(value, term)| match value {
            SortValue::Integer(_) => term.kind == ColumnKind::Integer,
            SortValue::Text(_) => term.kind == ColumnKind::Text,
        });
    if fits { Ok(cursor.after) } else { Err(bad()) }
}

fn describe(order: &[Term]) -> String {
    let terms = order.iter().map(|term| format!("{}{}", if term.descending { "-" } else { "" }, term.column));
    terms.collect::<Vec<_>>().join(",")
}

/// The request's own path and query with another cursor. Cursors need no escaping.
fn next_link(request: &Uri, cursor: &str) -> String {
    let kept = request.query().unwrap_or_default().split('&');
    let replaced = |pair: &&str| pair.starts_with("cursor=") || pair.starts_with("page=");
    let mut query: Vec<_> = kept.filter(|pair| !pair.is_empty() && !replaced(pair)).collect();
    let cursor = format!("cursor={cursor}");
    query.push(&cursor);
    format!("<{}?{}>; rel=\"next\"", request.path(), query.join("&"))
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::bad_request("invalid_parameter", detail)
}

const LIMIT_DEFAULT: u32 = 20;
/// A page is built in memory; this bounds it to some tens of kilobytes.
const LIMIT_MAX: u32 = 100;
/// The rows before a numbered page are read and thrown away; this bounds them to 10,000.
const PAGE_MAX: u32 = 100;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sqlx::sqlite::SqlitePoolOptions;

    use super::*;
    use crate::rows::read_from_row;

    const KEYS: &[SortKey] = &[
        SortKey { name: "name", column: "name", kind: ColumnKind::Text },
        SortKey { name: "price", column: "price_cents", kind: ColumnKind::Integer },
    ];

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Record {
        id: String,
        name: String,
        price_cents: i64,
    }

    read_from_row!(Record { id, name, price_cents });

    fn parse(sort: Option<&str>, limit: Option<u32>, cursor: Option<String>) -> Result<PageQuery> {
        let params = PageParams { sort: sort.map(str::to_owned), limit, cursor, page: None };
        PageQuery::parse(&params, KEYS, "name")
    }

    #[test]
    fn a_limit_is_taken_up_to_its_bounds_and_refused_past_them() {
        for (limit, taken) in [(0, false), (1, true), (100, true), (101, false)] {
            assert_eq!(parse(None, Some(limit), None).is_ok(), taken, "limit {limit}");
        }
    }

    #[test]
    fn only_listed_columns_can_be_sorted_by() {
        for sort in [
            "",
            "id",
            "password_hash",
            "name;DROP TABLE t",
            "--name",
            "-name_desc",
            "name_down",
            "_desc",
            "name,",
        ] {
            assert_eq!(parse(Some(sort), None, None).unwrap_err().code(), "invalid_parameter", "{sort}");
        }
    }

    #[test]
    fn an_order_has_several_spellings() {
        let describe = |sort| describe(&parse(Some(sort), None, None).unwrap().order);
        for (sort, order) in [
            ("price_desc", "-price_cents,id"),
            ("-price", "-price_cents,id"),
            ("price_asc,name_desc", "price_cents,-name,id"),
            ("name,-name,price,name", "name,price_cents,id"),
        ] {
            assert_eq!(describe(sort), order, "{sort}");
        }
        let pattern =
            "^(-?(name|price)|(name|price)_(asc|desc))(,(-?(name|price)|(name|price)_(asc|desc)))*$";
        assert_eq!(sort_pattern(KEYS), pattern);
    }

    #[test]
    fn a_page_has_a_number_or_a_cursor() {
        let parse = |page, cursor: Option<&str>| {
            let params = PageParams { page, cursor: cursor.map(str::to_owned), ..PageParams::default() };
            PageQuery::parse(&params, KEYS, "name").map(|page| page.skip)
        };
        let cursor = URL_SAFE_NO_PAD.encode(r#"{"order":"name,id","after":["a","b"]}"#);
        assert_eq!(parse(None, None).unwrap(), 0);
        assert_eq!(parse(Some(1), None).unwrap(), 0);
        assert_eq!(parse(Some(100), None).unwrap(), 1980);
        assert_eq!(parse(None, Some(&cursor)).unwrap(), 0);
        for (page, cursor) in [(0, None), (101, None), (2, Some(cursor.as_str()))] {
            assert_eq!(parse(Some(page), cursor).unwrap_err().code(), "invalid_parameter", "{page}");
        }
    }

    #[test]
    fn a_forged_cursor_is_refused() {
        let of = |json: &str| URL_SAFE_NO_PAD.encode(json);
        assert_eq!(parse(None, None, Some("?".to_owned())).unwrap_err().code(), "invalid_parameter");
        assert_eq!(parse(None, None, Some(String::new())).unwrap_err().code(), "invalid_parameter");
        for cursor in [
            "x".to_owned(),
            of("{}"),
            of(r#"{"order":"price_cents,id","after":[1,"a"]}"#),
            of(r#"{"order":"-name,id","after":["a","b"]}"#),
            of(r#"{"order":"name,id","after":["a"]}"#),
            of(r#"{"order":"name,id","after":[1,"a"]}"#),
        ] {
            let refused = parse(Some("name"), None, Some(cursor.clone())).unwrap_err();
            assert_eq!(refused.code(), "unknown_cursor", "{cursor}");
        }
        assert!(parse(Some("name"), None, Some(of(r#"{"order":"name,id","after":["a","b"]}"#))).is_ok());
    }

    #[test]
    fn the_next_link_keeps_the_filters_and_replaces_the_cursor() {
        let request = "/products?category=tea&cursor=old&limit=2".parse().unwrap();
        assert_eq!(next_link(&request, "new"), "</products?category=tea&limit=2&cursor=new>; rel=\"next\"");
        let request = "/products?page=2&limit=2".parse().unwrap();
        assert_eq!(next_link(&request, "new"), "</products?limit=2&cursor=new>; rel=\"next\"");
    }

    async fn walk(records: &[Record], sort: &str, limit: u32) -> Vec<Record> {
        let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await.unwrap();
        sqlx::query("CREATE TABLE t (id TEXT, name TEXT, price_cents INTEGER)").execute(&pool).await.unwrap();
        for record in records {
            sqlx::query("INSERT INTO t VALUES (?, ?, ?)")
                .bind(&record.id)
                .bind(&record.name)
                .bind(record.price_cents)
                .execute(&pool)
                .await
                .unwrap();
        }
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let page = parse(Some(sort), Some(limit), cursor).unwrap();
            let query = QueryBuilder::new("SELECT id, name, price_cents FROM t WHERE 1 = 1");
            let page: Page<Record> = page.fetch(query, &pool).await.unwrap();
            assert!(page.items.len() <= limit as usize);
            seen.extend(page.items);
            cursor = page.next;
            if cursor.is_none() {
                return seen;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The oracle sorts in memory; few distinct values make ties, which is where keysets go wrong.
        #[test]
        fn pages_put_together_are_the_whole_sorted_list(
            rows in proptest::collection::vec(("[a-cé]{0,2}", -2_i64..3), 0..40),
            limit in 1_u32..12,
            (sort, by_name_first, name_down, price_down) in prop_oneof![
                Just(("name,price", true, false, false)),
                Just(("name,-price", true, false, true)),
                Just(("-price,name", false, false, true)),
                Just(("-price,-name", false, true, true)),
            ],
        ) {
            let records: Vec<_> = rows
                .into_iter()
                .enumerate()
                .map(|(n, (name, price_cents))| Record { id: format!("{:02}", (n * 37) % 100), name, price_cents })
                .collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let seen = runtime.block_on(walk(&records, sort, limit));
            let mut whole = records;
            whole.sort_by(|a, b| {
                let (mut by_name, mut by_price) = (a.name.cmp(&b.name), a.price_cents.cmp(&b.price_cents));
                if name_down { by_name = by_name.reverse(); }
                if price_down { by_price = by_price.reverse(); }
                let keys = if by_name_first { by_name.then(by_price) } else { by_price.then(by_name) };
                keys.then_with(|| a.id.cmp(&b.id))
            });
            prop_assert_eq!(seen, whole);
        }
    }
}
