//! CUDA's queues of work, and marks in them. All of it fails where CUDA is not loaded.

use super::outcome::{check, handle, int, raw};
use super::sys;
use crate::error::{Error, Result};
use std::ptr::{NonNull, null_mut};
use std::time::Duration;
use tch::Tensor;

/// A queue of work of a device.
#[derive(Debug)]
pub struct Stream(NonNull<sys::Stream>);

// SAFETY: a stream is a number and a device.
unsafe impl Send for Stream {}
// SAFETY: as above; nothing changes it.
unsafe impl Sync for Stream {}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: ours alone, and not used after this. The stream itself is of a pool, and stays.
        unsafe { sys::titan_stream_drop(self.0.as_ptr()) }
    }
}

impl Stream {
    /// This thread's current stream on a device.
    pub fn current(device_index: u32) -> Result<Stream> {
        loaded("Stream::current")?;
        let mut stream = null_mut();
        // SAFETY: the out pointer outlives the call.
        unsafe {
            check("Stream::current", sys::titan_stream_current(int(device_index, "a device")?, &mut stream))
        }?;
        Ok(Stream(handle(stream)))
    }

    /// Another stream of a device, from libtorch's pool.
    pub fn new(device_index: u32, high_priority: bool) -> Result<Stream> {
        loaded("Stream::new")?;
        let mut stream = null_mut();
        let index = int(device_index, "a device")?;
        // SAFETY: the out pointer outlives the call.
        unsafe { check("Stream::new", sys::titan_stream_new(index, high_priority, &mut stream)) }?;
        Ok(Stream(handle(stream)))
    }

    /// Runs `body` with this as the thread's current stream.
    pub fn with<R>(&self, body: impl FnOnce() -> R) -> Result<R> {
        let mut before = null_mut();
        // SAFETY: handle and out pointer are alive.
        unsafe { check("Stream::with", sys::titan_stream_exchange(self.0.as_ptr(), &mut before)) }?;
        let _restored = Current(Stream(handle(before)));
        Ok(body())
    }

    /// Waits until all that is queued is done.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the handle is alive.
        unsafe { check("Stream::synchronize", sys::titan_stream_synchronize(self.0.as_ptr())) }
    }

    /// Has what is queued here from now on wait for what is queued there until now.
    pub fn wait_for(&self, other: &Stream) -> Result<()> {
        let event = Event::new(false)?;
        event.record(other)?;
        event.block(self)
    }

    /// Keeps a tensor's memory, once freed, from being given out again before what is queued here by then is done.
    pub fn keep(&self, tensor: &Tensor) -> Result<()> {
        // SAFETY: tensor and handle are alive.
        unsafe { check("Stream::keep", sys::titan_record_stream(raw(tensor), self.0.as_ptr())) }
    }
}

/// Makes a stream the current one again when dropped.
struct Current(Stream);

impl Drop for Current {
    fn drop(&mut self) {
        let mut inside = null_mut();
        // SAFETY: handle and out pointer are alive.
        let answer =
            unsafe { check("Stream::with", sys::titan_stream_exchange(self.0.0.as_ptr(), &mut inside)) };
        if answer.is_ok() {
            drop(Stream(handle(inside)));
        }
    }
}

/// A mark in a stream.
#[derive(Debug)]
pub struct Event(NonNull<sys::Event>);

// SAFETY: CUDA's events may be used from any thread; recording changes one, and takes `&mut`.
unsafe impl Send for Event {}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: ours alone, and not used after this.
        unsafe { sys::titan_event_drop(self.0.as_ptr()) }
    }
}

impl Event {
    /// A mark; only between `timed` ones can time be told.
    pub fn new(timed: bool) -> Result<Event> {
        loaded("Event::new")?;
        let mut event = null_mut();
        // SAFETY: the out pointer outlives the call.
        unsafe { check("Event::new", sys::titan_event_new(timed, &mut event)) }?;
        Ok(Event(handle(event)))
    }

    /// Puts it at the end of a stream.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both handles are alive; an event is not `Sync`, so that no other thread uses it.
        unsafe { check("Event::record", sys::titan_event_record(self.0.as_ptr(), stream.0.as_ptr())) }
    }

    /// Has what is queued on a stream from now on wait for it.
    pub fn block(&self, stream: &Stream) -> Result<()> {
        // SAFETY: as in `record`.
        unsafe { check("Event::block", sys::titan_event_block(self.0.as_ptr(), stream.0.as_ptr())) }
    }

    /// Whether the stream has come to it.
    pub fn is_done(&self) -> Result<bool> {
        let mut is_done = false;
        // SAFETY: handle and out pointer are alive.
        unsafe { check("Event::is_done", sys::titan_event_is_done(self.0.as_ptr(), &mut is_done)) }?;
        Ok(is_done)
    }

    /// Waits until the stream has come to it.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the handle is alive.
        unsafe { check("Event::synchronize", sys::titan_event_synchronize(self.0.as_ptr())) }
    }

    /// The time from this to a later one, both timed and come to.
    pub fn elapsed_until(&self, end: &Event) -> Result<Duration> {
        let mut elapsed_ms = 0.0;
        // SAFETY: both handles and the out pointer are alive.
        unsafe {
            check(
                "Event::elapsed_until",
                sys::titan_event_elapsed_ms(self.0.as_ptr(), end.0.as_ptr(), &mut elapsed_ms),
            )
        }?;
        Ok(Duration::try_from_secs_f64(elapsed_ms / 1e3).unwrap_or_default())
    }
}

/// Asking an accelerator that is not there would end the process.
fn loaded(call: &str) -> Result<()> {
    match super::device::is_loaded() {
        true => Ok(()),
        false => Err(Error::Usage(format!("{call}: CUDA is not loaded, and only CUDA has streams"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_cuda_there_are_no_streams() {
        if !super::super::device::is_loaded() {
            for error in [
                Stream::current(0).map(drop).unwrap_err(),
                Stream::new(0, true).map(drop).unwrap_err(),
                Event::new(true).map(drop).unwrap_err(),
            ] {
                assert!(error.to_string().contains("CUDA is not loaded"), "{error}");
            }
        }
    }
}
