//! Fields of a request, checked one by one, so that a refusal names all that are wrong: in the one
//! shape of errors, and as `detail` in the shape that callers of `PyRunner` read.

use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};
use sway_server::error::{Json, ServerError};

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Fault {
    loc: [String; 2],
    msg: String,
    r#type: &'static str,
}

/// The fields that are left, and what is wrong with those that were taken.
#[derive(Debug)]
pub(super) struct Fields {
    left: Map<String, Value>,
    faults: Vec<Fault>,
}

/// What was wrong.
#[derive(Debug)]
pub(super) struct InvalidFields(Vec<Fault>);

impl Fields {
    pub(super) fn new(fields: Map<String, Value>) -> Self {
        Self { left: fields, faults: Vec::new() }
    }

    fn fault(&mut self, field: &str, r#type: &'static str, msg: String) {
        self.faults.push(Fault { loc: ["body".to_owned(), field.to_owned()], msg, r#type });
    }

    /// A text of so many bytes; an empty one where it is wrong.
    pub(super) fn text(&mut self, field: &str, len: RangeInclusive<usize>) -> String {
        match self.left.remove(field) {
            Some(Value::String(text)) if len.contains(&text.len()) => return text,
            Some(Value::String(text)) => {
                let (r#type, bound) = match text.len() < *len.start() {
                    true => ("string_too_short", format!("at least {}", len.start())),
                    false => ("string_too_long", format!("at most {}", len.end())),
                };
                let msg = format!("it has {} bytes, expected {bound}", text.len());
                self.fault(field, r#type, msg);
            }
            Some(other) => {
                self.fault(
                    field,
                    "string_type",
                    format!("expected a string, not {}", kind(&other)),
                );
            }
            None => self.fault(field, "missing", "the field is required".to_owned()),
        }
        String::new()
    }

    /// A whole number within bounds; none where it is absent, null or wrong.
    pub(super) fn number(&mut self, field: &str, bounds: RangeInclusive<u64>) -> Option<u64> {
        let value = self.left.remove(field).filter(|value| !value.is_null())?;
        let (min, max) = (bounds.start(), bounds.end());
        match whole(&value) {
            Some(number) if number < i128::from(*min) => {
                let msg = format!("{number} is less than {min}");
                self.fault(field, "greater_than_equal", msg);
            }
            Some(number) if number > i128::from(*max) => {
                self.fault(field, "less_than_equal", format!("{number} is more than {max}"));
            }
            Some(number) => return u64::try_from(number).ok(),
            None => {
                let msg =
                    format!("expected a whole number from {min} to {max}, not {}", kind(&value));
                self.fault(field, "int_type", msg);
            }
        }
        None
    }

    /// What a text means; none where it is absent, null or wrong.
    pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(&mut self, field: &str) -> Option<T> {
        match self.left.remove(field).filter(|value| !value.is_null())? {
            Value::String(text) => match text.parse() {
                Ok(parsed) => return Some(parsed),
                Err(error) => self.fault(field, "value_error", error.to_string()),
            },
            other => {
                self.fault(
                    field,
                    "string_type",
                    format!("expected a string, not {}", kind(&other)),
                );
            }
        }
        None
    }

    /// Whether all was right, and nothing is left.
    pub(super) fn end(mut self) -> Result<(), InvalidFields> {
        let unknown: Vec<String> = self.left.keys().cloned().collect();
        for field in unknown {
            self.fault(&field, "extra_forbidden", "there is no such field".to_owned());
        }
        if self.faults.is_empty() { Ok(()) } else { Err(InvalidFields(self.faults)) }
    }
}

/// A whole number, also where it is written as 30.0.
#[expect(clippy::cast_possible_truncation, reason = "so small a double is a whole number")]
fn whole(value: &Value) -> Option<i128> {
    if let Some(number) = value.as_i64() {
        return Some(number.into());
    }
    if let Some(number) = value.as_u64() {
        return Some(number.into());
    }
    value.as_f64().filter(|it| it.fract() == 0.0 && it.abs() < 9e15).map(|it| it as i128)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "such a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

impl IntoResponse for InvalidFields {
    fn into_response(self) -> Response {
        let told: Vec<String> =
            self.0.iter().map(|fault| format!("{}: {}", fault.loc[1], fault.msg)).collect();
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        let error = ServerError::new(status, "invalid_fields", told.join("; "));
        (status, Json(json!({ "error": error.body().error, "detail": self.0 }))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(value: Value) -> Fields {
        let Value::Object(fields) = value else { panic!("an object is expected") };
        Fields::new(fields)
    }

    #[test]
    fn numbers_are_whole_and_within_their_bounds() {
        let read = |value: Value| {
            let mut fields = fields(json!({ "timeout": value }));
            (fields.number("timeout", 1..=300), fields.end().is_ok())
        };
        for (value, expected) in [
            (json!(1), Some(1)),
            (json!(300), Some(300)),
            (json!(30.0), Some(30)),
            (Value::Null, None),
        ] {
            assert_eq!(read(value.clone()), (expected, true), "{value}");
        }
        for value in [
            json!(0),
            json!(-1),
            json!(301),
            json!(1.5),
            json!(1e300),
            json!(u64::MAX),
            json!(i64::MIN),
            json!("30"),
            json!(true),
            json!([1]),
        ] {
            assert_eq!(read(value.clone()), (None, false), "{value}");
        }
    }

    #[test]
    fn every_field_that_is_wrong_is_named() {
        let mut fields = fields(json!({ "code": 1, "timeout": 301, "timout": 3 }));
        assert_eq!(fields.text("code", 1..=10), "");
        assert_eq!(fields.number("timeout", 1..=300), None);
        let InvalidFields(faults) = fields.end().unwrap_err();
        let named: Vec<_> =
            faults.iter().map(|fault| (fault.loc[1].as_str(), fault.r#type)).collect();
        assert_eq!(
            named,
            [
                ("code", "string_type"),
                ("timeout", "less_than_equal"),
                ("timout", "extra_forbidden")
            ]
        );
    }
}
