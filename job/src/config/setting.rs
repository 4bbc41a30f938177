//! What a key can hold, and how that comes from a file or a flag.

use std::fmt;

/// A value before it has its key's type, and after.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// Not set.
    None,
    /// On or off.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// What no key can hold, in words: `a date`, `a table`.
    Other(&'static str),
}

impl Value {
    /// As JSON; [`Value::Other`] is never the value of a key.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Value::None | Value::Other(_) => serde_json::Value::Null,
            Value::Bool(is_on) => (*is_on).into(),
            Value::Int(number) => (*number).into(),
            Value::Float(number) => (*number).into(),
            Value::Text(text) => text.as_str().into(),
            Value::List(values) => values.iter().map(Value::to_json).collect(),
        }
    }

    /// As the value of a flag: what a key's flag must be given to have this value. Empty for on and off, which are flags
    /// of their own.
    pub fn to_flag(&self) -> String {
        match self {
            Value::Text(text) => text.clone(),
            Value::List(values) if values.iter().all(|value| matches!(value, Value::Text(_))) => {
                values.iter().map(Value::to_flag).collect::<Vec<_>>().join(",")
            }
            Value::Bool(_) => String::new(),
            other => other.to_string(),
        }
    }

    /// Its number, where it is one.
    pub(super) fn number(&self) -> Option<f64> {
        match *self {
            Value::Int(number) => Some(number as f64),
            Value::Float(number) => Some(number),
            _ => None,
        }
    }
}

/// In TOML's notation.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => f.write_str("None"),
            Value::Bool(is_on) => write!(f, "{is_on}"),
            Value::Int(number) => write!(f, "{number}"),
            Value::Float(number) => write!(f, "{number:?}"),
            Value::Text(text) => write!(f, "{text:?}"),
            Value::Other(words) => f.write_str(words),
            Value::List(values) => {
                let values: Vec<_> = values.iter().map(Value::to_string).collect();
                write!(f, "[{}]", values.join(", "))
            }
        }
    }
}

/// A type that keys can have.
pub trait Setting: Sized {
    /// Whether its flag stands alone: `--section.key` and `--section.no-key`.
    const IS_SWITCH: bool = false;

    /// What it takes, in words that follow "expected".
    fn expected() -> String;

    /// What it takes, in short, for lists of keys.
    fn short() -> String;

    /// From a value; `None` for one of another type.
    fn take(value: &Value) -> Option<Self>;

    /// As a value.
    fn give(&self) -> Value;

    /// What the text after a flag is.
    fn of_text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

/// A key's place in the configuration, its type left open.
pub(super) trait Slot {
    /// Takes a value; `false` for one of another type.
    fn put(&mut self, value: &Value) -> bool;
    /// What it holds.
    fn get(&self) -> Value;
}

impl<T: Setting> Slot for T {
    fn put(&mut self, value: &Value) -> bool {
        T::take(value).map(|taken| *self = taken).is_some()
    }

    fn get(&self) -> Value {
        self.give()
    }
}

impl Setting for bool {
    const IS_SWITCH: bool = true;

    fn expected() -> String {
        "true or false".to_owned()
    }

    fn short() -> String {
        "bool".to_owned()
    }

    fn take(value: &Value) -> Option<Self> {
        if let Value::Bool(is_on) = value { Some(*is_on) } else { None }
    }

    fn give(&self) -> Value {
        Value::Bool(*self)
    }
}

impl Setting for i64 {
    fn expected() -> String {
        "an integer".to_owned()
    }

    fn short() -> String {
        "int".to_owned()
    }

    fn take(value: &Value) -> Option<Self> {
        if let Value::Int(number) = value { Some(*number) } else { None }
    }

    fn give(&self) -> Value {
        Value::Int(*self)
    }

    fn of_text(text: &str) -> Value {
        number_of(text)
    }
}

impl Setting for u64 {
    fn expected() -> String {
        "an integer of 0 or more".to_owned()
    }

    fn short() -> String {
        "int".to_owned()
    }

    fn take(value: &Value) -> Option<Self> {
        i64::take(value)?.try_into().ok()
    }

    fn give(&self) -> Value {
        // Taken from an i64, or a default of ours.
        Value::Int(i64::try_from(*self).unwrap_or(i64::MAX))
    }

    fn of_text(text: &str) -> Value {
        number_of(text)
    }
}

impl Setting for f64 {
    fn expected() -> String {
        "a finite number".to_owned()
    }

    fn short() -> String {
        "float".to_owned()
    }

    fn take(value: &Value) -> Option<Self> {
        value.number().filter(|number| number.is_finite())
    }

    fn give(&self) -> Value {
        Value::Float(*self)
    }

    fn of_text(text: &str) -> Value {
        number_of(text)
    }
}

impl Setting for String {
    fn expected() -> String {
        "text".to_owned()
    }

    fn short() -> String {
        "text".to_owned()
    }

    fn take(value: &Value) -> Option<Self> {
        if let Value::Text(text) = value { Some(text.clone()) } else { None }
    }

    fn give(&self) -> Value {
        Value::Text(self.clone())
    }
}

/// `None` is written so, in files too: TOML has no word for it.
impl<T: Setting> Setting for Option<T> {
    fn expected() -> String {
        format!("{}, or None", T::expected())
    }

    fn short() -> String {
        format!("{} or None", T::short())
    }

    fn take(value: &Value) -> Option<Self> {
        match value {
            Value::None => Some(None),
            Value::Text(text) if text == "None" => Some(None),
            value => T::take(value).map(Some),
        }
    }

    fn give(&self) -> Value {
        self.as_ref().map_or(Value::None, T::give)
    }

    fn of_text(text: &str) -> Value {
        if text == "None" { Value::None } else { T::of_text(text) }
    }
}

impl Setting for Vec<String> {
    fn expected() -> String {
        "a list of texts: [\"a\", \"b\"] in a file, a,b after a flag".to_owned()
    }

    fn short() -> String {
        "list".to_owned()
    }

    fn take(value: &Value) -> Option<Self> {
        let Value::List(values) = value else { return None };
        values.iter().map(String::take).collect()
    }

    fn give(&self) -> Value {
        Value::List(self.iter().map(String::give).collect())
    }

    fn of_text(text: &str) -> Value {
        let parts = text.split(',').filter(|part| !part.is_empty());
        Value::List(parts.map(|part| Value::Text(part.trim().to_owned())).collect())
    }
}

impl Setting for Vec<Vec<String>> {
    fn expected() -> String {
        "a list of lists of texts, as [[\"a\", \"b\"], [\"c\"]]".to_owned()
    }

    fn short() -> String {
        "list of lists".to_owned()
    }

    fn take(value: &Value) -> Option<Self> {
        let Value::List(values) = value else { return None };
        values.iter().map(Vec::take).collect()
    }

    fn give(&self) -> Value {
        Value::List(self.iter().map(Vec::give).collect())
    }

    fn of_text(text: &str) -> Value {
        super::file::value_of(text).unwrap_or_else(|| Value::Text(text.to_owned()))
    }
}

fn number_of(text: &str) -> Value {
    match (text.parse(), text.parse()) {
        (Ok(number), _) => Value::Int(number),
        (_, Ok(number)) => Value::Float(number),
        _ => Value::Text(text.to_owned()),
    }
}
