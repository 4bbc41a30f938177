//! What a pickle describes, as nodes of a graph: nothing is executed, no class is looked up.
//!
//! A pickle is a program for a stack machine. Its containers may be referred to before they are filled, and a
//! container may hold itself, so the result is a graph and not a tree: nodes live in one arena and refer to each other
//! by [`NodeId`]. Whoever walks the graph must bound its depth, and must expect one node in many places.
//!
//! A node takes 16 bytes; strings are borrowed from the input and stored once; small integers, `None`, booleans, the
//! empty tuple and globals exist once. A `.metadata` file of 100 MB thus stays well below ten times its size.

use std::borrow::Cow;
use std::fmt;

/// The most nodes a pickle may have: 2 GiB of them.
pub const NODES_MAX: usize = 1 << 27;

/// Refers to a node of the [`Pickle`] that gave it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(pub(super) u32);

/// A part of [`Nodes::tuple_items`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u32,
    count: u32,
}

/// A node as it is stored. The indices are into the vectors of [`Nodes`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    None,
    Bool(bool),
    Int(i64),
    BigInt(u32),
    Float(f64),
    Str(u32),
    Bytes(u32),
    ByteArray(u32),
    Tuple(Span),
    List(u32),
    Dict(u32),
    Set(u32),
    FrozenSet(u32),
    Global {
        module: u32,
        name: u32,
    },
    /// REDUCE: a function was to be called.
    Call {
        function: NodeId,
        args: NodeId,
    },
    /// NEWOBJ: an object was to be made by `class.__new__(class, *args)`.
    New {
        class: NodeId,
        args: NodeId,
    },
    /// An object with the state that BUILD gave it.
    Built {
        object: NodeId,
        state: NodeId,
    },
    /// An object with list items (APPENDS, ADDITEMS).
    Extended {
        object: NodeId,
        items: u32,
    },
    /// An object with dict items (SETITEMS), keys and values in turn.
    Mapped {
        object: NodeId,
        pairs: u32,
    },
    Persistent(NodeId),
}

/// The arena. Borrows from the pickle's bytes.
#[derive(Debug, Default)]
pub(super) struct Nodes<'a> {
    pub(super) slots: Vec<Slot>,
    pub(super) strings: Vec<Cow<'a, str>>,
    pub(super) blobs: Vec<Cow<'a, [u8]>>,
    tuple_items: Vec<NodeId>,
    pub(super) containers: Vec<Vec<NodeId>>,
}

impl<'a> Nodes<'a> {
    pub(super) fn slot(&self, id: NodeId) -> Slot {
        self.slots[id.0 as usize]
    }

    pub(super) fn slot_mut(&mut self, id: NodeId) -> &mut Slot {
        &mut self.slots[id.0 as usize]
    }

    /// Adds a node; `None` at [`NODES_MAX`].
    pub(super) fn add(&mut self, slot: Slot) -> Option<NodeId> {
        if self.slots.len() >= NODES_MAX {
            return None;
        }
        self.slots.push(slot);
        Some(NodeId(self.slots.len() as u32 - 1))
    }

    // Every string, blob, container and run of tuple items is made by an opcode that also adds a node, or holds items
    // that were nodes on the stack, so their counts fit u32 wherever the input's length does; the machine checks that.

    pub(super) fn add_string(&mut self, text: Cow<'a, str>) -> u32 {
        self.strings.push(text);
        self.strings.len() as u32 - 1
    }

    pub(super) fn add_blob(&mut self, bytes: Cow<'a, [u8]>) -> u32 {
        self.blobs.push(bytes);
        self.blobs.len() as u32 - 1
    }

    pub(super) fn add_container(&mut self, items: Vec<NodeId>) -> u32 {
        self.containers.push(items);
        self.containers.len() as u32 - 1
    }

    pub(super) fn add_items(&mut self, items: &[NodeId]) -> Span {
        let start = self.tuple_items.len() as u32;
        self.tuple_items.extend_from_slice(items);
        Span { start, count: items.len() as u32 }
    }
}

