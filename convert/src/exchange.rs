//! A checkpoint of one side as a view with the names of the other.
//!
//! Every name must fit: what the model has and the checkpoint lacks, what the checkpoint has and the model does not know,
//! and every other shape is an error, all in one. What is left out on purpose is listed with its reason.

use crate::dialect::Dialect;
use crate::error::{Error, Problem, Result};
use crate::link::Link;
use crate::native::{Names, unfused};
use crate::spec::{Direction, Model};
use crate::spelling::Spelling;
use crate::view::{Part, Tensors, View};
use dcp::copy::TensorReader;
use dcp::format::Reader;
use dcp::layout::Region;
use dcp::model::{Catalog, DType, Fqn, FqnFilter, TensorSpec};
use indexmap::IndexMap;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What a training checkpoint holds beside the model, and what is computed anew: never part of an exchange.
const LEFT_BEHIND: &[(&str, &str)] = &[
    ("optimizer.*", "of the optimizer"),
    ("lr_scheduler.*", "of the schedule"),
    ("dataloader.*", "of the data loader"),
    ("train_state.*", "of the trainer"),
    ("*freqs_cis", "computed from the config"),
    ("*rope.cache", "computed from the config"),
    ("*.moe.tokens_per_expert*", "a counter of one step"),
    ("mtp_layers.*", MORE_TOKENS),
];

/// Why layers that predict more than the next token are left out.
pub(crate) const MORE_TOKENS: &str = "of the prediction of more than one token, which has no home";

/// Bytes of two tensors that are compared at a time.
const COMPARED_BYTES: u64 = 8 << 20;

/// What came with an exchange.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// The dialect of the native names.
    pub dialect: &'static str,
    /// Names of the native side that are those of other dialects.
    pub respelled: Vec<String>,
    /// Number of tensors that held queries, keys and values together.
    pub fused: usize,
    /// Whose names the source has, where it has native tensors and not the outside's.
    pub spelling: Option<&'static str>,
    /// Names that were left out, each with the reason.
    pub left_out: Vec<(String, &'static str)>,
    /// Names that begin as zeros, since the source has none.
    pub zeros: Vec<String>,
    /// Head and embedding of the source that must be equal, as one of them is written.
    pub must_be_equal: Option<(String, String)>,
}

/// A native checkpoint with the outside's names.
///
/// Errors: [`Error::WrongNames`] with every name that does not fit; what opening its tensors gives.
pub fn outward(model: &Model, source: Arc<dyn Reader>) -> Result<(View, Report)> {
    let (source, fused) = unfused(model, source)?;
    let names = Names::detect(model, source.catalog());
    let mut report = Report { dialect: names.dialect.name, fused, ..Report::default() };
    let mut fitting = Fitting::new(source.catalog());
    let native_only: HashMap<_, _> =
        model.native_only.iter().map(|(fqn, why)| (fqn.as_str(), *why)).collect();
    for param in &model.params {
        let name = names.of(&param.fqn);
        let is_head = model.tied.as_ref().is_some_and(|tied| tied.head == param.fqn);
        let is_optional = is_head || native_only.contains_key(param.fqn.as_str());
        if !fitting.expect(&name, &param.shape, is_optional) {
            continue;
        }
        if names.is_other(&param.fqn, &name) {
            report.respelled.push(name.clone());
        }
        if let Some(why) = native_only.get(param.fqn.as_str()) {
            report.left_out.push((name, why));
        } else if let (true, Some(tied)) = (is_head, &model.tied) {
            report.left_out.push((name.clone(), "one with the embedding"));
            report.must_be_equal = Some((name, names.of(&tied.embedding)));
        }
    }
    fitting.rest(LEFT_BEHIND, &mut report)?;
    let mut tensors = Vec::new();
    for (link, direction) in &model.links {
        if *direction == Direction::Both {
            let part = (names.of(&link.native.name), link.outward());
            tensors.push((link.outside.name.clone(), link.outside.shape(&link.extent), part));
        }
    }
    let tensors = fitting.tensors(tensors)?;
    fitting.finish(&source.place().display(), model)?;
    Ok((View::new(source, tensors.finish())?, report))
}

