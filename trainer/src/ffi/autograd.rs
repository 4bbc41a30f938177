//! Functions whose derivative is a Rust closure, backward, and what is around gradients.

use super::outcome::{RawTensors, check, raw, take_tensor};
use super::sys::{self, C_tensor, Message};
use crate::error::{Error, Result};
use std::any::Any;
use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use tch::Tensor;

/// A function with its derivative. It lives as long as the graph that it is part of.
///
/// An error or a panic in it becomes the error of the call that ran it: of [`apply`], or of the backward.
pub trait Function: Send + 'static {
    /// The outputs. What backward needs of inputs and outputs goes into `save`. Runs with gradients off.
    fn forward(&mut self, inputs: &[Tensor], save: &mut Vec<Tensor>) -> Result<Vec<Tensor>>;

    /// The gradients of the inputs, one each, `None` for zero, from those of the outputs, `None` for zero, and what was
    /// saved. Runs with gradients off, on any thread.
    fn backward(&mut self, grads: &[Option<Tensor>], saved: &[Tensor]) -> Result<Vec<Option<Tensor>>>;
}

/// A function and its derivative given as two closures.
pub struct Closures<F, B> {
    /// As [`Function::forward`].
    pub forward: F,
    /// As [`Function::backward`].
    pub backward: B,
}

impl<F, B> Function for Closures<F, B>
where
    F: FnMut(&[Tensor], &mut Vec<Tensor>) -> Result<Vec<Tensor>> + Send + 'static,
    B: FnMut(&[Option<Tensor>], &[Tensor]) -> Result<Vec<Option<Tensor>>> + Send + 'static,
{
    fn forward(&mut self, inputs: &[Tensor], save: &mut Vec<Tensor>) -> Result<Vec<Tensor>> {
        (self.forward)(inputs, save)
    }

    fn backward(&mut self, grads: &[Option<Tensor>], saved: &[Tensor]) -> Result<Vec<Option<Tensor>>> {
        (self.backward)(grads, saved)
    }
}

/// A function of a type that is chosen at run time.
impl Function for Box<dyn Function> {
    fn forward(&mut self, inputs: &[Tensor], save: &mut Vec<Tensor>) -> Result<Vec<Tensor>> {
        (**self).forward(inputs, save)
    }

    fn backward(&mut self, grads: &[Option<Tensor>], saved: &[Tensor]) -> Result<Vec<Option<Tensor>>> {
        (**self).backward(grads, saved)
    }
}

/// Applies a function to inputs. Its outputs are part of the graph where gradients are on and an input requires one.
///
/// A tensor that the function has by other ways than `inputs` gets no gradient through it. An output that is an input
/// must be a view of it (`view_as`).
pub fn apply<F: Function>(function: F, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let env = Box::into_raw(Box::new(function)).cast::<c_void>();
    let inputs = RawTensors::new(inputs.iter().copied());
    let mut outputs: Vec<Tensor> = Vec::new();
    let sink = (&raw mut outputs).cast::<c_void>();
    // SAFETY: `env` is a boxed `F`, which `call::<F>` and `drop_env::<F>` take it for; the shim owns it from here on, on
    // failure too. `sink` is the vector that `emit` takes it for, and is used during the call only. The inputs are alive.
    unsafe {
        check(
            "apply",
            sys::titan_apply(env, call::<F>, drop_env::<F>, inputs.as_ptr(), inputs.len(), sink, emit),
        )
    }?;
    Ok(outputs)
}

/// Accumulates gradients into the leaves that `outputs` depend on. Entries of `grads` are the gradients of the outputs;
/// `None` is 1, for an output of one element.
///
/// Fails where the two are not as many, where a gradient does not have its output's shape, where a graph was freed by an
/// earlier backward without `retain_graph`, and where a [`Function`] in it failed or panicked.
pub fn backward(outputs: &[&Tensor], grads: &[Option<&Tensor>], retain_graph: bool) -> Result<()> {
    same_len(outputs, grads)?;
    let outputs = RawTensors::new(outputs.iter().copied());
    let grads = RawTensors::optional(grads.iter().copied());
    // SAFETY: both lists have as many entries, and their tensors are alive; null is allowed in the second.
    unsafe {
        check("backward", sys::titan_backward(outputs.as_ptr(), grads.as_ptr(), outputs.len(), retain_graph))
    }
}

