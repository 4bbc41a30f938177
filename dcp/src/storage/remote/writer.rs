//! Writing an object: a small one in one request, a large one in parts that are sent as soon as they are full.
//!
//! What makes a checkpoint exist is always small, and a small object is created only if absent. The parts of a large one
//! are put together without a condition, since not every store can set one: its key is looked at before, and the formats
//! give large objects of a checkpoint names of their own.

use super::failure::failure;
use super::parts::{Contents, Part, Parts, Step, object_bytes_max, part_bytes};
use super::resume::Resumable;
use super::runtime::{runtime, wait};
use super::spill::SpillFile;
use super::store::Shared;
use crate::error::{Error, Result};
use crate::storage::{Key, ObjectWriter, StoredPart};
use crate::threads::lock;
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{MultipartId, PutPayload};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use tokio::task::JoinSet;

/// An object in the making.
pub(super) struct RemoteWriter {
    shared: Arc<Shared>,
    key: Key,
    path: Path,
    object: String,
    byte_len: Option<u64>,
    part_bytes: u64,
    /// An upload that is dropped is left for the next.
    keep: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    parts: Option<Parts>,
    /// Begun with the first full part.
    upload: Option<MultipartId>,
    sending: JoinSet<Result<(u64, PartId)>>,
    sent: BTreeMap<u64, PartId>,
    /// Parts of an earlier writer, and what identifies them.
    stored: BTreeMap<u64, (StoredPart, PartId)>,
    /// What of the store's allowance for half-filled parts this writer has.
    held_bytes: u64,
    spilled: SpillFile,
    failed: bool,
    finished: bool,
    /// The key was taken by another: the upload is of use to nobody.
    in_vain: bool,
}

impl RemoteWriter {
    pub(super) fn new(shared: Arc<Shared>, key: Key, path: Path, byte_len: Option<u64>) -> Self {
        let part_bytes = part_bytes(byte_len);
        let state = State { parts: Some(Parts::new(part_bytes, byte_len)), ..State::default() };
        let object = shared.display(&key);
        RemoteWriter {
            shared,
            key,
            path,
            object,
            byte_len,
            part_bytes,
            keep: false,
            state: Mutex::new(state),
        }
    }

    /// The same, going on where another stopped, and leaving its own for the next.
    pub(super) fn resuming(mut self, found: Option<Resumable>) -> Self {
        self.keep = true;
        let mut state = lock(&self.state);
        if let Some(found) = found {
            (state.upload, state.stored) = (Some(found.upload), found.parts);
        }
        drop(state);
        self
    }

    /// Takes a write, and sends the parts that are full with it.
    fn take(&self, state: &mut State, byte_offset: u64, bytes: &[u8]) -> Result<()> {
        let steps = state.parts.as_mut().map_or_else(Vec::new, |parts| parts.write(byte_offset, bytes));
        for step in steps {
            match step {
                Step::Send(part) => self.send(state, [part])?,
                Step::Store { file_offset, bytes: range } => {
                    state.spilled.write(&self.object, file_offset, &bytes[range])?;
                }
            }
        }
        self.keep_within_allowance(state)
    }

    /// Moves half-filled parts to a temporary file while those of all the store's writers take more memory than is
    /// allowed, whoever has the rest.
    fn keep_within_allowance(&self, state: &mut State) -> Result<()> {
        let State { parts: Some(parts), held_bytes, spilled, .. } = state else { return Ok(()) };
        loop {
            let all = self.shared.half_filled.replace(*held_bytes, parts.held_bytes());
            *held_bytes = parts.held_bytes();
            if all <= self.shared.half_filled.bytes_max {
                return Ok(());
            }
            let Some(spill) = parts.spill() else { return Ok(()) };
            spilled.write(&self.object, spill.file_offset, &spill.bytes)?;
        }
    }

    /// Starts to send full parts. Waits while as many requests as are allowed are under way.
    fn send(&self, state: &mut State, parts: impl IntoIterator<Item = Part>) -> Result<()> {
        for part in parts {
            let upload = self.upload(state)?;
            let bytes = self.bytes_of(state, part.contents)?;
            // Asked for here and given back by the task: a part waits in the caller's memory, not in a queue.
            let request =
                wait(self.shared.requests.clone().acquire_owned())?.map_err(|_| Error::Interrupted)?;
            let (shared, path, object) = (self.shared.clone(), self.path.clone(), self.object.clone());
            state.sending.spawn_on(
                async move {
                    let _request = request;
                    let payload = PutPayload::from(bytes);
                    let sent = shared.parts()?.put_part(&path, &upload, part.index as usize, payload).await;
                    sent.map(|id| (part.index, id)).map_err(|error| failure(&object, "writing", error))
                },
                runtime()?.handle(),
            );
            while let Some(done) = state.sending.try_join_next() {
                State::note(&mut state.sent, done)?;
            }
        }
        Ok(())
    }

