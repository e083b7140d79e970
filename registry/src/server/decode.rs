//! Bodies as Consul reads them: field names without regard to case, a few snake_case aliases, `null` as zero,
//! unknown fields refused, and Go's words for what is wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::server::answer::Refusal;
use crate::server::go;
use crate::store::AddressDefinition;

/// The fields of one JSON object, by lower-case name.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    values: Map<String, Value>,
    place: Place,
}

/// How Go names a field of a wrong type: by its structure, or by the outermost field.
#[derive(Debug, Clone, Copy)]
enum Place {
    In(&'static str),
    Outer(&'static str),
}

impl Default for Place {
    fn default() -> Self {
        Self::In("")
    }
}

/// The fields that an object may have: Consul's name, and an alias or "".
pub(crate) type Known = [(&'static str, &'static str)];

impl Fields {
    /// Reads a whole body. `null` is an object without fields.
    pub(crate) fn from_body(body: &[u8], known: &Known) -> Result<Self, Refusal> {
        let value = go::parse_json(body).map_err(|text| refuse(&text))?;
        Self::from_value(value, known, None)
    }

    /// [`Fields::from_body`] where unknown fields are ignored.
    pub(crate) fn lenient(body: &[u8], known: &Known) -> Result<Self, Refusal> {
        Self::known_of(go::parse_json(body).map_err(|text| refuse(&text))?, known)
    }

    pub(crate) fn from_value(
        value: Value,
        known: &Known,
        outer: Option<&'static str>,
    ) -> Result<Self, Refusal> {
        let wanted = if outer == Some("Weights") { "structs.Weights" } else { "struct {…}" };
        Self::read(value, known, outer.map_or(Place::In(""), Place::Outer), wanted, false)
    }

    /// [`Fields::from_body`] of a type that has a name: errors call it and its fields by it.
    pub(crate) fn of_type(body: &[u8], known: &Known, structure: &'static str) -> Result<Self, Refusal> {
        let value = go::parse_json(body).map_err(|text| refuse(&text))?;
        if !matches!(value, Value::Object(_) | Value::Null) {
            return Err(type_error(&value, "Go value", &format!("structs.{structure}")));
        }
        Self::read(value, known, Place::In(structure), "", false)
    }

    /// An object within such a type: `path` is how Go calls it, `wanted` its type.
    pub(crate) fn nested(
        &mut self,
        name: &str,
        known: &Known,
        path: &'static str,
        wanted: &str,
    ) -> Result<Option<Self>, Refusal> {
        let Some(value) = self.take(name) else { return Ok(None) };
        if !value.is_object() {
            return Err(self.mismatch(&value, name, wanted));
        }
        Self::read(value, known, Place::In(path), wanted, false).map(Some)
    }

    /// An object of which only the known fields matter.
    pub(crate) fn known_of(value: Value, known: &Known) -> Result<Self, Refusal> {
        Self::read(value, known, Place::In(""), "struct {…}", true)
    }

    /// One element of a list within such a type.
    pub(crate) fn element(value: Value, known: &Known, path: &'static str) -> Result<Self, Refusal> {
        Self::read(value, known, Place::In(path), "struct {…}", false)
    }

    fn read(
        value: Value,
        known: &Known,
        place: Place,
        wanted: &str,
        ignore_unknown: bool,
    ) -> Result<Self, Refusal> {
        let object = match value {
            Value::Object(object) => object,
            Value::Null => Map::new(),
            other => {
                let place = match place {
                    Place::Outer(field) => format!("Go struct field .{field}"),
                    Place::In(_) => "Go value".to_owned(),
                };
                return Err(type_error(&other, &place, wanted));
            }
        };
        let mut values = Map::new();
        for (name, value) in object {
            let lower = name.to_lowercase();
            let field = known.iter().find(|(field, alias)| {
                field.to_lowercase() == lower || (!alias.is_empty() && *alias == lower)
            });
            match field {
                Some((field, _)) => drop(values.insert((*field).to_owned(), value)),
                None if ignore_unknown => {}
                None => return Err(refuse(&format!("json: unknown field {name:?}"))),
            }
        }
        Ok(Self { values, place })
    }

    /// Whether the field is present and not null.
    pub(crate) fn is_present(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|value| !value.is_null())
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.values.remove(name).filter(|value| !value.is_null())
    }

    /// Whether the field is set: it is not absent, null, false or empty.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        match self.values.get(name) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(_) => true,
        }
    }

    /// Whether no field is set. In the fields of `durations`, "0s" and any wrong type count as zero.
    pub(crate) fn are_zero(&self, durations: &[&str]) -> bool {
        self.values.iter().all(|(name, value)| match value {
            _ if !durations.contains(&name.as_str()) => !self.is_set(name),
            Value::String(text) => text.is_empty() || go::parse_duration(text) == Ok(0),
            Value::Number(number) => number.as_i64().unwrap_or(0) == 0,
            _ => true,
        })
    }

    pub(crate) fn string(&mut self, name: &str) -> Result<String, Refusal> {
        self.string_of(name, "string")
    }

    /// A string of a type that has a name.
    pub(crate) fn string_of(&mut self, name: &str, wanted: &str) -> Result<String, Refusal> {
        match self.take(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(self.mismatch(&other, name, wanted)),
        }
    }

    pub(crate) fn integer(&mut self, name: &str) -> Result<i64, Refusal> {
        match self.take(name) {
            None => Ok(0),
            Some(value) => value.as_i64().ok_or_else(|| self.mismatch(&value, name, "int")),
        }
    }

    pub(crate) fn unsigned(&mut self, name: &str) -> Result<u64, Refusal> {
        match self.take(name) {
            None => Ok(0),
            Some(value) => value.as_u64().ok_or_else(|| self.mismatch(&value, name, "uint64")),
        }
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Result<bool, Refusal> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(value),
            Some(other) => Err(self.mismatch(&other, name, "bool")),
        }
    }

    pub(crate) fn list(&mut self, name: &str) -> Result<Vec<Value>, Refusal> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => Ok(list),
            Some(other) => Err(self.mismatch(&other, name, "[]interface {}")),
        }
    }

    pub(crate) fn strings(&mut self, name: &str) -> Result<Vec<String>, Refusal> {
        let value = self.take(name);
        let list = match value {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list,
            Some(other) => return Err(self.mismatch(&other, name, "[]string")),
        };
        list.into_iter()
            .map(|element| match element {
                Value::String(text) => Ok(text),
                Value::Null => Ok(String::new()),
                other => Err(self.mismatch(&other, name, "string")),
            })
            .collect()
    }

    pub(crate) fn string_map(&mut self, name: &str) -> Result<BTreeMap<String, String>, Refusal> {
        let object = match self.take(name) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(object)) => object,
            Some(other) => return Err(self.mismatch(&other, name, "map[string]string")),
        };
        object
            .into_iter()
            .map(|(key, value)| match value {
                Value::String(text) => Ok((key, text)),
                Value::Null => Ok((key, String::new())),
                other => Err(self.mismatch(&other, name, "string")),
            })
            .collect()
    }

    /// Header fields of an HTTP check: a list of values for each name.
    pub(crate) fn headers(&mut self, name: &str) -> Result<Vec<(String, String)>, Refusal> {
        let object = match self.take(name) {
            None => return Ok(Vec::new()),
            Some(Value::Object(object)) => object,
            Some(other) => return Err(self.mismatch(&other, name, "map[string][]string")),
        };
        let mut headers = Vec::new();
        for (key, values) in object {
            let Value::Array(values) = values else { return Err(self.mismatch(&values, name, "[]string")) };
            for value in values {
                match value {
                    Value::String(text) => headers.push((key.clone(), text)),
                    other => return Err(self.mismatch(&other, name, "string")),
                }
            }
        }
        Ok(headers)
    }

    pub(crate) fn tagged_addresses(
        &mut self,
        name: &str,
    ) -> Result<BTreeMap<String, AddressDefinition>, Refusal> {
        let object = match self.take(name) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(object)) => object,
            Some(other) => return Err(self.mismatch(&other, name, "map[string]structs.ServiceAddress")),
        };
        object
            .into_iter()
            .map(|(key, value)| {
                let mut fields =
                    Self::from_value(value, &[("Address", ""), ("Port", "")], Some("TaggedAddresses"))?;
                Ok((
                    key,
                    AddressDefinition { address: fields.string("Address")?, port: fields.integer("Port")? },
                ))
            })
            .collect()
    }

    /// Nanoseconds: a number, or a string such as `10s`. Any other type counts as absent, as with Consul.
    pub(crate) fn duration(&mut self, name: &str) -> Result<i64, Refusal> {
        match self.take(name) {
            Some(Value::String(text)) if text.is_empty() => Ok(0),
            Some(Value::String(text)) => go::parse_duration(&text).map_err(|text| refuse(&text)),
            Some(Value::Number(number)) => Ok(number.as_i64().unwrap_or(0)),
            _ => Ok(0),
        }
    }

    pub(crate) fn mismatch(&self, value: &Value, name: &str, wanted: &str) -> Refusal {
        let field = match self.place {
            Place::Outer(field) => format!(".{field}"),
            Place::In(structure) => format!("{structure}.{name}"),
        };
        type_error(value, &format!("Go struct field {field}"), wanted)
    }
}