/// An outside checkpoint with native names of a dialect; one of native tensors with the names that others give them as well.
///
/// Errors: as [`outward`].
pub fn inward(model: &Model, source: Arc<dyn Reader>, dialect: &'static Dialect) -> Result<(View, Report)> {
    if let Some(spelling) = Spelling::detect(model, source.catalog()) {
        return respelled(model, source, dialect, spelling);
    }
    let mut report = Report { dialect: dialect.name, ..Report::default() };
    let mut fitting = Fitting::new(source.catalog());
    let links = links_for(model, source.catalog());
    for (name, shape) in outside_shapes(links.iter().copied()) {
        fitting.expect(&name, &shape, false);
    }
    if let Some(tied) = &model.tied
        && let Some(head) = source.catalog().tensors.get(tied.outside_head.as_str())
    {
        fitting.expect(&tied.outside_head, &head.spec.shape, true);
        report.left_out.push((tied.outside_head.clone(), "one with the embedding"));
        let embedding = links.iter().find(|link| link.native.name == tied.embedding);
        report.must_be_equal = embedding.map(|link| (tied.outside_head.clone(), link.outside.name.clone()));
    }
    fitting.rest(&model.outside_only, &mut report)?;
    let native_only: HashSet<&str> = model.native_only.iter().map(|(fqn, _)| fqn.as_str()).collect();
    let mut by_param: HashMap<&str, Vec<&Link>> = HashMap::new();
    for link in links {
        by_param.entry(link.native.name.as_str()).or_default().push(link);
    }
    let mut parts = Vec::new();
    for param in &model.params {
        let name = dialect.name_of(&param.fqn);
        for link in by_param.get(param.fqn.as_str()).into_iter().flatten() {
            parts.push((name.clone(), param.shape.clone(), (link.outside.name.clone(), link.inward())));
        }
    }
    let mut tensors = fitting.tensors(parts)?;
    for param in model.params.iter().filter(|param| native_only.contains(param.fqn.as_str())) {
        let name = dialect.name_of(&param.fqn);
        let spec = TensorSpec::new(param.dtype.unwrap_or(DType::F32), param.shape.clone());
        tensors.add(Fqn::from(name.as_str()), spec, Part::Zeros);
        report.zeros.push(name);
    }
    fitting.finish(&source.place().display(), model)?;
    Ok((View::new(source, tensors.finish())?, report))
}

/// Names of an outside checkpoint that are of the larger model which a model is a part of.
///
/// Errors: none but of patterns of the model itself.
pub fn others_of(model: &Model, outside: &Catalog) -> Result<Vec<Fqn>> {
    if model.alone.is_none() {
        return Ok(Vec::new());
    }
    let linked: HashSet<&str> = model.links.iter().map(|(link, _)| link.outside.name.as_str()).collect();
    let patterns: Vec<String> = model.outside_only.iter().map(|(pattern, _)| pattern.clone()).collect();
    let filter = FqnFilter::new(&patterns, &[])?;
    let is_other = |fqn: &&Fqn| !linked.contains(fqn.as_str()) && filter.matches(fqn.as_str());
    Ok(outside.tensors.keys().filter(is_other).cloned().collect())
}