/// The gradients of `inputs`, without accumulating into any leaf. With `allow_unused`, an input that the outputs do not
/// depend on gets `None`; else that is an error.
pub fn grad(
    outputs: &[&Tensor],
    inputs: &[&Tensor],
    grads: &[Option<&Tensor>],
    retain_graph: bool,
    allow_unused: bool,
) -> Result<Vec<Option<Tensor>>> {
    same_len(outputs, grads)?;
    let mut found = vec![null_mut(); inputs.len()];
    let outputs = RawTensors::new(outputs.iter().copied());
    let inputs = RawTensors::new(inputs.iter().copied());
    let grads = RawTensors::optional(grads.iter().copied());
    // SAFETY: outputs and their gradients are as many, and so are inputs and found ones; all tensors are alive, and null
    // is allowed among the gradients.
    unsafe {
        check(
            "grad",
            sys::titan_grad(
                outputs.as_ptr(),
                grads.as_ptr(),
                outputs.len(),
                inputs.as_ptr(),
                inputs.len(),
                retain_graph,
                allow_unused,
                found.as_mut_ptr(),
            ),
        )
    }?;
    // SAFETY: the shim succeeded, so that each is null or handed out to us.
    Ok(found.into_iter().map(|tensor| unsafe { take_tensor(tensor) }).collect())
}

/// Takes a leaf's gradient away; the next backward makes a new one instead of adding to it.
pub fn take_grad(tensor: &Tensor) -> Result<Option<Tensor>> {
    let mut grad = null_mut();
    // SAFETY: tensor and out pointer are alive; what is handed out is ours.
    unsafe {
        check("take_grad", sys::titan_take_grad(raw(tensor), &mut grad))?;
        Ok(take_tensor(grad))
    }
}

/// Sets a leaf's gradient, of its shape and type, or takes it away.
pub fn set_grad(tensor: &Tensor, grad: Option<&Tensor>) -> Result<()> {
    let fits = |grad: &Tensor| grad.size() == tensor.size() && grad.kind() == tensor.kind();
    if let Some(grad) = grad.filter(|grad| !fits(grad)) {
        return Err(Error::Usage(format!(
            "a gradient of {:?} {:?} for a tensor of {:?} {:?}",
            grad.kind(),
            grad.size(),
            tensor.kind(),
            tensor.size()
        )));
    }
    // SAFETY: the tensors are alive, and null is allowed.
    unsafe { check("set_grad", sys::titan_set_grad(raw(tensor), grad.map_or(null_mut(), raw))) }
}

/// The same memory as a new leaf that requires a gradient: where a segment of the graph begins.
pub fn leaf(tensor: &Tensor) -> Tensor {
    tensor.detach().set_requires_grad(true)
}

/// Whether graphs are made on this thread; [`tch::no_grad`] and [`tch::with_grad`] change it.
pub fn grad_enabled() -> bool {
    // SAFETY: reads a thread-local flag.
    unsafe { sys::titan_grad_enabled() }
}

/// How often a tensor's memory was written in place: backward refuses saved tensors that were.
pub fn version(tensor: &Tensor) -> Result<i64> {
    let mut version = 0;
    // SAFETY: tensor and out pointer are alive.
    unsafe { check("version", sys::titan_version(raw(tensor), &mut version)) }?;
    Ok(version)
}

/// Runs `write`, whose writes in place do not count for these tensors: for memory that was given up after the forward
/// and gets the same content again before the backward. A write of other content makes the gradients wrong.
pub fn rewriting<R>(tensors: &[&Tensor], write: impl FnOnce() -> R) -> Result<R> {
    let versions = tensors.iter().map(|tensor| version(tensor)).collect::<Result<Vec<_>>>()?;
    let result = write();
    for (tensor, version) in tensors.iter().zip(versions) {
        // SAFETY: the tensor is alive, and the version is one that it has had.
        unsafe { check("rewriting", sys::titan_set_version(raw(tensor), version)) }?;
    }
    Ok(result)
}

