//! What users get wrong: one message, on one rank, that names key, value, rule and remedy.
