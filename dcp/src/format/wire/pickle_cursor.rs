//! Reads a pickle's opcodes and their arguments, and says where it went wrong.

use crate::error::Error;

/// Why bytes are not a pickle.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("at byte {at}, {why}")]
pub struct PickleError {
    /// Position of the opcode concerned.
    pub at: usize,
    /// What was found, and what was expected.
    pub why: String,
    /// Whether more bytes could mend it: the input ended inside the pickle.
    pub truncated: bool,
}

impl PickleError {
    /// As the error of the object that holds the pickle.
    pub fn of(self, object: &str) -> Error {
        Error::malformed(object, "pickle", self.to_string())
    }
}

pub(super) type Step<T = ()> = Result<T, PickleError>;

/// A position in a pickle.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    input: &'a [u8],
    /// The next byte.
    pub(super) at: usize,
    /// Position of the opcode being executed.
    opcode_at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Cursor { input, at: 0, opcode_at: 0 }
    }

    pub(super) fn opcode(&mut self) -> Step<u8> {
        self.opcode_at = self.at;
        self.byte()
    }

    pub(super) fn byte(&mut self) -> Step<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// A signed 32-bit length.
    pub(super) fn length4(&mut self) -> Step<usize> {
        let length = i32::from_le_bytes(self.array()?);
        usize::try_from(length).map_err(|_| self.error(format!("a length is {length}")))
    }

    /// An unsigned 64-bit length.
    pub(super) fn length8(&mut self) -> Step<usize> {
        let length = u64::from_le_bytes(self.array()?);
        usize::try_from(length).map_err(|_| self.error(format!("a length is {length}")))
    }

    pub(super) fn available(&self, byte_len: usize) -> Step {
        let left = self.input.len() - self.at;
        if byte_len > left {
            let why = format!("{byte_len} bytes are wanted, but only {left} are left");
            return Err(PickleError { at: self.opcode_at, why, truncated: true });
        }
        Ok(())
    }

    pub(super) fn take(&mut self, byte_len: usize) -> Step<&'a [u8]> {
        self.available(byte_len)?;
        let bytes = &self.input[self.at..][..byte_len];
        self.at += byte_len;
        Ok(bytes)
    }

    /// The bytes up to the next newline, which is skipped.
    pub(super) fn line(&mut self) -> Step<&'a [u8]> {
        let rest = &self.input[self.at..];
        match rest.iter().position(|&byte| byte == b'\n') {
            Some(end) => {
                self.at += end + 1;
                Ok(&rest[..end])
            }
            None => {
                let why = "a line has no end".to_owned();
                Err(PickleError { at: self.opcode_at, why, truncated: true })
            }
        }
    }

    pub(super) fn parse_line<T: std::str::FromStr>(&mut self, what: &str) -> Step<T> {
        let line = self.line()?;
        match std::str::from_utf8(line).ok().and_then(|line| line.parse().ok()) {
            Some(value) => Ok(value),
            None => Err(self.error(format!("`{}` is not {what}", line.escape_ascii()))),
        }
    }

    /// An error at the opcode being executed.
    pub(super) fn error(&self, why: impl Into<String>) -> PickleError {
        PickleError { at: self.opcode_at, why: why.into(), truncated: false }
    }
}