/// [`inward`] of native tensors under other names.
fn respelled(
    model: &Model,
    source: Arc<dyn Reader>,
    dialect: &'static Dialect,
    spelling: &'static Spelling,
) -> Result<(View, Report)> {
    let mut report = Report { dialect: dialect.name, spelling: Some(spelling.name), ..Report::default() };
    let mut fitting = Fitting::new(source.catalog());
    let mut parts = Vec::new();
    for param in &model.params {
        let mut theirs = spelling.name_of(&param.fqn);
        if let Some(tied) = model.tied.as_ref().filter(|tied| tied.head == param.fqn) {
            let embedding = spelling.name_of(&tied.embedding);
            match source.catalog().tensors.contains_key(theirs.as_str()) {
                true => report.must_be_equal = Some((theirs.clone(), embedding)),
                false => theirs = embedding,
            }
        }
        fitting.expect(&theirs, &param.shape, false);
        let pieces = Link::same(param.fqn.as_str(), theirs.as_str(), &param.shape).inward();
        parts.push((dialect.name_of(&param.fqn), param.shape.clone(), (theirs, pieces)));
    }
    fitting.rest(spelling.left_out, &mut report)?;
    let tensors = fitting.tensors(parts)?;
    fitting.finish(&source.place().display(), model)?;
    Ok((View::new(source, tensors.finish())?, report))
}

/// An outside tensor, and what it is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Made {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// The native tensors, in the dialect `torchtitan-0.2`, that its elements are of.
    pub sources: Vec<String>,
}

/// Every outside tensor of a model in the order in which they are written: the plan of [`outward`], of the model alone.
pub fn made_of(model: &Model) -> Vec<Made> {
    let both =
        || model.links.iter().filter(|(_, direction)| *direction == Direction::Both).map(|(link, _)| link);
    let mut sources: HashMap<&str, Vec<&str>> = HashMap::new();
    for link in both() {
        let found = sources.entry(link.outside.name.as_str()).or_default();
        if !found.contains(&link.native.name.as_str()) {
            found.push(&link.native.name);
        }
    }
    let made = |(name, shape): (String, Vec<u64>)| {
        let sources =
            sources.get(name.as_str()).into_iter().flatten().map(|name| (*name).to_owned()).collect();
        Made { name, shape, sources }
    };
    outside_shapes(both()).into_iter().map(made).collect()
}

/// The links that a source of the outside needs: some of its tensors can be in one of two shapes.
fn links_for<'a>(model: &'a Model, catalog: &Catalog) -> Vec<&'a Link> {
    let is_there = |link: &Link| catalog.tensors.contains_key(link.outside.name.as_str());
    let instead =
        model.links.iter().filter(|(link, direction)| *direction == Direction::Instead && is_there(link));
    let replaced: HashSet<&str> = instead.map(|(link, _)| link.native.name.as_str()).collect();
    let is_taken = |(link, direction): &&(Link, Direction)| {
        replaced.contains(link.native.name.as_str()) == (*direction == Direction::Instead)
    };
    model.links.iter().filter(is_taken).map(|(link, _)| link).collect()
}

/// The outside's tensors with their shapes.
fn outside_shapes<'a>(links: impl Iterator<Item = &'a Link>) -> IndexMap<String, Vec<u64>> {
    let mut shapes: IndexMap<String, Vec<u64>> = IndexMap::new();
    for link in links {
        let shape = link.outside.shape(&link.extent);
        let found = shapes.entry(link.outside.name.clone()).or_insert_with(|| shape.clone());
        found.iter_mut().zip(shape).for_each(|(found, shape)| *found = (*found).max(shape));
    }
    shapes
}

/// Compares head and embedding where [`Report::must_be_equal`] asks for it.
///
/// Errors: [`Error::NotTied`]; what reading gives.
pub fn check_tied(source: &dyn Reader, model: &Model, report: &Report) -> Result<()> {
    let Some((head, embedding)) = &report.must_be_equal else { return Ok(()) };
    let differs = || Error::NotTied {
        root: source.place().display(),
        head: head.clone(),
        embedding: embedding.clone(),
        model: model.name(),
    };
    let (first, second) = (TensorReader::new(source, head)?, TensorReader::new(source, embedding)?);
    if first.spec() != second.spec() {
        return Err(differs());
    }
    let element_bytes = first.spec().dtype.block_bytes();
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for strip in Region::whole(&first.spec().shape).strips((COMPARED_BYTES / element_bytes).max(1)) {
        let byte_len = (strip.elements() * element_bytes) as usize;
        left.resize(byte_len, 0);
        right.resize(byte_len, 0);
        first.read(&strip, &mut left)?;
        second.read(&strip, &mut right)?;
        if left != right {
            return Err(differs());
        }
    }
    Ok(())
}

