//! c10d's key-value stores: over TCP as `torchrun` uses it, or in a file. The ranks of a job find each other through one.

use super::outcome::{handle, message, take_bytes, text, timeout_ms};
use super::sys;
use crate::error::{Error, Result};
use std::ffi::{CString, c_char};
use std::path::Path;
use std::ptr::{NonNull, null_mut};
use std::time::Duration;

/// How to reach, or to be, a TCP store.
#[derive(Clone, Debug)]
pub struct TcpOptions<'a> {
    /// Name or address of the master's host.
    pub host: &'a str,
    /// The master's port; 0 for a master: one that is free.
    pub port: u16,
    /// Whether this process holds the values.
    pub is_master: bool,
    /// How many processes will connect, where that is known.
    pub world: Option<u32>,
    /// Whether the master waits until all of the world have connected.
    pub wait_workers: bool,
    /// How long to try to connect, and for what the store's users (process groups) wait.
    pub timeout: Duration,
}

/// A key-value store that all ranks see.
///
/// A connection serves one call at a time: while one thread waits in it, others wait for that. [`Store::reconnect`] gives
/// another.
#[derive(Debug)]
pub struct Store {
    raw: NonNull<sys::Store>,
    /// For errors.
    address: String,
    port: Option<u16>,
}

// SAFETY: c10d's stores are reference-counted atomically and lock their connection or file for every call.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: ours alone, and not used after this.
        unsafe { sys::titan_store_drop(self.raw.as_ptr()) }
    }
}

impl Store {
    /// Connects to a TCP store, which the master makes first. Takes what `torchrun` sets: `MASTER_ADDR`, `MASTER_PORT`.
    pub fn tcp(options: &TcpOptions) -> Result<Store> {
        let host = text(options.host)?;
        let address = format!("{}:{}", options.host, options.port);
        let (mut raw, mut port) = (null_mut(), 0);
        // SAFETY: the text and the out pointers outlive the call; the message is taken at once.
        let answer = unsafe {
            message(sys::titan_store_tcp(
                host.as_ptr(),
                options.port,
                options.world.unwrap_or(0) as usize,
                options.is_master,
                options.wait_workers,
                timeout_ms(options.timeout),
                &mut raw,
                &mut port,
            ))
        };
        let action = if options.is_master { "opening it" } else { "connecting" };
        answer.map_err(|message| Error::Store { address, action: action.into(), message })?;
        Ok(Store { raw: handle(raw), address: format!("{}:{port}", options.host), port: Some(port) })
    }

    /// A store in a file that all ranks reach, which is made when it is not there. The last of `world` to drop it
    /// removes it. `timeout` is for what the store's users wait.
    pub fn file(path: &Path, world: u32, timeout: Duration) -> Result<Store> {
        let address = path.display().to_string();
        // c10d would wait for the folder, for minutes.
        if !path.parent().is_some_and(|folder| folder.as_os_str().is_empty() || folder.is_dir()) {
            return Err(Error::Usage(format!("{address}: its folder is not there; make it first")));
        }
        let named = path.to_str().ok_or_else(|| Error::Usage(format!("{address}: the path is not UTF-8")))?;
        let (named, world) = (text(named)?, super::outcome::int(world, "the world")?);
        let mut raw = null_mut();
        // SAFETY: the text and the out pointer outlive the call; the message is taken at once.
        let answer = unsafe { message(sys::titan_store_file(named.as_ptr(), world, &mut raw)) };
        answer.map_err(|message| Error::Store {
            address: address.clone(),
            action: "opening it".into(),
            message,
        })?;
        let store = Store { raw: handle(raw), address, port: None };
        store.set_timeout(timeout)?;
        Ok(store)
    }

    /// The same store, with `prefix` before every key.
    pub fn prefix(&self, prefix: &str) -> Result<Store> {
        let prefix = text(prefix)?;
        let mut raw = null_mut();
        // SAFETY: the handle is alive, the text and the out pointer outlive the call.
        self.check("taking a prefix", unsafe {
            sys::titan_store_prefix(prefix.as_ptr(), self.raw(), &mut raw)
        })?;
        Ok(Store { raw: handle(raw), address: self.address.clone(), port: self.port })
    }

    /// The same store over another connection, which waits for nothing that is called on this one.
    pub fn reconnect(&self) -> Result<Store> {
        let mut raw = null_mut();
        // SAFETY: the handle is alive, the out pointer outlives the call.
        self.check("connecting again", unsafe { sys::titan_store_clone(self.raw(), &mut raw) })?;
        Ok(Store { raw: handle(raw), address: self.address.clone(), port: self.port })
    }

    /// Where it listens, or what it is connected to; `None` for a file.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// How long the store's users (process groups that are made over it) wait.
    pub fn set_timeout(&self, timeout: Duration) -> Result<()> {
        // SAFETY: the handle is alive.
        self.check("setting the timeout", unsafe {
            sys::titan_store_set_timeout(self.raw(), timeout_ms(timeout))
        })
    }

