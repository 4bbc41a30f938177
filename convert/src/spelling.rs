//! Names that others give to native tensors: checkpoints that come in without any element moving.
//!
//! Read alone: nothing is written with these names. To add one: a line in [`SPELLINGS`].
//!
//! Source: meta-llama/llama3 `llama/model.py` (`consolidated.*.pth`); black-forest-labs/flux `src/flux/model.py`; torchtune
//! 0.6 `torchtune/models/convert_weights.py`.

use crate::dialect::renamed;
use crate::spec::Model;
use dcp::model::Catalog;

/// One way in which others name the native tensors of a family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spelling {
    /// Whose it is, for people.
    pub name: &'static str,
    /// The family that it is for.
    family: &'static str,
    /// Parts of names, as in `torchtitan-0.2` and as here. Each part is whole components of the name.
    renames: &'static [(&'static str, &'static str)],
    /// Patterns of names that have no home, and why.
    pub left_out: &'static [(&'static str, &'static str)],
}

/// Every spelling.
pub static SPELLINGS: &[Spelling] = &[
    Spelling {
        name: "Meta (consolidated.00.pth)",
        family: "llama3",
        renames: &[],
        left_out: &[("rope.freqs", "computed from the config")],
    },
    Spelling {
        name: "torchtune",
        family: "llama3",
        renames: &[
            ("attention.wq", "attn.q_proj"),
            ("attention.wk", "attn.k_proj"),
            ("attention.wv", "attn.v_proj"),
            ("attention.wo", "attn.output_proj"),
            ("feed_forward", "mlp"),
            ("attention_norm.weight", "sa_norm.scale"),
            ("ffn_norm.weight", "mlp_norm.scale"),
            ("norm.weight", "norm.scale"),
        ],
        left_out: &[],
    },
    Spelling {
        name: "Black Forest Labs",
        family: "flux",
        renames: &[("query_norm.weight", "query_norm.scale"), ("key_norm.weight", "key_norm.scale")],
        left_out: &[("guidance_in.*", "of the guidance, which the native module does not have")],
    },
];

impl Spelling {
    /// A parameter's name here, from that in `torchtitan-0.2`.
    pub fn name_of(&self, fqn: &str) -> String {
        renamed(fqn, self.renames)
    }

    /// The spelling in which a checkpoint has more of a model's tensors than it has of the outside's.
    pub(crate) fn detect(model: &Model, catalog: &Catalog) -> Option<&'static Spelling> {
        let is_there = |name: &str| catalog.tensors.contains_key(name);
        let outside = model.links.iter().filter(|(link, _)| is_there(&link.outside.name)).count();
        let count = |spelling: &Spelling| {
            model.params.iter().filter(|param| is_there(&spelling.name_of(&param.fqn))).count()
        };
        let of_family = SPELLINGS.iter().filter(|spelling| spelling.family == model.family);
        // Of equals the first.
        let best = of_family.rev().max_by_key(|spelling| count(spelling))?;
        (count(best) > outside).then_some(best)
    }
}
