//! The native side as it is found: names of several versions in one checkpoint, and queries, keys and values in one tensor.

use crate::dialect::{DIALECTS, Dialect};
use crate::error::{Error, Problem, Result};
use crate::link::Link;
use crate::spec::Model;
use crate::view::{Part, Tensors, View};
use dcp::format::Reader;
use dcp::model::{Catalog, Fqn, TensorSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How a checkpoint names parameters: its dialect, and what comes before the names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a> {
    catalog: &'a Catalog,
    pub(crate) dialect: &'static Dialect,
    /// TorchTitan 0.1 kept the model below this key.
    prefix: &'static str,
}

impl<'a> Names<'a> {
    /// The names that most parameters have.
    pub(crate) fn detect(model: &Model, catalog: &'a Catalog) -> Self {
        let all = ["", "model."]
            .iter()
            .flat_map(|prefix| DIALECTS.iter().map(move |dialect| Names { catalog, dialect, prefix }));
        let count = |names: &Names| {
            let is_there = |name: String| catalog.tensors.contains_key(name.as_str());
            model.params.iter().filter(|param| is_there(names.in_dialect(&param.fqn, names.dialect))).count()
        };
        // Of equals the first.
        let otherwise = Names { catalog, dialect: &DIALECTS[0], prefix: "" };
        all.rev().max_by_key(count).unwrap_or(otherwise)
    }

    /// A parameter's name: that of another dialect where the checkpoint has that one alone.
    pub(crate) fn of(&self, fqn: &str) -> String {
        let own = self.in_dialect(fqn, self.dialect);
        let is_there = |name: &String| self.catalog.tensors.contains_key(name.as_str());
        if is_there(&own) {
            return own;
        }
        let others = DIALECTS.iter().map(|dialect| self.in_dialect(fqn, dialect));
        others.into_iter().find(is_there).unwrap_or(own)
    }

    /// Whether a name is not that of the dialect that most have.
    pub(crate) fn is_other(&self, fqn: &str, name: &str) -> bool {
        self.in_dialect(fqn, self.dialect) != name
    }

    fn in_dialect(&self, fqn: &str, dialect: &Dialect) -> String {
        format!("{}{}", self.prefix, dialect.name_of(fqn))
    }
}

/// The checkpoint with queries, keys and values apart, and how many tensors held them together; as it is where none does.
///
/// Errors: [`Error::WrongNames`] for such a tensor of another shape; what opening its tensors gives.
pub(crate) fn unfused(model: &Model, source: Arc<dyn Reader>) -> Result<(Arc<dyn Reader>, usize)> {
    let catalog = source.catalog();
    let found: Vec<&Link> =
        model.fused.iter().filter(|link| catalog.tensors.contains_key(link.outside.name.as_str())).collect();
    let mut shapes: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for link in &found {
        let shape = link.outside.shape(&link.extent);
        let known = shapes.entry(&link.outside.name).or_insert_with(|| shape.clone());
        known.iter_mut().zip(shape).for_each(|(known, shape)| *known = (*known).max(shape));
    }
    if found.is_empty() {
        return Ok((source, 0));
    }
    let mut problems = Vec::new();
    for (name, expected) in &shapes {
        let shape = &catalog.tensors[*name].spec.shape;
        if shape != expected {
            let (found, expected) = (shape.clone(), expected.clone());
            problems.push(Problem::Shape { name: (*name).to_owned(), found, expected });
        }
    }
    if !problems.is_empty() {
        let root = source.place().display().to_string();
        return Err(Error::WrongNames { root, model: model.name(), problems });
    }
    let mut tensors = Tensors::default();
    let linked = |name: &str, link: &Link| Part::Linked { source: Fqn::from(name), pieces: link.inward() };
    let is_fused: BTreeSet<&str> = shapes.keys().copied().collect();
    for (fqn, tensor) in catalog.tensors.iter().filter(|(fqn, _)| !is_fused.contains(fqn.as_str())) {
        let same = Link::same(fqn.as_str(), fqn.as_str(), &tensor.spec.shape);
        tensors.add(fqn.clone(), tensor.spec.clone(), linked(fqn.as_str(), &same));
    }
    for link in found {
        let dtype = catalog.tensors[link.outside.name.as_str()].spec.dtype;
        let spec = TensorSpec::new(dtype, link.native.shape(&link.extent));
        tensors.add(Fqn::from(link.native.name.as_str()), spec, linked(&link.outside.name, link));
    }
    let count = shapes.len();
    drop(shapes);
    Ok((Arc::new(View::new(source.clone(), tensors.finish())?), count))
}
