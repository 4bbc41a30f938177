//! Flattens the nested object of a pickle to named tensors and values, and builds it up again from paths.

use crate::error::{Error, Result};
use crate::format::wire::pickle_nodes::{NodeId, Pickle, View};
use crate::format::wire::tensor::{StoredTensor, TensorError, tensor_of};
use crate::format::wire::value_read::{Budget, value_of};
use crate::model::{Path, PathPart};
use indexmap::IndexMap;
use std::collections::{BTreeMap, HashMap};

/// Deepest nesting that is flattened; CPython's pickler gives up at some 300 levels.
const DEPTH_MAX: usize = 256;
/// Most entries of dicts and lists that are looked at, counting what is referred to twice as two.
const ENTRIES_MAX: u64 = 10_000_000;

/// What an entry of a catalog takes beside its name and path.
const LEAF_BYTES: u64 = 512;

/// A leaf of the nested object.
#[derive(Debug)]
pub(super) enum Leaf {
    /// A tensor of the file.
    Tensor(StoredTensor),
    /// Anything else: its node.
    Value(NodeId),
}

/// The leaves by FQN, with their paths, in stored order.
pub(super) type Leaves = IndexMap<String, (Path, Leaf)>;

/// Flattens the pickle's object. Names and paths take their memory from `budget`.
///
/// Errors: [`Error::Malformed`] for two leaves of one name, too deep nesting, impossible tensors; [`Error::OverLimit`]
/// beyond the budget.
pub(super) fn flatten(pickle: &Pickle, object: &str, budget: &mut Budget) -> Result<Leaves> {
    let mut walk =
        Walk { pickle, object, budget, leaves: IndexMap::new(), entries: 0, leaf_lists: HashMap::new() };
    walk.node(pickle.root(), &mut Vec::new())?;
    Ok(walk.leaves)
}

struct Walk<'a> {
    pickle: &'a Pickle<'a>,
    object: &'a str,
    budget: &'a mut Budget,
    leaves: Leaves,
    /// Entries looked at so far. A few nodes that refer to each other can stand for any number of entries.
    entries: u64,
    /// Which lists are leaves, so that each is looked through once.
    leaf_lists: HashMap<NodeId, bool>,
}

impl Walk<'_> {
    fn node(&mut self, id: NodeId, path: &mut Path) -> Result<()> {
        self.entries += 1;
        if path.len() > DEPTH_MAX || self.entries > ENTRIES_MAX {
            let why = format!("it nests over {DEPTH_MAX} deep or has over {ENTRIES_MAX} entries");
            return Err(self.malformed(why));
        }
        match tensor_of(self.pickle, id) {
            Some(Ok(tensor)) => return self.leaf(path, Leaf::Tensor(tensor)),
            Some(Err(TensorError::Unsupported(_))) => return self.leaf(path, Leaf::Value(id)),
            Some(Err(TensorError::Invalid(why))) => {
                return Err(self.malformed(format!("tensor `{}`: {why}", name_of(path))));
            }
            None => {}
        }
        if let Some(pairs) = mapping(self.pickle, id) {
            for &[key, value] in pairs {
                path.push(PathPart::Key(self.key(key)?));
                self.node(value, path)?;
                path.pop();
            }
            return Ok(());
        }
        match self.pickle.view(id) {
            View::List(items) if !self.is_leaf_list(id, 0) => {
                for (index, &item) in items.iter().enumerate() {
                    path.push(PathPart::Index(index as u64));
                    self.node(item, path)?;
                    path.pop();
                }
                Ok(())
            }
            _ => self.leaf(path, Leaf::Value(id)),
        }
    }

    /// A dict's key as Python's `str` gives it.
    fn key(&mut self, id: NodeId) -> Result<String> {
        if let Some(text) = self.pickle.str(id) {
            self.budget.take(text.len() as u64, self.object)?;
            return Ok(text.to_owned());
        }
        let (pickle, object) = (self.pickle, self.object);
        let refuse = |_: &StoredTensor| {
            Err(Error::malformed(object, "torch.save file", "a dict key that is a tensor".to_owned()))
        };
        let key = value_of(pickle, id, object, self.budget, &mut { refuse })?;
        match key.is_opaque() {
            false => Ok(key.py_repr()),
            true => Err(self.malformed(format!("a dict key of an unknown type: {}", key.py_repr()))),
        }
    }

    /// Whether a list holds no tensor, no dict, and no list that does. Lists that are too deep, or hold themselves,
    /// count as leaves here and are refused as values.
    fn is_leaf_list(&mut self, id: NodeId, depth: usize) -> bool {
        let pickle = self.pickle;
        let View::List(items) = pickle.view(id) else { return true };
        if let Some(&known) = self.leaf_lists.get(&id) {
            return known;
        }
        self.leaf_lists.insert(id, true);
        let is_leaf = depth > DEPTH_MAX
            || items.iter().all(|&item| {
                tensor_of(pickle, item).is_none()
                    && mapping(pickle, item).is_none()
                    && self.is_leaf_list(item, depth + 1)
            });
        self.leaf_lists.insert(id, is_leaf);
        is_leaf
    }

    fn leaf(&mut self, path: &Path, leaf: Leaf) -> Result<()> {
        let name = name_of(path);
        // The name, each part of the path with its text, and what a catalog keeps of a leaf.
        let path_bytes = path.len() * size_of::<PathPart>() + name.len();
        self.budget.take((path_bytes + name.len()) as u64 + LEAF_BYTES, self.object)?;
        match self.leaves.insert(name.clone(), (path.clone(), leaf)) {
            None => Ok(()),
            Some(_) => {
                Err(self.malformed(format!("two entries are named `{name}` once nesting is flattened")))
            }
        }
    }

    fn malformed(&self, why: String) -> Error {
        Error::malformed(self.object, "torch.save file", why)
    }
}

