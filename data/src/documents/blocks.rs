//! An object's bytes in blocks: the one that is read, and the next, which threads fetch meanwhile.

use crate::error::{Error, Result};
use bytes::Bytes;
use dcp::storage::{Key, ReadAt, Storage};
use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Threads that fetch ahead, for all streams together.
const FETCH_THREADS: usize = 2;

/// Fetches blocks in the background, as long as it lives.
pub(crate) struct Fetcher {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    block_bytes: usize,
    keep_open: bool,
}

struct Job {
    object: Arc<OpenObject>,
    index: u64,
    block_bytes: usize,
    answer: Sender<Result<Bytes>>,
}

impl Fetcher {
    /// A fetcher of blocks of `block_bytes`. `keep_open` says whether objects stay open between blocks: not where there
    /// are more streams than a process may open files.
    pub(crate) fn new(block_bytes: usize, keep_open: bool) -> Arc<Fetcher> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let run = |queue: Arc<Mutex<Receiver<Job>>>| {
            loop {
                let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(job) = job else { return };
                // A stream that is gone wants no answer.
                let _ = job.answer.send(job.object.block(job.index, job.block_bytes));
            }
        };
        let threads = (0..FETCH_THREADS)
            .map(|_| {
                let queue = queue.clone();
                std::thread::spawn(move || run(queue))
            })
            .collect();
        Arc::new(Fetcher { jobs: Some(jobs), threads, block_bytes, keep_open })
    }

    /// Whether objects stay open between blocks.
    pub(crate) fn keeps_open(&self) -> bool {
        self.keep_open
    }

    fn fetch(&self, object: &Arc<OpenObject>, index: u64) -> Option<Receiver<Result<Bytes>>> {
        let (answer, receiver) = channel();
        let job = Job { object: object.clone(), index, block_bytes: self.block_bytes, answer };
        self.jobs.as_ref()?.send(job).ok()?;
        Some(receiver)
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // It holds nothing that a panic could leave half done.
            let _ = thread.join();
        }
    }
}

/// An object that documents are read from.
#[derive(Debug)]
pub(crate) struct OpenObject {
    store: Arc<dyn Storage>,
    key: Key,
    pub(crate) shown: String,
    byte_len: u64,
    kept: Option<Arc<dyn ReadAt>>,
}

impl OpenObject {
    /// Opens an object that was `byte_len` bytes long when it was listed.
    pub(crate) fn open(
        store: &Arc<dyn Storage>,
        key: &Key,
        byte_len: u64,
        keep_open: bool,
    ) -> Result<Arc<OpenObject>> {
        let shown = store.display(key);
        let mut object = OpenObject { store: store.clone(), key: key.clone(), shown, byte_len, kept: None };
        if keep_open {
            object.kept = Some(object.handle()?);
        }
        Ok(Arc::new(object))
    }

    pub(crate) fn byte_len(&self) -> u64 {
        self.byte_len
    }

    fn handle(&self) -> Result<Arc<dyn ReadAt>> {
        if let Some(kept) = &self.kept {
            return Ok(kept.clone());
        }
        let handle = self.store.open(&self.key)?;
        if handle.byte_len() != self.byte_len {
            return Err(dcp::Error::Changed { object: self.shown.clone() }.into());
        }
        Ok(handle)
    }

    /// Block `index` of `block_bytes`; shorter at the end, empty after it.
    fn block(&self, index: u64, block_bytes: usize) -> Result<Bytes> {
        let from = index.saturating_mul(block_bytes as u64).min(self.byte_len);
        let byte_len = (self.byte_len - from).min(block_bytes as u64) as usize;
        let mut bytes = vec![0; byte_len];
        if byte_len > 0 {
            self.handle()?.read_at(from, &mut bytes)?;
        }
        Ok(bytes.into())
    }
}

/// The block that is read, and the next.
pub(crate) struct Blocks {
    object: Arc<OpenObject>,
    fetcher: Arc<Fetcher>,
    current: Option<(u64, Bytes)>,
    next: Option<(u64, Receiver<Result<Bytes>>)>,
}

impl Blocks {
    pub(crate) fn new(object: Arc<OpenObject>, fetcher: &Arc<Fetcher>) -> Blocks {
        Blocks { object, fetcher: fetcher.clone(), current: None, next: None }
    }

    /// Bytes from `byte_offset` to the end of their block; empty at the end of the object.
    pub(crate) fn at(&mut self, byte_offset: u64) -> Result<Bytes> {
        let block_bytes = self.fetcher.block_bytes;
        if byte_offset >= self.object.byte_len {
            return Ok(Bytes::new());
        }
        let index = byte_offset / block_bytes as u64;
        let from = (byte_offset % block_bytes as u64) as usize;
        let block = match &self.current {
            Some((current, block)) if *current == index => block.clone(),
            _ => self.turn_to(index)?,
        };
        Ok(block.slice(from..))
    }

    fn turn_to(&mut self, index: u64) -> Result<Bytes> {
        self.current = None;
        let block = match self.next.take() {
            Some((next, answer)) if next == index => answer.recv().map_err(|_| Error::Ended)??,
            _ => self.object.block(index, self.fetcher.block_bytes)?,
        };
        if (index + 1).saturating_mul(self.fetcher.block_bytes as u64) < self.object.byte_len {
            self.next = self.fetcher.fetch(&self.object, index + 1).map(|answer| (index + 1, answer));
        }
        self.current = Some((index, block.clone()));
        Ok(block)
    }
}

/// An object's bytes as a stream.
pub(crate) struct ByteStream {
    blocks: Blocks,
    rest: Bytes,
    byte_offset: u64,
}

impl ByteStream {
    pub(crate) fn new(blocks: Blocks, byte_offset: u64) -> ByteStream {
        ByteStream { blocks, rest: Bytes::new(), byte_offset }
    }
}

impl BufRead for ByteStream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            self.rest = self.blocks.at(self.byte_offset).map_err(io::Error::other)?;
        }
        Ok(&self.rest)
    }

    fn consume(&mut self, amount: usize) {
        self.byte_offset += amount as u64;
        let _ = self.rest.split_to(amount);
    }
}

impl Read for ByteStream {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let amount = from.len().min(target.len());
        target[..amount].copy_from_slice(&from[..amount]);
        self.consume(amount);
        Ok(amount)
    }
}

/// The error of this crate that a decoder carried through `std::io`, or what it said itself.
pub(crate) fn carried(error: io::Error) -> std::result::Result<Error, io::Error> {
    match error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
        true => {
            let inner = error.into_inner().and_then(|inner| inner.downcast::<Error>().ok());
            Ok(inner.map_or(Error::Ended, |inner| *inner))
        }
        false => Err(error),
    }
}