/// A decoded pickle.
pub struct Pickle<'a> {
    pub(super) nodes: Nodes<'a>,
    pub(super) root: NodeId,
}

impl fmt::Debug for Pickle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pickle({} nodes, root {:?})", self.nodes.slots.len(), self.view(self.root))
    }
}

/// A node as a reader sees it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum View<'p> {
    /// `None`.
    None,
    /// `bool`.
    Bool(bool),
    /// `int` that fits 64 bits.
    Int(i64),
    /// `int` that does not: two's complement, little-endian, of the fewest bytes.
    BigInt(&'p [u8]),
    /// `float`.
    Float(f64),
    /// `str`.
    Str(&'p str),
    /// `bytes`, or a Python 2 `str` that is not UTF-8.
    Bytes(&'p [u8]),
    /// `bytearray`.
    ByteArray(&'p [u8]),
    /// `tuple`.
    Tuple(&'p [NodeId]),
    /// `list`.
    List(&'p [NodeId]),
    /// `dict`: keys with their values, in stored order. A key may occur twice; the later one counts.
    Dict(&'p [[NodeId; 2]]),
    /// `set`, in stored order.
    Set(&'p [NodeId]),
    /// `frozenset`, in stored order.
    FrozenSet(&'p [NodeId]),
    /// A class or function by name. Python 2's `__builtin__` and `copy_reg` are given their Python 3 names.
    Global {
        /// Dotted module name.
        module: &'p str,
        /// Name in the module.
        name: &'p str,
    },
    /// The result of a call that was not made.
    Object(Object<'p>),
    /// What a persistent id stands for: in `torch.save` archives, a storage.
    Persistent(NodeId),
}

/// A call that was not made, and what was then put into its result.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Object<'p> {
    /// The class or function: usually a [`View::Global`].
    pub callee: NodeId,
    /// The arguments: usually a [`View::Tuple`].
    pub args: NodeId,
    /// Whether it is `callee.__new__(callee, *args)` (NEWOBJ) rather than `callee(*args)` (REDUCE).
    pub is_new: bool,
    /// The state given by BUILD.
    pub state: Option<NodeId>,
    /// Items appended to it.
    pub items: &'p [NodeId],
    /// Keys and values set in it.
    pub pairs: &'p [[NodeId; 2]],
}

impl Pickle<'_> {
    /// The object that was pickled.
    pub fn root(&self) -> NodeId {
        self.root
    }

    /// Number of nodes.
    pub fn node_count(&self) -> usize {
        self.nodes.slots.len()
    }

    /// The persistent ids in the pickle, in no particular order: what is inside each [`View::Persistent`].
    pub fn persistent_ids(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.slots.iter().filter_map(|slot| match slot {
            Slot::Persistent(id) => Some(*id),
            _ => None,
        })
    }

    /// Looks at a node of this pickle.
    ///
    /// Panics: may, for an id of another pickle.
    pub fn view(&self, id: NodeId) -> View<'_> {
        let nodes = &self.nodes;
        match nodes.slot(id) {
            Slot::None => View::None,
            Slot::Bool(flag) => View::Bool(flag),
            Slot::Int(int) => View::Int(int),
            Slot::BigInt(blob) => View::BigInt(&nodes.blobs[blob as usize]),
            Slot::Float(float) => View::Float(float),
            Slot::Str(text) => View::Str(&nodes.strings[text as usize]),
            Slot::Bytes(blob) => View::Bytes(&nodes.blobs[blob as usize]),
            Slot::ByteArray(blob) => View::ByteArray(&nodes.blobs[blob as usize]),
            Slot::Tuple(span) => View::Tuple(self.items(span)),
            Slot::List(items) => View::List(&nodes.containers[items as usize]),
            Slot::Dict(pairs) => View::Dict(self.pairs(pairs)),
            Slot::Set(items) => View::Set(&nodes.containers[items as usize]),
            Slot::FrozenSet(items) => View::FrozenSet(&nodes.containers[items as usize]),
            Slot::Global { module, name } => {
                View::Global { module: &nodes.strings[module as usize], name: &nodes.strings[name as usize] }
            }
            Slot::Persistent(id) => View::Persistent(id),
            Slot::Call { .. }
            | Slot::New { .. }
            | Slot::Built { .. }
            | Slot::Extended { .. }
            | Slot::Mapped { .. } => View::Object(self.whole_object(id)),
        }
    }

    /// Gathers an object from the node and those it wraps: at most one of each kind, so at most three steps.
    fn whole_object(&self, mut id: NodeId) -> Object<'_> {
        let (mut state, mut items, mut pairs): (_, &[NodeId], &[[NodeId; 2]]) = (None, &[], &[]);
        loop {
            let (callee, args, is_new) = match self.nodes.slot(id) {
                Slot::Built { object, state: given } => {
                    (state, id) = (Some(given), object);
                    continue;
                }
                Slot::Extended { object, items: given } => {
                    (items, id) = (&self.nodes.containers[given as usize], object);
                    continue;
                }
                Slot::Mapped { object, pairs: given } => {
                    (pairs, id) = (self.pairs(given), object);
                    continue;
                }
                Slot::Call { function, args } => (function, args, false),
                Slot::New { class, args } => (class, args, true),
                other => unreachable!("the machine wraps calls only, not {other:?}"),
            };
            return Object { callee, args, is_new, state, items, pairs };
        }
    }

    fn items(&self, span: Span) -> &[NodeId] {
        &self.nodes.tuple_items[span.start as usize..][..span.count as usize]
    }

    fn pairs(&self, container: u32) -> &[[NodeId; 2]] {
        self.nodes.containers[container as usize].as_chunks::<2>().0
    }

    /// The text of a `str` node.
    pub fn str(&self, id: NodeId) -> Option<&str> {
        match self.view(id) {
            View::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The value of an `int` node that fits 64 bits; a `bool` is not one.
    pub fn int(&self, id: NodeId) -> Option<i64> {
        match self.view(id) {
            View::Int(int) => Some(int),
            _ => None,
        }
    }

    /// The value of an `int` node that is not negative and fits 63 bits.
    pub fn u64(&self, id: NodeId) -> Option<u64> {
        self.int(id)?.try_into().ok()
    }

    /// The items of a `tuple` node.
    pub fn tuple(&self, id: NodeId) -> Option<&[NodeId]> {
        match self.view(id) {
            View::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The items of a `list` or `tuple` node.
    pub fn sequence(&self, id: NodeId) -> Option<&[NodeId]> {
        match self.view(id) {
            View::Tuple(items) | View::List(items) => Some(items),
            _ => None,
        }
    }

    /// The keys and values of a `dict` node.
    pub fn dict(&self, id: NodeId) -> Option<&[[NodeId; 2]]> {
        match self.view(id) {
            View::Dict(pairs) => Some(pairs),
            _ => None,
        }
    }

    /// Module and name of a class or function node.
    pub fn global(&self, id: NodeId) -> Option<(&str, &str)> {
        match self.view(id) {
            View::Global { module, name } => Some((module, name)),
            _ => None,
        }
    }

    /// The object of a node that is the result of a call.
    pub fn object(&self, id: NodeId) -> Option<Object<'_>> {
        match self.view(id) {
            View::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The value of a string key in a dict's pairs; the last one where it occurs twice.
    pub fn entry(&self, pairs: &[[NodeId; 2]], key: &str) -> Option<NodeId> {
        pairs.iter().rev().find(|[name, _]| self.str(*name) == Some(key)).map(|[_, value]| *value)
    }

    /// A `torch.Size`, or a plain tuple or list, of integers that are not negative.
    pub fn shape(&self, id: NodeId) -> Option<Vec<u64>> {
        let items = match self.view(id) {
            View::Object(object) => {
                let size = self.global(object.callee) == Some(("torch", "Size")) && object.state.is_none();
                let [items] = *self.tuple(object.args).filter(|_| size)? else { return None };
                self.sequence(items)?
            }
            _ => self.sequence(id)?,
        };
        items.iter().map(|&item| self.u64(item)).collect()
    }
}
