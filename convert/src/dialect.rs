//! The names that versions of TorchTitan give the same parameters.
//!
//! Models are written in `torchtitan-0.2`. Source: torchtitan v0.1.0 to v0.2.2 (`torchtitan-0.2`), main of 2026-08-21
//! (`torchtitan-2026.08`), main of 2026-05-27 to 2026-07-16 (`torchtitan-2026.06`, its pull requests 3425 and 3859).

/// One way to name parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dialect {
    /// Its name, typed after `--dialect`.
    pub name: &'static str,
    /// Whether checkpoints are written with it; all are read.
    pub is_written: bool,
    /// Parts of names, as in `torchtitan-0.2` and as here. Each part is whole components of the name.
    renames: &'static [(&'static str, &'static str)],
}

/// Every dialect. To add one: a line here.
pub static DIALECTS: &[Dialect] = &[
    Dialect { name: "torchtitan-0.2", is_written: true, renames: &[] },
    Dialect {
        name: "torchtitan-2026.08",
        is_written: true,
        renames: &[
            ("attention.wq", "attention.qkv_linear.wq"),
            ("attention.wk", "attention.qkv_linear.wk"),
            ("attention.wv", "attention.qkv_linear.wv"),
            ("output.weight", "lm_head.weight"),
            ("moe.experts.w1", "moe.routed_experts.inner_experts.w1_EFD"),
            ("moe.experts.w2", "moe.routed_experts.inner_experts.w2_EDF"),
            ("moe.experts.w3", "moe.routed_experts.inner_experts.w3_EFD"),
            ("moe.experts.mlp1_weight", "moe.routed_experts.inner_experts.mlp1_weight_EGD"),
            ("moe.experts.mlp1_bias", "moe.routed_experts.inner_experts.mlp1_bias_EG"),
            ("moe.experts.mlp2_weight", "moe.routed_experts.inner_experts.mlp2_weight_EDF"),
            ("moe.experts.mlp2_bias", "moe.routed_experts.inner_experts.mlp2_bias_ED"),
            ("moe.expert_bias", "moe.expert_bias_E"),
        ],
    },
    Dialect {
        name: "torchtitan-2026.06",
        is_written: false,
        renames: &[
            ("attention.wq", "attention.qkv_linear.wq"),
            ("attention.wk", "attention.qkv_linear.wk"),
            ("attention.wv", "attention.qkv_linear.wv"),
            ("output.weight", "lm_head.weight"),
            ("moe.experts.w1", "moe.experts.w1_EFD"),
            ("moe.experts.w2", "moe.experts.w2_EDF"),
            ("moe.experts.w3", "moe.experts.w3_EFD"),
            ("moe.experts.mlp1_weight", "moe.experts.mlp1_weight_EGD"),
            ("moe.experts.mlp1_bias", "moe.experts.mlp1_bias_EG"),
            ("moe.experts.mlp2_weight", "moe.experts.mlp2_weight_EDF"),
            ("moe.experts.mlp2_bias", "moe.experts.mlp2_bias_ED"),
            ("moe.expert_bias", "moe.expert_bias_E"),
        ],
    },
];

impl Dialect {
    /// A parameter's name in this dialect, from that in `torchtitan-0.2`.
    pub fn name_of(&self, fqn: &str) -> String {
        renamed(fqn, self.renames)
    }
}

/// The dialect of this name that checkpoints are written with.
pub fn by_name(name: &str) -> Option<&'static Dialect> {
    written().find(|dialect| dialect.name == name)
}

/// The dialects that checkpoints are written with.
pub fn written() -> impl Iterator<Item = &'static Dialect> {
    DIALECTS.iter().filter(|dialect| dialect.is_written)
}

/// `fqn` with the first of these parts that it has in its place; each part is whole components of the name.
pub(crate) fn renamed(fqn: &str, renames: &[(&str, &str)]) -> String {
    let renamed = renames.iter().find_map(|(from, to)| {
        let at = fqn.find(from)?;
        let (before, after) = (&fqn[..at], &fqn[at + from.len()..]);
        let is_whole =
            (before.is_empty() || before.ends_with('.')) && (after.is_empty() || after.starts_with('.'));
        is_whole.then(|| format!("{before}{to}{after}"))
    });
    renamed.unwrap_or_else(|| fqn.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_change_by_whole_components() {
        let new = by_name("torchtitan-2026.08").unwrap();
        assert_eq!(new.name_of("layers.3.attention.wq.weight"), "layers.3.attention.qkv_linear.wq.weight");
        assert_eq!(new.name_of("layers.3.attention.wq_a.weight"), "layers.3.attention.wq_a.weight");
        assert_eq!(new.name_of("output.weight"), "lm_head.weight");
        assert_eq!(
            new.name_of("layers.0.moe.experts.w2"),
            "layers.0.moe.routed_experts.inner_experts.w2_EDF"
        );
        assert_eq!(new.name_of("norm.weight"), "norm.weight");
        assert_eq!(DIALECTS[0].name_of("output.weight"), "output.weight");
    }
}
