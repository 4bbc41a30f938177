//! Values as people and programs read them.

use dcp::model::Value;
use serde_json::json;

/// A value the way Python prints it, cut to about `chars_max` characters.
pub(crate) fn short(value: &Value, chars_max: usize) -> String {
    let text = crate::ui::printable(&value.py_repr());
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// A value as JSON: what JSON has is itself, anything else is the text that Python prints.
pub(crate) fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::None => json!(null),
        Value::Bool(flag) => json!(flag),
        Value::Int(number) => json!(number),
        Value::Float(number) if number.is_finite() => json!(number),
        Value::Str(text) => json!(text),
        Value::List(items) | Value::Tuple(items) => items.iter().map(to_json).collect(),
        Value::Dict(pairs) | Value::OrderedDict(pairs) => {
            let key = |key: &Value| match key {
                Value::Str(text) => text.clone(),
                other => other.py_repr(),
            };
            pairs
                .iter()
                .map(|(name, value)| (key(name), to_json(value)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        other => json!(other.py_repr()),
    }
}