/// The names of a checkpoint against those that are expected.
struct Fitting<'a> {
    catalog: &'a Catalog,
    expected: HashSet<String>,
    problems: Vec<Problem>,
}

impl<'a> Fitting<'a> {
    fn new(catalog: &'a Catalog) -> Self {
        Fitting { catalog, expected: HashSet::new(), problems: Vec::new() }
    }

    /// Whether a tensor of this name is there.
    fn expect(&mut self, name: &str, shape: &[u64], is_optional: bool) -> bool {
        self.expected.insert(name.to_owned());
        match self.catalog.tensors.get(name) {
            None => {
                if !is_optional {
                    self.problems.push(Problem::Missing(name.to_owned()));
                }
                false
            }
            Some(tensor) => {
                if tensor.spec.shape != shape {
                    let (found, expected) = (tensor.spec.shape.clone(), shape.to_vec());
                    self.problems.push(Problem::Shape { name: name.to_owned(), found, expected });
                }
                true
            }
        }
    }

    /// What is there and was not expected: left out where a pattern says so, otherwise a problem.
    fn rest<P: AsRef<str>>(&mut self, left_out: &[(P, &'static str)], report: &mut Report) -> Result<()> {
        let filter = |(pattern, why): &(P, &'static str)| {
            Ok((FqnFilter::new(&[pattern.as_ref().to_owned()], &[])?, *why))
        };
        let filters = left_out.iter().map(filter).collect::<dcp::Result<Vec<_>>>()?;
        for name in self.catalog.tensors.keys().filter(|name| !self.expected.contains(name.as_str())) {
            match filters.iter().find(|(filter, _)| filter.matches(name.as_str())) {
                Some((_, why)) => report.left_out.push((name.to_string(), why)),
                None => self.problems.push(Problem::Unmatched(name.to_string())),
            }
        }
        Ok(())
    }

    /// The tensors of a view; each part has the target's name and shape, the source's name and the pieces.
    fn tensors(&mut self, parts: Vec<(String, Vec<u64>, (String, crate::link::Pieces))>) -> Result<Tensors> {
        let mut shapes: HashMap<&str, Vec<u64>> = HashMap::new();
        let mut types: HashMap<&str, DType> = HashMap::new();
        for (target, shape, (source, _)) in &parts {
            let found = shapes.entry(target).or_insert_with(|| shape.clone());
            found.iter_mut().zip(shape).for_each(|(found, shape)| *found = (*found).max(*shape));
            let Some(tensor) = self.catalog.tensors.get(source.as_str()) else { continue };
            if *types.entry(target).or_insert(tensor.spec.dtype) != tensor.spec.dtype {
                self.problems.push(Problem::Types(target.clone()));
            }
        }
        let mut tensors = Tensors::default();
        for (target, _, (source, pieces)) in &parts {
            let Some(dtype) = types.get(target.as_str()) else { continue };
            let spec = TensorSpec::new(*dtype, shapes[target.as_str()].clone());
            let part = Part::Linked { source: Fqn::from(source.as_str()), pieces: pieces.clone() };
            tensors.add(Fqn::from(target.as_str()), spec, part);
        }
        self.problems.sort();
        self.problems.dedup();
        Ok(tensors)
    }

    fn finish(self, root: &str, model: &Model) -> Result<()> {
        match self.problems.is_empty() {
            true => Ok(()),
            false => {
                let (root, model) = (root.to_owned(), model.name());
                Err(Error::WrongNames { root, model, problems: self.problems })
            }
        }
    }
}
