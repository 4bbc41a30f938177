//! A pickle machine that builds a graph of nodes and runs nothing.
//!
//! Reads protocols 0 to 5: the opcodes that PyTorch, numpy and CPython's picklers write. Refused: INST and OBJ (Python
//! 2 classes), EXT1/2/4 (a registry outside the file), NEXT_BUFFER and READONLY_BUFFER (data outside the file).
//! REDUCE, NEWOBJ and BUILD record what was to be called with what; see [`Object`](super::pickle_nodes::Object).
//!
//! Source: `Lib/pickle.py` and `Lib/pickletools.py` of CPython 3.14, `torch/_weights_only_unpickler.py` of PyTorch 2.11.

use super::pickle_build::*;
pub use super::pickle_cursor::PickleError;
use super::pickle_cursor::{Cursor, Step};
use super::pickle_nodes::{NodeId, Pickle, Slot};
use super::pickle_opcode::*;
use super::pickle_text::{raw_unicode_escape, unquote};
use num_bigint::BigInt;
use std::borrow::Cow;

/// The longest pickle: positions are kept in 32 bits.
pub const PICKLE_BYTES_MAX: usize = u32::MAX as usize;
/// The longest integer. Converting one to decimal takes time that grows with the square of its length.
const BIG_INT_BYTES_MAX: usize = 1 << 14;
/// The longest integer in decimal digits, in protocol 0.
const BIG_INT_DIGITS_MAX: usize = 4300;
/// The newest protocol.
const PROTOCOL_MAX: u8 = 5;

/// Decodes a pickle that fills `bytes`.
pub fn parse(bytes: &[u8]) -> Result<Pickle<'_>, PickleError> {
    let (pickle, used) = parse_prefix(bytes)?;
    if used != bytes.len() {
        let why = format!("the pickle ends, but {} bytes follow", bytes.len() - used);
        return Err(PickleError { at: used, why, truncated: false });
    }
    Ok(pickle)
}

/// Decodes the pickle at the start of `bytes`; returns also how many bytes it takes.
pub fn parse_prefix(bytes: &[u8]) -> Result<(Pickle<'_>, usize), PickleError> {
    if bytes.len() > PICKLE_BYTES_MAX {
        let why = format!("the input has {} bytes, over the limit of {PICKLE_BYTES_MAX}", bytes.len());
        return Err(PickleError { at: 0, why, truncated: false });
    }
    let mut machine = Machine {
        cursor: Cursor::new(bytes),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Memo::default(),
        graph: Builder::new(),
    };
    let root = machine.run()?;
    Ok((Pickle { nodes: machine.graph.nodes, root }, machine.cursor.at))
}

