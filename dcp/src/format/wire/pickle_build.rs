//! Adds nodes to the graph of a pickle: shares what is equal and immutable, wraps objects that are changed.

use super::pickle_nodes::{NODES_MAX, NodeId, Nodes, Slot};
use std::borrow::Cow;
use std::collections::HashMap;

/// Longer strings are not looked up among those seen before.
const INTERNED_BYTES_MAX: usize = 1024;

/// Nodes that exist once, at fixed ids.
pub(super) const NONE_ID: NodeId = NodeId(0);
pub(super) const FALSE_ID: NodeId = NodeId(1);
pub(super) const TRUE_ID: NodeId = NodeId(2);
pub(super) const EMPTY_TUPLE_ID: NodeId = NodeId(3);
/// The integers 0 to 255 follow.
pub(super) const FIRST_INT: u32 = 4;
/// The container that every list, dict and set shares until something is put in.
pub(super) const EMPTY_CONTAINER: u32 = 0;

/// Why something cannot be done; the machine adds where.
pub(super) type Refused<T = ()> = Result<T, String>;

/// Objects remembered by number. Picklers number them from 0, so they are kept by position; a stray number goes to a
/// map, where it costs no more than its entry.
#[derive(Default, Debug)]
pub(super) struct Memo {
    dense: Vec<NodeId>,
    sparse: HashMap<u32, NodeId>,
}

impl Memo {
    pub(super) fn put(&mut self, number: u32, id: NodeId) {
        let next = self.dense.len();
        if let Some(entry) = self.dense.get_mut(number as usize) {
            *entry = id;
        } else if next == number as usize {
            self.sparse.remove(&number);
            self.dense.push(id);
        } else {
            self.sparse.insert(number, id);
        }
    }

    pub(super) fn get(&self, number: u32) -> Option<NodeId> {
        self.dense.get(number as usize).or_else(|| self.sparse.get(&number)).copied()
    }

    pub(super) fn len(&self) -> u32 {
        (self.dense.len() + self.sparse.len()) as u32
    }
}

/// How things are put into a container.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fill {
    /// APPEND, APPENDS.
    List,
    /// SETITEM, SETITEMS: keys and values in turn.
    Dict,
    /// ADDITEMS.
    Set,
}

/// A graph being built.
#[derive(Debug)]
pub(super) struct Builder<'a> {
    pub(super) nodes: Nodes<'a>,
    strings: HashMap<&'a str, NodeId>,
    globals: HashMap<(u32, u32), NodeId>,
}

impl<'a> Builder<'a> {
    pub(super) fn new() -> Self {
        let mut nodes = Nodes::default();
        let span = nodes.add_items(&[]);
        let shared = [Slot::None, Slot::Bool(false), Slot::Bool(true), Slot::Tuple(span)];
        nodes.slots.extend(shared.into_iter().chain((0..256).map(Slot::Int)));
        nodes.add_container(Vec::new());
        Builder { nodes, strings: HashMap::new(), globals: HashMap::new() }
    }

    pub(super) fn add(&mut self, slot: Slot) -> Refused<NodeId> {
        self.nodes
            .add(slot)
            .ok_or_else(|| format!("it describes over {NODES_MAX} objects, the most that are read"))
    }

    /// A `str` node for the text, the same one each time unless the text is long.
    pub(super) fn intern(&mut self, text: &'a str) -> Refused<NodeId> {
        let short = text.len() <= INTERNED_BYTES_MAX;
        if short && let Some(&id) = self.strings.get(text) {
            return Ok(id);
        }
        let string = self.nodes.add_string(Cow::Borrowed(text));
        let id = self.add(Slot::Str(string))?;
        if short {
            self.strings.insert(text, id);
        }
        Ok(id)
    }

