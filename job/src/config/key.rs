//! What is known of a key: the columns of the table.

use super::setting::{Setting, Value};
use std::fmt;

/// One key of a section.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in its section.
    pub name: &'static str,
    /// What it means, with units.
    pub doc: &'static str,
    /// What becomes of it here.
    pub status: Status,
    /// Whether TorchTitan does not have it.
    pub is_ours: bool,
    /// Which values of its type are legal.
    pub rule: Option<Rule>,
    /// Single values that are refused, and why.
    pub refused_values: &'static [RefusedValue],
    /// What its type takes, in words.
    pub expected: fn() -> String,
    /// Its type, in short.
    pub short: fn() -> String,
    /// What the text after its flag is.
    pub of_text: fn(&str) -> Value,
    /// Whether its flag stands alone.
    pub is_switch: bool,
}

/// What becomes of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// It does what TorchTitan's does.
    Implemented,
    /// Any value but the default is refused.
    Refused {
        /// Why.
        reason: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
    /// It says more of another key, which is refused; without that nothing reads it, in TorchTitan neither.
    Inert {
        /// The other key.
        of: &'static str,
    },
    /// Any value is right, since what it is about does not exist here.
    Moot {
        /// Why.
        why: &'static str,
    },
}

/// A value that is refused.
#[derive(Clone, Copy, Debug)]
pub struct RefusedValue {
    /// As a flag gives it.
    pub value: &'static str,
    /// Why.
    pub reason: &'static str,
    /// What to do instead.
    pub remedy: &'static str,
}

/// Which values of a type are legal.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Rule {
    /// So much or more.
    AtLeast(i64),
    /// -1, or so much or more.
    MinusOneOrAtLeast(i64),
    /// 0, or so much or more.
    ZeroOrAtLeast(i64),
    /// Any but 0.
    NotZero,
    /// More than 0.
    Positive,
    /// From 0 to 1.
    Fraction,
    /// From 0 to less than 1.
    BelowOne,
    /// Some text.
    NotEmpty,
}

impl Rule {
    /// Whether a value keeps it. `None` always does.
    pub fn holds(self, value: &Value) -> bool {
        if let (Rule::NotEmpty, Value::Text(text)) = (self, value) {
            return !text.is_empty();
        }
        let Some(number) = value.number() else { return true };
        match self {
            Rule::AtLeast(least) => number >= least as f64,
            Rule::MinusOneOrAtLeast(least) => number == -1.0 || number >= least as f64,
            Rule::ZeroOrAtLeast(least) => number == 0.0 || number >= least as f64,
            Rule::NotZero => number != 0.0,
            Rule::Positive => number > 0.0,
            Rule::Fraction => (0.0..=1.0).contains(&number),
            Rule::BelowOne => (0.0..1.0).contains(&number),
            Rule::NotEmpty => true,
        }
    }
}

/// As a phrase: `must be at least 1`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::AtLeast(least) => write!(f, "must be at least {least}"),
            Rule::MinusOneOrAtLeast(least) => write!(f, "must be -1, or at least {least}"),
            Rule::ZeroOrAtLeast(least) => write!(f, "must be 0, or at least {least}"),
            Rule::NotZero => f.write_str("must not be 0"),
            Rule::Positive => f.write_str("must be more than 0"),
            Rule::Fraction => f.write_str("must be from 0 to 1"),
            Rule::BelowOne => f.write_str("must be from 0 to less than 1"),
            Rule::NotEmpty => f.write_str("must not be empty"),
        }
    }
}

/// The columns of the table: a key of a type, then what is said of it.
impl Key {
    pub(super) const fn new<T: Setting>(name: &'static str, doc: &'static str) -> Self {
        Key {
            name,
            doc,
            status: Status::Implemented,
            is_ours: false,
            rule: None,
            refused_values: &[],
            expected: T::expected,
            short: T::short,
            of_text: T::of_text,
            is_switch: T::IS_SWITCH,
        }
    }

    pub(super) const fn refused(self, reason: &'static str, remedy: &'static str) -> Self {
        Key { status: Status::Refused { reason, remedy }, ..self }
    }

    pub(super) const fn inert(self, of: &'static str) -> Self {
        Key { status: Status::Inert { of }, ..self }
    }

    pub(super) const fn moot(self, why: &'static str) -> Self {
        Key { status: Status::Moot { why }, ..self }
    }

    pub(super) const fn ours(self) -> Self {
        Key { is_ours: true, ..self }
    }

    pub(super) const fn must_be(self, rule: Rule) -> Self {
        Key { rule: Some(rule), ..self }
    }

    pub(super) const fn without(self, refused_values: &'static [RefusedValue]) -> Self {
        Key { refused_values, ..self }
    }
}
