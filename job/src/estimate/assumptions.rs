//! What a prediction takes for granted.

/// What is taken for granted that the trainer does not do.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Assumptions {
    /// Matrix products of blocks in 8 bits, with a scale per tensor; parameters are gathered in 8 bits.
    pub float8: bool,
    /// Operations element by element are fused, as torch.compile does it.
    pub compile: bool,
    /// Collectives of tensor parallelism go on behind matrix products, in part.
    pub async_tp: bool,
}

impl Assumptions {
    /// Every one by name, after `--assume`.
    pub const NAMES: [&'static str; 3] = ["float8", "compile", "async-tp"];

    /// Takes one for granted by its name; `false` where there is none of it.
    pub fn assume(&mut self, name: &str) -> bool {
        match name {
            "float8" => self.float8 = true,
            "compile" => self.compile = true,
            "async-tp" => self.async_tp = true,
            _ => return false,
        }
        true
    }

    /// The names of those that are taken for granted.
    pub fn names(&self) -> Vec<&'static str> {
        let held = [self.float8, self.compile, self.async_tp];
        Self::NAMES.into_iter().zip(held).filter_map(|(name, held)| held.then_some(name)).collect()
    }
}