struct Machine<'a> {
    cursor: Cursor<'a>,
    stack: Vec<NodeId>,
    /// Heights of the stack at each MARK.
    marks: Vec<usize>,
    memo: Memo,
    graph: Builder<'a>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Step<NodeId> {
        loop {
            match self.cursor.opcode()? {
                STOP => return self.stop(),
                PROTO => match self.cursor.byte()? {
                    0..=PROTOCOL_MAX => {}
                    newer => {
                        let why =
                            format!("the protocol is {newer}; protocols up to {PROTOCOL_MAX} are known");
                        return self.fail(why);
                    }
                },
                FRAME => {
                    // A frame is a hint for buffering; what counts is that it does not promise more than there is.
                    let byte_len = self.cursor.length8()?;
                    self.cursor.available(byte_len)?;
                }
                MARK => self.marks.push(self.stack.len()),
                opcode => self.step(opcode)?,
            }
        }
    }

    fn step(&mut self, opcode: u8) -> Step {
        match opcode {
            POP | POP_MARK | DUP | GET | BINGET | LONG_BINGET | PUT | BINPUT | LONG_BINPUT | MEMOIZE => {
                self.stack_opcode(opcode)
            }
            NONE | NEWTRUE | NEWFALSE | INT | LONG | BININT | BININT1 | BININT2 | LONG1 | LONG4 | FLOAT
            | BINFLOAT => self.number_opcode(opcode),
            STRING | UNICODE => self.escaped_opcode(opcode),
            BINSTRING | SHORT_BINSTRING | BINUNICODE | SHORT_BINUNICODE | BINUNICODE8 | BINBYTES
            | SHORT_BINBYTES | BINBYTES8 | BYTEARRAY8 => self.text_opcode(opcode),
            EMPTY_TUPLE | TUPLE | TUPLE1 | TUPLE2 | TUPLE3 | EMPTY_LIST | LIST | EMPTY_DICT | DICT
            | EMPTY_SET | FROZENSET => self.container_opcode(opcode),
            APPEND | APPENDS | SETITEM | SETITEMS | ADDITEMS => self.fill_opcode(opcode),
            GLOBAL | STACK_GLOBAL | REDUCE | NEWOBJ | NEWOBJ_EX | BUILD | PERSID | BINPERSID => {
                self.object_opcode(opcode)
            }
            _ => self.fail(format!("opcode 0x{opcode:02x} is unknown or not admitted")),
        }
    }

    fn stop(&mut self) -> Step<NodeId> {
        let root = self.pop()?;
        if !self.stack.is_empty() || !self.marks.is_empty() {
            return self.fail("the pickle stops with more than one object on its stack");
        }
        Ok(root)
    }

    fn stack_opcode(&mut self, opcode: u8) -> Step {
        match opcode {
            // CPython: POP right after MARK takes the mark away.
            POP if self.marks.last() == Some(&self.stack.len()) => {
                self.marks.pop();
            }
            POP => {
                self.pop()?;
            }
            POP_MARK => {
                let start = self.take_mark()?;
                self.stack.truncate(start);
            }
            DUP => self.stack.push(self.top()?),
            GET | BINGET | LONG_BINGET => {
                let number = self.memo_number(opcode)?;
                match self.memo.get(number) {
                    Some(id) => self.stack.push(id),
                    None => return self.fail(format!("object {number} was not remembered")),
                }
            }
            _ => {
                let number = if opcode == MEMOIZE { self.memo.len() } else { self.memo_number(opcode)? };
                self.memo.put(number, self.top()?);
            }
        }
        Ok(())
    }

    fn memo_number(&mut self, opcode: u8) -> Step<u32> {
        Ok(match opcode {
            BINGET | BINPUT => u32::from(self.cursor.byte()?),
            LONG_BINGET | LONG_BINPUT => u32::from_le_bytes(self.cursor.array()?),
            _ => self.cursor.parse_line("an object number")?,
        })
    }

    fn number_opcode(&mut self, opcode: u8) -> Step {
        let slot = match opcode {
            NONE => return self.push_shared(NONE_ID),
            NEWTRUE => return self.push_shared(TRUE_ID),
            NEWFALSE => return self.push_shared(FALSE_ID),
            BININT1 => {
                let int = self.cursor.byte()?;
                return self.push_shared(NodeId(FIRST_INT + u32::from(int)));
            }
            BININT2 => Slot::Int(u16::from_le_bytes(self.cursor.array()?).into()),
            BININT => Slot::Int(i32::from_le_bytes(self.cursor.array()?).into()),
            LONG1 => {
                let byte_len = self.cursor.byte()?.into();
                self.long(byte_len)?
            }
            LONG4 => {
                let byte_len = self.cursor.length4()?;
                self.long(byte_len)?
            }
            BINFLOAT => Slot::Float(f64::from_be_bytes(self.cursor.array()?)),
            FLOAT => Slot::Float(self.cursor.parse_line("a float")?),
            _ => match self.cursor.line()? {
                b"00" if opcode == INT => return self.push_shared(FALSE_ID),
                b"01" if opcode == INT => return self.push_shared(TRUE_ID),
                digits => self.decimal(digits.strip_suffix(b"L").unwrap_or(digits))?,
            },
        };
        self.push(slot)
    }

    /// An integer in two's complement, little-endian.
    fn long(&mut self, byte_len: usize) -> Step<Slot> {
        let bytes = self.cursor.take(byte_len)?;
        if byte_len > BIG_INT_BYTES_MAX {
            return self
                .fail(format!("an integer has {byte_len} bytes; at most {BIG_INT_BYTES_MAX} are read"));
        }
        if byte_len <= 8 {
            let negative = bytes.last().is_some_and(|&top| top >= 0x80);
            let mut padded = [if negative { 0xff } else { 0 }; 8];
            padded[..byte_len].copy_from_slice(bytes);
            return Ok(Slot::Int(i64::from_le_bytes(padded)));
        }
        Ok(self.integer(BigInt::from_signed_bytes_le(bytes)))
    }

    fn decimal(&mut self, digits: &[u8]) -> Step<Slot> {
        if digits.len() > BIG_INT_DIGITS_MAX {
            let found = digits.len();
            return self
                .fail(format!("an integer has {found} digits; at most {BIG_INT_DIGITS_MAX} are read"));
        }
        match BigInt::parse_bytes(digits, 10) {
            Some(int) => Ok(self.integer(int)),
            None => self.fail(format!("`{}` is not an integer", digits.escape_ascii())),
        }
    }

    fn integer(&mut self, int: BigInt) -> Slot {
        match i64::try_from(&int) {
            Ok(small) => Slot::Int(small),
            Err(_) => Slot::BigInt(self.graph.nodes.add_blob(Cow::Owned(int.to_signed_bytes_le()))),
        }
    }

    /// Strings of protocol 0.
    fn escaped_opcode(&mut self, opcode: u8) -> Step {
        let line = self.cursor.line()?;
        let text = match opcode {
            UNICODE => match raw_unicode_escape(line) {
                Some(text) => text,
                None => return self.fail("a string has a bad escape or a lone surrogate"),
            },
            _ => match unquote(line).map(String::from_utf8) {
                Some(Ok(text)) => text,
                // Python 2's str holds bytes.
                Some(Err(not_utf8)) => return self.push_bytes(Cow::Owned(not_utf8.into_bytes())),
                None => return self.fail("a string lacks its quotes or has a bad escape"),
            },
        };
        let text = self.graph.nodes.add_string(Cow::Owned(text));
        self.push(Slot::Str(text))
    }

    fn text_opcode(&mut self, opcode: u8) -> Step {
        let byte_len = match opcode {
            SHORT_BINSTRING | SHORT_BINUNICODE | SHORT_BINBYTES => self.cursor.byte()?.into(),
            BINSTRING => self.cursor.length4()?,
            BINUNICODE | BINBYTES => u32::from_le_bytes(self.cursor.array()?) as usize,
            _ => self.cursor.length8()?,
        };
        let bytes = self.cursor.take(byte_len)?;
        match opcode {
            SHORT_BINBYTES | BINBYTES | BINBYTES8 => self.push_bytes(Cow::Borrowed(bytes)),
            BYTEARRAY8 => {
                let blob = self.graph.nodes.add_blob(Cow::Borrowed(bytes));
                self.push(Slot::ByteArray(blob))
            }
            _ => match std::str::from_utf8(bytes) {
                Ok(text) => {
                    let id = self.intern(text)?;
                    self.push_shared(id)
                }
                Err(_) if matches!(opcode, BINSTRING | SHORT_BINSTRING) => {
                    self.push_bytes(Cow::Borrowed(bytes))
                }
                Err(_) => self.fail("a string is not UTF-8 (lone surrogates are not read)"),
            },
        }
    }

    fn push_bytes(&mut self, bytes: Cow<'a, [u8]>) -> Step {
        let blob = self.graph.nodes.add_blob(bytes);
        self.push(Slot::Bytes(blob))
    }

    fn container_opcode(&mut self, opcode: u8) -> Step {
        match opcode {
            EMPTY_TUPLE => self.push_shared(EMPTY_TUPLE_ID),
            TUPLE1 | TUPLE2 | TUPLE3 => match self.below_top(usize::from(opcode - TUPLE1) + 1) {
                Some(start) => self.push_tuple(start),
                None => self.fail("the stack has too few objects for a tuple"),
            },
            TUPLE => {
                let start = self.take_mark()?;
                self.push_tuple(start)
            }
            EMPTY_LIST => self.push(Slot::List(EMPTY_CONTAINER)),
            EMPTY_DICT => self.push(Slot::Dict(EMPTY_CONTAINER)),
            EMPTY_SET => self.push(Slot::Set(EMPTY_CONTAINER)),
            _ => {
                let start = self.take_mark()?;
                if opcode == DICT && !(self.stack.len() - start).is_multiple_of(2) {
                    return self.fail("a dict is given a key without a value");
                }
                let items = self.stack.split_off(start);
                let container = self.graph.container(items);
                self.push(match opcode {
                    LIST => Slot::List(container),
                    DICT => Slot::Dict(container),
                    _ => Slot::FrozenSet(container),
                })
            }
        }
    }

    fn push_tuple(&mut self, start: usize) -> Step {
        if start == self.stack.len() {
            return self.push_shared(EMPTY_TUPLE_ID);
        }
        let items = self.graph.nodes.add_items(&self.stack[start..]);
        self.stack.truncate(start);
        self.push(Slot::Tuple(items))
    }

    /// Puts the objects on top of the stack into the container below them.
    fn fill_opcode(&mut self, opcode: u8) -> Step {
        let (how, start) = match opcode {
            APPEND => (Fill::List, self.below_top(1)),
            SETITEM => (Fill::Dict, self.below_top(2)),
            APPENDS => (Fill::List, Some(self.take_mark()?)),
            SETITEMS => (Fill::Dict, Some(self.take_mark()?)),
            _ => (Fill::Set, Some(self.take_mark()?)),
        };
        let floor = self.marks.last().copied().unwrap_or(0);
        let Some(start) = start.filter(|&start| start > floor) else {
            return self.fail("the stack has no container to fill");
        };
        let filled = self.graph.fill(self.stack[start - 1], how, &self.stack[start..]);
        self.stack.truncate(start);
        filled.map_err(|why| self.cursor.error(why))
    }

    fn object_opcode(&mut self, opcode: u8) -> Step {
        match opcode {
            GLOBAL => {
                let (module, name) = (self.text_line()?, self.text_line()?);
                self.push_global(module, name)
            }
            STACK_GLOBAL => {
                let name = self.pop()?;
                let module = self.pop()?;
                self.push_global(module, name)
            }
            REDUCE => {
                let args = self.pop()?;
                let function = self.pop()?;
                self.push(Slot::Call { function, args })
            }
            NEWOBJ => {
                let args = self.pop()?;
                let class = self.pop()?;
                self.push(Slot::New { class, args })
            }
            NEWOBJ_EX => self.new_with_keywords(),
            BUILD => {
                let state = self.pop()?;
                let target = self.top()?;
                self.graph.build(target, state).map_err(|why| self.cursor.error(why))
            }
            PERSID => {
                let id = self.text_line()?;
                self.push(Slot::Persistent(id))
            }
            _ => {
                let id = self.pop()?;
                self.push(Slot::Persistent(id))
            }
        }
    }

    /// NEWOBJ_EX, as protocol 2 spells it: `copyreg.__newobj_ex__(class, args, keywords)`.
    fn new_with_keywords(&mut self) -> Step {
        let keywords = self.pop()?;
        let args = self.pop()?;
        let class = self.pop()?;
        let (module, name) = (self.intern("copyreg")?, self.intern("__newobj_ex__")?);
        self.push_global(module, name)?;
        let function = self.pop()?;
        let items = self.graph.nodes.add_items(&[class, args, keywords]);
        let args = self.add(Slot::Tuple(items))?;
        self.push(Slot::Call { function, args })
    }

    fn push_global(&mut self, module: NodeId, name: NodeId) -> Step {
        let id = self.graph.global(module, name).map_err(|why| self.cursor.error(why))?;
        self.push_shared(id)
    }

    /// A line of text as a `str` node.
    fn text_line(&mut self) -> Step<NodeId> {
        let line = self.cursor.line()?;
        match std::str::from_utf8(line) {
            Ok(text) => self.intern(text),
            Err(_) => self.fail("a name is not UTF-8"),
        }
    }

    fn intern(&mut self, text: &'a str) -> Step<NodeId> {
        self.graph.intern(text).map_err(|why| self.cursor.error(why))
    }

    fn add(&mut self, slot: Slot) -> Step<NodeId> {
        self.graph.add(slot).map_err(|why| self.cursor.error(why))
    }

    fn push(&mut self, slot: Slot) -> Step {
        let id = self.add(slot)?;
        self.push_shared(id)
    }

    fn push_shared(&mut self, id: NodeId) -> Step {
        self.stack.push(id);
        Ok(())
    }

    fn top(&self) -> Step<NodeId> {
        match self.below_top(1) {
            Some(at) => Ok(self.stack[at]),
            None => self.fail("the stack is empty"),
        }
    }

    fn pop(&mut self) -> Step<NodeId> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    /// Where the topmost `count` objects start, if there are so many above the last mark.
    fn below_top(&self, count: usize) -> Option<usize> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack.len().checked_sub(count).filter(|&start| start >= floor)
    }

    fn take_mark(&mut self) -> Step<usize> {
        match self.marks.pop() {
            Some(start) => Ok(start),
            None => self.fail("an opcode needs a mark, but none is set"),
        }
    }

    fn fail<T>(&self, why: impl Into<String>) -> Step<T> {
        Err(self.cursor.error(why))
    }
}

#[cfg(test)]
#[path = "pickle_read_tests.rs"]
mod tests;