fn same_len(outputs: &[&Tensor], grads: &[Option<&Tensor>]) -> Result<()> {
    match outputs.len() == grads.len() {
        true => Ok(()),
        false => Err(Error::Usage(format!("{} gradients for {} outputs", grads.len(), outputs.len()))),
    }
}

/// What the engine calls: `env` is a boxed `F`.
unsafe extern "C" fn call<F: Function>(
    env: *mut c_void,
    is_backward: bool,
    tensors: *const *mut C_tensor,
    count: usize,
    saved: *const *mut C_tensor,
    saved_count: usize,
    out: *mut c_void,
    save: *mut c_void,
) -> Message {
    let run = || -> Result<()> {
        // SAFETY: a boxed `F` by the contract of `apply`. The engine holds a lock of the node while it calls this, and
        // calls it for one node at a time; the box is freed when the node is.
        let function = unsafe { &mut *env.cast::<F>() };
        // SAFETY: the shim passes this many borrowed tensors, null where there is none.
        let (tensors, saved) = unsafe { (cloned(tensors, count), cloned(saved, saved_count)) };
        let defined = Option::<Tensor>::unwrap_or_default;
        if is_backward {
            let saved: Vec<Tensor> = saved.into_iter().map(defined).collect();
            let grads = function.backward(&tensors, &saved)?;
            // SAFETY: the shim's own list, for the time of this call; each tensor is alive while it is copied.
            grads.iter().for_each(|grad| unsafe {
                sys::titan_push(out, grad.as_ref().map_or(null_mut(), raw));
            });
            return Ok(());
        }
        let inputs: Vec<Tensor> = tensors.into_iter().map(defined).collect();
        let mut to_save = Vec::new();
        let outputs = function.forward(&inputs, &mut to_save)?;
        // SAFETY: as above.
        outputs.iter().for_each(|output| unsafe { sys::titan_push(out, raw(output)) });
        // SAFETY: as above.
        to_save.iter().for_each(|tensor| unsafe { sys::titan_push(save, raw(tensor)) });
        Ok(())
    };
    // A panic may not unwind into C++. What it leaves half-done is the closure's own, and the graph is given up.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => null_mut(),
        Ok(Err(error)) => to_message(&error.to_string()),
        Err(panic) => to_message(&format!("panic: {}", panic_text(&*panic))),
    }
}

/// Frees a boxed `F`.
unsafe extern "C" fn drop_env<F>(env: *mut c_void) {
    // SAFETY: a boxed `F` by the contract of `apply`, and called once.
    let function = unsafe { Box::from_raw(env.cast::<F>()) };
    // A panic of its destructor may not unwind into C++ either; there is nobody to tell.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(function)));
}

/// Puts a tensor into the vector behind `sink`.
unsafe extern "C" fn emit(sink: *mut c_void, tensor: *mut C_tensor) {
    // SAFETY: `apply` passes a vector of tensors, alone in use during its call; the tensor is handed out to us.
    unsafe { (*sink.cast::<Vec<Tensor>>()).extend(take_tensor(tensor)) }
}

/// Handles of our own to borrowed tensors.
///
/// # Safety
///
/// `tensors` are `count` borrowed tensors, or null.
unsafe fn cloned(tensors: *const *mut C_tensor, count: usize) -> Vec<Option<Tensor>> {
    if count == 0 {
        return Vec::new();
    }
    // SAFETY: `count` pointers by contract.
    let tensors = unsafe { std::slice::from_raw_parts(tensors, count) };
    tensors
        .iter()
        // SAFETY: alive by contract where not null; a clone of a handle is ours.
        .map(|tensor| (!tensor.is_null()).then(|| unsafe { Tensor::from_ptr(sys::titan_clone(*tensor)) }))
        .collect()
}

/// A message as the shim takes it from a closure: malloc'd, and freed by the shim.
fn to_message(text: &str) -> Message {
    unsafe extern "C" {
        fn strdup(text: *const c_char) -> *mut c_char;
    }
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    // SAFETY: NUL-terminated, and alive for the call.
    unsafe { strdup(text.as_ptr()) }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("of another type than text")
}
