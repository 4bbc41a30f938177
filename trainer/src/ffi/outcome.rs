//! What goes over the border: texts and tensors in, messages and handles out.

use super::sys::{self, C_tensor, Message};
use crate::error::{Error, Result};
use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};
use std::time::Duration;
use tch::Tensor;

/// Takes a message of the shim: `Err` with its text where there is one.
///
/// # Safety
///
/// `message` is what a function of the shim has just given.
pub(super) unsafe fn message(message: Message) -> Result<(), String> {
    match message.is_null() {
        true => Ok(()),
        // SAFETY: not null, and of the shim by contract, which hands messages out as malloc'd, NUL-terminated text.
        false => Err(unsafe { take_text(message) }),
    }
}

/// Takes a message of the shim, as the error of a call.
///
/// # Safety
///
/// As for [`message`].
pub(super) unsafe fn check(call: &str, answer: Message) -> Result<()> {
    // SAFETY: the contract of this function is that of `message`.
    unsafe { message(answer) }.map_err(|message| Error::Torch { call: call.to_owned(), message })
}

/// Takes a text of the shim and frees it.
///
/// # Safety
///
/// `text` is malloc'd, NUL-terminated, and nobody else's.
pub(super) unsafe fn take_text(text: *mut c_char) -> String {
    // SAFETY: NUL-terminated by contract, and alive until it is freed below.
    let owned = unsafe { CStr::from_ptr(text) }.to_string_lossy().trim_end().to_owned();
    // SAFETY: malloc'd by contract, and not used after this.
    unsafe { sys::titan_free(text.cast()) };
    owned
}

/// Takes bytes of the shim and frees them.
///
/// # Safety
///
/// `data` is malloc'd, holds `len` bytes, and is nobody else's.
pub(super) unsafe fn take_bytes(data: *mut u8, len: usize) -> Vec<u8> {
    // SAFETY: `len` bytes by contract, alive until they are freed below. Never null: an empty value has memory too.
    let owned = unsafe { std::slice::from_raw_parts(data, len) }.to_vec();
    // SAFETY: malloc'd by contract, and not used after this.
    unsafe { sys::titan_free(data.cast()) };
    owned
}

/// A text as C wants it.
pub(super) fn text(text: &str) -> Result<CString> {
    CString::new(text)
        .map_err(|_| Error::Usage(format!("{text:?} has a zero byte in it, which libtorch cannot take")))
}

/// Milliseconds for the shim: at least one, since zero means "for ever" in places.
pub(super) fn timeout_ms(timeout: Duration) -> i64 {
    i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX / 2).clamp(1, i64::MAX / 2)
}

/// A rank or a size as C wants it.
pub(super) fn int(number: u32, what: &str) -> Result<i32> {
    i32::try_from(number)
        .map_err(|_| Error::Usage(format!("{what} is {number}, at most {} can be", i32::MAX)))
}

/// A tensor as the shim takes it: borrowed.
pub(super) fn raw(tensor: &Tensor) -> *mut C_tensor {
    tensor.as_ptr().cast_mut()
}

/// Tensors as the shim takes them, borrowed for as long as the list lives.
pub(super) struct RawTensors<'a> {
    pointers: Vec<*mut C_tensor>,
    tensors: PhantomData<&'a Tensor>,
}

impl<'a> RawTensors<'a> {
    pub(super) fn new(tensors: impl IntoIterator<Item = &'a Tensor>) -> Self {
        RawTensors { pointers: tensors.into_iter().map(raw).collect(), tensors: PhantomData }
    }

    /// With null where there is none.
    pub(super) fn optional(tensors: impl IntoIterator<Item = Option<&'a Tensor>>) -> Self {
        let pointers = tensors.into_iter().map(|tensor| tensor.map_or(null_mut(), raw)).collect();
        RawTensors { pointers, tensors: PhantomData }
    }

    pub(super) fn as_ptr(&self) -> *const *mut C_tensor {
        self.pointers.as_ptr()
    }

    pub(super) fn len(&self) -> usize {
        self.pointers.len()
    }
}

/// Takes a tensor of the shim; null is none.
///
/// # Safety
///
/// `tensor` is null or handed out to the caller, by the shim or by torch-sys, and used by nobody else.
pub(super) unsafe fn take_tensor(tensor: *mut C_tensor) -> Option<Tensor> {
    // SAFETY: not null where it is used, and the caller's own by contract.
    (!tensor.is_null()).then(|| unsafe { Tensor::from_ptr(tensor) })
}

/// What the shim has written to an out pointer, after it has said that all went well.
pub(super) fn handle<T>(pointer: *mut T) -> NonNull<T> {
    NonNull::new(pointer).expect("the shim writes its out pointers when it succeeds")
}
