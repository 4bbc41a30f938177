//! What goes over the wire. Integers are little-endian.
//!
//! | | bytes |
//! |---|---|
//! | hello, client to server | [`MAGIC`] (8), version (u32), length of the job's name (u8), the job's name |
//! | answer, server to client | [`MAGIC`] (8), version (u32), [`Verdict`] (u8) |
//! | then, by turns, request and reply | length of what follows (u32), what follows |
//! | request | 1 set, 2 wait, 3 remove (u8); how long to wait at most, in ms (u32); length of the key (u16); key; for set the value |
//! | reply | 0 done, 1 here it is, 2 not there, 3 no room, 4 refused (u8); for 1 the value, for 4 why |
//!
//! A server that cannot make sense of a request refuses it and closes.

use super::super::message::VALUE_BYTES_MAX;
use std::io::{self, Read, Write};

pub(super) const MAGIC: &[u8; 8] = b"TITANCKV";
pub(super) const VERSION: u32 = 1;
/// The longest name of a job, in bytes.
pub const JOB_BYTES_MAX: usize = 64;
/// Bytes of the server's answer to a hello.
const ANSWER_BYTES: usize = MAGIC.len() + 4 + 1;
/// The longest key: a tag and a few numbers.
const KEY_BYTES_MAX: usize = super::super::TAG_BYTES_MAX + 64;
/// The longest frame: an operation, a key and a value.
pub(super) const FRAME_BYTES_MAX: usize = 7 + KEY_BYTES_MAX + VALUE_BYTES_MAX;

/// What the server thinks of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Welcome,
    OtherVersion,
    OtherJob,
}

const VERDICTS: [Verdict; 3] = [Verdict::Welcome, Verdict::OtherVersion, Verdict::OtherJob];

/// An operation on the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Request<'a> {
    pub(super) operation: Operation<'a>,
    pub(super) key: &'a str,
    pub(super) wait_ms: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Operation<'a> {
    Set(&'a [u8]),
    Wait,
    Remove,
}

impl<'a> Request<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (code, value): (u8, &[u8]) = match self.operation {
            Operation::Set(value) => (1, value),
            Operation::Wait => (2, b""),
            Operation::Remove => (3, b""),
        };
        // A key too long for its length is too long for the server, which says so.
        let key_len = u16::try_from(self.key.len()).unwrap_or(u16::MAX);
        let head = [&[code][..], &self.wait_ms.to_le_bytes(), &key_len.to_le_bytes()].concat();
        [&head, self.key.as_bytes(), value].concat()
    }

    pub(super) fn decode(frame: &'a [u8]) -> Result<Self, String> {
        let short = || format!("a request of {} bytes ends early", frame.len());
        let (code, rest) = frame.split_first().ok_or_else(short)?;
        let (wait_ms, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let (key_len, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
        let key_len = usize::from(u16::from_le_bytes(*key_len));
        if key_len > KEY_BYTES_MAX {
            return Err(format!("a key of {key_len} bytes, over the limit of {KEY_BYTES_MAX}"));
        }
        let (key, value) = rest.split_at_checked(key_len).ok_or_else(short)?;
        let operation = match (code, value.len()) {
            (1, 1..=VALUE_BYTES_MAX) => Operation::Set(value),
            (2, 0) => Operation::Wait,
            (3, 0) => Operation::Remove,
            (1..=3, found) => return Err(format!("operation {code} with a value of {found} bytes")),
            _ => return Err(format!("operation {code}, which is not known")),
        };
        let key = std::str::from_utf8(key).map_err(|_| "a key that is not UTF-8".to_owned())?;
        Ok(Request { operation, key, wait_ms: u32::from_le_bytes(*wait_ms) })
    }
}

/// The server's answer to a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Reply<B> {
    Done,
    Value(B),
    NotThere,
    NoRoom,
    Refused(String),
}

impl<B: AsRef<[u8]>> Reply<B> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (code, value): (u8, &[u8]) = match self {
            Reply::Done => (0, b""),
            Reply::Value(value) => (1, value.as_ref()),
            Reply::NotThere => (2, b""),
            Reply::NoRoom => (3, b""),
            Reply::Refused(why) => (4, why.as_bytes()),
        };
        [&[code][..], value].concat()
    }
}