    /// The node of a class or function, named by two `str` nodes.
    pub(super) fn global(&mut self, module: NodeId, name: NodeId) -> Refused<NodeId> {
        let (Slot::Str(module), Slot::Str(name)) = (self.nodes.slot(module), self.nodes.slot(name)) else {
            return Err("the name of a class or function is not a string".to_owned());
        };
        if let Some(&id) = self.globals.get(&(module, name)) {
            return Ok(id);
        }
        let python3 = match &*self.nodes.strings[module as usize] {
            "__builtin__" => Some("builtins"),
            "copy_reg" => Some("copyreg"),
            _ => None,
        };
        let renamed = match python3 {
            Some(python3) => self.nodes.add_string(Cow::Borrowed(python3)),
            None => module,
        };
        let id = self.add(Slot::Global { module: renamed, name })?;
        self.globals.insert((module, name), id);
        Ok(id)
    }

    pub(super) fn container(&mut self, items: Vec<NodeId>) -> u32 {
        if items.is_empty() { EMPTY_CONTAINER } else { self.nodes.add_container(items) }
    }

    /// Puts items into a container, or into an object.
    pub(super) fn fill(&mut self, target: NodeId, how: Fill, items: &[NodeId]) -> Refused {
        if how == Fill::Dict && !items.len().is_multiple_of(2) {
            return Err("a dict is given a key without a value".to_owned());
        }
        let container = match self.container_of(target, how)? {
            // The shared empty container stays empty: what fills it gets its own.
            EMPTY_CONTAINER => {
                let container = self.nodes.add_container(Vec::new());
                if let Slot::List(own) | Slot::Dict(own) | Slot::Set(own) = self.nodes.slot_mut(target) {
                    *own = container;
                }
                container
            }
            container => container,
        };
        self.nodes.containers[container as usize].extend_from_slice(items);
        Ok(())
    }

    fn container_of(&mut self, target: NodeId, how: Fill) -> Refused<u32> {
        match (self.nodes.slot(target), how) {
            (Slot::List(own), Fill::List) | (Slot::Dict(own), Fill::Dict) | (Slot::Set(own), Fill::Set) => {
                return Ok(own);
            }
            _ => {}
        }
        let keyed = how == Fill::Dict;
        // An object wraps at most one node of each kind, so this takes at most three steps.
        let mut inner = target;
        loop {
            inner = match self.nodes.slot(inner) {
                Slot::Mapped { pairs, .. } if keyed => return Ok(pairs),
                Slot::Extended { items, .. } if !keyed => return Ok(items),
                Slot::Mapped { object, .. } | Slot::Extended { object, .. } | Slot::Built { object, .. } => {
                    object
                }
                Slot::Call { .. } | Slot::New { .. } => break,
                _ => return Err("the object to fill is not a container of the right kind".to_owned()),
            };
        }
        let container = self.nodes.add_container(Vec::new());
        self.wrap(target, |object| match keyed {
            true => Slot::Mapped { object, pairs: container },
            false => Slot::Extended { object, items: container },
        })?;
        Ok(container)
    }

    /// Gives an object its state; a later state replaces an earlier one.
    pub(super) fn build(&mut self, target: NodeId, state: NodeId) -> Refused {
        let mut inner = target;
        loop {
            match self.nodes.slot_mut(inner) {
                Slot::Built { state: earlier, .. } => {
                    *earlier = state;
                    return Ok(());
                }
                Slot::Mapped { object, .. } | Slot::Extended { object, .. } => inner = *object,
                Slot::Call { .. } | Slot::New { .. } => break,
                _ => return Err("state is given to something that is not an object".to_owned()),
            }
        }
        self.wrap(target, |object| Slot::Built { object, state })
    }

    /// Replaces a node by one that wraps it, so that everything that refers to the node sees the new one.
    fn wrap(&mut self, target: NodeId, wrapper: impl FnOnce(NodeId) -> Slot) -> Refused {
        let inner = self.add(self.nodes.slot(target))?;
        *self.nodes.slot_mut(target) = wrapper(inner);
        Ok(())
    }
}