fn type_error(value: &Value, place: &str, wanted: &str) -> Refusal {
    refuse(&format!("json: cannot unmarshal {} into {place} of type {wanted}", go::kind(value)))
}

fn refuse(text: &str) -> Refusal {
    Refusal::bad_request(format!("Request decode failed: {text}"))
}

/// A duration that a field gives in nanoseconds; `None` unless it is positive.
pub(crate) fn positive(nanoseconds: i64) -> Option<Duration> {
    u64::try_from(nanoseconds).ok().filter(|nanoseconds| *nanoseconds > 0).map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &Known =
        &[("Name", ""), ("Port", ""), ("EnableTagOverride", "enable_tag_override"), ("TTL", "")];

    fn fields(body: &str) -> Result<Fields, String> {
        Fields::from_body(body.as_bytes(), KNOWN).map_err(|refusal| refusal.text)
    }

    #[test]
    fn names_match_without_regard_to_case_and_by_alias() {
        let mut read = fields(r#"{"nAmE":"web","PORT":80,"enable_tag_override":true} trailing"#).unwrap();
        assert_eq!(read.string("Name").unwrap(), "web");
        assert_eq!(read.integer("Port").unwrap(), 80);
        assert!(read.boolean("EnableTagOverride").unwrap());
    }

    #[test]
    fn null_is_zero_everywhere() {
        let mut read = fields(r#"{"Name":null,"Port":null}"#).unwrap();
        assert_eq!((read.string("Name").unwrap(), read.integer("Port").unwrap()), (String::new(), 0));
        assert!(fields("null").is_ok());
    }

    #[test]
    fn what_is_wrong_is_said_in_gos_words() {
        for (body, text) in [
            ("", "Request decode failed: EOF"),
            (r#"{"Bogus":1}"#, "Request decode failed: json: unknown field \"Bogus\""),
        ] {
            assert_eq!(fields(body).unwrap_err(), text);
        }
        for (body, text) in [
            (r#"{"Port":"80"}"#, "json: cannot unmarshal string into Go struct field .Port of type int"),
            (r#"{"Port":80.5}"#, "json: cannot unmarshal number 80.5 into Go struct field .Port of type int"),
        ] {
            let refusal = fields(body).unwrap().integer("Port").unwrap_err();
            assert_eq!(refusal.text, format!("Request decode failed: {text}"));
        }
    }

    #[test]
    fn a_duration_is_a_string_or_nanoseconds_and_anything_else_counts_as_absent() {
        for (body, nanoseconds) in [
            (r#"{"TTL":"10s"}"#, 10_000_000_000),
            (r#"{"TTL":5000}"#, 5000),
            (r#"{"TTL":true}"#, 0),
            (r#"{"TTL":[]}"#, 0),
        ] {
            assert_eq!(fields(body).unwrap().duration("TTL").unwrap(), nanoseconds);
        }
        let refusal = fields(r#"{"TTL":"10"}"#).unwrap().duration("TTL").unwrap_err();
        assert_eq!(refusal.text, "Request decode failed: time: missing unit in duration \"10\"");
    }
}
