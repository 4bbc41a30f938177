//! Names as people read them: natural order, near misses, components.

use dcp::model::{Catalog, Path, PathPart};
use std::cmp::{Ordering, Reverse};

/// Compares names with their numbers as numbers: `layers.2` before `layers.10`.
pub(crate) fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (run_a, rest_a) = run(a);
        let (run_b, rest_b) = run(b);
        let both_numbers = run_a.starts_with(|char: char| char.is_ascii_digit())
            && run_b.starts_with(|char: char| char.is_ascii_digit());
        let order = if both_numbers {
            let (short_a, short_b) = (run_a.trim_start_matches('0'), run_b.trim_start_matches('0'));
            short_a.len().cmp(&short_b.len()).then(short_a.cmp(short_b)).then(run_a.cmp(run_b))
        } else {
            run_a.cmp(run_b)
        };
        if order != Ordering::Equal || run_a.is_empty() {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
}

/// The leading run of digits or of anything else.
fn run(text: &str) -> (&str, &str) {
    let is_number = text.starts_with(|char: char| char.is_ascii_digit());
    let end = text.find(|char: char| char.is_ascii_digit() != is_number).unwrap_or(text.len());
    text.split_at(end)
}

/// The names of a checkpoint most like one that is not there, at most three, for a hint.
pub(crate) fn near(catalog: &Catalog, wanted: &str) -> Vec<String> {
    const SIMILARITY_MIN: f64 = 0.6;
    let names = catalog.tensors.keys().chain(catalog.values.keys());
    let score = |name: &str| {
        let alike = strsim::normalized_damerau_levenshtein(name, wanted);
        // The end of a long name is a good guess however long the rest is.
        if name.ends_with(wanted) { alike.max(SIMILARITY_MIN + alike / 10.0) } else { alike }
    };
    let mut scored: Vec<(u64, String)> = names
        .map(|name| ((score(name.as_str()) * 1e6) as u64, name.to_string()))
        .filter(|(score, _)| *score >= (SIMILARITY_MIN * 1e6) as u64)
        .collect();
    scored.sort_by(|a, b| Reverse(a.0).cmp(&Reverse(b.0)).then_with(|| natural(&a.1, &b.1)));
    scored.into_iter().take(3).map(|(_, name)| name).collect()
}

/// The part of a training state that a name belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Component {
    Model,
    Optimizer,
    Other,
}

impl Component {
    pub(crate) const ALL: [Component; 3] = [Component::Model, Component::Optimizer, Component::Other];

    /// Reads it off the first part of the path, or of the name where no path is recorded.
    pub(crate) fn of(fqn: &str, path: &Path) -> Self {
        let first = match path.first() {
            Some(PathPart::Key(key)) => key.as_str(),
            _ => fqn,
        };
        match first.split('.').next().unwrap_or(first) {
            "optimizer" | "optimizers" | "optim" | "optimizer_state" | "optimizer_states" => {
                Component::Optimizer
            }
            "lr_scheduler" | "lr_schedulers" | "scheduler" | "train_state" | "trainer" | "dataloader"
            | "data_loader" | "rng" | "rng_state" | "random_state" | "loader" => Component::Other,
            _ => Component::Model,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Component::Model => "model",
            Component::Optimizer => "optimizer",
            Component::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_as_numbers() {
        let mut names = ["step-10", "step-9", "step-100", "layers.2.w", "layers.10.w", "step-009"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["layers.2.w", "layers.10.w", "step-009", "step-9", "step-10", "step-100"]);
    }

    #[test]
    fn components_come_from_the_first_part() {
        let path = vec![PathPart::Key("optimizer".to_owned()), PathPart::Key("state".to_owned())];
        assert_eq!(Component::of("x", &path), Component::Optimizer);
        assert_eq!(Component::of("optimizer.state.w.step", &Vec::new()), Component::Optimizer);
        assert_eq!(Component::of("train_state", &Vec::new()), Component::Other);
        assert_eq!(Component::of("layers.0.w", &Vec::new()), Component::Model);
    }
}