    fn bytes_of(&self, state: &State, contents: Contents) -> Result<Vec<u8>> {
        match contents {
            Contents::Memory(bytes) => Ok(bytes),
            Contents::File { file_offset, byte_len } => {
                state.spilled.read(&self.object, file_offset, byte_len)
            }
        }
    }

    /// The multipart upload, begun when first asked for.
    fn upload(&self, state: &mut State) -> Result<MultipartId> {
        if let Some(upload) = &state.upload {
            return Ok(upload.clone());
        }
        let begun = wait(self.shared.parts()?.create_multipart(&self.path))?;
        let upload = begun.map_err(|error| failure(&self.object, "beginning an upload", error))?;
        Ok(state.upload.insert(upload).clone())
    }

    /// Sends what is left and puts the parts together.
    fn complete(&self, state: &mut State, parts: Parts) -> Result<()> {
        let end = self.byte_len.unwrap_or(parts.end());
        self.wait_for_all(state)?;
        for (index, (_, id)) in std::mem::take(&mut state.stored) {
            if !parts.is_open(index) {
                state.sent.entry(index).or_insert(id);
            }
        }
        let sent: BTreeSet<u64> = state.sent.keys().copied().collect();
        let mut rest = parts.rest(end, move |index| sent.contains(&index));
        if state.upload.is_none() && end <= self.part_bytes {
            let bytes = rest.next().map_or(Ok(Vec::new()), |part| self.bytes_of(state, part.contents))?;
            return self.shared.put_if_absent(&self.key, bytes);
        }
        self.send(state, rest)?;
        self.wait_for_all(state)?;
        let upload = self.upload(state)?;
        if self.shared.head(&self.key)?.is_some() {
            state.in_vain = true;
            return Err(Error::AlreadyExists { object: self.object.clone() });
        }
        let ids: Vec<PartId> = std::mem::take(&mut state.sent).into_values().collect();
        let completed = wait(self.shared.parts()?.complete_multipart(&self.path, &upload, ids))?;
        match completed {
            Ok(_) => Ok(()),
            // The reply may have been lost. Nobody else has this upload: an object of this length is ours.
            Err(error) => match self.shared.head(&self.key) {
                Ok(Some(byte_len)) if byte_len == end => Ok(()),
                _ => Err(failure(&self.object, "completing an upload", error)),
            },
        }
    }

    /// Waits for the parts under way.
    fn wait_for_all(&self, state: &mut State) -> Result<()> {
        while let Some(done) = wait(state.sending.join_next())? {
            State::note(&mut state.sent, done)?;
        }
        Ok(())
    }
}

impl State {
    fn note(
        sent: &mut BTreeMap<u64, PartId>,
        done: std::result::Result<Result<(u64, PartId)>, tokio::task::JoinError>,
    ) -> Result<()> {
        let (index, id) = done.map_err(|_| Error::Interrupted)??;
        sent.insert(index, id);
        Ok(())
    }
}

impl ObjectWriter for RemoteWriter {
    fn stored(&self) -> Vec<StoredPart> {
        lock(&self.state).stored.values().map(|(part, _)| part.clone()).collect()
    }

    fn write_at(&self, byte_offset: u64, bytes: &[u8]) -> Result<()> {
        let limit = self.byte_len.unwrap_or(object_bytes_max(self.part_bytes));
        let end = byte_offset.saturating_add(bytes.len() as u64);
        if end > limit {
            let (object, what) = (self.object.clone(), "the end of a write");
            return Err(Error::OverLimit { object, what, found: end, limit });
        }
        let mut state = lock(&self.state);
        if state.failed {
            return Err(Error::Interrupted);
        }
        self.take(&mut state, byte_offset, bytes).inspect_err(|_| state.failed = true)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let mut state = std::mem::take(&mut *lock(&self.state));
        let result = match (state.failed, state.parts.take()) {
            (false, Some(parts)) => self.complete(&mut state, parts),
            _ => Err(Error::Interrupted),
        };
        state.finished = result.is_ok();
        // Dropping this writer aborts what is not finished.
        *lock(&self.state) = state;
        result
    }
}

impl Drop for RemoteWriter {
    fn drop(&mut self) {
        let state = std::mem::take(&mut *lock(&self.state));
        self.shared.half_filled.replace(state.held_bytes, 0);
        let (false, Some(upload)) = (state.finished, state.upload) else { return };
        let mut sending = state.sending;
        if self.keep && !state.in_vain {
            // What is on its way is worth waiting for, unless it is the network that failed.
            let _ = wait(async {
                match state.failed {
                    true => sending.shutdown().await,
                    false => while sending.join_next().await.is_some() {},
                }
            });
            return;
        }
        // Of an upload that cannot be aborted, its parts are left for `prune` or the bucket's own rule.
        let _ = wait(async {
            sending.shutdown().await;
            match self.shared.parts() {
                Ok(parts) => parts.abort_multipart(&self.path, &upload).await.is_ok(),
                Err(_) => false,
            }
        });
    }
}

impl fmt::Debug for RemoteWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteWriter").field("object", &self.object).finish_non_exhaustive()
    }
}
