//! Writes pickles of protocol 2 with the opcodes that `torch.load(weights_only=True)` admits.
//!
//! The caller writes values in order; a container is written around what a closure writes. Globals, and strings given
//! to [`PickleWriter::key`], are remembered by number, so that each is spelled out once.
//!
//! Source: `torch/_weights_only_unpickler.py` of PyTorch 2.11; LONG4, which it refuses, is used only for integers of
//! more than 255 bytes.

use super::pickle_opcode::*;
use std::collections::HashMap;

/// A pickle being written.
#[derive(Debug)]
pub struct PickleWriter {
    bytes: Vec<u8>,
    /// Numbers of what was written before, by `module\nname` for globals and `\n` + text for strings.
    memo: HashMap<String, u32>,
}

impl Default for PickleWriter {
    fn default() -> Self {
        PickleWriter::new()
    }
}

impl PickleWriter {
    /// Starts a pickle.
    pub fn new() -> Self {
        PickleWriter { bytes: vec![PROTO, 2], memo: HashMap::new() }
    }

    /// Ends it after its one value was written.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(STOP);
        self.bytes
    }

    /// Writes `None`.
    pub fn none(&mut self) {
        self.bytes.push(NONE);
    }

    /// Writes a `bool`.
    pub fn bool(&mut self, flag: bool) {
        self.bytes.push(if flag { NEWTRUE } else { NEWFALSE });
    }

    /// Writes an `int`, in the fewest bytes.
    pub fn int(&mut self, int: i64) {
        if let Ok(byte) = u8::try_from(int) {
            self.bytes.extend([BININT1, byte]);
        } else if let Ok(short) = u16::try_from(int) {
            self.opcode(BININT2, &short.to_le_bytes());
        } else if let Ok(word) = i32::try_from(int) {
            self.opcode(BININT, &word.to_le_bytes());
        } else {
            self.big_int(&int.to_le_bytes());
        }
    }

    /// Writes an `int` that is not negative; see [`PickleWriter::int`].
    pub fn u64(&mut self, int: u64) {
        match i64::try_from(int) {
            Ok(int) => self.int(int),
            Err(_) => self.big_int(&u128::from(int).to_le_bytes()[..9]),
        }
    }

    /// Writes an `int` given in two's complement, little-endian.
    pub fn big_int(&mut self, bytes: &[u8]) {
        let bytes = shortest(bytes);
        match u8::try_from(bytes.len()) {
            Ok(byte_len) => self.bytes.extend([LONG1, byte_len]),
            Err(_) => self.opcode(LONG4, &(bytes.len() as u32).to_le_bytes()),
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes a `float`.
    pub fn float(&mut self, float: f64) {
        self.opcode(BINFLOAT, &float.to_be_bytes());
    }

    /// Writes a `str`.
    ///
    /// Panics: for a text of 4 GiB or more, which protocol 2 cannot hold.
    pub fn str(&mut self, text: &str) {
        let byte_len = u32::try_from(text.len()).expect("a string in a pickle is shorter than 4 GiB");
        self.opcode(BINUNICODE, &byte_len.to_le_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// Writes a `str` that is likely to occur again: a field's name, a file's name.
    pub fn key(&mut self, text: &str) {
        self.remembered(format!("\n{text}"), |writer| writer.str(text));
    }

    /// Writes `bytes`, which protocol 2 spells as a call: `_codecs.encode(text, 'latin1')`.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.call("_codecs", "encode", 2, |writer| {
            writer.latin1(bytes);
            writer.key("latin1");
        });
    }

    /// Writes `bytearray`: `bytearray(text, 'latin-1')`.
    pub fn byte_array(&mut self, bytes: &[u8]) {
        self.call("__builtin__", "bytearray", 2, |writer| {
            writer.latin1(bytes);
            writer.key("latin-1");
        });
    }

    fn latin1(&mut self, bytes: &[u8]) {
        self.str(&bytes.iter().copied().map(char::from).collect::<String>());
    }

    /// Writes a class or function by its name. Builtins are in module `__builtin__` in protocol 2.
    pub fn global(&mut self, module: &str, name: &str) {
        debug_assert!(!module.contains('\n') && !name.contains('\n'));
        self.remembered(format!("{module}\n{name}"), |writer| {
            writer.bytes.push(GLOBAL);
            for part in [module, name] {
                writer.bytes.extend_from_slice(part.as_bytes());
                writer.bytes.push(b'\n');
            }
        });
    }

    /// Writes a `tuple` of `count` items, which `fill` writes.
    pub fn tuple(&mut self, count: usize, fill: impl FnOnce(&mut Self)) {
        if count > 3 {
            self.bytes.push(MARK);
        }
        fill(self);
        self.bytes.push(match count {
            0 => EMPTY_TUPLE,
            1 => TUPLE1,
            2 => TUPLE2,
            3 => TUPLE3,
            _ => TUPLE,
        });
    }

    /// Writes a `list` of the items that `fill` writes.
    pub fn list(&mut self, fill: impl FnOnce(&mut Self)) {
        self.bytes.extend([EMPTY_LIST, MARK]);
        fill(self);
        self.bytes.push(APPENDS);
    }

    /// Writes a `dict` of the pairs that `fill` writes: each key, then its value.
    pub fn dict(&mut self, fill: impl FnOnce(&mut Self)) {
        self.bytes.push(EMPTY_DICT);
        self.set_items(fill);
    }

    /// Sets items in the mapping written last: `fill` writes each key, then its value.
    pub fn set_items(&mut self, fill: impl FnOnce(&mut Self)) {
        self.bytes.push(MARK);
        fill(self);
        self.bytes.push(SETITEMS);
    }

    /// Writes the result of calling a function with `arg_count` arguments, which `args` writes.
    pub fn call(&mut self, module: &str, name: &str, arg_count: usize, args: impl FnOnce(&mut Self)) {
        self.global(module, name);
        self.tuple(arg_count, args);
        self.bytes.push(REDUCE);
    }

    /// Writes an object made by `class.__new__(class)`, for [`PickleWriter::build`] to give a state.
    pub fn new_object(&mut self, module: &str, name: &str) {
        self.global(module, name);
        self.bytes.extend([EMPTY_TUPLE, NEWOBJ]);
    }

    /// Gives the object written last the state that `state` writes.
    pub fn build(&mut self, state: impl FnOnce(&mut Self)) {
        state(self);
        self.bytes.push(BUILD);
    }

    /// Writes what the persistent id that `id` writes stands for.
    pub fn persistent(&mut self, id: impl FnOnce(&mut Self)) {
        id(self);
        self.bytes.push(BINPERSID);
    }

    /// Writes a `torch.Size`.
    pub fn size(&mut self, shape: &[u64]) {
        self.call("torch", "Size", 1, |writer| writer.int_tuple(shape));
    }

    /// Writes a `tuple` of integers.
    pub fn int_tuple(&mut self, items: &[u64]) {
        self.tuple(items.len(), |writer| items.iter().for_each(|&item| writer.u64(item)));
    }

    fn remembered(&mut self, memo_key: String, write: impl FnOnce(&mut Self)) {
        if let Some(&number) = self.memo.get(&memo_key) {
            return match u8::try_from(number) {
                Ok(short) => self.bytes.extend([BINGET, short]),
                Err(_) => self.opcode(LONG_BINGET, &number.to_le_bytes()),
            };
        }
        write(self);
        let number = self.memo.len() as u32;
        match u8::try_from(number) {
            Ok(short) => self.bytes.extend([BINPUT, short]),
            Err(_) => self.opcode(LONG_BINPUT, &number.to_le_bytes()),
        }
        self.memo.insert(memo_key, number);
    }

    fn opcode(&mut self, opcode: u8, argument: &[u8]) {
        self.bytes.push(opcode);
        self.bytes.extend_from_slice(argument);
    }
}