impl Reply<Vec<u8>> {
    pub(super) fn decode(mut frame: Vec<u8>) -> Result<Self, String> {
        match frame.first() {
            Some(0) => Ok(Reply::Done),
            Some(1) => {
                frame.remove(0);
                Ok(Reply::Value(frame))
            }
            Some(2) => Ok(Reply::NotThere),
            Some(3) => Ok(Reply::NoRoom),
            Some(4) => Ok(Reply::Refused(String::from_utf8_lossy(&frame[1..]).into_owned())),
            Some(code) => Err(format!("reply {code}, which is not known")),
            None => Err("an empty reply".to_owned()),
        }
    }
}

/// Sends one frame.
pub(super) fn write_frame(mut to: impl Write, frame: &[u8]) -> io::Result<()> {
    let byte_len = u32::try_from(frame.len()).map_err(io::Error::other)?;
    to.write_all(&[&byte_len.to_le_bytes(), frame].concat())
}

/// The length of the next frame, by which alone an end may be slow; `None` at the end of the stream.
pub(super) fn read_frame_len(mut from: impl Read) -> io::Result<Option<usize>> {
    let mut byte_len = [0; 4];
    match from.read_exact(&mut byte_len) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    match u32::from_le_bytes(byte_len) as usize {
        byte_len if byte_len <= FRAME_BYTES_MAX => Ok(Some(byte_len)),
        byte_len => Err(invalid(format!("a frame of {byte_len} bytes, over the limit of {FRAME_BYTES_MAX}"))),
    }
}

/// A frame of which the length is read. Memory grows as bytes come, not by what is announced.
pub(super) fn read_frame(from: impl Read, byte_len: usize) -> io::Result<Vec<u8>> {
    let mut frame = Vec::new();
    from.take(byte_len as u64).read_to_end(&mut frame)?;
    match frame.len() == byte_len {
        true => Ok(frame),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The client's first words.
pub(super) fn write_hello(mut to: impl Write, job: &str) -> io::Result<()> {
    let job_len = [job.len().min(JOB_BYTES_MAX) as u8];
    to.write_all(&[&MAGIC[..], &VERSION.to_le_bytes(), &job_len, job.as_bytes()].concat())
}

/// What a client that said hello is: `None` is no client of ours.
pub(super) fn read_hello(mut from: impl Read, job: &str) -> io::Result<Option<Verdict>> {
    let mut head = [0; MAGIC.len() + 5];
    from.read_exact(&mut head)?;
    let (magic, rest) = head.split_at(MAGIC.len());
    if magic != MAGIC {
        return Ok(None);
    }
    if rest[..4] != VERSION.to_le_bytes() {
        return Ok(Some(Verdict::OtherVersion));
    }
    let mut name = vec![0; usize::from(rest[4])];
    from.read_exact(&mut name)?;
    Ok(Some(if name == job.as_bytes() { Verdict::Welcome } else { Verdict::OtherJob }))
}

/// The server's first words.
pub(super) fn write_answer(mut to: impl Write, verdict: Verdict) -> io::Result<()> {
    to.write_all(&[&MAGIC[..], &VERSION.to_le_bytes(), &[verdict as u8]].concat())
}

/// The server's verdict and version; an inner error is why it is no server of ours.
pub(super) fn read_answer(mut from: impl Read) -> io::Result<Result<(Verdict, u32), String>> {
    let mut answer = [0; ANSWER_BYTES];
    // The magic alone first: what another kind of server says may be shorter than an answer.
    let (magic, rest) = answer.split_at_mut(MAGIC.len());
    from.read_exact(magic)?;
    if magic != MAGIC {
        return Ok(Err(format!("it says `{}`", magic.escape_ascii())));
    }
    from.read_exact(rest)?;
    let version = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
    Ok(match VERDICTS.get(usize::from(rest[4])) {
        Some(verdict) => Ok((*verdict, version)),
        None => Err(format!("it gives verdict {}, which is not known", rest[4])),
    })
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