/// The pairs of a `dict` or `OrderedDict`.
fn mapping<'p>(pickle: &'p Pickle, id: NodeId) -> Option<&'p [[NodeId; 2]]> {
    match pickle.view(id) {
        View::Dict(pairs) => Some(pairs),
        View::Object(object) => {
            let ordered = pickle.global(object.callee) == Some(("collections", "OrderedDict"));
            let plain = ordered && pickle.tuple(object.args) == Some(&[]) && object.items.is_empty();
            plain.then_some(object.pairs)
        }
        _ => None,
    }
}

/// The FQN of a path. A file that holds one bare tensor or value gives it the name `value`.
pub(super) fn name_of(path: &Path) -> String {
    if path.is_empty() {
        return "value".to_owned();
    }
    let part = |part: &PathPart| match part {
        PathPart::Key(key) => key.clone(),
        PathPart::Index(index) => index.to_string(),
    };
    path.iter().map(part).collect::<Vec<_>>().join(".")
}

/// A nested object to be pickled; leaves are numbered by the caller.
#[derive(Debug)]
pub(super) enum Tree {
    /// A dict.
    Dict(IndexMap<String, Tree>),
    /// A list; missing indexes become `None`.
    List(BTreeMap<u64, Tree>),
    /// A leaf.
    Leaf(usize),
}

/// Builds the nested object of leaves at these paths; an empty path is one key, the FQN.
///
/// Errors: the FQN whose path runs through another leaf, or through a list where another has a dict, or is longer than
/// what is nested when it is read.
pub(super) fn build<'a>(leaves: impl Iterator<Item = (&'a str, &'a Path)>) -> Result<Tree, String> {
    let mut root = Tree::Dict(IndexMap::new());
    for (number, (fqn, path)) in leaves.enumerate() {
        let flat = [PathPart::Key(fqn.to_owned())];
        let parts = if path.is_empty() { &flat[..] } else { path };
        let inserted = if parts.len() > DEPTH_MAX { None } else { insert(&mut root, parts, number) };
        inserted.ok_or_else(|| fqn.to_owned())?;
    }
    Ok(root)
}

fn insert(tree: &mut Tree, path: &[PathPart], number: usize) -> Option<()> {
    let (first, rest) = path.split_first()?;
    let empty = match rest.first() {
        None => Tree::Leaf(number),
        Some(PathPart::Key(_)) => Tree::Dict(IndexMap::new()),
        Some(PathPart::Index(_)) => Tree::List(BTreeMap::new()),
    };
    let mut fresh = false;
    let make = || {
        fresh = true;
        empty
    };
    let child = match (tree, first) {
        (Tree::Dict(entries), PathPart::Key(key)) => entries.entry(key.clone()).or_insert_with(make),
        (Tree::List(items), PathPart::Index(index)) => items.entry(*index).or_insert_with(make),
        _ => return None,
    };
    match rest {
        [] => fresh.then_some(()),
        rest => insert(child, rest, number),
    }
}
