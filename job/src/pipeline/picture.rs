//! Schedules as pictures: `docs/schedules.md`.

use super::{
    Communicated, Held, MicrobatchRule, Order, Pipeline, SCHEDULES, Schedule, Shape, StagesRule, Timed,
};
use super::{check, communicate};
use std::fmt::Write;

/// What is drawn.
const RANKS: u32 = 3;
const MICROBATCHES: u32 = 6;

/// The page `docs/schedules.md`: every schedule that is known by name, drawn.
pub fn pictures() -> String {
    let mut page = format!(
        "# Pipeline schedules\n\n\
         Made by `cargo run -p job --example schedules > docs/schedules.md`; a test compares.\n\n\
         What every rank computes when, with {RANKS} ranks and {MICROBATCHES} microbatches. F is a forward pass and takes 1, B a \
         backward pass and\ntakes 2; in parts, I is backward for the gradient of the input and W for those of the parameters, and \
         each takes 1.\nMessages take no time. The number is the microbatch. Capital letters are the first stage of a rank, small \
         ones the\nsecond. Dots are pauses.\n\n\
         *Idle* is the part of its time that a rank waits, of all ranks together. *Kept* is how many times a stage's \
         activations\nof a microbatch are kept at most, rank by rank: with two stages per rank each is half as large.\n\n\
         | `pipeline_parallel_schedule` | stages per rank | microbatches | time | idle | kept | messages |\n\
         |---|---|---|---|---|---|---|\n"
    );
    let drawn: Vec<_> = SCHEDULES.iter().filter_map(Drawn::new).collect();
    for drawn in &drawn {
        page += &drawn.row();
    }
    for drawn in &drawn {
        page += &drawn.section();
    }
    page
}

struct Drawn {
    schedule: &'static Schedule,
    pipeline: Pipeline,
    communicated: Communicated,
    held: Vec<Held>,
}

impl Drawn {
    /// None for what a file says.
    fn new(schedule: &'static Schedule) -> Option<Self> {
        let stages_per_rank = schedule.stages_per_rank.default();
        let pipeline =
            schedule.pipeline(Shape { ranks: RANKS, stages_per_rank, microbatches: MICROBATCHES }).ok()?;
        let communicated = communicate(&pipeline).ok()?;
        let held = check(&pipeline, &communicated.moves).ok()?;
        Some(Drawn { schedule, pipeline, communicated, held })
    }

    /// When the last pass ends.
    fn time(&self) -> u32 {
        self.communicated.timed.iter().flatten().map(Timed::end).max().unwrap_or(0)
    }

    fn row(&self) -> String {
        let stages = match self.schedule.stages_per_rank {
            StagesRule::One => "1",
            StagesRule::Two => "2",
            StagesRule::TwoOrMore => "2 or more",
        };
        let microbatches = match self.schedule.microbatches {
            MicrobatchRule::Any => "any number",
            MicrobatchRule::OnePerStage => "one per stage or more",
            MicrobatchRule::Rounds => "a multiple of microbatches / ranks, rounded down",
        };
        let passes = self.communicated.timed.iter().flatten();
        let busy: u32 = passes.map(|timed| timed.action.pass.duration()).sum();
        let all = self.time() * self.pipeline.ranks();
        let idle = f64::from(all - busy) / f64::from(all) * 100.0;
        let kept: Vec<_> = self.held.iter().map(|held| held.activations.to_string()).collect();
        let moves = self.communicated.moves.iter().flatten();
        let messages = moves.filter(|step| matches!(step, super::Move::Send(_))).count();
        format!(
            "| {} | {stages} | {microbatches} | {} | {idle:.0}% | {} | {messages} |\n",
            self.schedule.name(),
            self.time(),
            kept.join(", "),
        )
    }

    fn section(&self) -> String {
        let order = match (self.schedule.stages_per_rank, self.schedule.order) {
            (StagesRule::One, _) => "a stage per rank",
            (_, Order::Loop) => "two stages per rank, in a loop",
            (_, Order::V) => "two stages per rank, in a V",
        };
        let mut section = format!("\n## {}\n\n{}: ", self.schedule.name(), capitalised(order));
        let of_ranks = (0..self.pipeline.ranks()).map(|rank| {
            let stages: Vec<_> =
                self.pipeline.stages_of(rank).iter().map(|stage| stage.0.to_string()).collect();
            stages.join(" and ")
        });
        let _ = writeln!(section, "{}.\n\n```text", of_ranks.collect::<Vec<_>>().join("; "));
        for (rank, timed) in (0..).zip(&self.communicated.timed) {
            section += &self.line(rank, timed);
        }
        section + "```\n"
    }

    /// What a rank computes: three characters for a unit of time.
    fn line(&self, rank: u32, timed: &[Timed]) -> String {
        let first = self.pipeline.stages_of(rank)[0];
        let mut cells = vec![" . ".to_owned(); self.time() as usize];
        for timed in timed {
            let word = timed.action.to_string();
            let word = word.trim_start_matches(|c: char| c.is_ascii_digit());
            let word = if timed.action.stage == first { word.to_owned() } else { word.to_lowercase() };
            let begun = timed.start as usize;
            cells[begun] = format!("{word:<3}");
            for cell in &mut cells[begun + 1..timed.end() as usize] {
                *cell = "-- ".to_owned();
            }
        }
        format!("rank {rank}  {}\n", cells.concat().trim_end())
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_up_to_date() {
        let is_same = pictures() == include_str!("../../../docs/schedules.md");
        assert!(is_same, "run `cargo run -p job --example schedules > docs/schedules.md`");
    }

    /// Every pass is drawn once, and no two at a time.
    #[test]
    fn every_pass_is_drawn() {
        for drawn in SCHEDULES.iter().filter_map(Drawn::new) {
            for (rank, timed) in (0..).zip(&drawn.communicated.timed) {
                let line = drawn.line(rank, timed);
                let busy: u32 = timed.iter().map(|timed| timed.action.pass.duration()).sum();
                let cells = line.split_whitespace().skip(2);
                let (pauses, drawn_passes): (Vec<_>, Vec<_>) = cells.partition(|cell| *cell == ".");
                assert_eq!(drawn_passes.len() as u32, busy, "{line}");
                assert!(pauses.len() as u32 + busy <= drawn.time(), "{line}");
            }
        }
    }
}
