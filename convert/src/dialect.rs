//! The names that versions of TorchTitan give the same parameters.
//!
//! Models are written in `torchtitan-0.2`. Source: torchtitan v0.1.0 to v0.2.2 (`torchtitan-0.2`), main of 2026-08-21
//! (`torchtitan-2026.08`).

/// One way to name parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dialect {
    /// Its name, typed after `--dialect`.
    pub name: &'static str,
    /// Parts of names, as in `torchtitan-0.2` and as here. Each part is whole components of the name.
    renames: &'static [(&'static str, &'static str)],
}

/// Every dialect. To add one: a line here.
pub static DIALECTS: &[Dialect] = &[
    Dialect { name: "torchtitan-0.2", renames: &[] },
    Dialect {
        name: "torchtitan-2026.08",
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
];

impl Dialect {
    /// A parameter's name in this dialect, from that in `torchtitan-0.2`.
    pub fn name_of(&self, fqn: &str) -> String {
        let renamed = self.renames.iter().find_map(|(from, to)| {
            let at = fqn.find(from)?;
            let (before, after) = (&fqn[..at], &fqn[at + from.len()..]);
            let is_whole =
                (before.is_empty() || before.ends_with('.')) && (after.is_empty() || after.starts_with('.'));
            is_whole.then(|| format!("{before}{to}{after}"))
        });
        renamed.unwrap_or_else(|| fqn.to_owned())
    }
}

/// The dialect of this name.
pub fn by_name(name: &str) -> Option<&'static Dialect> {
    DIALECTS.iter().find(|dialect| dialect.name == name)
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