/// The fewest bytes that keep a little-endian two's complement number's value; none for zero.
fn shortest(bytes: &[u8]) -> &[u8] {
    let mut end = bytes.len();
    while end > 0 {
        let below = if end > 1 { bytes[end - 2] } else { 0 };
        let redundant = match bytes[end - 1] {
            0x00 => below < 0x80,
            0xff => end > 1 && below >= 0x80,
            _ => false,
        };
        if !redundant {
            break;
        }
        end -= 1;
    }
    &bytes[..end]
}

#[cfg(test)]
mod tests {
    use super::super::pickle_nodes::View;
    use super::super::pickle_read::parse;
    use super::*;

    #[test]
    fn integers_come_back_and_take_the_fewest_bytes() {
        let cases: &[(i64, usize)] = &[
            (0, 2),
            (255, 2),
            (256, 3),
            (65535, 3),
            (65536, 5),
            (-1, 5),
            (i32::MIN.into(), 5),
            (1 << 31, 7),
            (-(1 << 31) - 1, 7),
            (i64::MAX, 10),
            (i64::MIN, 10),
        ];
        for &(int, byte_len) in cases {
            let mut writer = PickleWriter::new();
            writer.int(int);
            let bytes = writer.finish();
            assert_eq!(bytes.len(), 3 + byte_len, "{int}");
            let pickle = parse(&bytes).unwrap();
            assert_eq!(pickle.view(pickle.root()), View::Int(int));
        }
        let mut writer = PickleWriter::new();
        writer.u64(u64::MAX);
        let bytes = writer.finish();
        let pickle = parse(&bytes).unwrap();
        assert_eq!(pickle.view(pickle.root()), View::BigInt(&[255, 255, 255, 255, 255, 255, 255, 255, 0]));
    }

    #[test]
    fn shortest_two_complement() {
        let cases: &[(&[u8], &[u8])] = &[
            (&[0, 0], &[]),
            (&[0x80, 0, 0], &[0x80, 0]),
            (&[0xff, 0xff], &[0xff]),
            (&[0x7f, 0xff], &[0x7f, 0xff]),
            (&[0x80, 0xff, 0xff], &[0x80]),
            (&[1], &[1]),
        ];
        for (bytes, expected) in cases {
            assert_eq!(shortest(bytes), *expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn repeated_names_are_written_once() {
        let mut writer = PickleWriter::new();
        writer.list(|writer| {
            for name in 0..600 {
                writer.key(&format!("name{}", name % 300));
                writer.global("torch", "float32");
                writer.bytes(&[0, 128, 255]);
            }
        });
        let bytes = writer.finish();
        assert_eq!(bytes.windows(8).filter(|window| window == b"float32\n").count(), 1);
        let pickle = parse(&bytes).unwrap();
        let items = pickle.sequence(pickle.root()).unwrap();
        assert_eq!(items.len(), 1800);
        assert_eq!(pickle.str(items[3 * 299]), Some("name299"));
        assert_eq!(items[3 * 299], items[3 * 599]);
        assert_eq!(pickle.global(items[1]), Some(("torch", "float32")));
    }
}
