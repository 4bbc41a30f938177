//! Prints the table of `docs/plan.md`: published figures beside predicted ones.
//!
//! `cargo run -p job --example published`; with words, the reports of the rows that have them in their names.

#![expect(clippy::disallowed_macros, reason = "an example prints")]

fn main() -> job::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.is_empty() {
        print!("{}", job::forecast::published::table()?);
        return Ok(());
    }
    for row in job::forecast::published::PUBLISHED {
        let name = format!("{} {}", row.what, row.assumed.join(" "));
        if words.iter().all(|word| name.contains(word)) {
            println!("{}", row.forecast()?.text());
        }
    }
    Ok(())
}
