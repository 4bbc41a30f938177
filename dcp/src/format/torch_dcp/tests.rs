//! Tests of the format as a whole.

mod goldens;
mod round_trip;
