//! Tests of the format as a whole.

mod attacks;
mod goldens;
mod round_trip;