    /// Stores a value.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        let name = text(key)?;
        // SAFETY: the handle is alive, text and value outlive the call.
        let answer = unsafe { sys::titan_store_set(self.raw(), name.as_ptr(), value.as_ptr(), value.len()) };
        self.check(&format!("setting `{key}`"), answer)
    }

    /// The value of a key, as soon as it is there; an error when that is not in time.
    pub fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>> {
        let name = text(key)?;
        let (mut data, mut len) = (null_mut(), 0);
        // SAFETY: the handle is alive, text and out pointers outlive the call.
        let answer = unsafe {
            sys::titan_store_get(self.raw(), name.as_ptr(), timeout_ms(timeout), &mut data, &mut len)
        };
        self.check(&format!("getting `{key}`"), answer)?;
        // SAFETY: the shim succeeded, so that it has handed out `len` bytes.
        Ok(unsafe { take_bytes(data, len) })
    }

    /// Returns when all keys are there; an error when that is not in time.
    pub fn wait(&self, keys: &[&str], timeout: Duration) -> Result<()> {
        let (_texts, pointers) = texts(keys)?;
        // SAFETY: the handle is alive, the texts behind the pointers outlive the call.
        let answer = unsafe {
            sys::titan_store_wait(self.raw(), pointers.as_ptr(), pointers.len(), timeout_ms(timeout))
        };
        self.check(&format!("waiting for `{}`", keys.join("`, `")), answer)
    }

    /// Whether all keys are there now.
    pub fn has(&self, keys: &[&str]) -> Result<bool> {
        let (_texts, pointers) = texts(keys)?;
        let mut has = false;
        // SAFETY: the handle is alive, the texts behind the pointers and the out pointer outlive the call.
        let answer =
            unsafe { sys::titan_store_check(self.raw(), pointers.as_ptr(), pointers.len(), &mut has) };
        self.check(&format!("looking for `{}`", keys.join("`, `")), answer)?;
        Ok(has)
    }

    /// Adds to a key that holds a number as decimal text, or is not there; gives the sum.
    pub fn add(&self, key: &str, amount: i64) -> Result<i64> {
        let name = text(key)?;
        let mut sum = 0;
        // SAFETY: the handle is alive, text and out pointer outlive the call.
        let answer = unsafe { sys::titan_store_add(self.raw(), name.as_ptr(), amount, &mut sum) };
        self.check(&format!("adding to `{key}`"), answer)?;
        Ok(sum)
    }

    /// Removes a key; gives whether it was there. A store in a file says so of one that was there once, too.
    pub fn delete(&self, key: &str) -> Result<bool> {
        let name = text(key)?;
        let mut deleted = false;
        // SAFETY: the handle is alive, text and out pointer outlive the call.
        let answer = unsafe { sys::titan_store_delete(self.raw(), name.as_ptr(), &mut deleted) };
        self.check(&format!("deleting `{key}`"), answer)?;
        Ok(deleted)
    }

    /// Sets a key to `desired` if it holds `expected`, or if it is not there and `expected` is empty. Gives what it holds
    /// then; of a key that is not there and stays so, `expected`.
    pub fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8]) -> Result<Vec<u8>> {
        let name = text(key)?;
        let (mut data, mut len) = (null_mut(), 0);
        // SAFETY: the handle is alive, text, values and out pointers outlive the call.
        let answer = unsafe {
            sys::titan_store_compare_set(
                self.raw(),
                name.as_ptr(),
                expected.as_ptr(),
                expected.len(),
                desired.as_ptr(),
                desired.len(),
                &mut data,
                &mut len,
            )
        };
        self.check(&format!("setting `{key}` where it is as expected"), answer)?;
        // SAFETY: the shim succeeded, so that it has handed out `len` bytes.
        Ok(unsafe { take_bytes(data, len) })
    }

    pub(super) fn raw(&self) -> *mut sys::Store {
        self.raw.as_ptr()
    }

    /// Takes the answer of the shim. Every caller passes what it has just been given.
    fn check(&self, action: &str, answer: sys::Message) -> Result<()> {
        // SAFETY: private, and called with fresh answers only, as said above.
        unsafe { message(answer) }.map_err(|message| Error::Store {
            address: self.address.clone(),
            action: action.to_owned(),
            message,
        })
    }
}

/// Texts, and pointers to them that are good for as long as they live.
fn texts(keys: &[&str]) -> Result<(Vec<CString>, Vec<*const c_char>)> {
    let texts = keys.iter().map(|key| text(key)).collect::<Result<Vec<_>>>()?;
    let pointers = texts.iter().map(|text| text.as_ptr()).collect();
    Ok((texts, pointers))
}
